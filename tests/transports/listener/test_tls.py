"""TLS over real sockets: what travels, who is turned away, and how connections end."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from shutil import which
from typing import Any

import pytest
from fault_proxy import FaultProxy, Route
from listening import Hold, Server, mail, serving
from services import PASSWORD, enter, make_service
from waiting import Call, wait_until

pytest.importorskip("cryptography")
from sealing import ALERT, HANDSHAKE, SPOKEN, Pair, TlsPeer, records, server_tls, trusting

from twinline.core.errors import ShuttingDown
from twinline.core.protocol import Ping
from twinline.core.session import Session

pytestmark = pytest.mark.usefixtures("each_listener")

BODY = "See you at the station at half past seven."
LISTEN = (("tls://127.0.0.1:0", "auto"),)
CLEAR = (BODY, PASSWORD, '"op"', '"ok"', '"error"', "messages", "shutting_down", "session_expired")
"""What is said on these connections, and may not be seen."""


@pytest.fixture
def files(certificates: Any) -> dict[str, str]:
    """Return the settings of a listener."""
    server = certificates.server
    return {"tls_certificate": str(server.certificate), "tls_key": str(server.key)}


# -- the wire -------------------------------------------------------------------------------


def drained(server: Server, _: TlsPeer) -> None:
    """Have the server drain."""
    server.listener.stop()


def cut(server: Server, peer: TlsPeer) -> None:
    """Have it drain while a request is under way, until the time for that is over."""
    hold = Hold()
    handle = server.service.handle

    def held(session: Any, request: Any) -> Any:
        if isinstance(request, Ping):
            hold()
        return handle(session, request)

    server.let_requests_wait()
    server.service.handle = held  # type: ignore[method-assign]
    peer.send_line(op="ping", id=90)
    hold.wait_reached()
    server.listener.stop()
    wait_until(lambda: server.listener._drained, "it is over", 20)
    hold.release()


def stopped(server: Server, _: TlsPeer) -> None:
    """Have the service stop, and its listener then."""
    server.service.stop()
    server.listener.stop()


def logged_out(server: Server, peer: TlsPeer) -> None:
    """End the session from another connection."""
    session = server.service.session()
    server.service.resume(session, peer.token)
    server.service.logout(session)


def password_changed(server: Server, _: TlsPeer) -> None:
    """End every session of the account but one."""
    session = server.service.session()
    server.service.login(session, "bob", PASSWORD)
    server.service.change_password(session, PASSWORD, "battery staple")


def reloaded(server: Server, peer: TlsPeer) -> None:
    """Have the server read its files again, and the peer leave."""
    server.listener.reload()
    peer.send_line(op="ping", id=90)
    peer.shut_down()


def malformed(_: Server, peer: TlsPeer) -> None:
    """Say what cannot be read."""
    peer.send(b"no JSON\n" * 9)
    peer.send_line(op="ping", id=1, padding="x" * 100_000)


def clear(_: Server, peer: TlsPeer) -> None:
    """Go on in clear text."""
    peer.send_plain(b"GET / HTTP/1.1\r\n\r\n")


def late(_: Server, peer: TlsPeer) -> None:
    """Never end a record that has begun."""
    peer.send_plain(bytes([SPOKEN, 3, 3, 0, 99]))


ENDS = [drained, cut, stopped, logged_out, password_changed, reloaded, malformed, clear, late]
LAST = {
    drained: "shutting_down",
    stopped: "shutting_down",
    logged_out: "session_expired",
    password_changed: "session_expired",
    malformed: "frame_too_large",
}
"""The code of the error with which a stream, or the connection, then ends."""


@pytest.mark.parametrize("end", ENDS)
def test_no_byte_travels_in_clear_text(
    certificates: Any, files: dict[str, str], end: Callable[[Server, TlsPeer], None]
) -> None:
    """With mail that comes while the connection ends; both directions are read."""
    service = make_service()
    deadlines = {"frame_seconds": 0.3, "drain_seconds": 0.2 if end is cut else 4}
    context = trusting(certificates)
    with (
        serving(LISTEN, service, **files, **deadlines) as server,
        FaultProxy(server.endpoints[0]) as proxy,
    ):
        proxy.keeps = True
        ann = enter(service, "ann")
        with TlsPeer(proxy.endpoint, context) as peer, TlsPeer(proxy.endpoint, context) as idle:
            idle.send_line(op="hello", id=1).read_line()
            reply = peer.ask("create_account", username="bob", password=PASSWORD)
            peer.token = reply["session"]
            peer.send_line(op="watch", id=5, after=0, wait=30, window=1000)
            service.send(ann, "bob", BODY)
            assert peer.read_line()["messages"][0]["body"] == BODY
            writing = Call(lambda: write(server, ann))
            end(server, peer)
            said = peer_rest(peer)
            writing.outcome()
        codes = [each["error"]["code"] for each in said if not each["ok"]]
        assert LAST.get(end) in (None, *codes)
        token = peer.token
        server.stop()  # so that all that could be sent has been
        assert len(proxy.routes) == 2
        for route in proxy.routes:
            for sent in wires(route, end):
                seen = [word for word in (*CLEAR, token, token[:16]) if word.encode() in sent]
                assert not seen, seen
        assert token.encode() not in bytes(proxy.routes[0].down.seen or b"")


def write(server: Server, sender: Session) -> None:
    """Send bob what still fits into the stream, so that its end is told."""
    with suppress(ShuttingDown):
        mail(server, sender, *[BODY] * 100)


def peer_rest(peer: TlsPeer) -> list[dict[str, Any]]:
    """Return what a peer is told until the end, however that comes."""
    rest = peer._buffer
    with suppress(OSError):
        while data := peer.socket.recv(65536):
            rest += data
    return [json.loads(line) for line in rest.splitlines() if line.endswith(b"}")]


def wires(route: Route, end: Callable[..., None]) -> Iterator[bytes]:
    """Yield the bytes of both directions of a connection, which are records."""
    route.down.join()
    for way in (route.up, route.down):
        sent = bytes(way.seen or b"")
        assert len(sent) > 500
        if way is route.down:
            records(sent, last_may_be_cut=end is cut)
        elif end is not clear:
            records(sent, last_may_be_cut=end in (cut, late))
        yield sent


# -- who is turned away ---------------------------------------------------------------------

NO_TLS = {
    "jsonl": b'{"op":"hello","id":1}\n',
    "binary": bytes.fromhex("b7010f000000000109"),
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "zeros": bytes(2_000),
    "too long": bytes([HANDSHAKE, 3, 1, 0xFF, 0xFF]),
}


@pytest.mark.parametrize("name", NO_TLS)
def test_what_is_no_tls_gets_an_alert_at_the_most_and_others_are_served(
    certificates: Any, files: dict[str, str], name: str
) -> None:
    with serving(LISTEN, **files) as server, server.peer() as peer:
        with TlsPeer(server.endpoints[0], trusting(certificates)) as other:
            peer.send(NO_TLS[name])
            answer = records(peer.rest())
            assert [record.kind for record in answer] in ([], [ALERT])
            assert other.ask("hello")["ok"]
        server.wait_connections(0)


@pytest.mark.parametrize("spoken", ["auto", "jsonl", "binary"])
def test_a_hello_of_tls_on_a_plain_port_ends_the_connection(certificates: Any, spoken: str) -> None:
    """Its sender learns that there is no TLS, at once."""
    with serving((("tcp://127.0.0.1:0", spoken),)) as server:
        began = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT011 - by what OpenSSL makes of the answer
            TlsPeer(server.endpoints[0], trusting(certificates))
        assert time.monotonic() - began < 5
        server.wait_connections(0)


def test_peers_that_never_finish_their_handshake_are_cut_and_hold_up_nobody(
    certificates: Any, files: dict[str, str]
) -> None:
    """A hundred that say nothing, a part of a hello, or all of it and no more."""
    hello = Pair(server_tls(certificates), trusting(certificates)).begin()
    with ExitStack() as stack:
        server = stack.enter_context(serving(LISTEN, **files, login_seconds=1.0))
        began = time.monotonic()
        silent = [stack.enter_context(server.peer()) for _ in range(100)]
        for number, peer in enumerate(silent):
            peer.send(hello[: number * len(hello) // 99])
        ends = began + 3
        while server.connections and time.monotonic() < ends:
            with TlsPeer(server.endpoints[0], trusting(certificates)) as other:
                assert other.ask("hello")["ok"]
        server.wait_connections(0)
        for peer in silent:
            records(peer.rest())


# -- ends that one side does not say -----------------------------------------------------------


@pytest.mark.parametrize("leave", ["truncated", "close", "end of input"])
def test_how_a_peer_leaves(
    certificates: Any, files: dict[str, str], caplog: pytest.LogCaptureFixture, leave: str
) -> None:
    """A cut in the middle of a record is a fault; an end of either kind is answered by one."""
    caplog.set_level("INFO", "twinline")
    with serving(LISTEN, **files) as server:
        peer = TlsPeer(server.endpoints[0], trusting(certificates)).enter("bob")
        if leave == "truncated":
            peer.send_plain(bytes([SPOKEN, 3, 3, 0, 99]))
        if leave == "close":
            assert peer.socket.unwrap() is not None  # both have said so
        else:
            peer.shut_down()
            assert peer.socket.recv(100) == b""  # the server's end, said as TLS does
        server.wait_connections(0)
        peer.close()
    faults = [record.message for record in caplog.records if "cut off" in record.message]
    assert len(faults) == (leave == "truncated")


@pytest.mark.skipif(which("openssl") is None, reason="there is no openssl program")
@pytest.mark.parametrize(("version", "key"), [("-tls1_2", "R"), ("-tls1_3", "K")])
def test_a_renegotiation_is_refused_and_new_keys_are_given(
    certificates: Any, files: dict[str, str], version: str, key: str
) -> None:
    """As `openssl s_client` asks for them, by a line of one letter."""
    with serving(LISTEN, **files) as server:
        endpoint = server.endpoints[0]
        place = f"{endpoint.host}:{endpoint.port}"
        command = ["openssl", "s_client", "-connect", place, version, "-CAfile"]
        with subprocess.Popen(
            [*command, str(certificates.ca.file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            said = read_until(client.stdout, b"Verify return code: 0 (ok)")
            client.stdin.write(key.encode() + b"\n")
            client.stdin.flush()
            if key == "K":
                said += read_until(client.stdout, b"KEYUPDATE")
                client.stdin.write(b'{"op":"ping","id":90}\n')
                client.stdin.flush()
                said += read_until(client.stdout, b'{"id":90,"ok":true}')
                client.stdin.close()
            said += client.stdout.read()
            assert client.wait(10) == (0 if key == "K" else 1)
            assert (b"no renegotiation" in said) is (key == "R")
        server.wait_connections(0)
        with TlsPeer(endpoint, trusting(certificates)) as other:
            assert other.ask("hello")["ok"]


def read_until(stream: Any, ending: bytes) -> bytes:
    """Return what a program prints up to some words; the test's own limit ends the wait."""
    said = b""
    while ending not in said:
        byte = stream.read1(4096)
        assert byte, said
        said += byte
    return said
