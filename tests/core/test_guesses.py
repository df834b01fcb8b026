"""Guessing at an account: bounded, in turn, and no way to keep its owner out."""

import threading
from collections import Counter, deque
from collections.abc import Callable
from random import Random

import pytest
from services import PASSWORD, FakeClock, cheap_hasher
from waiting import join

from twinline.core import errors, guesses, throttle
from twinline.core.guesses import Attempt, GuessThrottle, Turns
from twinline.core.service import ChatService
from twinline.core.settings import ServiceSettings
from twinline.stores.memory import MemoryStore

HOME, AWAY = "192.0.2.1", "192.0.2.2"


class World:
    """A service whose two clocks only the test moves."""

    def __init__(self, **settings: object) -> None:
        self.clock = FakeClock()
        self.start = self.clock.now
        self.store = MemoryStore()
        self.service = ChatService(
            self.store,
            ServiceSettings.model_validate(settings),
            clock=self.clock,
            monotonic=lambda: (self.clock.now - self.start) / 1000,
            hasher=cheap_hasher(),
        )
        self.service.add_account("ann", PASSWORD)
        self.hashed: list[float] = []  # the times of guesses that cost a hash

    @property
    def seconds(self) -> float:
        return (self.clock.now - self.start) / 1000

    def login(self, address: str, password: str = PASSWORD, username: str = "ann") -> None:
        self.service.login(self.service.session(address), username, password)

    def guess(self, address: str, username: str = "ann") -> int:
        """Return 0 after a guess that was hashed, or how many ms to wait."""
        try:
            self.login(address, "another horse", username)
        except errors.BadCredentials:
            self.hashed.append(self.seconds)
            return 0
        except errors.RateLimited as refused:
            return refused.retry_after_ms or 0
        raise AssertionError("a wrong password opened the account")

    def try_for(self, seconds: float, address: str, attackers: list[str], step: float) -> float:
        """Have attackers poll, and the owner too; return how long until the owner is in."""
        begin = self.seconds
        while self.seconds - begin <= seconds:
            for attacker in attackers:
                self.guess(attacker)
            try:
                self.login(address)
                return self.seconds - begin
            except errors.RateLimited as refused:
                wait = refused.retry_after_ms
            assert wait in range(1, 60_001)
            self.clock.forward(seconds=step)
        raise AssertionError(f"the owner was kept out for {seconds} s")


def attackers_of(count: int) -> list[str]:
    return [f"198.51.100.{number}" for number in range(count)]


def most_in_a_minute(times: list[float]) -> int:
    window: deque[float] = deque()
    most = 0
    for time in sorted(times):
        window.append(time)
        while time - window[0] >= 60:
            window.popleft()
        most = max(most, len(window))
    return most


@pytest.mark.parametrize("home", [HOME, "2001:db8:1:2::5"])
def test_where_the_owner_logged_in_before_nobody_who_polls_slows_the_owner(home: str) -> None:
    world = World()
    world.login(home)
    elsewhere = "2001:db8:1:2:ffff::9" if ":" in home else home  # another address of the same /64
    attempts = []
    for _ in range(40):
        attempts.append(world.try_for(5, elsewhere, attackers_of(6), 0.5))
        for _ in range(20):
            for attacker in attackers_of(6):
                world.guess(attacker)
            world.clock.forward(seconds=0.5)
    assert attempts == [0.0] * 40
    assert 0 < most_in_a_minute(world.hashed) <= 20


@pytest.mark.parametrize("obeys", [True, False])
def test_where_the_owner_never_was_there_is_a_turn_within_a_minute(obeys: bool) -> None:
    # With no pauses of their own, so that attackers take every turn there is.
    world = World(failures_per_account=10_000, failures_per_address=10_000)
    for _ in range(1_200):  # ten minutes of it
        for attacker in attackers_of(6):
            world.guess(attacker)
        world.clock.forward(seconds=0.5)
    if not obeys:
        assert world.try_for(60, AWAY, attackers_of(6), 0.5) <= 60
    else:
        with pytest.raises(errors.RateLimited) as refused:
            world.login(AWAY)
        wait = (refused.value.retry_after_ms or 0) / 1000
        assert 0 < wait <= 60
        come = world.seconds + wait
        while world.seconds < come:
            for attacker in attackers_of(6):
                world.guess(attacker)
            world.clock.forward(seconds=0.5)
        world.login(AWAY)
    assert 0 < most_in_a_minute(world.hashed) <= 20
    world.login(AWAY)  # known by now


@pytest.mark.parametrize("hoarding", [False, True])
def test_all_unseen_addresses_together_get_the_guesses_of_the_setting(hoarding: bool) -> None:
    world = World(failures_per_account=10_000, failures_per_address=10_000)
    random = Random(5)
    attackers = attackers_of(200)
    for tick in range(1_200):
        # Who hoards turns comes in bursts, when as many as may be are there to be used.
        if not hoarding or tick % 40 == 0:
            for attacker in random.sample(attackers, 40):
                world.guess(attacker)
        world.clock.forward(seconds=0.5)
    assert most_in_a_minute(world.hashed) <= 20
    assert len(world.hashed) > 20


def test_an_attempt_that_has_no_address_is_counted_by_none() -> None:
    world = World(failures_per_address=3, failures_per_account=2)
    for number in range(30):
        assert world.guess("", f"user{number}") == 0
    world.login("")
    world.guess("", "bob")
    world.guess("", "bob")
    for _ in range(30):
        world.login("")  # a login is no guess, and ann's are not slowed by bob's
    assert world.store.accounts.address_noted_at(ann(world), "") is None


def ann(world: World) -> str:
    account = world.store.accounts.find("ann")
    assert account is not None
    return account.account_id


def test_an_open_session_is_slowed_by_its_own_failures_alone() -> None:
    world = World(failures_per_account=2, guesses_per_minute=2)
    sessions = [world.service.session(HOME) for _ in range(2)]
    for session in sessions:
        world.service.login(session, "ann", PASSWORD)
    mine, stolen = sessions
    for attacker in (HOME, *attackers_of(30)):
        for _ in range(4):
            world.guess(attacker)
    for _ in range(2):
        with pytest.raises(errors.BadCredentials):
            world.service.delete_account(stolen, "another horse")
    for _ in range(2):
        with pytest.raises(errors.RateLimited) as refused:
            world.service.change_password(stolen, PASSWORD, PASSWORD)
    assert refused.value.retry_after_ms == 1_000
    with pytest.raises(errors.BadCredentials):
        world.service.change_password(mine, "another horse", PASSWORD)
    world.service.change_password(mine, PASSWORD, "battery staple")
    world.service.delete_account(mine, "battery staple")


def test_an_address_is_known_for_thirty_days_and_to_its_account_alone() -> None:
    world = World(guesses_per_minute=2)
    world.service.add_account("bob", PASSWORD)
    world.login(HOME)

    def open_to(username: str) -> bool:
        for attacker in attackers_of(4):
            world.guess(attacker, username)
        try:
            world.login(HOME, username=username)
        except errors.RateLimited:
            return False
        return True

    assert open_to("ann")
    assert not open_to("bob")
    world.clock.forward(days=29.9)
    assert open_to("ann")
    world.clock.forward(days=30.1)
    assert not open_to("ann")


def test_sixteen_addresses_are_known_and_go_with_the_account() -> None:
    world = World()
    account_id = ann(world)
    for number in range(20):
        world.login(f"192.0.2.{number}")
        world.clock.forward(hours=1)
    accounts = world.store.accounts
    known = [
        number
        for number in range(20)
        if accounts.address_noted_at(account_id, f"192.0.2.{number}") is not None
    ]
    assert known == list(range(4, 20))
    session = world.service.session(HOME)
    world.service.login(session, "ann", PASSWORD)
    world.service.delete_account(session, PASSWORD)
    assert accounts.address_noted_at(account_id, HOME) is None


def test_creating_an_account_makes_the_address_known() -> None:
    world = World()
    session = world.service.session(HOME)
    world.service.create_account(session, "bob", PASSWORD)
    account = world.store.accounts.find("bob")
    assert account is not None
    assert world.store.accounts.address_noted_at(account.account_id, HOME) == world.clock.now


def test_an_address_is_noted_once_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    noted: list[int] = []
    note = world.store.accounts.note_address

    def counting(account_id: str, address: str, at: int, *, most: int) -> None:
        noted.append(at)
        note(account_id, address, at, most=most)

    monkeypatch.setattr(world.store.accounts, "note_address", counting)
    for _ in range(30):
        world.login(HOME)
        world.clock.forward(hours=2)
    assert len(noted) == 3


# --- floods


class Seconds:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def few_keys(monkeypatch: pytest.MonkeyPatch) -> int:
    """Have throttles keep few keys."""
    monkeypatch.setattr(throttle, "MAX_KEYS", 100)
    return 100


def waits(call: Callable[[], None]) -> float:
    try:
        call()
    except errors.RateLimited as refused:
        return (refused.retry_after_ms or 0) / 1000
    return 0.0


def test_a_flood_resets_no_count_and_takes_no_turn(few_keys: int) -> None:
    clock = Seconds()
    limits = GuessThrottle(
        failures_per_account=2, failures_per_address=1_000, guesses_per_minute=20, clock=clock
    )
    attacker = Attempt("ann", "198.51.100.1", known=False)
    for _ in range(4):
        limits.failed(attacker)
    while not waits(lambda: limits.begin(Attempt("ann", "198.51.100.2", known=False))):
        pass  # the turns that were free are gone
    owner = Attempt("ann", AWAY, known=False)
    turn = waits(lambda: limits.check(owner))
    assert turn > 0
    paused = waits(lambda: limits.check(attacker))
    for number in range(20 * few_keys):
        invented = Attempt(f"user{number}", f"10.0.{number // 250}.{number % 250}", known=False)
        waits(lambda invented=invented: limits.begin(invented))
        limits.failed(invented)
        waits(lambda number=number: limits.check(Attempt("ann", f"10.1.0.{number}", known=False)))
    assert waits(lambda: limits.check(attacker)) == paused
    assert waits(lambda: limits.check(owner)) == turn
    clock.now += turn
    limits.check(owner)
    limits.begin(owner)
    held = limits._turns._lines
    assert len(held) <= few_keys + guesses._SHARED_LINES
    assert max(len(line.turns) for line in held.values()) <= guesses.MOST_TURNS
    assert len(limits._pairs._failures) <= few_keys
    assert sum(map(len, limits._pairs._last.values())) == len(limits._pairs._failures)


def test_lines_that_are_as_good_as_new_are_dropped() -> None:
    clock = Seconds()
    turns = Turns(20, clock)
    for number in range(50):
        turns.take(f"user{number}", AWAY)
    clock.now += 60
    for number in range(30):
        turns.take(f"other{number}", AWAY)
    assert len(turns._lines) == 30
    turns.check("nobody", AWAY)
    assert "nobody" not in turns._lines


def test_a_turn_that_nobody_takes_lapses() -> None:
    clock = Seconds()
    turns = Turns(2, clock)
    turns.take("ann", HOME)
    first = waits(lambda: turns.check("ann", AWAY))
    assert first == pytest.approx(60)
    clock.now += 60 + guesses.TURN_HELD_SECONDS + 1
    assert waits(lambda: turns.check("ann", AWAY)) > 0
    assert len(turns._lines["ann"].turns) == 1


def test_a_username_is_guessed_at_whether_it_exists_or_not() -> None:
    world = World()
    seen = {
        name: [world.guess(f"198.51.100.{number % 9}", name) for number in range(40)]
        for name in ("ann", "nobody")
    }
    assert seen["ann"] == seen["nobody"]


def test_real_threads_and_a_real_clock() -> None:
    """Six attackers poll for a short while; the owner, whose address is known, is never refused."""
    service = ChatService(MemoryStore(), hasher=cheap_hasher())
    service.add_account("ann", PASSWORD)
    service.login(service.session(HOME), "ann", PASSWORD)
    done, outcomes = threading.Event(), Counter[str]()

    def poll(address: str) -> None:
        while not done.is_set():
            try:
                service.login(service.session(address), "ann", "another horse")
            except errors.RequestError as refused:
                outcomes[refused.code] += 1

    threads = [threading.Thread(target=poll, args=(each,)) for each in attackers_of(6)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            service.login(service.session(HOME), "ann", PASSWORD)
    finally:
        done.set()
        for thread in threads:
            join(thread)
    assert outcomes["bad_credentials"] <= 20
    assert outcomes.keys() <= {"bad_credentials", "rate_limited"}
