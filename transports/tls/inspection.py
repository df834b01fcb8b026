"""Looks at a server's certificate as a client would, before any client does.

Python's own `ssl` shows what is in a certificate only at the end of a handshake; so there is one,
in memory, with a client that trusts this very certificate at any time.
"""

import contextlib
import ssl
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from twinline.transports.tls.contexts import (
    ALPN,
    TlsFiles,
    TlsFilesError,
    server_context,
    text_of,
)
from twinline.transports.tls.revocation import RevocationListError, read_revocation_lists

NOTICE: Final = timedelta(days=14)
"""How long before its end a certificate is spoken of."""
_FLIGHTS: Final = 8
"""More than a handshake has."""
_NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, which `ssl` has no name for (OpenSSL, X509_VERIFY_PARAM_set_flags)."""


class Unsuitable(TlsFilesError):
    """A certificate can be used, and every client will refuse it, whatever it trusts."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """A server's certificate.

    Attributes:
        begins: from when on it is valid.
        ends: how long.
        names: the hosts and addresses that it is for.
    """

    begins: datetime
    ends: datetime
    names: tuple[str, ...]


def inspect(files: TlsFiles) -> Inspected:
    """Try an endpoint's certificate and key, and return what the certificate says.

    Raises:
        Unsuitable: it is not one for servers.
        TlsFilesError: one of the files cannot be used.
    """
    server = server_context(files, (ALPN,))
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    named = f"the certificate {files.certificate}"
    try:
        client.load_verify_locations(cadata=text_of(Path(files.certificate).read_bytes()))
    except (OSError, ValueError) as error:  # an `ssl.SSLError` is an OSError
        raise TlsFilesError(f"{named} was changed while it was read") from error
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    try:
        shown: dict[str, Any] = shake_hands(server, client).getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        raise Unsuitable(f"{named}: clients refuse it: {error.verify_message}") from error
    except (ssl.SSLError, ValueError) as error:
        raise Unsuitable(f"{named}: clients cannot read it") from error
    try:
        return Inspected(
            begins=_time(shown["notBefore"]),
            ends=_time(shown["notAfter"]),
            names=tuple(value for _, value in shown.get("subjectAltName", ())),
        )
    except (KeyError, ValueError) as error:
        raise Unsuitable(f"{named}: clients cannot read it") from error


def certificate_end(context: ssl.SSLContext) -> float | None:
    """Return when the certificate that a server shows ends, in seconds since 1970 UTC.

    It is the one in force, whatever is in its file by now.

    Args:
        context: what the server's connections begin with.

    Returns:
        None if it cannot be read.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    try:
        # What was not verified is shown as bytes alone, so it is trusted and shown once more.
        shown = shake_hands(context, client).getpeercert(binary_form=True)
        client.load_verify_locations(cadata=shown or b"")
        client.verify_mode = ssl.CERT_REQUIRED
        client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
        found: dict[str, Any] = shake_hands(context, client).getpeercert() or {}
        return float(ssl.cert_time_to_seconds(str(found["notAfter"])))
    except (ssl.SSLError, ValueError, KeyError):
        return None


def remarks(files: TlsFiles, now: float | None = None) -> Iterator[str]:
    """Yield what the operator should know of an endpoint's files: a sentence each.

    Args:
        files: that can be used.
        now: in seconds since the epoch; None for the present.

    Raises:
        TlsFilesError: one of them cannot be used.
    """
    now = time.time() if now is None else now
    named = f"the certificate {files.certificate}"
    try:
        found = inspect(files)
    except Unsuitable as error:
        yield str(error)
    else:
        yield from _of_time(named, found, now)
        if not found.names:
            yield f"{named} is for no host (subjectAltName): clients refuse it"
    if files.crl is not None:
        yield from _of_lists(files.crl, now)
    key = files.key or files.certificate
    try:
        mode = Path(key).stat().st_mode
    except OSError:
        return  # gone in this moment
    # A group may have been made for this: on Debian keys are of the group ssl-cert.
    if mode & stat.S_IRWXO:
        yield f"the key {key} is open to every user of this machine: chmod o-rwx {key}"


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, host: str | None = None
) -> ssl.SSLObject:
    """Make a handshake in memory, and return the client's side of it.

    Args:
        server: with the certificate.
        client: that has to verify it.
        host: what it has to be for; None where the client does not look at it.

    Raises:
        ssl.SSLCertVerificationError: the client refuses it.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server, server_hostname=host)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_FLIGHTS):
        for side in (asking, answering):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return asking


def _of_time(named: str, found: Inspected, now: float) -> Iterator[str]:
    moment = datetime.fromtimestamp(now, UTC)
    if moment < found.begins:
        yield f"{named} is valid from {told(found.begins)} on: until then clients refuse it"
    elif moment >= found.ends:
        yield f"{named} has expired on {told(found.ends)}: clients refuse it"
    elif moment >= found.ends - NOTICE:
        days = (found.ends - moment).days
        when = {0: "in less than a day", 1: "in a day"}.get(days, f"in {days} days")
        yield f"{named} expires {when}, on {told(found.ends)}"


def _of_lists(path: str, now: float) -> Iterator[str]:
    try:
        ends = read_revocation_lists(path).next_update
    except RevocationListError as error:
        yield f"revocation lists: {error}"
        return
    if ends is not None and ends / 1000 <= now:
        yield (
            f"the revocation list {path} is out of date since "
            f"{told(datetime.fromtimestamp(ends / 1000, UTC))}: every client's certificate of its "
            "authority is refused"
        )


def told(moment: datetime) -> str:
    """Return a time for a person."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _time(text: object) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(text)), UTC)
