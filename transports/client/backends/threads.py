"""The client engine on threads: its coroutines run to their end in the thread that calls."""

import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twinline.core.deadline import Deadline
from twinline.core.waiting import Waiter
from twinline.transports.client.backends.threads_connection import SocketLine
from twinline.transports.client.engine.backend import Backend, Run, Worker
from twinline.transports.client.engine.cancel import CancelToken
from twinline.transports.client.state import State, StateReport
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint

_T = TypeVar("_T")


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that blocks where another would suspend, and return its result.

    Raises:
        RuntimeError: it did suspend, so it awaited what is not of a `ThreadBackend`: a bug.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    coroutine.close()
    raise RuntimeError("the coroutine has suspended, and no event loop is here to go on with it")


class ThreadWaiter:
    """A thread's place to wait."""

    __slots__ = ("_waiter", "wake")

    def __init__(self) -> None:
        self._waiter = Waiter()
        self.wake = self._waiter.wake

    async def wait(self, deadline: Deadline) -> bool:
        """Block until woken or until the deadline passes, and return whether it was woken."""
        return self._waiter.wait(deadline)


class ThreadWorker(Worker):
    """A daemon thread."""

    def __init__(self, run_: Run, name: str) -> None:
        self._thread = threading.Thread(target=lambda: run(run_()), name=name, daemon=True)

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is this one."""
        return self._thread is threading.current_thread()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def call(self, callback: Callable[..., object], *arguments: object) -> None:
        """Call what the user gave."""
        callback(*arguments)

    async def join(self, seconds: float | None) -> None:
        """Wait until it has ended, or the time is up."""
        if self._thread.ident is not None:  # None: it has not begun yet
            self._thread.join(seconds)

    async def abandon(self, seconds: float) -> None:
        """Do nothing: a thread cannot be ended by force."""


class ThreadBackend(Backend):
    """Any thread may use the client."""

    def check(self) -> None:
        """Allow it."""

    def waiter(self) -> ThreadWaiter:
        """Return a new place to wait."""
        return ThreadWaiter()

    def worker(self, run: Run, name: str) -> ThreadWorker:
        """Return a thread that will run this."""
        return ThreadWorker(run, name)

    def report(self, on_state: Callable[[State], object] | None) -> StateReport:
        """Return what tells the states."""
        return StateReport(on_state)

    async def connect(
        self, endpoint: Endpoint, transport: Transport, deadline: Deadline, interrupt: CancelToken
    ) -> SocketLine:
        """Return a new line."""
        return SocketLine.connect(endpoint, transport, deadline, interrupt.waking)

    async def settle(self, seconds: float) -> None:
        """Do nothing: closing a socket closes it."""
