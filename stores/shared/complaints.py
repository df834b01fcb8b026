"""Log lines that are not repeated for every request: a damaged page is met by all who need it."""

import logging
import time
from collections.abc import Callable
from typing import Final

from twinline.core.locks import new_lock

SECONDS: Final = 10.0
"""How far two lines of one kind are apart."""


class Complaints:
    """Complaints of one kind: one at a time, with how many were left out since the last."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._lock = new_lock("complaints")
        self._next = 0.0  # when the next line may be written; guarded by _lock
        self._left_out = 0  # guarded by _lock

    def error(self, text: str, reason: object) -> None:
        """Log an error, unless one was logged just now.

        Args:
            text: with one ``%s`` for the reason.
            reason: what was raised.
        """
        now = self._clock()
        with self._lock:
            if now < self._next:
                self._left_out += 1
                return
            self._next = now + SECONDS
            left_out, self._left_out = self._left_out, 0
        more = f" (and {left_out:,} times more before this)" if left_out else ""
        self._log.error(text + "%s", reason, more)
