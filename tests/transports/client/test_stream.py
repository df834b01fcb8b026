"""The rules of a stream, on a clock that stands still: when it asks for more, when it acks."""

from math import inf

import pytest

from twinline.core.protocol import Ack, Kind, Message, Ping, Watch
from twinline.transports.client.engine.inbox import Inbox
from twinline.transports.client.engine.replies import Asked
from twinline.transports.client.engine.stream import (
    ACK_MESSAGES,
    ACK_SECONDS,
    HALF_BYTES,
    LOOK_SECONDS,
    QUIET_SECONDS,
    Step,
    Stream,
)

WINDOW = 100
LARGE = "x" * 16_384


def message(seq: int, body: str = "x") -> Message:
    return Message(seq=seq, message_id="0" * 24, sender="ann", body=body, sent_at=0)


class Bench:
    """A stream, the inbox that it reads, and a server that is played by the test."""

    def __init__(self, window: int = WINDOW) -> None:
        self.now = 1000.0
        self.received = 0
        self.inbox = Inbox(0)
        self.asked: list[Asked] = []
        self.stream = Stream(
            window=window,
            page=64,
            wait=25,
            kinds=(Kind.MAIL,),
            idle_seconds=20,
            reply_seconds=10,
            pace_seconds=1,
            clock=lambda: self.now,
        )

    def step(self) -> Step:
        """Return the next step; what it sends is sent."""
        progress = self.inbox.progress
        step = self.stream.step(progress, self.received)
        match step.request:
            case Watch() as watch:
                self.asked.append(Asked(len(self.asked), watch))
                self.stream.sent(self.asked[-1], progress, self.received)
            case Ack(up_to=up_to):
                self.stream.said(up_to, progress)
            case Ping():
                self.stream.alive()
        return step

    def watch(self) -> Watch:
        """Return the watch that is due."""
        step = self.step()
        assert isinstance(step.request, Watch)
        return step.request

    def waits(self) -> Step:
        """Return what is waited for, since nothing is due."""
        step = self.step()
        assert step.request is None
        return step

    def come(self, *messages: Message, to: int = -1, ended: bool = False, size: int = 0) -> int:
        """Have a reply come to one of the watches, and return the ack that it confirms."""
        for each in self.asked if messages else ():
            each.count(messages)
        self.received += size
        acked = self.stream.answered(self.asked[to], ended=ended)
        if self.inbox.put(messages, acked):
            self.stream.fetched()
        return acked

    def deal(self, count: int, *, done: bool = True) -> None:
        """Have the application deal with so many."""
        for _ in range(count):
            head = self.inbox.head()
            assert head is not None
            self.inbox.pop(head, done=done)


def open_stream(window: int = WINDOW) -> Bench:
    bench = Bench(window)
    assert bench.watch() == Watch(after=0, limit=min(64, window), wait=25, window=window)
    return bench


def some(first: int, last: int, body: str = "x") -> list[Message]:
    return [message(seq, body) for seq in range(first, last + 1)]


# -- room -----------------------------------------------------------------------------------


def test_an_open_stream_is_waited_for_until_its_time_is_up_and_a_replys() -> None:
    bench = open_stream()
    assert bench.waits() == Step(None, bench.now + 35)
    assert bench.stream.dead_at == bench.now + 35


def test_it_is_renewed_when_half_of_the_window_is_free() -> None:
    bench = open_stream()
    bench.come(*some(1, 60))
    assert bench.waits().taken == 50  # 40 under way: of the 60 held, 50 make half of the window
    bench.deal(49, done=False)
    assert bench.waits().taken == 50
    bench.deal(1, done=False)
    watch = bench.watch()
    assert (watch.after, watch.ack, watch.window, watch.renew) == (60, None, 90, True)


def test_what_is_under_way_counts() -> None:
    bench = open_stream()
    bench.come(*some(1, 60))
    bench.deal(50, done=False)
    bench.watch()
    bench.come(*some(61, 80), to=0)  # they were under way when it was renewed
    assert bench.asked[-1].left == 70
    assert bench.waits().taken == 100  # 70 under way, 30 held: 50 more to make half
    bench.deal(30, done=False)
    bench.come(*some(81, 110))
    assert bench.waits().taken == 100  # 40 under way, 30 held


def test_it_is_renewed_when_half_of_its_bytes_have_come() -> None:
    bench = open_stream()
    bench.come(*some(1, 3), size=HALF_BYTES - 1)
    bench.deal(1, done=False)
    bench.waits()
    bench.come(size=1)
    assert bench.watch().window == WINDOW - 2
    bench.waits()  # they are counted anew


def test_with_many_bytes_held_there_is_no_room() -> None:
    bench = open_stream()
    bench.come(*some(1, 4, LARGE), size=70_000, ended=True)
    step = bench.waits()
    assert (step.below, step.taken) == (HALF_BYTES, inf)
    bench.deal(3, done=False)
    watch = bench.watch()
    assert (watch.after, watch.window, watch.renew) == (4, WINDOW - 1, False)


def test_a_stream_that_has_ended_is_renewed_as_a_new_one() -> None:
    bench = open_stream()
    bench.now += 25
    bench.come(ended=True)
    assert bench.watch() == Watch(after=0, limit=64, wait=25, window=WINDOW, renew=False)


def test_one_that_has_not_ended_is_renewed_by_a_watch_that_says_so_whenever_it_ends() -> None:
    bench = open_stream()
    bench.come(*some(1, 60))
    bench.deal(50, done=False)
    assert bench.watch().renew
    bench.come(ended=True, to=0)  # the end crosses the renewal: the second watch is open
    assert bench.stream.dead_at == bench.now + 35
    bench.waits()


@pytest.mark.parametrize("window", [1, 2, 3, 1000])
def test_whatever_the_window_no_more_is_held_and_under_way(window: int) -> None:
    bench = open_stream(window)
    seq, held_most = 0, 0
    for turn in range(3000):
        left = bench.asked[-1].left
        if turn % 3 and left:
            seq += 1
            bench.come(message(seq), ended=left == 1)
        elif bench.inbox.head() is not None:
            bench.deal(1)
        bench.now += 0.001
        bench.step()
        held_most = max(held_most, bench.inbox.progress.held)
        assert bench.inbox.progress.held + bench.asked[-1].left <= window
    assert seq > window
    assert held_most <= window


def test_a_full_window_is_kept_alive_by_pings() -> None:
    bench = open_stream(2)
    bench.come(*some(1, 2), ended=True)
    for _ in range(2):
        bench.now += 19
        bench.waits()
        bench.now += 1
        assert isinstance(bench.step().request, Ping)


def test_a_server_that_ends_every_watch_at_once_is_asked_at_the_pace_of_polling() -> None:
    bench = open_stream()
    bench.come(ended=True)
    assert bench.waits().until == bench.now + 1
    bench.now += 1
    bench.watch()
    bench.come(message(1), ended=True)  # with news it is asked again at once
    bench.watch()


# -- acks -----------------------------------------------------------------------------------


def test_an_empty_inbox_is_acked_at_once() -> None:
    bench = open_stream()
    bench.come(*some(1, 2))
    assert bench.waits().empty
    bench.deal(1)
    bench.waits()
    bench.deal(1)
    watch = bench.watch()
    assert (watch.after, watch.ack, watch.window) == (2, 2, WINDOW)


def test_an_ack_soon_after_another_waits_for_more_to_say() -> None:
    bench = open_stream()
    bench.come(message(1))
    bench.deal(1)
    assert bench.watch().ack == 1
    assert bench.come(message(2)) == 1  # no ack is under way any more
    assert not bench.waits().empty
    bench.deal(1)
    assert bench.waits().until == bench.now + QUIET_SECONDS
    bench.now += QUIET_SECONDS
    assert bench.watch().ack == 2
    bench.now += QUIET_SECONDS
    assert bench.come(message(3)) == 2
    assert bench.waits().empty
    bench.deal(1)
    assert bench.watch().ack == 3  # at once


def test_while_an_ack_is_under_way_others_wait_and_none_is_said_twice() -> None:
    bench = open_stream()
    bench.come(message(1))
    bench.deal(1)
    assert bench.watch().ack == 1
    assert bench.come(message(2), to=0) == 0  # the reply of the watch before says nothing
    bench.deal(1)
    assert not bench.waits().empty
    bench.now += ACK_SECONDS
    assert bench.watch().ack == 2
    assert bench.come(message(3), to=1) == 0
    assert bench.inbox.unacked == 2
    assert bench.come(message(4), to=2) == 2
    assert bench.inbox.unacked is None
    bench.now += ACK_SECONDS
    bench.waits()
    bench.deal(2)
    assert bench.watch().ack == 4


def test_a_renewal_for_room_does_not_repeat_the_ack_that_is_under_way() -> None:
    bench = open_stream()
    bench.come(message(1))
    bench.deal(1)
    assert bench.watch().ack == 1
    bench.come(*some(2, 60), to=0)
    bench.deal(59, done=False)
    watch = bench.watch()
    assert (watch.after, watch.ack) == (60, None)


def test_an_ack_is_due_when_many_are_dealt_with() -> None:
    bench = open_stream(1000)
    bench.come(*some(1, 64))
    assert bench.waits().done == ACK_MESSAGES
    bench.deal(ACK_MESSAGES - 1)
    bench.waits()
    bench.deal(1)
    assert bench.watch().ack == ACK_MESSAGES
    assert bench.waits().done == 2 * ACK_MESSAGES


def test_an_ack_is_due_some_time_after_the_first() -> None:
    bench = open_stream()
    bench.come(*some(1, 3))
    bench.deal(1)
    assert bench.waits().until == bench.now + ACK_SECONDS
    bench.now += ACK_SECONDS
    assert bench.watch().ack == 1


def test_a_slow_application_tells_of_the_first_that_it_deals_with() -> None:
    bench = open_stream()
    bench.come(*some(1, 3))
    bench.now += ACK_SECONDS
    assert bench.waits().done == 1
    bench.now += 10
    bench.deal(1)
    assert bench.waits().until == bench.now + ACK_SECONDS
    bench.now += ACK_SECONDS
    assert bench.watch().ack == 1
    bench.now += 2 * ACK_SECONDS
    assert bench.waits().done == 2


def test_without_room_an_ack_goes_on_its_own() -> None:
    bench = open_stream()
    bench.come(*some(1, 4, LARGE), size=70_000, ended=True)
    bench.deal(1)
    bench.now += ACK_SECONDS
    assert bench.step().request == Ack(up_to=1)
    bench.inbox.acked(1)
    bench.waits()


def test_what_another_session_has_acked_is_not_acked() -> None:
    bench = open_stream()
    bench.come(*some(1, 2))
    bench.inbox.acked(2)
    bench.deal(2)
    assert bench.waits().until == bench.stream.dead_at


def test_a_refused_ack_is_said_again_in_a_while() -> None:
    bench = open_stream()
    bench.come(message(1))
    bench.deal(1)
    assert bench.watch().ack == 1
    bench.stream.refused(bench.asked[-1])
    assert bench.watch().ack == 1  # with a watch that is due anyhow
    bench.come(*some(2, 5, LARGE), size=70_000, ended=True)
    bench.deal(1)
    bench.now += 1
    assert bench.step().request == Ack(up_to=2)
    bench.stream.refused()
    assert bench.waits() == Step(None, bench.now + LOOK_SECONDS, below=HALF_BYTES)
    bench.now += 1
    assert bench.step().request == Ack(up_to=2)


# -- what the inbox tells -------------------------------------------------------------------


def test_progress_is_told_once_and_only_when_it_was_asked_for() -> None:
    told: list[int] = []
    inbox = Inbox(0)
    inbox.on_progress(lambda: told.append(inbox.progress.taken))
    inbox.put(some(1, 200))
    for asked in ({"taken": 5}, {"done": 60}, {"below": 90}, {"empty": True}):
        assert not inbox.tell_at(**asked)
        for _ in range(50):
            head = inbox.head()
            assert head is not None
            inbox.pop(head, done=True)
    assert told == [5, 60, 111, 200]


def test_progress_that_has_been_made_already_is_said_at_once() -> None:
    inbox = Inbox(0)
    inbox.put(some(1, 3))
    assert not inbox.tell_at(taken=1, done=1, below=3, empty=True)
    head = inbox.head()
    assert head is not None
    inbox.pop(head, done=True)
    for asked in ({"taken": 1}, {"done": 1}, {"below": 3}):
        assert inbox.tell_at(**asked)
    assert not inbox.tell_at(taken=2, done=2, below=2, empty=True)


def test_bytes_held_are_those_of_the_bodies() -> None:
    inbox = Inbox(0)
    inbox.put([message(1, "né"), message(2, "abc"), message(3, "x")])
    assert inbox.progress.held_bytes == 7
    head = inbox.head()
    assert head is not None
    inbox.pop(head, done=False)
    assert inbox.progress.held_bytes == 4
    inbox.drop(2)
    assert inbox.progress.held_bytes == 1
    inbox.rewind(0)
    assert inbox.progress.held_bytes == 0
