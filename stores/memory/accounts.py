"""The half of the in-memory store with users and sessions, under the user lock."""

# ruff: noqa: D102 - the contract tells what the methods do

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Protocol

from sortedcontainers import SortedList  # type: ignore[import-untyped]

from twinline.core.errors import InvitationInvalid, NoSuchUser, UsernameTaken
from twinline.core.locks import new_lock
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
from twinline.stores.memory.subscribers import Subscription, wakes_of
from twinline.stores.rules import page_of_names


class _Names(Protocol):
    """Distinct names by code point, as a `SortedList` keeps them."""

    def add(self, name: str, /) -> None: ...

    def remove(self, name: str, /) -> None: ...

    def irange(self, minimum: str, /) -> Iterator[str]: ...


class MemoryAccounts(Accounts):
    """Accounts and sessions in dictionaries.

    Each method decides under the user lock, and wakes and matches names outside it. Only `find` and
    `find_session`, which every request asks, take none: one look into one dictionary is whole by
    itself, and what it finds is never changed but replaced. So while a method ends several sessions
    one of them may be found and another not; once it has returned, none is.
    """

    def __init__(self) -> None:
        self._lock = new_lock("user")
        # Whoever writes to these, or looks into more than one of them, holds the user lock.
        self._by_name: dict[str, Account] = {}
        self._by_id: dict[str, Account] = {}
        self._names: _Names = SortedList()
        self._reserved: set[str] = set()
        self._profiles: Counter[str] = Counter()  # accounts by their hash's profile
        self._sessions: dict[bytes, _Session] = {}  # by token hash
        # By account id: its addresses and when they were noted, and its token hashes. Tuples and
        # lists, for most accounts have one of each.
        self._addresses: dict[str, tuple[tuple[str, int], ...]] = {}
        self._tokens: dict[str, list[bytes]] = {}
        self._invitations: dict[bytes, Invitation] = {}  # by token hash

    def create(self, account: Account, *, invitation: bytes | None = None) -> None:
        with self._lock:
            if account.account_id in self._by_id:
                raise ValueError(f"account id {account.account_id!r} is used twice")
            if account.username in self._by_name or account.username in self._reserved:
                raise UsernameTaken
            if invitation is not None:
                found = self._invitations.get(invitation)
                if found is None or found.expires_at <= account.created_at:
                    raise InvitationInvalid
                del self._invitations[invitation]
            self._by_name[account.username] = account
            self._by_id[account.account_id] = account
            self._names.add(account.username)
            self._count_profile(account.password_hash, 1)

    def find(self, username: str) -> Account | None:
        return self._by_name.get(username)

    def username_of(self, account_id: str) -> str | None:
        with self._lock:
            account = self._by_id.get(account_id)
        return None if account is None else account.username

    def is_free(self, username: str) -> bool:
        with self._lock:
            return username not in self._by_name and username not in self._reserved

    def page(self, pattern: NamePattern, after: str | None, limit: int) -> UsernamePage:
        return page_of_names(
            pattern,
            after,
            limit,
            exists=lambda name: self.find(name) is not None,
            names_from=self._names_from,
        )

    def set_password_hash(self, account_id: str, password_hash: str, *, instead_of: str) -> bool:
        with self._lock:
            account = self._by_id.get(account_id)
            if account is None:
                raise NoSuchUser
            if account.password_hash != instead_of:
                return False
            self._set_hash(account, password_hash)
        return True

    def hash_profiles(self) -> Mapping[str, int]:
        with self._lock:
            return dict(self._profiles)

    def note_address(self, account_id: str, address: str, at: int, *, most: int) -> None:
        with self._lock:
            if account_id not in self._by_id:
                return
            noted = dict(self._addresses.get(account_id, ()))
            noted[address] = at
            if len(noted) > most:
                del noted[min(noted, key=noted.__getitem__)]
            self._addresses[account_id] = tuple(noted.items())

    def address_noted_at(self, account_id: str, address: str) -> int | None:
        with self._lock:
            return dict(self._addresses.get(account_id, ())).get(address)

    def change_password(
        self,
        account_id: str,
        password_hash: str,
        *,
        instead_of: str | None,
        keep: bytes | None,
        must_change: bool = False,
    ) -> bool:
        with self._lock:
            account = self._by_id.get(account_id)
            if account is None:
                raise NoSuchUser
            if instead_of not in (None, account.password_hash):
                return False
            wakes = self._end_all(account_id, keep)
            # Last: who looks without the lock, at the one and then at the other, sees no new hash
            # beside a session that has not ended.
            self._set_hash(replace(account, must_change=must_change), password_hash)
        wake_all(wakes)
        return True

    def enable(self, account_id: str, *, enabled: bool) -> None:
        wakes: Sequence[Wake] = ()
        with self._lock:
            account = self._by_id.get(account_id)
            if account is None:
                raise NoSuchUser
            if not enabled:
                wakes = self._end_all(account_id)
            # Last, as above.
            self._put(replace(account, enabled=enabled))
        wake_all(wakes)

    def addresses(self, account_id: str) -> Mapping[str, int]:
        with self._lock:
            return dict(self._addresses.get(account_id, ()))

    def sessions(self, account_id: str) -> Sequence[SessionRecord]:
        with self._lock:
            records = [self._sessions[each].record for each in self._tokens.get(account_id, ())]
        return sorted(records, key=lambda record: record.used_at, reverse=True)

    def close_sessions(self, account_id: str) -> int:
        with self._lock:
            count = len(self._tokens.get(account_id, ()))
            wakes = self._end_all(account_id)
        wake_all(wakes)
        return count

    def add_invitation(self, invitation: Invitation) -> None:
        with self._lock:
            if invitation.token_hash in self._invitations:
                raise ValueError("an invitation's token is used twice")
            self._invitations = {
                token_hash: each
                for token_hash, each in self._invitations.items()
                if each.expires_at > invitation.created_at
            } | {invitation.token_hash: invitation}

    def find_invitation(self, token_hash: bytes) -> Invitation | None:
        with self._lock:
            return self._invitations.get(token_hash)

    def invitations(self) -> Sequence[Invitation]:
        with self._lock:
            found = list(self._invitations.values())
        return sorted(found, key=lambda each: each.created_at)

    def drop_invitation(self, token_hash: bytes) -> bool:
        with self._lock:
            return self._invitations.pop(token_hash, None) is not None

    def withdraw(self, account_id: str, *, keep_name: bool, verified: str | None = None) -> bool:
        with self._lock:
            account = self._by_id.get(account_id)
            if account is None or verified not in (None, account.password_hash):
                return False
            del self._by_id[account_id]
            del self._by_name[account.username]
            self._names.remove(account.username)
            self._count_profile(account.password_hash, -1)
            self._addresses.pop(account_id, None)
            if keep_name:
                self._reserved.add(account.username)
            wakes = self._end_all(account_id)
        wake_all(wakes)
        return True

    def open_session(
        self, session: SessionRecord, *, verified: str | None = None, most: int | None = None
    ) -> bool:
        wakes: tuple[Wake, ...] = ()
        with self._lock:
            account = self._by_id.get(session.account_id)
            if account is None or not account.enabled:
                raise NoSuchUser
            if verified not in (None, account.password_hash):
                raise NoSuchUser
            if session.token_hash in self._sessions:
                raise ValueError("a session token is used twice")
            tokens = self._tokens.setdefault(session.account_id, [])
            full = most is not None and len(tokens) >= most
            if full:
                wakes = self._end(min(tokens, key=self._used_at))
            self._sessions[session.token_hash] = _Session(session)
            self._tokens.setdefault(session.account_id, []).append(session.token_hash)
        wake_all(wakes)
        return full

    def find_session(self, key: SessionKey) -> SessionRecord | None:
        session = self._session(key)
        return None if session is None else session.record

    def touch_session(self, key: SessionKey, used_at: int) -> None:
        with self._lock:
            session = self._session(key)
            if session is not None:
                session.record = replace(session.record, used_at=used_at)

    def close_session(self, key: SessionKey) -> None:
        with self._lock:
            wakes = () if self._session(key) is None else self._end(key.token_hash)
        wake_all(wakes)

    def on_session_end(self, key: SessionKey, wake: Wake) -> Unsubscribe:
        subscription = Subscription(wake, self._lock)
        with self._lock:
            session = self._session(key)
            if session is not None:
                subscription.join(session.watchers)
        return subscription

    def _session(self, key: SessionKey) -> "_Session | None":
        account_id, token_hash = key
        session = self._sessions.get(token_hash)
        if session is None or account_id not in (None, session.record.account_id):
            return None
        return session

    def _count_profile(self, password_hash: str, by: int) -> None:
        profile = profile_of(password_hash)
        self._profiles[profile] += by
        if not self._profiles[profile]:
            del self._profiles[profile]

    def _set_hash(self, account: Account, password_hash: str) -> None:
        """Replace a password hash, under the user lock."""
        self._count_profile(account.password_hash, -1)
        self._count_profile(password_hash, 1)
        self._put(replace(account, password_hash=password_hash))

    def _put(self, account: Account) -> None:
        self._by_id[account.account_id] = self._by_name[account.username] = account

    def _names_from(self, start: str, count: int) -> list[str]:
        with self._lock:
            return list(islice(self._names.irange(start), count))

    def _used_at(self, token_hash: bytes) -> int:
        return self._sessions[token_hash].record.used_at

    def _end_all(self, account_id: str, keep: bytes | None = None) -> list[Wake]:
        """Remove an account's sessions, under the user lock, and return whom to wake after it."""
        tokens = [each for each in self._tokens.get(account_id, ()) if each != keep]
        return [wake for token_hash in tokens for wake in self._end(token_hash)]

    def _end(self, token_hash: bytes) -> tuple[Wake, ...]:
        """Remove a session, under the user lock, and return whom to wake after it."""
        session = self._sessions.pop(token_hash, None)
        if session is None:
            return ()
        tokens = self._tokens[session.record.account_id]
        tokens.remove(token_hash)
        if not tokens:
            del self._tokens[session.record.account_id]
        return wakes_of(session.watchers)


class _Session:
    """An open session and who waits for its end; it is written to under the user lock."""

    __slots__ = ("record", "watchers")

    def __init__(self, record: SessionRecord) -> None:
        self.record = record
        self.watchers: list[Subscription] = []
