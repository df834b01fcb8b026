"""What the tests of `AsyncClient` share: a loop that must end clean, and waits with deadlines."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from inspect import isawaitable
from typing import Any

from client_kit import FAST
from services import PASSWORD
from waiting import fail_with_stacks

from twinline.transports.client import AsyncClient
from twinline.transports.endpoints import Endpoint


def aio(main: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Run a test in an event loop in debug mode; no task and no transport may be left.

    A transport or a socket that was not closed warns when it is collected, and that is an error.
    """

    async def checked() -> None:
        await asyncio.wait_for(main(), 30)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left

    asyncio.run(checked(), debug=True)
    gc.collect()


async def until(predicate: Callable[[], object], what: str, seconds: float = 5.0) -> None:
    """Return once the predicate is true, or what it returns to be awaited."""
    deadline = time.monotonic() + seconds
    while not (await found if isawaitable(found := predicate()) else found):
        if time.monotonic() > deadline:
            fail_with_stacks(what, seconds)
        await asyncio.sleep(0.002)


@asynccontextmanager
async def user(
    endpoint: Endpoint | str, name: str = "ann", **options: Any
) -> AsyncIterator[AsyncClient]:
    """Return a client that has created an account; it is closed at the end, with all it has."""
    options.setdefault("settings", FAST)
    async with AsyncClient(endpoint, **options) as client:
        await client.create_account(name, PASSWORD)
        yield client
    assert not client._engine._backend._open


@asynccontextmanager
async def again(
    endpoint: Endpoint | str, name: str = "ann", **options: Any
) -> AsyncIterator[AsyncClient]:
    """Return a client that has logged in to an account; it is closed at the end."""
    options.setdefault("settings", FAST)
    async with AsyncClient(endpoint, **options) as client:
        await client.login(name, PASSWORD)
        yield client
    assert not client._engine._backend._open


async def take(client: AsyncClient, count: int) -> list[str]:
    """Return the bodies of so many messages, dealt with, and of any that follow at once."""
    bodies: list[str] = []
    async for message in client.messages(timeout=5):
        bodies.append(message.body)
        if len(bodies) == count:
            await client.ack(message.seq)
            break
    return bodies + [message.body async for message in client.messages(timeout=0.02)]
