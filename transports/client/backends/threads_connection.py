"""A client's line over a blocking socket: the one that threads use."""

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

from twinline.core.deadline import Deadline
from twinline.transports.client.engine.connection import RECEIVE_BYTES, Line
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint


class SocketLine(Line):
    """A connected socket with a codec; see `Line`."""

    def __init__(self, connected: socket.socket, transport: Transport) -> None:
        """Take over a socket.

        Args:
            connected: owned by the line from now on.
            transport: makes the codec.
        """
        super().__init__(transport)
        self._socket = connected

    @classmethod
    def connect(
        cls,
        endpoint: Endpoint,
        transport: Transport,
        deadline: Deadline,
        waking: Callable[[Callable[[], object]], AbstractContextManager[object]],
    ) -> "SocketLine":
        """Open a connection.

        Args:
            endpoint: where to.
            transport: what to speak there.
            deadline: for being connected.
            waking: as `client_interrupt.CancelToken.waking`; it ends an attempt early.

        Raises:
            OSError: it cannot be reached.
            Cancelled: the interrupt was set before the attempt began.
        """
        connected = endpoint.connect(
            deadline, lambda unconnected: waking(lambda: _shutdown(unconnected, socket.SHUT_RDWR))
        )
        return cls(connected, transport)

    def is_alive(self) -> bool:
        """Return whether nothing has come since the last reply: neither an end nor a byte."""
        if self.closed:
            return False
        self._socket.settimeout(0)
        return is_silent(self._socket)

    def close(self) -> None:
        """Close the socket; only the owner may, and it may twice."""
        self.closed = True
        self._socket.close()

    def shutdown(self) -> None:
        """End the owner's exchange at once; for another thread, within `waking`."""
        _shutdown(self._socket, socket.SHUT_RDWR)

    def stop_reading(self) -> None:
        """End the owner's wait for a reply; what it has sent still goes out."""
        _shutdown(self._socket, socket.SHUT_RD)

    async def _send(self, data: bytes, deadline: Deadline) -> None:
        self._socket.settimeout(deadline.timeout())
        self._socket.sendall(data)

    async def _receive(self, deadline: Deadline) -> bytes:
        self._socket.settimeout(deadline.timeout())
        return self._socket.recv(RECEIVE_BYTES)


def is_silent(connected: socket.socket) -> bool:
    """Return whether nothing can be read from a socket that does not block: no byte, no end."""
    try:
        connected.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _shutdown(wakened: socket.socket, how: int) -> None:
    with suppress(OSError):  # it was not connected yet, or is not any more
        wakened.shutdown(how)
