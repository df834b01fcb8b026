"""The client engine under asyncio: tasks instead of threads, all of one event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any

from twinline.core.deadline import Deadline
from twinline.transports.client.backends.aio_connection import AsyncLine
from twinline.transports.client.backends.aio_waiting import (
    TaskWaiter,
    calling,
    is_within,
    outside_callbacks,
)
from twinline.transports.client.engine.backend import Backend, Run, Worker
from twinline.transports.client.engine.cancel import CancelToken
from twinline.transports.client.errors import ClientBusy, ClientError
from twinline.transports.client.state import State, StateReport
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint


class TaskWorker(Worker):
    """A task."""

    def __init__(self, run: Run, name: str) -> None:
        self._run = run
        self._name = name
        self._task: asyncio.Task[None] | None = None  # None: it has not begun yet

    @property
    def is_here(self) -> bool:
        """Whether the caller is the task, or within a callback that it calls."""
        return is_within(self) or (self._task is not None and asyncio.current_task() is self._task)

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.create_task(self._run(), name=self._name, context=outside_callbacks())
        self._task.add_done_callback(_show_failure)

    async def call(self, callback: Callable[..., object], *arguments: object) -> None:
        """Call what the user gave, and await what it returns if that can be awaited.

        Raises:
            ClientError: it has raised a cancellation that nobody has asked this task for.
        """
        with calling(self):
            try:
                returned = callback(*arguments)
                if isawaitable(returned):
                    await returned
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                raise ClientError("what it awaited was cancelled") from error

    async def join(self, seconds: float | None) -> None:
        """Wait until it has ended, or the time is up."""
        if self._task is not None and not self._task.done():
            await asyncio.wait({self._task}, timeout=seconds)

    async def abandon(self, seconds: float) -> None:
        """Cancel it, and wait until it has ended, or the time is up."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await self.join(seconds)


class TaskStateReport(StateReport):
    """Tells each state at once; where the callback is a coroutine function, in a task."""

    def __init__(self, on_state: Callable[[State], object] | None) -> None:
        super().__init__(on_state)
        self._task: asyncio.Task[None] | None = None  # awaits what the callback has returned

    @property
    def is_here(self) -> bool:
        """Whether the caller is within the callback."""
        return is_within(self)

    def deliver(self) -> None:
        """Tell what is queued, unless the callback is at it: then its task goes on."""
        while (state := self._begin()) is not None:
            returned: object = None
            try:
                with calling(self):
                    returned = self._on_state(state)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next state is told
                self._complain(state, error)
            finally:
                if not isawaitable(returned):
                    self._end()
            if isawaitable(returned):
                telling = self._await(state, returned)
                task = asyncio.create_task(telling, context=outside_callbacks())
                if not task.done():  # as it is at once where tasks are begun eagerly
                    self._task = task
                return

    async def settle(self, seconds: float) -> None:
        """Wait until all is told; what takes longer than so many seconds is cancelled."""
        while (task := self._task) is not None and not self.is_here:
            done, _ = await asyncio.wait({task}, timeout=seconds)
            if not done:
                task.cancel()
                done, _ = await asyncio.wait({task}, timeout=seconds)
            if not done:
                return

    async def _await(self, state: State, returned: Awaitable[Any]) -> None:
        try:
            with calling(self):
                await returned
        except Exception as error:  # noqa: BLE001 - whatever it is, the next state is told
            self._complain(state, error)
        finally:
            self._task = None
            self._end()
            self.deliver()


class AsyncioBackend(Backend):
    """One event loop may use the client: the one from which it is used first."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None  # None: not used yet
        self._lines: set[AsyncLine] = set()  # whose sockets are open

    def check(self) -> None:
        """See to it that the caller is of the client's event loop.

        Raises:
            ClientBusy: it is of another.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ClientBusy("this client belongs to another event loop")

    def waiter(self) -> TaskWaiter:
        """Return a new place to wait."""
        return TaskWaiter()

    def worker(self, run: Run, name: str) -> TaskWorker:
        """Return a task that will run this."""
        return TaskWorker(run, name)

    def report(self, on_state: Callable[[State], object] | None) -> TaskStateReport:
        """Return what tells the states."""
        return TaskStateReport(on_state)

    async def connect(
        self, endpoint: Endpoint, transport: Transport, deadline: Deadline, interrupt: CancelToken
    ) -> AsyncLine:
        """Return a new line."""
        line = await AsyncLine.connect(endpoint, transport, deadline, interrupt)
        self._lines.add(line)
        line.lost.add_done_callback(lambda _: self._lines.discard(line))
        return line

    async def settle(self, seconds: float) -> None:
        """Wait until every socket of a closed line is closed."""
        closing = [line.lost for line in self._lines if line.closed]
        if closing:
            await asyncio.wait(closing, timeout=seconds)


def _show_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        message = f"{task.get_name()} has failed"
        context = {"message": message, "exception": error, "task": task}
        task.get_loop().call_exception_handler(context)
