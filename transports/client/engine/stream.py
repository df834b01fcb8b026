"""The rules of a stream, without I/O: when to ask for more, when to ack, when to be told.

A watch with a window is under way all the time. What the application deals with makes room, and a
watch that renews it tells the server of that room and acks on the way::

    ◀──────────────────── window ────────────────────▶
    held here, not dealt with │ under way │  credit      room = window - held
                              └───────────┴──────────┘   credit = room - under way

A watch goes out when one of these is so, and there is room:

1. the credit is half of the window, or 32 KiB have come since the last one;
2. an ack is due: the inbox is empty, no ack is under way and none was sent in the last 50 ms; or 32
   messages are dealt with that no ack has said; or 50 ms have passed since the first of them. So
   what comes now and then is acked at once, and what comes in a row many at a time: an ack costs
   the server as much as a message.

With 32 KiB or more of bodies held there is no room, whatever their number: an ack that is due then
goes on its own, which ends the stream until there is room. So what is held is never more than the
window, nor more than 32 KiB, what the server sends for one watch (64 KiB), and one reply.

An ack is under way until a reply of the watch that carried it has come, or of one after it. What it
has said is not said again unless the connection breaks.
"""

from collections.abc import Callable
from math import ceil, inf
from typing import Final, NamedTuple

from twinline.core.protocol import Ack, Kind, Ping, Request, Watch
from twinline.transports.client.engine.inbox import Progress
from twinline.transports.client.engine.replies import Asked

ACK_SECONDS: Final = 0.05
"""How long a message may be dealt with and not acked."""
ACK_MESSAGES: Final = 32
"""How many messages may be."""
QUIET_SECONDS: Final = 0.05
"""How long after another an ack waits for more to say, with nothing left to deal with."""
HALF_BYTES: Final = 32 * 1024
"""Half of what the server sends for one watch."""
LOOK_SECONDS: Final = 0.5
"""How long what is dealt with may go unnoticed: a signal's handler may keep it from being told."""


class Step(NamedTuple):
    """What is to be done next.

    Attributes:
        request: to be sent, or None to wait.
        until: when to look again if nothing comes; on the monotonic clock.
        taken, done, below, empty: when to be told of progress; see `Inbox.tell_at`.
    """

    request: Request | None
    until: float
    taken: float = inf
    done: float = inf
    below: int = 0
    empty: bool = False

    @property
    def asks_to_be_told(self) -> bool:
        """Whether there is progress to be told of; without a message held there is none."""
        return self.empty or self.below > 0 or self.taken < inf or self.done < inf


class Stream:
    """What is said and under way on one connection.

    Attributes:
        dead_at: when the connection is dead if nothing has come; on the monotonic clock.
    """

    def __init__(
        self,
        *,
        window: int,
        page: int,
        wait: int,
        kinds: tuple[Kind, ...],
        idle_seconds: float,
        reply_seconds: float,
        pace_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        """Begin with nothing said and nothing under way.

        Args:
            window: how many messages may be held and under way.
            page: how many one reply may have.
            wait: how long a watch is open, in whole seconds.
            kinds: of the entries that it brings.
            idle_seconds: when a connection with nothing under way is tried.
            reply_seconds: for a reply that is due.
            pace_seconds: between watches that a server ends at once.
            clock: the monotonic clock.
        """
        self.dead_at = inf
        self._window = window
        self._page = page
        self._wait = wait
        self._kinds = kinds
        self._idle_seconds = idle_seconds
        self._reply_seconds = reply_seconds
        self._pace_seconds = pace_seconds
        self._clock = clock
        self._last: Asked | None = None  # the last watch
        self._under_way = False  # whether its last reply has not come
        self._sent_at = clock()  # of whatever was sent last
        self._not_before = 0.0  # for the next watch
        self._no_ack_before = 0.0
        self._counted = 0  # the bytes that had come when the last watch was sent
        self._said = 0  # the greatest ack
        self._said_at = -inf
        self._said_done = 0  # how many messages were dealt with then
        self._ack: Asked | None = None  # the watch whose ack is under way
        self._unsaid_since: float | None = None  # when a message may have been dealt with first

    def step(self, progress: Progress, received: int) -> Step:
        """Decide what is next.

        Args:
            progress: where the inbox stands.
            received: how many bytes have come on the connection.
        """
        now = self._clock()
        unsaid = self._unsaid(progress, now)
        ack_due = (
            unsaid > 0
            and now >= self._no_ack_before
            and (
                (progress.held == 0 and self._ack is None and now >= self._quiet_at())
                or unsaid >= ACK_MESSAGES
                or now >= self._ack_at()
            )
        )
        room = self._window - progress.held
        credit = room - (self._last.left if self._last is not None and self._under_way else 0)
        may_watch = room > 0 and progress.held_bytes < HALF_BYTES and now >= self._not_before
        watch_due = 2 * credit >= self._window or (
            credit > 0 and received - self._counted >= HALF_BYTES
        )
        if may_watch and (watch_due or ack_due):
            return Step(self._watch(progress, unsaid, room), now)
        if ack_due and progress.unacked is not None:
            return Step(Ack(up_to=progress.unacked), now)
        if not self._under_way and now >= self._sent_at + self._idle_seconds:
            return Step(Ping(), now)
        return self._wait_for(progress, now, unsaid, credit)

    def sent(self, asked: Asked, progress: Progress, received: int) -> None:
        """Note that a watch was sent."""
        request = asked.request
        assert isinstance(request, Watch)  # noqa: S101 - nothing else is a stream
        self._last, self._under_way = asked, True
        self._counted = received
        self.alive()
        self.dead_at = self._sent_at + self._wait + self._reply_seconds
        if request.ack is not None:
            self._ack = asked
            self.said(request.ack, progress)

    def said(self, up_to: int, progress: Progress) -> None:
        """Note that an ack was sent."""
        self._said = max(self._said, up_to)
        self._said_at = self._clock()
        self._said_done = progress.done
        self._unsaid_since = self._clock() if progress.held else None

    def alive(self) -> None:
        """Note that the connection was tried."""
        self._sent_at = self._clock()

    def fetched(self) -> None:
        """Note that new messages have come, which the application may deal with from now on."""
        self._not_before = 0.0
        if self._unsaid_since is None:
            self._unsaid_since = self._clock()

    def refused(self, asked: Asked | None = None) -> None:
        """Note that a watch or an ack was refused: what it had to say is said again, in a while."""
        if asked is not None and asked is self._last:
            self._under_way = False
            self.dead_at = inf
        self._ack = None
        self._said = 0
        self._no_ack_before = self._clock() + self._pace_seconds

    def answered(self, asked: Asked, *, ended: bool) -> int:
        """Note a reply to a watch, before `fetched`.

        Args:
            asked: the watch.
            ended: whether it was the last one.

        Returns:
            The ack that the server is now known to have carried out, or 0.
        """
        if ended and asked is self._last:
            self._under_way = False
            self.dead_at = inf
            # One that waits takes longer: this holds back from a server that ends it at once.
            self._not_before = self._sent_at + self._pace_seconds
        if self._ack is None or asked.id < self._ack.id:
            return 0
        self._ack = None
        return self._said

    def _unsaid(self, progress: Progress, now: float) -> int:
        """Return how many messages are dealt with and no ack has said so."""
        if progress.unacked is None or progress.unacked <= self._said:
            # What is here is not dealt with for long: the application is slow, and tells of the
            # first message.
            if self._unsaid_since is not None and now >= self._ack_at():
                self._unsaid_since = None
            if progress.unacked is None:  # another session of the account may have been faster
                self._said_done = progress.done
            return 0
        if self._unsaid_since is None:
            self._unsaid_since = now
        return max(1, progress.done - self._said_done)

    def _ack_at(self) -> float:
        return inf if self._unsaid_since is None else self._unsaid_since + ACK_SECONDS

    def _quiet_at(self) -> float:
        return self._said_at + QUIET_SECONDS

    def _watch(self, progress: Progress, unsaid: int, room: int) -> Watch:
        return Watch(
            after=progress.cursor,
            ack=progress.unacked if unsaid else None,
            limit=min(self._page, room),
            wait=self._wait,
            window=room,
            renew=self._under_way,
            kinds=self._kinds,
        )

    def _wait_for(self, progress: Progress, now: float, unsaid: int, credit: int) -> Step:
        until = self.dead_at if self._under_way else self._sent_at + self._idle_seconds
        if now < self._not_before:
            until = min(until, self._not_before)
        if not progress.held and not unsaid:
            return Step(None, until)
        quiet = now >= self._quiet_at()
        ack_at = self._ack_at() if quiet else min(self._ack_at(), self._quiet_at())
        until = min(until, max(ack_at, self._no_ack_before), now + LOOK_SECONDS)
        step = Step(None, until)
        if now >= self._no_ack_before:
            done = (self._said_done if unsaid else progress.done) + ACK_MESSAGES
            if not unsaid and self._unsaid_since is None:
                done = progress.done + 1  # the application is slow: it tells of the first
            step = step._replace(done=done, empty=quiet and self._ack is None)
        if progress.held_bytes >= HALF_BYTES:
            return step._replace(below=HALF_BYTES)
        if now < self._not_before:
            return step
        return step._replace(taken=progress.taken + ceil(self._window / 2) - credit)
