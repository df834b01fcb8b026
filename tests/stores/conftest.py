"""Both built-in stores, for what is asked of every store."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from twinline.core.store import Accounts, Mailboxes, MailboxPolicy, Store
from twinline.stores.memory import MemoryStore
from twinline.stores.sqlite import SqliteStore, Synchronous

OpenStore = Callable[..., Store]


@pytest.fixture(params=["memory", "sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """What opens an empty store under a policy; all are closed after the test."""
    with ExitStack() as opened:
        paths = (tmp_path / f"{number}.db" for number in range(1_000))

        def open_one(**policy: float) -> Store:
            kept = MailboxPolicy.model_validate(policy)
            if request.param == "memory":
                return opened.enter_context(MemoryStore(kept))
            return opened.enter_context(
                SqliteStore(next(paths), kept, synchronous=Synchronous.NORMAL)
            )

        yield open_one


@pytest.fixture
def accounts(open_store: OpenStore) -> Accounts:
    return open_store().accounts


@pytest.fixture
def open_boxes(open_store: OpenStore) -> Callable[..., Mailboxes]:
    """What opens empty mailboxes of ann and bob under a policy."""

    def opened(**policy: float) -> Mailboxes:
        boxes = open_store(**policy).mailboxes
        for account_id in ("ann", "bob"):
            boxes.create(account_id)
        return boxes

    return opened
