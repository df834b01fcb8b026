"""What the tests of the client engine share: quick settings, clients, and states to wait for."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from fault_proxy import FaultProxy
from looped_client import LoopedClient, LoopThread, watcher_tasks
from servers import Site
from services import PASSWORD
from waiting import Call, wait_until

from twinline.core.deadline import Deadline
from twinline.core.protocol import Message, Send
from twinline.transports.client import (
    Client,
    ClientClosed,
    ClientSettings,
    State,
    StateKind,
    WatchMode,
)
from twinline.transports.client.backends.threads import SocketConnection
from twinline.transports.client.engine import paging, stream
from twinline.transports.client.engine.connection import ReplyTimedOut
from twinline.transports.client.engine.inbox import Inbox
from twinline.transports.client.engine.watcher import THREAD_NAME, Watcher
from twinline.transports.endpoints import Endpoint


class Kind:
    """Which client the present test is about.

    Attributes:
        made: `Client`, or what drives an `AsyncClient` in its place.
        watch: how it watches, unless the test says so.
    """

    made: type = Client
    watch = WatchMode.STREAMING


def make_client(*arguments: object, **options: object) -> Client:
    """Return a client of the present kind."""
    options.setdefault("watch", Kind.watch)
    return Kind.made(*arguments, **options)


@pytest.fixture(params=["threads", "asyncio"])
def both_clients(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test over both clients; it makes them with `make_client`, `user` and `again`."""
    if request.param == "threads":
        yield
        return
    LoopedClient.thread = LoopThread()
    Kind.made = LoopedClient
    try:
        yield
    finally:
        Kind.made = Client
        LoopedClient.thread.close()
        del LoopedClient.thread


@pytest.fixture(params=["streaming", "blocking"])
def both_modes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test with clients that stream, and with clients that fetch a page at a time."""
    Kind.watch = WatchMode(request.param)
    yield
    Kind.watch = WatchMode.STREAMING


streaming_only = pytest.mark.parametrize("both_modes", ["streaming"], indirect=True)
blocking_only = pytest.mark.parametrize("both_modes", ["blocking"], indirect=True)
threads_only = pytest.mark.parametrize("both_clients", ["threads"], indirect=True)
"""For a test that reaches into what only threads have."""

FAST = ClientSettings(
    connect_seconds=5,
    reply_seconds=5,
    command_seconds=10,
    wait_seconds=5,
    poll_seconds=0.01,
    backoff_first=0.02,
    backoff_max=0.08,
    backoff_jitter=0,
)


def fast(**changes: object) -> ClientSettings:
    """Return quick settings, with changes."""
    return FAST.model_validate({**FAST.model_dump(), **changes})


MODES = pytest.mark.parametrize(
    "watch",
    [WatchMode.STREAMING, WatchMode.BLOCKING, WatchMode.POLLING],
    ids=lambda mode: mode.value,
)
"""For a test of how a client watches."""


def acking_after(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have what is dealt with be acked after so long, where the inbox is not empty before."""
    monkeypatch.setattr(paging, "ACK_SECONDS", seconds)
    monkeypatch.setattr(stream, "ACK_SECONDS", seconds)


class States:
    """Every state that a client has reported."""

    def __init__(self) -> None:
        self.seen: list[State] = []

    def __call__(self, state: State) -> None:
        self.seen.append(state)

    @property
    def kinds(self) -> list[StateKind]:
        return [state.kind for state in self.seen]

    def wait(self, kind: StateKind, count: int = 1) -> State:
        """Wait until a kind of state has been reported so often, and return the last one."""
        wait_until(lambda: self.kinds.count(kind) >= count, f"{kind} in {self.seen}")
        return [state for state in self.seen if state.kind is kind][-1]


def refused(endpoint: Endpoint | str, why: str, **options: object) -> States:
    """Have a client connect until an attempt has failed for a reason, and return its states."""
    seen = States()
    with make_client(endpoint, on_state=seen, settings=fast(connect_seconds=10), **options) as it:
        connecting = Call(it.connect)
        wait_until(lambda: any(why in (each.reason or "") for each in seen.seen), f"{why}")
        it.close()
        with suppress(ClientClosed):
            connecting.outcome()
    return seen


def send_half(connection: SocketConnection) -> None:
    """Have a connection send half of a request when its time is over."""
    send = connection._send

    def half(data: bytes, deadline: Deadline) -> None:
        connection._send = send  # type: ignore[method-assign]
        send(data[: len(data) // 2], deadline)
        raise TimeoutError

    connection._send = half  # type: ignore[method-assign]
    with pytest.raises(ReplyTimedOut):
        connection.send(Send(to="bob", body="x" * 1_000), Deadline.after(10))


class Received:
    """An ``on_message`` that collects."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def __call__(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def bodies(self) -> list[str]:
        return [message.body for message in list(self.messages)]

    def wait(self, count: int) -> list[str]:
        """Wait until so many have come, and return their bodies."""
        wait_until(lambda: len(self.messages) >= count, f"{count} messages, not {self.bodies}")
        return self.bodies


# The three places where a test sees how far a client is that has nothing to show for it yet.


def inbox_of(client: Client) -> Inbox:
    """Return what was fetched of a client's mailbox."""
    return client._engine.link.snapshot.require_session().inbox


def watcher_of(client: Client) -> Watcher:
    """Return a client's watcher, the last one that it has made."""
    watcher = client._engine._watcher
    assert watcher is not None
    return watcher


def watches(client: Client) -> bool:
    """Return whether a client's watcher waits for mail."""
    watcher = watcher_of(client)
    connection = watcher._connection
    if connection is None or not connection.proved:
        return False
    return bool(connection.under_way or watcher._stop._wakes)


def queued(client: Client) -> int:
    """Return how many commands wait for the one that is being carried out."""
    return max(0, len(client._engine._commands._fifo._turns) - 1)


def receive(client: Client, count: int, *, ack: bool = True) -> list[str]:
    """Return the bodies of so many messages, dealt with, and of any that follow at once."""
    inbox = inbox_of(client)
    got: list[str] = []
    while len(got) < count:
        wait_until(lambda: inbox.head() is not None, f"{count} messages, not {got}")
        got += [message.body for message in client.messages(0, ack=ack)]
    return got + [message.body for message in client.messages(0.02, ack=ack)]


def failures(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list to which every exception out of a watcher is added, instead of being shown."""
    caught: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: caught.append(args.exc_value))
    if Kind.made is LoopedClient:
        loop = LoopedClient.thread.loop
        loop.set_exception_handler(lambda _, context: caught.append(context["exception"]))
    return caught


def watchers() -> list[object]:
    """Return the watcher threads and tasks that there are."""
    threads = [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]
    return [*threads, *watcher_tasks()]


@contextmanager
def user(endpoint: Endpoint | str, name: str, **options: object) -> Iterator[Client]:
    """Return a client that has created an account; it is closed at the end."""
    options.setdefault("settings", FAST)
    with make_client(endpoint, **options) as client:
        client.create_account(name, PASSWORD)
        yield client


@contextmanager
def again(endpoint: Endpoint | str, name: str, **options: object) -> Iterator[Client]:
    """Return a client that has logged in to an account; it is closed at the end."""
    options.setdefault("settings", FAST)
    with make_client(endpoint, **options) as client:
        client.login(name, PASSWORD)
        yield client


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as running:
        yield running


@pytest.fixture
def proxy(site: Site) -> Iterator[FaultProxy]:
    with FaultProxy(site.endpoint) as running:
        yield running
