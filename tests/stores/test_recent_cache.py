"""The cache of what several servers change: it never gives what it was told is outdated."""

import threading
from collections.abc import Callable

import pytest
from waiting import Call, wait_event

from twinline.stores.shared.cache import RecentCache

Cache = RecentCache[str, int, str]


class Table:
    """What is cached: values by key, and how often they were read."""

    def __init__(self) -> None:
        self.value: str | None = "old"
        self.reads = 0
        self.cache: Cache = RecentCache("cache", most=3, keep_seconds=10.0, clock=lambda: self.now)
        self.now = 0.0

    def read(self) -> str | None:
        self.reads += 1
        return self.value

    def get(self, group: str = "ann", key: int = 1, *, trusted: bool = True) -> str | None:
        return self.cache.get(group, key, self.read, trusted=trusted)

    def slowly(self, meanwhile: Callable[[], object]) -> str | None:
        """Read, and have something happen between the reading and its end."""

        def read() -> str | None:
            value = self.read()
            meanwhile()
            return value

        return self.cache.get("ann", 1, read)


@pytest.fixture
def table() -> Table:
    return Table()


def test_what_was_read_is_kept_for_its_time(table: Table) -> None:
    assert table.get() == table.get() == "old"
    assert table.reads == 1
    table.now = 9.9
    assert table.get() == "old"
    table.now = 10.0
    table.value = "new"
    assert table.get() == "new"
    assert table.reads == 2
    assert len(table.cache) == 1


def test_nothing_is_not_kept(table: Table) -> None:
    table.value = None
    assert table.get() is None
    table.value = "new"
    assert table.get() == "new"


def test_what_is_not_trusted_is_read(table: Table) -> None:
    table.get()
    table.value = "new"
    assert table.get(trusted=False) == "new"
    assert table.get() == "new"
    assert table.reads == 2


def test_the_time_counts_from_the_beginning_of_the_read(table: Table) -> None:
    def pass_time() -> None:
        table.now = 9.0

    table.slowly(pass_time)
    table.now = 11.0
    table.get()
    assert table.reads == 2


FORGETTING: dict[str, Callable[[Cache], object]] = {
    "a notice": lambda cache: cache.forget(["bob", "ann"]),
    "a gap": lambda cache: cache.clear(),
}


@pytest.mark.parametrize("forget", FORGETTING.values(), ids=FORGETTING)
def test_what_has_changed_is_forgotten(table: Table, forget: Callable[[Cache], object]) -> None:
    table.get()
    table.value = "new"
    forget(table.cache)
    assert len(table.cache) == 0
    assert table.get() == "new"


@pytest.mark.parametrize("forget", FORGETTING.values(), ids=FORGETTING)
def test_a_reader_who_began_before_the_change_keeps_nothing(
    table: Table, forget: Callable[[Cache], object]
) -> None:
    def change() -> None:
        table.value = "new"
        forget(table.cache)

    assert table.slowly(change) == "old"
    assert table.get() == "new"


def test_others_are_not_forgotten(table: Table) -> None:
    for key in (1, 2):
        table.get("bob", key)
    table.slowly(lambda: table.cache.forget(["carl"]))
    table.cache.forget(["carl"])
    for group, key in (("bob", 1), ("bob", 2), ("ann", 1)):
        table.get(group, key)
    assert table.reads == 3


def test_while_a_group_changes_it_is_read(table: Table) -> None:
    table.get()
    with table.cache.changing("ann"):
        assert table.get() == "old"
        table.value = "new"
        assert table.get() == "new"
        assert table.reads == 3
    assert table.get() == "new"
    assert table.reads == 4
    with pytest.raises(KeyError), table.cache.changing("ann"):
        raise KeyError
    table.get()
    table.get()
    assert table.reads == 5


def test_a_reader_who_began_before_a_change_of_this_server_keeps_nothing(table: Table) -> None:
    def change() -> None:
        with table.cache.changing("ann"):
            table.value = "new"

    assert table.slowly(change) == "old"
    assert table.get() == "new"


def test_a_reader_who_ends_while_a_group_changes_keeps_nothing(table: Table) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def change() -> None:
        with table.cache.changing("ann"), table.cache.changing("ann"):
            begun.set()
            wait_event(go_on, "the reader")
            table.value = "new"

    changing = Call(change)
    wait_event(begun, "the change")
    assert table.get() == "old"
    go_on.set()
    changing.outcome()
    assert table.get() == "new"


def test_what_this_server_has_changed_is_changed_where_it_is_kept(table: Table) -> None:
    table.cache.amend("ann", 1, str.upper)
    table.get()
    table.cache.amend("ann", 1, str.upper)
    assert table.get() == "OLD"
    assert table.reads == 1


def test_the_first_to_come_is_the_first_to_go(table: Table) -> None:
    for key in range(4):
        table.get("bob", key)
    table.get("bob", 3)
    assert table.reads == 4
    table.get("bob", 0)
    assert table.reads == 5
    assert len(table.cache) == 3
    table.cache.forget(["bob"])
    assert len(table.cache) == 0


def test_a_read_that_fails_keeps_nothing(table: Table) -> None:
    def fail() -> None:
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011 - the very one
        table.slowly(fail)
    assert table.get() == "old"
    assert table.reads == 2
