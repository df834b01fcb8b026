"""The sorted set of names: it stays sorted, in short chunks, whatever comes and goes."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinline.stores.memory import sorted_names
from twinline.stores.memory.sorted_names import CHUNK_NAMES, SortedNames


def all_of(names: SortedNames, start: str = "") -> list[str]:
    found: list[str] = []
    while chunk := names.chunk_from(start):
        found += chunk
        start = f"{chunk[-1]}\0"
    return found


def check_shape(names: SortedNames) -> None:
    assert all(1 <= len(chunk) <= sorted_names.CHUNK_NAMES for chunk in names._chunks)
    assert names._lasts == [chunk[-1] for chunk in names._chunks]
    assert len(names) == sum(map(len, names._chunks))


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_names, "CHUNK_NAMES", 8)


def test_an_empty_set_has_no_names() -> None:
    names = SortedNames()
    assert len(names) == 0
    assert names.chunk_from("") == []


def test_a_chunk_begins_at_the_first_name_that_is_not_below_the_start() -> None:
    names = SortedNames()
    for name in ("bob", "ann", "cat"):
        names.add(name)
    assert names.chunk_from("") == ["ann", "bob", "cat"]
    assert names.chunk_from("bob") == ["bob", "cat"]
    assert names.chunk_from("bob\0") == ["cat"]
    assert names.chunk_from("bo") == ["bob", "cat"]
    assert names.chunk_from("cat\0") == []


def test_a_chunk_is_a_copy() -> None:
    names = SortedNames()
    names.add("ann")
    names.chunk_from("").clear()
    assert names.chunk_from("") == ["ann"]


@pytest.mark.parametrize("missing", ["a", "bobby", "z"])
def test_what_is_not_there_cannot_be_removed(missing: str) -> None:
    names = SortedNames()
    with pytest.raises(KeyError):
        names.remove(missing)
    names.add("bob")
    with pytest.raises(KeyError):
        names.remove(missing)
    assert all_of(names) == ["bob"]
    assert len(names) == 1


@pytest.mark.parametrize("order", ["rising", "falling", "shuffled"])
def test_no_chunk_grows_beyond_its_size(order: str) -> None:
    wanted = [f"user{number:05}" for number in range(3 * CHUNK_NAMES)]
    added = wanted[:: -1 if order == "falling" else 1]
    if order == "shuffled":
        random.Random(7).shuffle(added)
    names = SortedNames()
    for name in added:
        names.add(name)
    check_shape(names)
    assert all_of(names) == wanted


@pytest.mark.usefixtures("short_chunks")
def test_what_many_removals_leave_is_in_few_chunks() -> None:
    names = SortedNames()
    for number in range(800):
        names.add(f"{number:03}")
    for number in range(800):
        if number % 20:
            names.remove(f"{number:03}")
    check_shape(names)
    assert all_of(names) == [f"{number:03}" for number in range(0, 800, 20)]
    # 40 names could need 40 chunks; joined they need no more than one for every two.
    assert len(names._chunks) <= 20


@pytest.mark.usefixtures("short_chunks")
def test_a_low_chunk_whose_neighbour_is_full_stays() -> None:
    names = SortedNames()
    for number in range(9):  # splits into 4 and 5
        names.add(f"{number}")
    for name in ("41", "42", "43"):
        names.add(name)
    assert [len(chunk) for chunk in names._chunks] == [4, 8]
    for name in ("0", "1", "2"):
        names.remove(name)
    assert [len(chunk) for chunk in names._chunks] == [1, 8]
    names.remove("3")
    assert [len(chunk) for chunk in names._chunks] == [8]
    check_shape(names)


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize(("removed", "left"), [("0123", "45678"), ("87654", "0123")])
def test_a_low_chunk_joins_the_neighbour_that_it_has(removed: str, left: str) -> None:
    names = SortedNames()
    for name in "012345678":
        names.add(name)
    assert [len(chunk) for chunk in names._chunks] == [4, 5]
    for name in removed[:-1]:
        names.remove(name)
    assert names._chunks == [sorted(left + removed[-1])]
    names.remove(removed[-1])
    assert names._chunks == [list(left)]
    check_shape(names)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=200), st.text("0123456", max_size=3))
def test_it_holds_what_a_set_holds(numbers: list[int], start: str) -> None:
    """Each number is added when it is absent and removed when it is there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_names, "CHUNK_NAMES", 8)
        names, model = SortedNames(), set[str]()
        for number in numbers:
            name = f"{number}"
            if name in model:
                model.remove(name)
                names.remove(name)
            else:
                model.add(name)
                names.add(name)
        check_shape(names)
        assert all_of(names, start) == sorted(name for name in model if name >= start)
