"""The half of the SQLite store with users and sessions."""

# ruff: noqa: D102 - the contract tells what the methods do

import sqlite3
from contextlib import suppress
from typing import Any, Final

from twinline.core.errors import NoSuchUser, StoreUnavailable, UsernameTaken
from twinline.core.names import NamePattern
from twinline.core.store import Account, Accounts, SessionRecord, Unsubscribe, UsernamePage
from twinline.core.waiting import Wake
from twinline.stores.rules import page_of_names
from twinline.stores.sqlite.cache import ReadThroughCache
from twinline.stores.sqlite.readers import Readers
from twinline.stores.sqlite.subscriptions import Subscriptions
from twinline.stores.sqlite.writer import Transaction, Writer

_CHUNK: Final = 512  # names that a listing reads at a time; names are matched between reads
_CACHED: Final = 20_000  # accounts, and sessions
_HINT_SECONDS: Final = 0.05  # what a note that nobody asked for may make a request wait


class SqliteAccounts(Accounts):
    """Accounts and sessions in tables."""

    def __init__(self, readers: Readers, writer: Writer) -> None:
        self._readers = readers
        self._writer = writer
        self._ends: Subscriptions[bytes] = Subscriptions("session ends")
        # Every request asks for a session, and every send for an account.
        self._accounts: ReadThroughCache[str, Account] = ReadThroughCache("account", _CACHED)
        self._sessions: ReadThroughCache[bytes, SessionRecord] = ReadThroughCache(
            "session", _CACHED
        )
        writer.rolled_back.append(self._changed)

    def create(self, account: Account) -> None:
        def write(transaction: Transaction) -> None:
            connection = transaction.connection
            if _one(connection, "SELECT 1 FROM accounts WHERE account_id = ?", account.account_id):
                raise ValueError(f"account id {account.account_id!r} is used twice")
            if not _is_free(connection, account.username):
                raise UsernameTaken
            connection.execute(
                "INSERT INTO accounts VALUES (?, ?, ?, ?)",
                (account.account_id, account.username, account.password_hash, account.created_at),
            )

        self._writer.do(write)

    def find(self, username: str) -> Account | None:
        return self._accounts.find(username, lambda: self._read(username))

    def _read(self, username: str) -> Account | None:
        with self._readers.reading() as connection:
            row = _one(
                connection,
                "SELECT account_id, username, password_hash, created_at FROM accounts "
                "WHERE username = ?",
                username,
            )
        return None if row is None else Account(*row)

    def is_free(self, username: str) -> bool:
        with self._readers.reading() as connection:
            return _is_free(connection, username)

    def page(self, pattern: NamePattern, after: str | None, limit: int) -> UsernamePage:
        # Most pages want the first names that follow, so the first read is as long as the page.
        count = min(_CHUNK, limit + 1)

        def names_from(start: str) -> list[str]:
            nonlocal count
            with self._readers.reading() as connection:
                rows = connection.execute(
                    "SELECT username FROM accounts WHERE username >= ? ORDER BY username LIMIT ?",
                    (start, count),
                ).fetchall()
            count = _CHUNK
            return [name for (name,) in rows]

        return page_of_names(
            pattern,
            after,
            limit,
            exists=lambda name: self.find(name) is not None,
            names_from=names_from,
        )

    def set_password_hash(self, account_id: str, password_hash: str, *, instead_of: str) -> bool:
        def write(transaction: Transaction) -> bool:
            row = _one(
                transaction.connection,
                "SELECT username, password_hash FROM accounts WHERE account_id = ?",
                account_id,
            )
            if row is None:
                raise NoSuchUser
            username, known = row
            if known != instead_of:
                return False
            self._change(transaction, username)
            transaction.connection.execute(
                "UPDATE accounts SET password_hash = ? WHERE account_id = ?",
                (password_hash, account_id),
            )
            return True

        return self._writer.do(write)

    def withdraw(self, account_id: str, *, keep_name: bool) -> bool:
        def write(transaction: Transaction) -> bool:
            connection = transaction.connection
            row = _one(connection, "SELECT username FROM accounts WHERE account_id = ?", account_id)
            if row is None:
                return False
            if keep_name:
                connection.execute("INSERT OR IGNORE INTO reserved_names VALUES (?)", row)
            self._change(transaction, *row)
            connection.execute("DELETE FROM accounts WHERE account_id = ?", (account_id,))
            self._end(transaction, _tokens(connection, account_id))
            return True

        return self._writer.do(write)

    def open_session(
        self, session: SessionRecord, *, verified: str | None = None, most: int | None = None
    ) -> None:
        def write(transaction: Transaction) -> None:
            connection = transaction.connection
            known = _one(
                connection,
                "SELECT password_hash FROM accounts WHERE account_id = ?",
                session.account_id,
            )
            if known is None or verified not in (None, known[0]):
                raise NoSuchUser
            if _one(connection, "SELECT 1 FROM sessions WHERE token_hash = ?", session.token_hash):
                raise ValueError("a session token is used twice")
            if most is not None:
                tokens = _tokens(connection, session.account_id)
                # By use, the longest ago first.
                self._end(transaction, tokens[: 1 if len(tokens) >= most else 0])
            connection.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?, ?)",
                (
                    session.token_hash,
                    session.account_id,
                    session.username,
                    session.opened_at,
                    session.used_at,
                ),
            )
            transaction.committed.append(lambda: self._ends.forget(session.token_hash))

        self._writer.do(write)

    def find_session(self, token_hash: bytes) -> SessionRecord | None:
        return self._sessions.find(token_hash, lambda: self._read_session(token_hash))

    def _read_session(self, token_hash: bytes) -> SessionRecord | None:
        with self._readers.reading() as connection:
            row = _one(
                connection,
                "SELECT token_hash, account_id, username, opened_at, used_at FROM sessions "
                "WHERE token_hash = ?",
                token_hash,
            )
        return None if row is None else SessionRecord(*row)

    def touch_session(self, token_hash: bytes, used_at: int) -> None:
        """Note that a session is in use, if that can be done without making anyone wait.

        A request that only reads must not fail because the disk is full, so what cannot be
        noted now is left for the next time.
        """

        def write(transaction: Transaction) -> None:
            self._change(transaction, token_hash)
            transaction.connection.execute(
                "UPDATE sessions SET used_at = ? WHERE token_hash = ?", (used_at, token_hash)
            )

        with suppress(StoreUnavailable):
            self._writer.do(write, _HINT_SECONDS)

    def close_session(self, token_hash: bytes) -> None:
        self._writer.do(lambda transaction: self._end(transaction, [token_hash]))

    def close_other_sessions(self, account_id: str, keep: bytes) -> None:
        def write(transaction: Transaction) -> None:
            tokens = _tokens(transaction.connection, account_id)
            self._end(transaction, [token for token in tokens if token != keep])

        self._writer.do(write)

    def on_session_end(self, token_hash: bytes, wake: Wake) -> Unsubscribe:
        return self._ends.add(token_hash, wake)

    def _end(self, transaction: Transaction, tokens: list[bytes]) -> None:
        for token in tokens:
            self._change(transaction, token)
            gone = transaction.connection.execute(
                "DELETE FROM sessions WHERE token_hash = ?", (token,)
            ).rowcount
            if gone:
                transaction.committed.append(lambda token=token: self._ends.end(token))  # type: ignore[misc]

    def _change(self, transaction: Transaction, key: str | bytes) -> None:
        """Have nobody find what is remembered of an account's name or a session's token hash."""
        if isinstance(key, bytes):
            self._sessions.change(key)
        else:
            self._accounts.change(key)
        transaction.committed.append(self._changed)

    def _changed(self) -> None:
        self._accounts.changed()
        self._sessions.changed()


def _one(connection: sqlite3.Connection, query: str, *values: object) -> Any:
    """Return the only row, or None."""
    # All rows: a statement that is not read to its end keeps its snapshot.
    rows = connection.execute(query, values).fetchall()
    return rows[0] if rows else None


def _is_free(connection: sqlite3.Connection, username: str) -> bool:
    return not _one(
        connection,
        "SELECT 1 FROM accounts WHERE username = ? "
        "UNION ALL SELECT 1 FROM reserved_names WHERE username = ?",
        username,
        username,
    )


def _tokens(connection: sqlite3.Connection, account_id: str) -> list[bytes]:
    """Return the token hashes of an account's sessions, the one used longest ago first."""
    return [
        token
        for (token,) in connection.execute(
            "SELECT token_hash FROM sessions WHERE account_id = ? ORDER BY used_at", (account_id,)
        ).fetchall()
    ]
