"""The half of the SQLite store with messages and positions."""

# ruff: noqa: D102 - the contract tells what the methods do

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, suppress
from typing import Any, Final, TypeVar, cast

from twinline.core.deadline import Deadline
from twinline.core.errors import (
    CursorInvalid,
    MailboxFull,
    NoSuchUser,
    StoreUnavailable,
)
from twinline.core.protocol import Message
from twinline.core.store import (
    Depths,
    Draft,
    Mailboxes,
    MailboxPolicy,
    MailboxUsage,
    MailPage,
    MessageTrace,
    Receipt,
    Standing,
    Unsubscribe,
)
from twinline.core.waiting import Wake, wake_after_reply
from twinline.stores.rules import (
    LOOK_THROUGH_SECONDS,
    fingerprint,
    fitting,
    history_ends,
    not_looked_through,
    was_deleted,
)
from twinline.stores.shared.subscriptions import Subscriptions
from twinline.stores.sql.mailbox import NO_SUCH_SEQ
from twinline.stores.sqlite.columns import BYTES_OF_BODY, from_column
from twinline.stores.sqlite.mailbox import AGED, Mailbox, Tables
from twinline.stores.sqlite.mailbox_rows import MailboxRows
from twinline.stores.sqlite.old_send_ids import OldSendIds
from twinline.stores.sqlite.readers import Readers
from twinline.stores.sqlite.send_ids import Key, SendIds, key_of
from twinline.stores.sqlite.writer import Transaction, Writer

Result = TypeVar("Result")

_SWEEP: Final = 500  # messages of dropped mailboxes that one write removes
_TRIM_SECONDS: Final = 0.05  # what trimming may make a reader wait

# One statement, so that the position and the messages are of one moment.
_READ: Final = """
    SELECT mailboxes.position, mailboxes.last, seq, message_id, sender, body, sent_at
    FROM mailboxes LEFT JOIN messages ON messages.box = mailboxes.box AND seq > ?
    WHERE account_id = ? ORDER BY seq LIMIT ?"""
_DEPTHS: Final = """
    SELECT count(*), ifnull(max(unread), 0), ifnull(sum(unread >= ifnull(quota, ?)), 0)
    FROM mailboxes"""
# AGED is a constant too: nothing from a request is in the text.
_HISTORY: Final = f"""
    WITH mine AS (
        SELECT box, position, oldest_ack <= :ends AS ageing FROM mailboxes WHERE account_id = :id
    )
    SELECT mine.position, ageing, seq, message_id, sender, body, sent_at
    FROM mine LEFT JOIN messages ON messages.box = mine.box AND seq < :before
        AND seq > CASE WHEN ageing THEN {AGED.replace(":box", "mine.box")} ELSE 0 END
    ORDER BY seq DESC LIMIT :limit"""  # noqa: S608
_USAGE: Final = f"""
    SELECT unread + acked, unread,
        (SELECT ifnull(sum({BYTES_OF_BODY}), 0) FROM messages WHERE messages.box = mailboxes.box),
        quota
    FROM mailboxes WHERE account_id = ?"""  # noqa: S608
# The message, and what is known of it by its send_id. One statement: what is not in the one table
# is not there any more. Who sent a message is kept with its send_id alone.
_TRACE: Final = f"""
    SELECT account_id, sent_at, seq, sender,
        (SELECT sender_id FROM send_ids
            WHERE send_ids.box = messages.box AND send_ids.message_id = messages.message_id),
        seq <= position,
        CASE WHEN seq <= position THEN (SELECT acked_at FROM acks WHERE acks.box = messages.box
            AND acks.position >= seq ORDER BY acks.position LIMIT 1) END,
        seq, position
    FROM messages JOIN mailboxes USING (box) WHERE message_id = :message {{mine}}
        AND seq > CASE WHEN oldest_ack <= :ends
            THEN {AGED.replace(":box", "messages.box")} ELSE 0 END
    UNION ALL
    SELECT account_id, sent_at, NULL, NULL, sender_id, 0, NULL, seq, position
    FROM send_ids JOIN mailboxes USING (box) WHERE message_id = :message {{mine}}"""  # noqa: S608
_TRACE_ANYWHERE: Final = _TRACE.format(mine="")
_STEPS: Final = 100_000  # of SQLite's machine: a few ms, after which the time is looked at
_TRACE_IN_ONE: Final = _TRACE.format(mine="AND account_id = :id")


class SqliteMailboxes(Mailboxes):
    """Mailboxes in tables: writes are made by the writer's thread, reads by the caller's."""

    def __init__(self, readers: Readers, writer: Writer, policy: MailboxPolicy) -> None:
        self._readers = readers
        self._writer = writer
        self._policy = policy
        self._mail: Subscriptions[str] = Subscriptions("message")
        # These four are the writer's thread's.
        self._rows = MailboxRows()
        self._sends = SendIds(policy)
        self._old_sends = OldSendIds(policy)
        self._sweeping = False  # whether a sweep is under way or queued
        writer.on_rollback.append(self._roll_back)
        writer.on_reopen.append(self._sweep_anew)
        self._sweep_soon()

    def change_policy(self, policy: MailboxPolicy) -> None:
        """See `Store.change_policy`."""
        # A write that is under way may go by either.
        self._policy = self._sends.policy = self._old_sends.policy = policy

    def create(self, account_id: str) -> None:
        self._writer.do(lambda transaction: self.create_in(transaction, account_id))

    def drop(self, account_id: str) -> None:
        self._writer.do(lambda transaction: self.drop_in(transaction, account_id))

    def append(self, account_id: str, draft: Draft) -> Receipt:
        return self._writer.do(_Append(self, account_id, draft), wake=wake_after_reply)

    def read(self, account_id: str, after: int, limit: int, max_bytes: int) -> MailPage:
        values = (min(after, NO_SUCH_SEQ), account_id, _one_more(limit))
        with self._readers.reading() as connection:
            position, last, page, more = _page(connection, _READ, values, limit, max_bytes)
        if after > last:
            raise CursorInvalid
        return MailPage(page, position, more)

    def history(
        self, account_id: str, before: int | None, limit: int, max_bytes: int, now: int
    ) -> MailPage:
        values = {
            "id": account_id,
            "before": NO_SUCH_SEQ if before is None else min(before, NO_SUCH_SEQ),
            "limit": _one_more(limit),
            "ends": history_ends(self._policy, now),
        }
        with self._readers.reading() as connection:
            position, ageing, page, more = _page(connection, _HISTORY, values, limit, max_bytes)
        if ageing:
            # The page is without them already: that they go must not make a reader wait.
            with suppress(StoreUnavailable, NoSuchUser):
                self._change(account_id, lambda _box, _tables: None, now, _TRIM_SECONDS)
        return MailPage(page[::-1], position, more)

    def ack(self, account_id: str, up_to: int, now: int) -> Standing:
        return self._change(account_id, lambda box, tables: box.ack(tables, up_to, now), now)[1]

    def delete(self, account_id: str, seqs: Collection[int]) -> int:
        return self._change(account_id, lambda box, tables: box.delete(tables, seqs))[0]

    def standing(self, account_id: str) -> Standing:
        with self._readers.reading() as connection:
            rows = connection.execute(
                "SELECT position, unread FROM mailboxes WHERE account_id = ?", (account_id,)
            ).fetchall()
        if not rows:
            raise NoSuchUser
        return Standing(*rows[0])

    def usage(self, account_id: str) -> MailboxUsage:
        with self._readers.reading() as connection:
            rows = connection.execute(_USAGE, (account_id,)).fetchall()
        if not rows:
            raise NoSuchUser
        return MailboxUsage(*rows[0])

    def set_quota(self, account_id: str, messages: int | None) -> None:
        self._writer.do(lambda transaction: self._rows.set_quota(transaction, account_id, messages))

    def trace(
        self, message_id: str, account_id: str | None = None, *, now: int
    ) -> MessageTrace | None:
        policy = self._policy
        ends = history_ends(policy, now)
        of = {"message": message_id, "id": account_id, "ends": ends}
        with self._readers.reading() as connection:
            if account_id is None:
                rows = _looked_through(connection, of)
            else:
                rows = connection.execute(_TRACE_IN_ONE, of).fetchall()
        if not rows:
            return None
        there = [row for row in rows if row[2] is not None]
        owner, sent_at, seq, sender, sender_id, acked, acked_at, sent_as, position = (
            there or rows
        )[0]
        deleted = seq is None and was_deleted(
            ends, policy.history_messages, sent_at=sent_at, seq=sent_as, position=position
        )
        return MessageTrace(
            owner, message_id, sent_at, seq, sender, sender_id, bool(acked), acked_at, deleted
        )

    def depths(self) -> Depths:
        with self._readers.reading() as connection:
            row = connection.execute(_DEPTHS, (self._policy.mailbox_messages,)).fetchone()
        return Depths(*row)

    def on_mail(self, account_id: str, wake: Wake) -> Unsubscribe:
        return self._mail.add(account_id, wake)

    def _change(
        self,
        account_id: str,
        change: Callable[[Mailbox, Tables], Result],
        trim_at: int | None = None,
        seconds: float | None = None,
    ) -> tuple[Result, Standing]:
        """Change a mailbox, and trim it; return what that gave and where it stands then."""

        def write(transaction: Transaction) -> tuple[Result, Standing]:
            box = self._rows.get(transaction, account_id)
            tables = self._rows.tables(transaction)
            before = box.columns
            result = change(box, tables)
            if trim_at is not None and box.needs_trim(self._policy, trim_at):
                box.trim(tables, self._policy, trim_at)
            if before != box.columns:
                self._rows.mark_changed(transaction, box)
            return result, box.standing

        return self._writer.do(write) if seconds is None else self._writer.do(write, seconds)

    # --- in the writer's thread

    def create_in(self, transaction: Transaction, account_id: str) -> None:
        """Make a mailbox, in the writer's thread."""
        self._rows.create(transaction, account_id)
        transaction.committed.append(lambda: self._mail.discard(account_id))

    def drop_in(self, transaction: Transaction, account_id: str) -> None:
        """Drop a mailbox, in the writer's thread."""
        box = self._rows.drop(transaction, account_id)
        if box is None:
            return
        transaction.connection.execute("INSERT INTO dropped VALUES (?)", (box.number,))
        wakes = transaction.wakes
        transaction.committed.append(lambda: wakes.extend(self._mail.end(account_id)))
        transaction.committed.append(self._sweep_soon)

    def _append(self, transaction: Transaction, append: "_Append") -> Receipt | MailboxFull:
        draft, content = append.draft, append.content
        box = self._rows.get(transaction, append.account_id)
        key = None if draft.send_id is None else key_of(box, draft, draft.send_id)
        first = self._sends.first(
            transaction, key, draft, content, self._send_ids_of
        ) or self._old_sends.first(transaction.connection, append.account_id, draft)
        if first is not None:
            return first
        if box.needs_trim(self._policy, draft.sent_at):
            box.trim(self._rows.tables(transaction), self._policy, draft.sent_at)
            self._rows.mark_changed(transaction, box)
        try:
            self._rows.append(transaction, box, draft, self._policy)
        except MailboxFull as error:
            return error  # what was trimmed stays trimmed
        if key is not None:
            self._sends.keep(transaction, key, draft, content, box.last)
        wakes = transaction.wakes
        transaction.committed.append(lambda: wakes.extend(self._mail.wakes(append.account_id)))
        return Receipt(draft.message_id, draft.sent_at)

    def _send_ids_of(self, transaction: Transaction) -> Iterator[Key]:
        """Yield every send_id of a transaction's sends to mailboxes that are there."""
        for each in transaction.writes:
            if isinstance(each, _Append) and each.draft.send_id is not None:
                box = self._rows.find(transaction, each.account_id)
                if box is not None:
                    yield key_of(box, each.draft, each.draft.send_id)

    def _sweep(self, transaction: Transaction) -> None:
        """Remove some messages of dropped mailboxes, and come back while there are others."""
        # A mailbox may have got mail in the transaction that drops it: first into the table.
        connection = self._rows.tables(transaction)()
        self._sends.write(connection)
        row = connection.execute("SELECT box FROM dropped LIMIT 1").fetchone()
        if row is None:
            self._sweeping = False
            return
        swept = connection.execute(
            "DELETE FROM messages WHERE box = ? AND seq <= (SELECT max(seq) FROM ("
            "SELECT seq FROM messages WHERE box = ? ORDER BY seq LIMIT ?))",
            (*row, *row, _SWEEP),
        ).rowcount
        if swept < _SWEEP:
            swept += connection.execute(
                "DELETE FROM send_ids WHERE (box, sender_id, send_id) IN ("
                "SELECT box, sender_id, send_id FROM send_ids WHERE box = ? LIMIT ?)",
                (*row, _SWEEP - swept),
            ).rowcount
        if swept < _SWEEP:
            connection.execute("DELETE FROM acks WHERE box = ?", row)
            connection.execute("DELETE FROM dropped WHERE box = ?", row)
        transaction.committed.append(lambda: self._writer.post(self._sweep))

    def _sweep_soon(self) -> None:
        # One at a time: each removes so much that others' writes are not held up.
        if not self._sweeping:
            self._sweeping = True
            self._writer.post(self._sweep)

    def _sweep_anew(self) -> None:
        # One that was under way when the file failed is gone.
        self._sweeping = False
        self._sweep_soon()

    def _roll_back(self) -> None:
        self._rows.roll_back()
        self._sends.roll_back()
        self._old_sends.roll_back()


class _Append:
    """A send, as a write that shows what it sends."""

    __slots__ = ("account_id", "boxes", "content", "draft")

    def __init__(self, boxes: SqliteMailboxes, account_id: str, draft: Draft) -> None:
        self.boxes = boxes
        self.account_id = account_id
        self.draft = draft
        self.content = b"" if draft.send_id is None else fingerprint(draft.body)

    def __call__(self, transaction: Transaction) -> Receipt:
        outcome = self.boxes._append(transaction, self)  # noqa: SLF001 - its other half
        # The writer raises an error that is returned.
        return cast("Receipt", outcome)


def _one_more(limit: int) -> int:
    return min(limit, NO_SUCH_SEQ) + 1


def _page(
    connection: sqlite3.Connection, query: str, values: Any, limit: int, max_bytes: int
) -> tuple[int, int, tuple[Message, ...], bool]:
    """Return the first two columns, which all rows share, and the messages of the others.

    Raises:
        NoSuchUser: there is no row.
    """
    # Closed: a statement that is not read to its end keeps its snapshot.
    with closing(connection.execute(query, values)) as rows:
        first = rows.fetchone()
        if first is None:
            raise NoSuchUser
        page, more = fitting(_messages(first, rows), limit, max_bytes)
    return first[0], first[1], page, more


def _messages(first: tuple[Any, ...], others: Iterable[tuple[Any, ...]]) -> Iterator[Message]:
    if first[2] is None:
        return
    yield _message(first)
    for row in others:
        yield _message(row)


def _message(row: tuple[Any, ...]) -> Message:
    _, _, seq, message_id, sender, body, sent_at = row
    return Message(
        seq=seq, message_id=message_id, sender=sender, body=from_column(body), sent_at=sent_at
    )


def _looked_through(connection: sqlite3.Connection, of: dict[str, Any]) -> list[Any]:
    """Look into all mailboxes, which reads the whole table, for so long and no longer."""
    deadline = Deadline.after(LOOK_THROUGH_SECONDS)
    connection.set_progress_handler(lambda: deadline.passed, _STEPS)
    try:
        return connection.execute(_TRACE_ANYWHERE, of).fetchall()
    except sqlite3.OperationalError as error:
        if not deadline.passed:
            raise
        raise not_looked_through() from error
    finally:
        connection.set_progress_handler(None, 0)
