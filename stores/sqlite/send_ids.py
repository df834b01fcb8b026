"""The writer's view of the send_ids in the SQLite store: which message each stands for.

Only the writer's thread uses what is in this file, inside its transaction.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from twinline.core.store import Accepted, Draft, MailboxPolicy
from twinline.stores.rules import send_ids_count
from twinline.stores.sql.mailbox import LONG_AGO, NO_SUCH_SEQ
from twinline.stores.sql.send_ids import First, first_accepted, surplus
from twinline.stores.sqlite.columns import to_column
from twinline.stores.sqlite.mailbox import Mailbox
from twinline.stores.sqlite.rows import read_rows, write_rows
from twinline.stores.sqlite.writer import Transaction

_EXPIRE: Final = 2  # expired ones removed for each write: so they go, and none pays for all
_COUNTED: Final = 10_000  # mailboxes whose send_ids are counted from one transaction to the next
Key = tuple[int, str, str | bytes]
"""A mailbox's number, a sender's account id, and its send_id as its column has it."""
_Row = tuple[int, str, str | bytes, bytes, str, int, int, int]
"""A `Key`, and the content, the message's id, when it was sent, its seq, and its ``n``."""

_FIND: Final = (
    "WITH wanted (wanted_box, wanted_sender, wanted_id) AS ({}) "
    "SELECT box, sender_id, send_id, content, message_id, sent_at, n "
    # CROSS: one look-up in the table for each that is wanted.
    "FROM wanted CROSS JOIN send_ids "
    "ON box = wanted_box AND sender_id = wanted_sender AND send_id = wanted_id"
)
_FIRST_EXPIRED: Final = (
    "SELECT box, sender_id, send_id FROM send_ids WHERE sent_at <= ? ORDER BY sent_at LIMIT ?"
)
_LAST_TO_COME: Final = (
    "SELECT box, sender_id, send_id FROM send_ids WHERE sent_at >= ? ORDER BY sent_at DESC LIMIT ?"
)


class SendIds:
    """The table ``send_ids``, read and written once in each transaction.

    Attributes:
        policy: says how many there may be, and how long they count; it may be replaced.
    """

    def __init__(self, policy: MailboxPolicy) -> None:
        self.policy = policy
        # None in the table is older or newer than these.
        self._oldest, self._newest = LONG_AGO, NO_SUCH_SEQ
        # By mailbox and sender, how many there are at the most: expired ones are not taken off.
        self._counts: dict[int, Counter[str]] = {}
        self._transaction: Transaction | None = None  # the one that these two belong to
        self._known: dict[Key, First] = {}
        self._absent: set[Key] = set()  # those that were looked for, and that the table has not
        self._new: list[_Row] = []
        self._again: list[_Row] = []  # what the table may have, for a send that counts no more

    def first(
        self,
        transaction: Transaction,
        key: Key | None,
        draft: Draft,
        content: bytes,
        wanted: Callable[[Transaction], Iterable[Key]],
    ) -> Accepted | None:
        """Return what the first send under a draft's send_id got, if it still counts.

        Args:
            transaction: the present one.
            key: what `key_of` gives for its send_id; None if it has none.
            draft: what is sent.
            content: its fingerprint.
            wanted: returns all that is sent in a transaction, to be looked up at once.

        Raises:
            SendIdConflict: that send had another body.
        """
        if self._transaction is not transaction:
            self._begin(transaction, wanted(transaction), draft.sent_at)
        known = None if key is None else self._known.get(key)
        return first_accepted(self.policy, draft, content, known)

    def keep(
        self,
        transaction: Transaction,
        key: Key,
        draft: Draft,
        content: bytes,
        *,
        seq: int,
        n: int,
    ) -> None:
        """Keep what a send_id stands for from now on.

        Args:
            transaction: the present one.
            key: what `key_of` gives for it.
            draft: what was sent.
            content: its fingerprint.
            seq: the message's.
            n: the message's, as well.
        """
        if self.policy.send_id_hours <= 0:
            return
        box, sender_id, send_id = key
        sent_at = draft.sent_at
        counts = self._counts.get(box)
        if counts is None:
            counts = self._counts[box] = _count(transaction.connection, box)
        if not (self._new or self._again):
            transaction.finishing.append(self.write)
        self._known[key] = content, draft.message_id, sent_at, n
        rows = self._new if key in self._absent else self._again
        rows.append((box, sender_id, send_id, content, draft.message_id, sent_at, seq, n))
        self._absent.discard(key)
        counts[sender_id] += 1
        self._oldest = min(self._oldest, sent_at)
        self._newest = max(self._newest, sent_at)

    def write(self, connection: sqlite3.Connection) -> None:
        """Put what is new into the table, and no more in all than the policy allows."""
        write_rows(connection, "INSERT OR FAIL INTO send_ids", self._new)
        write_rows(connection, "INSERT OR REPLACE INTO send_ids", self._again)
        senders = {row[:2] for row in (*self._new, *self._again)}
        for number, sender_id in senders:
            if self._counts[number][sender_id] > self.policy.send_ids_per_sender:
                self._forget(connection, number, sender_id, self.policy.send_ids_per_sender)
        for number in {number for number, _ in senders}:
            if self._counts[number].total() > self.policy.send_ids_per_mailbox:
                self._forget(connection, number, None, self.policy.send_ids_per_mailbox)
        self._drop_rows()
        if len(self._counts) > _COUNTED:
            self._counts.clear()

    def roll_back(self) -> None:
        """Drop what was done in a transaction that was rolled back."""
        self._transaction = None
        self._drop_rows()
        self._counts.clear()
        self._oldest, self._newest = LONG_AGO, NO_SUCH_SEQ

    def _drop_rows(self) -> None:
        self._new.clear()
        self._again.clear()

    def _begin(self, transaction: Transaction, wanted: Iterable[Key], now: int) -> None:
        looked_for = set(wanted)
        self._known = {
            (box, sender_id, send_id): (content, message_id, sent_at, n)
            for box, sender_id, send_id, content, message_id, sent_at, n in read_rows(
                transaction.connection, _FIND, list(looked_for)
            )
        }
        self._absent = looked_for - self._known.keys()
        self._expire(transaction, now)
        self._transaction = transaction

    def _forget(
        self, connection: sqlite3.Connection, box: int, sender_id: str | None, most: int
    ) -> None:
        """Remove the first to come of a mailbox, or of a sender in it, if there are too many."""
        # Nothing from a request is in the texts.
        mine = "box = :box" if sender_id is None else "box = :box AND sender_id = :sender"
        values: dict[str, object] = {"box": box, "sender": sender_id}
        (count,) = connection.execute(
            f"SELECT count(*) FROM send_ids WHERE {mine}",  # noqa: S608
            values,
        ).fetchone()
        if count > most:
            values["surplus"] = surplus(count, most)
            connection.execute(
                f"DELETE FROM send_ids WHERE {mine} AND seq IN "  # noqa: S608
                f"(SELECT seq FROM send_ids WHERE {mine} ORDER BY seq LIMIT :surplus)",
                values,
            )
        self._counts[box] = _count(connection, box)

    def _expire(self, transaction: Transaction, now: int) -> None:
        """Remove some that count no more, when all else in the transaction is done."""
        begin, end = send_ids_count(self.policy, now)
        if begin < self._oldest and self._newest < end:
            return

        def remove(connection: sqlite3.Connection) -> None:
            for query, moment in ((_FIRST_EXPIRED, begin), (_LAST_TO_COME, end)):
                connection.execute(
                    f"DELETE FROM send_ids WHERE (box, sender_id, send_id) IN ({query})",  # noqa: S608 - constants
                    (moment, _EXPIRE * len(transaction.writes)),
                )
            oldest, newest = connection.execute(
                "SELECT (SELECT min(sent_at) FROM send_ids), (SELECT max(sent_at) FROM send_ids)"
            ).fetchone()
            # Those of this transaction may be written after this.
            new = [row[5] for row in (*self._new, *self._again)]
            self._oldest = min(NO_SUCH_SEQ if oldest is None else oldest, *new, NO_SUCH_SEQ)
            self._newest = max(LONG_AGO if newest is None else newest, *new, LONG_AGO)

        transaction.finishing.append(remove)


def key_of(box: Mailbox, draft: Draft, send_id: str) -> Key:
    """Return what a send_id is found by."""
    return box.number, draft.sender_id, to_column(send_id)


def _count(connection: sqlite3.Connection, box: int) -> Counter[str]:
    return Counter(
        dict(
            connection.execute(
                "SELECT sender_id, count(*) FROM send_ids WHERE box = ? GROUP BY sender_id", (box,)
            ).fetchall()
        )
    )
