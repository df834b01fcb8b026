"""What travels over WebSocket: the messages of another transport, each by itself.

A message has its own end, so what is a line of JSON-lines elsewhere has no line feed here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from twinline.core.protocol import Reply, Request
from twinline.transports import jsonl
from twinline.transports.binary import BinaryTransport
from twinline.transports.binary import codec as binary
from twinline.transports.contract import ReplyReceived, RequestReceived, RequestRefused
from twinline.transports.websocket.frames import BINARY, TEXT

Payload = bytes | bytearray


class Replies(Protocol):
    """The client's end of the other transport: which replies it waits for, and reads them."""

    def send(self, id: int, request: Request) -> None:
        """Put in a request, as `ClientCodec.send`."""

    def data_to_send(self) -> bytes:
        """Return the bytes of what was put in, as `Codec.data_to_send`."""

    def read_message(self, message: Payload) -> ReplyReceived:
        """Return the reply that a message is.

        Raises:
            RemoteProtocolError: it is none.
        """


@dataclass(frozen=True, slots=True)
class Subprotocol:
    """One of them.

    Attributes:
        name: by which a handshake asks for it.
        opcode: of its messages.
        read: makes a request of a message.
        write: makes a message of a reply, in text with a line feed at its end.
        replies: makes the client's end, given its frame limit.
    """

    name: str
    opcode: int
    read: Callable[[Payload], RequestReceived | RequestRefused]
    write: Callable[[int | None, Reply], bytes]
    replies: Callable[[int], Replies]


SUBPROTOCOLS: Final = {
    jsonl.JsonlTransport.name: Subprotocol(
        "twinline.jsonl", TEXT, jsonl.read_request, jsonl.write_reply, jsonl.JsonlClientCodec
    ),
    BinaryTransport.name: Subprotocol(
        "twinline.binary",
        BINARY,
        binary.read_request,
        binary.write_reply,
        binary.BinaryClientCodec,
    ),
}
"""By the name of the other transport, the preferred one first."""
