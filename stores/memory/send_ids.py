"""What each sender's send_ids stand for in one mailbox, in memory; its owner's lock guards it."""

from collections import OrderedDict
from typing import NamedTuple

from twinline.core.errors import SendIdConflict
from twinline.core.store import Draft, MailboxPolicy, Receipt
from twinline.stores.rules import send_ids_count


class _First(NamedTuple):
    """The first send under a send_id."""

    content: bytes
    receipt: Receipt
    seq: int


class SendIds:
    """The first send under each sender's send_id, the oldest first.

    Both dictionaries keep their order: taking from the front of a plain one walks over all that
    it lost before.
    """

    __slots__ = ("_by_sender", "_policy", "_senders")

    def __init__(self, policy: MailboxPolicy) -> None:
        self._policy = policy
        self._by_sender: dict[str, OrderedDict[str | None, _First]] = {}
        self._senders: OrderedDict[int, str] = OrderedDict()  # whose it is, by its message's seq

    def __len__(self) -> int:
        return len(self._senders)

    def first(self, draft: Draft, content: bytes) -> Receipt | None:
        """Return the receipt of the first send under this draft's send_id, if it still counts.

        Raises:
            SendIdConflict: that send had another body.
        """
        mine = self._by_sender.get(draft.sender_id)
        known = None if mine is None else mine.get(draft.send_id)
        if known is None:
            return None
        begin, end = send_ids_count(self._policy, draft.sent_at)
        if not begin < known.receipt.sent_at < end:
            return None
        if known.content != content:
            raise SendIdConflict
        return known.receipt

    def keep(self, draft: Draft, content: bytes, receipt: Receipt, seq: int) -> None:
        """Keep what a send_id stands for from now on, and no more than the policy allows."""
        if self._policy.send_id_hours <= 0:
            return
        mine = self._by_sender.setdefault(draft.sender_id, OrderedDict())
        outdated = mine.pop(draft.send_id, None)
        if outdated is not None:
            del self._senders[outdated.seq]
        mine[draft.send_id] = _First(content, receipt, seq)
        self._senders[seq] = draft.sender_id
        if len(mine) > self._policy.send_ids_per_sender:
            self._forget_first_of(draft.sender_id)
        if len(self._senders) > self._policy.send_ids_per_mailbox:
            self._forget_first_of(next(iter(self._senders.values())))

    def expire(self, counting: tuple[int, int]) -> bool:
        """Forget the oldest if it counts no more; return whether it was forgotten.

        Args:
            counting: the moments between which one counts, as `send_ids_count` gives them.
        """
        begin, end = counting
        for sender in self._senders.values():
            if begin < next(iter(self._by_sender[sender].values())).receipt.sent_at < end:
                break
            self._forget_first_of(sender)
            return True
        return False

    def clear(self) -> None:
        """Forget all."""
        self._by_sender.clear()
        self._senders.clear()

    def _forget_first_of(self, sender: str) -> None:
        mine = self._by_sender[sender]
        _, first = mine.popitem(last=False)
        del self._senders[first.seq]
        if not mine:
            del self._by_sender[sender]
