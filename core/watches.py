"""The watches that wait, by account: how many at once, and what ends them all.

Each message to an account wakes all of its watches, so their number is bounded.
"""

from typing import Final

from twinline.core.errors import Busy
from twinline.core.locks import new_lock
from twinline.core.waiting import Wakeable, wake_all

_RETRY_AFTER_MS: Final = 5_000


class Watches:
    """The watches that wait; no account has more than a limit, and they can be ended together.

    Attributes:
        most: so many of one account may wait; it may be replaced at any time.
        ended: whether `end` was called; watches that enter later are woken at once.
    """

    def __init__(self, most: int) -> None:
        """Begin with none.

        Args:
            most: so many of one account may wait.
        """
        self.ended = False  # written under _lock
        self.most = most
        self._lock = new_lock("watches")
        # By account id; guarded by _lock. Tuples, for most have one and a set takes four times as
        # much; each is as short as the limit is low.
        self._waiting: dict[str, tuple[Wakeable, ...]] = {}

    def enter(self, account_id: str, watch: Wakeable) -> None:
        """Count one more, and let `end` wake it from now on, or at once if it was called already.

        Raises:
            Busy: as many wait as may.
        """
        with self._lock:
            waiting = self._waiting.get(account_id, ())
            if len(waiting) >= self.most:
                raise Busy(
                    f"{self.most} connections of this account wait for mail already, and no more "
                    "may; close one of them",
                    retry_after_ms=_RETRY_AFTER_MS,
                )
            self._waiting[account_id] = (*waiting, watch)
            ended = self.ended
        if ended:
            wake_all((watch.wake,))

    def leave(self, account_id: str, watch: Wakeable) -> None:
        """Count it no more; harmless when repeated."""
        with self._lock:
            waiting = without(watch, self._waiting.get(account_id, ()))
            if waiting:
                self._waiting[account_id] = waiting
            else:
                self._waiting.pop(account_id, None)

    def end(self) -> None:
        """Wake every watch, now and from now on."""
        with self._lock:
            self.ended = True
            waiting = tuple(self._waiting.values())
        wake_all(watch.wake for watches in waiting for watch in watches)


def without(watch: Wakeable, watches: tuple[Wakeable, ...]) -> tuple[Wakeable, ...]:
    """Return what is left of some watches when one is taken out."""
    return tuple(other for other in watches if other is not watch)
