"""What belongs to the whole process, and so is set by `twinline serve` alone, once, at its start.

A `Listener` in another program touches none of it. Here all of it is set in one place, before any
thread starts. How a thread is kept on one processor is in ``affinity``, and the priority of the
threads that hash, which is a thread's own, in ``hashing``.
"""

import ctypes
import gc
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Final

from twinline.cli.server.affinity import on_one

log = logging.getLogger(__name__)

STACK_BYTES: Final = 4 * 1024 * 1024
"""The stack of a thread, of which each connection has one: three times what the deepest reader of
frames uses. That is not one of ours but a transport of somebody else's over Python's own `json`,
which on Python 3.13 goes 10,000 lists deep and uses 1.3 MiB. Only what was used takes memory."""
_SWITCH_SECONDS: Final = 0.05
_COLLECT_AFTER: Final = 50_000
"""More objects than a frame of 64 KiB can hold lists, 22,000."""
_SPARE_DESCRIPTORS: Final = 64
"""For what is open beside connections: the store, the listening sockets, the log."""
# From <malloc.h> of glibc; mallopt(3) tells what they do.
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_LARGE_BYTES: Final = 1 << 20
_PR_SET_THP_DISABLE: Final = 41  # from <linux/prctl.h>
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def server_process(
    *, one_processor: bool, many_threads: bool, index: int | None = None
) -> Iterator["Descriptors"]:
    """Set up the process of a server; entered before it starts any thread.

    Args:
        one_processor: whether its threads stay on one processor while the block runs.
        index: its number among the nodes of this machine, each of which has another processor as
            long as there are enough; None for a server that is alone.
        many_threads: whether each connection has a thread, and no thread drives many.

    Yields:
        How many descriptors it may have, for the log that starts after this.
    """
    limit_malloc_arenas()
    _keep_pages_small()
    if many_threads:
        _raise_switch_interval()
    stack_bytes = threading.stack_size(STACK_BYTES)
    # Until there is something to read again, which is read after this: a SIGHUP would end it.
    # It is not put back either, see `signals_handled`.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _collecting_rarely(), on_one(index) if one_processor else nullcontext():
            yield _raise_descriptor_limit()
    finally:
        threading.stack_size(stack_bytes)


def limit_malloc_arenas() -> None:
    """Let a process of many threads hold no more memory than it uses.

    The C library gives each of several threads a heap of its own, so that they need not wait for
    each other; but threads that run Python take turns anyway. And what it once gave out in large
    pieces it keeps, so that the 19 MiB of a password's hash would stay with every heap that a
    login came to: 400 logins left 180 MB resident, and leave 45 MB this way.

    Where the C library is another one nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def _keep_pages_small() -> None:
    """Let a stack of which little is used take little memory.

    Where the system's setting is "always", Linux before 6.7 gives a stack its first page as a huge
    one, of 2 MiB: for each connection. Elsewhere nothing happens.
    """
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)


def _raise_switch_interval() -> None:
    """Let a thread that wants the interpreter wait longer before it asks the present one to stop.

    A request is answered in less than a millisecond and then gives its turn away by itself, so
    the limit is hardly ever reached. But every thread that waits for its turn wakes up at the
    end of it, 5 ms by default: where thousands wait, they spend the processor on waking up. When
    9,000 connections broke at once, their threads were gone after 21 s, and are after 5 s now.

    An event loop keeps the default: its connections all wait for the one thread that drives them,
    and this is how long that would wait whenever a worker computes.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)


@contextmanager
def _collecting_rarely() -> Iterator[None]:
    """Let no peer set off the garbage collector while the block runs.

    It starts when so many more containers were made than freed, 700 by default, and a frame of
    nested lists that nobody reads makes 1,300 in 4 KiB. What it looks at in the end is all there
    is: with 100,000 accounts in memory it stopped all threads for half a second, several times a
    second. Nearly everything here is freed when its last reference goes, and needs no collector.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()  # what was imported stays, and need not be looked at
    gc.set_threshold(_COLLECT_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@dataclass(frozen=True, slots=True)
class Descriptors:
    """How many descriptors the process may have; -1 is no limit.

    Attributes:
        before: when it started.
        now: since it asked for as many as it may have.
    """

    before: int
    now: int

    def log_for(self, connections: int, *, to_wake: int) -> None:
        """Log what it came to, and whether so many connections can be served.

        Args:
            connections: how many there may be; each takes a descriptor.
            to_wake: how many more one takes that waits for mail.
        """
        if self.now != self.before:
            shown = [_shown(limit) for limit in (self.before, self.now)]
            log.info("the limit of descriptors is raised from %s to %s", *shown)
        # One of a user's two connections waits for mail. Where more than half do, those that come
        # when there is no descriptor left are answered `busy`.
        watching = connections // 2
        needed = connections + watching * to_wake + _SPARE_DESCRIPTORS
        if self.now != resource.RLIM_INFINITY and self.now < needed:
            log.warning(
                "the limit of descriptors, %s, allows fewer connections than the setting, %s%s: "
                "raise it to %s (ulimit -n, LimitNOFILE) or lower `connections`",
                f"{self.now:,}",
                f"{connections:,}",
                ", half of which wait for mail" if to_wake else "",
                f"{needed:,}",
            )


def _raise_descriptor_limit() -> Descriptors:
    """Let the process have as many descriptors as it may.

    A shell gives a process 1,024 and lets it ask for more; where there are no more, silent peers
    shut others out.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # on some systems less is allowed than the hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return Descriptors(soft, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _shown(limit: int) -> str:
    return "as many as there are" if limit == resource.RLIM_INFINITY else f"{limit:,}"


@contextmanager
def signals_handled(
    stop: Callable[[], None],
    reload: Callable[[], None],
    wakeup_fd: int,
    *,
    at_once: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Let SIGHUP call `reload`, SIGTERM and SIGINT `stop`; a second one ends the process at once.

    The handlers are not put back: when the block is over, the process is on its way to exit code
    0, and no signal is to change that. SIGHUP is ignored then.

    Args:
        stop: called in the main thread, between two steps of Python.
        reload: the same; it wakes what does the work.
        wakeup_fd: where the interpreter's own handler writes a byte for every signal while the
            block runs. Python runs a handler between two steps of Python; for a signal that comes
            just before a wait begins that would be after it, and the byte ends the wait at once.
        at_once: called before the process ends at once.
    """

    def begin(_number: int, _frame: FrameType | None) -> None:
        # The next signal finds no patience, and no interpreter that waits for threads.
        for name in _SIGNALS:
            signal.signal(name, exit_at_once)
        stop()

    def exit_at_once(number: int, _frame: FrameType | None) -> None:
        try:
            at_once()
        finally:
            os._exit(128 + number)

    def read_again(_number: int, _frame: FrameType | None) -> None:
        reload()

    before = signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
    try:
        for name in _SIGNALS:
            signal.signal(name, begin)
        signal.signal(signal.SIGHUP, read_again)
        yield
    finally:
        # There is nothing left to read again. A handler of Python's would be put back by the end of
        # the interpreter, and then the signal would be one more way to end.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.set_wakeup_fd(before)
