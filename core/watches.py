"""How many of an account's watches wait for mail at once: each message to it wakes them all."""

from typing import Final

from twinline.core.errors import Busy
from twinline.core.locks import new_lock
from twinline.core.store import Unsubscribe

_RETRY_AFTER_MS: Final = 5_000


class Watches:
    """The watches that wait, by account; no account has more than a limit."""

    def __init__(self, most: int) -> None:
        """Begin with none.

        Args:
            most: so many of one account may wait.
        """
        self._most = most
        self._lock = new_lock("watches")
        self._waiting: dict[str, set[object]] = {}  # by account id; guarded by _lock

    def enter(self, account_id: str) -> Unsubscribe:
        """Count one more.

        Returns:
            What counts it no more; harmless when called twice.

        Raises:
            Busy: as many wait as may.
        """
        mine = object()
        with self._lock:
            waiting = self._waiting.setdefault(account_id, set())
            if len(waiting) >= self._most:
                raise Busy(
                    f"{self._most} connections of this account wait for mail already, and no more "
                    "may; close one of them",
                    retry_after_ms=_RETRY_AFTER_MS,
                )
            waiting.add(mine)

        def leave() -> None:
            with self._lock:
                waiting.discard(mine)
                if not waiting and self._waiting.get(account_id) is waiting:
                    del self._waiting[account_id]

        return leave
