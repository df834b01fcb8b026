"""The two ends of a WebSocket: the handshake first, then messages of another transport.

Frames are cut in ``frames.py``, heads of HTTP in ``head.py``; what a handshake gets is told in
``handshake.py``. A refusal that ends the connection is an event as everywhere: its error goes out,
as a message or, before the handshake is over, as an answer of HTTP, and the close frame behind it
is put in by ``end``.
"""

# ruff: noqa: D102 - the contract documents the methods of a codec

import base64
import os
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from twinline.core.protocol import ErrorReply, Reply, Request
from twinline.transports.contract import (
    ClientCodec,
    LocalProtocolError,
    RemoteProtocolError,
    ReplyReceived,
    RequestReceived,
    RequestRefused,
    ServerCodec,
)
from twinline.transports.foreign import http_refusal
from twinline.transports.websocket.frames import (
    BINARY,
    FINAL,
    LENGTH_OF_2,
    MASKED,
    MOST_SHORT,
    TEXT,
    CloseCode,
    FrameCodec,
    FrameError,
    check_utf8,
    unmask,
    write_frame,
)
from twinline.transports.websocket.handshake import (
    Answered,
    Refused,
    Site,
    check_upgraded,
    request_upgrade,
)
from twinline.transports.websocket.head import HeadError, RequestReader, StatusReader
from twinline.transports.websocket.subprotocols import Payload, Subprotocol

_HEADERS: Final = {
    opcode: [bytes((FINAL | opcode, size)) for size in range(MOST_SHORT + 1)]
    for opcode in (TEXT, BINARY)
}
_NO_FRAME: Final = -1
_KEYS: Final = 64  # that are drawn at once: to ask the system for each would cost more than to mask


class WebSocketServerCodec(FrameCodec, ServerCodec):
    """The server's end.

    Attributes:
        masked: whether the peer's frames are to be masked: a client's are.
    """

    unprompted = True
    masked = True

    __slots__ = (
        "_answered",
        "_code",
        "_headers",
        "_plain",
        "_read",
        "_reader",
        "_refused",
        "_site",
        "_write",
        "forwarded_for",
    )

    def __init__(self, frame_limit: int, site: Site) -> None:
        """Begin, with the handshake before it.

        Args:
            frame_limit: the longest message, in bytes.
            site: what all connections have in common.
        """
        super().__init__(frame_limit)
        self.forwarded_for: tuple[str, ...] = ()
        self._site = site
        self._reader: RequestReader | None = RequestReader()  # until the handshake is over
        self._refused: Refused | None = None  # the handshake
        self._answered = False  # whether another request has come before that
        self._code = CloseCode.GOING_AWAY
        # The first byte of a message in one frame; none before the handshake is over.
        self._plain = _NO_FRAME

    def next_event(self) -> RequestReceived | RequestRefused | None:  # noqa: PLR0912 - see below
        buffer = self._received
        if not buffer and self._message is None:
            return None  # as after nearly every request
        if self._reader is not None:
            return self._shake_hands(self._reader)
        message: Payload | None = None
        try:
            # What happens to nearly every request stands here in one piece: a message in one
            # frame whose length has one or two bytes. Anything else is taken by the book.
            if len(buffer) > 8 and buffer[0] == self._plain and self._message is None:
                size, start = buffer[1] - MASKED, 6
                if size == LENGTH_OF_2:
                    size, start = buffer[2] << 8 | buffer[3], 8
                    if size <= MOST_SHORT:
                        size = 0
                elif size > MOST_SHORT:
                    size = 0
                end = start + size
                if 0 < size <= self.frame_limit and end <= len(buffer):
                    message = unmask(buffer, start, end)
                    del buffer[:end]
            if message is None:
                message = self._take()
                if message is None:
                    return None
            event = self._read(message)
            if type(event) is RequestReceived:
                return event
            if self._opcode == TEXT:
                # What is not UTF-8 is no JSON, so the text of a request needs no look of its own.
                check_utf8(message)
        except FrameError as error:
            self._code = error.code
            self._drop()
            return RequestRefused(None, error.error, fatal=True)
        if event.fatal:  # type: ignore[union-attr]  # it is refused
            self._code = CloseCode.INVALID
            self._drop()
        return event

    @property
    def at_rest(self) -> bool:
        return self._answered and self._reader is not None and not self._received

    def _shake_hands(self, reader: RequestReader) -> RequestReceived | RequestRefused | None:
        """Answer requests of HTTP, up to the one that is the handshake."""
        try:
            while (request := reader.take(self._received)) is not None:
                if self._out:
                    # What one answer after the other may take up has no bound, so there is one
                    # at a time. Nobody who opens a WebSocket sends requests ahead of answers.
                    self._over = True
                    self._drop()
                    return None
                answer = self._site.answer(request)
                self._out.append(answer.data)
                if isinstance(answer, Answered):
                    self._answered = True
                    if answer.last:
                        self._over = True
                        self._drop()
                        return None
                    continue
                self.forwarded_for = answer.forwarded_for
                self._open(answer.subprotocol)
                return self.next_event()
        except HeadError as error:
            return self._refuse(Refused.of_head(error))
        except Refused as refused:
            return self._refuse(refused)
        if self._ended:
            self._drop()
        return None

    def _refuse(self, refused: Refused) -> RequestRefused:
        self._refused = refused
        self._drop()
        return RequestRefused(None, refused.error, fatal=True)

    def _open(self, subprotocol: Subprotocol) -> None:
        self._reader = None
        self._opcode = subprotocol.opcode
        self._plain = FINAL | subprotocol.opcode
        self._headers = _HEADERS[subprotocol.opcode]
        self._read = subprotocol.read
        self._write = subprotocol.write

    def send(self, id: int | None, reply: Reply) -> None:
        if self._reader is not None:
            self._send_http(reply)
            return
        message = self._write(id, reply)
        if self._opcode == TEXT:
            message = message[:-1]  # a line's end
        size = len(message)
        if size <= MOST_SHORT:
            self._out.append(self._headers[size] + message)
        else:
            self._out.append(write_frame(self._opcode, message))

    def _send_http(self, reply: Reply) -> None:
        """Answer a handshake that is not over: it can only be refused."""
        if not isinstance(reply, ErrorReply):
            raise LocalProtocolError("only an error can answer what is no handshake")
        refused = self._refused
        if refused is None:
            self._out.append(http_refusal(reply, HTTPStatus.SERVICE_UNAVAILABLE))
        else:
            self._out.append(http_refusal(reply, refused.status, refused.headers))
        self._over = True

    def end(self) -> None:
        if self._reader is None:
            self._say_close(self._code.to_bytes(2))

    def _put(self, opcode: int, payload: bytes) -> None:
        self._out.append(write_frame(opcode, payload))


class WebSocketClientCodec(FrameCodec, ClientCodec):
    """The client's end.

    Attributes:
        masked: whether the peer's frames are to be masked: a server's are not.
    """

    unprompted = True
    masked = False

    __slots__ = ("_key", "_keys", "_random", "_reader", "_replies", "_subprotocol")

    def __init__(
        self,
        frame_limit: int,
        subprotocol: Subprotocol,
        *,
        host: str,
        path: str,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Begin: the handshake is put in.

        Args:
            frame_limit: the longest message, in bytes.
            subprotocol: what is to be spoken.
            host: the server's, with its port if that is not the usual one.
            path: of the URL.
            random: draws so many bytes that nobody can foretell (RFC 6455, section 5.3).
        """
        super().__init__(frame_limit)
        self._opcode = subprotocol.opcode
        self._subprotocol = subprotocol
        self._replies = subprotocol.replies(frame_limit)
        self._random = random
        self._keys = b""
        self._key = base64.b64encode(random(16)).decode()
        self._reader: StatusReader | None = StatusReader()  # until the handshake is over
        self._out.append(request_upgrade(host, path, self._key, subprotocol))

    @property
    def opened(self) -> bool:
        return self._reader is None

    def next_event(self) -> ReplyReceived | None:
        if not self._received and self._message is None:
            return None
        try:
            if self._reader is not None and not self._shake_hands(self._reader):
                return None
            message = self._take()
            return None if message is None else self._replies.read_message(message)
        except FrameError as error:
            self._say_close(error.code.to_bytes(2))
            raise RemoteProtocolError(f"the server's reply cannot be read: {error}") from None
        except RemoteProtocolError:
            self._drop()
            raise

    def _shake_hands(self, reader: StatusReader) -> bool:
        """Return whether the server has opened the connection.

        Raises:
            RemoteProtocolError: it will not.
        """
        try:
            answer = reader.take(self._received)
        except HeadError as error:
            raise RemoteProtocolError(f"the server does not open a WebSocket: {error}") from None
        if answer is None:
            if self._ended:
                self._drop()
            return False
        check_upgraded(answer, self._key, self._subprotocol)
        self._reader = None
        return True

    def send(self, id: int, request: Request) -> None:
        if self._reader is not None:
            raise LocalProtocolError("the server has not opened the connection yet")
        self._replies.send(id, request)
        message = self._replies.data_to_send()
        self._put(self._opcode, message[:-1] if self._opcode == TEXT else message)

    def end(self) -> None:
        if self._reader is None:
            self._say_close(CloseCode.NORMAL.to_bytes(2))

    def _put(self, opcode: int, payload: bytes) -> None:
        keys = self._keys or self._random(4 * _KEYS)
        self._keys = keys[4:]
        self._out.append(write_frame(opcode, payload, keys[:4]))
