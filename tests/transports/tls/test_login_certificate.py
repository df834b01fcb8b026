"""Logging in by a client's certificate, over real sockets: both listeners, both clients."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from client_kit import FAST, States, make_client, receive, user, watches
from listening import TCP
from servers import Site
from waiting import Call, wait_until

from twinline.core import errors
from twinline.core.certificates import stamp_of
from twinline.transports.client import Client, ClientClosed, StateKind
from twinline.transports.listener import ListenerSettings
from twinline.transports.tls import client_context, identity_of, read_revocation_lists

pytestmark = pytest.mark.usefixtures("each_listener", "both_clients")

TLS = "tls://localhost:0"


@contextmanager
def tls_site(certificates: Any, **settings: object) -> Iterator[Site]:
    """Serve over TLS, and ask clients for certificates."""
    made = {
        "tls_certificate": str(certificates.server.certificate),
        "tls_key": str(certificates.server.key),
        "tls_client_ca": str(certificates.ca.file),
        **settings,
    }
    with Site(TLS, listener_settings=ListenerSettings.model_validate(made)) as site:
        for name in ("ann", "bob"):
            site.service.add_account(name, "correct horse")
        yield site


@contextmanager
def client(site: Site, certificates: Any, shown: Any, **options: Any) -> Iterator[Client]:
    """Return a client that shows a certificate, or none."""
    pair = {} if shown is None else {"certificate": str(shown.certificate), "key": str(shown.key)}
    context = client_context(ca_file=str(certificates.ca.file), **pair)
    options.setdefault("settings", FAST)
    with make_client(site.endpoint, tls=context, **options) as made:
        yield made


def refusal(site: Site, certificates: Any, shown: Any) -> str:
    """Return why a client with this certificate cannot connect."""
    seen = States()
    with client(site, certificates, shown, on_state=seen) as one:
        login = Call(one.login_certificate)
        wait_until(lambda: any(state.retry_in is not None for state in seen.seen), "it is refused")
        one.close()
        with pytest.raises(ClientClosed):
            login.outcome()
    return next(str(state.reason) for state in seen.seen if state.retry_in is not None)


@pytest.mark.parametrize("transport", ["jsonl", "binary"])
def test_a_certificate_is_all_that_it_takes(certificates, transport: str) -> None:
    with (
        tls_site(certificates) as site,
        client(site, certificates, certificates.ann, transport=transport) as ann,
        client(site, certificates, certificates.bob, transport=transport) as bob,
    ):
        assert ann.login_certificate().username == "ann"
        assert bob.login_certificate().username == "bob"
        bob.send("ann", "hello")
        assert receive(ann, 1) == ["hello"]
        assert ann.token is not None
        stamp = stamp_of(ann.token)
        assert stamp is not None
        assert stamp.identity == identity_of(certificates.ann.der)
        # Whoever has the token goes on with the session, and without the certificate.
        with client(site, certificates, None) as other:
            assert other.resume(ann.token).username == "ann"
        with pytest.raises(errors.AlreadyLoggedIn):
            ann.login_certificate()


@pytest.mark.parametrize("which", [None, "nobody", "two"])
def test_who_is_named_by_no_certificate_logs_in_by_a_password(
    certificates, which: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    shown = None if which is None else getattr(certificates, which)
    with tls_site(certificates) as site, client(site, certificates, shown) as one:
        with pytest.raises(errors.BadCredentials, match="no client certificate that names"):
            one.login_certificate()
        with pytest.raises(errors.BadCredentials, match="no client certificate that names"):
            one.login_certificate()
        assert one.login("ann", "correct horse").username == "ann"
        wait_until(lambda: watches(one), "it watches")
    warnings = [each for each in caplog.records if "among its names" in each.getMessage()]
    assert len(warnings) == (0 if which is None else 2)  # once for each of its two connections
    assert all(each.levelno == logging.WARNING for each in warnings)


def test_without_tls_there_is_no_certificate() -> None:
    with Site(TCP) as site, user(site.endpoint, "ann") as ann:
        ann.logout()
        with pytest.raises(errors.BadCredentials, match="no client certificate"):
            ann.login_certificate()


@pytest.mark.parametrize(
    ("which", "why"),
    [("foreign_ann", "does not trust who has signed it"), ("expired_ann", "its time is over")],
)
def test_a_certificate_that_is_not_trusted_is_refused_by_the_handshake(
    certificates, which: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with tls_site(certificates) as site:
        assert why in refusal(site, certificates, getattr(certificates, which))
    assert "the client's certificate is refused" in caplog.text


def test_what_is_revoked_by_a_reload_ends_and_does_not_come_back(
    certificates, tmp_path: Path
) -> None:
    crl = tmp_path / "crl.pem"
    crl.write_bytes(certificates.ca.crl())
    seen = States()
    with (
        tls_site(certificates, tls_crl=str(crl)) as site,
        client(site, certificates, certificates.ann, on_state=seen) as ann,
        client(site, certificates, certificates.bob) as bob,
        client(site, certificates, None) as by_password,
        client(site, certificates, certificates.ann) as connected,
    ):
        ann.login_certificate()
        connected.connect()
        bob.login_certificate()
        by_password.login("ann", "correct horse")
        token = ann.token
        assert token is not None
        wait_until(lambda: watches(ann), "ann watches")

        crl.write_bytes(certificates.ca.crl(certificates.ann))
        (reloaded,) = site.listener.reload()
        assert (reloaded.error, reloaded.ended) == (None, 1)

        assert seen.wait(StateKind.LOGGED_OUT, 2).reason == "the session has ended; log in again"
        with pytest.raises(errors.NotLoggedIn):
            ann.status()
        with pytest.raises(errors.BadCredentials, match="the client certificate is revoked"):
            connected.login_certificate()
        assert "revoked" in refusal(site, certificates, certificates.ann)
        with client(site, certificates, None) as another, pytest.raises(errors.SessionExpired):
            another.resume(token)
        assert bob.status().username == "bob"
        assert by_password.status().username == "ann"

        # What the list has from the start holds for sessions that the store kept.
        bobs = bob.token
        assert bobs is not None
        crl.write_bytes(certificates.ca.crl(certificates.bob))
        site.stop()
        site.start()
        with client(site, certificates, None) as another, pytest.raises(errors.SessionExpired):
            another.resume(bobs)
    assert read_revocation_lists(crl).identities == {identity_of(certificates.bob.der)}
