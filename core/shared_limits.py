"""Limits that hold across servers: counted in what a store shares, with the arithmetic of one.

An attempt takes few round trips to the store (they run on the thread that waits for the hash):

=============================  ======================  ============================
a login from an address        before the hash         after it
=============================  ======================  ============================
that is known to the account   a read                  none; two changes on failure
that is not                    a read and a change     one change
=============================  ======================  ============================

An open session's tries take a read and, on failure, a change. What an address or a session may fail
before there are pauses is counted when it has failed, so that logins which come at one time do not
refuse each other; once there are pauses, a try is counted when it begins, and of many at one time,
at whichever servers, one is made. A turn at an account, and with it a failure of an address that is
not known, is counted when the try begins in any case, and taken back when it succeeds.

Who was told to wait is remembered here, so who asks again and again asks the store once.

Keys and states hold no name, address or token: a hash of it, of a fixed size. A state is forgotten
by the store when it counts no more. Times are those of the wall clock, which servers share to
within seconds; a server whose clock is ahead has others wait that much longer, a minute at most.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from twinline.core import throttle
from twinline.core.clock import Clock
from twinline.core.errors import RateLimited, StoreUnavailable
from twinline.core.guesses import MOST_TURNS, TURN_HELD_SECONDS, Attempt, Guess, interval_of
from twinline.core.limit_states import (
    AccountState,
    events_of,
    events_to_bytes,
    failures_of,
    failures_to_bytes,
)
from twinline.core.locks import new_lock
from twinline.core.store import SharedStates
from twinline.core.throttle import (
    FORGIVEN_AFTER_SECONDS,
    FUTURE_SECONDS,
    HOUR_SECONDS,
    Failures,
    one_more,
    pause_of,
    slowed,
    take_event,
    too_many,
)

_FAILURES_MS: Final = round((FORGIVEN_AFTER_SECONDS + FUTURE_SECONDS) * 1000)
_HOUR_MS: Final = round((HOUR_SECONDS + FUTURE_SECONDS) * 1000)


def _digest(whose: str | bytes) -> bytes:
    raw = whose if isinstance(whose, bytes) else whose.encode(errors="backslashreplace")
    return hashlib.sha256(raw).digest()


def _key(kind: str, whose: str | bytes) -> str:
    return f"limit/{kind}/{_digest(whose)[:16].hex()}"


def _who(address: str) -> bytes:
    return _digest(address)[:8]


class SharedHourly:
    """`HourlyThrottle`, for all servers of a store together.

    Attributes:
        per_hour: how many; it may be replaced at any time.
    """

    def __init__(
        self,
        states: SharedStates,
        per_hour: int,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Count in states; the clock is in ms since 1970 UTC."""
        self._states = states
        self.per_hour = per_hour
        self._clock = clock
        self._refusals = _Refusals(monotonic)

    def take(self, key: str, refusal: str) -> None:
        """Count an event; as `HourlyThrottle.take`.

        Raises:
            RateLimited: there were too many; with the time to wait.
            StoreUnavailable: it is not known.
        """
        left = self._refusals.left(key)
        if left > 0:
            raise too_many(refusal, left)

        def step(kept: bytes | None) -> bytes:
            events = events_of(kept)
            wait = take_event(events, self._clock() / 1000, self.per_hour)
            if wait > 0:
                raise too_many(refusal, wait)
            return events_to_bytes(events)

        with self._refusals.noting(key):
            self._states.change(_key("hour", key), step, keep_ms=_HOUR_MS)


class _Claim:
    """What a try was counted as before its outcome was known.

    Attributes:
        before: the failures of before.
        after: those with this try; None if it is not counted yet.
    """

    __slots__ = ("after", "before")

    def __init__(self) -> None:
        self.before: Failures | None = None
        self.after: Failures | None = None

    def set(self, before: Failures | None, now: float, allowed: int) -> Failures:
        """Count the try, and return the failures with it."""
        self.before, self.after = before, one_more(before, now, allowed)
        return self.after

    def undone(self, failures: Failures | None) -> Failures | None:
        """Return failures without this try; if others have failed meanwhile it stays counted."""
        return self.before if failures == self.after else failures


class _SharedFailures:
    """`FailureThrottle`, for all servers of a store together.

    Attributes:
        allowed: so many failures pass; it may be replaced at any time.
    """

    def __init__(self, states: SharedStates, kind: str, allowed: int, clock: Clock) -> None:
        self._states = states
        self._kind = kind
        self.allowed = allowed
        self._clock = clock

    def look(self, whose: str | bytes) -> Failures | None:
        """Return the failures, if a try is allowed now.

        Raises:
            RateLimited: it is not.
        """
        return self._allow(self._states.read(_key(self._kind, whose)))

    def _allow(self, kept: bytes | None) -> Failures | None:
        failures = failures_of(kept)
        wait = pause_of(failures, self._clock() / 1000, self.allowed)
        if wait > 0:
            raise slowed(wait)
        return failures

    def claim_if_paused(self, whose: str | bytes, seen: Failures | None, claim: _Claim) -> None:
        """Count a try now if it is one after a pause, of which there is one.

        Raises:
            RateLimited: another was faster.
        """
        if seen is not None and seen.number >= self.allowed:
            self._change(
                whose,
                lambda kept: claim.set(self._allow(kept), self._clock() / 1000, self.allowed),
            )

    def failed(self, whose: str | bytes) -> None:
        """Count a failure."""
        self._change(
            whose,
            lambda kept: one_more(failures_of(kept), self._clock() / 1000, self.allowed),
        )

    def undo(self, whose: str | bytes, claim: _Claim) -> None:
        """Take back what was counted in advance."""
        if claim.after is not None:
            self._change(whose, lambda kept: claim.undone(failures_of(kept)))

    def clear(self, whose: str | bytes) -> None:
        """Forget the failures."""
        self._change(whose, lambda _: None)

    def _change(self, whose: str | bytes, act: Callable[[bytes | None], Failures | None]) -> None:
        def step(kept: bytes | None) -> bytes | None:
            failures = act(kept)
            return None if failures is None else failures_to_bytes(failures)

        self._states.change(_key(self._kind, whose), step, keep_ms=_FAILURES_MS)


class _Refusals:
    """Who was told to wait, and until when: whoever asks again before that is told so from here."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = new_lock("refusals")
        # By what is refused, until when in ms; the oldest refusal first. Guarded by _lock.
        self._until: OrderedDict[Hashable, int] = OrderedDict()

    def check(self, key: Hashable) -> None:
        """Return if it was not refused until later than now.

        Raises:
            RateLimited: it was.
        """
        left = self.left(key)
        if left > 0:
            raise slowed(left)

    def left(self, key: Hashable) -> float:
        """Return for how many seconds from now it was refused; 0 if it was not."""
        now = round(self._monotonic() * 1000)
        with self._lock:
            until = self._until.get(key, now)
            if until <= now:
                self._until.pop(key, None)
        return max(0, until - now) / 1000

    @contextmanager
    def noting(self, key: Hashable) -> Iterator[None]:
        """Note that what is done here is refused, if it is."""
        try:
            yield
        except RateLimited as refused:
            until = round(self._monotonic() * 1000) + (refused.retry_after_ms or 0)
            with self._lock:
                self._until[key] = until
                self._until.move_to_end(key)
                if len(self._until) > throttle.MAX_KEYS:
                    self._until.popitem(last=False)
            raise


class SharedGuesses:
    """`GuessThrottle`, for all servers of a store together.

    Attributes:
        states: what is counted in.
        clock: ms since 1970 UTC.
        refusals: who was told to wait.
        failures_per_account: the setting.
        interval: from one turn at an account to the next, in s.
        keep_ms: how long what is counted of an account counts.
        addresses: the failures by address.
        sessions: the failures on open sessions.
    """

    def __init__(
        self,
        states: SharedStates,
        *,
        failures_per_account: int,
        failures_per_address: int,
        guesses_per_minute: int,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Count in states; the numbers are settings of the same names."""
        self.states = states
        self.clock = clock
        self.refusals = _Refusals(monotonic)
        self.addresses = _SharedFailures(states, "address", failures_per_address, clock)
        self.sessions = _SharedFailures(states, "session", failures_per_account, clock)
        self.change(
            failures_per_account=failures_per_account,
            failures_per_address=failures_per_address,
            guesses_per_minute=guesses_per_minute,
        )

    def change(
        self, *, failures_per_account: int, failures_per_address: int, guesses_per_minute: int
    ) -> None:
        """Allow what other settings say, from now on; as `GuessThrottle.change`."""
        self.failures_per_account = self.sessions.allowed = failures_per_account
        self.addresses.allowed = failures_per_address
        self.interval = interval = interval_of(guesses_per_minute)
        queue = (MOST_TURNS + 1) * interval + TURN_HELD_SECONDS
        self.keep_ms = round((max(FORGIVEN_AFTER_SECONDS, queue) + FUTURE_SECONDS) * 1000)

    def attempt(self, attempt: Attempt) -> Guess:
        """Return a try of a login."""
        return _SharedLogin(self, attempt)

    def on_session(self, token_hash: bytes) -> Guess:
        """Return a try of the password on an open session."""
        return _SharedOnSession(self, token_hash)


class _SharedLogin:
    """A try of a login."""

    __slots__ = ("_attempt", "_begun", "_by_address", "_limits", "_of_address", "_of_pair", "_who")

    def __init__(self, limits: SharedGuesses, attempt: Attempt) -> None:
        self._limits = limits
        self._attempt = attempt
        self._who = _who(attempt.address)
        self._by_address = bool(attempt.address) and not attempt.known
        self._of_address = _Claim()
        self._of_pair = _Claim()
        self._begun = False

    def check(self) -> None:
        self._limits.refusals.check(self._attempt)
        if self._by_address:
            self._limits.refusals.check(self._attempt.address)

    def begin(self) -> None:
        limits, address = self._limits, self._attempt.address
        seen = None
        if self._by_address:
            with limits.refusals.noting(address):
                seen = limits.addresses.look(address)
        with limits.refusals.noting(self._attempt):
            self._begin_at_account()
        if self._by_address:
            try:
                limits.addresses.claim_if_paused(address, seen, self._of_address)
            except RateLimited:
                self._change(self._take_back)
                raise
        self._begun = True

    def _begin_at_account(self) -> None:
        limits = self._limits
        allowed = limits.failures_per_account
        if self._attempt.known:
            kept = limits.states.read(_key("account", self._attempt.username))
            seen = self._allow(self._state(kept))
            self._of_pair.before = seen
            if seen is None or seen.number < allowed:
                return
        wait = 0.0

        def step(kept: bytes | None) -> bytes | None:
            nonlocal wait
            now = limits.clock() / 1000
            state = self._state(kept)
            failures = self._allow(state)
            if not self._attempt.known:
                wait = state.line.ask(self._who, now, limits.interval, take=True)
            if wait <= 0 and self._attempt.address:
                state.count(self._who, self._of_pair.set(failures, now, allowed), now)
            changed = state.to_bytes(now)
            if wait > 0 and changed == kept:
                raise slowed(wait)  # nothing new is to be kept
            return changed

        limits.states.change(_key("account", self._attempt.username), step, keep_ms=limits.keep_ms)
        if wait > 0:
            raise slowed(wait)

    def _state(self, kept: bytes | None) -> AccountState:
        return AccountState.of(kept, self._limits.clock() / 1000, self._limits.interval)

    def _allow(self, state: AccountState) -> Failures | None:
        """Return the failures of this address at the account, if it may try now."""
        failures = state.pairs.get(self._who) if self._attempt.address else None
        now = self._limits.clock() / 1000
        wait = pause_of(failures, now, self._limits.failures_per_account)
        if wait > 0:
            raise slowed(wait)
        return failures

    def failed(self) -> None:
        if not self._begun:
            self.begin()
        if not self._attempt.address:
            return
        if self._of_pair.after is None:
            self._change(self._count)
        if self._of_address.after is None:
            self._limits.addresses.failed(self._attempt.address)

    def succeeded(self) -> None:
        if not self._attempt.known or self._of_pair.before is not None:
            self._change(self._clear)
        self._limits.addresses.undo(self._attempt.address, self._of_address)

    def abandoned(self) -> None:
        with suppress(StoreUnavailable):  # then it has failed
            if self._of_pair.after is not None:
                self._change(self._uncount)
            self._limits.addresses.undo(self._attempt.address, self._of_address)

    def _change(self, act: Callable[[AccountState, float], None]) -> None:
        def step(kept: bytes | None) -> bytes | None:
            state, now = self._state(kept), self._limits.clock() / 1000
            act(state, now)
            return state.to_bytes(now)

        key = _key("account", self._attempt.username)
        self._limits.states.change(key, step, keep_ms=self._limits.keep_ms)

    def _count(self, state: AccountState, now: float) -> None:
        allowed = self._limits.failures_per_account
        state.count(self._who, one_more(state.pairs.get(self._who), now, allowed), now)

    def _uncount(self, state: AccountState, _now: float) -> None:
        failures = self._of_pair.undone(state.pairs.pop(self._who, None))
        if failures is not None:
            state.pairs[self._who] = failures

    def _take_back(self, state: AccountState, now: float) -> None:
        self._uncount(state, now)
        state.line.next -= self._limits.interval

    def _clear(self, state: AccountState, _now: float) -> None:
        state.pairs.pop(self._who, None)
        if not self._attempt.known:
            state.line.next -= self._limits.interval


class _SharedOnSession:
    """A try of the password on an open session."""

    __slots__ = ("_begun", "_claim", "_refusals", "_sessions", "_token_hash")

    def __init__(self, limits: SharedGuesses, token_hash: bytes) -> None:
        self._refusals = limits.refusals
        self._sessions = limits.sessions
        self._token_hash = token_hash
        self._claim = _Claim()
        self._begun = False

    def check(self) -> None:
        self._refusals.check(self._token_hash)

    def begin(self) -> None:
        with self._refusals.noting(self._token_hash):
            self._claim.before = self._sessions.look(self._token_hash)
            self._sessions.claim_if_paused(self._token_hash, self._claim.before, self._claim)
        self._begun = True

    def failed(self) -> None:
        if not self._begun:
            self.begin()
        if self._claim.after is None:
            self._sessions.failed(self._token_hash)

    def succeeded(self) -> None:
        if self._claim.before is not None:
            self._sessions.clear(self._token_hash)

    def abandoned(self) -> None:
        with suppress(StoreUnavailable):  # then it has failed
            self._sessions.undo(self._token_hash, self._claim)
