"""One mailbox in memory: its messages by seq, what is acked, and what is kept as history.

Nothing here takes a lock or wakes a watcher: its owner's lock guards it. A signal's handler may
raise after any call (see `twinline.core.interrupts`), so what belongs together is computed first
and then assigned without a call between; what is removed goes out of the list of seqs first.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Collection
from typing import Final

from twinline.core.errors import CursorInvalid, MailboxFull
from twinline.core.store import Standing
from twinline.stores.memory.limits import Limits
from twinline.stores.memory.send_ids import Kept, SendIds
from twinline.stores.memory.subscribers import Subscription

Entry = tuple[int, Kept]
"""A message and its seq."""
_DEAD_SEQS: Final = 64  # fewer than this are not worth a move of the others


class Mailbox:
    """An ordered log of messages with a position.

    The messages are in a dictionary by seq; beside it is the sorted list of those seqs, so a
    page is one binary search and one look-up a message, whatever was deleted before it. They
    are kept as what they came as, a quarter of what the protocol's models take.

    Attributes:
        position: the last acked seq.
        last: the last seq that was given out; never lower, whatever is deleted.
        unread: how many messages lie beyond the position.
        quota: how many messages may lie beyond the position; None: as many as the policy says.
        send_ids: what the send_ids of its senders stand for.
        watchers: whom to wake when mail arrives; None until somebody has asked.
    """

    __slots__ = (
        "_acks",
        "_head",
        "_limits",
        "_messages",
        "_seqs",
        "last",
        "position",
        "quota",
        "send_ids",
        "unread",
        "watchers",
    )

    def __init__(self, limits: Limits) -> None:
        self.position = 0
        self.last = 0
        self.unread = 0
        self.quota: int | None = None
        self.send_ids = SendIds(limits)
        self.watchers: list[Subscription] | None = None
        self._limits = limits
        self._messages: dict[int, Kept] = {}
        # Seqs below index _head belong to messages that are gone: cutting the list at every
        # ack would move all the others, so it is cut when half of it is dead.
        self._seqs: list[int] = []
        self._head = 0
        # (position, when it was acked): history ages from its ack, not from its sending. None
        # until there is one: an empty deque has room for 64.
        self._acks: deque[tuple[int, int]] | None = None

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def standing(self) -> Standing:
        """The position and how many messages lie beyond it."""
        return Standing(self.position, self.unread)

    def append(self, kept: Kept, content: int | None) -> None:
        """Add a message under the next seq, and remove what has aged by the time it was sent.

        Args:
            kept: the message.
            content: what its send_id stands for from now on: the hash of the body, or None if
                that is not to be kept.

        Raises:
            MailboxFull: too many are not acked.
        """
        _, _, _, _, sent_at, send_id = kept
        # An ack removes at once what is too much; the rest is removed when its time has come.
        if self._acks and self._acks[0][1] <= sent_at - self._limits.history_ms:
            self.trim(sent_at)
        if self.unread >= (self.quota or self._limits.mailbox_messages):
            raise MailboxFull
        seq = self.last + 1
        if content is not None:
            send_ids = self.send_ids
            mine, first = send_ids.make_room(kept, content, seq)
            # No call from here on but the last: the message is stored with its send_id or not.
            mine[send_id] = first
            send_ids.count += 1
        self.unread += 1
        self.last = seq
        self._messages[seq] = kept
        self._seqs.append(seq)

    def after(self, seq: int, count: int) -> list[Entry]:
        """Return the first messages above a seq, at most ``count``.

        Raises:
            CursorInvalid: the seq is beyond the last one.
        """
        if seq >= self.last:
            if seq > self.last:
                raise CursorInvalid
            return []
        start = bisect_right(self._seqs, seq, self._head)
        if start == len(self._seqs) - 1 and count > 0:  # as for a watch that mail has woken
            found = self._seqs[start]
            return [(found, self._messages[found])]
        return [(found, self._messages[found]) for found in self._seqs[start : start + count]]

    def before(self, seq: int | None, count: int) -> list[Entry]:
        """Return the last messages below a seq, by rising seq, at most ``count``."""
        end = len(self._seqs) if seq is None else bisect_left(self._seqs, seq, self._head)
        start = max(self._head, end - count)
        return [(found, self._messages[found]) for found in self._seqs[start:end]]

    def entries(self) -> list[Entry]:
        """Return all messages, by rising seq."""
        return list(self._messages.items())

    def acked_at(self, seq: int) -> int | None:
        """Return when the position passed a seq, in ms, if it did and that is still known."""
        return next((at for position, at in self._acks or () if position >= seq), None)

    def ack(self, up_to: int, now: int) -> None:
        """Move the position forward; a lower seq changes nothing.

        Raises:
            CursorInvalid: ``up_to`` is beyond the last seq.
        """
        if up_to > self.last:
            raise CursorInvalid
        if up_to <= self.position:
            return
        unacked = bisect_right(self._seqs, up_to, self._head)
        unread = len(self._seqs) - unacked
        self.position = up_to
        self.unread = unread
        acks = self._acks
        if acks is None:
            acks = self._acks = deque()
        elif acks and acks[-1][1] == now:
            acks.pop()
        acks.append((up_to, now))

    def delete(self, seqs: Collection[int]) -> int:
        """Delete messages, and return how many of them there were."""
        deleted = {seq for seq in seqs if seq in self._messages}
        if deleted:
            start = bisect_left(self._seqs, min(deleted), self._head)
            end = bisect_right(self._seqs, max(deleted), start)
            left = [seq for seq in self._seqs[start:end] if seq not in deleted]
            unread = sum(seq > self.position for seq in deleted)
            self._seqs[start:end] = left
            self.unread -= unread
            for seq in deleted:
                del self._messages[seq]
        return len(deleted)

    def _is_old(self, now: int) -> bool:
        """Return whether the oldest ack has aged, or its messages are all gone."""
        if not self._acks:
            return False
        up_to, acked_at = self._acks[0]
        if acked_at <= now - self._limits.history_ms:
            return True
        return self._head == len(self._seqs) or up_to < self._seqs[self._head]

    def trim(self, now: int) -> None:
        """Remove acked messages beyond the history that the policy keeps at ``now``.

        Each message and each ack is removed once, so the cost is constant for each of them.
        """
        acked = len(self._seqs) - self.unread
        most = self._limits.history_messages
        if acked - self._head <= most and not self._is_old(now):
            return
        aged, ends, acks = 0, now - self._limits.history_ms, self._acks
        while acks and acks[0][1] <= ends:
            aged = acks.popleft()[0]
        keep = bisect_right(self._seqs, aged, self._head)
        keep = max(keep, acked - most)
        gone = self._seqs[self._head : keep]
        self._head = keep
        for seq in gone:
            del self._messages[seq]
        # An ack whose messages are all gone has nothing left to age.
        oldest = self._seqs[keep] if keep < len(self._seqs) else self.last + 1
        while acks and acks[0][0] < oldest:
            acks.popleft()
        if not acks:
            self._acks = None
        if self._head >= _DEAD_SEQS and self._head * 2 >= len(self._seqs):
            del self._seqs[: self._head]
            self._head = 0
