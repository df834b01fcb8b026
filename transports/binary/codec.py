"""Binary frames: length-prefixed, versioned, with a fixed header and room for optional fields.

``docs/protocol.md`` specifies them to the byte. A frame is a header of 8 bytes and a payload::

    magic 0xB7 | version 1 | kind | flags | length of the payload, 4 bytes, big-endian

The payload is the request's id, as a varint, and the fields of the model. ``frames.py`` cuts a
stream into frames and lists their kinds, ``fields.py`` lays out a model's fields. A frame whose
inside is not laid out as its kind says ends the connection; a value that is merely out of range,
a text that is not UTF-8 or a kind that is unknown is answered, and the next frame is read.
"""

# ruff: noqa: D102 - the contract documents the methods of a codec

from collections.abc import Callable
from typing import Final

from pydantic import ValidationError

from twinline.core.errors import BadRequest, UnknownOp, describe_validation_error
from twinline.core.protocol import MAX_INT, ErrorReply, Reply, Request
from twinline.transports.binary.fields import (
    Layout,
    MalformedError,
    NotUtf8Error,
    Payload,
    read_uint,
    write_uint,
)
from twinline.transports.binary.frames import (
    ERROR_WITHOUT_ID,
    HEADER,
    KIND_BY_REPLY,
    KIND_BY_REQUEST,
    MAGIC,
    VERSION,
    FrameCodec,
    Unreadable,
    read_header,
)
from twinline.transports.contract import (
    BufferedClientCodec,
    LocalProtocolError,
    RemoteProtocolError,
    ReplyReceived,
    RequestReceived,
    RequestRefused,
    ServerCodec,
    Transport,
)
from twinline.transports.foreign import LONGEST_START, http_refusal, is_http, speaks_http

_SPOKEN: Final = (
    f"binary frames are spoken, which begin with the byte 0x{MAGIC:02X}; a client needs tcp:// "
    "here, and the transport binary"
)
_REQUESTS: Final = {
    kind: (model.__pydantic_validator__.validate_python, Layout(model))
    for model, kind in KIND_BY_REQUEST.items()
}
_REPLIES: Final = {kind: (model, Layout(model)) for model, kind in KIND_BY_REPLY.items()}
_REPLIES[ERROR_WITHOUT_ID] = _REPLIES[KIND_BY_REPLY[ErrorReply]]
_REQUEST_FLAGS: Final = {kind: layout.known_flags for kind, (_, layout) in _REQUESTS.items()}
_REPLY_FLAGS: Final = {kind: layout.known_flags for kind, (_, layout) in _REPLIES.items()}
_WRITE_REQUEST: Final = {
    model: (kind, _REQUESTS[kind][1].write) for model, kind in KIND_BY_REQUEST.items()
}
_WRITE_REPLY: Final = {
    model: (kind, _REPLIES[kind][1].write) for model, kind in KIND_BY_REPLY.items()
}


class BinaryServerCodec(FrameCodec, ServerCodec):
    """The server's end of binary frames."""

    __slots__ = ("_fresh", "_in_http")

    def __init__(self, frame_limit: int) -> None:
        super().__init__(frame_limit)
        self._fresh = True
        self._in_http = False  # whether the peer is answered in HTTP

    def next_event(self) -> RequestReceived | RequestRefused | None:
        if not self._received:
            return None  # as after nearly every request
        if self._fresh:
            http = is_http(bytes(self._received[:LONGEST_START]))
            if http:
                self._in_http = True
                self._drop()
                return RequestRefused(None, speaks_http(_SPOKEN), fatal=True)
            if http is None:
                if self._ended:
                    self._drop()
                return None
            self._fresh = False
        try:
            taken = self._take(_REQUEST_FLAGS)
            if taken is None:
                return None
            kind, flags, frame = taken
            return _read_request(kind, flags, frame)
        except Unreadable as unreadable:
            self._drop()
            return RequestRefused(unreadable.id, unreadable.error, fatal=True)

    def send(self, id: int | None, reply: Reply) -> None:
        if self._in_http and isinstance(reply, ErrorReply):
            self._out.append(http_refusal(reply))
        else:
            self._out.append(write_reply(id, reply))


class BinaryClientCodec(FrameCodec, BufferedClientCodec):
    """The client's end of binary frames."""

    def next_event(self) -> ReplyReceived | None:
        try:
            frame = self._take(_REPLY_FLAGS)
            return None if frame is None else self._read_reply(*frame)
        except Unreadable as unreadable:
            raise self._unreadable(unreadable) from None

    def read_message(self, message: Payload) -> ReplyReceived:
        """Read a frame that has arrived as a message of its own.

        Raises:
            RemoteProtocolError: as `next_event`; or it is not one whole frame.
        """
        try:
            return self._read_reply(*read_header(message, _REPLY_FLAGS), message)
        except Unreadable as unreadable:
            raise self._unreadable(unreadable) from None

    def _unreadable(self, unreadable: Unreadable) -> RemoteProtocolError:
        self._drop()
        return RemoteProtocolError(f"the server's reply cannot be read: {unreadable}")

    def _read_reply(self, kind: int, flags: int, frame: Payload) -> ReplyReceived:
        if kind not in _REPLIES:
            raise Unreadable(BadRequest(f"there is no reply of kind {kind}"))
        model, layout = _REPLIES[kind]
        answered: int | None = None
        at = HEADER.size
        if kind != ERROR_WITHOUT_ID:
            if not self._pending:
                raise Unreadable(BadRequest("it answers no request"))
            answered, at = _read_id(frame)
            expected, expected_model = self._pending[0]
            if answered != expected or model not in (expected_model, ErrorReply):
                raise Unreadable(BadRequest(f"it is not the reply to request {expected}"))
        try:
            values = layout.read_to_end(frame, at, flags)
            reply = model.__pydantic_validator__.validate_python(values)
        except (IndexError, MalformedError) as error:
            raise _unreadable(error, answered) from None
        except NotUtf8Error:
            raise Unreadable(BadRequest("a text is not UTF-8")) from None
        except ValidationError as error:
            raise Unreadable(BadRequest(describe_validation_error(error))) from None
        if answered is None:
            return ReplyReceived(None, reply)
        return self._received_reply(answered, reply)

    def _encode(self, id: int, request: Request) -> bytes:
        kind, write = _WRITE_REQUEST[type(request)]
        return _frame(kind, write_uint(id), write, request)


class BinaryTransport(Transport):
    """Length-prefixed frames with a fixed header."""

    name = "binary"

    def recognises(self, start: bytes) -> bool:
        """Return whether a connection begins with the magic byte, whatever the version."""
        return start[0] == MAGIC

    def server_codec(self, frame_limit: int) -> BinaryServerCodec:
        return BinaryServerCodec(frame_limit)

    def client_codec(self, frame_limit: int) -> BinaryClientCodec:
        return BinaryClientCodec(frame_limit)


def write_reply(id: int | None, reply: Reply) -> bytes:
    """Return a reply as a frame, as `ServerCodec.send` puts it in.

    Raises:
        LocalProtocolError: as that.
    """
    kind, write = _WRITE_REPLY[type(reply)]
    if id is not None:
        return _frame(kind, write_uint(id), write, reply)
    if isinstance(reply, ErrorReply):
        return _frame(ERROR_WITHOUT_ID, b"", write, reply)
    raise LocalProtocolError("only an error can answer a frame without an id")


def read_request(message: Payload) -> RequestReceived | RequestRefused:
    """Return the request of a frame that has arrived as a message of its own, or why it is none.

    A refusal is fatal where a frame's would be.
    """
    try:
        kind, flags = read_header(message, _REQUEST_FLAGS)
        return _read_request(kind, flags, message)
    except Unreadable as unreadable:
        return RequestRefused(unreadable.id, unreadable.error, fatal=True)


def _frame(
    kind: int,
    id: bytes,
    write: Callable[[Request | Reply], tuple[int, bytes]],
    model: Request | Reply,
) -> bytes:
    """Return the frame of a model, its id given as it is written."""
    try:
        flags, fields = write(model)
    except UnicodeEncodeError:
        raise LocalProtocolError("a text with half a surrogate pair has no UTF-8") from None
    size = len(id) + len(fields)
    return HEADER.pack(MAGIC, VERSION, kind, flags, size) + id + fields


def _read_id(frame: Payload) -> tuple[int, int]:
    """Return the id that a frame's payload begins with, and the place behind it."""
    try:
        frame_id, at = read_uint(frame, HEADER.size)
    except (IndexError, MalformedError):
        raise Unreadable(BadRequest("a frame's id is not a proper integer")) from None
    if frame_id > MAX_INT:
        raise Unreadable(BadRequest(f"a frame's id is 0 to {MAX_INT}"))
    return frame_id, at


def _unreadable(error: IndexError | MalformedError, id: int | None) -> Unreadable:
    """Return what a frame is whose fields are not laid out as they should be."""
    if isinstance(error, IndexError):
        return Unreadable(BadRequest("a field runs beyond the end of its frame"), id)
    return Unreadable(BadRequest(str(error)), id)


def _read_request(kind: int, flags: int, frame: Payload) -> RequestReceived | RequestRefused:
    frame_id, at = frame[HEADER.size], HEADER.size + 1
    if frame_id >= 0x80:  # it has more bytes
        frame_id, at = _read_id(frame)
    if kind not in _REQUESTS:
        return RequestRefused(frame_id, UnknownOp(f"there is no request of kind {kind}"))
    validate, layout = _REQUESTS[kind]
    try:
        return RequestReceived(frame_id, validate(layout.read_to_end(frame, at, flags)))
    except (IndexError, MalformedError) as error:
        raise _unreadable(error, frame_id) from None
    except NotUtf8Error:
        return RequestRefused(frame_id, BadRequest("a text is not UTF-8"))
    except ValidationError as error:
        return RequestRefused(frame_id, BadRequest(describe_validation_error(error)))
