"""The frames of the binary transport: their kinds, their header, and how a stream is cut.

Whatever can be judged by a header is judged before the payload is collected.
"""

from struct import Struct
from typing import Final

from twinline.core import protocol
from twinline.core.errors import BadRequest, FrameTooLarge, RequestError, UnsupportedVersion
from twinline.core.protocol import Reply, Request
from twinline.transports.contract import BufferedCodec

MAGIC: Final = 0xB7
"""No text in UTF-8 begins with this byte, and neither does TLS."""
VERSION: Final = 1
HEADER: Final = Struct(">BBBBI")

# The kinds are written down, for they are the protocol: none ever changes or is used twice.
KIND_BY_REQUEST: Final[dict[type[Request], int]] = {
    protocol.Hello: 1,
    protocol.CreateAccount: 2,
    protocol.Login: 3,
    protocol.LoginCertificate: 16,
    protocol.Resume: 4,
    protocol.Logout: 5,
    protocol.ListAccounts: 6,
    protocol.Send: 7,
    protocol.Watch: 8,
    protocol.Ack: 9,
    protocol.History: 10,
    protocol.Conversations: 18,
    protocol.DeleteMessages: 11,
    protocol.Trace: 17,
    protocol.Block: 19,
    protocol.Unblock: 20,
    protocol.ListBlocked: 21,
    protocol.SetReceipts: 22,
    protocol.Status: 12,
    protocol.ChangePassword: 13,
    protocol.DeleteAccount: 14,
    protocol.Ping: 15,
}
KIND_BY_REPLY: Final[dict[type[Reply], int]] = {
    protocol.Done: 0x80,
    protocol.HelloReply: 0x81,
    protocol.SessionReply: 0x82,
    protocol.AccountsReply: 0x83,
    protocol.SentReply: 0x84,
    protocol.WatchReply: 0x85,
    protocol.AckReply: 0x86,
    protocol.HistoryReply: 0x87,
    protocol.DeletedReply: 0x88,
    protocol.TraceReply: 0x8A,
    protocol.StatusReply: 0x89,
    protocol.ConversationsReply: 0x8B,
    protocol.BlockedReply: 0x8C,
    protocol.ErrorReply: 0xFF,
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


class FrameCodec(BufferedCodec):
    """Cuts what arrives into frames, and judges each by its header first."""

    __slots__ = ()

    def _take(self, known_flags: dict[int, int]) -> tuple[int, int, bytearray] | None:
        """Return the next frame's kind, its flags and all of it, or None until more arrives.

        Args:
            known_flags: the presence bits of each known kind; others are not judged.

        Raises:
            Unreadable: there is no frame here, or none that may be collected.
        """
        buffer = self._received
        if not buffer:
            return None
        if len(buffer) < HEADER.size:
            _check_start(buffer)
        else:
            kind, flags, length = _judge(buffer, known_flags)
            size = HEADER.size + length
            if size > self.frame_limit:
                raise Unreadable(FrameTooLarge(f"a frame is longer than {self.frame_limit} bytes"))
            if len(buffer) >= size:
                frame = buffer[:size]
                # bytearray moves its start here and not the bytes: many frames stay linear.
                del buffer[:size]
                return kind, flags, frame
        if self._ended:
            self._drop()
        return None


def read_header(message: bytes | bytearray, known_flags: dict[int, int]) -> tuple[int, int]:
    """Return the kind and the flags of a frame that has arrived as a message of its own.

    Args:
        message: all of it.
        known_flags: as those of `FrameCodec`.

    Raises:
        Unreadable: it is not one frame.
    """
    if len(message) < HEADER.size:
        _check_start(message)
        raise Unreadable(BadRequest("a message is shorter than the header of a frame"))
    kind, flags, length = _judge(message, known_flags)
    if len(message) != HEADER.size + length:
        raise Unreadable(BadRequest("a message is not exactly one frame"))
    return kind, flags


def _judge(frame: bytes | bytearray, known_flags: dict[int, int]) -> tuple[int, int, int]:
    """Return what a header says: the kind, the flags and the length of the payload.

    Raises:
        Unreadable: no frame has such a header.
    """
    magic, version, kind, flags, length = HEADER.unpack_from(frame)
    if magic != MAGIC or version != VERSION:
        _check_start(frame)
    if flags & ~known_flags.get(kind, 0xFF):
        raise Unreadable(BadRequest(f"a flag is set that kind {kind} does not have"))
    if length == 0:
        raise Unreadable(BadRequest("a frame is empty; there is no id in it"))
    return kind, flags, length


def _check_start(start: bytes | bytearray) -> None:
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
