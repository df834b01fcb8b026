"""What a connection over TLS begins with: the certificates of a server, the trust of a client."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twinline.transports.contract import TransportError
from twinline.transports.tls.layer import TlsLayer

ALPN: Final = "twinline"
"""What a client asks for (RFC 7301) where no WebSocket is spoken."""
ALPN_WEB: Final = "http/1.1"
"""What a WebSocket's client asks for."""
_MINIMUM: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class TlsFilesError(TransportError):
    """A certificate, a key or a list of them cannot be used; the message says which and why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What an endpoint's TLS is made of.

    Attributes:
        certificate: the file with the server's certificate, and behind it its chain, as PEM.
        key: the file with its key; None if that is in the file of the certificate.
        client_ca: the file with those who sign clients' certificates; None: none is asked for.
        crl: the file with what they have revoked, or None.
        minimum: the lowest version, "1.2" or "1.3".
    """

    certificate: str
    key: str | None = None
    client_ca: str | None = None
    crl: str | None = None
    minimum: str = "1.2"


class ServerTls:
    """An endpoint's TLS: makes the layer of each of its connections.

    Attributes:
        files: what it is made of.
    """

    def __init__(self, files: TlsFiles, protocols: Sequence[str] = (ALPN, ALPN_WEB)) -> None:
        """Read the files.

        Args:
            files: what it is made of.
            protocols: what may be spoken (ALPN), the preferred ones first.

        Raises:
            TlsFilesError: one of the files cannot be used.
        """
        self.files = files
        self._protocols = protocols
        self._context = self._read()

    def layer(self) -> TlsLayer:
        """Return the layer of a new connection; from any thread."""
        return TlsLayer(self._context)

    def reload(self) -> None:
        """Read the files again, for the connections that come from now on.

        Raises:
            TlsFilesError: one of them cannot be used; nothing has changed.
        """
        self._context = self._read()

    def _read(self) -> ssl.SSLContext:
        files = self.files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _MINIMUM[files.minimum]
        context.set_alpn_protocols(list(self._protocols))
        context.options |= ssl.OP_NO_RENEGOTIATION
        # No resumption: a ticket holds what was checked at the first handshake.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
        try:
            context.load_cert_chain(files.certificate, files.key)
        except (OSError, ssl.SSLError) as error:
            raise TlsFilesError(f"{files.certificate}: {error}") from error
        if files.client_ca is not None:
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(files.client_ca)
        return context


def client_context(
    *,
    ca_file: str | None = None,
    certificate: str | None = None,
    key: str | None = None,
    insecure_skip_verify: bool = False,
    protocols: Sequence[str] = (ALPN, ALPN_WEB),
) -> ssl.SSLContext:
    """Return what a client's connections over TLS begin with.

    Args:
        ca_file: with the certificates that are trusted, instead of the system's.
        certificate: the file with the client's own certificate, and its chain, or None.
        key: the file with its key; None if that is in the file of the certificate.
        insecure_skip_verify: talk to whoever answers: anybody on the way can read and change all.
        protocols: what is asked for (ALPN); `ALPN_WEB` alone for a WebSocket, `ALPN` alone for
            everything else. A server that knows neither may end the connection.

    Raises:
        TlsFilesError: one of the files cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # what ssl raises is one, too
        raise TlsFilesError(f"{ca_file}: {_why_unread(error)}") from error
    context.set_alpn_protocols(list(protocols))
    if insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        _load_pair(context, certificate, key)
    return context


def _load_pair(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    """Read a certificate and its key into a context.

    Raises:
        TlsFilesError: one of the files cannot be used.
    """

    def no_password() -> str:
        # OpenSSL would ask for it at the terminal.
        raise TlsFilesError(f"{key or certificate}: the key is encrypted; keep it in plain")

    for path in filter(None, (certificate, key)):
        try:
            Path(path).open("rb").close()  # which of the two it is, ssl does not tell
        except OSError as error:
            raise TlsFilesError(f"{path}: {_why_unread(error)}") from error
    try:
        context.load_cert_chain(certificate, key, no_password)
    except OSError as error:
        which = certificate if key is None else f"{certificate} and {key}"
        raise TlsFilesError(f"{which}: {_why_unread(error)}") from error


def _why_unread(error: OSError) -> str:
    """Return why a file of certificates or keys cannot be used."""
    if not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    reason = error.reason or "PEM_LIB"  # which has none of its own in some versions
    return _UNREAD.get(reason) or reason.lower().replace("_", " ")


_UNREAD: Final = {
    "NO_CERTIFICATE_OR_CRL_FOUND": "there is no certificate in PEM in it",
    "PEM_LIB": "what is needed is not there in PEM: a certificate, and its key",
    "NO_START_LINE": "what is needed is not there in PEM: a certificate, and its key",
    "KEY_VALUES_MISMATCH": "the key is not that of the certificate",
}
"""Of what OpenSSL finds, what it has no plain words for."""
