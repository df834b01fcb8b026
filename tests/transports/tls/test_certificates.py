"""Which account a client's certificate names, and what tells it from all others."""

import logging
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from twinline.core.certificates import IDENTITY_BYTES
from twinline.transports.tls import TlsError, TlsLayer, client_certificate
from twinline.transports.tls.certificates import NamesNoAccount, account_of, identity, identity_of


def uris(*values: str) -> tuple[tuple[str, str], ...]:
    return tuple(("URI", value) for value in values)


@pytest.mark.parametrize(
    ("names", "username"),
    [
        (uris("twinline:ann"), "ann"),
        (uris("twinline:Ann"), "ann"),
        (uris("TWINLINE:a.b_c-9"), "a.b_c-9"),
        (uris("spiffe://x/ann", "twinline:ann", "https://twinline:bob/"), "ann"),
        ((("DNS", "twinline:bob"), ("email", "twinline:bob"), *uris("twinline:ann")), "ann"),
    ],
)
def test_the_one_account_that_a_certificate_names(
    names: tuple[tuple[str, str], ...], username: str
) -> None:
    assert account_of(names) == username


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ((), "has no URIs twinline:USERNAME among its names, and needs one"),
        ((("DNS", "ann"), ("DNS", "twinline:ann")), "has no URIs"),
        (uris("spiffe://x/ann", "twinlines:ann", " twinline:ann"), "has no URIs"),
        (uris("twinline:ann", "twinline:bob"), "has 2 URIs"),
        (uris("twinline:ann", "twinline:ann"), "has 2 URIs"),
        (uris("twinline:ann", "Twinline:bob"), "has 2 URIs"),
        (uris("twinline:ann", "twinline:"), "has 2 URIs"),
        (uris("twinline:"), "names '', which is no username"),
        (uris("twinline"), "names ''"),
        (uris("twinline://ann"), "names '//ann'"),
        (uris("twinline:%61nn"), "names '%61nn'"),
        (uris("twinline:ann:bob"), "names 'ann:bob'"),
        (uris("twinline:ann\x00.example"), r"names 'ann\\x00.example'"),
        (uris("twinline:\u0430nn"), "which is no username"),
        (uris("twinline:" + "x" * 5000), "names 'x{79}, which"),
    ],
)
def test_what_names_nobody_or_several(names: tuple[tuple[str, str], ...], why: str) -> None:
    with pytest.raises(NamesNoAccount, match=why):
        account_of(names)


def test_an_identity_is_of_issuer_and_serial_and_of_nothing_else(certificates) -> None:
    issued = [
        value for value in vars(certificates).values() if getattr(value, "der", None) is not None
    ]
    assert len(issued) > 8
    identities = {identity_of(each.der) for each in issued}
    assert len(identities) == len(issued)
    assert {len(each) for each in identities} == {IDENTITY_BYTES}
    for each in issued:
        read = x509.load_der_x509_certificate(each.der)
        assert identity_of(each.der) == identity(read.issuer.public_bytes(), each.serial)
    same = identity(b"issuer", 1)
    assert identity(b"issuer", 1) == same
    assert identity(b"issuer", -1) != same
    assert identity(b"another", 1) != same


def test_what_is_cut_is_no_certificate(certificates) -> None:
    der = certificates.ann.der
    for end in range(0, 150, 7):
        with pytest.raises(ValueError, match=r"too early|should be"):
            identity_of(der[:end])
    with pytest.raises(ValueError, match="0x31 where 0x30"):
        identity_of(b"\x31" + der[1:])


def shaken(certificates, shown) -> TlsLayer:
    """Return the server's layer after a handshake in which the client shows a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server.certificate, certificates.server.key)
    context.load_verify_locations(certificates.ca.file)
    context.verify_mode = ssl.CERT_OPTIONAL
    trust = ssl.create_default_context(cafile=certificates.ca.file)
    if shown is not None:
        trust.load_cert_chain(shown.certificate, shown.key)
    server, client = TlsLayer(context), TlsLayer(trust, "localhost")
    client.begin()
    for _ in range(3):
        server.receive_data(client.send(b""))
        client.receive_data(server.send(b""))
    assert server.established
    return server


def test_a_certificate_is_read_after_the_handshake(certificates) -> None:
    read = client_certificate(shaken(certificates, certificates.ann))
    assert read is not None
    assert read.username == "ann"
    assert read.identity == identity_of(certificates.ann.der)
    expires = x509.load_der_x509_certificate(certificates.ann.der).not_valid_after_utc
    assert read.expires_at == expires.timestamp() * 1000


@pytest.mark.parametrize(("which", "why"), [("two", "2 URIs"), ("nobody", "no URIs")])
def test_a_certificate_that_names_no_account_is_logged(
    certificates, which: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    shown = getattr(certificates, which)
    with caplog.at_level(logging.WARNING):
        assert client_certificate(shaken(certificates, shown)) is None
    (record,) = caplog.records
    assert why in record.getMessage()
    assert identity_of(shown.der).hex()[:16] in record.getMessage()


def test_who_shows_none_has_none(certificates, caplog: pytest.LogCaptureFixture) -> None:
    assert client_certificate(shaken(certificates, None)) is None
    assert not caplog.records


def test_a_certificate_that_is_for_servers_is_refused(certificates, tmp_path: Path) -> None:
    shown = certificates.ca.issue(
        "ann", hosts=("ann.example",), uris=("twinline:ann",), folder=tmp_path
    )
    with pytest.raises(TlsError, match="purpose"):
        shaken(certificates, shown)


def test_a_name_that_is_no_text_names_nobody(
    certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What signs a name has not always looked at its letters (RFC 5280 section 4.2.1.6)."""
    names = b"\x30\x0f\x86\x0dtwinline:\xffann"
    oid = x509.SubjectAlternativeName.oid
    shown = certificates.ca.issue(
        "odd", extensions=[x509.UnrecognizedExtension(oid, names)], folder=tmp_path
    )
    with caplog.at_level(logging.WARNING):
        assert client_certificate(shaken(certificates, shown)) is None
    assert "has a name that is no text" in caplog.text
