"""The queue of writes in front of the one thread that makes them, many in a transaction.

A commit costs one sync of the disk however much is in it. So writes are not made by the threads
that ask for them: each leaves its write here and waits, and the writer takes all that wait into
the next transaction, while the ones after them gather (group commit: DeWitt et al. 1984,
"Implementation techniques for main memory database systems", section 5).

The writer notifies the first thread of a transaction, and each thread the next one. Were all
notified at once, all would want the interpreter at once, and most of them would be woken only to
wait for it. Whom a write wakes is woken by the thread that asked for it, after its commit; by the
writer, which all that write wait for, only where no thread asked or the one that did waits no more.
"""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, TypeVar

from twinline.core.errors import StoreUnavailable
from twinline.core.interrupts import may_be_interrupted
from twinline.core.locks import may_block, new_lock
from twinline.core.store import OnCommit
from twinline.core.waiting import Waiter, Wake, wake_all

log = logging.getLogger(__name__)

Write = TypeVar("Write")

WAIT_SECONDS: Final = 30.0
"""How long a write may wait for its commit before its thread gives up."""


class Request(Generic[Write]):
    """A write that waits, and the one whose thread is notified after it.

    Attributes:
        write: what is to be done.
        wakes: whom it wakes, once it is committed.
        abandoned: whether its thread waits no more.
        committed: whether the writer is through with it. Each of the two says its own first and
            then looks at the other's, so one of them calls the wakes.
        value: what its thread is given; an exception is raised there.
        outcome: where it waits for that.
        next: the one that its thread notifies.
        notifies: whether a thread waits for it that will notify the next; guarded by the queue
            lock. The main thread is not relied on, for a signal's handler may raise in it.
    """

    __slots__ = (
        "abandoned",
        "committed",
        "next",
        "notifies",
        "outcome",
        "value",
        "wakes",
        "write",
    )

    def __init__(self, write: Write, *, notifies: bool) -> None:
        self.write = write
        self.wakes: list[Wake] = []
        self.abandoned = False
        self.committed = False
        self.value: Any = None
        self.outcome: SimpleQueue[Any] = SimpleQueue()
        self.next: Request[Write] | None = None
        self.notifies = notifies


class WriteQueue(ABC, Generic[Write]):
    """Takes writes from any thread; who derives from it makes them in a thread of its own.

    Attributes:
        on_commit: called after each commit, as `Store.on_commit` says; None: nobody asks.
    """

    def __init__(self, name: str) -> None:
        """Take nothing yet; `start` begins.

        Args:
            name: the thread's.
        """
        self._lock = new_lock("queue")
        self._waiting: list[Request[Write]] = []  # guarded by the queue lock
        self._refusing = False  # guarded by the queue lock
        self._closed = False  # guarded by the queue lock
        self._work = Waiter()
        self._kept: object = None
        self.on_commit: OnCommit | None = None
        self._taken_at = 0.0  # the writer's thread's: when it took what it writes
        self._thread = threading.Thread(target=self._begin, name=name, daemon=True)

    def start(self, kept: object) -> None:
        """Start the thread; `close` ends it, even if this was interrupted.

        Args:
            kept: what is not finalised before the thread has ended. In a forked child, which has
                no such thread, that is never: its stack is neither used nor taken down.
        """
        self._kept = kept
        self._thread.start()

    def wait_for(
        self,
        write: Write,
        seconds: float = WAIT_SECONDS,
        wake: Callable[[Iterable[Wake]], None] = wake_all,
    ) -> Any:
        """Have a write made; when this returns, it is committed.

        Args:
            write: what to do.
            seconds: how long to wait.
            wake: calls the wakes that the write leaves, in this thread.

        Raises:
            StoreUnavailable: it was not committed; or the time is up, and then a write that
                was begun may be committed all the same.
            RuntimeError: called in the writer's own thread, by a wake: it would wait for itself.
            Exception: what the write came to.
        """
        may_block("writing the store")
        if threading.get_ident() == self._thread.ident:
            raise RuntimeError("a wake must not write to the store: the store's writer called it")
        request = Request(write, notifies=not may_be_interrupted())
        try:
            value = self._outcome(request, seconds)
            if request.wakes:
                wake(request.wakes)
        except BaseException:
            # It may yet be committed.
            request.abandoned = True
            if request.committed:
                wake_all(request.wakes)
            raise
        if isinstance(value, Exception):
            raise value
        return value

    def post(self, write: Write) -> None:
        """Have a write made soon, if nothing prevents it, and return at once."""
        request = Request(write, notifies=False)
        request.abandoned = True
        with suppress(StoreUnavailable):
            self._queue(request)

    def close(self, seconds: float = WAIT_SECONDS) -> bool:
        """Make the writes that wait, refuse others, and end.

        Returns:
            Whether it has ended; a disk or a database that does not answer can hold it up.
        """
        with self._lock:
            self._closed = True
        self._work.wake()
        try:
            self._thread.join(seconds)
        except RuntimeError:  # it was not started, or starts now and ends at once
            self._disconnect()
        return not self._thread.is_alive()

    def _outcome(self, request: Request[Write], seconds: float) -> Any:
        """Queue a write and return its outcome."""
        self._queue(request)
        try:
            value = request.outcome.get(timeout=seconds)
        except Empty:
            self._abandon(request)
            raise self._too_late(request) from None
        if request.next is not None and request.notifies:
            self._notify(request.next)
        return value

    def _too_late(self, request: Request[Write]) -> StoreUnavailable:  # noqa: ARG002 - for others
        return StoreUnavailable("the store does not answer in time")

    def _queue(self, request: Request[Write]) -> None:
        with self._lock:
            if self._refusing or self._closed:
                raise StoreUnavailable
            self._waiting.append(request)
        self._work.wake()

    def _notify(self, request: Request[Write] | None) -> None:
        """Notify requests up to the first whose thread notifies the next one."""
        while request is not None:
            request.outcome.put(request.value)
            with self._lock:
                notifies = request.notifies
            if notifies:
                return
            request = request.next

    def _abandon(self, request: Request[Write]) -> None:
        """Wait no more; those that this thread would have notified are notified all the same."""
        with self._lock:
            request.notifies = False
            with suppress(ValueError):  # it may have been begun by now
                self._waiting.remove(request)
        # Notified in the moment between, by a thread that relies on this one to go on. Should
        # both go on, the second outcome is not looked at.
        if not request.outcome.empty():
            self._notify(request.next)

    # --- in the writer's thread

    def _begin(self) -> None:
        kept, self._kept = self._kept, None  # on this thread's stack: see `start`
        self._run()
        del kept

    @abstractmethod
    def _run(self) -> None:
        """Take and make writes until the queue is closed and empty; then disconnect."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Close the connection, if there is one."""

    def _take(self, most: int) -> tuple[list[Request[Write]], bool]:
        """Return the writes that wait, so many at most, and whether the queue is closed."""
        self._taken_at = time.monotonic()
        with self._lock:
            batch, self._waiting = self._waiting[:most], self._waiting[most:]
            return batch, self._closed

    def _finish(self, batch: list[Request[Write]]) -> None:
        """Tell those who asked for them that their writes are committed."""
        if self.on_commit is not None:
            follow(partial(self.on_commit, len(batch), time.monotonic() - self._taken_at))
        for request, following in zip(batch, [*batch[1:], None], strict=True):
            request.next = following
            request.committed = True
            if request.abandoned:
                follow(partial(wake_all, request.wakes))
        self._notify(batch[0])


def follow(call: Callable[[], object]) -> None:
    """Call what follows a commit: it is done, whatever becomes of this."""
    try:
        call()
    except Exception:
        log.exception("what follows a commit failed")
