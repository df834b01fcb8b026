"""Stopping: replies in flight finish, waits end, and no peer can hold it up."""

import os
import signal
import threading
import time
from contextlib import ExitStack

import pytest
from listening import Kind, Peer, Server, make_listener, serving
from services import PASSWORD, START_MS, make_service
from waiting import join, wait_event, wait_until

from twinline.core.certificates import Certificate
from twinline.core.errors import LockRuleError
from twinline.core.protocol import REQUESTS, Ping, Reply, Request
from twinline.core.session import Session
from twinline.transports.listener import Listener, ListenerSettings

pytestmark = pytest.mark.usefixtures("each_listener")


@pytest.mark.parametrize("window", [0, 1000])
def test_drain_with_a_thousand_watchers_and_a_request_in_flight(window: int) -> None:
    server = Server(
        service=make_service(watches_per_account=1_000),
        settings=ListenerSettings(drain_seconds=30, login_seconds=60),
    )
    in_flight, go_on = threading.Event(), threading.Event()
    handle = server.service.handle

    def slow_ping(session: Session, request: Request) -> Reply:
        if isinstance(request, Ping):
            in_flight.set()
            wait_event(go_on, "the test lets the ping finish")
        return handle(session, request)

    server.let_requests_wait()
    server.service.handle = slow_ping  # type: ignore[method-assign]
    first = server.peer().enter("ann")
    session = server.service.session()
    token = server.service.login(session, "ann", PASSWORD).session
    watchers = []
    for _ in range(1000):
        peer = server.peer()
        # One by one: those who come back at once may be told to come later.
        assert peer.ask("resume", session=token)["ok"]
        peer.send_line(op="watch", id=2, after=0, wait=60, window=window)
        watchers.append(peer)
    server.wait_watching(1000, 30)
    first.send(b'{"op":"ping","id":5}\n{"op":"ping","id":6}\n')
    wait_event(in_flight, "the ping is under way")
    started = time.monotonic()
    server.listener.stop()
    wait_until(lambda: server.connections < 500, "most waits have ended", 20)
    go_on.set()
    join(server.thread, 20)
    assert time.monotonic() - started < 5
    assert first.read_line() == {"id": 5, "ok": True}
    assert first.read_line()["error"]["code"] == "shutting_down"
    assert first.rest() == b""
    for peer in watchers:
        error = peer.read_line()["error"]
        assert (error["code"], error["retry_after_ms"]) == ("shutting_down", 1000)
        assert peer.rest() == b""
        peer.close()
    first.close()
    with pytest.raises(ConnectionRefusedError):
        server.peer()


EVERY_REQUEST = {
    "hello": {},
    "ping": {},
    "create_account": {"username": "new", "password": PASSWORD},
    "login": {"username": "ann", "password": PASSWORD},
    "login_certificate": {},
    "resume": {"session": "TOKEN"},
    "list_accounts": {},
    "send": {"to": "ann", "body": "hello"},
    "watch": {"after": 0, "wait": 60},
    "ack": {"up_to": 0},
    "history": {},
    "conversations": {},
    "block": {"username": "bob"},
    "unblock": {"username": "bob"},
    "list_blocked": {},
    "set_receipts": {"receipts": False},
    "delete_messages": {"seqs": [1]},
    "trace": {"message_id": "0" * 24, "to": "ann"},
    "status": {},
    "change_password": {"password": PASSWORD, "new_password": "battery staple"},
    "delete_account": {"password": PASSWORD},
    "logout": {},
}
BEFORE_LOGIN = {request.op for request in REQUESTS if request.before_login}


@pytest.mark.parametrize("op", [request.op for request in REQUESTS])
def test_drain_against_every_request(op: str) -> None:
    """The request under way is carried out and answered, and then the connection ends.

    A watch that finds nothing would go on, so it is answered as those that wait are.
    """
    server = Server(settings=ListenerSettings(drain_seconds=30))
    under_way, go_on = threading.Event(), threading.Event()
    handle = server.service.handle

    def held(session: Session, request: Request) -> Reply:
        session.certificate = Certificate("ann", bytes(32), 2 * START_MS)
        if request.op == op and armed:
            under_way.set()
            wait_event(go_on, "the test lets it go on")
        return handle(session, request)

    armed = False
    server.let_requests_wait()
    server.service.handle = held  # type: ignore[method-assign]
    session = server.service.session()
    token = server.service.create_account(session, "ann", PASSWORD).session
    server.service.create_account(server.service.session(), "bob", PASSWORD)  # to be blocked
    with server.peer() as peer:
        if op not in BEFORE_LOGIN:
            peer.login("ann")
        fields = EVERY_REQUEST[op]
        if op == "resume":
            fields = {"session": token}
        armed = True
        peer.send_line(op=op, id=1, **fields)
        wait_event(under_way, "it is under way")
        server.listener.stop()
        wait_until(lambda: not _accepts(server), "the listener drains")
        go_on.set()
        reply = peer.read_line()
        assert (reply["id"], reply["ok"]) == (1, op != "watch"), reply
        assert reply.get("error", {}).get("code") == ("shutting_down" if op == "watch" else None)
        assert peer.rest() == b""
        join(server.thread)


def _accepts(server: Server) -> bool:
    try:
        Peer(server.endpoints[0]).close()
    except OSError:
        return False
    return True


def test_drain_against_peers_that_keep_coming() -> None:
    server = Server()
    ended = threading.Event()
    served: list[bool] = []

    def come_and_go() -> None:
        while not ended.is_set():
            try:
                with server.peer() as peer:
                    served.append(peer.ask("ping")["ok"])
            except (OSError, AssertionError):
                continue  # refused or cut, as one is by a server that stops

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(served) > 20, "they are served")
    server.stop()
    ended.set()
    for thread in threads:
        join(thread)
    assert server.connections == 0


def test_drain_cuts_what_does_not_finish(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(settings=ListenerSettings(drain_seconds=0.1))
    in_flight, go_on = threading.Event(), threading.Event()
    handle = server.service.handle

    def stuck(session: Session, request: Request) -> Reply:
        in_flight.set()
        wait_event(go_on, "the test lets it finish")
        return handle(session, request)

    server.let_requests_wait()
    server.service.handle = stuck  # type: ignore[method-assign]
    with server.peer() as peer:
        peer.send_line(op="ping", id=1)
        wait_event(in_flight, "the ping is under way")
        server.listener.stop()
        join(server.thread)
        assert "cut" in caplog.text
        assert peer.rest() == b""
        go_on.set()
    wait_until(lambda: server.connections == 0, "its thread ends all the same")


def test_a_signal_is_noticed_whichever_thread_it_comes_to() -> None:
    """Or one that comes just before the main thread waits: it would be held up for ever."""
    listener = make_listener()
    before = signal.signal(signal.SIGUSR1, lambda *_: listener.stop())
    other = threading.Timer(
        0.05, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
    )
    # Only for the case that it is not noticed.
    rescue = threading.Timer(20, listener.stop)
    try:
        other.start()
        rescue.start()
        started = time.monotonic()
        listener.serve_forever()
        assert time.monotonic() - started < 15
    finally:
        rescue.cancel()
        signal.signal(signal.SIGUSR1, before)
        join(other)
    assert signal.set_wakeup_fd(-1) == -1  # as it was


def test_stop_from_a_signal_handler() -> None:
    with serving() as server:
        before = signal.signal(signal.SIGUSR1, lambda *_: server.listener.stop())
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            join(server.thread)
        finally:
            signal.signal(signal.SIGUSR1, before)


def test_stop_during_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Listener, "_accept", lambda *_: False)
    with serving() as server, server.peer():
        wait_until(server.thread.is_alive, "it runs")
        server.stop()


def test_a_hangup_during_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server, server.peer() as leaving, ExitStack() as peers:
        leaving.enter("ann")
        leaving.send_line(op="watch", id=1, after=0, wait=60)
        server.wait_watching()
        paused = threading.Event()

        def exhausted(*_: object) -> bool:
            paused.set()
            return False

        def arrive() -> bool:
            # The first may still be taken by a call that began before the next line.
            peers.enter_context(server.peer())
            return paused.wait(0.1)

        monkeypatch.setattr(Listener, "_accept", exhausted)
        wait_until(arrive, "the listener pauses")
        leaving.close()
        server.wait_watching(0)


def test_close_without_serving_and_after() -> None:
    unused = make_listener()
    (endpoint,) = unused.endpoints
    unused.close()
    with pytest.raises(ConnectionRefusedError):
        Peer(endpoint)
    with serving() as server, server.peer() as peer:
        assert peer.ask("ping")["ok"]
        server.listener.close()
        join(server.thread)


def test_a_fault_in_a_connection_ends_that_connection_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object) -> Reply:
        raise ZeroDivisionError

    with serving() as server, server.peer() as bystander, server.peer() as peer:
        assert bystander.ask("ping")["ok"]
        handle = server.service.handle
        server.service.handle = broken  # type: ignore[assignment]
        peer.send_line(op="ping", id=1)
        assert peer.rest() == b""
        server.service.handle = handle  # type: ignore[method-assign]
        assert bystander.ask("ping")["ok"]
    assert "ZeroDivisionError" in caplog.text


def test_a_broken_lock_rule_is_not_swallowed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: raised.append(args.exc_type))
    with serving() as server, server.peer() as peer:

        def unlawful(*_: object) -> Reply:
            raise LockRuleError("two locks")

        server.service.handle = unlawful  # type: ignore[assignment]
        peer.send_line(op="ping", id=1)
        assert peer.rest() == b""
    if Kind.loop:
        assert "LockRuleError: two locks" in caplog.text  # as the loop reports it
    else:
        wait_until(lambda: raised == [LockRuleError], "the thread ended with the error")


def test_a_drain_is_told_over_a_time_and_sends_elsewhere() -> None:
    """Each at its moment and with a wait of its own; until then it is served as before."""
    spread = 0.6
    elsewhere = ("tls://b.example.org", "tcp://127.0.0.1:7768")
    server = Server(
        service=make_service(watches_per_account=100),
        settings=ListenerSettings(
            drain_spread_seconds=spread, drain_endpoints=elsewhere, drain_seconds=30
        ),
    )
    with ExitStack() as stack:
        peers = [stack.enter_context(server.peer()) for _ in range(24)]
        peers[0].enter("ann")
        for peer in peers[1:]:
            peer.login("ann")
        *watching, last = peers
        for number, peer in enumerate(watching):
            peer.send_line(op="watch", id=2, after=0, wait=60, window=number % 2)
        server.wait_watching(len(watching))
        began = time.monotonic()
        server.listener.stop()
        told = [watching[0].read_line()["error"]]
        assert time.monotonic() - began < spread / 2  # the first at once
        with pytest.raises(ConnectionRefusedError):
            server.peer()  # others get who comes now
        assert last.ask("ping")["ok"]
        told += [peer.read_line()["error"] for peer in watching[1:]]
        assert all(peer.rest() == b"" for peer in peers)  # one that has asked for nothing, too
        assert time.monotonic() - began >= spread * 0.9
        join(server.thread, 20)
    waits = {error["retry_after_ms"] for error in told}
    assert len(waits) > len(told) // 2
    assert all(1 <= wait <= 1000 for wait in waits)  # a moment, for its turn was its wait
    assert {tuple(error["endpoints"]) for error in told} == {elsewhere}


def test_connections_that_end_by_themselves_are_not_waited_for() -> None:
    server = Server(settings=ListenerSettings(drain_spread_seconds=60))
    with server.peer() as first, server.peer() as second:
        assert first.ask("ping")["ok"]
        assert second.ask("ping")["ok"]
        server.listener.stop()
        assert first.rest() == b""
    join(server.thread, 20)


@pytest.mark.parametrize("text", ["nowhere", "tcp://127.0.0.1:0", "tls://a?proxy=yes"])
def test_clients_are_sent_to_endpoints_that_they_can_connect_to(text: str) -> None:
    with pytest.raises(ValueError, match=r"not an endpoint|for listening only"):
        ListenerSettings(drain_endpoints=(text,))
