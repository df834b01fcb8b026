"""A SQLite store's file as an archive: read from the file, or written to one beside it.

A target is ``PATH.unfinished`` until it is whole, and then gets its name, so a server finds either
nothing or all of it.
"""

# ruff: noqa: D102 - the contract tells what the methods do

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from twinline.core.store import SEQ_JUMP, Blocked, Invitation
from twinline.stores.archive import (
    AccountRow,
    AckRow,
    Archive,
    CopyRow,
    MailboxRow,
    MessageRow,
    ReceiptRow,
    SendIdRow,
)
from twinline.stores.shared.opening import StoreNotOpened
from twinline.stores.sqlite.columns import (
    ACCOUNT_COLUMNS,
    INVITATION_COLUMNS,
    from_account,
    from_column,
    from_invitation,
    to_account,
    to_column,
    to_invitation,
)
from twinline.stores.sqlite.file import APPLICATION_ID, StoreFile, located
from twinline.stores.sqlite.lock import FileLock
from twinline.stores.sqlite.provenance import epoch_of, mark_as_copy, require_own_log, require_whole
from twinline.stores.sqlite.rows import write_rows
from twinline.stores.sqlite.schema import (
    TABLES,
    VERSION,
    lacking_tables,
    publish,
    require_free,
    sync,
    version_of,
)

_UNFINISHED: Final = ".unfinished"
_FILLED: Final = "CREATE TABLE filled_from (source TEXT NOT NULL, epoch INTEGER NOT NULL)"
# What a mailbox has, which ends with its own row.
_TABLES: Final = ("messages", "copies", "receipts", "blocked", "acks", "send_ids", "mailboxes")
_BOX: Final = "(SELECT box FROM mailboxes WHERE account_id = ?)"


class SqliteArchive(Archive):
    """A file that no server has open, and none gets while this is open."""

    def __init__(
        self, path: Path, connection: sqlite3.Connection, lock: FileLock, *, whole: bool
    ) -> None:
        """Take over a connection and the lock, to a file that is whole or not."""
        self.name = f"sqlite:{path}"
        self._path = path
        self._connection = connection
        self._lock = lock
        self._begun: dict[str, int] = {}  # the numbers of mailboxes that are not whole
        if not whole and self._has_tables():
            (self.filled_from,) = self._one("SELECT source FROM filled_from")

    @classmethod
    def open_source(cls, path: Path | str) -> Self:
        """Open a file to be read.

        Raises:
            StoreLocked: a server has it open.
            StoreNotOpened: it is no store of this version.
            sqlite3.Error, OSError: it cannot be read.
        """
        path = located(path)
        if not path.is_file():
            raise StoreNotOpened(f"there is no file {path}")
        lock = FileLock(path)
        try:
            lock.take()
            file = StoreFile(path, lock=lock)
            require_own_log(file)
            connection = file.plain()  # the last one that closes leaves one file, if it may write
            try:
                _require_present(version_of(connection, path), path)
                require_whole(file, connection)
                return cls(path, connection, lock, whole=True)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            lock.close()
            raise

    @classmethod
    def open_target(cls, path: Path | str, *, anew: bool = False) -> Self:
        """Open the file that is to be one, or go on with one that is unfinished.

        Args:
            path: the file.
            anew: remove one that is unfinished, and begin with none.

        Raises:
            FileExistsError: there is a file of that name already.
            StoreNotOpened: what stands at the unfinished one's place is something else.
            sqlite3.Error, OSError: it cannot be written.
        """
        path = located(path)
        require_free(path)
        part = path.with_name(path.name + _UNFINISHED)
        lock = FileLock(part)
        try:
            lock.take()  # of two moves to one file one goes on
            connection = sqlite3.connect(part, isolation_level=None)
            try:
                connection.execute("PRAGMA synchronous = OFF")  # synced when it is whole
                archive = cls(path, connection, lock, whole=False)
                if archive.filled_from and anew:
                    archive._empty()
            except BaseException:
                connection.close()
                raise
        except BaseException:
            lock.close()
            raise
        return archive

    def _has_tables(self) -> bool:
        if not self._is_readable():
            return False
        try:
            self._one("SELECT source FROM filled_from")
        except sqlite3.Error:
            raise StoreNotOpened(
                f"{self._path}{_UNFINISHED} is no unfinished copy of a store; move it away"
            ) from None
        if lacking_tables(self._connection):
            raise StoreNotOpened(
                f"{self._path}{_UNFINISHED} was begun by another version of this program, which "
                "does not keep the same; remove it, and begin again"
            )
        return True

    # -- reading

    def accounts(self, after: str, limit: int) -> Sequence[AccountRow]:
        if not self._is_readable():
            return ()
        rows = self._connection.execute(
            f"SELECT {ACCOUNT_COLUMNS}, (SELECT json_group_array("  # noqa: S608 - a constant
            "json_array(address, noted_at)) FROM known_addresses AS known "
            "WHERE known.account_id = accounts.account_id) FROM accounts "
            "WHERE username > ? ORDER BY username LIMIT ?",
            (after, limit),
        ).fetchall()
        return [
            AccountRow(to_account(row[:-1]), tuple(sorted(map(tuple, json.loads(row[-1])))))
            for row in rows
        ]

    def reserved_names(self, after: str, limit: int) -> Sequence[str]:
        if not self._is_readable():
            return ()
        rows = self._connection.execute(
            "SELECT username FROM reserved_names WHERE username > ? ORDER BY username LIMIT ?",
            (after, limit),
        ).fetchall()
        return [name for (name,) in rows]

    def invitations(self, after: bytes, limit: int) -> Sequence[Invitation]:
        if not self._is_readable():
            return ()
        rows = self._connection.execute(
            f"SELECT {INVITATION_COLUMNS} FROM invitations WHERE token_hash > ? "  # noqa: S608 - a constant
            "ORDER BY token_hash LIMIT ?",
            (after, limit),
        ).fetchall()
        return [to_invitation(row) for row in rows]

    def mailbox(self, account_id: str) -> MailboxRow | None:
        rows = self._connection.execute(
            "SELECT account_id, position, last, quota, newest, gives_receipts FROM mailboxes "
            "WHERE account_id = ?",
            (account_id,),
        ).fetchall()
        if not rows or account_id in self._begun or rows[0][2] < 0:
            return None
        _, position, last, quota, newest, receipts = rows[0]
        return MailboxRow(account_id, position, last, quota, newest, bool(receipts))

    def messages(self, account_id: str, after: int, limit: int) -> Sequence[MessageRow]:
        rows = self._connection.execute(
            "SELECT seq, message_id, sender, body, sent_at, sender_id, n FROM messages "  # noqa: S608 - a constant
            f"WHERE box = {_BOX} AND seq > ? ORDER BY seq LIMIT ?",
            (account_id, after, limit),
        ).fetchall()
        return [
            MessageRow(seq, message_id, sender, from_column(body), *others)
            for seq, message_id, sender, body, *others in rows
        ]

    def acks(self, account_id: str, after: int, limit: int) -> Sequence[AckRow]:
        rows = self._connection.execute(
            f"SELECT position, acked_at FROM acks WHERE box = {_BOX} AND position > ? "  # noqa: S608 - a constant
            "ORDER BY position LIMIT ?",
            (account_id, after, limit),
        ).fetchall()
        return [AckRow(*row) for row in rows]

    def send_ids(self, account_id: str, after: int, limit: int) -> Sequence[SendIdRow]:
        rows = self._connection.execute(
            "SELECT seq, sender_id, send_id, content, message_id, sent_at, n FROM send_ids "  # noqa: S608 - a constant
            f"WHERE box = {_BOX} AND seq > ? ORDER BY seq LIMIT ?",
            (account_id, after, limit),
        ).fetchall()
        return [
            SendIdRow(seq, sender_id, from_column(send_id), *others)
            for seq, sender_id, send_id, *others in rows
        ]

    def copies(self, account_id: str, after: int, limit: int) -> Sequence[CopyRow]:
        rows = self._connection.execute(
            "SELECT seq, message_id, sender, peer_id, peer, body, sent_at, n FROM copies "  # noqa: S608 - a constant
            f"WHERE box = {_BOX} AND seq > ? ORDER BY seq LIMIT ?",
            (account_id, after, limit),
        ).fetchall()
        return [
            CopyRow(seq, message_id, sender, peer_id, peer, from_column(body), sent_at, n)
            for seq, message_id, sender, peer_id, peer, body, sent_at, n in rows
        ]

    def receipts(self, account_id: str, after: int, limit: int) -> Sequence[ReceiptRow]:
        rows = self._connection.execute(
            f"SELECT seq, peer_id, peer, n, acked_at FROM receipts WHERE box = {_BOX} "  # noqa: S608 - a constant
            "AND seq > ? ORDER BY seq LIMIT ?",
            (account_id, after, limit),
        ).fetchall()
        return [ReceiptRow(*row) for row in rows]

    def blocked(self, account_id: str) -> Sequence[Blocked]:
        rows = self._connection.execute(
            f"SELECT peer_id, peer FROM blocked WHERE box = {_BOX} ORDER BY peer_id",  # noqa: S608 - a constant
            (account_id,),
        ).fetchall()
        return [Blocked(*row) for row in rows]

    def _is_readable(self) -> bool:
        return bool(self._one("SELECT count(*) FROM sqlite_schema")[0])

    # -- writing

    def begin(self, source: str) -> None:
        if self.filled_from:
            return
        connection = self._connection
        connection.execute("BEGIN")
        for statement in TABLES:
            connection.execute(statement)
        connection.execute(_FILLED)
        # Beyond the epoch of a file that was here before, and may have been read.
        connection.execute("INSERT INTO filled_from VALUES (?, ?)", (source, epoch_of(self._path)))
        connection.execute("COMMIT")
        self.filled_from = source

    def put_accounts(self, rows: Sequence[AccountRow]) -> None:
        with self._writing() as connection:
            for account, addresses in rows:
                connection.execute(
                    "DELETE FROM accounts WHERE account_id = ? OR username = ?",
                    (account.account_id, account.username),
                )
                write_rows(connection, "INSERT INTO accounts", [from_account(account)])
                noted = [(account.account_id, *each) for each in addresses]
                write_rows(connection, "INSERT INTO known_addresses", noted)

    def put_reserved_names(self, names: Sequence[str]) -> None:
        with self._writing() as connection:
            write_rows(
                connection, "INSERT OR IGNORE INTO reserved_names", [(name,) for name in names]
            )

    def put_invitations(self, rows: Sequence[Invitation]) -> None:
        with self._writing() as connection:
            write_rows(
                connection,
                "INSERT OR REPLACE INTO invitations",
                [from_invitation(each) for each in rows],
            )

    def begin_mailbox(self, account_id: str) -> None:
        with self._writing() as connection:
            for table in _TABLES:
                connection.execute(f"DELETE FROM {table} WHERE box = {_BOX}", (account_id,))  # noqa: S608 - constants
            # A last seq that no mailbox has: it is not whole.
            number = connection.execute(
                "INSERT INTO mailboxes (account_id, position, last) VALUES (?, -1, -1)",
                (account_id,),
            ).lastrowid
        assert number is not None  # noqa: S101 - for the type checker: it was inserted
        self._begun[account_id] = number

    def put_messages(self, account_id: str, rows: Sequence[MessageRow]) -> None:
        self._put(
            "messages",
            account_id,
            [
                (seq, message_id, sender, to_column(body), *others, 1)
                for seq, message_id, sender, body, *others in rows
            ],
        )

    def put_acks(self, account_id: str, rows: Sequence[AckRow]) -> None:
        self._put("acks", account_id, list(rows))

    def put_send_ids(self, account_id: str, rows: Sequence[SendIdRow]) -> None:
        self._put(
            "send_ids",
            account_id,
            [
                (sender_id, to_column(send_id), content, message_id, sent_at, seq, n)
                for seq, sender_id, send_id, content, message_id, sent_at, n in rows
            ],
        )

    def put_copies(self, account_id: str, rows: Sequence[CopyRow]) -> None:
        self._put(
            "copies",
            account_id,
            [(*first, sent_at, n, to_column(body), 1) for *first, body, sent_at, n in rows],
        )

    def put_receipts(self, account_id: str, rows: Sequence[ReceiptRow]) -> None:
        self._put(
            "receipts",
            account_id,
            [(peer_id, peer, seq, n, acked_at) for seq, peer_id, peer, n, acked_at in rows],
        )

    def put_blocked(self, account_id: str, rows: Sequence[Blocked]) -> None:
        self._put("blocked", account_id, list(rows))

    def _put(self, table: str, account_id: str, rows: Sequence[tuple[Any, ...]]) -> None:
        box = self._begun[account_id]
        with self._writing() as connection:
            write_rows(connection, f"INSERT INTO {table}", [(box, *row) for row in rows])

    def end_mailbox(self, row: MailboxRow) -> None:
        box = self._begun.pop(row.account_id)
        with self._writing() as connection:
            connection.execute(
                "UPDATE mailboxes SET position = :position, last = :last, quota = :quota, "
                "newest = :newest, gives_receipts = :receipts, filed = :last, "
                "copies = (SELECT count(*) FROM copies WHERE box = :box), "
                "receipts = (SELECT count(*) FROM receipts WHERE box = :box), "
                "blocked = (SELECT count(*) FROM blocked WHERE box = :box), "
                "unread = (SELECT count(*) FROM messages WHERE box = :box AND seq > :position), "
                "acked = (SELECT count(*) FROM messages WHERE box = :box AND seq <= :position), "
                "oldest_ack = (SELECT acked_at FROM acks WHERE box = :box "
                "ORDER BY position LIMIT 1) WHERE box = :box",
                {"box": box, **row._asdict()},
            )

    def end(self) -> None:
        connection = self._connection
        (before,) = self._one("SELECT epoch FROM filled_from")
        (last,) = self._one("SELECT ifnull(max(last), 0) FROM mailboxes")
        with self._writing():
            connection.execute("DROP TABLE filled_from")
            connection.execute("UPDATE store SET epoch = ?", (max(before, last // SEQ_JUMP),))
            mark_as_copy(connection)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.close()
        part = self._path.with_name(self._path.name + _UNFINISHED)
        sync(part)
        require_free(self._path)
        publish(part, self._path)

    def _empty(self) -> None:
        tables = self._connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        with self._writing() as connection:
            for (table,) in tables:
                connection.execute(f"DROP TABLE {table}")
        self.filled_from = ""

    def discard(self) -> None:
        """Remove what is unfinished; nothing more can be done with it."""
        self._connection.close()
        part = self._path.with_name(self._path.name + _UNFINISHED)
        for end in ("-journal", ""):
            part.with_name(part.name + end).unlink(missing_ok=True)

    def close(self) -> None:
        self._connection.close()
        self._lock.close()

    def _one(self, query: str) -> Any:
        (row,) = self._connection.execute(query).fetchall()
        return row

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        connection.execute("BEGIN")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _require_present(version: int | None, path: Path) -> None:
    if version != VERSION:
        raise StoreNotOpened(
            f"{path} has schema version {version or 0}; bring it to {VERSION} with "
            "'twinline store migrate'"
        )
