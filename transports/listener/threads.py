"""Threads that are started without waiting for them.

`threading.Thread.start` waits until the new thread says that it runs. Where memory is so short that
the thread ends before it can, that is for ever (CPython's gh-140746), and an accept loop must not
hang. So a thread is started here by the call beneath that one, and whoever started it can ask
whether it has ended.
"""

import _thread
import sys
import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

Argument = TypeVar("Argument")


class _Life:
    """What only the thread holds, and so is gone with it, whether it came to run or not."""

    __slots__ = ("__weakref__",)


def start_thread(
    name: str, run: Callable[[Argument], None], argument: Argument
) -> Callable[[], object | None]:
    """Start a daemon thread, and return at once; it may end before it has called `run`.

    Returns:
        What returns None once the thread has ended.

    Raises:
        RuntimeError, MemoryError: the system has no thread to give.
    """
    life = _Life()
    ended = weakref.ref(life)
    _thread.start_new_thread(_run, (life, name, run, argument))
    return ended


def _run(_: _Life, name: str, run: Callable[[Argument], None], argument: Argument) -> None:
    # What else `Thread` does for a thread: traces for debuggers, a name for logs, the hook for what
    # nobody catches.
    if (trace := threading.gettrace()) is not None:
        sys.settrace(trace)
    if (profile := threading.getprofile()) is not None:
        sys.setprofile(profile)
    this = threading.current_thread()
    this.name = name
    try:
        run(argument)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the hook decides
        threading.excepthook(
            threading.ExceptHookArgs((type(error), error, error.__traceback__, this))
        )
    finally:
        if sys.version_info < (3, 13):
            # Else `threading.enumerate` has it until its number is used again.
            threading._active.pop(threading.get_ident(), None)  # type: ignore[attr-defined]  # noqa: SLF001
