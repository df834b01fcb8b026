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
from twinline.core.protocol import MAX_INT, REQUESTS, ErrorReply, Reply, Request, own_names
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
from twinline.transports.foreign import (
    LONGEST_START,
    http_refusal,
    is_http,
    is_tls,
    speaks_http,
    speaks_tls,
)

Text = bytes | bytearray
"""A line, without its line feed."""
_KNOWN: Final = {
    request.op: (request.__pydantic_validator__.validate_python, own_names(request))
    for request in REQUESTS
}
_SPOKEN: Final = (
    'send one JSON object a line, such as {"op":"hello","id":1}; a client needs tcp:// here'
)


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

    __slots__ = ("_fresh", "_in_http")

    def __init__(self, frame_limit: int) -> None:
        super().__init__(frame_limit)
        self._fresh = True
        self._in_http = False  # whether the peer is answered in HTTP

    def next_event(self) -> RequestReceived | RequestRefused | None:
        if not self._received:
            return None  # as after nearly every request
        if self._fresh:
            # No line of this protocol begins so, and neither peer would ever send one.
            start = bytes(self._received[:LONGEST_START])
            if is_tls(start):
                return self._end(speaks_tls())
            if is_http(start):
                self._in_http = True
                return self._end(speaks_http(_SPOKEN))
        try:
            line = self._take()
        except FrameTooLarge as error:
            return self._end(error)
        if line is None:
            return None
        self._fresh = False
        return read_request(line)

    def _end(self, error: RequestError) -> RequestRefused:
        self._drop()
        self._fresh = False
        return RequestRefused(None, error, fatal=True)

    def send(self, id: int | None, reply: Reply) -> None:
        if self._in_http and isinstance(reply, ErrorReply):
            self._out.append(http_refusal(reply))
        else:
            self._out.append(write_reply(id, reply))


class JsonlClientCodec(_LineCodec, BufferedClientCodec):
    """The client's end of JSON-lines."""

    def next_event(self) -> ReplyReceived | None:
        try:
            line = self._take()
        except FrameTooLarge as error:
            self._drop()
            raise RemoteProtocolError(f"the server's reply cannot be read: {error}") from None
        return None if line is None else self.read_message(line)

    def read_message(self, message: Text) -> ReplyReceived:
        """Read a reply that has arrived by itself, without its line feed.

        Raises:
            RemoteProtocolError: as `next_event`.
        """
        try:
            return self._read_reply(message)
        except RemoteProtocolError:
            self._drop()
            raise

    def _read_reply(self, line: Text) -> ReplyReceived:
        value = _parse(line)
        if not isinstance(value, dict):
            if line.startswith(b"HTTP/"):
                raise RemoteProtocolError(
                    "the server speaks HTTP; where it speaks WebSocket, write ws:// or wss://"
                )
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
        foreign = is_http(start), is_tls(start)
        if True in foreign:
            return False
        if None in foreign:
            return None
        first = start[0]
        # Text begins neither with a control character nor in the middle of a UTF-8 sequence.
        return first in b"\t\n\r" or 0x20 <= first < 0x7F or first >= 0xC0

    def server_codec(self, frame_limit: int) -> JsonlServerCodec:
        return JsonlServerCodec(frame_limit)

    def client_codec(self, frame_limit: int) -> JsonlClientCodec:
        return JsonlClientCodec(frame_limit)


def write_reply(id: int | None, reply: Reply) -> bytes:
    """Return a reply as a line, as `ServerCodec.send` puts it in.

    Raises:
        LocalProtocolError: as that.
    """
    fields = _to_json(reply)
    if type(reply) is ErrorReply:
        shown = b"null" if id is None else b"%d" % id
        return b'{"id":%b,"ok":false,"error":%b}\n' % (shown, fields)
    if id is None:
        raise LocalProtocolError("only an error can answer a line without an id")
    if fields != b"{}":
        return b'{"id":%d,"ok":true,%b\n' % (id, fields[1:])
    return b'{"id":%d,"ok":true}\n' % id


def _to_json(model: Request | Reply) -> bytes:
    try:
        return model.__pydantic_serializer__.to_json(model, exclude_defaults=True)
    except PydanticSerializationError:
        raise LocalProtocolError("a text with half a surrogate pair has no UTF-8") from None


def _parse(line: Text) -> Any:
    """Return the JSON value of a line, or None for what is not JSON (or is ``null``)."""
    try:
        # Only keys are cached: the parser's cache would keep passwords for as long as it likes.
        return from_json(line, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        return None


def _what_is_wrong_with(line: Text) -> str:
    try:
        from_json(line, allow_inf_nan=False)
    except ValueError as error:
        if "hex escape" in str(error):
            return "this line has a \\u escape that is no character: half of a surrogate pair"
    return "this line is not one JSON object in UTF-8"


def read_request(line: Text) -> RequestReceived | RequestRefused:
    """Return the request of a line, without its line feed, or why it is none."""
    value = _parse(line)
    if type(value) is not dict:
        return RequestRefused(None, BadRequest(_what_is_wrong_with(line)))
    line_id = value.get("id")
    if type(line_id) is not int or not 0 <= line_id <= MAX_INT:
        return RequestRefused(None, BadRequest(f"'id' must be an integer, 0 to {MAX_INT}"))
    op = value.get("op")
    if type(op) is not str:
        return RequestRefused(line_id, BadRequest("'op' must be a string that names the request"))
    known = _KNOWN.get(op)
    if known is None:
        # Not which: whoever writes this by hand may have put a password there.
        return RequestRefused(
            line_id, UnknownOp(f"there is no request of this name, of {len(op):,} characters")
        )
    validate, own = known
    # An argument that tells the validator costs each send more than half of what validating does.
    for name in own:
        value.pop(name, None)
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
