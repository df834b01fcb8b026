"""Sessions that a client's certificate opens: what they last as long as, and what ends them early.

The token of such a session says which certificate opened it and when that expires, behind its
secret (`twinline.core.tokens`), so the store needs no place of its own for it.
"""

import logging
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from twinline.core import events
from twinline.core.errors import StoreUnavailable
from twinline.core.events import emit
from twinline.core.locks import new_lock
from twinline.core.store import Accounts, SessionKey, SessionRecord

log = logging.getLogger(__name__)

IDENTITY_BYTES: Final = 32
"""The length of a certificate's identity."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a caller's certificate says, after somebody else has verified it.

    Attributes:
        username: the account that it names.
        identity: of `IDENTITY_BYTES`, and no other certificate's; revocation goes by it. The
            built-in listeners take the SHA-256 of issuer and serial number, see
            `twinline.transports.tls.certificates`.
        expires_at: when it expires, in ms.
    """

    username: str
    identity: bytes
    expires_at: int


class Stamp(NamedTuple):
    """What a token says of the certificate that opened its session."""

    identity: bytes
    expires_at: int


_STAMPED: Final = re.compile(
    r"([0-9a-f]{32}\.)?[\w-]{43}\.(?P<identity>[\w-]{43})\.(?P<expires_at>\d{1,16})", re.ASCII
)


def stamp(certificate: Certificate) -> str:
    """Return what the token of a session says of the certificate that opens it, from its dot on."""
    identity = urlsafe_b64encode(certificate.identity).rstrip(b"=").decode()
    return f".{identity}.{certificate.expires_at}"


def stamp_of(token: str) -> Stamp | None:
    """Return what a token says of a certificate, or None: a password opened its session.

    It is true of a token whose hash the store has, and of no other.
    """
    found = _STAMPED.fullmatch(token)
    if found is None:
        return None
    return Stamp(urlsafe_b64decode(found["identity"] + "="), int(found["expires_at"]))


class Held(NamedTuple):
    """A session in use that a certificate has opened: what its token says, and whose it is."""

    identity: bytes
    expires_at: int
    username: str


class CertificateSessions:
    """The sessions in use here that certificates opened, and the certificates that are revoked.

    Attributes:
        held: what opened each such session, by its key, until the session ends. Every access is
            a single step of the dictionary, and takes no lock.
    """

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self.held: dict[SessionKey, Held] = {}
        self._lock = new_lock("certificates")
        self._lists: dict[str, frozenset[bytes]] = {}  # by their source; guarded by _lock
        self._revoked: frozenset[bytes] = frozenset()  # all of them; replaced whole under _lock

    def hold(self, session: SessionRecord, stamp: Stamp) -> None:
        """Know by which certificate a session was opened, for as long as it lasts.

        Look for the session afterwards: if it has ended just now, `held` has to forget it.
        """
        key = session.key
        if key not in self.held:
            self.held[key] = Held(*stamp, session.username)
            self._accounts.on_session_end(key, lambda: self.forget(key))

    def forget(self, key: SessionKey) -> None:
        """Drop what is known of a session that has ended."""
        self.held.pop(key, None)

    def is_revoked(self, identity: bytes) -> bool:
        """Return whether a list has this certificate."""
        return identity in self._revoked

    def revoke(self, identities: Iterable[bytes], source: str) -> int:
        """Replace the list of a source, and end the sessions of the certificates in it.

        Returns:
            How many sessions ended.
        """
        revoked = frozenset(identities)
        with self._lock:
            self._lists[source] = revoked
            self._revoked = frozenset().union(*self._lists.values())
        # First the list and then the look at what is held, and a session is held before the list
        # is asked about it: one of the two finds it.
        ended = failed = 0
        for key, held in self.held.copy().items():
            if held.identity in revoked:
                try:
                    self._accounts.close_session(key)
                except StoreUnavailable:
                    failed += 1
                else:
                    ended += 1
                    why = "certificate_revoked"
                    emit(events.SESSION_REVOKED, username=held.username, why=why)
        if failed:
            log.warning(
                "%d sessions of revoked certificates could not be ended: the store does not "
                "answer; each ends at its next request",
                failed,
            )
        return ended
