"""How a thread waits for something to happen, and how other threads notify it.

A notification is a hint: it says "look again", never what there is to see. So the order is
always subscribe, look, wait, look again; a hint that comes between looking and waiting is kept.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Final, Protocol

from twinline.core.deadline import Deadline
from twinline.core.errors import LockRuleError
from twinline.core.locks import checking, may_block

log = logging.getLogger(__name__)

_SIGNAL_SECONDS: Final = 0.5
"""How long a signal may go unnoticed by a main thread that waits."""
_HERD: Final = 8
_TURN_SECONDS: Final = 0.001
"""Where one message wakes more than so many, others get a turn of the interpreter between so many
wakes, of this length. The wakes of many messages have none: they are spread by their sends, and a
sender that writes to many at once would get less than half as many through."""

Wake = Callable[[], None]
"""A callback that wakes one waiter: it sets a flag, or puts into a queue, and returns.

It may be called from any thread, more than once, and late, with no lock held. It must not block,
nor use the service or the store: it may run in the thread that a store writes with, which would
wait for itself; a store answers such a call with an error at once. What it raises is logged, and
keeps no other wake from being called.
"""


class DeferredWakes(dict[int, Wake]):
    """Wakes that are still to be called, each once: by `id`, the first to be asked for first.

    Attributes:
        herd: whether one message wakes so many of them that others are given turns.
    """

    __slots__ = ("herd",)

    def __init__(self) -> None:
        super().__init__()
        self.herd = False


class _Deferred(threading.local):
    wakes: DeferredWakes | None = None  # None: they are called at once


_deferred = _Deferred()


def wake_all(wakes: Iterable[Wake]) -> None:
    """Call the wakes that a store collected under its lock, now that it is released."""
    may_block("waking")
    others = iter(wakes)
    try:
        for wake in others:
            _call(wake)
    except BaseException:
        wake_all(others)  # an interruption is of this thread, not of those that wait
        raise


def _call(wake: Wake) -> None:
    """Call a wake on its own: what it does wrong is no affair of who woke it."""
    try:
        wake()
    except LockRuleError:
        raise
    except Exception:
        log.exception("a wake raised")


def wake_after_reply(wakes: Iterable[Wake]) -> None:
    """Do as `wake_all`, or leave it to the end of what this thread does: see `deferred_wakes`.

    For wakes that nothing but the mail's arrival hangs on.
    """
    deferred = _deferred.wakes
    if deferred is None:
        wake_all(wakes)
        return
    wakes = tuple(wakes)
    for wake in wakes:
        deferred[id(wake)] = wake
    if len(wakes) > _HERD:
        deferred.herd = True


def _give_turn() -> None:
    time.sleep(_TURN_SECONDS)


@contextmanager
def deferred_wakes() -> Iterator[DeferredWakes]:
    """Keep the wakes of `wake_after_reply` until this thread has written its reply.

    A thread that is woken wants the interpreter at once, and the one that woke it still needs
    it to write its reply: waking after the reply spares both a change of thread.

    Yields:
        The deferred wakes; to be given to `wake_deferred` after each reply, and before anything
        that takes long. Those that are left at the end are called then.
    """
    deferred = DeferredWakes()
    _deferred.wakes = deferred
    try:
        yield deferred
    finally:
        _deferred.wakes = None
        wake_deferred(deferred)


def wake_deferred(deferred: DeferredWakes) -> None:
    """Call the wakes that `deferred_wakes` kept, each once, in the order they were asked for."""
    if len(deferred) == 1:  # as after nearly every send
        _call(deferred.popitem()[1])
        return
    many, herd, deferred.herd = len(deferred), deferred.herd, False
    others = iter(tuple(deferred.values()))
    try:
        deferred.clear()
        for called, wake in enumerate(others, 1):
            _call(wake)
            # All of them would want the interpreter at once, and whoever else wants it would wait
            # for them all. The sender has its reply by now, so it is the one that can wait.
            if herd and called % _HERD == 0 and called < many:
                _give_turn()
    except BaseException:
        wake_all(others)
        raise


class Waiter:
    """What one thread waits on; any other thread may wake it.

    A wake before the wait is kept, and many wakes before one wait count as one.
    """

    __slots__ = ("_hints",)

    def __init__(self) -> None:
        # SimpleQueue waits in C and its put never blocks: no Condition, no spurious wake-up.
        self._hints: SimpleQueue[None] = SimpleQueue()

    def wake(self) -> None:
        """Wake the waiting thread, or let its next wait return at once."""
        # A hint that is still there will be taken after this moment, so it stands for this one too;
        # without the check a waiter that is long away would collect hints without bound.
        if self._hints.empty():
            self._hints.put(None)

    def clear(self) -> None:
        """Drop the wakes that came before; only for the thread that waits."""
        # Asked first, because an exception costs more than all the rest of a wait.
        while not self._hints.empty():
            with suppress(Empty):
                self._hints.get_nowait()

    def wait(self, deadline: Deadline) -> bool:
        """Block until woken or until the deadline passes.

        Returns:
            Whether it was woken.
        """
        if checking.on:
            may_block("waiting")
        # Python runs a signal's handler in the main thread, between two steps of Python. A
        # signal that comes after the last step and before the wait would be held up until the
        # wait is over, so the main thread looks up now and then.
        slices = threading.get_ident() == threading.main_thread().ident
        while True:
            step = deadline.sooner(_SIGNAL_SECONDS) if slices else deadline
            try:
                self._hints.get(timeout=step.remaining())
            except Empty:
                if deadline.passed:
                    return False
            else:
                self.clear()
                return True


class Wakeable(Protocol):
    """What can be woken."""

    @property
    def wake(self) -> Wake:
        """Wakes it."""
