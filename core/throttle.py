"""Slowing: repeated failures by key, and rates of events by key.

Each limit is arithmetic on a small state (`Failures`, `take_event`), which is also used where
several servers count together (`twinline.core.shared_limits`), and a class that keeps the states
of this process. Those keep a bounded number of keys, so that a flood of invented ones costs a
fixed amount of memory.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from math import ceil
from typing import Final, NamedTuple

from twinline.core.errors import RateLimited
from twinline.core.locks import new_lock

MAX_KEYS: Final = 20_000
"""The most keys that one of these keeps."""
LONGEST_PAUSE_SECONDS: Final = 60.0
"""The longest pause after failures, and the longest that anybody is told to wait for a turn."""
FORGIVEN_AFTER_SECONDS: Final = 900.0
HOUR_SECONDS: Final = 3600.0
FUTURE_SECONDS: Final = 60.0
"""How far ahead a time may be that another server's clock has noted: twice what clocks may be off
by. A later one says nothing."""
_MOST_DOUBLINGS: Final = 6  # 2**6 s is beyond the longest pause


class Failures(NamedTuple):
    """What is known of the failures of one key.

    Attributes:
        number: how many there are, as far as they count.
        last: when the last one was, in s.
    """

    number: int
    last: float


def pause_of(failures: Failures | None, now: float, allowed: int) -> float:
    """Return for how many seconds from now nothing may be tried; 0 or less for none."""
    if failures is None or failures.number < allowed or failures.last > now + FUTURE_SECONDS:
        return 0.0
    doublings = min(failures.number - allowed, _MOST_DOUBLINGS)
    return failures.last + min(LONGEST_PAUSE_SECONDS, 2.0**doublings) - now


def one_more(failures: Failures | None, now: float, allowed: int) -> Failures:
    """Return what is known after another failure.

    Time does not run back, whichever clock it comes from: who goes to and fro between servers
    whose clocks differ shortens no pause by it.
    """
    if failures is None or now - failures.last > FORGIVEN_AFTER_SECONDS:
        return Failures(1, now)
    number, last = failures
    if now < last <= now + FUTURE_SECONDS:
        now = last
    return Failures(min(number, allowed + _MOST_DOUBLINGS - 1) + 1, now)


def take_event(events: deque[float], now: float, per_hour: int) -> float:
    """Count an event if there may be one more in the hour, and forget those of before.

    Args:
        events: the times of those within the last hour, in s, by rising time; it is changed.
        now: in s.
        per_hour: how many there may be.

    Returns:
        How many seconds to wait; 0 where the event was counted.
    """
    while events and now - events[0] >= HOUR_SECONDS:
        events.popleft()
    while events and events[-1] > now + FUTURE_SECONDS:
        events.pop()
    if len(events) >= per_hour:
        return events[0] + HOUR_SECONDS - now
    events.append(max(now, events[-1]) if events else now)
    return 0.0


class FailureThrottle:
    """Lets a number of failures pass, then asks for pauses of 1 s, 2 s, 4 s ... 60 s.

    A success, or a quarter of an hour without a failure, clears the key. When there are too many
    keys, those with the fewest failures are forgotten first: whoever wants a count forgotten has
    to make as many failures with every other key.

    Attributes:
        allowed: so many failures pass; it may be replaced at any time.
    """

    def __init__(self, allowed: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.allowed = allowed
        self._clock = clock
        self._lock = new_lock("failure throttle")
        # Guarded by _lock: failures by key; and by failures, as far as they count, the keys with
        # the time of their last one, the longest ago first.
        self._failures: dict[Hashable, int] = {}
        self._last: dict[int, OrderedDict[Hashable, float]] = {}

    def check(self, key: Hashable) -> None:
        """Return if an attempt is allowed now.

        Raises:
            RateLimited: with the time to wait.
        """
        with self._lock:
            failures = self._failures.get(key, 0)
            if failures < self.allowed:
                return
            last = self._last[failures][key]
        wait = pause_of(Failures(failures, last), self._clock(), self.allowed)
        if wait > 0:
            raise slowed(wait)

    def failed(self, key: Hashable) -> None:
        """Count a failure."""
        now = self._clock()
        with self._lock:
            failures, last = one_more(self._forget(key), now, self.allowed)
            if len(self._failures) >= MAX_KEYS:
                self._make_room(now)
            self._failures[key] = failures
            self._last.setdefault(failures, OrderedDict())[key] = last

    def succeeded(self, key: Hashable) -> None:
        """Clear a key."""
        with self._lock:
            self._forget(key)

    def _forget(self, key: Hashable) -> Failures | None:
        failures = self._failures.pop(key, None)
        if failures is None:
            return None
        last = self._last[failures].pop(key)
        if not self._last[failures]:
            del self._last[failures]
        return Failures(failures, last)

    def _make_room(self, now: float) -> None:
        """Forget a key that is forgiven, or else one with the fewest failures."""
        oldest = {failures: next(iter(keys.items())) for failures, keys in self._last.items()}
        forgiven = (key for key, last in oldest.values() if now - last > FORGIVEN_AFTER_SECONDS)
        self._forget(next(forgiven, oldest[min(oldest)][0]))


class RateThrottle:
    """A token bucket for each key: so many events a second, and so many at once."""

    def __init__(
        self,
        per_second: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        burst: float = 1.0,
        of: str = "messages",
    ) -> None:
        """Begin with nothing counted.

        Args:
            per_second: so many a second.
            clock: seconds that never leap.
            burst: so many at once; a second's worth in any case.
            of: what is counted, for the refusal.
        """
        self._rate = per_second
        self._least_burst = burst
        self._burst = max(burst, per_second)
        self._of = of
        self._clock = clock
        self._lock = new_lock("rate throttle")
        # key -> (tokens, time they were counted); guarded by _lock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def change(self, per_second: float) -> None:
        """Allow so many a second from now on."""
        with self._lock:
            self._rate, self._burst = per_second, max(self._least_burst, per_second)

    def take(self, key: str) -> None:
        """Count an event.

        Raises:
            RateLimited: there were too many; with the time to wait.
        """
        now = self._clock()
        with self._lock:
            rate = self._rate
            tokens, counted = self._buckets.pop(key, (self._burst, now))
            tokens = min(self._burst, tokens + (now - counted) * rate)
            allowed = tokens >= 1.0
            self._buckets[key] = (tokens - 1.0 if allowed else tokens, now)
            if len(self._buckets) > MAX_KEYS:
                self._buckets.popitem(last=False)
        if not allowed:
            wait = (1.0 - tokens) / rate
            raise too_many(f"too many {self._of}; try again later", wait)


class HourlyThrottle:
    """So many events an hour for each key: in no hour, wherever it begins, are there more.

    Attributes:
        per_hour: how many; it may be replaced at any time.
    """

    def __init__(self, per_hour: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_hour = per_hour
        self._clock = clock
        self._lock = new_lock("hourly throttle")
        # key -> times of its events within the last hour; guarded by _lock
        self._events: OrderedDict[str, deque[float]] = OrderedDict()

    def take(self, key: str, refusal: str) -> None:
        """Count an event.

        Args:
            key: whose event it is.
            refusal: a sentence for a person.

        Raises:
            RateLimited: there were too many; with the time to wait.
        """
        now = self._clock()
        with self._lock:
            events = self._events.setdefault(key, deque())
            self._events.move_to_end(key)
            wait = take_event(events, now, self.per_hour)
            if len(self._events) > MAX_KEYS:
                self._events.popitem(last=False)
        if wait > 0:
            raise too_many(refusal, wait)


def too_many(refusal: str, wait: float) -> RateLimited:
    """Return the refusal of an event, with the seconds to wait."""
    return RateLimited(refusal, retry_after_ms=max(1, round(wait * 1000)))


def slowed(wait: float) -> RateLimited:
    """Return the refusal of a login, with the seconds to wait: a minute at most."""
    # Rounded up, but for what floats add: whoever comes then is not too early.
    milliseconds = ceil(round(min(wait, LONGEST_PAUSE_SECONDS) * 1000, 3))
    return RateLimited(
        "too many failed logins; try again later", retry_after_ms=max(1, milliseconds)
    )
