"""A sorted set of names that stays cheap to change at a million: a list of short sorted lists.

One sorted list would move half of itself on every insert. Cut into chunks of at most 512 names,
an insert moves a few hundred pointers and a seek is two binary searches (the idea of the
sortedcontainers package, Grant Jenks 2014).

It has no lock of its own: the caller's guards it. `SortedNames.chunk_from` copies one chunk, so
that a scan over all names holds that lock for one short copy at a time.
"""

from bisect import bisect_left, insort
from typing import Final

CHUNK_NAMES: Final = 512
"""The most names in one chunk, and so the most that one copy takes."""


class SortedNames:
    """Distinct names by rising code points."""

    __slots__ = ("_chunks", "_lasts", "_length")

    def __init__(self) -> None:
        self._chunks: list[list[str]] = []  # none of them empty
        self._lasts: list[str] = []  # the last name of each chunk
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, name: str) -> None:
        """Add a name that is not in the set."""
        self._length += 1
        if not self._chunks:
            self._chunks.append([name])
            self._lasts.append(name)
            return
        index = min(bisect_left(self._lasts, name), len(self._lasts) - 1)
        chunk = self._chunks[index]
        insort(chunk, name)
        if len(chunk) > CHUNK_NAMES:
            middle = len(chunk) // 2
            self._replace(index, 1, chunk[:middle], chunk[middle:])
        else:
            self._lasts[index] = chunk[-1]

    def remove(self, name: str) -> None:
        """Remove a name.

        Raises:
            KeyError: it is not in the set.
        """
        index = bisect_left(self._lasts, name)
        chunk = self._chunks[index] if index < len(self._chunks) else []
        place = bisect_left(chunk, name)
        if place == len(chunk) or chunk[place] != name:
            raise KeyError(name)
        self._length -= 1
        del chunk[place]
        if not chunk:
            self._replace(index, 1)
            return
        self._lasts[index] = chunk[-1]
        # A chunk that ran low joins a neighbour with room: otherwise a scan of what many
        # removals left would take the lock once for every few names.
        left = max(0, index - 1)
        pair = self._chunks[left : left + 2]
        if len(chunk) < CHUNK_NAMES // 4 and len(pair) == 2:
            joined = pair[0] + pair[1]
            if len(joined) <= CHUNK_NAMES:
                self._replace(left, 2, joined)

    def chunk_from(self, start: str) -> list[str]:
        """Return a copy of the first names at or above ``start``, at most one chunk of them.

        To go on, start from the last one and a zero character: the next possible name.

        Returns:
            The names by rising code points; empty when there are none.
        """
        index = bisect_left(self._lasts, start)
        if index == len(self._chunks):
            return []
        chunk = self._chunks[index]
        return chunk[bisect_left(chunk, start) :]

    def _replace(self, index: int, count: int, *chunks: list[str]) -> None:
        self._chunks[index : index + count] = chunks
        self._lasts[index : index + count] = [chunk[-1] for chunk in chunks]
