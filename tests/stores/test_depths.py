"""How full a store says that its mailboxes are."""

from collections.abc import Callable
from pathlib import Path

import pytest
from store_samples import THREE_DEEP, fill_to_three_depths, note_commits

from twinline.core.store import Store
from twinline.stores.memory import MemoryStore
from twinline.stores.sqlite import SqliteStore

STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda _: MemoryStore(THREE_DEEP),
    "sqlite": lambda folder: SqliteStore(folder / "chat.db", THREE_DEEP),
}


@pytest.mark.parametrize("kind", STORES)
def test_the_deepest_mailbox_and_those_that_are_full(kind: str, tmp_path: Path) -> None:
    with STORES[kind](tmp_path) as store:
        fill_to_three_depths(store)


def test_commits_are_told_with_their_writes(tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "chat.db", THREE_DEEP) as store:
        note_commits(store)
