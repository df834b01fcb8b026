"""The store kit on real engines: one server, a cluster, and Redis."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from valkey_engine import (
    REDIS,
    StartEngine,
    ValkeyCluster,
    ValkeyEngine,
    missing,
)

from twinline.core.store import MailboxPolicy, Store
from twinline.stores.conformance import check_store
from twinline.stores.valkey import ValkeyStore, parse_url

GRACE_SECONDS = 0.3


class Stores:
    """What opens stores of an engine, each with keys of its own, and opens them again."""

    def __init__(self, url: Callable[[], str]) -> None:
        self._url = url
        self._policies: dict[Store, MailboxPolicy] = {}

    def open(self, policy: MailboxPolicy) -> ValkeyStore:
        """Open a new and empty store."""
        store = ValkeyStore(parse_url(self._url()), policy, grace_seconds=GRACE_SECONDS)
        self._policies[store] = policy
        return store

    def reopen(self, store: Store) -> ValkeyStore:
        """Close a store and open it again."""
        assert isinstance(store, ValkeyStore)
        policy = self._policies.pop(store)
        store.close()
        again = ValkeyStore(replace(store.target), policy, grace_seconds=GRACE_SECONDS)
        self._policies[again] = policy
        return again


def test_it_keeps_every_rule(valkey: ValkeyEngine) -> None:
    stores = Stores(valkey.url)

    def put_back(store: Store) -> Store:
        valkey.command("DEBUG", "CHANGE-REPL-ID")
        return stores.reopen(store)

    report = check_store(stores.open, reopen=stores.reopen, put_back=put_back)
    print(report)


def test_it_keeps_every_rule_on_a_cluster(valkey_cluster: ValkeyCluster) -> None:
    stores = Stores(valkey_cluster.url)

    def put_back(store: Store) -> Store:
        for engine in valkey_cluster.engines:
            engine.command("DEBUG", "CHANGE-REPL-ID")
        return stores.reopen(store)

    print(check_store(stores.open, reopen=stores.reopen, put_back=put_back))


@pytest.mark.skipif(missing(REDIS) is not None, reason=str(missing(REDIS)))
def test_it_keeps_every_rule_on_redis(start_valkey: StartEngine) -> None:
    stores = Stores(start_valkey(REDIS).url)
    print(check_store(stores.open, reopen=stores.reopen))
