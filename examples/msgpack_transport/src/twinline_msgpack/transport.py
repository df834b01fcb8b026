"""A transport for twinline in MessagePack: one map a frame.

A frame is the byte 0xA5, the length of what follows in four bytes (big-endian), and one MessagePack
map, which has the fields that a line of JSON-lines has: ``{"op": "ping", "id": 1}``.
"""

from struct import Struct
from typing import Any, Final

import msgpack  # type: ignore[import-untyped] # it ships no types
from pydantic import ValidationError

from twinline.core.errors import (
    BadRequest,
    FrameTooLarge,
    RequestError,
    UnknownOp,
    describe_validation_error,
)
from twinline.core.protocol import (
    MAX_INT,
    MAX_PAGE,
    REQUEST_BY_OP,
    ErrorReply,
    Reply,
    Request,
)
from twinline.transports.contract import (
    BufferedClientCodec,
    BufferedCodec,
    LocalProtocolError,
    RemoteProtocolError,
    ReplyReceived,
    RequestReceived,
    RequestRefused,
    ServerCodec,
    Transport,
)

MAGIC: Final = 0xA5
"""Every frame begins with it. No text in UTF-8 does, nor TLS, nor a frame of another transport."""
HEADER: Final = Struct(">BI")
MAX_FIELDS: Final = 64


def pack(fields: dict[str, Any]) -> bytes:
    """Return a frame.

    Raises:
        LocalProtocolError: a text cannot be written.
    """
    try:
        payload: bytes = msgpack.packb(fields)
    except UnicodeEncodeError:
        raise LocalProtocolError("a text with half a surrogate pair has no UTF-8") from None
    return HEADER.pack(MAGIC, len(payload)) + payload


def unpack(payload: bytes) -> dict[str, Any]:
    """Return the fields of a frame, not validated yet.

    Raises:
        ValueError: they are not one MessagePack map with texts for keys, or too much of anything.
    """
    # A list or a map is given its room before its items are seen, so without these limits a few
    # kilobytes of nested headers would take hundreds of megabytes.
    fields = msgpack.unpackb(
        payload,
        object_pairs_hook=_unique_texts,
        max_array_len=MAX_PAGE,
        max_map_len=MAX_FIELDS,
        max_ext_len=0,
    )
    if type(fields) is not dict:
        raise ValueError("not a map")
    return fields


def _unique_texts(pairs: list[tuple[object, object]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for key, value in pairs:
        if type(key) is not str or key in fields:
            raise ValueError("a key is no text, or is there twice")
        fields[key] = value
    return fields


class _FrameCodec(BufferedCodec):
    """What both ends have: a stream that is cut into frames."""

    def _take(self) -> bytes | None:
        """Return the next frame's payload, or None until more arrives.

        Raises:
            RequestError: there is no frame here, or none that may be collected; it is fatal.
        """
        buffer = self._received
        if buffer and buffer[0] != MAGIC:
            raise BadRequest(f"a frame begins with the byte 0x{MAGIC:02X}")
        if len(buffer) >= HEADER.size:
            _, length = HEADER.unpack_from(buffer)
            end = HEADER.size + length
            if end > self.frame_limit:
                raise FrameTooLarge(f"a frame is longer than {self.frame_limit} bytes")
            if len(buffer) >= end:
                payload = bytes(buffer[HEADER.size : end])
                # bytearray moves its start here and not the bytes: many frames stay linear.
                del buffer[:end]
                return payload
        if self._ended:
            self._drop()
        return None


class MsgpackServerCodec(_FrameCodec, ServerCodec):
    """The server's end."""

    def next_event(self) -> RequestReceived | RequestRefused | None:
        try:
            payload = self._take()
        except RequestError as error:
            self._drop()
            return RequestRefused(None, error, fatal=True)
        return None if payload is None else _read_request(payload)

    def send(self, id: int | None, reply: Reply) -> None:
        fields = reply.model_dump(exclude_defaults=True)
        if isinstance(reply, ErrorReply):
            self._out.append(pack({"id": id, "ok": False, "error": fields}))
        elif id is None:
            raise LocalProtocolError("only an error can answer a frame without an id")
        else:
            self._out.append(pack({"id": id, "ok": True, **fields}))


def _read_request(payload: bytes) -> RequestReceived | RequestRefused:
    try:
        fields = unpack(payload)
    except ValueError:
        return RequestRefused(None, BadRequest("this frame is not one MessagePack map"))
    frame_id, op = fields.get("id"), fields.get("op")
    if type(frame_id) is not int or not 0 <= frame_id <= MAX_INT:
        return RequestRefused(None, BadRequest(f"'id' must be an integer, 0 to {MAX_INT}"))
    if type(op) is not str or op not in REQUEST_BY_OP:
        return RequestRefused(frame_id, UnknownOp())
    try:
        return RequestReceived(frame_id, REQUEST_BY_OP[op].model_validate(fields, by_name=False))
    except ValidationError as error:
        return RequestRefused(frame_id, BadRequest(describe_validation_error(error)))


class MsgpackClientCodec(_FrameCodec, BufferedClientCodec):
    """The client's end."""

    def _encode(self, id: int, request: Request) -> bytes:
        fields = request.model_dump(exclude_defaults=True)
        return pack({"op": request.op, "id": id, **fields})

    def next_event(self) -> ReplyReceived | None:
        try:
            payload = self._take()
            return None if payload is None else self._read_reply(unpack(payload))
        except ValidationError as error:
            why = describe_validation_error(error)
        except (RequestError, ValueError) as error:
            why = str(error)
        self._drop()
        raise RemoteProtocolError(f"the server's reply cannot be read: {why}")

    def _read_reply(self, fields: dict[str, Any]) -> ReplyReceived:
        frame_id, ok = fields.get("id"), fields.get("ok")
        if frame_id is None and ok is False:
            return ReplyReceived(None, ErrorReply.model_validate(fields.get("error")))
        if not self._pending:
            raise ValueError("it answers no request")
        expected, model = self._pending[0]
        if type(frame_id) is not int or frame_id != expected:
            raise ValueError(f"it is not the reply to request {expected}")
        if ok is True:
            return self._received_reply(frame_id, model.model_validate(fields))
        if ok is False:
            error = ErrorReply.model_validate(fields.get("error"))
            return self._received_reply(frame_id, error)
        raise ValueError("it has no 'ok' that is true or false")


class MsgpackTransport(Transport):
    """One MessagePack map a frame."""

    name = "msgpack"

    def recognises(self, start: bytes) -> bool:
        return start[0] == MAGIC

    def server_codec(self, frame_limit: int) -> MsgpackServerCodec:
        return MsgpackServerCodec(frame_limit)

    def client_codec(self, frame_limit: int) -> MsgpackClientCodec:
        return MsgpackClientCodec(frame_limit)
