"""One line of a client: a connected socket and a codec, one exchange at a time."""

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Final

from twinline.core.deadline import Deadline
from twinline.core.errors import FrameTooLarge
from twinline.core.locks import may_block
from twinline.core.protocol import MAX_REPLY_BYTES, ErrorReply, Reply, Request
from twinline.transports.contract import RemoteProtocolError, ReplyReceived, Transport
from twinline.transports.endpoints import Endpoint

_RECEIVE_BYTES: Final = 64 * 1024
_FRAME_SLACK: Final = 64
"""What a transport may put around a frame without counting it; the server decides within it."""


class LineBroken(Exception):
    """The line is of no more use; whether the request was carried out is unknown."""


class LineTimedOut(LineBroken):
    """No reply came in time. The line is closed: a reply that comes late belongs to nobody."""


class Line:
    """A connected socket with a codec, used by one thread at a time, its owner.

    Only the owner sends, receives and closes. Other threads may call `shutdown` and
    `stop_reading`, and only from a wake that the owner has registered with
    `client_interrupt.Interrupt.waking`.

    Attributes:
        closed: whether `close` was called; an exchange that fails closes the line itself.
        frame_bytes: the longest frame to send, or None while the server has not said.
    """

    def __init__(self, connected: socket.socket, transport: Transport) -> None:
        """Take over a socket.

        Args:
            connected: owned by the line from now on.
            transport: makes the codec.
        """
        self._socket = connected
        self._codec = transport.client_codec(MAX_REPLY_BYTES)
        self._last_id = 0
        self.closed = False
        self.frame_bytes: int | None = None

    @classmethod
    def connect(
        cls,
        endpoint: Endpoint,
        transport: Transport,
        deadline: Deadline,
        waking: Callable[[Callable[[], object]], AbstractContextManager[object]],
    ) -> "Line":
        """Open a connection.

        Args:
            endpoint: where to.
            transport: what to speak there.
            deadline: for being connected.
            waking: as `client_interrupt.Interrupt.waking`; it ends an attempt early.

        Raises:
            OSError: it cannot be reached.
            Interrupted: the interrupt was set before the attempt began.
        """
        connected = endpoint.connect(
            deadline, lambda unconnected: waking(lambda: _shutdown(unconnected, socket.SHUT_RDWR))
        )
        return cls(connected, transport)

    def exchange(self, request: Request, deadline: Deadline) -> Reply:
        """Send a request and return its reply, an `ErrorReply` if it was refused.

        A failure of any kind tears the line, for nobody could tell where the next reply begins.

        Raises:
            LineTimedOut: the deadline passed.
            LineBroken: the connection ended, or what came was not a reply.
            FrameTooLarge: the server would refuse the frame and end the line; nothing was sent.
        """
        may_block("an exchange")
        self._last_id += 1
        try:
            self._codec.send(self._last_id, request)
            self._send(self._codec.data_to_send(), deadline)
            while (event := self._codec.next_event()) is None:
                self._receive(deadline)
            self._check(event, request)
        except TimeoutError:
            self.close()
            raise LineTimedOut("the server did not answer in time") from None
        except OSError as error:
            self.close()
            raise LineBroken(error.strerror or str(error)) from error
        except RemoteProtocolError as error:
            self.close()
            raise LineBroken(f"the server sent what is not a reply: {error}") from error
        except BaseException:
            self.close()
            raise
        if event.id is None:
            self.close()  # the server could not read the frame, and will end the connection
        return event.reply

    def is_alive(self) -> bool:
        """Return whether nothing has come since the last reply: neither an end nor a byte.

        It finds a server that has ended before a request is entrusted to the line.
        """
        if self.closed:
            return False
        try:
            self._socket.settimeout(0)
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close the socket; only the owner may, and it may twice."""
        self.closed = True
        self._socket.close()

    def shutdown(self) -> None:
        """End the owner's exchange at once; for another thread, within `waking`."""
        _shutdown(self._socket, socket.SHUT_RDWR)

    def stop_reading(self) -> None:
        """End the owner's wait for a reply; what it has sent still goes out.

        For another thread, within `waking`.
        """
        _shutdown(self._socket, socket.SHUT_RD)

    def _send(self, data: bytes, deadline: Deadline) -> None:
        if self.frame_bytes is not None and len(data) > self.frame_bytes + _FRAME_SLACK:
            raise FrameTooLarge(f"the request is longer than {self.frame_bytes} bytes")
        self._socket.settimeout(deadline.timeout())
        self._socket.sendall(data)

    def _receive(self, deadline: Deadline) -> None:
        self._socket.settimeout(deadline.timeout())
        data = self._socket.recv(_RECEIVE_BYTES)
        if not data:
            raise LineBroken("the server ended the connection")
        self._codec.receive_data(data)

    def _check(self, event: ReplyReceived, request: Request) -> None:
        if event.id not in (self._last_id, None):
            raise LineBroken("the server answered another request")
        if not isinstance(event.reply, request.reply | ErrorReply):
            raise LineBroken("the server sent a reply of another kind")


def _shutdown(wakened: socket.socket, how: int) -> None:
    with suppress(OSError):  # it was not connected yet, or is not any more
        wakened.shutdown(how)
