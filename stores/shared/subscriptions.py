"""Wakes by a key, for stores whose state is not in this process."""

from collections.abc import Hashable
from typing import Generic, TypeVar

from twinline.core.locks import new_lock
from twinline.core.store import Unsubscribe
from twinline.core.waiting import Wake

Key = TypeVar("Key", bound=Hashable)


class Subscriptions(Generic[Key]):
    """Wakes by key, under a lock of their own; the caller calls them, with no lock held."""

    def __init__(self, name: str) -> None:
        self._lock = new_lock(name)
        self._wakes: dict[Key, dict[object, Wake]] = {}  # guarded by _lock

    def add(self, key: Key, wake: Wake) -> Unsubscribe:
        """Have ``wake`` called whenever this key is woken, until it is unsubscribed."""
        mine = object()
        with self._lock:
            wakes = self._wakes.setdefault(key, {})
            wakes[mine] = wake

        def unsubscribe() -> None:
            with self._lock:
                wakes.pop(mine, None)
                # Another may have come under the same key since this one was dropped.
                if not wakes and self._wakes.get(key) is wakes:
                    del self._wakes[key]

        return unsubscribe

    def wakes(self, key: Key) -> tuple[Wake, ...]:
        """Return the wakes of a key."""
        with self._lock:
            return tuple(self._wakes.get(key, {}).values())

    def keys(self) -> list[Key]:
        """Return the keys that are subscribed to at this moment."""
        with self._lock:
            return list(self._wakes)

    def end(self, key: Key) -> tuple[Wake, ...]:
        """Drop the wakes of a key, and return them: to be called for the last time."""
        with self._lock:
            return tuple(self._wakes.pop(key, {}).values())

    def discard(self, key: Key) -> None:
        """Drop the wakes of a key: what they were to wait for was gone when they came."""
        with self._lock:
            self._wakes.pop(key, None)
