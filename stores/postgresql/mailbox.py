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
        low: where the floor was when the transaction began.
        changed: whether the row is to be written.
    """

    floor: int = 0
    epoch: int = 0
    sends: int = 0
    low: int = 0
    changed: bool = False

    def enter(self, epoch: int) -> None:
        """Let the seqs jump if the store's epoch is another by now."""
        self.low = self.floor
        if self.epoch < epoch:
            self.last += jump(self.epoch, epoch)
            self.epoch = epoch
            self.changed = True

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
