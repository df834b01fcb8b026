"""How one ends another's wait, whatever it waits on, and how callers take turns.

Callers are threads or tasks; what they wait on comes from a `client_backend.Backend`.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from twinline.core.deadline import Deadline
from twinline.core.locks import new_lock


class Waiter(Protocol):
    """One caller's place to wait; as `twinline.core.waiting.Waiter`, but awaited."""

    def wake(self) -> None:
        """Wake who waits, or let its next wait return at once; it neither blocks nor raises."""

    async def wait(self, deadline: Deadline) -> bool:
        """Wait until woken or until the deadline passes.

        Returns:
            Whether it was woken.
        """


class Cancelled(Exception):
    """An interrupt was set; what waited has stopped waiting."""


class OutOfTime(Exception):
    """The deadline passed before it was this caller's turn."""


class CancelToken:
    """Something that is set once, and then ends every wait that was made under it.

    Who is about to wait says how it can be woken, with `waking`. Once `waking` has been left
    that wake never runs again, so it may shut down a socket that its owner closes afterwards,
    with no fear of a reused descriptor.
    """

    def __init__(self, name: str) -> None:
        self._lock = new_lock(name)
        self._set = False  # guarded by _lock
        self._wakes: list[Callable[[], object]] = []  # guarded by _lock

    @property
    def is_set(self) -> bool:
        """Whether it is set."""
        return self._set

    def set(self) -> None:
        """End all waits under it, now and from now on."""
        with self._lock:
            self._set = True
            # Called under the lock: that is what makes "never again" true.
            for wake in self._wakes:
                wake()

    def check(self) -> None:
        """Do nothing unless it is set.

        Raises:
            Cancelled: it is set.
        """
        if self._set:
            raise Cancelled

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """Have ``wake`` called if this is set while the body runs.

        Args:
            wake: ends the wait; it neither blocks nor raises nor takes a lock.

        Raises:
            Cancelled: it was set before the body began.
        """
        with self._lock:
            if self._set:
                raise Cancelled
            self._wakes.append(wake)
        try:
            yield
        finally:
            with self._lock:
                self._wakes.remove(wake)

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
    """Something that many callers use one after another, in the order in which they came.

    It is no lock: who has the turn may wait, and others wait for it with a deadline and under
    an interrupt, outside every lock.
    """

    def __init__(self, name: str, new_waiter: Callable[[], Waiter]) -> None:
        self._new_waiter = new_waiter
        self._lock = new_lock(name)
        self._taken = False  # guarded by _lock
        self._queue: deque[Waiter] = deque()  # guarded by _lock

    async def enter(self, deadline: Deadline, interrupt: CancelToken) -> None:
        """Wait for the turn and have it, until `leave`.

        Raises:
            OutOfTime: the deadline passed first.
            Cancelled: the interrupt was set first.
        """
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            waiter = self._new_waiter()
            self._queue.append(waiter)
        try:
            await interrupt.wait(waiter, deadline)
        except BaseException:
            if not self._withdraw(waiter):
                self.leave()  # the turn had been given to this caller in the meantime
            raise
        if self._withdraw(waiter):
            raise OutOfTime

    def leave(self) -> None:
        """Give the turn to whoever has waited longest."""
        with self._lock:
            if self._queue:
                self._queue.popleft().wake()  # handed over: it stays taken
            else:
                self._taken = False

    def _withdraw(self, waiter: Waiter) -> bool:
        """Leave the queue; False says that the turn is this caller's already."""
        with self._lock:
            if waiter not in self._queue:
                return False
            self._queue.remove(waiter)
            return True
