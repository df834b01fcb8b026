"""Opens the lines of a client: connect, hello, resume, again and again if need be.

Whoever needs a line dials; those that need one at the same time take turns, so there is one
attempt at a time and one pace for all of them.
"""

from importlib.metadata import version
from typing import Final

from twinline.core.deadline import Deadline
from twinline.core.errors import InternalError, RequestError, UnsupportedVersion
from twinline.core.protocol import (
    PROTOCOL_VERSION,
    ErrorReply,
    Hello,
    HelloReply,
    Limits,
    Reply,
    Request,
    Resume,
    SessionReply,
)
from twinline.transports.client.engine.backend import Backend
from twinline.transports.client.engine.cancel import CancelToken, OutOfTime, Turn
from twinline.transports.client.engine.connection import Line, LineBroken
from twinline.transports.client.engine.link import Link, Session
from twinline.transports.client.errors import NotConnected
from twinline.transports.client.settings import ClientSettings
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint

CLIENT_NAME: Final = f"twinline/{version('twinline')}"


class ClientLine:
    """A line that has said hello, and what it was opened for.

    Attributes:
        line: the line.
        session: that it is bound to, or None.
        generation: of the link, when the line was dialled.
        limits: what the server accepts.
        proved: whether it has carried a request since.
    """

    __slots__ = ("generation", "limits", "line", "proved", "session")

    def __init__(self, line: Line, generation: int, limits: Limits) -> None:
        self.line = line
        self.session: Session | None = None
        self.generation = generation
        self.limits = limits
        self.proved = False
        line.frame_bytes = limits.frame_bytes_before_login

    def bind(self, session: Session) -> None:
        """The line is logged in."""
        self.session = session
        self.line.frame_bytes = self.limits.frame_bytes


class _AttemptFailed(Exception):
    def __init__(self, reason: str, retry_after_ms: int | None = None) -> None:
        self.retry_after = (retry_after_ms or 0) / 1000
        super().__init__(reason)


class Dialler:
    """Opens lines to one endpoint."""

    def __init__(
        self,
        backend: Backend,
        endpoint: Endpoint,
        transport: Transport,
        link: Link,
        settings: ClientSettings,
    ) -> None:
        self._backend = backend
        self.endpoint = endpoint
        self._transport = transport
        self._link = link
        self._settings = settings
        self._turn = Turn("dialling turn", backend.waiter)

    async def dial(self, deadline: Deadline, interrupt: CancelToken) -> ClientLine:
        """Return a new line, bound to the session if there is one.

        The first attempt is made at once, the next ones at the pace of the backoff. If the
        server does not know the session any more, the session is ended and the line returned
        all the same: it can log in.

        Args:
            deadline: for having the line.
            interrupt: ends the attempts.

        Raises:
            NotConnected: not in time.
            Cancelled: the interrupt was set.
            UnsupportedVersion: the server speaks another version of the protocol.
            EndpointError: the endpoint's scheme is not supported.
        """
        reason = "somebody else is still trying"
        try:
            await self._turn.enter(deadline, interrupt)
            try:
                while True:
                    await self._pause(deadline, interrupt)
                    session = self._link.session
                    try:
                        return await self._attempt(deadline, interrupt)
                    except _AttemptFailed as failure:
                        interrupt.check()
                        reason = str(failure)
                        self._link.failed(session, reason, failure.retry_after)
            finally:
                self._turn.leave()
        except OutOfTime:
            message = f"{self.endpoint} was not reachable in time, nothing was sent: {reason}"
            raise NotConnected(message) from None

    async def _pause(self, deadline: Deadline, interrupt: CancelToken) -> None:
        """Wait until the next attempt is allowed."""
        waiter = self._backend.waiter()
        while not (allowed := self._link.next_attempt).passed:
            # Nothing wakes this waiter but the interrupt: it sleeps to whichever is sooner.
            await interrupt.wait(waiter, deadline.sooner(allowed.remaining() or 0.0))
            if deadline.passed:
                raise OutOfTime
        interrupt.check()
        if deadline.passed:
            raise OutOfTime

    async def _attempt(self, deadline: Deadline, interrupt: CancelToken) -> ClientLine:
        """Open a line.

        Raises:
            _AttemptFailed: it may succeed later.
        """
        settings = self._settings
        generation = self._link.generation
        try:
            line = await self._backend.connect(
                self.endpoint,
                self._transport,
                deadline.sooner(settings.connect_seconds),
                interrupt,
            )
        except TimeoutError:
            raise _AttemptFailed("connecting took too long") from None
        except OSError as error:
            raise _AttemptFailed(error.strerror or str(error)) from error
        try:
            with interrupt.waking(line.shutdown):
                hello = await self._hello(line, deadline)
                dialled = ClientLine(line, generation, hello.limits)
                await self._resume(dialled, deadline)
        except LineBroken as error:
            raise _AttemptFailed(str(error)) from error
        except BaseException:
            line.close()
            raise
        self._link.connected(hello)
        return dialled

    async def _hello(self, line: Line, deadline: Deadline) -> HelloReply:
        reply = await self._ask(
            line, Hello(protocol=PROTOCOL_VERSION, client=CLIENT_NAME), deadline
        )
        if isinstance(reply, HelloReply):
            return reply
        error = _refusal(reply)
        if isinstance(error, UnsupportedVersion):
            raise error
        raise _AttemptFailed(error.message, error.retry_after_ms)

    async def _resume(self, dialled: ClientLine, deadline: Deadline) -> None:
        session = self._link.session
        if session is None:
            return
        reply = await self._ask(dialled.line, Resume(session=session.token), deadline)
        if isinstance(reply, SessionReply):
            dialled.bind(session)
            return
        error = _refusal(reply)
        if error.retryable or isinstance(error, InternalError):
            raise _AttemptFailed(error.message, error.retry_after_ms)
        self._link.end_session(session, error.message)

    async def _ask(self, line: Line, request: Request, deadline: Deadline) -> Reply:
        return await line.exchange(request, deadline.sooner(self._settings.reply_seconds))


def _refusal(reply: Reply) -> RequestError:
    # A line checks that a reply is of the request's kind or a refusal.
    assert isinstance(reply, ErrorReply)  # noqa: S101
    return RequestError.from_reply(reply)
