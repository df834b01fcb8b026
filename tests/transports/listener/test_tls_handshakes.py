"""Handshakes over real sockets: what is agreed on, and what each side says that is refused."""

import logging
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from listening import serving
from sealing import TlsPeer, trusting
from waiting import wait_until

from twinline.transports.tls import client_context

if TYPE_CHECKING:
    from certificates import Certificates, Issued

pytestmark = pytest.mark.usefixtures("each_listener")
LISTEN = (("tls://localhost:0", "auto"),)


def shown(issued: "Issued", **more: str) -> dict[str, str]:
    return {"tls_certificate": str(issued.certificate), "tls_key": str(issued.key), **more}


@pytest.mark.parametrize(
    ("place", "spoken", "asked", "agreed"),
    [
        ("tls://localhost:0", "auto", "twinline", "twinline"),
        ("tls://localhost:0", "auto", "http/1.1", "http/1.1"),
        ("tls://localhost:0", "jsonl", "twinline", "twinline"),
        ("tls://localhost:0", "binary", "http/1.1", None),
        ("tls://localhost:0", "websocket", "http/1.1", "http/1.1"),
    ],
)
def test_what_an_endpoint_speaks_is_agreed_on(
    certificates: "Certificates", place: str, spoken: str, asked: str, agreed: str | None
) -> None:
    context = client_context(ca_file=str(certificates.ca.file), protocols=[asked])
    with (
        serving([(place, spoken)], **shown(certificates.server)) as server,
        TlsPeer(server.endpoints[0], context) as peer,
    ):
        assert tls_of(peer).selected_alpn_protocol() == agreed


def test_an_endpoint_may_have_files_of_its_own(certificates: "Certificates") -> None:
    own = certificates.ca.issue("own", hosts=["localhost"])
    place = f"tls://localhost:0?certificate={own.certificate}&key={own.key}&minimum=1.3"
    newest, older = (trusting(certificates, version) for version in ("1.3", "1.2"))
    with serving([(place, "auto"), *LISTEN], **shown(certificates.server)) as server:
        with TlsPeer(server.endpoints[0], newest) as peer:
            assert tls_of(peer).getpeercert(binary_form=True) == own.der
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
            TlsPeer(server.endpoints[0], older)
        with TlsPeer(server.endpoints[1], older) as peer:
            assert tls_of(peer).getpeercert(binary_form=True) == certificates.server.der
        assert [files.certificate for _, files in server.listener.tls_files] == [
            str(own.certificate),
            str(certificates.server.certificate),
        ]


def tls_of(peer: TlsPeer) -> ssl.SSLSocket:
    assert isinstance(peer.socket, ssl.SSLSocket)
    return peer.socket


@pytest.mark.parametrize(
    ("which", "to_client", "in_log"),
    [
        ("expired", "certificate has expired", "refuses the certificate that it was shown: its"),
        ("wrong_host", "certificate is not valid for 'localhost'", "refuses the certificate"),
        ("unknown", "unable to get local issuer certificate", "it does not trust who has signed"),
    ],
)
def test_a_server_that_is_not_who_it_should_be(
    certificates: "Certificates",
    caplog: pytest.LogCaptureFixture,
    which: str,
    to_client: str,
    in_log: str,
) -> None:
    caplog.set_level(logging.INFO)
    context = trusting(certificates)
    with serving(LISTEN, **shown(getattr(certificates, which))) as server:
        with pytest.raises(ssl.SSLCertVerificationError) as refused:
            TlsPeer(server.endpoints[0], context)
        assert to_client in str(refused.value)
        wait_until(lambda: in_log in caplog.text, "the server knows why")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_not_spoken(
    certificates: "Certificates", caplog: pytest.LogCaptureFixture, version: ssl.TLSVersion
) -> None:
    caplog.set_level(logging.INFO)
    old = client_context(ca_file=str(certificates.ca.file))
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    old.minimum_version = old.maximum_version = version
    with serving(LISTEN, **shown(certificates.server)) as server:
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
            TlsPeer(server.endpoints[0], old)
        wait_until(lambda: "speaks no version of TLS" in caplog.text, "the server knows why")


@pytest.mark.parametrize(
    ("who", "in_log"),
    [
        ("expired_ann", "certificate has expired"),
        ("foreign_ann", "who has signed it is not trusted here"),
        ("bob", "certificate revoked"),
        ("server", "unsuitable certificate purpose"),
    ],
)
def test_a_client_that_is_not_who_it_says(
    certificates: "Certificates",
    caplog: pytest.LogCaptureFixture,
    tmp_path_factory: pytest.TempPathFactory,
    who: str,
    in_log: str,
) -> None:
    caplog.set_level(logging.INFO)
    crl = tmp_path_factory.mktemp("crl") / "list.pem"
    crl.write_bytes(certificates.ca.crl(certificates.bob))
    issued: Issued = getattr(certificates, who)
    context = client_context(
        ca_file=str(certificates.ca.file),
        certificate=str(issued.certificate),
        key=str(issued.key),
    )
    more = {"tls_client_ca": str(certificates.ca.file), "tls_crl": str(crl)}
    with serving(LISTEN, **shown(certificates.server, **more)) as server:
        # By TLS 1.3 the client hears of it after its own side of the handshake.
        with suppress(ssl.SSLError, ConnectionError), TlsPeer(server.endpoints[0], context) as peer:
            assert peer.rest() == b""
        wait_until(lambda: in_log in caplog.text, "the server knows why")
        assert f"the client's certificate is refused: {in_log}" in caplog.text
