"""The wall clock, in the protocol's unit."""

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Returns milliseconds since 1970-01-01 UTC."""

HOUR_MS = 3_600_000
"""An hour."""
DAY_MS = 24 * HOUR_MS
"""A day."""


def wall_clock_ms() -> int:
    """Return the time now in milliseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1_000_000
