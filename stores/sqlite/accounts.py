"""The half of the SQLite store with users and sessions."""

# ruff: noqa: D102 - the contract tells what the methods do

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from twinline.core.errors import InvitationInvalid, NoSuchUser, StoreUnavailable, UsernameTaken
from twinline.core.names import NamePattern
from twinline.core.store import (
    Account,
    Accounts,
    Invitation,
    SessionKey,
    SessionRecord,
    Unsubscribe,
    UsernamePage,
)
from twinline.core.waiting import Wake
from twinline.stores.rules import page_of_names
from twinline.stores.shared.subscriptions import Subscriptions
from twinline.stores.sqlite.cache import ReadThroughCache
from twinline.stores.sqlite.columns import (
    ACCOUNT_COLUMNS,
    INVITATION_COLUMNS,
    from_account,
    from_invitation,
    to_account,
    to_invitation,
)
from twinline.stores.sqlite.readers import Readers
from twinline.stores.sqlite.rows import write_rows
from twinline.stores.sqlite.writer import Transaction, Writer

_CACHED: Final = 20_000  # accounts, and sessions
# Of a token that does not say whose it is, the account is not asked for.
_OF_KEY: Final = "token_hash = :token_hash AND (:account_id IS NULL OR account_id = :account_id)"
_TOUCH_SECONDS: Final = 0.05  # how long a request may wait for the note that it uses a session


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
        writer.on_rollback.append(self._resume_caching)

    def create(self, account: Account, *, invitation: bytes | None = None) -> None:
        def write(transaction: Transaction) -> None:
            connection = transaction.connection
            if _one(connection, "SELECT 1 FROM accounts WHERE account_id = ?", account.account_id):
                raise ValueError(f"account id {account.account_id!r} is used twice")
            if not _is_free(connection, account.username):
                raise UsernameTaken
            if invitation is not None:
                _require_invitation(connection, invitation, account.created_at)
                connection.execute("DELETE FROM invitations WHERE token_hash = ?", (invitation,))
            write_rows(connection, "INSERT INTO accounts", [from_account(account)])

        self._writer.do(write)

    def find(self, username: str) -> Account | None:
        return self._accounts.get(username, lambda: self._read(username))

    def _read(self, username: str) -> Account | None:
        with self._readers.reading() as connection:
            row = _one(
                connection,
                f"SELECT {ACCOUNT_COLUMNS} FROM accounts WHERE username = ?",  # noqa: S608 - a constant
                username,
            )
        return None if row is None else to_account(row)

    def username_of(self, account_id: str) -> str | None:
        with self._readers.reading() as connection:
            query = "SELECT username FROM accounts WHERE account_id = ?"
            row = _one(connection, query, account_id)
        return None if row is None else row[0]

    def is_free(self, username: str) -> bool:
        with self._readers.reading() as connection:
            return _is_free(connection, username)

    def page(self, pattern: NamePattern, after: str | None, limit: int) -> UsernamePage:
        return page_of_names(
            pattern,
            after,
            limit,
            exists=lambda name: self.find(name) is not None,
            names_from=self._names_from,
        )

    def _names_from(self, start: str, count: int) -> list[str]:
        with self._readers.reading() as connection:
            rows = connection.execute(
                "SELECT username FROM accounts WHERE username >= ? ORDER BY username LIMIT ?",
                (start, count),
            ).fetchall()
        return [name for (name,) in rows]

    def set_password_hash(self, account_id: str, password_hash: str, *, instead_of: str) -> bool:
        return self._writer.do(
            lambda transaction: self._replace_hash(
                transaction, account_id, password_hash, instead_of
            )
        )

    def change_password(
        self,
        account_id: str,
        password_hash: str,
        *,
        instead_of: str | None,
        keep: bytes | None,
        must_change: bool = False,
    ) -> bool:
        def write(transaction: Transaction) -> bool:
            if not self._replace_hash(
                transaction, account_id, password_hash, instead_of, must_change=must_change
            ):
                return False
            tokens = _tokens(transaction.connection, account_id)
            self._end(transaction, [token for token in tokens if token != keep])
            return True

        return self._writer.do(write)

    def _replace_hash(
        self,
        transaction: Transaction,
        account_id: str,
        password_hash: str,
        instead_of: str | None,
        *,
        must_change: bool | None = None,
    ) -> bool:
        """Replace a hash, if the present one is named or none is; None leaves `must_change`."""
        row = _one(
            transaction.connection,
            "SELECT username, password_hash FROM accounts WHERE account_id = ?",
            account_id,
        )
        if row is None:
            raise NoSuchUser
        username, known = row
        if instead_of not in (None, known):
            return False
        self._invalidate(transaction, username)
        transaction.connection.execute(
            "UPDATE accounts SET password_hash = ?, must_change = ifnull(?, must_change) "
            "WHERE account_id = ?",
            (password_hash, must_change, account_id),
        )
        return True

    def enable(self, account_id: str, *, enabled: bool) -> None:
        def write(transaction: Transaction) -> None:
            connection = transaction.connection
            row = _one(connection, "SELECT username FROM accounts WHERE account_id = ?", account_id)
            if row is None:
                raise NoSuchUser
            self._invalidate(transaction, row[0])
            connection.execute(
                "UPDATE accounts SET enabled = ? WHERE account_id = ?", (enabled, account_id)
            )
            if not enabled:
                self._end(transaction, _tokens(connection, account_id))

        self._writer.do(write)

    def hash_profiles(self) -> Mapping[str, int]:
        with self._readers.reading() as connection:
            query = "SELECT profile, accounts FROM hash_profiles WHERE accounts > 0"
            return dict(connection.execute(query).fetchall())

    def note_address(self, account_id: str, address: str, at: int, *, most: int) -> None:
        def write(transaction: Transaction) -> None:
            connection = transaction.connection
            if not _one(connection, "SELECT 1 FROM accounts WHERE account_id = ?", account_id):
                return
            connection.execute(
                "INSERT OR REPLACE INTO known_addresses VALUES (?, ?, ?)", (account_id, address, at)
            )
            connection.execute(
                "DELETE FROM known_addresses WHERE account_id = ? AND address IN "
                "(SELECT address FROM known_addresses WHERE account_id = ? "
                "ORDER BY noted_at DESC LIMIT -1 OFFSET ?)",
                (account_id, account_id, most),
            )

        self._writer.do(write)

    def address_noted_at(self, account_id: str, address: str) -> int | None:
        with self._readers.reading() as connection:
            row = _one(
                connection,
                "SELECT noted_at FROM known_addresses WHERE account_id = ? AND address = ?",
                account_id,
                address,
            )
        return None if row is None else int(row[0])

    def addresses(self, account_id: str) -> Mapping[str, int]:
        with self._readers.reading() as connection:
            query = "SELECT address, noted_at FROM known_addresses WHERE account_id = ?"
            return dict(connection.execute(query, (account_id,)).fetchall())

    def add_invitation(self, invitation: Invitation) -> None:
        def write(transaction: Transaction) -> None:
            connection = transaction.connection
            query = "SELECT 1 FROM invitations WHERE token_hash = ?"
            if _one(connection, query, invitation.token_hash):
                raise ValueError("an invitation's token is used twice")
            connection.execute(
                "DELETE FROM invitations WHERE expires_at <= ?", (invitation.created_at,)
            )
            write_rows(connection, "INSERT INTO invitations", [from_invitation(invitation)])

        self._writer.do(write)

    def find_invitation(self, token_hash: bytes) -> Invitation | None:
        with self._readers.reading() as connection:
            row = _one(
                connection,
                f"SELECT {INVITATION_COLUMNS} FROM invitations WHERE token_hash = ?",  # noqa: S608 - a constant
                token_hash,
            )
        return None if row is None else to_invitation(row)

    def invitations(self) -> Sequence[Invitation]:
        with self._readers.reading() as connection:
            query = f"SELECT {INVITATION_COLUMNS} FROM invitations ORDER BY created_at"  # noqa: S608 - a constant
            return [to_invitation(row) for row in connection.execute(query).fetchall()]

    def drop_invitation(self, token_hash: bytes) -> bool:
        def write(transaction: Transaction) -> bool:
            return bool(
                transaction.connection.execute(
                    "DELETE FROM invitations WHERE token_hash = ?", (token_hash,)
                ).rowcount
            )

        return self._writer.do(write)

    def withdraw(self, account_id: str, *, keep_name: bool, verified: str | None = None) -> bool:
        def write(transaction: Transaction) -> bool:
            connection = transaction.connection
            row = _one(
                connection,
                "SELECT username, password_hash FROM accounts WHERE account_id = ?",
                account_id,
            )
            if row is None:
                return False
            username, known = row
            if verified not in (None, known):
                return False
            if keep_name:
                connection.execute("INSERT OR IGNORE INTO reserved_names VALUES (?)", (username,))
            self._invalidate(transaction, username)
            connection.execute("DELETE FROM accounts WHERE account_id = ?", (account_id,))
            self._end(transaction, _tokens(connection, account_id))
            return True

        return self._writer.do(write)

    def open_session(
        self, session: SessionRecord, *, verified: str | None = None, most: int | None = None
    ) -> bool:
        def write(transaction: Transaction) -> bool:
            connection = transaction.connection
            known = _one(
                connection,
                "SELECT password_hash FROM accounts WHERE account_id = ? AND enabled",
                session.account_id,
            )
            if known is None or verified not in (None, known[0]):
                raise NoSuchUser
            if _one(connection, "SELECT 1 FROM sessions WHERE token_hash = ?", session.token_hash):
                raise ValueError("a session token is used twice")
            oldest = []
            if most is not None:
                tokens = _tokens(connection, session.account_id)
                # By use, the longest ago first.
                oldest = tokens[: 1 if len(tokens) >= most else 0]
                self._end(transaction, oldest)
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
            transaction.committed.append(lambda: self._ends.discard(session.token_hash))
            return bool(oldest)

        return self._writer.do(write)

    def find_session(self, key: SessionKey) -> SessionRecord | None:
        account_id, token_hash = key
        record = self._sessions.get(token_hash, lambda: self._read_session(token_hash))
        if record is None or account_id not in (None, record.account_id):
            return None
        return record

    def _read_session(self, token_hash: bytes) -> SessionRecord | None:
        with self._readers.reading() as connection:
            row = _one(
                connection,
                "SELECT token_hash, account_id, username, opened_at, used_at FROM sessions "
                "WHERE token_hash = ?",
                token_hash,
            )
        return None if row is None else SessionRecord(*row)

    def sessions(self, account_id: str) -> Sequence[SessionRecord]:
        with self._readers.reading() as connection:
            rows = connection.execute(
                "SELECT token_hash, account_id, username, opened_at, used_at FROM sessions "
                "WHERE account_id = ? ORDER BY used_at DESC",
                (account_id,),
            ).fetchall()
        return [SessionRecord(*row) for row in rows]

    def close_sessions(self, account_id: str) -> int:
        def write(transaction: Transaction) -> int:
            tokens = _tokens(transaction.connection, account_id)
            self._end(transaction, tokens)
            return len(tokens)

        return self._writer.do(write)

    def touch_session(self, key: SessionKey, used_at: int) -> None:
        """Note that a session is in use, if that can be done without a long wait.

        A request that only reads must not fail because the disk is full, so what cannot be
        noted now is left for the next time.
        """

        def write(transaction: Transaction) -> None:
            self._invalidate(transaction, key.token_hash)
            transaction.connection.execute(
                f"UPDATE sessions SET used_at = :used_at WHERE {_OF_KEY}",  # noqa: S608
                {"used_at": used_at, **key._asdict()},
            )

        with suppress(StoreUnavailable):
            self._writer.do(write, _TOUCH_SECONDS)

    def close_session(self, key: SessionKey) -> None:
        def write(transaction: Transaction) -> None:
            found = transaction.connection.execute(
                f"SELECT token_hash FROM sessions WHERE {_OF_KEY}",  # noqa: S608
                key._asdict(),
            ).fetchall()
            self._end(transaction, [token for (token,) in found])

        self._writer.do(write)

    def on_session_end(self, key: SessionKey, wake: Wake) -> Unsubscribe:
        return self._ends.add(key.token_hash, wake)

    def _end(self, transaction: Transaction, tokens: list[bytes]) -> None:
        wakes = transaction.wakes
        for token in tokens:
            self._invalidate(transaction, token)
            gone = transaction.connection.execute(
                "DELETE FROM sessions WHERE token_hash = ?", (token,)
            ).rowcount
            if gone:
                transaction.committed.append(
                    lambda token=token: wakes.extend(self._ends.end(token))  # type: ignore[misc]
                )

    def _invalidate(self, transaction: Transaction, key: str | bytes) -> None:
        """Drop what is cached under an account's name or a session's token hash."""
        if isinstance(key, bytes):
            self._sessions.invalidate(key)
        else:
            self._accounts.invalidate(key)
        transaction.committed.append(self._resume_caching)

    def _resume_caching(self) -> None:
        self._accounts.resume()
        self._sessions.resume()


def _one(connection: sqlite3.Connection, query: str, *values: object) -> Any:
    """Return the only row, or None."""
    # All rows: a statement that is not read to its end keeps its snapshot.
    rows = connection.execute(query, values).fetchall()
    return rows[0] if rows else None


def _require_invitation(connection: sqlite3.Connection, token_hash: bytes, now: int) -> None:
    row = _one(connection, "SELECT expires_at FROM invitations WHERE token_hash = ?", token_hash)
    if row is None or row[0] <= now:
        raise InvitationInvalid


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
