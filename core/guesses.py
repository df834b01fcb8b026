"""Who may try a password now, so that those who guess do not lock the owner out.

Four limits, of which none lets a stranger keep out who has logged in before:

======================================  ========================================================
an account from one address             after some failures, pauses that grow to a minute
an address over all accounts            the same; not where it has logged in to the account
an account from all unseen addresses    so many tries a minute, in turn by address
an open session                         pauses like the first one's; nobody else's tries count
======================================  ========================================================

An address that has logged in to an account lately is *known* to it and is bound by the first limit
alone. An attempt that has no address (``""``) is bound by the third alone, with all others that
have none. `GuessThrottle` counts in this process's memory, and
`twinline.core.shared_limits.SharedGuesses` where all servers of a store do.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, NamedTuple, Protocol

from twinline.core import throttle
from twinline.core.locks import new_lock
from twinline.core.throttle import FailureThrottle, slowed

TURN_HELD_SECONDS: Final = 20.0
"""How long a turn is kept for the address that it is for; tries that nobody made add up as long."""
MOST_TURNS: Final = 64
"""The most addresses that wait for a turn at one account."""
_SHARED_LINES: Final = 256  # for the names beyond MAX_KEYS that are guessed at, at one time


class Attempt(NamedTuple):
    """A try of a password, that counts against the limits above.

    Attributes:
        username: of the account, which need not exist.
        address: what its address is counted by; "" for none.
        known: whether the address has logged in to the account lately.
    """

    username: str
    address: str
    known: bool


class Guess(Protocol):
    """One try of a password, from before it queues for a hash until its outcome is counted.

    Where the limits are in a store that does not answer, each step raises `StoreUnavailable`.
    """

    def check(self) -> None:
        """Return if the try may queue for a hash.

        Raises:
            RateLimited: with the time to wait, at most a minute.
        """

    def begin(self) -> None:
        """Return if the try may be made, and count it; called right before the hash.

        Raises:
            RateLimited: as for `check`; for others may have failed meanwhile.
        """

    def failed(self) -> None:
        """Count a failure.

        Raises:
            RateLimited: the try was not begun, since no password is like that, and may not be.
        """

    def succeeded(self) -> None:
        """Take back what this try was counted as, and clear what a success clears."""

    def abandoned(self) -> None:
        """Take back what counts as a failure of this try: there was no hash."""


class GuessThrottle:
    """The limits on tries of passwords; each method may be called by any thread."""

    def __init__(
        self,
        *,
        failures_per_account: int,
        failures_per_address: int,
        guesses_per_minute: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nothing counted; the arguments are settings of the same names."""
        self._pairs = FailureThrottle(failures_per_account, clock)
        self._addresses = FailureThrottle(failures_per_address, clock)
        self._sessions = FailureThrottle(failures_per_account, clock)
        self._turns = Turns(guesses_per_minute, clock)

    def change(
        self, *, failures_per_account: int, failures_per_address: int, guesses_per_minute: int
    ) -> None:
        """Allow what other settings say, from now on; what is counted stays counted."""
        self._pairs.allowed = self._sessions.allowed = failures_per_account
        self._addresses.allowed = failures_per_address
        self._turns.change(guesses_per_minute)

    def attempt(self, attempt: Attempt) -> Guess:
        """Return a try of a login."""
        return _LoginGuess(self, attempt)

    def on_session(self, token_hash: bytes) -> Guess:
        """Return a try of the password on an open session."""
        return _SessionGuess(self._sessions, token_hash)

    def check(self, attempt: Attempt) -> None:
        """Return if the attempt may queue for a hash; called before that.

        Raises:
            RateLimited: with the time to wait, at most a minute.
        """
        self._check_failures(attempt)
        if not attempt.known:
            self._turns.check(attempt.username, attempt.address)

    def begin(self, attempt: Attempt) -> None:
        """Return if the attempt may be made, and count it; called right before the hash.

        Raises:
            RateLimited: as for `check`; for others may have failed meanwhile.
        """
        self._check_failures(attempt)
        if not attempt.known:
            self._turns.take(attempt.username, attempt.address)

    def _check_failures(self, attempt: Attempt) -> None:
        if attempt.address:
            self._pairs.check((attempt.username, attempt.address))
            if not attempt.known:
                self._addresses.check(attempt.address)

    def failed(self, attempt: Attempt) -> None:
        """Count a failure."""
        if attempt.address:
            self._pairs.failed((attempt.username, attempt.address))
            self._addresses.failed(attempt.address)

    def succeeded(self, attempt: Attempt) -> None:
        """Clear the account for this address, and count the attempt as no guess.

        The address stays counted: one good account must not clear the way for guessing others.
        """
        if attempt.address:
            self._pairs.succeeded((attempt.username, attempt.address))
        if not attempt.known:
            self._turns.give_back(attempt.username)


class _LoginGuess:
    """A try of a login, counted in this process."""

    __slots__ = ("_attempt", "_throttle")

    def __init__(self, throttle: GuessThrottle, attempt: Attempt) -> None:
        self._throttle = throttle
        self._attempt = attempt

    def check(self) -> None:
        self._throttle.check(self._attempt)

    def begin(self) -> None:
        self._throttle.begin(self._attempt)

    def failed(self) -> None:
        self._throttle.failed(self._attempt)

    def succeeded(self) -> None:
        self._throttle.succeeded(self._attempt)

    def abandoned(self) -> None:
        """Do nothing: what is not told to have failed has not failed."""


class _SessionGuess:
    """A try on an open session, counted in this process."""

    __slots__ = ("_sessions", "_token_hash")

    def __init__(self, sessions: FailureThrottle, token_hash: bytes) -> None:
        self._sessions = sessions
        self._token_hash = token_hash

    def check(self) -> None:
        self._sessions.check(self._token_hash)

    def begin(self) -> None:
        self._sessions.check(self._token_hash)

    def failed(self) -> None:
        self._sessions.failed(self._token_hash)

    def succeeded(self) -> None:
        self._sessions.succeeded(self._token_hash)

    def abandoned(self) -> None:
        """Do nothing: what is not told to have failed has not failed."""


class Line:
    """The turns at one account: the arithmetic of `Turns`, with no clock and no lock.

    Attributes:
        next: when the next turn is that is nobody's yet, in s.
        turns: the turns that are somebody's, by address; the earliest first.
    """

    __slots__ = ("next", "turns")

    def __init__(self, following: float) -> None:
        self.next = following
        self.turns: OrderedDict[Hashable, float] = OrderedDict()

    def ask(self, address: Hashable, now: float, interval: float, *, take: bool) -> float:
        """Return how many seconds from now the turn of an address is, and keep it for it.

        Args:
            address: whose turn.
            now: in s.
            interval: from one turn to the next, in s.
            take: use the turn up, if it is now.
        """
        self.next = max(self.next, now - TURN_HELD_SECONDS)
        while self.turns and next(iter(self.turns.values())) + TURN_HELD_SECONDS < now:
            self.turns.popitem(last=False)
        turn = self.turns.get(address)
        if turn is None:
            turn = self.next
            if turn > now:
                if len(self.turns) < MOST_TURNS:
                    self.turns[address] = turn
                    self.next += interval
            elif take:
                self.next += interval
        elif turn <= now and take:
            del self.turns[address]
        return turn - now

    def is_idle(self, now: float) -> bool:
        """Return whether it is as good as a new one."""
        last = next(reversed(self.turns.values()), self.next)
        return max(self.next, last) + TURN_HELD_SECONDS < now


def interval_of(per_minute: int) -> float:
    """Return the seconds between turns, for at most so many attempts in any minute."""
    return (60.0 + TURN_HELD_SECONDS) / (per_minute - 1)


class Turns:
    """Turns at an account, at even intervals, one at a time for each address.

    An address that comes when no turn is free gets the next one that is nobody's, and the time
    until then; it may use it for a while from that time on, however often others ask meanwhile.
    Turns of the last 20 s that nobody took are free for whoever comes. So the attempts of any
    minute have had turns within 60 s + 20 s, and the interval is chosen for there to be no more of
    those than are allowed (a generic cell rate algorithm, ITU-T I.371, with reservations).
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Have at most so many attempts in any minute at each account, at least 2."""
        self._interval = interval_of(per_minute)
        self._clock = clock
        self._lock = new_lock("turns")
        # By username, whoever was asked for longest ago first; guarded by _lock.
        self._lines: OrderedDict[str, Line] = OrderedDict()

    def change(self, per_minute: int) -> None:
        """Have so many a minute from now on; turns that were given out stay as they are."""
        self._interval = interval_of(per_minute)

    def check(self, username: str, address: str) -> None:
        """Return if it is the address's turn, without taking it.

        Raises:
            RateLimited: it is not; with the time until then. The turn is this address's.
        """
        self._ask(username, address, take=False)

    def take(self, username: str, address: str) -> None:
        """Take the turn of an address.

        Raises:
            RateLimited: as for `check`.
        """
        self._ask(username, address, take=True)

    def give_back(self, username: str) -> None:
        """Take an attempt back that was no guess: there is one turn more."""
        with self._lock:
            line = self._lines.get(username)
            if line is not None:
                line.next -= self._interval

    def _ask(self, username: str, address: str, *, take: bool) -> None:
        now = self._clock()
        with self._lock:
            line = self._line(username, now, make=take)
            if line is None:
                return
            wait = line.ask(address, now, self._interval, take=take)
        if wait > 0:
            raise slowed(wait)

    def _line(self, username: str, now: float, *, make: bool) -> Line | None:
        line = self._lines.get(username)
        if line is None:
            for _ in range(2):  # faster than they come
                self._drop_idle(now)
            if len(self._lines) >= throttle.MAX_KEYS:
                # None is dropped whose turns count; the names beyond share what there is.
                username = f"#{hash(username) % _SHARED_LINES}"
                line = self._lines.get(username)
            if line is None:
                if not make:  # only what costs a hash makes one
                    return None
                line = self._lines[username] = Line(now - TURN_HELD_SECONDS)
        self._lines.move_to_end(username)
        return line

    def _drop_idle(self, now: float) -> None:
        """Drop the line that was asked for longest ago, if it is as good as a new one."""
        for username, line in self._lines.items():
            if line.is_idle(now):
                del self._lines[username]
            return
