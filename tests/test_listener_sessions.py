"""Hang-ups free a waiting thread at once, and the end of a session ends its lines."""

import socket
import struct
import time

import pytest
from listening import TCP, Peer, serving
from services import PASSWORD
from waiting import wait_until

from twinline.transports import poller as poller_module
from twinline.transports.endpoints import Endpoint
from twinline.transports.poller import Poller


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
