"""The listeners over real sockets: endpoints, transports, order, limits."""

import json
import threading
from pathlib import Path

import pytest
from listening import TCP, serving, socket_path
from services import PASSWORD
from waiting import join

pytestmark = pytest.mark.usefixtures("each_listener")


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
