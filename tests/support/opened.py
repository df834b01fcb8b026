"""WebSockets without a socket: both ends after their handshake, and frames made by hand."""

from twinline.transports.binary import BinaryTransport
from twinline.transports.contract import RequestReceived, RequestRefused
from twinline.transports.jsonl import JsonlTransport
from twinline.transports.websocket import (
    WebSocketClientCodec,
    WebSocketServerCodec,
    WebSocketTransport,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
"""The key of RFC 6455, section 1.3."""
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
MASK = bytes.fromhex("37fa213d")
"""The masking key of RFC 6455, section 5.7."""
INNER: dict[str, type[JsonlTransport] | type[BinaryTransport]] = {
    "jsonl": JsonlTransport,
    "binary": BinaryTransport,
}
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
LIMIT = 65_536


def asking(*extra: str, without: str = "", line: str = "GET /chat HTTP/1.1") -> bytes:
    """Return the request of a handshake, with other fields too or without one of them."""
    fields = (
        "Host: server.example.com",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
    )
    kept = [field for field in fields if not without or not field.startswith(f"{without}:")]
    return "\r\n".join((line, *kept, *extra, "", "")).encode("latin-1")


def opened(
    spoken: str = "jsonl", limit: int = LIMIT
) -> tuple[WebSocketClientCodec, WebSocketServerCodec]:
    """Return the two ends of a connection whose handshake is over."""
    transport = WebSocketTransport([INNER[spoken]()])
    client, server = transport.client_codec(limit), transport.server_codec(limit)
    server.receive_data(client.data_to_send())
    assert server.next_event() is None
    client.receive_data(server.data_to_send())
    assert client.next_event() is None
    assert client.opened
    return client, server


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    mask: bytes | None = MASK,
    reserved: int = 0,
    length: bytes | None = None,
) -> bytes:
    """Return a frame, whatever is wrong with it.

    Args:
        opcode: 4 bits.
        payload: before it is masked.
        fin: whether the message ends by it.
        mask: the masking key; None leaves the payload as it is.
        reserved: the 3 reserved bits.
        length: the second byte, without the mask's bit, and the bytes of a longer length.
    """
    size = len(payload)
    if length is None and size < 126:
        length = bytes([size])
    elif length is None:
        length = b"\x7e" + size.to_bytes(2) if size < 65_536 else b"\x7f" + size.to_bytes(8)
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    second = length[0] | (0x80 if mask is not None else 0)
    if mask is None:
        return bytes((first, second)) + length[1:] + payload
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes((first, second)) + length[1:] + mask + masked


def said(data: bytes) -> list[tuple[int, bytes]]:
    """Return the opcodes and the payloads of a server's frames, all of them final and whole."""
    found = []
    while data:
        assert data[0] & 0xF0 == 0x80
        size, at = data[1], 2
        assert size < 0x80, "a server's frame is masked"
        if size >= 126:
            at = 4 if size == 126 else 10
            size = int.from_bytes(data[2:at])
        assert len(data) >= at + size
        found.append((data[0] & 0x0F, data[at : at + size]))
        data = data[at + size :]
    return found


def take(server: WebSocketServerCodec, *pieces: bytes) -> list[RequestReceived | RequestRefused]:
    """Feed a server's end, and return its events."""
    events = []
    for piece in pieces:
        server.receive_data(piece)
        while (event := server.next_event()) is not None:
            events.append(event)
    return events


def close_code(server: WebSocketServerCodec, event: RequestRefused) -> int:
    """Have a refusal answered as a connection does, and return the code that it is closed with."""
    server.send(event.id, event.error.to_reply())
    server.end()
    (_, _), (opcode, payload) = said(server.data_to_send())
    assert opcode == CLOSE
    assert server.ended
    return int.from_bytes(payload)
