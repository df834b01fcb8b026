"""The one thread that writes a SQLite store: it commits all that waits as one transaction.

The queue before it and how its threads are told is `twinline.stores.sql.writes`.

1. No call returns before its commit has.
2. A write that raises is refused alone. It looks before it writes; should it raise after it has
   written something, that is a bug, and the transaction is begun again without it.
3. When SQLite itself fails, in a write or in the commit, every call in that transaction raises
   `StoreUnavailable`, and nothing is written until the connection was closed, opened and tried.
   The trial is a commit too. If it was only the sync that failed, the lost transaction may be
   in the log's file from beginning to end; the trial's commit overwrites it, so that not even a
   crash brings back what was refused.
4. While the trial fails, writes are refused at once, and it is tried again soon.
5. A write that needs a damaged page is refused alone. What fails may be a statement for all writes
   of a transaction, so half of them are tried by themselves, and halves of that.
"""

import logging
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

from twinline.core.deadline import Deadline
from twinline.core.errors import StoreUnavailable
from twinline.core.waiting import Wake, wake_all
from twinline.stores.shared.complaints import Complaints
from twinline.stores.sql.writes import WAIT_SECONDS, Request, WriteQueue, follow
from twinline.stores.sqlite.file import BUSY_SECONDS
from twinline.stores.sqlite.lock import FileLock

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_IDLE_SECONDS: Final = 1.0  # with nothing to do for so long, the log goes into the database
_BATCH: Final = 1_000  # the most writes in a transaction: what waits behind it is not kept long
_LOOK_SECONDS: Final = 0.1  # how old a look at the file's name may be when a write is acknowledged
_RETRY_SECONDS: Final = (0.05, 0.1, 0.2, 0.4)  # and so on with the last
_FENCE: Final = "UPDATE store SET fence = fence + 1"
# What SQLite raises because of a statement, not because of the file.
_BUGS: Final = (
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.NotSupportedError,
)


@dataclass(slots=True)
class Transaction:
    """What a write writes to.

    Attributes:
        connection: with a transaction open.
        writes: all that are made in it.
        committed: what is called, in order, once it is committed.
        wakes: whom the present write wakes; to be filled by what it leaves in ``committed``.
        finishing: what still has to be written when all writes of it were made.
    """

    connection: sqlite3.Connection
    writes: list[Callable[["Transaction"], object]]
    committed: list[Callable[[], object]] = field(default_factory=list)
    wakes: list[Wake] = field(default_factory=list)
    finishing: list[Callable[[sqlite3.Connection], object]] = field(default_factory=list)


Write = Callable[[Transaction], Result]
"""Reads, decides and then writes; raises what its caller shall get. To refuse although it has
written something that is to stay, it returns the error instead of raising it."""
_WriteRequest = Request[Callable[[Transaction], object]]


class _PageDamaged(Exception):
    """A write needs a page of the file that is damaged."""


class Writer(WriteQueue[Callable[[Transaction], object]]):
    """Takes writes from any thread and makes them in its own.

    Attributes:
        on_rollback: called in the writer's thread when writes were rolled back, so that caches
            can drop what these did.
        on_reopen: called in the writer's thread when the file can be written again; writes that
            were posted may be lost.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], lock: FileLock) -> None:
        """Open the connection; `start` begins.

        Args:
            connect: opens the writing connection.
            lock: tells whether what is written is still where the next server looks for it.

        Raises:
            sqlite3.Error: the file cannot be written.
        """
        self.on_rollback: list[Callable[[], object]] = []
        self.on_reopen: list[Callable[[], object]] = []
        self._connect = connect
        self._file = lock
        self._connection: sqlite3.Connection | None = connect()
        self._damage = Complaints(log)
        self._log_is_empty = False  # the writer's thread's
        super().__init__("sqlite writer")

    def do(
        self,
        write: Write[Result],
        seconds: float = WAIT_SECONDS,
        wake: Callable[[Iterable[Wake]], None] = wake_all,
    ) -> Result:
        """Make a write; when this returns, it is committed.

        Args:
            write: what to do, in the writer's thread.
            seconds: how long to wait.
            wake: calls the wakes that the write leaves, in this thread.

        Raises:
            StoreUnavailable: it was not committed; or the time is up, and then a write that
                was begun may be committed all the same.
            RuntimeError: called in the writer's own thread, by a wake: it would wait for itself.
            Exception: what the write raises or returns.
        """
        result: Result = self.wait_for(write, seconds, wake)
        return result

    # --- in the writer's thread

    def _run(self) -> None:
        while True:
            batch, closed = self._take(_BATCH)
            if batch:
                self._make(batch)
            elif closed:
                break
            elif not self._work.wait(Deadline.after(None if self._log_is_empty else _IDLE_SECONDS)):
                self._empty_log()
        self._empty_log()
        self._disconnect()

    def _make(self, batch: list[_WriteRequest]) -> None:
        try:
            self._file.require(_LOOK_SECONDS)
            transaction = self._commit(batch)
            self._file.require(_LOOK_SECONDS)
        except _PageDamaged as damaged:
            half = len(batch) // 2
            if half:
                self._make(batch[:half])
                self._make(batch[half:])
            else:
                self._damage.error("a write that needs a damaged page is refused: %s", damaged)
                batch[0].outcome.put(StoreUnavailable())
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, this thread must go on
            self._recover(batch, error)
            return
        self._log_is_empty = False
        for call in transaction.committed:
            follow(call)
        self._finish(batch)
        self._mark_log()

    def _mark_log(self) -> None:
        """Have the row of the store in the log, wherever that begins: it says whose log it is."""
        if self._file.log_began_anew() and self._connection is not None:
            with suppress(sqlite3.Error):  # if it is more than a moment, the next write finds out
                self._connection.execute(_FENCE)

    def _commit(self, batch: list[_WriteRequest]) -> Transaction:
        """Make the writes as one transaction, each request's outcome in its ``value``.

        Raises:
            _PageDamaged: one of them needs such a page; nothing is committed or left open.
            Exception: nothing is committed.
        """
        connection = self._connection
        if connection is None:  # pragma: no cover - writes are refused without one
            raise StoreUnavailable
        spoilt: set[_WriteRequest] = set()
        try:
            while (transaction := self._attempt(connection, batch, spoilt)) is None:
                self._undo(connection)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_CORRUPT:
                raise
            self._undo(connection)
            raise _PageDamaged(str(error)) from error
        connection.execute("COMMIT")
        return transaction

    def _attempt(
        self, connection: sqlite3.Connection, batch: list[_WriteRequest], spoilt: set[_WriteRequest]
    ) -> Transaction | None:
        """Make the writes that are not spoilt, in a transaction that is open when this returns.

        Returns:
            None when one more was found to be spoilt: it raised after it had written something.
        """
        transaction = Transaction(connection, [request.write for request in batch])
        connection.execute("BEGIN IMMEDIATE")
        for request in batch:
            if request in spoilt:
                continue
            before = connection.total_changes
            transaction.wakes = request.wakes
            try:
                request.value = request.write(transaction)
            except Exception as error:
                if isinstance(error, sqlite3.Error) and not isinstance(error, _BUGS):
                    raise
                request.value = error
                if connection.total_changes != before:
                    log.exception("a write raised after it had written something")
                    spoilt.add(request)
                    return None
        for finish in transaction.finishing:
            finish(connection)
        return transaction

    def _undo(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:  # SQLite ends it by itself after some errors
            connection.execute("ROLLBACK")
        self._roll_back()

    def _roll_back(self) -> None:
        for call in self.on_rollback:
            call()

    def _recover(self, batch: list[_WriteRequest], error: Exception) -> None:
        """Refuse writes until the file can be written again, or the store is closed."""
        with self._lock:
            self._refusing = True
        log.error("the store cannot be written, and refuses writes: %s", error)
        self._roll_back()
        attempt = 0
        while True:
            done = self._reopen()
            # Only now, for rule 3; and no later, for they wait.
            for request in batch:
                request.outcome.put(StoreUnavailable())
            with self._lock:
                # What came before writes were refused would be made now, or fails as well.
                batch = [] if done else self._waiting
                self._waiting = self._waiting if done else []
                self._refusing = not done
                closed = self._closed
            if done:
                log.warning("the store can be written again")
                for call in self.on_reopen:
                    call()
                return
            for request in batch:
                request.outcome.put(StoreUnavailable())
            batch = []
            if closed:
                return
            seconds = _RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)]
            attempt += 1
            self._work.wait(Deadline.after(seconds))

    def _reopen(self) -> bool:
        """Close the connection and open it anew; return whether a commit succeeds on it."""
        self._disconnect()
        try:
            self._connection = self._connect()
            self._connection.execute(_FENCE)
        except Exception:  # noqa: BLE001 - the caller logs that it failed
            self._disconnect()
            return False
        return True

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _empty_log(self) -> None:
        """Move the log into the database and cut it, unless a reader is in the way."""
        connection = self._connection
        if connection is None or self._log_is_empty:
            return
        # A reader of another process may hold it for long, and must not hold up a write.
        with suppress(sqlite3.Error):
            connection.execute("PRAGMA busy_timeout = 20")
            try:
                (blocked, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                self._log_is_empty = not blocked
            finally:
                connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")
