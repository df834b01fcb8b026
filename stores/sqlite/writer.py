"""The one thread that writes a SQLite store: it commits all that waits as one transaction.

A commit costs one sync of the disk however much is in it. So writes are not made by the threads
that ask for them: each leaves its write here and waits, and the writer takes all that wait into
the next transaction, while the ones after them gather (group commit: DeWitt et al. 1984,
"Implementation techniques for main memory database systems", section 5).

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
6. Whom a write wakes is woken by the thread that asked for it, after its commit; by this one, which
   all that write wait for, only where no thread asked or the one that did waits no more.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from twinline.core.deadline import Deadline
from twinline.core.errors import StoreUnavailable
from twinline.core.interrupts import may_be_interrupted
from twinline.core.locks import may_block, new_lock
from twinline.core.waiting import Waiter, Wake, wake_all
from twinline.stores.shared.complaints import Complaints
from twinline.stores.sqlite.file import BUSY_SECONDS
from twinline.stores.sqlite.lock import FileLock

log = logging.getLogger(__name__)

Result = TypeVar("Result")

WAIT_SECONDS: Final = 30.0
"""How long a write may wait for its commit before its thread gives up."""
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


class _Request:
    """A write that waits, and the one whose thread is notified after it.

    The writer notifies the first thread of a transaction, and each thread the next one. Were all
    notified at once, all would want the interpreter at once, and most of them would be woken only
    to wait for it.
    """

    __slots__ = (
        "abandoned",
        "committed",
        "next",
        "notifies",
        "outcome",
        "value",
        "wakes",
        "write",
    )

    def __init__(self, write: Write[Any], *, notifies: bool) -> None:
        self.write = write
        self.wakes: list[Wake] = []
        # Whether its thread waits no more, and whether the writer is through with it. Each of the
        # two says its own first and then looks at the other's, so one of them calls the wakes.
        self.abandoned = False
        self.committed = False
        self.value: Any = None
        self.outcome: SimpleQueue[Any] = SimpleQueue()
        self.next: _Request | None = None
        # Whether a thread waits for it that will notify the next; guarded by the queue lock. The
        # main thread is not relied on, for a signal's handler may raise in it.
        self.notifies = notifies


class _PageDamaged(Exception):
    """A write needs a page of the file that is damaged."""


class Writer:
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
        self._lock = new_lock("queue")
        self._waiting: list[_Request] = []  # guarded by the queue lock
        self._refusing = False  # guarded by the queue lock
        self._closed = False  # guarded by the queue lock
        self._work = Waiter()
        self._damage = Complaints(log)
        self._kept: object = None
        self._log_is_empty = False  # the writer's thread's
        self._thread = threading.Thread(target=self._run, name="sqlite writer", daemon=True)

    def start(self, kept: object) -> None:
        """Start the thread; `close` ends it, even if this was interrupted.

        Args:
            kept: what is not finalised before the thread has ended. In a forked child, which has
                no such thread, that is never: its stack is neither used nor taken down.
        """
        self._kept = kept
        self._thread.start()

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
        may_block("writing the store")
        if threading.get_ident() == self._thread.ident:
            raise RuntimeError("a wake must not write to the store: the store's writer called it")
        request = _Request(write, notifies=not may_be_interrupted())
        try:
            value = self._outcome(request, seconds)
            if request.wakes:
                wake(request.wakes)
        except BaseException:
            # It may yet be committed.
            request.abandoned = True
            if request.committed:
                wake_all(request.wakes)
            raise
        if isinstance(value, Exception):
            raise value
        result: Result = value
        return result

    def _outcome(self, request: _Request, seconds: float) -> Any:
        """Queue a write and return its outcome."""
        self._queue(request)
        try:
            value = request.outcome.get(timeout=seconds)
        except Empty:
            self._abandon(request)
            raise StoreUnavailable("the store does not answer in time") from None
        if request.next is not None and request.notifies:
            self._notify(request.next)
        return value

    def post(self, write: Write[object]) -> None:
        """Make a write soon, if nothing prevents it, and return at once."""
        request = _Request(write, notifies=False)
        request.abandoned = True
        with suppress(StoreUnavailable):
            self._queue(request)

    def close(self, seconds: float = WAIT_SECONDS) -> bool:
        """Make the writes that wait, refuse others, and end.

        Returns:
            Whether it has ended; a disk that does not answer can hold it up.
        """
        with self._lock:
            self._closed = True
        self._work.wake()
        try:
            self._thread.join(seconds)
        except RuntimeError:  # it was not started, or starts now and ends at once
            self._disconnect()
        return not self._thread.is_alive()

    def _queue(self, request: _Request) -> None:
        with self._lock:
            if self._refusing or self._closed:
                raise StoreUnavailable
            self._waiting.append(request)
        self._work.wake()

    def _notify(self, request: _Request | None) -> None:
        """Notify requests up to the first whose thread notifies the next one."""
        while request is not None:
            request.outcome.put(request.value)
            with self._lock:
                notifies = request.notifies
            if notifies:
                return
            request = request.next

    def _abandon(self, request: _Request) -> None:
        """Wait no more; those that this thread would have notified are notified all the same."""
        with self._lock:
            request.notifies = False
            with suppress(ValueError):  # it may have been begun by now
                self._waiting.remove(request)
        # Notified in the moment between, by a thread that relies on this one to go on. Should
        # both go on, the second outcome is not looked at.
        if not request.outcome.empty():
            self._notify(request.next)

    # --- in the writer's thread

    def _run(self) -> None:
        kept, self._kept = self._kept, None  # on this thread's stack: see `start`
        while True:
            batch, closed = self._take()
            if batch:
                self._make(batch)
            elif closed:
                break
            elif not self._work.wait(Deadline.after(None if self._log_is_empty else _IDLE_SECONDS)):
                self._empty_log()
        self._empty_log()
        self._disconnect()
        del kept

    def _take(self) -> tuple[list[_Request], bool]:
        with self._lock:
            batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            return batch, self._closed

    def _make(self, batch: list[_Request]) -> None:
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
            _follow(call)
        for request, following in zip(batch, [*batch[1:], None], strict=True):
            request.next = following
            request.committed = True
            if request.abandoned:
                _follow(partial(wake_all, request.wakes))
        self._notify(batch[0])
        self._mark_log()

    def _mark_log(self) -> None:
        """Have the row of the store in the log, wherever that begins: it says whose log it is."""
        if self._file.log_began_anew() and self._connection is not None:
            with suppress(sqlite3.Error):  # if it is more than a moment, the next write finds out
                self._connection.execute(_FENCE)

    def _commit(self, batch: list[_Request]) -> Transaction:
        """Make the writes as one transaction, each request's outcome in its ``value``.

        Raises:
            _PageDamaged: one of them needs such a page; nothing is committed or left open.
            Exception: nothing is committed.
        """
        connection = self._connection
        if connection is None:  # pragma: no cover - writes are refused without one
            raise StoreUnavailable
        spoilt: set[_Request] = set()
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
        self, connection: sqlite3.Connection, batch: list[_Request], spoilt: set[_Request]
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

    def _recover(self, batch: list[_Request], error: Exception) -> None:
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


def _follow(call: Callable[[], object]) -> None:
    """Call what follows a commit: it is done, whatever becomes of this."""
    try:
        call()
    except Exception:
        log.exception("what follows a commit failed")
