"""The client engine under asyncio: tasks instead of threads, all of one event loop."""

# ruff: noqa: D102 - `Backend`, `Worker` and `StateReport` have what their methods do

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from inspect import isawaitable
from typing import Any

from twinline.core.deadline import Deadline
from twinline.transports.client.backends.aio_connection import (
    StreamConnection,
    TaskWaiter,
    adopt,
    connect,
)
from twinline.transports.client.engine.backend import Backend, Run, Worker
from twinline.transports.client.engine.cancel import CancelToken
from twinline.transports.client.errors import ClientBusy, ClientError
from twinline.transports.client.options import OnState
from twinline.transports.client.state import State, StateReport
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint
from twinline.transports.resolver import Resolver
from twinline.transports.tls.layer import TlsLayer


class _Call:
    """A call of one of the user's callbacks, and the part of the client that makes it."""

    __slots__ = ("owner", "running")

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.running = True


# The calls that a task is within; a task that a callback starts inherits them, so that one that
# it awaits (`asyncio.gather`, `asyncio.wait_for` before Python 3.12) counts as the callback.
_calls: ContextVar[tuple[_Call, ...]] = ContextVar("twinline callbacks", default=())


@contextmanager
def calling(owner: object) -> Iterator[None]:
    """Have `is_within` be true, here and in tasks that are started here, while the body runs."""
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


class TaskWorker(Worker):
    """A task."""

    def __init__(self, run: Run, name: str) -> None:
        self._run = run
        self._name = name
        self._task: asyncio.Task[None] | None = None  # None: it has not begun yet

    @property
    def is_here(self) -> bool:
        return is_within(self) or (self._task is not None and asyncio.current_task() is self._task)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=self._name, context=outside_callbacks())
        self._task.add_done_callback(_show_failure)

    async def call(self, callback: Callable[..., object], *arguments: object) -> None:
        with calling(self):
            try:
                returned = callback(*arguments)
                if isawaitable(returned):
                    await returned
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise  # this task is cancelled, and not something that the callback awaited
                raise ClientError("what it awaited was cancelled") from error

    async def join(self, seconds: float | None) -> None:
        if self._task is not None and not self._task.done():
            await asyncio.wait({self._task}, timeout=seconds)

    async def abandon(self, seconds: float) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await self.join(seconds)


class TaskStateReport(StateReport):
    """Reports each state at once; where the callback is a coroutine function, in a task."""

    def __init__(self, on_state: OnState | None) -> None:
        super().__init__(on_state)
        self._task: asyncio.Task[None] | None = None  # awaits what the callback has returned

    @property
    def is_here(self) -> bool:
        return is_within(self)

    def deliver(self) -> None:
        """Report what is queued, unless the callback is running: then its task goes on."""
        while True:
            lasts = threading.Lock()
            lasts.acquire()
            state = self._begin(lasts)
            if state is None:
                return
            returned: object = None
            try:
                with calling(self):
                    returned = self._on_state(state)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next state is reported
                self._complain(state, error)
            finally:
                if not isawaitable(returned):
                    lasts.release()
            if isawaitable(returned):
                reporting = self._await(state, returned, lasts)
                task = asyncio.create_task(reporting, context=outside_callbacks())
                if not task.done():  # as it is at once where tasks are begun eagerly
                    self._task = task
                return

    async def settle(self, seconds: float) -> None:
        """Wait until all is reported; what takes longer than so many seconds is cancelled."""
        while (task := self._task) is not None and not self.is_here:
            done, _ = await asyncio.wait({task}, timeout=seconds)
            if not done:
                task.cancel()
                done, _ = await asyncio.wait({task}, timeout=seconds)
            if not done:
                return

    async def _await(self, state: State, returned: Awaitable[Any], lasts: threading.Lock) -> None:
        try:
            with calling(self):
                await returned
        except Exception as error:  # noqa: BLE001 - whatever it is, the next state is reported
            self._complain(state, error)
        finally:
            self._task = None
            lasts.release()
            self.deliver()


class AsyncioBackend(Backend):
    """One event loop may use the client: the one from which it is used first."""

    def __init__(self, resolver: Resolver | None = None) -> None:
        super().__init__(resolver)
        self._loop: asyncio.AbstractEventLoop | None = None  # None: not used yet
        self._open: set[StreamConnection] = set()  # whose sockets are

    def check(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ClientBusy("this client belongs to another event loop")

    def waiter(self) -> TaskWaiter:
        return TaskWaiter()

    def worker(self, run: Run, name: str) -> TaskWorker:
        return TaskWorker(run, name)

    def report(self, on_state: OnState | None) -> TaskStateReport:
        return TaskStateReport(on_state)

    async def connect(
        self,
        endpoint: Endpoint,
        transport: Transport,
        layer: TlsLayer | None,
        deadline: Deadline,
        cancel: CancelToken,
    ) -> StreamConnection:
        connected = await connect(endpoint, deadline, self.resolver, cancel)
        connection = await adopt(connected, transport, layer)
        self._open.add(connection)
        connection.lost.add_done_callback(lambda _: self._open.discard(connection))
        return connection

    async def settle(self, seconds: float) -> None:
        closing = [connection.lost for connection in self._open if connection.closed]
        if closing:
            await asyncio.wait(closing, timeout=seconds)


def _show_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        message = f"{task.get_name()} has failed"
        context = {"message": message, "exception": error, "task": task}
        task.get_loop().call_exception_handler(context)
