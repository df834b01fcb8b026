"""A moment on the monotonic clock that an operation of several steps must not pass."""

import math
import time
from typing import Self


class Deadline:
    """One object that carries a time limit through every step of an operation."""

    __slots__ = ("_at",)

    def __init__(self, at: float) -> None:
        self._at = at

    @classmethod
    def after(cls, seconds: float | None) -> Self:
        """Return the deadline that passes in so many seconds; None never passes."""
        return cls(math.inf if seconds is None else time.monotonic() + seconds)

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
        """Return the earlier of this deadline and one that passes in so many seconds."""
        return Deadline(min(self._at, time.monotonic() + seconds))
