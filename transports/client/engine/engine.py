"""What a client consists of, put together: its connections, its watcher, and what they share.

`twinline.transports.client` says how it works; this file has the steps that need several parts:
logging in starts a watcher, logging out and closing end it.
"""

from contextlib import suppress
from typing import Final, TypeVar

from twinline.core.deadline import Deadline
from twinline.core.errors import BadCredentials, CursorInvalid, RequestError
from twinline.core.locks import new_lock
from twinline.core.protocol import (
    Ack,
    AckReply,
    Done,
    HelloReply,
    Login,
    Reply,
    Request,
    SessionReply,
)
from twinline.transports.client.engine.backend import Backend
from twinline.transports.client.engine.commands import Commands
from twinline.transports.client.engine.connection import Connection
from twinline.transports.client.engine.dialler import Dialler
from twinline.transports.client.engine.inbox import MessageLoop
from twinline.transports.client.engine.link import ClientSession, Link, LinkState, Snapshot
from twinline.transports.client.engine.paging import PagingWatcher
from twinline.transports.client.engine.streaming import StreamingWatcher
from twinline.transports.client.engine.watcher import Watcher
from twinline.transports.client.errors import (
    ClientBusy,
    ClientError,
    ConnectionLost,
    NotConnected,
    TimedOut,
)
from twinline.transports.client.options import ClientOptions
from twinline.transports.client.requests import limit_of
from twinline.transports.client.settings import WatchMode

_R = TypeVar("_R", bound=Reply)
_CLOSE_SECONDS: Final = 1.0
"""For each part of a client to notice that the client is closed."""


class Engine:
    """The parts of one client.

    Attributes:
        link: the session and the state.
    """

    def __init__(self, backend: Backend, options: ClientOptions) -> None:
        self._backend = backend
        self._options = options
        self._command_seconds = options.settings.command_seconds
        self._report = backend.report(options.on_state)
        self.link = Link(options, self._report, self._session_ended)
        self._dialler = Dialler(backend, options, self.link)
        self._commands = Commands(backend, self._dialler, self.link, options.settings.reply_seconds)
        self._lock = new_lock("watcher")
        self._watcher: Watcher | None = None  # guarded by _lock
        self._inherited: ClientSession | None = None  # whose mailbox the parent process watches

    def inherit(self, before: "Engine") -> None:
        """Go on with the session of an engine that belongs to the process that forked this one."""
        self._inherited = self.link.inherit(before.link)

    def forget(self) -> None:
        """Close this process's copies of the sockets that its parent uses."""
        self._commands.forget()
        if self._watcher is not None:
            self._watcher.forget()

    async def connect(self, seconds: float | None) -> HelloReply:
        """Have a command connection; see `Client.connect`."""
        self._check_caller()
        await self._commands.connect(Deadline.after(limit_of(seconds)))
        hello = self.link.hello
        assert hello is not None  # noqa: S101 - every connection begins with it
        return hello

    async def ask(self, request: Request, kind: type[_R]) -> _R:
        """Carry out a command.

        Args:
            request: the command.
            kind: of its reply.

        Raises:
            RequestError, NotConnected, ConnectionLost, TimedOut, ClientClosed, ClientBusy.
        """
        self._check_caller()
        reply = await self._commands.ask(request, Deadline.after(self._command_seconds))
        assert isinstance(reply, kind)  # noqa: S101 - a connection checks it
        return reply

    async def log_in(self, request: Request) -> SessionReply:
        """Carry out what binds the command connection to a session, and start the watcher.

        A login that sets a new password may be in doubt. It is not repeated, for where it was done
        its password opens nothing any more; the new one is tried instead, once.
        """
        opened: list[ClientSession] = []

        def bind(connection: Connection, reply: Reply) -> None:
            assert isinstance(reply, SessionReply)  # noqa: S101 - a connection checks it
            session = ClientSession.of(reply)
            connection.bind(session)
            opened.append(session)
            self.link.logged_in(session)

        self._check_caller()
        deadline = Deadline.after(self._command_seconds)
        try:
            try:
                reply = await self._commands.ask(request, deadline, bind)
            except (ConnectionLost, TimedOut) as in_doubt:
                if not isinstance(request, Login) or request.new_password is None:
                    raise
                changed = Login(username=request.username, password=request.new_password)
                try:
                    reply = await self._commands.ask(changed, deadline, bind)
                except BadCredentials:
                    raise in_doubt from None
                except (RequestError, ConnectionLost, NotConnected, TimedOut):
                    doubt = f"{in_doubt}; the new password may be set already"
                    raise type(in_doubt)(doubt) from None
        finally:
            if opened:  # also when a signal's exception comes between: who is logged in watches
                await self._watch(opened[0])
        assert isinstance(reply, SessionReply)  # noqa: S101 - a connection checks it
        return reply

    async def end_session(self, request: Request, reason: str | None) -> None:
        """Ack what is dealt with, and then carry out what ends the session.

        Args:
            request: does it.
            reason: for a person, or None when there is nothing to explain.
        """
        self._check_caller()
        session = self.link.snapshot.require_session()
        with self._lock:
            watcher = self._watcher
        # Itself, within on_message, cannot wait for its own end.
        stopped = watcher is not None and not watcher.is_here
        try:
            if stopped:
                await self._stop_watcher()
            # The watcher's last ack may still be under way, on a connection that is not read any
            # more; on this connection it is before what ends the session.
            unacked = session.inbox.unacked
            if unacked is not None:
                with suppress(CursorInvalid):
                    await self.ask(Ack(up_to=unacked), AckReply)
            await self.ask(request, Done)
        except BaseException:
            if stopped:
                await self._watch(session)
            raise
        self.link.session_ended(session, reason)

    def messages(self, timeout: float | None, *, ack: bool) -> MessageLoop:
        """Return a loop over the messages; see `Client.messages`.

        Raises:
            ClientBusy: there is an ``on_message``.
            ClientError: the client does not watch.
            NotLoggedIn: there is no session.
            ClientClosed: the client is closed already.
        """
        self._backend.check()
        if self._options.watch is WatchMode.OFF:
            raise ClientError("this client does not watch its mailbox")
        if self._options.on_message is not None:
            raise ClientBusy("the messages go to on_message")
        session = self.link.snapshot.require_session()
        if session is self._inherited:
            raise ClientError(
                "the mailbox is watched by the process that logged in, from which this one was "
                "forked; to watch it here as well, make another client and resume the session"
            )
        inbox = session.inbox
        return MessageLoop(inbox, self._backend.waiter(), limit_of(timeout), ack=ack)

    async def ack(self, request: Ack) -> AckReply:
        """Carry out an ack of the user's own, and drop what it acks from the inbox."""
        self._check_caller()
        inbox = self.link.snapshot.require_session().inbox
        reply = await self.ask(request, AckReply)
        inbox.drop(request.up_to)
        return reply

    async def close(self) -> None:
        """End everything; see `Client.close`."""
        self._backend.check()
        before = self.link.close()
        try:
            # A second caller leaves the first one's last request alone.
            if before.at is not LinkState.CLOSED:
                self._commands.interrupt()
            if before.session is not None:
                before.session.inbox.end()
            await self._stop_watcher()
            await self._close_commands(before)
        except BaseException:
            # Interrupted or cancelled: nothing is waited for any more.
            self._commands.cut()
            with self._lock:
                watcher = self._watcher
            if watcher is not None:
                watcher.cut()
            raise
        finally:
            self._report.deliver()
        await self._report.settle(_CLOSE_SECONDS)
        await self._backend.settle(_CLOSE_SECONDS)

    async def _close_commands(self, before: Snapshot) -> None:
        """Close the command connection, with what the watcher could not ack as its last request.

        That is, above all, an ack that was on its way with a watch whose reply is not awaited: the
        server may not have read it yet.
        """
        inbox = None if before.session is None else before.session.inbox
        unacked = None if inbox is None else inbox.unacked
        last = None if unacked is None else Ack(up_to=unacked)
        # Within on_state the caller may hold the lock of the commands itself; the connection is
        # then closed when it is released.
        seconds = 0.0 if self._report.is_here else _CLOSE_SECONDS
        # A server that was not there a moment ago is not waited for.
        dial = before.at is LinkState.ONLINE
        done = await self._commands.close(seconds, last, dial=dial)
        if done and inbox is not None and unacked is not None:
            inbox.acked(unacked)

    async def _watch(self, session: ClientSession) -> None:
        """Start a watcher, unless the session or the client has ended in the meantime."""
        if self._options.watch is WatchMode.OFF:
            return
        with self._lock:
            before = self._watcher
        streams = self._options.watch is WatchMode.STREAMING
        watcher = (StreamingWatcher if streams else PagingWatcher)(
            self._backend, self._options, self._dialler, self.link, session, before=before
        )
        # Published before it starts: what ends the session from now on ends it as well.
        with self._lock:
            self._watcher = watcher
        # What ended the session before that could not, and it need not start.
        if self.link.snapshot.session is session and not self.link.closed.is_set:
            watcher.start()
        if self.link.closed.is_set:  # and `close` may not have found this watcher
            session.inbox.end()
            await self._stop_watcher()

    async def _stop_watcher(self) -> None:
        with self._lock:
            watcher = self._watcher
        if watcher is not None:
            watcher.stop()
            await watcher.join()
            if self.link.closed.is_set:
                await watcher.abandon()

    def _session_ended(self, session: ClientSession) -> None:
        session.inbox.end()
        with self._lock:
            watcher = self._watcher
        if watcher is not None and watcher.session is session:
            watcher.cut()

    def _check_caller(self) -> None:
        self._backend.check()
        if self._report.is_here:
            raise ClientBusy("on_state may not issue commands: they may have to wait for it")
