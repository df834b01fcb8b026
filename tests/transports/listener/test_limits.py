"""How many connections there may be, and what happens when the system has no more to give."""

import errno
import resource
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from listening import TCP, Peer, serving, socket_path
from waiting import wait_until

from twinline.transports.listener import Listener
from twinline.transports.registry import transport


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
    with serving(connections_per_address=1, limit_local_connections=True) as server:
        refusing.set()
        with server.peer() as peer:
            assert peer.rest() == b""
        wait_until(lambda: paused, "the listener pauses")
        assert "cannot start a thread" in caplog.text
        refusing.clear()
        with server.peer() as peer:
            assert peer.ask("ping")["ok"]  # the one that was cut counts no more


def test_an_accept_that_fails_for_that_peer_alone() -> None:
    class Flaky:
        """Fails once as if the peer had gone again, and then has none."""

        failed = False

        def accept(self) -> tuple[socket.socket, object]:
            if not self.failed:
                self.failed = True
                raise OSError(errno.ECONNABORTED, "aborted")
            raise BlockingIOError

    flaky = Flaky()
    with serving() as server:
        assert server.listener._accept(flaky, transport("auto"))  # type: ignore[arg-type]
    assert flaky.failed
