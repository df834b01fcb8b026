"""The wall clock, in the protocol's unit, and one that does not follow its leaps at once."""

import time
from collections.abc import Callable
from typing import Final

Clock = Callable[[], int]
"""Returns milliseconds since 1970-01-01 UTC."""

HOUR_MS = 3_600_000
"""An hour."""
DAY_MS = 24 * HOUR_MS
"""A day."""


def wall_clock_ms() -> int:
    """Return the time now in milliseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1_000_000


_STEP_MS: Final = 60_000  # a smaller step of the clock is followed at once
_BELIEVED_AFTER_MS: Final = 10 * 60_000


class SteadyClock:
    """The wall clock, but a leap of more than a minute is believed once it has lasted ten.

    For what ends by its age: a clock that is wrong for a while must not end it. Until a leap is
    believed, time goes on from before it. Threads may share a clock.
    """

    def __init__(
        self,
        wall: Clock = wall_clock_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Believe the wall clock as it is now.

        Args:
            wall: milliseconds since 1970 UTC.
            monotonic: seconds that never leap.
        """
        self._wall = wall
        self._monotonic = monotonic
        # What the wall clock is ahead of the monotonic one, in ms: believed; and since a leap,
        # with the monotonic time at which it was first seen. Each is replaced whole.
        self._ahead = wall() - round(monotonic() * 1000)
        self._leap: tuple[int, int] | None = None

    def __call__(self) -> int:
        """Return the time now in milliseconds since 1970-01-01 UTC."""
        elapsed = round(self._monotonic() * 1000)
        ahead = self._wall() - elapsed
        if abs(ahead - self._ahead) <= _STEP_MS:
            self._ahead, self._leap = ahead, None
        else:
            leap = self._leap
            if leap is None or abs(ahead - leap[0]) > _STEP_MS:
                self._leap = (ahead, elapsed)
            elif elapsed - leap[1] >= _BELIEVED_AFTER_MS:
                self._ahead, self._leap = ahead, None
        return elapsed + self._ahead
