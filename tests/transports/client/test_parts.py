"""The parts of the client engine that need no server."""

import asyncio
import logging
import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from waiting import Call, join, wait_until

from twinline.core.deadline import Deadline
from twinline.core.protocol import AckReply, ChangePassword, Done, Message, Ping
from twinline.transports import registry
from twinline.transports.client import ClientBusy, State, StateKind
from twinline.transports.client.backends.threads import (
    SocketConnection,
    ThreadBackend,
    ThreadWaiter,
    run,
)
from twinline.transports.client.engine.cancel import (
    Cancelled,
    CancelToken,
    DeadlinePassed,
    FifoLock,
    Turn,
)
from twinline.transports.client.engine.connection import ConnectionBroken, ReplyTimedOut
from twinline.transports.client.engine.inbox import Inbox, MessageLoop
from twinline.transports.client.state import StateReport
from twinline.transports.connecting import connect
from twinline.transports.contract import ClientCodec, ReplyReceived, Transport
from twinline.transports.endpoints import Endpoint
from twinline.transports.jsonl import JsonlTransport

NEVER = Deadline(math.inf)
PASSED = Deadline(0)


def message(seq: int) -> Message:
    return Message(seq=seq, message_id="0" * 24, sender="ann", body=f"m{seq}", sent_at=0)


# -- cancellation -------------------------------------------------------------------------


def test_a_token_that_is_set_ends_a_wait() -> None:
    cancel = CancelToken("test")
    ended = threading.Event()

    def wait() -> None:
        with pytest.raises(Cancelled):
            run(cancel.wait(ThreadWaiter(), NEVER))
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: cancel._wakes, "a wait")
    cancel.set()
    join(thread)
    assert ended.is_set()


def test_what_is_set_already_ends_a_wait_before_it_begins() -> None:
    cancel = CancelToken("test")
    cancel.set()
    woken: list[int] = []
    with pytest.raises(Cancelled), cancel.waking(lambda: woken.append(1)):
        pytest.fail("it began")
    assert not woken
    with pytest.raises(Cancelled):
        cancel.check()


def test_a_wake_never_runs_after_it_was_left() -> None:
    cancel = CancelToken("test")
    woken: list[int] = []
    with cancel.waking(lambda: woken.append(1)):
        pass
    cancel.set()
    assert not woken


def test_what_suspends_is_a_bug_on_threads() -> None:
    async def suspended() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="has suspended"):
        run(suspended())


def test_a_wait_returns_whether_it_was_woken_in_time() -> None:
    cancel = CancelToken("test")
    waiter = ThreadWaiter()
    assert not run(cancel.wait(waiter, Deadline.after(0.01)))
    waiter.wake()
    assert run(cancel.wait(waiter, NEVER))


# -- the lock of those that queue ---------------------------------------------------------


@contextmanager
def holding(lock: FifoLock, deadline: Deadline, cancel: CancelToken) -> Iterator[None]:
    turn = Turn()
    try:
        with turn.lasts:
            run(lock.take(turn, deadline, cancel))
            yield
    finally:
        lock.pass_on(turn)


def test_the_lock_is_given_in_the_order_of_arrival() -> None:
    lock = FifoLock("test", ThreadWaiter)
    cancel = CancelToken("test")
    order: list[int] = []

    def take(number: int) -> None:
        with holding(lock, NEVER, cancel):
            order.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(5)]
    with holding(lock, NEVER, cancel):
        for count, thread in enumerate(threads, 1):
            thread.start()
            wait_until(lambda count=count: len(lock._turns) == count + 1, "a queue")
        assert lock.is_held
    for thread in threads:
        join(thread)
    assert order == [0, 1, 2, 3, 4]
    assert not lock.is_held


def test_a_lock_that_is_not_released_in_time() -> None:
    lock = FifoLock("test", ThreadWaiter)
    with holding(lock, NEVER, CancelToken("a")):
        with pytest.raises(DeadlinePassed), holding(lock, Deadline.after(0.01), CancelToken("b")):
            pytest.fail("two hold the lock")
        assert len(lock._turns) == 1
    with holding(lock, PASSED, CancelToken("c")):
        assert lock.is_held


def test_a_token_that_is_set_ends_the_wait_for_a_lock() -> None:
    lock = FifoLock("test", ThreadWaiter)
    cancel = CancelToken("test")
    cancel.set()
    with holding(lock, NEVER, CancelToken("a")):
        with pytest.raises(Cancelled), holding(lock, NEVER, cancel):
            pytest.fail("two hold the lock")
        assert len(lock._turns) == 1


class HandedOver(CancelToken):
    """A token that is set at the moment at which the lock is handed over."""

    def __init__(self, before: ExitStack) -> None:
        super().__init__("test")
        self.before = before

    async def wait(self, waiter: ThreadWaiter, deadline: Deadline) -> bool:
        self.before.close()
        raise Cancelled


def test_a_lock_that_is_handed_to_a_cancelled_thread_goes_on() -> None:
    lock = FifoLock("test", ThreadWaiter)
    with ExitStack() as before:
        before.enter_context(holding(lock, NEVER, CancelToken("test")))
        with pytest.raises(Cancelled), holding(lock, NEVER, HandedOver(before)):
            pytest.fail("it was cancelled")
    assert not lock.is_held


def test_a_turn_that_has_come_is_taken_even_if_the_wake_was_lost() -> None:
    lock = FifoLock("test", ThreadWaiter)
    cancel = CancelToken("test")
    first = Turn()

    def follow() -> None:
        with holding(lock, Deadline.after(20), cancel):
            pass

    with first.lasts:
        assert lock.take_nowait(first)
        second = Call(follow)
        wait_until(lambda: len(lock._turns) == 2, "one behind it")
    # A signal's handler keeps the first from passing it on.
    second.outcome(5)
    assert not lock.is_held


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


def test_states_are_reported_in_order_even_when_the_callback_makes_new_ones() -> None:
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
    assert inbox.cursor == 6


def test_what_the_server_has_looked_at_is_not_asked_for_again() -> None:
    inbox = Inbox(3)
    assert not inbox.put([], 3, 9)
    assert (inbox.cursor, inbox.unacked) == (9, None)
    assert not inbox.put([message(9)])
    assert inbox.is_empty()


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
    assert inbox.cursor == 2
    inbox.put([message(3)])
    head = inbox.head()
    assert head is not None
    inbox.pop(head, done=True)
    assert inbox.unacked == 3


def test_what_was_acked_by_hand_is_taken_out() -> None:
    progress: list[int] = []
    inbox = Inbox(0)
    inbox.drop(0)
    inbox.on_progress(lambda: progress.append(1))
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
    first, second = (MessageLoop(inbox, ThreadWaiter(), None, ack=True) for _ in range(2))
    with first.lasts:
        first.enter()
        with second.lasts, pytest.raises(ClientBusy):
            second.enter()
    with second.lasts:
        second.enter()


def test_the_end_of_an_inbox_ends_the_wait_and_hides_what_is_left() -> None:
    inbox = Inbox(0)
    waiter = ThreadWaiter()
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
    cancel = CancelToken("test")
    begin = time.monotonic()
    try:
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)

        def connect() -> None:
            with pytest.raises((Cancelled, OSError)):
                run(
                    ThreadBackend().connect(
                        endpoint, registry.transport("jsonl"), None, Deadline.after(5), cancel
                    )
                )

        before = _on_their_way(port)
        thread = threading.Thread(target=connect)
        thread.start()
        wait_until(lambda: _on_their_way(port) == before + 1, "a connection on its way")
        cancel.set()
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


# -- a connection -------------------------------------------------------------------------


class Odd(JsonlTransport):
    """A transport whose client's codec does not check what it gets."""

    def __init__(self, next_event: Callable[[], ReplyReceived]) -> None:
        self.next_event = next_event

    def client_codec(self, frame_limit: int) -> ClientCodec:
        codec = super().client_codec(frame_limit)
        codec.next_event = self.next_event
        return codec


@contextmanager
def connected(
    transport: Transport, arrived: bytes = b'{"id":1,"ok":true}\n'
) -> Iterator[tuple[SocketConnection, socket.socket]]:
    """Yield a connection, on which a reply has arrived already, and its peer."""
    ours, theirs = socket.socketpair()
    connection = SocketConnection(ours, transport)
    with theirs:
        theirs.sendall(arrived)
        try:
            yield connection, theirs
        finally:
            connection.close()


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (ReplyReceived(7, Done()), "another request"),
        (ReplyReceived(1, AckReply(position=1, unread=1)), "another kind"),
    ],
)
def test_a_reply_that_does_not_fit_breaks_the_connection(event: ReplyReceived, reason: str) -> None:
    with connected(Odd(lambda: event)) as (connection, _):
        with pytest.raises(ConnectionBroken, match=reason):
            run(connection.exchange(Ping(), NEVER))
        assert connection.closed
        assert not run(connection.is_alive())


def test_an_exchange_after_its_deadline_sends_nothing() -> None:
    with connected(JsonlTransport(), b"") as (connection, theirs):
        with pytest.raises(ReplyTimedOut):
            run(connection.exchange(Ping(), PASSED))
        assert theirs.recv(10) == b""


def test_an_exchange_that_is_interrupted_by_a_signal_closes_the_connection() -> None:
    def interrupted() -> ReplyReceived:
        raise KeyboardInterrupt

    with connected(Odd(interrupted)) as (connection, _):
        with pytest.raises(KeyboardInterrupt):
            run(connection.exchange(Ping(), NEVER))
        assert connection.closed


def test_a_signal_interrupts_the_wait_for_a_reply() -> None:
    """In the main thread, where Python runs the handlers of signals."""

    class Interrupted(Exception):
        pass

    def interrupt(_signal: int, _frame: object) -> None:
        raise Interrupted

    with connected(JsonlTransport()) as (connection, _):
        run(connection.exchange(Ping(), NEVER))
        kept = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Interrupted):
                run(connection.exchange(Ping(), NEVER))
        finally:
            signal.signal(signal.SIGALRM, kept)
        assert connection.closed


def test_a_frame_that_the_peer_takes_slowly_is_sent_whole() -> None:
    with connected(JsonlTransport(), b"") as (connection, theirs):
        taken = bytearray()

        def take() -> None:
            while not taken.endswith(b"\n"):
                taken.extend(theirs.recv(4096))
            theirs.sendall(b'{"id":1,"ok":true}\n')

        thread = threading.Thread(target=take)
        thread.start()
        request = ChangePassword(password="x" * 2_000_000, new_password="y")
        assert run(connection.exchange(request, Deadline.after(5))) == Done()
        join(thread)
        assert len(taken) > 2_000_000


def test_a_peer_that_takes_nothing_is_given_up_in_time() -> None:
    with connected(JsonlTransport()) as (connection, _):
        request = ChangePassword(password="x" * 2_000_000, new_password="y")
        begin = time.monotonic()
        with pytest.raises(ReplyTimedOut):
            run(connection.exchange(request, Deadline.after(0.1)))
        assert 0.1 <= time.monotonic() - begin < 2


def test_a_token_shuts_the_connection_down_until_it_is_closed() -> None:
    cancel = CancelToken("test")
    with connected(JsonlTransport()) as (first, _), connected(JsonlTransport()) as (second, peer):
        for connection in (first, second):
            connection.end_with(cancel)
        first.close()
        cancel.set()
        peer.recv(10)
        with pytest.raises(ConnectionBroken):
            run(second.exchange(Ping(), NEVER))
    with connected(JsonlTransport()) as (late, _):
        with pytest.raises(Cancelled):
            late.end_with(cancel)
        assert late.closed


def test_a_deadline_that_has_passed_connects_nowhere() -> None:
    with pytest.raises(TimeoutError):
        connect(Endpoint.parse("tcp://127.0.0.1:1"), PASSED)
