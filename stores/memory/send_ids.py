"""What each sender's send_ids stand for in one mailbox, in memory; its owner's lock guards it."""

from collections import OrderedDict

from twinline.core.errors import SendIdConflict
from twinline.core.store import Draft, MailboxPolicy, Receipt

_First = tuple[bytes, Receipt, int]
"""The first send under a send_id: its content, its receipt, and its message's seq."""


class SendIds:
    """The first send under each sender's send_id, the oldest first.

    Both dictionaries keep their order: taking from the front of a plain one walks over all that
    it lost before.
    """

    __slots__ = ("_by_sender", "_policy", "_senders")

    def __init__(self, policy: MailboxPolicy) -> None:
        self._policy = policy
        self._by_sender: dict[str, OrderedDict[str | None, _First]] = {}
        # Whose it is, by its message's seq; None for as long as none is kept, as in most mailboxes.
        self._senders: OrderedDict[int, str] | None = None

    def __len__(self) -> int:
        return len(self._senders) if self._senders else 0

    def first(self, draft: Draft, content: bytes, counting: tuple[int, int]) -> Receipt | None:
        """Return the receipt of the first send under this draft's send_id, if it still counts.

        Args:
            draft: what is sent.
            content: its fingerprint.
            counting: the moments between which one counts, as `send_ids_count` gives them.

        Raises:
            SendIdConflict: that send had another body.
        """
        mine = self._by_sender.get(draft.sender_id)
        known = None if mine is None else mine.get(draft.send_id)
        if known is None:
            return None
        first, receipt, _ = known
        begin, end = counting
        if not begin < receipt.sent_at < end:
            return None
        if first != content:
            raise SendIdConflict
        return receipt

    def keep(self, draft: Draft, content: bytes, receipt: Receipt, seq: int) -> None:
        """Keep what a send_id stands for from now on, and no more than the policy allows."""
        if self._policy.send_id_hours <= 0:
            return
        senders = self._senders
        if senders is None:
            senders = self._senders = OrderedDict()
        mine = self._by_sender.get(draft.sender_id)
        if mine is None:
            mine = self._by_sender[draft.sender_id] = OrderedDict()
        elif draft.send_id in mine:  # it counts no more
            _, _, outdated = mine.pop(draft.send_id)
            del senders[outdated]
        mine[draft.send_id] = (content, receipt, seq)
        senders[seq] = draft.sender_id
        if len(mine) > self._policy.send_ids_per_sender:
            self._forget_first_of(draft.sender_id, senders)
        if len(senders) > self._policy.send_ids_per_mailbox:
            self._forget_first_of(next(iter(senders.values())), senders)

    def expire(self, counting: tuple[int, int]) -> bool:
        """Forget the oldest if it counts no more; return whether it was forgotten.

        Args:
            counting: the moments between which one counts, as `send_ids_count` gives them.
        """
        if not self._senders:
            return False
        sender = next(iter(self._senders.values()))
        _, receipt, _ = next(iter(self._by_sender[sender].values()))
        begin, end = counting
        if begin < receipt.sent_at < end:
            return False
        self._forget_first_of(sender, self._senders)
        return True

    def clear(self) -> None:
        """Forget all."""
        self._by_sender.clear()
        self._senders = None

    def _forget_first_of(self, sender: str, senders: OrderedDict[int, str]) -> None:
        mine = self._by_sender[sender]
        _, (_, _, seq) = mine.popitem(last=False)
        del senders[seq]
        if not mine:
            del self._by_sender[sender]
