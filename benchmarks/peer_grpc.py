"""The peer `grpc`: grpcio's synchronous server with generic handlers and JSON in plain bytes.

`python benchmarks/peer_grpc.py [--one-processor]` is the server. A watcher's call is a stream of
messages; a sender's is one of both directions, each message on it acknowledged by one. (A call
for each send was tried: it took the server half as much time again.)

The load speaks HTTP/2 (RFC 9113) itself, as much as that takes: grpcio's client costs as much as
its server, and would be what is measured.
"""

# ruff: noqa: T201

import itertools
import json
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from queue import SimpleQueue
from typing import Any

from peer_contract import Server, TranslatingSocket, end_with_parent, python_server
from peer_router import Router

from twinline.cli.bench.load import Caller, LoadError
from twinline.cli.bench.wire import BODY
from twinline.cli.server.affinity import on_one

ACKNOWLEDGED = b'{"ok": true}'
_WORKERS = 192  # a stream holds one for its life: 64 watchers, 64 senders, and some to spare

_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_HEAD_BYTES = 9
_LARGEST_WINDOW = (1 << 31) - 1
_STREAM = 1
_LOW_WATER = 24
"""More than a control frame of the server has, less than a message: see `GrpcSocket`."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame of HTTP/2."""
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    )


def header_block(path: str) -> bytes:
    """Return the headers of a call, in the encoding of RFC 7541."""

    def literal(text: str) -> bytes:
        return bytes([len(text)]) + text.encode()

    # A byte before each name that its table knows by number; the last is spelt out.
    return b"".join(
        [
            b"\x83\x86",  # :method POST, :scheme http
            b"\x44" + literal(path),
            b"\x41" + literal("localhost"),
            b"\x5f" + literal("application/grpc"),
            b"\x40" + literal("te") + literal("trailers"),
        ]
    )


def message(body: bytes) -> bytes:
    """Return a message as gRPC frames it: not compressed, its length, itself."""
    return b"\0" + len(body).to_bytes(4, "big") + body


class GrpcSocket(TranslatingSocket):
    """A connection with one call, that sends gRPC messages and receives them.

    The server's control frames come as it likes. They must not pass for a reply, so that the
    socket is readable only when there is more than such a frame (SO_RCVLOWAT).
    """

    def open(self, path: str) -> None:
        """Begin the call, and wait until the server has."""
        self._buffer = b""
        settings = (4).to_bytes(2, "big") + _LARGEST_WINDOW.to_bytes(4, "big")
        self.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(_SETTINGS, 0, 0, settings)
            + frame(_WINDOW_UPDATE, 0, 0, (_LARGEST_WINDOW - 65_535).to_bytes(4, "big"))
            + frame(_HEADERS, _END_HEADERS, _STREAM, header_block(path))
        )

    def send(self, data: bytes, flags: int = 0) -> int:
        """Send one message."""
        return super().send(frame(_DATA, 0, _STREAM, data), flags)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return one message."""
        while (payload := self.until(_DATA)) is None:
            received = super().recv(size, flags)
            if not received:
                return b""
            self._buffer += received
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)  # for what is missing
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _LOW_WATER)
        return payload

    def wait_for_headers(self) -> None:
        """Wait until the server has begun to answer."""
        while self.until(_HEADERS) is None:
            self._buffer += super().recv(1 << 16)

    def until(self, wanted: int) -> bytes | None:
        """Return the payload of the next frame of a kind, if it is here; answer those before it.

        Raises:
            LoadError: the server ended the call.
        """
        while (whole := self._next_frame()) is not None:
            kind, flags, payload = whole
            if kind == _GOAWAY or (kind == _HEADERS and flags & _END_STREAM):
                raise LoadError(f"the server ended a call: {payload!r}")
            if kind == wanted:
                return payload
            if kind in {_SETTINGS, _PING} and not flags & _ACK:
                super().send(frame(kind, _ACK, 0, payload if kind == _PING else b""))
        return None

    def _next_frame(self) -> tuple[int, int, bytes] | None:
        buffer = self._buffer
        end = _HEAD_BYTES + int.from_bytes(buffer[:3], "big")
        if len(buffer) < _HEAD_BYTES or len(buffer) < end:
            return None
        self._buffer = buffer[end:]
        return buffer[3], buffer[4], buffer[_HEAD_BYTES:end]


class GrpcServer(Server):
    """The server, and raw connections to it."""

    def sender(self, name: str) -> Caller:
        """Return a connection that sends to a recipient."""
        connected = self.connect(GrpcSocket)
        connected.open("/router/Send")
        # To somebody else: it brings the headers of the reply, which come once.
        connected.send(message(json.dumps({"to": "first", "body": BODY}).encode()))
        reply = connected.recv(1 << 16)
        request = message(json.dumps({"to": name, "body": BODY}).encode())
        return Caller(connected, itertools.repeat(request), len(reply), message(ACKNOWLEDGED))

    def watcher(self, name: str) -> socket.socket:
        """Return a connection that waits for what is sent to a recipient."""
        connected = self.connect(GrpcSocket)
        connected.open("/router/Watch")
        connected.send(message(json.dumps({"name": name}).encode()))
        connected.sendall(frame(_DATA, _END_STREAM, _STREAM))
        connected.wait_for_headers()
        return connected


@contextmanager
def serve(*flags: str) -> Iterator[Server]:
    """Run the server."""
    with python_server(__file__, *flags) as target:
        yield GrpcServer(target)


def main() -> None:
    """Listen, say where, and serve."""
    import grpc  # noqa: PLC0415  (only the server needs it)

    router: Router[str] = Router()

    def send(requests: Iterator[bytes], _context: Any) -> Iterator[bytes]:
        for request in requests:
            asked = json.loads(request)
            router.send(asked["to"], asked["body"])
            yield ACKNOWLEDGED

    def watch(request: bytes, context: Any) -> Iterator[bytes]:
        name = json.loads(request)["name"]
        queue: SimpleQueue[str] = SimpleQueue()
        context.add_callback(lambda: queue.put(""))  # the watcher is gone: free the thread
        router.watch(name, queue.put)
        context.send_initial_metadata(())
        while body := queue.get():
            yield json.dumps({"body": body}).encode()
        router.unwatch(name, queue.put)

    end_with_parent()
    handlers = {
        "Send": grpc.stream_stream_rpc_method_handler(send),
        "Watch": grpc.unary_stream_rpc_method_handler(watch),
    }
    one = on_one() if "--one-processor" in sys.argv else nullcontext()
    with one:
        # Without probes of the bandwidth, which send a PING now and then; no faster, no slower.
        options = [("grpc.http2.bdp_probe", 0)]
        server = grpc.server(ThreadPoolExecutor(_WORKERS), options=options)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("router", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        print(port, flush=True)
        server.wait_for_termination()


if __name__ == "__main__":
    main()
