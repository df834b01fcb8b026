"""What a peer can be slow at has a deadline: logging in, a frame, reading what is written."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from listening import Peer, Server, note_unsent, serving, socket_path
from services import make_service
from waiting import wait_event

pytestmark = pytest.mark.usefixtures("each_listener")


@pytest.mark.parametrize("sent", [b"", b'{"op":'], ids=["silence", "half a frame"])
def test_who_does_not_log_in_is_cut(sent: bytes) -> None:
    with serving(login_seconds=0.2) as server, server.peer() as peer:
        peer.send(sent)
        assert peer.rest() == b""
        server.wait_connections(0)


def test_pings_do_not_extend_the_time_to_log_in() -> None:
    started = time.monotonic()
    with serving(login_seconds=0.4) as server, server.peer() as peer:
        ended = False
        while not ended and time.monotonic() < started + 20:
            try:
                peer.ask("ping")
            except (AssertionError, OSError):  # the end of the connection
                ended = True
        assert ended
        assert time.monotonic() - started >= 0.4


def test_who_is_logged_in_may_be_silent() -> None:
    with serving(login_seconds=0.5, frame_seconds=0.1) as server, server.peer() as peer:
        peer.enter("ann")
        peer.socket.settimeout(0.6)
        with pytest.raises(TimeoutError):
            peer.socket.recv(1)
        peer.socket.settimeout(10)
        assert peer.ask("ping")["ok"]


def test_the_deadline_is_the_whole_frames() -> None:
    """A byte now and then does not extend it."""
    with serving(frame_seconds=0.3) as server, server.peer() as peer:
        peer.enter("ann")
        peer.socket.settimeout(0.05)
        started = time.monotonic()
        ended = False
        while not ended and time.monotonic() < started + 20:
            try:
                peer.send(b" ")
                ended = peer.socket.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
        assert ended
        assert time.monotonic() - started >= 0.3
        server.wait_connections(0)


def test_a_new_frame_has_a_new_deadline() -> None:
    with serving(frame_seconds=0.5) as server, server.peer() as peer:
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
            bob.send(b'{"op":"watch","id":1,"after":0}\n' * 200)
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
        started = time.monotonic()
        ann.send(b'{"op":"watch","id":1,"after":0}\n' * 100)
        pace = threading.Event()
        while server.connections and time.monotonic() < started + 20:
            with contextlib.suppress(ConnectionError):
                ann.socket.recv(1024)
            pace.wait(0.005)
        assert 0.3 <= time.monotonic() - started < 20


def test_a_peer_that_reads_late_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = threading.Event()
    note_unsent(monkeypatch, lambda _: blocked.set())
    with narrow() as (_, ann):
        ann.send(b"".join(b'{"op":"watch","id":%d,"after":0}\n' % n for n in range(100)))
        wait_event(blocked, "the server cannot write for now")
        for number in range(100):
            reply = ann.read_line()
            assert reply["id"] == number
            assert len(reply["messages"][0]["body"]) == 60_000
