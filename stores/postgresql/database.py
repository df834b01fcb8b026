"""The few connections of a server to its database: how they are made, lent, and made again.

1. A server has at most ten: one that writes mail, one that listens, one that sends notices, up to
   three that read, up to three for accounts, and one of the main thread's own, for there a signal's
   handler may raise (`twinline.core.interrupts`). One more looks through all mailboxes for an
   operator, for as long as that takes (`tracing`).
2. What is broken is closed and made again. After a failure one thread at a time tries, at growing
   intervals; the others are refused at once, so that none waits for a database that is gone.
3. Every new connection is checked before it is used (`Database.checks`), for it may lead to
   another machine than the last one: what it promises, its epoch, its version.
4. A write whose outcome is not known may still come: its process in the database may have it before
   it. So before anything else is written that process is ended, and has ended.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from random import uniform
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo

from twinline.core.errors import StoreUnavailable
from twinline.core.interrupts import may_be_interrupted
from twinline.core.locks import may_block, new_lock
from twinline.stores.postgresql.arrays import integers, texts
from twinline.stores.postgresql.link import (
    CALL_SECONDS,
    Call,
    EngineError,
    Link,
    LinkLost,
    Rows,
)
from twinline.stores.postgresql.schema import LOCK_SPACE
from twinline.stores.postgresql.url import Target
from twinline.stores.shared.complaints import Complaints

log = logging.getLogger(__name__)

_FIRST_RETRY_SECONDS: Final = 0.05
_LAST_RETRY_SECONDS: Final = 1.0
_END_SECONDS: Final = 3.0  # how long a process whose write is in doubt may take to end
_LOOK_SECONDS: Final = 0.02
_FRESH_SECONDS: Final = 0.01  # a connection that has answered so lately is taken to be there
# A statement ends before this side gives up on it, and a lock is not waited for even so long; a
# transaction that its server left open (it was stopped) does not keep its locks.
_SETTINGS: Final = {
    "client_encoding": "UTF8",
    "statement_timeout": str(round(CALL_SECONDS * 900)),
    "lock_timeout": str(round(CALL_SECONDS * 800)),
    "idle_in_transaction_session_timeout": "10000",
    "default_transaction_isolation": "read committed",
    # Plans are made once, when the tables may be empty: always those for tables that are not.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
_SET: Final = (  # of constants alone
    "SELECT set_config('search_path', $1 || ', pg_temp', false), "  # noqa: S608
    + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in _SETTINGS.items())
    # That a server is there: `store` asks whether it is alone.
    + f", pg_advisory_lock_shared({LOCK_SPACE + 1}, hashtext($1))"
    + ", (SELECT extract(epoch FROM backend_start)::text FROM pg_stat_activity "
    "WHERE pid = pg_backend_pid()), pg_backend_pid()::bigint"
)
_STILL_THERE: Final = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    JOIN unnest($1::bigint[], $2::text[]) AS doubtful (process, start)
    ON pid = process AND extract(epoch FROM backend_start)::text = start"""
# What is no affair of the statement: the database shuts down, is full, lacks memory, was too slow,
# or another transaction was in the way.
_PASSING: Final = ("08", "40", "53", "55", "57", "58", "25006", "XX")


class Database:
    """Makes the connections.

    Attributes:
        target: where to.
        checks: called with each new connection, before it is used; they may raise.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.checks: list[Callable[[Link], object]] = []
        self.alone: Link | None = None  # the main thread's, while it is not in use
        self._complaints = Complaints(log)
        self._lock = new_lock("connections")
        # All guarded by _lock.
        self._failures = 0
        self._retry_at = 0.0
        self._trying = False
        self._doubts: set[tuple[int, str]] = set()

    def connect(self) -> Link:
        """Return a new connection.

        Raises:
            StoreUnavailable: there is none now.
            StoreNotOpened: the database is no store, or another one than it was.
        """
        may_block("connecting to the database")
        # The main thread, which may be interrupted anywhere, is not one that others wait for, and
        # what interrupts it is no failure of the database.
        alone = may_be_interrupted()
        with self._lock:
            failed = self._failures > 0
            if failed and (self._trying or time.monotonic() < self._retry_at):
                raise StoreUnavailable
            if not alone:
                self._trying = True
        link: Link | None = None
        failures: int | None = None
        try:
            link = self._opened()
            for check in self.checks:
                check(link)
            failures = 0
        except Exception as error:
            failures = self._failures + 1
            if isinstance(error, psycopg.Error | EngineError | LinkLost):
                raise self.failed(error) from error
            raise
        finally:
            if failures != 0 and link is not None:
                link.close()
            with self._lock:
                if not alone:
                    self._trying = False
                if failures is not None:
                    self._failures = failures
                    self._retry_at = time.monotonic() + retry_seconds(failures)
        return link

    def open(self) -> Link:
        """Return a connection that nothing is checked of: to make the tables by.

        Raises:
            psycopg.Error, EngineError, LinkLost: there is none.
        """
        may_block("connecting to the database")
        return self._opened()

    def _opened(self) -> Link:
        connection: psycopg.Connection[Any] = psycopg.Connection.connect(
            make_conninfo("", **self.target.parameters), autocommit=True
        )
        link = Link(connection)
        try:
            ((*_, started, backend),) = link.execute(_SET, self.target.schema)
        except BaseException:
            link.close()
            raise
        link.started, link.backend = started, backend
        return link

    def doubt(self, link: Link) -> None:
        """Note that a connection is gone of whose last write nobody knows what became."""
        with self._lock:
            self._doubts.add((link.backend, link.started))

    def settle(self, link: Link) -> None:
        """See that no write of before is still to come.

        Raises:
            StoreUnavailable: one may be.
            EngineError, LinkLost: it cannot be asked.
        """
        with self._lock:
            doubts = tuple(self._doubts)
        if not doubts:
            return
        processes, starts = zip(*doubts, strict=True)
        until = time.monotonic() + _END_SECONDS
        while link.execute(_STILL_THERE, integers(processes), texts(starts)):
            if time.monotonic() >= until:
                raise StoreUnavailable
            time.sleep(_LOOK_SECONDS)
        with self._lock:
            self._doubts.difference_update(doubts)

    def failed(self, error: Exception) -> StoreUnavailable:
        """Log what went wrong, and return what the caller is told."""
        # libpq's texts may name hosts and users, and never a password.
        self._complaints.error("the database is not available: %s", _line(error))
        return StoreUnavailable()

    def close(self) -> None:
        """Close the main thread's connection."""
        link, self.alone = self.alone, None
        if link is not None:
            link.close()


class Pool:
    """A few connections, each lent to one thread at a time; made when they are first needed."""

    def __init__(self, database: Database, most: int, *, writes: bool) -> None:
        """Make none yet.

        Args:
            database: makes them.
            most: how many there are.
            writes: whether anything is written by them.
        """
        self._database = database
        self._most = most
        self._writes = writes
        self._closed = False
        # None for a connection that is still to be made.
        self._free: SimpleQueue[Link | None] = SimpleQueue()
        for _ in range(most):
            self._free.put(None)

    def run(self, *calls: Call) -> list[Rows]:
        """Run statements as one transaction, and return the rows of each.

        Raises:
            StoreUnavailable: they were not run, or that is in doubt.
            EngineError: one was refused, for what it says; none has done anything.
        """
        with self.lend() as link:
            return link.run(*calls)

    @contextmanager
    def lend(self, seconds: float = CALL_SECONDS) -> Iterator[Link]:
        """Lend a connection to the calling thread.

        What its calls raise in the block becomes `StoreUnavailable`, in doubt where it is, unless
        it is an `EngineError` about the statement itself, such as a key that is there already.

        Raises:
            StoreUnavailable: there is none, or not within so many seconds.
        """
        may_block("asking the database")
        mine = may_be_interrupted()
        link = self._take_alone() if mine else self._take(seconds)
        try:
            if link is not None and not _alive(link):
                link = None
            if link is None:
                link = self._database.connect()
            if self._writes:
                self._database.settle(link)
            yield link
        except (EngineError, LinkLost) as error:
            if isinstance(error, EngineError) and not is_passing(error):
                raise
            unavailable = self._database.failed(error)
            if link is not None and link.broken and self._writes:
                unavailable.in_doubt = isinstance(error, LinkLost) and error.in_doubt
                if unavailable.in_doubt:
                    self._database.doubt(link)
            raise unavailable from error
        finally:
            # Interrupted at the wrong moment, one may have a transaction left, with its locks.
            if link is not None and (link.broken or not link.idle or self._closed):
                link.close()
                link = None
            if not mine:
                self._free.put(link)
            elif self._database.alone is None:
                self._database.alone = link
            elif link is not None:
                link.close()

    def close(self) -> None:
        """Close the connections, each when it comes back; nothing is lent from now on."""
        self._closed = True
        until = time.monotonic() + CALL_SECONDS
        for _ in range(self._most):
            try:
                link = self._free.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                break
            if link is not None:
                link.close()
        for _ in range(self._most):  # for those that wait for one
            self._free.put(None)

    def _take(self, seconds: float) -> Link | None:
        try:
            link = self._free.get(timeout=seconds)
        except Empty:
            raise StoreUnavailable from None
        if self._closed:
            self._free.put(link)
            raise StoreUnavailable
        return link

    def _take_alone(self) -> Link | None:
        if self._closed:
            raise StoreUnavailable
        link, self._database.alone = self._database.alone, None
        return link


@contextmanager
def transaction(pool: Pool, permit: Callable[[Link], object]) -> Iterator[Link]:
    """Have the block be a transaction that is acknowledged when it returns.

    Args:
        pool: connections that write.
        permit: raises `StoreUnavailable` where writes are refused.

    Raises:
        StoreUnavailable: it was not committed, or that is in doubt.
    """
    with pool.lend() as link:
        permit(link)
        with link.transaction():
            yield link
        if link.warnings:
            # A wait for a standby was cut short (SQLSTATE 01000): it may have it, or not.
            link.broken = True
            raise LinkLost("the database warned of a commit", in_doubt=True)


class Keeper:
    """One connection of one thread's, which makes it again at growing intervals."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._failures = 0
        self.link: Link | None = None
        self.retry_at = 0.0

    def ready(self) -> Link | None:
        """Return the connection, or None while there is none; it may try to make it."""
        link = self.link
        if link is not None and (_is_fresh(link) or _alive(link)):
            return link
        self.link = None
        if time.monotonic() < self.retry_at:
            return None
        try:
            self.link = self._database.connect()
        except Exception:  # noqa: BLE001 - it was logged by the database
            self.drop()
            return None
        self._failures = 0
        return self.link

    def drop(self) -> None:
        """Close the connection; the next one is made in a while."""
        link, self.link = self.link, None
        if link is not None:
            link.close()
        self._failures += 1
        self.retry_at = time.monotonic() + retry_seconds(self._failures)


def retry_seconds(failures: int) -> float:
    """Return how long to wait after so many failures: growing, and never twice the same."""
    if not failures:
        return 0.0
    longest = min(_LAST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * (1 << min(failures - 1, 10)))
    return longest * uniform(0.5, 1)  # noqa: S311 - it spreads servers, and hides nothing


def is_passing(error: EngineError) -> bool:
    """Return whether a statement was refused for what has nothing to do with it."""
    return error.sqlstate.startswith(_PASSING)


def _is_fresh(link: Link) -> bool:
    """Return whether a connection need not be looked at: that gives away the interpreter."""
    return not link.broken and time.monotonic() - link.answered_at < _FRESH_SECONDS


def _alive(link: Link) -> bool:
    """Return whether a connection that was not in use is still there; if not, close it."""
    if not link.broken:
        with suppress(LinkLost):
            link.wait(0)
    if link.broken:
        link.close()
    return not link.broken


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def start_thread(run: Callable[[], None], name: str) -> threading.Thread:
    """Start a thread that does not keep the process."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
