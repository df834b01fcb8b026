"""Hang-ups end what waits at once, and the end of a session ends its connections."""

import socket
import struct
import threading
from typing import Literal

import pytest
from argon2 import PasswordHasher
from listening import TCP, serving
from services import PASSWORD, cheap_hasher
from waiting import wait_event

from twinline.core.service import ChatService
from twinline.stores.memory import MemoryStore

pytestmark = pytest.mark.usefixtures("each_listener")


@pytest.mark.parametrize("leave", ["close", "reset", "half-close"])
def test_a_peer_that_leaves_while_it_waits_frees_all_it_had_at_once(leave: str) -> None:
    with serving() as server, server.peer() as peer:
        peer.enter("ann")
        peer.send_line(op="watch", id=1, after=0, wait=60)
        server.wait_watching()
        if leave == "reset":
            linger = struct.pack("ii", 1, 0)
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if leave == "half-close":
            peer.socket.shutdown(socket.SHUT_WR)
            assert peer.read_line()["messages"] == []
        else:
            peer.close()
        server.wait_connections(0)
        assert not server.subscriptions


def test_the_end_overtakes_no_reply() -> None:
    """A connection that ends with unread bytes would be reset; the peer sees an orderly end."""
    with serving() as server, server.peer() as peer:
        peer.send(b"x" * 200_000)
        assert peer.read_line()["error"]["code"] == "frame_too_large"
        assert peer.socket.recv(1) == b""


def test_logout_ends_both_connections() -> None:
    with serving() as server, server.peer() as command, server.peer() as watch:
        reply = command.ask("create_account", username="ann", password=PASSWORD)
        assert watch.ask("resume", session=reply["session"])["ok"]
        watch.send_line(op="watch", id=9, after=0, wait=60)
        server.wait_watching()
        command.send(b'{"op":"logout","id":1}\n{"op":"ping","id":2}\n')
        assert command.read_line() == {"id": 1, "ok": True}
        assert command.rest() == b""
        assert watch.read_line()["error"]["code"] == "session_expired"
        assert watch.rest() == b""
        server.wait_connections(0)


def test_revoking_ends_an_idle_connection() -> None:
    with serving() as server, server.peer() as first, server.peer() as idle:
        first.enter("ann")
        idle.login("ann")
        reply = first.ask("change_password", password=PASSWORD, new_password="battery staple")
        assert reply["ok"]
        assert idle.rest() == b""
        assert first.ask("status")["ok"]


def test_deleting_the_account_ends_all_its_connections() -> None:
    with serving() as server, server.peer() as first, server.peer() as idle:
        first.enter("ann")
        idle.login("ann")
        assert first.ask("delete_account", password=PASSWORD)["ok"]
        assert first.rest() == b""
        assert idle.rest() == b""


class _HeldHasher(PasswordHasher):
    """Hashes cheaply, and verifies when it is let."""

    def __init__(self) -> None:
        cheap = cheap_hasher()
        super().__init__(cheap.time_cost, cheap.memory_cost, cheap.parallelism)
        self.asked = threading.Event()
        self.may_go_on = threading.Event()

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
        self.asked.set()
        wait_event(self.may_go_on, "the test lets it go on", 30)
        return super().verify(hash, password)


def test_mail_waits_for_nothing_that_its_sender_asked_for_behind_it() -> None:
    """Watchers are woken after the replies are written, and a password's hash comes before."""
    hasher = _HeldHasher()
    with (
        serving(service=ChatService(MemoryStore(), hasher=hasher)) as server,
        server.peer() as ann,
        server.peer() as bob,
    ):
        ann.enter("ann")
        bob.enter("bob").send_line(op="watch", id=2, after=0, wait=60)
        server.wait_watching()
        ann.send(
            b'{"op":"send","id":1,"to":"bob","body":"hello"}\n'
            b'{"op":"change_password","id":2,"password":"correct horse",'
            b'"new_password":"another horse"}\n'
        )
        wait_event(hasher.asked, "the password is verified")
        assert [message["body"] for message in bob.read_line()["messages"]] == ["hello"]
        assert ann.read_line()["id"] == 1
        hasher.may_go_on.set()
        assert ann.read_line() == {"id": 2, "ok": True}


@pytest.mark.parametrize("spoken", ["auto", "jsonl"])
def test_a_connection_keeps_its_subscription_and_ends_it(spoken: str) -> None:
    with serving([(TCP, spoken)]) as server, server.peer() as ann:
        ann.enter("ann")
        for after in range(3):
            ann.send_line(op="watch", id=1, after=after, wait=60)
            server.wait_watching()
            with server.peer() as again:
                again.login("ann").ask("send", to="ann", body="hello")
            assert len(ann.read_line()["messages"]) == 1
        assert server.subscribed == 1
        ann.close()
        server.wait_watching(0)


def test_more_than_fits_one_read_is_answered() -> None:
    """A connection that sends much is read in larger pieces, and then in small ones again."""
    with serving() as server, server.peer() as ann:
        ann.enter("ann")
        for count in (1_000, 1, 1_000):
            ann.send(b'{"op":"ping","id":5}\n' * count)
            assert [ann.read_line() for _ in range(count)] == [{"id": 5, "ok": True}] * count
