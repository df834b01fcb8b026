"""The store kit on real PostgreSQL: one server, and two of one state."""

from postgres_engine import PostgresEngine
from postgres_stores import Stores

from twinline.stores.conformance import check_store


def test_it_keeps_every_rule(postgres: PostgresEngine) -> None:
    stores = Stores(postgres)
    report = check_store(
        stores.open, reopen=stores.reopen, put_back=stores.put_back, failing=stores.failing
    )
    print(report)


def test_two_nodes_keep_every_rule(postgres: PostgresEngine) -> None:
    stores = Stores(postgres)
    report = check_store(
        stores.open,
        reopen=stores.reopen,
        put_back=stores.put_back,
        failing=stores.failing,
        open_nodes=stores.nodes,
    )
    print(report)
