"""The rules for accounts and sessions: names, passwords, tokens, and what each allows."""

import contextlib
import hashlib
import hmac
import logging
import secrets
import uuid
from dataclasses import replace

from twinline.core.clock import DAY_MS, HOUR_MS, Clock
from twinline.core.errors import (
    BadCredentials,
    Busy,
    InvalidPassword,
    NoSuchUser,
    SessionExpired,
    UndeliveredMessages,
    UsernameTaken,
)
from twinline.core.names import NamePattern, parse_username
from twinline.core.passwords import Passwords, fits
from twinline.core.settings import ServiceSettings
from twinline.core.store import Account, SessionRecord, Store, UsernamePage
from twinline.core.throttle import FailureThrottle

log = logging.getLogger(__name__)


class AccountRules:
    """Creates, authenticates and deletes accounts, and opens and ends their sessions."""

    def __init__(
        self, store: Store, passwords: Passwords, settings: ServiceSettings, clock: Clock
    ) -> None:
        self._store = store
        self._accounts = store.accounts
        self._passwords = passwords
        self._clock = clock
        self._idle_ms = round(settings.session_idle_days * DAY_MS)
        # An hour's precision is enough for days of idleness and spares a write a request.
        self._touch_ms = min(HOUR_MS, self._idle_ms // 2)
        self._most_sessions = settings.sessions_per_account
        self._keep_names = not settings.free_deleted_names
        self._by_account = FailureThrottle(settings.failures_per_account)
        self._by_address = FailureThrottle(settings.failures_per_address)

    def create(self, username: str, password: str) -> Account:
        """Create an account: first its mailbox, then the account that makes it reachable.

        Raises:
            InvalidUsername, InvalidPassword, UsernameTaken, Busy.
        """
        name = parse_username(username)
        if not fits(password):
            raise InvalidPassword
        # Asked before hashing, so that a taken name does not cost a hash. Creating asks again.
        if not self._accounts.is_free(name):
            raise UsernameTaken
        account = Account(
            account_id=uuid.uuid4().hex,
            username=name,
            password_hash=self._passwords.hash(password),
            created_at=self._clock(),
        )
        self._store.mailboxes.create(account.account_id)
        try:
            self._accounts.create(account)
        except BaseException:
            self._store.mailboxes.drop(account.account_id)
            raise
        return account

    def authenticate(self, username: str, password: str, address: str) -> Account:
        """Return the account that this password opens.

        Raises:
            InvalidUsername: no account could have this name.
            BadCredentials: there is no such user, or the password is another.
            RateLimited: there were too many failures for this account or from this address.
            Busy: no core was free in time.
        """
        name = parse_username(username)

        def still_allowed() -> None:
            self._by_account.check(name)
            self._by_address.check(address)

        still_allowed()
        account = self._accounts.find(name)
        known = account.password_hash if account is not None else None
        if not self._passwords.verify(known, password, still_allowed) or account is None:
            self._by_account.failed(name)
            self._by_address.failed(address)
            raise BadCredentials
        # The address stays counted: one good account must not clear the way for guessing others.
        self._by_account.succeeded(name)
        return self._rehashed(account, password)

    def _rehashed(self, account: Account, password: str) -> Account:
        """Bring an old hash to today's parameters, now that the password is at hand."""
        known = account.password_hash
        if not self._passwords.is_outdated(known):
            return account
        # Not now, if there is no core to spare; and if the account is gone, opening the session
        # says so.
        with contextlib.suppress(NoSuchUser, Busy):
            password_hash = self._passwords.hash(password)
            if self._accounts.set_password_hash(
                account.account_id, password_hash, instead_of=known
            ):
                return replace(account, password_hash=password_hash)
        return account

    def open_session(self, account: Account) -> tuple[str, SessionRecord]:
        """Open a session and return its token, which is kept nowhere else.

        Raises:
            BadCredentials: the account was deleted, or its password changed, since it was
                authenticated.
        """
        token = secrets.token_urlsafe(32)
        now = self._clock()
        record = SessionRecord(
            token_hash=hash_token(token),
            account_id=account.account_id,
            username=account.username,
            opened_at=now,
            used_at=now,
        )
        try:
            self._accounts.open_session(
                record, verified=account.password_hash, most=self._most_sessions
            )
        except NoSuchUser:
            raise BadCredentials from None
        return token, record

    def session_of(self, token: str, now: int) -> SessionRecord:
        """Return the session that a token opens, and note that it is in use.

        Raises:
            SessionExpired: it was revoked, is idle for too long, or never was.
        """
        token_hash = hash_token(token)
        record = self.session(token_hash, now)
        # The look-up is by a hash of the secret, which its owner cannot steer; the comparison
        # that decides, for every store, takes the same time wherever two hashes differ.
        if not hmac.compare_digest(record.token_hash, token_hash):
            raise SessionExpired
        return record

    def session(self, token_hash: bytes, now: int) -> SessionRecord:
        """Return a session that is alive, and note that it is in use; asked for every request.

        Args:
            token_hash: of a token that was compared before, by `session_of`.
            now: in ms.

        Raises:
            SessionExpired: it was revoked, is idle for too long, or never was.
        """
        record = self._accounts.find_session(token_hash)
        if record is None:
            raise SessionExpired
        idle = now - record.used_at
        if idle > self._touch_ms:
            if idle > self._idle_ms:
                self._accounts.close_session(token_hash)
                raise SessionExpired
            self._accounts.touch_session(token_hash, now)
        return record

    def end_session(self, token_hash: bytes) -> None:
        """Revoke a session and wake what waits for its mail."""
        self._accounts.close_session(token_hash)

    def page(self, pattern: str, after: str | None, limit: int) -> UsernamePage:
        """Return a page of usernames.

        Raises:
            BadRequest: the pattern cannot be read.
        """
        return self._accounts.page(NamePattern(pattern), after, limit)

    def change_password(
        self, session: SessionRecord, password: str, new_password: str, address: str
    ) -> None:
        """Set another password and revoke every other session.

        Raises:
            InvalidPassword, BadCredentials, RateLimited, Busy, SessionExpired.
        """
        if not fits(new_password):
            raise InvalidPassword
        account = self._authenticate_owner(session, password, address)
        password_hash = self._passwords.hash(new_password)
        try:
            changed = self._accounts.set_password_hash(
                account.account_id, password_hash, instead_of=account.password_hash
            )
        except NoSuchUser:
            raise SessionExpired from None
        if not changed:
            raise BadCredentials  # another session changed it meanwhile
        self._accounts.close_other_sessions(session.account_id, session.token_hash)

    def delete(self, session: SessionRecord, password: str, address: str, *, force: bool) -> None:
        """Withdraw the account, then drop its mailbox.

        Mail that arrives after the check for undelivered mail is the account's inbound mail
        like any other, and goes with it.

        Raises:
            UndeliveredMessages: with their count, unless ``force``.
            BadCredentials, RateLimited, Busy, SessionExpired.
        """
        self._authenticate_owner(session, password, address)
        try:
            unread = self._store.mailboxes.standing(session.account_id).unread
        except NoSuchUser:
            raise SessionExpired from None
        if unread and not force:
            some = "1 message was" if unread == 1 else f"{unread} messages were"
            raise UndeliveredMessages(f"{some} not delivered yet", count=unread)
        if not self._accounts.withdraw(session.account_id, keep_name=self._keep_names):
            raise SessionExpired
        self._store.mailboxes.drop(session.account_id)
        log.info("account %s was deleted", session.username)

    def _authenticate_owner(self, session: SessionRecord, password: str, address: str) -> Account:
        account = self.authenticate(session.username, password, address)
        # With freed names another account may have the old one's name by now.
        if account.account_id != session.account_id:
            raise SessionExpired
        return account


def hash_token(token: str) -> bytes:
    """Return what the store knows a token by: its SHA-256."""
    return hashlib.sha256(token.encode(errors="replace")).digest()
