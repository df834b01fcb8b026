"""Hostile and broken WebSockets against both listeners: each gets what is promised.

As over the other transports no traceback reaches the peer, at most one line a connection is
logged, memory grows by less than 1 MiB, the connection is gone after the close, and no other
client notices.
"""

import json
import socket
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import attacking
import pytest
from attacking import MIB
from listening import TCP, WS, Peer, Server
from opened import CLOSE, CONTINUATION, PING, PONG, TEXT, asking, frame, said
from services import PASSWORD
from waiting import wait_until

pytestmark = pytest.mark.usefixtures("each_listener")
CREATE = {"op": "create_account", "id": 1, "username": "mallory", "password": PASSWORD}


def message(**fields: object) -> bytes:
    return frame(TEXT, json.dumps(fields).encode())


def open_websocket(peer: Peer) -> None:
    peer.send(asking())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += peer.read_exactly(1)
    assert head.startswith(b"HTTP/1.1 101 ")


def read_frame(peer: Peer) -> tuple[int, bytes]:
    first, size = peer.read_exactly(2)
    if size >= 126:
        size = int.from_bytes(peer.read_exactly(2 if size == 126 else 8))
    return first & 0x0F, peer.read_exactly(size)


@contextmanager
def attack(
    caplog: pytest.LogCaptureFixture,
    url: str = WS,
    *,
    opens: bool = True,
    logs_in: bool = False,
    **settings: float,
) -> Iterator[tuple[Server, Peer]]:
    """As `attacking.attack`, of a peer that has opened a WebSocket, and has logged in."""
    with attacking.attack(caplog, url, **settings) as (server, peer):
        if opens:
            open_websocket(peer)
        if logs_in:
            peer.send(message(**CREATE))
            assert b'"ok":true' in read_frame(peer)[1]
        yield server, peer


@pytest.mark.parametrize("url", [WS, TCP])
@pytest.mark.parametrize("sent", [b"", b"GET / HT", asking()[:-2], asking(), asking() + b"\x81"])
def test_silence_before_login(url: str, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with attack(caplog, url, opens=False, login_seconds=0.5) as (_, peer):
        peer.send(sent)
        assert peer.rest()[:13] == (b"HTTP/1.1 101 " if asking() in sent else b"")


def test_a_browser_that_has_a_page_is_cut_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    with attack(caplog, opens=False, login_seconds=0.5) as (_, peer):
        peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert peer.rest().startswith(b"HTTP/1.1 200 ")
    assert "took too long" not in caplog.text


@pytest.mark.parametrize(
    "start",
    [
        b"\x81",
        frame(TEXT, b'{"op":"ping","id":1}')[:-1],
        frame(TEXT, b"{", fin=False),
        frame(TEXT, b"{", fin=False) + frame(PING) * 3,
        frame(PING, b"x" * 100)[:-1],
    ],
)
def test_a_message_that_does_not_end(start: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with attack(caplog, logs_in=True, frame_seconds=0.4) as (_, peer):
        peer.send(start)
        pongs = said(peer.rest())
        assert {opcode for opcode, _ in pongs} <= {PONG}


def test_pings_do_not_stop_the_time_to_log_in(caplog: pytest.LogCaptureFixture) -> None:
    with attack(caplog, login_seconds=0.5) as (_, peer):
        peer.socket.settimeout(0.05)
        with suppress(ConnectionError):
            while True:
                peer.send(frame(PING, b"x"))
                with suppress(TimeoutError):
                    if not peer.socket.recv(4096):
                        break


def test_a_peer_that_pings_and_does_not_read(caplog: pytest.LogCaptureFixture) -> None:
    with attack(caplog, logs_in=True, write_seconds=0.5) as (_, peer):
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        flood = frame(PING, b"x" * 125) * 500
        with suppress(OSError):
            while True:
                peer.send(flood)
        assert tracemalloc.get_traced_memory()[1] - before < MIB


def test_a_message_without_end_is_not_collected(caplog: pytest.LogCaptureFixture) -> None:
    with attack(caplog, logs_in=True) as (_, peer):
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        with suppress(OSError):
            peer.send(frame(TEXT, b"{", fin=False))
            for _ in range(1_024):
                peer.send(frame(CONTINUATION, b"x" * 16_384, fin=False))
        assert tracemalloc.get_traced_memory()[1] - before < MIB


@pytest.mark.parametrize("url", [WS, TCP])
@pytest.mark.parametrize(
    ("head", "status"),
    [
        (asking("Host: other.example"), 400),
        (asking("Transfer-Encoding: chunked", "Content-Length: 3"), 400),
        (asking("X: a\r\n b"), 400),
        (asking("Origin: https://evil.example"), 403),
        (asking("Sec-WebSocket-Version: 8", without="Sec-WebSocket-Version"), 426),
        (asking("X: " + "x" * 16_384), 431),
        (b"GET /" + b"x" * 16_384, 431),
    ],
)
def test_a_hostile_head(
    url: str, head: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with attack(caplog, url, opens=False) as (_, peer):
        peer.send(head)
        answer = peer.rest()
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert answer.count(b"\r\n\r\n") == 1


def test_bytes_of_another_protocol(caplog: pytest.LogCaptureFixture) -> None:
    for data in (b'{"op":"ping","id":1}\n', b"\xb7\x01", b"\x16\x03\x01\x00\xf8", b"\x00" * 99):
        with attack(caplog, opens=False) as (_, peer):
            peer.send(data)
            assert peer.rest().startswith(b"HTTP/1.1 400 ")


def test_a_page_is_served_and_a_flood_of_requests_gets_one_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with attack(caplog, opens=False) as (_, peer):
        for _ in range(3):
            peer.send(asked)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += peer.read_exactly(1)
            assert head.startswith(b"HTTP/1.1 200 ")
            size = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            assert peer.read_exactly(size).startswith(b"<!doctype html>")
        with suppress(OSError):
            peer.send(asked * 10_000)
        assert peer.rest().count(b"HTTP/1.1 200 ") <= 1
    with attack(caplog, opens=False) as (_, peer):
        peer.send(asked.replace(b"GET", b"DELETE"))
        assert peer.rest().startswith(b"HTTP/1.1 405 ")
    with attack(caplog, TCP, opens=False) as (_, peer):
        peer.send(asked)
        assert peer.rest().startswith(b"HTTP/1.1 426 ")


WRONG: list[tuple[bytes, int]] = [
    (frame(TEXT, b"{}", mask=None), 1002),
    (frame(TEXT, b"{}", reserved=4), 1002),
    (frame(CONTINUATION, b"{}"), 1002),
    (frame(2, b"{}"), 1003),
    (frame(TEXT, b"\xff"), 1007),
    (frame(TEXT, b"x" * 65_537), 1009),
    (b"\x81\xff" + (1 << 62).to_bytes(8), 1009),
]


@pytest.mark.parametrize(("data", "code"), WRONG)
@pytest.mark.parametrize("url", [WS, TCP])
def test_what_fails_a_connection_is_answered_and_closed(
    url: str, data: bytes, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    with attack(caplog, url, logs_in=True) as (_, peer):
        peer.send(data)
        (opcode, text), closed = said(peer.rest())
        assert opcode == TEXT
        wanted = "frame_too_large" if code == 1009 else "bad_request"
        assert json.loads(text)["error"]["code"] == wanted
        assert closed == (CLOSE, code.to_bytes(2))


def _reset(peer: Peer) -> None:
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def _end(peer: Peer) -> None:
    peer.socket.shutdown(socket.SHUT_WR)
    peer.rest()


def _say_close(peer: Peer) -> None:
    peer.send(frame(CLOSE, b"\x0f\xa0bye"))
    assert said(peer.rest())[-1] == (CLOSE, b"\x0f\xa0")


@pytest.mark.parametrize("leave", [_reset, _end, _say_close])
@pytest.mark.parametrize("watches", [True, False])
def test_a_peer_that_leaves(
    leave: Callable[[Peer], None], watches: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with attack(caplog, logs_in=True) as (server, peer):
        if watches:
            peer.send(message(op="watch", id=2, after=0, wait=25, window=9))
            wait_until(lambda: len(server.subscriptions) == 1, "the stream waits")
        leave(peer)
        wait_until(lambda: not server.subscriptions, "nobody waits for mail")


def test_a_stream_goes_on_between_pings(caplog: pytest.LogCaptureFixture) -> None:
    with attack(caplog, logs_in=True) as (server, peer):
        peer.send(message(op="watch", id=2, after=0, wait=25, window=9))
        wait_until(lambda: len(server.subscriptions) == 1, "the stream waits")
        for number in range(5):
            peer.send(frame(PING, b"%d" % number))
            assert read_frame(peer) == (PONG, b"%d" % number)
            with server.peer(1) as ann:
                ann.login("bystander")
                assert ann.ask("send", to="mallory", body=f"no. {number}")["ok"]
            opcode, text = read_frame(peer)
            brought = json.loads(text)
            assert (opcode, brought["id"], brought["more"]) == (TEXT, 2, True)
            assert [each["body"] for each in brought["messages"]] == [f"no. {number}"]
