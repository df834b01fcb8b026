"""The frames of WebSocket (RFC 6455, section 5): how a stream is cut into messages.

A frame is judged by its header, before its payload is collected. No extension is ever agreed on,
so a reserved bit is an error. Fragments are put together, and the control frames that may stand
between them are dealt with as they come.

What cannot be gone on with fails the connection (section 7.1.7) with a code of section 7.4.1::

    1002    a frame that the RFC does not allow
    1003    a message of the other kind: binary where text is spoken, or text where binary is
    1007    text that is not UTF-8, or a binary message that is not one frame of that transport
    1009    a message that is longer than the limit
"""

from enum import IntEnum
from functools import cache
from struct import Struct
from typing import ClassVar, Final

from twinline.core.errors import BadRequest, FrameTooLarge, RequestError
from twinline.transports.contract import BufferedCodec

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
_OPCODES: Final = frozenset((CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))
FINAL: Final = 0x80
"""The bit of a first byte that says: the last frame of its message."""
MASKED: Final = 0x80
"""The bit of a second byte that says: a masking key follows, and the payload is masked."""
_RESERVED: Final = 0x70
MOST_SHORT: Final = 125
"""The longest payload whose length stands in the second byte, and the longest of a control frame.
"""
LENGTH_OF_2: Final = 126
LENGTH_OF_8: Final = 127
_MOST_IN_2: Final = 0xFFFF

_int_of: Final = int.from_bytes
_key_at: Final = Struct("<I").unpack_from
_FEW: Final = 252
_REPEATED: Final = [_int_of(b"\1\0\0\0" * words, "little") for words in range(_FEW // 4 + 1)]


class CloseCode(IntEnum):
    """Why a connection is closed (RFC 6455, section 7.4.1): those that are sent here."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED = 1003
    INVALID = 1007
    TOO_LONG = 1009


class FrameError(Exception):
    """What fails the connection: the code that it is closed with, and what the peer is told."""

    def __init__(self, code: CloseCode, error: RequestError) -> None:
        self.code = code
        self.error = error
        super().__init__(error.message)


def unmask(frame: bytearray, start: int, end: int) -> bytes | bytearray:
    """Return a payload without its mask; it masks just as well.

    Args:
        frame: what it stands in.
        start: where; the masking key stands before it, in 4 bytes.
        end: where it ends.
    """
    size = end - start
    if size <= _FEW:
        # As one number; the key is repeated by a multiplication.
        words = (size + 3) >> 2
        (key,) = _key_at(frame, start - 4)
        number = _int_of(frame[start:end], "little") ^ key * _REPEATED[words]
        return number.to_bytes(words << 2, "little")[:size]  # type: ignore[no-any-return]
    payload = frame[start:end]
    for at in range(4):
        payload[at::4] = payload[at::4].translate(_xored_with(frame[start - 4 + at]))
    return payload


@cache
def _xored_with(key: int) -> bytes:
    """Return the table that translates each byte to what it is with a key's byte."""
    return bytes(byte ^ key for byte in range(256))


def write_frame(opcode: int, payload: bytes, key: bytes | None = None) -> bytes:
    """Return the only frame of a message, or a control frame.

    Args:
        opcode: of the frame.
        payload: a control frame's has 125 bytes at most.
        key: the masking key of 4 bytes, which a client has and a server has not.
    """
    first = FINAL | opcode
    masked = 0 if key is None else MASKED
    size = len(payload)
    if size <= MOST_SHORT:
        header = bytes((first, masked | size))
    elif size <= _MOST_IN_2:
        header = bytes((first, masked | LENGTH_OF_2)) + size.to_bytes(2)
    else:
        header = bytes((first, masked | LENGTH_OF_8)) + size.to_bytes(8)
    if key is None:
        return header + payload
    return header + key + unmask(bytearray(key + payload), 4, 4 + size)


class FrameCodec(BufferedCodec):
    """Cuts what arrives into messages, answers pings, and holds the close handshake.

    Attributes:
        masked: whether the peer's frames are to be masked: a client's are.
    """

    masked: ClassVar[bool]

    __slots__ = ("_message", "_opcode", "_over", "_said_close")

    def __init__(self, frame_limit: int) -> None:
        super().__init__(frame_limit)
        self._opcode = TEXT  # of all messages
        self._message: bytearray | None = None  # the fragments so far
        self._over = False
        self._said_close = False

    @property
    def ended(self) -> bool:
        """Whether the closing handshake is over, or another end was put in."""
        return self._over

    @property
    def mid_frame(self) -> bool:
        """Whether a frame has begun, or a message whose last fragment has not arrived."""
        return bool(self._received) or self._message is not None

    def data_to_send(self) -> bytes:
        """Return what was put in, joined, and forget it."""
        out = self._out
        if not out:
            return b""  # as after nearly every event: its owner always asks
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def _put(self, opcode: int, payload: bytes) -> None:
        """Have a frame sent."""
        raise NotImplementedError

    def _drop(self) -> None:
        super()._drop()
        self._message = None

    def _say_close(self, code: bytes) -> None:
        """Have a close frame sent, and end: nothing may follow it."""
        if not self._said_close:
            self._put(CLOSE, code)
        self._said_close = self._over = True
        self._drop()

    def _take(self) -> bytes | bytearray | None:
        """Return the next whole message, or None until more arrives or if there will be none.

        Raises:
            FrameError: what has arrived is no frame, or none that may be collected.
        """
        while (frame := self._take_frame()) is not None:
            first, payload = frame
            opcode = first & 0x0F
            if opcode >= CLOSE:
                self._control(opcode, bytes(payload))
                continue
            message = self._message
            if message is None:
                if first & FINAL:
                    return payload
                self._message = bytearray(payload)
                continue
            message += payload
            if first & FINAL:
                self._message = None
                return message
        if self._ended:
            self._drop()
        return None

    def _take_frame(self) -> tuple[int, bytes | bytearray] | None:
        """Return the first byte and the payload of the next whole frame."""
        buffer = self._received
        if len(buffer) < 2:
            return None
        first, second = buffer[0], buffer[1]
        self._judge(first, second)
        at, size = 2, second & ~MASKED
        if size > MOST_SHORT:
            at = 4 if size == LENGTH_OF_2 else 10
            if len(buffer) < at:
                return None
            size = _int_of(buffer[2:at])
            if size <= (MOST_SHORT if at == 4 else _MOST_IN_2):
                raise _broken("the length of a frame is not written in the shortest way")
        if first & CLOSE == 0:
            whole = size if self._message is None else size + len(self._message)
            if whole > self.frame_limit:
                raise FrameError(
                    CloseCode.TOO_LONG,
                    FrameTooLarge(f"a message is longer than {self.frame_limit} bytes"),
                )
        start = at + 4 if self.masked else at
        end = start + size
        if len(buffer) < end:
            return None
        payload = unmask(buffer, start, end) if self.masked else buffer[start:end]
        # bytearray moves its start here and not the bytes: many frames stay linear.
        del buffer[:end]
        return first, payload

    def _judge(self, first: int, second: int) -> None:
        """Judge the first two bytes of a frame.

        Raises:
            FrameError: no frame begins so here.
        """
        if first & _RESERVED:
            raise _broken("a reserved bit of a frame is set, and no extension was agreed on")
        opcode = first & 0x0F
        if opcode not in _OPCODES:
            raise _broken(f"a frame has the opcode {opcode}, which is reserved")
        if bool(second & MASKED) is not self.masked:
            raise _broken("a client's frame is not masked" if self.masked else "it is masked")
        if opcode >= CLOSE:
            if not first & FINAL:
                raise _broken("a control frame is fragmented")
            if second & ~MASKED > MOST_SHORT:
                raise _broken(f"a control frame is longer than {MOST_SHORT} bytes")
        elif opcode == CONTINUATION:
            if self._message is None:
                raise _broken("a frame continues a message, and none has begun")
        elif self._message is not None:
            raise _broken("a message begins before the end of the one before it")
        elif opcode != self._opcode:
            spoken, other = ("text", "binary") if self._opcode == TEXT else ("binary", "text")
            raise FrameError(
                CloseCode.UNSUPPORTED,
                BadRequest(f"messages are {spoken} in this subprotocol, and this one is {other}"),
            )

    def _control(self, opcode: int, payload: bytes) -> None:
        """Take a control frame in; a pong is of no interest, for no ping is sent."""
        if opcode == PING:
            self._put(PONG, payload)
        elif opcode == CLOSE:
            _check_close(payload)
            self._say_close(payload[:2])


def _check_close(payload: bytes) -> None:
    """Judge what a close frame says (RFC 6455, sections 5.5.1 and 7.4).

    Raises:
        FrameError: no close frame says that.
    """
    if not payload:
        return
    code = _int_of(payload[:2])
    known = 1000 <= code <= 1014 and code not in (1004, 1005, 1006)
    if len(payload) == 1 or not (known or 3000 <= code <= 4999):
        raise _broken("a close frame has no code that may be sent")
    check_utf8(payload[2:])


def check_utf8(text: bytes | bytearray) -> None:
    """Do nothing if text is UTF-8.

    Raises:
        FrameError: it is not.
    """
    try:
        text.decode()
    except UnicodeDecodeError:
        raise FrameError(CloseCode.INVALID, BadRequest("a text is not UTF-8")) from None


def _broken(what: str) -> FrameError:
    return FrameError(CloseCode.PROTOCOL_ERROR, BadRequest(what))
