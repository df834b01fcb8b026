"""What limits keep where several servers count together: a few bytes for each key.

Each of these forms begins with its version. Bytes of any other form, whoever wrote them, are no
state, so nobody is refused for what cannot be read. Times are seconds since 1970 UTC by the clocks
of several servers; one that is further ahead than clocks may differ says nothing.
"""

import math
import struct
from collections import OrderedDict, deque
from collections.abc import Iterable
from itertools import groupby, pairwise
from typing import Final

from twinline.core.guesses import MOST_TURNS, TURN_HELD_SECONDS, Line
from twinline.core.throttle import FORGIVEN_AFTER_SECONDS, FUTURE_SECONDS, Failures

MOST_PAIRS: Final = 256
"""The most addresses whose failures are kept for one account."""
MOST_EVENTS: Final = 10_000
"""The most events of an hour."""
_MOST_RUNS: Final = 512
_SLOT_SECONDS: Final = 8.0  # a power of two, so that a time in its slot stays there
_VERSION: Final = 1
_FAILURES: Final = struct.Struct(">BId")
_RUN: Final = struct.Struct(">dH")
_ACCOUNT: Final = struct.Struct(">BdBH")
_TURN: Final = struct.Struct(">8sd")
_PAIR: Final = struct.Struct(">8sId")
_INSTANT: Final = 0.001  # the times are whole milliseconds


def failures_to_bytes(failures: Failures) -> bytes:
    """Return the failures of one key as bytes."""
    return _FAILURES.pack(_VERSION, *failures)


def failures_of(kept: bytes | None) -> Failures | None:
    """Return what `failures_to_bytes` has kept, or None."""
    if kept is None or len(kept) != _FAILURES.size or kept[0] != _VERSION:
        return None
    _, count, last = _FAILURES.unpack(kept)
    return Failures(count, last) if math.isfinite(last) else None


def events_to_bytes(events: Iterable[float]) -> bytes:
    """Return the times of events as bytes, at most 8 KiB.

    Where there are many, each counts as one of the end of its eight seconds: an hour may then let
    somewhat fewer through, and never more.
    """
    runs = _runs(events)
    if len(runs) > _MOST_RUNS:
        runs = _runs(math.ceil(time / _SLOT_SECONDS) * _SLOT_SECONDS for time in events)
    return bytes([_VERSION]) + b"".join(_RUN.pack(*run) for run in runs)


def _runs(times: Iterable[float]) -> list[tuple[float, int]]:
    return [(time, sum(1 for _ in same)) for time, same in groupby(times)]


def events_of(kept: bytes | None) -> deque[float]:
    """Return what `events_to_bytes` has kept, or no events."""
    if not kept or kept[0] != _VERSION or (len(kept) - 1) % _RUN.size:
        return deque()
    runs = list(_RUN.iter_unpack(kept[1:]))
    times = [time for time, _ in runs]
    if sum(count for _, count in runs) > MOST_EVENTS or not _rise(times):
        return deque()
    return deque(time for time, count in runs for _ in range(count))


def _rise(times: list[float]) -> bool:
    return all(map(math.isfinite, times)) and all(a <= b for a, b in pairwise(times))


class AccountState:
    """What is counted of the tries at one account, from wherever they come.

    Attributes:
        line: the turns of addresses that have not logged in to it lately.
        pairs: the failures by address; who they are is told by 8 bytes of a hash.
    """

    __slots__ = ("line", "pairs")

    def __init__(self, now: float) -> None:
        self.line = Line(now - TURN_HELD_SECONDS)
        self.pairs: dict[bytes, Failures] = {}

    @classmethod
    def of(cls, kept: bytes | None, now: float, interval: float) -> "AccountState":
        """Return what `to_bytes` has kept, or a new one.

        Args:
            kept: as the store has it.
            now: in s.
            interval: from one turn to the next, in s.
        """
        state = cls(now)
        if kept is not None and len(kept) >= _ACCOUNT.size and kept[0] == _VERSION:
            _, following, turns, pairs = _ACCOUNT.unpack_from(kept)
            paired = _ACCOUNT.size + turns * _TURN.size
            if len(kept) == paired + pairs * _PAIR.size:
                state._read(kept, following, paired)
                state._believe(now, interval)
        return state

    def _read(self, kept: bytes, following: float, paired: int) -> None:
        self.line.next = following
        self.line.turns = OrderedDict(_TURN.iter_unpack(kept[_ACCOUNT.size : paired]))
        for who, count, last in _PAIR.iter_unpack(kept[paired:]):
            if math.isfinite(last) and len(self.pairs) < MOST_PAIRS:
                self.pairs[who] = Failures(count, last)

    def _believe(self, now: float, interval: float) -> None:
        """Begin the line anew, with one turn now, if no clock that is nearly right made it."""
        line = self.line
        farthest = now + (MOST_TURNS + 2) * interval + FUTURE_SECONDS
        turns = list(line.turns.values())
        if not (_rise([*turns, line.next]) and line.next <= farthest and len(turns) <= MOST_TURNS):
            self.line = Line(now)

    def count(self, who: bytes, failures: Failures, now: float) -> None:
        """Have an address's failures counted; where there are too many, others' are forgotten."""
        self.pairs.pop(who, None)
        if len(self.pairs) >= MOST_PAIRS:
            self._forget_forgiven(now)
        if len(self.pairs) >= MOST_PAIRS:
            # As in `FailureThrottle`: whoever wants a count forgotten fails as often with others.
            del self.pairs[min(self.pairs, key=self.pairs.__getitem__)]
        self.pairs[who] = failures

    def _forget_forgiven(self, now: float) -> None:
        self.pairs = {
            who: failures
            for who, failures in self.pairs.items()
            if now - failures.last <= FORGIVEN_AFTER_SECONDS
        }

    def to_bytes(self, now: float) -> bytes | None:
        """Return it as bytes, at most 8 KiB; None if it is as good as a new one."""
        self._forget_forgiven(now)
        line, pairs = self.line, self.pairs
        if not pairs and not line.turns and line.next <= now - TURN_HELD_SECONDS + _INSTANT:
            return None
        return b"".join(
            (
                _ACCOUNT.pack(_VERSION, line.next, len(line.turns), len(pairs)),
                *(_TURN.pack(who, turn) for who, turn in line.turns.items()),
                *(_PAIR.pack(who, *failures) for who, failures in pairs.items()),
            )
        )
