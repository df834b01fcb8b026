"""Makes a key and a certificate for a trial: `twinline serve --self-signed DIR`.

An authority that exists for a moment signs one certificate and forgets its key, so that nobody can
sign another; clients trust that authority by its certificate. It is made by `cryptography`, of the
extra ``tls``, and no other command needs it.
"""

import ipaddress
import os
import re
import socket
import ssl
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from twinline.cli.console.errors import CommandError, SettingsError
from twinline.cli.settings.model import Settings
from twinline.transports.endpoints import Endpoint
from twinline.transports.tls import (
    TlsFiles,
    TlsFilesError,
    client_context,
    inspect,
    server_context,
    shake_hands,
)

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

_DAYS: Final = 90
_ENOUGH: Final = timedelta(days=14)
"""One that is valid for longer is used again."""
_ALWAYS: Final = ("localhost", "127.0.0.1", "::1")
_WILDCARDS: Final = {"0.0.0.0": socket.AF_INET, "::": socket.AF_INET6}  # noqa: S104 - none is bound
_OUTSIDE: Final = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses of nobody (RFC 5737, RFC 3849)."""
_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")


@dataclass(frozen=True, slots=True)
class Trial:
    """The files of a trial.

    Attributes:
        ca: what clients are to trust.
        certificate: the server's.
        key: its key.
    """

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def of(cls, folder: Path) -> "Trial":
        """Return what the files in a folder are called."""
        return cls(
            folder / "trial-ca.pem", folder / "trial-certificate.pem", folder / "trial-key.pem"
        )

    @property
    def files(self) -> TlsFiles:
        """What an endpoint's TLS is made of."""
        return TlsFiles(str(self.certificate), str(self.key))


def for_trial(settings: Settings, folder: Path) -> tuple[Settings, Trial]:
    """Return the settings with a certificate for a trial, which is made unless it is there.

    Args:
        settings: all of them.
        folder: for the files; it is made if it is not there.

    Raises:
        SettingsError: there is a certificate already, or no endpoint with TLS.
        CommandError: the files cannot be written, or what makes them is not installed.
    """
    if settings.tls_certificate is not None or settings.tls_key is not None:
        raise SettingsError(
            "--self-signed makes a certificate, and tls_certificate names one: leave one of the "
            "two out"
        )
    endpoints = [endpoint for endpoint, _ in settings.endpoints() if endpoint.scheme.is_tls]
    if not endpoints:
        raise SettingsError(
            "--self-signed is for tls:// and wss:// endpoints: name one with --listen"
        )
    trial = Trial.of(folder)
    hosts = names_of(endpoints)
    if not _serves(trial, hosts):
        if find_spec("cryptography") is None:
            raise CommandError(
                "--self-signed makes a certificate with cryptography: pip install 'twinline[tls]'"
            )
        try:
            _make(trial, hosts)
        except OSError as error:
            raise CommandError(
                f"--self-signed: {error.filename or folder}: {error.strerror or error}"
            ) from error
    certificate = {"tls_certificate": str(trial.certificate), "tls_key": str(trial.key)}
    return settings.model_copy(update=certificate), trial


def names_of(endpoints: Iterable[Endpoint]) -> list[str]:
    """Return the names and addresses by which clients may call the server at these endpoints."""
    found: dict[str, None] = {}
    for endpoint in endpoints:
        family = _WILDCARDS.get(endpoint.host)
        if family is None:
            found[endpoint.host] = None
            continue
        name = socket.gethostname()
        if _NAME.fullmatch(name):
            found[name] = None
        # :: takes both families where nothing forbids it.
        for each in dict.fromkeys((family, socket.AF_INET)):
            with suppress(OSError):
                found[_address_to_the_outside(each)] = None
    return list(dict.fromkeys([*found, *_ALWAYS]))


def _address_to_the_outside(family: socket.AddressFamily) -> str:
    """Return the address that this machine's packets to others come from; none is sent."""
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as asking:
        asking.connect((_OUTSIDE[family], 9))
        return str(asking.getsockname()[0])


def _serves(trial: Trial, hosts: Sequence[str]) -> bool:
    """Return whether what is there can be used for these hosts, for a while."""
    try:
        found = inspect(trial.files)
        trusting = client_context(ca_file=str(trial.ca))
        shake_hands(server_context(trial.files, ()), trusting, "localhost")
    except (TlsFilesError, ssl.SSLError):
        return False
    there = {_canonical(name) for name in found.names}
    return found.ends > datetime.now(UTC) + _ENOUGH and {*map(_canonical, hosts)} <= there


def _canonical(host: str) -> str:
    try:
        return ipaddress.ip_address(host).compressed
    except ValueError:
        return host.lower()


def _make(trial: Trial, hosts: Sequence[str]) -> None:
    """Make the files, each whole or not at all; the server's certificate last.

    Raises:
        OSError: they cannot be written.
    """
    from cryptography import x509  # noqa: PLC0415 - an extra, and slow to import
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: PLC0415

    authority, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "twinline trial authority")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "twinline trial")])
    usage = dict.fromkeys(_USAGES, False)
    ca = (
        _begun(name, name, authority, authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(**usage | {"key_cert_sign": True, "crl_sign": True}), critical=True
        )
        .sign(authority, hashes.SHA256())
    )
    server = ExtendedKeyUsageOID.SERVER_AUTH
    certificate = (
        _begun(subject, name, own, authority)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage | {"digital_signature": True}), critical=True)
        .add_extension(x509.ExtendedKeyUsage([server]), critical=False)
        .add_extension(x509.SubjectAlternativeName([*map(_general, hosts)]), critical=False)
        .sign(authority, hashes.SHA256())
    )
    key = own.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    trial.ca.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(trial.key, key, 0o600)
    _write(trial.ca, ca.public_bytes(serialization.Encoding.PEM), 0o644)
    _write(trial.certificate, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _begun(
    subject: "x509.Name",
    issuer: "x509.Name",
    key: "ec.EllipticCurvePrivateKey",
    signer: "ec.EllipticCurvePrivateKey",
) -> "x509.CertificateBuilder":
    from cryptography import x509  # noqa: PLC0415 - as above

    now = datetime.now(UTC)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clients' clocks may be slow
        .not_valid_after(now + timedelta(days=_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(identifier, critical=False)
    )


def _general(host: str) -> "x509.GeneralName":
    from cryptography import x509  # noqa: PLC0415 - as above

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host.encode("idna").decode("ascii"))


def _write(path: Path, content: bytes, mode: int) -> None:
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
            os.fchmod(number, mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
