"""One connection of a client: a codec and what it was opened for, one exchange at a time.

The rules, without a socket: `backends` has the connections of threads and of asyncio.
"""

from abc import ABC, abstractmethod
from math import inf
from typing import Final

from twinline.core.deadline import Deadline
from twinline.core.errors import FrameTooLarge
from twinline.core.locks import checking, may_block
from twinline.core.protocol import MAX_REPLY_BYTES, ErrorReply, Limits, Reply, Request
from twinline.transports.client.engine.cancel import CancelToken
from twinline.transports.client.engine.link import ClientSession
from twinline.transports.client.engine.replies import contradiction
from twinline.transports.contract import RemoteProtocolError, Transport
from twinline.transports.race import Address

RECEIVE_BYTES: Final = 64 * 1024
"""How much is taken in at once."""
_FRAME_SLACK: Final = 64
"""What a transport may put around a frame without counting it; the server decides within it."""


class ConnectionBroken(Exception):
    """The connection is of no more use; whether the request was carried out is unknown."""


class ReplyTimedOut(ConnectionBroken):
    """No reply came in time. A late one would be taken for the next: the connection is closed."""


class Connection(ABC):
    """A connection with a codec, used by one thread or task at a time, its owner.

    Only the owner sends, receives and closes. Others may call `shutdown` and `stop_reading`, and
    only from a wake that is registered with a `CancelToken`: the owner removes it before it closes.

    Attributes:
        address: that was connected to.
        session: the session that it is bound to, or None.
        generation: of the `link.Link`, when it was dialled.
        limits: what the server accepts; since its hello.
        proved: whether it has carried a request since it was opened.
        closed: whether `close` was called; an exchange that fails closes the connection itself.
    """

    limits: Limits

    def __init__(self, transport: Transport, address: Address | None = None) -> None:
        """Begin with an empty codec.

        Args:
            transport: makes the codec.
            address: that was connected to; None where that is not known.
        """
        self.address = address
        self.session: ClientSession | None = None
        self.generation = 0
        self.proved = False
        self.closed = False
        self._codec = transport.client_codec(MAX_REPLY_BYTES)
        self._last_id = 0
        self._frame_bytes: float = inf  # the longest frame to send
        self._cancel: CancelToken | None = None

    def greeted(self, limits: Limits) -> None:
        """Keep to what the server accepts before a login."""
        self.limits = limits
        self._frame_bytes = limits.frame_bytes_before_login

    def bind(self, session: ClientSession) -> None:
        """Belong to a session from now on."""
        self.session = session
        self._frame_bytes = self.limits.frame_bytes

    def end_with(self, cancel: CancelToken) -> None:
        """Have the token shut the connection down, from now until it is closed.

        Raises:
            Cancelled: the token is set already; the connection is closed.
        """
        try:
            cancel.add(self.shutdown)
        except BaseException:
            self.close()
            raise
        self._cancel = cancel

    async def exchange(self, request: Request, deadline: Deadline) -> Reply:
        """Send a request and return its reply, an `ErrorReply` if it was refused.

        A failure of any kind closes the connection, a cancellation too: where the next reply
        begins would be unknown.

        Raises:
            ReplyTimedOut: the deadline passed.
            ConnectionBroken: the connection ended, or what came was not a reply.
            FrameTooLarge: the server would refuse the frame and hang up; nothing was sent.
        """
        if checking.on:
            may_block("an exchange")
        self._last_id += 1
        whole = False
        try:
            self._codec.send(self._last_id, request)
            frame = self._codec.data_to_send()
            if len(frame) > self._frame_bytes + _FRAME_SLACK:
                raise FrameTooLarge(f"the request is longer than {self._frame_bytes} bytes")
            self._send(frame, deadline)
            event = None
            while event is None:
                self._codec.receive_data(await self._receive(deadline))
                event = self._codec.next_event()
            if event.id not in (self._last_id, None):
                raise ConnectionBroken("the server answered another request")
            if not isinstance(event.reply, request.reply | ErrorReply):
                raise ConnectionBroken("the server sent a reply of another kind")
            wrong = contradiction(request, event.reply)
            if wrong is not None:
                raise ConnectionBroken(f"the server {wrong}")
            # Without an id: the server could not read the frame, and will end the connection.
            whole = event.id is not None
        except TimeoutError:
            raise ReplyTimedOut("the server did not answer in time") from None
        except EOFError:
            raise ConnectionBroken("the server ended the connection") from None
        except OSError as error:
            raise ConnectionBroken(error.strerror or str(error)) from error
        except RemoteProtocolError as error:
            raise ConnectionBroken(f"the server sent what is not a reply: {error}") from error
        finally:
            if not whole:
                self.close()
        return event.reply

    def close(self) -> None:
        """Close the connection; only the owner may, and it may twice."""
        self.closed = True
        cancel, self._cancel = self._cancel, None
        if cancel is not None:
            cancel.remove(self.shutdown)
        self._close()

    def forget(self) -> None:  # noqa: B027 - there is nothing to do where a loop has the socket
        """Close a forked child's copy of the socket, without a word to the server."""

    @abstractmethod
    def is_alive(self) -> bool:
        """Return whether nothing has come since the last reply: neither an end nor a byte.

        It finds a server that has ended before a request is entrusted to the connection.
        """

    @abstractmethod
    def shutdown(self) -> None:
        """End the owner's exchange at once."""

    @abstractmethod
    def stop_reading(self) -> None:
        """End the owner's wait for a reply; what it has sent still goes out."""

    @abstractmethod
    def _close(self) -> None:
        """Close the socket; it may be closed already."""

    @abstractmethod
    def _send(self, data: bytes, deadline: Deadline) -> None:
        """Send all of it.

        Raises:
            TimeoutError: the deadline has passed; if it had before the call, nothing was sent.
            OSError: the connection broke.
        """

    @abstractmethod
    async def _receive(self, deadline: Deadline) -> bytes:
        """Return what comes next, a byte at least.

        Raises:
            TimeoutError: the deadline passed.
            EOFError: the server has ended the connection.
            OSError: the connection broke.
        """
