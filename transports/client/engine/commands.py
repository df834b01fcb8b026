"""The command line of a client: one request at a time, many callers taking turns.

It knows nothing of the watch line. It finds its line broken, asks the dialler for another one,
and repeats what may be repeated.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from twinline.core.deadline import Deadline
from twinline.core.errors import (
    NotLoggedIn,
    RequestError,
    SessionExpired,
    ShuttingDown,
)
from twinline.core.protocol import ErrorReply, Reply, Request, Send
from twinline.transports.client.engine.backend import Backend
from twinline.transports.client.engine.cancel import Cancelled, CancelToken, OutOfTime, Turn
from twinline.transports.client.engine.connection import LineBroken, LineTimedOut
from twinline.transports.client.engine.dialler import ClientLine, Dialler
from twinline.transports.client.engine.link import Link
from twinline.transports.client.errors import (
    ClientClosed,
    ClientError,
    ConnectionLost,
    NotConnected,
    TimedOut,
)
from twinline.transports.client.settings import ClientSettings

OnReply = Callable[[ClientLine, Reply], None]


class CommandLine:
    """Carries out requests, each within a deadline, in the order in which they came."""

    def __init__(
        self, backend: Backend, dialler: Dialler, link: Link, settings: ClientSettings
    ) -> None:
        self._dialler = dialler
        self._link = link
        self._settings = settings
        self._turn = Turn("command turn", backend.waiter)
        self._line: ClientLine | None = None  # of the caller that has the turn

    async def connect(self, deadline: Deadline) -> None:
        """Have a line that works, as far as one can tell without asking.

        Raises:
            NotConnected: not in time.
            ClientClosed: the client is closed, or was while this waited.
        """
        with _told_as_client_errors():
            await self._turn.enter(deadline, self._link.closed)
            try:
                await self._ready(deadline)
            finally:
                self._leave()

    async def ask(
        self, request: Request, deadline: Deadline, on_reply: OnReply | None = None
    ) -> Reply:
        """Carry out a request.

        Args:
            request: is repeated if it may be and the line breaks.
            deadline: for everything: the turn, the line and the reply.
            on_reply: called with the line and the reply before another caller has its turn.

        Raises:
            RequestError: the server refused; `NotLoggedIn` also when there is no session.
            NotConnected: no line in time; nothing was sent.
            ConnectionLost: the line broke with the request in flight.
            TimedOut: no reply in time.
            ClientClosed: the client is closed, or was while this waited.
        """
        self._require_session(request)
        with _told_as_client_errors():
            await self._turn.enter(deadline, self._link.closed)
            try:
                return await self._ask(request, deadline, on_reply)
            finally:
                self._leave()

    async def close(self, seconds: float) -> None:
        """Close the line; a caller that has the turn and does not leave it in time does so itself.

        The link is closed already.

        Args:
            seconds: to wait for the turn.
        """
        with suppress(OutOfTime):
            await self._turn.enter(Deadline.after(seconds), CancelToken("unused"))
            self._leave()

    def _leave(self) -> None:
        """Give the turn back, with a line that the next one can use or none."""
        try:
            if self._link.closed.is_set:
                self._drop()
            if self._line is None:
                self._link.gave_up()
        finally:
            self._turn.leave()

    async def _ask(self, request: Request, deadline: Deadline, on_reply: OnReply | None) -> Reply:
        earlier: ClientError | RequestError | None = None  # what to say if time runs out
        while True:
            try:
                self._drop_stale()
                self._require_session(request)
                line = await self._ready(deadline)
                self._require_session(request)
            except (NotConnected, NotLoggedIn):
                if earlier is not None:
                    raise earlier from None
                raise
            try:
                reply = await self._exchange(line, request, deadline)
            except LineBroken as broken:
                earlier = self._in_doubt(broken, request)
                if not request.repeatable:
                    raise earlier from None
                continue
            if not isinstance(reply, ErrorReply):
                if on_reply is not None:
                    on_reply(line, reply)
                return reply
            error = RequestError.from_reply(reply)
            if not isinstance(error, ShuttingDown) or not request.repeatable:
                raise self._refused(line, error)
            # Nothing was done, and the server is about to end the line: as if it had broken.
            self._drop()
            self._link.failed(line.session, error.message)
            earlier = earlier or error

    async def _exchange(self, line: ClientLine, request: Request, deadline: Deadline) -> Reply:
        try:
            with self._link.closed.waking(line.line.shutdown):
                reply = await line.line.exchange(
                    request, deadline.sooner(self._settings.reply_seconds)
                )
        except LineBroken as broken:
            self._drop()
            if not self._link.closed.is_set:
                self._link.lost(line.session, str(broken))
                if not line.proved:
                    self._link.failed(line.session, str(broken))
            raise
        except BaseException:
            # The frame was refused here, or the caller was interrupted or cancelled: nothing
            # broke, so the session goes on, even without ``resume``.
            self._drop()
            raise
        if not line.proved and not line.line.closed:
            line.proved = True
            self._link.proved()
        return reply

    def _in_doubt(self, broken: LineBroken, request: Request) -> ClientError:
        """Return the error that says that nobody knows whether the request was done."""
        send_id = request.send_id if isinstance(request, Send) else None
        if self._link.closed.is_set:
            raise ClientClosed("the client was closed while it waited", send_id=send_id)
        kind = TimedOut if isinstance(broken, LineTimedOut) else ConnectionLost
        return kind(f"{request.op} may or may not have been done: {broken}", send_id=send_id)

    def _refused(self, line: ClientLine, error: RequestError) -> RequestError:
        if line.session is not None and isinstance(error, SessionExpired | NotLoggedIn):
            self._link.end_session(line.session, error.message)
        return error

    def _require_session(self, request: Request) -> None:
        """Refuse here what needs a session when there is none."""
        if not request.before_login:
            self._link.require_session()

    async def _ready(self, deadline: Deadline) -> ClientLine:
        """Return a line that is as good as can be told without asking."""
        self._drop_stale()
        if self._line is None:
            self._line = await self._dialler.dial(deadline, self._link.closed)
        return self._line

    def _drop_stale(self) -> None:
        line = self._line
        if line is None:
            return
        current = line.generation == self._link.generation and line.session is self._link.session
        if current and line.line.is_alive():
            return
        self._drop()
        self._link.lost(line.session, "the server ended the connection")

    def _drop(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.line.close()


@contextmanager
def _told_as_client_errors() -> Iterator[None]:
    try:
        yield
    except OutOfTime:
        raise NotConnected("other requests took all the time; nothing was sent") from None
    except Cancelled:
        raise ClientClosed("the client is closed") from None
