"""What a store read before, for as long as it holds: a bounded cache that never shows the past.

A cache in front of a table can be wrong in two ways: it can keep what has changed, or be given,
by a slow reader, what had been read before the change. So a change is announced before it is
committed, and until it is over nothing is remembered and the changed entry is read from the
table; and a reader that began before the change was over has its find forgotten.
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
        self._known: dict[Key, Value] = {}
        self._changing = False
        self._changes = 0

    def __len__(self) -> int:
        return len(self._known)

    def find(self, key: Key, read: Callable[[], Value | None]) -> Value | None:
        """Return what is remembered for a key, or else what is read; None is not remembered."""
        with self._lock:
            known = self._known.get(key)
            changes = self._changes
        if known is not None:
            return known
        value = read()
        if value is None:
            return None
        with self._lock:
            if not self._changing and self._changes == changes:
                self._known[key] = value
                if len(self._known) > self._most:
                    del self._known[next(iter(self._known))]
        return value

    def change(self, key: Key) -> None:
        """Say that the entry of a key is about to change."""
        with self._lock:
            self._known.pop(key, None)
            self._changing = True

    def changed(self) -> None:
        """Say that what was about to change has changed, or has not."""
        with self._lock:
            self._changing = False
            self._changes += 1
