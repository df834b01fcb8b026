"""Which processors a thread may run on: one for all that run Python, the others for the rest.

Only one thread at a time runs Python. Where the threads of a busy server are spread over
several processors, each turn is passed on by waking another processor, and that costs more than
the turn itself: kept on one, a server with 64 busy connections was measured to answer twice as
many requests. So a server may keep its threads on one processor; work that leaves the
interpreter for long, a password's hash, goes to the others for its time.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Process:
    """What the process may use, in one place that every thread can read."""

    others: frozenset[int] | None = None  # than the one; None: its threads are not kept on one


@contextmanager
def on_one(index: int | None = None) -> Iterator[int | None]:
    """Keep this thread on one processor while the block runs, and all threads it starts in it.

    Processes that do so on the same machine are spread over its processors by their numbers.

    Args:
        index: the number of this process among several that are started together, which are spread
            over all processors, the first of them coming last; None for one that is alone.

    Yields:
        The processor, or None where there is nothing to gain (only one is allowed, or threads
        run Python at once) or the system cannot do it.
    """
    allowed = _worth_choosing_from()
    # Not the first: interrupts are mostly handled there.
    first, *others = sorted(allowed) or [0]
    if index is not None and others:
        others.append(first)
    number = os.getpid() if index is None else index
    chosen = others[number % len(others)] if others else None
    if chosen is None or not _move({chosen}):
        yield None
        return
    _Process.others = frozenset(allowed - {chosen})
    try:
        yield chosen
    finally:
        _Process.others = None
        _move(allowed)


@contextmanager
def on_others() -> Iterator[None]:
    """Let this thread run on the processors that run no Python, while the block runs."""
    others = _Process.others
    if others is None:
        yield
        return
    kept = os.sched_getaffinity(0)
    _move(others)
    try:
        yield
    finally:
        _move(kept)


def _worth_choosing_from() -> set[int]:
    # Python without its lock has no turn to pass on (PEP 703).
    has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    return os.sched_getaffinity(0) if has_lock and hasattr(os, "sched_setaffinity") else set()


def _move(processors: set[int] | frozenset[int]) -> bool:
    try:
        os.sched_setaffinity(0, processors)
    except OSError:  # forbidden, as in some containers
        return False
    return True
