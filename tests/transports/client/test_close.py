"""close() ends the client at once, wherever its threads wait, and leaves none behind."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from client_kit import (
    FAST,
    MODES,
    Received,
    States,
    acking_after,
    fast,
    inbox_of,
    make_client,
    queued,
    threads_only,
    user,
    watcher_of,
    watchers,
    watches,
)
from fault_proxy import Fault, FaultProxy
from listening import socket_path
from servers import HELLO, ScriptedServer, Site
from services import PASSWORD
from waiting import Call, wait_event, wait_until

from twinline.core.protocol import Hello, Message, Reply, Request, Resume, SessionReply
from twinline.transports import registry
from twinline.transports.client import (
    Client,
    ClientClosed,
    ClientSettings,
    State,
    StateKind,
    WatchMode,
)
from twinline.transports.client.engine import commands as commands_module
from twinline.transports.client.engine import watcher as watcher_module
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener.binding import listen

SLOW = ClientSettings()  # nothing ends by itself within a test


def closed(call: Call) -> ClientClosed:
    """Return what a call has ended with: the client was closed."""
    with pytest.raises(ClientClosed) as ended:
        call.outcome()
    return ended.value


pytestmark = pytest.mark.usefixtures("both_clients")


def quickly(client: Client) -> None:
    """Close, which must not take long."""
    begin = time.monotonic()
    client.close()
    assert time.monotonic() - begin < 0.5
    assert not watchers()
    assert client.state.kind is StateKind.CLOSED


def test_while_waiting_for_the_next_attempt() -> None:
    with ScriptedServer() as server:
        server.script = lambda _: b""
        client = make_client(server.endpoint, settings=SLOW)
        first = Call(client.connect)
        wait_until(lambda: client.state.retry_in, "the pause after an attempt")
        second = Call(lambda: client.login("ann", PASSWORD))
        wait_until(lambda: queued(client), "a thread behind the first")
        quickly(client)
        closed(first)
        closed(second)


def test_while_waiting_for_hello() -> None:
    with ScriptedServer() as server:
        server.script = lambda _: None
        client = make_client(server.endpoint, settings=SLOW)
        call = Call(client.connect)
        wait_until(lambda: server.asked(Hello), "hello")
        quickly(client)
        closed(call)


def test_while_waiting_for_a_reply() -> None:
    with ScriptedServer() as server:
        client = make_client(server.endpoint, settings=SLOW)
        calls = [Call(client.ping), Call(client.ping)]
        wait_until(lambda: len(server.requests) == 2, "hello and a ping")
        wait_until(lambda: queued(client), "a ping behind the first")
        quickly(client)
        for call in calls:
            closed(call)


def test_while_a_send_is_in_doubt(site: Site) -> None:
    with FaultProxy(site.endpoint) as proxy, user(proxy.endpoint, "ann", settings=SLOW) as ann:
        proxy.wait_routes(2)
        route = proxy.routes[0]
        route.down.fault = Fault(blackhole=True)
        before = route.up.passed
        call = Call(lambda: ann.send("ann", "x"))
        wait_until(lambda: route.up.passed > before, "the send")
        quickly(ann)
        assert closed(call).send_id


def test_while_a_request_cannot_be_written() -> None:
    """The peer says hello and reads no more, and the buffers are full."""
    peers: list[socket.socket] = []
    limits = HELLO.limits.model_copy(update={"frame_bytes_before_login": 1 << 24})
    with socket_path() as path, closing(listen(Endpoint.parse(f"unix:{path}"))) as bound:
        bound.sockets[0].settimeout(5)

        def greet() -> None:
            peer, _ = bound.sockets[0].accept()
            peer.settimeout(5)
            peer.recv(4096)
            codec = registry.transport("jsonl").server_codec(4096)
            codec.send(1, HELLO.model_copy(update={"limits": limits}))
            peer.sendall(codec.data_to_send())
            peer.recv(1, socket.MSG_PEEK)
            peers.append(peer)

        greeting = Call(greet)
        client = make_client(bound.endpoint, settings=SLOW)
        call = Call(lambda: client.login("ann", "x" * 4_000_000))
        greeting.outcome()
        quickly(client)
        closed(call)
        peers[0].close()


@MODES
def test_while_the_watcher_waits_for_mail(site: Site, watch: WatchMode) -> None:
    with user(site.endpoint, "ann", settings=SLOW, watch=watch) as ann:
        wait_until(lambda: watches(ann), "the watcher waits")
        call = Call(lambda: list(ann.messages()))
        wait_until(lambda: inbox_of(ann)._ended._wakes, "the consumer waits")
        quickly(ann)
        assert call.outcome() == []


def test_while_the_watcher_reconnects(site: Site) -> None:
    seen = States()
    with (
        FaultProxy(site.endpoint) as proxy,
        user(proxy.endpoint, "ann", settings=SLOW, on_state=seen) as ann,
    ):
        proxy.wait_routes(2)
        wait_until(lambda: watcher_of(ann)._connection, "the watch connection")
        proxy.refuse()
        wait_until(lambda: ann.state.retry_in, "the pause after an attempt")
        call = Call(ann.status)
        wait_until(
            lambda: len(ann._engine._dialler._fifo._turns) == 2, "a command behind the watcher"
        )
        quickly(ann)
        closed(call)
    assert seen.kinds[-1] is StateKind.CLOSED


def test_while_the_application_deals_with_a_message(site: Site) -> None:
    with user(site.endpoint, "ann", settings=SLOW) as ann:
        ann.send("ann", "one")
        ann.send("ann", "two")
        loop = ann.messages()
        assert next(loop).body == "one"
        assert next(loop).body == "two"
        quickly(ann)
        assert next(loop, None) is None
    with make_client(site.endpoint, settings=FAST) as ann:
        ann.login("ann", PASSWORD)
        assert [message.body for message in ann.messages(0.05)] == ["two"]


@MODES
def test_what_a_handler_has_dealt_with_is_acked_whenever_close_comes(
    site: Site, watch: WatchMode
) -> None:
    with user(site.endpoint, "bob") as bob, user(site.endpoint, "ann") as ann:
        for number in range(10):
            handled = threading.Event()
            with make_client(
                site.endpoint, settings=FAST, watch=watch, on_message=lambda _, h=handled: h.set()
            ) as other:
                other.login("ann", PASSWORD)
                bob.send("ann", f"m{number}")
                wait_event(handled, "the message")
            wait_until(lambda: ann.status().unread == 0, "the ack", 1)


@contextmanager
def with_an_ack_that_does_not_arrive(site: Site, proxy: FaultProxy) -> Iterator[Client]:
    """Yield a client that has dealt with a message; the watch that acks it goes nowhere."""
    received = Received()
    with (
        user(site.endpoint, "bob", watch=WatchMode.OFF) as bob,
        user(proxy.endpoint, "ann", settings=SLOW, on_message=received) as ann,
        pytest.MonkeyPatch.context() as patch,
    ):
        # A stream's connection can still be asked, and it does not answer.
        patch.setattr(watcher_module, "FLUSH_SECONDS", 0.05)
        bob.send("ann", "one")
        wait_until(lambda: ann.status().position == 1, "the watch that acks it, and waits")
        proxy.wait_routes(2).up.fault = Fault(blackhole=True)
        bob.send("ann", "two")
        received.wait(2)
        wait_until(lambda: inbox_of(ann).unacked == 2, "it is dealt with")
        wait_until(lambda: watches(ann), "the next watch")
        yield ann


def unread(site: Site) -> int:
    """Return how many of ann's messages are not acked, as the server has it now."""
    with make_client(site.endpoint, settings=FAST, watch=WatchMode.OFF) as other:
        return other.login("ann", PASSWORD).unread


def test_an_ack_that_is_on_its_way_has_arrived_when_close_returns(
    site: Site, proxy: FaultProxy
) -> None:
    with with_an_ack_that_does_not_arrive(site, proxy) as ann:
        quickly(ann)
        assert unread(site) == 0


def test_an_ack_arrives_also_when_close_interrupts_a_command(site: Site, proxy: FaultProxy) -> None:
    with with_an_ack_that_does_not_arrive(site, proxy) as ann:
        route = proxy.routes[0]
        route.down.fault = Fault(blackhole=True)
        before = route.up.passed
        call = Call(ann.ping)
        wait_until(lambda: route.up.passed > before, "the ping")
        quickly(ann)
        closed(call)
        assert unread(site) == 0


def test_an_ack_arrives_also_when_two_threads_close(site: Site, proxy: FaultProxy) -> None:
    with with_an_ack_that_does_not_arrive(site, proxy) as ann:
        for call in [Call(ann.close), Call(ann.close)]:
            call.outcome()
        assert unread(site) == 0


def test_an_ack_to_a_server_that_is_gone_does_not_hold_close_up(
    site: Site, proxy: FaultProxy
) -> None:
    with with_an_ack_that_does_not_arrive(site, proxy) as ann:
        proxy.refuse()
        wait_until(lambda: ann.state.kind is StateKind.RECONNECTING, "the break is seen")
        quickly(ann)
        assert unread(site) == 1


def test_a_handler_that_does_not_return_keeps_no_ack_of_those_before_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher_module, "FLUSH_SECONDS", 0.05)
    acking_after(monkeypatch, 60)
    begun = threading.Event()
    go_on = threading.Event()

    def on_message(message: Message) -> None:
        if message.body == "three":
            begun.set()
            go_on.wait(5)

    with user(site.endpoint, "ann", watch=WatchMode.OFF) as ann:
        for body in ("one", "two", "three"):
            ann.send("ann", body)
    with make_client(site.endpoint, settings=FAST, on_message=on_message) as ann:
        ann.login("ann", PASSWORD)
        wait_event(begun, "the handler")
        ann.close()
        assert unread(site) == 1
        go_on.set()
        wait_until(lambda: not watchers(), "the watcher ends when the handler has")


def test_while_a_handler_is_paused(site: Site) -> None:
    failed = threading.Event()

    def on_message(_: Message) -> None:
        failed.set()
        raise ValueError("no")

    with user(
        site.endpoint,
        "ann",
        settings=SLOW,
        on_message=on_message,
        on_handler_error=lambda *_: None,
    ) as ann:
        ann.send("ann", "one")
        wait_event(failed, "the handler")
        quickly(ann)


def test_a_command_within_a_handler_ends_too(site: Site) -> None:
    raised: list[BaseException] = []
    begun = threading.Event()
    with ScriptedServer() as server:
        other = make_client(server.endpoint, settings=SLOW)

        def on_message(_: Message) -> None:
            begun.set()
            try:
                ann.connect()
                held.wait(5)
                ann.status()
            except ClientClosed as error:
                raised.append(error)
                raise

        held = threading.Event()
        with user(
            site.endpoint, "ann", on_message=on_message, on_handler_error=lambda *_: None
        ) as ann:
            ann.send("ann", "one")
            wait_event(begun, "the handler")
            closing = Call(ann.close)
            wait_until(lambda: ann.state.kind is StateKind.CLOSED, "closing")
            held.set()
            closing.outcome()
        assert len(raised) == 1
        assert not watchers()
        other.close()


def test_a_handler_that_does_not_return_does_not_hold_close_up(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher_module, "FLUSH_SECONDS", 0.05)
    begun = threading.Event()
    go_on = threading.Event()

    def on_message(_: Message) -> None:
        begun.set()
        go_on.wait(5)

    with user(site.endpoint, "ann", on_message=on_message) as ann:
        ann.send("ann", "one")
        wait_event(begun, "the handler")
        begin = time.monotonic()
        ann.close()
        assert time.monotonic() - begin < 1
        go_on.set()
        wait_until(lambda: not watchers(), "the watcher ends when the handler has")


def test_a_dead_connection_does_not_hold_close_up(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last ack gets no answer."""
    monkeypatch.setattr(watcher_module, "FLUSH_SECONDS", 0.05)
    monkeypatch.setattr(commands_module, "LAST_SECONDS", 0.05)
    acking_after(monkeypatch, 60)
    with FaultProxy(site.endpoint) as proxy, user(proxy.endpoint, "ann", settings=SLOW) as ann:
        ann.send("ann", "one")
        ann.send("ann", "two")
        wait_until(lambda: ann.status().unread == 2, "two messages")
    with FaultProxy(site.endpoint) as proxy, make_client(proxy.endpoint, settings=SLOW) as ann:
        ann.login("ann", PASSWORD)
        loop = ann.messages()
        assert next(loop).body == "one"
        assert next(loop).body == "two"
        for route in proxy.routes:
            route.down.fault = Fault(blackhole=True)
        quickly(ann)


def test_a_ping_that_gets_no_answer_is_cut(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher_module, "FLUSH_SECONDS", 0.05)
    with FaultProxy(site.endpoint) as proxy:
        # The window is full, so there is no stream to be kept alive by.
        settings = fast(wait_seconds=0.05, reply_seconds=30, window=1)
        with user(proxy.endpoint, "ann", settings=settings) as ann:
            ann.send("ann", "one")
            ann.send("ann", "two")
            loop = ann.messages()
            next(loop)
            watch = proxy.routes[1]
            watch.down.fault = Fault(blackhole=True)
            before = watch.up.passed
            wait_until(lambda: watch.up.passed > before, "a ping")
            quickly(ann)


@threads_only
def test_from_on_state_in_the_watchers_thread_closes_an_idle_command_connection(site: Site) -> None:
    closed = threading.Event()

    def on_state(state: State) -> None:
        if state.kind is StateKind.RECONNECTING and not closed.is_set():
            ann.close()
            closed.set()

    with FaultProxy(site.endpoint) as proxy, user(proxy.endpoint, "ann", on_state=on_state) as ann:
        proxy.wait_routes(2).cut()
        wait_event(closed, "the callback closes")
        assert ann._engine._commands._connection is None
        wait_until(lambda: not watchers(), "the watcher ends")


def test_twice_and_from_many_threads(site: Site) -> None:
    seen = States()
    with user(site.endpoint, "ann", on_state=seen) as ann:
        for thread in [threading.Thread(target=ann.close) for _ in range(4)]:
            thread.start()
        ann.close()
        ann.close()
        wait_until(lambda: seen.kinds.count(StateKind.CLOSED), "the last state")
        assert seen.kinds.count(StateKind.CLOSED) == 1
        assert seen.kinds[-1] is StateKind.CLOSED
        for call in (
            ann.ping,
            ann.status,
            ann.connect,
            ann.logout,
            lambda: ann.login("ann", PASSWORD),
            lambda: next(ann.messages()),
        ):
            with pytest.raises(ClientClosed):
                call()
    wait_until(lambda: threading.active_count() <= 6, "the closing threads")


def test_before_it_was_ever_connected() -> None:
    client = make_client("tcp://127.0.0.1:1", settings=FAST)
    client.close()
    with pytest.raises(ClientClosed):
        client.connect(1)


@threads_only
def test_a_login_that_is_overtaken_by_close_leaves_no_thread() -> None:
    """The reply is there, the watcher is not yet."""

    def on_state(state: State) -> None:
        if state.kind is StateKind.ONLINE:
            client.close()

    with ScriptedServer(one_session) as server:
        client = make_client(server.endpoint, settings=SLOW, on_state=on_state)
        client.login("ann", PASSWORD)
        assert not watchers()


def test_a_login_that_is_interrupted_once_it_is_done_watches_all_the_same() -> None:
    class Interrupted(BaseException):
        pass

    def on_state(state: State) -> None:
        if state.kind is StateKind.ONLINE and not watchers():
            raise Interrupted

    with (
        ScriptedServer(one_session) as server,
        make_client(server.endpoint, settings=SLOW, on_state=on_state) as client,
    ):
        with pytest.raises(Interrupted):
            client.login("ann", PASSWORD)
        assert client.username == "ann"
        wait_until(lambda: server.asked(Resume), "the watch connection")


def test_a_session_that_ends_before_its_watcher_starts_leaves_no_thread() -> None:
    ended: list[State] = []

    def on_state(state: State) -> None:
        link = client._engine.link
        if state.kind is StateKind.ONLINE and not ended:
            ended.append(state)
            link.session_ended(link.snapshot.session, "gone")

    with ScriptedServer(one_session) as server:
        client = make_client(server.endpoint, settings=SLOW, on_state=on_state)
        with client:
            client.login("ann", PASSWORD)
            assert not watchers()
            assert server.connections == 1
            client.login("ann", PASSWORD)  # its watcher does not wait for one that never began
            wait_until(lambda: server.asked(Resume), "the watch connection")


def one_session(request: Request) -> Reply:
    """Answer hello, and all else as a login."""
    if isinstance(request, Hello):
        return HELLO
    return SessionReply(username="ann", session="token", position=0, unread=0)
