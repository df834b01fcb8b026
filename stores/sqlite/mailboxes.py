"""The half of the SQLite store with messages and positions."""

# ruff: noqa: D102 - the contract tells what the methods do

import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar, cast

from twinline.core.deadline import Deadline
from twinline.core.errors import (
    CursorInvalid,
    MailboxFull,
    NoSuchUser,
    Refused,
    StoreUnavailable,
)
from twinline.core.protocol import MAIL_ALONE, Kind, Kinds
from twinline.core.store import (
    Accepted,
    Acked,
    Blocked,
    ConversationPage,
    Depths,
    Draft,
    Mailboxes,
    MailboxPolicy,
    MailboxUsage,
    MailPage,
    MessageTrace,
    Peer,
    PeerReceipt,
    Standing,
    Unsubscribe,
)
from twinline.core.waiting import Wake, wake_after_reply
from twinline.stores.rules import (
    LOOK_THROUGH_SECONDS,
    fingerprint,
    history_ends,
    mail_page,
    not_looked_through,
    was_deleted,
)
from twinline.stores.shared.watchers import Watchers
from twinline.stores.sql.mailbox import leaves_copy
from twinline.stores.sqlite.columns import BYTES_OF_BODY
from twinline.stores.sqlite.mailbox import AGED, Mailbox, Tables
from twinline.stores.sqlite.mailbox_rows import MailboxRows
from twinline.stores.sqlite.notes import block, has_copy, is_blocked, put_receipt, unblock
from twinline.stores.sqlite.old_send_ids import OldSendIds
from twinline.stores.sqlite.readers import Readers
from twinline.stores.sqlite.reads import MailboxReader
from twinline.stores.sqlite.send_ids import Key, SendIds, key_of
from twinline.stores.sqlite.writer import Transaction, Writer

Result = TypeVar("Result")

_SWEEP: Final = 500  # entries of dropped mailboxes that one write removes
_TRIM_SECONDS: Final = 0.05  # what trimming may make a reader wait

_DEPTHS: Final = """
    SELECT count(*), ifnull(max(unread), 0), ifnull(sum(unread >= ifnull(quota, ?)), 0)
    FROM mailboxes"""
_USAGE: Final = f"""
    SELECT unread + acked, unread,
        (SELECT ifnull(sum({BYTES_OF_BODY}), 0) FROM messages WHERE messages.box = mailboxes.box)
        + (SELECT ifnull(sum({BYTES_OF_BODY}), 0) FROM copies WHERE copies.box = mailboxes.box),
        quota, copies
    FROM mailboxes WHERE account_id = ?"""  # noqa: S608
# The message, and what is known of it by its send_id. One statement: what is not in the one table
# is not there any more. Who sent a message of before version 4 is kept with its send_id alone.
_TRACE: Final = f"""
    SELECT account_id, sent_at, seq, sender,
        ifnull(nullif(sender_id, ''), (SELECT sender_id FROM send_ids
            WHERE send_ids.box = messages.box AND send_ids.message_id = messages.message_id)),
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
_BLOCKED: Final = """
    SELECT peer_id, peer FROM mailboxes LEFT JOIN blocked USING (box) WHERE account_id = ?
    ORDER BY peer, peer_id"""
_STEPS: Final = 100_000  # of SQLite's machine: a few ms, after which the time is looked at
_TRACE_IN_ONE: Final = _TRACE.format(mine="AND account_id = :id")


class SqliteMailboxes(Mailboxes):
    """Mailboxes in tables: writes are made by the writer's thread, reads by the caller's."""

    def __init__(self, readers: Readers, writer: Writer, policy: MailboxPolicy) -> None:
        self._readers = readers
        self._writer = writer
        self._policy = policy
        self._watchers = Watchers()
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

    def append(self, account_id: str, draft: Draft) -> Accepted:
        return self._writer.do(_Append(self, account_id, draft), wake=wake_after_reply)

    def read(
        self,
        account_id: str,
        after: int,
        limit: int,
        max_bytes: int,
        kinds: Kinds = MAIL_ALONE,
    ) -> MailPage:
        with self._readers.reading() as connection:
            reader = MailboxReader(connection, account_id, limit, max_bytes)
            page = reader.mail(after) if kinds == MAIL_ALONE else reader.entries(after, kinds)
        if after > page.last:
            raise CursorInvalid
        seen = page.entries[-1].seq if page.more and page.entries else page.last
        return mail_page(page.entries, page.position, seen, more=page.more)

    def history(
        self,
        account_id: str,
        before: int | None,
        limit: int,
        max_bytes: int,
        now: int,
        *,
        kinds: Kinds = MAIL_ALONE,
        peer: Peer | None = None,
    ) -> MailPage:
        ends = history_ends(self._policy, now)
        with self._readers.reading() as connection:
            reader = MailboxReader(connection, account_id, limit, max_bytes)
            page = reader.history(before, ends, kinds, peer)
        if page.ageing:
            self._trim(account_id, now)
        seen = page.entries[-1].seq if page.more and page.entries else 0
        return mail_page(page.entries[::-1], page.position, seen, more=page.more)

    def conversations(
        self, account_id: str, before: int | None, limit: int, max_bytes: int, now: int
    ) -> ConversationPage:
        ends = history_ends(self._policy, now)
        with self._readers.reading() as connection:
            reader = MailboxReader(connection, account_id, limit, max_bytes)
            conversations, more, ageing = reader.conversations(before, ends)
        if ageing:
            self._trim(account_id, now)
        return ConversationPage(conversations, more)

    def put_receipt(self, account_id: str, receipt: PeerReceipt) -> None:
        if receipt.account_id != account_id:
            self._writer.do(partial(self._put_receipt, account_id, receipt))

    def set_receipts(self, account_id: str, *, receipts: bool) -> None:
        self._writer.do(
            lambda transaction: self._rows.set_receipts(transaction, account_id, receipts=receipts)
        )

    def block(self, account_id: str, peer: Blocked) -> None:
        def write(transaction: Transaction) -> None:
            block(transaction.connection, self._rows.get(transaction, account_id), peer)

        self._writer.do(write)

    def unblock(self, account_id: str, peer_id: str) -> bool:
        def write(transaction: Transaction) -> bool:
            box = self._rows.get(transaction, account_id)
            return unblock(transaction.connection, box, peer_id)

        return self._writer.do(write)

    def blocked(self, account_id: str) -> Sequence[Blocked]:
        with self._readers.reading() as connection:
            rows = connection.execute(_BLOCKED, (account_id,)).fetchall()
        if not rows:
            raise NoSuchUser
        return [Blocked(*row) for row in rows if row[0] is not None]

    def ack(self, account_id: str, up_to: int, now: int) -> Acked:
        return self._change(account_id, lambda box, tables: box.ack(tables, up_to, now), now)

    def delete(self, account_id: str, seqs: Collection[int]) -> int:
        return self._change(account_id, lambda box, tables: box.delete(tables, seqs))

    def standing(self, account_id: str) -> Standing:
        query = "SELECT position, unread, gives_receipts FROM mailboxes WHERE account_id = ?"
        position, unread, gives_receipts = self._row(query, account_id)
        return Standing(position, unread, bool(gives_receipts))

    def usage(self, account_id: str) -> MailboxUsage:
        return MailboxUsage(*self._row(_USAGE, account_id))

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

    def on_mail(self, account_id: str, wake: Wake, kinds: Kinds = MAIL_ALONE) -> Unsubscribe:
        return self._watchers.add(account_id, wake, kinds)

    def _row(self, query: str, account_id: str) -> tuple[Any, ...]:
        """Return the row that a query finds for a mailbox.

        Raises:
            NoSuchUser: there is none.
        """
        with self._readers.reading() as connection:
            rows: list[tuple[Any, ...]] = connection.execute(query, (account_id,)).fetchall()
        if not rows:
            raise NoSuchUser
        return rows[0]

    def _trim(self, account_id: str, now: int) -> None:
        """Remove what has aged of a history; the page is without it already."""
        # That it goes must not make a reader wait.
        with suppress(StoreUnavailable, NoSuchUser):
            self._change(account_id, lambda _box, _tables: None, now, _TRIM_SECONDS)

    def _change(
        self,
        account_id: str,
        change: Callable[[Mailbox, Tables], Result],
        trim_at: int | None = None,
        seconds: float | None = None,
    ) -> Result:
        """Change a mailbox, and trim it; return what the change gave."""

        def write(transaction: Transaction) -> Result:
            box = self._rows.get(transaction, account_id)
            tables = self._rows.tables(transaction)
            before = box.columns
            result = change(box, tables)
            if trim_at is not None and box.needs_trim(self._policy, trim_at):
                box.trim(tables, self._policy, trim_at)
            if before != box.columns:
                self._rows.mark_changed(transaction, box)
            return result

        return self._writer.do(write) if seconds is None else self._writer.do(write, seconds)

    # --- in the writer's thread

    def create_in(self, transaction: Transaction, account_id: str) -> None:
        """Make a mailbox, in the writer's thread."""
        self._rows.create(transaction, account_id)
        transaction.committed.append(lambda: self._watchers.discard(account_id))

    def drop_in(self, transaction: Transaction, account_id: str) -> None:
        """Drop a mailbox, in the writer's thread."""
        box = self._rows.drop(transaction, account_id)
        if box is None:
            return
        transaction.connection.execute("INSERT INTO dropped VALUES (?)", (box.number,))
        wakes = transaction.wakes
        transaction.committed.append(lambda: wakes.extend(self._watchers.end(account_id)))
        transaction.committed.append(self._sweep_soon)

    def _append(self, transaction: Transaction, append: "_Append") -> Accepted | MailboxFull:
        account_id, draft = append.account_id, append.draft
        box = self._rows.get(transaction, account_id)
        key = None if draft.send_id is None else key_of(box, draft, draft.send_id)
        first = self._sends.first(
            transaction, key, draft, append.content, self._send_ids_of
        ) or self._old_sends.first(transaction.connection, account_id, draft)
        accepted = first or self._store(transaction, box, append, key)
        if isinstance(accepted, Accepted) and leaves_copy(account_id, draft):
            self._copy(transaction, append, accepted, repeated=first is not None)
        return accepted

    def _store(
        self, transaction: Transaction, box: Mailbox, append: "_Append", key: Key | None
    ) -> Accepted | MailboxFull:
        """Store a message that is no repeat.

        Raises:
            Refused: its sender is blocked.
        """
        account_id, draft = append.account_id, append.draft
        if draft.sender_id != account_id and is_blocked(
            transaction.connection, box, draft.sender_id
        ):
            raise Refused
        if box.needs_trim(self._policy, draft.sent_at):
            box.trim(self._rows.tables(transaction), self._policy, draft.sent_at)
            self._rows.mark_changed(transaction, box)
        try:
            n = self._rows.append(transaction, box, draft, self._policy)
        except MailboxFull as error:
            return error  # what was trimmed stays trimmed
        if key is not None:
            self._sends.keep(transaction, key, draft, append.content, seq=box.last, n=n)
        self._wake(transaction, account_id, Kind.MAIL)
        return Accepted(draft.message_id, draft.sent_at, n)

    def _copy(
        self, transaction: Transaction, append: "_Append", accepted: Accepted, *, repeated: bool
    ) -> None:
        """Put the copy of a message into its sender's mailbox, if there is one and has none."""
        draft = append.draft
        box = self._rows.find(transaction, draft.sender_id)
        if box is None:
            return
        # A new message has none; to look for it would write what waits, in every transaction.
        if repeated and has_copy(
            self._rows.tables(transaction)(), box, append.account_id, accepted
        ):
            return
        if self._rows.add_copy(
            transaction, box, append.account_id, draft, accepted=accepted, policy=self._policy
        ):
            self._wake(transaction, draft.sender_id, Kind.SENT)

    def _put_receipt(self, account_id: str, receipt: PeerReceipt, transaction: Transaction) -> None:
        box = self._rows.find(transaction, account_id)
        if box is not None and put_receipt(transaction.connection, box, receipt, self._policy):
            self._rows.mark_changed(transaction, box)
            self._wake(transaction, account_id, Kind.RECEIPT)

    def _wake(self, transaction: Transaction, account_id: str, kind: Kind) -> None:
        wakes = transaction.wakes
        transaction.committed.append(lambda: wakes.extend(self._watchers.wakes(account_id, kind)))

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
        swept = 0
        for table in ("messages", "copies", "receipts"):
            if swept < _SWEEP:
                swept += connection.execute(
                    f"DELETE FROM {table} WHERE box = ? AND seq <= (SELECT max(seq) FROM ("  # noqa: S608 - constants
                    f"SELECT seq FROM {table} WHERE box = ? ORDER BY seq LIMIT ?))",
                    (*row, *row, _SWEEP - swept),
                ).rowcount
        if swept < _SWEEP:
            swept += connection.execute(
                "DELETE FROM send_ids WHERE (box, sender_id, send_id) IN ("
                "SELECT box, sender_id, send_id FROM send_ids WHERE box = ? LIMIT ?)",
                (*row, _SWEEP - swept),
            ).rowcount
        if swept < _SWEEP:
            connection.execute("DELETE FROM blocked WHERE box = ?", row)
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

    def __call__(self, transaction: Transaction) -> Accepted:
        outcome = self.boxes._append(transaction, self)  # noqa: SLF001 - its other half
        # The writer raises an error that is returned.
        return cast("Accepted", outcome)


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
