"""What TLS an endpoint is served with: by its own options, else by the settings."""

from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener.settings import ListenerSettings
from twinline.transports.tls.contexts import ALPN, ALPN_WEB, ServerTls, TlsFiles, TlsFilesError

_SPOKEN = {"auto": (ALPN, ALPN_WEB), "websocket": (ALPN_WEB,)}
"""What transports are by the names of ALPN; all others are `ALPN`."""


def server_tls(
    endpoint: Endpoint, transport: Transport, settings: ListenerSettings
) -> ServerTls | None:
    """Return what makes the layers of an endpoint's connections, or None: it is in plain.

    Args:
        endpoint: where a server listens.
        transport: what is spoken there.
        settings: for what the endpoint's options leave open, see `tls_files`.

    Raises:
        TlsFilesError: one of the files cannot be used, or there is no certificate.
    """
    files = tls_files(endpoint, settings)
    if files is None:
        return None
    web = endpoint.scheme.is_web
    return ServerTls(files, (ALPN_WEB,) if web else _SPOKEN.get(transport.name, (ALPN,)))


def tls_files(endpoint: Endpoint, settings: ListenerSettings) -> TlsFiles | None:
    """Return what an endpoint's TLS is made of, or None: it is in plain. Nothing is read.

    Args:
        endpoint: whose options win.
        settings: for what the options leave open. An endpoint with a certificate of its own has
            the key that it names, or the one in the certificate's file.

    Raises:
        TlsFilesError: there is no certificate.
    """
    if not endpoint.scheme.is_tls:
        return None
    own = endpoint.listening
    certificate, key = own.certificate, own.key
    if certificate is None:
        certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None:
        raise TlsFilesError(
            f"{endpoint.place} needs a certificate: set tls_certificate and tls_key, or try it "
            "with --self-signed"
        )
    return TlsFiles(
        certificate,
        key,
        own.client_ca or settings.tls_client_ca,
        own.crl or settings.tls_crl,
        own.minimum or settings.tls_minimum,
    )
