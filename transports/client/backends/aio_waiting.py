"""How a task waits to be woken, and how one tells whether it is within a callback."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context

from twinline.core.deadline import Deadline


class TaskWaiter:
    """A task's place to wait; others of the same event loop may wake it."""

    __slots__ = ("_future", "_woken")

    def __init__(self) -> None:
        self._woken = False
        self._future: asyncio.Future[None] | None = None  # while the task waits

    def wake(self) -> None:
        """Wake the waiting task, or let its next wait return at once."""
        self._woken = True
        if self._future is not None:
            _finish(self._future)

    async def wait(self, deadline: Deadline) -> bool:
        """Wait until woken or until the deadline passes, and return whether it was woken.

        Where there is no time left the event loop gets its turn all the same, so that a caller
        that looks again and again does not keep everybody else from running.
        """
        if not self._woken:
            loop = asyncio.get_running_loop()
            self._future = future = loop.create_future()
            seconds = deadline.remaining()
            timer = None if seconds is None else loop.call_later(seconds, _finish, future)
            try:
                await future
            finally:
                self._future = None
                if timer is not None:
                    timer.cancel()
        woken, self._woken = self._woken, False
        return woken


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class _Call:
    """A callback of the user's that is being called, and on whose behalf."""

    __slots__ = ("owner", "running")

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.running = True


# The calls that a task is within; a task that a callback starts inherits them, so that one that
# it awaits (`asyncio.gather`, `asyncio.wait_for` before Python 3.12) counts as the callback.
_calls: ContextVar[tuple[_Call, ...]] = ContextVar("twinline callbacks", default=())


@contextmanager
def calling(owner: object) -> Iterator[None]:
    """Have `is_within` tell, here and in tasks that are started here, that this is a callback."""
    call = _Call(owner)
    token = _calls.set((*_calls.get(), call))
    try:
        yield
    finally:
        call.running = False  # also for tasks that go on when the callback has returned
        _calls.reset(token)


def is_within(owner: object) -> bool:
    """Return whether the caller is within a callback of this owner that has not returned."""
    return any(call.owner is owner and call.running for call in _calls.get())


def outside_callbacks() -> Context:
    """Return a copy of the context in which no callback is being called, for a new task."""
    context = copy_context()
    context.run(_calls.set, ())
    return context
