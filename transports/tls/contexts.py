"""What a connection over TLS begins with: the certificates of a server, the trust of a client."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
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
) -> ssl.SSLContext:
    """Return what a client's connections over TLS begin with.

    Args:
        ca_file: with the certificates that are trusted, instead of the system's.
        certificate: the file with the client's own certificate, and its chain, or None.
        key: the file with its key; None if that is in the file of the certificate.
        insecure_skip_verify: talk to whoever answers: anybody on the way can read and change all.

    Raises:
        TlsFilesError: one of the files cannot be used.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context
