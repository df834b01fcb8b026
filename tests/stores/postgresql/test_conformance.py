"""The store kit on real PostgreSQL: one server, and two of one state."""

import pytest
from postgres_engine import PostgresEngine, StartEngine
from postgres_stores import Stores

from twinline.core.conformance import rules_of
from twinline.stores.conformance import RULES, check_store, nodes

OF_NODES = {rule.name for rule in rules_of(nodes)}


@pytest.fixture
def hasty(start_postgres: StartEngine) -> PostgresEngine:
    """An engine that waits for no disk: thousands of commits are made one after the other."""
    return start_postgres(fsync=False, synchronous_commit=False, full_page_writes=False)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("several", [False, True], ids=["one node", "two nodes"])
def test_it_keeps_every_rule(several: bool, hasty: PostgresEngine) -> None:
    stores = Stores(hasty)
    report = check_store(
        stores.open,
        reopen=stores.reopen,
        put_back=stores.put_back,
        failing=stores.failing,
        open_nodes=stores.nodes if several else None,
    )
    kept = [rule.name for rule in RULES if several or rule.name not in OF_NODES]
    assert report.rules == tuple(kept)
    assert report.checks > 1_000
