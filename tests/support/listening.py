"""A real server for tests: a listener in a thread, and peers that speak to it byte by byte."""

import json
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from services import PASSWORD, make_service
from waiting import fail_with_stacks, join, wait_until

from twinline.core.service import ChatService
from twinline.core.store import Unsubscribe
from twinline.core.waiting import Wake
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener import Listener, ListenerSettings
from twinline.transports.registry import transport

TCP = "tcp://127.0.0.1:0"


class Peer:
    """A raw connection: sends any bytes and reads what comes, with a deadline for each wait."""

    def __init__(self, endpoint: Endpoint, seconds: float = 10.0) -> None:
        if endpoint.path:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(seconds)
            self.socket.connect(endpoint.path)
        else:
            self.socket = socket.create_connection((endpoint.host, endpoint.port), seconds)
        self.seconds = seconds
        self._buffer = b""

    def send(self, data: bytes) -> Self:
        """Send bytes."""
        self.socket.sendall(data)
        return self

    def send_line(self, **fields: object) -> Self:
        """Send a JSON line."""
        return self.send(json.dumps(fields).encode() + b"\n")

    def read_line(self) -> dict[str, Any]:
        """Return the next line as JSON."""
        while b"\n" not in self._buffer:
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                fail_with_stacks(f"a line; so far {self._buffer[:200]!r}", self.seconds)
            assert data, f"the connection ended; so far {self._buffer[:200]!r}"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        value: dict[str, Any] = json.loads(line)
        return value

    def read_exactly(self, count: int) -> bytes:
        """Return so many bytes."""
        while len(self._buffer) < count:
            data = self.socket.recv(65536)
            assert data, f"the connection ended; so far {self._buffer[:200]!r}"
            self._buffer += data
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def ask(self, op: str, **fields: object) -> dict[str, Any]:
        """Send a request as a JSON line and return its reply."""
        return self.send_line(op=op, id=1, **fields).read_line()

    def enter(self, username: str) -> Self:
        """Create an account on this connection."""
        reply = self.ask("create_account", username=username, password=PASSWORD)
        assert reply["ok"], reply
        return self

    def login(self, username: str) -> Self:
        """Log in on this connection."""
        reply = self.ask("login", username=username, password=PASSWORD)
        assert reply["ok"], reply
        return self

    def rest(self, seconds: float | None = None) -> bytes:
        """Return what comes until the server ends the connection, and fail if it does not."""
        deadline = time.monotonic() + (seconds or self.seconds)
        rest = self._buffer
        while True:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                fail_with_stacks(f"the end; so far {rest[:200]!r}", seconds or self.seconds)
            except ConnectionResetError:
                return rest
            if not data:
                return rest
            rest += data

    def close(self) -> None:
        """Leave."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Server:
    """A running listener.

    Attributes:
        service: what it serves.
        listener: the listener.
        endpoints: where, with real ports.
        subscriptions: one for each session that is subscribed to its mail at the moment.
        subscribed: how many subscriptions there have been.
    """

    def __init__(
        self,
        endpoints: Sequence[tuple[str, str]] = ((TCP, "auto"),),
        service: ChatService | None = None,
        settings: ListenerSettings | None = None,
    ) -> None:
        self.service = service or make_service()
        self.listener = Listener(
            self.service,
            [(Endpoint.parse(url), transport(name)) for url, name in endpoints],
            settings,
        )
        self.endpoints = self.listener.endpoints
        self.subscriptions: set[object] = set()
        self.subscribed = 0
        self._on_mail = self.service.store.mailboxes.on_mail
        self.service.store.mailboxes.on_mail = self._subscribe  # type: ignore[method-assign]
        self.thread = threading.Thread(target=self.listener.serve_forever, name="accepting")
        self.thread.start()

    def peer(self, index: int = 0) -> Peer:
        """Connect."""
        return Peer(self.endpoints[index])

    @property
    def connections(self) -> int:
        """How many connections have a thread."""
        return len(self.listener._connections)

    def _subscribe(self, account_id: str, wake: Wake) -> Unsubscribe:
        unsubscribe = self._on_mail(account_id, wake)
        key = object()
        self.subscriptions.add(key)
        self.subscribed += 1

        def ended() -> None:
            unsubscribe()
            self.subscriptions.discard(key)

        return ended

    def wait_watching(self, count: int = 1, seconds: float = 10.0) -> None:
        """Wait until so many connections wait for mail."""
        wait_until(lambda: len(self.subscriptions) == count, f"{count} wait for mail", seconds)

    def wait_connections(self, count: int, seconds: float = 10.0) -> None:
        """Wait until there are so many."""
        wait_until(lambda: self.connections == count, f"{count} connections", seconds)

    def stop(self) -> None:
        """Drain."""
        self.listener.stop()
        join(self.thread, 30)


class Arrivals(socket.socket):
    """A listening socket at which peers have arrived, from any addresses, with what they said.

    Attributes:
        peers: their ends.
    """

    def __init__(self, addresses: Sequence[str], said: bytes = b"") -> None:
        super().__init__()
        pairs = [socket.socketpair() for _ in addresses]
        self.peers = [peer for _, peer in pairs]
        for peer in self.peers:
            peer.sendall(said)
        self._arrived = [
            (here, (address, 1, 0, 0)) for (here, _), address in zip(pairs, addresses, strict=True)
        ]

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next one, or raise as a socket does that does not block."""
        if not self._arrived:
            raise BlockingIOError
        return self._arrived.pop(0)

    def close(self) -> None:
        """Close the peers' ends, and those that nobody has accepted."""
        for each in (*self.peers, *(here for here, _ in self._arrived)):
            each.close()
        super().close()


@contextmanager
def serving(
    endpoints: Sequence[tuple[str, str]] = ((TCP, "auto"),),
    service: ChatService | None = None,
    **settings: object,
) -> Iterator[Server]:
    """Run a listener; it is drained at the end, and no thread of it may be left."""
    server = Server(endpoints, service, ListenerSettings.model_validate(settings))
    try:
        yield server
    finally:
        server.stop()
        assert server.connections == 0


@contextmanager
def socket_path() -> Iterator[str]:
    """Return a path short enough for a Unix socket (108 bytes)."""
    with tempfile.TemporaryDirectory(prefix="tw-") as folder:
        yield str(Path(folder) / "s")
