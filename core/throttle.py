"""Slowing: repeated failures by key, and a rate of events by key.

Both keep a bounded number of keys and forget the one that was seen longest ago, so that a flood
of invented names costs a fixed amount of memory.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from twinline.core.errors import RateLimited
from twinline.core.locks import new_lock

MAX_KEYS: Final = 20_000
LONGEST_PAUSE_SECONDS: Final = 60.0
FORGIVEN_AFTER_SECONDS: Final = 900.0


class FailureThrottle:
    """Lets a number of failures pass, then asks for pauses of 1 s, 2 s, 4 s ... 60 s.

    A success, or a quarter of an hour without a failure, clears the key.
    """

    def __init__(self, allowed: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowed = allowed
        self._clock = clock
        self._lock = new_lock("failure throttle")
        # key -> (failures, time of the last one); guarded by _lock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def check(self, key: str) -> None:
        """Return if an attempt is allowed now.

        Raises:
            RateLimited: with the time to wait.
        """
        with self._lock:
            failures, last = self._failures.get(key, (0, 0.0))
        if failures < self._allowed:
            return
        pause = min(LONGEST_PAUSE_SECONDS, 2.0 ** min(failures - self._allowed, 10))
        wait = last + pause - self._clock()
        if wait > 0:
            raise RateLimited(
                "too many failed logins; try again later",
                retry_after_ms=max(1, round(wait * 1000)),
            )

    def failed(self, key: str) -> None:
        """Count a failure."""
        now = self._clock()
        with self._lock:
            failures, last = self._failures.pop(key, (0, now))
            if now - last > FORGIVEN_AFTER_SECONDS:
                failures = 0
            self._failures[key] = (failures + 1, now)
            if len(self._failures) > MAX_KEYS:
                self._failures.popitem(last=False)

    def succeeded(self, key: str) -> None:
        """Clear a key."""
        with self._lock:
            self._failures.pop(key, None)


class RateThrottle:
    """A token bucket for each key: so many events a second, and a second's worth at once."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_second
        self._burst = max(1.0, per_second)
        self._clock = clock
        self._lock = new_lock("rate throttle")
        # key -> (tokens, time they were counted); guarded by _lock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> None:
        """Count an event.

        Raises:
            RateLimited: there were too many; with the time to wait.
        """
        now = self._clock()
        with self._lock:
            tokens, counted = self._buckets.pop(key, (self._burst, now))
            tokens = min(self._burst, tokens + (now - counted) * self._rate)
            allowed = tokens >= 1.0
            self._buckets[key] = (tokens - 1.0 if allowed else tokens, now)
            if len(self._buckets) > MAX_KEYS:
                self._buckets.popitem(last=False)
        if not allowed:
            wait = (1.0 - tokens) / self._rate
            raise RateLimited(
                "too many messages; try again later", retry_after_ms=max(1, round(wait * 1000))
            )
