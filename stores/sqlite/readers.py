"""A few read-only connections that many threads share, so that no reader waits for the writer.

In WAL mode a statement sees the last commit as of its beginning, and neither waits for the writer
nor holds it up. A connection is lent to one thread for one short read; there are fewer of them
than threads because each has a descriptor and a page cache of its own. The main thread has one to
itself: if a signal's handler raises in it, nobody waits for that one.
"""

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Final

from twinline.core.errors import StoreUnavailable
from twinline.core.interrupts import may_be_interrupted
from twinline.core.locks import may_block
from twinline.stores.shared.complaints import Complaints

log = logging.getLogger(__name__)

CONNECTIONS: Final = 8
"""How many reads run at once; the others wait for one of them to end."""
_WAIT_SECONDS: Final = 5.0


class Readers:
    """Connections that are made when they are first needed, and made again when they fail."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        """Open one connection, to see that the file can be read.

        Raises:
            sqlite3.Error: it cannot.
        """
        self._connect = connect
        self._complaints = Complaints(log)
        # None for a connection that is still to be made.
        self._free: SimpleQueue[sqlite3.Connection | None] = SimpleQueue()
        self._main: sqlite3.Connection | None = None  # the main thread's, while it is not in use
        self._closed = False
        # Of no use but to be open: SQLite's index of the log lives as long as one connection
        # does. Were the writer's the only one, to reopen after an error would rebuild it from
        # the log's file, in which a commit that failed may stand all the same.
        self._anchor = connect()
        self._anchor.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        for _ in range(CONNECTIONS):
            self._free.put(None)

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """Lend a connection to the calling thread.

        Raises:
            StoreUnavailable: the file cannot be read, or no connection was free in time.
        """
        may_block("reading the store")
        if may_be_interrupted():
            return self._reading_alone()
        return self._reading()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        connection = self._take()
        try:
            if connection is None:
                connection = self._connect()
            yield connection
        except sqlite3.Error as error:
            # What is wrong may be the connection: the next reader gets a new one.
            if connection is not None:
                connection.close()
                connection = None
            raise self._failed(error) from error
        finally:
            if self._closed and connection is not None:
                connection.close()  # no reader waits for it any more
                connection = None
            self._free.put(connection)

    @contextmanager
    def _reading_alone(self) -> Iterator[sqlite3.Connection]:
        # Two steps without a place where a handler could run, nor one that it calls read with it.
        connection, self._main = self._main, None
        whole = False
        try:
            if self._closed:
                raise StoreUnavailable
            if connection is None:
                connection = self._connect()
            yield connection
            whole = not self._closed
        except sqlite3.Error as error:
            raise self._failed(error) from error
        finally:
            # After an exception a statement may be open, which would keep its snapshot.
            if whole:
                self._main = connection
            elif connection is not None:
                connection.close()

    def _failed(self, error: sqlite3.Error) -> StoreUnavailable:
        self._complaints.error("the store cannot be read: %s", error)
        return StoreUnavailable()

    def close(self) -> None:
        """Close the connections, each when its read has ended; reads are refused from now on.

        One whose read does not end in time is left to it; so are all if an earlier call of this
        was interrupted.
        """
        first, self._closed = not self._closed, True
        connection, self._main = self._main, None
        if connection is not None:
            connection.close()
        for _ in range(CONNECTIONS if first else 0):
            with suppress(Empty):
                connection = self._free.get(timeout=_WAIT_SECONDS)
                if connection is not None:
                    connection.close()
        # A reader that waited for a connection gets one, and sees that it is too late.
        for _ in range(CONNECTIONS):
            self._free.put(None)
        self._anchor.close()

    def _take(self) -> sqlite3.Connection | None:
        try:
            connection = self._free.get(timeout=_WAIT_SECONDS)
        except Empty:
            raise StoreUnavailable from None
        if self._closed:
            self._free.put(connection)
            raise StoreUnavailable
        return connection
