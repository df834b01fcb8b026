"""JSON-lines: one JSON object a line, readable by a person with `nc`.

``docs/protocol.md`` specifies it to the byte. Reading is strict: UTF-8 without a byte order mark,
no NaN, no control character inside a string, integers that are integers. A line that cannot be
read is answered and the next line is read; only what leaves no next line to find (a line beyond
the limit, or a peer that speaks HTTP or TLS) ends the connection.
"""

# ruff: noqa: D102 - the contract documents the methods of a codec

from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, from_json

from twinline.core.errors import (
    BadRequest,
    FrameTooLarge,
    RequestError,
    UnknownOp,
    describe_validation_error,
)
from twinline.core.protocol import MAX_INT, REQUESTS, ErrorReply, Reply, Request
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

_VALIDATE: Final = {
    request.op: request.__pydantic_validator__.validate_python for request in REQUESTS
}
_TLS_START: Final = b"\x16\x03"
_HTTP_METHODS: Final = b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PRI"
_HTTP_STARTS: Final = tuple(method + b" " for method in _HTTP_METHODS.split())
_LONGEST_START: Final = max(map(len, _HTTP_STARTS))


def foreign_greeting(start: bytes) -> BadRequest | None:
    """Return what to answer to a connection that begins as HTTP or TLS does, or None.

    No line of this protocol begins in either way, and neither peer would ever send one.
    """
    if start.startswith(_TLS_START):
        return BadRequest("this looks like TLS, but plain text is spoken here; connect without it")
    if start.startswith(_HTTP_STARTS):
        return BadRequest(
            "this looks like HTTP, but twinline is not a web server; send one JSON object a line, "
            'such as {"op":"hello","id":1}'
        )
    return None


class _LineCodec(BufferedCodec):
    """Cuts what arrives into lines, and searches every byte once."""

    __slots__ = ("_searched",)

    def __init__(self, frame_limit: int) -> None:
        super().__init__(frame_limit)
        self._searched = 0

    def _take(self) -> bytearray | None:
        """Return the next line without its line feed, or None until more arrives.

        Raises:
            FrameTooLarge: there is no line feed among the first ``frame_limit + 1`` bytes.
        """
        buffer = self._received
        end = buffer.find(b"\n", self._searched, self.frame_limit + 1)
        if end >= 0:
            line = buffer[:end]
            # bytearray moves its start here and not the bytes, so many short lines stay linear.
            del buffer[: end + 1]
            self._searched = 0
            return line
        if len(buffer) > self.frame_limit:
            raise FrameTooLarge(f"a line is longer than {self.frame_limit} bytes")
        self._searched = len(buffer)
        if self._ended:
            self._drop()
        return None


class JsonlServerCodec(_LineCodec, ServerCodec):
    """The server's end of JSON-lines."""

    __slots__ = ("_fresh",)

    def __init__(self, frame_limit: int) -> None:
        super().__init__(frame_limit)
        self._fresh = True

    def next_event(self) -> RequestReceived | RequestRefused | None:
        if not self._received:
            return None  # as after nearly every request
        if self._fresh:
            greeting = foreign_greeting(bytes(self._received[:_LONGEST_START]))
            if greeting is not None:
                return self._end(greeting)
        try:
            line = self._take()
        except FrameTooLarge as error:
            return self._end(error)
        if line is None:
            return None
        self._fresh = False
        return _read_request(line)

    def _end(self, error: RequestError) -> RequestRefused:
        self._drop()
        self._fresh = False
        return RequestRefused(None, error, fatal=True)

    def send(self, id: int | None, reply: Reply) -> None:
        fields = _to_json(reply)
        if type(reply) is ErrorReply:
            shown = b"null" if id is None else b"%d" % id
            self._out.append(b'{"id":%b,"ok":false,"error":%b}\n' % (shown, fields))
        elif id is None:
            raise LocalProtocolError("only an error can answer a line without an id")
        elif fields != b"{}":
            self._out.append(b'{"id":%d,"ok":true,%b\n' % (id, fields[1:]))
        else:
            self._out.append(b'{"id":%d,"ok":true}\n' % id)


class JsonlClientCodec(_LineCodec, BufferedClientCodec):
    """The client's end of JSON-lines."""

    def next_event(self) -> ReplyReceived | None:
        try:
            line = self._take()
            return None if line is None else self._read_reply(line)
        except FrameTooLarge as error:
            self._drop()
            raise RemoteProtocolError(f"the server's reply cannot be read: {error}") from None
        except RemoteProtocolError:
            self._drop()
            raise

    def _read_reply(self, line: bytearray) -> ReplyReceived:
        value = _parse(line)
        if not isinstance(value, dict):
            raise RemoteProtocolError("the server sent a line that is not a JSON object")
        answered, ok = value.get("id"), value.get("ok")
        if answered is None and ok is False:
            return ReplyReceived(None, _validate_reply(ErrorReply, value.get("error")))
        if not self._pending:
            raise RemoteProtocolError("the server sent a reply to no request")
        expected, model = self._pending[0]
        if type(answered) is not int or answered != expected:
            raise RemoteProtocolError(f"the server's reply is not to request {expected}")
        if ok is True:
            return self._received_reply(answered, _validate_reply(model, value))
        if ok is False:
            error = _validate_reply(ErrorReply, value.get("error"))
            return self._received_reply(answered, error)
        raise RemoteProtocolError("the server's reply has no 'ok' that is true or false")

    def _encode(self, id: int, request: Request) -> bytes:
        fields = _to_json(request)
        rest = b"," + fields[1:] if len(fields) > 2 else b"}"
        return b'{"op":"%b","id":%d%b\n' % (request.op.encode(), id, rest)


class JsonlTransport(Transport):
    """One JSON object a line."""

    name = "jsonl"

    def recognises(self, start: bytes) -> bool | None:
        """Return whether a connection begins with text that is neither HTTP nor TLS.

        Any text will do, not only ``{``: a person who types something else by hand gets a line
        back that says what is wrong.
        """
        if foreign_greeting(start) is not None:
            return False
        if any(foreign.startswith(start) for foreign in (_TLS_START, *_HTTP_STARTS)):
            return None
        first = start[0]
        # Text begins neither with a control character nor in the middle of a UTF-8 sequence.
        return first in b"\t\n\r" or 0x20 <= first < 0x7F or first >= 0xC0

    def server_codec(self, frame_limit: int) -> JsonlServerCodec:
        return JsonlServerCodec(frame_limit)

    def client_codec(self, frame_limit: int) -> JsonlClientCodec:
        return JsonlClientCodec(frame_limit)


def _to_json(model: Request | Reply) -> bytes:
    try:
        return model.__pydantic_serializer__.to_json(model, exclude_defaults=True)
    except PydanticSerializationError:
        raise LocalProtocolError("a text with half a surrogate pair has no UTF-8") from None


def _parse(line: bytearray) -> Any:
    """Return the JSON value of a line, or None for what is not JSON (or is ``null``)."""
    try:
        # Only keys are cached: the parser's cache would keep passwords for as long as it likes.
        return from_json(line, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        return None


def _what_is_wrong_with(line: bytearray) -> str:
    try:
        from_json(line, allow_inf_nan=False)
    except ValueError as error:
        if "hex escape" in str(error):
            return "this line has a \\u escape that is no character: half of a surrogate pair"
    return "this line is not one JSON object in UTF-8"


def _read_request(line: bytearray) -> RequestReceived | RequestRefused:
    value = _parse(line)
    if type(value) is not dict:
        return RequestRefused(None, BadRequest(_what_is_wrong_with(line)))
    line_id = value.get("id")
    if type(line_id) is not int or not 0 <= line_id <= MAX_INT:
        return RequestRefused(None, BadRequest(f"'id' must be an integer, 0 to {MAX_INT}"))
    op = value.get("op")
    if type(op) is not str:
        return RequestRefused(line_id, BadRequest("'op' must be a string that names the request"))
    validate = _VALIDATE.get(op)
    if validate is None:
        # Not which: whoever writes this by hand may have put a password there.
        return RequestRefused(
            line_id, UnknownOp(f"there is no request of this name, of {len(op):,} characters")
        )
    try:
        return RequestReceived(line_id, validate(value))
    except ValidationError as error:
        return RequestRefused(line_id, BadRequest(describe_validation_error(error)))


def _validate_reply(model: type[Reply], value: object) -> Reply:
    try:
        return model.__pydantic_validator__.validate_python(value)  # type: ignore[no-any-return]
    except ValidationError as error:
        raise RemoteProtocolError(
            f"the server's {model.__name__} cannot be read: {describe_validation_error(error)}"
        ) from None
