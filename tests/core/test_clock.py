"""Clocks that are wrong, and sessions that are in use all the same."""

import pytest
from services import PASSWORD, FakeClock, cheap_hasher, enter, login, make_service

from twinline.core import clock, errors
from twinline.core.clock import DAY_MS, SteadyClock
from twinline.core.deadline import Deadline
from twinline.core.service import ChatService
from twinline.core.waiting import Waiter
from twinline.stores.memory import MemoryStore


class Time:
    """A wall clock and a monotonic one."""

    def __init__(self) -> None:
        self.wall = FakeClock()
        self.seconds = 50.0

    def pass_by(self, *, days: float = 0, seconds: float = 0) -> None:
        self.wall.forward(days=days, seconds=seconds)
        self.seconds += days * 86_400 + seconds

    def leap(self, days: float) -> None:
        self.wall.forward(days=days)

    def steady(self) -> SteadyClock:
        return SteadyClock(self.wall, lambda: self.seconds)


def test_a_steady_clock_follows_time_and_small_steps() -> None:
    time = Time()
    steady = time.steady()
    for _ in range(5):
        time.pass_by(days=3)
        time.leap(30 / 86_400)
        assert steady() == time.wall()


@pytest.mark.parametrize("days", [31, -31, 0.1])
def test_a_leap_is_believed_when_it_has_lasted(days: float) -> None:
    time = Time()
    steady = time.steady()
    before = time.wall()
    time.leap(days)
    for _ in range(10):
        assert steady() - before < 10 * 60_000
        time.pass_by(seconds=60)
    assert steady() == time.wall()


def test_a_leap_that_passes_leaves_nothing_behind() -> None:
    time = Time()
    steady = time.steady()
    for _ in range(30):
        time.leap(31)
        steady()
        time.pass_by(seconds=3)
        time.leap(-31)
        assert steady() == time.wall()
        time.pass_by(seconds=60)


def service_on(time: Time, monkeypatch: pytest.MonkeyPatch) -> ChatService:
    """Return a service on the system's clock, which is the test's."""
    monkeypatch.setattr(clock.time, "time_ns", lambda: time.wall() * 1_000_000)
    return ChatService(MemoryStore(), monotonic=lambda: time.seconds, hasher=cheap_hasher())


@pytest.mark.parametrize("days", [31, -31])
def test_no_session_ends_by_a_clock_that_is_wrong_for_seconds(
    monkeypatch: pytest.MonkeyPatch, days: float
) -> None:
    time = Time()
    service = service_on(time, monkeypatch)
    session = service.session()
    token = service.create_account(session, "ann", PASSWORD).session
    time.pass_by(days=1)
    time.leap(days)
    for _ in range(3):
        service.status(session)
        service.resume(service.session(), token)
        late = service.session()
        service.login(late, "ann", PASSWORD)  # a session that is opened meanwhile
        time.pass_by(seconds=1)
    time.leap(-days)
    for _ in range(4):
        time.pass_by(days=29)
        for each in (session, late):
            service.status(each)
    time.pass_by(days=31)
    with pytest.raises(errors.SessionExpired):
        service.status(late)


def test_a_use_in_the_future_is_set_right() -> None:
    store, wall = MemoryStore(), FakeClock()
    service = ChatService(store, clock=wall, hasher=cheap_hasher())
    wall.forward(days=25)
    session = enter(service, "ann")
    wall.forward(days=-25)
    service.status(session)
    assert session.key is not None
    record = store.accounts.find_session(session.key)
    assert record is not None
    assert record.used_at == wall.now


def test_a_session_lives_for_its_days_from_its_last_use_and_not_for_long_after() -> None:
    wall = FakeClock()
    service = make_service(clock=wall, session_idle_days=2)
    session, other = enter(service, "ann"), login(service, "ann")
    wall.forward(hours=0.9)  # a use that is not noted
    service.status(session)
    service.status(other)
    wall.forward(days=2)
    service.status(session)
    wall.forward(hours=1.2)
    with pytest.raises(errors.SessionExpired):
        service.status(other)


@pytest.mark.parametrize("idle_seconds", [10, 60])
def test_a_watch_that_waits_is_a_use(monkeypatch: pytest.MonkeyPatch, idle_seconds: float) -> None:
    """The next watch finds the session open, and so does a command on the other connection."""
    wall = FakeClock()
    service = make_service(clock=wall, session_idle_days=idle_seconds * 1000 / DAY_MS)
    commands, watching = service.session(), service.session()
    token = service.create_account(commands, "ann", PASSWORD).session
    service.resume(watching, token)

    def nothing_comes(_waiter: Waiter, deadline: Deadline) -> bool:
        wall.forward(seconds=round(deadline.remaining()))
        return False

    monkeypatch.setattr(Waiter, "wait", nothing_comes)
    for wait in (11, 25, 59, 60):
        assert service.watch(watching, 0, wait=wait).messages == ()
    service.status(commands)
