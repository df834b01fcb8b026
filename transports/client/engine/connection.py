"""One line of a client: a connection and a codec, one exchange at a time; the rules, no socket."""

from abc import ABC, abstractmethod
from typing import Final

from twinline.core.deadline import Deadline
from twinline.core.errors import FrameTooLarge
from twinline.core.locks import may_block
from twinline.core.protocol import MAX_REPLY_BYTES, ErrorReply, Reply, Request
from twinline.transports.contract import RemoteProtocolError, ReplyReceived, Transport

RECEIVE_BYTES: Final = 64 * 1024
"""How much is taken in at once."""
_FRAME_SLACK: Final = 64
"""What a transport may put around a frame without counting it; the server decides within it."""


class LineBroken(Exception):
    """The line is of no more use; whether the request was carried out is unknown."""


class LineTimedOut(LineBroken):
    """No reply came in time. The line is closed: a reply that comes late belongs to nobody."""


class Line(ABC):
    """A connection with a codec, used by one thread or task at a time, its owner.

    Only the owner sends, receives and closes. Others may call `shutdown` and `stop_reading`,
    and only from a wake that the owner has registered with `client_interrupt.CancelToken.waking`.

    Attributes:
        closed: whether `close` was called; an exchange that fails closes the line itself.
        frame_bytes: the longest frame to send, or None while the server has not said.
    """

    def __init__(self, transport: Transport) -> None:
        """Begin with an empty codec.

        Args:
            transport: makes the codec.
        """
        self._codec = transport.client_codec(MAX_REPLY_BYTES)
        self._last_id = 0
        self.closed = False
        self.frame_bytes: int | None = None

    async def exchange(self, request: Request, deadline: Deadline) -> Reply:
        """Send a request and return its reply, an `ErrorReply` if it was refused.

        A failure of any kind tears the line, a cancellation too, for nobody could tell where the
        next reply begins.

        Raises:
            LineTimedOut: the deadline passed.
            LineBroken: the connection ended, or what came was not a reply.
            FrameTooLarge: the server would refuse the frame and end the line; nothing was sent.
        """
        may_block("an exchange")
        self._last_id += 1
        try:
            await self._send(self._frame(request), deadline)
            while (event := self._codec.next_event()) is None:
                self._take_in(await self._receive(deadline))
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

    @abstractmethod
    def is_alive(self) -> bool:
        """Return whether nothing has come since the last reply: neither an end nor a byte.

        It finds a server that has ended before a request is entrusted to the line.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connection; only the owner may, and it may twice."""

    @abstractmethod
    def shutdown(self) -> None:
        """End the owner's exchange at once; for others, within `waking`."""

    @abstractmethod
    def stop_reading(self) -> None:
        """End the owner's wait for a reply; what it has sent still goes out.

        For others, within `waking`.
        """

    @abstractmethod
    async def _send(self, data: bytes, deadline: Deadline) -> None:
        """Send all of it.

        Raises:
            TimeoutError: the deadline has passed; if it had before the call, nothing was sent.
            OSError: the connection broke.
        """

    @abstractmethod
    async def _receive(self, deadline: Deadline) -> bytes:
        """Return what comes next; b"" when the server has ended the connection.

        Raises:
            TimeoutError: the deadline passed.
            OSError: the connection broke.
        """

    def _frame(self, request: Request) -> bytes:
        self._codec.send(self._last_id, request)
        frame = self._codec.data_to_send()
        if self.frame_bytes is not None and len(frame) > self.frame_bytes + _FRAME_SLACK:
            raise FrameTooLarge(f"the request is longer than {self.frame_bytes} bytes")
        return frame

    def _take_in(self, data: bytes) -> None:
        if not data:
            raise LineBroken("the server ended the connection")
        self._codec.receive_data(data)

    def _check(self, event: ReplyReceived, request: Request) -> None:
        if event.id not in (self._last_id, None):
            raise LineBroken("the server answered another request")
        if not isinstance(event.reply, request.reply | ErrorReply):
            raise LineBroken("the server sent a reply of another kind")
