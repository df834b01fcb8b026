"""The peer `rpyc`: its ThreadedServer and a plain service, under load from raw sockets.

`python benchmarks/peer_rpyc.py [--one-processor]` is the server. A sender calls ``send``; a
watcher has given a callback, which the server calls by `rpyc.async_`. (A call of the watcher's
that blocks until there is a message was tried: it was as fast at best, and slower where the
server is kept on one processor.)

RPyC's own client sets the connections up and encodes each call once; a call that is repeated byte
for byte is a call, since the server echoes the sequence number and looks at it no further.
"""

# ruff: noqa: T201

import itertools
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import rpyc
from peer_contract import Server, end_with_parent, python_server
from peer_router import Router
from rpyc.core import SocketStream, brine, consts
from rpyc.utils.helpers import classpartial
from rpyc.utils.server import ThreadedServer

from twinline.cli.bench.load import Caller
from twinline.cli.bench.target import ServerProcess
from twinline.cli.bench.wire import BODY
from twinline.cli.server.affinity import on_one

_Socket = TypeVar("_Socket", bound=socket.socket)
_HEADER_BYTES = 5  # of a frame: its length and whether it is compressed; a newline ends it


class Recording(SocketStream):
    """A stream that keeps what passes through it."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__(connected)
        self.written = b""
        self.was_read = b""

    def write(self, data: bytes) -> None:
        """Send, and keep."""
        self.written += data
        super().write(data)

    def read(self, count: int) -> bytes:
        """Receive, and keep."""
        data: bytes = super().read(count)
        self.was_read += data
        return data


class AnsweringSocket(socket.socket):
    """A watcher that answers each callback, as RPyC's client does."""

    answering = False

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return one callback, and answer it."""
        data = super().recv(size, flags)
        if data and self.answering:
            seq, _ = brine.load(data[_HEADER_BYTES + 1 : -1])
            answer = bytes([consts.MSG_REPLY]) + brine.dump((seq, (consts.LABEL_VALUE, None)))
            self.send(len(answer).to_bytes(4, "big") + b"\0" + answer + b"\n")
        return data


class RpycServer(Server):
    """The server, and raw connections to it."""

    def __init__(self, target: ServerProcess) -> None:
        super().__init__(target)
        # Nothing that stands for an object of the server may be collected under load: RPyC
        # would tell the server, whose answer would come among the counted ones.
        self._kept: list[object] = []

    def sender(self, name: str) -> Caller:
        """Return a connection that sends to a recipient."""
        connected, stream, connection = self._open(socket.socket)
        send = connection.root.send
        self._kept.append(send)
        connection.ping()  # what was asked before is answered
        stream.written = stream.was_read = b""
        send(name, BODY)
        reply = stream.was_read
        return Caller(connected, itertools.repeat(stream.written), len(reply), reply)

    def watcher(self, name: str) -> socket.socket:
        """Return a connection that waits for what is sent to a recipient."""
        connected, _, connection = self._open(AnsweringSocket)
        watch = connection.root.watch
        self._kept.append(watch)
        watch(name, len)  # called with what the sender recorded; the load answers the others
        connection.ping()
        connected.answering = True
        return connected

    def _open(self, kind: type[_Socket]) -> tuple[_Socket, Recording, rpyc.Connection]:
        connected = self.connect(kind)
        stream = Recording(connected)
        connection = rpyc.connect_stream(stream)
        self._kept.append(connection)
        return connected, stream, connection

    def disconnect(self) -> None:
        """Close every connection."""
        super().disconnect()
        self._kept.clear()


@contextmanager
def serve(*flags: str) -> Iterator[Server]:
    """Run the server."""
    with python_server(__file__, *flags) as target:
        yield RpycServer(target)


class RouterService(rpyc.Service):
    """What one client may call."""

    def __init__(self, router: Router[str]) -> None:
        self._router = router
        self._watched: list[tuple[str, Callable[[str], object]]] = []

    def exposed_send(self, to: str, body: str) -> bool:
        """Route a message."""
        self._router.send(to, body)
        return True

    def exposed_watch(self, name: str, callback: Callable[[str], object]) -> None:
        """Call back with each message, without waiting for an answer."""
        deliver = rpyc.async_(callback)
        self._watched.append((name, deliver))
        self._router.watch(name, deliver)

    def on_disconnect(self, conn: rpyc.Connection) -> None:  # noqa: ARG002  (RPyC's signature)
        """Watch no longer."""
        for name, deliver in self._watched:
            self._router.unwatch(name, deliver)


def no_delay(connected: socket.socket) -> tuple[socket.socket, None]:
    """Turn Nagle's algorithm off; an authenticator is where RPyC lets a server see the socket."""
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected, None


def main() -> None:
    """Listen, say where, and serve."""
    end_with_parent()
    one = on_one() if "--one-processor" in sys.argv else nullcontext()
    service = classpartial(RouterService, Router())
    with one:
        server = ThreadedServer(service, hostname="127.0.0.1", authenticator=no_delay)
        server.logger.setLevel("WARNING")
        print(server.listener.getsockname()[1], flush=True)
        server.start()


if __name__ == "__main__":
    main()
