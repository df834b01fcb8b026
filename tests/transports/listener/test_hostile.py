"""Hostile input against a real server: each gets what is promised, and no other client notices.

E is a typed error after which the connection stays; X is an error after which it is closed; D is
closing. In every case no traceback reaches the peer, at most one line a connection is logged,
memory grows by less than 1 MiB, and the thread is gone after the close.
"""

import json
import socket
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import argon2
import pytest
from attacking import MIB, attack
from listening import TCP, Peer, serving
from malformed_samples import MALFORMED_BINARY, MALFORMED_JSONL, Malformed, line
from services import PASSWORD, make_service
from waiting import wait_until

pytestmark = pytest.mark.usefixtures("each_listener")
LIMIT = 64 * 1024


def expect_error(peer: Peer, code: str = "bad_request") -> dict[str, Any]:
    """Read an error, and check that it shows nothing of the server's inside."""
    reply = peer.read_line()
    assert reply["ok"] is False
    error = reply["error"]
    assert error["code"] == code, reply
    assert len(error["message"]) < 300
    for telltale in ("Traceback", "File ", "/", "pydantic", "Error"):
        assert telltale not in error["message"], error
    return reply


def expect_alive(peer: Peer) -> None:
    """The connection stays."""
    assert peer.send(b'{"op":"ping","id":99}\n').read_line() == {"id": 99, "ok": True}


def expect_end(peer: Peer) -> None:
    """The connection is closed."""
    assert peer.rest() == b""


# -- any stream -------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["jsonl", "binary", "auto"])
def test_silence_before_login(transport: str, caplog: pytest.LogCaptureFixture) -> None:
    with attack(caplog, TCP, transport, login_seconds=0.7) as (_, peer):
        expect_end(peer)


@pytest.mark.parametrize("transport", ["jsonl", "binary", "auto"])
@pytest.mark.parametrize("how", ["eof", "reset"])
@pytest.mark.parametrize("sent", [b'{"op":"pi', b"\xb7\x01\x0f\x00\x00\x00\x00\x09\x01"])
def test_the_end_in_mid_frame(
    transport: str, how: str, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    if (transport == "binary") != (sent[0] == 0xB7) and transport != "auto":
        sent = sent[:0] + (b"\xb7\x01\x0f" if transport == "binary" else b"{")
    with attack(caplog, TCP, transport) as (server, peer):
        peer.send(sent)
        server.wait_connections(2)
        if how == "eof":
            peer.socket.shutdown(socket.SHUT_WR)
            expect_end(peer)
        else:
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()


@pytest.mark.parametrize("transport", ["jsonl", "auto"])
@pytest.mark.parametrize("pieces", ["whole", "bytes"])
def test_http(transport: str, pieces: str, caplog: pytest.LogCaptureFixture) -> None:
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with attack(caplog, TCP, transport) as (_, peer):
        if pieces == "whole":
            peer.send(request)
        else:
            peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in request[: 4 if transport == "jsonl" else None]:
                peer.send(bytes([byte]))
        expect_http_refusal(peer, 426 if transport == "auto" else 400)


def expect_http_refusal(peer: Peer, status: int) -> None:
    """An answer of HTTP with one sentence, and the end."""
    head, _, body = peer.rest().decode().partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert "\r\nConnection: close" in head or "\r\nConnection: Upgrade, close" in head
    assert f"\r\nContent-Length: {len(body)}\r\n" in head
    assert body.count("\n") == 1
    assert "twinline" in body or "HTTP" in body


@pytest.mark.parametrize("transport", ["jsonl", "auto"])
def test_tls(transport: str, caplog: pytest.LogCaptureFixture) -> None:
    with attack(caplog, TCP, transport) as (_, peer):
        peer.send(bytes.fromhex("16030102000100 01fc0303".replace(" ", "")))
        expect_error_with_slash(peer, "TLS")
        expect_end(peer)


def expect_error_with_slash(peer: Peer, word: str) -> None:
    """An error that names what the peer seems to speak."""
    reply = peer.read_line()
    assert reply["id"] is None
    assert reply["error"]["code"] == "bad_request"
    assert word in reply["error"]["message"]


def test_http_to_the_binary_transport(caplog: pytest.LogCaptureFixture) -> None:
    with attack(caplog, TCP, "binary") as (_, peer):
        peer.send(b"GET / HTTP/1.1\r\n\r\n")
        expect_http_refusal(peer, 400)


# -- JSON-lines -------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", ["whole", "bytes"])
@pytest.mark.parametrize("transport", ["jsonl", "auto"])
def test_no_newline_within_the_limit(
    transport: str, pieces: str, caplog: pytest.LogCaptureFixture
) -> None:
    with attack(caplog, TCP, transport) as (_, peer):
        if pieces == "whole":
            peer.send(b"{" * 4097)
        else:
            peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(4097):
                peer.send(b"{")
        expect_error(peer, "frame_too_large")
        expect_end(peer)


def test_a_flood_without_a_newline_is_not_collected(caplog: pytest.LogCaptureFixture) -> None:
    with attack(caplog) as (_, peer):
        peer.login("bystander")
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        chunk = b"x" * 16384
        try:
            for _ in range(1024):
                peer.send(chunk)
        except OSError:
            pass  # cut, as it should be
        assert tracemalloc.get_traced_memory()[1] - before < MIB


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_line_of_exactly_the_limit_is_accepted(
    end: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with attack(caplog, TCP, "jsonl") as (_, peer):
        peer.login("bystander")
        start = b'{"op":"ping","id":1,"padding":"'
        line = start + b"x" * (LIMIT - len(start) - 2 - len(end) + 1) + b'"}' + end
        assert len(line) == LIMIT + 1  # the line feed does not count
        assert peer.send(line).read_line() == {"id": 1, "ok": True}
        peer.send(b" " + line)
        expect_error(peer, "frame_too_large")
        expect_end(peer)


MORE_LINES = (
    Malformed("UTF-16, with a mark", '{"op":"ping","id":1}'.encode("utf-16") + b"\n"),
    Malformed("an op that is a list", line('{"op":["ping"],"id":1}'), id=1),
    Malformed("a depth of 1,000, unclosed", line("[" * 1_000)),
    Malformed("a seq that is true", line('{"op":"delete_messages","id":1,"seqs":[true]}'), id=1),
)


def test_lines_that_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    with attack(caplog) as (_, peer):
        peer.login("bystander")
        for case in (*MALFORMED_JSONL, *MORE_LINES):
            if not case.fatal:
                peer.send(case.data)
                assert expect_error(peer, case.code)["id"] == case.id, case.name
        expect_alive(peer)


def test_duplicate_keys_the_last_wins(caplog: pytest.LogCaptureFixture) -> None:
    with attack(caplog) as (_, peer):
        assert peer.send(b'{"op":"status","id":1,"op":"ping","id":2}\n').read_line() == {
            "id": 2,
            "ok": True,
        }


def test_an_unknown_op_with_a_long_name(caplog: pytest.LogCaptureFixture) -> None:
    with attack(caplog) as (_, peer):
        peer.login("bystander")
        peer.send(b'{"op":"' + b"x" * 60_000 + b'","id":1}\n')
        reply = expect_error(peer, "unknown_op")
        assert len(json.dumps(reply)) < 300
        expect_alive(peer)
    assert len(caplog.text) < 500


# -- binary -----------------------------------------------------------------------------


FATAL = [
    *(
        case
        for case in MALFORMED_BINARY
        if case.fatal and case.frame_limit == 4_096 and case.name != "HTTP"
    ),
    Malformed("beyond the limit", b"\xb7\x01\x0f\0\0\0\x0f\xf9", "frame_too_large", fatal=True),
]


def expect_error_frame(peer: Peer, case: Malformed) -> None:
    """Read an error's frame."""
    header = peer.read_exactly(8)
    assert header[0] == 0xB7
    assert header[2] == (0xFE if case.id is None else 0xFF), case.name
    answer = peer.read_exactly(int.from_bytes(header[4:], "big"))
    assert case.code.encode() in answer, case.name
    assert b"Traceback" not in answer


@pytest.mark.parametrize("case", FATAL, ids=lambda case: case.name)
def test_frames_that_end_the_connection(case: Malformed, caplog: pytest.LogCaptureFixture) -> None:
    with attack(caplog, TCP, "binary") as (_, peer):
        peer.send(case.data)
        expect_error_frame(peer, case)
        expect_end(peer)


def test_frames_that_are_answered(caplog: pytest.LogCaptureFixture) -> None:
    with attack(caplog, TCP, "binary") as (_, peer):
        for case in MALFORMED_BINARY:
            if not case.fatal:
                peer.send(case.data)
                expect_error_frame(peer, case)
        peer.send(bytes.fromhex("b7010f000000000105"))
        assert peer.read_exactly(9)[8] == 5


# -- the rest ---------------------------------------------------------------------------


def test_a_long_password_is_refused_before_hashing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with attack(caplog) as (_, peer):
        monkeypatch.setattr(argon2.PasswordHasher, "hash", lambda *_: pytest.fail("it hashed"))
        peer.send_line(op="create_account", id=1, username="eve", password="x" * 3000)
        expect_error(peer, "invalid_password")
        expect_alive(peer)
        peer.send_line(op="create_account", id=1, username="eve", password="x" * MIB)
        expect_error(peer, "frame_too_large")
        expect_end(peer)


NAMES = {
    "full-width": "\uff41nn",
    "Cyrillic": "\u0430nn",
    "zero-width": "a\u200bnn",
    "right-to-left": "\u202enna",
    "a line break": "ann\n",
    "a line separator": "ann\u2028",
}


@pytest.mark.parametrize("row", NAMES)
def test_names_that_look_like_others(row: str, caplog: pytest.LogCaptureFixture) -> None:
    with attack(caplog) as (_, peer):
        peer.send_line(op="create_account", id=1, username=NAMES[row], password=PASSWORD)
        expect_error(peer, "invalid_username")
        expect_alive(peer)


def test_control_characters_in_a_body_are_stored_exactly(caplog: pytest.LogCaptureFixture) -> None:
    body = "\x1b[31mred\x1b]0;title\x07\x9b\u202e\u2066\x00"
    with attack(caplog) as (_, peer):
        peer.login("bystander")
        assert peer.ask("send", to="bystander", body=body)["ok"]
        assert peer.ask("watch", after=0)["messages"][0]["body"] == body
        assert peer.ask("ack", up_to=1)["unread"] == 0


def test_every_bad_token_gets_the_same_error(caplog: pytest.LogCaptureFixture) -> None:
    with attack(caplog) as (server, peer):
        token = server.service.login(server.service.session(), "bystander", PASSWORD).session
        foreign = make_service()
        alien = foreign.create_account(foreign.session(), "bystander", PASSWORD).session
        replies = {
            json.dumps(peer.ask("resume", session=bad))
            for bad in (token[:-1], token + "=", alien, "", "x" * 2000)
        }
        assert len(replies) == 1
        assert "session_expired" in replies.pop()


def test_cursors_beyond_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with attack(caplog) as (_, peer):
        peer.login("bystander")
        for fields in (
            {"op": "watch", "after": 1},
            {"op": "watch", "after": 2**53 - 1, "wait": 60},
            {"op": "watch", "after": 0, "ack": 1},
            {"op": "ack", "up_to": 1},
        ):
            peer.send_line(id=1, **fields)
            expect_error(peer, "cursor_invalid")
        expect_alive(peer)


def test_deleting_the_account_while_it_sends(caplog: pytest.LogCaptureFixture) -> None:
    """Each send is either accepted or refused; the recipient has exactly the accepted ones."""
    with attack(caplog) as (server, peer):
        peer.enter("eve")
        with server.peer() as other:
            other.login("eve")
            peer.send(
                b"".join(
                    b'{"op":"send","id":%d,"to":"bystander","body":"%d"}\n' % (n, n)
                    for n in range(500)
                )
            )
            other.send_line(op="delete_account", id=1, password=PASSWORD)
            assert other.read_line()["ok"]
        lines = [json.loads(line) for line in peer.rest().splitlines()]
        accepted = {str(reply["id"]) for reply in lines if reply["ok"]}
        refused = {reply["error"]["code"] for reply in lines if not reply["ok"]}
        assert refused <= {"session_expired"}
        with server.peer(1) as reader:
            reader.login("bystander")
            got = {m["body"] for m in reader.ask("watch", after=0, limit=1000)["messages"]}
        # The connection may have been cut before a reply was written: more may be there.
        assert accepted <= got
        wait_until(lambda: server.connections == 1, "both connections of eve's are gone")


def test_many_hostile_peers_at_once(caplog: pytest.LogCaptureFixture) -> None:
    attacks: list[Callable[[Peer], object]] = [
        lambda peer: peer.send(b"{" * 5000),
        lambda peer: peer.send(b"\xb7\x01\x0f\x00\xff\xff\xff\xff"),
        lambda peer: peer.send(b"GET / HTTP/1.1\r\n\r\n"),
        lambda peer: peer.send(b"\x16\x03\x01"),
        lambda peer: peer.send(b"\x00"),
        lambda peer: peer.close(),
    ]
    with serving(login_seconds=1) as server, server.peer() as bystander:
        bystander.enter("bystander")
        peers = []
        for number in range(60):
            peer = server.peer()
            attacks[number % len(attacks)](peer)
            peers.append(peer)
        assert bystander.ask("ping")["ok"]
        server.wait_connections(1)
        for peer in peers:
            peer.close()
