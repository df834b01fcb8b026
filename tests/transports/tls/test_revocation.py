"""Which certificates a file of revocation lists has, in every form that it may come in."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from twinline.transports.tls import RevocationListError, read_revocation_lists, revoked_identities
from twinline.transports.tls.certificates import identity_of


def der(pem: bytes) -> bytes:
    return x509.load_pem_x509_crl(pem).public_bytes(Encoding.DER)


def test_a_list_has_its_own_issuers_certificates_and_no_others(certificates, tmp_path) -> None:
    file = tmp_path / "crl"
    file.write_bytes(certificates.ca.crl(certificates.ann, certificates.two))
    revoked = revoked_identities(file)
    assert revoked == {identity_of(each.der) for each in (certificates.ann, certificates.two)}
    # The same serial number under another issuer's name is another certificate.
    file.write_bytes(certificates.other_ca.crl(certificates.ann))
    assert identity_of(certificates.ann.der) not in revoked_identities(file)


@pytest.mark.parametrize("form", ["PEM", "DER"])
def test_several_lists_in_one_file(certificates, tmp_path, form: str) -> None:
    file = tmp_path / "crl"
    lists = [
        certificates.ca.crl(certificates.ann, lasts=timedelta(days=20)),
        certificates.other_ca.crl(certificates.foreign_ann, lasts=timedelta(days=10)),
        certificates.ca.crl(),
    ]
    if form == "DER":
        file.write_bytes(b"".join(map(der, lists)))
    else:
        authority = certificates.ca.file.read_bytes()
        file.write_bytes(b"a remark\n" + authority + b"\r\n".join(lists))
    found = read_revocation_lists(file)
    assert found.identities == {
        identity_of(each.der) for each in (certificates.ann, certificates.foreign_ann)
    }
    soonest = datetime.now(UTC) + timedelta(days=10)
    assert found.next_update == pytest.approx(soonest.timestamp() * 1000, abs=60_000)
    assert found.pem == b"".join(lists)


def test_a_list_of_nobody(certificates, tmp_path) -> None:
    file = tmp_path / "crl"
    file.write_bytes(certificates.ca.crl())
    assert revoked_identities(file) == frozenset()


def build(*extensions: x509.ExtensionType) -> bytes:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ca")]))
        .last_update(now)
        .next_update(now + timedelta(days=1))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    signed = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(Encoding.PEM)


def point(*, indirect: bool) -> x509.IssuingDistributionPoint:
    where = [x509.UniformResourceIdentifier("http://ca.example/crl")]
    return x509.IssuingDistributionPoint(
        full_name=where,
        relative_name=None,
        only_contains_user_certs=False,
        only_contains_ca_certs=False,
        only_some_reasons=None,
        indirect_crl=indirect,
        only_contains_attribute_certs=False,
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "there is no revocation list in"),
        (b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "there is no revocation"),
        (b"hello", "is not a revocation list as PEM or DER"),
        (b"-----BEGIN X509 CRL-----\naGVsbG8=\n-----END X509 CRL-----", "is not a revocation"),
        (b"\x30\x82\xff\xff", "is not a revocation list"),
        (build(x509.DeltaCRLIndicator(3)), r"list of changes \(a delta CRL\)"),
        (build(point(indirect=True)), "an indirect CRL"),
    ],
    ids=["empty", "no list", "text", "not in Base64", "cut", "delta", "indirect"],
)
def test_what_cannot_be_used(tmp_path: Path, content: bytes, why: str) -> None:
    file = tmp_path / "crl"
    file.write_bytes(content)
    with pytest.raises(RevocationListError, match=why) as error:
        read_revocation_lists(file)
    assert str(file) in str(error.value)


def changed(pem: bytes, part: bytes, into: bytes) -> bytes:
    content = der(pem)
    assert content.count(part) == 1
    return content.replace(part, into)


@pytest.mark.parametrize(
    "content",
    [
        changed(build(), b"\x02\x01\x01\x30", b"\x02\x01\x2a\x30"),
        changed(build(x509.CRLNumber(3)), b"\x04\x03\x02\x01\x03", b"\x04\x03\x03\x01\x03"),
        changed(
            build(point(indirect=True)), b"http://ca.example/crl", b"http://ca.example/\xff\xff\xff"
        ),
    ],
    ids=["version", "number", "place"],
)
def test_a_list_that_is_broken_within_is_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "crl"
    file.write_bytes(content)
    with pytest.raises(RevocationListError, match="is not a revocation list"):
        read_revocation_lists(file)


def test_a_list_says_where_it_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "crl"
    file.write_bytes(build(point(indirect=False)))
    assert revoked_identities(file) == frozenset()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RevocationListError, match="crl: No such file"):
        read_revocation_lists(tmp_path / "crl")


def test_without_the_extra_the_error_names_it(
    certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "crl"
    file.write_bytes(certificates.ca.crl())
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(RevocationListError, match=r"pip install 'twinline\[tls\]'"):
        read_revocation_lists(file)
