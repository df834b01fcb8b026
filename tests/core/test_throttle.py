"""Slowing: pauses that grow after failures, rates of sends, and a bounded memory of keys."""

import pytest

from twinline.core import throttle
from twinline.core.errors import RateLimited
from twinline.core.throttle import FailureThrottle, RateThrottle


class Seconds:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def pause_of(slowed: FailureThrottle, key: str) -> int:
    with pytest.raises(RateLimited) as refused:
        slowed.check(key)
    assert refused.value.retry_after_ms is not None
    return refused.value.retry_after_ms


def test_pauses_grow_and_stop_growing() -> None:
    clock = Seconds()
    slowed = FailureThrottle(3, clock)
    for _ in range(3):
        slowed.check("ann")
        slowed.failed("ann")
    pauses = []
    for _ in range(8):
        pauses.append(pause_of(slowed, "ann"))
        clock.now += pauses[-1] / 1000
        slowed.check("ann")
        slowed.failed("ann")
    assert pauses == [1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]
    slowed.check("bob")


def test_a_success_and_time_clear_a_key() -> None:
    clock = Seconds()
    slowed = FailureThrottle(1, clock)
    slowed.failed("ann")
    slowed.failed("bob")
    slowed.succeeded("ann")
    slowed.check("ann")
    pause_of(slowed, "bob")
    clock.now += throttle.FORGIVEN_AFTER_SECONDS + 1
    slowed.failed("bob")
    assert pause_of(slowed, "bob") == 1000


def test_a_flood_of_names_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "MAX_KEYS", 10)
    slowed = FailureThrottle(1, Seconds())
    rate = RateThrottle(1, Seconds())
    for number in range(50):
        slowed.failed(f"user{number}")
        rate.take(f"user{number}")
    pause_of(slowed, "user49")
    slowed.check("user0")
    with pytest.raises(RateLimited):
        rate.take("user49")
    rate.take("user0")


def test_a_burst_may_be_longer_than_a_second() -> None:
    clock = Seconds()
    rate = RateThrottle(0.5, clock, burst=3, of="looks")
    for _ in range(3):
        rate.take("ann")
    with pytest.raises(RateLimited, match="too many looks") as refused:
        rate.take("ann")
    assert refused.value.retry_after_ms == 2_000
    clock.now += 2
    rate.take("ann")
    rate.change(0.1)
    clock.now += 1_000
    for _ in range(3):
        rate.take("ann")


def test_a_rate_lets_a_burst_through_and_then_the_rate() -> None:
    clock = Seconds()
    rate = RateThrottle(2, clock)
    rate.take("ann")
    rate.take("ann")
    with pytest.raises(RateLimited) as refused:
        rate.take("ann")
    assert refused.value.retry_after_ms == 500
    rate.take("bob")
    clock.now += 0.5
    rate.take("ann")
    clock.now += 100
    rate.take("ann")
    rate.take("ann")
    with pytest.raises(RateLimited):
        rate.take("ann")
