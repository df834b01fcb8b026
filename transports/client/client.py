"""The client for threads: a server's accounts and mail as plain method calls, over any transport.

Theory of operation: a client that is logged in has two connections to the server::

    callers' threads ──(one after another)──▶ command connection ──▶ server
    the watcher's thread ───────────────────▶ watch connection ────▶ server

* The *command connection* (`engine.commands`) carries one request at a time. Any number of threads
  may call; each waits for a FIFO lock with a deadline, and its holder owns the socket.
* The *watch connection* (`engine.watcher`) belongs to a thread that is started by `login`,
  `create_account` or `resume` and ends with the session. It is bound by ``resume``. Mail comes
  there as a stream (`engine.streaming`), as much as there is room for in the `engine.inbox`, or a
  page at a time (`engine.paging`); the request that asks for more also acks what the application
  has dealt with. The connections know nothing of each other.
* What they share is the `engine.link`: the session, the state as a table of transitions, the pace
  of attempts; no I/O. A command looks at it once.
* A connection that is needed is opened by the thread that needs it (`engine.dialler`); others
  queue behind it, so that there is one attempt at a time: at once, then after 1 s, 2 s, 4 s ...
  30 s, or as little as half of that, by chance. A connection counts as working only when it has
  carried a request, so a server that accepts and hangs up is not hammered either.
* Where several servers have one state, a client may be given the endpoints of all. It goes to one
  of chance, stays while that works, and after a failure goes to the next at once; the wait comes
  when each has failed (`engine.route`). The two connections may lead to different servers. A server
  that ends may ask for a wait, and name others to go to: both connections obey.
* When a connection breaks, a request that may be repeated is repeated on the next one; a send
  always carries a ``send_id``, so that the repeat of one that had arrived gives no second message.
  A request that may not be repeated raises `ConnectionLost`.
* All of this is written once, as coroutines, for this client and for
  `twinline.transports.client.AsyncClient`; `engine.backend` says how. A method here runs its
  coroutine to the end in the calling thread: it blocks where the other one suspends.

Locks: each is taken by ``with`` for a few lines of bookkeeping, never two at once, and never
across I/O, waiting, an ``await``, logging or a callback. Every wait is on a waiter or a socket of
the waiting thread's own, is made under a `CancelToken`, and so ends at once when the client is
closed. A socket is closed by its owner only; a token shuts it down, which wakes the owner.
Under asyncio a thread is a task, and a lock is never waited for.

====================  ==================  ===================================================
what                  guarded by          used by
====================  ==================  ===================================================
session, state, pace  `Link._lock`        every thread; reading takes no lock
messages, acks        `Inbox._lock`       the watcher's thread, one consumer
command connection    a `FifoLock`        the thread that holds it
watch connection      nothing             the watcher's thread alone
the watcher           `Engine._lock`      what logs in, logs out or closes
====================  ==================  ===================================================

Callbacks: ``on_message`` runs in the watcher's thread and may call anything, `Client.close`
too. ``on_state`` runs in whichever thread reports the state and should return soon; it may call
`Client.close` but no command, for it can be the very thread that is opening the connection.

From a signal's handler, or a finaliser, call `Client.close` or nothing: a command would wait for
the one that it has interrupted.
"""

import inspect
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Self

from twinline.core import protocol
from twinline.core.protocol import MAIL_ALONE, Entry, Kind, Message
from twinline.transports.client.backends.threads import ThreadBackend, run
from twinline.transports.client.base import ACCOUNT_DELETED, ClientBase
from twinline.transports.client.interrupted import is_interrupted
from twinline.transports.client.options import ClientOptions, Endpoints
from twinline.transports.client.requests import build, build_deletions, build_history
from twinline.transports.client.settings import ClientSettings, WatchMode
from twinline.transports.client.state import State
from twinline.transports.contract import Transport

__all__ = ["Client"]

CLOSING_THREAD_NAME: Final = "twinline closing"
"""Of the thread that closes a client when a signal's handler cannot."""


class Client(ClientBase):
    """A user of a server; safe for many threads.

    Every command opens the connection if need be, and takes at most ``command_seconds``. Besides
    what each names, commands raise `NotConnected`, `ConnectionLost`, `TimedOut`, `ClientClosed`,
    and any `twinline.core.errors.RequestError` that the server answers.

    Attributes:
        endpoints: of the servers that it was given, in that order.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        transport: str | Transport | None = None,
        resume: bool = True,
        watch: WatchMode = WatchMode.STREAMING,
        kinds: Iterable[Kind] = MAIL_ALONE,
        on_message: Callable[[Message], None] | None = None,
        on_state: Callable[[State], None] | None = None,
        on_handler_error: Callable[[Message, Exception], None] | None = None,
        tls: ssl.SSLContext | None = None,
        settings: ClientSettings | None = None,
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            endpoints: such as ``tcp://127.0.0.1:7767`` or ``unix:/run/twinline.sock``; or several,
                of servers with one state, of which it uses one at a time.
            transport: a name or a transport; None for what each endpoint says, else ``jsonl``.
            resume: whether to resume the session after a broken connection, or be logged out.
            watch: how the mailbox is watched.
            kinds: of the entries that it watches for: mail, which has to be among them, for what is
                acked and was never seen would be lost; the copies of what the account has sent,
                from whichever device; and receipts.
            on_message: called with each message, in order, in the watcher's thread; the message
                is acked after it has returned, and comes again if it has raised. Copies are
                messages, and receipts are passed over. None leaves all to `messages` or `entries`.
            on_state: called with each state, in order, outside every lock.
            on_handler_error: called when ``on_message`` has raised; None logs it.
            tls: for ``tls://`` and ``wss://``, as `twinline.transports.tls.client_context` makes
                it; None for one that trusts what the system does.
            settings: None for the defaults.

        Raises:
            EndpointError: an endpoint cannot be understood, or there is none.
            UnknownTransport: there is no transport of that name.
            ValueError: mail is not among the kinds.
        """
        options = ClientOptions.of(
            endpoints,
            transport,
            settings,
            tls=tls,
            watch=watch,
            kinds=frozenset(kinds),
            resume=resume,
            on_message=on_message,
            on_state=on_state,
            on_handler_error=on_handler_error,
        )
        super().__init__(ThreadBackend, options)

    # -- the connection -----------------------------------------------------------------

    def connect(self, timeout: float | None = None) -> protocol.HelloReply:
        """Connect, trying again until the server is there.

        Calling it is optional: every command connects by itself.

        Args:
            timeout: seconds, or None for as long as it takes.

        Raises:
            BadRequest: the timeout is neither a number nor None.
            NotConnected: not in time.
            UnsupportedVersion: the server speaks another version of the protocol.
            ClientClosed: the client is closed, or was while this waited.
        """
        return run(self._engine.connect(timeout))

    def retry_now(self) -> None:
        """Make the next attempt to connect now, where one is waited for: a person asks for it.

        A server that has asked for some time is given it. Otherwise nothing happens.
        """
        self._engine.link.hurry()

    def ping(self) -> float:
        """Ask whether the server is there, and return the seconds that it took."""
        begin = time.monotonic()
        run(self._engine.ask(protocol.Ping(), protocol.Done))
        return time.monotonic() - begin

    def close(self) -> None:
        """Ack what is dealt with and end; from any thread, twice if need be.

        Every call that waits raises `ClientClosed` at once, and `messages` ends. When this returns
        the server has the acks, unless it does not answer within a second. No thread is left
        afterwards, unless ``on_message`` does not return, or has called this: then the thread ends
        when it returns. The session stays open at the server, for `resume` with the `token`.

        A signal's handler may call this too. If it has interrupted a call of a client's, which then
        holds what closing waits for, this returns at once, and a thread goes on with it: the
        interrupted call raises `ClientClosed`, and who calls this again waits for the end.
        """
        frame = inspect.currentframe()
        if frame is not None and is_interrupted(frame.f_back):
            threading.Thread(target=self._close, name=CLOSING_THREAD_NAME, daemon=True).start()
        else:
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._close()

    def _close(self) -> None:
        run(self._engine.close())

    # -- the session --------------------------------------------------------------------

    def create_account(
        self, username: str, password: str, *, invitation: str | None = None
    ) -> protocol.SessionReply:
        """Create an account, log in to it, and begin to watch its mailbox.

        Args:
            username: the name that it is to have.
            password: 8 to 128 characters.
            invitation: the operator's, where the server asks for one.

        Raises:
            AlreadyLoggedIn, RegistrationClosed, InvitationInvalid, InvalidUsername,
            InvalidPassword, UsernameTaken, RateLimited, Busy.
        """
        request = build(
            protocol.CreateAccount, username=username, password=password, invitation=invitation
        )
        return run(self._engine.log_in(request))

    def login(
        self, username: str, password: str, *, new_password: str | None = None
    ) -> protocol.SessionReply:
        """Open a session and begin to watch the mailbox.

        If the reply to a login with a new password is lost, that password is tried, once: so who
        has set it is logged in. Where that fails too the login stays in doubt.

        Args:
            username: whose account it is.
            password: that account's.
            new_password: what it is to be from now on; a one-time password opens a session only
                with it. Every other session of the account is revoked.

        Raises:
            AccountDisabled, PasswordChangeRequired: the password was right.
            AlreadyLoggedIn, InvalidUsername, InvalidPassword, BadCredentials, RateLimited, Busy.
        """
        request = build(
            protocol.Login, username=username, password=password, new_password=new_password
        )
        return run(self._engine.log_in(request))

    def login_certificate(self) -> protocol.SessionReply:
        """Open a session of the account that the client's certificate names.

        The certificate is the one in ``tls``. The session lasts no longer than it.

        Raises:
            AlreadyLoggedIn.
            BadCredentials: the server was shown no certificate that names an account, there is no
                such account, or the certificate is revoked.
        """
        return run(self._engine.log_in(protocol.LoginCertificate()))

    def resume(self, token: str) -> protocol.SessionReply:
        """Go on with a session that is open at the server, and begin to watch the mailbox.

        Args:
            token: what `token` was then.

        Raises:
            AlreadyLoggedIn, SessionExpired.
        """
        return run(self._engine.log_in(build(protocol.Resume, session=token)))

    def logout(self) -> None:
        """Ack what is dealt with, and revoke the session.

        Called from within ``on_message`` it leaves that message un-acked.

        Raises:
            NotLoggedIn: there is no session.
        """
        run(self._engine.end_session(protocol.Logout(), None))

    def status(self) -> protocol.StatusReply:
        """Return who is logged in, and where the mailbox stands."""
        return run(self._engine.ask(protocol.Status(), protocol.StatusReply))

    def change_password(self, password: str, new_password: str) -> None:
        """Set another password; every other session of the account is revoked.

        Raises:
            InvalidPassword, BadCredentials, RateLimited, Busy.
        """
        request = build(protocol.ChangePassword, password=password, new_password=new_password)
        run(self._engine.ask(request, protocol.Done))

    def delete_account(self, password: str, *, force: bool = False) -> None:
        """Delete the account, its mailbox and its sessions.

        Args:
            password: the account's.
            force: even with undelivered mail.

        Raises:
            UndeliveredMessages: unless ``force``.
            BadCredentials, RateLimited, Busy.
        """
        request = build(protocol.DeleteAccount, password=password, force=force)
        run(self._engine.end_session(request, ACCOUNT_DELETED))

    def list_accounts(
        self, pattern: str = "*", after: str | None = None, limit: int = 100
    ) -> protocol.AccountsReply:
        r"""Return a page of usernames, sorted.

        Args:
            pattern: ``*`` any run, ``?`` any character, ``\`` escapes the next.
            after: the last username of the page before.
            limit: 1 to 1,000.

        Raises:
            BadRequest: the pattern cannot be read.
        """
        request = build(protocol.ListAccounts, pattern=pattern, after=after, limit=limit)
        return run(self._engine.ask(request, protocol.AccountsReply))

    def accounts(self, pattern: str = "*") -> Iterator[str]:
        """Yield all usernames that match, sorted, fetching page after page."""
        page = self.list_accounts(pattern)
        yield from page.usernames
        while page.more:
            page = self.list_accounts(pattern, after=page.usernames[-1])
            yield from page.usernames

    # -- the mail -----------------------------------------------------------------------

    def send(
        self, to: str, body: str, send_id: str | None = None, *, copy: bool = False
    ) -> protocol.SentReply:
        """Send a message; when this returns the server has stored it.

        Args:
            to: the recipient's username.
            body: the text.
            send_id: 1 to 64 bytes that stand for this message; None lets the client choose. To
                repeat a send whose outcome is unknown, pass the error's ``send_id``.
            copy: whether a copy is kept in this account's own mailbox.

        Raises:
            BadRequest, MessageTooLong, NoSuchUser, Refused, MailboxFull, SendIdConflict,
            RateLimited.
        """
        request = build(
            protocol.Send,
            to=to,
            body=body,
            send_id=send_id or self._new_send_id(),
            copy_=copy,
        )
        return run(self._engine.ask(request, protocol.SentReply))

    def messages(self, timeout: float | None = None, *, ack: bool = True) -> Iterator[Message]:
        """Yield messages as they come, in order: mail, and copies if the client watches for them.

        A message is dealt with when the loop comes back for the next one: leaving the loop
        within the body, by ``break`` or an error, leaves the message to the next call.

        Args:
            timeout: end when there is no message for so many seconds; None for never.
            ack: ack each message that is dealt with; else `ack` is the caller's to call.

        Yields:
            Messages, until the timeout, the end of the session, or `close`.

        Raises:
            BadRequest: the timeout is neither a number nor None.
            ClientBusy: another loop is running, or there is an ``on_message``.
            ClientError: the client was made with ``WatchMode.OFF``.
            NotLoggedIn: there is no session.
            ClientClosed: the client is closed already.
        """
        for entry in self.entries(timeout, ack=ack):
            if isinstance(entry, Message):
                yield entry

    def entries(self, timeout: float | None = None, *, ack: bool = True) -> Iterator[Entry]:
        """Yield entries of all the kinds that this client watches for, as `messages` does.

        Mail and copies are each a `Message`, whose ``kind`` tells which; receipts are each a
        `twinline.core.protocol.Receipt`. All come once, in the one order of the mailbox, and an ack
        of one is an ack of all before it.
        """
        loop = self._engine.messages(timeout, ack=ack)
        with loop.lasts:
            loop.enter()
            while (entry := loop.next_nowait() or run(loop.next())) is not None:
                yield entry

    def ack(self, up_to: int) -> protocol.AckReply:
        """Acknowledge every message up to a seq, fetched or not; `messages` hands out none of them.

        Raises:
            CursorInvalid: there is no such seq yet.
        """
        return run(self._engine.ack(build(protocol.Ack, up_to=up_to)))

    def history(
        self,
        before: int | None = None,
        limit: int = 50,
        *,
        peer: str | None = None,
        account: str | None = None,
        kinds: Iterable[Kind] | None = None,
    ) -> protocol.HistoryReply:
        """Return a page of the mailbox, acked messages included, the newest last.

        Args:
            before: only seqs below this one; None begins at the newest.
            limit: 1 to 1,000.
            peer: only the conversation with this account; None: all.
            account: with a peer, which account of that name is meant, as `conversations` has it;
                None: the one that has it now.
            kinds: of the entries; None: mail alone, and with a peer mail and copies.

        Raises:
            BadRequest, InvalidUsername.
        """
        request = build_history(before, limit, peer, account, kinds)
        return run(self._engine.ask(request, protocol.HistoryReply))

    def conversations(
        self, before: int | None = None, limit: int = 50
    ) -> protocol.ConversationsReply:
        """Return with whom messages were exchanged, the newest message first.

        Args:
            before: only those whose last message has a lower seq; None begins at the newest.
            limit: 1 to 1,000.
        """
        request = build(protocol.Conversations, before=before, limit=limit)
        return run(self._engine.ask(request, protocol.ConversationsReply))

    def block(self, username: str) -> None:
        """Refuse what an account sends from now on.

        Raises:
            BadRequest: it is this account.
            NoSuchUser, BlockListFull.
        """
        run(self._engine.ask(build(protocol.Block, username=username), protocol.Done))

    def unblock(self, username: str) -> None:
        """Take mail of an account again."""
        run(self._engine.ask(build(protocol.Unblock, username=username), protocol.Done))

    def blocked(self) -> tuple[str, ...]:
        """Return whose mail is refused."""
        return run(self._engine.ask(protocol.ListBlocked(), protocol.BlockedReply)).usernames

    def set_receipts(self, receipts: bool) -> None:  # noqa: FBT001 - it is what is set
        """Let others be told what this account acknowledges, and this what others do, or not."""
        request = build(protocol.SetReceipts, receipts=receipts)
        run(self._engine.ask(request, protocol.Done))

    def trace(self, message_id: str, to: str) -> protocol.TraceReply:
        """Return where a message is that this account has sent.

        Args:
            message_id: what `send` has returned.
            to: whom it was sent to.

        Raises:
            InvalidUsername, NoSuchUser.
        """
        request = build(protocol.Trace, message_id=message_id, to=to)
        return run(self._engine.ask(request, protocol.TraceReply))

    def delete_messages(self, seqs: Iterable[int]) -> int:
        """Delete messages from the mailbox, and return how many of them there were."""
        return sum(
            run(self._engine.ask(request, protocol.DeletedReply)).deleted
            for request in build_deletions(seqs)
        )
