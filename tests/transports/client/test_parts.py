"""The parts of the client engine that need no server."""

import asyncio
import logging
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from waiting import join, wait_until

from twinline.core.deadline import Deadline
from twinline.core.protocol import AckReply, Done, Message, Ping, SessionReply
from twinline.transports import registry
from twinline.transports.client import ClientBusy, State, StateKind
from twinline.transports.client.backends.threads import ThreadWaiter, run
from twinline.transports.client.backends.threads_connection import SocketLine
from twinline.transports.client.engine.backoff import Backoff
from twinline.transports.client.engine.cancel import Cancelled, CancelToken, OutOfTime, Turn
from twinline.transports.client.engine.connection import LineBroken, LineTimedOut
from twinline.transports.client.engine.inbox import Inbox
from twinline.transports.client.engine.link import Link, Session
from twinline.transports.client.state import StateReport
from twinline.transports.contract import ClientCodec, ReplyReceived
from twinline.transports.endpoints import Endpoint
from twinline.transports.jsonl import JsonlTransport

NEVER = Deadline(math.inf)
PASSED = Deadline(0)


def message(seq: int) -> Message:
    return Message(seq=seq, message_id="0" * 24, sender="ann", body=f"m{seq}", sent_at=0)


# -- interrupts ---------------------------------------------------------------------------


def test_an_interrupt_ends_a_wait() -> None:
    interrupt = CancelToken("test")
    ended = threading.Event()

    def wait() -> None:
        with pytest.raises(Cancelled):
            run(interrupt.wait(ThreadWaiter(), NEVER))
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: interrupt._wakes, "a wait")
    interrupt.set()
    join(thread)
    assert ended.is_set()


def test_what_is_set_already_ends_a_wait_before_it_begins() -> None:
    interrupt = CancelToken("test")
    interrupt.set()
    woken: list[int] = []
    with pytest.raises(Cancelled), interrupt.waking(lambda: woken.append(1)):
        pytest.fail("it began")
    assert not woken
    with pytest.raises(Cancelled):
        interrupt.check()


def test_a_wake_never_runs_after_it_was_left() -> None:
    interrupt = CancelToken("test")
    woken: list[int] = []
    with interrupt.waking(lambda: woken.append(1)):
        pass
    interrupt.set()
    assert not woken


def test_what_suspends_is_a_bug_on_threads() -> None:
    async def suspended() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="has suspended"):
        run(suspended())


def test_a_wait_tells_waking_from_running_out_of_time() -> None:
    interrupt = CancelToken("test")
    waiter = ThreadWaiter()
    assert not run(interrupt.wait(waiter, Deadline.after(0.01)))
    waiter.wake()
    assert run(interrupt.wait(waiter, NEVER))


# -- turns --------------------------------------------------------------------------------


@contextmanager
def taking(turn: Turn, deadline: Deadline, interrupt: CancelToken) -> Iterator[None]:
    run(turn.enter(deadline, interrupt))
    try:
        yield
    finally:
        turn.leave()


def test_turns_are_taken_in_the_order_of_arrival() -> None:
    turn = Turn("test", ThreadWaiter)
    interrupt = CancelToken("test")
    order: list[int] = []

    def take(number: int) -> None:
        with taking(turn, NEVER, interrupt):
            order.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(5)]
    with taking(turn, NEVER, interrupt):
        for count, thread in enumerate(threads, 1):
            thread.start()
            wait_until(lambda count=count: len(turn._queue) == count, "a queue")
    for thread in threads:
        join(thread)
    assert order == [0, 1, 2, 3, 4]
    assert not turn._taken


def test_a_turn_that_does_not_come_in_time() -> None:
    turn = Turn("test", ThreadWaiter)
    with taking(turn, NEVER, CancelToken("a")):
        with pytest.raises(OutOfTime), taking(turn, Deadline.after(0.01), CancelToken("b")):
            pytest.fail("two have the turn")
        assert not turn._queue
    with taking(turn, PASSED, CancelToken("c")):
        assert turn._taken


def test_an_interrupt_ends_the_wait_for_a_turn() -> None:
    turn = Turn("test", ThreadWaiter)
    interrupt = CancelToken("test")
    interrupt.set()
    with taking(turn, NEVER, CancelToken("a")):
        with pytest.raises(Cancelled), taking(turn, NEVER, interrupt):
            pytest.fail("two have the turn")
        assert not turn._queue


class HandedOver(CancelToken):
    """An interrupt that comes at the moment at which the turn is handed over."""

    def __init__(self, turn: Turn) -> None:
        super().__init__("test")
        self.turn = turn

    async def wait(self, waiter: ThreadWaiter, deadline: Deadline) -> bool:
        self.turn.leave()
        raise Cancelled


def test_a_turn_that_is_handed_to_an_interrupted_thread_goes_on() -> None:
    turn = Turn("test", ThreadWaiter)
    turn._taken = True
    with pytest.raises(Cancelled), taking(turn, NEVER, HandedOver(turn)):
        pytest.fail("it was interrupted")
    assert not turn._taken


# -- states -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (State(StateKind.CONNECTING), "connecting"),
        (State(StateKind.ONLINE), "online"),
        (State(StateKind.RECONNECTING, None, 3.8), "reconnecting in 4 s"),
        (State(StateKind.RECONNECTING, "refused", 0.2), "reconnecting in 1 s: refused"),
        (State(StateKind.LOGGED_OUT, "gone"), "logged out: gone"),
        (State(StateKind.CLOSED), "closed"),
    ],
)
def test_a_state_reads_as_a_user_interface_shows_it(state: State, text: str) -> None:
    assert str(state) == text


def test_states_are_told_in_order_even_when_the_callback_makes_new_ones() -> None:
    seen: list[StateKind] = []
    inside: list[bool] = []

    def on_state(state: State) -> None:
        inside.append(report.is_here)
        if state.kind is StateKind.ONLINE:
            report.push(State(StateKind.CLOSED))
            report.deliver()  # returns: this thread is at it already
        seen.append(state.kind)

    report = StateReport(on_state)
    report.push(State(StateKind.ONLINE))
    report.deliver()
    assert seen == [StateKind.ONLINE, StateKind.CLOSED]
    assert inside == [True, True]
    assert not report.is_here


def test_a_callback_that_raises_misses_no_later_state(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[StateKind] = []

    def on_state(state: State) -> None:
        seen.append(state.kind)
        raise ValueError("no")

    report = StateReport(on_state)
    report.push(State(StateKind.ONLINE))
    report.push(State(StateKind.CLOSED))
    with caplog.at_level(logging.ERROR):
        report.deliver()
    assert seen == [StateKind.ONLINE, StateKind.CLOSED]
    assert caplog.text.count("on_state raised") == 2


def test_without_a_callback_nothing_is_kept() -> None:
    report = StateReport(None)
    report.push(State(StateKind.ONLINE))
    report.deliver()
    assert not report._queue


# -- the inbox ----------------------------------------------------------------------------


def test_what_was_seen_is_dropped() -> None:
    inbox = Inbox(3)
    inbox.put([message(2), message(4), message(4), message(5)])
    inbox.put([message(5), message(6)])
    taken = []
    while (head := inbox.head()) is not None:
        taken.append(head.seq)
        inbox.pop(head, done=True)
    assert taken == [4, 5, 6]
    assert inbox.place == 6


def test_acks_follow_what_is_dealt_with() -> None:
    inbox = Inbox(0)
    inbox.put([message(1), message(2), message(3)])
    assert inbox.unacked is None
    inbox.pop(message(9), done=True)
    assert inbox.unacked is None
    for head in (1, 2):
        first = inbox.head()
        assert first is not None
        assert first.seq == head
        inbox.pop(first, done=True)
    assert inbox.unacked == 2
    inbox.acked(2)
    assert inbox.unacked is None
    inbox.acked(1)
    assert inbox.unacked is None
    last = inbox.head()
    assert last is not None
    inbox.pop(last, done=False)
    assert inbox.unacked is None
    assert inbox.is_empty()
    inbox.pop(last, done=True)
    assert inbox.unacked is None


def test_a_rewind_begins_again_at_the_servers_position() -> None:
    inbox = Inbox(10)
    inbox.put([message(11)])
    inbox.rewind(2)
    assert inbox.head() is None
    assert inbox.place == 2
    inbox.put([message(3)])
    head = inbox.head()
    assert head is not None
    inbox.pop(head, done=True)
    assert inbox.unacked == 3


def test_what_was_acked_by_hand_is_taken_out() -> None:
    progress: list[int] = []
    inbox = Inbox(0)
    inbox.drop(0)
    inbox.tell(lambda: progress.append(1))
    inbox.put([message(1), message(2), message(3)])
    inbox.drop(2)
    head = inbox.head()
    assert head is not None
    assert head.seq == 3
    assert inbox.unacked is None
    assert progress == [1]
    inbox.pop(head, done=True)
    assert inbox.unacked == 3


def test_one_consumer_at_a_time() -> None:
    inbox = Inbox(0)
    inbox.enter(ThreadWaiter())
    with pytest.raises(ClientBusy):
        inbox.enter(ThreadWaiter())
    inbox.leave()
    inbox.enter(ThreadWaiter())


def test_the_end_of_an_inbox_ends_the_wait_and_hides_what_is_left() -> None:
    inbox = Inbox(0)
    waiter = ThreadWaiter()
    inbox.enter(waiter)
    seen: list[Message | None] = [message(99)]
    thread = threading.Thread(target=lambda: seen.append(run(inbox.wait_head(waiter, NEVER))))
    thread.start()
    wait_until(lambda: inbox._ended._wakes, "a wait")
    inbox.end()
    join(thread)
    inbox.put([message(1)])
    assert seen[1:] == [None]
    assert run(inbox.wait_head(waiter, NEVER)) is None


# -- connecting ---------------------------------------------------------------------------


def test_an_attempt_to_connect_can_be_ended_by_another_thread() -> None:
    """A full accept queue makes a connection wait in the system's hands."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    port = listening.getsockname()[1]
    endpoint = Endpoint.parse(f"tcp://127.0.0.1:{port}")
    fillers = []
    interrupt = CancelToken("test")
    begin = time.monotonic()
    try:
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)

        def connect() -> None:
            with pytest.raises(OSError, match=r"reset|not connected"):
                SocketLine.connect(
                    endpoint, registry.transport("jsonl"), Deadline.after(5), interrupt.waking
                )

        before = _on_their_way(port)
        thread = threading.Thread(target=connect)
        thread.start()
        wait_until(lambda: _on_their_way(port) == before + 1, "a connection on its way")
        interrupt.set()
        join(thread)
    finally:
        for filler in fillers:
            filler.close()
        listening.close()
    assert time.monotonic() - begin < 3


def _on_their_way(port: int) -> int:
    """Return how many connections to the port wait for an answer (Linux: SYN_SENT is 02)."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "02" for row in rows)


# -- a line ---------------------------------------------------------------------------------


class Odd(JsonlTransport):
    """A transport whose client's codec does not check what it gets."""

    def __init__(self, event: ReplyReceived) -> None:
        self.event = event

    def client_codec(self, frame_limit: int) -> ClientCodec:
        codec = super().client_codec(frame_limit)
        codec.next_event = lambda: self.event
        return codec


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (ReplyReceived(7, Done()), "another request"),
        (ReplyReceived(1, AckReply(position=1, unread=1)), "another kind"),
    ],
)
def test_a_reply_that_does_not_fit_breaks_the_line(event: ReplyReceived, told: str) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        line = SocketLine(ours, Odd(event))
        with pytest.raises(LineBroken, match=told):
            run(line.exchange(Ping(), NEVER))
        assert line.closed
        assert not line.is_alive()


def test_an_exchange_after_its_deadline_sends_nothing() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        line = SocketLine(ours, JsonlTransport())
        with pytest.raises(LineTimedOut):
            run(line.exchange(Ping(), PASSED))
        assert theirs.recv(10) == b""


def test_an_exchange_that_is_interrupted_by_a_signal_tears_the_line() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        transport = JsonlTransport()
        line = SocketLine(ours, transport)

        def interrupted() -> None:
            raise KeyboardInterrupt

        line._codec.next_event = interrupted
        with pytest.raises(KeyboardInterrupt):
            run(line.exchange(Ping(), NEVER))
        assert line.closed


def test_the_end_of_a_watch_line_that_nobody_needs_changes_no_state() -> None:
    ended: list[Session] = []
    link = Link(Backoff(), StateReport(None), resume=True, on_session_end=ended.append)
    session = Session.of(SessionReply(username="ann", session="t", position=0, unread=0))
    link.bind(session)
    link.end_session(session, "gone")
    link.end_session(session, "gone twice")
    before = link.state
    link.watch_lost(session, "late")
    assert link.state == before
    assert ended == [session]


def test_a_deadline_that_has_passed_connects_nowhere() -> None:
    with pytest.raises(TimeoutError):
        Endpoint.parse("tcp://127.0.0.1:1").connect(PASSED)
