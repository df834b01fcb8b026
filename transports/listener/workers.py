"""Threads for what may block: so many at most, started when they are needed, ended when idle."""

import logging
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from twinline.core.locks import new_lock
from twinline.transports.listener.threads import start_thread

log = logging.getLogger(__name__)

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
        self._idle = 0  # threads that wait for work
        self._closed = False
        # Threads that were started, by their numbers, with what returns None if one has ended.
        self._threads: dict[int, Callable[[], object | None]] = {}
        self._started = 0

    def submit(self, work: Work) -> None:
        """Have work carried out, in a thread; it raises nothing.

        Raises:
            RuntimeError, MemoryError: there is no thread, and the system has none to give.
        """
        with self._lock:
            self._pending += 1
            start = self._pending > self._idle
        self._work.put(work)
        if start and not self._start_one():
            with self._lock:
                self._pending -= 1
            self._work.get_nowait()
            raise RuntimeError("there is no thread for what may block")

    def _start_one(self) -> bool:
        """Start a thread if there may be another, and return whether there is any."""
        with self._lock:
            if len(self._threads) >= self._limit:
                return True
            self._started = number = self._started + 1
            self._threads[number] = object  # not None: it is about to begin
        try:
            ended = start_thread(f"{self._name} {number}", self._run, number)
        except (RuntimeError, MemoryError):
            with self._lock:
                del self._threads[number]
                return bool(self._threads)
        with self._lock:
            if number in self._threads:
                self._threads[number] = ended
        return True

    def replace_stillborn(self) -> None:
        """Start others for threads that ended before they ran, for want of memory."""
        with self._lock:
            dead = [number for number, ended in self._threads.items() if ended() is None]
            for number in dead:
                del self._threads[number]
            start = dead and self._pending > self._idle
        if start:
            self._start_one()

    def close(self) -> None:
        """Let every thread end when it has nothing to do; what waits is still carried out."""
        with self._lock:
            self._closed = True
            threads = len(self._threads)
        for _ in range(threads):
            self._work.put(None)

    @property
    def threads(self) -> int:
        """How many there are."""
        return len(self._threads)

    def _run(self, number: int) -> None:
        try:
            while (work := self._next(number)) is not None:
                work()
                del work  # it leads to a connection, which may be gone before the next one comes
        finally:
            with self._lock:
                self._threads.pop(number, None)

    def _next(self, number: int) -> Work | None:
        """Return the next piece of work, or None when this thread is to end."""
        with self._lock:
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
                    # In one step with that, so that nothing is left to a thread that ends.
                    self._threads.pop(number, None)
                else:
                    self._pending -= 1
                return work
