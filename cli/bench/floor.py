"""The floor: what a thread a connection costs in Python with nothing in it.

`python -m twinline.cli.bench.floor` listens on a free port of this machine and prints it. It has
no parsing, no state, no accounts and no errors; what it shares with the server is the shape: a
thread a connection, each the only one that reads and writes its socket. The first bytes of a
connection say what it is:

==========  ===============================================================================
``E``       an echo: what is read is written back
``S`` *n*   a sender: what is read goes to the watcher of that number, and is answered
``W`` *n*   a watcher: each request is answered with the next message, when there is one
``D`` *n*   a sender whose thread relays: it writes what it reads to the watcher's socket itself
``R`` *n*   its watcher, which connects before it: its requests are read, and no more
==========  ===============================================================================

There are two forms of a relay, each of the same four transfers as a delivery by the server. In
the first a message is passed from thread to thread, because in this design a socket has one
owner. In the second, the *direct* one, the sender's thread writes to the watcher's socket, so
that no thread is woken for it; what two threads that write to one socket must see to, it leaves
undone.
"""

import socket
import sys
import threading
from contextlib import nullcontext, suppress
from queue import SimpleQueue
from typing import Final

from twinline.cli.server.affinity import on_one

REPLY: Final = (
    b'{"id":1,"ok":true,"message_id":"0123456789abcdef01234567","sent_at":1700000000000}\n'
)
"""As long as the reply to a send."""
HELLO_BYTES: Final = 8
"""What a connection begins with has this length, and is answered with as much."""
_STACK_BYTES: Final = 256 * 1024
_RECEIVE_BYTES: Final = 16 * 1024


class Floor:
    """Echoes and relays until the process ends."""

    def __init__(self) -> None:
        self._queues: dict[bytes, SimpleQueue[bytes]] = {}
        self._direct: dict[bytes, socket.socket] = {}  # watchers, by number

    def serve_forever(self, listening: socket.socket) -> None:
        """Give each connection a thread."""
        threading.stack_size(_STACK_BYTES)
        while True:
            peer, _ = listening.accept()
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer, suppress(ConnectionError):  # an interrupted load reads no further
            hello = peer.recv(HELLO_BYTES)
            kind, number = hello[:1], hello[1:]
            if kind == b"R":
                self._direct[number] = peer  # before it is answered: a sender may come then
            peer.sendall(hello)
            if kind == b"E":
                _echo(peer)
            elif kind == b"S":
                _send(peer, self._queue(number))
            elif kind == b"W":
                _watch(peer, self._queue(number))
            elif kind == b"D":
                _send_directly(peer, self._direct[number])
            elif kind == b"R":
                _read(peer)

    def _queue(self, number: bytes) -> SimpleQueue[bytes]:
        return self._queues.setdefault(number, SimpleQueue())


def _echo(peer: socket.socket) -> None:
    while data := peer.recv(_RECEIVE_BYTES):
        peer.sendall(data)


def _send(peer: socket.socket, queue: SimpleQueue[bytes]) -> None:
    while data := peer.recv(_RECEIVE_BYTES):
        queue.put(data)
        peer.sendall(REPLY)


def _watch(peer: socket.socket, queue: SimpleQueue[bytes]) -> None:
    while peer.recv(_RECEIVE_BYTES):
        peer.sendall(queue.get())


def _send_directly(peer: socket.socket, watcher: socket.socket) -> None:
    while data := peer.recv(_RECEIVE_BYTES):
        watcher.sendall(data)
        peer.sendall(REPLY)


def _read(peer: socket.socket) -> None:
    while peer.recv(_RECEIVE_BYTES):
        pass


def main() -> None:
    """Listen, say where, and serve."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    one = on_one() if "--one-processor" in sys.argv else nullcontext()
    with one:
        print(listening.getsockname()[1], flush=True)
        Floor().serve_forever(listening)


if __name__ == "__main__":
    main()
