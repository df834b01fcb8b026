"""Accounts and sessions, at the service's door: names, logins, tokens, deletion."""

import pytest
from services import PASSWORD, FakeClock, bodies, cheap_hasher, enter, login, make_service

from twinline.core import accounts, errors
from twinline.core.passwords import default_hasher
from twinline.core.service import ChatService
from twinline.core.store import SessionKey, SessionRecord
from twinline.core.tokens import key_of
from twinline.stores.memory import MemoryStore


def test_creating_logs_in() -> None:
    service = make_service()
    session = service.session()
    reply = service.create_account(session, "Ann", PASSWORD)
    assert (reply.username, reply.position, reply.unread) == ("ann", 0, 0)
    assert session.logged_in
    assert session.username == "ann"
    assert service.status(session).username == "ann"
    assert reply.session not in repr(session)


@pytest.mark.parametrize(
    "username",
    [
        "",
        "-ann",
        ".ann",
        "_ann",
        "a" * 33,
        "an n",
        "ann\n",
        "ann\x00",
        "\uff41nn",  # full-width a
        "\u0430nn",  # Cyrillic a
        "an\u200bn",  # zero width space
        "\u202eann",  # right-to-left override
        "ann\u2028",  # line separator
        "\u212aann",  # the Kelvin sign, whose lower case is an ASCII k
        "ann/..",
    ],
)
def test_a_name_that_breaks_the_rule_is_refused_everywhere(username: str) -> None:
    service = make_service()
    session = service.session()
    with pytest.raises(errors.InvalidUsername):
        service.create_account(session, username, PASSWORD)
    with pytest.raises(errors.InvalidUsername):
        service.login(session, username, PASSWORD)
    with pytest.raises(errors.InvalidUsername):
        service.send(enter(service, "ann"), username, "hello")


@pytest.mark.parametrize("username", ["a", "0", "a" * 32, "a.b_c-d", "0-"])
def test_names_that_follow_the_rule(username: str) -> None:
    service = make_service()
    enter(service, username)
    login(service, username.upper())


@pytest.mark.parametrize("password", ["", "1234567", "x" * 129, "x" * 3000])
def test_a_password_of_a_wrong_length(password: str) -> None:
    service = make_service()
    ann = enter(service, "ann")
    with pytest.raises(errors.InvalidPassword):
        service.create_account(service.session(), "bob", password)
    with pytest.raises(errors.InvalidPassword):
        service.change_password(ann, PASSWORD, password)
    with pytest.raises(errors.BadCredentials):
        service.login(service.session(), "ann", password)


def test_a_taken_name_in_any_case() -> None:
    service = make_service()
    enter(service, "ann")
    with pytest.raises(errors.UsernameTaken):
        service.create_account(service.session(), "ANN", PASSWORD)


def test_a_taken_name_costs_no_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    service = make_service()
    enter(service, "ann")
    monkeypatch.setattr(
        "twinline.core.passwords.Passwords.hash", lambda *_: pytest.fail("it hashed")
    )
    with pytest.raises(errors.UsernameTaken):
        service.create_account(service.session(), "ann", PASSWORD)


def test_unknown_user_and_wrong_password_are_the_same_error() -> None:
    service = make_service()
    enter(service, "ann")
    with pytest.raises(errors.BadCredentials) as wrong:
        service.login(service.session(), "ann", "another horse")
    with pytest.raises(errors.BadCredentials) as unknown:
        service.login(service.session(), "bob", "another horse")
    assert wrong.value.to_reply() == unknown.value.to_reply()


def test_a_session_takes_one_login() -> None:
    service = make_service()
    ann = enter(service, "ann")
    token = service.login(service.session(), "ann", PASSWORD).session
    with pytest.raises(errors.AlreadyLoggedIn):
        service.login(ann, "ann", PASSWORD)
    with pytest.raises(errors.AlreadyLoggedIn):
        service.create_account(ann, "bob", PASSWORD)
    with pytest.raises(errors.AlreadyLoggedIn):
        service.resume(ann, token)


def test_nothing_but_the_first_requests_without_a_login() -> None:
    service = make_service()
    session = service.session()
    service.hello(session)
    service.ping(session)
    calls = (
        lambda: service.logout(session),
        lambda: service.list_accounts(session),
        lambda: service.send(session, "ann", "hello"),
        lambda: service.watch(session, 0),
        lambda: service.ack(session, 0),
        lambda: service.history(session),
        lambda: service.delete_messages(session, [1]),
        lambda: service.status(session),
        lambda: service.change_password(session, PASSWORD, PASSWORD),
        lambda: service.delete_account(session, PASSWORD),
    )
    for call in calls:
        with pytest.raises(errors.NotLoggedIn):
            call()


def test_failures_slow_an_account_from_an_address_and_a_login_clears_it() -> None:
    service = make_service(failures_per_account=2)
    enter(service, "ann")

    def fail() -> None:
        with pytest.raises(errors.BadCredentials):
            service.login(service.session("127.0.0.1"), "ann", "another horse")

    fail()
    login(service, "ann")
    fail()
    login(service, "ann")
    fail()
    fail()
    with pytest.raises(errors.RateLimited) as refused:
        login(service, "ann")
    assert refused.value.retryable
    assert refused.value.retry_after_ms
    enter(service, "bob")  # another account is not slowed
    login(service, "bob")


def test_failures_slow_an_address_over_all_accounts() -> None:
    service = make_service(failures_per_address=3)
    enter(service, "ann")
    for name in ("x", "y", "z"):
        with pytest.raises(errors.BadCredentials):
            service.login(service.session("10.0.0.1"), name, "another horse")
    with pytest.raises(errors.RateLimited):
        service.login(service.session("10.0.0.1"), "ann", PASSWORD)
    service.login(service.session("10.0.0.2"), "ann", PASSWORD)


def test_guessing_through_change_and_delete_is_slowed_too() -> None:
    service = make_service(failures_per_account=2)
    ann = enter(service, "ann")
    with pytest.raises(errors.BadCredentials):
        service.change_password(ann, "another horse", PASSWORD)
    with pytest.raises(errors.BadCredentials):
        service.delete_account(ann, "another horse")
    with pytest.raises(errors.RateLimited):
        service.delete_account(ann, PASSWORD)


def test_resume_binds_another_line_to_the_session() -> None:
    service = make_service()
    first = service.session()
    token = service.create_account(first, "ann", PASSWORD).session
    second = service.session()
    reply = service.resume(second, token)
    assert (reply.username, reply.session) == ("ann", token)
    service.logout(first)
    assert not first.logged_in
    with pytest.raises(errors.SessionExpired):
        service.status(second)


def test_every_bad_token_is_the_same_error() -> None:
    clock = FakeClock()
    service = make_service(clock=clock, session_idle_days=1)
    foreign = make_service()
    token = service.create_account(service.session(), "ann", PASSWORD).session
    alien = foreign.create_account(foreign.session(), "ann", PASSWORD).session
    revoked_session = service.session()
    revoked = service.login(revoked_session, "ann", PASSWORD).session
    service.logout(revoked_session)
    replies = set()
    for bad in ("", "x", token[:-1], token + "x", alien, revoked, "\ud800", token.swapcase()):
        with pytest.raises(errors.SessionExpired) as refused:
            service.resume(service.session(), bad)
        replies.add(refused.value.to_reply())
    clock.forward(days=1.1)
    with pytest.raises(errors.SessionExpired) as refused:
        service.resume(service.session(), token)
    replies.add(refused.value.to_reply())
    assert len(replies) == 1


def test_the_comparison_that_decides_takes_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    service = make_service()
    asked: list[tuple[bytes, bytes]] = []

    class Hmac:
        @staticmethod
        def compare_digest(known: bytes, given: bytes) -> bool:
            asked.append((known, given))
            return False

    monkeypatch.setattr(accounts, "hmac", Hmac)
    token = service.create_account(service.session(), "bob", PASSWORD).session
    with pytest.raises(errors.SessionExpired):
        service.resume(service.session(), token)
    token_hash = key_of(token).token_hash
    assert asked == [(token_hash, token_hash)]


def test_a_session_expires_when_idle_and_lives_while_used() -> None:
    clock = FakeClock()
    service = make_service(clock=clock)
    used = enter(service, "ann")
    idle = login(service, "ann")
    for _ in range(4):
        clock.forward(days=10)
        service.status(used)
    with pytest.raises(errors.SessionExpired):
        service.status(idle)
    service.status(used)


def test_the_store_never_sees_a_token() -> None:
    store = MemoryStore()
    service = ChatService(store, hasher=cheap_hasher())
    reply = service.create_account(service.session(), "ann", PASSWORD)
    assert len(reply.session) >= 43  # 256 bits in base64
    assert store.accounts.find_session(SessionKey(None, reply.session.encode())) is None


def test_changing_the_password_revokes_the_others() -> None:
    service = make_service()
    ann = enter(service, "ann")
    other = login(service, "ann")
    service.change_password(ann, PASSWORD, "battery staple")
    service.status(ann)
    with pytest.raises(errors.SessionExpired):
        service.status(other)
    with pytest.raises(errors.BadCredentials):
        login(service, "ann")
    service.login(service.session(), "ann", "battery staple")


def test_deleting_asks_for_the_password_and_for_force() -> None:
    service = make_service()
    ann, bob = enter(service, "ann"), enter(service, "bob")
    service.send(bob, "ann", "one")
    service.send(bob, "ann", "two")
    service.send(ann, "bob", "what ann sent stays")
    with pytest.raises(errors.BadCredentials):
        service.delete_account(ann, "another horse")
    with pytest.raises(errors.UndeliveredMessages) as refused:
        service.delete_account(ann, PASSWORD)
    assert refused.value.count == 2
    assert refused.value.to_reply().count == 2
    other = login(service, "ann")
    service.delete_account(ann, PASSWORD, force=True)
    assert not ann.logged_in
    for session in (ann, other):
        with pytest.raises((errors.NotLoggedIn, errors.SessionExpired)):
            service.status(session)
    with pytest.raises(errors.NoSuchUser):
        service.send(bob, "ann", "three")
    with pytest.raises(errors.BadCredentials):
        login(service, "ann")
    assert bodies(service, bob) == ["what ann sent stays"]
    assert service.list_accounts(bob).usernames == ("bob",)


def test_deleting_needs_no_force_once_the_mail_is_acked() -> None:
    service = make_service()
    ann = enter(service, "ann")
    service.send(ann, "ann", "to myself")
    service.ack(ann, 1)
    service.delete_account(ann, PASSWORD)


def test_a_deleted_name_stays_reserved_unless_freed() -> None:
    service = make_service()
    service.delete_account(enter(service, "ann"), PASSWORD)
    with pytest.raises(errors.UsernameTaken):
        enter(service, "ann")


def test_a_new_account_of_an_old_name_sees_nothing_of_the_old_one() -> None:
    service = make_service(free_deleted_names=True)
    old, bob = enter(service, "ann"), enter(service, "bob")
    service.send(bob, "ann", "for the old one")
    stale = login(service, "ann")
    service.delete_account(old, PASSWORD, force=True)
    new = enter(service, "ann")
    assert bodies(service, new) == []
    assert service.history(new).messages == ()
    with pytest.raises(errors.SessionExpired):
        service.delete_account(stale, PASSWORD)
    with pytest.raises(errors.SessionExpired):
        bodies(service, stale)


def test_an_old_hash_is_brought_up_to_date_at_login() -> None:
    store = MemoryStore()
    weak = ChatService(store, hasher=cheap_hasher())
    weak.create_account(weak.session(), "ann", PASSWORD)
    today = ChatService(store, hasher=default_hasher())
    today.login(today.session(), "ann", PASSWORD)
    account = store.accounts.find("ann")
    assert account is not None
    assert "m=19456" in account.password_hash
    today.login(today.session(), "ann", PASSWORD)


def test_listing_by_pattern_and_page() -> None:
    service = make_service()
    ann = enter(service, "ann")
    for name in ("anna", "annabel", "bob", "dan", "x.y"):
        enter(service, name)
    assert service.list_accounts(ann).usernames == ("ann", "anna", "annabel", "bob", "dan", "x.y")
    assert service.list_accounts(ann, "AN*").usernames == ("ann", "anna", "annabel")
    assert service.list_accounts(ann, "*an").usernames == ("dan",)
    assert service.list_accounts(ann, "?an").usernames == ("dan",)
    assert service.list_accounts(ann, "x.y").usernames == ("x.y",)
    assert service.list_accounts(ann, r"x\?y").usernames == ()
    page = service.list_accounts(ann, "ann*", limit=2)
    assert (page.usernames, page.more) == (("ann", "anna"), True)
    page = service.list_accounts(ann, "ann*", after="anna", limit=2)
    assert (page.usernames, page.more) == (("annabel",), False)
    for pattern in ("\\", "*" * 257):
        with pytest.raises(errors.BadRequest):
            service.list_accounts(ann, pattern)


def test_a_token_of_before_that_does_not_name_its_account_is_valid() -> None:
    clock = FakeClock()
    service = make_service(clock=clock)
    enter(service, "ann")
    store = service.store
    account = store.accounts.find("ann")
    assert account is not None
    old = "s" * 43
    key = key_of(old)
    assert key.account_id is None
    now = clock.now
    store.accounts.open_session(SessionRecord(key.token_hash, account.account_id, "ann", now, now))
    session = service.session()
    assert service.resume(session, old).session == old
    assert service.status(session).username == "ann"
    service.logout(session)
    with pytest.raises(errors.SessionExpired):
        service.resume(service.session(), old)


def test_a_token_opens_a_session_of_the_account_that_it_names_and_no_other() -> None:
    service = make_service()
    token = service.create_account(service.session(), "ann", PASSWORD).session
    account_id, _, secret = token.partition(".")
    for forged in (secret, f"{'0' * 32}.{secret}", f"{account_id[::-1]}.{secret}", account_id):
        with pytest.raises(errors.SessionExpired):
            service.resume(service.session(), forged)
    key = key_of(token)
    assert key.account_id == account_id
    assert service.store.accounts.find_session(key._replace(account_id="another")) is None
    assert service.store.accounts.find_session(key) is not None


def test_a_recipient_that_is_remembered_wrongly_is_looked_for_once_more() -> None:
    service = make_service(free_deleted_names=True)
    ann = enter(service, "ann")
    enter(service, "bob")
    remembered = service.store.accounts.recipient("bob")
    service.delete_account(login(service, "bob"), PASSWORD)
    service.store.accounts.recipient = lambda name: remembered  # type: ignore[method-assign]
    with pytest.raises(errors.NoSuchUser):
        service.send(ann, "bob", "to nobody")
    bob = enter(service, "bob")
    service.send(ann, "bob", "to the new one")
    assert [each.body for each in service.watch(bob, 0).messages] == ["to the new one"]
