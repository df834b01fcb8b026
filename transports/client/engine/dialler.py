"""Opens the connections of a client: connect, hello, resume, at one server after the other.

Whatever needs a connection dials; those that need one at the same time queue, so there is one
attempt at a time and one pace for all of them.
"""

from importlib.metadata import version
from typing import Final, TypeVar

from twinline.core import protocol
from twinline.core.deadline import Deadline
from twinline.core.errors import InternalError, RequestError, UnsupportedVersion
from twinline.transports.client.engine.backend import Backend
from twinline.transports.client.engine.cancel import CancelToken, DeadlinePassed, FifoLock, Turn
from twinline.transports.client.engine.connection import Connection, ConnectionBroken
from twinline.transports.client.engine.link import Link
from twinline.transports.client.errors import NotConnected
from twinline.transports.client.options import ClientOptions, Server

CLIENT_NAME: Final = f"twinline/{version('twinline')}"
_R = TypeVar("_R", bound=protocol.Reply)


class _AttemptFailed(Exception):
    def __init__(self, reason: str, refusal: RequestError | None = None) -> None:
        self.refusal = refusal
        super().__init__(reason)


class Dialler:
    """Opens connections, to whichever server the link says is next."""

    def __init__(self, backend: Backend, options: ClientOptions, link: Link) -> None:
        self._backend = backend
        self._options = options
        self._link = link
        self._fifo = FifoLock("dialler", backend.waiter)

    async def dial(self, deadline: Deadline, cancel: CancelToken) -> Connection:
        """Return a new connection, bound to the session if there is one.

        The first attempt is made at once, and one at each other server; the next ones at the pace
        of the backoff. If the server does not know the session any more, the session is ended and
        the connection returned all the same: it can log in.

        Args:
            deadline: for having the connection.
            cancel: ends the attempts.

        Raises:
            NotConnected: not in time.
            Cancelled: the token was set.
            UnsupportedVersion: the server speaks another version of the protocol.
        """
        turn = Turn()
        try:
            with turn.lasts:
                await self._fifo.take(turn, deadline, cancel)
                while True:
                    await self._pause(deadline, cancel)
                    session, server = self._link.snapshot.session, self._link.next_server
                    try:
                        return await self._attempt(server, deadline, cancel)
                    except _AttemptFailed as failure:
                        cancel.check()
                        self._link.attempt_failed(session, server, str(failure), failure.refusal)
        except DeadlinePassed:
            first, *others = self._options.servers
            where = "no server was" if others else f"{first.endpoint.place} was not"
            reason = self._link.why or "another attempt is still under way"
            message = f"{where} reachable in time, nothing was sent: {reason}"
            raise NotConnected(message) from None
        finally:
            self._fifo.pass_on(turn)

    async def _pause(self, deadline: Deadline, cancel: CancelToken) -> None:
        """Wait until the next attempt is allowed."""
        while not deadline.passed:
            waiter = self._backend.waiter()
            with self._link.hurried.calling(waiter.wake):
                allowed = self._link.next_attempt
                if allowed.passed:
                    cancel.check()
                    return
                # Nothing but the two tokens wakes this waiter: it sleeps to whichever is sooner.
                await cancel.wait(waiter, deadline.sooner(allowed.remaining() or 0.0))
        cancel.check()
        raise DeadlinePassed

    async def _attempt(self, server: Server, deadline: Deadline, cancel: CancelToken) -> Connection:
        """Open a connection to a server.

        Raises:
            _AttemptFailed: it may succeed later.
        """
        generation, failures = self._link.snapshot.generation, self._link.failures
        until = deadline.sooner(self._options.settings.connect_seconds)
        try:
            connection = await self._backend.connect(
                server.endpoint,
                server.transport,
                server.new_layer(),
                until,
                cancel,
            )
        except TimeoutError:
            raise _AttemptFailed("connecting took too long") from None
        except OSError as error:
            raise _AttemptFailed(error.strerror or str(error)) from error
        try:
            connection.server = server
            connection.generation, connection.failures = generation, failures
            with cancel.waking(connection.shutdown):
                await connection.establish(until)
                greeting = protocol.Hello(protocol=protocol.PROTOCOL_VERSION, client=CLIENT_NAME)
                hello = await self._ask(connection, greeting, protocol.HelloReply, deadline)
                connection.greeted(hello.limits)
                await self._resume(connection, hello, deadline)
            self._link.connected(hello, server)
        except BaseException as error:
            connection.close()
            if isinstance(error, UnsupportedVersion):
                raise
            if isinstance(error, ConnectionBroken):
                self._try_last(connection, cancel)
                raise _AttemptFailed(str(error)) from error
            if isinstance(error, RequestError):
                self._try_last(connection, cancel)
                raise _AttemptFailed(error.message, error) from error
            raise
        return connection

    def _try_last(self, connection: Connection, cancel: CancelToken) -> None:
        """Have the next attempt begin with another address, unless it was the client that ended."""
        if connection.address is not None and not cancel.is_set:
            self._backend.resolver.demote(connection.address)

    async def _resume(
        self, connection: Connection, hello: protocol.HelloReply, deadline: Deadline
    ) -> None:
        session = self._link.snapshot.session
        if session is None:
            return
        request = protocol.Resume(session=session.token)
        try:
            await self._ask(connection, request, protocol.SessionReply, deadline)
        except RequestError as error:
            if error.retryable or isinstance(error, InternalError):
                raise
            self._link.refused_session(session, error.message, hello, connection.server)
        else:
            connection.bind(session)

    async def _ask(
        self, connection: Connection, request: protocol.Request, kind: type[_R], deadline: Deadline
    ) -> _R:
        limit = deadline.sooner(self._options.settings.reply_seconds)
        reply = await connection.exchange(request, limit)
        if isinstance(reply, protocol.ErrorReply):
            raise RequestError.from_reply(reply)
        if connection.closed:  # its end was behind the reply
            raise ConnectionBroken("the server ended the connection")
        assert isinstance(reply, kind)  # noqa: S101 - a connection checks it
        return reply
