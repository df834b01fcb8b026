"""What a transport is: bytes in, messages out, and back, with no socket in sight.

A `Transport` makes one codec object for each connection. A codec is fed what arrives with
`Codec.receive_data`, in whatever pieces it arrives, and yields the same events for every way of
cutting the stream; what is to be sent is put in with ``send`` and taken out as bytes with
`Codec.data_to_send`. So the same transport runs over TCP, TLS, Unix sockets or a test's byte
string.

To write one, derive from `Transport`, `ServerCodec` and `ClientCodec`, and name the class in the
entry point group ``twinline.transports``. `BufferedCodec` and `BufferedClientCodec` have what the
codecs of most byte streams share. The rules that a codec keeps:

1. The events depend on the bytes, never on how they were cut.
2. ``next_event`` decodes one frame at a time, so that a limit that the caller raises between
   two events holds for the second.
3. Bytes from a peer either become an event or a documented error: any other exception out of a
   codec is a bug.
4. A frame that is longer than the limit is refused before it is collected, in linear time.
5. After a fatal event the codec yields nothing more.
6. What its own side may not send is `LocalProtocolError`, and nothing of it goes out.
7. A client's codec expects one reply to each request, in their order; while `Reply.continues` is
   true of what it reads, it expects another one to the same request. An error ends such a stream.

A codec is used by one thread at a time and needs no lock. What it needs of the protocol is public:
`twinline.core.protocol.REQUEST_BY_OP` finds the model of a request by its name,
``model_validate(fields, by_name=False)`` makes a request or a reply of a dictionary with the
protocol's names, ``model_dump(exclude_defaults=True)`` such a dictionary of either, `Request.reply`
is the model of what answers a request, and `twinline.core.errors.describe_validation_error` says
what a ``ValidationError`` found.
"""

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from twinline.core.errors import RequestError, TwinlineError
from twinline.core.protocol import MAX_INT, Reply, Request


class TransportError(TwinlineError):
    """The base of what goes wrong between two peers, below the protocol's own errors."""


class RemoteProtocolError(TransportError):
    """The server sent bytes that are not a reply; the connection is of no more use."""


class LocalProtocolError(TransportError):
    """The caller asked a codec for what it cannot do: a bug on this side."""


class RequestReceived(NamedTuple):
    """A request that could be read; a tuple, for every request makes one.

    Attributes:
        id: the client's, to be echoed.
        request: the request.
    """

    id: int
    request: Request


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """A frame that is not a request; its sender gets the error.

    Attributes:
        id: the client's, or None when even that could not be read.
        error: what to answer.
        fatal: whether the connection must end, because the next frame cannot be found.
    """

    id: int | None
    error: RequestError
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class ReplyReceived:
    """A reply, in the order of the requests; those of a stream have one id.

    Attributes:
        id: of the request it answers; None for an error that answers a frame the server could
            not read.
        reply: the reply, or an `ErrorReply`.
    """

    id: int | None
    reply: Reply

    @property
    def more(self) -> bool:
        """Whether another reply to the same request follows; an error never says so."""
        return self.reply.continues


class Codec(ABC):
    """One connection's state; see the module's rules.

    Attributes:
        frame_limit: the longest frame to accept, in bytes; may be changed between two events. Up
            to 64 bytes of what stands around a frame need not count.
    """

    unprompted: ClassVar[bool] = False
    """Whether it may have bytes to send that no message put in, or end the connection by itself.

    Such are a handshake and pings. Its owner then takes what `data_to_send` has whenever
    ``next_event`` has returned None, and looks whether it has `ended`.
    """

    # None, for a server holds many codecs; a subclass may have its own, or a dictionary. Not as a
    # literal, from which mypy would conclude that `frame_limit` cannot be assigned.
    __slots__ = tuple[str, ...]()

    frame_limit: int

    @abstractmethod
    def receive_data(self, data: bytes) -> None:
        """Take in bytes from the peer, any number of them."""

    @abstractmethod
    def receive_eof(self) -> None:
        """Take in that the peer sends no more. What is left of a frame is dropped."""

    @property
    @abstractmethod
    def mid_frame(self) -> bool:
        """Whether a frame has begun and its end has not arrived.

        Meaningful once `next_event` has returned None: it starts the clock of a frame's
        deadline.
        """

    @abstractmethod
    def data_to_send(self) -> bytes:
        """Return the bytes that are to go to the peer, and forget them."""

    @property
    def ended(self) -> bool:
        """Whether the transport has ended the connection: what there is to send is the last of it.

        Meaningful once ``next_event`` has returned None.
        """
        return False

    def end(self) -> None:  # noqa: B027 - most transports have no such words
        """Put in the transport's own words for the end of a connection, if it has any.

        Called once, when no other message will be put in; not every connection ends so orderly.
        """


class ServerCodec(Codec):
    """The server's end: requests in, replies out."""

    __slots__ = tuple[str, ...]()

    @abstractmethod
    def next_event(self) -> RequestReceived | RequestRefused | None:
        """Return the next event, or None until more data arrives."""

    @abstractmethod
    def send(self, id: int | None, reply: Reply) -> None:
        """Put in a reply: the only one to its request, or the next one of a stream.

        Args:
            id: the request's, or None for an error about a frame that had none.
            reply: the reply, or an `ErrorReply`.

        Raises:
            LocalProtocolError: only an error can go without an id; or a text has half a
                surrogate pair, which has no UTF-8.
        """

    def resolve(self) -> "ServerCodec":
        """Return the codec to use from now on; called once the peer has logged in.

        A codec that only chose another one returns that, with all that has arrived and that is
        to be sent, and is itself used no more. Any other codec returns itself.
        """
        return self

    @property
    def spoken(self) -> str | None:
        """The name of the transport that was chosen, by a codec that chooses one.

        "" before it has; None from a codec that is of one transport alone.
        """
        return None

    @property
    def at_rest(self) -> bool:
        """Whether the peer has been answered and needs no login, as one that was sent a page.

        It may stay as long as any peer that is not logged in, and then is cut without a fault.
        """
        return False

    @property
    def forwarded_for(self) -> tuple[str, ...]:
        """Where the peer comes from, as proxies said in the transport's handshake; () if none did.

        The last one is what the nearest proxy said. Any peer may write this: it is believed only
        of a proxy that is trusted. Meaningful from the first event on.
        """
        return ()


class ClientCodec(Codec):
    """The client's end: requests out, replies in, in the same order.

    A request is answered by one reply, or by a stream of them. All of a stream come before the
    reply to the next request, and only its last is not `ReplyReceived.more`.
    """

    @property
    def opened(self) -> bool:
        """Whether requests may be put in: the handshake, if the transport has one, is over.

        Until then its owner sends what `data_to_send` has, and feeds and asks it in turn.
        """
        return True

    @abstractmethod
    def next_event(self) -> ReplyReceived | None:
        """Return the next reply, or None until more data arrives.

        Raises:
            RemoteProtocolError: what arrived is not a reply, is longer than the limit, or
                answers a request that was not sent or that has been answered.
        """

    @abstractmethod
    def send(self, id: int, request: Request) -> None:
        """Put in a request, and expect its reply after those of the requests before it.

        Raises:
            LocalProtocolError: the id is not 0 to 2**53 - 1, or a text has half a surrogate pair.
        """


class BufferedCodec(Codec):
    """A codec that keeps what has arrived in one buffer, and cuts frames off its start.

    A subclass takes frames out of `_received` in its ``next_event``, and appends what is to be
    sent to `_out`. When `_ended` is set and no whole frame is left, it calls `_drop`.
    """

    __slots__ = ("_ended", "_out", "_received", "frame_limit")

    def __init__(self, frame_limit: int) -> None:
        self.frame_limit = frame_limit
        self._received = bytearray()
        self._ended = False
        self._out: list[bytes] = []

    def receive_data(self, data: bytes) -> None:
        """Add to the buffer, unless the stream has ended or was dropped."""
        if not self._ended:
            self._received += data

    def receive_eof(self) -> None:
        """Take no more in; the frames that are complete can still be taken out."""
        self._ended = True

    @property
    def mid_frame(self) -> bool:
        """Whether anything is left in the buffer."""
        return bool(self._received)

    def data_to_send(self) -> bytes:
        """Return what was put in, joined, and forget it."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def _drop(self) -> None:
        """Give the stream up: forget what there is, and take no more in."""
        self._ended = True
        self._received = bytearray()


class BufferedClientCodec(BufferedCodec, ClientCodec):
    """The client's end of such a codec, which knows what reply comes next.

    A subclass encodes a request in `_encode`, and checks a reply against the oldest entry of
    `_pending`: the request's id and the model of its reply. What it has read goes out by
    `_received_reply`, which keeps that entry for as long as replies to it follow.
    """

    def __init__(self, frame_limit: int) -> None:
        super().__init__(frame_limit)
        self._pending: deque[tuple[int, type[Reply]]] = deque()

    @abstractmethod
    def _encode(self, id: int, request: Request) -> bytes:
        """Return the frame of a request whose id is in range."""

    def send(self, id: int, request: Request) -> None:
        """Encode a request, and expect its reply after those of the requests before it."""
        if not 0 <= id <= MAX_INT:
            raise LocalProtocolError(f"a request's id is 0 to {MAX_INT}, not {id}")
        self._out.append(self._encode(id, request))
        self._pending.append((id, request.reply))

    def _received_reply(self, id: int, reply: Reply) -> ReplyReceived:
        """Return the reply to the oldest request, and expect no other to it unless one follows."""
        if not reply.continues:
            self._pending.popleft()
        return ReplyReceived(id, reply)


class Transport(ABC):
    """A way to put requests and replies into bytes.

    Attributes:
        name: what a configuration calls it.
    """

    name: str

    @abstractmethod
    def recognises(self, start: bytes) -> bool | None:
        """Return whether a connection that begins with these bytes speaks this transport.

        ``auto`` asks about the first byte, then the first two, and so on, up to 256.

        Args:
            start: what has arrived so far, at least one byte.

        Returns:
            None while it could still turn out either way; True and False are final.
        """

    @abstractmethod
    def server_codec(self, frame_limit: int) -> ServerCodec:
        """Return the codec for the server's end of a new connection."""

    @abstractmethod
    def client_codec(self, frame_limit: int) -> ClientCodec:
        """Return the codec for the client's end of a new connection."""
