"""The writer's view of one mailbox in the SQLite store: its row, and what trims its messages.

Only the writer's thread uses what is in this file, inside its transaction.
"""

import sqlite3
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from twinline.core.store import Acked, Delivery, MailboxPolicy
from twinline.stores.rules import history_ends
from twinline.stores.sql.ageing import aged
from twinline.stores.sql.mailbox import NO_SUCH_SEQ, MailboxRow

Tables = Callable[[], sqlite3.Connection]
"""Returns the connection, when all that was appended so far is in the tables."""


_PASSED: Final = """
    SELECT sender_id, max(n), count(*) FROM messages
    WHERE box = ? AND seq > ? AND seq <= ? GROUP BY sender_id"""
_DELETES: Final = {
    table: f"DELETE FROM {table} WHERE box = ? AND seq = ?"  # noqa: S608 - constants
    for table in ("messages", "copies", "receipts")
}


@dataclass(slots=True)
class Mailbox(MailboxRow):
    """A row of ``mailboxes``.

    Attributes:
        filed: up to which seq the indexes by conversation have its mail and copies.
        oldest_copy: when its oldest copy was sent, or what it replaces; None: not looked at yet.
    """

    filed: int = 0
    oldest_copy: int | None = None

    @property
    def columns(self) -> tuple[int | str | None, ...]:
        """What mail changes, in the table's order, from the number on."""
        return (
            self.number,
            self.account_id,
            self.position,
            self.last,
            self.unread,
            self.acked,
            self.oldest_ack,
            self.newest,
            self.copies,
            self.receipts,
            self.filed,
        )

    # A statement may fail, and the row is cached: so each method below writes first and
    # changes the attributes when that has succeeded.

    def ack(self, tables: Tables, up_to: int, now: int) -> Acked:
        """Move the position forward; a lower seq changes nothing.

        Raises:
            CursorInvalid: ``up_to`` is beyond the last seq.
        """
        if not self.moves(up_to):
            return Acked(self.position, self.unread)
        connection = tables()
        passed = (self.number, self.position, up_to)
        deliveries: tuple[Delivery, ...] = ()
        if self.gives_receipts:
            senders = connection.execute(_PASSED, passed).fetchall()
            moved = sum(count for _, _, count in senders)
            deliveries = self._deliveries(connection, {sender: n for sender, n, _ in senders})
        else:
            (moved,) = connection.execute(
                "SELECT count(*) FROM messages WHERE box = ? AND seq > ? AND seq <= ?", passed
            ).fetchone()
        if moved:  # else there is nothing that could age
            connection.execute("INSERT INTO acks VALUES (?, ?, ?)", (self.number, up_to, now))
        self.move(up_to, moved, now)
        return Acked(self.position, self.unread, deliveries)

    def _deliveries(
        self, connection: sqlite3.Connection, last: dict[str, int]
    ) -> tuple[Delivery, ...]:
        """Return whom receipts go to, of those whose last messages these are."""
        blocked = self.blocked and connection.execute(
            "SELECT peer_id FROM blocked WHERE box = ?", (self.number,)
        )
        untold = {"", self.account_id, *(peer_id for (peer_id,) in blocked or ())}
        return tuple([Delivery(*each) for each in last.items() if each[0] not in untold])

    def delete(self, tables: Tables, seqs: Collection[int]) -> int:
        """Delete entries of any kind, and return how many of them there were."""
        connection = tables()
        unread = acked = copies = receipts = 0
        for seq in sorted({seq for seq in seqs if 0 < seq <= self.last}):
            place = (self.number, seq)
            if connection.execute(_DELETES["messages"], place).rowcount:
                if seq > self.position:
                    unread += 1
                else:
                    acked += 1
            elif self.copies and connection.execute(_DELETES["copies"], place).rowcount:
                copies += 1
            elif self.receipts:
                receipts += connection.execute(_DELETES["receipts"], place).rowcount
        self.unread -= unread
        self.acked -= acked
        self.copies -= copies
        self.receipts -= receipts
        return unread + acked + copies + receipts

    def trim(self, tables: Tables, policy: MailboxPolicy, now: int) -> None:
        """Remove acked messages beyond the history that the policy keeps at ``now``."""
        connection = tables()
        (aged,) = connection.execute(
            f"SELECT {AGED}", {"box": self.number, "ends": history_ends(policy, now)}
        ).fetchone()
        acked = self.acked - self._remove(connection, aged)
        surplus = acked - policy.history_messages
        if surplus > 0:
            (end,) = connection.execute(
                "SELECT seq FROM messages WHERE box = ? ORDER BY seq LIMIT 1 OFFSET ?",
                (self.number, surplus - 1),
            ).fetchone()
            acked -= self._remove(connection, end)
        # An ack whose messages are all gone has nothing left to age.
        connection.execute(
            "DELETE FROM acks WHERE box = ? AND position < ifnull("
            "(SELECT seq FROM messages WHERE box = ? ORDER BY seq LIMIT 1), ?)",
            (self.number, self.number, NO_SUCH_SEQ),
        )
        oldest = connection.execute(
            "SELECT acked_at FROM acks WHERE box = ? ORDER BY position LIMIT 1", (self.number,)
        ).fetchone()
        self.acked = acked
        self.oldest_ack = oldest[0] if oldest else None

    def _remove(self, connection: sqlite3.Connection, up_to: int) -> int:
        return connection.execute(
            "DELETE FROM messages WHERE box = ? AND seq <= ?", (self.number, up_to)
        ).rowcount


AGED: Final = aged(":box", ":ends")
"""The seq up to which a mailbox's history has aged, for ``:box`` at ``:ends``."""
