"""The frames of the binary transport: their kinds, their header, and how a stream is cut.

Whatever can be judged by a header is judged before the payload is collected.
"""

from struct import Struct
from typing import Final

from twinline.core.errors import BadRequest, FrameTooLarge, RequestError, UnsupportedVersion
from twinline.core.protocol import (
    AccountsReply,
    Ack,
    AckReply,
    ChangePassword,
    CreateAccount,
    DeleteAccount,
    DeletedReply,
    DeleteMessages,
    Done,
    ErrorReply,
    Hello,
    HelloReply,
    History,
    HistoryReply,
    ListAccounts,
    Login,
    Logout,
    Ping,
    Reply,
    Request,
    Resume,
    Send,
    SentReply,
    SessionReply,
    Status,
    StatusReply,
    Watch,
    WatchReply,
)

MAGIC: Final = 0xB7
"""No text in UTF-8 begins with this byte, and neither does TLS."""
VERSION: Final = 1
HEADER: Final = Struct(">BBBBI")

# The kinds are written down, for they are the protocol: none ever changes or is used twice.
KIND_BY_REQUEST: Final[dict[type[Request], int]] = {
    Hello: 1,
    CreateAccount: 2,
    Login: 3,
    Resume: 4,
    Logout: 5,
    ListAccounts: 6,
    Send: 7,
    Watch: 8,
    Ack: 9,
    History: 10,
    DeleteMessages: 11,
    Status: 12,
    ChangePassword: 13,
    DeleteAccount: 14,
    Ping: 15,
}
KIND_BY_REPLY: Final[dict[type[Reply], int]] = {
    Done: 0x80,
    HelloReply: 0x81,
    SessionReply: 0x82,
    AccountsReply: 0x83,
    SentReply: 0x84,
    WatchReply: 0x85,
    AckReply: 0x86,
    HistoryReply: 0x87,
    DeletedReply: 0x88,
    StatusReply: 0x89,
    ErrorReply: 0xFF,
}
"""Several requests may get replies of one kind: the id says which request is answered."""
ERROR_WITHOUT_ID: Final = 0xFE
"""The kind of an `ErrorReply` that answers a frame whose id could not be read: it has no id."""


class Unreadable(Exception):
    """A frame that ends the connection: why, and its id where that could be read."""

    def __init__(self, error: RequestError, id: int | None = None) -> None:
        self.error = error
        self.id = id
        super().__init__(error.message)


class Frames:
    """Cuts what arrives into frames, and judges each by its header first.

    Attributes:
        buffer: what has arrived and is not taken out.
    """

    __slots__ = ("_ended", "buffer")

    def __init__(self) -> None:
        self.buffer = bytearray()
        self._ended = False

    def __len__(self) -> int:
        return len(self.buffer)

    def feed(self, data: bytes) -> None:
        """Take bytes in, unless the end was told or the stream was given up."""
        if not self._ended:
            self.buffer += data

    def end(self) -> None:
        """Take no more in; the frames that are complete can still be taken out."""
        self._ended = True

    def drop(self) -> None:
        """Give the stream up: forget what there is, and take no more in."""
        self._ended = True
        self.buffer = bytearray()

    def take(self, limit: int, known_flags: dict[int, int]) -> tuple[int, int, bytearray] | None:
        """Return the next frame's kind, its flags and all of it, or None until more arrives.

        Args:
            limit: the most bytes that a frame may have, its header included.
            known_flags: the presence bits of each known kind; others are not judged.

        Raises:
            Unreadable: there is no frame here, or none that may be collected.
        """
        buffer = self.buffer
        if not buffer:
            return None
        if len(buffer) < HEADER.size:
            _check_start(buffer)
        else:
            magic, version, kind, flags, length = HEADER.unpack_from(buffer)
            if magic != MAGIC or version != VERSION:
                _check_start(buffer)
            if flags & ~known_flags.get(kind, 0xFF):
                raise Unreadable(BadRequest(f"a flag is set that kind {kind} does not have"))
            if length == 0:
                raise Unreadable(BadRequest("a frame is empty; there is no id in it"))
            size = HEADER.size + length
            if size > limit:
                raise Unreadable(FrameTooLarge(f"a frame is longer than {limit} bytes"))
            if len(buffer) >= size:
                frame = buffer[:size]
                # bytearray moves its start here and not the bytes: many frames stay linear.
                del buffer[:size]
                return kind, flags, frame
        if self._ended:
            self.drop()
        return None


def _check_start(start: bytearray) -> None:
    """Judge the first bytes of a header, as many as there are.

    Raises:
        Unreadable: they begin no frame of a known version.
    """
    if start and start[0] != MAGIC:
        raise Unreadable(BadRequest(f"a frame begins with the byte 0x{MAGIC:02X}"))
    if len(start) > 1 and start[1] != VERSION:
        raise Unreadable(
            UnsupportedVersion(
                f"version {start[1]} of the binary frames is not known here; known: {VERSION}"
            )
        )
