"""Whose turn it is on an event loop, and when: with a loop that is only noted."""

import itertools
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

import pytest
from waiting import Call, join

from twinline.transports.listener import turns as turns_module
from twinline.transports.listener.turns import Timer, Turns

_A_TURN = turns_module._A_TURN


class Handle:
    """A timer of the loop."""

    def __init__(self, seconds: float, function: Callable[[], object]) -> None:
        self.seconds = seconds
        self.function = function
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class NotedLoop:
    """Notes what it is asked to call, and calls it when the test says so."""

    def __init__(self) -> None:
        self.soon: deque[Callable[[], object]] = deque()
        self.from_threads = 0
        self.asked = threading.Semaphore(0)  # by a thread
        self.later: list[Handle] = []
        self.closed = False

    def call_soon(self, function: Callable[[], object]) -> None:
        self.soon.append(function)

    def call_soon_threadsafe(self, function: Callable[[], object]) -> None:
        if self.closed:
            raise RuntimeError("Event loop is closed")
        self.from_threads += 1
        self.soon.append(function)
        self.asked.release()

    def call_later(self, seconds: float, function: Callable[[], object]) -> Handle:
        self.later.append(Handle(seconds, function))
        return self.later[-1]

    def is_closed(self) -> bool:
        return self.closed

    def turn(self) -> None:
        """Call what it was asked to call, and not what is asked meanwhile."""
        for _ in range(len(self.soon)):
            self.soon.popleft()()

    def timers(self) -> list[Handle]:
        return [handle for handle in self.later if not handle.cancelled]


class Driven:
    """A connection that counts its turns."""

    def __init__(self, on_turn: Callable[[], object] = lambda: None) -> None:
        self.timer: Timer | None = None
        self.turns = 0
        self.times = 0
        self._on_turn = on_turn

    def go_on(self) -> None:
        self.turns += 1
        self._on_turn()

    def time_is_up(self) -> None:
        self.times += 1


@pytest.fixture
def loop() -> NotedLoop:
    return NotedLoop()


@pytest.fixture
def turns(loop: NotedLoop) -> Turns:
    return Turns(loop)  # type: ignore[arg-type]  # it has what is needed


# -- marks ----------------------------------------------------------------------------------


def test_marks_of_many_threads_cause_one_call(turns: Turns, loop: NotedLoop) -> None:
    driven = [Driven() for _ in range(50)]
    for each in [Call(lambda each=each: turns.mark(each)) for each in driven]:  # type: ignore[misc]
        each.outcome()
    assert (loop.from_threads, len(loop.soon)) == (1, 1)
    loop.turn()
    assert [each.turns for each in driven] == [1] * 50
    assert not loop.soon
    Call(lambda: turns.mark(driven[0])).outcome()  # and the next one has its own
    assert loop.from_threads == 2


def test_a_mark_in_the_loops_own_thread_needs_no_wake(turns: Turns, loop: NotedLoop) -> None:
    driven = Driven()
    turns.mark(driven)
    assert (loop.from_threads, driven.turns) == (0, 0)  # not at once, either
    loop.turn()
    assert driven.turns == 1


def test_so_many_go_on_before_the_loop_looks_again(turns: Turns, loop: NotedLoop) -> None:
    driven = [Driven() for _ in range(2 * _A_TURN + 1)]
    for each in driven:
        turns.mark(each)
    for done in (_A_TURN, 2 * _A_TURN, len(driven)):
        loop.turn()
        assert sum(each.turns for each in driven) == done
        assert all(each.turns for each in driven[:done])  # in their order
    assert not loop.soon


def test_who_marks_itself_again_comes_behind_the_others(turns: Turns, loop: NotedLoop) -> None:
    order: list[str] = []
    hog = Driven(lambda: (order.append("hog"), turns.mark(hog)))
    other = Driven(lambda: order.append("other"))
    turns.mark(hog)
    turns.mark(other)
    for _ in range(3):
        loop.turn()
    assert order == ["hog", "other", "hog", "hog"]


def test_a_connection_that_raises_keeps_no_other_from_its_turn(
    turns: Turns, loop: NotedLoop
) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    other = Driven()
    turns.mark(Driven(broken))
    turns.mark(other)
    with pytest.raises(ZeroDivisionError):
        loop.turn()
    loop.turn()
    assert other.turns == 1


def test_no_mark_is_lost_that_comes_while_others_go_on(turns: Turns, loop: NotedLoop) -> None:
    late = Driven()
    turns.mark(Driven(lambda: Call(lambda: turns.mark(late)).outcome()))
    loop.turn()
    loop.turn()
    assert late.turns == 1


def test_a_mark_for_a_loop_that_is_closed_does_nothing(turns: Turns, loop: NotedLoop) -> None:
    turns.close()
    loop.closed = True
    driven = Driven()
    Call(lambda: turns.mark(driven)).outcome()
    assert (driven.turns, len(loop.soon)) == (0, 0)


# -- deadlines ------------------------------------------------------------------------------


def test_the_loop_has_one_timer_for_all_deadlines(turns: Turns, loop: NotedLoop) -> None:
    now = monotonic()
    for number in range(1_000):
        turns.call_at(now + 100 + number, Driven())
    assert len(loop.later) == 1
    turns.call_at(now + 50, Driven())  # an earlier one
    (handle,) = loop.timers()
    assert handle.seconds == pytest.approx(50, abs=1)


def test_each_is_called_when_its_time_is_up_and_not_before(turns: Turns, loop: NotedLoop) -> None:
    now = monotonic()
    due, later = Driven(), Driven()
    turns.call_at(now - 1, due)
    turns.call_at(now + 100, later)
    loop.timers()[-1].function()
    assert (due.times, later.times, due.timer) == (1, 0, None)
    assert loop.later[-1].seconds == pytest.approx(100, abs=1)  # for the one that is left


def test_a_deadline_that_is_put_off_costs_nothing(turns: Turns, loop: NotedLoop) -> None:
    now = monotonic()
    driven = Driven()
    for seconds in range(10, 1_000):
        turns.call_at(now + seconds, driven)
    assert (len(turns._timers), len(loop.later)) == (1, 1)
    turns.call_at(now + 5, driven)  # one that comes sooner is another matter
    assert loop.timers()[-1].seconds == pytest.approx(5, abs=1)


def test_those_that_are_due_at_once_are_called_so_many_a_turn(
    turns: Turns, loop: NotedLoop
) -> None:
    moment = monotonic() - 1
    driven = [Driven() for _ in range(_A_TURN + 1)]  # at the very same moment
    for each in driven:
        turns.call_at(moment, each)
    loop.later[-1].function()
    assert sum(each.times for each in driven) == _A_TURN
    loop.later[-1].function()
    assert [each.times for each in driven] == [1] * len(driven)


def test_what_is_gone_is_neither_called_nor_kept(turns: Turns, loop: NotedLoop) -> None:
    gone, stays = Driven(), Driven()
    turns.call_at(monotonic() - 1, gone)
    turns.call_at(monotonic() - 1, stays)
    turns.forget(gone)
    turns.forget(gone)  # harmless
    assert gone not in list(itertools.chain(*turns._timers))
    loop.later[-1].function()
    assert (gone.times, stays.times) == (0, 1)


def test_timers_of_no_use_are_thrown_out(turns: Turns) -> None:
    """Of a million connections that come and go, those that are there are in the heap."""
    stays = Driven()
    turns.call_at(monotonic() + 200, stays)
    longest = 0
    for _ in range(10_000):
        driven = Driven()
        turns.call_at(monotonic() + 100, driven)
        turns.forget(driven)
        longest = max(longest, len(turns._timers))
    assert longest <= turns_module._DROPPED + 2
    assert stays in [timer[2] for timer in turns._timers]
    assert turns._timers[0][0] <= min(timer[0] for timer in turns._timers)


def test_nobody_is_called_any_more_once_it_is_closed(turns: Turns, loop: NotedLoop) -> None:
    driven = Driven()
    turns.call_at(monotonic() - 1, driven)
    turns.mark(driven)
    turns.close()
    assert loop.timers() == []
    loop.turn()
    assert (driven.turns, driven.times) == (0, 0)


def test_marks_at_full_speed_lose_nothing(turns: Turns, loop: NotedLoop) -> None:
    """Four threads mark, each connection once it has had its turn, while the loop goes on."""
    count = 500
    ready = [threading.Semaphore(0) for _ in range(4)]
    driven = [Driven(each.release) for each in ready]

    def mark(each: Driven, has_had_it: threading.Semaphore) -> None:
        for _ in range(count):
            turns.mark(each)
            assert has_had_it.acquire(timeout=20)

    threads = [threading.Thread(target=mark, args=pair) for pair in zip(driven, ready, strict=True)]
    for thread in threads:
        thread.start()
    while any(each.turns < count for each in driven):
        assert loop.soon or loop.asked.acquire(timeout=20)
        loop.turn()
    for thread in threads:
        join(thread)
    assert [each.turns for each in driven] == [count] * 4
