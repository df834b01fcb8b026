"""The bytes that shared limits keep: what goes in comes out, garbage is nothing, all is short."""

import math
import struct
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinline.core.guesses import MOST_TURNS
from twinline.core.limit_states import (
    MOST_EVENTS,
    MOST_PAIRS,
    AccountState,
    events_of,
    events_to_bytes,
    failures_of,
    failures_to_bytes,
)
from twinline.core.throttle import (
    FORGIVEN_AFTER_SECONDS,
    FUTURE_SECONDS,
    HOUR_SECONDS,
    Failures,
    one_more,
    pause_of,
    take_event,
)

NOW = 1_700_000_000.25
MOST_BYTES = 8 * 1024
INTERVAL = 4.0


def test_what_is_kept_is_found_again() -> None:
    failures = Failures(7, NOW)
    assert failures_of(failures_to_bytes(failures)) == failures
    events = deque([NOW - 20, NOW, NOW])
    assert events_of(events_to_bytes(events)) == events
    state = AccountState(NOW)
    state.count(b"8 bytes!", failures, NOW)
    while len(state.line.turns) < 3:
        state.line.ask(b"%8d" % len(state.line.turns), NOW, INTERVAL, take=True)
    again = AccountState.of(state.to_bytes(NOW), NOW, INTERVAL)
    assert again.pairs == state.pairs
    assert again.line.next == state.line.next
    assert list(again.line.turns.items()) == list(state.line.turns.items())


def test_another_version_is_no_state() -> None:
    def of_another(kept: bytes | None) -> bytes:
        assert kept is not None
        return b"\x02" + kept[1:]

    assert failures_of(of_another(failures_to_bytes(Failures(7, NOW)))) is None
    assert not events_of(of_another(events_to_bytes([NOW])))
    state = AccountState(NOW)
    state.count(b"8 bytes!", Failures(7, NOW), NOW)
    assert not AccountState.of(of_another(state.to_bytes(NOW)), NOW, INTERVAL).pairs


def test_a_server_whose_clock_is_behind_ends_no_pause() -> None:
    assert one_more(Failures(5, NOW + 20), NOW, 3) == Failures(6, NOW + 20)
    assert one_more(Failures(5, NOW + 120), NOW, 3) == Failures(6, NOW)


def test_what_is_as_good_as_new_is_not_kept() -> None:
    state = AccountState(NOW)
    assert state.to_bytes(NOW) is None
    state.line.ask(b"8 bytes!", NOW, INTERVAL, take=True)
    state.count(b"8 bytes!", Failures(1, NOW), NOW)
    kept = state.to_bytes(NOW)
    assert kept is not None
    later = NOW + FORGIVEN_AFTER_SECONDS + 1
    assert AccountState.of(kept, later, INTERVAL).to_bytes(later) is None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_garbage_is_no_state_or_a_harmless_one(garbage: bytes, versioned: bool) -> None:
    if versioned:
        garbage = b"\x01" + garbage
    failures = failures_of(garbage)
    assert pause_of(failures, NOW, 5) <= 60 + FUTURE_SECONDS
    assert one_more(failures, NOW, 5).number <= 11
    events = events_of(garbage)
    assert take_event(events, NOW, 20) <= HOUR_SECONDS + FUTURE_SECONDS
    state = AccountState.of(garbage, NOW, INTERVAL)
    wait = state.line.ask(b"8 bytes!", NOW, INTERVAL, take=True)
    assert wait <= (MOST_TURNS + 2) * INTERVAL + FUTURE_SECONDS
    assert len(state.to_bytes(NOW) or b"") <= MOST_BYTES


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 1e300, NOW + 3600])
def test_a_time_that_cannot_be_is_none(wrong: float) -> None:
    assert pause_of(failures_of(failures_to_bytes(Failures(30, wrong))), NOW, 5) <= 0
    assert take_event(events_of(events_to_bytes([wrong] * 20)), NOW, 20) == 0
    account = struct.pack(">BdBH8sdd", 1, wrong, 1, 0, b"8 bytes!", wrong, 0.0)[:-8]
    line = AccountState.of(account, NOW, INTERVAL).line
    assert line.ask(b"8 bytes!", NOW, INTERVAL, take=True) <= 0
    # One turn, not the five that a new line has.
    assert line.ask(b"another!", NOW, INTERVAL, take=True) == INTERVAL


def test_a_crowd_of_addresses_is_bounded_and_forgets_those_with_the_fewest_failures() -> None:
    state = AccountState(NOW)
    state.count(b"guesser!", Failures(9, NOW), NOW)
    for number in range(2 * MOST_PAIRS):
        who = b"%8d" % number
        state.line.ask(who, NOW, INTERVAL, take=True)
        state.count(who, Failures(1 + number % 2, NOW + number / 1000), NOW)
        assert state.pairs[who].number == 1 + number % 2
        kept = state.to_bytes(NOW)
        assert len(kept or b"") <= MOST_BYTES
        state = AccountState.of(kept, NOW, INTERVAL)
    assert len(state.pairs) == MOST_PAIRS
    assert len(state.line.turns) == MOST_TURNS
    assert state.pairs[b"guesser!"].number == 9


def test_the_most_events_fit() -> None:
    events = deque(NOW + number * HOUR_SECONDS / MOST_EVENTS for number in range(MOST_EVENTS))
    kept = events_to_bytes(events)
    assert len(kept) <= MOST_BYTES
    again = events_of(kept)
    assert len(again) == MOST_EVENTS
    assert all(0 <= late - time < 8 for time, late in zip(events, again, strict=True))
    assert events_to_bytes(again) == kept


@pytest.mark.parametrize("per_hour", [20, 700])
def test_many_events_are_few_bytes_and_never_more_than_allowed(per_hour: int) -> None:
    now, kept, let = NOW, None, []
    step = HOUR_SECONDS / per_hour / 2  # twice as fast as they may come
    for number in range(5 * per_hour // 2):
        now = NOW + number * step
        events = events_of(kept)
        wait = take_event(events, now, per_hour)
        if wait > 0:
            assert wait <= HOUR_SECONDS + 8
            continue
        let.append(now)
        kept = events_to_bytes(events)
        assert len(kept) <= MOST_BYTES
    for first, beyond in zip(let, let[per_hour:], strict=False):
        assert beyond - first >= HOUR_SECONDS
    assert len(let) > per_hour


@pytest.mark.parametrize("ahead", [2.0, 20.0])
def test_going_to_and_fro_between_clocks_shortens_no_pause_twice(ahead: float) -> None:
    """A guesser asks a server of which the clock is ahead, and one of which it is not, in turn."""
    failures, tries, elapsed = None, 0, 0.0
    while elapsed < 600:
        for offset in (ahead, 0.0):
            if pause_of(failures, NOW + elapsed + offset, 3) <= 0:
                failures = one_more(failures, NOW + elapsed + offset, 3)
                tries += 1
        elapsed += 0.5
    # With one clock: 3 + 6 that double to a minute + one a minute.
    assert tries <= 3 + 6 + 10 + 1
