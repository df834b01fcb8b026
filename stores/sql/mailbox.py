"""What a row of ``mailboxes`` says, and how it changes: the arithmetic, with no statement in it.

The messages of a mailbox are in another table. The row counts them, so that most of what is asked
of a mailbox is answered by it alone.
"""

from dataclasses import dataclass, field
from typing import Final

from twinline.core.errors import CursorInvalid, MailboxFull
from twinline.core.store import MailboxPolicy, Standing
from twinline.stores.rules import history_ends

NO_SUCH_SEQ: Final = 2**62
"""Above every seq and every time, and within the integers of SQL."""
LONG_AGO: Final = -NO_SUCH_SEQ
"""Below every time."""


@dataclass(slots=True)
class MailboxRow:
    """A mailbox without its messages.

    Attributes:
        number: the key of its messages.
        account_id: whose it is.
        position: the last acked seq.
        last: the last seq that was given out.
        unread: how many messages have a seq above the position.
        acked: how many have not.
        oldest_ack: when the first ack that still counts was made, or None.
        quota: how many messages may lie above the position; None: as many as the policy says.
    """

    number: int
    account_id: str
    position: int = 0
    last: int = 0
    unread: int = 0
    acked: int = 0
    oldest_ack: int | None = None
    quota: int | None = field(default=None, kw_only=True)

    @property
    def standing(self) -> Standing:
        """The position and how many messages lie beyond it."""
        return Standing(self.position, self.unread)

    def require_room(self, policy: MailboxPolicy) -> None:
        """See that one more message may come.

        Raises:
            MailboxFull: too many are not acked.
        """
        if self.unread >= (self.quota or policy.mailbox_messages):
            raise MailboxFull

    def add(self) -> int:
        """Count one more message, and return its seq."""
        self.last += 1
        self.unread += 1
        return self.last

    def moves(self, up_to: int) -> bool:
        """Return whether an ack moves the position; a lower seq changes nothing.

        Raises:
            CursorInvalid: ``up_to`` is beyond the last seq.
        """
        if up_to > self.last:
            raise CursorInvalid
        return up_to > self.position

    def move(self, up_to: int, passed: int, now: int) -> None:
        """Move the position over so many messages.

        Args:
            up_to: where to; it `moves`.
            passed: how many messages it passes.
            now: in ms.
        """
        if passed and self.oldest_ack is None:
            self.oldest_ack = now
        self.position = up_to
        self.unread -= passed
        self.acked += passed

    def needs_trim(self, policy: MailboxPolicy, now: int) -> bool:
        """Return whether there may be acked messages beyond the history kept at ``now``."""
        if self.acked > policy.history_messages:
            return True
        return self.oldest_ack is not None and self.oldest_ack <= history_ends(policy, now)
