"""Nodes of one state on real engines, for tests of all of these.

A folder of tests that uses them has the engines' fixtures in its conftest.
"""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from twinline.core.store import MailboxPolicy, Store
from twinline.stores.registry import open_store

ENGINES = ("postgresql", "valkey", "valkey cluster")


@contextmanager
def nodes_on(
    engine: str, request: pytest.FixtureRequest, policy: MailboxPolicy, count: int
) -> Iterator[list[Store]]:
    """Open nodes of a new state, and close them in the end; skip where the engine cannot run."""
    if engine == "postgresql":
        postgres = request.getfixturevalue("postgres")
        database = postgres.new_database()
        # Nothing here is about the disk, and to wait for it takes most of the time.
        postgres.sql(f'ALTER DATABASE "{database}" SET synchronous_commit = off')
        url = postgres.url(database)
    else:
        running = request.getfixturevalue(engine.replace(" ", "_"))
        url = running.url(prefix=f"{secrets.token_hex(6)}:")
    with ExitStack() as opened:
        yield [opened.enter_context(open_store(url, policy)) for _ in range(count)]
