"""Messages in the order in which they came, found by seq and by the account at the other side.

Nothing here takes a lock: that of the mailbox guards it, and the mailbox's rule for interruptions
holds: what belongs together is assigned without a call between.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

Kept = tuple[str, str, str, str, int, int]
"""A message: its id, the id and the name of the account at the other side, the body, when it was
sent, and its ``n``. A plain tuple, for Python's garbage collector looks at a plain tuple of texts
and numbers once and then never again, but at a named one for as long as it lives."""
Entry = tuple[int, Kept]
"""A message and its seq."""
_DEAD_SEQS: Final = 64  # fewer than this are not worth a move of the others


class Removal(NamedTuple):
    """What a log's lists are without some of its messages.

    Attributes:
        start: the index in the list of seqs from which it changes.
        end: up to which.
        left: what stays between the two.
        peers: the lists by peer.
    """

    start: int
    end: int
    left: list[int]
    peers: defaultdict[str, list[int]]


class Log:
    """Messages by seq.

    They are in a dictionary; beside it is the sorted list of their seqs, so a page is one binary
    search and one look-up a message, whatever was deleted before it. Each *peer*, the account at
    the other side, has such a list too, so a page of a conversation costs the same. Messages are
    kept as what they came as, a quarter of what the protocol's models take.
    """

    __slots__ = ("_head", "_messages", "_peers", "_seqs")

    def __init__(self) -> None:
        self._messages: dict[int, Kept] = {}
        # Seqs below index _head belong to messages that are gone: cutting the list whenever some
        # go would move all the others, so it is cut when half of it is dead.
        self._seqs: list[int] = []
        self._head = 0
        # By account id. Each list has seqs of messages that are gone in front of the others, those
        # below the first that is there, until the list of all is cut.
        self._peers: defaultdict[str, list[int]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def _first(self) -> int | None:
        """The first seq that is there."""
        return self._seqs[self._head] if self._head < len(self._seqs) else None

    def after(self, seq: int, count: int) -> list[Entry]:
        """Return the first messages above a seq, at most ``count``."""
        start = bisect_right(self._seqs, seq, self._head)
        return [(found, self._messages[found]) for found in self._seqs[start : start + count]]

    def before(self, seq: int | None, count: int, aged: int | None = None) -> list[Entry]:
        """Return the last messages below a seq, the newest first, at most ``count``.

        Args:
            seq: None: beyond the last one.
            count: how many.
            aged: leave out those that were sent at this time or earlier; None: none.
        """
        return self._backwards(self._seqs, self._head, seq, count, aged)

    def of_peer(
        self, peer_id: str, seq: int | None, count: int, aged: int | None = None
    ) -> list[Entry]:
        """Return the same of one peer's."""
        seqs, first = self._peers.get(peer_id), self._first
        if seqs is None or first is None:
            return []
        return self._backwards(seqs, bisect_left(seqs, first), seq, count, aged)

    def _backwards(
        self, seqs: list[int], start: int, before: int | None, count: int, aged: int | None
    ) -> list[Entry]:
        end = len(seqs) if before is None else bisect_left(seqs, before, start)
        if aged is None:
            start = max(start, end - count)
            return [(seq, self._messages[seq]) for seq in reversed(seqs[start:end])]
        messages = ((seqs[at], self._messages[seqs[at]]) for at in range(end - 1, start - 1, -1))
        return list(islice((entry for entry in messages if entry[1][4] > aged), count))

    def peers(self) -> Iterator[tuple[str, int]]:
        """Return the account id of each peer, and the seq of its last message."""
        first = self._first
        if first is not None:
            for peer_id, seqs in self._peers.items():
                if seqs[-1] >= first:
                    yield peer_id, seqs[-1]

    def named(self, username: str) -> list[str]:
        """Return the account ids of the peers of one name."""
        return [each for each, last in self.peers() if self._messages[last][2] == username]

    def count_of_peer(self, peer_id: str, after: int) -> int:
        """Return how many messages of a peer are above a seq, the first one's or a higher one."""
        seqs = self._peers.get(peer_id, ())
        return len(seqs) - bisect_right(seqs, after)

    def entries(self) -> list[Entry]:
        """Return all messages, by rising seq."""
        return list(self._messages.items())

    def without(self, gone: set[int]) -> Removal:
        """Return what the lists are without some messages, which are there; change nothing."""
        start, end, left = _without(self._seqs, self._head, gone)
        first = self._seqs[self._head]
        peers = self._peers.copy()
        for peer_id in {self._messages[seq][1] for seq in gone}:
            seqs = peers.pop(peer_id)
            alive = bisect_left(seqs, first)
            its_start, its_end, its_left = _without(seqs, alive, gone)
            if others := [*seqs[alive:its_start], *its_left, *seqs[its_end:]]:
                peers[peer_id] = others
        return Removal(start, end, left, peers)

    def cut(self, head: int) -> None:
        """Remove all below an index of the list of seqs.

        Each is removed once, so the cost is constant for each of them.
        """
        seqs, messages = self._seqs, self._messages
        gone = seqs[self._head : head]
        self._head = head
        for seq in gone:
            del messages[seq]
        if head >= _DEAD_SEQS and head * 2 >= len(seqs):
            self._peers = self._alive_by_peer()
            del seqs[:head]
            self._head = 0

    def _alive_by_peer(self) -> defaultdict[str, list[int]]:
        first = self._first
        alive: defaultdict[str, list[int]] = defaultdict(list)
        if first is not None:
            for peer_id, seqs in self._peers.items():
                if seqs[-1] >= first:
                    alive[peer_id] = seqs[bisect_left(seqs, first) :] if seqs[0] < first else seqs
        return alive


def _without(seqs: list[int], head: int, gone: set[int]) -> tuple[int, int, list[int]]:
    """Return from which index to which a list changes, and what is left there."""
    start = bisect_left(seqs, min(gone), head)
    end = bisect_right(seqs, max(gone), start)
    return start, end, [seq for seq in seqs[start:end] if seq not in gone]
