"""How a thread waits for something to happen, and how others tell it.

A notification is a hint: it says "look again", never what there is to see. So the order is
always subscribe, look, wait, look again; a hint that comes between looking and waiting is kept.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue

from twinline.core.deadline import Deadline
from twinline.core.locks import may_block, new_lock

Wake = Callable[[], None]
"""A callback that wakes one waiter. It never blocks and never raises; it may be called from any
thread, more than once, and late. It is called with no lock held."""


class Waiter:
    """One thread's place to wait; any other thread may wake it.

    A wake before the wait is kept, and many wakes before one wait count as one.
    """

    __slots__ = ("_hints",)

    def __init__(self) -> None:
        # SimpleQueue waits in C and its put never blocks: no Condition, no spurious wake-up.
        self._hints: SimpleQueue[None] = SimpleQueue()

    def wake(self) -> None:
        """Wake the waiting thread, or let its next wait return at once."""
        self._hints.put(None)

    def wait(self, deadline: Deadline) -> bool:
        """Block until woken or until the deadline passes.

        Returns:
            Whether it was woken.
        """
        may_block("waiting")
        try:
            self._hints.get(timeout=deadline.remaining())
            while True:
                self._hints.get_nowait()
        except Empty:
            return not deadline.passed


class WaiterGroup:
    """Waiters that can be ended together: those of one session, or those of a whole service.

    Attributes:
        ended: whether `end` was called; waiters that join later are woken at once.
    """

    __slots__ = ("_lock", "_waiters", "ended")

    def __init__(self, name: str) -> None:
        self._lock = new_lock(name)
        self._waiters: set[Waiter] = set()  # guarded by _lock
        self.ended = False  # written under _lock

    @contextmanager
    def joined(self, waiter: Waiter) -> Iterator[None]:
        """Let `end` wake this waiter while the block runs."""
        with self._lock:
            self._waiters.add(waiter)
            ended = self.ended
        if ended:
            waiter.wake()
        try:
            yield
        finally:
            with self._lock:
                self._waiters.discard(waiter)

    def end(self) -> None:
        """Wake every waiter of the group, now and from now on."""
        with self._lock:
            self.ended = True
            waiters = tuple(self._waiters)
        for waiter in waiters:
            waiter.wake()
