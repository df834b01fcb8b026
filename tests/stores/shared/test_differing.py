"""The same calls of all stores: the one in memory, SQLite's, and two nodes on each engine."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from differing import POLICIES, compare
from shared_engines import ENGINES, nodes_on

from twinline.core.store import Store
from twinline.stores.conformance.spread import SpreadStore
from twinline.stores.memory import MemoryStore
from twinline.stores.sqlite import SqliteStore, Synchronous

SEEDS = range(1000, 1012)
BEHIND_SECONDS = 1.5


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stores(
    policy: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Mapping[str, Store]]:
    """All stores under one policy, with that in memory first."""
    kept = POLICIES[policy]
    with ExitStack() as opened:
        stores: dict[str, Store] = {"memory": opened.enter_context(MemoryStore(kept))}
        sqlite = SqliteStore(tmp_path / "differing.db", kept, synchronous=Synchronous.NORMAL)
        stores["sqlite"] = opened.enter_context(sqlite)
        for engine in ENGINES:
            nodes = opened.enter_context(nodes_on(engine, request, kept, 2))
            stores[engine] = SpreadStore(nodes, kept, Random(1))
        yield stores


def test_all_stores_answer_alike(policy: str, stores: Mapping[str, Store]) -> None:
    compare(stores, POLICIES[policy], SEEDS, BEHIND_SECONDS, operated=False)


@pytest.mark.parametrize("policy", ["small"], indirect=True)
def test_a_store_that_answers_otherwise_is_found_among_all(
    policy: str, stores: Mapping[str, Store]
) -> None:
    with MemoryStore(POLICIES["few send_ids"]) as other:
        among = {**stores, "another": other}
        with pytest.raises(AssertionError, match="another: "):
            compare(among, POLICIES[policy], SEEDS, BEHIND_SECONDS, operated=False)
