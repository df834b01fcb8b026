"""What a client consists of, put together: its lines, its watcher, and what they share.

`twinline.transports.client` says how it works; this file has the steps that need several parts:
logging in starts a watcher, logging out and closing end it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pydantic import ValidationError

from twinline.core.deadline import Deadline
from twinline.core.errors import BadRequest
from twinline.core.locks import new_lock
from twinline.core.protocol import Done, HelloReply, Reply, Request, SessionReply
from twinline.transports.client_commands import CommandLine
from twinline.transports.client_dialler import ClientLine, Dialler
from twinline.transports.client_errors import ClientBusy
from twinline.transports.client_link import Link, Session
from twinline.transports.client_settings import ClientSettings, WatchMode
from twinline.transports.client_state import State, StateReport
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint
from twinline.transports.watcher import OnHandlerError, OnMessage, Watcher, backoff_of

_R = TypeVar("_R", bound=Reply)


class Engine:
    """The parts of one client.

    Attributes:
        link: the session and the state.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        settings: ClientSettings,
        mode: WatchMode,
        *,
        resume: bool,
        on_message: OnMessage | None,
        on_state: Callable[[State], None] | None,
        on_handler_error: OnHandlerError | None,
    ) -> None:
        self._settings = settings
        self._mode = mode
        self._on_message = on_message
        self._on_handler_error = on_handler_error
        self._report = StateReport(on_state)
        self.link = Link(
            backoff_of(settings),
            self._report,
            resume=resume,
            on_session_end=self._session_ended,
        )
        self._dialler = Dialler(endpoint, transport, self.link, settings)
        self._commands = CommandLine(self._dialler, self.link, settings)
        self._lock = new_lock("watcher")
        self._watcher: Watcher | None = None  # guarded by _lock

    def connect(self, deadline: Deadline) -> HelloReply:
        """Have a command line; see `Client.connect`."""
        self._refuse_in_callback()
        self._commands.connect(deadline)
        hello = self.link.hello
        assert hello is not None  # noqa: S101 - every line has said hello
        return hello

    def ask(self, request: Request, kind: type[_R]) -> _R:
        """Carry out a command.

        Args:
            request: the command.
            kind: of its reply.

        Raises:
            RequestError, NotConnected, ConnectionLost, TimedOut, ClientClosed, ClientBusy.
        """
        self._refuse_in_callback()
        reply = self._commands.ask(request, Deadline.after(self._settings.command_seconds))
        assert isinstance(reply, kind)  # noqa: S101 - a line checks it
        return reply

    def log_in(self, request: Request) -> SessionReply:
        """Carry out what binds the command line to a session, and start the watcher."""
        opened: list[Session] = []

        def bind(line: ClientLine, reply: Reply) -> None:
            assert isinstance(reply, SessionReply)  # noqa: S101 - a line checks it
            session = Session.of(reply)
            line.bind(session)
            opened.append(session)
            self.link.bind(session)

        self._refuse_in_callback()
        deadline = Deadline.after(self._settings.command_seconds)
        reply = self._commands.ask(request, deadline, bind)
        assert isinstance(reply, SessionReply)  # noqa: S101 - a line checks it
        self._start_watcher(opened[0])
        return reply

    def end_session(self, request: Request, reason: str | None) -> None:
        """Ack what is dealt with, and then carry out what ends the session.

        Args:
            request: does it.
            reason: for a person, or None when there is nothing to explain.
        """
        self._refuse_in_callback()
        session = self.link.require_session()
        with self._lock:
            watcher = self._watcher
        # Its own thread, within on_message, cannot wait for its own end.
        stopped = watcher is not None and not watcher.is_here
        if stopped:
            self._stop_watcher()
        try:
            self.ask(request, Done)
        except BaseException:
            if stopped:
                self._start_watcher(session)
            raise
        self.link.end_session(session, reason)

    def close(self) -> None:
        """End everything; see `Client.close`."""
        session = self.link.session
        self.link.close()
        if session is not None:
            session.inbox.end()
        self._stop_watcher()
        if not self._report.is_here:  # that thread may have the turn; it then closes the line
            self._commands.close()
        self._report.deliver()

    def _start_watcher(self, session: Session) -> None:
        if self._mode is WatchMode.OFF:
            return
        with self._lock:
            before = self._watcher
        watcher = Watcher(
            self._dialler,
            self.link,
            session,
            self._settings,
            self._mode,
            on_message=self._on_message,
            on_handler_error=self._on_handler_error,
            before=before,
        )
        # Known before it starts, so that whoever ends the session from now on ends it as well.
        with self._lock:
            self._watcher = watcher
        # Who ended it before that could not, and it need not start.
        if self.link.session is session:
            watcher.start()
        if self.link.closed.is_set:
            session.inbox.end()
            watcher.stop()
            watcher.join()

    def _stop_watcher(self) -> None:
        with self._lock:
            watcher = self._watcher
        if watcher is not None:
            watcher.stop()
            watcher.join()

    def _session_ended(self, session: Session) -> None:
        session.inbox.end()
        with self._lock:
            watcher = self._watcher
        if watcher is not None and watcher.session is session:
            watcher.cut()

    def _refuse_in_callback(self) -> None:
        if self._report.is_here:
            raise ClientBusy("on_state may not issue commands: they may have to wait for it")


@contextmanager
def readable() -> Iterator[None]:
    """Turn a request that the protocol cannot express into the error that it would get.

    Raises:
        BadRequest: a field is mistyped or out of range; its value, a secret perhaps, is not told.
    """
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadRequest(f"{place}: {first['msg']}") from None
