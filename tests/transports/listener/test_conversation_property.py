"""Streams, whatever is asked and sent: a model of what a client may count on follows each step.

The model knows the mailbox and all that was said, so it tells each reply in advance. So this finds
what no client that keeps to the rules would meet: windows and cursors that jump, messages that are
deleted, cursors that are refused, mail whose wake comes late. Each request arrives whole here, and
its replies at once; `tests/transports/test_streams_property.py` has lines on which they do not.
"""

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field

import pytest
from conversing import Conversing, shown
from hypothesis import given, settings
from hypothesis import strategies as st
from services import make_service

from twinline.core.protocol import ErrorReply, Ping, Watch
from twinline.transports.contract import ReplyReceived

STREAM_BYTES = 64 * 1024
BODIES = ("x", "y" * 700, "\n" * 900, "\x01" * 3_000, "é" * 2_000, "z" * 16_000)


@dataclass
class Chain:
    """A stream and those that renew it: what they have sent, and what is under way of it."""

    last: int = 0
    seqs: deque[int] = field(default_factory=deque)  # under way
    replies: deque[tuple[int, int]] = field(default_factory=deque)  # the last seq, and the bytes
    bytes: int = 0  # of the replies that are not wholly seen

    def seen(self, after: int) -> None:
        while self.seqs and self.seqs[0] <= after:
            self.seqs.popleft()
        while self.replies and self.replies[0][0] <= after:
            self.bytes -= self.replies.popleft()[1]

    def note(self, seqs: list[int], size: int) -> None:
        self.last = seqs[-1]
        self.seqs += seqs
        self.replies.append((self.last, size))
        self.bytes += size


@dataclass
class Open:
    """A watch whose last reply has not come."""

    number: int
    request: Watch
    cursor: int
    until: float
    chain: Chain | None

    @property
    def full(self) -> bool:
        chain = self.chain
        if not self.request.window or chain is None:
            return False
        return len(chain.seqs) >= self.request.window or chain.bytes >= STREAM_BYTES


class Model:
    """What the peer knows and the mailbox holds, beside a conversation."""

    def __init__(self, spoken: str) -> None:
        self.talk = Conversing("auto", spoken, service=make_service(sends_per_second=0))
        self.alive: list[int] = []  # the seqs in the mailbox
        self.last = 0  # of the mailbox
        self.position = 0
        self.brought = 0  # the last seq that the peer has read
        self.number = 10
        self.chain: Chain | None = None
        self.open: Open | None = None
        self.owed: deque[int] = deque()  # watches that a frame has ended, whose last reply may wait

    # -- what happens --------------------------------------------------------------------

    def mail(self, bodies: list[str]) -> None:
        self.talk.mail(*bodies)
        self.alive += range(self.last + 1, self.last + 1 + len(bodies))
        self.last += len(bodies)

    def delete(self, every: int) -> None:
        gone = [seq for seq in self.alive if seq % every == 0][:1000]
        if gone:
            self.talk.service.delete_messages(self.talk.bob, gone)
            self.alive = [seq for seq in self.alive if seq not in set(gone)]

    def wake(self) -> None:
        self.read(self.talk.wake())

    def time(self, seconds: float) -> None:
        missed = self.talk.woken
        self.read(self.talk.wait(seconds), missed=missed)

    def ping(self) -> None:
        self.end_by_frame()
        self.number += 1
        *others, answer = self.talk.ask(self.number, Ping())
        self.read(others)
        assert shown([answer]) == [f"{self.number}:Done"]
        assert not self.owed

    def watch(self, back: int, ack: int | None, **fields: int) -> None:
        after = self.last + 3 if back < 0 else max(0, self.brought - back)
        acked = None if ack is None else max(0, self.brought - ack)
        request = Watch(after=after, ack=acked, **fields)
        goes_on = self.end_by_frame() or request.renew
        start, chain = after, None
        if self.chain is not None and goes_on:
            chain = self.chain
            chain.seen(after)
            start = max(after, chain.last)
        elif request.window:
            chain = self.chain = Chain()
        self.number += 1
        self.open = Open(self.number, request, start, self.talk.now + request.wait, chain)
        self.position = max(self.position, acked or 0)
        replies = self.talk.ask(self.number, request)
        if after > self.last:
            refused = replies.pop()
            assert isinstance(refused.reply, ErrorReply)
            assert shown([refused]) == [f"{self.number}:cursor_invalid"]
            self.open = None
        self.read(replies)

    def end_by_frame(self) -> bool:
        """Have a frame end the open watch; return whether that was a stream."""
        ended, self.open = self.open, None
        if ended is None:
            return False
        self.owed.append(ended.number)
        return ended.request.window > 0

    # -- what is said --------------------------------------------------------------------

    def read(self, replies: list[ReplyReceived], *, missed: bool = False) -> None:
        """Check replies, and that the open watch has nothing left to say."""
        for received in replies:
            if self.owed:
                assert shown([received]) == [f"{self.owed.popleft()}:[]"]
            else:
                self.read_one(received, missed=missed)
        assert self.talk.state == ("waiting" if self.open is None else "watching")
        if self.open is not None:
            assert not self.open.full
            assert self.talk.now < self.open.until
            assert self.talk.woken or not self.beyond(self.open.cursor)

    def read_one(self, received: ReplyReceived, *, missed: bool) -> None:
        watch = self.open
        assert watch is not None
        assert received.id == watch.number
        seqs = [message.seq for message in received.reply.messages]
        # The next of the mailbox: nothing is left out, sent again, or out of order.
        assert seqs == self.beyond(watch.cursor, len(seqs))
        assert len(seqs) <= watch.request.limit
        assert received.reply.position == self.position
        if seqs:
            assert not watch.full
            watch.cursor = seqs[-1]
            self.brought = max(self.brought, seqs[-1])
            if watch.chain is not None:
                self.note(watch, seqs, self.talk.size(received))
        if received.more:
            assert seqs
            assert watch.request.window
            return
        self.open = None
        late = watch.request.wait == 0 or self.talk.now >= watch.until
        assert late or watch.full or (seqs and not watch.request.window)
        if not seqs and not watch.full:
            assert missed or not self.beyond(watch.cursor)
        if watch.request.window and not watch.full:
            assert missed or not self.beyond(watch.cursor)  # the stream has brought it all

    def note(self, watch: Open, seqs: list[int], size: int) -> None:
        chain = watch.chain
        assert chain is not None
        assert seqs[0] > chain.last  # nothing is sent twice
        chain.note(seqs, size)
        if watch.request.window:
            assert len(chain.seqs) <= watch.request.window
            assert chain.bytes <= STREAM_BYTES or (
                len(seqs) == 1 and chain.bytes - size < STREAM_BYTES
            )

    def beyond(self, seq: int, count: int = 1) -> list[int]:
        """Return the first seqs of the mailbox beyond one."""
        start = bisect_right(self.alive, seq)
        return self.alive[start : start + count]


WATCHES = st.fixed_dictionaries(
    {
        "back": st.sampled_from([0, 0, 0, 1, 1, 2, 3, 7, 99, -1]),
        "ack": st.sampled_from([None, None, 0, 2]),
        "limit": st.sampled_from([1, 2, 5, 64, 1000]),
        "wait": st.sampled_from([0, 5, 25, 25]),
        "window": st.sampled_from([0, 1, 2, 3, 8, 30, 256, 1000]),
        "renew": st.booleans(),
    }
)
STEPS = st.one_of(
    st.tuples(st.just("watch"), WATCHES),
    st.tuples(
        st.just("mail"),
        st.builds(
            lambda bodies, times: {"bodies": bodies * times},
            st.lists(st.sampled_from(BODIES), min_size=1, max_size=4),
            st.sampled_from([1, 1, 1, 2, 9, 25]),
        ),
    ),
    st.just(("wake", {})),
    st.just(("wake", {})),
    st.just(("ping", {})),
    st.tuples(st.just("time"), st.fixed_dictionaries({"seconds": st.sampled_from([0, 1, 4, 30])})),
    st.tuples(st.just("delete"), st.fixed_dictionaries({"every": st.sampled_from([2, 3, 5])})),
)


@pytest.mark.parametrize("spoken", ["jsonl", "binary"])
@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEPS, max_size=30))
def test_a_stream_brings_everything_once_and_never_more_than_its_window(spoken, steps):
    model = Model(spoken)
    for name, fields in steps:
        getattr(model, name)(**fields)
    model.ping()
    # What the peer has not seen it gets, if it asks from there.
    after = model.alive[len(model.alive) // 2] if model.alive else 0
    back = max(0, model.brought - after)
    model.watch(back=back, ack=None, limit=1000, wait=0, window=0, renew=False)
