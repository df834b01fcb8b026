"""The clients over WebSocket: what is no WebSocket, pings, ends, and a proxy that pings."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Self

import pytest
from client_kit import States, receive, refused, send_half, user
from listening import tcp_pair
from servers import Site
from services import PASSWORD
from waiting import Call, wait_until

from twinline.core.deadline import Deadline
from twinline.core.protocol import Done, Ping
from twinline.transports.client import StateKind
from twinline.transports.client.backends.threads import SocketConnection, run
from twinline.transports.client.engine.connection import ConnectionBroken
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener.binding import listen
from twinline.transports.websocket import WebSocketTransport

PING = b"\x89\x02hi"
PONG = b"\x8a\x82"  # of the same length, and masked
CLOSE = b"\x88\x02\x03\xe9"
REPLY = b'\x81\x12{"id":1,"ok":true}'


class Pair:
    """A connection over WebSocket, and its peer, by hand.

    Attributes:
        connection: the client's; the handshake was made.
        peer: the socket of the other end.
    """

    def __init__(self) -> None:
        ours, self.peer = tcp_pair()
        self.connection = SocketConnection(ours, WebSocketTransport())
        codec = WebSocketTransport().server_codec(1 << 20)
        establishing = Call(lambda: run(self.connection.establish(Deadline.after(10))))
        codec.receive_data(self.peer.recv(65536))
        assert codec.next_event() is None
        self.peer.sendall(codec.data_to_send())
        establishing.outcome()

    def say(self, data: bytes) -> None:
        self.peer.sendall(data)
        wait_until(lambda: not self.connection.is_quiet(), "it has come")


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    with made.peer:
        yield made
        made.connection.close()


def test_pings_of_an_idle_connection_are_answered_when_it_is_looked_at(pair: Pair) -> None:
    for _ in range(3):
        pair.say(PING)
        assert run(pair.connection.is_alive())
        assert pair.peer.recv(65536).startswith(PONG)


def test_a_ping_without_end_is_no_sign_of_life(pair: Pair, monkeypatch: Any) -> None:
    monkeypatch.setattr(pair.connection, "is_quiet", lambda: False)
    ended = threading.Event()

    def flood() -> None:
        with suppress(OSError):
            while not ended.is_set():
                pair.peer.sendall(b"\x8a\x00" * 1_000)

    flooding = Call(flood)
    assert not run(pair.connection.is_alive())
    ended.set()
    pair.connection.close()
    flooding.outcome()


def test_a_close_ends_it_and_is_answered(pair: Pair) -> None:
    pair.say(PING + CLOSE)
    assert not run(pair.connection.is_alive())
    answered = pair.peer.recv(65536)
    assert answered.startswith(PONG)
    assert answered[8:10] == b"\x88\x82"
    with pytest.raises(ConnectionBroken, match="the server ended the connection"):
        run(pair.connection.exchange(Ping(), Deadline.after(10)))
    assert pair.peer.recv(65536) == b""


@pytest.mark.parametrize("behind", [PING, CLOSE, PING + CLOSE])
def test_a_reply_counts_whatever_is_behind_it(pair: Pair, behind: bytes) -> None:
    asking = Call(lambda: run(pair.connection.exchange(Ping(), Deadline.after(10))))
    assert pair.peer.recv(65536)[0] == 0x81
    pair.peer.sendall(PING + REPLY + behind)
    assert isinstance(asking.outcome(), Done)
    assert pair.connection.closed is (CLOSE in behind)
    assert pair.peer.recv(65536).count(PONG[:1]) >= 1


def test_nothing_follows_a_frame_that_was_not_sent_to_its_end(pair: Pair) -> None:
    """Else a close frame would be taken for the rest of a message's body."""
    send_half(pair.connection)
    assert pair.connection.closed
    received = pair.peer.recv(65536)
    assert received[:2] == b"\x81\xfe"
    assert len(received) == int.from_bytes(received[2:4]) // 2 + 4
    assert pair.peer.recv(65536) == b""


def test_an_idle_connection_is_closed_as_websocket_has_it(pair: Pair) -> None:
    pair.connection.close()
    assert pair.peer.recv(65536)[:2] == b"\x88\x82"
    assert pair.peer.recv(1) == b""


# -- servers that are others ----------------------------------------------------------------


@pytest.mark.usefixtures("both_clients")
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "403"),
        (b"HTTP/1.1 301 Moved\r\nLocation: /chat/\r\nContent-Length: 0\r\n\r\n", "301"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "does not open a WebSocket"),
        (b"", "the server ended the connection"),
    ],
)
def test_what_is_no_websocket_is_said(answer: bytes, why: str) -> None:
    bound = listen(Endpoint.parse("tcp://127.0.0.1:0"))
    listening = bound.sockets[0]
    listening.settimeout(None)

    def answer_all() -> None:
        with suppress(OSError):
            while True:
                peer, _ = listening.accept()
                with peer:
                    peer.recv(65536)
                    peer.sendall(answer)

    answering = Call(answer_all)
    endpoint = str(bound.endpoint).replace("tcp", "ws")
    try:
        refused(f"{endpoint}/chat", why)
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        answering.outcome()
        bound.close()


class Bridge:
    """A server of the `websockets` package before one of JSON-lines: a proxy that pings.

    Attributes:
        endpoint: its own.
        opened: how many connections there have been.
        cut: how many it has ended, for a ping was not answered.
    """

    def __init__(self, site: Site, ping_seconds: float) -> None:
        self.opened = self.cut = 0
        self._site = site
        self._ping_seconds = ping_seconds
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    async def _main(self) -> None:
        from websockets.asyncio.server import serve  # noqa: PLC0415 - a peer, which may be missing

        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        serving = serve(
            self._pass_on,
            "127.0.0.1",
            0,
            subprotocols=["twinline.jsonl"],
            ping_interval=self._ping_seconds,
            ping_timeout=self._ping_seconds,
            close_timeout=self._ping_seconds,
        )
        async with serving as server:
            port = server.sockets[0].getsockname()[1]
            self.endpoint = f"ws://127.0.0.1:{port}"
            self._ready.set()
            await self._end.wait()

    async def _pass_on(self, web: Any) -> None:
        from websockets.exceptions import ConnectionClosedError  # noqa: PLC0415

        self.opened += 1
        there = self._site.endpoint
        reader, writer = await asyncio.open_connection(there.host, there.port)

        async def down() -> None:
            async for line in reader:
                await web.send(line[:-1].decode())
            await web.close()

        passing = asyncio.create_task(down())
        try:
            async for message in web:
                writer.write(message.encode() + b"\n")
        except ConnectionClosedError:
            self.cut += 1
        finally:
            passing.cancel()
            writer.close()
            await asyncio.gather(passing, return_exceptions=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.mark.usefixtures("both_clients")
def test_behind_a_proxy_that_pings_mail_goes_on_and_no_command_is_lost(site: Site) -> None:
    """The watch connection answers; one for commands is read by the next command, and replaced."""
    pytest.importorskip("websockets")
    seen = States()
    with Bridge(site, 0.15) as bridge, user(bridge.endpoint, "ann", on_state=seen) as ann:
        for number in range(3):
            wait_until(lambda: bridge.cut > number, "the idle connection is cut")  # noqa: B023
            ann.send("ann", f"m{number}")
            assert receive(ann, 1) == [f"m{number}"]
        assert StateKind.RECONNECTING not in seen.kinds
        assert bridge.opened <= bridge.cut + 2
        assert ann.status().position == 3
        ann.change_password(PASSWORD, "correct horse 2")
