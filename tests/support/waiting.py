"""Waits for tests: each has a deadline, and shows every thread's stack when it passes."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from time_limit import stacks


def fail_with_stacks(what: str, seconds: float) -> None:
    """Fail the test and show where every thread stands."""
    pytest.fail(f"not within {seconds} s: {what}\n{stacks()}")


def wait_until(predicate: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Return once the predicate is true, for states that nothing announces."""
    deadline = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() > deadline:
            fail_with_stacks(what, seconds)
        time.sleep(0.002)


def halt(pid: int) -> None:
    """Stop a process where it stands, by SIGSTOP.

    Its threads stop one by one, so on a busy machine one may answer a request meanwhile.
    """
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: set(_states(pid)) <= set("TtZX"), f"process {pid} to have stopped")


def _states(pid: int) -> list[str]:
    states = []
    for each in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            states.append(each.read_text().rpartition(")")[2].split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return states


def wait_event(event: threading.Event, what: str, seconds: float = 30.0) -> None:
    """Return once the event is set."""
    if not event.wait(seconds):
        fail_with_stacks(what, seconds)


def join(thread: threading.Thread, seconds: float = 20.0) -> None:
    """Join a thread."""
    thread.join(seconds)
    if thread.is_alive():
        fail_with_stacks(f"{thread.name} has not ended", seconds)


class Watching:
    """A watch as those that wake it know it."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake


class Call:
    """A call in a thread of its own, and its outcome."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.result: object = None
        self.error: Exception | None = None
        self._function = function
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._function()
        except Exception as error:
            self.error = error

    def outcome(self, seconds: float = 20.0) -> object:
        """Return the result, or raise what the call raised."""
        join(self._thread, seconds)
        if self.error is not None:
            raise self.error
        return self.result
