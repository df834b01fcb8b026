"""`ChatService`: waiting and waking, dispatch, stopping, and the races between requests."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from services import (
    PASSWORD,
    START_MS,
    FakeClock,
    bodies,
    cheap_hasher,
    count_subscriptions,
    enter,
    login,
    make_service,
)
from waiting import Call, wait_event, wait_until

from twinline.core import errors, protocol
from twinline.core.certificates import Certificate
from twinline.core.errors import LockRuleError
from twinline.core.protocol import Kinds, Reply, WatchReply
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.core.settings import ServiceSettings
from twinline.core.store import Accepted, Draft, SessionKey, SessionRecord, Standing, Unsubscribe
from twinline.core.waiting import Wake
from twinline.stores.memory import MemoryStore
from twinline.stores.sqlite import SqliteStore


class Watching:
    """A service whose store says when a watch has subscribed to both halves."""

    def __init__(self) -> None:
        self.service = make_service()
        self.subscribed = threading.Semaphore(0)
        self.woken: list[str] = []
        accounts, mailboxes = self.service.store.accounts, self.service.store.mailboxes
        on_mail, on_end = mailboxes.on_mail, accounts.on_session_end

        def note_mail(account_id: str, wake: Wake, kinds: Kinds) -> Unsubscribe:
            def counted() -> None:
                self.woken.append(account_id)
                wake()

            return on_mail(account_id, counted, kinds)

        def note_end(key: SessionKey, wake: Wake) -> Unsubscribe:
            unsubscribe = on_end(key, wake)
            self.subscribed.release()
            return unsubscribe

        mailboxes.on_mail = note_mail  # type: ignore[method-assign]
        accounts.on_session_end = note_end  # type: ignore[method-assign]

    def watch(self, session: Session, wait: int = 30) -> Call:
        """Start a watch and return once it has subscribed."""
        call = Call(lambda: self.service.watch(session, 0, wait=wait))
        assert self.subscribed.acquire(timeout=5)
        return call


def test_a_watch_is_woken_by_mail_and_by_its_own_mail_alone() -> None:
    watching = Watching()
    service = watching.service
    ann, bob, cat = (enter(service, name) for name in ("ann", "bob", "cat"))
    bobs, cats = watching.watch(bob), watching.watch(cat)
    service.send(ann, "bob", "for bob")
    reply = bobs.outcome()
    assert isinstance(reply, WatchReply)
    assert [m.body for m in reply.messages] == ["for bob"]
    account = service.store.accounts.find("bob")
    assert account is not None
    assert watching.woken == [account.account_id]
    service.send(ann, "cat", "for cat")
    assert isinstance(cats.outcome(), WatchReply)


def test_all_watchers_of_one_account_are_woken() -> None:
    watching = Watching()
    service = watching.service
    bob = enter(service, "bob")
    calls = [watching.watch(login(service, "bob")) for _ in range(5)]
    service.send(bob, "bob", "hello")
    for call in calls:
        reply = call.outcome()
        assert isinstance(reply, WatchReply)
        assert len(reply.messages) == 1


def test_a_wait_ends_empty_when_its_time_is_up() -> None:
    service = make_service()
    ann = enter(service, "ann")
    reply = service.watch(ann, 0, wait=1)
    assert reply.messages == ()


def test_mail_that_comes_between_looking_and_waiting_is_not_missed() -> None:
    service = make_service()
    ann = enter(service, "ann")
    mailboxes = service.store.mailboxes
    on_mail = mailboxes.on_mail

    def send_then_subscribe(account_id: str, wake: Wake, kinds: Kinds) -> Unsubscribe:
        service.send(ann, "ann", "just before")
        return on_mail(account_id, wake, kinds)

    mailboxes.on_mail = send_then_subscribe  # type: ignore[method-assign]
    assert len(service.watch(ann, 0, wait=30).messages) == 1

    def subscribe_then_send(account_id: str, wake: Wake, kinds: Kinds) -> Unsubscribe:
        unsubscribe = on_mail(account_id, wake, kinds)
        service.send(ann, "ann", "just after")
        return unsubscribe

    mailboxes.on_mail = subscribe_then_send  # type: ignore[method-assign]
    assert len(service.watch(ann, 1, wait=30).messages) == 1


def test_a_watch_ends_with_its_session() -> None:
    watching = Watching()
    service = watching.service
    endings: list[Callable[[Session], object]] = [
        lambda _: service.change_password(login(service, "ann"), PASSWORD, PASSWORD),
        lambda session: service.store.accounts.close_session(session.key or SessionKey(None, b"")),
        lambda _: service.delete_account(login(service, "ann"), PASSWORD),
    ]
    enter(service, "ann")
    for end in endings:
        session = login(service, "ann")
        call = watching.watch(session)
        end(session)
        with pytest.raises(errors.SessionExpired):
            call.outcome()


def test_on_end_is_called_for_the_revoked_and_not_for_the_others() -> None:
    service = make_service()
    enter(service, "ann")
    ended: list[str] = []
    first = service.session(on_end=lambda: ended.append("first"))
    second = service.session(on_end=lambda: ended.append("second"))
    third = service.session(on_end=lambda: ended.append("third"))
    for session in (first, second, third):
        service.login(session, "ann", PASSWORD)
    service.leave(third)
    service.change_password(first, PASSWORD, "battery staple")
    assert ended == ["second"]
    service.logout(first)
    assert ended == ["second", "first"]


def test_a_session_that_is_revoked_while_it_is_bound_is_not_bound() -> None:
    service = make_service()
    token = service.create_account(service.session(), "ann", PASSWORD).session
    other = login(service, "ann")
    on_end = service.store.accounts.on_session_end

    def revoke_then_subscribe(key: SessionKey, wake: Wake) -> Unsubscribe:
        service.store.accounts.close_session(key)
        return on_end(key, wake)

    service.store.accounts.on_session_end = revoke_then_subscribe  # type: ignore[method-assign]
    opened = count_subscriptions(service)
    session = service.session(on_end=lambda: None)
    with pytest.raises(errors.SessionExpired):
        service.resume(session, token)
    assert not session.logged_in
    assert opened.total() == 0
    service.status(other)


BINDINGS = ["create_account", "login", "resume"]


def bind(service: ChatService, session: Session, how: str, token: str) -> None:
    """Log in to ann's account, or create it."""
    if how == "create_account":
        service.create_account(session, "new", PASSWORD)
    elif how == "login":
        service.login(session, "ann", PASSWORD)
    else:
        service.resume(session, token)


@pytest.mark.parametrize("how", BINDINGS)
@pytest.mark.parametrize("error", [errors.StoreUnavailable, ZeroDivisionError, KeyboardInterrupt])
def test_a_binding_that_fails_leaves_no_subscription_and_no_session(
    how: str, error: type[BaseException]
) -> None:
    service = make_service()
    token = service.create_account(service.session(), "ann", PASSWORD).session
    sessions = service.store.accounts._sessions  # type: ignore[attr-defined]
    standing = service.store.mailboxes.standing

    def fails(account_id: str) -> Standing:
        raise error

    service.store.mailboxes.standing = fails  # type: ignore[method-assign]
    opened = count_subscriptions(service)
    ended: list[str] = []
    session = service.session(on_end=lambda: ended.append("ended"))
    with pytest.raises(error):
        bind(service, session, how, token)
    assert not session.logged_in
    assert opened.total() == 0
    assert len(sessions) == 1  # ann's first one
    service.store.mailboxes.standing = standing  # type: ignore[method-assign]
    service.login(session, "ann", PASSWORD)
    service.change_password(session, PASSWORD, "battery staple")
    assert ended == []
    service.status(session)


def test_of_two_logins_at_once_on_one_session_one_is_bound_and_the_other_leaves_nothing() -> None:
    service = make_service()
    enter(service, "ann")
    enter(service, "bob")
    opened = count_subscriptions(service)
    sessions = service.store.accounts._sessions  # type: ignore[attr-defined]
    before = len(sessions)
    session = service.session(on_end=lambda: None)
    both = threading.Barrier(2)
    find_session = service.store.accounts.find_session

    def find_together(key: SessionKey) -> SessionRecord | None:
        if session.key is None:
            both.wait(5)  # both are admitted, and neither is bound
        return find_session(key)

    service.store.accounts.find_session = find_together  # type: ignore[method-assign]
    calls = [
        Call(lambda name=name: service.login(session, name, PASSWORD)) for name in ("ann", "bob")
    ]
    refused = 0
    for call in calls:
        try:
            call.outcome()
        except errors.AlreadyLoggedIn:
            refused += 1
    assert refused == 1
    assert session.key is not None
    assert +opened == {session.key: 1}
    assert len(sessions) == before + 1
    assert service.status(session).username == session.username


def test_an_interrupted_wait_replies_with_nothing() -> None:
    watching = Watching()
    ann = enter(watching.service, "ann")
    call = watching.watch(ann)
    ann.interrupt()
    reply = call.outcome()
    assert isinstance(reply, WatchReply)
    assert reply.messages == ()
    assert watching.service.watch(ann, 0, wait=30).messages == ()


def test_stopping_wakes_every_wait_and_refuses_the_rest() -> None:
    watching = Watching()
    service = watching.service
    calls = [watching.watch(enter(service, name)) for name in ("ann", "bob")]
    session = login(service, "ann")
    service.stop()
    assert service.stopping
    for call in calls:
        with pytest.raises(errors.ShuttingDown):
            call.outcome()
    for request in (
        protocol.Hello(),
        protocol.Ping(),
        protocol.Status(),
        protocol.Login(username="ann", password=PASSWORD),
    ):
        reply = service.handle(session, request)
        assert isinstance(reply, protocol.ErrorReply)
        assert (reply.code, reply.retryable) == ("shutting_down", True)


def test_hello() -> None:
    service = make_service(body_bytes=1000)
    reply = service.hello(service.session(), client="a test")
    assert reply.server.startswith("twinline/")
    assert reply.limits.body_bytes == 1000
    with pytest.raises(errors.UnsupportedVersion, match="version 1"):
        service.hello(service.session(), protocol=2)


def test_handle_carries_out_every_request() -> None:
    service = make_service()
    session = service.session()
    token = service.create_account(service.session(), "bob", PASSWORD).session
    requests: list[protocol.Request] = [
        protocol.Hello(client="test"),
        protocol.Ping(),
        protocol.CreateAccount(username="ann", password=PASSWORD),
        protocol.ListAccounts(),
        protocol.Send(to="ann", body="hello"),
        protocol.Watch(after=0, ack=1),
        protocol.Ack(up_to=1),
        protocol.History(),
        protocol.Conversations(),
        protocol.Block(username="bob"),
        protocol.Unblock(username="bob"),
        protocol.ListBlocked(),
        protocol.SetReceipts(receipts=False),
        protocol.DeleteMessages(seqs=(1,)),
        protocol.Trace(message_id="0" * 24, to="ann"),
        protocol.Status(),
        protocol.ChangePassword(password=PASSWORD, new_password="battery staple"),
        protocol.Logout(),
        protocol.Login(username="bob", password=PASSWORD),
        protocol.Logout(),
        protocol.LoginCertificate(),
        protocol.DeleteAccount(password=PASSWORD),
    ]
    session.certificate = Certificate("bob", b"b" * 32, 2 * START_MS)
    for request in requests:
        reply = service.handle(session, request)
        assert type(reply) is request.reply, reply
    assert {type(request) for request in requests} | {protocol.Resume} == set(protocol.REQUESTS)
    refused = service.handle(session, protocol.Resume(session=token))
    assert isinstance(refused, protocol.ErrorReply)
    assert refused.code == "session_expired"


def test_a_fault_inside_is_logged_and_not_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service()
    ann = enter(service, "ann")

    def broken(*_: object) -> Accepted:
        raise ZeroDivisionError("a secret path")

    monkeypatch.setattr(service.store.mailboxes, "append", broken)
    with caplog.at_level(logging.ERROR):
        reply = service.handle(ann, protocol.Send(to="ann", body="x"))
    assert isinstance(reply, protocol.ErrorReply)
    assert reply.code == "internal"
    assert "secret" not in reply.message
    assert "a secret path" in caplog.text

    def unlawful(*_: object) -> Accepted:
        raise LockRuleError("two locks")

    monkeypatch.setattr(service.store.mailboxes, "append", unlawful)
    with pytest.raises(LockRuleError):
        service.handle(ann, protocol.Send(to="ann", body="x"))


def test_every_error_crosses_as_a_reply_and_comes_back() -> None:
    for code, kind in errors.ERROR_BY_CODE.items():
        error = kind(retry_after_ms=5, count=3)
        reply = error.to_reply()
        assert reply.code == code
        back = errors.RequestError.from_reply(reply)
        assert type(back) is kind
        assert back.to_reply() == reply
    unknown = errors.RequestError.from_reply(
        protocol.ErrorReply(code="from_the_future", message="?", retryable=True)
    )
    assert (unknown.code, unknown.retryable) == ("from_the_future", True)
    assert errors.RequestError.retryable is False


# -- races, made to happen --------------------------------------------------------------


class Pausing(MemoryStore):
    """A store that stops in front of a step until the test lets it go on."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def pause_before(self, half: object, method: str) -> None:
        """Stop the next call of a method, once."""
        original = getattr(half, method)

        def paused(*args: object, **options: object) -> object:
            setattr(half, method, original)
            self.reached.set()
            wait_event(self.go_on, "the test lets it go on")
            return original(*args, **options)

        setattr(half, method, paused)


@pytest.fixture
def pausing() -> Pausing:
    return Pausing()


@pytest.fixture
def service(pausing: Pausing) -> ChatService:
    return ChatService(pausing, clock=FakeClock(), hasher=cheap_hasher())


def test_send_against_delete(pausing: Pausing, service: ChatService) -> None:
    """The sender has found bob; bob deletes his account; the message must not go anywhere."""
    ann, bob = enter(service, "ann"), enter(service, "bob")
    pausing.pause_before(pausing.mailboxes, "append")
    sending = Call(lambda: service.send(ann, "bob", "hello"))
    wait_event(pausing.reached, "the send is about to append")
    service.delete_account(bob, PASSWORD)
    pausing.go_on.set()
    with pytest.raises(errors.NoSuchUser):
        sending.outcome()


def test_send_between_withdrawing_and_dropping(pausing: Pausing, service: ChatService) -> None:
    """The account is withdrawn, the mailbox not yet dropped: a send finds no account."""
    ann, bob = enter(service, "ann"), enter(service, "bob")
    pausing.pause_before(pausing.mailboxes, "drop")
    deleting = Call(lambda: service.delete_account(bob, PASSWORD))
    wait_event(pausing.reached, "the account is withdrawn")
    with pytest.raises(errors.NoSuchUser):
        service.send(ann, "bob", "hello")
    with pytest.raises(errors.SessionExpired):
        service.watch(bob, 0)
    pausing.go_on.set()
    deleting.outcome()


def test_create_against_create(pausing: Pausing, service: ChatService) -> None:
    """Both found the name free; one gets it, and the other leaves no mailbox behind."""
    pausing.pause_before(pausing.accounts, "create")
    first = Call(lambda: enter(service, "ann"))
    wait_event(pausing.reached, "the first is about to publish")
    dropped: list[str] = []
    drop = pausing.mailboxes.drop

    def noted(account_id: str) -> None:
        dropped.append(account_id)
        drop(account_id)

    pausing.mailboxes.drop = noted  # type: ignore[method-assign]
    ann = enter(service, "ann")
    pausing.go_on.set()
    with pytest.raises(errors.UsernameTaken):
        first.outcome()
    assert len(dropped) == 1
    service.send(ann, "ann", "still mine")
    draft = Draft("0" * 24, "x", "x", "x", 0)
    with pytest.raises(errors.NoSuchUser):
        pausing.mailboxes.append(dropped[0], draft)


def test_delete_against_login(pausing: Pausing, service: ChatService) -> None:
    """The password was right; before the session opens the account is gone."""
    ann = enter(service, "ann")
    pausing.pause_before(pausing.accounts, "open_session")
    logging_in = Call(lambda: login(service, "ann"))
    wait_event(pausing.reached, "the password was verified")
    service.delete_account(ann, PASSWORD)
    pausing.go_on.set()
    with pytest.raises(errors.BadCredentials):
        logging_in.outcome()


OWN_MAILBOX: dict[str, Callable[[ChatService, Session], object]] = {
    "standing": lambda service, session: service.status(session),
    "look": lambda service, session: service.watch(session, 0),
    "ack": lambda service, session: service.ack(session, 0),
    "history": lambda service, session: service.history(session),
    "delete": lambda service, session: service.delete_messages(session, [1]),
}


@pytest.mark.parametrize("method", OWN_MAILBOX)
def test_delete_against_the_owner(method: str, pausing: Pausing, service: ChatService) -> None:
    """The session was alive when it was looked at; the mailbox is gone when it is used."""
    ann = enter(service, "ann")
    account = pausing.accounts.find("ann")
    assert account is not None
    pausing.pause_before(pausing.mailboxes, method)
    using = Call(lambda: OWN_MAILBOX[method](service, ann))
    wait_event(pausing.reached, "the session was looked at")
    pausing.accounts.withdraw(account.account_id, keep_name=True)
    pausing.mailboxes.drop(account.account_id)
    pausing.go_on.set()
    with pytest.raises(errors.SessionExpired):
        using.outcome()


def test_delete_against_delete(pausing: Pausing, service: ChatService) -> None:
    ann = enter(service, "ann")
    other = login(service, "ann")
    pausing.pause_before(pausing.accounts, "withdraw")
    first = Call(lambda: service.delete_account(ann, PASSWORD))
    wait_event(pausing.reached, "the first is about to withdraw")
    service.delete_account(other, PASSWORD)
    pausing.go_on.set()
    with pytest.raises(errors.SessionExpired):
        first.outcome()


def test_delete_against_delete_before_the_look_at_the_mail(
    pausing: Pausing, service: ChatService
) -> None:
    ann = enter(service, "ann")
    other = login(service, "ann")
    pausing.pause_before(pausing.mailboxes, "standing")
    first = Call(lambda: service.delete_account(ann, PASSWORD))
    wait_event(pausing.reached, "the first is about to look")
    service.delete_account(other, PASSWORD)
    pausing.go_on.set()
    with pytest.raises(errors.SessionExpired):
        first.outcome()


@pytest.mark.parametrize(
    "use",
    [
        lambda service, session: service.delete_account(session, PASSWORD),
        lambda service, session: service.change_password(session, PASSWORD, "battery staple"),
    ],
    ids=["delete", "change the password"],
)
def test_an_old_session_against_a_new_account_of_the_name(
    use: Callable[[ChatService, Session], object], pausing: Pausing
) -> None:
    """Even with the same password the old session has no power over the new account."""
    service = ChatService(pausing, ServiceSettings(free_deleted_names=True), hasher=cheap_hasher())
    ann = enter(service, "ann")
    other = login(service, "ann")
    pausing.pause_before(pausing.accounts, "find")
    first = Call(lambda: use(service, ann))
    wait_event(pausing.reached, "the session was alive")
    service.delete_account(other, PASSWORD)
    new = enter(service, "ann")
    pausing.go_on.set()
    with pytest.raises(errors.SessionExpired):
        first.outcome()
    service.status(new)
    login(service, "ann")


def test_change_password_against_delete(pausing: Pausing, service: ChatService) -> None:
    ann = enter(service, "ann")
    other = login(service, "ann")
    pausing.pause_before(pausing.accounts, "change_password")
    changing = Call(lambda: service.change_password(ann, PASSWORD, "battery staple"))
    wait_event(pausing.reached, "the new hash is made")
    service.delete_account(other, PASSWORD)
    pausing.go_on.set()
    with pytest.raises(errors.SessionExpired):
        changing.outcome()


def test_login_against_a_change_of_the_password(pausing: Pausing, service: ChatService) -> None:
    """The old password was verified; before the session opens it is the old one."""
    ann = enter(service, "ann")
    pausing.pause_before(pausing.accounts, "open_session")
    logging_in = Call(lambda: login(service, "ann"))
    wait_event(pausing.reached, "the old password was verified")
    service.change_password(ann, PASSWORD, "battery staple")
    pausing.go_on.set()
    with pytest.raises(errors.BadCredentials):
        logging_in.outcome()


def test_change_password_against_change_password(pausing: Pausing, service: ChatService) -> None:
    ann, other = enter(service, "ann"), login(service, "ann")
    pausing.pause_before(pausing.accounts, "change_password")
    first = Call(lambda: service.change_password(ann, PASSWORD, "too late for this"))
    wait_event(pausing.reached, "the first has verified the old password")
    service.change_password(other, PASSWORD, "battery staple")
    pausing.go_on.set()
    with pytest.raises(errors.BadCredentials):
        first.outcome()
    service.login(service.session(), "ann", "battery staple")


def test_a_new_hash_against_a_change_of_the_password(pausing: Pausing) -> None:
    """A login that brings an old hash up to date must not bring the old password back."""
    weak = ChatService(pausing, hasher=cheap_hasher())
    ann = enter(weak, "ann")
    strong = ChatService(pausing, hasher=PasswordHasher(time_cost=2, memory_cost=8, parallelism=1))
    pausing.pause_before(pausing.accounts, "set_password_hash")
    logging_in = Call(lambda: login(strong, "ann"))
    wait_event(pausing.reached, "the new hash of the old password is made")
    weak.change_password(ann, PASSWORD, "battery staple")
    pausing.go_on.set()
    with pytest.raises(errors.BadCredentials):
        logging_in.outcome()
    weak.login(weak.session(), "ann", "battery staple")


def test_sessions_of_one_account_are_bounded() -> None:
    clock = FakeClock()
    service = make_service(clock=clock, sessions_per_account=2)
    first = enter(service, "ann")
    clock.forward(seconds=1)
    second, third = login(service, "ann"), login(service, "ann")
    for session in (second, third):
        service.status(session)
    with pytest.raises(errors.SessionExpired):
        service.status(first)


def test_watch_against_append_with_many_threads() -> None:
    """Eight senders, one watcher that acks as it goes: nothing is lost, doubled or reordered."""
    service = make_service()
    bob = enter(service, "bob")
    senders = [enter(service, f"s{n}") for n in range(8)]
    start = threading.Barrier(len(senders))
    each = 40

    def send_all(sender: Session) -> None:
        start.wait(5)
        for n in range(each):
            service.send(sender, "bob", f"{sender.username}:{n}")

    calls = [Call(lambda sender=sender: send_all(sender)) for sender in senders]  # type: ignore[misc]
    got: list[tuple[int, str]] = []
    after = 0
    while len(got) < each * len(senders):
        reply = service.watch(bob, after, ack=after, limit=7, wait=5)
        assert reply.messages, "a watch ended empty while messages were under way"
        got += [(m.seq, m.body) for m in reply.messages]
        after = got[-1][0]
    for call in calls:
        call.outcome()
    assert [seq for seq, _ in got] == list(range(1, each * len(senders) + 1))
    for sender in senders:
        own = [body for _, body in got if body.startswith(f"{sender.username}:")]
        assert own == [f"{sender.username}:{n}" for n in range(each)]


def test_stop_against_a_watch_that_is_about_to_wait() -> None:
    service = make_service()
    ann = enter(service, "ann")
    on_mail = service.store.mailboxes.on_mail

    def stop_first(account_id: str, wake: Wake, kinds: Kinds) -> Unsubscribe:
        service.stop()
        return on_mail(account_id, wake, kinds)

    service.store.mailboxes.on_mail = stop_first  # type: ignore[method-assign]
    with pytest.raises(errors.ShuttingDown):
        service.watch(ann, 0, wait=30)


def test_waits_leave_nothing_behind() -> None:
    service = make_service()
    ann = enter(service, "ann")
    opened = count_subscriptions(service)
    for _ in range(3):
        call = Call(lambda: service.watch(ann, 0, wait=30))
        wait_until(lambda: opened.total() == 2, "the watch waits")
        service.send(ann, "ann", "x")
        reply = call.outcome()
        assert isinstance(reply, Reply)
        service.delete_messages(ann, [m.seq for m in service.watch(ann, 0).messages])
    assert opened.total() == 0
    assert bodies(service, ann) == []


def test_a_watch_that_begins_before_a_logout_is_not_of_who_logs_in_after_it() -> None:
    service = make_service()
    enter(service, "bob")
    session = enter(service, "ann")
    on_session_end = service.store.accounts.on_session_end

    def change_over(key: SessionKey, wake: Wake) -> Unsubscribe:
        service.store.accounts.on_session_end = on_session_end  # type: ignore[method-assign]
        service.logout(session)
        service.login(session, "bob", PASSWORD)
        return on_session_end(key, wake)

    service.store.accounts.on_session_end = change_over  # type: ignore[method-assign]
    with pytest.raises(errors.SessionExpired):
        service.watch(session, 0, wait=2)
    assert service.status(session).username == "bob"


def test_hello_tells_with_which_start_of_the_server_accounts_end(tmp_path: Path) -> None:
    store = MemoryStore()
    services = [ChatService(each, hasher=cheap_hasher()) for each in (store, store, MemoryStore())]
    one, same, other = [each.hello(each.session()).incarnation for each in services]
    assert one is not None
    assert one == same != other
    with SqliteStore(tmp_path / "mail.db") as store:
        service = ChatService(store, hasher=cheap_hasher())
        assert service.hello(service.session()).incarnation is None


def test_hello_tells_which_of_several_servers_this_is() -> None:
    assert make_service().hello(Session()).node is None
    service = ChatService(MemoryStore(), hasher=cheap_hasher(), node="web-2")
    assert service.hello(service.session()).node == "web-2"
