"""`ChatService`: the only door to the rules, for listeners and for embedding servers.

There is one method for each request of the protocol, and `ChatService.handle` for callers that
have the request as a model. The methods raise the leaves of `RequestError`; `handle` turns them
into replies.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import Any, Final, overload

from argon2 import PasswordHasher

from twinline.core import events, protocol
from twinline.core.accounts import AccountRules
from twinline.core.admin import Administration
from twinline.core.admission import Admission, Entry
from twinline.core.clock import Clock, SteadyClock, wall_clock_ms
from twinline.core.errors import (
    RESTART_MS,
    AccountDisabled,
    AlreadyLoggedIn,
    BadCredentials,
    BadRequest,
    Busy,
    InternalError,
    InvitationInvalid,
    LockRuleError,
    NoSuchUser,
    NotLoggedIn,
    PasswordChangeRequired,
    RateLimited,
    RegistrationClosed,
    RequestError,
    ShuttingDown,
    StoreUnavailable,
    UnsupportedVersion,
)
from twinline.core.events import emit
from twinline.core.locks import new_lock
from twinline.core.looks import Look, LookRules
from twinline.core.messages import PAGE_BYTES, MessageRules, on_own_mailbox
from twinline.core.metrics import Metrics
from twinline.core.names import NamePattern, parse_username
from twinline.core.passwords import Passwords
from twinline.core.protocol import (
    MAIL_ALONE,
    MAX_WAIT_SECONDS,
    PROTOCOL_VERSION,
    TALK,
    AccountsReply,
    AckReply,
    BlockedReply,
    ConversationsReply,
    DeletedReply,
    Done,
    ErrorReply,
    HelloReply,
    HistoryReply,
    Kinds,
    Reply,
    Request,
    SentReply,
    SessionReply,
    StatusReply,
    TraceReply,
    WatchReply,
    kinds_of,
    maker,
)
from twinline.core.receipts import Receipts
from twinline.core.session import Session
from twinline.core.settings import ServiceSettings
from twinline.core.store import (
    Blocked,
    MailPage,
    Peer,
    SessionKey,
    SessionRecord,
    Store,
    Unsubscribe,
)
from twinline.core.throttle import RateThrottle
from twinline.core.waiting import Wake
from twinline.core.watches import Watches

log = logging.getLogger(__name__)

SERVER_NAME: Final = f"twinline/{version('twinline')}"
"""What the reply to `hello` says of the server."""
LOGINS: Final[frozenset[type[Request | Look]]] = frozenset(
    {protocol.CreateAccount, protocol.Login, protocol.LoginCertificate, protocol.Resume}
)
"""Requests that log a caller in; see `ChatService.queue`."""
_TRACES_PER_SECOND: Final = 1.0
_TRACES_AT_ONCE: Final = 10.0
"""Traces of one account: each may read all of a mailbox, which costs as much as a hundred sends."""
_LEAST_LOGINS: Final = 64
"""So many of those that hash may wait to be carried out in any case."""
_sent: Final = maker(SentReply)


class ChatService:
    """Accounts, mailboxes and instant delivery over a store.

    Every method may be called from any thread. A watch with ``wait`` blocks the thread that calls
    it. The service has a thread of its own while receipts are due, for another mailbox than the one
    that was acknowledged may be slow; it needs `stop` for the last of them.

    Attributes:
        settings: what it allows; `change_settings` replaces it.
        store: where its state is.
    """

    def __init__(
        self,
        store: Store,
        settings: ServiceSettings | None = None,
        *,
        clock: Clock | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        hasher: PasswordHasher | None = None,
        node: str | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """Open the door.

        Args:
            store: where the state is; the caller closes it.
            settings: None for the defaults.
            clock: milliseconds since 1970 UTC; it is believed. None for the system's, by whose
                leaps no session ends: see `SteadyClock`.
            monotonic: seconds that never leap, for the limits on rates.
            hasher: None for `twinline.core.passwords.default_hasher`.
            node: which of the servers with one state this is, for the reply to `hello`; None where
                it is alone.
            metrics: where passwords and hashes are counted, and what the store does; None:
                nowhere. Requests are counted by a listener, which is given the same.
        """
        self.settings = settings or ServiceSettings()
        self.store = store
        self._timer = None
        if metrics is not None:
            self._timer = metrics.store_timer
            store.on_commit(metrics.observe_commit)
        self._passwords = passwords = Passwords(
            hasher, wait_seconds=self.settings.hash_wait_seconds, metrics=metrics
        )
        self._node = node
        self._clock = clock or wall_clock_ms
        self._accounts = AccountRules(
            store,
            passwords,
            self.settings,
            clock=self._clock,
            idle_clock=clock or SteadyClock(wall_clock_ms, monotonic),
            monotonic=monotonic,
            metrics=metrics,
        )
        seconds = self.settings.admission_seconds
        self._resumes = Admission(seconds, monotonic=monotonic)
        # Only where they wait in a queue before they are carried out. Then they wait for a core to
        # hash on, in an order that lets an account's owner come first: that must not be a matter
        # of luck.
        self._logins = Admission(seconds, least=_LEAST_LOGINS, monotonic=monotonic)
        self._messages = MessageRules(store, self.settings, self._timer)
        self._mailboxes = store.mailboxes
        self._receipts = Receipts(store.mailboxes)
        self._traces = RateThrottle(
            _TRACES_PER_SECOND, monotonic, burst=_TRACES_AT_ONCE, of="traces"
        )
        self._binding = new_lock("binding")  # one for all sessions: it is held for a few lines
        self._watches = Watches(self.settings.watches_per_account)
        self._looks = LookRules(
            store, self._watches, self._receipts, self._record, self._clock, self._timer
        )
        self._handlers: dict[type[Request | Look], Callable[[Session, Any], Any]] = {
            protocol.Hello: lambda s, r: self.hello(s, r.protocol, r.client),
            protocol.CreateAccount: lambda s, r: self.create_account(
                s, r.username, r.password, r.invitation
            ),
            protocol.Login: lambda s, r: self.login(s, r.username, r.password, r.new_password),
            protocol.LoginCertificate: lambda s, _: self.login_certificate(s),
            protocol.Resume: lambda s, r: self.resume(s, r.session),
            protocol.Logout: lambda s, _: self.logout(s),
            protocol.ListAccounts: lambda s, r: self.list_accounts(s, r.pattern, r.after, r.limit),
            protocol.Send: lambda s, r: self.send(s, r.to, r.body, r.send_id, copy=r.copy_),
            # A caller of `handle` gets one reply: the first of a stream, which is its last.
            protocol.Watch: lambda s, r: self.watch(
                s,
                r.after,
                r.ack,
                min(r.limit, r.window or r.limit),
                r.wait,
                kinds=kinds_of(r.kinds),
            ),
            Look: self._looks.look,
            protocol.Ack: lambda s, r: self.ack(s, r.up_to),
            protocol.History: lambda s, r: self.history(
                s,
                r.before,
                r.limit,
                peer=r.with_,
                account=r.account,
                kinds=None if r.kinds is None else kinds_of(r.kinds),
            ),
            protocol.Conversations: lambda s, r: self.conversations(s, r.before, r.limit),
            protocol.Block: lambda s, r: self.block(s, r.username),
            protocol.Unblock: lambda s, r: self.unblock(s, r.username),
            protocol.ListBlocked: lambda s, _: self.list_blocked(s),
            protocol.SetReceipts: lambda s, r: self.set_receipts(s, receipts=r.receipts),
            protocol.DeleteMessages: lambda s, r: self.delete_messages(s, r.seqs),
            protocol.Trace: lambda s, r: self.trace(s, r.message_id, r.to),
            protocol.Status: lambda s, _: self.status(s),
            protocol.ChangePassword: lambda s, r: self.change_password(
                s, r.password, r.new_password
            ),
            protocol.DeleteAccount: lambda s, r: self.delete_account(s, r.password, force=r.force),
            protocol.Ping: lambda s, _: self.ping(s),
        }

    # -- the life of a caller, and of the service ---------------------------------------

    def session(
        self, address: str = "", on_end: Wake | None = None, on_mail: Wake | None = None
    ) -> Session:
        """Return a new, anonymous session; see `Session`."""
        return Session(address, on_end, on_mail, lock=self._binding)

    def leave(self, session: Session) -> None:
        """End the waits of a caller that is gone, and drop its ``on_end`` and ``on_mail``.

        The session that it was bound to stays open and can be resumed.
        """
        session.interrupt()
        session.unsubscribe()
        if session.entry is not None:
            session.entry.leave()
        # They lead back to the caller mostly, and only the garbage collector would free the two.
        session.on_end = session.on_mail = None

    def queue(self, session: Session, request: Request) -> ErrorReply | None:
        """Let a login wait in a queue of the caller's own, if it will be carried out in time.

        A caller that carries requests out at once has no use for it: the service then decides when
        the request comes. For one that has a queue, whoever waits there counts from now on, until
        the request is carried out or the caller leaves.

        Args:
            session: whose request it is; it has one at a time.
            request: one of `LOGINS`.

        Returns:
            None, or what the request is answered with instead: `Busy`.
        """
        gate = self._logins if request.may_take_long else self._resumes
        if session.entry is not None:
            session.entry.leave()  # its request had no thread to be carried out in
        session.entry = entry = Entry(gate)
        try:
            entry.enter()
        except Busy as error:
            session.entry = None
            return error.to_reply()
        return None

    def change_settings(self, settings: ServiceSettings) -> None:
        """Allow what other settings say, from now on; from any thread.

        What is counted stays counted: a limit that is lower now holds for what comes next. A
        request that is being carried out may go by either, and each limit is replaced by itself.
        """
        self.settings = settings
        self._accounts.follow(settings)
        self._messages.follow(settings)
        self._passwords.wait_seconds = settings.hash_wait_seconds
        for gate in (self._resumes, self._logins):
            gate.change(settings.admission_seconds)
        self._watches.most = settings.watches_per_account

    def stop(self) -> None:
        """Wake every wait; from now on every request is `ShuttingDown`.

        Receipts that are due are put in before this returns, if that takes no longer than moments.
        """
        self._watches.end()
        self._receipts.stop()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._watches.ended

    @overload
    def handle(self, session: Session, request: Request) -> Reply: ...

    @overload
    def handle(self, session: Session, request: Request | Look) -> Reply | MailPage: ...

    def handle(self, session: Session, request: Request | Look) -> Any:
        """Carry out a request and return its reply, an `ErrorReply` if it was refused.

        Of a `Look` the page is returned that it found.
        """
        try:
            return self._handlers[type(request)](session, request)
        except RequestError as error:
            return error.to_reply()
        except LockRuleError:
            raise
        except Exception:
            log.exception("%s failed", request.op)
            return InternalError().to_reply()

    # -- before login -------------------------------------------------------------------

    def hello(
        self, session: Session, protocol: int = PROTOCOL_VERSION, client: str | None = None
    ) -> HelloReply:
        """Say who this is and what it accepts.

        Raises:
            UnsupportedVersion: the caller speaks another version.
        """
        self._admit()
        if protocol != PROTOCOL_VERSION:
            raise UnsupportedVersion(f"this server speaks protocol version {PROTOCOL_VERSION}")
        log.debug("hello from %r, client %.80r", session.address, client)
        return HelloReply(
            protocol=PROTOCOL_VERSION,
            server=SERVER_NAME,
            node=self._node,
            limits=self.settings.limits(),
            incarnation=self.store.incarnation,
        )

    def create_account(
        self, session: Session, username: str, password: str, invitation: str | None = None
    ) -> SessionReply:
        """Create an account and log in to it.

        Raises:
            AlreadyLoggedIn, RegistrationClosed, InvitationInvalid, InvalidUsername,
            InvalidPassword, UsernameTaken, RateLimited, Busy.
        """
        with self._admitted(session):
            address = session.address
            try:
                account = self._accounts.register(username, password, address, invitation)
            except (RegistrationClosed, InvitationInvalid, RateLimited) as error:
                emit(events.REGISTRATION_REFUSED, address=address, why=error.code)
                raise
            emit(events.ACCOUNT_CREATED, username=account.username, address=address)
            return self._bind_new(session, *self._accounts.open_session(account, address))

    def add_account(self, username: str, password: str) -> None:
        """Create an account for the operator, whether registration is open or not.

        No request does this. It logs in nobody.

        Raises:
            InvalidUsername, InvalidPassword, UsernameTaken, Busy.
        """
        self._admit()
        account = self._accounts.create(username, password)
        emit(events.ACCOUNT_ADDED, username=account.username)

    def administration(self, by: str) -> Administration:
        """Return what an operator may do here.

        Args:
            by: who that is, for the log.
        """
        return Administration(self.store, self._accounts, self._clock, by)

    def revoke_certificates(self, identities: Iterable[bytes], source: str = "") -> int:
        """End the sessions that these certificates have opened, and open none with them.

        No request does this. A session that is not in use here now is refused, and ends, when it
        is resumed. The list is kept in memory: it has to be told again to a service that is made
        anew.

        Args:
            identities: of the certificates, as `Certificate.identity` has them.
            source: whose list this is. A later one from the same source takes its place, so what
                is not in that any more may log in again.

        Returns:
            How many sessions ended at once.
        """
        return self._accounts.certificates.revoke(identities, source)

    def login(
        self, session: Session, username: str, password: str, new_password: str | None = None
    ) -> SessionReply:
        """Open a session; with a new password set that first, which revokes every other session.

        Raises:
            AccountDisabled, PasswordChangeRequired: the password was right.
            AlreadyLoggedIn, InvalidUsername, InvalidPassword, BadCredentials, RateLimited, Busy.
        """
        with self._admitted(session):
            address = session.address
            try:
                opened = self._accounts.log_in(username, password, address, new_password)
            except (AccountDisabled, PasswordChangeRequired) as error:
                # The password was right, so there is such an account.
                name = parse_username(username)
                emit(events.LOGIN_FAILED, username=name, address=address, why=error.code)
                raise
            reply = self._bind_new(session, *opened)
        emit(events.LOGIN, username=reply.username, address=address, by="password")
        return reply

    def login_certificate(self, session: Session) -> SessionReply:
        """Open a session of the account that the caller's certificate names.

        It lasts no longer than the certificate, and ends when that is revoked; see
        `Session.certificate` and `revoke_certificates`.

        Raises:
            AlreadyLoggedIn, AccountDisabled, Busy.
            BadCredentials: the caller has no certificate that names an account, there is no such
                account, or the certificate has expired or is revoked.
        """
        with self._admitted(session, self._resumes):
            certificate, address = session.certificate, session.address
            try:
                opened = self._accounts.log_in_by_certificate(certificate, address)
            except (BadCredentials, AccountDisabled) as error:
                name = None if certificate is None else certificate.username
                why = "certificate" if isinstance(error, BadCredentials) else error.code
                emit(events.LOGIN_FAILED, username=name, address=address, why=why)
                raise
            reply = self._bind_new(session, *opened)
        emit(events.LOGIN, username=reply.username, address=address, by="certificate")
        return reply

    def resume(self, session: Session, token: str) -> SessionReply:
        """Bind this caller to a session that is open already.

        Raises:
            AlreadyLoggedIn, SessionExpired.
            Busy: more come back to their sessions than can be served at once.
        """
        with self._admitted(session, self._resumes):
            record = self._accounts.session_of(token, self._clock())
            reply = self._bind(session, token, record)
        emit(events.SESSION_RESUMED, username=record.username, address=session.address)
        return reply

    def ping(self, session: Session) -> Done:  # noqa: ARG002 - every request has a session
        """Answer."""
        self._admit()
        return Done()

    # -- the account --------------------------------------------------------------------

    def logout(self, session: Session) -> Done:
        """Revoke the session; every connection of it ends."""
        record = self._require(session, self._clock())
        self.store.accounts.close_session(record.key)
        session.unbind(record.key)
        emit(events.LOGOUT, username=record.username, address=session.address)
        return Done()

    def list_accounts(
        self, session: Session, pattern: str = "*", after: str | None = None, limit: int = 100
    ) -> AccountsReply:
        """List usernames by pattern.

        Raises:
            BadRequest: the pattern cannot be read.
        """
        self._require(session, self._clock())
        page = self.store.accounts.page(NamePattern(pattern), after, limit)
        return AccountsReply(usernames=page.usernames, more=page.more)

    def status(self, session: Session) -> StatusReply:
        """Say who is logged in here, and where the mailbox stands."""
        record = self._require(session, self._clock())
        standing = on_own_mailbox(self._mailboxes.standing, record)
        return StatusReply(
            username=record.username,
            position=standing.position,
            unread=standing.unread,
            receipts=standing.gives_receipts,
        )

    def change_password(self, session: Session, password: str, new_password: str) -> Done:
        """Set another password; every other session of the account is revoked.

        Raises:
            InvalidPassword, BadCredentials, RateLimited, Busy.
        """
        record = self._require(session, self._clock())
        with _refusals_told(session, record, "change_password"):
            self._accounts.change_password(record, password, new_password)
        emit(events.PASSWORD_CHANGED, username=record.username, address=session.address)
        return Done()

    def delete_account(self, session: Session, password: str, *, force: bool = False) -> Done:
        """Delete the account, its mailbox and its sessions.

        Raises:
            UndeliveredMessages: unless ``force``.
            BadCredentials, RateLimited, Busy.
        """
        record = self._require(session, self._clock())
        with _refusals_told(session, record, "delete_account"):
            self._accounts.delete(record, password, force=force)
        emit(events.ACCOUNT_DELETED, username=record.username, address=session.address)
        session.unbind(record.key)
        return Done()

    # -- the mail -----------------------------------------------------------------------

    def send(
        self,
        session: Session,
        to: str,
        body: str,
        send_id: str | None = None,
        *,
        copy: bool = False,
    ) -> SentReply:
        """Send a message; when this returns the store has it, and its copy.

        Args:
            session: the caller.
            to: the recipient's username.
            body: the text.
            send_id: the caller's own id for it, or None.
            copy: whether a copy is put into the caller's own mailbox; it needs a send_id.

        Raises:
            BadRequest, MessageTooLong, InvalidUsername, NoSuchUser, Refused, MailboxFull,
            SendIdConflict, RateLimited.
        """
        now = self._clock()
        record = self._record(session.key, now)
        message_id, sent_at, n = self._messages.send(record, to, body, send_id, now, copy=copy)
        return _sent({"message_id": message_id, "sent_at": sent_at, "n": n})

    def watch(
        self,
        session: Session,
        after: int,
        ack: int | None = None,
        limit: int = 64,
        wait: int = 0,
        *,
        kinds: Kinds = MAIL_ALONE,
    ) -> WatchReply:
        """Acknowledge, then return what lies beyond ``after``, waiting for it if need be.

        Args:
            session: the caller.
            after: the last seq that the caller has seen.
            ack: acknowledge up to here first.
            limit: at most so many entries.
            wait: how many seconds to wait for the first one, 0 to 60.
            kinds: which entries.

        Raises:
            CursorInvalid: ``after`` or ``ack`` is beyond the last seq.
            Busy: as many watches of the account wait as may.
            SessionExpired: the session was revoked while waiting.
            ShuttingDown: the service was stopped while waiting.
        """
        if not 0 <= wait <= MAX_WAIT_SECONDS:
            raise BadRequest(f"wait is 0 to {MAX_WAIT_SECONDS} seconds")
        look = Look(after, ack, limit, PAGE_BYTES, follow=False, kinds=kinds)
        page = self._looks.watch(session, look, wait)
        return WatchReply(
            messages=page.messages, position=page.position, seen=page.seen, receipts=page.receipts
        )

    def look(self, session: Session, look: Look) -> MailPage:
        """Acknowledge, and return what lies beyond a seq now.

        A look that follows has the session's ``on_mail`` called, from now on until the caller
        leaves or logs out, for all that comes after what the look has seen: mail, the end of the
        session, the end of the service. So who waits misses nothing: a look that finds nothing is
        repeated when ``on_mail`` was called, and not before.

        Raises:
            CursorInvalid: ``after`` or ``ack`` is beyond the last seq.
            Busy: as many watches of the account wait as may.
            NotLoggedIn, SessionExpired, ShuttingDown.
        """
        return self._looks.look(session, look)

    def look_many(self, looks: Sequence[tuple[Session, Look]]) -> list[Reply | MailPage]:
        """Make looks of several sessions, as `look` does, by one call of the store.

        Returns:
            For each look, in their order, what `handle` would have returned of it: a look that is
            refused is no affair of the others.
        """
        return self._looks.look_many(looks)

    def subscribe(self, session: Session, wake: Wake, *, kinds: Kinds = MAIL_ALONE) -> Unsubscribe:
        """Have ``wake`` called whenever a watch that waited would look again.

        For callers with no thread to spare, such as an event loop: subscribe, `watch` with
        ``wait=0``, wait for ``wake`` in a way of their own, and watch again. It is called, as
        `Wake` says, for mail, for the end of the session and the service, and by
        `Session.interrupt`.

        Returns:
            What ends the subscription; a wake that is under way may still come.

        Raises:
            Busy: as many watches and subscriptions of the account wait as may.
        """
        return self._looks.subscribe(session, session.key, wake, kinds)

    def ack(self, session: Session, up_to: int) -> AckReply:
        """Acknowledge every message up to a seq.

        Raises:
            CursorInvalid: there is no such seq yet.
        """
        now = self._clock()
        record = self._require(session, now)
        acked = on_own_mailbox(self._mailboxes.ack, record, up_to, now)
        if acked.deliveries:
            self._receipts.note(record, acked.deliveries, now)
        return AckReply(position=acked.position, unread=acked.unread)

    def history(
        self,
        session: Session,
        before: int | None = None,
        limit: int = 50,
        *,
        peer: str | None = None,
        account: str | None = None,
        kinds: Kinds | None = None,
    ) -> HistoryReply:
        """Return the last entries below ``before``, the newest last.

        Args:
            session: the caller.
            before: only those with a lower seq; None: all.
            limit: at most so many.
            peer: only what this account has sent, and the copies of what was sent to it; None: all.
            account: with a peer, the id of the account that is meant, whoever has the name now;
                None: the one that has it now.
            kinds: which entries; None: mail alone, and with a peer mail and copies.

        Raises:
            BadRequest: there is an account, and no peer.
            InvalidUsername: the peer's name can be nobody's.
        """
        now = self._clock()
        record = self._require(session, now)
        other = holder = None
        if peer is not None:
            name = parse_username(peer)
            holder = self.store.accounts.recipient(name)
            # What is known by a name alone goes with who has that now, and with nobody else.
            is_now = account is None or account == holder
            other = Peer(holder, name) if is_now else Peer(account, "")
        elif account is not None:
            raise BadRequest("'account' says which account of a name is meant: it needs 'with'")
        page = on_own_mailbox(
            self._mailboxes.history,
            record,
            before,
            limit,
            PAGE_BYTES,
            now,
            kinds=kinds or (MAIL_ALONE if other is None else TALK),
            peer=other,
        )
        return HistoryReply(
            messages=page.messages,
            more=page.more,
            seen=page.seen,
            receipts=page.receipts,
            account=holder,
        )

    def conversations(
        self, session: Session, before: int | None = None, limit: int = 50
    ) -> ConversationsReply:
        """Return with whom messages were exchanged, the newest message first.

        Args:
            session: the caller.
            before: only those whose last message has a lower seq; None: all.
            limit: at most so many.
        """
        now = self._clock()
        record = self._require(session, now)
        page = on_own_mailbox(self._mailboxes.conversations, record, before, limit, PAGE_BYTES, now)
        return ConversationsReply(conversations=page.conversations, more=page.more)

    # -- whose mail is taken, and who is told -------------------------------------------

    def block(self, session: Session, username: str) -> Done:
        """Refuse what an account sends from now on; what it has sent stays.

        Raises:
            BadRequest: it is the caller's own account.
            InvalidUsername, NoSuchUser, BlockListFull.
        """
        record = self._require(session, self._clock())
        account = self.store.accounts.find(parse_username(username))
        if account is None:
            raise NoSuchUser
        if account.account_id == record.account_id:
            raise BadRequest("nobody can block their own account")
        peer = Blocked(account.account_id, account.username)
        on_own_mailbox(self._mailboxes.block, record, peer)
        return Done()

    def unblock(self, session: Session, username: str) -> Done:
        """Take mail of an account again; nothing happens if it is not blocked.

        Raises:
            InvalidUsername.
        """
        record = self._require(session, self._clock())
        name = parse_username(username)
        # By the list's names: it may be of an account that is gone.
        for peer in on_own_mailbox(self._mailboxes.blocked, record):
            if peer.username == name:
                on_own_mailbox(self._mailboxes.unblock, record, peer.account_id)
        return Done()

    def list_blocked(self, session: Session) -> BlockedReply:
        """Return whose mail the caller refuses."""
        record = self._require(session, self._clock())
        names = {peer.username for peer in on_own_mailbox(self._mailboxes.blocked, record)}
        return BlockedReply(usernames=tuple(sorted(names)))

    def set_receipts(self, session: Session, *, receipts: bool) -> Done:
        """Let others be told what the caller acknowledges, and the caller what they do, or not."""
        record = self._require(session, self._clock())
        on_own_mailbox(self._mailboxes.set_receipts, record, receipts=receipts)
        return Done()

    def delete_messages(self, session: Session, seqs: Sequence[int]) -> DeletedReply:
        """Delete messages from the caller's mailbox."""
        record = self._require(session, self._clock())
        return DeletedReply(deleted=on_own_mailbox(self._mailboxes.delete, record, seqs))

    def trace(self, session: Session, message_id: str, to: str) -> TraceReply:
        """Say where a message is that the caller has sent; no more than receipts would.

        Raises:
            InvalidUsername, NoSuchUser.
            RateLimited: the account has asked too often; with the time to wait.
        """
        now = self._clock()
        record = self._require(session, now)
        self._traces.take(record.account_id)
        recipient = self.store.accounts.find(parse_username(to))
        if recipient is None:
            raise NoSuchUser
        found = self._mailboxes.trace(message_id, recipient.account_id, now=now)
        # Whose it is says its sender's id, where the store still knows it, or else the name.
        mine = found is not None and (
            found.sender == record.username
            if found.sender_id is None
            else found.sender_id == record.account_id
        )
        if found is None or not mine:
            return TraceReply(state="unknown")
        if not self._is_told(record, recipient.account_id):
            return TraceReply(state="accepted", sent_at=found.sent_at)
        return TraceReply(state=found.state, sent_at=found.sent_at, acked_at=found.acked_at)

    def _is_told(self, sender: SessionRecord, recipient_id: str) -> bool:
        """Return whether a sender is told what a recipient does with its mail: if both want it."""
        mailboxes, sender_id = self._mailboxes, sender.account_id
        if sender_id == recipient_id:
            return True
        return (
            mailboxes.standing(recipient_id).gives_receipts
            and on_own_mailbox(mailboxes.standing, sender).gives_receipts
            and all(peer.account_id != sender_id for peer in mailboxes.blocked(recipient_id))
            and all(
                peer.account_id != recipient_id
                for peer in on_own_mailbox(mailboxes.blocked, sender)
            )
        )

    # -- sessions -----------------------------------------------------------------------

    def _admit(self) -> None:
        if self._watches.ended:
            raise ShuttingDown(retry_after_ms=RESTART_MS)

    @contextmanager
    def _admitted(self, session: Session, gate: Admission | None = None) -> Iterator[None]:
        """Let a caller log in, unless it has, or there are too many that do.

        Args:
            session: the caller.
            gate: which counts it, unless one has already; None: it is not counted.
        """
        entry, session.entry = session.entry, None
        try:
            self._admit()
            if session.key is not None:
                raise AlreadyLoggedIn
            if entry is None and gate is not None:
                entry = Entry(gate)
                entry.enter()
            yield
        finally:
            if entry is not None:
                entry.leave()

    def _require(self, session: Session, now: int) -> SessionRecord:
        """Return the caller's session as the store has it now: a revoked one is noticed."""
        return self._record(session.key, now)

    def _record(self, key: SessionKey | None, now: int) -> SessionRecord:
        if self._watches.ended:
            raise ShuttingDown(retry_after_ms=RESTART_MS)
        if key is None:
            raise NotLoggedIn
        return self._accounts.session(key, now)

    def _bind_new(self, session: Session, token: str, record: SessionRecord) -> SessionReply:
        """Bind the caller to a session that was opened for it; if that fails, none stays open."""
        try:
            return self._bind(session, token, record)
        except BaseException:
            # Nobody has its token. Where the store does not answer, it expires.
            with suppress(StoreUnavailable):
                self.store.accounts.close_session(record.key)
            raise

    def _bind(self, session: Session, token: str, record: SessionRecord) -> SessionReply:
        """Bind the caller to a session, and subscribe it to its end: both or neither."""
        unsubscribe = None
        if session.on_end is not None:
            unsubscribe = self.store.accounts.on_session_end(record.key, session.on_end)
        try:
            # Subscribe, then look: a session that is revoked in between is seen by one of them.
            self._accounts.session(record.key, self._clock())
            standing = self._accounts.standing(record)
            session.bind(record, unsubscribe)
        except BaseException:
            if unsubscribe is not None:
                unsubscribe()
            raise
        return SessionReply(
            username=record.username,
            session=token,
            position=standing.position,
            unread=standing.unread,
        )


@contextmanager
def _refusals_told(session: Session, record: SessionRecord, op: str) -> Iterator[None]:
    try:
        yield
    except BadCredentials:
        emit(events.PASSWORD_REFUSED, username=record.username, address=session.address, op=op)
        raise
