"""One connection to PostgreSQL, of which every call has a deadline on this side.

A database that does not answer, because it was stopped, or because its machine or the way to it
is gone, tells nobody; so libpq is never waited for without an end. What a call did when its
deadline passed is not known, and the connection is of no use any more: the next answer on it would
be that of this call.

All calls go through libpq's pipeline mode (https://www.postgresql.org/docs/current/
libpq-pipeline-mode.html): several statements travel together, and what is before the end of a
pipeline is one transaction unless there is one already. Each statement is prepared by the
connection that first needs it.
"""

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.adapt import Transformer

from twinline.core.errors import TwinlineError
from twinline.core.locks import may_block
from twinline.stores.postgresql.arrays import Array, Value

CALL_SECONDS: Final = 4.0
"""How long a call may take, its answer included."""
_SLICE_SECONDS: Final = 0.5  # how long a signal may go unnoticed by the main thread
_BINARY: Final = pq.Format.BINARY
# The process that answered ends, by order, for it crashed, or because its server did; "": libpq's.
_GONE: Final = ("", "57P01", "57P02", "57P03", "57P04", "57P05", "08006", "08P01", "25P03", "25P04")

Rows = list[tuple[Any, ...]]
"""What a statement returned: ``bytes`` for bytea, ``int``, ``str``, ``bool`` or None."""


class EngineError(TwinlineError):
    """PostgreSQL refused a statement; the transaction that it was in is undone.

    Attributes:
        sqlstate: which error, five characters
            (https://www.postgresql.org/docs/current/errcodes-appendix.html).
        constraint: the constraint that was in the way, or "".
    """

    def __init__(self, message: str, sqlstate: str, constraint: str = "") -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.constraint = constraint


class LinkLost(TwinlineError):
    """The connection is gone, or did not answer in time.

    Attributes:
        in_doubt: whether what was asked for last may be done all the same, now or later: not
            inside of a transaction whose end was not asked for.
    """

    def __init__(self, message: str, *, in_doubt: bool) -> None:
        super().__init__(message)
        self.in_doubt = in_doubt


class Call:
    """A statement, and a value for each ``$1`` of it.

    Attributes:
        sql: a constant text; there are few of them, for each stays prepared.
        values: see `Value`; a text or a number is of the type that the statement wants.
    """

    __slots__ = ("sql", "values")

    def __init__(self, sql: str, *values: Value) -> None:
        self.sql = sql
        self.values = values


BEGIN: Final = Call("BEGIN")
COMMIT: Final = Call("COMMIT")
ROLLBACK: Final = Call("ROLLBACK")


class Asked:
    """Statements that were sent, and whose answer is still to be taken.

    Attributes:
        calls: the statements.
        expected: what each result will be of: a statement?
        commits: whether it may be done, now or later, though no answer comes.
    """

    __slots__ = ("calls", "commits", "expected")

    def __init__(self, calls: tuple[Call, ...], *, commits: bool) -> None:
        self.calls = calls
        self.expected: list[bool] = []
        self.commits = commits


class Link:
    """A connection; one thread at a time uses it.

    Attributes:
        backend: the process in the database that answers, for `pg_terminate_backend`; as the
            database tells it, once it was asked.
        started: when it started, as the database tells it.
        broken: whether it is of no use any more.
        answered_at: when the last answer was there, on the monotonic clock.
        warnings: what the database warned of during the last call, as SQLSTATEs.
        heard: called with the channel and the payload of each notice.
    """

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self.backend = connection.pgconn.backend_pid  # a pooler gives a number of its own
        self.started = ""
        self.broken = False
        self.answered_at = float("-inf")
        self.warnings: list[str] = []
        self.heard: Callable[[str, str], None] | None = None
        self._connection = connection
        self._pg = connection.pgconn
        self._prepared: dict[str, bytes] = {}
        self._names = 0
        self._in_transaction = False
        self._asked: deque[Asked] = deque()
        self._warned_of: list[str] = []
        self._poll = select.poll()
        self._poll.register(self._pg.socket, select.POLLIN)
        self._poll_both = select.poll()
        self._poll_both.register(self._pg.socket, select.POLLIN | select.POLLOUT)
        self._load = Transformer(connection)
        connection.add_notice_handler(self._warned)
        self._pg.enter_pipeline_mode()

    @property
    def idle(self) -> bool:
        """Whether no transaction is open, as the database said last."""
        return bool(self._pg.transaction_status == pq.TransactionStatus.IDLE)

    def execute(self, sql: str, *values: Value, seconds: float = CALL_SECONDS) -> Rows:
        """Run one statement and return its rows.

        Raises:
            EngineError: it was refused.
            LinkLost: no answer came.
        """
        return self.run(Call(sql, *values), seconds=seconds)[0]

    def run(self, *calls: Call, seconds: float = CALL_SECONDS) -> list[Rows]:
        """Run statements, in one go and as one transaction, unless one is open.

        Args:
            calls: the statements.
            seconds: how long all of them may take.

        Returns:
            The rows of each.

        Raises:
            EngineError: one was refused, and none has done anything; an open transaction can
                only be ended.
            LinkLost: no answer came.
        """
        until = time.monotonic() + seconds
        whole = False
        try:
            if self._asked:
                raise LinkLost("an answer was not taken", in_doubt=self._in_doubt)
            asked = self.ask(*calls)
            whole = True
            return self.answer(asked, until - time.monotonic())
        finally:
            # Whatever happened in between: the next answer is not that of the next call.
            if not whole or self._asked:
                self.broken = True

    def ask(self, *calls: Call) -> Asked:
        """Send statements as `run` does, and wait for nothing.

        What was asked for before may still wait for its answer; the database does one after the
        other, each as a transaction of its own unless one is open.

        Raises:
            LinkLost: they were not sent; it is in doubt where what was asked for before is.
        """
        may_block("asking the database")
        if self.broken:
            raise LinkLost("the connection is broken", in_doubt=self._in_doubt)
        texts = {call.sql for call in calls}
        commits = COMMIT.sql in texts or not (self._in_transaction or BEGIN.sql in texts)
        asked = Asked(calls, commits=commits)
        self._asked.append(asked)
        whole = False
        try:
            asked.expected = self._send(calls)
            self._pg.flush()
            whole = True
        except psycopg.Error as error:
            raise LinkLost(_line(error), in_doubt=self._in_doubt) from error
        finally:
            if not whole:
                self.broken = True
        return asked

    def answer(self, asked: Asked, seconds: float = CALL_SECONDS) -> list[Rows]:
        """Wait for what was asked for; answers are taken in the order of the asking.

        Raises:
            EngineError, LinkLost: as `run` does.
        """
        may_block("asking the database")
        until = time.monotonic() + seconds
        whole = False
        try:
            results, refused = self._collect(asked.calls, asked.expected, until)
            whole = True
        except psycopg.Error as error:
            raise LinkLost(_line(error), in_doubt=self._in_doubt) from error
        finally:
            if not whole:
                self.broken = True
        self._asked.popleft()
        if not self._asked:  # until then libpq cannot tell
            self._in_transaction = not self.idle
        self.warnings, self._warned_of = self._warned_of, []
        self.answered_at = time.monotonic()
        if refused is not None:
            raise refused
        return results

    @property
    def _in_doubt(self) -> bool:
        return any(asked.commits for asked in self._asked)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Have what is run in the block be one transaction.

        Raises:
            EngineError, LinkLost: it was not committed, or that is not known.
        """
        self.run(BEGIN)
        try:
            yield
        except BaseException:
            self.roll_back()
            raise
        self.run(COMMIT)

    def roll_back(self) -> None:
        """End a transaction, if one is open, as if it had not been; and take what was asked for.

        Raises:
            LinkLost: no answer came; it ends with the connection.
        """
        while self._asked and not self.broken:
            with suppress(EngineError):
                self.answer(self._asked[0])
        if not self.broken and self._in_transaction:
            self.run(ROLLBACK)

    def wait(self, seconds: float) -> bool:
        """Wait for anything from the database, and hear the notices that came.

        Raises:
            LinkLost: the connection is gone.
        """
        may_block("waiting for the database")
        try:
            came = bool(self._poll.poll(max(0.0, seconds) * 1000))
            if came:
                self._pg.consume_input()
                # The last words of a process that ended, and then that it did.
                while self._poll.poll(0):
                    self._pg.consume_input()
            self._hear()
            if self._pg.status != pq.ConnStatus.OK:
                raise psycopg.OperationalError("the connection was closed")
        except psycopg.Error as error:
            self.broken = True
            raise LinkLost(_line(error), in_doubt=False) from error
        return came

    def interrupt(self) -> None:
        """Have the thread that waits on the connection find it lost; for any thread."""
        with (
            suppress(OSError, psycopg.Error),
            socket.socket(fileno=os.dup(self._pg.socket)) as shared,
        ):
            shared.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; it waits for nothing."""
        self.broken = True
        self._connection.close()

    # --- libpq

    def _send(self, calls: tuple[Call, ...]) -> list[bool]:
        """Put statements into libpq's buffer; return what each result will be of: a statement?"""
        pg = self._pg
        expected = []
        for call in calls:
            values: list[bytes | None] = []
            types: list[int] = []
            formats: list[int] = []
            for value in call.values:
                data, oid, form = _encoded(value)
                values.append(data)
                types.append(oid)
                formats.append(form)
            name = self._prepared.get(call.sql)
            if name is None:
                # Prepared or not when this fails: the name is not used again.
                self._names += 1
                name = b"s%d" % self._names
                pg.send_prepare(name, call.sql.encode(), types)
                self._prepared[call.sql] = name
                expected.append(False)
            pg.send_query_prepared(name, values, formats, _BINARY)
            expected.append(True)
        pg.pipeline_sync()
        return expected

    def _collect(
        self, calls: tuple[Call, ...], expected: list[bool], until: float
    ) -> tuple[list[Rows], EngineError | None]:
        """Return each statement's rows, and the error of the first that was refused."""
        while self._pg.flush():
            self._await(self._poll_both, until)
            self._pg.consume_input()
        results: list[Rows] = []
        refused: EngineError | None = None
        for number, is_statement in enumerate(expected):
            result = self._next(until)
            self._pg.get_result()  # None, which ends the results of a statement, and is there
            if result.status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
                if is_statement:
                    results.append(self._rows(result))
                continue
            if refused is None:  # those that follow it were passed over
                refused = _error(result)
                if refused.sqlstate in _GONE:
                    raise psycopg.OperationalError(str(refused))
            if not is_statement:
                self._forget(calls[sum(expected[:number])].sql)
        while (end := self._next(until)).status != pq.ExecStatus.PIPELINE_SYNC:
            refused = refused or _error(end)  # the commit at the end was refused
        if self.heard is not None:
            self._hear()
        return results, refused

    def _next(self, until: float) -> pq.abc.PGresult:
        """Return the next result; what libpq says between those of two statements is nothing."""
        pg = self._pg
        while True:
            while pg.is_busy():
                self._await(self._poll, until)
                pg.consume_input()
            result = pg.get_result()
            if result is not None:
                return result
            if pg.status != pq.ConnStatus.OK:
                raise psycopg.OperationalError("the connection was closed")

    def _rows(self, result: pq.abc.PGresult) -> Rows:
        count = result.ntuples
        if not count:
            return []
        self._load.set_pgresult(result, format=_BINARY)
        return self._load.load_rows(0, count, tuple)

    def _forget(self, sql: str) -> None:
        """Have a statement prepared anew whose preparation was refused or passed over."""
        del self._prepared[sql]

    def _await(self, poll: "select.poll", until: float) -> None:
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise psycopg.OperationalError("no answer in time")
            if poll.poll(min(left, _SLICE_SECONDS) * 1000):
                return

    def _hear(self) -> None:
        while (notice := self._pg.notifies()) is not None:
            if self.heard is not None:
                self.heard(notice.relname.decode(), notice.extra.decode(errors="replace"))

    def _warned(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING" and notice.sqlstate:
            self._warned_of.append(notice.sqlstate)


def _encoded(value: Value) -> tuple[bytes | None, int, int]:
    """Return a value's bytes, its type's number or 0 for what is wanted, and its format."""
    if isinstance(value, Array):
        return value.data, value.oid, 1
    if isinstance(value, str):
        return value.encode(), 0, 0
    if isinstance(value, bytes):
        return value, 0, 1
    if value is None:
        return None, 0, 0
    return str(value).encode(), 0, 0


def _error(result: pq.abc.PGresult) -> EngineError:
    def field(code: pq.DiagnosticField) -> str:
        return (result.error_field(code) or b"").decode(errors="replace")

    return EngineError(
        field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.get_error_message(),
        field(pq.DiagnosticField.SQLSTATE),
        field(pq.DiagnosticField.CONSTRAINT_NAME),
    )


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
