"""A moment on the monotonic clock that an operation of several steps must not pass."""

import math
import time
from typing import Annotated, Final, Self

from pydantic import Field

LONGEST_SECONDS: Final = 20 * 86_400
"""Twenty days, the longest that anything waits: poll(2) counts milliseconds, in 31 bits."""
LONGEST_DAYS: Final = 36_500
"""A hundred years, the longest that anything is kept: times stay far within 53 bits of ms."""
Seconds = Annotated[float, Field(le=LONGEST_SECONDS, allow_inf_nan=False)]
"""A setting that is a time to wait; the model that has it says how short it may be."""


class Deadline:
    """One object that carries a time limit through every step of an operation."""

    __slots__ = ("_at",)

    def __init__(self, at: float) -> None:
        self._at = at

    @classmethod
    def after(cls, seconds: float | None) -> Self:
        """Return the deadline that passes in so many seconds; None never passes.

        A time longer than `LONGEST_SECONDS` is cut to that, except infinity, which is as None.

        Raises:
            ValueError: it is not a number.
        """
        return cls(math.inf if seconds is None else _moment(seconds))

    def remaining(self) -> float | None:
        """Return the seconds left, at least 0.0, or None when there is no limit."""
        if self._at == math.inf:
            return None
        return max(0.0, self._at - time.monotonic())

    def timeout(self) -> float | None:
        """Return the seconds left as a socket's timeout, or None when there is no limit.

        Raises:
            TimeoutError: none are left; to a socket 0 would mean "do not block".
        """
        seconds = self.remaining()
        if seconds == 0:
            raise TimeoutError("no time left")
        return seconds

    @property
    def passed(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._at

    def sooner(self, seconds: float) -> "Deadline":
        """Return the earlier of this deadline and one that passes in so many seconds.

        Raises:
            ValueError: it is not a number.
        """
        return Deadline(min(self._at, _moment(seconds)))


def _moment(seconds: float) -> float:
    if seconds <= LONGEST_SECONDS:
        return time.monotonic() + seconds
    if math.isnan(seconds):
        raise ValueError("a time to wait is a number of seconds, and this is none")
    return math.inf if seconds == math.inf else time.monotonic() + LONGEST_SECONDS
