"""A client that streams as `docs/protocol.md` says gets every message once, whatever crosses.

It knows no more than its end of the line. So this finds what only bytes under way can show: frames
in halves, mail between the halves, replies that are kept back, and a watch that ends for no reason
that its client can see. What else may be asked is in `listener/test_conversation_property.py`.
"""

from collections import deque

import pytest
from conversing import Conversing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from twinline.core.protocol import Done, Ping, Watch, WatchReply

ROOMY = 1 << 20
STREAM_BYTES = 65_536
LONG = "x" * 16_000


class Line:
    """A connection whose bytes arrive when the test says so, and both of its ends."""

    def __init__(self, name: str, window: int, limit: int, wait: int) -> None:
        self.server = Conversing(name, name)
        self.client = self.server.client
        self.up, self.down = bytearray(), bytearray()
        self.window, self.limit, self.wait = window, limit, wait
        self.number = 1
        self.stored = 0
        self.seen = 0
        self.asked: deque[tuple[int, Watch | Ping]] = deque()
        self.renew = False
        self.time_is_up: set[int] = set()  # of these watches
        self.frames: list[tuple[int, int]] = []  # the last seq of each page, and its bytes
        self.server.writes.clear()

    # -- what can happen -----------------------------------------------------------------

    def deliver(self, body: str, count: int) -> None:
        self.server.mail(*[body] * count)
        self.stored += count
        self.serve()

    def move_up(self, count: int) -> None:
        """Have some bytes arrive at the server."""
        self.server.talk.receive_data(bytes(self.up[:count]))
        del self.up[:count]
        self.serve()

    def move_down(self, count: int) -> None:
        """Have some bytes arrive at the client."""
        for at in range(min(count, len(self.down))):
            # One by one, for the sizes of the frames.
            self.client.receive_data(bytes(self.down[at : at + 1]))
            self.size += 1
            if (event := self.client.next_event()) is not None:
                self.hear(event.id, event.reply)
                self.size = 0
        del self.down[:count]

    def pass_time(self) -> None:
        """Have the time of what the server waits for be up, but for half a frame's."""
        talk = self.server.talk
        if talk.watches and not self.up:
            assert talk.deadline is not None
            self.server.now = talk.deadline
            self.time_is_up.add(self.asked[-1][0])
            talk.time_is_up()
            self.serve()

    def settle(self) -> None:
        """Have everything arrive; a stream that is open then has brought all that there is."""
        self.move_up(ROOMY)
        self.move_down(ROOMY)
        if self.asked:
            _, newest = self.asked[-1]
            assert isinstance(newest, Watch)
            assert newest.wait
            assert self.seen == self.stored
            assert not (newest.window and self.used_up(newest))

    def ask(self, request: Watch | Ping) -> None:
        self.number += 1
        self.asked.append((self.number, request))
        self.up += self.server.frame(self.number, request)

    def watch_once(self) -> None:
        """Have the stream go on by a single reply."""
        if self.renew:
            self.watch(window=0)

    def watch(self, window: int | None = None) -> None:
        """Begin the stream, or renew it."""
        self.ask(
            Watch(
                after=self.seen,
                ack=self.seen if self.seen % 2 else None,
                window=self.window if window is None else window,
                limit=self.limit,
                wait=self.wait,
                renew=self.renew,
            )
        )
        self.renew = True

    def watch_at_once(self) -> None:
        """Renew the stream while what it has sent is still on its way."""
        self.watch()
        self.move_up(ROOMY)

    # -- both ends -----------------------------------------------------------------------

    size = 0  # of the frame that is arriving

    def serve(self) -> None:
        """Have the server do what there is to do; what is not urgent it may keep back."""
        if self.server.woken:
            self.server.woken = False
            self.server.talk.look_again()
        self.server.go_on()
        assert not self.server.talk.ended
        self.down += b"".join(self.server.writes)
        self.server.writes.clear()

    def hear(self, number: int | None, reply: object) -> None:
        asked, request = self.asked[0]
        assert number == asked
        if not isinstance(request, Watch):
            assert isinstance(reply, Done)
            self.asked.popleft()
            return
        assert isinstance(reply, WatchReply)
        seqs = [message.seq for message in reply.messages]
        assert seqs == [*range(self.seen + 1, self.seen + 1 + len(seqs))], "lost, or sent twice"
        assert len(seqs) <= request.limit
        if seqs:
            self.seen = seqs[-1]
            before = self.bytes_beyond(request.after)
            if request.window:
                assert self.seen - request.after <= request.window
                assert before < STREAM_BYTES
                assert before + self.size <= STREAM_BYTES or len(seqs) == 1
            self.frames.append((self.seen, self.size))
        if reply.more:
            assert seqs
            assert request.window
            return
        self.asked.popleft()
        reasons = (
            self.asked,
            seqs and not request.window,
            request.window and self.used_up(request),
            number in self.time_is_up,
            not request.wait,
        )
        assert any(reasons), "it ended for no reason"

    def bytes_beyond(self, seq: int) -> int:
        return sum(size for last, size in self.frames if last > seq)

    def used_up(self, watch: Watch) -> bool:
        beyond = self.seen - watch.after
        return beyond >= watch.window or self.bytes_beyond(watch.after) >= STREAM_BYTES


ACTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("deliver"), st.sampled_from(["hi", "é" * 200, LONG]), st.sampled_from([1, 1, 5])
        ),
        st.tuples(st.just("move_up"), st.sampled_from([1, 40, ROOMY, ROOMY])),
        st.tuples(st.just("move_down"), st.sampled_from([1, 100, 20_000, ROOMY])),
        st.tuples(st.just("watch")),
        st.tuples(st.just("watch_at_once")),
        st.tuples(st.just("watch_once")),
        st.tuples(st.just("ask"), st.just(Ping())),
        st.tuples(st.just("pass_time")),
        st.tuples(st.just("settle")),
    ),
    max_size=60,
)


@pytest.mark.parametrize("name", ["jsonl", "binary"])
@settings(max_examples=60, deadline=None)
@example(  # the renewal comes when all of its window is under way
    actions=[("watch_at_once",), ("deliver", "hi", 5), ("watch_at_once",), ("settle",)],
    window=2,
    limit=64,
    wait=25,
)
@example(  # the renewal comes when all of its bytes are under way
    actions=[("watch_at_once",), ("deliver", LONG, 5), ("watch_at_once",), ("settle",)],
    window=256,
    limit=64,
    wait=25,
)
@given(
    actions=ACTIONS,
    window=st.sampled_from([1, 2, 3, 8, 256]),
    limit=st.sampled_from([1, 2, 64]),
    wait=st.sampled_from([0, 25]),
)
def test_every_message_comes_once_and_within_the_window(name, actions, window, limit, wait):
    line = Line(name, window, limit, wait)
    for action, *arguments in actions:
        getattr(line, action)(*arguments)
    line.settle()
    for _ in range(line.stored + 1):
        line.watch()
        line.settle()
    assert line.seen == line.stored
    line.ask(Ping())
    line.settle()
    assert not line.asked
