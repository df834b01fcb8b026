"""The clients over TLS: whom they trust, how handshakes end, and what TLS says by itself."""

import asyncio
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aio_kit import aio
from client_kit import (
    FAST,
    States,
    failures,
    fast,
    make_client,
    receive,
    refused,
    send_half,
    user,
)
from forking import Child
from listening import tcp_pair
from named import NAME, look_up_with, naming
from servers import Site
from services import PASSWORD
from waiting import Call, wait_until

pytest.importorskip("cryptography")
from sealing import server_tls, trusting

from twinline.core.deadline import Deadline
from twinline.core.protocol import Done, Ping, Watch, WatchReply
from twinline.transports.client import (
    AsyncClient,
    Client,
    ClientClosed,
    NotConnected,
    StateKind,
)
from twinline.transports.client.backends.threads import SocketConnection, run
from twinline.transports.client.engine.connection import ConnectionBroken
from twinline.transports.endpoints import Endpoint, EndpointError
from twinline.transports.jsonl import JsonlTransport
from twinline.transports.listener import ListenerSettings
from twinline.transports.listener.binding import listen
from twinline.transports.tls import TlsLayer

TLS = "tls://127.0.0.1:0"
PONG = b'{"id":1,"ok":true}\n'


def serving(issued: Any, endpoint: str = TLS) -> Site:
    files = {"tls_certificate": str(issued.certificate), "tls_key": str(issued.key)}
    return Site(endpoint, listener_settings=ListenerSettings(**files))


@pytest.fixture
def sealed(certificates: Any) -> Iterator[Site]:
    with serving(certificates.server) as site:
        yield site


# -- whom they trust ------------------------------------------------------------------------


@pytest.mark.usefixtures("both_clients")
@pytest.mark.parametrize(
    ("which", "why"),
    [
        ("expired", "certificate has expired"),
        ("wrong_host", "IP address mismatch"),
        ("unknown", "not trusted here"),
    ],
)
def test_a_server_that_is_not_who_it_has_to_be_is_told_nothing(
    certificates: Any, which: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    with serving(getattr(certificates, which)) as site:
        monkeypatch.setattr(site.service, "handle", lambda _, request: told.append(request))
        seen = refused(site.endpoint, why, tls=trusting(certificates))
    assert not told
    reasons = [state.reason for state in seen.seen if state.reason is not None]
    assert reasons[0].startswith("the server's certificate is refused: ")
    assert seen.seen[0].retry_in  # it may be renewed


@pytest.mark.usefixtures("both_clients")
def test_another_address_is_tried_where_one_has_a_wrong_certificate(certificates: Any) -> None:
    seen = States()
    named = certificates.ca.issue("named", hosts=(NAME,))
    with (
        serving(named) as right,
        serving(certificates.wrong_host, f"tls://127.0.0.2:{right.endpoint.port}"),
        make_client(
            f"tls://{NAME}.:{right.endpoint.port}",  # the dot is the resolver's
            tls=trusting(certificates),
            on_state=seen,
            settings=FAST,
        ) as client,
    ):
        look_up_with(client, naming("127.0.0.2", "127.0.0.1"))
        client.create_account("ann", PASSWORD)
        client.send("ann", "hello")
        assert next(iter(client.messages(5))).body == "hello"
    refused = [state.reason for state in seen.seen if state.reason is not None]
    assert len(refused) == 1  # the watch connection goes where the first one got on
    assert "Hostname mismatch" in refused[0]


def test_a_context_is_for_tls_and_of_a_client(certificates: Any) -> None:
    context = trusting(certificates)
    for made in (Client, AsyncClient):
        with pytest.raises(EndpointError, match="in plain; a context of TLS is for tls:// and"):
            made("tcp://127.0.0.1:1", tls=context)
        with pytest.raises(ValueError, match="one of a server"):
            made("tls://127.0.0.1:1", tls=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


# -- how handshakes end ---------------------------------------------------------------------


@contextmanager
def mute() -> Iterator[tuple[str, socket.socket]]:
    """Yield an endpoint that takes connections and says nothing, and its socket."""
    bound = listen(Endpoint.parse("tcp://127.0.0.1:0"))
    bound.sockets[0].settimeout(10)
    try:
        yield str(bound.endpoint).replace("tcp", "tls"), bound.sockets[0]
    finally:
        bound.close()


@pytest.mark.usefixtures("both_clients")
def test_the_time_to_connect_is_also_that_of_the_handshake(certificates: Any) -> None:
    settings = fast(connect_seconds=0.2, reply_seconds=60)
    begin = time.monotonic()
    with (
        mute() as (endpoint, _),
        make_client(endpoint, tls=trusting(certificates), settings=settings) as client,
        pytest.raises(NotConnected, match="did not answer in time"),
    ):
        client.connect(0.5)
    assert time.monotonic() - begin < 10


@pytest.mark.usefixtures("both_clients")
def test_closing_ends_a_handshake(certificates: Any) -> None:
    settings = fast(connect_seconds=60, reply_seconds=60, command_seconds=60)
    with mute() as (endpoint, listening):
        client = make_client(endpoint, tls=trusting(certificates), settings=settings)
        connecting = Call(client.connect)
        peer, _ = listening.accept()
        with peer:
            peer.settimeout(10)
            assert peer.recv(3)[:2] == b"\x16\x03"  # the handshake has begun
            client.close()
            with pytest.raises(ClientClosed):
                connecting.outcome()
            while peer.recv(65536):
                pass


def test_a_task_that_is_cancelled_in_a_handshake_leaves_nothing(certificates: Any) -> None:
    async def main() -> None:
        settings = fast(connect_seconds=60, reply_seconds=60)
        loop = asyncio.get_running_loop()
        with mute() as (endpoint, listening):
            listening.setblocking(False)
            async with AsyncClient(endpoint, tls=trusting(certificates), settings=settings) as ann:
                connecting = asyncio.create_task(ann.connect())
                peer, _ = await asyncio.wait_for(loop.sock_accept(listening), 10)
                with peer:
                    assert await asyncio.wait_for(loop.sock_recv(peer, 3), 10)
                    connecting.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await connecting
                    while await asyncio.wait_for(loop.sock_recv(peer, 65536), 10):
                        pass

    aio(main)


# -- forks ----------------------------------------------------------------------------------


def test_a_child_says_nothing_on_its_parents_connections(sealed: Site, certificates: Any) -> None:
    seen = States()
    options = {"tls": trusting(certificates), "on_state": seen}
    with user(sealed.endpoint, "ann", **options) as ann:
        commands = ann._engine._commands
        before = commands._connection

        def speak() -> None:
            ann.send("ann", "from the child")
            ann.close()

        Child(speak).end()
        ann.send("ann", "from the parent")
        assert commands._connection is before
        assert StateKind.RECONNECTING not in seen.kinds
        bodies = [message.body for message in ann.messages(0.5)]
        assert bodies == ["from the child", "from the parent"]


# -- what TLS says by itself ----------------------------------------------------------------


class Sealed:
    """A connection over TLS, and its peer, by hand.

    Attributes:
        connection: the client's; the handshake was made.
        peer: the socket of the other end.
        layer: its TLS.
    """

    def __init__(self, certificates: Any) -> None:
        ours, self.peer = tcp_pair()
        layer = TlsLayer(trusting(certificates), "localhost")
        self.connection = SocketConnection(ours, JsonlTransport(), layer=layer)
        self.layer = server_tls(certificates).layer()
        establishing = Call(lambda: run(self.connection.establish(Deadline.after(10))))
        while not self.layer.established:
            assert self.take() == b""
            self.peer.sendall(self.layer.send(b""))
        establishing.outcome()

    def take(self) -> bytes:
        """Return what comes next says."""
        return self.layer.receive_data(self.peer.recv(65536))

    def say(self, data: bytes, *, last: bool = False) -> None:
        """Send something in one piece, with the end of TLS behind it or not."""
        self.peer.sendall(self.layer.send(data, last=last))

    def wait_arrived(self) -> None:
        wait_until(lambda: not self.connection.is_quiet(), "something has come")


@pytest.fixture
def pair(certificates: Any) -> Iterator[Sealed]:
    made = Sealed(certificates)
    with made.peer:
        yield made
        made.connection.close()


def test_a_ticket_is_no_sign_of_an_end_and_what_else_comes_is(certificates: Any) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server.certificate, certificates.server.key)
    assert context.num_tickets == 2
    for said in (PONG, b""):
        ours, theirs = socket.socketpair()
        with theirs:
            layer = TlsLayer(trusting(certificates, "1.3"), "localhost")
            connection = SocketConnection(ours, JsonlTransport(), layer=layer)
            shaking = Call(lambda theirs=theirs: context.wrap_socket(theirs, server_side=True))
            run(connection.establish(Deadline.after(10)))
            peer = shaking.outcome()
            wait_until(lambda: not connection.is_quiet(), "the tickets")  # noqa: B023
            assert run(connection.is_alive())
            assert connection.is_quiet()
            if said:
                peer.sendall(said)
            else:
                socket.socket.sendall(peer, b"\x15\x03\x03\x00\x13" + b"forged" * 3 + b".")
            wait_until(lambda: not connection.is_quiet(), "what the server says")  # noqa: B023
            assert not run(connection.is_alive())
            connection.close()
            peer.close()


def test_a_reply_counts_with_the_end_of_tls_behind_it(pair: Sealed) -> None:
    asking = Call(lambda: run(pair.connection.exchange(Ping(), Deadline.after(10))))
    assert pair.take() == b'{"op":"ping","id":1}\n'
    pair.say(PONG, last=True)
    assert isinstance(asking.outcome(), Done)
    assert pair.connection.closed
    assert not run(pair.connection.is_alive())


def test_messages_count_with_the_end_of_tls_behind_them(pair: Sealed) -> None:
    pair.connection.send(Watch(after=0, window=8, wait=30), Deadline.after(10))
    assert b'"watch"' in pair.take()
    pair.say(b'{"id":1,"ok":true,"messages":[],"position":3,"seen":3}\n', last=True)
    answers = run(pair.connection.receive(Deadline.after(10)))
    assert answers is not None
    assert [type(answer.reply) for answer in answers] == [WatchReply]
    with pytest.raises(ConnectionBroken, match="ended the connection"):
        run(pair.connection.receive(Deadline.after(10)))


def test_the_end_of_tls_is_one_though_the_socket_stays(pair: Sealed) -> None:
    pair.say(b"", last=True)
    pair.wait_arrived()
    assert not run(pair.connection.is_alive())
    with pytest.raises(ConnectionBroken, match="the server ended the connection"):
        run(pair.connection.exchange(Ping(), Deadline.after(10)))


def test_an_end_without_the_end_of_tls_is_told_from_one_with_it(pair: Sealed) -> None:
    asking = Call(lambda: run(pair.connection.exchange(Ping(), Deadline.after(10))))
    assert pair.take()
    pair.peer.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionBroken, match="cut off: TLS was not closed"):
        asking.outcome()


def test_an_idle_connection_is_closed_as_tls_has_it(pair: Sealed) -> None:
    pair.connection.close()
    assert pair.take() == b""
    assert pair.layer.ended
    assert pair.peer.recv(1) == b""


def test_nothing_follows_what_was_not_sent_to_its_end(pair: Sealed) -> None:
    send_half(pair.connection)
    assert pair.connection.closed
    while data := pair.peer.recv(65536):
        pair.layer.receive_data(data)
    assert pair.layer.mid_record
    assert not pair.layer.ended


@pytest.mark.usefixtures("both_clients")
def test_a_server_that_ends_tls_behind_the_resume_has_failed_the_attempt(
    certificates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught = failures(monkeypatch)
    seen = States()
    ended: list[bool] = []
    seal = TlsLayer.send

    def send(layer: TlsLayer, data: bytes, *, last: bool = False) -> bytes:
        if b'"session"' in data and b'"op"' not in data and len(ended) < 4:
            ended.append(True)  # the first is that of the account's making
            last = len(ended) > 1
        return seal(layer, data, last=last)

    monkeypatch.setattr(TlsLayer, "send", send)
    with (
        serving(certificates.server) as site,
        user(
            site.endpoint, "ann", tls=trusting(certificates), on_state=seen, transport="jsonl"
        ) as ann,
    ):
        ann.send("ann", "hello")
        assert receive(ann, 1) == ["hello"]
    assert len(ended) == 4
    assert "the server ended the connection" in {state.reason for state in seen.seen}
    assert not caught
