"""How full a store says that its mailboxes are."""

from collections.abc import Callable
from pathlib import Path

import pytest

from twinline.core.store import Depths, Draft, MailboxPolicy, Store
from twinline.stores.memory import MemoryStore
from twinline.stores.sqlite import SqliteStore

POLICY = MailboxPolicy(mailbox_messages=3)
STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda _: MemoryStore(POLICY),
    "sqlite": lambda folder: SqliteStore(folder / "chat.db", POLICY),
}


@pytest.mark.parametrize("kind", STORES)
def test_the_deepest_mailbox_and_those_that_are_full(kind: str, tmp_path: Path) -> None:
    with STORES[kind](tmp_path) as store:
        boxes = store.mailboxes
        assert boxes.depths() == Depths(0, 0, 0)
        for name, count in (("empty", 0), ("two", 2), ("full", 3)):
            boxes.create(name)
            for number in range(count):
                boxes.append(name, Draft(f"{number:024x}", "s", "sam", "hello", 1))
        assert boxes.depths() == Depths(3, 3, 1)
        boxes.set_quota("two", 2)
        assert boxes.depths() == Depths(3, 3, 2)
        boxes.set_quota("full", 9)
        assert boxes.depths() == Depths(3, 3, 1)
        boxes.ack("full", 3, 2)
        assert boxes.depths() == Depths(3, 2, 1)


def test_commits_are_told_with_their_writes(tmp_path: Path) -> None:
    told: list[tuple[int, float]] = []
    with SqliteStore(tmp_path / "chat.db", POLICY) as store:
        store.on_commit(lambda writes, seconds: told.append((writes, seconds)))
        store.mailboxes.create("box")
        store.mailboxes.append("box", Draft("0" * 24, "s", "sam", "hello", 1))
    assert sum(writes for writes, _ in told) >= 2
    assert all(writes >= 1 and 0 < seconds < 60 for writes, seconds in told)
