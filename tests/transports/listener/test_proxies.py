"""Peers behind a proxy, over sockets: whose word is taken, and that everything goes by it."""

import contextlib
import json
import logging
import socket
import ssl
import struct
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from conversing import Conversing
from listening import TCP, Kind, Peer, Server, serving, socket_path
from proxied import binary, line
from services import PASSWORD, make_service
from waiting import Call, wait_until

from twinline.core.addresses import AddressSet
from twinline.core.errors import Busy
from twinline.core.protocol import Ping
from twinline.core.service import ChatService
from twinline.transports.contract import ReplyReceived
from twinline.transports.endpoints import Endpoint, EndpointError
from twinline.transports.jsonl import JsonlServerCodec, JsonlTransport
from twinline.transports.listener import ListenerSettings
from twinline.transports.listener.conversation import Conversation
from twinline.transports.listener.introduction import Introduction
from twinline.transports.listener.settings import InForce
from twinline.transports.registry import connecting_transport
from twinline.transports.tls import TlsLayer, client_context

pytestmark = pytest.mark.usefixtures("each_listener")
PROXIED = TCP + "?proxy=yes"
HERE = ("127.0.0.1",)
"""Where these tests' connections come from; trusted, it is a proxy."""
PING = b'{"op":"ping","id":1}\n'
PONG = {"id": 1, "ok": True}


def addresses(server: Server) -> list[str]:
    """Return where the peers come from, as the listener knows it."""
    return sorted(connection.address for connection in server.listener._running())


def pings(peer: Peer, header: bytes = b"") -> bool:
    """Send a header and a request, and return whether it is answered."""
    with contextlib.suppress(OSError):
        peer.send(header + PING)
    answer = b""
    with contextlib.suppress(OSError):
        answer = peer.socket.recv(100)
    assert answer in (b"", b'{"id":1,"ok":true}\n')
    return bool(answer)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Note what is logged from now on, but for accounts and the end of the server."""
    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(_is_said)
    yield caplog
    caplog.handler.removeFilter(_is_said)
    assert "Traceback" not in caplog.text


def _is_said(record: logging.LogRecord) -> bool:
    return not getattr(record, "event", "").startswith(("account_", "drain_"))


def expect_said(said: pytest.LogCaptureFixture, text: str) -> None:
    """One line has been logged, with this in it."""
    wait_until(lambda: said.messages, "something is logged")
    assert [text in message for message in said.messages] == [True], said.messages


# -- the header ---------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", ["whole", "bytes"])
@pytest.mark.parametrize(
    ("header", "address"),
    [
        (line("203.0.113.9"), "203.0.113.9"),
        (binary("2001:db8::9", bytes(1_000)), "2001:db8::9"),
        (line("127.0.0.1"), "behind 127.0.0.1"),
        (binary("unix"), "behind 127.0.0.1"),
        (binary(None), "behind 127.0.0.1"),
        (binary(None, command=0x20), "127.0.0.1"),
    ],
)
def test_the_peer_is_who_the_header_says(pieces: str, header: bytes, address: str) -> None:
    with serving([(PROXIED, "auto")], trusted_proxies=HERE) as server, server.peer() as peer:
        if pieces == "whole":
            assert peer.send(header + PING).read_line() == PONG
        else:
            for at in range(len(header)):
                peer.send(header[at : at + 1])
            assert peer.send(PING).read_line() == PONG
        assert addresses(server) == [address]


@pytest.mark.parametrize("together", [True, False])
def test_a_header_comes_before_tls(together: bool, certificates: Any) -> None:
    layer = TlsLayer(client_context(ca_file=str(certificates.ca.file)), "127.0.0.1")
    header = binary("203.0.113.9", b"\x20\0\0")
    with (
        serving(
            [("tls://127.0.0.1:0?proxy=yes", "auto")],
            trusted_proxies=HERE,
            tls_certificate=str(certificates.server.certificate),
            tls_key=str(certificates.server.key),
        ) as server,
        server.peer() as peer,
    ):
        layer.begin()
        hello = layer.send(b"")
        for piece in (header + hello,) if together else (header, hello[:7], hello[7:]):
            peer.send(piece)
        while not layer.established:
            layer.receive_data(peer.socket.recv(65536))
        peer.send(layer.send(PING))
        answer = b""
        while not answer:
            answer = layer.receive_data(peer.socket.recv(65536))
        assert json.loads(answer) == PONG
        assert addresses(server) == ["203.0.113.9"]


def test_a_proxy_may_be_on_a_unix_socket() -> None:
    with (
        socket_path() as path,
        serving([(f"unix:{path}?proxy=yes", "auto")], trusted_proxies=["unix"]) as server,
        server.peer() as peer,
    ):
        assert pings(peer, line("203.0.113.9"))
        assert addresses(server) == ["203.0.113.9"]


@pytest.mark.parametrize("header", [b"", line("203.0.113.9"), binary("203.0.113.9")])
def test_who_is_not_trusted_is_cut_before_a_word(
    header: bytes, said: pytest.LogCaptureFixture
) -> None:
    with serving([(PROXIED, "auto")], trusted_proxies=["127.0.0.2", "unix"]) as server:
        with server.peer() as peer:
            assert not pings(peer, header)
        expect_said(said, "connection from 127.0.0.1 refused: it is none of trusted_proxies")
        server.wait_connections(0)
        proxy = socket.create_connection(
            ("127.0.0.1", server.endpoints[0].port), 10, ("127.0.0.2", 0)
        )
        with proxy:
            proxy.sendall(line("203.0.113.9") + PING)
            assert proxy.recv(100)
            assert addresses(server) == ["203.0.113.9"]


def test_a_header_where_none_is_expected_is_no_request() -> None:
    with serving([(TCP, "jsonl")], trusted_proxies=HERE) as server, server.peer() as peer:
        assert peer.send(line("203.0.113.9")).read_line()["error"]["code"] == "bad_request"
        assert peer.ask("ping")["ok"]
        assert addresses(server) == ["127.0.0.1"]


HOSTILE = {  # what a trusted proxy may send, and what is logged of it
    "a request": (PING, "does not begin with a header"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "does not begin with a header"),
    "a line of nonsense": (b"PROXY TCP4 x\r\n" + PING, "cannot be read: b'TCP4 x'"),
    "a line without an end": (b"PROXY " + b"x" * 5_000, "longer than 107 bytes"),
    "no room": (binary("203.0.113.9")[:14] + b"\0\x01\0" + PING, "no room for its addresses: 1"),
    "a second header": (line("203.0.113.9") + line("203.0.113.8"), ""),
}


@pytest.mark.parametrize("row", HOSTILE)
def test_what_is_no_header_ends_that_connection_alone(
    row: str, said: pytest.LogCaptureFixture
) -> None:
    data, logged = HOSTILE[row]
    with serving([(PROXIED, "jsonl")], trusted_proxies=HERE) as server, server.peer() as bystander:
        assert bystander.send(line("203.0.113.1") + PING).read_line() == PONG
        with server.peer() as peer:
            peer.send(data)
            if logged:
                assert peer.rest() == b""
                expect_said(said, logged)
            else:
                assert peer.read_line()["error"]["code"] == "bad_request"
        server.wait_connections(1)
        assert bystander.ask("ping")["ok"]


@pytest.mark.parametrize("sent", [b"", b"PROXY TCP4 203.0", binary("203.0.113.9", bytes(9))[:-1]])
def test_a_header_that_comes_too_late(sent: bytes, said: pytest.LogCaptureFixture) -> None:
    with (
        serving([(PROXIED, "auto")], trusted_proxies=HERE, login_seconds=0.5) as server,
        server.peer() as peer,
    ):
        assert peer.send(sent).rest() == b""
        expect_said(said, "connection from 127.0.0.1: took too long to say by a PROXY header")


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n\0\r\nQUIT\n"])
def test_the_end_before_a_header(sent: bytes, said: pytest.LogCaptureFixture) -> None:
    with serving([(PROXIED, "auto")], trusted_proxies=HERE) as server, server.peer() as peer:
        peer.send(sent).socket.shutdown(socket.SHUT_WR)
        assert peer.rest() == b""
        server.wait_connections(0)
        if sent:
            expect_said(said, "the connection ended in the middle of its PROXY header")
        else:
            assert not said.messages  # so proxies look whether a server is there


@pytest.mark.parametrize("sent", [b"", line("203.0.113.9"), binary(None, command=0x20)])
def test_a_reset_before_a_request_is_not_logged(
    sent: bytes, said: pytest.LogCaptureFixture
) -> None:
    """So proxies look after a server's health."""
    with serving([(PROXIED, "auto")], trusted_proxies=HERE) as server:
        for more, logged in ((b"", 0), (PING, 1), (b'{"op"', 2)):
            peer = server.peer()
            peer.send(sent or (line("203.0.113.9") if more else b"")).send(more)
            server.wait_connections(1)
            talk = next(iter(server.listener._running()))._talk
            wait_until(lambda: talk.waits and talk.silent != bool(more), "all has arrived")  # noqa: B023
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            server.wait_connections(0)
            assert len(said.messages) == logged


def test_a_drain_ends_who_is_in_the_middle_of_a_header(said: pytest.LogCaptureFixture) -> None:
    with serving([(PROXIED, "auto")], trusted_proxies=HERE) as server, server.peer() as peer:
        peer.send(b"PROXY ")
        server.wait_connections(1)
        talk = next(iter(server.listener._running()))._talk
        wait_until(lambda: talk._introduction.mid_header, "a part of it has arrived")
        server.listener.stop()
        assert peer.rest() == b""
        server.wait_connections(0)
        assert not said.messages


def test_an_endpoint_for_proxies_without_any_is_refused() -> None:
    endpoint = Endpoint.parse(PROXIED)
    with pytest.raises(EndpointError, match="trusted_proxies"):
        Kind.made(make_service(), [(endpoint, JsonlTransport())], ListenerSettings())


# -- what goes by it ----------------------------------------------------------------------


def test_connections_are_counted_by_the_real_address(said: pytest.LogCaptureFixture) -> None:
    with (
        serving([(PROXIED, "auto")], trusted_proxies=HERE, connections_per_address=2) as server,
        contextlib.ExitStack() as open_ones,
    ):
        peers = [open_ones.enter_context(server.peer()) for _ in range(8)]
        server.wait_connections(8)  # the proxy's own are not counted by its address
        headers = [line(f"203.0.113.{host}") for host in (1, 1, 1, 2, 2)]
        headers += [line("127.0.0.1"), binary(None), binary("unix")]
        let_in = [True, True, False, True, True, True, True, False]
        for peer, header, expected in zip(peers, headers, let_in, strict=True):
            assert pings(peer, header) == expected, header
        server.wait_connections(6)
        assert said.messages == [
            f"connection from {address} refused: connections_per_address"
            for address in ("203.0.113.1", "behind 127.0.0.1")
        ]
        peers[0].close()
        server.wait_connections(5)
        with server.peer() as another:
            assert pings(another, line("203.0.113.1"))
        open_ones.close()
        server.wait_connections(0)
        assert not server.listener._by_address


def test_the_proxy_itself_is_exempt_where_it_is_local_and_only_it() -> None:
    with (
        serving([(PROXIED, "auto")], trusted_proxies=HERE, connections_per_address=1) as server,
        contextlib.ExitStack() as open_ones,
    ):
        for _ in range(3):
            peer = open_ones.enter_context(server.peer())
            assert pings(peer, binary(None, command=0x20))
        assert pings(open_ones.enter_context(server.peer()), line("127.0.0.1"))
        assert not pings(open_ones.enter_context(server.peer()), line("127.0.0.2"))


def test_nothing_stays_counted_whatever_peers_do() -> None:
    starts = [line(f"203.0.113.{host}") + PING for host in range(4)]
    starts += [binary("unix") + PING, binary(None, command=0x20) + PING, b"PROXY TCP4 203", PING]
    ends = [(), (1, 0), (1, 1)]  # by an end, by a reset, by waiting for a second

    def come_and_go(first: int) -> None:
        for turn in range(first, first + 24):
            with server.peer() as peer:
                if ends[turn % 3]:
                    linger = struct.pack("ii", *ends[turn % 3])
                    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                with contextlib.suppress(OSError):
                    peer.send(starts[turn % len(starts)])
                    if turn % 2:
                        peer.socket.recv(100)

    with serving([(PROXIED, "jsonl")], trusted_proxies=HERE, connections_per_address=1) as server:
        for crowd in [Call(partial(come_and_go, first)) for first in range(4)]:
            crowd.outcome()
        counted = server.listener._by_address
        wait_until(lambda: not (server.connections or counted), "nothing is counted")
        with server.peer() as peer:
            assert pings(peer, line("203.0.113.200"))


def test_connections_in_all_count_before_they_say_who_they_are() -> None:
    with (
        serving([(PROXIED, "auto")], trusted_proxies=HERE, connections=2) as server,
        server.peer(),
        server.peer() as named,
    ):
        assert pings(named, line("203.0.113.9"))
        with server.peer() as third:
            assert third.rest() == b""


@pytest.mark.parametrize("others", ["203.0.113.8", "127.0.0.1"])
def test_new_accounts_are_counted_by_the_real_address(others: str) -> None:
    service = make_service(registrations_per_hour=1)
    with serving([(PROXIED, "auto")], service, trusted_proxies=HERE) as server:
        codes = []
        for name, source in (("ann", others), ("bob", others), ("carl", "203.0.113.9")):
            with server.peer() as peer:
                reply = peer.send(line(source)).ask(
                    "create_account", username=name, password=PASSWORD
                )
                codes.append(reply.get("error", {}).get("code"))
        assert codes == [None, "rate_limited", None]


def test_guesses_are_counted_by_the_real_address() -> None:
    service = make_service(failures_per_account=1, guesses_per_minute=1_000)
    with serving([(PROXIED, "auto")], service, trusted_proxies=HERE) as server:
        with server.peer() as owner:
            owner.send(line("203.0.113.1")).enter("ann")
        codes = []
        for source, password in [("203.0.113.9", "a wrong one")] * 2 + [("203.0.113.1", PASSWORD)]:
            with server.peer() as peer:
                reply = peer.send(line(source)).ask("login", username="ann", password=password)
                codes.append(reply.get("error", {}).get("code"))
        assert codes == ["bad_credentials", "rate_limited", None]


# -- a handshake that names the peer ------------------------------------------------------


class _ForwardingCodec(JsonlServerCodec):
    """JSON-lines whose first line is what X-Forwarded-For would be."""

    unprompted = True
    forwarded_for: tuple[str, ...] = ()
    _begun = False

    def next_event(self) -> Any:
        if not self._begun:
            first, newline, rest = bytes(self._received).partition(b"\n")
            if not newline:
                return None
            self._begun = True
            self.forwarded_for = tuple(first.decode().split(",")) if first else ()
            self._received[:] = rest
        return super().next_event()


class _Forwarding(JsonlTransport):
    def server_codec(self, frame_limit: int) -> JsonlServerCodec:
        return _ForwardingCodec(frame_limit)


@contextlib.contextmanager
def forwarding(
    service: ChatService | None = None, endpoint: str = TCP, **settings: object
) -> Iterator[Server]:
    """Run a listener whose peers' handshake may name them."""
    with serving([(endpoint, "jsonl")], service, **settings) as server:
        for listening, served in server.listener._served.values():
            object.__setattr__(served, "transport", _Forwarding())
            assert listening
        yield server


@pytest.mark.parametrize(
    ("trusted", "forwarded", "address"),
    [
        ([], b"203.0.113.9", "127.0.0.1"),
        (["127.0.0.2"], b"203.0.113.9", "127.0.0.1"),
        (HERE, b"203.0.113.9", "203.0.113.9"),
        (HERE, b"6.6.6.6,203.0.113.9", "203.0.113.9"),
        ([*HERE, "10.0.0.0/8"], b"6.6.6.6,203.0.113.9,10.0.0.1", "203.0.113.9"),
        (HERE, b"203.0.113.9,127.0.0.1", "203.0.113.9"),
        (HERE, b"203.0.113.9,nonsense", "behind 127.0.0.1"),
        (HERE, b"", "127.0.0.1"),
    ],
)
def test_whom_a_handshake_names_is_believed_of_a_trusted_proxy(
    trusted: list[str], forwarded: bytes, address: str
) -> None:
    with forwarding(trusted_proxies=trusted) as server, server.peer() as peer:
        assert peer.send(forwarded + b"\n" + PING).read_line() == PONG
        assert addresses(server) == [address]


def test_whom_a_handshake_names_is_known_before_the_first_request() -> None:
    service = make_service(registrations_per_hour=1)
    with forwarding(service, trusted_proxies=HERE, connections_per_address=1) as server:
        codes = []
        for name in ("ann", "bob"):
            with server.peer() as peer:
                peer.send(b"203.0.113.9\n")
                reply = peer.ask("create_account", username=name, password=PASSWORD)
                codes.append(reply.get("error", {}).get("code"))
            server.wait_connections(0)
        assert codes == [None, "rate_limited"]
        with server.peer() as first, server.peer() as silent, server.peer() as third:
            first.send(b"203.0.113.9\n")
            wait_until(lambda: "203.0.113.9" in addresses(server), "it is known by its handshake")
            assert silent.send(b"203.0.113.9\n").rest() == b""
            assert not pings(third, b"203.0.113.9\n")
            assert pings(first)


def test_a_handshake_behind_a_header_is_believed_if_that_names_a_trusted_proxy() -> None:
    trusted = [*HERE, "10.0.0.1"]
    with forwarding(None, PROXIED, trusted_proxies=trusted) as server:
        for header, address in (
            (line("10.0.0.1"), "203.0.113.9"),
            (line("10.0.0.2"), "10.0.0.2"),
            (binary(None, command=0x20), "203.0.113.9"),
        ):
            with server.peer() as peer:
                assert pings(peer, header + b"203.0.113.9\n")
                assert addresses(server) == [address]
            server.wait_connections(0)


def upgrade(*forwarded: str) -> bytes:
    """Return a WebSocket's handshake, with so many lines of X-Forwarded-For, and a request."""
    head = [
        "GET / HTTP/1.1",
        "Host: chat.example",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: twinline.jsonl",
        *(f"X-Forwarded-For: {line}" for line in forwarded),
    ]
    frame = bytes([0x81, 0x80 | len(PING) - 1]) + bytes(4) + PING[:-1]  # its mask changes nothing
    return "".join(f"{field}\r\n" for field in [*head, ""]).encode() + frame


@pytest.mark.parametrize("endpoint", ["ws://127.0.0.1:0", TCP, PROXIED, "wss://127.0.0.1:0"])
def test_x_forwarded_for(endpoint: str, certificates: Any) -> None:
    header = binary("10.0.0.7") if endpoint == PROXIED else b""
    with serving(
        [(endpoint, "websocket" if endpoint.startswith("ws") else "auto")],
        trusted_proxies=[*HERE, "10.0.0.0/8"],
        connections_per_address=1,
        tls_certificate=str(certificates.server.certificate),
        tls_key=str(certificates.server.key),
    ) as server:

        def opens(*forwarded: str) -> Peer:
            peer = server.peer()
            peer.send(header)
            if endpoint.startswith("wss"):
                context = ssl.create_default_context(cafile=str(certificates.ca.file))
                peer.socket = context.wrap_socket(peer.socket, server_hostname="127.0.0.1")
            return peer.send(upgrade(*forwarded))

        with opens("6.6.6.6, 203.0.113.9", "10.0.0.1") as peer:
            assert b"101 Switching" in peer.read_exactly(64)
            wait_until(lambda: addresses(server) == ["203.0.113.9"], "it is named")
            with opens("203.0.113.8") as other, opens("6.6.6.6,203.0.113.9") as one_more:
                assert b"101 Switching" in other.read_exactly(64)
                assert one_more.rest() == b""
                named = ["203.0.113.8", "203.0.113.9"]
                wait_until(lambda: addresses(server) == named, "the third is counted no more")


def test_x_forwarded_for_of_anybody_is_nothing() -> None:
    with (
        serving([("ws://127.0.0.1:0", "websocket")], trusted_proxies=["10.0.0.0/8"]) as server,
        server.peer() as peer,
    ):
        peer.send(upgrade("203.0.113.9", "10.0.0.1"))
        assert b"101 Switching" in peer.read_exactly(64)
        assert addresses(server) == ["127.0.0.1"]


# -- where there is nobody to hold it -----------------------------------------------------


@pytest.mark.parametrize("header", [line("203.0.113.9"), b"PROXY TCP4 203", b"nonsense "])
def test_who_is_refused_is_answered_behind_the_header(header: bytes) -> None:
    asked = Conversing(logged_in=False)
    introduction = Introduction("127.0.0.1", AddressSet(HERE), header=True)
    introduction.on_address = lambda _: True
    talk = Conversation(
        JsonlTransport().server_codec(4096),
        asked.service,
        InForce(ListenerSettings()),
        address="127.0.0.1",
        on_mail=lambda: None,
        on_end=lambda: None,
        clock=lambda: 0.0,
        introduction=introduction,
    )
    talk.refuse(header + PING, Busy("no room", retry_after_ms=1))
    answered = b'"id":1,"ok":false' in talk.data_to_send()
    assert answered == header.endswith(b"\r\n")
    assert talk.ended


@pytest.mark.parametrize("leaves", ["by a close frame", "by the end of its side"])
def test_a_farewell_that_its_peer_does_not_take_is_not_logged(
    leaves: str, said: pytest.LogCaptureFixture
) -> None:
    """So does a proxy that has a peer of a WebSocket no longer."""
    with socket_path() as path, serving([(f"unix:{path}", "websocket")]) as server:
        codec = connecting_transport(Endpoint.parse("ws://localhost"), None).client_codec(4096)
        peer = server.peer()
        peer.send(codec.data_to_send())
        codec.receive_data(peer.read_exactly(len(b"HTTP/1.1 101")))
        while not codec.opened:
            codec.receive_data(peer.read_exactly(1))
            assert codec.next_event() is None
        codec.send(1, Ping())
        peer.send(codec.data_to_send())
        while not isinstance(codec.next_event(), ReplyReceived):
            codec.receive_data(peer.read_exactly(1))
        peer.socket.shutdown(socket.SHUT_RD)  # what is written to it now fails at once
        if leaves == "by a close frame":
            codec.end()
            peer.send(codec.data_to_send())
        else:
            peer.socket.shutdown(socket.SHUT_WR)
        server.wait_connections(0)
        peer.close()
        assert said.messages == []
