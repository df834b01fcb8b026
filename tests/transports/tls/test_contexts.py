"""The files of TLS: what cannot be used is told by file and reason; what is made of them."""

import ssl
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sealing import Pair, trusting

from twinline.transports.tls import (
    ServerTls,
    TlsFiles,
    TlsFilesError,
    client_context,
    identity_of,
    inspection,
    remarks,
)
from twinline.transports.tls.contexts import ALPN, ALPN_WEB, server_context
from twinline.transports.tls.inspection import NOTICE, Unsuitable, inspect, shake_hands

if TYPE_CHECKING:
    from certificates import Certificates, Issued


def files_of(issued: "Issued", **more: str) -> TlsFiles:
    return TlsFiles(str(issued.certificate), str(issued.key), **more)


def encrypted(issued: "Issued", path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as s  # noqa: PLC0415 - an extra

    key = s.load_pem_private_key(issued.key.read_bytes(), None)
    form = s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"secret")
    path.write_bytes(key.private_bytes(*form))


def damaged(pem: bytes) -> bytes:
    head, _, rest = pem.partition(b"\n")
    return head + b"\nAAAA" + rest


@pytest.mark.parametrize(
    ("name", "written", "complaint"),
    [
        ("certificate", None, "the certificate {}: no such file or directory"),
        ("certificate", lambda c: b"", "the certificate {}: it holds no certificate in PEM"),
        ("certificate", lambda c: c.server.der, "the certificate {}: it holds DER and not PEM"),
        (
            "certificate",
            lambda c: damaged(c.server.certificate.read_bytes()),
            "the certificate {}: a certificate in it is damaged",
        ),
        (
            "certificate",
            lambda c: c.server.certificate.read_bytes()[:300],
            "the certificate {}: a certificate in it is damaged",
        ),
        (
            "certificate",
            lambda c: c.server.certificate.read_bytes().replace(b"M", b"\xc3\xa9", 1),
            "the certificate {}: a certificate in it is damaged",
        ),
        ("key", None, "the key {}: no such file or directory"),
        ("key", lambda c: c.ca.file.read_bytes(), "the key {}: it holds no private key in PEM"),
        (
            "key",
            lambda c: c.expired.key.read_bytes(),
            "the key {}: the key does not belong to the certificate /",
        ),
        ("key", lambda c: damaged(c.server.key.read_bytes()), "the key {}: the key is damaged"),
        ("client_ca", None, "the file of the clients' authorities {}: no such file"),
        (
            "client_ca",
            lambda c: c.server.certificate.read_bytes(),
            "the file of the clients' authorities {}: none of its certificates is one of an",
        ),
        ("crl", None, "revocation lists: {}: No such"),
        (
            "crl",
            lambda c: c.ca.file.read_bytes(),
            "revocation lists: there is no revocation list in {}",
        ),
        (
            "client_ca",
            lambda c: c.server.key.read_bytes(),
            "the file of the clients' authorities {}: it holds no certificate in PEM",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(
    certificates: "Certificates",
    tmp_path: Path,
    name: str,
    written: Callable[["Certificates"], bytes] | None,
    complaint: str,
) -> None:
    path = tmp_path / "file.pem"
    if written is not None:
        path.write_bytes(written(certificates))
    files = files_of(certificates.server, client_ca=str(certificates.ca.file))
    with pytest.raises(TlsFilesError) as raised:
        ServerTls(replace(files, **{name: str(path)}))
    assert str(raised.value).startswith(complaint.format(path))


def test_a_file_that_may_not_be_read(certificates: "Certificates", tmp_path: Path) -> None:
    with pytest.raises(TlsFilesError, match=r"the key .*: is a directory"):
        ServerTls(replace(files_of(certificates.server), key=str(tmp_path)))
    with pytest.raises(TlsFilesError, match="null byte"):
        ServerTls(TlsFiles("a\0b"))


def test_an_encrypted_key_asks_nobody(certificates: "Certificates", tmp_path: Path) -> None:
    encrypted(certificates.server, tmp_path / "key")
    with pytest.raises(TlsFilesError, match="the key is encrypted, and nobody is asked"):
        ServerTls(replace(files_of(certificates.server), key=str(tmp_path / "key")))
    with pytest.raises(TlsFilesError, match="the key is encrypted, and nobody is asked"):
        client_context(certificate=str(certificates.ann.certificate), key=str(tmp_path / "key"))


def test_a_key_that_is_too_small(tmp_path: Path) -> None:
    made = ["openssl", "req", "-x509", "-newkey", "rsa:1024", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run(
        [*made, "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path,
        capture_output=True,
        check=True,
        timeout=20,
    )
    with pytest.raises(TlsFilesError, match=r"the certificate .*/cert.pem: ee key too small"):
        ServerTls(TlsFiles(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")))


def test_what_a_client_trusts_has_to_be_there_too(
    certificates: "Certificates", tmp_path: Path
) -> None:
    with pytest.raises(TlsFilesError, match=r"trusted certificates .*: no such file"):
        client_context(ca_file=str(tmp_path / "none"))
    with pytest.raises(TlsFilesError, match="it holds no certificate in PEM"):
        client_context(ca_file=str(certificates.server.key))
    with pytest.raises(TlsFilesError, match="there is no certificate that it would be"):
        client_context(key=str(certificates.ann.key))


def test_key_and_certificate_may_stand_in_one_file(
    certificates: "Certificates", tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    both.touch(mode=0o600)
    server = certificates.server
    both.write_bytes(server.key.read_bytes() + server.certificate.read_bytes())
    assert inspect(TlsFiles(str(both))) == inspect(files_of(server))
    assert not list(remarks(TlsFiles(str(both))))


@pytest.mark.parametrize(
    ("served", "asked", "spoken"),
    [
        ((ALPN,), (ALPN, ALPN_WEB), ALPN),
        ((ALPN_WEB,), (ALPN, ALPN_WEB), ALPN_WEB),
        ((ALPN, ALPN_WEB), (ALPN_WEB,), ALPN_WEB),
        ((ALPN,), (ALPN_WEB,), None),
    ],
)
def test_what_is_spoken_is_agreed_on(
    certificates: "Certificates",
    served: tuple[str, ...],
    asked: tuple[str, ...],
    spoken: str | None,
) -> None:
    client_side = client_context(ca_file=str(certificates.ca.file), protocols=asked)
    serving = server_context(files_of(certificates.server), served)
    client = shake_hands(serving, client_side, "localhost")
    assert (client.selected_alpn_protocol(), client.version()) == (spoken, "TLSv1.3")


def limited(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    """Have a client speak one version, which may be one that OpenSSL finds too weak."""
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("minimum", "version", "spoken"),
    [
        ("1.2", ssl.TLSVersion.TLSv1, False),
        ("1.2", ssl.TLSVersion.TLSv1_1, False),
        ("1.2", ssl.TLSVersion.TLSv1_2, True),
        ("1.3", ssl.TLSVersion.TLSv1_2, False),
        ("1.3", ssl.TLSVersion.TLSv1_3, True),
    ],
)
def test_no_version_below_the_lowest_is_spoken(
    certificates: "Certificates", minimum: str, version: ssl.TLSVersion, spoken: bool
) -> None:
    serving = server_context(files_of(certificates.server, minimum=minimum), (ALPN,))
    client = limited(client_context(ca_file=str(certificates.ca.file)), version)
    if spoken:
        assert shake_hands(serving, client, "localhost").version() == f"TLSv{minimum}"
        return
    with pytest.raises(ssl.SSLError) as raised:
        shake_hands(serving, client, "localhost")
    assert raised.value.reason in ("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION")


def test_a_client_may_trust_the_very_certificate(certificates: "Certificates") -> None:
    serving = server_context(files_of(certificates.server), (ALPN,))
    pinning = client_context(ca_file=str(certificates.server.certificate))
    assert shake_hands(serving, pinning, "localhost").version() == "TLSv1.3"
    for foreign in (certificates.other_ca.file, certificates.unknown.certificate):
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(serving, client_context(ca_file=str(foreign)), "localhost")


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_no_ticket_is_given_to_resume_by(certificates: "Certificates", version: str) -> None:
    context = trusting(certificates, version)
    pair = Pair(ServerTls(files_of(certificates.server)), context).shake_hands()
    session = pair.client._tls.session
    assert session is None or not session.has_ticket


def test_a_certificate_is_seen_as_a_client_will(certificates: "Certificates") -> None:
    found = inspect(files_of(certificates.server))
    assert found.names == ("localhost", "127.0.0.1", "0:0:0:0:0:0:0:1")
    assert found.ends - found.begins == timedelta(days=91)
    assert not list(remarks(files_of(certificates.server)))
    expired = inspect(files_of(certificates.expired))
    assert expired.names == found.names
    with pytest.raises(Unsuitable, match="unsuit"):
        inspect(files_of(certificates.ann))
    (remark,) = remarks(files_of(certificates.ann))
    assert remark.startswith(f"the certificate {certificates.ann.certificate}: clients refuse it")


@pytest.mark.parametrize(
    ("before_end", "said"),
    [
        (timedelta(days=200), "is valid from "),
        (NOTICE + timedelta(seconds=1), ""),
        (NOTICE, "expires in 14 days, on "),
        (timedelta(days=1), "expires in a day, on "),
        (timedelta(hours=23), "expires in less than a day, on "),
        (timedelta(0), "has expired on "),
    ],
)
def test_the_end_of_a_certificate_is_said_in_time(
    certificates: "Certificates", before_end: timedelta, said: str
) -> None:
    files = files_of(certificates.server)
    now = inspect(files).ends - before_end
    found = list(remarks(files, now.timestamp()))
    assert len(found) == bool(said)
    assert all(f"the certificate {files.certificate} {said}" in each for each in found)


@pytest.mark.parametrize(("mode", "is_open"), [(0o640, False), (0o644, True), (0o602, True)])
def test_a_key_that_others_can_read_is_remarked_on(
    certificates: "Certificates", tmp_path: Path, mode: int, is_open: bool
) -> None:
    key = tmp_path / "key"
    key.write_bytes(certificates.server.key.read_bytes())
    key.chmod(mode)
    found = list(remarks(replace(files_of(certificates.server), key=str(key))))
    assert (
        found
        == [f"the key {key} is open to every user of this machine: chmod o-rwx {key}"] * is_open
    )


def test_a_reload_that_fails_changes_nothing(certificates: "Certificates", tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate", tmp_path / "key"

    def put(issued: "Issued") -> None:
        certificate.write_bytes(issued.certificate.read_bytes())
        key.write_bytes(issued.key.read_bytes())

    def shown() -> bytes | None:
        return shake_hands(tls._context, client, "localhost").getpeercert(binary_form=True)

    client = trusting(certificates)
    put(certificates.server)
    tls = ServerTls(TlsFiles(str(certificate), str(key)))
    another = certificates.ca.issue("another", hosts=["localhost"], folder=tmp_path)
    certificate.write_bytes(another.certificate.read_bytes())
    with pytest.raises(TlsFilesError, match="does not belong to the certificate"):
        tls.reload()
    assert shown() == certificates.server.der
    put(another)
    tls.reload()
    assert shown() == another.der


@pytest.mark.parametrize("form", ["PEM", "DER"])
def test_whose_certificate_is_revoked_is_refused(
    certificates: "Certificates", tmp_path: Path, form: str
) -> None:
    crl = tmp_path / "list"
    pem = certificates.ca.crl(certificates.bob)
    crl.write_bytes(pem if form == "PEM" else ssl.PEM_cert_to_DER_cert(as_certificate(pem)))
    files = files_of(certificates.server, client_ca=str(certificates.ca.file), crl=str(crl))
    tls = ServerTls(files)
    assert tls.revoked == {identity_of(certificates.bob.der)}
    assert not list(remarks(files))

    def come(as_whom: "Issued") -> None:
        client = client_context(
            ca_file=str(certificates.ca.file),
            certificate=str(as_whom.certificate),
            key=str(as_whom.key),
        )
        shake_hands(tls._context, client, "localhost")

    come(certificates.ann)
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        come(certificates.bob)
    for other in (certificates.expired_ann, certificates.foreign_ann):
        with pytest.raises(ssl.SSLCertVerificationError):
            come(other)
    crl.write_bytes(certificates.ca.crl(lasts=timedelta(days=-1)))
    tls.reload()
    assert tls.revoked == set()
    with pytest.raises(ssl.SSLCertVerificationError, match="CRL has expired"):
        come(certificates.ann)
    (remark,) = remarks(files)
    assert f"the revocation list {crl} is out of date since " in remark


def as_certificate(crl: bytes) -> str:
    """Pretend, for `ssl` turns nothing else from PEM to DER."""
    return crl.decode().replace("X509 CRL", "CERTIFICATE")


def test_a_revocation_list_is_somebodys(certificates: "Certificates", tmp_path: Path) -> None:
    crl = tmp_path / "list"
    crl.write_bytes(certificates.ca.crl())
    with pytest.raises(TlsFilesError, match="set tls_client_ca"):
        ServerTls(files_of(certificates.server, crl=str(crl)))


def test_what_is_no_ascii_may_stand_between_certificates(
    certificates: "Certificates", tmp_path: Path
) -> None:
    """As in lists of authorities, whose names are told before each."""
    trusted, own = tmp_path / "trusted.pem", tmp_path / "own.pem"
    remark = "# Főtanúsítvány\n".encode()
    trusted.write_bytes(remark + certificates.ca.file.read_bytes())
    own.write_bytes(remark + certificates.server.certificate.read_bytes() + b"\xff\n")
    files = TlsFiles(str(own), str(certificates.server.key), client_ca=str(trusted))
    shake_hands(server_context(files, ()), client_context(ca_file=str(trusted)), "localhost")
    assert "localhost" in inspect(files).names


@pytest.mark.parametrize("left", [b"", b"-----BEGIN CERTIFICATE-----\nMII"])
def test_a_certificate_that_changes_while_it_is_inspected(
    certificates: "Certificates", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bytes
) -> None:
    path = tmp_path / "certificate.pem"
    path.write_bytes(certificates.server.certificate.read_bytes())
    files = TlsFiles(str(path), str(certificates.server.key))

    def then_changed(*arguments: Any) -> ssl.SSLContext:
        context = server_context(*arguments)
        path.write_bytes(left) if left else path.unlink()
        return context

    monkeypatch.setattr(inspection, "server_context", then_changed)
    with pytest.raises(TlsFilesError, match="was changed while it was read"):
        inspect(files)


def test_a_certificate_whose_time_cannot_be_read(
    certificates: "Certificates", tmp_path: Path
) -> None:
    der = ssl.PEM_cert_to_DER_cert(certificates.server.certificate.read_text())
    at = der.index(b"\x17\x0d") + 2  # the first of its times
    path = tmp_path / "certificate.pem"
    path.write_text(ssl.DER_cert_to_PEM_cert(der[:at] + b"99" * 6 + der[at + 12 :]))
    with pytest.raises(TlsFilesError, match=r"clients (cannot read|refuse) it"):
        inspect(TlsFiles(str(path), str(certificates.server.key)))
