"""One connection of a client: a codec, what it was opened for, and what is under way on it.

Mostly that is one exchange at a time. A stream is a request that `Connection.send` has sent, and
whose replies `Connection.receive` returns as they come; there may be several, in their order.

The rules, without a socket: `backends` has the connections of threads and of asyncio.
"""

from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from math import inf
from typing import Final, NamedTuple

from twinline.core.deadline import Deadline
from twinline.core.errors import FrameTooLarge, TwinlineError
from twinline.core.locks import checking, may_block
from twinline.core.protocol import (
    MAX_REPLY_BYTES,
    ErrorReply,
    Limits,
    Reply,
    Request,
    WatchReply,
)
from twinline.transports.client.engine.cancel import CancelToken
from twinline.transports.client.engine.link import ClientSession
from twinline.transports.client.engine.replies import Asked, contradiction
from twinline.transports.client.options import Server
from twinline.transports.contract import RemoteProtocolError, Transport, TransportError
from twinline.transports.race import Address
from twinline.transports.tls.layer import TlsError, TlsLayer

RECEIVE_BYTES: Final = 64 * 1024
"""How much is taken in at once."""
_FRAME_SLACK: Final = 64
"""What a transport may put around a frame without counting it; the server decides within it."""
_UNPROMPTED_SECONDS: Final = 1.0
"""For what the transport says by itself, which is little, to be taken or to be read."""
_LAST_SECONDS: Final = 0.1
"""For the last words, which the server does not need."""


class ConnectionBroken(Exception):
    """The connection is of no more use; whether the request was carried out is unknown."""


class ReplyTimedOut(ConnectionBroken):
    """No reply came in time. A late one would be taken for the next: the connection is closed."""


class Answer(NamedTuple):
    """A reply, and what it answers."""

    asked: Asked
    reply: Reply


class Connection(ABC):
    """A connection with a codec, used by one thread or task at a time, its owner.

    Only the owner sends, receives and closes. Others may call `shutdown` and `stop_reading`, and
    only from a wake that is registered with a `CancelToken`: the owner removes it before it closes.
    `nudge` may be called by anybody at any time.

    Attributes:
        address: that was connected to.
        session: the session that it is bound to, or None.
        server: that it leads to; whoever dials sets it.
        generation: of the `link.Link`, when it was dialled.
        failures: the same.
        limits: what the server accepts; since its hello.
        proved: whether it has carried a request since it was opened.
        closed: whether `close` was called; an exchange that fails closes the connection itself.
        under_way: the requests whose last reply has not come, in order.
        received: how many bytes have come.
    """

    limits: Limits
    server: Server

    def __init__(
        self,
        transport: Transport,
        address: Address | None = None,
        layer: TlsLayer | None = None,
    ) -> None:
        """Begin with an empty codec.

        Args:
            transport: makes the codec.
            address: that was connected to; None where that is not known.
            layer: of TLS, through which all bytes go; None where they travel in plain.
        """
        self.address = address
        self.session: ClientSession | None = None
        self.generation = self.failures = 0
        self.proved = False
        self.closed = False
        self.under_way: deque[Asked] = deque()
        self.received = 0
        self._early: list[Answer] = []
        self._codec = transport.client_codec(MAX_REPLY_BYTES)
        self._layer = layer
        # Nothing is ever said or received but requests and replies: most connections are so.
        self._is_plain = layer is None and not self._codec.unprompted
        self._sending = False  # and not all is sent; not kept where it is plain
        self._last_id = 0
        self._frame_bytes: float = inf  # the longest frame to send
        self._cancel: CancelToken | None = None

    async def establish(self, deadline: Deadline) -> None:
        """Make the handshakes, of TLS and of the transport, if there are any.

        A failure of any kind closes the connection.

        Raises:
            ReplyTimedOut: the deadline passed.
            ConnectionBroken: the server ended the connection, is not who it has to be, or speaks
                something else.
        """
        layer, codec = self._layer, self._codec
        whole = False
        try:
            if layer is not None:
                layer.begin()
                while not layer.established:
                    self._say_unprompted(deadline)
                    self._take_in(await self._receive(deadline))
            while not codec.opened:
                self._say_unprompted(deadline)
                self._take_in(await self._receive(deadline))
                codec.next_event()
            if not self._is_plain:
                self._say_unprompted(deadline)  # the last words of TLS's handshake
            whole = True
        except RemoteProtocolError as error:
            raise ConnectionBroken(str(error)) from error
        except (OSError, EOFError, TlsError) as error:
            raise self._broken(error) from error
        finally:
            if not whole:
                self.close()

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

        Replies to what was under way before come first; `take_early` returns them.

        A failure of any kind closes the connection, a cancellation too: where the next reply
        begins would be unknown.

        Raises:
            ReplyTimedOut: the deadline passed.
            ConnectionBroken: the connection ended, or what came was not a reply.
            FrameTooLarge: the server would refuse the frame and hang up; nothing was sent.
        """
        if checking.on:
            may_block("an exchange")
        whole = False
        try:
            asked = self._put(request, deadline)
            reply = None
            while reply is None:
                data = await self._receive(deadline)
                self.received += len(data)
                self._codec.receive_data(data if self._layer is None else self._opened(data))
                reply = self._next_reply(asked)
                if not self._is_plain:
                    self._say_after(deadline, replied=reply is not None)
            whole = True
        except (OSError, EOFError, RemoteProtocolError, TlsError) as error:
            raise self._broken(error) from error
        finally:
            if not whole:
                self.close()
        return reply

    def send(self, request: Request, deadline: Deadline) -> Asked:
        """Send a request whose replies `receive` returns; as `exchange` otherwise."""
        whole = False
        try:
            asked = self._put(request, deadline)
            whole = True
        except (OSError, EOFError) as error:
            raise self._broken(error) from error
        finally:
            if not whole:
                self.close()
        return asked

    def take_early(self) -> list[Answer]:
        """Return the replies that came before that of an exchange, in order, and forget them."""
        answers, self._early = self._early, []
        return answers

    async def receive(self, until: Deadline) -> list[Answer] | None:
        """Return the replies that have come to what was sent, in order; wait for some if need be.

        A failure of any kind closes the connection; the end of the time is none.

        Args:
            until: how long to wait. What is there already is returned even if the time is up.

        Returns:
            None when it was nudged before anything came. No replies when the time was up, or when
            what has come is none: a part of one, or what the transport or TLS says by itself.

        Raises:
            ConnectionBroken: the connection ended, or what came was not a reply.
        """
        if checking.on:
            may_block("a stream")
        if self.closed:
            raise ConnectionBroken("the server ended the connection")
        whole = False
        try:
            data = await self._receive_or_nudge(until)
            if data:
                self.received += len(data)
                self._codec.receive_data(data if self._layer is None else self._opened(data))
                self._next_reply(None)
                if not self._is_plain:
                    deadline = Deadline.after(_UNPROMPTED_SECONDS)
                    self._say_after(deadline, replied=bool(self._early))
            whole = True
        except (OSError, EOFError, RemoteProtocolError, TlsError) as error:
            raise self._broken(error) from error
        finally:
            if not whole:
                self.close()
        return None if data is None else self.take_early()

    def _put(self, request: Request, deadline: Deadline) -> Asked:
        if not self._is_plain:
            self._say_unprompted(deadline)
        self._last_id += 1
        self._codec.send(self._last_id, request)
        frame = self._codec.data_to_send()
        if len(frame) > self._frame_bytes + _FRAME_SLACK:
            raise FrameTooLarge(f"the request is longer than {self._frame_bytes} bytes")
        if self._is_plain:
            self._send(frame, deadline)
        else:
            self._send_all(frame if self._layer is None else self._layer.send(frame), deadline)
        asked = Asked(self._last_id, request)
        self.under_way.append(asked)
        return asked

    def _opened(self, data: bytes) -> bytes:
        """Return what the bytes say that came, which may be nothing.

        Raises:
            EOFError: the server has ended TLS.
            TlsError: it broke.
        """
        layer = self._layer
        assert layer is not None  # noqa: S101 - else there is nothing to open
        said = layer.receive_data(data)
        if layer.ended and not said:
            raise EOFError
        return said

    def _take_in(self, data: bytes) -> None:
        """Take in bytes that came; where it is called for each reply, this stands there itself."""
        self.received += len(data)
        self._codec.receive_data(data if self._layer is None else self._opened(data))

    def _say_unprompted(self, deadline: Deadline) -> None:
        """Send what the layer and the transport say by themselves.

        Raises:
            EOFError: the transport or TLS has ended the connection.
            OSError: it broke.
        """
        codec, layer = self._codec, self._layer
        data = codec.data_to_send() if layer is None or layer.established else b""
        if layer is not None:
            data = layer.send(data)
        if data:
            self._send_all(data, deadline)
        if codec.ended or (layer is not None and layer.ended):
            raise EOFError

    def _say_after(self, deadline: Deadline, *, replied: bool) -> None:
        """Do so behind what has come; a reply counts even with the connection's end behind it.

        Args:
            deadline: for the socket to take it.
            replied: whether there was a reply: then the end closes the connection and is no error.
        """
        try:
            if replied and self._codec.unprompted:
                self._next_reply(None)  # there is none; pings may be there, and the end
            self._say_unprompted(deadline)
        except (OSError, EOFError, RemoteProtocolError, ConnectionBroken):
            if not replied:
                raise
            self.close()

    def _send_all(self, data: bytes, deadline: Deadline) -> None:
        """As `_send`; where it fails, nothing may follow what was sent, not even a farewell.

        What follows would be taken for the rest of it.
        """
        self._sending = True
        self._send(data, deadline)
        self._sending = False

    def _next_reply(self, wanted: Asked | None) -> Reply | None:
        """Return the reply to a request, if it has come; what comes before is kept in `_early`.

        Raises:
            ConnectionBroken: what came is no reply to what is under way.
            RemoteProtocolError: what came is no reply.
        """
        while (event := self._codec.next_event()) is not None:
            if not self.under_way or event.id not in (self.under_way[0].id, None):
                raise ConnectionBroken("the server answered another request")
            asked, reply = self.under_way[0], event.reply
            if not isinstance(reply, (asked.request.reply, ErrorReply)):
                raise ConnectionBroken("the server sent a reply of another kind")
            if isinstance(reply, WatchReply) and (entries := reply.entries):
                for each in self.under_way:
                    each.count(entries)
            wrong = contradiction(asked, reply)
            if wrong is not None:
                raise ConnectionBroken(f"the server {wrong}")
            if event.id is None:
                # The server could not read a frame, and will end the connection.
                self.close()
                asked = wanted or asked
            elif not event.more:
                self.under_way.popleft()
            if asked is wanted:
                return reply
            self._early.append(Answer(asked, reply))
        return None

    def close(self) -> None:
        """Close the connection; only the owner may, and it may twice."""
        was_open = not self.closed
        self.closed = True
        cancel, self._cancel = self._cancel, None
        if cancel is not None:
            cancel.remove(self.shutdown)
        try:
            if was_open and not self._is_plain and not self._sending:
                self._say_last()
        finally:
            self._close()

    def _say_last(self) -> None:
        """Say that there is no more, as the transport and TLS do, if the socket takes it now."""
        with suppress(OSError, TwinlineError):
            self._codec.end()
            data = self._codec.data_to_send()
            if self._layer is not None:
                data = self._layer.send(data, last=True)
            self._send(data, Deadline.after(_LAST_SECONDS))

    def forget(self) -> None:  # noqa: B027 - there is nothing to do where a loop has the socket
        """Close a forked child's copy of the socket, without a word to the server."""

    async def is_alive(self) -> bool:
        """Return whether nothing has come since the last reply: neither an end nor a reply.

        It finds a server that has ended before a request is entrusted to the connection. What the
        transport or TLS says by itself, a ping or a ticket, is no sign of that.
        """
        deadline = None
        while not self.is_quiet():
            if self._is_plain or self.closed:
                return False
            # One for all that comes: a server that does not cease is of no use.
            deadline = deadline or Deadline.after(_UNPROMPTED_SECONDS)
            try:
                self._take_in(await self._receive(deadline))
                if self._codec.next_event() is not None:
                    return False
                self._say_unprompted(deadline)
            except (OSError, EOFError, RemoteProtocolError, TlsError):
                return False
        return True

    @abstractmethod
    def is_quiet(self) -> bool:
        """Return whether it is open, and nothing is there to receive; it does not wait.

        It is alive then; if not, `is_alive` says whether it is.
        """

    @abstractmethod
    def shutdown(self) -> None:
        """End the owner's exchange at once."""

    @abstractmethod
    def stop_reading(self) -> None:
        """End the owner's wait for a reply; what it has sent still goes out."""

    @abstractmethod
    def accept_nudges(self) -> None:
        """Have `nudge` end the owner's `receive` from now on.

        Raises:
            OSError: there are no descriptors left.
        """

    @abstractmethod
    def nudge(self) -> None:
        """End the owner's `receive`, or the next one; it neither blocks nor raises.

        It may come late, when the connection is closed, and with a lock held.
        """

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

    @abstractmethod
    async def _receive_or_nudge(self, until: Deadline) -> bytes | None:
        """Return what comes next, None when nudged first, or no bytes when the time is up.

        Raises:
            EOFError: the server has ended the connection.
            OSError: the connection broke.
        """

    def _broken(self, error: OSError | EOFError | TransportError) -> ConnectionBroken:
        match error:
            case TimeoutError():
                return ReplyTimedOut("the server did not answer in time")
            case OSError():
                return ConnectionBroken(error.strerror or str(error))
            case EOFError():
                if self._layer is None or self._layer.ended:
                    return ConnectionBroken("the server ended the connection")
                if not self._layer.established:
                    return ConnectionBroken("the server ended the connection in TLS's handshake")
                return ConnectionBroken("the connection was cut off: TLS was not closed")
            case TlsError():
                return ConnectionBroken(str(error))
        return ConnectionBroken(f"the server sent what is not a reply: {error}")
