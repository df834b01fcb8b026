"""A client's connection over an asyncio transport, and how a task waits."""

# ruff: noqa: D102 - `Connection`, `Waiter` and `asyncio.Protocol` have what their methods do

import asyncio
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from select import POLLIN, poll

from twinline.core.deadline import Deadline
from twinline.transports.client.engine.cancel import CancelToken
from twinline.transports.client.engine.connection import RECEIVE_BYTES, Connection
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint
from twinline.transports.race import Address, Connected, Race
from twinline.transports.resolver import Resolver
from twinline.transports.tls.layer import TlsLayer


class TaskWaiter:
    """A task's place to wait; others of the same event loop may wake it."""

    __slots__ = ("_future", "_woken")

    def __init__(self) -> None:
        self._woken = False
        self._future: asyncio.Future[None] | None = None  # while the task waits

    def wake(self) -> None:
        """Wake the waiting task, or let its next wait return at once."""
        self._woken = True
        if self._future is not None:
            _finish(self._future)

    async def wait(self, deadline: Deadline) -> bool:
        """Wait until woken or until the deadline passes, and return whether it was woken.

        Where there is no time left the event loop runs all the same, so that a caller that looks
        again and again does not starve the other tasks.
        """
        if not self._woken:
            loop = asyncio.get_running_loop()
            self._future = future = loop.create_future()
            seconds = deadline.remaining()
            timer = None if seconds is None else loop.call_later(seconds, _finish, future)
            try:
                await future
            finally:
                self._future = None
                if timer is not None:
                    timer.cancel()
        woken, self._woken = self._woken, False
        return woken


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class StreamConnection(Connection, asyncio.Protocol):
    """A connection over an asyncio transport.

    Attributes:
        lost: done when the socket is closed.
    """

    def __init__(
        self,
        connected: socket.socket,
        transport: Transport,
        address: Address | None = None,
        layer: TlsLayer | None = None,
    ) -> None:
        """Prepare; `connection_made` completes it.

        Args:
            connected: owned by the asyncio transport, once there is one.
            transport: makes the codec.
            address: that was connected to.
            layer: of TLS; None where the bytes travel in plain.
        """
        super().__init__(transport, address, layer)
        self._readable = poll()
        self._readable.register(connected, POLLIN)
        self._channel: asyncio.Transport  # since `connection_made`, before it is used
        self._waiter = TaskWaiter()
        self._arrived = bytearray()
        self._nudged = False
        self._ended = False  # nothing more will arrive
        self._error: OSError | None = None  # why, if it was no orderly end
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # -- what the event loop calls ------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - it was made for a stream
        self._channel = transport

    def data_received(self, data: bytes) -> None:
        """Keep what has arrived, and take in no more than is asked for soon."""
        self._arrived += data
        if len(self._arrived) >= RECEIVE_BYTES:
            self._channel.pause_reading()
        self._waiter.wake()

    def eof_received(self) -> None:
        """Note that the server has ended the connection; the asyncio transport then closes."""
        self.stop_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, OSError) and not self._ended:
            self._error = exc
        self.stop_reading()
        self.lost.set_result(None)

    # -- what `Connection` has ----------------------------------------------------------

    def is_quiet(self) -> bool:
        if self.closed or self._ended or self._arrived:
            return False
        # The socket itself is asked, for the event loop may not have had the time to look.
        return not self._readable.poll(0)

    def shutdown(self) -> None:
        self.stop_reading()
        # Later, because a token calls this under its lock, and in asyncio's debug mode to abort is
        # to read source files.
        self.lost.get_loop().call_soon(self._channel.abort)

    def stop_reading(self) -> None:
        self._ended = True
        self._waiter.wake()

    def accept_nudges(self) -> None:
        """Do nothing: a nudge wakes the task."""

    def nudge(self) -> None:
        self._nudged = True
        self._waiter.wake()

    def _close(self) -> None:
        self._channel.abort()

    def _send(self, data: bytes, deadline: Deadline) -> None:
        deadline.timeout()
        if self._ended:
            raise self._error or ConnectionAbortedError("the connection has ended")
        # Few frames are under way, so there are no more than those to be kept in memory, and a peer
        # that does not take them is noticed by the reply that does not come.
        self._channel.write(data)

    async def _receive(self, deadline: Deadline) -> bytes:
        while not self._arrived:
            if self._ended:
                raise self._error or EOFError
            deadline.timeout()
            await self._waiter.wait(deadline)
        return self._take_arrived()

    async def _receive_or_nudge(self, until: Deadline) -> bytes | None:
        late = False
        while not self._arrived:
            if self._ended:
                raise self._error or EOFError
            if self._nudged or late:
                break
            late = until.passed  # the event loop runs at least once: it may have bytes to bring
            await self._waiter.wait(until)
        nudged, self._nudged = self._nudged, False
        if not self._arrived and nudged:
            return None
        return self._take_arrived()

    def _take_arrived(self) -> bytes:
        data = bytes(self._arrived)
        self._arrived.clear()
        self._channel.resume_reading()
        return data


async def connect(
    endpoint: Endpoint, deadline: Deadline, resolver: Resolver, cancel: CancelToken
) -> Connected:
    """Return a connected socket; as `twinline.transports.connecting.connect`, but in a task."""
    deadline.timeout()
    loop = asyncio.get_running_loop()
    waiter = TaskWaiter()

    def wake_from_thread() -> None:
        with suppress(RuntimeError):  # the event loop was closed in the meantime
            loop.call_soon_threadsafe(waiter.wake)

    lookup = resolver.begin(endpoint)
    if not lookup.is_done:
        with lookup.waking(wake_from_thread):
            await cancel.wait(waiter, deadline)
    with Race(resolver.order(lookup.take()), deadline) as race:
        while (connected := race.step()) is None:
            with _waking_when_writable(race.sockets, waiter):
                await cancel.wait(waiter, race.until)
    return connected


@contextmanager
def _waking_when_writable(sockets: Iterable[socket.socket], waiter: TaskWaiter) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    descriptors = [each.fileno() for each in sockets]
    try:
        for descriptor in descriptors:
            loop.add_writer(descriptor, waiter.wake)
        yield
    finally:
        for descriptor in descriptors:
            loop.remove_writer(descriptor)


async def adopt(
    connected: Connected, transport: Transport, layer: TlsLayer | None = None
) -> StreamConnection:
    """Return a connection that owns the socket; it is closed if there will be none."""
    loop = asyncio.get_running_loop()
    try:
        connection = StreamConnection(connected.socket, transport, connected.address, layer)
        await loop.create_connection(lambda: connection, sock=connected.socket)
    except BaseException:  # the transport is anybody's, and the task may be cancelled
        connected.socket.close()
        raise
    return connection
