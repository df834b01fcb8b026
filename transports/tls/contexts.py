"""What a connection over TLS begins with: the certificates of a server, the trust of a client.

What can be wrong with a file is told by which one it is and why: OpenSSL says "PEM lib" of nearly
everything.
"""

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

from twinline.transports.contract import TransportError
from twinline.transports.tls.layer import TlsLayer
from twinline.transports.tls.revocation import (
    RevocationListError,
    RevocationLists,
    read_revocation_lists,
)

ALPN: Final = "twinline"
"""What a client asks for (RFC 7301) where no WebSocket is spoken."""
ALPN_WEB: Final = "http/1.1"
"""What a WebSocket's client asks for."""
_MINIMUM: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CERTIFICATE: Final = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----")
_KEY: Final = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----")
_WEAK: Final = re.compile(r"_TOO_(SMALL|WEAK)$")
"""What OpenSSL says of a certificate that it does not want to show (SSL_CTX_set_security_level)."""
_DER: Final = b"\x30"
"""What everything in DER begins with here: a SEQUENCE (X.690)."""


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

    @property
    def paths(self) -> tuple[str, ...]:
        """The files, each once."""
        named = (self.certificate, self.key, self.client_ca, self.crl)
        return tuple(dict.fromkeys(path for path in named if path is not None))


class ServerTls:
    """An endpoint's TLS: makes the layer of each of its connections.

    Attributes:
        files: what it is made of.
        revoked: the identities of the clients' certificates that are revoked, as
            `twinline.core.certificates.Certificate.identity` has them.
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
        self._protocols = tuple(protocols)
        self.reload()

    @property
    def context(self) -> ssl.SSLContext:
        """What connections begin with now; another one after a reload."""
        return self._context

    def layer(self) -> TlsLayer:
        """Return the layer of a new connection; from any thread."""
        return TlsLayer(self._context)

    def reload(self) -> None:
        """Read the files again, for the connections that come from now on; from any thread.

        Raises:
            TlsFilesError: one of them cannot be used; nothing has changed.
        """
        lists = _read_lists(self.files)
        # A connection that is open keeps the context that it began with.
        self._context = server_context(self.files, self._protocols, lists)
        self.revoked = frozenset() if lists is None else lists.identities


def server_context(
    files: TlsFiles, protocols: Sequence[str], lists: RevocationLists | None = None
) -> ssl.SSLContext:
    """Return what a server's connections begin with; the ciphers are those of Python's default.

    Args:
        files: what it is made of.
        protocols: what may be spoken (ALPN), the preferred ones first.
        lists: what is in the file of the revocation lists, which is not read here.

    Raises:
        TlsFilesError: one of the files cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _MINIMUM[files.minimum]
    context.set_alpn_protocols(list(protocols))
    context.options |= ssl.OP_NO_RENEGOTIATION
    # No resumption: a ticket holds what was checked at the first handshake. (What OpenSSL keeps by
    # itself for TLS 1.2 ends with the context, and so with each reload.)
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    _load_pair(context, files.certificate, files.key)
    if files.client_ca is not None:
        # Who shows none logs in by a password; one that is shown has to be right.
        context.verify_mode = ssl.CERT_OPTIONAL
        # Also by an intermediate authority alone, and so by nobody else beneath its root.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        _load_authorities(context, files.client_ca, "the file of the clients' authorities")
        if context.cert_store_stats()["x509_ca"] == 0:
            raise TlsFilesError(
                f"the file of the clients' authorities {files.client_ca}: none of its "
                "certificates is one of an authority"
            )
    if lists is not None:
        # From a file is the only way, and the operator's may be DER.
        try:
            with NamedTemporaryFile() as written:
                written.write(lists.pem)
                written.flush()
                context.load_verify_locations(written.name)
        except OSError as error:
            raise TlsFilesError(f"revocation lists: {files.crl}: {_words(error)}") from error
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def client_context(
    *,
    ca_file: str | None = None,
    certificate: str | None = None,
    key: str | None = None,
    insecure_skip_verify: bool = False,
    protocols: Sequence[str] = (ALPN, ALPN_WEB),
) -> ssl.SSLContext:
    """Return what a client's connections over TLS begin with: TLS 1.2 or later.

    Args:
        ca_file: with the certificates that are trusted, instead of the system's: those of
            authorities, or the very one of the server.
        certificate: the file with the client's own certificate, and its chain, or None.
        key: the file with its key; None if that is in the file of the certificate.
        insecure_skip_verify: talk to whoever answers: anybody on the way can read and change all.
        protocols: what may be spoken (ALPN); the server takes the one that it serves.

    Raises:
        TlsFilesError: one of the files cannot be used.
    """
    if ca_file is None:
        context = ssl.create_default_context()
    else:
        # With anything to trust named, the system's authorities are left out.
        context = ssl.create_default_context(cadata=_authorities(ca_file))
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(protocols))
    if insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        _load_pair(context, certificate, key)
    elif key is not None:
        raise TlsFilesError(f"the key {key}: there is no certificate that it would be the key of")
    return context


class _IsEncrypted(Exception):
    """OpenSSL asks for a password."""


def _load_pair(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    """Load a certificate, its chain and its key.

    Raises:
        TlsFilesError: one of the files cannot be used, or they do not belong together.
    """

    def refuse() -> str:
        raise _IsEncrypted

    named = f"the certificate {certificate}"
    shown = _read(named, certificate)
    key_named, key_shown = named, shown
    if key is not None:
        key_named = f"the key {key}"
        key_shown = _read(key_named, key)
    _expect(_CERTIFICATE, shown, named, "certificate")
    _expect(_KEY, key_shown, key_named, "private key")
    try:
        context.load_cert_chain(certificate, key, refuse)
    except _IsEncrypted:
        raise TlsFilesError(
            f"{key_named}: the key is encrypted, and nobody is asked for its password; "
            "'openssl pkey -in OLD -out NEW' writes it without one"
        ) from None
    except ssl.SSLError as error:
        reason = getattr(error, "reason", None) or ""  # which some of its errors lack
        if reason == "KEY_VALUES_MISMATCH":
            raise TlsFilesError(
                f"{key_named}: the key does not belong to the certificate {certificate}"
            ) from error
        if _WEAK.search(reason):
            raise TlsFilesError(f"{named}: {_words(error)}") from error
        _load_text(shown, named)  # the certificate is at fault, or else the key is
        raise TlsFilesError(f"{key_named}: the key is damaged") from error
    except OSError as error:
        raise TlsFilesError(f"{named}: {_words(error)}") from error


def _authorities(path: str) -> str:
    """Return certificates to trust, as PEM."""
    named = f"the file of trusted certificates {path}"
    shown = _read(named, path)
    _expect(_CERTIFICATE, shown, named, "certificate")
    _load_text(shown, named)
    return text_of(shown)


def _load_authorities(context: ssl.SSLContext, path: str, what: str) -> None:
    named = f"{what} {path}"
    shown = _read(named, path)
    _expect(_CERTIFICATE, shown, named, "certificate")
    _load_text(shown, named, context)


def _read_lists(files: TlsFiles) -> RevocationLists | None:
    """Return the revocation lists of an endpoint, or None: it has none."""
    if files.crl is None:
        return None
    if files.client_ca is None:
        raise TlsFilesError(
            f"revocation lists: {files.crl}: there is no file of the clients' authorities, whose "
            "they would be; set tls_client_ca"
        )
    try:
        return read_revocation_lists(files.crl)
    except RevocationListError as error:
        raise TlsFilesError(f"revocation lists: {error}") from error


def _load_text(pem: bytes, named: str, context: ssl.SSLContext | None = None) -> None:
    """Trust the certificates of a file, or only see that they are whole."""
    try:
        (context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)).load_verify_locations(
            cadata=text_of(pem)
        )
    except (ssl.SSLError, ValueError) as error:
        raise TlsFilesError(f"{named}: a certificate in it is damaged") from error


def text_of(pem: bytes) -> str:
    """Return PEM as `ssl.SSLContext.load_verify_locations` takes it: as ASCII.

    What is no ASCII may stand between the certificates, as in the names that lists of authorities
    tell; in one of them it is still seen to be wrong.
    """
    return pem.decode("ascii", "backslashreplace")


def _read(named: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise TlsFilesError(f"{named}: {_words(error)}") from error
    except ValueError as error:  # a NUL in the path
        raise TlsFilesError(f"{named}: {error}") from error


def _expect(mark: re.Pattern[bytes], shown: bytes, named: str, what: str) -> None:
    if mark.search(shown) is not None:
        return
    form = "DER and not PEM" if shown.startswith(_DER) else f"no {what} in PEM"
    raise TlsFilesError(f"{named}: it holds {form}")


def _words(error: OSError) -> str:
    """Return what the system or OpenSSL says, in small letters."""
    if isinstance(error, ssl.SSLError):
        return (getattr(error, "reason", None) or "it cannot be read").lower().replace("_", " ")
    reason = error.strerror or str(error)
    return f"{reason[:1].lower()}{reason[1:]}"
