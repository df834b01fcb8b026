"""What only an event loop's listener has: what may not run on it, and races with its workers."""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from descriptors import nothing_left_open
from listening import (
    Hold,
    Peer,
    Server,
    loops_only,
    mail,
    said,
    serving,
)
from services import PASSWORD, START_MS, cheap_hasher, count_subscriptions, enter, make_service
from waiting import Call, join, wait_event, wait_until

from twinline.core.certificates import Certificate
from twinline.core.looks import Look
from twinline.core.protocol import REQUESTS, Send
from twinline.core.service import ChatService
from twinline.stores.registry import open_store
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener import ListenerSettings
from twinline.transports.listener import workers as workers_module

pytestmark = [pytest.mark.usefixtures("each_listener"), loops_only]
PING = b'{"op":"ping","id":90}\n'


def blocking_service(**settings: object) -> ChatService:
    """Return a service over a store that says that it blocks, as most do."""
    service = make_service(**settings)  # type: ignore[arg-type]
    service.store.blocks = True
    return service


def note_threads(server: Server) -> dict[str, set[bool]]:
    """Return by op, from now on, whether the loop's thread carries requests out."""
    handle, noted = server.service.handle, dict[str, set[bool]]()

    def note(session: Any, job: Any) -> Any:
        session.certificate = Certificate("ann", bytes(32), 2 * START_MS)
        name = "look" if isinstance(job, Look) else job.op
        noted.setdefault(name, set()).add(threading.get_ident() == server.thread.ident)
        return handle(session, job)

    server.service.handle = note  # type: ignore[method-assign]
    return noted


# -- what runs where ------------------------------------------------------------------------

EVERY_REQUEST: dict[str, dict[str, object]] = {
    "hello": {},
    "ping": {},
    "create_account": {"username": "new", "password": PASSWORD},
    "logout": {},
    "login": {"username": "ann", "password": PASSWORD},
    "list_accounts": {},
    "send": {"to": "ann", "body": "hello"},
    "watch": {"after": 0},
    "ack": {"up_to": 1},
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
    "delete_account": {"password": "battery staple"},
}
LONG = {
    "create_account",
    "login",
    "list_accounts",
    "trace",
    "change_password",
    "delete_account",
}


@pytest.mark.parametrize("blocks", [False, True])
def test_what_may_block_never_runs_on_the_loop(blocks: bool) -> None:
    """Hashes and listings never, and no request at all where the store says that it blocks."""
    service = make_service()
    service.store.blocks = blocks
    enter(service, "ann")
    token = service.create_account(service.session(), "bob", PASSWORD).session
    others = {"resume", "login_certificate"}
    assert EVERY_REQUEST.keys() | others == {request.op for request in REQUESTS}
    with serving(service=service) as server:
        noted = note_threads(server)
        with server.peer() as peer:
            peer.ask("resume", session=token)
        with server.peer() as peer:
            assert peer.ask("login_certificate")["ok"]
        peer = server.peer()
        for op, fields in EVERY_REQUEST.items():
            assert peer.ask(op, **fields)["ok"], op
            if op == "logout":
                peer.close()
                peer = server.peer()
        peer.close()
        on_loop = {op for op, where in noted.items() if where == {True}}
        elsewhere = {op for op, where in noted.items() if where == {False}}
    everything = {"look", *others, *EVERY_REQUEST} - {"watch"}
    assert on_loop | elsewhere == everything
    assert elsewhere == (everything - {"hello", "ping"} if blocks else LONG)


# -- workers --------------------------------------------------------------------------------


class Gate:
    """Holds up every call until it is opened, and counts those that are held up at once."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.inside = self.most = 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        wait_event(self.open, "the test opens the gate")
        with self._lock:
            self.inside -= 1


def gate_sends(service: ChatService) -> Gate:
    """Have each message that is to be sent wait at a gate."""
    gate, handle = Gate(), service.handle

    def gated(session: Any, job: Any) -> Any:
        if isinstance(job, Send):
            gate()
        return handle(session, job)

    service.handle = gated  # type: ignore[method-assign]
    return gate


def test_pipelined_requests_on_a_store_that_blocks_are_answered_one_by_one_in_order() -> None:
    service = blocking_service()
    gate = gate_sends(service)
    with serving(service=service) as server, server.peer() as ann:
        ann.enter("ann")
        ann.send(
            b"".join(b'{"op":"send","id":%d,"to":"ann","body":"%d"}\n' % (n, n) for n in range(50))
            + PING
        )
        wait_until(lambda: gate.inside == 1, "the first is carried out")
        gate.open.set()
        assert [ann.read_line()["id"] for _ in range(50)] == list(range(50))
        assert ann.read_line()["id"] == 90
        assert said(ann.ask("watch", after=0))[1] == [f"{number}" for number in range(50)]
    assert gate.most == 1


def test_requests_of_many_connections_reach_a_store_that_blocks_side_by_side() -> None:
    """So a store that commits in groups sees many of them at once."""
    service = blocking_service()
    gate = gate_sends(service)
    enter(service, "bob")
    token = service.create_account(service.session(), "ann", PASSWORD).session
    with serving(service=service, loop_workers=20) as server:
        peers = [server.peer() for _ in range(30)]
        for peer in peers:
            assert peer.ask("resume", session=token)["ok"]
        for peer in peers:
            peer.send_line(op="send", id=1, to="bob", body="x")
        wait_until(lambda: gate.inside == 20, "as many as there may be")
        # And those that no store has to do with wait for none of them.
        with server.peer() as other:
            assert other.send(PING).read_line()["ok"]
            assert other.ask("hello")["ok"]
            # Nor do those that take long.
            assert other.ask("login", username="bob", password=PASSWORD)["ok"]
        gate.open.set()
        assert all(peer.read_line()["ok"] for peer in peers)
        for peer in peers:
            peer.close()
    assert gate.most == 20


def test_mail_is_not_held_up_by_logins_that_wait_for_their_hashes() -> None:
    hold = Hold()
    service = blocking_service()
    verify = service._accounts.log_in

    def held(*arguments: Any, **options: Any) -> Any:
        hold()
        return verify(*arguments, **options)

    service._accounts.log_in = held  # type: ignore[method-assign]
    with (
        serving(service=service, loop_workers=1) as server,
        server.peer() as bob,
        server.peer() as late,
    ):
        bob.enter("bob").send_line(op="watch", id=5, after=0, wait=30, window=10)
        ann = enter(service, "ann")
        server.wait_watching()
        late.send_line(op="login", id=1, username="ann", password=PASSWORD)
        hold.wait_reached()
        mail(server, ann, "a")
        assert said(bob.read_line()) == (5, ["a"], True)
        hold.release()
        assert late.read_line()["ok"]


def test_the_drain_waits_for_a_pool_that_is_full() -> None:
    """What is under way is answered, and what waits for a worker is as well."""
    service = blocking_service()
    gate = gate_sends(service)
    token = service.create_account(service.session(), "ann", PASSWORD).session
    server = Server(service=service, settings=ListenerSettings(loop_workers=1, drain_seconds=30))
    peers = [server.peer() for _ in range(5)]
    for peer in peers:
        assert peer.ask("resume", session=token)["ok"]
    for peer in peers:
        peer.send_line(op="send", id=1, to="ann", body="x")
    in_store = server.listener._workers
    wait_until(lambda: gate.inside + in_store._pending == 5, "one is carried out, the others wait")
    server.listener.stop()
    wait_until(lambda: not any(map(is_listening, server.endpoints)), "it drains")
    gate.open.set()
    for peer in peers:
        assert peer.read_line()["ok"]
        assert peer.rest() == b""
        peer.close()
    join(server.thread)
    assert gate.most == 1


def is_listening(endpoint: Endpoint) -> bool:
    try:
        Peer(endpoint).close()
    except OSError:
        return False
    return True


def test_a_full_pool_that_does_not_finish_is_cut_and_leaves_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = blocking_service()
    gate = gate_sends(service)
    token = service.create_account(service.session(), "ann", PASSWORD).session
    with nothing_left_open():
        before = set(threading.enumerate())
        server = Server(
            service=service, settings=ListenerSettings(loop_workers=1, drain_seconds=0.05)
        )
        peers = [server.peer() for _ in range(3)]
        for peer in peers:
            assert peer.ask("resume", session=token)["ok"]
        for peer in peers:
            peer.send_line(op="send", id=1, to="ann", body="x")
        wait_until(lambda: gate.inside == 1, "one is carried out")
        server.stop()
        assert "3 connections did not finish in time" in caplog.text
        for peer in peers:
            assert peer.rest() == b""
            peer.close()
        assert server.connections == 0
        gate.open.set()  # the store answers at last, and there is no loop to tell
        wait_until(lambda: set(threading.enumerate()) <= before, "its threads have ended")
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("leave", ["close", "reset"])
@pytest.mark.parametrize("op", ["login", "resume", "watch", "send", "status"])
def test_a_worker_that_answers_a_connection_that_is_gone(
    op: str, leave: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told to nobody, and nothing is left of it: no subscription, no descriptor, no error."""
    service = blocking_service()
    subscriptions = count_subscriptions(service)
    session = service.session()
    token = service.create_account(session, "bob", PASSWORD).session
    fields: dict[str, dict[str, object]] = {
        "login": {"username": "bob", "password": PASSWORD},
        "resume": {"session": token},
        "watch": {"after": 0, "wait": 30, "window": 10},
        "send": {"to": "bob", "body": "x"},
        "status": {},
    }
    with nothing_left_open(), serving(service=service) as server:
        peer, hold, handled = server.peer(), Hold(), threading.Event()
        assert peer.send(PING).read_line()["ok"]  # so that the loop reads on from now on
        if op not in ("login", "resume"):
            peer.login("bob")
        handle = service.handle

        def held(session: Any, job: Any) -> Any:
            hold()
            try:
                return handle(session, job)
            finally:
                handled.set()

        service.handle = held  # type: ignore[method-assign]
        peer.send_line(op=op, id=1, **fields[op])
        hold.wait_reached()
        if leave == "reset":
            linger = struct.pack("ii", 1, 0)
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        peer.close()
        if leave == "reset":
            server.wait_connections(0)
        hold.release()
        wait_event(handled, "the store has answered")
        server.wait_connections(0)
        server.wait_watching(0)
        wait_until(lambda: not +subscriptions, f"no subscription is left of {subscriptions}")
        if op == "send":
            assert service.login(service.session(), "bob", PASSWORD).unread == 1
    assert "Traceback" not in caplog.text


def test_where_no_worker_can_be_started_a_request_is_busy_and_its_connection_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> Callable[[], object]:
        raise RuntimeError("can't start new thread")

    with serving() as server, server.peer() as peer:
        enter(server.service, "ann")
        with monkeypatch.context() as patched:
            patched.setattr(workers_module, "start_thread", refuse)
            reply = peer.ask("login", username="ann", password=PASSWORD)
            assert (reply["error"]["code"], reply["error"]["retryable"]) == ("busy", True)
            assert peer.send(PING).read_line()["ok"]
        assert peer.ask("login", username="ann", password=PASSWORD)["ok"]


def test_a_worker_that_ended_before_it_ran_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does whose first allocation fails: the login waits a moment, and no longer."""
    start, died = workers_module.start_thread, threading.Event()

    def stillborn(*arguments: Any) -> Callable[[], object | None]:
        if died.is_set():
            return start(*arguments)
        died.set()
        return lambda: None

    monkeypatch.setattr(workers_module, "start_thread", stillborn)
    with serving() as server, server.peer() as peer:
        enter(server.service, "ann")
        assert peer.ask("login", username="ann", password=PASSWORD)["ok"]
    assert died.is_set()


def test_nothing_more_is_written_to_a_peer_that_has_reset_its_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of which asyncio would warn, a page each, in the log of whoever is attacked."""
    with serving() as server, server.peer() as peer:
        peer.enter("bob")
        mail(server, enter(server.service, "ann"), *["x"] * 100)
        hold, handle = Hold(), server.service.handle

        def held(session: Any, job: Any) -> Any:
            hold()
            return handle(session, job)

        server.service.handle = held  # type: ignore[method-assign]
        peer.send_line(op="watch", id=5, after=0, limit=1, window=100, wait=30)
        hold.wait_reached()  # in the loop itself
        linger = struct.pack("ii", 1, 0)
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        peer.close()
        hold.release()
        server.wait_connections(0)
    assert not [each for each in caplog.records if each.name == "asyncio"]


# -- mail against the end -------------------------------------------------------------------


def test_wakes_of_a_stores_thread_against_the_close(tmp_path: Path) -> None:
    """It writes with a thread of its own, which wakes a loop that ends, is closed, or is gone."""
    with closing(open_store(f"sqlite:{tmp_path / 's.db'}")) as store:
        service = ChatService(store, hasher=cheap_hasher())
        ann = enter(service, "ann")
        tokens = [
            service.create_account(service.session(), f"bob{n}", PASSWORD).session for n in range(4)
        ]
        ended = threading.Event()

        def write() -> int:
            count = 0
            while not ended.is_set():
                service.send(ann, f"bob{count % 4}", "x")
                count += 1
            return count

        with nothing_left_open():
            writing = [Call(write) for _ in range(2)]
            for _ in range(15):
                server = Server(service=service, settings=ListenerSettings(drain_seconds=5))
                peers = [server.peer() for _ in tokens]
                for peer, token in zip(peers, tokens, strict=True):
                    unread = peer.ask("resume", session=token)["unread"]
                    peer.send_line(op="watch", id=5, after=unread, ack=unread, wait=30, window=1000)
                for peer in peers:
                    assert peer.read_line()["ok"]
                server.stop()
                for peer in peers:
                    peer.rest()
                    peer.close()
                assert server.connections == 0
                server.wait_watching(0)
                server.service.store.mailboxes.on_mail = server._on_mail  # type: ignore[method-assign]
            ended.set()
            for each in writing:
                each.outcome()
