"""The peer `websockets`: its threaded server, and messages in JSON.

`python benchmarks/peer_websockets.py [--one-processor] [--acked]` is the server. A connection's
handler routes what it reads, sends the message on the watcher's connection, and then acknowledges
it. Compression is off (a text of this size does not gain by it), the rest as it is by default.

With ``--acked`` the watcher acknowledges what it got, and the server keeps that until then and
sends it again to the next watcher: what twinline promises.
"""

# ruff: noqa: T201

import itertools
import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache

from peer_contract import RouterServer, Server, ask, end_with_parent, forget, python_server
from peer_router import Router

from twinline.cli.bench.load import Caller
from twinline.cli.bench.wire import BODY
from twinline.cli.server.affinity import on_one

ACKNOWLEDGED = '{"ok": true}'
_MASK = b"\x37\xfa\x21\x3d"
_HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def text_frame(text: str, mask: bytes = b"") -> bytes:
    """Return a whole text message as one frame of RFC 6455, up to 65,535 bytes.

    Args:
        text: the payload.
        mask: four bytes from a client, none from a server.
    """
    payload = text.encode()
    flag = 0x80 if mask else 0
    if len(payload) < 126:
        head = bytes([0x81, flag | len(payload)])
    else:
        head = bytes([0x81, flag | 126]) + len(payload).to_bytes(2, "big")
    if mask:
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return head + mask + payload


class WebsocketServer(RouterServer):
    """The server, and raw connections to it."""

    def sender(self, name: str) -> Caller:
        """Return a connection that sends to a recipient."""
        request = text_frame(json.dumps({"op": "send", "to": name, "body": BODY}), _MASK)
        reply = text_frame(ACKNOWLEDGED)
        return Caller(self._open(), itertools.repeat(request), len(reply), reply)

    def watcher(self, name: str) -> socket.socket:
        """Return a connection that waits for what is sent to a recipient."""
        watcher = self._open()
        request = text_frame(json.dumps({"op": "watch", "name": name}), _MASK)
        ask(watcher, request, text_frame(ACKNOWLEDGED))
        return watcher

    def _open(self) -> socket.socket:
        connected = self.connect(socket.socket)
        ask(connected, _HANDSHAKE, b"\r\n\r\n")
        return connected


@lru_cache(maxsize=65536)
def _acknowledge(seen: int) -> bytes:
    """Return the frame that acknowledges so many messages."""
    return text_frame(json.dumps({"op": "ack", "seq": seen}), _MASK)


@contextmanager
def serve(*flags: str) -> Iterator[Server]:
    """Run the server."""
    with python_server(__file__, *flags) as target:
        yield WebsocketServer(target, _acknowledge if "--acked" in flags else None)


def main() -> None:
    """Listen, say where, and serve."""
    # Here, because only the server needs them.
    from websockets.exceptions import ConnectionClosed  # noqa: PLC0415
    from websockets.sync.server import ServerConnection, serve  # noqa: PLC0415

    router: Router[str] = Router()

    acked = "--acked" in sys.argv

    def handle(connection: ServerConnection) -> None:
        watched = None
        unacked: dict[int, str] = {}
        seqs = itertools.count(1)

        def deliver(body: str) -> None:
            message: dict[str, object] = {"op": "message", "body": body}
            if acked:
                message["seq"] = seq = next(seqs)
                unacked[seq] = body
            connection.send(json.dumps(message))

        try:
            for text in connection:
                request = json.loads(text)
                if request["op"] == "send":
                    router.send(request["to"], request["body"])
                    connection.send(ACKNOWLEDGED)
                elif request["op"] == "ack":
                    forget(unacked, request["seq"])
                else:
                    watched = request["name"]
                    connection.send(ACKNOWLEDGED)
                    router.watch(watched, deliver)
        except ConnectionClosed:
            pass  # the load closes its connections without a closing handshake
        finally:
            if watched is not None:
                router.unwatch(watched, deliver)
                for body in unacked.values():
                    router.send(watched, body)

    end_with_parent()
    one = on_one() if "--one-processor" in sys.argv else nullcontext()
    with one, serve(handle, "127.0.0.1", 0, compression=None) as server:
        print(server.socket.getsockname()[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
