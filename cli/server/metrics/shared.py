"""What a blocking look has found, for all who ask at that time.

Whoever asks for a page must not be able to make the server look at its store as often as they like.
So a look is made at most once in so many seconds, in a thread of its own, and whoever comes
meanwhile gets what that one finds.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

Found = TypeVar("Found")


class SharedLook(Generic[Found]):
    """Makes one look at a time; used in the event loop's thread."""

    def __init__(self, name: str, look: Callable[[], Found], seconds: float) -> None:
        """Look at nothing yet.

        Args:
            name: of the thread.
            look: what may block; it is called in that thread.
            seconds: how long what it has found is good enough.
        """
        self._name = name
        self._look = look
        self._seconds = seconds
        self._found: asyncio.Future[Found] | None = None
        self._until = 0.0  # when a look that is made is too old

    async def get(self, patience: float) -> Found:
        """Return what a look finds that was made just now.

        Args:
            patience: how many seconds to wait for it.

        Raises:
            TimeoutError: it is still under way.
            Exception: what the look has raised.
        """
        found = self._found
        if found is None or (found.done() and time.monotonic() >= self._until):
            found = self._found = self._begin()
        # Its own end is nobody's who waits.
        return await asyncio.wait_for(asyncio.shield(found), patience)

    def _begin(self) -> "asyncio.Future[Found]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Found] = loop.create_future()
        # It may be that nobody waits any more for what is raised.
        future.add_done_callback(lambda done: done.exception())

        def finish(found: Found | None, error: Exception | None) -> None:
            self._until = time.monotonic() + self._seconds
            if error is None:
                future.set_result(found)  # type: ignore[arg-type] # one of the two is there
            else:
                future.set_exception(error)

        def run() -> None:
            found, error = None, None
            try:
                found = self._look()
            except Exception as raised:  # noqa: BLE001 - it is raised by `get`
                error = raised
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(finish, found, error)

        try:
            threading.Thread(target=run, name=self._name, daemon=True).start()
        except RuntimeError as error:  # the system has none to give
            finish(None, error)
        return future
