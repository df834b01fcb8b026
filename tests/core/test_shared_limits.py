"""Limits over several servers: they refuse what one server would, together, and guess nothing."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from argon2 import PasswordHasher
from argon2.profiles import CHEAPEST
from hypothesis import given, settings
from hypothesis import strategies as st
from services import PASSWORD, FakeClock
from shared_states import MemoryStates
from waiting import join

from twinline.core import errors, throttle
from twinline.core.guesses import Attempt, Guess, GuessThrottle
from twinline.core.service import ChatService
from twinline.core.settings import ServiceSettings
from twinline.core.shared_limits import SharedGuesses, SharedHourly
from twinline.core.throttle import HourlyThrottle
from twinline.stores.memory import MemoryStore

HOME, AWAY = "192.0.2.1", "192.0.2.2"
WRONG = "another horse"


def seconds_of(clock: FakeClock) -> Callable[[], float]:
    return lambda: clock.now / 1000


def node(
    states: MemoryStates,
    clock: FakeClock,
    *,
    account: int = 5,
    address: int = 20,
    minute: int = 20,
) -> SharedGuesses:
    return SharedGuesses(
        states,
        failures_per_account=account,
        failures_per_address=address,
        guesses_per_minute=minute,
        clock=clock,
        monotonic=seconds_of(clock),
    )


def waits(call: Callable[[], object]) -> int:
    """Return for how many ms a call is refused; 0 if it is not."""
    try:
        call()
    except errors.RateLimited as refused:
        return refused.retry_after_ms or 0
    return 0


def outcome_of(guess: Guess, outcome: str) -> int:
    wait = waits(guess.check) or waits(guess.begin)
    if not wait:
        getattr(guess, outcome)()
    return wait


ACTS = st.tuples(
    st.integers(0, 1),  # the server
    st.sampled_from(["ann", "bob"]),
    st.sampled_from([HOME, HOME, AWAY, "198.51.100.7", ""]),
    st.sampled_from(["failed", "failed", "failed", "succeeded", "abandoned"]),
    st.booleans(),  # on an open session
    st.sampled_from([0, 0, 1, 500, 999, 1_000, 4_000, 21_000, 60_000, 901_000]),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(ACTS, min_size=12, max_size=60),
    st.integers(1, 4),
    st.sampled_from([2, 1000]),
    st.integers(2, 30),
)
def test_several_servers_refuse_what_one_would(
    acts: list[Any], account: int, address: int, minute: int
) -> None:
    clock, states = FakeClock(), MemoryStates()
    nodes = [node(states, clock, account=account, address=address, minute=minute) for _ in "ab"]
    one = GuessThrottle(
        failures_per_account=account,
        failures_per_address=address,
        guesses_per_minute=minute,
        clock=seconds_of(clock),
    )
    for server, username, whence, outcome, on_session, pause in acts:
        attempt = Attempt(username, whence, known=username == "ann" and whence == HOME)
        token_hash = username.encode()
        ours, its = (
            each.on_session(token_hash) if on_session else each.attempt(attempt)
            for each in (nodes[server], one)
        )
        told, expected = outcome_of(ours, outcome), outcome_of(its, outcome)
        assert bool(told) == bool(expected)
        if address == 1000:  # else the one is told of the address, and the other of the account
            assert told <= expected <= 60_000
        clock.forward(seconds=pause / 1000)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.integers(0, 1_900)), max_size=60),
    st.integers(1, 5),
)
def test_several_servers_count_an_hour_as_one_would(
    acts: list[tuple[int, bool, int]], per_hour: int
) -> None:
    clock, states = FakeClock(), MemoryStates()
    nodes = [SharedHourly(states, per_hour, clock, seconds_of(clock)) for _ in range(2)]
    one = HourlyThrottle(per_hour, seconds_of(clock))
    for server, home, pause in acts:
        address = HOME if home else AWAY
        told = waits(lambda: nodes[server].take(address, "no"))  # noqa: B023
        assert told == waits(lambda: one.take(address, "no"))  # noqa: B023
        clock.forward(seconds=pause)


@pytest.mark.parametrize("tried", ["known", "unseen", "session"])
def test_a_success_clears_what_has_failed(tried: str) -> None:
    clock, states = FakeClock(), MemoryStates()
    nodes = [node(states, clock, account=3, address=100, minute=1000) for _ in range(2)]

    def guess(server: int) -> Guess:
        if tried == "session":
            return nodes[server].on_session(b"token")
        return nodes[server].attempt(Attempt("ann", HOME, known=tried == "known"))

    for outcome in ("failed", "failed", "succeeded", "failed", "failed", "failed"):
        assert not outcome_of(guess(0), outcome)
    assert outcome_of(guess(1), "failed") == 1_000


def test_who_is_refused_again_and_again_costs_the_store_little() -> None:
    clock, states = FakeClock(), MemoryStates()
    nodes = [node(states, clock, address=2) for _ in range(2)]

    def refused(server: int, name: str, address: str) -> bool:
        return outcome_of(nodes[server].attempt(Attempt(name, address, known=False)), "failed") > 0

    for name in ("ann", "bob"):
        assert not refused(0, name, AWAY)
    with states.counting() as asked:
        assert all(refused(1, f"user{number}", AWAY) for number in range(20))
    assert asked == {"read": 1}

    addresses = (f"10.0.0.{number}" for number in range(20))
    waits_for_its_turn = next(each for each in addresses if refused(0, "ann", each))
    written = states.writes
    with states.counting() as asked:
        for server in (0, 1):
            assert all(refused(server, "ann", waits_for_its_turn) for _ in range(20))
    assert asked == {"read": 1, "change": 1}  # of the second
    assert states.writes == written


# --- races


def together(count: int, act: Callable[[int], None]) -> None:
    """Have so many threads act, as near to one moment as can be; all have begun before any ends."""
    start = threading.Barrier(count)
    faults: list[BaseException] = []

    def run(number: int) -> None:
        try:
            start.wait(20)
            act(number)
        except BaseException as fault:
            faults.append(fault)
            start.abort()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        join(thread)
    assert not faults


def begun_together(guesses: list[Guess], states: MemoryStates | None = None) -> int:
    """Return how many of these begin, of which none has failed before all others have asked.

    In the states given, all of them read before one of them changes anything.
    """
    begun: list[Guess] = []
    if states is not None:
        read = threading.Barrier(len(guesses))
        states.on_read = lambda: read.wait(20)
    asked = threading.Barrier(len(guesses))

    def act(number: int) -> None:
        guess = guesses[number]
        if not (waits(guess.check) or waits(guess.begin)):
            begun.append(guess)
        asked.wait(20)
        if guess in begun:
            guess.failed()

    together(len(guesses), act)
    if states is not None:
        states.on_read = lambda: None
    return len(begun)


def test_of_many_guesses_at_one_moment_no_more_begin_than_of_one_after_the_other() -> None:
    clock, states = FakeClock(), MemoryStates()
    nodes = [node(states, clock, account=3, address=1000) for _ in range(2)]

    def at(address: str, number: int, *, known: bool = False) -> Guess:
        return nodes[number % 2].attempt(Attempt("ann", address, known))

    assert begun_together([at(AWAY, number) for number in range(8)]) == 3
    clock.forward(seconds=1_000)
    # So many turns have added up in 20 s.
    assert begun_together([at(f"10.0.0.{number}", number) for number in range(16)]) == 5
    clock.forward(seconds=1_000)
    assert (
        len({number for number in range(3) if outcome_of(at(HOME, number, known=True), "failed")})
        == 0
    )
    for pause in (1, 2, 4):
        assert begun_together([at(HOME, number, known=True) for number in range(8)]) == 0
        clock.forward(seconds=pause)
        assert begun_together([at(HOME, number, known=True) for number in range(8)], states) == 1


def test_after_a_pause_one_try_of_an_address_and_of_a_session_is_made() -> None:
    clock, states = FakeClock(), MemoryStates()
    nodes = [node(states, clock, account=2, address=2, minute=1000) for _ in range(2)]

    names = itertools.count()

    def from_away(number: int) -> Guess:
        return nodes[number % 2].attempt(Attempt(f"user{next(names)}", AWAY, known=False))

    def on_session(number: int) -> Guess:
        return nodes[number % 2].on_session(b"token")

    for guess_of in (from_away, on_session):
        for number in range(2):
            assert not outcome_of(guess_of(number), "failed")
        for pause in (1, 2, 4):
            assert begun_together([guess_of(number) for number in range(8)]) == 0
            clock.forward(seconds=pause)
            assert begun_together([guess_of(number) for number in range(8)], states) == 1
    # Who was refused in the race of an address has cost no account a turn or a failure.
    assert sum("account" in key for key in states.values) == 2 + 3


def test_registrations_at_one_moment() -> None:
    clock, states = FakeClock(), MemoryStates()
    nodes = [SharedHourly(states, 5, clock, seconds_of(clock)) for _ in range(2)]
    let: list[int] = []

    def act(number: int) -> None:
        if not waits(lambda: nodes[number % 2].take(HOME, "no")):
            let.append(number)

    together(16, act)
    assert len(let) == 5


def test_who_registers_again_and_again_costs_the_store_little() -> None:
    clock, states = FakeClock(), MemoryStates()
    hourly = SharedHourly(states, 2, clock, seconds_of(clock))
    for _ in range(2):
        hourly.take(HOME, "no")
    assert waits(lambda: hourly.take(HOME, "no"))
    with states.counting() as asked:
        for _ in range(10):
            clock.forward(seconds=1)
            with pytest.raises(errors.RateLimited, match="no"):
                hourly.take(HOME, "no")
    assert not asked
    clock.forward(seconds=3_590)
    assert not waits(lambda: hourly.take(HOME, "no"))


# --- clocks


@pytest.mark.parametrize("ahead", [2, 20, 30])
def test_a_server_whose_clock_is_ahead_locks_nobody_out_for_long(ahead: int) -> None:
    clock, early = FakeClock(), FakeClock()
    early.forward(seconds=ahead)
    states = MemoryStates()
    theirs, ours = node(states, early, account=2, address=3), node(states, clock, account=2)
    for _ in range(2):
        assert not outcome_of(theirs.attempt(Attempt("ann", HOME, known=True)), "failed")
        assert not outcome_of(theirs.attempt(Attempt("bob", AWAY, known=False)), "failed")
        assert not outcome_of(theirs.on_session(b"token"), "failed")

    def kept_out(guess_of: Callable[[], Guess]) -> int:
        kept = 0
        while wait := outcome_of(guess_of(), "succeeded"):
            assert wait <= 60_000
            clock.forward(seconds=wait / 1000)
            kept += wait
        return kept

    begin = clock.now
    assert ahead * 1000 <= kept_out(lambda: ours.attempt(Attempt("ann", HOME, known=True)))
    kept_out(lambda: ours.attempt(Attempt("bob", AWAY, known=False)))
    kept_out(lambda: ours.attempt(Attempt("bob", "192.0.2.9", known=False)))
    kept_out(lambda: ours.on_session(b"token"))
    assert clock.now - begin <= (ahead + 10) * 1000


# --- the service


class WatchedHasher(PasswordHasher):
    """Has a test see each hash of a login.

    Attributes:
        hashes: how many there were.
        during: called in each of them.
    """

    hashes = 0
    during: Callable[[], object] = staticmethod(lambda: None)

    def verify(self, *arguments: Any) -> Any:
        self.hashes += 1
        self.during()
        return super().verify(*arguments)


class Nodes:
    """Two servers over one store, with a clock that only the test moves."""

    def __init__(self, **options: object) -> None:
        self.clock = FakeClock()
        self.states = MemoryStates()
        self.store = MemoryStore()
        self.store.states = self.states
        self.hasher = WatchedHasher.from_parameters(CHEAPEST)
        self.services = [
            ChatService(
                self.store,
                ServiceSettings.model_validate(options),
                clock=self.clock,
                monotonic=seconds_of(self.clock),
                hasher=self.hasher,
            )
            for _ in range(2)
        ]
        self.services[0].add_account("ann", PASSWORD)

    def login(self, server: int, address: str, password: str = PASSWORD, name: str = "ann") -> Any:
        service = self.services[server % 2]
        session = service.session(address)
        service.login(session, name, password)
        return session

    def guess(self, server: int, address: str, password: str = WRONG, name: str = "ann") -> bool:
        """Return whether a guess was not refused."""
        try:
            self.login(server, address, password, name)
        except errors.BadCredentials:
            return True
        except errors.RateLimited:
            return False
        raise AssertionError("a wrong password opened the account")

    @contextmanager
    def down(self) -> Iterator[None]:
        self.states.down = True
        yield
        self.states.down = False


def test_guesses_at_two_servers_are_the_guesses_of_the_setting() -> None:
    nodes = Nodes(failures_per_account=10_000, failures_per_address=10_000)
    for tick in range(240):
        for number in range(6):
            nodes.guess(tick + number, f"198.51.100.{number}")
        nodes.clock.forward(seconds=0.5)
    assert 20 < nodes.hasher.hashes <= 2 * 20
    # The owner never was there, and has a turn within the minute, at whichever server.
    for server in range(200):
        wait = waits(lambda: nodes.login(server, AWAY))  # noqa: B023
        if not wait:
            break
        nodes.clock.forward(seconds=0.5)
    assert server * 0.5 <= 60
    nodes.login(0, AWAY)  # known by now
    nodes.login(1, AWAY)


def test_tries_on_an_open_session_and_registrations_count_together() -> None:
    nodes = Nodes(failures_per_account=2, registrations_per_hour=3)
    first, second = nodes.services
    other = nodes.login(0, HOME)
    here, there = first.session(HOME), second.session(HOME)
    second.resume(there, first.login(here, "ann", PASSWORD).session)
    for service, session in ((first, here), (second, there)):
        with pytest.raises(errors.BadCredentials):
            service.delete_account(session, WRONG)
    for service, session in ((first, here), (second, there)):
        with pytest.raises(errors.RateLimited):
            service.delete_account(session, PASSWORD)
    second.change_password(other, PASSWORD, "battery staple")  # as good as before

    for number in range(5):
        service = nodes.services[number % 2]
        refused = waits(
            lambda: service.create_account(service.session(AWAY), f"user{number}", PASSWORD)  # noqa: B023
        )
        assert bool(refused) == (number >= 3)


def test_how_often_a_login_asks_the_store_and_what_it_leaves() -> None:
    nodes = Nodes()
    with nodes.states.counting() as asked:
        nodes.login(0, HOME)
    assert asked == {"read": 1, "change": 2}
    with nodes.states.counting() as asked:
        nodes.login(1, HOME)  # known
    assert asked == {"read": 1}
    assert not nodes.states.values
    with nodes.states.counting() as asked:
        nodes.guess(0, AWAY)
    assert asked == {"read": 1, "change": 2}
    with nodes.states.counting() as asked:
        nodes.guess(1, HOME)
    assert asked == {"read": 1, "change": 2}
    for _ in range(10):
        nodes.guess(0, AWAY)
    with nodes.states.counting() as asked:
        for _ in range(100):
            assert not nodes.guess(0, AWAY)
    assert not asked
    before = nodes.hasher.hashes
    nodes.clock.forward(hours=1)
    nodes.login(0, HOME)
    assert nodes.hasher.hashes == before + 1
    assert all(ms <= 3_700_000 for ms in nodes.states.kept_ms.values())


def test_a_store_that_does_not_answer_gives_no_free_guess() -> None:
    nodes = Nodes()
    nodes.login(0, HOME)
    session = nodes.login(0, HOME)
    before = nodes.hasher.hashes
    with nodes.down():
        for address in (HOME, AWAY, ""):
            for password in (PASSWORD, WRONG):
                with pytest.raises(errors.StoreUnavailable):
                    nodes.login(0, address, password)
        with pytest.raises(errors.StoreUnavailable):
            nodes.services[0].change_password(session, PASSWORD, "battery staple")
        service = nodes.services[1]
        with pytest.raises(errors.StoreUnavailable):
            service.create_account(service.session(AWAY), "bob", PASSWORD)
    assert nodes.hasher.hashes == before
    # One that goes while there is a hash tells no more of a wrong password than of a right one.
    nodes.hasher.during = lambda: setattr(nodes.states, "down", True)
    for password in (PASSWORD, WRONG):
        nodes.states.down = False
        with pytest.raises(errors.StoreUnavailable):
            nodes.login(0, AWAY, password)
    nodes.states.down = False
    nodes.hasher.during = lambda: None
    nodes.login(0, HOME)


def test_where_there_was_no_memory_for_a_hash_nothing_has_failed() -> None:
    nodes = Nodes(failures_per_account=1, failures_per_address=1)

    def without_memory() -> None:
        raise MemoryError

    assert nodes.guess(0, AWAY)
    nodes.clock.forward(seconds=1)
    kept = {key: value for key, value in nodes.states.values.items() if "address" in key}
    nodes.hasher.during = without_memory
    with pytest.raises(errors.Busy):
        nodes.login(1, AWAY)
    # It was counted when it began, for there are pauses by now.
    assert {key: value for key, value in nodes.states.values.items() if "address" in key} == kept
    nodes.states.down = False
    nodes.hasher.during = lambda: (setattr(nodes.states, "down", True), without_memory())
    with pytest.raises(errors.Busy):
        nodes.login(1, AWAY)
    nodes.states.down = False
    nodes.hasher.during = lambda: None
    assert not nodes.guess(0, AWAY)


def test_a_password_that_none_can_be_is_counted_and_refused_as_any() -> None:
    nodes = Nodes(failures_per_account=3)
    tried = [nodes.guess(number, AWAY, "short") for number in range(8)]
    assert tried == [True] * 3 + [False] * 5
    session = nodes.login(0, HOME)
    for _ in range(3):
        with pytest.raises(errors.BadCredentials):
            nodes.services[0].delete_account(session, "short")
    with pytest.raises(errors.RateLimited):
        nodes.services[0].delete_account(session, "short")


def test_keys_are_short_and_nothing_says_who_it_is() -> None:
    nodes = Nodes(failures_per_account=1, failures_per_address=1, registrations_per_hour=5)
    long = "x" * 100_000
    for address in ("192.0.2.77", long, "\udcff"):
        nodes.guess(0, address, name="abcdefghij")
    session = nodes.login(0, HOME)
    with pytest.raises(errors.BadCredentials):
        nodes.services[0].delete_account(session, WRONG)
    service = nodes.services[1]
    service.create_account(service.session(long), "bob", PASSWORD)
    kinds = {key.split("/")[1] for key in nodes.states.values}
    assert kinds == {"account", "address", "session", "hour"}
    token_hash = session.key.token_hash
    for key, kept in nodes.states.values.items():
        assert len(key.rpartition("/")[2]) == 32
        for secret in (b"abcdefghij", b"192.0.2.77", b"xxx", token_hash, token_hash[:8]):
            assert secret not in kept
            assert secret not in key.encode()
            assert secret.hex() not in key


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=120), st.booleans())
def test_garbage_in_the_store_keeps_nobody_out(garbage: bytes, versioned: bool) -> None:
    clock, states = FakeClock(), MemoryStates()
    limits = node(states, clock)
    attempt = Attempt("ann", AWAY, known=False)
    hourly = SharedHourly(states, 5, clock, seconds_of(clock))
    outcome_of(limits.attempt(attempt), "failed")
    outcome_of(limits.on_session(b"token"), "failed")
    hourly.take(AWAY, "no")
    assert len(states.values) == 4
    # Of the right version garbage may be a state, but none that holds for long.
    for key in states.values:
        states.values[key] = (b"\x01" if versioned else b"\x02") + garbage
    if versioned:
        clock.forward(seconds=3_700)
    assert not outcome_of(limits.attempt(attempt), "failed")
    assert not outcome_of(limits.on_session(b"token"), "failed")
    assert not waits(lambda: hourly.take(AWAY, "no"))


def test_who_was_told_to_wait_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "MAX_KEYS", 10)
    clock, states = FakeClock(), MemoryStates()
    limits = node(states, clock, account=1, minute=1000)
    for number in range(50):
        attempt = Attempt("ann", f"10.0.0.{number}", known=True)
        outcome_of(limits.attempt(attempt), "failed")
        assert waits(limits.attempt(attempt).begin)
    assert len(limits.refusals._until) == 10
    clock.forward(seconds=1)
    limits.attempt(attempt).check()
    assert len(limits.refusals._until) == 9
