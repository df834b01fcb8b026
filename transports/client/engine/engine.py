"""What a client consists of, put together: its lines, its watcher, and what they share.

`twinline.transports.client` says how it works; this file has the steps that need several parts:
logging in starts a watcher, logging out and closing end it.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from twinline.core.deadline import Deadline
from twinline.core.errors import CursorInvalid
from twinline.core.locks import new_lock
from twinline.core.protocol import (
    Ack,
    AckReply,
    Done,
    HelloReply,
    Reply,
    Request,
    SessionReply,
)
from twinline.transports.client.engine.backend import Backend
from twinline.transports.client.engine.commands import CommandLine
from twinline.transports.client.engine.dialler import ClientLine, Dialler
from twinline.transports.client.engine.inbox import MessageLoop
from twinline.transports.client.engine.link import Link, Session
from twinline.transports.client.engine.watcher import OnHandlerError, OnMessage, Watcher, backoff_of
from twinline.transports.client.errors import ClientBusy, ClientError
from twinline.transports.client.settings import ClientSettings, WatchMode
from twinline.transports.client.state import State
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint

_R = TypeVar("_R", bound=Reply)
_TURN_SECONDS: Final = 1.0
"""For whoever has the command line to notice that the client is closed."""


class Engine:
    """The parts of one client.

    Attributes:
        link: the session and the state.
    """

    def __init__(
        self,
        backend: Backend,
        endpoint: Endpoint,
        transport: Transport,
        settings: ClientSettings,
        mode: WatchMode,
        *,
        resume: bool,
        on_message: OnMessage | None,
        on_state: Callable[[State], object] | None,
        on_handler_error: OnHandlerError | None,
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._mode = mode
        self._on_message = on_message
        self._on_handler_error = on_handler_error
        self._report = backend.report(on_state)
        self.link = Link(
            backoff_of(settings),
            self._report,
            resume=resume,
            on_session_end=self._session_ended,
        )
        self._dialler = Dialler(backend, endpoint, transport, self.link, settings)
        self._commands = CommandLine(backend, self._dialler, self.link, settings)
        self._lock = new_lock("watcher")
        self._watcher: Watcher | None = None  # guarded by _lock

    async def connect(self, deadline: Deadline) -> HelloReply:
        """Have a command line; see `Client.connect`."""
        self._check_caller()
        await self._commands.connect(deadline)
        hello = self.link.hello
        assert hello is not None  # noqa: S101 - every line has said hello
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
        reply = await self._commands.ask(request, Deadline.after(self._settings.command_seconds))
        assert isinstance(reply, kind)  # noqa: S101 - a line checks it
        return reply

    async def log_in(self, request: Request) -> SessionReply:
        """Carry out what binds the command line to a session, and start the watcher."""
        opened: list[Session] = []

        def bind(line: ClientLine, reply: Reply) -> None:
            assert isinstance(reply, SessionReply)  # noqa: S101 - a line checks it
            session = Session.of(reply)
            line.bind(session)
            opened.append(session)
            self.link.bind(session)

        self._check_caller()
        deadline = Deadline.after(self._settings.command_seconds)
        reply = await self._commands.ask(request, deadline, bind)
        assert isinstance(reply, SessionReply)  # noqa: S101 - a line checks it
        await self._watch(opened[0])
        return reply

    async def end_session(self, request: Request, reason: str | None) -> None:
        """Ack what is dealt with, and then carry out what ends the session.

        Args:
            request: does it.
            reason: for a person, or None when there is nothing to explain.
        """
        self._check_caller()
        session = self.link.require_session()
        with self._lock:
            watcher = self._watcher
        # Itself, within on_message, cannot wait for its own end.
        stopped = watcher is not None and not watcher.is_here
        try:
            if stopped:
                await self._stop_watcher()
            # The watcher's last ack may still be under way, on a line that nobody reads any more;
            # on this line it is before what ends the session.
            unacked = session.inbox.unacked
            if unacked is not None:
                with suppress(CursorInvalid):
                    await self.ask(Ack(up_to=unacked), AckReply)
            await self.ask(request, Done)
        except BaseException:
            if stopped:
                await self._watch(session)
            raise
        self.link.end_session(session, reason)

    def messages(self, timeout: float | None, *, ack: bool) -> MessageLoop:
        """Return a loop over the messages; see `Client.messages`.

        Raises:
            ClientBusy: another loop is running, or there is an ``on_message``.
            ClientError: the client does not watch.
            NotLoggedIn: there is no session.
            ClientClosed: the client is closed already.
        """
        self._backend.check()
        if self._mode is WatchMode.OFF:
            raise ClientError("this client does not watch its mailbox")
        if self._on_message is not None:
            raise ClientBusy("the messages go to on_message")
        inbox = self.link.require_session().inbox
        return MessageLoop(inbox, self._backend.waiter(), timeout, ack=ack)

    async def ack(self, request: Ack) -> AckReply:
        """Carry out an ack of the user's own, and forget what it acks."""
        self._check_caller()
        inbox = self.link.require_session().inbox
        reply = await self.ask(request, AckReply)
        inbox.drop(request.up_to)
        return reply

    async def close(self) -> None:
        """End everything; see `Client.close`."""
        self._backend.check()
        session = self.link.session
        self.link.close()
        if session is not None:
            session.inbox.end()
        await self._stop_watcher()
        # Within on_state the caller may have the turn itself; the line is then closed with it.
        await self._commands.close(0.0 if self._report.is_here else _TURN_SECONDS)
        self._report.deliver()
        await self._report.settle(_TURN_SECONDS)
        await self._backend.settle(_TURN_SECONDS)

    async def _watch(self, session: Session) -> None:
        self._start_watcher(session)
        if self.link.closed.is_set:  # and whoever has closed it did not find this watcher
            await self._stop_watcher()

    def _start_watcher(self, session: Session) -> None:
        if self._mode is WatchMode.OFF:
            return
        with self._lock:
            before = self._watcher
        watcher = Watcher(
            self._backend,
            self._dialler,
            self.link,
            session,
            self._settings,
            mode=self._mode,
            on_message=self._on_message,
            on_handler_error=self._on_handler_error,
            before=before,
        )
        # Known before it starts, so that whoever ends the session from now on ends it as well.
        with self._lock:
            self._watcher = watcher
        # Who ended it before that could not, and it need not start.
        if self.link.session is session and not self.link.closed.is_set:
            watcher.start()
        if self.link.closed.is_set:
            session.inbox.end()

    async def _stop_watcher(self) -> None:
        with self._lock:
            watcher = self._watcher
        if watcher is not None:
            watcher.stop()
            await watcher.join()
            if self.link.closed.is_set:
                await watcher.abandon()

    def _session_ended(self, session: Session) -> None:
        session.inbox.end()
        with self._lock:
            watcher = self._watcher
        if watcher is not None and watcher.session is session:
            watcher.cut()

    def _check_caller(self) -> None:
        self._backend.check()
        if self._report.is_here:
            raise ClientBusy("on_state may not issue commands: they may have to wait for it")
