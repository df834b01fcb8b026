"""The peer `uvloop`: one event loop, on uvloop and with orjson, that routes JSON lines.

`python benchmarks/peer_uvloop.py [--one-processor] [--acked]` is the server: what a Python user
can write who spares nothing. A connection is an `asyncio.Protocol`, not a pair of streams, which
would be another task to be woken. It routes each line that it reads, writes the message to the
watcher's transport, and then acknowledges it.

With ``--acked`` the watcher acknowledges what it got, and the server keeps that until then and
sends it again to the next watcher: what twinline promises.
"""

# ruff: noqa: T201

import asyncio
import itertools
import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache, partial
from typing import Any

from peer_contract import RouterServer, Server, ask, end_with_parent, forget, python_server

from twinline.cli.bench.load import Caller
from twinline.cli.bench.wire import BODY
from twinline.cli.server.affinity import on_one

ACKNOWLEDGED = b'{"ok":true}\n'


def line(**fields: object) -> bytes:
    """Return a request."""
    return json.dumps(fields).encode() + b"\n"


class UvloopServer(RouterServer):
    """The server, and raw connections to it."""

    def sender(self, name: str) -> Caller:
        """Return a connection that sends to a recipient."""
        request = line(op="send", to=name, body=BODY)
        connected = self.connect(socket.socket)
        return Caller(connected, itertools.repeat(request), len(ACKNOWLEDGED), ACKNOWLEDGED)

    def watcher(self, name: str) -> socket.socket:
        """Return a connection that waits for what is sent to a recipient."""
        watcher = self.connect(socket.socket)
        ask(watcher, line(op="watch", name=name), ACKNOWLEDGED)
        return watcher


@lru_cache(maxsize=65536)
def _acknowledge(seen: int) -> bytes:
    """Return the line that acknowledges so many messages."""
    return line(op="ack", seq=seen)


@contextmanager
def serve(*flags: str) -> Iterator[Server]:
    """Run the server."""
    with python_server(__file__, *flags) as target:
        yield UvloopServer(target, _acknowledge if "--acked" in flags else None)


class Box:
    """What a name has: a watcher's transport, or none, and messages that wait for one.

    Attributes:
        watcher: where messages go.
        waiting: those that came while there was none.
        seq: of the last message, where messages are acknowledged.
        unacked: by seq, in their order.
    """

    __slots__ = ("seq", "unacked", "waiting", "watcher")

    def __init__(self) -> None:
        self.watcher: asyncio.WriteTransport | None = None
        self.waiting: list[str] = []
        self.seq = 0
        self.unacked: dict[int, str] = {}


def main() -> None:
    """Listen, say where, and serve."""
    import orjson  # noqa: PLC0415  (only the server needs them)
    import uvloop  # noqa: PLC0415

    boxes: dict[str, Box] = {}
    acked = "--acked" in sys.argv
    loads, dumps = orjson.loads, partial(orjson.dumps, option=orjson.OPT_APPEND_NEWLINE)

    def deliver(box: Box, watcher: asyncio.WriteTransport, body: str) -> None:
        if acked:
            box.seq = seq = box.seq + 1
            box.unacked[seq] = body
            watcher.write(dumps({"op": "message", "seq": seq, "body": body}))
        else:
            watcher.write(dumps({"op": "message", "body": body}))

    class Router(asyncio.Protocol):
        """A connection."""

        def connection_made(self, transport: Any) -> None:
            """Begin; uvloop has turned Nagle's algorithm off."""
            self.transport = transport
            self.rest = b""
            self.watched: Box | None = None

        def data_received(self, data: bytes) -> None:
            """Carry out every whole line."""
            *lines, self.rest = (self.rest + data).split(b"\n")
            for each in lines:
                request = loads(each)
                op = request["op"]
                if op == "send":
                    box = boxes.get(request["to"]) or boxes.setdefault(request["to"], Box())
                    if box.watcher is None:
                        box.waiting.append(request["body"])
                    else:
                        deliver(box, box.watcher, request["body"])
                    self.transport.write(ACKNOWLEDGED)
                elif op == "ack":
                    if self.watched is not None:
                        forget(self.watched.unacked, request["seq"])
                else:
                    self.transport.write(ACKNOWLEDGED)
                    self.watch(boxes.setdefault(request["name"], Box()))

        def watch(self, box: Box) -> None:
            """Deliver what waits, and from now on whatever comes."""
            self.watched, box.watcher = box, self.transport
            again = [*box.unacked.values(), *box.waiting]
            box.unacked.clear()
            box.waiting.clear()
            for body in again:
                deliver(box, self.transport, body)

        def connection_lost(self, _error: Exception | None) -> None:
            """Keep what comes from now on, unless somebody else has begun to watch."""
            if self.watched is not None and self.watched.watcher is self.transport:
                self.watched.watcher = None

    async def listen() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Router, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    end_with_parent()
    one = on_one() if "--one-processor" in sys.argv else nullcontext()
    with one:
        uvloop.run(listen())


if __name__ == "__main__":
    main()
