"""The store kit on real engines: one server, a cluster by two nodes, and Redis."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
from valkey_engine import REDIS, StartEngine, ValkeyCluster, ValkeyEngine, missing

from twinline.core.conformance import rules_of
from twinline.core.store import MailboxPolicy, Store
from twinline.stores.conformance import (
    accounts,
    check_store,
    conversing,
    mailboxes,
    reading,
    receipts,
    sending,
    sessions,
    waking,
)
from twinline.stores.valkey import ValkeyStore, parse_url

GRACE_SECONDS = 0.3


class Stores:
    """What opens stores on some engines, each with keys of its own, and opens them again."""

    def __init__(self, url: Callable[..., str], engines: Sequence[ValkeyEngine]) -> None:
        self._url = url
        self._engines = engines
        self._policies: dict[Store, MailboxPolicy] = {}

    def open(self, policy: MailboxPolicy) -> ValkeyStore:
        """Open a new and empty store."""
        store = ValkeyStore(parse_url(self._url()), policy, grace_seconds=GRACE_SECONDS)
        self._policies[store] = policy
        return store

    def nodes(self, first: Store, policy: MailboxPolicy, count: int) -> list[Store]:
        """Open a store that is open already so many times more."""
        assert isinstance(first, ValkeyStore)
        return [ValkeyStore(first.target, policy) for _ in range(count)]

    def reopen(self, store: Store) -> ValkeyStore:
        """Close a store and open it again."""
        assert isinstance(store, ValkeyStore)
        policy = self._policies.pop(store)
        store.close()
        again = ValkeyStore(replace(store.target), policy, grace_seconds=GRACE_SECONDS)
        self._policies[again] = policy
        return again

    def put_back(self, store: Store) -> ValkeyStore:
        """Open a store again whose engines have other data, as far as they say."""
        for engine in self._engines:
            engine.command("DEBUG", "CHANGE-REPL-ID")
        return self.reopen(store)

    @contextmanager
    def failing(self, store: Store) -> Iterator[None]:
        """Have the engines refuse to write."""
        for engine in self._engines:
            engine.set(min_replicas_to_write=1)
        try:
            yield
        finally:
            for engine in self._engines:
                engine.set(min_replicas_to_write=0)


@pytest.mark.timeout(300)
def test_it_keeps_every_rule(valkey: ValkeyEngine) -> None:
    stores = Stores(valkey.url, [valkey])
    report = check_store(
        stores.open, reopen=stores.reopen, failing=stores.failing, put_back=stores.put_back
    )
    assert all("several nodes" in why for why in report.skipped)


@pytest.mark.timeout(300)
def test_two_nodes_of_a_cluster_keep_every_rule(valkey_cluster: ValkeyCluster) -> None:
    stores = Stores(valkey_cluster.url, valkey_cluster.engines)
    check_store(
        stores.open,
        open_nodes=stores.nodes,
        reopen=stores.reopen,
        failing=stores.failing,
        put_back=stores.put_back,
    )


@pytest.mark.skipif(missing(REDIS) is not None, reason=str(missing(REDIS)))
def test_redis_keeps_the_rules_of_what_scripts_do(start_valkey: StartEngine) -> None:
    engine = start_valkey(REDIS)
    stores = Stores(engine.url, [engine])
    parts = (accounts, sessions, mailboxes, reading, sending, waking, conversing, receipts)
    only = [each.name for each in rules_of(*parts)]
    check_store(stores.open, only=only)
