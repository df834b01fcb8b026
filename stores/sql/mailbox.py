"""What a row of ``mailboxes`` says, and how it changes: the arithmetic, with no statement in it.

The messages of a mailbox are in another table. The row counts them, so that most of what is asked
of a mailbox is answered by it alone.
"""

from dataclasses import dataclass, field
from typing import Final

from twinline.core.errors import CursorInvalid, MailboxFull
from twinline.core.store import Draft, MailboxPolicy
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
        newest: the highest ``n`` of a message that was put into it.
        copies: how many copies it has.
        receipts: how many receipts.
        blocked: how many accounts it has blocked.
        gives_receipts: whether it gives receipts, and takes them.
        quota: how many messages may lie above the position; None: as many as the policy says.
    """

    number: int
    account_id: str
    position: int = 0
    last: int = 0
    unread: int = 0
    acked: int = 0
    oldest_ack: int | None = None
    newest: int = 0
    copies: int = 0
    receipts: int = 0
    blocked: int = 0
    gives_receipts: bool = True
    quota: int | None = field(default=None, kw_only=True)

    def require_room(self, policy: MailboxPolicy) -> None:
        """See that one more message may come.

        Raises:
            MailboxFull: too many are not acked.
        """
        if self.unread >= (self.quota or policy.mailbox_messages):
            raise MailboxFull

    def add(self, sent_at: int) -> tuple[int, int]:
        """Count one more message, and return its seq and its ``n``."""
        self.newest = max(sent_at, self.newest + 1)
        self.unread += 1
        return self.next_seq(), self.newest

    def next_seq(self) -> int:
        """Return the seq of whatever comes now."""
        self.last += 1
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


def most_kept(policy: MailboxPolicy) -> int:
    """Return how many copies a mailbox may have, and how many receipts."""
    return policy.history_messages if policy.history_days else 0


def leaves_copy(account_id: str, draft: Draft) -> bool:
    """Return whether what is sent to a mailbox leaves a copy in its sender's: not to oneself."""
    return draft.copy_to is not None and draft.sender_id != account_id
