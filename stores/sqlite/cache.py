"""A bounded read-through cache in front of a table that never returns what is outdated.

Such a cache can be wrong in two ways: it can keep what has changed, or be given, by a slow reader,
what was read before the change. So an entry is invalidated before its change is committed, and
until caching is resumed nothing is cached and the entry is read from the table; and what was read
by a reader that began before that is not cached.
"""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from twinline.core.locks import new_lock

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class ReadThroughCache(Generic[Key, Value]):
    """At most so many entries by key; the oldest goes first."""

    def __init__(self, name: str, most: int) -> None:
        self._most = most
        self._lock = new_lock(name)
        # All guarded by _lock.
        self._entries: dict[Key, Value] = {}
        self._suspended = False
        self._changes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key, read: Callable[[], Value | None]) -> Value | None:
        """Return what is cached for a key, or else what is read; None is not cached."""
        with self._lock:
            cached = self._entries.get(key)
            changes = self._changes
        if cached is not None:
            return cached
        value = read()
        if value is None:
            return None
        with self._lock:
            if not self._suspended and self._changes == changes:
                self._entries[key] = value
                if len(self._entries) > self._most:
                    del self._entries[next(iter(self._entries))]
        return value

    def invalidate(self, key: Key) -> None:
        """Drop the entry of a key that is about to change, and cache nothing until `resume`."""
        with self._lock:
            self._entries.pop(key, None)
            self._suspended = True

    def resume(self) -> None:
        """Cache again: what was about to change is committed, or rolled back."""
        with self._lock:
            self._suspended = False
            self._changes += 1
