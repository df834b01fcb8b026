"""The command connection of a client: one request at a time, in the order of the calls.

It knows nothing of the watch connection. It finds its own broken, asks the dialler for another
one, and repeats what may be repeated.
"""

from collections.abc import Callable
from typing import Final

from twinline.core.deadline import Deadline
from twinline.core.errors import NotLoggedIn, RequestError, SessionExpired, ShuttingDown
from twinline.core.protocol import ErrorReply, Reply, Request, Send
from twinline.transports.client.engine.backend import Backend
from twinline.transports.client.engine.cancel import (
    Cancelled,
    CancelToken,
    DeadlinePassed,
    FifoLock,
    Turn,
)
from twinline.transports.client.engine.connection import (
    Connection,
    ConnectionBroken,
    ReplyTimedOut,
)
from twinline.transports.client.engine.dialler import Dialler
from twinline.transports.client.engine.link import Link, Snapshot
from twinline.transports.client.errors import (
    ClientClosed,
    ClientError,
    ConnectionLost,
    NotConnected,
    TimedOut,
)

OnReply = Callable[[Connection, Reply], None]
LAST_SECONDS: Final = 1.0
"""For the last request, when the client ends."""


class Commands:
    """Carries out requests, each within a deadline, in the order in which they came."""

    def __init__(
        self, backend: Backend, dialler: Dialler, link: Link, reply_seconds: float
    ) -> None:
        self._dialler = dialler
        self._link = link
        self._reply_seconds = reply_seconds
        self._fifo = FifoLock("commands", backend.waiter)
        self._cut = CancelToken("cut of commands")  # ends what is under way when the client closes
        self._connection: Connection | None = None  # of the caller whose turn it is at _fifo

    async def connect(self, deadline: Deadline) -> None:
        """Have a connection that works, as far as can be seen without asking.

        Raises:
            NotConnected: not in time.
            ClientClosed: the client is closed, or was while this waited.
        """
        turn = Turn()
        try:
            with turn.lasts:
                if not self._fifo.take_nowait(turn):
                    await self._queue(turn, None, deadline)
                try:
                    await self._ready(None, deadline)
                finally:
                    self._leave()
        finally:
            self._fifo.pass_on(turn)

    async def ask(
        self, request: Request, deadline: Deadline, on_reply: OnReply | None = None
    ) -> Reply:
        """Carry out a request.

        Args:
            request: is repeated if it may be and the connection breaks.
            deadline: for everything: the lock, the connection and the reply.
            on_reply: called with the connection and the reply before the next request.

        Raises:
            RequestError: the server refused; `NotLoggedIn` also when there is no session.
            NotConnected: no connection in time; nothing was sent.
            ConnectionLost: the connection broke with the request in flight.
            TimedOut: no reply in time.
            ClientClosed: the client is closed, or was while this waited.
        """
        turn = Turn()
        try:
            with turn.lasts:
                if not self._fifo.take_nowait(turn):
                    await self._queue(turn, request, deadline)
                try:
                    return await self._ask(request, deadline, on_reply)
                finally:
                    self._leave()
        finally:
            self._fifo.pass_on(turn)

    def forget(self) -> None:
        """Close a forked child's copy of the socket; the parent goes on with its own."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.forget()

    def interrupt(self) -> None:
        """End the exchange that is under way, once the link is closed; an idle connection stays."""
        if self._fifo.is_held:
            self._cut.set()

    async def close(self, seconds: float, last: Request | None = None, *, dial: bool) -> bool:
        """Carry out a last request if it can be, and close the connection.

        The link is closed already, and `interrupt` was called. A caller that holds the lock for
        longer closes the connection on leaving.

        Args:
            seconds: to wait for the lock.
            last: the request, for the session that there is.
            dial: whether to open a connection for it if there is none that works.

        Returns:
            Whether the request was carried out.
        """
        turn = Turn()
        try:
            with turn.lasts:
                await self._fifo.take(turn, Deadline.after(seconds), CancelToken("unused"))
                try:
                    return last is not None and await self._last(last, dial=dial)
                finally:
                    self._leave()
        except DeadlinePassed:
            return False
        finally:
            self._fifo.pass_on(turn)

    def cut(self) -> None:
        """End what is under way and close the connection, without waiting; the link is closed."""
        self._cut.set()
        turn = Turn()
        with turn.lasts:
            if self._fifo.take_nowait(turn):
                self._leave()
        self._fifo.pass_on(turn)

    async def _last(self, request: Request, *, dial: bool) -> bool:
        deadline = Deadline.after(LAST_SECONDS)
        connection = self._connection
        try:
            if connection is None or not await connection.is_alive():
                if not dial:
                    return False
                self._drop()
                unused = CancelToken("unused")
                connection = self._connection = await self._dialler.dial(deadline, unused)
            reply = await connection.exchange(request, deadline)
        except (ClientError, ConnectionBroken, RequestError):
            return False
        return not isinstance(reply, ErrorReply)

    async def _queue(self, turn: Turn, request: Request | None, deadline: Deadline) -> None:
        self._look(request)  # what is refused anyhow does not wait for it
        try:
            await self._fifo.take(turn, deadline, self._link.closed)
        except DeadlinePassed:
            raise NotConnected("other requests took all the time; nothing was sent") from None
        except Cancelled:
            raise ClientClosed("the client is closed") from None

    def _leave(self) -> None:
        """Leave a connection that the next request can use, or none."""
        if self._link.closed.is_set:
            self._drop()
        if self._connection is None:
            self._link.gave_up()

    async def _ask(self, request: Request, deadline: Deadline, on_reply: OnReply | None) -> Reply:
        earlier: ClientError | RequestError | None = None  # what to raise if time runs out
        while True:
            try:
                connection = await self._ready(request, deadline)
            except (NotConnected, NotLoggedIn):
                if earlier is not None:
                    raise earlier from None
                raise
            try:
                reply = await connection.exchange(request, deadline.sooner(self._reply_seconds))
                if not connection.proved and not connection.closed:
                    connection.proved = True
                    self._link.proved(connection.server, connection.failures)
                if not isinstance(reply, ErrorReply):
                    if on_reply is not None:
                        on_reply(connection, reply)
                    return reply
            except ConnectionBroken as broken:
                self._connection = None
                earlier = self._in_doubt(connection, broken, request)
                if not request.repeatable:
                    raise earlier from None
                continue
            except BaseException:
                # The frame was refused here, or the caller was interrupted or cancelled: nothing
                # broke, so the session goes on, even without ``resume``. But what the server has
                # bound the connection to is not known here.
                self._drop()
                raise
            error = RequestError.from_reply(reply)
            if not isinstance(error, ShuttingDown) or not request.repeatable:
                if connection.session and isinstance(error, SessionExpired | NotLoggedIn):
                    self._link.session_ended(connection.session, error.message)
                raise error
            # Nothing was done, and the server is about to hang up: as if it had.
            self._drop()
            self._link.attempt_failed(connection.session, connection.server, error.message, error)
            earlier = earlier or error

    def _in_doubt(
        self, connection: Connection, broken: ConnectionBroken, request: Request
    ) -> ClientError:
        """Note that the connection broke, and return the error of the request in flight."""
        send_id = request.send_id if isinstance(request, Send) else None
        if self._link.closed.is_set:
            raise ClientClosed("the client was closed while it waited", send_id=send_id)
        if connection.proved:
            if isinstance(broken, ReplyTimedOut):
                self._link.stopped_answering(connection.server)
            self._link.command_broke(connection.session, str(broken))
        else:
            self._link.attempt_failed(connection.session, connection.server, str(broken))
        kind = TimedOut if isinstance(broken, ReplyTimedOut) else ConnectionLost
        return kind(f"{request.op} may or may not have been done: {broken}", send_id=send_id)

    async def _ready(self, request: Request | None, deadline: Deadline) -> Connection:
        """Return a connection that is as good as can be seen without asking.

        Raises:
            NotConnected: not in time.
            NotLoggedIn: the request needs a session, and there is none.
            ClientClosed: the client is closed, or was while this waited.
        """
        now = self._look(request)
        connection = self._connection
        if connection is not None:
            try:
                if (
                    connection.session is now.session
                    and connection.generation == now.generation
                    and (connection.is_quiet() or await connection.is_alive())
                ):
                    return connection
            except BaseException:
                # The caller was interrupted or cancelled while what the transport says by itself
                # was read: nothing broke, but where the next reply begins is unknown.
                self._drop()
                raise
            self._drop()
            self._link.command_broke(connection.session, "the server ended the connection")
            self._look(request)  # without ``resume`` that was the session's end
        try:
            connection = await self._dialler.dial(deadline, self._link.closed)
            connection.end_with(self._cut)
        except Cancelled:
            raise ClientClosed("the client is closed") from None
        self._connection = connection
        self._look(request)  # the server may not know the session any more
        return connection

    def _look(self, request: Request | None) -> Snapshot:
        """Return where the client stands, unless it is too closed, or too logged out, to ask."""
        now = self._link.snapshot
        if request is None or request.before_login:
            now.require_open()
        else:
            now.require_session()
        return now

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
