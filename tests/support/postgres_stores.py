"""Stores in PostgreSQL for tests: new ones, opened again, put back, failing, of several nodes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
from postgres_engine import PostgresEngine

from twinline.core.store import MailboxPolicy, Store
from twinline.stores.postgresql import PostgresqlStore, parse_url

WRITTEN = ("mailboxes", "names", "sessions")
"""Tables of which every write changes one."""
_REREAD_SECONDS = 60.0  # who is woken by that, without a reason, must not be taken for a fault


class Stores:
    """What opens stores of an engine, each with tables of its own."""

    def __init__(self, engine: PostgresEngine) -> None:
        self._engine = engine
        self._opened: dict[Store, tuple[str, MailboxPolicy]] = {}

    def open(self, policy: MailboxPolicy) -> PostgresqlStore:
        """Open a new and empty store."""
        return self._open(self._engine.new_store_url(), policy)

    def _open(self, url: str, policy: MailboxPolicy) -> PostgresqlStore:
        store = PostgresqlStore(parse_url(url), policy, reread_seconds=_REREAD_SECONDS)
        self._opened[store] = url, policy
        return store

    def nodes(self, store: Store, policy: MailboxPolicy, count: int) -> Sequence[Store]:
        """Open more nodes of a store's state."""
        url, _ = self._opened[store]
        return [self._open(url, policy) for _ in range(count)]

    def reopen(self, store: Store) -> PostgresqlStore:
        """Close a store and open it again."""
        url, policy = self._opened.pop(store)
        store.close()
        return self._open(url, policy)

    def put_back(self, store: Store) -> PostgresqlStore:
        """Close a store and open it as if its tables came from elsewhere."""
        url, policy = self._opened.pop(store)
        store.close()
        run(url, "UPDATE store SET origin = 'elsewhere'")
        return self._open(url, policy)

    @contextmanager
    def failing(self, store: Store) -> Iterator[None]:
        """Have the database refuse every write in the block, as if its disk were full."""
        url, _ = self._opened[store]
        run(
            url,
            "CREATE OR REPLACE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE 'no space left' USING ERRCODE = 'disk_full'; END $$",
            *(
                f"CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE OR DELETE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION full_disk()"
                for table in WRITTEN
            ),
        )
        try:
            yield
        finally:
            run(url, *(f"DROP TRIGGER full_disk ON {table}" for table in WRITTEN))


def run(url: str, *statements: str) -> list[tuple[object, ...]]:
    """Run statements in a store's schema, and return the rows of the last."""
    target = parse_url(url)
    with psycopg.connect(
        psycopg.conninfo.make_conninfo("", **target.parameters), autocommit=True
    ) as connection:
        connection.execute(f"SET search_path TO {target.schema}".encode())
        for statement in statements:
            cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []
