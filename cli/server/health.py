"""Looks after the store while a server runs: its clock, its durability, and whether it answers.

A store that others share may change under a server: its engine loses the standby that made it
`replicated`, or this machine's clock goes wrong. Requests are answered by what the store does; this
tells the operator. Only a clock that is far off ends the server, for it would trim everybody's
history. A store that does not answer ends nothing: it comes back, or its operator brings it back.

`comes_round` sees whether the server itself lives.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol, Self

from twinline.cli.console.errors import CommandError
from twinline.core import events
from twinline.core.deadline import Deadline
from twinline.core.errors import StoreUnavailable
from twinline.core.events import emit
from twinline.core.store import CLOCK_REFUSE_MS, CLOCK_WARN_MS, Durability, Health, Store
from twinline.core.waiting import Waiter, Wake

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 15.0
LAG_SECONDS: Final = 2.0
"""A server that has not heard of the others for so long is late, and that is told."""
_LEVELS: Final = tuple(Durability)
"""The least first."""


class Rounds(Protocol):
    """Something that a thread goes round in: a listener, or the parent of several servers."""

    def on_round(self, call: Wake) -> None:
        """Have ``call`` called once by that thread, when it comes round."""


class ClockRefused(CommandError):
    """This machine's clock is so far off the store's that it must not serve."""


class Watchman:
    """Asks a store now and then how it is, in a thread of its own, and tells what has changed."""

    def __init__(
        self, store: Store, stop: Callable[[], None], *, seconds: float = LOOK_SECONDS
    ) -> None:
        """Ask once.

        Args:
            store: which is asked.
            stop: called when the server must end; `failure` says why.
            seconds: between two looks.

        Raises:
            ClockRefused: the clock is too far off to begin.
            CommandError: the store does not answer.
        """
        self.failure: ClockRefused | None = None
        self._store = store
        self._stop = stop
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)
        # What was told last; each change is told once. Of the thread, once that runs.
        self._answers = True
        self._silent_since = 0.0
        self._clock_is_off = False
        self._late = False
        try:
            health = store.health()
        except StoreUnavailable as error:
            raise CommandError(f"the store cannot be used: {error.message}") from None
        self._durability = store.durability
        self._take(health)
        if self.failure is not None:
            raise self.failure

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        # Not waited for: it may be waiting for an engine that does not answer.
        self._ended.set()

    def look(self) -> None:
        """Ask the store how it is, and tell what has changed."""
        try:
            health = self._store.health()
        except StoreUnavailable as error:
            if self._answers and not self._ended.is_set():
                self._answers = False
                self._silent_since = time.monotonic()
                emit(events.STORE_UNAVAILABLE, why=error.message)
            return
        if not self._answers:
            self._answers = True
            seconds = round(time.monotonic() - self._silent_since, 3)
            emit(events.STORE_AVAILABLE, seconds=seconds)
        self._take(health)

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            try:
                self.look()
            except Exception:  # the next look is to be made all the same
                log.exception("the store cannot be asked how it is")

    def _take(self, health: Health) -> None:
        self._take_clock(health.clock_offset_ms)
        if health.durability is not self._durability:
            lower = _LEVELS.index(health.durability) < _LEVELS.index(self._durability)
            emit(
                events.DURABILITY_LOWERED if lower else events.DURABILITY_RAISED,
                durability=health.durability,
                before=self._durability,
            )
            self._durability = health.durability
        late = health.lag_seconds >= LAG_SECONDS
        if late is not self._late:
            self._late = late
            if late:
                emit(events.SERVERS_SILENT, seconds=health.lag_seconds)
            else:
                emit(events.SERVERS_HEARD)

    def _take_clock(self, offset_ms: int) -> None:
        off = abs(offset_ms)
        seconds = off / 1000
        if off >= CLOCK_REFUSE_MS:
            if self.failure is None:
                which = "ahead of" if offset_ms > 0 else "behind"
                self.failure = ClockRefused(
                    f"this machine's clock is {seconds:,.3g} s {which} the store's: set it right; "
                    "history would be trimmed and sessions ended by it"
                )
                emit(events.CLOCK_REFUSED, seconds=offset_ms / 1000, why=str(self.failure))
                self._stop()
        elif (off >= CLOCK_WARN_MS) is not self._clock_is_off:
            self._clock_is_off = not self._clock_is_off
            if self._clock_is_off:
                emit(events.CLOCK_OFF, seconds=offset_ms / 1000)
            else:
                emit(events.CLOCK_AGREES)


def comes_round(rounds: Rounds, seconds: float) -> bool:
    """Return whether a thread comes round in time; for who tells others that the server lives."""
    waiter = Waiter()
    rounds.on_round(waiter.wake)
    return waiter.wait(Deadline.after(seconds))
