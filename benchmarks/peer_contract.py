"""What every peer of `benchmarks/peers.py` is: a server of its own process, and its connections.

The connections are those of `twinline.cli.bench.load`: raw sockets with frames that were encoded
once, so that the load costs less than the server.
"""

# A script's part: it starts what it measures.

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from twinline.cli.bench.load import Caller, LoadError, Pair
from twinline.cli.bench.sockets import PATIENCE_SECONDS
from twinline.cli.bench.target import ServerProcess, running
from twinline.cli.bench.watchers import Watcher
from twinline.cli.bench.wire import BODY
from twinline.core.deadline import Deadline
from twinline.transports.connecting import connect
from twinline.transports.endpoints import Endpoint

_Socket = TypeVar("_Socket", bound=socket.socket)


class TranslatingSocket(socket.socket):
    """A connection whose ``recv`` returns what its bytes mean to the load, not the bytes.

    It waits for the rest of what has begun to come, and so it keeps its timeout under load.
    """

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Receive into the beginning of a buffer, and return how many bytes that were."""
        data = self.recv(nbytes or len(buffer), flags)
        buffer[: len(data)] = data
        return len(data)

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 - as in the base
        """Stay as it is."""


class Server:
    """A peer's server that runs, and the connections that are made to it.

    Attributes:
        target: where it listens, and its process.
    """

    def __init__(self, target: ServerProcess) -> None:
        self.target = target
        self._sockets: list[socket.socket] = []

    def callers(self, count: int) -> list[Caller]:
        """Return connections that send to recipients of their own, which have no watcher."""
        return [self.sender(f"nobody-{number}") for number in range(count)]

    def pairs(self, count: int) -> list[Pair]:
        """Return senders, each with the waiting watcher of its recipient."""
        return [self.pair(f"watched-{number}") for number in range(count)]

    def pair(self, name: str) -> Pair:
        """Return a sender and the waiting watcher of its recipient."""
        return Pair(self.sender(name), Watcher(self.watcher(name)))

    def sender(self, name: str) -> Caller:
        """Return a connection that sends to a recipient; what `callers` and `pair` are made of."""
        raise NotImplementedError

    def watcher(self, name: str) -> socket.socket:
        """Return a connection that waits for what is sent to a recipient, for `pair`."""
        raise NotImplementedError

    def check(self, pair: Pair) -> None:
        """Check that a watcher received as many messages as it was counted to have.

        Raises:
            LoadError: it did not, so that what was measured is nothing.
        """
        watcher = pair.watcher
        found = b"".join(watcher.received).count(BODY.encode())
        if found != watcher.unchecked:
            raise LoadError(f"{found} messages came in {watcher.unchecked} deliveries")
        watcher.checked()

    def connect(self, kind: type[_Socket]) -> _Socket:
        """Return a new connection, which `disconnect` closes.

        Raises:
            OSError: nobody listens there.
        """
        plain = connect(self.target.endpoint, Deadline.after(PATIENCE_SECONDS)).socket
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected = kind(fileno=plain.detach())
        connected.settimeout(PATIENCE_SECONDS)
        self._sockets.append(connected)
        return connected

    def disconnect(self) -> None:
        """Close every connection."""
        for connected in self._sockets:
            connected.close()
        self._sockets.clear()


class RouterServer(Server):
    """A router of ours, which may keep a message until its watcher has acknowledged it."""

    def __init__(self, target: ServerProcess, acknowledge: Callable[[int], bytes] | None) -> None:
        """Take a server that runs.

        Args:
            target: where it listens, and its process.
            acknowledge: makes the frame that acknowledges so many messages; None where it
                keeps none.
        """
        super().__init__(target)
        self._acknowledge = acknowledge
        self._numbers = itertools.count()

    def pairs(self, count: int) -> list[Pair]:
        """Return senders, each with the waiting watcher of its recipient."""
        # New names each time: what an earlier watcher did not acknowledge would come again.
        names = [f"watched-{next(self._numbers)}" for _ in range(count)]
        return [
            Pair(self.sender(name), Watcher(self.watcher(name), self._acknowledge))
            for name in names
        ]


def forget(unacked: dict[int, str], up_to: int) -> None:
    """Drop what a watcher has acknowledged: all up to a number. The numbers rise in their order.

    Others may add to it meanwhile.
    """
    for number in list(unacked):
        if number > up_to:
            break
        del unacked[number]


@dataclass(frozen=True, slots=True)
class Peer:
    """One row of the table.

    Attributes:
        name: what `--only` takes.
        acknowledged: what the reply to a send says.
        serve: runs its server for the length of a block.
        python: it is what twinline's targets are about, a server written in Python.
        missing: says what has to be installed, or returns None.
    """

    name: str
    acknowledged: str
    serve: Callable[[], AbstractContextManager[Server]]
    python: bool = False
    missing: Callable[[], str | None] = lambda: None


def ask(connected: socket.socket, frame: bytes, ending: bytes) -> bytes:
    """Send a frame, and return what came up to and with such an ending.

    Raises:
        LoadError: the server ended the connection.
        TimeoutError: it did not answer in time.
    """
    connected.sendall(frame)
    reply = b""
    while not reply.endswith(ending):
        received = connected.recv(1 << 16)
        if not received:
            raise LoadError(f"the server ended a connection after {reply!r}")
        reply += received
    return reply


# --- processes


@contextmanager
def python_server(script: str, *flags: str) -> Iterator[ServerProcess]:
    """Run a script of this folder as a server; it prints its port, and ends with its input.

    Raises:
        LoadError: it did not start; it has said why.
    """
    command = [sys.executable, str(Path(script).resolve()), *flags]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        line = process.stdout.readline().decode() if process.stdout is not None else ""
        if not line.strip().isdigit():
            raise LoadError(f"{Path(script).name} could not be started")
        yield ServerProcess(_listening(int(line), process, Path(script).name), process.pid)


def end_with_parent() -> None:
    """End this process when its standard input does; for the scripts of `python_server`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this one

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def broker(command: Sequence[str], port: int) -> Iterator[ServerProcess]:
    """Run a server that listens on a port of this machine when it is ready.

    Raises:
        LoadError: it ended, or does not listen.
    """
    quiet = subprocess.DEVNULL
    # In a session of its own, so that Ctrl-C reaches this process alone, which ends it.
    with running(command, stdin=quiet, stdout=quiet, start_new_session=True) as process:
        yield ServerProcess(_listening(port, process, command[0]), process.pid)


def _listening(port: int, process: subprocess.Popen[bytes], name: str) -> Endpoint:
    """Wait until a process listens on a port."""
    endpoint = Endpoint.parse(f"tcp://127.0.0.1:{port}")
    deadline = Deadline.after(PATIENCE_SECONDS)
    pause = threading.Event()
    while True:
        try:
            connect(endpoint, deadline).socket.close()
        except OSError as error:
            if process.poll() is not None or deadline.passed:
                raise LoadError(f"{name} could not be started") from error
            pause.wait(0.02)
        else:
            return endpoint


def free_port() -> int:
    """Return a port that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
