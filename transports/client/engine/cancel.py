"""How a wait is cancelled, whatever it waits on, and the lock that callers queue for.

Callers are threads or tasks; what they wait on comes from a `backend.Backend`.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol

from twinline.core.deadline import Deadline
from twinline.core.locks import new_lock

_LOOK_SECONDS: Final = 0.5
"""How long a turn that has come may go unnoticed."""


class Waiter(Protocol):
    """One caller's place to wait; as `twinline.core.waiting.Waiter`, but awaited."""

    def wake(self) -> None:
        """Wake the waiting caller, or let its next wait return at once; it never raises."""

    async def wait(self, deadline: Deadline) -> bool:
        """Wait until woken or until the deadline passes.

        Returns:
            Whether it was woken.
        """


class Cancelled(Exception):
    """A cancel token was set; what waited under it has stopped waiting."""


class DeadlinePassed(Exception):
    """The deadline passed in a queue, or before an attempt to connect began."""


class CancelToken:
    """One-shot cancellation: set once, it ends every wait that was made under it.

    A wait registers the wake that ends it, with `waking` or `add`. A wake that is removed never
    runs again, so it may shut down a socket that its owner closes afterwards, with no fear of a
    reused descriptor.

    Attributes:
        is_set: whether it is set; written under the lock.
    """

    def __init__(self, name: str) -> None:
        self._lock = new_lock(name)
        self.is_set = False
        self._wakes: list[Callable[[], object]] = []  # guarded by _lock

    def set(self) -> None:
        """End all waits under it, now and from now on."""
        with self._lock:
            self.is_set = True
            # Called under the lock: that is what makes "never again" true.
            for wake in self._wakes:
                wake()

    def check(self) -> None:
        """Do nothing unless it is set.

        Raises:
            Cancelled: it is set.
        """
        if self.is_set:
            raise Cancelled

    def add(self, wake: Callable[[], object]) -> None:
        """Have ``wake`` called when this is set, until it is removed.

        Args:
            wake: ends a wait; it neither blocks nor raises nor takes a lock.

        Raises:
            Cancelled: it is set already.
        """
        with self._lock:
            self.check()
            self._wakes.append(wake)

    def remove(self, wake: Callable[[], object]) -> None:
        """Have ``wake`` called no more, from the moment at which this returns, if it was added."""
        with self._lock, suppress(ValueError):
            self._wakes.remove(wake)

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """Have ``wake`` called if this is set while the body runs; see `add`."""
        try:
            self.add(wake)
            yield
        finally:
            self.remove(wake)

    @contextmanager
    def calling(self, wake: Callable[[], object]) -> Iterator[None]:
        """Have ``wake`` called if this is set while the body runs, or at once if it is set already.

        Unlike `waking` it raises nothing: it is for a token that does not end what it wakes.
        """
        try:
            with suppress(Cancelled):
                self.add(wake)
            if self.is_set:
                wake()
            yield
        finally:
            self.remove(wake)

    async def wait(self, waiter: Waiter, deadline: Deadline) -> bool:
        """Wait until the waiter is woken or the deadline passes.

        Returns:
            Whether the waiter was woken.

        Raises:
            Cancelled: this was set, before or during the wait.
        """
        with self.waking(waiter.wake):
            woken = await waiter.wait(deadline)
        self.check()
        return woken


class Turn:
    """A caller's turn at a `FifoLock`, and its place in the queue before that.

    It is there for as long as ``lasts`` is held, which is left in C: a signal's handler that raises
    may keep the caller from doing anything else on leaving (see `twinline.core.interrupts`).

    Attributes:
        lasts: held by a ``with`` around all that the caller does; nobody waits for it.
        waiter: woken when the turn has come.
    """

    __slots__ = ("lasts", "waiter")

    def __init__(self) -> None:
        self.lasts = threading.Lock()
        self.waiter: Waiter | None = None  # None: it does not wait


class FifoLock:
    """A lock that its callers get in the order in which they came.

    Its holder may wait and do I/O. The others wait for it with a deadline and under a cancel
    token, outside every plain lock. Each has a `Turn`::

        turn = Turn()
        try:
            with turn.lasts:
                await fifo.take(turn, deadline, cancel)
                ...
        finally:
            fifo.pass_on(turn)
    """

    def __init__(self, name: str, new_waiter: Callable[[], Waiter]) -> None:
        self._new_waiter = new_waiter
        self._lock = new_lock(name)
        # The holder's, and behind it those that wait; some are over. Guarded by _lock.
        self._turns: deque[Turn] = deque()

    @property
    def is_held(self) -> bool:
        """Whether somebody's turn lasts."""
        with self._lock:
            return self._first() is not None

    def take_nowait(self, turn: Turn) -> bool:
        """Begin the turn if the lock is free, and return whether it was."""
        with self._lock:
            if self._first() is not None:
                return False
            self._turns.append(turn)
            return True

    async def take(self, turn: Turn, deadline: Deadline, cancel: CancelToken) -> None:
        """Wait for the turn to come.

        Raises:
            DeadlinePassed: the deadline passed first.
            Cancelled: the token was set first.
        """
        waiter = turn.waiter = self._new_waiter()
        with self._lock:
            self._turns.append(turn)
        while not self._has_come(turn):
            if deadline.passed:
                raise DeadlinePassed
            # The wake may have been lost to a signal's handler, so it looks now and then.
            await cancel.wait(waiter, deadline.sooner(_LOOK_SECONDS))

    def pass_on(self, turn: Turn) -> None:
        """Wake the caller that has waited longest, now that a turn is over."""
        with self._lock:
            with suppress(ValueError):
                self._turns.remove(turn)
            first = self._first()
            if first is not None and first.waiter is not None:
                first.waiter.wake()

    def _has_come(self, turn: Turn) -> bool:
        with self._lock:
            return self._first() is turn

    def _first(self) -> Turn | None:
        """Return the turn that lasts now; with the lock held."""
        while self._turns and not self._turns[0].lasts.locked():
            self._turns.popleft()
        return self._turns[0] if self._turns else None
