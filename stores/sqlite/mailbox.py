"""The writer's view of one mailbox in the SQLite store: its row, and what trims its messages.

Only the writer's thread uses what is in this file, inside its transaction.
"""

import sqlite3
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from twinline.core.store import MailboxPolicy
from twinline.stores.rules import history_ends
from twinline.stores.sql.ageing import aged
from twinline.stores.sql.mailbox import NO_SUCH_SEQ, MailboxRow

Tables = Callable[[], sqlite3.Connection]
"""Returns the connection, when all that was appended so far is in the tables."""


@dataclass(slots=True)
class Mailbox(MailboxRow):
    """A row of ``mailboxes``."""

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
        )

    # A statement may fail, and the row is cached: so each method below writes first and
    # changes the attributes when that has succeeded.

    def ack(self, tables: Tables, up_to: int, now: int) -> None:
        """Move the position forward; a lower seq changes nothing.

        Raises:
            CursorInvalid: ``up_to`` is beyond the last seq.
        """
        if not self.moves(up_to):
            return
        connection = tables()
        (moved,) = connection.execute(
            "SELECT count(*) FROM messages WHERE box = ? AND seq > ? AND seq <= ?",
            (self.number, self.position, up_to),
        ).fetchone()
        if moved:  # else there is nothing that could age
            connection.execute("INSERT INTO acks VALUES (?, ?, ?)", (self.number, up_to, now))
        self.move(up_to, moved, now)

    def delete(self, tables: Tables, seqs: Collection[int]) -> int:
        """Delete messages, and return how many of them there were."""
        connection = tables()
        unread = acked = 0
        for seq in sorted({seq for seq in seqs if 0 < seq <= self.last}):
            gone = connection.execute(
                "DELETE FROM messages WHERE box = ? AND seq = ?", (self.number, seq)
            ).rowcount
            if seq > self.position:
                unread += gone
            else:
                acked += gone
        self.unread -= unread
        self.acked -= acked
        return unread + acked

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
