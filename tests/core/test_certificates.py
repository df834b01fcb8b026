"""Sessions that certificates open: who gets one, how long it lasts, and what ends it."""

import logging
from base64 import urlsafe_b64encode
from dataclasses import replace

import pytest
from services import (
    PASSWORD,
    START_MS,
    FakeClock,
    count_subscriptions,
    enter,
    login,
    make_service,
)
from waiting import Call

from twinline.core import errors, protocol
from twinline.core.certificates import Certificate
from twinline.core.clock import DAY_MS
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.core.store import Account, SessionKey, Standing
from twinline.core.tokens import key_of

ANNS = Certificate("ann", b"a" * 32, START_MS + 10 * DAY_MS)
BOBS = Certificate("bob", b"b" * 32, START_MS + 10 * DAY_MS)


def shown(service: ChatService, certificate: Certificate | None, **how: object) -> Session:
    """Return a session of who has shown a certificate, and is not logged in."""
    session = service.session("192.0.2.1", **how)  # type: ignore[arg-type]
    session.certificate = certificate
    return session


def entered(service: ChatService, certificate: Certificate, **how: object) -> tuple[Session, str]:
    """Return a session that a certificate has opened, and its token."""
    session = shown(service, certificate, **how)
    return session, service.login_certificate(session).session


def resumed(service: ChatService, token: str, **how: object) -> Session:
    """Return a caller without a certificate that has resumed a session."""
    session = service.session(**how)  # type: ignore[arg-type]
    service.resume(session, token)
    return session


def held(service: ChatService) -> int:
    return len(service._accounts.certificates.held)


def test_a_certificate_opens_the_account_that_it_names() -> None:
    service = make_service()
    enter(service, "ann")
    bob = enter(service, "bob")
    service.send(bob, "ann", "hello")
    session = shown(service, ANNS)
    reply = service.handle(session, protocol.LoginCertificate())
    assert isinstance(reply, protocol.SessionReply)
    assert (reply.username, reply.position, reply.unread) == ("ann", 0, 1)
    other = resumed(service, reply.session)
    assert service.status(other).username == "ann"
    service.logout(session)
    with pytest.raises(errors.SessionExpired):
        service.status(other)
    assert held(service) == 0


@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        (None, "this line has no client certificate that names an account"),
        (replace(ANNS, username="bob"), "the account that the client certificate names is not"),
        (replace(ANNS, expires_at=START_MS), "the client certificate has expired"),
        (replace(ANNS, identity=b"r" * 32), "the client certificate is revoked"),
    ],
)
def test_what_opens_nothing(certificate: Certificate | None, why: str) -> None:
    service = make_service()
    enter(service, "ann")
    service.revoke_certificates([b"r" * 32])
    session = shown(service, certificate)
    with pytest.raises(errors.BadCredentials, match=why):
        service.login_certificate(session)
    assert not session.logged_in
    service.login(session, "ann", PASSWORD)  # and it is no failure that slows anybody


def test_a_session_takes_one_login_by_certificate_too() -> None:
    service = make_service()
    ann = enter(service, "ann")
    ann.certificate = ANNS
    with pytest.raises(errors.AlreadyLoggedIn):
        service.login_certificate(ann)


def test_its_sessions_are_bounded_as_all_are() -> None:
    clock = FakeClock()
    service = make_service(clock=clock, sessions_per_account=2)
    enter(service, "ann")
    first, _ = entered(service, ANNS)
    clock.forward(hours=2)
    others = [entered(service, ANNS)[0] for _ in range(2)]
    with pytest.raises(errors.SessionExpired):
        service.status(first)
    for each in others:
        service.status(each)
    assert held(service) == 2


def test_a_deleted_account_is_not_opened_nor_one_that_is_deleted_meanwhile() -> None:
    service = make_service()
    ann = enter(service, "ann")
    find = service.store.accounts.find

    def find_then_delete(username: str) -> Account | None:
        account = find(username)
        service.store.accounts.find = find  # type: ignore[method-assign]
        service.delete_account(ann, PASSWORD)
        return account

    service.store.accounts.find = find_then_delete  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(errors.BadCredentials):
            service.login_certificate(shown(service, ANNS))
    assert held(service) == 0


def test_another_password_ends_it_and_the_certificate_still_logs_in() -> None:
    service = make_service()
    ann = enter(service, "ann")
    session, _ = entered(service, ANNS)
    service.change_password(ann, PASSWORD, "battery staple")
    with pytest.raises(errors.SessionExpired):
        service.status(session)
    entered(service, ANNS)


def test_a_login_does_not_depend_on_the_password_that_the_account_has() -> None:
    service = make_service()
    ann = enter(service, "ann")
    find = service.store.accounts.find

    def find_then_change(username: str) -> Account | None:
        account = find(username)
        service.store.accounts.find = find  # type: ignore[method-assign]
        service.change_password(ann, PASSWORD, "battery staple")
        return account

    service.store.accounts.find = find_then_change  # type: ignore[method-assign]
    session, _ = entered(service, ANNS)
    assert service.status(session).username == "ann"


def test_it_lasts_no_longer_than_its_certificate() -> None:
    clock = FakeClock()
    service = make_service(clock=clock)
    by_password = enter(service, "ann")
    session, token = entered(service, ANNS)
    clock.forward(days=9.99)
    other = resumed(service, token)
    clock.forward(days=0.01)
    for each in (session, other):
        with pytest.raises(errors.SessionExpired):
            service.send(each, "ann", "too late")
        with pytest.raises(errors.SessionExpired):
            service.watch(each, 0)
    with pytest.raises(errors.SessionExpired):
        resumed(service, token)
    service.status(by_password)
    assert service.store.accounts.find_session(key_of(token)) is None
    assert held(service) == 0


def test_a_token_that_is_idle_is_refused_after_its_certificates_time() -> None:
    clock = FakeClock()
    service = make_service(clock=clock)
    enter(service, "ann")
    _, token = entered(service, ANNS)
    clock.forward(days=11)
    # A server that was started since knows nothing of it but the token.
    after = ChatService(service.store, service.settings, clock=clock)
    with pytest.raises(errors.SessionExpired):
        resumed(after, token)
    assert service.store.accounts.find_session(key_of(token)) is None


def test_a_clock_that_is_wrong_for_a_while_ends_it_no_more_than_idleness_does() -> None:
    wall, steady = FakeClock(), FakeClock()
    service = make_service(clock=wall)
    service._accounts._idle_clock = steady
    enter(service, "ann")
    session, _ = entered(service, ANNS)
    wall.forward(days=3650)
    service.status(session)
    steady.forward(days=11)
    with pytest.raises(errors.SessionExpired):
        service.status(session)


def test_revoking_ends_both_lines_at_once_and_leaves_the_others() -> None:
    service = make_service()
    by_password = enter(service, "ann")
    enter(service, "bob")
    ended: list[str] = []
    session, token = entered(service, ANNS, on_end=lambda: ended.append("commands"))
    watching = resumed(service, token, on_end=lambda: ended.append("watch"))
    bobs, _ = entered(service, BOBS, on_end=lambda: ended.append("bob"))
    watch = Call(lambda: service.watch(watching, 0, wait=30))
    assert service.revoke_certificates([ANNS.identity, b"x" * 32]) == 1
    with pytest.raises(errors.SessionExpired):
        watch.outcome()
    assert sorted(ended) == ["commands", "watch"]
    for each in (session, watching):
        with pytest.raises(errors.SessionExpired):
            service.status(each)
    with pytest.raises(errors.SessionExpired):
        resumed(service, token)
    service.status(bobs)
    service.status(by_password)
    assert held(service) == 1


def test_a_session_that_nobody_uses_here_is_refused_when_it_is_resumed() -> None:
    service = make_service()
    enter(service, "ann")
    _, token = entered(service, ANNS)
    restarted = ChatService(service.store, service.settings, clock=FakeClock())
    assert restarted.revoke_certificates([ANNS.identity]) == 0
    with pytest.raises(errors.SessionExpired):
        resumed(restarted, token)
    assert service.store.accounts.find_session(key_of(token)) is None
    assert held(restarted) == 0


def test_each_source_has_its_own_list() -> None:
    service = make_service()
    enter(service, "ann")
    enter(service, "bob")
    service.revoke_certificates([ANNS.identity], "one")
    service.revoke_certificates([ANNS.identity, BOBS.identity], "other")
    service.revoke_certificates([], "other")
    entered(service, BOBS)
    with pytest.raises(errors.BadCredentials):
        entered(service, ANNS)


def test_a_login_against_a_revocation() -> None:
    service = make_service()
    enter(service, "ann")
    open_session = service.store.accounts.open_session

    def revoke_then_open(*args: object, **options: object) -> None:
        service.revoke_certificates([ANNS.identity])
        open_session(*args, **options)  # type: ignore[arg-type]

    service.store.accounts.open_session = revoke_then_open  # type: ignore[method-assign]
    session = shown(service, ANNS)
    with pytest.raises(errors.SessionExpired):
        service.login_certificate(session)
    assert not session.logged_in
    assert len(service.store.accounts._sessions) == 1  # type: ignore[attr-defined]
    assert held(service) == 0


def test_a_session_that_ends_while_it_is_resumed_is_not_held() -> None:
    service = make_service()
    enter(service, "ann")
    _, token = entered(service, ANNS)
    service = ChatService(service.store, service.settings, clock=FakeClock())
    on_end = service.store.accounts.on_session_end

    def end_then_subscribe(key, wake):
        service.store.accounts.close_session(key)
        return on_end(key, wake)

    service.store.accounts.on_session_end = end_then_subscribe  # type: ignore[method-assign]
    with pytest.raises(errors.SessionExpired):
        resumed(service, token)
    assert held(service) == 0


def test_a_login_that_fails_leaves_nothing() -> None:
    service = make_service()
    enter(service, "ann")
    standing = service.store.mailboxes.standing

    def fails(account_id: str) -> Standing:
        raise errors.StoreUnavailable

    service.store.mailboxes.standing = fails  # type: ignore[method-assign]
    session = shown(service, ANNS, on_end=lambda: None)
    with pytest.raises(errors.StoreUnavailable):
        service.login_certificate(session)
    assert not session.logged_in
    assert held(service) == 0
    assert len(service.store.accounts._sessions) == 1  # type: ignore[attr-defined]
    service.store.mailboxes.standing = standing  # type: ignore[method-assign]
    service.login_certificate(session)


def test_a_store_that_fails_while_revoking_leaves_no_session_of_use(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = make_service()
    enter(service, "ann")
    session, _ = entered(service, ANNS)
    close = service.store.accounts.close_session

    def fails(key: SessionKey) -> None:
        raise errors.StoreUnavailable

    service.store.accounts.close_session = fails  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        assert service.revoke_certificates([ANNS.identity]) == 0
    assert "1 sessions of revoked certificates could not be ended" in caplog.text
    with pytest.raises(errors.StoreUnavailable):
        service.status(session)
    service.store.accounts.close_session = close  # type: ignore[method-assign]
    with pytest.raises(errors.SessionExpired):
        service.status(session)


def test_no_token_can_be_changed_into_one_that_lasts_longer_or_is_another_certificates() -> None:
    clock = FakeClock()
    service = make_service(clock=clock)
    enter(service, "ann")
    _, token = entered(service, ANNS)
    account_id, secret, identity, expires_at = token.split(".")
    assert len(secret) == 43
    assert int(expires_at) == ANNS.expires_at
    other = urlsafe_b64encode(b"x" * 32).rstrip(b"=").decode()
    secret = f"{account_id}.{secret}"
    for forged in (
        secret,
        f"{secret}.{identity}",
        f"{secret}.{identity}.{ANNS.expires_at + 1}",
        f"{secret}.{other}.{expires_at}",
        f"{secret}.{identity}.0{expires_at}",
        token + " ",
    ):
        with pytest.raises(errors.SessionExpired):
            resumed(service, forged)
    plain = service.login(service.session(), "ann", PASSWORD).session
    with pytest.raises(errors.SessionExpired):
        resumed(service, f"{plain}.{identity}.{expires_at}")
    resumed(service, plain)
    resumed(service, token)


def test_what_is_subscribed_for_it_ends_with_it() -> None:
    service = make_service()
    enter(service, "ann")
    opened = count_subscriptions(service)
    session, token = entered(service, ANNS)
    for _ in range(3):
        resumed(service, token)
    assert opened.total() == 1  # once, however often it is resumed
    service.logout(session)
    assert service.store.accounts.find_session(key_of(token)) is None
    login(service, "ann")
    assert held(service) == 0
