"""The store kit on real PostgreSQL: one server, and two of one state."""

import pytest
from postgres_engine import PostgresEngine
from postgres_stores import Stores

from twinline.core.conformance import rules_of
from twinline.stores.conformance import RULES, check_store, nodes

OF_NODES = {rule.name for rule in rules_of(nodes)}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("several", [False, True], ids=["one node", "two nodes"])
def test_it_keeps_every_rule(several: bool, postgres: PostgresEngine) -> None:
    stores = Stores(postgres)
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
