"""A damaged page costs those who need it, and nobody else."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlite_faults import Faults
from store_samples import account, draft, key, session
from waiting import Call, wait_event, wait_until

from twinline.core.errors import StoreUnavailable
from twinline.core.store import Accepted
from twinline.stores.shared.complaints import SECONDS, Complaints
from twinline.stores.sqlite import SqliteStore

NAMES = ("ann", "bob", "carl")
MESSAGES = 120  # each of half a KiB: a mailbox has pages to itself
LAST = "the last one to bob"
PAGE = 4096


def fill(path: Path) -> None:
    with SqliteStore(path) as store:
        for name in NAMES:
            store.mailboxes.create(f"id-{name}")
            store.accounts.create(account(name))
            for _ in range(MESSAGES):
                store.mailboxes.append(f"id-{name}", draft("x" * 500))
            if name == "bob":
                store.mailboxes.append("id-bob", draft(LAST + "x" * 500))
        store.accounts.open_session(session("token"))


def damage(path: Path) -> None:
    """Spoil the page that has bob's last message, and gets his next."""
    content = path.read_bytes()
    assert content.count(LAST.encode()) == 1
    at = content.index(LAST.encode()) // PAGE * PAGE
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * PAGE)


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def store(tmp_path: Path, faults: Faults) -> Iterator[SqliteStore]:
    path = tmp_path / "s.db"
    fill(path)
    damage(path)
    with SqliteStore(path, factory=faults.factory) as store:
        yield store


def send(store: SqliteStore, name: str) -> Accepted:
    return store.mailboxes.append(f"id-{name}", draft())


def test_a_write_that_needs_a_damaged_page_is_refused_alone(
    store: SqliteStore, faults: Faults
) -> None:
    writes: list[Callable[[], object]] = [
        partial(send, store, ("ann", "carl")[number % 2]) for number in range(40)
    ]
    writes[17:17] = [partial(send, store, "bob")]
    writes[25:25] = [partial(send, store, "bob")]
    # It puts the messages that wait into the table, others' as well.
    writes += [partial(store.mailboxes.ack, "id-ann", 3, 1)]
    writes += [partial(store.accounts.open_session, session("another"))]
    store.accounts.close_session(key("none"))  # behind what opening the file has left to do
    gate = faults.stop_at("COMMIT")
    first = Call(partial(send, store, "ann"))
    wait_event(gate.reached, "the first commit begins")
    calls = []
    for write in writes:
        calls.append(Call(write))
        wait_until(lambda: len(store._writer._waiting) == len(calls), "it waits behind the others")
    gate.let_go.set()
    first.outcome()
    refused = []
    for index, call in enumerate(calls):
        try:
            call.outcome()
        except StoreUnavailable:
            refused.append(index)
    assert refused == [17, 25]
    assert store.mailboxes.standing("id-carl").unread == MESSAGES + 20
    assert store.accounts.find_session(key("another")) is not None
    # Nobody was refused meanwhile, and what was refused left no gap.
    assert [each.seq for each in store.mailboxes.read("id-ann", MESSAGES, 100, 10**6).messages] == [
        MESSAGES + 1 + number for number in range(21)
    ]


def test_it_is_told_now_and_then(store: SqliteStore, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for _ in range(50):
            with pytest.raises(StoreUnavailable):
                send(store, "bob")
            with pytest.raises(StoreUnavailable):
                store.mailboxes.read("id-bob", MESSAGES - 1, 10, 10**6)
    texts = sorted(record.getMessage() for record in caplog.records)
    assert texts == [
        "a write that needs a damaged page is refused: database disk image is malformed",
        "the store cannot be read: database disk image is malformed",
    ]


def test_a_complaint_says_how_many_it_stands_for(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    complaints = Complaints(logging.getLogger("test"), clock=lambda: now[0])
    for step in (0.0, SECONDS - 1, 0.5, 1.0, 0.5, SECONDS):
        now[0] += step
        complaints.error("it fails: %s", now[0])
    assert [record.getMessage() for record in caplog.records] == [
        "it fails: 0.0",
        "it fails: 10.5 (and 2 times more before this)",
        "it fails: 21.0 (and 1 times more before this)",
    ]
