"""How many logins are let in at once: as many as are served in time, by what was measured."""

from collections import deque
from collections.abc import Callable

import pytest
from services import enter, make_service

from twinline.core import admission
from twinline.core.admission import Admission, Entry
from twinline.core.errors import Busy
from twinline.core.protocol import ErrorReply, Login, Resume

FIRST, FEW = admission._FIRST, admission._FEW


class Line:
    """A server that serves at a rate, one after the other, by a clock that the test moves.

    Attributes:
        inside: when each came that is let in, and its entry.
        waits: of those who were served, in seconds.
        refused: for how long each was sent away, in seconds.
    """

    def __init__(self, rate: float, draw: Callable[[float, float], float] = max) -> None:
        self.now = 100.0
        self.rate = rate
        self.gate = Admission(2.0, monotonic=lambda: self.now, draw=draw)
        self.inside: deque[tuple[float, Entry]] = deque()
        self.waits: list[float] = []
        self.refused: list[float] = []

    def come(self, number: int = 1) -> None:
        for _ in range(number):
            entry = Entry(self.gate)
            try:
                entry.enter()
            except Busy as busy:
                self.refused.append(busy.retry_after())
            else:
                self.inside.append((self.now, entry))

    def serve(self, seconds: float, *, coming: float = 0) -> None:
        """Let time pass, in which some come each second."""
        served = came = 0.0
        for _ in range(round(seconds / 0.002)):
            self.now += 0.002
            served += self.rate * 0.002
            came += coming * 0.002
            while served >= 1:
                served -= 1
                if self.inside:
                    since, entry = self.inside.popleft()
                    entry.leave()
                    self.waits.append(self.now - since)
            self.come(int(came))
            came -= int(came)


@pytest.mark.parametrize("rate", [100, 500, 2_000])
def test_a_storm_waits_no_longer_than_it_should_and_the_server_is_kept_busy(rate: int) -> None:
    line = Line(rate)
    line.come(2_000)
    assert len(line.inside) == FIRST  # as much as may be guessed
    line.serve(6, coming=4 * rate)
    assert max(line.waits) < 3.0
    # It never had nothing to do, but in the moment before anything was measured.
    assert len(line.waits) > 0.9 * 6 * rate
    assert line.refused


def test_nobody_is_refused_who_would_be_served_at_once() -> None:
    line = Line(1_000)
    line.serve(10, coming=900)
    line.come(FEW)
    assert not line.refused
    # A server on which little is going on is not thought to be slow.
    idle = Line(20)
    idle.serve(60, coming=5)
    idle.come(FIRST - len(idle.inside))
    assert not idle.refused


def test_a_store_that_has_stopped_lets_nobody_in_and_one_that_is_back_does() -> None:
    line = Line(500)
    line.serve(2, coming=2_000)
    line.rate = 0
    line.refused.clear()
    line.serve(3)
    line.come(100)
    assert len(line.refused) == 100
    line.rate = 500
    line.serve(4)  # those who waited
    line.waits.clear()
    line.serve(4, coming=2_000)
    assert max(line.waits) < 3.0
    assert len(line.waits) > 0.8 * 4 * 500
    # What it was long ago does not count.
    line.serve(admission._FORGET_SECONDS + 1)
    line.refused.clear()
    line.come(FIRST)
    assert not line.refused


def test_those_who_are_refused_come_back_one_after_the_other() -> None:
    line = Line(100, draw=lambda low, high: (low + high) / 2)
    line.come(FIRST + 1_000)
    waits = line.refused
    assert waits == sorted(waits)
    assert waits[0] >= 2.0  # behind those who are inside
    # Nothing is known of the server yet, and nobody is sent away for long.
    assert waits[-1] < 4.0
    line.serve(20, coming=400)
    line.refused.clear()
    line.gate._next = line.now  # those who were told to come have come
    line.come(1_000)
    assert waits[500] - waits[300] == pytest.approx(2.0, rel=0.2)  # at the server's pace
    line.come(20_000)
    assert max(line.refused) <= admission._LONGEST_SECONDS


def test_the_wait_is_drawn_anew_for_each() -> None:
    bounds = []

    def draw(low: float, high: float) -> float:
        bounds.append((low, high))
        return low

    line = Line(100, draw)
    line.come(FIRST + 1)
    ((low, high),) = bounds
    assert high == pytest.approx(3 * low)
    assert line.refused == [pytest.approx(low, abs=0.001)]


def test_an_entry_counts_once_and_leaves_once() -> None:
    gate = Admission(2.0, monotonic=lambda: 0.0)
    stays = [Entry(gate) for _ in range(FIRST)]
    for entry in stays:
        entry.enter()
    late = Entry(gate)
    with pytest.raises(Busy):
        late.enter()
    late.leave()  # it never was inside
    with pytest.raises(Busy):
        late.enter()
    for _ in range(3):
        stays[0].leave()
    late.enter()
    with pytest.raises(Busy):
        Entry(gate).enter()


# -- in the service -------------------------------------------------------------------------


def busy(reply: ErrorReply | None) -> bool:
    return reply is not None and reply.code == "busy"


def test_what_waits_in_a_queue_counts_until_it_is_carried_out_or_leaves() -> None:
    service = make_service()
    enter(service, "ann")
    resume, log_in = Resume(session="x"), Login(username="ann", password="correct horse")
    waiting = [service.session() for _ in range(FIRST)]
    assert not any(service.queue(session, resume) for session in waiting)
    other = service.session()
    assert busy(service.queue(other, resume))
    assert other.entry is None
    # A resume that does not wait in a queue is refused as well; one that does is carried out.
    assert service.handle(other, resume).code == "busy"  # type: ignore[attr-defined]
    assert service.handle(waiting[0], resume).code == "session_expired"  # type: ignore[attr-defined]
    assert service.queue(other, resume) is None
    assert busy(service.queue(waiting[0], resume))
    # Nor is it counted for ever if its caller leaves.
    service.leave(waiting[1])
    assert service.queue(waiting[0], resume) is None
    # What hashes waits apart; it is the hash's own queue that decides who of those comes first.
    assert service.queue(waiting[2], log_in) is None
    hashing = [service.session() for _ in range(FIRST)]
    assert sum(busy(service.queue(session, log_in)) for session in hashing) == 1
    assert service.handle(service.session(), log_in).username == "ann"  # type: ignore[attr-defined]


def test_a_login_that_had_no_thread_is_counted_once_when_it_comes_again() -> None:
    service = make_service()
    session = service.session()
    for _ in range(2 * FIRST):
        assert service.queue(session, Resume(session="x")) is None


def test_a_service_that_stops_counts_nobody() -> None:
    service = make_service()
    session = service.session()
    assert service.queue(session, Resume(session="x")) is None
    service.stop()
    assert service.handle(session, Resume(session="x")).code == "shutting_down"  # type: ignore[attr-defined]
    assert service._resumes._inside == 0
