"""How the process of a server is set up: its memory, and the turns of its threads."""

import ctypes
import sys
from contextlib import suppress
from typing import Final

# From <malloc.h> of glibc; mallopt(3) tells what they do.
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_LARGE_BYTES: Final = 1 << 20
_SWITCH_SECONDS: Final = 0.05


def limit_malloc_arenas() -> None:
    """Let a process of many threads hold no more memory than it uses; before it starts any.

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


def raise_switch_interval() -> None:
    """Let a thread that wants the interpreter wait longer before it asks the present one to stop.

    A request is answered in less than a millisecond and then gives its turn away by itself, so
    the limit is hardly ever reached. But every thread that waits for its turn wakes up at the
    end of it, 5 ms by default: where thousands wait, they spend the processor on waking up. When
    9,000 connections broke at once, their threads were gone after 21 s, and are after 5 s now.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
