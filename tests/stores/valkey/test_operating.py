"""What an operator asks of a Valkey store: how full it is, and what it commits at once."""

import pytest
from store_samples import THREE_DEEP, fill_to_three_depths, note_commits
from valkey_engine import StartCluster, ValkeyEngine

from twinline.stores.valkey import ValkeyStore


def test_it_tells_how_full_its_mailboxes_are_and_of_its_commits(valkey: ValkeyEngine) -> None:
    with ValkeyStore.open(valkey.url(), THREE_DEEP) as store:
        fill_to_three_depths(store)
        note_commits(store)


def test_so_does_one_in_a_cluster(start_cluster: StartCluster) -> None:
    with ValkeyStore.open(start_cluster().url(), THREE_DEEP) as store:
        fill_to_three_depths(store)


def test_mailboxes_that_a_scan_comes_by_twice_count_once(
    valkey: ValkeyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ValkeyStore.open(valkey.url(), THREE_DEEP) as store:
        tracing = store.mailboxes._tracing
        pages = [["full", "two"], ["two"], ["empty", "full"]]
        monkeypatch.setattr(tracing, "_mailboxes", lambda: iter(pages))
        fill_to_three_depths(store)
