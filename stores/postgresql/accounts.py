"""The half of the PostgreSQL store with users and sessions.

1. What changes an account, or opens a session of it, locks the row of its name first: no two such
   steps of one account are made at once, and no two of them wait for each other. Behind that row
   come sessions, then addresses, then the counts of `hash_profiles`.
2. A statement sees what was committed when it began. So the lock is a statement of its own, in
   front of those that look at what it guards.
3. The end of a session is told to all servers within the transaction that ends it.
4. An invitation is spent by deleting its row in the transaction that inserts the name, behind it.
5. Requests ask for sessions and sends for recipients, so both are remembered; see `find_session`
   and `recipient`. Look-ups that wait at the same time are one statement. Whether an account may be
   logged in to is never remembered: `find` asks, and `open_session` looks at it under the lock.
"""

# ruff: noqa: D102 - the contract tells what the methods do

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from twinline.core.errors import InvitationInvalid, NoSuchUser, UsernameTaken
from twinline.core.names import NamePattern
from twinline.core.passwords import profile_of
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
from twinline.stores.postgresql.arrays import blobs, texts
from twinline.stores.postgresql.database import Pool, transaction
from twinline.stores.postgresql.link import Call, Link, Rows
from twinline.stores.postgresql.notices import Kind
from twinline.stores.postgresql.touches import Touches
from twinline.stores.postgresql.wakes import Wakes
from twinline.stores.rules import page_of_names
from twinline.stores.shared.cache import RecentCache
from twinline.stores.shared.coalescing import Coalescing

_HALF_PAIR: Final = re.compile("[\ud800-\udfff]")
_CACHED: Final = 20_000  # sessions, and recipients
_SESSION_SECONDS: Final = 600.0
"""How long a session is remembered under the lease. Its end and its use are told; this bounds what
a notice of its use that was lost can do, far below the time after which an idle session ends."""
_RECIPIENT_SECONDS: Final = 0.9
_PROFILES_SECONDS: Final = 60.0
_AT_ONCE: Final = 500  # look-ups in one statement
_PARTS: Final = 16
"""Rows in which the accounts of one profile are counted, so that registrations at the same time
seldom wait for each other's."""

_LOCK: Final = """
    SELECT username, password_hash, enabled FROM names WHERE account_id = $1
    FOR NO KEY UPDATE"""
_CREATE: Final = """
    INSERT INTO names (username, account_id, password_hash, created_at, enabled, must_change)
    VALUES ($1, $2, $3, $4::bigint, $5::boolean, $6::boolean)
    ON CONFLICT DO NOTHING RETURNING true"""
_HAS_ID: Final = "SELECT true FROM names WHERE account_id = $1"
_HAS_NAME: Final = "SELECT true FROM names WHERE username = $1"
_FIND: Final = """
    SELECT account_id, username, password_hash, created_at, enabled, must_change
    FROM names WHERE username = ANY ($1::text[]) AND account_id IS NOT NULL"""
_NAME_OF: Final = "SELECT username FROM names WHERE account_id = $1"
_NAMES: Final = """
    SELECT username FROM names WHERE username {} $1 AND account_id IS NOT NULL
    ORDER BY username LIMIT $2::bigint"""
_SET_HASH: Final = """
    UPDATE names SET password_hash = $2, must_change = coalesce($3::boolean, must_change)
    WHERE account_id = $1"""
_ENABLE: Final = "UPDATE names SET enabled = $2::boolean WHERE account_id = $1"
_COUNT: Final = """
    INSERT INTO hash_profiles AS counted (profile, part, accounts)
    VALUES ($1, $2::bigint, $3::bigint)
    ON CONFLICT (profile, part) DO UPDATE SET accounts = counted.accounts + excluded.accounts"""
_PROFILES: Final = """
    SELECT profile, sum(accounts)::bigint FROM hash_profiles
    GROUP BY profile HAVING sum(accounts) > 0"""
_RESERVE: Final = """
    UPDATE names SET account_id = NULL, password_hash = NULL, created_at = NULL,
        enabled = DEFAULT, must_change = DEFAULT
    WHERE account_id = $1"""
_FREE: Final = "DELETE FROM names WHERE account_id = $1"
_END: Final = """
    DELETE FROM sessions WHERE account_id = $1 AND token_hash = $2 RETURNING token_hash"""
_END_OTHERS: Final = """
    DELETE FROM sessions WHERE account_id = $1 AND token_hash <> $2 RETURNING token_hash"""
_END_ALL: Final = "DELETE FROM sessions WHERE account_id = $1 RETURNING token_hash"
_SESSIONS_OF: Final = """
    SELECT token_hash, account_id, username, opened_at, used_at FROM sessions
    WHERE account_id = $1 ORDER BY used_at DESC, opened_at DESC, token_hash"""
_OLDEST: Final = """
    SELECT token_hash FROM sessions WHERE account_id = $1
    ORDER BY used_at, opened_at, token_hash LIMIT $2::bigint"""
_OPEN: Final = """
    INSERT INTO sessions (token_hash, account_id, username, opened_at, used_at)
    VALUES ($1, $2, $3, $4::bigint, $5::bigint) ON CONFLICT DO NOTHING RETURNING true"""
_SESSIONS: Final = """
    SELECT token_hash, account_id, username, opened_at, used_at
    FROM unnest($1::text[], $2::bytea[]) AS wanted (account_id, token_hash)
    JOIN sessions USING (account_id, token_hash)"""
# Where the account is gone, nothing is noted.
_NOTE: Final = """
    INSERT INTO known_addresses (account_id, address, noted_at)
    SELECT account_id, $2, $3::bigint FROM names WHERE account_id = $1
    ON CONFLICT (account_id, address) DO UPDATE SET noted_at = excluded.noted_at"""
_NOTE_NO_MORE: Final = """
    DELETE FROM known_addresses WHERE account_id = $1 AND address IN (
        SELECT address FROM known_addresses WHERE account_id = $1
        ORDER BY noted_at DESC, address OFFSET $2::bigint)"""
_NOTED_AT: Final = """
    SELECT account_id, address, noted_at
    FROM unnest($1::text[], $2::bytea[]) AS wanted (account_id, address)
    JOIN known_addresses USING (account_id, address)"""
_ADDRESSES: Final = "SELECT address, noted_at FROM known_addresses WHERE account_id = $1"
_FORGET: Final = "DELETE FROM known_addresses WHERE account_id = $1"
_INVITE: Final = """
    INSERT INTO invitations (token_hash, created_at, expires_at, note)
    VALUES ($1, $2::bigint, $3::bigint, $4) ON CONFLICT DO NOTHING RETURNING true"""
_INVITE_NO_MORE: Final = """
    DELETE FROM invitations WHERE token_hash IN (
        SELECT token_hash FROM invitations WHERE expires_at <= $1::bigint AND token_hash <> $2
        FOR UPDATE SKIP LOCKED)"""
_INVITATION: Final = """
    SELECT token_hash, created_at, expires_at, note FROM invitations WHERE token_hash = $1"""
_INVITATIONS: Final = """
    SELECT token_hash, created_at, expires_at, note FROM invitations
    ORDER BY created_at, token_hash"""
_SPEND: Final = """
    DELETE FROM invitations WHERE token_hash = $1 AND expires_at > $2::bigint RETURNING true"""
_DROP_INVITATION: Final = "DELETE FROM invitations WHERE token_hash = $1 RETURNING true"


class PostgresqlAccounts(Accounts):
    """Accounts and sessions in tables that several servers share."""

    def __init__(self, pool: Pool, wakes: Wakes, permit: Callable[[Link], object]) -> None:
        """Prepare; before the wakes are started.

        Args:
            pool: the connections for accounts.
            wakes: tells the other servers, and hears them.
            permit: raises `StoreUnavailable` where writes are refused.
        """
        self._pool = pool
        self._permit = permit
        self._wakes = wakes
        self._sessions: RecentCache[str, bytes, SessionRecord] = RecentCache(
            "session cache", most=_CACHED, keep_seconds=_SESSION_SECONDS
        )
        self._recipients: RecentCache[str, str, str] = RecentCache(
            "recipient cache", most=_CACHED, keep_seconds=_RECIPIENT_SECONDS
        )
        self._profiles: RecentCache[None, None, Mapping[str, int]] = RecentCache(
            "profile cache", most=1, keep_seconds=_PROFILES_SECONDS
        )
        self._found = Coalescing("accounts looked up", self._read_accounts, most=_AT_ONCE)
        self._found_sessions = Coalescing("sessions looked up", self._read_sessions, most=_AT_ONCE)
        self._noted = Coalescing("addresses looked up", self._read_addresses, most=_AT_ONCE)
        self._touches = Touches(pool, wakes, self._read_sessions)
        wakes.on(Kind.SESSIONS, self._sessions_ended)
        wakes.on(Kind.ACCOUNTS, self._accounts_changed)
        wakes.on_gap += [self._sessions.clear, self._touches.look_again]

    def start(self) -> None:
        """Begin to look after the sessions; when the wakes are started."""
        self._touches.start()

    def close(self) -> None:
        """End what `start` has begun; while the connections are still there."""
        self._touches.close()

    # -- accounts and names -----------------------------------------------------------------------

    def create(self, account: Account, *, invitation: bytes | None = None) -> None:
        name = _plain(account.username)
        if name is None:
            raise ValueError("PostgreSQL cannot keep such a name")
        with self._transaction() as link:
            calls = [
                Call(
                    _CREATE,
                    name,
                    account.account_id,
                    account.password_hash,
                    account.created_at,
                    account.enabled,
                    account.must_change,
                ),
                Call(_HAS_ID, account.account_id),
            ]
            if invitation is not None:
                calls.append(Call(_SPEND, invitation, account.created_at))
            created, same_id, *spent = link.run(*calls)
            if not created:
                if same_id:
                    raise ValueError(f"account id {account.account_id!r} is used twice")
                raise UsernameTaken
            if spent == [[]]:
                raise InvitationInvalid
            link.run(*_counting({profile_of(account.password_hash): 1}))
        self._profiles.clear()

    def find(self, username: str) -> Account | None:
        name = _plain(username)
        return None if name is None else self._found.get(name)

    def _read_accounts(self, names: Sequence[str]) -> Mapping[str, Account]:
        (rows,) = self._pool.run(Call(_FIND, texts(names)))
        accounts = (Account(*row) for row in rows)
        return {account.username: account for account in accounts}

    def recipient(self, username: str) -> str | None:
        """Return the id of the account of that name, from memory if it is not a second old.

        A name that nobody has is never remembered: it may be had the moment after.
        """

        def read() -> str | None:
            account = self.find(username)
            return None if account is None else account.account_id

        return self._recipients.get(username, "", read)

    def username_of(self, account_id: str) -> str | None:
        (rows,) = self._pool.run(Call(_NAME_OF, account_id))
        return rows[0][0] if rows else None

    def is_free(self, username: str) -> bool:
        name = _plain(username)
        return name is None or not self._pool.run(Call(_HAS_NAME, name))[0]

    def page(self, pattern: NamePattern, after: str | None, limit: int) -> UsernamePage:
        return page_of_names(
            pattern,
            after,
            limit,
            exists=lambda name: self.find(name) is not None,
            names_from=self._names_from,
        )

    def _names_from(self, start: str, count: int) -> list[str]:
        comparison, text = _at_or_above(start)
        (rows,) = self._pool.run(Call(_NAMES.format(comparison), text, count))
        return [name for (name,) in rows]

    # -- passwords and addresses ------------------------------------------------------------------

    def set_password_hash(self, account_id: str, password_hash: str, *, instead_of: str) -> bool:
        with self._transaction() as link:
            replaced = _replace_hash(link, account_id, password_hash, instead_of)
        self._profiles.clear()
        return replaced

    def change_password(
        self,
        account_id: str,
        password_hash: str,
        *,
        instead_of: str | None,
        keep: bytes | None,
        must_change: bool = False,
    ) -> bool:
        with self._ending(account_id) as (link, ended):
            if not _replace_hash(
                link, account_id, password_hash, instead_of, must_change=must_change
            ):
                return False
            if keep is None:
                ended.extend(link.execute(_END_ALL, account_id))
            else:
                ended.extend(link.execute(_END_OTHERS, account_id, keep))
        self._profiles.clear()
        return True

    def enable(self, account_id: str, *, enabled: bool) -> None:
        with self._ending(account_id) as (link, ended):
            if not link.execute(_LOCK, account_id):
                raise NoSuchUser
            if not enabled:
                ended.extend(link.execute(_END_ALL, account_id))
            link.execute(_ENABLE, account_id, enabled)

    def hash_profiles(self) -> Mapping[str, int]:
        """Return how many accounts there are of each profile, from memory if that is not old."""
        return self._profiles.get(None, None, self._read_profiles) or {}

    def _read_profiles(self) -> Mapping[str, int]:
        (rows,) = self._pool.run(Call(_PROFILES))
        return dict(rows)

    def note_address(self, account_id: str, address: str, at: int, *, most: int) -> None:
        key = _blob(address)
        with self._transaction() as link:
            link.run(
                Call(_LOCK, account_id),
                Call(_NOTE, account_id, key, at),
                Call(_NOTE_NO_MORE, account_id, most),
            )

    def address_noted_at(self, account_id: str, address: str) -> int | None:
        return self._noted.get((account_id, _blob(address)))

    def _read_addresses(
        self, wanted: Sequence[tuple[str, bytes]]
    ) -> Mapping[tuple[str, bytes], int]:
        account_ids, addresses = zip(*wanted, strict=True)
        (rows,) = self._pool.run(Call(_NOTED_AT, texts(account_ids), blobs(addresses)))
        return {(account_id, address): noted_at for account_id, address, noted_at in rows}

    def addresses(self, account_id: str) -> Mapping[str, int]:
        (rows,) = self._pool.run(Call(_ADDRESSES, account_id))
        return {_text(address): noted_at for address, noted_at in rows}

    # -- invitations ------------------------------------------------------------------------------

    def add_invitation(self, invitation: Invitation) -> None:
        token_hash, created_at = invitation.token_hash, invitation.created_at
        with self._transaction() as link:
            added, _ = link.run(
                Call(
                    _INVITE, token_hash, created_at, invitation.expires_at, _blob(invitation.note)
                ),
                Call(_INVITE_NO_MORE, created_at, token_hash),
            )
            if not added:
                raise ValueError("an invitation's token is used twice")

    def find_invitation(self, token_hash: bytes) -> Invitation | None:
        (rows,) = self._pool.run(Call(_INVITATION, token_hash))
        return _invitation(rows[0]) if rows else None

    def invitations(self) -> Sequence[Invitation]:
        (rows,) = self._pool.run(Call(_INVITATIONS))
        return [_invitation(row) for row in rows]

    def drop_invitation(self, token_hash: bytes) -> bool:
        with self._transaction() as link:
            return bool(link.execute(_DROP_INVITATION, token_hash))

    def withdraw(self, account_id: str, *, keep_name: bool, verified: str | None = None) -> bool:
        with self._ending(account_id) as (link, ended):
            locked = link.execute(_LOCK, account_id)
            if not locked or verified not in (None, locked[0][1]):
                return False
            ((username, known, _),) = locked
            _, tokens, *_ = link.run(
                Call(_RESERVE if keep_name else _FREE, account_id),
                Call(_END_ALL, account_id),
                Call(_FORGET, account_id),
                *_counting({profile_of(known): -1}),
            )
            ended.extend(tokens)
        self._recipients.forget([username])
        self._profiles.clear()
        return True

    # -- sessions ---------------------------------------------------------------------------------

    def open_session(
        self, session: SessionRecord, *, verified: str | None = None, most: int | None = None
    ) -> bool:
        account_id, token_hash = session.account_id, session.token_hash
        with self._ending(account_id) as (link, ended):
            locked, oldest = link.run(
                Call(_LOCK, account_id), Call(_OLDEST, account_id, 0 if most is None else most)
            )
            if not locked or not locked[0][2] or verified not in (None, locked[0][1]):
                raise NoSuchUser
            times = session.opened_at, session.used_at
            opened = link.execute(_OPEN, token_hash, account_id, session.username, *times)
            if not opened:
                raise ValueError("a session token is used twice")
            if most is not None and len(oldest) == most:
                ended.extend(link.execute(_END, account_id, oldest[0][0]))
        return bool(ended)

    def sessions(self, account_id: str) -> Sequence[SessionRecord]:
        (rows,) = self._pool.run(Call(_SESSIONS_OF, account_id))
        return [SessionRecord(*row) for row in rows]

    def find_session(self, key: SessionKey) -> SessionRecord | None:
        """Return the session, from memory while the lease holds.

        Under the lease every end of a session that was committed `LEASE_SECONDS` ago has been
        heard, and its session is forgotten.
        """
        account_id, token_hash = key
        if account_id is None:  # a token of before says not whose it is
            return None
        return self._sessions.get(
            account_id,
            token_hash,
            lambda: self._found_sessions.get(key),
            trusted=self._wakes.lease_holds,
        )

    def _read_sessions(self, keys: Sequence[SessionKey]) -> Mapping[SessionKey, SessionRecord]:
        account_ids = texts([key.account_id or "" for key in keys])
        (rows,) = self._pool.run(
            Call(_SESSIONS, account_ids, blobs([key.token_hash for key in keys]))
        )
        sessions = (SessionRecord(*row) for row in rows)
        return {session.key: session for session in sessions}

    def touch_session(self, key: SessionKey, used_at: int) -> None:
        """Note that a session is in use, if that can be done without a long wait."""
        account_id, token_hash = key
        if account_id is not None and self._touches.note(key, used_at):
            self._sessions.amend(account_id, token_hash, lambda known: _used(known, used_at))

    def close_session(self, key: SessionKey) -> None:
        account_id, token_hash = key
        if account_id is not None:
            with self._ending(account_id) as (link, ended):
                ended.extend(link.execute(_END, account_id, token_hash))

    def close_sessions(self, account_id: str) -> int:
        with self._ending(account_id) as (link, ended):
            _, tokens = link.run(Call(_LOCK, account_id), Call(_END_ALL, account_id))
            ended.extend(tokens)
        return len(ended)

    def on_session_end(self, key: SessionKey, wake: Wake) -> Unsubscribe:
        return self._wakes.on_session(key, wake)

    # -- what changes, and what is heard of it ----------------------------------------------------

    @contextmanager
    def _ending(self, account_id: str) -> Iterator[tuple[Link, Rows]]:
        """Have the block be a transaction that ends sessions of an account.

        Yields:
            A connection, and a list for the token hashes of the sessions that are ended. They are
            told within the transaction, and woken behind it. Nothing is remembered of the
            account's sessions from before the change until it is made.
        """
        ended: Rows = []
        with self._sessions.changing(account_id), self._transaction() as link:
            yield link, ended
            keys = [SessionKey(account_id, token_hash) for (token_hash,) in ended]
            if keys:
                link.run(self._wakes.tell_sessions(keys))
        self._wakes.end_sessions(keys)

    def _transaction(self) -> AbstractContextManager[Link]:
        return transaction(self._pool, self._permit)

    def _sessions_ended(self, keys: set[str] | None) -> None:
        if keys is None:
            self._sessions.clear()
        else:
            self._accounts_changed({_account_of(key) for key in keys})

    def _accounts_changed(self, account_ids: set[str] | None) -> None:
        if account_ids is None:
            self._sessions.clear()
        else:
            self._sessions.forget(account_ids)


def _replace_hash(
    link: Link,
    account_id: str,
    password_hash: str,
    instead_of: str | None,
    *,
    must_change: bool | None = None,
) -> bool:
    """Replace a password hash in an open transaction, unless it is another by now.

    Args:
        link: where the transaction is open.
        account_id: whose it is.
        password_hash: the new one.
        instead_of: the one that it replaces; None: whichever there is.
        must_change: what that is from now on; None: what it was.

    Raises:
        NoSuchUser: the account is gone.
    """
    locked = link.execute(_LOCK, account_id)
    if not locked:
        raise NoSuchUser
    known = locked[0][1]
    if instead_of not in (None, known):
        return False
    before, after = profile_of(known), profile_of(password_hash)
    counted = _counting({before: -1, after: 1}) if before != after else []
    link.run(Call(_SET_HASH, account_id, password_hash, must_change), *counted)
    return True


def _counting(changes: Mapping[str, int]) -> list[Call]:
    """Return what counts accounts by profile, in one order for all servers."""
    part = random.randrange(_PARTS)  # noqa: S311 - it spreads writers, and hides nothing
    return [Call(_COUNT, profile, part, change) for profile, change in sorted(changes.items())]


def _used(session: SessionRecord, used_at: int) -> SessionRecord:
    return SessionRecord(
        session.token_hash, session.account_id, session.username, session.opened_at, used_at
    )


def _account_of(key: str) -> str:
    return key.rpartition(".")[0]


def _plain(name: str) -> str | None:
    """Return a name, or None for one that PostgreSQL's text cannot be."""
    return None if "\0" in name or _HALF_PAIR.search(name) else name


def _at_or_above(start: str) -> tuple[str, str]:
    """Return a comparison and a text that say which names are at or above any text.

    No name has U+0000 or half a surrogate pair in it, so what is above a text up to one of those is
    known without it: behind U+0000 there is no name that the text before it is not, and all
    characters of names are below a surrogate.
    """
    text, zero, _ = start.partition("\0")
    half = _HALF_PAIR.search(text)
    if half is not None:
        return ">", f"{text[: half.start()]}\U0010ffff"
    return (">" if zero else ">="), text


def _invitation(row: tuple[Any, ...]) -> Invitation:
    token_hash, created_at, expires_at, note = row
    return Invitation(bytes(token_hash), created_at, expires_at, _text(note))


def _blob(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _text(column: bytes) -> str:
    return column.decode(errors="surrogatepass")
