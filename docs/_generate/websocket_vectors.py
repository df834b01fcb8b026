"""Writes what the vectors have of WebSocket: handshakes, frames, and what is refused."""

import base64
from collections.abc import Sequence
from typing import Any

from opened import (
    BINARY,
    CLOSE,
    CONTINUATION,
    INNER,
    KEY,
    MASK,
    PING,
    PONG,
    TEXT,
    asking,
    frame,
)

from twinline.core.protocol import MAX_REPLY_BYTES, Reply, Request
from twinline.transports.websocket import WebSocketClientCodec, WebSocketTransport
from twinline.transports.websocket.subprotocols import SUBPROTOCOLS

PATH = "/"
HOST = "chat.example.org"
ORIGINS = ("https://listed.example",)
LIMIT = 64
"""Of a message, in bytes, where frames are refused."""
_HELLO = b'{"op":"hello","id":1}'


def _random(count: int) -> bytes:
    """Return the key of the RFC's handshake, or its masking key again and again."""
    return base64.b64decode(KEY) if count == 16 else MASK * (count // 4)


def client_of(inner: str) -> WebSocketClientCodec:
    """Return a client whose keys are always the same."""
    return WebSocketClientCodec(
        MAX_REPLY_BYTES, SUBPROTOCOLS[inner], host=HOST, path=PATH, random=_random
    )


def handshake(inner: str) -> tuple[bytes, bytes]:
    """Return what both sides say before a message."""
    server = WebSocketTransport().server_codec(MAX_REPLY_BYTES)
    request = client_of(inner).data_to_send()
    server.receive_data(request)
    server.next_event()
    return request, server.data_to_send()


def request_frame(inner: str, id: int, request: Request) -> bytes:
    """Return a request in the frame of a client."""
    client = client_of(inner)
    client.receive_data(handshake(inner)[1])
    client.next_event()
    client.data_to_send()
    client.send(id, request)
    return client.data_to_send()


def reply_frame(inner: str, id: int | None, reply: Reply) -> bytes:
    """Return a reply in the frame of a server."""
    server = WebSocketTransport([INNER[inner]()]).server_codec(MAX_REPLY_BYTES)
    server.receive_data(client_of(inner).data_to_send())
    server.next_event()
    server.data_to_send()
    server.send(id, reply)
    return server.data_to_send()


ALSO_ACCEPTED = (
    ("in two fragments", frame(TEXT, _HELLO[:7], fin=False) + frame(CONTINUATION, _HELLO[7:])),
    (
        "a ping between fragments",
        frame(TEXT, _HELLO[:7], fin=False) + frame(PING, b"?") + frame(CONTINUATION, _HELLO[7:]),
    ),
    (
        "fragments that are empty, or end inside a character",
        frame(TEXT, fin=False)
        + frame(CONTINUATION, b'{"op":"hello","id":1,"client":"\xc3', fin=False)
        + frame(CONTINUATION, b'\xa9"}', fin=False)
        + frame(CONTINUATION),
    ),
    ("a mask of zeros", frame(TEXT, _HELLO, mask=bytes(4))),
    ("a line feed inside and one behind", frame(TEXT, b'{"op":"hello",\n"id":1}\r\n')),
    ("behind a pong that nobody asked for", frame(PONG, b"x") + frame(TEXT, _HELLO)),
)
CONTROL = (
    ("a ping", frame(PING, b"Hello"), frame(PONG, b"Hello", mask=None)),
    ("an empty ping", frame(PING), frame(PONG, mask=None)),
    ("a close frame", frame(CLOSE, b"\x03\xe8bye"), frame(CLOSE, b"\x03\xe8", mask=None)),
    ("a close frame without a code", frame(CLOSE), frame(CLOSE, mask=None)),
)
REFUSED_FRAMES = (
    ("no mask", frame(TEXT, _HELLO, mask=None), 1002),
    ("a reserved bit", frame(TEXT, _HELLO, reserved=4), 1002),
    ("a reserved opcode", frame(3), 1002),
    ("a continuation of nothing", frame(CONTINUATION, _HELLO), 1002),
    ("a message inside another", frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), 1002),
    ("a fragmented ping", frame(PING, fin=False), 1002),
    ("a ping of 126 bytes", frame(PING, b"x" * 126), 1002),
    ("a length that is not the shortest", frame(TEXT, _HELLO, length=b"\x7e\x00\x15"), 1002),
    ("a close code that may not be sent", frame(CLOSE, b"\x03\xed"), 1002),
    ("binary where text is spoken", frame(BINARY, _HELLO), 1003),
    ("text that is not UTF-8", frame(TEXT, b"\xff"), 1007),
    ("a message beyond the limit", frame(TEXT, b" " * (LIMIT + 1)), 1009),
    (
        "fragments beyond the limit",
        frame(TEXT, b" " * LIMIT, fin=False) + frame(CONTINUATION, b" "),
        1009,
    ),
    ("a length of 2^62 and nothing of it", b"\x81\xff\x40" + bytes(7), 1009),
)
REFUSED_HEADS = (
    ("another version", asking("Sec-WebSocket-Version: 8", without="Sec-WebSocket-Version"), 426),
    ("no upgrade", asking(without="Upgrade"), 426),
    ("another method", asking(line="POST / HTTP/1.1"), 426),
    ("another site's page", asking("Origin: https://evil.example"), 403),
    ("a page of no site", asking("Origin: null"), 403),
    ("no host", asking(without="Host"), 400),
    ("two hosts", asking("Host: other.example"), 400),
    ("a body", asking("Content-Length: 1"), 400),
    ("a body in chunks", asking("Transfer-Encoding: chunked"), 400),
    ("a folded line", asking("X: a\r\n b"), 400),
    ("a space before the colon", asking("X : a"), 400),
    ("a bare line feed", asking("X: a\nY: b"), 400),
    ("two keys", asking(f"Sec-WebSocket-Key: {KEY}"), 400),
    ("no key", asking(without="Sec-WebSocket-Key"), 400),
    ("an unknown subprotocol", asking("Sec-WebSocket-Protocol: mqtt"), 400),
    ("a line of JSON", b'{"op":"hello","id":1}\n', 400),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
)


def _named(cases: Sequence[tuple[str, bytes, Any]], key: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "bytes": data.hex(), key: then.hex() if isinstance(then, bytes) else then}
        for name, data, then in cases
    ]


def websocket_vectors(
    requests: Sequence[tuple[str, int, Request]],
    replies: Sequence[tuple[str, int | None, str, Reply]],
) -> dict[str, Any]:
    """Return the part of the vectors that is about WebSocket.

    Args:
        requests: the samples, of which some are shown in frames.
        replies: likewise.
    """
    # The first of each kind, and all whose length is written in another way.
    asked = [requests[at] for at in (0, 1, 5, *range(13, 20), 23)]
    answered = [replies[at] for at in (0, 1, 3, 5, 8, 11, 12, -2)]
    return {
        "key": KEY,
        "mask": MASK.hex(),
        "handshakes": [
            {
                "subprotocol": SUBPROTOCOLS[inner].name,
                "request": handshake(inner)[0].decode(),
                "answer": handshake(inner)[1].decode(),
            }
            for inner in INNER
        ],
        "requests": [
            {"name": name} | {inner: request_frame(inner, number, request).hex() for inner in INNER}
            for name, number, request in asked
        ],
        "replies": [
            {"name": name} | {inner: reply_frame(inner, number, reply).hex() for inner in INNER}
            for name, number, _, reply in answered
        ],
        "also_accepted": [{"name": name, "bytes": data.hex()} for name, data in ALSO_ACCEPTED],
        "control": _named(CONTROL, "answer"),
        "refused_frames": {"frame_limit": LIMIT, "cases": _named(REFUSED_FRAMES, "close")},
        "refused_heads": {
            "origins": list(ORIGINS),
            "cases": [
                {"name": name, "bytes": data.decode(), "status": status}
                for name, data, status in REFUSED_HEADS
            ],
        },
    }
