"""A mailbox's row in PostgreSQL, locked by the transaction that changes it."""

from dataclasses import dataclass

from twinline.stores.sql.epochs import jump
from twinline.stores.sql.mailbox import MailboxRow


@dataclass(slots=True)
class Mailbox(MailboxRow):
    """A row of ``mailboxes``, locked.

    Attributes:
        floor: what has a seq up to here counts as removed.
        epoch: the store's, when a seq was last given out.
        sends: how many send_ids it has ever had.
        newest: the highest ``n`` of a message that was put into it.
        copies: how many copies it has.
        receipts: how many receipts.
        blocked: how many accounts it has blocked.
        gives_receipts: whether it gives receipts, and takes them.
        low: where the floor was when the transaction began.
        changed: whether the row is to be written.
    """

    floor: int = 0
    epoch: int = 0
    sends: int = 0
    newest: int = 0
    copies: int = 0
    receipts: int = 0
    blocked: int = 0
    gives_receipts: bool = True
    low: int = 0
    changed: bool = False

    def enter(self, epoch: int) -> None:
        """Let the seqs jump if the store's epoch is another by now."""
        self.low = self.floor
        if self.epoch < epoch:
            self.last += jump(self.epoch, epoch)
            self.epoch = epoch
            self.changed = True

    def number_of(self, sent_at: int) -> int:
        """Return the ``n`` of a message that comes now; see `twinline.core.store.Accepted`."""
        self.newest = max(sent_at, self.newest + 1)
        return self.newest

    def next_seq(self) -> int:
        """Return the seq of a copy or a receipt that comes now."""
        self.last += 1
        self.changed = True
        return self.last

    def passed(self, up_to: int) -> int | None:
        """Return how many messages an ack passes, or None if that cannot be told from the row."""
        if up_to == self.last or not self.unread:
            return self.unread
        if self.unread == self.last - self.position:  # every seq has its message
            return up_to - self.position
        return None

    def surplus_ends(self, surplus: int) -> int | None:
        """Return the seq of the last of so many of the oldest, or None if the row does not say."""
        if self.acked == self.position - self.floor:
            return self.floor + surplus
        return None

    def raise_floor(self, floor: int, removed: int) -> None:
        """Have so many acked messages count as removed."""
        self.floor = floor
        self.acked -= removed
        self.changed = True
