"""A client's line over an asyncio transport."""

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from twinline.core.deadline import Deadline
from twinline.transports.client.backends.aio_waiting import TaskWaiter
from twinline.transports.client.backends.threads_connection import is_silent
from twinline.transports.client.engine.cancel import CancelToken
from twinline.transports.client.engine.connection import RECEIVE_BYTES, Line
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint, Scheme, tune


class AsyncLine(Line, asyncio.Protocol):
    """A connected asyncio transport with a codec; see `Line`.

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
        self._socket = connected  # to look at only
        self._channel: asyncio.Transport  # since `connection_made`; no line is used before
        self._waiter = TaskWaiter()
        self._arrived = bytearray()
        self._ended = False  # nothing more will arrive
        self._error: OSError | None = None  # why, if it was no orderly end
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(
        cls, endpoint: Endpoint, transport: Transport, deadline: Deadline, interrupt: CancelToken
    ) -> "AsyncLine":
        """Open a connection.

        Args:
            endpoint: where to.
            transport: what to speak there.
            deadline: for resolving the name and connecting.
            interrupt: ends the attempt early.

        Raises:
            OSError: it cannot be reached, or the deadline passed (TimeoutError).
            Cancelled: the interrupt was set before the attempt began.
            EndpointError: the scheme is not supported yet.
        """
        async with asyncio.timeout(deadline.timeout()) as limit:
            with interrupt.waking(lambda: _end_now(limit)):
                connected = await _connect(endpoint)
                line = cls(connected, transport)
                loop = asyncio.get_running_loop()
                await loop.create_connection(lambda: line, sock=connected)
        return line

    # -- what the event loop calls ------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the asyncio transport."""
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
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the socket is closed."""
        if isinstance(exc, OSError) and not self._ended:
            self._error = exc
        self._end()
        self.lost.set_result(None)

    # -- what the owner calls -----------------------------------------------------------

    def is_alive(self) -> bool:
        """Return whether nothing has come since the last reply: neither an end nor a byte.

        The socket itself is asked, for the event loop may not have had the time to look.
        """
        if self.closed or self._ended or self._arrived:
            return False
        return is_silent(self._socket)

    def close(self) -> None:
        """Close the connection; the socket is closed when `lost` is done."""
        self.closed = True
        self._channel.abort()

    # -- what others call, within `waking` ----------------------------------------------

    def shutdown(self) -> None:
        """End the owner's exchange at once."""
        self._end()
        self._channel.abort()

    def stop_reading(self) -> None:
        """End the owner's wait for a reply; what it has sent is with the system already."""
        self._end()

    # -- within an exchange -------------------------------------------------------------

    async def _send(self, data: bytes, deadline: Deadline) -> None:
        deadline.timeout()
        if self._ended:
            raise self._error or ConnectionAbortedError("the connection has ended")
        # One frame at a time is under way, so there is no more than one to be kept in memory,
        # and a peer that does not take it is noticed by the reply that does not come.
        self._channel.write(data)

    async def _receive(self, deadline: Deadline) -> bytes:
        while not self._arrived and not self._ended:
            deadline.timeout()
            await self._waiter.wait(deadline)
        if not self._arrived and self._error is not None:
            raise self._error
        data = bytes(self._arrived)
        self._arrived.clear()
        self._channel.resume_reading()
        return data

    def _end(self) -> None:
        self._ended = True
        self._waiter.wake()


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
