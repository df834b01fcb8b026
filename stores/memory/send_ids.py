"""What each sender's send_ids stand for in one mailbox, in memory; its owner's lock guards it.

Its *content* is the `hash` of the body that was sent under it: 64 bits, under a key that this
process drew. That is enough, for it is compared with one other, that of the body which the same
sender sends under the same send_id, and tells a sender of its own mistake: only its own second
message can be taken for a repeat. The body itself would live for a day longer than its message.
What is kept in a file or shared by processes needs `twinline.stores.rules.fingerprint`, which takes
six times as long.

The rule for interruptions is that of the mailbox. A send_id and its message are stored with no call
between, so `SendIds.make_room` prepares all else, and `Mailbox.append` puts it in.
"""

from collections import deque
from itertools import islice
from typing import Final

from twinline.core.errors import SendIdConflict
from twinline.core.store import Accepted, Draft
from twinline.stores.memory.limits import Limits

First = tuple[str, str | None, int, str, int, int, int]
"""The first send under a send_id: the sender's account id, the send_id, the content, the message's
id, when it was sent, its seq and its ``n``. A plain tuple, as a message is; and it has not the
message, which may be gone long before."""
_AT_ONCE: Final = 16  # beyond a sender's bound so many go, or an eighth of it if that is less
_STALE: Final = 64  # fewer than this are not worth a new queue


class SendIds:
    """The first send under each sender's send_id.

    Those of a sender are in a dictionary, in the order in which they came. Beside these is one
    queue of all. What is forgotten out of turn stays in it, and is *stale*, until it comes to the
    front or makes up half of the queue.

    Attributes:
        count: how many are kept.
        queued: whether the store has it among those whose send_ids expire.
    """

    __slots__ = ("_by_sender", "_limits", "_order", "count", "queued")

    def __init__(self, limits: Limits) -> None:
        self.count = 0
        self.queued = False
        self._limits = limits
        self._by_sender: dict[str, dict[str | None, First]] = {}
        # None for as long as there is none, as in most mailboxes: an empty one has room for 64.
        self._order: deque[First] | None = None

    def first(self, draft: Draft, content: int) -> Accepted | None:
        """Return the receipt of the first send under a message's send_id, if it still counts.

        Args:
            draft: what is sent.
            content: the hash of its body.

        Raises:
            SendIdConflict: that send had another body.
        """
        _, sender, _, _, now, send_id, _ = draft
        mine = self._by_sender.get(sender)
        if mine is None or send_id not in mine:
            return None
        _, _, first, message_id, sent_at, _, n = mine[send_id]
        span = self._limits.send_id_ms
        if not -span < now - sent_at < span:
            return None
        if first != content:
            raise SendIdConflict
        return Accepted(message_id, sent_at, n)

    def make_room(
        self, draft: Draft, content: int, seq: int, n: int
    ) -> tuple[dict[str | None, First], First]:
        """Make room for what a send_id stands for from now on.

        Args:
            draft: what is sent, under a send_id that stands for nothing that still counts.
            content: the hash of its body.
            seq: the message's.
            n: what it gets.

        Returns:
            The dictionary of the sender, and what the caller puts into it and counts.
        """
        message_id, sender, _, _, sent_at, send_id, _ = draft
        limits = self._limits
        mine = self._by_sender.get(sender)
        if mine is not None and send_id in mine:  # it counts no more
            del mine[send_id]
            self.count -= 1
        while self.count >= limits.send_ids_per_mailbox and self._order:
            self._forget_first(self._order)
        if not mine:  # or it was just emptied, and may be gone
            mine = self._by_sender[sender] = {}
        elif len(mine) >= limits.send_ids_per_sender:
            # To take from the front of a dictionary is to walk over all that it lost before.
            surplus = 1 + min(limits.send_ids_per_sender // 8, _AT_ONCE - 1)
            for oldest in tuple(islice(mine, surplus)):
                del mine[oldest]
                self.count -= 1
        first = (sender, send_id, content, message_id, sent_at, seq, n)
        order = self._order
        if order is None:
            order = self._order = deque()
        elif len(order) > self.count:
            order = self._drop_stale(order)
        order.append(first)
        return mine, first

    def expire(self, now: int) -> bool:
        """Forget the first to come if it counts no more at ``now``; return whether it did."""
        order, span = self._order, self._limits.send_id_ms
        if not order or -span < now - order[0][4] < span:
            return False
        self._forget_first(order)
        return True

    def kept(self) -> list[First]:
        """Return all, in the order in which they came."""
        return [first for first in self._order or () if not self._is_stale(first)]

    def clear(self) -> None:
        """Forget all."""
        self._by_sender = {}
        self._order = None
        self.count = 0

    def _is_stale(self, first: First) -> bool:
        mine = self._by_sender.get(first[0])
        return mine is None or mine.get(first[1]) is not first

    def _forget_first(self, order: deque[First]) -> None:
        """Take out the first of the queue, and forget what it stands for unless it is stale."""
        first = order[0]
        sender, send_id = first[:2]
        if not self._is_stale(first):
            mine = self._by_sender[sender]
            del mine[send_id]
            self.count -= 1
            if not mine:
                del self._by_sender[sender]
        if self.count:
            order.popleft()
        else:
            self._order = None  # the others are stale

    def _drop_stale(self, order: deque[First]) -> deque[First]:
        """Take stale ones from the front of the queue, or all if they are too many."""
        while order and self._is_stale(order[0]):
            order.popleft()
        if len(order) > 2 * self.count + _STALE:
            order = self._order = deque(one for one in order if not self._is_stale(one))
        return order
