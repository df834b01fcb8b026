"""The rules for accounts and sessions: names, passwords, tokens, and what each allows."""

import contextlib
import hmac
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Final, cast

from twinline.core import events
from twinline.core.addresses import is_local, limit_key
from twinline.core.certificates import Certificate, CertificateSessions, stamp, stamp_of
from twinline.core.clock import DAY_MS, HOUR_MS, Clock
from twinline.core.errors import (
    AccountDisabled,
    BadCredentials,
    Busy,
    InvalidPassword,
    InvalidUsername,
    InvitationInvalid,
    NoSuchUser,
    PasswordChangeRequired,
    RateLimited,
    RegistrationClosed,
    SessionExpired,
    StoreUnavailable,
    UndeliveredMessages,
    UsernameTaken,
)
from twinline.core.events import emit
from twinline.core.guesses import Attempt, Guess, GuessThrottle
from twinline.core.hash_queue import Urgency
from twinline.core.messages import on_own_mailbox
from twinline.core.metrics import Metrics
from twinline.core.names import parse_username
from twinline.core.passwords import Passwords, fits, one_time_password
from twinline.core.protocol import MAX_WAIT_SECONDS
from twinline.core.settings import Registration, ServiceSettings
from twinline.core.settling import Settling
from twinline.core.shared_limits import SharedGuesses, SharedHourly
from twinline.core.store import Account, SessionKey, SessionRecord, Standing, Store
from twinline.core.throttle import HourlyThrottle
from twinline.core.tokens import invitation_hash, key_of, new_token

KNOWN_ADDRESSES: Final = 16
"""The most addresses that are known of an account."""
KNOWN_DAYS: Final = 30
"""How long after a login an address is known."""
_NOTED_AGAIN_MS: Final = DAY_MS  # precise enough for days, and spares a write a login


class AccountRules:
    """Creates, authenticates and deletes accounts, and opens and ends their sessions.

    Attributes:
        certificates: which have opened sessions, and which are revoked.
    """

    def __init__(
        self,
        store: Store,
        passwords: Passwords,
        settings: ServiceSettings,
        *,
        clock: Clock,
        idle_clock: Clock,
        monotonic: Callable[[], float],
        metrics: Metrics | None = None,
    ) -> None:
        """Follow settings; sessions go idle by a clock of their own, throttles by seconds.

        Limits are counted in what the store shares with other servers, if it does, or else here.
        """
        self._accounts = store.accounts
        self._mailboxes = store.mailboxes
        self.certificates = CertificateSessions(store.accounts)
        self._stamps = self.certificates.held
        self._settling = Settling(store, monotonic)
        self._metrics = metrics
        self._passwords = passwords
        self._clock = clock
        self._idle_clock = idle_clock
        self._monotonic = monotonic
        self._states = store.states
        self._guesses: GuessThrottle | SharedGuesses
        self._registrations: HourlyThrottle | SharedHourly | None = None
        if store.states is None:
            self._guesses = GuessThrottle(
                failures_per_account=settings.failures_per_account,
                failures_per_address=settings.failures_per_address,
                guesses_per_minute=settings.guesses_per_minute,
                clock=monotonic,
            )
        else:
            self._guesses = SharedGuesses(
                store.states,
                failures_per_account=settings.failures_per_account,
                failures_per_address=settings.failures_per_address,
                guesses_per_minute=settings.guesses_per_minute,
                clock=clock,
                monotonic=monotonic,
            )
        self.follow(settings)

    def follow(self, settings: ServiceSettings) -> None:
        """Allow what settings say, from now on; from any thread. What is counted stays counted."""
        idle_ms = round(settings.session_idle_days * DAY_MS)
        # An hour's precision is enough for days of idleness and spares a write a request.
        self._touch_ms = min(HOUR_MS, idle_ms // 2)
        # A use may be later than it is noted, and may be a watch, which takes this long.
        self._idle_ms = idle_ms + self._touch_ms + MAX_WAIT_SECONDS * 1000
        self._most_sessions = settings.sessions_per_account
        self._keep_names = not settings.free_deleted_names
        self._ipv6_prefix = settings.ipv6_prefix
        self._registration = settings.registration
        self._guesses.change(
            failures_per_account=settings.failures_per_account,
            failures_per_address=settings.failures_per_address,
            guesses_per_minute=settings.guesses_per_minute,
        )
        an_hour = settings.registrations_per_hour
        if not an_hour:
            self._registrations = None
        elif self._registrations is not None:
            self._registrations.per_hour = an_hour
        elif self._states is None:
            self._registrations = HourlyThrottle(an_hour, self._monotonic)
        else:
            self._registrations = SharedHourly(self._states, an_hour, self._clock, self._monotonic)

    def register(
        self, username: str, password: str, address: str, invitation: str | None = None
    ) -> Account:
        """Create an account for somebody who asks for one, and spend the invitation if one is due.

        Raises:
            RegistrationClosed: the operator alone creates accounts.
            InvitationInvalid: it needs an invitation, and this is none that counts.
            RateLimited: there were too many from this address.
            InvalidUsername, InvalidPassword, UsernameTaken, Busy.
        """
        if self._registration is Registration.CLOSED:
            raise RegistrationClosed
        spent = None
        if self._registration is Registration.INVITATION:
            spent = self._invitation(invitation)
        whose = limit_key(address, self._ipv6_prefix)
        return self._create(
            username, password, whose, lambda: self._count_registration(address), spent
        )

    def _invitation(self, token: str | None) -> bytes:
        """Return what the store knows an invitation by that counts now.

        Who has none learns nothing else: not even which names are taken.
        """
        if token is None:
            raise InvitationInvalid
        token_hash = invitation_hash(token)
        found = self._accounts.find_invitation(token_hash)
        if found is None or found.expires_at <= self._clock():
            raise InvitationInvalid
        return token_hash

    def create(self, username: str, password: str) -> Account:
        """Create an account for the operator: first its mailbox, then the account itself.

        Raises:
            InvalidUsername, InvalidPassword, UsernameTaken, Busy.
        """
        return self._create(username, password, "", lambda: None)

    def _count_registration(self, address: str) -> None:
        exempt = address == "" or is_local(address)
        registrations = self._registrations  # which may be replaced meanwhile
        if registrations is not None and not exempt:
            registrations.take(
                limit_key(address, self._ipv6_prefix),
                "too many new accounts from this address; try again later",
            )

    def _create(
        self,
        username: str,
        password: str,
        whose: str,
        count: Callable[[], None],
        invitation: bytes | None = None,
    ) -> Account:
        name = parse_username(username)
        if not fits(password):
            raise InvalidPassword
        # Asked before hashing, so that a taken name does not cost a hash. Creating asks again.
        if not self._accounts.is_free(name):
            raise UsernameTaken
        count()
        account = Account(
            account_id=uuid.uuid4().hex,
            username=name,
            password_hash=self._passwords.hash(password, Urgency.REGISTRATION, whose),
            created_at=self._clock(),
        )
        try:
            self._mailboxes.create(account.account_id)
            self._accounts.create(account, invitation=invitation)
        except (UsernameTaken, InvitationInvalid):
            self._settling.drop(account)
            raise
        except BaseException:
            self._settling.note(account)  # what was done, nobody knows
            raise
        return account

    def authenticate(self, username: str, password: str, address: str) -> Account:
        """Return the account that this password opens.

        Raises:
            InvalidUsername: no account could have this name.
            BadCredentials: there is no such user, or the password is another.
            RateLimited: see `Guess`; with the time to wait.
            Busy: no core was free in time.
        """
        try:
            name = parse_username(username)
        except InvalidUsername:
            self._tell_failed(None, address, "no_username")
            raise
        account = self._accounts.find(name)
        # What an account costs, a name that nobody has costs too: the reads, and the hash.
        stand_in = self._passwords.stand_in(name, self._accounts.hash_profiles())
        account_id, password_hash = (
            ("", stand_in) if account is None else (account.account_id, account.password_hash)
        )
        whose = limit_key(address, self._ipv6_prefix)
        noted_at = self._accounts.address_noted_at(account_id, whose)
        known = noted_at is not None and self._clock() - noted_at <= KNOWN_DAYS * DAY_MS
        guess = self._guesses.attempt(Attempt(name, whose, known))
        urgency = Urgency.OWNER if known else Urgency.LOGIN
        try:
            self._try(guess, password_hash, password, urgency, whose)
        except BadCredentials:
            self._tell_failed(account, address, "wrong_password" if account else "no_account")
            raise
        except RateLimited as error:
            emit(
                events.LOGIN_SLOWED,
                username=_named(account),
                address=address,
                seconds=(error.retry_after_ms or 0) / 1000,
            )
            raise
        # Nothing opens a stand-in, so there is an account.
        return self._rehashed(cast("Account", account), password)

    def _tell_failed(self, account: Account | None, address: str, why: str) -> None:
        emit(events.LOGIN_FAILED, username=_named(account), address=address, why=why)

    def _rehashed(self, account: Account, password: str) -> Account:
        """Bring an old hash to today's parameters, now that the password is at hand."""
        known = account.password_hash
        if not self._passwords.is_outdated(known):
            return account
        # Not now, if there is no core to spare; and if the account is gone, opening the session
        # says so.
        with contextlib.suppress(NoSuchUser, Busy):
            password_hash = self._passwords.hash(password, Urgency.LOGIN)
            if self._accounts.set_password_hash(
                account.account_id, password_hash, instead_of=known
            ):
                return replace(account, password_hash=password_hash)
        return account

    def log_in(
        self, username: str, password: str, address: str, new_password: str | None = None
    ) -> tuple[str, SessionRecord]:
        """Open a session with a password, and return its token.

        Args:
            username: whose account it is.
            password: that account's.
            address: where the caller comes from.
            new_password: what the password is to be first; None: what it is.

        Raises:
            AccountDisabled: the operator has disabled it.
            PasswordChangeRequired: it opens nothing without a new one.
            InvalidPassword: the new one does not follow the rule, or is the old one.
            InvalidUsername, BadCredentials, RateLimited, Busy: see `authenticate`.
        """
        if new_password is not None and not fits(new_password):
            raise InvalidPassword
        account = self._admitted(username, password, address, new_password)
        try:
            return self.open_session(account, address)
        except BadCredentials:
            # Another login may have upgraded the hash since it was read: that is no other password.
            if self._accounts.find(account.username) in (None, account):
                raise
        # It was changed by this one, if it was to be.
        password = password if new_password is None else new_password
        return self.open_session(self._admitted(username, password, address), address)

    def _admitted(
        self, username: str, password: str, address: str, new_password: str | None = None
    ) -> Account:
        """Return the account that this password opens a session of, the new one if there is one."""
        account = self.authenticate(username, password, address)
        if not account.enabled:
            raise AccountDisabled
        if new_password is None:
            if account.must_change:
                raise PasswordChangeRequired
            return account
        if new_password == password:
            raise InvalidPassword("the new password is the old one")
        password_hash = self._passwords.hash(new_password, Urgency.LOGIN, account.account_id)
        changed = replace(account, password_hash=password_hash, must_change=False)
        try:
            if not self._accounts.change_password(
                account.account_id, password_hash, instead_of=account.password_hash, keep=None
            ):
                raise BadCredentials  # it is another by now
        except NoSuchUser:
            raise BadCredentials from None
        emit(events.PASSWORD_CHANGED, username=account.username, address=address)
        return changed

    def log_in_by_certificate(
        self, certificate: Certificate | None, address: str
    ) -> tuple[str, SessionRecord]:
        """Open a session for who has shown a certificate, and return its token.

        Nothing is guessed here, so nothing is slowed: whoever signs the certificates has decided.

        Raises:
            BadCredentials: there is none, or it opens nothing, with why.
            AccountDisabled: the operator has disabled the account.
        """
        if certificate is None:
            raise BadCredentials("this line has no client certificate that names an account")
        if certificate.expires_at <= self._clock():
            raise BadCredentials("the client certificate has expired")
        if self.certificates.is_revoked(certificate.identity):
            raise BadCredentials("the client certificate is revoked")
        account = self._accounts.find(certificate.username)
        if account is None:
            raise BadCredentials("the account that the client certificate names is not there")
        if not account.enabled:
            raise AccountDisabled
        return self.open_session(account, address, certificate)

    def open_session(
        self, account: Account, address: str, certificate: Certificate | None = None
    ) -> tuple[str, SessionRecord]:
        """Open a session and return its token, which is kept nowhere else.

        The address is known to the account from now on.

        Args:
            account: whose session it is.
            address: where that is opened from.
            certificate: what has authenticated the account; None for its password.

        Raises:
            BadCredentials: the account was deleted or disabled, or its password changed, since it
                was authenticated by that.
        """
        token = new_token(account.account_id, "" if certificate is None else stamp(certificate))
        now = self._idle_clock()
        record = SessionRecord(
            token_hash=key_of(token).token_hash,
            account_id=account.account_id,
            username=account.username,
            opened_at=now,
            used_at=now,
        )
        self._note_address(account.account_id, address)
        try:
            another_ended = self._accounts.open_session(
                record,
                verified=account.password_hash if certificate is None else None,
                most=self._most_sessions,
            )
        except NoSuchUser:
            raise BadCredentials from None
        if another_ended:
            emit(events.SESSION_REVOKED, username=account.username, why="too_many_sessions")
        self._hold(token, record)
        self._settling.settle()
        return token, record

    def _note_address(self, account_id: str, address: str) -> None:
        if address:
            now, address = self._clock(), limit_key(address, self._ipv6_prefix)
            noted_at = self._accounts.address_noted_at(account_id, address)
            if noted_at is None or abs(now - noted_at) > _NOTED_AGAIN_MS:
                self._accounts.note_address(account_id, address, now, most=KNOWN_ADDRESSES)

    def session_of(self, token: str, now: int) -> SessionRecord:
        """Return the session that a token opens, and note that it is in use.

        Raises:
            SessionExpired: it was revoked, is idle for too long, or never was.
        """
        key = key_of(token)
        record = self.session(key, now)
        # The look-up is by a hash of the secret, which its owner cannot steer; the comparison
        # that decides, for every store, takes the same time wherever two hashes differ.
        if not hmac.compare_digest(record.token_hash, key.token_hash):
            raise SessionExpired
        self._hold(token, record)
        return record

    def _hold(self, token: str, record: SessionRecord) -> None:
        """Have a session end with the certificate that opened it, if one did."""
        stamped = stamp_of(token)
        if stamped is not None:
            self.certificates.hold(record, stamped)

    def session(self, key: SessionKey, now: int) -> SessionRecord:
        """Return a session that is alive, and note that it is in use; asked for every request.

        Args:
            key: of a token that was compared before, by `session_of`.
            now: in ms.

        Raises:
            SessionExpired: it was revoked, is idle for too long, or never was; or the certificate
                that opened it has expired or was revoked.
        """
        record = self._accounts.find_session(key)
        if record is None:
            self.certificates.forget(key)
            raise SessionExpired
        if self._stamps:
            self._check_certificate(record, now)
        # A use in the future was noted by a clock that was wrong.
        if abs(now - record.used_at) > self._touch_ms:
            self._note_use(record)
        return record

    def _check_certificate(self, record: SessionRecord, now: int) -> None:
        """End a session with the certificate that opened it, if one did."""
        stamped = self._stamps.get(record.key)
        if stamped is None:
            return
        # A clock that has leapt ahead for a while ends nothing, as with what is idle for too long.
        expired = stamped.expires_at <= now and stamped.expires_at <= self._idle_clock()
        if expired or self.certificates.is_revoked(stamped.identity):
            self._accounts.close_session(record.key)
            why = "certificate_expired" if expired else "certificate_revoked"
            emit(events.SESSION_REVOKED, username=record.username, why=why)
            raise SessionExpired

    def _note_use(self, session: SessionRecord) -> None:
        """Note that a session is in use, unless it was idle for too long: then it ends."""
        now = self._idle_clock()
        idle = now - session.used_at
        if idle > self._idle_ms:
            self._accounts.close_session(session.key)
            emit(events.SESSION_REVOKED, username=session.username, why="idle")
            raise SessionExpired
        if abs(idle) > self._touch_ms:
            self._accounts.touch_session(session.key, now)

    def change_password(self, session: SessionRecord, password: str, new_password: str) -> None:
        """Set another password and revoke every other session.

        Raises:
            InvalidPassword, BadCredentials, RateLimited, Busy, SessionExpired.
        """
        if not fits(new_password):
            raise InvalidPassword
        account = self._authenticate_owner(session, password)
        password_hash = self._passwords.hash(new_password, Urgency.OWNER, account.account_id)

        def change(account: Account) -> bool:
            return self._accounts.change_password(
                account.account_id,
                password_hash,
                instead_of=account.password_hash,
                keep=session.token_hash,
            )

        try:
            self._as_owner(session, account, password, change)
        except NoSuchUser:
            raise SessionExpired from None

    def delete(self, session: SessionRecord, password: str, *, force: bool) -> None:
        """Withdraw the account, then drop its mailbox.

        Once it is withdrawn it is deleted: a mailbox that cannot be dropped now is dropped later.
        Mail that arrives after the check for undelivered mail is the account's inbound mail
        like any other, and goes with it.

        Raises:
            UndeliveredMessages: with their count, unless ``force``.
            BadCredentials, RateLimited, Busy, SessionExpired.
        """
        account = self._authenticate_owner(session, password)
        unread = on_own_mailbox(self._mailboxes.standing, session).unread
        if unread and not force:
            some = "1 message was" if unread == 1 else f"{unread} messages were"
            raise UndeliveredMessages(f"{some} not delivered yet", count=unread)
        self._as_owner(
            session,
            account,
            password,
            lambda verified: self._withdraw(verified, verified.password_hash),
        )

    def reset_password(self, account: Account) -> str:
        """Give an account a one-time password, end all its sessions, and return the password.

        It opens nothing but a login that sets another, and so is no use to who reads it later.

        Raises:
            NoSuchUser: the account is gone.
            Busy: no core was free in time.
        """
        password = one_time_password()
        password_hash = self._passwords.hash(password, Urgency.OWNER, account.account_id)
        self._accounts.change_password(
            account.account_id, password_hash, instead_of=None, keep=None, must_change=True
        )
        return password

    def remove(self, account: Account) -> bool:
        """Withdraw an account for the operator, then drop its mailbox; return whether it was there.

        Raises:
            StoreUnavailable: that is not known.
        """
        return self._withdraw(account)

    def _withdraw(self, account: Account, verified: str | None = None) -> bool:
        try:
            gone = self._accounts.withdraw(
                account.account_id, keep_name=self._keep_names, verified=verified
            )
        except StoreUnavailable:
            self._settling.note(account)  # it may have been withdrawn all the same
            raise
        if gone:
            self._settling.drop(account)
        return gone

    def standing(self, session: SessionRecord) -> Standing:
        """Return where a session's mailbox stands; an account that has none gets one.

        Raises:
            SessionExpired: the account is gone.
        """
        try:
            return self._mailboxes.standing(session.account_id)
        except NoSuchUser:
            account = self._accounts.find(session.username)
            if account is None or account.account_id != session.account_id:
                raise SessionExpired from None
        self._settling.mend(account)
        return on_own_mailbox(self._mailboxes.standing, session)

    def _as_owner(
        self,
        session: SessionRecord,
        account: Account,
        password: str,
        act: Callable[[Account], bool],
    ) -> None:
        """Act on an account as it was authenticated; once more if its hash has changed since.

        Raises:
            BadCredentials: the password is another by now. Had but a login upgraded the hash,
                the second time would go well.
        """
        if not act(account) and not act(self._authenticate_owner(session, password)):
            raise BadCredentials

    def _authenticate_owner(self, session: SessionRecord, password: str) -> Account:
        """Return the account of a session, if this is its password."""
        account = self._accounts.find(session.username)
        # With freed names another account may have the old one's name by now.
        if account is None or account.account_id != session.account_id:
            raise SessionExpired

        # Only who has the session can fail here: nothing that others do slows its owner.
        guess = self._guesses.on_session(session.token_hash)
        known, whose = account.password_hash, account.account_id
        self._try(guess, known, password, Urgency.OWNER, whose)
        return account

    def _try(
        self, guess: Guess, password_hash: str, password: str, urgency: Urgency, whose: str
    ) -> None:
        """Return if this is the password, and count the try.

        Raises:
            BadCredentials: it is another.
            RateLimited: with the time to wait.
            Busy: no core was free in time.
            StoreUnavailable: a limit could not be asked or kept.
        """
        try:
            self._try_once(guess, password_hash, password, urgency, whose)
        except BadCredentials:
            if self._metrics is not None:
                self._metrics.login_failures.add()
            raise
        except RateLimited:
            if self._metrics is not None:
                self._metrics.login_lockouts.add()
            raise

    def _try_once(
        self, guess: Guess, password_hash: str, password: str, urgency: Urgency, whose: str
    ) -> None:
        """As `_try`, without counting what came of it."""
        guess.check()
        try:
            opened = self._passwords.verify(
                password_hash, password, urgency, guess.begin, whose=whose
            )
        except Busy:
            guess.abandoned()
            raise
        if not opened:
            guess.failed()
            raise BadCredentials
        guess.succeeded()


def _named(account: Account | None) -> str | None:
    """Return the name of an account; of a name that none has, nothing: it may be a password."""
    return None if account is None else account.username
