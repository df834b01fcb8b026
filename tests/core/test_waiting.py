"""Waiters keep a hint and count many as one; no wake keeps another from being called."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from waiting import Watching, join

from twinline.core import waiting
from twinline.core.deadline import Deadline
from twinline.core.waiting import (
    Waiter,
    Wake,
    deferred_wakes,
    wake_after_reply,
    wake_all,
    wake_deferred,
)
from twinline.core.watches import Watches

NOW = 0.0
SOON = 5.0  # long enough for any machine; a test that waits for it has failed


class Waiting(threading.Thread):
    """A thread that waits once and says how it ended."""

    def __init__(self, waiter: Waiter) -> None:
        super().__init__(name="waiting", daemon=True)
        self.waiter = waiter
        self.woken: bool | None = None

    def run(self) -> None:
        self.woken = self.waiter.wait(Deadline.after(SOON))


def test_a_wait_that_nobody_ends_ends_in_time() -> None:
    assert not Waiter().wait(Deadline.after(NOW))
    assert not Waiter().wait(Deadline.after(0.01))


def test_a_wake_before_the_wait_is_kept_even_when_no_time_is_left() -> None:
    waiter = Waiter()
    waiter.wake()
    assert waiter.wait(Deadline.after(NOW))


def test_a_wake_ends_a_wait_that_has_begun() -> None:
    waiter = Waiter()
    waiting = Waiting(waiter)
    waiting.start()
    waiter.wake()
    join(waiting)
    assert waiting.woken


def test_a_wait_without_limit_ends_by_a_wake() -> None:
    waiter = Waiter()
    woken: list[bool] = []
    thread = threading.Thread(target=lambda: woken.append(waiter.wait(Deadline.after(None))))
    thread.start()
    waiter.wake()
    join(thread)
    assert woken == [True]


def test_many_wakes_count_as_one_and_take_no_room() -> None:
    waiter = Waiter()
    for _ in range(1000):
        waiter.wake()
    assert waiter._hints.qsize() == 1
    assert waiter.wait(Deadline.after(NOW))
    assert not waiter.wait(Deadline.after(NOW))


def test_hints_of_wakers_that_raced_count_as_one() -> None:
    """Two wakers may both find no hint and leave one each."""
    waiter = Waiter()
    waiter._hints.put(None)
    waiter._hints.put(None)
    assert waiter.wait(Deadline.after(NOW))
    assert not waiter.wait(Deadline.after(NOW))


def test_no_wake_is_lost_between_two_threads() -> None:
    """A ping-pong in which one lost wake would stop both."""
    ping, pong = Waiter(), Waiter()
    rounds = 300

    def answer() -> None:
        for _ in range(rounds):
            assert ping.wait(Deadline.after(SOON))
            pong.wake()

    thread = threading.Thread(target=answer)
    thread.start()
    for _ in range(rounds):
        ping.wake()
        assert pong.wait(Deadline.after(SOON))
    join(thread)


def test_wake_all_calls_each() -> None:
    called: list[str] = []
    wake_all([lambda: called.append("a"), lambda: called.append("b")])
    assert called == ["a", "b"]


def raises() -> None:
    raise ZeroDivisionError


def is_interrupted() -> None:
    raise KeyboardInterrupt


def wake_deferred_ones(wakes: list[Wake]) -> None:
    with deferred_wakes():
        wake_after_reply(wakes)


def end_watches(wakes: list[Wake]) -> None:
    watches = Watches(len(wakes))
    for wake in wakes:
        watches.enter("ann", Watching(wake))
    watches.end()


WAYS = [wake_all, wake_after_reply, wake_deferred_ones, end_watches]


@pytest.mark.parametrize("way", WAYS)
def test_a_wake_that_raises_is_logged_and_hinders_nobody(
    way: Callable[[list[Wake]], None], caplog: pytest.LogCaptureFixture
) -> None:
    called: list[str] = []
    # Two that raise, each on its own: the same one twice would be called once after a reply.
    way([partial(raises), lambda: called.append("a"), partial(raises), lambda: called.append("b")])
    assert sorted(called) == ["a", "b"]
    assert [record.getMessage() for record in caplog.records] == ["a wake raised"] * 2


@pytest.mark.parametrize("way", WAYS)
def test_an_interruption_while_waking_is_told_when_all_are_woken(
    way: Callable[[list[Wake]], None],
) -> None:
    called: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        way(
            [
                partial(is_interrupted),
                lambda: called.append("a"),
                partial(is_interrupted),
                lambda: called.append("b"),
            ]
        )
    assert sorted(called) == ["a", "b"]


def test_wakes_that_may_come_later_are_kept_until_they_are_asked_for() -> None:
    called: list[str] = []
    wake_after_reply([lambda: called.append("at once: nobody keeps it")])
    with deferred_wakes() as deferred:
        wake_after_reply([lambda: called.append("asked for")])
        wake_all([lambda: called.append("urgent")])
        assert called[1:] == ["urgent"]
        wake_deferred(deferred)
        assert called[2:] == ["asked for"]
        wake_deferred(deferred)
        wake_after_reply([lambda: called.append("at the end")])
        assert len(called) == 3
    assert called[3:] == ["at the end"]
    wake_after_reply([lambda: called.append("at once again")])
    assert len(called) == 5


def test_wakes_that_were_kept_are_called_when_what_keeps_them_fails() -> None:
    called: list[str] = []

    def fail() -> None:
        with deferred_wakes():
            wake_after_reply([lambda: called.append("woken")])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert called == ["woken"]


def test_wakes_are_kept_for_their_own_thread_alone() -> None:
    called: list[str] = []
    with deferred_wakes():
        other = threading.Thread(target=lambda: wake_after_reply([lambda: called.append("woken")]))
        other.start()
        join(other)
        assert called == ["woken"]


def test_wakes_after_a_reply_are_called_once_each_in_the_order_of_the_sends() -> None:
    called: list[str] = []
    ann, bob, carl = (partial(called.append, name) for name in ("ann", "bob", "carl"))
    with deferred_wakes() as deferred:
        for one in ((bob,), (ann, carl), (bob,), (carl, ann), (bob,)):
            wake_after_reply(one)
        wake_deferred(deferred)
        assert called == ["bob", "ann", "carl"]
        wake_after_reply((carl,))  # after the flush it is asked for anew
        wake_after_reply((bob,))
    assert called[3:] == ["carl", "bob"]


def test_equal_wakes_of_two_subscribers_are_both_called() -> None:
    """A subscriber is known by the wake that it gave, not by what that says it is equal to."""

    class Equal:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

        def __call__(self) -> None:
            called.append(self)

    called: list[Equal] = []
    first, second = Equal(), Equal()
    with deferred_wakes():
        wake_after_reply((first, second))
    assert [id(one) for one in called] == [id(first), id(second)]


@pytest.mark.parametrize("interrupted", range(20))
def test_a_wake_that_is_interrupted_after_a_reply_keeps_the_order_of_the_rest(
    interrupted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_TURN_SECONDS", 0)
    called: list[int] = []
    wakes = [partial(called.append, number) for number in range(20)]
    wakes[interrupted] = is_interrupted  # type: ignore[call-overload]
    with deferred_wakes() as deferred:
        wake_after_reply(wakes)
        with pytest.raises(KeyboardInterrupt):
            wake_deferred(deferred)
        assert not deferred
    assert called == [number for number in range(20) if number != interrupted]


def test_who_is_interrupted_while_it_gives_a_turn_wakes_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "_give_turn", is_interrupted)
    called: list[int] = []
    with pytest.raises(KeyboardInterrupt), deferred_wakes():
        wake_after_reply([partial(called.append, number) for number in range(20)])
    assert called == list(range(20))


@contextmanager
def handled(handler: Callable[[], object]) -> Iterator[None]:
    """Have a handler for SIGUSR1 while the body runs."""
    before = signal.signal(signal.SIGUSR1, lambda *_: handler())
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_signal_that_does_not_end_the_main_threads_wait_is_noticed_all_the_same() -> None:
    """It was taken by another thread, or came just before the wait: the handler is overdue."""
    waiter = Waiter()
    other = threading.Timer(
        0.05, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
    )
    with handled(waiter.wake):
        other.start()
        started = time.monotonic()
        assert waiter.wait(Deadline.after(10))
        assert time.monotonic() - started < 5
        join(other)
