"""How a wait is cancelled, whatever it waits on, and the lock that callers queue for.

Callers are threads or tasks; what they wait on comes from a `backend.Backend`.
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
        """Have ``wake`` called no more, from the moment at which this returns."""
        with self._lock:
            self._wakes.remove(wake)

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """Have ``wake`` called if this is set while the body runs; see `add`."""
        self.add(wake)
        try:
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


class FifoLock:
    """A lock that its callers get in the order in which they came.

    Its holder may wait and do I/O. The others wait for it with a deadline and under a cancel
    token, outside every plain lock.
    """

    def __init__(self, name: str, new_waiter: Callable[[], Waiter]) -> None:
        self._new_waiter = new_waiter
        self._lock = new_lock(name)
        self._held = False  # guarded by _lock
        self._queue: deque[Waiter] = deque()  # guarded by _lock

    def acquire_nowait(self) -> bool:
        """Take the lock if it is free, until `release`, and return whether it was."""
        with self._lock:
            free = not self._held
            self._held = True
            return free

    async def acquire(self, deadline: Deadline, cancel: CancelToken) -> None:
        """Wait for the lock and hold it, until `release`.

        Raises:
            DeadlinePassed: the deadline passed first.
            Cancelled: the token was set first.
        """
        with self._lock:
            if not self._held:
                self._held = True
                return
            waiter = self._new_waiter()
            self._queue.append(waiter)
        try:
            await cancel.wait(waiter, deadline)
        except BaseException:
            if not self._withdraw(waiter):
                self.release()  # the lock was handed to this caller in the meantime
            raise
        if self._withdraw(waiter):
            raise DeadlinePassed

    def release(self) -> None:
        """Hand the lock to the caller that has waited longest."""
        with self._lock:
            if self._queue:
                self._queue.popleft().wake()  # handed over: it stays held
            else:
                self._held = False

    def _withdraw(self, waiter: Waiter) -> bool:
        """Leave the queue; False says that the lock is this caller's already."""
        with self._lock:
            if waiter not in self._queue:
                return False
            self._queue.remove(waiter)
            return True
