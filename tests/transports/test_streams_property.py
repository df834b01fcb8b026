"""A client that streams as `docs/protocol.md` says gets every message once, whatever crosses."""

from collections import deque

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from services import PASSWORD, enter, make_service

from twinline.core.protocol import CreateAccount, Done, Ping, SessionReply, Watch, WatchReply
from twinline.transports.listener import ListenerSettings
from twinline.transports.listener.conversation import Conversation
from twinline.transports.registry import transport

ROOMY = 1 << 20
STREAM_BYTES = 65_536
LONG = "x" * 16_000


class Line:
    """A connection whose bytes arrive when the test says so, and both of its ends."""

    def __init__(self, name: str, window: int, limit: int, wait: int) -> None:
        self.now = 0.0
        self.service = make_service()
        self.ann = enter(self.service, "ann")
        self.up, self.down = bytearray(), bytearray()
        self.server = Conversation(
            transport(name).server_codec(ROOMY),
            self.service,
            ListenerSettings(),
            address="127.0.0.1",
            on_mail=self.woken,
            on_end=lambda: None,
            clock=lambda: self.now,
        )
        self.client = transport(name).client_codec(ROOMY)
        self.window, self.limit, self.wait = window, limit, wait
        self.number = 0
        self.stored = 0
        self.seen = 0
        self.asked: deque[tuple[int, Watch | Ping | CreateAccount]] = deque()
        self.renew = False
        self.time_is_up: set[int] = set()  # of these watches
        self.frames: list[tuple[int, int]] = []  # the last seq of each page, and its bytes
        self.ask(CreateAccount(username="bob", password=PASSWORD))
        self.move_up(ROOMY)
        self.move_down(ROOMY)

    def woken(self) -> None:
        self.server.look_again()

    # -- what can happen -----------------------------------------------------------------

    def deliver(self, body: str, count: int) -> None:
        for _ in range(count):
            self.service.send(self.ann, "bob", body)
            self.stored += 1
        self.serve()

    def move_up(self, count: int) -> None:
        """Have some bytes arrive at the server."""
        self.server.receive_data(bytes(self.up[:count]))
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
        if self.server.watches and not self.up:
            self.now = self.server.deadline
            self.time_is_up.add(self.asked[-1][0])
            self.server.time_is_up()
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

    def ask(self, request: Watch | Ping | CreateAccount) -> None:
        self.number += 1
        self.asked.append((self.number, request))
        self.client.send(self.number, request)
        self.up += self.client.data_to_send()

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
        for _ in range(10_000):
            job = self.server.next_job()
            if job is not None:
                self.server.finish(self.service.handle(self.server.session, job))
                continue
            urgent = self.server.urgent or self.server.full
            # What is not urgent may be kept back.
            if urgent:
                self.down += self.server.data_to_send()
            if self.server.waits:
                return
            assert urgent
            assert not self.server.ended
        pytest.fail("the server never waits")

    def hear(self, number: int | None, reply: object) -> None:
        asked, request = self.asked[0]
        assert number == asked
        if not isinstance(request, Watch):
            assert isinstance(reply, (Done, SessionReply))
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
