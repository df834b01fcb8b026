"""Locks that can check the lock rule.

The rule, for every lock over shared state:

1. no thread ever holds two of them;
2. no thread does anything that can block while it holds one: a socket, the disk, a sleep, a
   hash, a log line, a callback, waiting;
3. a lock is only ever taken by ``with``.

Under the rule no deadlock through these locks is possible, for a thread that holds one waits
for nothing (Coffman et al. 1971: "hold and wait" never holds).

`new_lock` returns a plain lock, which costs nothing extra, or, after `check_locks(True)`, one
that raises `LockRuleError` at the very call that breaks the rule. Code that is about to block
says so with `may_block`; in checking mode an audit hook adds what the interpreter itself can
announce (files, sockets, name look-ups, processes), a log record factory adds logging, and
`time.sleep`, which Python announces only since 3.13, is wrapped.
"""

import _thread
import logging
import sys
import threading
import time
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self, SupportsIndex

from twinline.core.errors import LockRuleError


class Lock(Protocol):
    """What a lock can do here: be entered and left."""

    def __enter__(self) -> object: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> object: ...


class _Held(threading.local):
    lock: "CheckedLock | None" = None  # that this thread took last


class checking:  # noqa: N801 - a namespace, and never called
    """Whether the rule is checked: a flag that every caller can read cheaply.

    Attributes:
        on: whether it is. A hot path asks before it calls `may_block`, to spare the call.
        hooked: whether the hooks of `check_locks` are installed.
    """

    on = False
    hooked = False


_held = _Held()
_BLOCKING_EVENTS = ("open", "socket.", "subprocess.", "sqlite3.", "os.", "shutil.")


class CheckedLock(_thread.RLock):  # type: ignore[misc] # final in name only
    """A lock that raises at once when the thread that takes it breaks the lock rule.

    It is left as a plain one is, in C (see `twinline.core.interrupts`); so which thread holds it is
    not written down on leaving it, but asked of the lock.
    """

    def __new__(cls, _name: str) -> Self:
        """Make a lock without its name, which C's has no use for."""
        return super().__new__(cls)

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> bool:  # type: ignore[override] # no arguments
        holding = _holding()
        if holding is not None:
            message = f"this thread holds the {holding} lock and takes the {self._name} lock"
            raise LockRuleError(message)
        _held.lock = self
        try:
            return super().__enter__()
        except BaseException:  # a signal's handler raised, before it was taken or after
            if self.is_held():
                super().release()
            raise

    def is_held(self) -> bool:
        """Return whether this thread holds it."""
        held: bool = self._is_owned()  # type: ignore[attr-defined] # as `threading.Condition` asks
        return held

    def acquire(self, *_args: object, **_options: object) -> NoReturn:
        """Refuse: a lock is only ever taken by ``with``.

        Raises:
            LockRuleError: always.
        """
        raise LockRuleError(f"the {self._name} lock is taken without 'with'")

    release = acquire


def _holding() -> str | None:
    """Return the name of the checked lock that this thread holds, if there is one."""
    lock = _held.lock
    return lock._name if lock is not None and lock.is_held() else None  # noqa: SLF001 - its own


def new_lock(name: str) -> Lock:
    """Return a lock over some shared state.

    Args:
        name: what the lock guards, for the error's text.
    """
    return CheckedLock(name) if checking.on else threading.Lock()


def check_locks(on: bool) -> None:  # noqa: FBT001 - the call reads as a sentence
    """Let `new_lock` return checking locks from now on, or plain ones again.

    The first call installs its hooks for the life of the process; they do nothing while no
    checked lock is held.
    """
    if on and not checking.hooked:
        checking.hooked = True
        sys.addaudithook(_audit)
        logging.setLogRecordFactory(_CheckedRecord)
        time.sleep = _checked_sleep
    checking.on = on


def may_block(what: str) -> None:
    """Say that the next step may block, so that checking mode can see a lock held across it.

    Args:
        what: the step, for the error's text.

    Raises:
        LockRuleError: this thread holds a checked lock.
    """
    if checking.on and (holding := _holding()) is not None:
        raise LockRuleError(f"{what} with the {holding} lock held")


# Python does not trace audit hooks, so no coverage tool sees this one run.
def _audit(event: str, _args: tuple[Any, ...]) -> None:  # pragma: no cover
    if _held.lock is not None and event.startswith(_BLOCKING_EVENTS):
        may_block(event)


class _CheckedRecord(logging.LogRecord):
    def __init__(self, *args: Any, **options: Any) -> None:
        may_block("logging")
        super().__init__(*args, **options)


_sleep = time.sleep


def _checked_sleep(seconds: float | SupportsIndex, /) -> None:
    may_block("time.sleep")
    _sleep(seconds)
