"""Reads revocation lists (RFC 5280 section 5): which of the clients' certificates are revoked.

The handshake refuses these by itself, but tells nobody which they are, and the sessions that they
have opened must end. What reads the lists is `cryptography`, of the extra ``tls``.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from twinline.transports.contract import TransportError
from twinline.transports.tls.certificates import element, identity

if TYPE_CHECKING:
    from cryptography.x509 import CertificateRevocationList

_BLOCK: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)
_PEM: Final = b"-----BEGIN "
_INTEGER: Final = 0x02
_SEQUENCE: Final = 0x30


class RevocationListError(TransportError):
    """A revocation list cannot be used; the message says which and why."""


@dataclass(frozen=True, slots=True)
class RevocationLists:
    """What a file of revocation lists says.

    Attributes:
        identities: of the certificates that are revoked, as
            `twinline.core.certificates.Certificate.identity` has them.
        pem: the lists as PEM, as `ssl.SSLContext.load_verify_locations` takes them from a file.
        next_update: when the first of them is out of date, in ms: from then on the handshake
            refuses every certificate of its issuer. None if none says.
    """

    identities: frozenset[bytes] = field(repr=False)
    pem: bytes = field(repr=False)
    next_update: int | None


def read_revocation_lists(file: str | Path) -> RevocationLists:
    """Read a file with one revocation list or several, as PEM or DER.

    Whether they are signed by whom they say is for the handshake to check.

    Raises:
        RevocationListError: it cannot be read, there is none in it, or one of a kind that the
            handshake does not understand; or what reads it is not installed.
    """
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise RevocationListError(f"{file}: {error.strerror}") from error
    try:
        lists = list(_lists(content))
        found: set[bytes] = set()
        updates = []
        # Their parts are only read here.
        for each in lists:
            _check_kind(each, file)
            issuer = _issuer(each.tbs_certlist_bytes)
            found.update(identity(issuer, revoked.serial_number) for revoked in each)
            if each.next_update_utc is not None:
                updates.append(round(each.next_update_utc.timestamp() * 1000))
    except ImportError as error:
        raise RevocationListError(
            f"{file}: what reads revocation lists is not installed: pip install 'twinline[tls]'"
        ) from error
    except _malformed() as error:
        raise RevocationListError(f"{file} is not a revocation list as PEM or DER") from error
    if not lists:
        raise RevocationListError(f"there is no revocation list in {file}")
    return RevocationLists(frozenset(found), _pem(lists), min(updates, default=None))


def revoked_identities(file: str | Path) -> frozenset[bytes]:
    """Return the identities of the certificates that the lists in a file have.

    Raises:
        RevocationListError: see `read_revocation_lists`.
    """
    return read_revocation_lists(file).identities


def _malformed() -> tuple[type[Exception], ...]:
    """Return what is raised of a list that is broken."""
    from cryptography import exceptions, x509  # noqa: PLC0415 - as below

    return ValueError, exceptions.UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion


def _lists(content: bytes) -> "Iterator[CertificateRevocationList]":
    """Yield the lists of a file.

    Raises:
        ImportError: what reads them is not installed.
        ValueError: one of them cannot be read.
    """
    from cryptography import x509  # noqa: PLC0415 - only who has a list needs it

    if _PEM in content:
        for block in _BLOCK.findall(content):
            yield x509.load_pem_x509_crl(block)
        return
    at = 0
    while at < len(content):
        _, _, end = element(content, at, _SEQUENCE)
        yield x509.load_der_x509_crl(content[at:end])
        at = end


def _check_kind(one: "CertificateRevocationList", file: str | Path) -> None:
    """Refuse what the handshake would take for no list at all, and so refuse every certificate.

    Raises:
        RevocationListError: it holds only what has changed, or another issuer's certificates.
    """
    from cryptography import x509  # noqa: PLC0415 - as above

    for each in one.extensions:
        if isinstance(each.value, x509.DeltaCRLIndicator):
            raise RevocationListError(
                f"{file} has a list of changes (a delta CRL): give a whole one"
            )
        if isinstance(each.value, x509.IssuingDistributionPoint) and each.value.indirect_crl:
            raise RevocationListError(
                f"{file} has a list of other issuers' certificates (an indirect CRL): give one of "
                "the issuer's own"
            )


def _issuer(tbs: bytes) -> bytes:
    """Return the issuer's name as it stands in a list, for a certificate has the same bytes.

    Raises:
        ValueError: it is no list.
    """
    _, at, _ = element(tbs, 0, _SEQUENCE)
    tag, _, end = element(tbs, at)
    if tag == _INTEGER:  # the version
        at = end
    _, _, at = element(tbs, at, _SEQUENCE)  # the signature's algorithm
    _, _, end = element(tbs, at, _SEQUENCE)
    return tbs[at:end]


def _pem(lists: "list[CertificateRevocationList]") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415 - as above

    return b"".join(each.public_bytes(Encoding.PEM) for each in lists)
