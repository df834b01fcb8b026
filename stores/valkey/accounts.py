"""The half of the Valkey store with accounts and sessions."""

# ruff: noqa: D102 - the contract tells what the methods do

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from twinline.core.errors import (
    InvitationInvalid,
    NoSuchUser,
    StoreUnavailable,
    UsernameTaken,
)
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
from twinline.core.waiting import Wake, wake_all
from twinline.stores.rules import page_of_names
from twinline.stores.shared.cache import RecentCache
from twinline.stores.valkey.account_scripts import GONE, LATE, TWICE, AccountScripts
from twinline.stores.valkey.engine import Engine
from twinline.stores.valkey.invitations import Invitations
from twinline.stores.valkey.keys import Keys
from twinline.stores.valkey.lane import plain
from twinline.stores.valkey.pending import Pending, script_call
from twinline.stores.valkey.watches import Tokens, Watches
from twinline.stores.valkey.wire import Script, to_bytes, to_text

Value = TypeVar("Value")

FRESH_SECONDS: Final = 0.9
"""How old an answer from memory may be, even if no notice comes: the contract allows a second."""
_TOUCH_SECONDS: Final = 0.5  # much more than a pipeline takes that this one waits for
_CACHED: Final = 20_000  # names, and sessions
_PUBLISH_MS: Final = 20_000
"""How long after an account was made its name may be published: all calls have given up by then,
and what follows up what they left has not begun."""
_BUCKETS: Final = 8  # read at once at first, and then more


class ValkeyAccounts(Accounts):
    """Accounts, their names and their sessions in the engine."""

    def __init__(
        self,
        engine: Engine,
        keys: Keys,
        scripts: AccountScripts,
        watches: Watches,
        pending: Pending,
        *,
        invitations: Invitations,
    ) -> None:
        self._engine = engine
        self._keys = keys
        self._scripts = scripts
        self._watches = watches
        self._pending = pending
        self._invitations = invitations
        # Each name is a group of its own; the sessions of an account are one.
        self._ids: RecentCache[str, str, str] = RecentCache(
            "names' cache", most=_CACHED, keep_seconds=FRESH_SECONDS
        )
        self._sessions: RecentCache[str, bytes, SessionRecord] = RecentCache(
            "sessions' cache", most=_CACHED, keep_seconds=FRESH_SECONDS
        )
        self._known_buckets: set[bytes] = set()  # they never go; a second ZADD harms nothing
        self._has_accounts = False
        watches.ended = self._forget_sessions

    # --- accounts and names

    def create(self, account: Account, *, invitation: bytes | None = None) -> None:
        if invitation is not None and not self.is_free(account.username):
            raise UsernameTaken
        own = to_bytes(account.account_id)
        name = to_bytes(account.username)
        bucket = self._keys.bucket_of(account.username)
        self._prepare(bucket)
        record = self._keys.of(account.account_id, "p")
        now = self._run(self._scripts.born, (record,), *fields_of(account))
        if now == TWICE:
            raise ValueError(f"account id {account.account_id!r} is used twice")
        if invitation is not None and not self._invitations.claim(
            invitation, account.account_id, account.created_at
        ):
            self._pending.unmake(account.account_id)
            raise InvitationInvalid
        names = tuple(self._keys.names(bucket, kind) for kind in "nz")
        until = b"%d" % (int(now) + _PUBLISH_MS)
        outcome = self._run(self._scripts.publish, names, name, own, until)
        if outcome != 1:
            self._pending.unmake(account.account_id)
            if outcome == LATE:
                raise StoreUnavailable("the account was not made in time")
            raise UsernameTaken
        if invitation is not None:
            with suppress(StoreUnavailable):  # it is claimed, and found to be spent later
                self._invitations.spend(invitation, account.account_id)
        self._engine.do_many(
            [
                self._count((account.password_hash, 1)),
                self._pending.forget(account.account_id),
            ]
        )

    def _prepare(self, bucket: bytes) -> None:
        """Have a bucket of names found, and the store be known as one with accounts."""
        store, buckets = self._keys.store, self._keys.buckets
        calls = []
        if bucket not in self._known_buckets:
            calls.append(plain(buckets, b"ZADD", buckets, b"0", bucket, writes=True))
        if not self._has_accounts:
            calls.append(plain(store, b"HSET", store, b"accounts", b"1", writes=True))
        for answer in self._engine.do_many(calls):
            if isinstance(answer, StoreUnavailable):
                raise answer
        self._known_buckets.add(bucket)
        self._has_accounts = True

    def _count(self, *changes: tuple[str, int]) -> Any:
        """Return the call that counts accounts by profile; a crash may leave some out."""
        arguments = [
            each
            for password_hash, by in changes
            for each in (to_bytes(profile_of(password_hash)), b"%d" % by)
        ]
        return script_call(self._scripts.count, (self._keys.profiles,), tuple(arguments))

    def find(self, username: str) -> Account | None:
        account_id = self._owner(username)
        if account_id is None:
            return None
        record = self._keys.of(account_id, "p")
        found = self._engine.do(plain(record, *ask_account(record)))
        return account_of(account_id, username, found)

    def recipient(self, username: str) -> str | None:
        return self._ids.get(username, username, lambda: self._owner(username))

    def _owner(self, username: str) -> str | None:
        """Return the id of the account of a name; None if there is none, or it is reserved."""
        found = self._entry(username)
        return to_text(found) if found else None

    def _entry(self, username: str) -> bytes | None:
        names = self._keys.names(self._keys.bucket_of(username), "n")
        found: bytes | None = self._engine.do(plain(names, b"HGET", names, to_bytes(username)))
        return found

    def username_of(self, account_id: str) -> str | None:
        record = self._keys.of(account_id, "p")
        name, gone = self._engine.do(plain(record, b"HMGET", record, b"u", b"g"))
        if name is None or gone is not None:
            return None
        # It is an account's once its name leads to it, and until it does no more.
        username = to_text(name)
        return username if self._owner(username) == account_id else None

    def is_free(self, username: str) -> bool:
        return self._entry(username) is None

    def page(self, pattern: NamePattern, after: str | None, limit: int) -> UsernamePage:
        return page_of_names(
            pattern,
            after,
            limit,
            exists=lambda name: self._owner(name) is not None,
            names_from=self._names_from,
        )

    def _names_from(self, start: str, count: int) -> Sequence[str]:
        """Return names from one on: bucket by bucket, for they are sorted as their names are."""
        key = self._keys.buckets
        first = self._keys.bucket_of(start)
        buckets: list[bytes] = self._engine.do(plain(key, b"ZRANGEBYLEX", key, b"[" + first, b"+"))
        found: list[bytes] = []
        at, some = 0, _BUCKETS
        begin, limit = b"[" + to_bytes(start), b"%d" % count
        while at < len(buckets) and len(found) < count:
            sets = [self._keys.names(bucket, "z") for bucket in buckets[at : at + some]]
            calls = [
                plain(each, b"ZRANGEBYLEX", each, begin, b"+", b"LIMIT", b"0", limit)
                for each in sets
            ]
            for names in self._engine.do_many(calls):
                if isinstance(names, StoreUnavailable):
                    raise names
                found += names
            at, some = at + some, 4 * some
        return [to_text(name) for name in found[:count]]

    def set_password_hash(self, account_id: str, password_hash: str, *, instead_of: str) -> bool:
        outcome = self._run(
            self._scripts.set_hash,
            (self._keys.of(account_id, "p"),),
            to_bytes(instead_of),
            to_bytes(password_hash),
        )
        if outcome == GONE:
            raise NoSuchUser
        if outcome:
            self._engine.do_many([self._count((password_hash, 1), (instead_of, -1))])
        return bool(outcome)

    def hash_profiles(self) -> Mapping[str, int]:
        key = self._keys.profiles
        found = self._engine.do(plain(key, b"HGETALL", key))
        return {
            to_text(profile): int(count)
            for profile, count in zip(found[::2], found[1::2], strict=True)
        }

    def note_address(self, account_id: str, address: str, at: int, *, most: int) -> None:
        keys = self._keys.of(account_id, "p"), self._keys.of(account_id, "d")
        arguments = to_bytes(address), b"%d" % at, b"%d" % most
        self._run(self._scripts.note_address, keys, *arguments)

    def address_noted_at(self, account_id: str, address: str) -> int | None:
        key = self._keys.of(account_id, "d")
        noted = self._engine.do(plain(key, b"HGET", key, to_bytes(address)))
        return None if noted is None else int(noted)

    def change_password(
        self,
        account_id: str,
        password_hash: str,
        *,
        instead_of: str | None,
        keep: bytes | None,
        must_change: bool = False,
    ) -> bool:
        keys = self._keys.of(account_id, "p"), self._keys.of(account_id, "k")
        arguments = (
            to_bytes(password_hash),
            b"" if instead_of is None else b"1",
            to_bytes(instead_of or ""),
            b"" if keep is None else b"1",
            keep or b"",
            b"1" if must_change else b"",
        )

        def change() -> Any:
            return self._run(self._scripts.change_password, keys, *arguments)

        outcome = self._ending(account_id, change, lambda found: found[1])
        if outcome == GONE:
            raise NoSuchUser
        if not isinstance(outcome, list):
            return False
        self._engine.do_many([self._count((password_hash, 1), (to_text(outcome[0]), -1))])
        return True

    def enable(self, account_id: str, *, enabled: bool) -> None:
        keys = self._keys.of(account_id, "p"), self._keys.of(account_id, "k")

        def change() -> Any:
            return self._run(self._scripts.enable, keys, b"1" if enabled else b"")

        if self._ending(account_id, change, lambda ended: ended) == GONE:
            raise NoSuchUser

    def addresses(self, account_id: str) -> Mapping[str, int]:
        key = self._keys.of(account_id, "d")
        flat = self._engine.do(plain(key, b"HGETALL", key))
        return {to_text(each): int(at) for each, at in zip(flat[::2], flat[1::2], strict=True)}

    # --- invitations

    def add_invitation(self, invitation: Invitation) -> None:
        if not self._invitations.add(invitation):
            raise ValueError("an invitation's token is used twice")

    def find_invitation(self, token_hash: bytes) -> Invitation | None:
        return self._invitations.find(token_hash)

    def invitations(self) -> Sequence[Invitation]:
        return self._invitations.all()

    def drop_invitation(self, token_hash: bytes) -> bool:
        return self._invitations.drop(token_hash)

    def withdraw(self, account_id: str, *, keep_name: bool, verified: str | None = None) -> bool:
        self._pending.begin(account_id)
        keys = tuple(self._keys.of(account_id, kind) for kind in "pkd")
        arguments = (
            b"1" if keep_name else b"0",
            b"" if verified is None else b"1",
            to_bytes(verified or ""),
        )

        def withdraw() -> Any:
            return self._run(self._scripts.withdraw, keys, *arguments)

        try:
            outcome = self._ending(account_id, withdraw, lambda found: found[2])
        except StoreUnavailable as error:
            if error.in_doubt:  # if it was done after all, its name is not to stay behind
                self._pending.retry_soon(account_id)
            raise
        if outcome == GONE:
            return False
        username, password_hash, _ = outcome
        name = to_text(username)
        with self._ids.changing(name):
            try:
                self._pending.finish(account_id, username, keep_name=keep_name)
            except StoreUnavailable:
                # The account is gone all the same, and nobody can take the name meanwhile.
                self._pending.retry_soon(account_id)
        self._engine.do_many([self._count((to_text(password_hash), -1))])
        return True

    # --- sessions

    def open_session(
        self, session: SessionRecord, *, verified: str | None = None, most: int | None = None
    ) -> bool:
        account_id = session.account_id
        keys = self._keys.of(account_id, "p"), self._keys.of(account_id, "k")
        arguments = (
            session.token_hash,
            b"%d" % session.opened_at,
            b"%d" % session.used_at,
            b"" if verified is None else b"1",
            to_bytes(verified or ""),
            b"" if most is None else b"%d" % most,
        )

        def open_it() -> Any:
            return self._run(self._scripts.open_session, keys, *arguments)

        outcome = self._ending(account_id, open_it, lambda ended: ended)
        if outcome == GONE:
            raise NoSuchUser
        if outcome == TWICE:
            raise ValueError("a session token is used twice")
        return bool(outcome)

    def find_session(self, key: SessionKey) -> SessionRecord | None:
        account_id, token_hash = key
        if account_id is None:
            return None
        return self._sessions.get(account_id, token_hash, lambda: self._read_session(key))

    def _read_session(self, key: SessionKey) -> SessionRecord | None:
        account_id, token_hash = key
        assert account_id is not None  # noqa: S101 - for the type checker
        sessions = self._keys.of(account_id, "k")
        kept = self._engine.do(plain(sessions, b"HGET", sessions, token_hash))
        return None if kept is None else _session(token_hash, account_id, kept)

    def sessions(self, account_id: str) -> Sequence[SessionRecord]:
        key = self._keys.of(account_id, "k")
        flat = self._engine.do(plain(key, b"HGETALL", key))
        pairs = zip(flat[::2], flat[1::2], strict=True)
        records = [_session(token_hash, account_id, kept) for token_hash, kept in pairs]
        return sorted(records, key=lambda record: record.used_at, reverse=True)

    def touch_session(self, key: SessionKey, used_at: int) -> None:
        """Note that a session is in use, if that can be done.

        A request that only reads must not fail because nothing can be written, nor wait long for
        it; a later request notes its use.
        """
        account_id, token_hash = key
        if account_id is None:
            return
        sessions = (self._keys.of(account_id, "k"),)
        with suppress(StoreUnavailable), self._sessions.changing(account_id):
            call = script_call(self._scripts.touch, sessions, (token_hash, b"%d" % used_at))
            self._engine.do(call, _TOUCH_SECONDS)

    def close_session(self, key: SessionKey) -> None:
        account_id, token_hash = key
        if account_id is None:
            return
        sessions = (self._keys.of(account_id, "k"),)

        def close() -> Any:
            return self._run(self._scripts.close, sessions, token_hash)

        self._ending(account_id, close, lambda closed: [token_hash] if closed else [])

    def close_sessions(self, account_id: str) -> int:
        keys = self._keys.of(account_id, "p"), self._keys.of(account_id, "k")

        def close() -> Any:
            return self._run(self._scripts.close_all, keys)

        return len(self._ending(account_id, close, lambda ended: ended))

    def on_session_end(self, key: SessionKey, wake: Wake) -> Unsubscribe:
        return self._watches.watch_session(key, wake)

    def _ending(
        self, account_id: str, call: Callable[[], Value], tokens: Callable[[Any], Tokens]
    ) -> Value:
        """Make a call that may end sessions, and wake who waits on these.

        Args:
            account_id: whose they are.
            call: as above.
            tokens: returns which they are, of what the call returns unless that is a number below
                zero or none.
        """
        with self._sessions.changing(account_id):
            outcome = call()
        if isinstance(outcome, list) or (isinstance(outcome, int) and outcome > 0):
            wake_all(self._watches.sessions_ended(account_id, tokens(outcome)))
        return outcome

    def _forget_sessions(self, account_id: str) -> None:
        self._sessions.forget([account_id])

    def _run(self, script: Script, keys: tuple[bytes, ...], *arguments: bytes) -> Any:
        return self._engine.do(script_call(script, keys, arguments))


def fields_of(account: Account) -> list[bytes]:
    """Return the fields of an account's hash, each behind its name."""
    fields = [b"u", to_bytes(account.username), b"h", to_bytes(account.password_hash)]
    fields += [b"c", b"%d" % account.created_at]
    fields += [] if account.enabled else [b"x", b"1"]
    return fields + ([b"m", b"1"] if account.must_change else [])


def ask_account(record: bytes) -> tuple[bytes, ...]:
    """Return the command that asks for what `account_of` takes."""
    return b"HMGET", record, b"h", b"c", b"g", b"x", b"m"


def account_of(account_id: str, username: str, found: list[bytes | None]) -> Account | None:
    """Return an account of what was asked for; None if it is not there, or is being deleted."""
    password_hash, created_at, gone, disabled, must_change = found
    if password_hash is None or created_at is None or gone is not None:
        return None
    return Account(
        account_id,
        username,
        to_text(password_hash),
        int(created_at),
        enabled=disabled is None,
        must_change=must_change is not None,
    )


def _session(token_hash: bytes, account_id: str, kept: bytes) -> SessionRecord:
    opened_at, used_at, username = kept.split(b":", 2)
    return SessionRecord(token_hash, account_id, to_text(username), int(opened_at), int(used_at))
