"""How many logins are let in at once: no more than are served within a time that a client waits.

When a server restarts, all its clients come back together. If all were let in, each would wait
behind all others, give up, and come again, so that in the end the server works for nobody. So who
would have to wait too long is refused at once, and told when to come instead.

How many that are is measured: by how many have been served a second lately, while there were enough
of them to keep the server busy. As long as nothing is measured a guess stands for it, on the low
side, and a better one is there within a moment. A store that has stopped answering lets nobody in.

Who is refused gets a moment of its own, the one behind those who were refused before it at the pace
at which the server works, and not exactly that: so they do not come back together.
"""

import math
import time
from collections.abc import Callable
from random import uniform
from typing import Final

from twinline.core.errors import Busy
from twinline.core.locks import new_lock

_FIRST: Final = 128
"""So many are let in at once before anything is measured."""
_FIRST_PACE: Final = 1_000.0
_LEAST_PACE: Final = 4.0
_PACE_SECONDS: Final = 5.0
"""So many a second are told to come back before anything is measured, and at the least; and how
slowly that follows what is measured. To be refused once more costs little, and a time that was too
long cannot be taken back: so it is rather too high, as in the first moments of a storm, when a
server is too busy with refusing to serve many."""
_FEW: Final = 8
"""Fewer than these keep no server busy, and are always let in."""
_FADE_SECONDS: Final = 1.0
"""What was measured longer ago counts for less than a third."""
_ENOUGH_SECONDS: Final = 0.1
"""Of measuring, before it counts at all."""
_FORGET_SECONDS: Final = 10.0
"""A server that was not busy for so long may be as good as one of which nothing is known."""
_LONGEST_SECONDS: Final = 30.0
_SHORTEST_MS: Final = 100
"""How long somebody who is refused is told to wait, at most and at least."""


class Entry:
    """Somebody who wants to be let in; made before, so that it can leave whatever comes between.

    Attributes:
        inside: whether it is counted; guarded by the lock of its gate.
    """

    __slots__ = ("_gate", "inside")

    def __init__(self, gate: "Admission") -> None:
        self._gate = gate
        self.inside = False

    def enter(self) -> None:
        """Be let in, once.

        Raises:
            Busy: there are too many; it says when to come instead.
        """
        self._gate.count_in(self)

    def leave(self) -> None:
        """Count as served, if it was let in; harmless when repeated, by another thread too."""
        self._gate.count_out(self)


class Admission:
    """Lets in those who will be served in time."""

    def __init__(
        self,
        seconds: float,
        *,
        least: int = _FEW,
        monotonic: Callable[[], float] = time.monotonic,
        draw: Callable[[float, float], float] = uniform,
    ) -> None:
        """Begin with nobody.

        Args:
            seconds: within which who is let in is to be served.
            least: so many are let in whatever is measured.
            monotonic: seconds that never leap.
            draw: returns a random number between two.
        """
        self._seconds = seconds
        self._least = least
        self._monotonic = monotonic
        self._draw = draw
        self._lock = new_lock("admission")
        # All else is guarded by _lock.
        self._inside = 0
        self._rate = self._guess = max(_FIRST, least) / seconds  # served a second
        self._pace = _FIRST_PACE  # at which those who are refused are told to come back
        # While there were enough of them: seconds, and how many were served in those; both fade.
        self._busy = 0.0
        self._served = 0.0
        now = monotonic()
        self._changed = now  # when somebody came or went
        self._busy_at = now  # when there were enough of them the last time
        self._next = now  # when the one who was refused last is to come back

    def change(self, seconds: float) -> None:
        """Let in those who are served within so many seconds, from now on."""
        with self._lock:
            guess = max(_FIRST, self._least) / seconds
            if self._rate == self._guess:  # nothing has been measured that is worse or better
                self._rate = guess
            self._seconds, self._guess = seconds, guess

    def count_in(self, entry: Entry) -> None:
        """Let somebody in; see `Entry.enter`."""
        now = self._monotonic()
        with self._lock:
            self._measure(now)
            if self._inside < max(self._least, self._rate * self._seconds):
                self._inside += 1
                entry.inside = True
                return
            wait = self._turn_away(now)
        retry_after_ms = max(_SHORTEST_MS, round(self._draw(wait / 2, wait * 1.5) * 1000))
        raise Busy(
            "more clients come back than can be served at once; try again",
            retry_after_ms=retry_after_ms,
        )

    def count_out(self, entry: Entry) -> None:
        """Count somebody as served; see `Entry.leave`."""
        now = self._monotonic()
        with self._lock:
            if not entry.inside:
                return
            entry.inside = False
            self._measure(now)
            if self._inside >= _FEW:
                self._served += 1
            self._inside -= 1

    def _measure(self, now: float) -> None:
        """Take in the time since somebody came or went; under the lock."""
        passed, self._changed = now - self._changed, now
        if self._inside >= _FEW:
            left = math.exp(-passed / _FADE_SECONDS)
            self._busy = self._busy * left + _FADE_SECONDS * (1 - left)
            self._served *= left
            self._busy_at = now
            if self._busy >= _ENOUGH_SECONDS:
                self._rate = rate = self._served / self._busy
                self._pace = rate + (self._pace - rate) * math.exp(-passed / _PACE_SECONDS)
        elif now - self._busy_at > _FORGET_SECONDS:
            self._busy = self._served = 0.0
            self._rate = max(self._rate, self._guess)
            self._pace = max(self._pace, _FIRST_PACE)

    def _turn_away(self, now: float) -> float:
        """Return in how many seconds somebody may come back; under the lock."""
        # Those who are inside come first.
        moment = max(self._next, now + self._seconds) + 1 / max(self._pace, _LEAST_PACE)
        self._next = min(moment, now + _LONGEST_SECONDS)
        return self._next - now
