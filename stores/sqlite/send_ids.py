"""The writer's view of the send_ids in the SQLite store: which message each stands for.

Only the writer's thread uses what is in this file, inside its transaction.
"""

import sqlite3
from collections.abc import Iterable
from typing import Final

from twinline.core.errors import SendIdConflict
from twinline.core.store import Draft, MailboxPolicy, Receipt
from twinline.stores.rules import send_ids_end
from twinline.stores.sqlite.mailbox import LONG_AGO, NO_SUCH_SEQ, to_column
from twinline.stores.sqlite.rows import read_rows, write_rows
from twinline.stores.sqlite.writer import Transaction

_EXPIRE: Final = 2  # expired ones removed for each write: so they go, and none pays for all
_Key = tuple[str, str | bytes]

_FIND: Final = (
    "WITH wanted (sender, id) AS ({}) "
    "SELECT sender_id, send_id, content, message_id, sent_at "
    # CROSS: one look-up in the table for each that is wanted.
    "FROM wanted CROSS JOIN send_ids ON sender_id = sender AND send_id = id"
)


class SendIds:
    """The table ``send_ids``, read and written once in each transaction."""

    def __init__(self, policy: MailboxPolicy) -> None:
        self._policy = policy
        self._oldest = LONG_AGO  # none in the table is older than this
        self._transaction: Transaction | None = None  # the one that these two belong to
        self._known: dict[_Key, tuple[bytes, Receipt]] = {}
        self._new: dict[_Key, tuple[bytes, Receipt]] = {}

    def first(
        self, transaction: Transaction, draft: Draft, content: bytes, drafts: Iterable[Draft]
    ) -> Receipt | None:
        """Return the receipt of the first send under a draft's send_id, if it still counts.

        Args:
            transaction: the present one.
            draft: what is sent.
            content: its fingerprint.
            drafts: all that is sent in this transaction, to be looked up at once.

        Raises:
            SendIdConflict: that send had another recipient or body.
        """
        if self._transaction is not transaction:
            self._begin(transaction, drafts, draft.sent_at)
        if draft.send_id is None:
            return None
        known = self._known.get((draft.sender_id, to_column(draft.send_id)))
        if known is None or known[1].sent_at <= send_ids_end(self._policy, draft.sent_at):
            return None
        if known[0] != content:
            raise SendIdConflict
        return known[1]

    def keep(self, transaction: Transaction, draft: Draft, content: bytes) -> None:
        """Keep what a send_id stands for from now on."""
        if draft.send_id is None or self._policy.send_id_hours <= 0:
            return
        if not self._new:
            transaction.finishing.append(self._write)
        key = (draft.sender_id, to_column(draft.send_id))
        self._known[key] = self._new[key] = (content, Receipt(draft.message_id, draft.sent_at))
        self._oldest = min(self._oldest, draft.sent_at)

    def roll_back(self) -> None:
        """Drop what was done in a transaction that was rolled back."""
        self._transaction = None
        self._new.clear()
        self._oldest = LONG_AGO

    def _begin(self, transaction: Transaction, drafts: Iterable[Draft], now: int) -> None:
        keys = list(
            {
                (draft.sender_id, to_column(draft.send_id))
                for draft in drafts
                if draft.send_id is not None
            }
        )
        self._known = {
            (sender_id, send_id): (content, Receipt(message_id, sent_at))
            for sender_id, send_id, content, message_id, sent_at in read_rows(
                transaction.connection, _FIND, keys
            )
        }
        self._expire(transaction, now)
        self._transaction = transaction

    def _expire(self, transaction: Transaction, now: int) -> None:
        """Remove the oldest if they have expired, when all else in the transaction is done."""
        ends = send_ids_end(self._policy, now)
        if self._oldest > ends:
            return

        def remove(connection: sqlite3.Connection) -> None:
            connection.execute(
                "DELETE FROM send_ids WHERE (sender_id, send_id) IN (SELECT sender_id, send_id "
                "FROM send_ids WHERE sent_at <= ? ORDER BY sent_at LIMIT ?)",
                (ends, _EXPIRE * len(transaction.writes)),
            )
            (oldest,) = connection.execute("SELECT min(sent_at) FROM send_ids").fetchone()
            # Those of this transaction are written after this.
            new = (receipt.sent_at for _, receipt in self._new.values())
            self._oldest = min(NO_SUCH_SEQ if oldest is None else oldest, *new, NO_SUCH_SEQ)

        transaction.finishing.append(remove)

    def _write(self, connection: sqlite3.Connection) -> None:
        write_rows(
            connection,
            "INSERT OR REPLACE INTO send_ids",
            [
                (*key, content, receipt.message_id, receipt.sent_at)
                for key, (content, receipt) in self._new.items()
            ],
        )
        self._new.clear()
