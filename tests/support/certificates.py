"""Certificates for tests: two authorities, servers and clients of all kinds, and revocation lists.

They are made once a session, by ECDSA P-256, which takes a fraction of a millisecond each. What
makes them is `cryptography`, of the extra ``tls``.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, in PEM files."""

    certificate: Path
    key: Path
    der: bytes
    serial: int


class Authority:
    """Signs certificates and revocation lists, and keeps them in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        """Make its own certificate: ``file``, in PEM."""
        self._folder = folder
        self._label = name
        self._made = 0
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        usage = dict.fromkeys(_USAGES, False) | {"key_cert_sign": True, "crl_sign": True}
        builder = (
            self._begin(self._name, self._key.public_key(), timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
        )
        self._certificate = builder.sign(self._key, hashes.SHA256())
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(_pem(self._certificate))

    def issue(
        self,
        name: str,
        *,
        hosts: Sequence[str] = (),
        uris: Sequence[str] = (),
        extensions: Sequence[x509.ExtensionType] = (),
        lasts: timedelta = timedelta(days=90),
        folder: Path | None = None,
    ) -> Issued:
        """Issue a certificate.

        Args:
            name: of its subject, and of its files.
            hosts: names and addresses, for a server's.
            uris: for a client's.
            extensions: besides the usual ones.
            lasts: from now; negative for one that has expired.
            folder: for the files; None for the authority's own.
        """

        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        names = [_host(host) for host in hosts]
        names += [x509.UniformResourceIdentifier(uri) for uri in uris]
        purpose = x509.ExtendedKeyUsageOID
        purposes = [purpose.SERVER_AUTH] if hosts else [purpose.CLIENT_AUTH]
        builder = (
            self._begin(subject, key.public_key(), lasts)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        folder = folder or self._folder
        self._made += 1
        stem = f"{self._label}-{self._made}-{name}"
        issued = Issued(
            certificate=folder / f"{stem}.pem",
            key=folder / f"{stem}.key",
            der=certificate.public_bytes(serialization.Encoding.DER),
            serial=certificate.serial_number,
        )
        issued.certificate.write_bytes(_pem(certificate))
        issued.key.touch(mode=0o600)
        issued.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return issued

    def crl(self, *revoked: Issued, lasts: timedelta = timedelta(days=30)) -> bytes:
        """Return a revocation list in PEM.

        Args:
            revoked: what is on it.
            lasts: from now; negative for one whose time is over.
        """
        now = datetime.now(UTC)
        begin = min(now, now + lasts) - timedelta(days=1)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(begin)
            .next_update(now + lasts)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        for each in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(each.serial)
                .revocation_date(begin)
                .build()
            )
        return _pem(builder.sign(self._key, hashes.SHA256()))

    def _begin(
        self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey, lasts: timedelta
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, now + lasts) - timedelta(days=1))
            .not_valid_after(now + lasts)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )


class Certificates:
    """What tests of TLS use. Do not change these files: others use them too.

    Attributes:
        folder: with all of them.
        ca: signs those below.
        other_ca: signs what nobody trusts here.
        server: for localhost, 127.0.0.1 and ::1.
        expired: the same, and its time is over.
        wrong_host: for another host.
        unknown: for these hosts, by the other authority.
        ann: a client's, that names the account ann.
        bob: a client's, that names the account bob.
        two: a client's that names two accounts.
        nobody: a client's without an account.
        expired_ann: names ann, and its time is over.
        foreign_ann: names ann, by the other authority.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = ca = Authority(folder, "ca")
        self.other_ca = Authority(folder, "other-ca")
        here = ("localhost", "127.0.0.1", "::1")
        self.server = ca.issue("server", hosts=here)
        self.expired = ca.issue("expired", hosts=here, lasts=timedelta(days=-1))
        self.wrong_host = ca.issue("wrong-host", hosts=("elsewhere.example",))
        self.unknown = self.other_ca.issue("unknown", hosts=here)
        self.ann = ca.issue("ann", uris=("twinline:ann",))
        self.bob = ca.issue("bob", uris=("twinline:bob",))
        self.two = ca.issue("two", uris=("twinline:ann", "twinline:bob"))
        self.nobody = ca.issue("nobody", uris=("https://elsewhere.example/ann",))
        self.expired_ann = ca.issue("ann", uris=("twinline:ann",), lasts=timedelta(days=-1))
        self.foreign_ann = self.other_ca.issue("ann", uris=("twinline:ann",))


_USAGES = (
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


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(signed: x509.Certificate | x509.CertificateRevocationList) -> bytes:

    return signed.public_bytes(serialization.Encoding.PEM)
