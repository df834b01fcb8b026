"""What the connections of one event loop share: who goes on next, and at what time.

A loop carries out what has arrived at one connection after the other. What else makes a connection
go on is marked here and done when those have had their turn: mail that came for it, what a worker
has found out, requests that were left for the next turn, and times that have come.
"""

import asyncio
import logging
from collections import deque
from heapq import heapify, heappop, heappush
from threading import get_ident
from time import monotonic
from typing import Any, Final, Protocol

log = logging.getLogger(__name__)

_A_TURN: Final = 64
"""So many connections go on before the loop looks again at what has arrived."""
RECEIVE_BYTES: Final = 16 * 1024
"""So much is read in one go."""
_DROPPED: Final = 1024
"""Once so many timers are of no use, and most are, they are thrown out."""
_NEVER: Final = float("inf")


class Timer(list[Any]):
    """When a connection is due, by `monotonic`; a number that no other has; and the connection.

    The connection is None once it is gone, or due at an earlier moment.
    """

    __slots__ = ()


class Driven(Protocol):
    """A connection that a loop drives.

    Attributes:
        timer: of `Turns`, which sets it.
    """

    timer: Timer | None

    def go_on(self) -> None:
        """Do what it was marked for."""

    def time_is_up(self) -> None:
        """Do what is due."""


class Turns:
    """The turns of a loop's connections, and their deadlines: one heap, and one timer of the loop.

    `mark` may be called from any thread, and with a lock held; all else only in the loop's.

    Attributes:
        buffer: what the loop reads into, for whichever connection it reads; its owner takes out
            what has come before it returns.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Prepare to drive connections in the running loop of the calling thread."""
        self.buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._loop = loop
        self._thread = get_ident()
        self._marked: deque[Driven] = deque()
        self._called = False  # whether the loop is about to look at them
        self._timers: list[Timer] = []  # a heap
        self._added = 0  # so many, which tells those of one moment apart
        self._dropped = 0  # of those in the heap, the ones that are of no use
        self._handle: asyncio.TimerHandle | None = None  # the loop's, for the first of them
        self._wakes_at = _NEVER

    # -- who goes on --------------------------------------------------------------------

    def mark(self, connection: Driven) -> None:
        """Have a connection go on when those have had their turn that are at it now."""
        self._marked.append(connection)
        if self._called:
            return
        try:
            # Unset again before they are looked at, so that no mark is missed.
            self._called = True
            self._call()
        except BaseException:
            self._called = False  # by an exception of a signal's handler, which comes anywhere
            self._call()
            raise

    def _call(self) -> None:
        loop = self._loop
        here = get_ident() == self._thread
        try:
            (loop.call_soon if here else loop.call_soon_threadsafe)(self._go_on)
        except RuntimeError:
            if not loop.is_closed():
                raise

    def _go_on(self) -> None:
        self._called = False
        marked = self._marked
        try:
            for _ in range(min(len(marked), _A_TURN)):
                marked.popleft().go_on()
        finally:
            if marked and not self._called:
                self._called = True
                self._loop.call_soon(self._go_on)

    # -- deadlines ----------------------------------------------------------------------

    def call_at(self, moment: float, connection: Driven) -> None:
        """Have ``time_is_up`` called at a moment, unless it is called before anyway.

        A deadline that is put off costs nothing: the connection is called at the first one, and
        says what the next one is.
        """
        timer = connection.timer
        if timer is not None:
            if timer[0] <= moment:
                return
            self.forget(connection)
        self._added += 1
        connection.timer = timer = Timer((moment, self._added, connection))
        heappush(self._timers, timer)
        if moment < self._wakes_at:
            self._wake_at(moment)

    def forget(self, connection: Driven) -> None:
        """Call a connection at no moment: it is gone."""
        timer, connection.timer = connection.timer, None
        if timer is None:
            return
        timer[2] = None
        self._dropped += 1
        if self._dropped > max(_DROPPED, len(self._timers) // 2):
            self._timers = [each for each in self._timers if each[2] is not None]
            heapify(self._timers)
            self._dropped = 0

    def _wake_at(self, moment: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._wakes_at = moment
        self._handle = self._loop.call_later(max(0.0, moment - monotonic()), self._time_is_up)

    def _time_is_up(self) -> None:
        self._handle, self._wakes_at = None, _NEVER
        now = monotonic()
        try:
            for _ in range(_A_TURN):
                timers = self._timers
                if not timers or timers[0][0] > now:
                    break
                connection = heappop(timers)[2]
                if connection is None:
                    self._dropped -= 1
                else:
                    connection.timer = None
                    connection.time_is_up()
        finally:
            if self._timers and self._timers[0][0] < self._wakes_at:
                self._wake_at(self._timers[0][0])

    def close(self) -> None:
        """Call nobody any more."""
        if self._handle is not None:
            self._handle.cancel()
        self._timers.clear()
        self._marked.clear()
