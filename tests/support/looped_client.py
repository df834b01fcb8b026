"""An `AsyncClient` that is called as a `Client` is, so that one test can be run over both.

The client lives in an event loop in a thread of its own. Each call from a test's thread is handed
to the loop, and waited for. A test's ``on_message`` is a plain function that may call the client;
it runs in a thread, as `asyncio.to_thread` has it.
"""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Self, TypeVar

from waiting import join, wait_until

from twinline.core.protocol import Entry, Message
from twinline.transports.client import AsyncClient
from twinline.transports.client.engine.watcher import THREAD_NAME

T = TypeVar("T")


class LoopThread:
    """An event loop in debug mode, in a thread of its own; it may not end with tasks in it.

    Attributes:
        ident: of the thread.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_debug(True)
        # On a loaded machine a debugged loop is slow now and then; test_async_client has the test
        # that the loop is not held up.
        self.loop.slow_callback_duration = 10
        self._thread = threading.Thread(target=self.loop.run_forever, name="test loop")
        self._thread.start()
        self.ident = self._thread.ident

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, and return or raise what it does."""
        assert threading.current_thread() is not self._thread
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def tasks(self, name: str | None = None) -> list[asyncio.Task[Any]]:
        """Return the tasks that have not ended."""
        tasks = asyncio.all_tasks(self.loop)
        return [task for task in tasks if name in (None, task.get_name())]

    def close(self) -> None:
        try:
            wait_until(lambda: not self.tasks(), f"no tasks, but {self.tasks()}")
        finally:
            asyncio.run_coroutine_threadsafe(
                self.loop.shutdown_default_executor(), self.loop
            ).result()
            self.loop.call_soon_threadsafe(self.loop.stop)
            join(self._thread)
            self.loop.close()


class LoopedClient:
    """An `AsyncClient` with the methods of a `Client`.

    Attributes:
        thread: whose loop the next clients live in; the fixture ``both_clients`` sets it.
    """

    thread: LoopThread

    def __init__(
        self,
        endpoint: object,
        *,
        on_message: Callable[[Message], None] | None = None,
        **options: Any,
    ) -> None:
        if on_message is not None:

            async def in_thread(message: Message) -> None:
                await asyncio.to_thread(on_message, message)

            options["on_message"] = in_thread
        self._thread = LoopedClient.thread
        self._client = AsyncClient(endpoint, **options)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return lambda *arguments, **options: self._thread.call(found(*arguments, **options))

    def __repr__(self) -> str:
        return repr(self._client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def messages(self, timeout: float | None = None, *, ack: bool = True) -> Iterator[Message]:
        return self._each(self._client.messages(timeout, ack=ack))

    def entries(self, timeout: float | None = None, *, ack: bool = True) -> Iterator[Entry]:
        return self._each(self._client.entries(timeout, ack=ack))

    def retry_now(self) -> None:
        async def within_the_loop() -> None:
            self._client.retry_now()

        self._thread.call(within_the_loop())

    def accounts(self, pattern: str = "*") -> Iterator[str]:
        return self._each(self._client.accounts(pattern))

    def _each(self, source: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> T | None:
            return await anext(source, None)

        try:
            while (item := self._thread.call(following())) is not None:
                yield item
        finally:
            self._thread.call(source.aclose())


def watcher_tasks() -> list[asyncio.Task[Any]]:
    """Return the tasks of watchers that have not ended."""
    thread = getattr(LoopedClient, "thread", None)
    return [] if thread is None else thread.tasks(THREAD_NAME)
