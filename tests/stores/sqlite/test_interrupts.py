"""A call on the SQLite store that a signal's handler interrupts harms nobody, wherever it is."""

import gc
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from interrupting import Interrupt, bombard, each_place, interrupt
from sqlite_faults import Faults, Gate
from store_samples import account, draft, session
from waiting import Call, wait_event, wait_until

from twinline.core.store import Accepted
from twinline.stores.sqlite import SqliteStore, Synchronous
from twinline.stores.sqlite.readers import CONNECTIONS

ALL = 10**9
SOON = 10.0  # others would wait 30 s
OTHERS = 8
LONG = pytest.mark.timeout(600)
pytestmark = [
    # A connection that an interrupted call was about to open is closed by the collector; what is
    # raised while a generator is closed is shown and goes no further.
    pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def opened(path: Path, faults: Faults) -> SqliteStore:
    store = SqliteStore(path, synchronous=Synchronous.NORMAL, factory=faults.factory)
    if store.accounts.find("bob") is None:
        store.mailboxes.create("id-bob")
        store.accounts.create(account("bob"))
        store.accounts.open_session(session("bob", "bob"))
    return store


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Leave nothing to collect to the next test."""
    yield
    gc.collect()


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def store(tmp_path: Path, faults: Faults) -> Iterator[SqliteStore]:
    with opened(tmp_path / "s.db", faults) as store:
        yield store


def send(store: SqliteStore, body: str = "hello") -> Accepted:
    return store.mailboxes.append("id-bob", draft(body))


def read(store: SqliteStore) -> int:
    last = store.mailboxes.history("id-bob", None, 2, ALL, 1).messages
    return last[-1].seq if last else 0


def test_those_behind_an_interrupted_write_are_told_that_theirs_is_committed(
    store: SqliteStore, faults: Faults
) -> None:
    at = 0
    place: str | None = ""
    while place is not None:
        gate = faults.stop_at("COMMIT")
        first = Call(partial(send, store))
        wait_event(gate.reached, "the first commit begins")
        over = threading.Event()

        def others(gate: Gate = gate, over: threading.Event = over) -> list[Call]:
            # Behind the main thread's write in one transaction, if it came so far.
            wait_until(lambda: store._writer._waiting or over.is_set(), "it waits")
            sends = [Call(partial(send, store)) for _ in range(OTHERS)]
            wait_until(lambda: len(store._writer._waiting) >= OTHERS, "the others wait")
            gate.let_go.set()
            return sends

        behind = Call(others)
        place = interrupt(partial(send, store), at)
        over.set()
        sends = cast("list[Call]", behind.outcome())
        assert isinstance(first.outcome(), Accepted)
        for one in sends:
            assert isinstance(one.outcome(SOON), Accepted), place
        at += 1
    assert at > 20, "every place of a send was interrupted"


@pytest.mark.parametrize(
    "look",
    [
        lambda store: store.mailboxes.read("id-bob", 0, 2, ALL),
        lambda store: store.accounts._read("bob"),
        lambda store: store.accounts.is_free("ann"),
        lambda store: store.mailboxes.history("id-bob", None, 2, ALL, 1),
        lambda store: store.mailboxes.standing("id-bob"),
    ],
    ids=["read", "find", "is_free", "history", "standing"],
)
def test_an_interrupted_read_costs_no_connection_and_keeps_no_snapshot(
    store: SqliteStore, look: Callable[[SqliteStore], object]
) -> None:
    kept: list[BaseException] = []  # as a debugger keeps the last error, and its frames

    def looks() -> None:
        try:
            look(store)
        except Interrupt as error:
            kept.append(error)
            raise

    places = 0
    for _ in each_place(looks):
        places += 1
        before = read(store)
        send(store)
        assert read(store) == before + 1, "an old snapshot is read"
    assert places > 5
    # All connections at once, each held until every other is lent as well.
    all_lent = threading.Barrier(CONNECTIONS)

    def hold() -> None:
        with store._readers.reading():
            all_lent.wait(SOON)

    for call in [Call(hold) for _ in range(CONNECTIONS)]:
        call.outcome()


@pytest.mark.parametrize("step", [13, pytest.param(1, marks=LONG, id="each place")])
def test_a_store_whose_opening_or_closing_is_interrupted_lets_the_next_one_open(
    tmp_path: Path, faults: Faults, step: int
) -> None:
    path = tmp_path / "s.db"
    opened(path, faults).close()
    kept: list[SqliteStore] = []

    def opening() -> None:
        kept.append(SqliteStore(path, synchronous=Synchronous.NORMAL))

    def closing() -> None:
        kept[-1].close()

    for place in each_place(opening, step):
        while kept:
            kept.pop().close()
        assert not [each for each in threading.enumerate() if "sqlite" in each.name], place
        opening()
        kept.pop().close()
    for _ in each_place(closing, step):
        closing()
        kept.clear()
        opening()


@pytest.mark.parametrize("count", [1_000, pytest.param(20_000, marks=LONG)])
def test_real_signals_leave_a_store_as_good_as_new(store: SqliteStore, count: int) -> None:
    over = threading.Event()
    sent = [0] * 4

    def go_on(index: int) -> None:
        while not over.is_set():
            send(store)
            store.mailboxes.ack("id-bob", read(store), 1)
            sent[index] += 1

    def use() -> None:
        send(store)
        store.mailboxes.standing("id-bob")
        store.accounts._read("bob")

    others = [Call(partial(go_on, index)) for index in range(4)]
    try:
        bombard(use, count, seconds=count / 50)
    finally:
        over.set()
    for call in others:
        call.outcome()
    assert min(sent) > 0
