"""A deadline is one moment that every step of an operation sees."""

import math
import select
import socket
import threading
from queue import SimpleQueue

import pytest
from still_clock import StillClock

from twinline.core import deadline
from twinline.core.deadline import LONGEST_SECONDS, Deadline


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StillClock:
    clock = StillClock()
    monkeypatch.setattr(deadline, "time", clock)
    return clock


def test_the_time_that_remains_shrinks_to_nothing(clock: StillClock) -> None:
    limit = Deadline.after(10)
    assert (limit.remaining(), limit.passed) == (10.0, False)
    clock.now += 9.5
    assert (limit.remaining(), limit.passed) == (0.5, False)
    clock.now += 0.5
    assert (limit.remaining(), limit.passed) == (0.0, True)
    clock.now += 100
    assert (limit.remaining(), limit.passed) == (0.0, True)


def test_no_limit_never_passes(clock: StillClock) -> None:
    limit = Deadline.after(None)
    clock.now += 1e12
    assert limit.remaining() is None
    assert not limit.passed


def test_no_time_at_all_has_passed_at_once(clock: StillClock) -> None:
    assert Deadline.after(0).passed


@pytest.mark.parametrize(("seconds", "sooner", "left"), [(10, 3, 3), (3, 10, 3), (None, 3, 3)])
def test_the_sooner_of_two(
    clock: StillClock, seconds: float | None, sooner: float, left: float
) -> None:
    limit = Deadline.after(seconds)
    assert limit.sooner(sooner).remaining() == left
    # The one it came from keeps its own time.
    assert limit.remaining() == seconds


@pytest.mark.parametrize("seconds", [LONGEST_SECONDS + 1, 1e10, 1e300])
def test_what_is_longer_than_any_wait_is_cut(clock: StillClock, seconds: float) -> None:
    for limit in (Deadline.after(seconds), Deadline.after(None).sooner(seconds)):
        assert limit.remaining() == LONGEST_SECONDS
        assert not limit.passed
    assert Deadline.after(3).sooner(seconds).remaining() == 3


def test_the_longest_wait_is_one_that_the_system_can_make() -> None:
    """Each way to wait refuses more than its own limit with an OverflowError."""
    seconds = Deadline.after(1e10).timeout()
    assert seconds is not None
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(seconds)
        theirs.send(b"x")
        readable = select.poll()
        readable.register(ours, select.POLLIN)
        assert readable.poll(seconds * 1000)
    queue: SimpleQueue[int] = SimpleQueue()
    queue.put(1)
    assert queue.get(timeout=seconds) == 1
    assert threading.Semaphore().acquire(timeout=seconds)


def test_infinity_is_no_limit_and_what_is_no_number_is_refused(clock: StillClock) -> None:
    assert Deadline.after(math.inf).remaining() is None
    assert Deadline.after(3).sooner(math.inf).remaining() == 3
    assert Deadline.after(-math.inf).passed
    for make in (Deadline.after, Deadline.after(3).sooner):
        with pytest.raises(ValueError, match="is a number of seconds"):
            make(math.nan)


def test_a_timeout_for_a_socket_is_never_zero() -> None:
    assert Deadline.after(None).timeout() is None
    left = Deadline.after(60).timeout()
    assert left is not None
    assert 59 < left <= 60
    with pytest.raises(TimeoutError):
        Deadline.after(0).timeout()
