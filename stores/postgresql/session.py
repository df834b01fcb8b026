"""The one connection of a command that looks after a store: it may take as long as it takes.

A server holds a shared advisory lock by each of its connections (`database`). Who wants a store to
itself takes the same lock for itself alone, and while it has it no server gets a connection.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo

from twinline.stores.postgresql.arrays import Value
from twinline.stores.postgresql.link import Call, EngineError, Link, LinkLost, Rows
from twinline.stores.postgresql.schema import LOCK_SPACE, VERSION, lacking_tables, prepare
from twinline.stores.postgresql.url import Target
from twinline.stores.shared.opening import SchemaTooNew, StoreNotOpened
from twinline.stores.upkeep import UpkeepError

_DAY: Final = 86_400.0  # a check reads everything
_ALONE_SECONDS: Final = 0.5  # in which the connections of a server that has ended are gone
_LOOK_SECONDS: Final = 0.02
_SET: Final = """
    SELECT set_config('search_path', $1 || ', pg_temp', false),
        set_config('client_encoding', 'UTF8', false), set_config('statement_timeout', '0', false),
        set_config('idle_in_transaction_session_timeout', '0', false),
        set_config('application_name', 'twinline store', false)"""
_ALONE: Final = f"SELECT pg_try_advisory_lock({LOCK_SPACE + 1}, hashtext($1))"
_WHO: Final = f"""
    SELECT count(*), string_agg(DISTINCT coalesce(host(client_addr), 'this machine'), ', ')
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND classid::bigint = {LOCK_SPACE + 1}
        AND objid::bigint = hashtext($1)::bigint & 4294967295 AND granted
        AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND pid <> pg_backend_pid()"""  # noqa: S608 - of constants alone
_SNAPSHOT: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_STORE: Final = "SELECT version, filled_from FROM store"


def name_of(target: Target) -> str:
    """Return what a store is called in messages: no secret is in it."""
    hosts = target.parameters.get("host") or target.parameters.get("hostaddr") or ""
    ports = target.parameters.get("port", "").split(",")
    shown = []
    for number, host in enumerate(hosts.split(",")):
        port = ports[number if len(ports) > 1 else 0] if number < len(ports) or ports else ""
        shown.append(f"{host}:{port}" if port else host)
    database = target.parameters.get("dbname", "")
    schema = "" if target.schema == "twinline" else f"?schema={target.schema}"
    return f"postgresql://{','.join(shown)}/{database}{schema}"


class Session:
    """A connection whose errors are `UpkeepError`, with the store's name.

    Attributes:
        name: the store's.
        schema: where its tables are.
        link: the connection.
    """

    def __init__(self, target: Target) -> None:
        """Connect.

        Raises:
            UpkeepError: the database cannot be reached.
        """
        self.name = name_of(target)
        self.schema = target.schema
        with self._named():
            connection: psycopg.Connection[Any] = psycopg.Connection.connect(
                make_conninfo("", **target.parameters), autocommit=True
            )
            self.link = Link(connection)
            try:
                self.link.execute(_SET, target.schema)
            except BaseException:
                self.link.close()
                raise

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it; what is not committed is undone."""
        self.link.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (psycopg.Error, EngineError, LinkLost) as error:
            # libpq's texts may name hosts and users, and never a password.
            line = str(error).strip().partition("\n")[0]
            raise UpkeepError(f"{self.name}: {line}") from error

    def ask(self, sql: str, *values: Value) -> Rows:
        """Run one statement and return its rows."""
        return self.run(Call(sql, *values))[0]

    def run(self, *calls: Call) -> list[Rows]:
        """Run statements as one transaction, unless one is open, and return the rows of each.

        Raises:
            UpkeepError: one was refused, or the connection is gone.
        """
        with self._named():
            return self.link.run(*calls, seconds=_DAY)

    def take_alone(self) -> None:
        """See that no server has the store open, and that none opens it while this is.

        Raises:
            UpkeepError: one has, or another command does; or this is a standby, which cannot tell.
        """
        if self.ask("SELECT pg_is_in_recovery()") == [(True,)]:
            raise UpkeepError(f"{self.name} is a standby; this needs the server that it follows")
        until = time.monotonic() + _ALONE_SECONDS
        while self.ask(_ALONE, self.schema) != [(True,)]:
            if time.monotonic() >= until:
                ((count, whence),) = self.ask(_WHO, self.schema)
                raise UpkeepError(
                    f"servers use {self.name}, or another command does: {count} connections from "
                    f"{whence or 'nowhere by now'}; stop them first"
                )
            time.sleep(_LOOK_SECONDS)

    def begin_snapshot(self) -> None:
        """Have all that is read from now on be of one moment, whatever is written meanwhile."""
        self.ask(_SNAPSHOT)

    @property
    def has_tables(self) -> bool:
        """Whether there is a store at all, of whichever version."""
        return self.ask("SELECT to_regclass('store') IS NOT NULL") == [(True,)]

    def require_store(self) -> str:
        """See that there is a store of this version.

        Returns:
            Of which store's move it is the unfinished target, or "".

        Raises:
            StoreNotOpened: there is none, or it is damaged.
            SchemaTooNew: a later version of this program made it.
        """
        if not self.has_tables:
            raise StoreNotOpened(f"{self.name} holds no store yet")
        version = self.version()
        if version > VERSION:
            raise SchemaTooNew(
                f"{self.name} has schema version {version}, and this program knows versions up to "
                f"{VERSION}; use the program that wrote it, or a later one"
            )
        if version != VERSION:
            raise StoreNotOpened(
                f"{self.name} has schema version {version}; bring it to {VERSION} with "
                "'twinline store migrate'"
            )
        lacking = self.lacking()
        if lacking:
            raise StoreNotOpened(f"{self.name} is damaged: it has no {', '.join(lacking)}")
        ((_, filled_from),) = self.ask(_STORE)
        return str(filled_from)

    def lacking(self) -> list[str]:
        """Return which tables and columns are not there."""
        with self._named():
            return lacking_tables(self.link)

    def prepare(self) -> None:
        """Make the tables, or bring them to this version; see `schema.prepare`."""
        with self._named():
            prepare(self.link, self.schema)

    def version(self) -> int:
        """Return the version of the tables that are there.

        Raises:
            StoreNotOpened: nothing says which.
        """
        rows = self.ask("SELECT version FROM store")
        if len(rows) != 1:
            raise StoreNotOpened(f"{self.name} is damaged: its table store is empty")
        return int(rows[0][0])
