"""The writer's cache of the mailboxes in the SQLite store, so that a send costs no statement.

Only the writer's thread uses what is in this file, inside its transaction. It caches the rows of
``mailboxes`` and gathers the messages and copies of a transaction; all are written when it ends,
many rows at a time, or before something has to look at the entries in the tables.
"""

import sqlite3
from typing import Any, Final

from twinline.core.errors import NoSuchUser
from twinline.core.store import Accepted, Draft, MailboxPolicy
from twinline.stores.rules import history_ends
from twinline.stores.sql.mailbox import most_kept
from twinline.stores.sqlite.columns import to_column
from twinline.stores.sqlite.mailbox import Mailbox, Tables
from twinline.stores.sqlite.notes import file, trim
from twinline.stores.sqlite.rows import write_rows
from twinline.stores.sqlite.writer import Transaction

_CACHED: Final = 10_000  # rows that are kept from one transaction to the next
_FILED_AT_ONCE: Final = 64  # seqs: so each page of an index is written for many messages
_SPARE: Final = 64  # copies that go beyond those that have to, so that not each send removes one
_INSERT_MESSAGES: Final = (
    "INSERT OR FAIL INTO messages (box, seq, message_id, sender, body, sent_at, sender_id, n)"
)
_INSERT_COPIES: Final = (
    "INSERT OR FAIL INTO copies (box, seq, message_id, sender, peer_id, peer, sent_at, n, body)"
)


class MailboxRows:
    """The rows of ``mailboxes`` that were read or made, and what is still to be written."""

    def __init__(self) -> None:
        self._rows: dict[str, Mailbox] = {}
        # These three are still to be written.
        self._changed: dict[str, Mailbox] = {}
        self._messages: list[tuple[Any, ...]] = []
        self._copies: list[tuple[Any, ...]] = []
        # The last of these copies in each mailbox: its seq, and what it trims others by.
        self._copied: dict[str, tuple[int, MailboxPolicy, int]] = {}

    def create(self, transaction: Transaction, account_id: str) -> None:
        """Make a row.

        Raises:
            ValueError: there is one.
        """
        if self.find(transaction, account_id) is not None:
            raise ValueError(f"account id {account_id!r} is used twice")
        number = transaction.connection.execute(
            "INSERT INTO mailboxes (account_id) VALUES (?)", (account_id,)
        ).lastrowid
        assert number is not None  # noqa: S101 - for the type checker: it was inserted
        self._rows[account_id] = Mailbox(number, account_id)

    def find(self, transaction: Transaction, account_id: str) -> Mailbox | None:
        """Return a row, or None."""
        box = self._rows.get(account_id)
        if box is None:
            row = transaction.connection.execute(
                "SELECT box, account_id, position, last, unread, acked, oldest_ack, newest, "
                "copies, receipts, blocked, gives_receipts, filed, quota "
                "FROM mailboxes WHERE account_id = ?",
                (account_id,),
            ).fetchone()
            if row is not None:
                box = self._rows[account_id] = Mailbox(*row[:-1], quota=row[-1])
        return box

    def get(self, transaction: Transaction, account_id: str) -> Mailbox:
        """Return a row.

        Raises:
            NoSuchUser: there is none.
        """
        box = self.find(transaction, account_id)
        if box is None:
            raise NoSuchUser
        return box

    def mark_changed(self, transaction: Transaction, box: Mailbox) -> None:
        """Have a row written before this transaction is committed."""
        if not self._changed:
            transaction.finishing.append(self._write)
        self._changed[box.account_id] = box

    def append(
        self, transaction: Transaction, box: Mailbox, draft: Draft, policy: MailboxPolicy
    ) -> int:
        """Add a message under the next seq, and return its ``n``.

        Raises:
            MailboxFull: too many are not acked.
        """
        box.require_room(policy)
        message = (draft.message_id, draft.sender, to_column(draft.body), draft.sent_at)
        self.mark_changed(transaction, box)
        seq, n = box.add(draft.sent_at)
        self._messages.append((box.number, seq, *message, draft.sender_id, n))
        return n

    def add_copy(
        self,
        transaction: Transaction,
        box: Mailbox,
        peer_id: str,
        draft: Draft,
        *,
        accepted: Accepted,
        policy: MailboxPolicy,
    ) -> bool:
        """Add the copy of a message under the next seq, if the policy keeps any.

        Returns:
            Whether it was added.
        """
        if not most_kept(policy):
            return False
        message_id, sent_at, n = accepted
        copy = (message_id, draft.sender, peer_id, draft.copy_to, sent_at, n, to_column(draft.body))
        self.mark_changed(transaction, box)
        box.copies += 1
        self._copies.append((box.number, box.next_seq(), *copy))
        self._copied[box.account_id] = box.last, policy, draft.sent_at
        return True

    def set_quota(self, transaction: Transaction, account_id: str, quota: int | None) -> None:
        """Set how many unacked messages a mailbox may hold.

        At once and by itself: what mail changes is written without it.

        Raises:
            NoSuchUser: there is no such row.
        """
        box = self.get(transaction, account_id)
        transaction.connection.execute(
            "UPDATE mailboxes SET quota = ? WHERE box = ?", (quota, box.number)
        )
        box.quota = quota

    def set_receipts(self, transaction: Transaction, account_id: str, *, receipts: bool) -> None:
        """Have a mailbox give and take receipts, or not; at once and by itself, as a quota.

        Raises:
            NoSuchUser: there is no such row.
        """
        box = self.get(transaction, account_id)
        transaction.connection.execute(
            "UPDATE mailboxes SET gives_receipts = ? WHERE box = ?", (receipts, box.number)
        )
        box.gives_receipts = receipts

    def tables(self, transaction: Transaction) -> Tables:
        """Return what writes the entries that wait, and then returns the connection."""

        def written() -> sqlite3.Connection:
            self._write_entries(transaction.connection)
            return transaction.connection

        return written

    def drop(self, transaction: Transaction, account_id: str) -> Mailbox | None:
        """Remove a row, and return what it was."""
        box = self.find(transaction, account_id)
        if box is None:
            return None
        transaction.connection.execute("DELETE FROM mailboxes WHERE box = ?", (box.number,))
        # It cannot be written any more; what is still to be written is a list of those that can.
        del self._rows[account_id]
        self._changed.pop(account_id, None)
        self._copied.pop(account_id, None)
        return box

    def roll_back(self) -> None:
        """Drop every row: what was done to them was rolled back."""
        self._rows.clear()
        self._changed.clear()
        self._messages.clear()
        self._copies.clear()
        self._copied.clear()

    def _write(self, connection: sqlite3.Connection) -> None:
        self._write_entries(connection)
        self._trim_copies(connection)
        for box in self._changed.values():
            if box.last - box.filed >= _FILED_AT_ONCE:
                file(connection, box)
        write_rows(
            connection,
            "INSERT INTO mailboxes (box, account_id, position, last, unread, acked, oldest_ack, "
            "newest, copies, receipts, filed)",
            [box.columns for box in self._changed.values()],
            "ON CONFLICT (box) DO UPDATE SET position = excluded.position, last = excluded.last, "
            "unread = excluded.unread, acked = excluded.acked, oldest_ack = excluded.oldest_ack, "
            "newest = excluded.newest, copies = excluded.copies, receipts = excluded.receipts, "
            "filed = excluded.filed",
        )
        self._changed.clear()
        if len(self._rows) > _CACHED:
            self._rows.clear()

    def _write_entries(self, connection: sqlite3.Connection) -> None:
        write_rows(connection, _INSERT_MESSAGES, self._messages)
        self._messages.clear()
        write_rows(connection, _INSERT_COPIES, self._copies)
        self._copies.clear()

    def _trim_copies(self, connection: sqlite3.Connection) -> None:
        """Remove copies that are too many or too old, where others came."""
        for account_id, (seq, policy, now) in self._copied.items():
            box = self._changed[account_id]
            most, ends = most_kept(policy), history_ends(policy, now)
            surplus = box.copies - most
            if surplus > 0:
                surplus += min(most // 16, _SPARE)
            if surplus > 0 or box.oldest_copy is None or box.oldest_copy <= ends:
                gone, oldest = trim(connection, "copies", box, seq, surplus=surplus, ends=ends)
                box.copies -= gone
                box.oldest_copy = now if oldest is None else oldest
        self._copied.clear()
