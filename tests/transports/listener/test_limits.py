"""How many connections there may be, and what happens when the system has no more to give."""

import _thread
import errno
import json
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import pytest
from descriptors import nothing_left_open
from listening import (
    TCP,
    Arrivals,
    Kind,
    Peer,
    Server,
    mail,
    said,
    serving,
    socket_path,
    threads_only,
)
from services import enter, make_service
from waiting import wait_event, wait_until

from twinline.core.protocol import ErrorReply, Ping
from twinline.transports import wakeup
from twinline.transports.contract import ReplyReceived
from twinline.transports.listener import ThreadedListener, base, loop, threaded
from twinline.transports.listener.poller import Poller
from twinline.transports.registry import transport

pytestmark = pytest.mark.usefixtures("each_listener")


def test_connections_from_one_address() -> None:
    with serving(connections_per_address=2, limit_local_connections=True) as server:
        peers = [server.peer() for _ in range(2)]
        server.wait_connections(2)
        with server.peer() as third:
            assert third.rest() == b""
        peers.pop().close()
        server.wait_connections(1)
        with server.peer() as third:
            assert third.ask("ping")["ok"]
        peers.pop().close()


def test_local_addresses_are_exempt_from_the_limit_of_one_address() -> None:
    with (
        socket_path() as path,
        serving([(TCP, "auto"), (f"unix:{path}", "auto")], connections_per_address=1) as server,
    ):
        for index in (0, 0, 1, 1):
            with server.peer(index) as peer, server.peer(index) as other:
                assert peer.ask("ping")["ok"]
                assert other.ask("ping")["ok"]


def test_connections_in_all() -> None:
    with serving(connections=1) as server, server.peer() as first:
        assert first.ask("ping")["ok"]
        with server.peer() as second:
            assert second.rest() == b""
        assert first.ask("ping")["ok"]


@pytest.fixture
def descriptors_given_back() -> Iterator[None]:
    """Give back, after the test, the descriptors that it takes from this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_accept_survives_running_out_of_descriptors(
    descriptors_given_back: None, caplog: pytest.LogCaptureFixture
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving() as server, server.peer() as bystander:
        bystander.enter("ann")
        waiting = socket.socket()
        resource.setrlimit(resource.RLIMIT_NOFILE, (waiting.fileno() + 1, hard))
        before = time.process_time()
        waiting.connect(("127.0.0.1", server.endpoints[0].port))
        wait_until(lambda: "cannot accept" in caplog.text, "the listener ran out")
        assert bystander.ask("ping")["ok"]
        spent = threading.Event()
        spent.wait(0.5)  # long enough for a loop that spins to be seen
        assert time.process_time() - before < 0.3
        assert len([r for r in caplog.records if "cannot accept" in r.message]) < 6
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        peer = Peer.__new__(Peer)
        peer.socket, peer.seconds, peer._buffer = waiting, 5.0, b""
        waiting.settimeout(5)
        assert peer.ask("ping")["ok"]
        peer.close()


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Leave this process so many descriptors to open while the block runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as taken:
        for _ in range(count):
            last = taken.enter_context(socket.socket())
        # Each took the lowest number that was free, so there is none below the last of them.
        last = taken.enter_context(socket.socket())
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno(), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


forms = pytest.mark.parametrize("eventfd", [True, False], ids=["eventfd", "pipe"])


@threads_only
@forms
def test_a_watch_that_finds_no_descriptor_is_busy_and_its_connection_goes_on(
    monkeypatch: pytest.MonkeyPatch, eventfd: bool
) -> None:
    monkeypatch.setattr(wakeup, "_EVENTFD", eventfd and wakeup._EVENTFD)
    with (
        nothing_left_open(),
        serving(service=make_service(watches_per_account=2)) as server,
        server.peer() as bystander,
        server.peer() as bob,
        server.peer() as other,
    ):
        ann = enter(server.service, "ann")
        bystander.enter("bob").send_line(op="watch", id=5, after=0, wait=30, window=10)
        server.wait_watching()
        bob.login("bob")
        other.login("bob")
        with descriptors_left(0 if eventfd else 1):  # and a pipe needs two
            mail(server, ann, "a")
            assert said(bystander.read_line()) == (5, ["a"], True)
            for window in (0, 10):
                reply = bob.ask("watch", after=1, ack=1, wait=30, window=window)
                assert reply["error"]["code"] == "busy"
                assert reply["error"]["retry_after_ms"] > 0
            assert bob.ask("status")["position"] == 0  # it was not acknowledged
            assert said(bob.ask("watch", after=0)) == (1, ["a"], False)  # who polls needs none
        # Those that were refused do not count, and now there is one.
        bob.send_line(op="watch", id=6, after=1, wait=30, window=10)
        server.wait_watching(2)
        reply = other.ask("watch", after=1, wait=30)
        assert (reply["error"]["code"], "2 connections" in reply["error"]["message"]) == (
            "busy",
            True,
        )
        mail(server, ann, "b")
        assert said(bob.read_line()) == (6, ["b"], True)
        assert said(bystander.read_line()) == (5, ["b"], True)
        bob.close()
        server.wait_watching(1)
        assert said(other.ask("watch", after=0, wait=30)) == (1, ["a", "b"], False)


@threads_only
def test_watches_that_take_the_last_descriptors_leave_the_accept_loop_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving() as server, server.peer() as watcher, socket.socket() as late:
        ann = enter(server.service, "ann")
        watcher.enter("bob")
        with descriptors_left(1):
            watcher.send_line(op="watch", id=5, after=0, wait=30, window=10)
            server.wait_watching()
            late.connect(("127.0.0.1", server.endpoints[0].port))
            wait_until(lambda: "cannot accept" in caplog.text, "there is no descriptor left")
            mail(server, ann, "a")
            assert said(watcher.read_line()) == (5, ["a"], True)
            watcher.close()  # which gives back three: two of its connection's, and the waker's
            late.settimeout(10)
            late.sendall(PING)
            assert late.recv(100) == b'{"id":7,"ok":true}\n'


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let no connection's thread start while the event is set."""
    event = threading.Event()
    start = threaded.start_thread

    def start_or_refuse(*arguments: Any) -> Callable[[], object | None]:
        if event.is_set():
            raise RuntimeError("can't start new thread")
        return start(*arguments)

    monkeypatch.setattr(threaded, "start_thread", start_or_refuse)
    return event


PING = b'{"op":"ping","id":7}\n'
BINARY_PING = bytes.fromhex("b7010f000000000107")


@threads_only
@pytest.mark.parametrize(("said", "id"), [(b"", None), (PING[:5], None), (PING, 7)])
@pytest.mark.parametrize("name", ["auto", "jsonl"])
def test_who_finds_no_thread_is_told_that_the_server_is_busy(
    short: threading.Event, name: str, said: bytes, id: int | None
) -> None:
    with serving() as server, Arrivals(["192.0.2.1"], said) as listening:
        short.set()
        assert not server.accept(listening, name)
        (peer,) = listening.peers
        reply = json.loads(read_all(peer))
        assert (reply["id"], reply["error"]["code"]) == (id, "busy")
        assert reply["error"]["retryable"]
        assert not server.listener._by_address


@threads_only
def test_who_is_refused_is_answered_in_the_transport_it_speaks(short: threading.Event) -> None:
    with serving() as server, Arrivals(["192.0.2.1"], BINARY_PING) as listening:
        short.set()
        assert not server.accept(listening, "auto")
        codec = transport("binary").client_codec(1 << 20)
        codec.send(7, Ping())
        assert codec.data_to_send() == BINARY_PING
        codec.receive_data(read_all(listening.peers[0]))
        event = codec.next_event()
        assert isinstance(event, ReplyReceived)
        assert isinstance(event.reply, ErrorReply)
        assert (event.id, event.reply.code) == (7, "busy")


def read_all(peer: socket.socket) -> bytes:
    peer.settimeout(10)
    return b"".join(iter(lambda: peer.recv(4096), b""))


@threads_only
def test_accept_survives_a_thread_that_cannot_start(
    short: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(connections_per_address=1, limit_local_connections=True) as server:
        short.set()
        for _ in range(3):
            with server.peer() as peer:
                assert json.loads(peer.rest())["error"]["code"] == "busy"
        said = [r for r in caplog.records if "cannot start a thread" in r.message]
        assert len(said) == 1  # once, until it can again
        short.clear()
        wait_until(lambda: is_served(server), "those that were cut count no more")


def is_served(server: Server) -> bool:
    with server.peer() as peer:
        return peer.send(PING).read_line() == {"id": 7, "ok": True}


@threads_only
def test_accept_does_not_wait_for_a_thread_that_ended_before_it_ran(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one does whose first allocation fails; `Thread.start` waits for it for ever."""
    died: list[object] = []

    def let_die(module: Any, name: str) -> None:
        start = getattr(module, name, None)
        if start is None:
            return

        def stillborn(function: Any, *rest: Any, **options: Any) -> object:
            if died or threading.current_thread().name != "accepting":
                return start(function, *rest, **options)
            died.append(function)
            return start(lambda *_: None, *rest, **options)

        monkeypatch.setattr(module, name, stillborn)

    let_die(_thread, "start_new_thread")
    for name in ("_start_new_thread", "_start_joinable_thread"):  # those of `Thread.start`
        let_die(threading, name)
    with serving() as server:
        with server.peer() as first:
            assert json.loads(first.rest())["error"]["code"] == "busy"
        with server.peer() as second:
            assert second.ask("ping")["ok"]
        assert died
        server.wait_connections(0)


@threads_only
def test_a_thread_that_is_only_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As among thousands that start at once."""
    monkeypatch.setattr(threaded, "_START_SECONDS", 0.01)
    looked = threading.Semaphore(0)
    look = ThreadedListener._refuse_stillborn

    def noted(listener: ThreadedListener) -> None:
        look(listener)
        looked.release()

    def run_late(listener: ThreadedListener, connection: Any) -> None:
        for _ in range(5):
            assert looked.acquire(timeout=20)
        run(listener, connection)

    run = ThreadedListener._run
    monkeypatch.setattr(ThreadedListener, "_refuse_stillborn", noted)
    monkeypatch.setattr(ThreadedListener, "_run", run_late)
    with serving() as server, server.peer() as peer:
        assert peer.ask("ping")["ok"]


@threads_only
def test_a_connection_whose_thread_never_ran_is_closed_by_the_drain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = threading.Event()
    monkeypatch.setattr(threaded, "start_thread", lambda *_: tried.set() or object)
    with serving(drain_seconds=0.05) as server, server.peer() as peer:
        wait_event(tried, "it was accepted")
        server.stop()
        assert peer.rest() == b""


@pytest.mark.parametrize("where", ["tune", "Connection"])
@pytest.mark.parametrize("error", [ValueError, MemoryError])
def test_a_step_that_fails_between_accepting_and_owning_costs_that_peer_alone(
    monkeypatch: pytest.MonkeyPatch, where: str, error: type[Exception]
) -> None:
    """And leaves no socket open; a warning of one that is collected fails the test."""
    module: ModuleType = base
    if where == "Connection":
        module, where = (loop, "LoopConnection") if Kind.loop else (threaded, "Connection")
    step, failed = getattr(module, where), threading.Event()

    def fail_once(*arguments: Any, **options: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise error
        return step(*arguments, **options)

    monkeypatch.setattr(module, where, fail_once)
    with serving() as server:
        with server.peer() as peer:
            assert peer.rest() == b""
        with server.peer() as peer:
            assert peer.ask("ping")["ok"]


@threads_only
def test_memory_that_fails_the_accept_loop_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    wait, failing = Poller.wait, threading.Event()
    failures: list[bool] = []

    def fail(poller: Poller, seconds: float | None) -> list[tuple[int, bool]]:
        if failing.is_set():
            failures.append(True)
            raise MemoryError
        return wait(poller, seconds)

    monkeypatch.setattr(Poller, "wait", fail)
    with serving() as server, server.peer() as bystander:
        assert bystander.ask("ping")["ok"]
        failing.set()
        assert bystander.ask("ping")["ok"]
        with server.peer() as peer:
            peer.send(PING)
            wait_until(lambda: len(failures) > 1, "it fails, and does not spin")
            failing.clear()
            assert peer.read_line()["ok"]


def test_an_accept_that_fails_for_that_peer_alone() -> None:
    class Flaky(Arrivals):
        """Fails once as if the peer had gone again, and then has none."""

        failed = False

        def accept(self) -> tuple[socket.socket, object]:
            if not self.failed:
                self.failed = True
                raise OSError(errno.ECONNABORTED, "aborted")
            raise BlockingIOError

    with serving() as server, Flaky([]) as flaky:
        assert server.accept(flaky, "auto")
        assert flaky.failed
