"""Races of an open stream, made to happen: with mail, with renewals, with what ends it."""

import json
import select
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Any

import pytest
from listening import (
    Hold,
    Kind,
    Peer,
    Server,
    loops_only,
    mail,
    mail_without_end,
    note_unsent,
    said,
    serving,
    socket_path,
    threads_only,
)
from services import PASSWORD, count_subscriptions, enter, make_service
from waiting import Call, wait_event, wait_until

from twinline.core.errors import LockRuleError, NoSuchUser, ShuttingDown
from twinline.core.locks import new_lock
from twinline.core.protocol import (
    CreateAccount,
    Done,
    ErrorReply,
    Ping,
    SessionReply,
    Watch,
    WatchReply,
)
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.core.store import MailboxPolicy
from twinline.transports.contract import ReplyReceived
from twinline.transports.listener.connection import Connection
from twinline.transports.listener.conversation import Conversation
from twinline.transports.listener.loop_connection import LoopConnection
from twinline.transports.wakeup import WakeDescriptor

pytestmark = pytest.mark.usefixtures("each_listener")
forms = pytest.mark.usefixtures("wake_form")  # which are two
PING = b'{"op":"ping","id":90}\n'


def open_stream(server: Server, peer: Peer, *, window: int) -> Session:
    """Have bob watch by a stream that has brought a message, and return its sender."""
    peer.enter("bob")
    ann = enter(server.service, "ann")
    peer.send_line(op="watch", id=5, after=0, wait=30, window=window)
    server.wait_watching()
    mail(server, ann, "a")
    assert said(peer.read_line()) == (5, ["a"], True)
    return ann


# -- mail -----------------------------------------------------------------------------------


@forms
def test_mail_that_comes_between_the_empty_look_and_the_wait_is_brought() -> None:
    with serving() as server, server.peer() as peer:
        peer.enter("bob")
        ann = enter(server.service, "ann")
        hold = Hold()
        server.around_looks(after=lambda *_: hold())
        peer.send_line(op="watch", id=5, after=0, wait=30, window=10)
        hold.wait_reached()
        mail(server, ann, "a")
        hold.release()
        assert said(peer.read_line()) == (5, ["a"], True)


def test_mail_that_comes_between_the_subscription_and_the_first_look_is_brought_once() -> None:
    with serving() as server, server.peer() as peer:
        peer.enter("bob")
        ann = enter(server.service, "ann")
        hold = Hold()
        look = server.service.store.mailboxes.look

        def held(*arguments: Any) -> Any:
            hold()
            return look(*arguments)

        server.service.store.mailboxes.look = held  # type: ignore[method-assign]
        peer.send_line(op="watch", id=5, after=0, wait=30, window=10)
        hold.wait_reached()
        assert len(server.subscriptions) == 1
        mail(server, ann, "a")
        hold.release()
        assert said(peer.read_line()) == (5, ["a"], True)
        mail(server, ann, "b")
        assert said(peer.read_line()) == (5, ["b"], True)


@threads_only
@pytest.mark.parametrize(
    "step",
    ["before _flush", "after _flush", "before _wait", "before clear", "after clear"],
)
@forms
def test_a_wake_while_the_owner_is_busy_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """While it writes a page, is about to wait, or takes the wake before."""
    owner = WakeDescriptor if step.endswith("clear") else Connection
    assert_no_wake_is_lost(monkeypatch, owner, step)


@loops_only
@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("step", ["go_on", "look_again", "handle", "_flush", "_rest"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_wake_while_the_loop_is_busy_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, when: str, step: str, blocks: bool
) -> None:
    """While it, or a worker, is at any step from the mark to the rest."""
    owner: type = {"look_again": Conversation, "handle": ChatService}.get(step, LoopConnection)
    assert_no_wake_is_lost(monkeypatch, owner, f"{when} {step}", blocks=blocks)


def assert_no_wake_is_lost(
    monkeypatch: pytest.MonkeyPatch, owner: type, step: str, *, blocks: bool = False
) -> None:
    hold, armed = Hold(), threading.Event()
    when, name = step.split()
    carry_out = getattr(owner, name)

    def held(*arguments: object) -> object:
        if armed.is_set() and when == "before":
            hold()
        outcome = carry_out(*arguments)
        if armed.is_set() and when == "after":
            hold()
        return outcome

    monkeypatch.setattr(owner, name, held)
    service = make_service()
    service.store.blocks = blocks
    with serving(service=service) as server, server.peer() as peer:
        ann = open_stream(server, peer, window=10)
        armed.set()
        mail(server, ann, "b")
        hold.wait_reached()
        mail(server, ann, "c", "d")
        hold.release()
        bodies: list[str] = []
        while len(bodies) < 3:
            about, found, more = said(peer.read_line())
            assert (about, more) == (5, True)
            bodies += found
        assert bodies == list("bcd")
        assert said(peer.send(PING).read_line()) == (5, [], False)


def test_a_wake_while_the_owner_waits_for_its_peer_to_read_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocked = threading.Event()
    note_unsent(monkeypatch, lambda _: blocked.set())
    service = make_service(body_bytes=64 * 1024)
    with (
        socket_path() as path,
        serving([(f"unix:{path}", "auto")], service) as server,
        server.peer() as peer,
    ):
        peer.enter("bob")
        ann = enter(service, "ann")
        mail(server, ann, "x" * 60_000)
        peer.send(b'{"op":"watch","id":4,"after":0}\n' * 20)  # more than the socket holds
        wait_event(blocked, "the server cannot write for now")
        peer.send_line(op="watch", id=5, after=0, wait=30, window=10)
        mail(server, ann, "b")
        for _ in range(20):
            assert said(peer.read_line())[0] == 4
        bodies = said(peer.read_line())[1]
        while len(bodies) < 2:
            bodies += said(peer.read_line())[1]
        assert bodies == ["x" * 60_000, "b"]


# -- renewals -------------------------------------------------------------------------------


@pytest.mark.parametrize("spoken", ["jsonl", "binary"])
@forms
def test_renewals_at_full_speed_lose_and_repeat_nothing(spoken: str) -> None:
    """Thousands of them cross mail that is on its way, and many of them their stream's end."""
    messages, window = 6_000, 4
    with serving() as server, server.speaker(spoken) as peer:
        assert isinstance(peer.ask(CreateAccount(username="bob", password=PASSWORD)), SessionReply)
        ann = enter(server.service, "ann")
        unread = threading.Semaphore(1_000)  # fewer than a mailbox holds

        def write() -> None:
            for number in range(messages):
                assert unread.acquire(timeout=20)
                mail(server, ann, f"{number}")

        writing = Call(write)
        last = renewals = crossings = 0
        said_seen = 0  # by the newest watch
        peer.send(0, Watch(after=0, window=window, wait=30))
        while last < messages:
            received = peer.read()
            assert received is not None
            reply = received.reply
            assert isinstance(reply, WatchReply), reply
            for message in reply.messages:
                last += 1
                assert (message.seq, message.body) == (last, f"{last - 1}")
                unread.release()
            assert last - said_seen <= window  # what the window leaves under way at most
            # It was renewed when it had used its window up, and did not know yet.
            crossings += bool(reply.messages) and not reply.more and received.id < renewals
            is_over = not reply.more and received.id == renewals
            if is_over or last - said_seen >= window // 2:
                renewals += 1
                said_seen = last
                renewal = Watch(after=last, ack=last, window=window, wait=30, renew=True)
                peer.send(renewals, renewal)
        writing.outcome()
        assert renewals >= messages / window
        received = peer.send(renewals + 1, Ping()).read()
        while received is not None and received.id <= renewals:
            assert isinstance(received.reply, WatchReply)
            assert received.reply.messages == ()
            received = peer.read()
        assert received == ReplyReceived(renewals + 1, Done())


def test_a_renewal_that_crosses_the_end_of_its_stream_gets_nothing_twice() -> None:
    with serving() as server, server.peer() as peer:
        ann = open_stream(server, peer, window=2)
        hold = Hold()
        server.around_looks(before=lambda _: hold())
        mail(server, ann, "b")
        hold.wait_reached()
        peer.send_line(op="watch", id=6, after=1, ack=1, wait=30, window=2, renew=True)
        hold.release()
        assert said(peer.read_line()) == (5, ["b"], False)
        mail(server, ann, "c")
        assert said(peer.read_line()) == (6, ["c"], False)  # with "b", that was the window


# -- a session's end, and the server's ------------------------------------------------------

ENDS: dict[str, dict[str, object]] = {
    "logout": {},
    "change_password": {"password": PASSWORD, "new_password": "battery staple"},
    "delete_account": {"password": PASSWORD, "force": True},
    "the listener's": {},
    "the service's": {},
}


@pytest.mark.parametrize("window", [0, 10])
@pytest.mark.parametrize("moment", ["waiting", "looking", "found", "writing"])
@pytest.mark.parametrize("end", ENDS)
def test_an_open_watch_is_told_of_the_end_and_then_the_connection_ends(
    monkeypatch: pytest.MonkeyPatch, end: str, moment: str, window: int
) -> None:
    """Whatever its owner is doing when the end comes; what it has found is sent before."""
    hold, armed = Hold(), threading.Event()

    def held(at: str) -> None:
        if armed.is_set() and moment == at:
            hold()

    owner_kind: Any = LoopConnection if Kind.loop else Connection
    flush = owner_kind._flush
    monkeypatch.setattr(owner_kind, "_flush", lambda owner: (held("writing"), flush(owner))[1])
    with serving() as server, server.peer() as peer, server.peer() as command:
        reply = peer.ask("create_account", username="bob", password=PASSWORD)
        if end == "logout":
            assert command.ask("resume", session=reply["session"])["ok"]
        else:
            command.login("bob")
        ann = enter(server.service, "ann")
        looked = threading.Event()

        def found_something(*_: object) -> None:
            looked.set()
            held("found")

        server.around_looks(lambda _: held("looking"), found_something)
        peer.send_line(op="watch", id=5, after=0, wait=30, window=window)
        wait_event(looked, "its first look has found nothing")
        armed.set()
        if moment != "waiting":
            mail(server, ann, "a")
            hold.wait_reached()
        # A loop that is held up while it writes carries nothing else out.
        bring_about(server, end, reply["session"], None if moment == "writing" else command)
        started = time.monotonic()
        hold.release()
        found = moment in ("found", "writing") or (moment == "looking" and end == "the listener's")
        if found:
            assert said(peer.read_line()) == (5, ["a"], bool(window))
        if window or not found:  # a watch of one reply that has found something has had it
            reply = peer.read_line()
            code = "shutting_down" if end.startswith("the ") else "session_expired"
            assert (reply["id"], reply["error"]["code"]) == (5, code)
            assert (code == "shutting_down") == ("retry_after_ms" in reply["error"])
        if end == "the service's":  # whose listener goes on until it is stopped as well
            assert peer.send(PING).read_line()["error"]["code"] == "shutting_down"
            server.listener.stop()
        assert peer.rest() == b""
        assert time.monotonic() - started < 10  # far from the watch's 30
        server.wait_watching(0)


def bring_about(server: Server, end: str, token: str, command: Peer | None) -> None:
    """Bring an end about, by a connection of bob's or else in this thread, until it is known."""
    (owner, *_) = server.listener._connections
    if end == "the service's":
        server.service.stop()
        return
    if end == "the listener's":
        server.listener.stop()
        if command is None and Kind.loop:
            return  # it is told when the loop goes on
    elif command is not None:
        assert command.ask(end, **ENDS[end])["ok"]
    else:
        session = server.service.session()
        if end == "logout":
            server.service.resume(session, token)
        else:
            server.service.login(session, "bob", PASSWORD)
        getattr(server.service, end)(session, **ENDS[end])
    wait_until(lambda: owner._talk._stops, "the connection is told")


@pytest.mark.parametrize("end", ENDS)
def test_an_end_against_a_stream_that_is_renewed_at_full_speed(end: str) -> None:
    """It has brought a prefix of the mail; the error, if any, is the last that is said."""
    service = make_service(policy=MailboxPolicy(mailbox_messages=1_000_000))
    with (
        serving(service=service) as server,
        server.peer() as command,
        server.speaker("binary") as peer,
    ):
        reply = peer.ask(CreateAccount(username="bob", password=PASSWORD))
        assert isinstance(reply, SessionReply)
        if end == "logout":
            assert command.ask("resume", session=reply.session)["ok"]
        else:
            command.login("bob")
        ann = enter(service, "ann")
        flows, ended = threading.Event(), threading.Event()

        def write() -> None:
            with suppress(NoSuchUser, ShuttingDown):
                while not ended.is_set():
                    mail(server, ann, "x")

        def read() -> tuple[int, ErrorReply] | None:
            """Return the error that ends it and the id that it has."""
            last = seen = newest = 0
            peer.send(newest, Watch(after=0, window=8, wait=30))
            while (received := peer.read()) is not None:
                if isinstance(received.reply, ErrorReply):
                    if end != "the service's":
                        assert peer.read() is None
                    return received.id, received.reply
                assert isinstance(received.reply, WatchReply)
                for message in received.reply.messages:
                    last += 1
                    assert message.seq == last
                if last > 200:
                    flows.set()
                is_over = not received.reply.more and received.id == newest
                if is_over or last - seen >= 4:
                    newest, seen = newest + 1, last
                    with suppress(ConnectionError):
                        renewal = Watch(after=last, ack=last, window=8, wait=30, renew=True)
                        peer.send(newest, renewal)
            return None

        writing, reading = Call(write), Call(read)
        wait_event(flows, "the stream flows")
        started = time.monotonic()
        if end.startswith("the "):
            (service if end == "the service's" else server.listener).stop()
        else:
            assert command.ask(end, **ENDS[end])["ok"]
        error = reading.outcome()
        assert time.monotonic() - started < 10  # far from the watch's 30
        ended.set()
        writing.outcome()
        if isinstance(error, tuple):
            code = "shutting_down" if end.startswith("the ") else "session_expired"
            assert error[1].code == code


@pytest.mark.parametrize("end", ["logout", "the listener's"])
def test_what_a_peer_sends_after_the_end_does_not_take_the_farewell_away(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Neither what arrives before the server says its end nor what arrives behind it.

    The peer's buffer is small, so that the mail and the error still wait in the server's when the
    peer sends: a reset would drop them.
    """
    owner_kind, step = (LoopConnection, "_end") if Kind.loop else (Connection, "_shutdown")
    monkeypatch.setattr(f"{owner_kind.__module__}._LINGER_SECONDS", 20)
    hold, says_end, said_end = Hold(), getattr(owner_kind, step), threading.Event()

    def held(owner: Any, *how: int) -> None:
        if how in ((), (socket.SHUT_WR,)):
            hold()
            says_end(owner, *how)
            said_end.set()
        else:
            says_end(owner, *how)

    monkeypatch.setattr(owner_kind, step, held)
    body = "x" * 60_000
    with (
        serving(service=make_service(body_bytes=len(body))) as server,
        Peer(server.endpoints[0], receive_bytes=4096) as peer,
    ):
        # The only connection: what is held up is its end, and no other one's.
        token = peer.ask("create_account", username="bob", password=PASSWORD)["session"]
        peer.send_line(op="watch", id=5, after=0, wait=30, window=10)
        server.wait_watching()
        mail(server, enter(server.service, "ann"), body)
        peer.socket.recv(1, socket.MSG_PEEK)  # it is written
        if end == "logout":
            elsewhere = server.service.session()
            server.service.resume(elsewhere, token)
            server.service.logout(elsewhere)
        else:
            server.listener.stop()
        hold.wait_reached()
        peer.send(PING)
        hold.release()
        wait_event(said_end, "it has said that there is no more")
        peer.send(PING)
        reset = select.poll()
        reset.register(peer.socket, 0)  # an error is always told of
        assert not reset.poll(100)
        assert said(peer.read_line()) == (5, [body], True)
        code = "session_expired" if end == "logout" else "shutting_down"
        assert peer.read_line()["error"]["code"] == code
        assert peer.socket.recv(1) == b""


# -- a peer that is gone --------------------------------------------------------------------


@pytest.mark.parametrize("leave", ["close", "reset", "half-close"])
@pytest.mark.parametrize("when", ["before the wake", "after the look"])
@forms
def test_a_peer_that_is_gone_between_the_commit_and_its_mail_leaves_nothing(
    when: str, leave: str
) -> None:
    """No thread, no descriptor, no subscription; and the mail stays unread."""
    service = make_service()
    subscriptions = count_subscriptions(service)
    with serving(service=service) as server, server.peer() as peer:
        peer.enter("bob")
        ann = enter(service, "ann")
        before = subscriptions.copy()
        looked = threading.Event()
        server.around_looks(after=lambda *_: looked.set())
        peer.send_line(op="watch", id=5, after=0, wait=30, window=10)
        wait_event(looked, "its first look has found nothing")
        hold = Hold()
        if when == "before the wake":
            server.before_wake = hold
        else:
            server.around_looks(after=lambda *_: hold())
        sending = Call(lambda: mail(server, ann, "a"))
        hold.wait_reached()
        if leave == "half-close":
            peer.socket.shutdown(socket.SHUT_WR)
        else:
            if leave == "reset":
                linger = struct.pack("ii", 1, 0)
                peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            peer.close()
        if when == "before the wake":
            # Its owner needs no wake to see that; the wake then meets what is closed.
            server.wait_connections(0)
        hold.release()
        sending.outcome()
        server.wait_connections(0)
        server.wait_watching(0)
        if leave == "half-close":
            # What was committed when the end of input came is there to be read.
            replies = [json.loads(line) for line in peer.rest().splitlines()]
            assert [m["body"] for reply in replies for m in reply["messages"]] == ["a"]
            assert [reply.get("more", False) for reply in replies][-1] is False
        assert not +(subscriptions - before)
        with server.peer() as again:
            assert again.login("bob").ask("status")["unread"] == 1


@forms
def test_connections_that_come_watch_and_go_leave_nothing() -> None:
    """While mail comes at full speed, so that wakes race with the close of what they wake."""
    service = make_service(policy=MailboxPolicy(mailbox_messages=1_000_000))
    with serving(service=service) as server:
        ann = enter(service, "ann")
        token = service.create_account(service.session(), "bob", PASSWORD).session
        with mail_without_end(server, ann):
            for _ in range(150):
                with server.peer() as peer:
                    there = peer.ask("resume", session=token)
                    last = there["position"] + there["unread"]
                    # Acknowledged, so that the mailbox never is full.
                    peer.send_line(op="watch", id=5, after=last, ack=last, wait=30, window=1000)
                    assert peer.read_line()["ok"]
        server.wait_connections(0)
        server.wait_watching(0)


# -- the lock rule --------------------------------------------------------------------------


@threads_only
@pytest.mark.parametrize("step", ["_wait", "_flush"])
def test_whoever_waits_for_a_peer_with_a_lock_held_is_refused(step: str) -> None:
    """With an open stream too, when it waits for mail as well."""
    with serving() as server, server.peer() as peer:
        refused = threading.Event()
        carry_out = getattr(Connection, step)

        def locked(owner: Connection) -> None:
            if armed.is_set() and not refused.is_set():
                try:
                    with new_lock("held"):
                        carry_out(owner)
                except LockRuleError:
                    refused.set()
            carry_out(owner)

        armed = threading.Event()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Connection, step, locked)
            peer.enter("bob").send_line(op="watch", id=5, after=0, wait=30, window=10)
            server.wait_watching()
            armed.set()
            mail(server, enter(server.service, "ann"), "a")
            wait_event(refused, "it is refused")
