"""The threaded listener over real sockets: endpoints, limits, deadlines, hang-ups, draining."""

import errno
import json
import os
import resource
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from listening import TCP, Peer, Server, serving, socket_path
from services import PASSWORD, make_service
from waiting import join, wait_event, wait_until

from twinline.core.deadline import Deadline
from twinline.core.errors import LockRuleError
from twinline.core.protocol import Ping, Reply, Request
from twinline.core.session import Session
from twinline.transports import poller as poller_module
from twinline.transports.connection import Connection
from twinline.transports.endpoints import BoundEndpoint, Endpoint, EndpointError
from twinline.transports.listener import STACK_BYTES, Listener
from twinline.transports.poller import Poller
from twinline.transports.registry import transport
from twinline.transports.settings import ListenerSettings


def test_a_request_goes_from_a_socket_to_the_store_and_back() -> None:
    with serving() as server, server.peer() as ann, server.peer() as bob:
        ann.enter("ann")
        bob.enter("bob")
        bob.send_line(op="watch", id=7, after=0, wait=30)
        assert ann.ask("send", to="bob", body="hello")["ok"]
        reply = bob.read_line()
        assert (reply["id"], reply["messages"][0]["body"]) == (7, "hello")


def test_several_endpoints_and_transports_over_one_service() -> None:
    with (
        socket_path() as path,
        serving([(TCP, "jsonl"), (f"unix:{path}", "jsonl"), (TCP, "binary")]) as server,
        server.peer(0) as ann,
        server.peer(1) as bob,
        server.peer(2) as binary,
    ):
        ann.enter("ann")
        bob.enter("bob")
        assert ann.ask("send", to="bob", body="over another wire")["ok"]
        assert bob.ask("watch", after=0)["messages"][0]["body"] == "over another wire"
        binary.send(bytes.fromhex("b7010f000000000105"))  # ping, id 5
        assert binary.read_exactly(9)[8] == 5
        assert binary.socket.getpeername()[1] == server.endpoints[2].port
    assert not Path(path).exists()


def test_pipelined_requests_are_answered_in_order() -> None:
    with serving() as server, server.peer() as peer:
        peer.enter("ann")
        count = 10_000
        requests = b"".join(b'{"op":"ping","id":%d}\n' % n for n in range(count))
        sender = threading.Thread(target=peer.send, args=(requests,))
        sender.start()
        assert [peer.read_line()["id"] for _ in range(count)] == list(range(count))
        join(sender)


def test_replies_before_a_wait_are_not_held_back_by_it() -> None:
    with serving() as server, server.peer() as peer:
        peer.enter("ann")
        peer.send(b'{"op":"ping","id":1}\n{"op":"watch","id":2,"after":0,"wait":60}\n')
        assert peer.read_line()["id"] == 1


def test_the_frame_limit_rises_with_login_within_one_read() -> None:
    with serving() as server, server.peer() as peer:
        long = b'{"op":"send","id":2,"to":"ann","body":"%b"}\n' % (b"x" * 10_000)
        login = json.dumps({"username": "ann", "password": PASSWORD})[1:].encode()
        peer.send(b'{"op":"create_account","id":1,' + login + b"\n" + long)
        assert peer.read_line()["ok"]
        assert peer.read_line()["ok"]
    with serving() as server, server.peer() as peer:
        peer.send(long)
        assert peer.read_line()["error"]["code"] == "frame_too_large"
        assert peer.rest() == b""


# -- deadlines --------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b'{"op":'], ids=["silence", "half a frame"])
def test_who_does_not_log_in_is_cut(sent: bytes) -> None:
    with serving(login_seconds=0.2) as server, server.peer() as peer:
        peer.send(sent)
        assert peer.rest(2) == b""
        server.wait_connections(0, 1)


def test_pings_do_not_extend_the_time_to_log_in() -> None:
    with serving(login_seconds=0.4) as server, server.peer() as peer:
        started = time.monotonic()
        ended = False
        while not ended and time.monotonic() < started + 5:
            try:
                peer.ask("ping")
            except (AssertionError, OSError):  # the end of the connection
                ended = True
        assert ended
        assert 0.3 < time.monotonic() - started < 3


def test_who_is_logged_in_may_be_silent() -> None:
    with serving(login_seconds=0.2, frame_seconds=0.1) as server, server.peer() as peer:
        peer.enter("ann")
        peer.socket.settimeout(0.6)
        with pytest.raises(TimeoutError):
            peer.socket.recv(1)
        assert peer.ask("ping")["ok"]


def test_the_deadline_is_the_whole_frames() -> None:
    """A byte now and then does not extend it."""
    with serving(frame_seconds=0.3) as server, server.peer() as peer:
        peer.enter("ann")
        peer.socket.settimeout(0.05)
        started = time.monotonic()
        ended = False
        while not ended and time.monotonic() < started + 5:
            try:
                peer.send(b" ")
                ended = peer.socket.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
        assert ended
        assert 0.2 < time.monotonic() - started < 3
        server.wait_connections(0, 1)


def test_a_new_frame_has_a_new_deadline() -> None:
    with serving(frame_seconds=0.4) as server, server.peer() as peer:
        peer.enter("ann")
        # Each read ends a frame and begins the next one: never is nothing pending.
        peer.send(b'{"op":"ping"')
        started = time.monotonic()
        while time.monotonic() < started + 0.8:
            peer.send(b',"id":1}\n{"op":"ping"')
            assert peer.read_line()["ok"]
            wait = threading.Event()
            wait.wait(0.05)  # the pace of the peer, not a wait for the server


def test_a_peer_that_stops_reading_is_cut_and_its_mail_stays() -> None:
    service = make_service(body_bytes=64 * 1024)
    with serving(service=service, write_seconds=0.3) as server, server.peer() as ann:
        ann.enter("ann")
        with server.peer() as bob:
            bob.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            bob.enter("bob")
            for _ in range(20):
                assert ann.ask("send", to="bob", body="x" * 30_000)["ok"]
            for _ in range(200):
                bob.send_line(op="watch", id=1, after=0)
            server.wait_connections(1)
        with server.peer() as again:
            again.login("bob")
            assert again.ask("status")["unread"] == 20


@contextmanager
def narrow(**settings: float) -> Iterator[tuple[Server, Peer]]:
    """Yield a peer whose socket holds little, and who has a message of 60,000 bytes."""
    service = make_service(body_bytes=64 * 1024)
    with (
        socket_path() as path,
        serving([(f"unix:{path}", "auto")], service, **settings) as server,
        server.peer() as ann,
    ):
        ann.enter("ann")
        assert ann.ask("send", to="ann", body="x" * 60_000)["ok"]
        yield server, ann


def test_the_deadline_for_writing_is_the_whole_write() -> None:
    """A peer that reads a little now and then does not extend it."""
    with narrow(write_seconds=0.3) as (server, ann):
        ann.send(b'{"op":"watch","id":1,"after":0}\n' * 100)
        started = time.monotonic()
        pace = threading.Event()
        while server.connections and time.monotonic() < started + 5:
            ann.socket.recv(1024)
            pace.wait(0.005)
        assert 0.2 < time.monotonic() - started < 4


def test_a_peer_that_reads_late_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = threading.Event()
    send_slowly = Connection._send_slowly

    def noted(connection: Connection, rest: memoryview) -> None:
        blocked.set()
        send_slowly(connection, rest)

    monkeypatch.setattr(Connection, "_send_slowly", noted)
    with narrow() as (_, ann):
        ann.send(b"".join(b'{"op":"watch","id":%d,"after":0}\n' % n for n in range(100)))
        wait_event(blocked, "the server cannot write for now")
        for number in range(100):
            reply = ann.read_line()
            assert reply["id"] == number
            assert len(reply["messages"][0]["body"]) == 60_000


# -- limits -----------------------------------------------------------------------------


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
def few_descriptors() -> Iterator[None]:
    """Leave this process no descriptor beyond those that are open now, and some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_accept_survives_running_out_of_descriptors(
    few_descriptors: None, caplog: pytest.LogCaptureFixture
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving() as server, server.peer() as bystander:
        bystander.enter("ann")
        waiting = socket.socket()
        resource.setrlimit(resource.RLIMIT_NOFILE, (waiting.fileno() + 1, hard))
        before = time.thread_time_ns(), time.process_time()
        waiting.connect(("127.0.0.1", server.endpoints[0].port))
        wait_until(lambda: "cannot accept" in caplog.text, "the listener ran out")
        assert bystander.ask("ping")["ok"]
        spent = threading.Event()
        spent.wait(0.5)  # long enough for a loop that spins to be seen
        assert time.process_time() - before[1] < 0.3
        assert len([r for r in caplog.records if "cannot accept" in r.message]) < 6
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        peer = Peer.__new__(Peer)
        peer.socket, peer.seconds, peer._buffer = waiting, 5.0, b""
        waiting.settimeout(5)
        assert peer.ask("ping")["ok"]
        peer.close()


def test_accept_survives_a_thread_that_cannot_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = threading.Thread.start
    refusing = threading.Event()

    def start_or_refuse(thread: threading.Thread) -> None:
        if refusing.is_set() and thread.name.startswith("connection"):
            raise RuntimeError("can't start new thread")
        start(thread)

    paused: list[bool] = []
    pause = Listener._pause

    def noted(listener: Listener) -> None:
        paused.append(True)
        pause(listener)

    monkeypatch.setattr(threading.Thread, "start", start_or_refuse)
    monkeypatch.setattr(Listener, "_pause", noted)
    with serving() as server:
        refusing.set()
        with server.peer() as peer:
            assert peer.rest() == b""
        wait_until(lambda: paused, "the listener pauses")
        assert "cannot start a thread" in caplog.text
        refusing.clear()
        with server.peer() as peer:
            assert peer.ask("ping")["ok"]
        server.wait_connections(0)
        assert not server.listener._by_address


def test_an_accept_that_fails_for_that_peer_alone() -> None:
    class Flaky:
        """Fails once as if the peer had gone again, and then has nobody."""

        failed = False

        def accept(self) -> tuple[socket.socket, object]:
            if not self.failed:
                self.failed = True
                raise OSError(errno.ECONNABORTED, "aborted")
            raise BlockingIOError

    flaky = Flaky()
    with serving() as server:
        (endpoint,) = server.endpoints
        bound = BoundEndpoint(endpoint, flaky)  # type: ignore[arg-type]
        assert server.listener._accept(bound, transport("auto"))
    assert flaky.failed


# -- hang-ups and sessions --------------------------------------------------------------


@pytest.mark.parametrize("leave", ["close", "reset", "half-close"])
def test_a_peer_that_leaves_while_it_waits_frees_its_thread_at_once(leave: str) -> None:
    with serving() as server, server.peer() as peer:
        peer.enter("ann")
        peer.send_line(op="watch", id=1, after=0, wait=60)
        wait_until(lambda: server.listener._waiting, "the wait is minded")
        if leave == "reset":
            linger = struct.pack("ii", 1, 0)
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if leave == "half-close":
            peer.socket.shutdown(socket.SHUT_WR)
            assert peer.read_line()["messages"] == []
        else:
            peer.close()
        server.wait_connections(0, 1)
        assert not server.listener._waiting


def test_hangups_are_reported_before_arrivals() -> None:
    """Else a descriptor that an arrival has reused could be taken for the one that hung up."""
    bound = Endpoint.parse(TCP).listen()
    poller = Poller()
    mine, theirs = socket.socketpair()
    with bound.socket, mine:
        poller.add(bound.socket)
        poller.mind(mine.fileno())
        with Peer(bound.endpoint):
            theirs.close()
            assert poller.wait(5) == [(mine.fileno(), True), (bound.socket.fileno(), False)]
    poller.close()


def test_the_end_overtakes_no_reply() -> None:
    """A connection that ends with unread bytes would be reset; the peer sees an orderly end."""
    with serving() as server, server.peer() as peer:
        peer.send(b"x" * 200_000)
        assert peer.read_line()["error"]["code"] == "frame_too_large"
        assert peer.socket.recv(1) == b""


def test_without_epoll_a_hangup_is_noticed_after_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller_module, "_HANGUP_SUPPORTED", False)
    with serving() as server:
        with server.peer() as peer:
            peer.enter("ann")
            assert peer.ask("watch", after=0, wait=1)["messages"] == []
        server.wait_connections(0)


def test_logout_ends_both_lines() -> None:
    with serving() as server, server.peer() as command, server.peer() as watch:
        reply = command.ask("create_account", username="ann", password=PASSWORD)
        assert watch.ask("resume", session=reply["session"])["ok"]
        watch.send_line(op="watch", id=9, after=0, wait=60)
        wait_until(lambda: server.listener._waiting, "it waits")
        command.send(b'{"op":"logout","id":1}\n{"op":"ping","id":2}\n')
        assert command.read_line() == {"id": 1, "ok": True}
        assert command.rest(1) == b""
        assert watch.read_line()["error"]["code"] == "session_expired"
        assert watch.rest(1) == b""
        server.wait_connections(0, 1)


def test_revoking_ends_an_idle_line_within_a_second() -> None:
    with serving() as server, server.peer() as first, server.peer() as idle:
        first.enter("ann")
        idle.login("ann")
        started = time.monotonic()
        reply = first.ask("change_password", password=PASSWORD, new_password="battery staple")
        assert reply["ok"]
        assert idle.rest(1) == b""
        assert time.monotonic() - started < 1
        assert first.ask("status")["ok"]


def test_deleting_the_account_ends_all_its_lines() -> None:
    with serving() as server, server.peer() as first, server.peer() as idle:
        first.enter("ann")
        idle.login("ann")
        assert first.ask("delete_account", password=PASSWORD)["ok"]
        assert first.rest(1) == b""
        assert idle.rest(1) == b""


# -- draining ---------------------------------------------------------------------------


def test_drain_with_a_thousand_watchers_and_a_request_in_flight() -> None:
    server = Server()
    in_flight, go_on = threading.Event(), threading.Event()
    handle = server.service.handle

    def slow_ping(session: Session, request: Request) -> Reply:
        if isinstance(request, Ping):
            in_flight.set()
            wait_event(go_on, "the test lets the ping finish")
        return handle(session, request)

    server.service.handle = slow_ping  # type: ignore[method-assign]
    first = server.peer().enter("ann")
    session = server.service.session()
    token = server.service.login(session, "ann", PASSWORD).session
    watchers = []
    for _ in range(1000):
        peer = server.peer()
        peer.send_line(op="resume", id=1, session=token)
        peer.send_line(op="watch", id=2, after=0, wait=60)
        watchers.append(peer)
    wait_until(lambda: len(server.listener._waiting) == 1000, "all of them wait", 20)
    first.send(b'{"op":"ping","id":5}\n{"op":"ping","id":6}\n')
    wait_event(in_flight, "the ping is under way")
    started = time.monotonic()
    server.listener.stop()
    wait_until(lambda: server.connections < 500, "most waits have ended")
    go_on.set()
    join(server.thread)
    assert time.monotonic() - started < 5
    assert first.read_line() == {"id": 5, "ok": True}
    assert first.read_line()["error"]["code"] == "shutting_down"
    assert first.rest() == b""
    for peer in watchers:
        assert peer.read_line()["ok"]
        assert peer.read_line()["messages"] == []
        assert peer.rest() == b""
        peer.close()
    first.close()
    with pytest.raises(ConnectionRefusedError):
        server.peer()


def test_drain_cuts_what_does_not_finish(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(settings=ListenerSettings(drain_seconds=0.1))
    in_flight, go_on = threading.Event(), threading.Event()
    handle = server.service.handle

    def stuck(session: Session, request: Request) -> Reply:
        in_flight.set()
        wait_event(go_on, "the test lets it finish")
        return handle(session, request)

    server.service.handle = stuck  # type: ignore[method-assign]
    with server.peer() as peer:
        peer.send_line(op="ping", id=1)
        wait_event(in_flight, "the ping is under way")
        server.listener.stop()
        join(server.thread)
        assert "cut" in caplog.text
        assert peer.rest() == b""
        go_on.set()
    wait_until(lambda: server.connections == 0, "its thread ends all the same")


def test_stop_from_a_signal_handler() -> None:
    with serving() as server:
        before = signal.signal(signal.SIGUSR1, lambda *_: server.listener.stop())
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            join(server.thread)
        finally:
            signal.signal(signal.SIGUSR1, before)


def test_stop_during_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Listener, "_accept", lambda *_: False)
    with serving() as server, server.peer():
        wait_until(server.thread.is_alive, "it runs")
        server.stop()


def test_a_hangup_during_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        leaving = server.peer().enter("ann")
        leaving.send_line(op="watch", id=1, after=0, wait=60)
        wait_until(lambda: server.listener._waiting, "it waits")
        paused = threading.Event()

        def exhausted(*_: object) -> bool:
            paused.set()
            return False

        monkeypatch.setattr(Listener, "_accept", exhausted)
        with server.peer():
            wait_event(paused, "the listener pauses")
            leaving.close()
            server.wait_connections(0, 1)


def test_close_without_serving_and_after() -> None:
    unused = Listener(make_service(), [(Endpoint.parse(TCP), transport("auto"))])
    (endpoint,) = unused.endpoints
    unused.close()
    with pytest.raises(ConnectionRefusedError):
        Peer(endpoint)
    with serving() as server, server.peer() as peer:
        assert peer.ask("ping")["ok"]
        server.listener.close()
        join(server.thread)


def test_connection_threads_have_small_stacks() -> None:
    sizes: list[int] = []
    with serving() as server:
        handle = server.service.handle

        def note(session: Session, request: Request) -> Reply:
            sizes.append(threading.stack_size())
            return handle(session, request)

        server.service.handle = note  # type: ignore[method-assign]
        with server.peer() as peer:
            peer.ask("ping")
    assert sizes == [STACK_BYTES]
    assert threading.stack_size() != STACK_BYTES


def test_a_fault_in_a_connection_ends_that_connection_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object) -> Reply:
        raise ZeroDivisionError

    with serving() as server, server.peer() as bystander, server.peer() as peer:
        assert bystander.ask("ping")["ok"]
        handle = server.service.handle
        server.service.handle = broken  # type: ignore[assignment]
        peer.send_line(op="ping", id=1)
        assert peer.rest() == b""
        server.service.handle = handle  # type: ignore[method-assign]
        assert bystander.ask("ping")["ok"]
    assert "ZeroDivisionError" in caplog.text


def test_a_broken_lock_rule_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: raised.append(args.exc_type))
    with serving() as server, server.peer() as peer:

        def unlawful(*_: object) -> Reply:
            raise LockRuleError("two locks")

        server.service.handle = unlawful  # type: ignore[assignment]
        peer.send_line(op="ping", id=1)
        assert peer.rest() == b""
    wait_until(lambda: raised == [LockRuleError], "the thread ended with the error")


# -- endpoints --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown", "local"),
    [
        ("tcp://127.0.0.1:80", "tcp://127.0.0.1:80", True),
        ("tcp://[::1]:80", "tcp://[::1]:80", True),
        ("tcp://localhost", "tcp://localhost:7767", True),
        ("tcp://0.0.0.0:0", "tcp://0.0.0.0:0", False),
        ("tcp://example.org:1?transport=binary", "tcp://example.org:1?transport=binary", False),
        ("unix:/run/x.sock", "unix:/run/x.sock", True),
        ("unix:x.sock?transport=jsonl", "unix:x.sock?transport=jsonl", True),
        ("tls://example.org", "tls://example.org:7767", False),
    ],
)
def test_endpoints_are_read_and_written(text: str, shown: str, local: bool) -> None:
    endpoint = Endpoint.parse(text)
    assert str(endpoint) == shown
    assert endpoint.is_local is local
    assert Endpoint.parse(shown) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:80",
        "http://x",
        "tcp://",
        "tcp://:80",
        "tcp://x:99999",
        "tcp://x:y",
        "tcp://x/path",
        "tcp://user@x",
        "unix:",
        "unix://host/x",
        "tcp://x?speed=fast",
    ],
)
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(EndpointError):
        Endpoint.parse(text)


def test_a_port_in_use_and_tls() -> None:
    with serving() as server:
        taken = server.endpoints[0]
        spare = Endpoint.parse(TCP)
        with pytest.raises(EndpointError, match=r"cannot listen on tcp://127\.0\.0\.1:\d+: Addr"):
            Listener(make_service(), [(spare, transport("auto")), (taken, transport("auto"))])
    with pytest.raises(EndpointError, match="not supported yet"):
        Endpoint.parse("tls://127.0.0.1:0").listen()


def test_a_left_over_socket_file_is_replaced_and_a_live_one_is_not() -> None:
    with socket_path() as path:
        with socket.socket(socket.AF_UNIX) as left_over:
            left_over.bind(path)
        with serving([(f"unix:{path}", "auto")]) as server, server.peer() as peer:
            assert peer.ask("ping")["ok"]
            with pytest.raises(EndpointError, match="in use"):
                Endpoint.parse(f"unix:{path}").listen()
        Path(path).write_text("an ordinary file")
        with pytest.raises(EndpointError, match="in use"):
            Endpoint.parse(f"unix:{path}").listen()
        assert Path(path).read_text() == "an ordinary file"


def test_connecting_has_a_deadline() -> None:
    endpoint = Endpoint.parse("tcp://127.0.0.1:9")
    with pytest.raises(TimeoutError):
        endpoint.connect(Deadline.after(0))
    with socket_path() as path, pytest.raises(FileNotFoundError):
        Endpoint.parse(f"unix:{path}").connect(Deadline.after(1))
