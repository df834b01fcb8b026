"""A deadline is one moment that every step of an operation sees."""

import pytest

from twinline.core import deadline
from twinline.core.deadline import Deadline


class Clock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(deadline, "time", clock)
    return clock


def test_the_time_that_remains_shrinks_to_nothing(clock: Clock) -> None:
    limit = Deadline.after(10)
    assert (limit.remaining(), limit.passed) == (10.0, False)
    clock.now += 9.5
    assert (limit.remaining(), limit.passed) == (0.5, False)
    clock.now += 0.5
    assert (limit.remaining(), limit.passed) == (0.0, True)
    clock.now += 100
    assert (limit.remaining(), limit.passed) == (0.0, True)


def test_no_limit_never_passes(clock: Clock) -> None:
    limit = Deadline.after(None)
    clock.now += 1e12
    assert limit.remaining() is None
    assert not limit.passed


def test_no_time_at_all_has_passed_at_once(clock: Clock) -> None:
    assert Deadline.after(0).passed


@pytest.mark.parametrize(("seconds", "sooner", "left"), [(10, 3, 3), (3, 10, 3), (None, 3, 3)])
def test_the_sooner_of_two(clock: Clock, seconds: float | None, sooner: float, left: float) -> None:
    limit = Deadline.after(seconds)
    assert limit.sooner(sooner).remaining() == left
    # The one it came from keeps its own time.
    assert limit.remaining() == seconds


def test_a_timeout_for_a_socket_is_never_zero() -> None:
    assert Deadline.after(None).timeout() is None
    left = Deadline.after(60).timeout()
    assert left is not None
    assert 59 < left <= 60
    with pytest.raises(TimeoutError):
        Deadline.after(0).timeout()
