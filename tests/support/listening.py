"""A real server for tests: a listener in a thread, and peers that speak to it byte by byte."""

import asyncio
import json
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest
from services import PASSWORD, make_service
from waiting import Call, fail_with_stacks, join, wait_event, wait_until

from twinline.core.looks import Look
from twinline.core.metrics import Metrics
from twinline.core.protocol import MAIL_ALONE, REQUESTS, Kinds, Reply, Request
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.core.store import MailPage, Unsubscribe
from twinline.core.waiting import Wake
from twinline.transports.contract import ReplyReceived
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener import (
    Listener,
    ListenerSettings,
    LoopListener,
    ThreadedListener,
    Waker,
)
from twinline.transports.listener.base import Served
from twinline.transports.listener.connection import Connection
from twinline.transports.listener.loop_connection import LoopConnection
from twinline.transports.registry import listening_transport, transport
from twinline.transports.web import ChatPage

TCP = "tcp://127.0.0.1:0"
WS = "ws://127.0.0.1:0"
PAGE = ChatPage()


class Kind:
    """Which listener the present test is about.

    Attributes:
        made: what makes one: given a service, pairs of an endpoint and a transport, settings, and a
            waker by its name.
        loop: whether it drives its connections by an event loop.
        uvloop: whether that is uvloop's.
    """

    made: Callable[..., Listener] = ThreadedListener
    loop = uvloop = False


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415 - only where a test is about it

    return uvloop.new_event_loop()


_KINDS: dict[str, Callable[..., Listener]] = {
    "threads": ThreadedListener,
    "loop": partial(LoopListener, loop_factory=asyncio.new_event_loop),
    "uvloop": partial(LoopListener, loop_factory=_uvloop),
}


@pytest.fixture(scope="session")
def signal_pipe_of_uvloop() -> None:
    """Have uvloop open the pipe that it keeps for the process, before a test counts descriptors."""
    with suppress(ImportError), closing(_uvloop()) as loop:
        loop.run_until_complete(asyncio.sleep(0))


@pytest.fixture(params=_KINDS)
def each_listener(request: pytest.FixtureRequest, signal_pipe_of_uvloop: None) -> Iterator[None]:
    """Run a test over each listener; it makes them with `Server`, `serving` or `make_listener`."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    Kind.made, Kind.loop = _KINDS[request.param], request.param != "threads"
    Kind.uvloop = request.param == "uvloop"
    try:
        yield
    finally:
        Kind.made, Kind.loop, Kind.uvloop = ThreadedListener, False, False


threads_only = pytest.mark.parametrize("each_listener", ["threads"], indirect=True)
"""For a test of what only a thread for each connection has."""
loops_only = pytest.mark.parametrize("each_listener", ["loop", "uvloop"], indirect=True)
"""For a test of what only an event loop has."""


def make_listener(
    service: ChatService | None = None,
    settings: ListenerSettings | None = None,
    endpoints: Sequence[tuple[str, str]] = ((TCP, "auto"),),
    waker: Waker | None = None,
    metrics: Metrics | None = None,
) -> Listener:
    """Return a listener of the present kind."""
    places = [
        (endpoint, listening_transport(endpoint, name, page=PAGE))
        for endpoint, name in ((Endpoint.parse(url), name) for url, name in endpoints)
    ]
    return Kind.made(service or make_service(), places, settings, waker=waker, metrics=metrics)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection; the second has a time for each wait."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname(), 10)
        theirs, _ = listening.accept()
    theirs.settimeout(10)
    return ours, theirs


class Peer:
    """A raw connection: sends any bytes and reads what comes, with a deadline for each wait.

    With ``receive_bytes`` that is about what its kernel takes in before it is read, over TCP.
    """

    def __init__(
        self, endpoint: Endpoint, seconds: float = 10.0, *, receive_bytes: int | None = None
    ) -> None:
        family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
        self.socket = socket.socket(socket.AF_UNIX if endpoint.path else family)
        self.socket.settimeout(seconds)
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            self.socket.connect(endpoint.path or (endpoint.host, endpoint.port))
        except OSError:
            self.socket.close()
            raise
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


class Speaker:
    """A connection that speaks a transport, by its codec; each wait has a deadline.

    Attributes:
        socket: the connection.
    """

    def __init__(self, endpoint: Endpoint, spoken: str, seconds: float = 10.0) -> None:
        self.socket = Peer(endpoint, seconds).socket
        self._codec = transport(spoken).client_codec(1 << 20)
        self._received: deque[ReplyReceived] = deque()
        self._seconds = seconds

    def send(self, id: int, request: Request) -> Self:
        """Send a request."""
        self._codec.send(id, request)
        self.socket.sendall(self._codec.data_to_send())
        return self

    def read(self) -> ReplyReceived | None:
        """Return the next reply, or None at the end of the connection; a reset is an error."""
        while not self._received:
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                fail_with_stacks("a reply, or the end", self._seconds)
            if not data:
                return None
            self._codec.receive_data(data)
            while (event := self._codec.next_event()) is not None:
                self._received.append(event)
        return self._received.popleft()

    def ask(self, request: Request) -> Reply:
        """Send a request and return its reply."""
        received = self.send(1, request).read()
        assert received is not None, "the connection ended"
        return received.reply

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


class Hold:
    """Holds up whoever passes, once, until it is released.

    Attributes:
        reached: set when somebody has come to it.
    """

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._go_on = threading.Event()
        self._once = threading.Lock()

    def __call__(self) -> None:
        """Pass: wait for the release, if this is the first to come."""
        if self._once.acquire(blocking=False):
            self.reached.set()
            wait_event(self._go_on, "the test lets it go on")

    def wait_reached(self) -> None:
        """Wait until somebody is held up."""
        wait_event(self.reached, "somebody comes here")

    def release(self) -> None:
        """Let them go on."""
        self._go_on.set()


class Server:
    """A running listener, of the present kind.

    Attributes:
        service: what it serves.
        listener: the listener.
        endpoints: where, with real ports.
        subscriptions: one for each session that is subscribed to its mail at the moment.
        subscribed: how many subscriptions there have been.
        before_wake: called before each wake for mail, in the thread of whoever sent it.
    """

    def __init__(
        self,
        endpoints: Sequence[tuple[str, str]] = ((TCP, "auto"),),
        service: ChatService | None = None,
        settings: ListenerSettings | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.service = service or make_service()
        self.listener: Any = make_listener(self.service, settings, endpoints, metrics=metrics)
        self.endpoints = self.listener.endpoints
        self.subscriptions: set[object] = set()
        self.subscribed = 0
        self.before_wake: Callable[[], object] = lambda: None
        self._on_mail = self.service.store.mailboxes.on_mail
        self.service.store.mailboxes.on_mail = self._subscribe  # type: ignore[method-assign]
        self.thread = threading.Thread(target=self.listener.serve_forever, name="accepting")
        self.thread.start()

    def peer(self, index: int = 0) -> Peer:
        """Connect."""
        return Peer(self.endpoints[index])

    @property
    def connections(self) -> int:
        """How many connections are served."""
        return len(self.listener._connections)

    def speaker(self, spoken: str, index: int = 0) -> Speaker:
        """Connect, and speak a transport."""
        return Speaker(self.endpoints[index], spoken)

    def let_requests_wait(self) -> None:
        """From now on, have each be carried out where it may wait for the test: in a thread."""
        if isinstance(self.listener, LoopListener):
            self.listener.elsewhere = frozenset((*REQUESTS, Look))

    def accept(self, listening: socket.socket, spoken: str) -> bool:
        """Have the listener accept what has arrived at a socket, as it does at its own."""
        served = Served(self.listener.endpoints[0], transport(spoken), None)
        accept = partial(self.listener._accept, listening, served)
        if not Kind.loop:
            return bool(accept())
        return bool(self.in_loop(accept))

    def in_loop(self, function: Callable[[], object]) -> object:
        """Return what a function returns, called in the thread of the listener's event loop."""
        wait_until(lambda: self.listener._loop is not None, "the loop runs")

        async def called() -> object:
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self.listener._loop).result(20)

    def around_looks(
        self,
        before: Callable[[Look], object] = lambda _: None,
        after: Callable[[Look, Reply | MailPage], object] = lambda *_: None,
    ) -> None:
        """Call functions before and after each look of a connection at its mailbox.

        Args:
            before: given the look.
            after: given the look and what came of it.
        """
        self.let_requests_wait()
        handle = self.service.handle

        def noted(session: Session, job: Any) -> Any:
            if not isinstance(job, Look):
                return handle(session, job)
            before(job)
            found = handle(session, job)
            after(job, found)
            return found

        self.service.handle = noted  # type: ignore[method-assign]

    def _subscribe(self, account_id: str, wake: Wake, kinds: Kinds = MAIL_ALONE) -> Unsubscribe:
        def wakes() -> None:
            self.before_wake()
            wake()

        unsubscribe = self._on_mail(account_id, wakes, kinds)
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


def note_unsent(monkeypatch: pytest.MonkeyPatch, note: Callable[[int], object]) -> None:
    """Have noted how many bytes a connection holds whenever its socket takes no more of them."""
    send_slowly, turn = Connection._send_slowly, LoopConnection.take_turn

    def sends_slowly(connection: Connection, rest: memoryview) -> None:
        note(len(rest) + connection._talk._out_bytes)
        send_slowly(connection, rest)

    def takes_turn(connection: LoopConnection) -> None:
        turn(connection)
        transport = connection._transport
        if transport is not None and connection._held:
            note(transport.get_write_buffer_size() + connection._talk._out_bytes)

    monkeypatch.setattr(Connection, "_send_slowly", sends_slowly)
    monkeypatch.setattr(LoopConnection, "take_turn", takes_turn)


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
    metrics: Metrics | None = None,
    **settings: object,
) -> Iterator[Server]:
    """Run a listener; it is drained at the end, and no thread of it may be left."""
    server = Server(endpoints, service, ListenerSettings.model_validate(settings), metrics)
    try:
        yield server
    finally:
        server.stop()
        # The thread of a connection that was cut may have been waiting for a processor until now.
        wait_until(lambda: server.connections == 0, "every connection to be gone")


@contextmanager
def socket_path() -> Iterator[str]:
    """Return a path short enough for a Unix socket (108 bytes)."""
    with tempfile.TemporaryDirectory(prefix="tw-") as folder:
        yield str(Path(folder) / "s")


def mail(server: Server, sender: Session, *bodies: str) -> None:
    """Send messages to bob, whose connection a test watches."""
    for body in bodies:
        server.service.send(sender, "bob", body)


@contextmanager
def mail_without_end(server: Server, sender: Session) -> Iterator[None]:
    """Send one message after the other to bob, in a thread, while the block runs."""
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            mail(server, sender, "x")

    writing = Call(write)
    try:
        yield
    finally:
        ended.set()
        writing.outcome()  # whose error is the reason where there is no mail


def said(reply: dict[str, Any]) -> tuple[int, list[str], bool]:
    """Return what a reply to a watch says: its id, the bodies, and whether another follows."""
    assert reply["ok"], reply
    return reply["id"], [each["body"] for each in reply["messages"]], reply.get("more", False)
