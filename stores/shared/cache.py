"""A bounded cache of what an engine was asked for, which knows of changes by notices.

It can be wrong in three ways, each with its remedy:

1. It keeps what was changed here. So an entry is not used from before a change is made until that
   is done (`RecentCache.changing`), and is dropped then.
2. It keeps what was changed by another server. Its notice drops the entry (`forget`), and where
   notices were missed for a while, all go (`clear`). Whether notices are heard at all, the caller
   knows, and says so (``trusted``).
3. It is given, by a slow reader, what was read before the change. So whatever drops an entry also
   keeps those who are reading it from caching what they read.

Entries belong to groups, such as the sessions of one account, and these are what changes.
"""

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from twinline.core.locks import new_lock

Key = TypeVar("Key", bound=Hashable)
Group = TypeVar("Group", bound=Hashable)
Value = TypeVar("Value")


class _Read:
    """A read that is under way."""

    __slots__ = ("outdated",)

    def __init__(self) -> None:
        self.outdated = False


class RecentCache(Generic[Group, Key, Value]):
    """At most so many entries by group and key, none older than so many seconds."""

    def __init__(
        self,
        name: str,
        *,
        most: int,
        keep_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep nothing yet.

        Args:
            name: what is kept, for the lock's name.
            most: the most entries; the first to come is the first to go.
            keep_seconds: how old an entry may be, from the moment it began to be read.
            clock: in seconds.
        """
        self._most = most
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._lock = new_lock(name)
        # All guarded by _lock. Entries with the time at which they began to be read, the first to
        # come first; the keys of each group; who is reading in which; and which are changing.
        self._entries: dict[tuple[Group, Key], tuple[Value, float]] = {}
        self._keys: dict[Group, set[Key]] = {}
        self._reads: dict[Group, list[_Read]] = {}
        self._changing: Counter[Group] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    def get(
        self, group: Group, key: Key, read: Callable[[], Value | None], *, trusted: bool = True
    ) -> Value | None:
        """Return what is cached, or else what is read; None is not cached.

        Args:
            group: the group that the key belongs to.
            key: what is asked for.
            read: asks the engine; called with no lock held.
            trusted: whether the entries may be used now.
        """
        mine = _Read()
        with self._lock:
            begun = self._clock()
            entry = self._entries.get((group, key))
            if (
                trusted
                and entry is not None
                and begun - entry[1] < self._keep_seconds
                and group not in self._changing
            ):
                return entry[0]
            self._reads.setdefault(group, []).append(mine)
        value: Value | None = None
        try:
            value = read()
        finally:
            with self._lock:
                reads = self._reads[group]
                reads.remove(mine)
                if not reads:
                    del self._reads[group]
                if value is not None and not mine.outdated and group not in self._changing:
                    self._keep(group, key, value, begun)
        return value

    def amend(self, group: Group, key: Key, change: Callable[[Value], Value]) -> None:
        """Change an entry that is there, as the engine's has been changed by this server."""
        with self._lock:
            entry = self._entries.get((group, key))
            if entry is not None:
                self._entries[group, key] = change(entry[0]), entry[1]

    @contextmanager
    def changing(self, group: Group) -> Iterator[None]:
        """Use and cache no entry of a group in the block, and drop those of before."""
        with self._lock:
            self._changing[group] += 1
        try:
            yield
        finally:
            with self._lock:
                self._changing[group] -= 1
                if not self._changing[group]:
                    del self._changing[group]
                self._forget(group)

    def forget(self, groups: Iterable[Group]) -> None:
        """Drop the entries of groups that have changed, and what is being read of them."""
        for group in groups:
            with self._lock:
                self._forget(group)

    def clear(self) -> None:
        """Drop all entries, and what is being read."""
        with self._lock:
            self._entries.clear()
            self._keys.clear()
            for reads in self._reads.values():
                for read in reads:
                    read.outdated = True

    def _keep(self, group: Group, key: Key, value: Value, begun: float) -> None:
        self._entries.pop((group, key), None)
        self._entries[group, key] = value, begun
        self._keys.setdefault(group, set()).add(key)
        if len(self._entries) > self._most:
            self._drop(*next(iter(self._entries)))

    def _drop(self, group: Group, key: Key) -> None:
        del self._entries[group, key]
        keys = self._keys[group]
        keys.discard(key)
        if not keys:
            del self._keys[group]

    def _forget(self, group: Group) -> None:
        for key in self._keys.pop(group, ()):
            del self._entries[group, key]
        for read in self._reads.get(group, ()):
            read.outdated = True
