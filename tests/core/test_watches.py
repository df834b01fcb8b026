"""An account has a bounded number of watches that wait, and waking many gives others a turn."""

import threading
import weakref
from functools import partial
from typing import Any

import pytest
from services import bodies, count_subscriptions, enter, login, make_service
from waiting import Call, Watching, wait_until

from twinline.core import waiting
from twinline.core.deadline import Deadline
from twinline.core.errors import Busy
from twinline.core.protocol import ErrorReply, Watch, WatchReply
from twinline.core.service import ChatService
from twinline.core.settings import ServiceSettings
from twinline.core.waiting import Waiter, Wake, deferred_wakes, wake_after_reply, wake_deferred
from twinline.core.watches import Watches

MOST = 3
NOW = Deadline.after(0.0)


def raises() -> None:
    raise ZeroDivisionError


def full_service() -> tuple[ChatService, list[Call]]:
    """Return a service where as many watches of ann wait as may."""
    service = make_service(watches_per_account=MOST)
    enter(service, "ann")
    opened = count_subscriptions(service)
    sessions = [login(service, "ann") for _ in range(MOST)]
    calls = [Call(partial(service.watch, session, 0, wait=60)) for session in sessions]
    wait_until(lambda: opened.total() == 2 * MOST, "all of them wait")
    return service, calls


def test_by_default_64_watches_of_an_account_may_wait() -> None:
    assert ServiceSettings().watches_per_account == 64


def test_one_watch_too_many_is_busy_and_does_nothing() -> None:
    service, calls = full_service()
    one_more, bob = login(service, "ann"), enter(service, "bob")
    reply = service.handle(one_more, Watch(after=0, wait=30))
    assert isinstance(reply, ErrorReply)
    assert (reply.code, reply.retryable, reply.retry_after_ms) == ("busy", True, 5_000)
    assert "3 connections of this account wait for mail already" in reply.message
    with pytest.raises(Busy):
        service.subscribe(one_more, lambda: None)
    assert service.watch(one_more, 0).messages == ()  # who looks without waiting may
    assert service.watch(bob, 0, wait=1).messages == ()  # and so may another account
    service.send(bob, "ann", "hello")
    for call in calls:
        assert isinstance(call.outcome(), WatchReply)


def test_a_watch_that_ends_makes_room_for_another() -> None:
    service, calls = full_service()
    ann = login(service, "ann")
    service.send(ann, "ann", "hello")
    for call in calls:
        call.outcome()
    assert service.watch(ann, 0, wait=30).messages
    ends = [service.subscribe(ann, lambda: None) for _ in range(MOST)]
    with pytest.raises(Busy):
        service.watch(ann, 1, wait=30)
    ends[0]()
    ends[0]()  # harmless, and makes no more room
    service.subscribe(ann, lambda: None)
    with pytest.raises(Busy):
        service.subscribe(ann, lambda: None)
    for end in ends:
        end()


def test_a_subscription_that_fails_makes_room_again() -> None:
    service = make_service(watches_per_account=1)
    ann = enter(service, "ann")
    on_mail = service.store.mailboxes.on_mail

    def fails(*_: Any) -> None:
        raise ZeroDivisionError

    service.store.mailboxes.on_mail = fails  # type: ignore[method-assign,assignment]
    with pytest.raises(ZeroDivisionError):
        service.watch(ann, 0, wait=30)
    service.store.mailboxes.on_mail = on_mail  # type: ignore[method-assign]
    service.send(ann, "ann", "hello")
    assert service.watch(ann, 0, wait=30).messages
    assert bodies(service, ann) == ["hello"]


def test_of_many_at_once_exactly_as_many_enter_as_may() -> None:
    watches = Watches(MOST)
    barrier = threading.Barrier(8)

    def enter_and_leave() -> int:
        entered, mine = 0, Waiter()
        for _ in range(200):
            barrier.wait(10)
            try:
                watches.enter("ann", mine)
            except Busy:
                inside = False
            else:
                inside = True
            barrier.wait(10)
            if inside:
                entered += 1
                watches.leave("ann", mine)
        return entered

    calls = [Call(enter_and_leave) for _ in range(8)]
    assert sum(int(str(call.outcome())) for call in calls) == MOST * 200
    assert watches._waiting == {}


def test_the_end_of_all_wakes_who_is_among_them() -> None:
    watches = Watches(MOST)
    ann, bob, left = Waiter(), Waiter(), Waiter()
    watches.enter("ann", left)
    watches.enter("ann", ann)
    watches.enter("bob", bob)
    watches.leave("ann", left)
    watches.leave("ann", left)  # harmless
    assert not watches.ended
    watches.end()
    assert watches.ended
    assert ann.wait(NOW)
    assert bob.wait(NOW)
    assert not left.wait(NOW)


def test_who_enters_after_the_end_is_woken_at_once() -> None:
    watches = Watches(MOST)
    watches.end()
    waiter = Waiter()
    watches.enter("ann", waiter)
    assert waiter.wait(NOW)


def test_who_enters_after_the_end_with_a_wake_that_raises_can_leave() -> None:
    watches = Watches(MOST)
    watches.end()
    watch = Watching(raises)
    watches.enter("ann", watch)
    watches.leave("ann", watch)
    assert watches._waiting == {}


def test_nobody_is_kept_who_left() -> None:
    watches, watch = Watches(MOST), Watching(raises)
    left = weakref.ref(watch)
    watches.enter("ann", watch)
    watches.enter("ann", Watching(lambda: None))
    watches.leave("ann", watch)
    watches.end()
    del watch
    assert left() is None


def test_waking_many_gives_others_a_turn_after_every_eight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    happened: list[str] = []
    monkeypatch.setattr(waiting, "_give_turn", lambda: happened.append(" "))

    def wakes(count: int) -> list[Wake]:
        return [partial(happened.append, "w") for _ in range(count)]

    with deferred_wakes() as deferred:
        wake_after_reply(wakes(8))
        wake_deferred(deferred)
        assert "".join(happened) == "w" * 8
        happened.clear()
        wake_after_reply(wakes(20))
        wake_deferred(deferred)
        assert "".join(happened) == "wwwwwwww wwwwwwww wwww"
        happened.clear()
        for _ in range(16):  # of as many messages
            wake_after_reply(wakes(1))
        wake_deferred(deferred)
        assert "".join(happened) == "w" * 16
        happened.clear()
        crowd = wakes(12)
        for _ in range(5):  # messages to the same watches
            wake_after_reply(crowd)
        wake_deferred(deferred)
        assert "".join(happened) == "wwwwwwww wwww"


def test_a_turn_is_time_in_which_this_thread_wants_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(waiting.time, "sleep", slept.append)
    waiting._give_turn()
    assert slept == [0.001]
