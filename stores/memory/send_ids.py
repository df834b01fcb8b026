"""What each sender's send_ids stand for, in memory; its owner's lock guards it."""

from collections import OrderedDict
from typing import Final

from twinline.core.errors import SendIdConflict
from twinline.core.store import Draft, MailboxPolicy, Receipt
from twinline.stores.rules import send_ids_end

_EXPIRED_A_SEND: Final = 2  # more than the one that a send adds, so that what expires goes


class SendIds:
    """The first send under each sender's send_id.

    Attributes:
        firsts: the content and the receipt by the sender's account and its send_id, oldest first.
    """

    __slots__ = ("_policy", "firsts")

    def __init__(self, policy: MailboxPolicy) -> None:
        self._policy = policy
        # An OrderedDict: taking from the front of a plain one walks over all it lost before.
        self.firsts: OrderedDict[tuple[str, str | None], tuple[bytes, Receipt]] = OrderedDict()

    def first(self, draft: Draft, content: bytes) -> Receipt | None:
        """Return the receipt of the first send under this draft's send_id, if it still counts.

        Raises:
            SendIdConflict: that send had another recipient or body.
        """
        known = self.firsts.get((draft.sender_id, draft.send_id))
        if known is None or self._expired(known[1], draft.sent_at):
            return None
        if known[0] != content:
            raise SendIdConflict
        return known[1]

    def keep(self, draft: Draft, content: bytes, receipt: Receipt) -> None:
        """Keep what a send_id stands for from now on."""
        if self._policy.send_id_hours > 0:
            key = (draft.sender_id, draft.send_id)
            self.firsts[key] = (content, receipt)
            self.firsts.move_to_end(key)

    def expire(self, now: int) -> None:
        """Remove the oldest if they have expired: a few, so that every send costs the same."""
        for _ in range(_EXPIRED_A_SEND):
            if not self.firsts:
                return
            key = next(iter(self.firsts))
            if not self._expired(self.firsts[key][1], now):
                return
            del self.firsts[key]

    def _expired(self, receipt: Receipt, now: int) -> bool:
        return receipt.sent_at <= send_ids_end(self._policy, now)
