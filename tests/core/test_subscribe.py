"""`ChatService.subscribe`: wakes by a callback, for callers that block no thread in a watch."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from services import PASSWORD, bodies, cheap_hasher, enter, login, make_service
from waiting import Call, wait_event, wait_until

from twinline.core.errors import NotLoggedIn, SessionExpired, ShuttingDown
from twinline.core.protocol import ErrorReply, Reply, Send, SentReply
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.stores.sqlite import SqliteStore


def send(service: ChatService, _: Session) -> None:
    service.send(login(service, "bob"), "ann", "hi")


def delete(service: ChatService, _: Session) -> None:
    service.delete_account(login(service, "ann"), PASSWORD)


def interrupt(_: ChatService, ann: Session) -> None:
    ann.interrupt()


def leave(service: ChatService, ann: Session) -> None:
    service.leave(ann)


def stop(service: ChatService, _: Session) -> None:
    service.stop()


def two_people() -> tuple[ChatService, Session]:
    service = make_service()
    ann = enter(service, "ann")
    enter(service, "bob")
    return service, ann


@pytest.mark.parametrize("cause", [send, delete, interrupt, leave, stop])
def test_whatever_ends_a_watch_calls_back(
    cause: Callable[[ChatService, Session], None],
) -> None:
    service, ann = two_people()
    woken = threading.Event()
    unsubscribe = service.subscribe(ann, woken.set)
    assert not woken.is_set()
    cause(service, ann)
    assert woken.is_set()
    unsubscribe()
    woken.clear()
    if cause is send:
        cause(service, ann)
    ann.interrupt()
    service.stop()
    assert not woken.is_set()


def test_the_end_of_a_session_calls_back_who_was_bound_to_it() -> None:
    service, ann = two_people()
    other = login(service, "ann")
    woken = {ann: threading.Event(), other: threading.Event()}
    for session, event in woken.items():
        service.subscribe(session, event.set)
    service.change_password(ann, PASSWORD, "another secret")
    assert woken[other].is_set()
    assert not woken[ann].is_set()
    with pytest.raises(SessionExpired):
        service.watch(other, 0)
    with pytest.raises(SessionExpired):
        service.subscribe(other, lambda: None)


def test_mail_for_others_calls_nobody() -> None:
    service, ann = two_people()
    woken = threading.Event()
    service.subscribe(ann, woken.set)
    service.send(ann, "bob", "hi")
    assert not woken.is_set()


def test_two_subscriptions_of_one_callback_end_one_by_one() -> None:
    service, ann = two_people()
    woken = threading.Event()
    first, second = service.subscribe(ann, woken.set), service.subscribe(ann, woken.set)
    first()
    ann.interrupt()
    assert woken.is_set()
    woken.clear()
    second()
    service.stop()
    assert not woken.is_set()


def test_who_was_interrupted_before_is_told_at_once() -> None:
    service, ann = two_people()
    ann.interrupt()
    woken = threading.Event()
    service.subscribe(ann, woken.set)
    assert woken.is_set()


def test_it_takes_a_session_and_a_service_that_runs() -> None:
    service, ann = two_people()
    with pytest.raises(NotLoggedIn):
        service.subscribe(service.session(), lambda: None)
    service.stop()
    with pytest.raises(ShuttingDown):
        service.subscribe(ann, lambda: None)


def test_no_mail_falls_between_subscribing_and_looking() -> None:
    service, ann = two_people()
    bob = login(service, "bob")
    barrier = threading.Barrier(2)

    def sender() -> None:
        for number in range(200):
            barrier.wait(5)
            service.send(bob, "ann", f"{number}")
            barrier.wait(5)

    sending = Call(sender)
    for number in range(200):
        woken = threading.Event()
        barrier.wait(5)
        unsubscribe = service.subscribe(ann, woken.set)
        seen = bodies(service, ann, after=number)
        barrier.wait(5)
        if not seen:
            wait_event(woken, f"a wake for message {number}")
            seen = bodies(service, ann, after=number)
        assert seen == [f"{number}"]
        unsubscribe()
    sending.outcome()


def test_the_durable_store_calls_back_too(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db")
    try:
        service = ChatService(store, hasher=cheap_hasher())
        ann = enter(service, "ann")
        woken = threading.Event()
        unsubscribe = service.subscribe(ann, woken.set)
        service.send(ann, "ann", "hi")
        wait_until(woken.is_set, "a wake")
        unsubscribe()
    finally:
        store.close()


def test_a_subscription_that_was_ended_is_called_by_nothing() -> None:
    service = make_service()
    ann = enter(service, "ann")
    calls: list[str] = []
    service.subscribe(ann, lambda: calls.append("ann"))()
    service.send(ann, "ann", "hello")
    ann.interrupt()
    service.stop()
    assert calls == []


@pytest.fixture(params=["memory", "sqlite"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ChatService]:
    if request.param == "memory":
        yield make_service()
        return
    with SqliteStore(tmp_path / "s.db") as store:
        yield ChatService(store, hasher=cheap_hasher())


def test_a_callback_that_raises_changes_nothing_for_the_sender_and_for_others(
    service: ChatService,
) -> None:
    ann = enter(service, "ann")
    woken = threading.Event()

    def raises() -> None:
        raise ZeroDivisionError

    service.subscribe(ann, raises)
    service.subscribe(ann, woken.set)
    reply = service.handle(ann, Send(to="ann", body="hi"))
    assert isinstance(reply, SentReply)
    wait_event(woken, "the other callback")
    assert bodies(service, ann) == ["hi"]


def test_a_callback_that_sends_has_its_outcome_at_once(service: ChatService) -> None:
    """In the thread that writes a durable store it would wait for itself."""
    ann, bob = enter(service, "ann"), enter(service, "bob")
    outcomes: list[Reply] = []

    def sends() -> None:
        outcomes.append(service.handle(bob, Send(to="bob", body="got mail")))

    service.subscribe(ann, sends)
    call = Call(lambda: service.send(bob, "ann", "hi"))
    wait_until(lambda: outcomes, "the outcome of the callback's send", 10)
    call.outcome()
    assert isinstance(outcomes[0], SentReply | ErrorReply)
    assert bodies(service, ann) == ["hi"]
    service.send(bob, "bob", "the store goes on")
