"""Threads for what may block: so many at most, started when they are needed, ended when idle."""

from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

from twinline.core.locks import new_lock
from twinline.transports.listener.threads import start_thread

Work = Callable[[], None]
_IDLE_SECONDS: Final = 10.0


class Workers:
    """A pool of threads that carry out work in the order it comes.

    Work waits where all threads are busy. It is the caller that bounds how much: a connection has
    one piece at most.
    """

    def __init__(self, name: str, limit: int) -> None:
        """Prepare; no thread is started.

        Args:
            name: of its threads, for logs and debuggers.
            limit: so many threads at most.
        """
        self._name = name
        self._limit = limit
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self._lock = new_lock("workers")
        # Guarded by _lock.
        self._pending = 0  # pieces of work that no thread has begun
        self._threads = 0
        self._idle = 0  # of those, the ones that wait for work
        self._closed = False
        # Threads that do not run yet, by their numbers, with what returns None if one has ended.
        self._starting: dict[int, Callable[[], object | None]] = {}
        self._started = 0  # so many, ever

    def change(self, limit: int) -> None:
        """Have so many threads at most, from now on; those beyond it end after their work."""
        with self._lock:
            self._limit = limit

    @property
    def starting(self) -> bool:
        """Whether a thread was started that does not run yet; see `replace_stillborn`."""
        return bool(self._starting)

    def submit(self, work: Work) -> None:
        """Have work carried out, in a thread; it raises nothing.

        Raises:
            RuntimeError, MemoryError: there is no thread, and the system has none to give.
        """
        with self._lock:
            start = self._pending >= self._idle
        if start:
            self._start_one()
        with self._lock:
            self._pending += 1
        self._work.put(work)

    def replace_stillborn(self) -> None:
        """Start others for threads that ended before they ran, for want of memory.

        To be called a moment after `submit` for as long as one is `starting`.
        """
        with self._lock:
            stillborn = [number for number, ended in self._starting.items() if ended() is None]
            for number in stillborn:
                del self._starting[number]
            self._threads -= len(stillborn)
            start = stillborn and self._pending > self._idle
        if start:
            with suppress(RuntimeError, MemoryError):
                self._start_one()

    def close(self) -> None:
        """Let every thread end when it has nothing to do; what waits is still carried out."""
        with self._lock:
            self._closed = True
            threads = self._threads
        for _ in range(threads):
            self._work.put(None)

    def _start_one(self) -> None:
        """Start a thread, unless there are as many as may be.

        Raises:
            RuntimeError, MemoryError: there is no thread at all, and none to be had.
        """
        with self._lock:
            if self._threads >= self._limit:
                return
            self._threads += 1
            self._started = number = self._started + 1
            self._starting[number] = object  # not None: it is about to begin
        try:
            ended = start_thread(f"{self._name} {number}", self._run, number)
        except (RuntimeError, MemoryError):
            with self._lock:
                del self._starting[number]
                self._threads -= 1
                if self._threads:
                    return  # another one has time for it, sooner or later
            raise
        with self._lock:
            if number in self._starting:
                self._starting[number] = ended

    def _run(self, number: int) -> None:
        with self._lock:
            del self._starting[number]
        ended = False
        try:
            while (work := self._next()) is not None:
                work()
                del work  # it leads to a connection, which may be gone before the next one comes
            ended = True
        finally:
            if not ended:
                with self._lock:
                    self._threads -= 1

    def _next(self) -> Work | None:
        """Return the next piece of work, or None when this thread is to end, and counts no more."""
        with self._lock:
            if self._threads > self._limit:  # it was lowered, and the others are enough
                self._threads -= 1
                return None
            self._idle += 1
        while True:
            try:
                work = self._work.get(timeout=_IDLE_SECONDS)
            except Empty:
                work = None
            with self._lock:
                if work is None and self._pending and not self._closed:
                    continue  # it was submitted just now, to this thread among others
                self._idle -= 1
                if work is None:
                    self._threads -= 1
                else:
                    self._pending -= 1
                return work
