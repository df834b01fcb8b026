"""A client's connection over an asyncio transport, and how a task waits."""

# ruff: noqa: D102 - `Connection`, `Waiter` and `asyncio.Protocol` have what their methods do

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from select import POLLIN, poll
from typing import Any

from twinline.core.deadline import Deadline
from twinline.transports.client.engine.cancel import CancelToken
from twinline.transports.client.engine.connection import RECEIVE_BYTES, Connection
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint, Scheme, tune


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

    def __init__(self, connected: socket.socket, transport: Transport) -> None:
        """Prepare; `connection_made` completes it.

        Args:
            connected: owned by the asyncio transport, once there is one.
            transport: makes the codec.
        """
        super().__init__(transport)
        self._readable = poll()
        self._readable.register(connected, POLLIN)
        self._channel: asyncio.Transport  # since `connection_made`, before it is used
        self._waiter = TaskWaiter()
        self._arrived = bytearray()
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

    def is_alive(self) -> bool:
        if self.closed or self._ended or self._arrived:
            return False
        # The socket itself is asked, for the event loop may not have had the time to look.
        return not self._readable.poll(0)

    def shutdown(self) -> None:
        self.stop_reading()
        self._channel.abort()

    def stop_reading(self) -> None:
        self._ended = True
        self._waiter.wake()

    def _close(self) -> None:
        self._channel.abort()

    def _send(self, data: bytes, deadline: Deadline) -> None:
        deadline.timeout()
        if self._ended:
            raise self._error or ConnectionAbortedError("the connection has ended")
        # One frame at a time is under way, so there is no more than one to be kept in memory,
        # and a peer that does not take it is noticed by the reply that does not come.
        self._channel.write(data)

    async def _receive(self, deadline: Deadline) -> bytes:
        while not self._arrived:
            if self._ended:
                raise self._error or EOFError
            deadline.timeout()
            await self._waiter.wait(deadline)
        data = bytes(self._arrived)
        self._arrived.clear()
        self._channel.resume_reading()
        return data


async def connect(
    endpoint: Endpoint, transport: Transport, deadline: Deadline, cancel: CancelToken
) -> StreamConnection:
    """Open a connection; see `Backend.connect`."""
    async with asyncio.timeout(deadline.timeout()) as limit:
        with cancel.waking(lambda: _end_now(limit)):
            connected = await _connect(endpoint)
            connection = StreamConnection(connected, transport)
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: connection, sock=connected)
    return connection


def _end_now(limit: asyncio.Timeout) -> None:
    with suppress(RuntimeError):  # it has ended already
        limit.reschedule(0.0)


async def _connect(endpoint: Endpoint) -> socket.socket:
    """Return a connected socket; as `Endpoint.connect`, but the event loop goes on meanwhile."""
    if endpoint.scheme is Scheme.UNIX:
        return await _connect_to(socket.AF_UNIX, 0, endpoint.path)
    failure: OSError = ConnectionError(f"{endpoint.host} has no address")
    for family, _, protocol, _, address in await _addresses(endpoint):
        try:
            connected = await _connect_to(family, protocol, address)
        except OSError as error:
            failure = error
        else:
            return connected
    raise failure


async def _addresses(endpoint: Endpoint) -> Sequence[tuple[int, int, int, str, Any]]:
    """Look the host up; an address needs no looking up, and so no thread of the event loop's."""
    with suppress(socket.gaierror):
        return socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
    loop = asyncio.get_running_loop()
    return await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)


async def _connect_to(family: int, protocol: int, address: Any) -> socket.socket:
    connected = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        connected.setblocking(False)  # noqa: FBT003 - the name of the method says what it means
        await asyncio.get_running_loop().sock_connect(connected, address)
        tune(connected)
    except BaseException as error:
        connected.close()
        if isinstance(error, OSError) and error.errno is not None:
            # asyncio's text has the address in it, and not what went wrong.
            raise OSError(error.errno, os.strerror(error.errno)) from error
        raise
    return connected
