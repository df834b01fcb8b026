"""A call about accounts that a signal's handler interrupts harms nobody, wherever it is."""

import gc
from collections.abc import Callable, Iterator
from itertools import count

import pytest
from interrupting import interrupt
from postgres_node import AccountsNode
from store_samples import account, session
from waiting import Call

from twinline.core.passwords import profile_of
from twinline.core.store import SessionRecord

SOON = 10.0
EVERY = 7
"""One place in so many is tried; all of them take a minute."""
pytestmark = [
    # What an interrupted call had opened is closed by the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def node(store_url: str) -> Iterator[AccountsNode]:
    with AccountsNode(store_url) as node:
        node.accounts.create(account("ann"))
        yield node
    gc.collect()


def another_hash(node: AccountsNode, number: int) -> None:
    known = node.accounts.find("ann").password_hash
    new = f"$argon2id$v=19$m={8 + number % 2},t=1,p=1$salt${number}"
    node.accounts.change_password("id-ann", new, instead_of=known, keep=b"")


CALLS: dict[str, Callable[[AccountsNode, SessionRecord, int], object]] = {
    "find": lambda node, known, _n: node.accounts.find("ann"),
    "find_session": lambda node, known, _n: node.accounts.find_session(known.key),
    "recipient": lambda node, known, _n: node.accounts.recipient("ann"),
    "open_session": lambda node, _known, n: node.accounts.open_session(session(f"new {n}"), most=2),
    "close_session": lambda node, known, _n: node.accounts.close_session(known.key),
    "touch_session": lambda node, known, n: node.accounts.touch_session(known.key, n),
    "change_password": lambda node, _known, n: another_hash(node, n),
    "note_address": lambda node, _known, n: node.accounts.note_address("id-ann", "::1", n, most=2),
    "change": lambda node, _known, _n: node.states.change("key", _count, keep_ms=60_000),
}


def _count(value: bytes | None) -> bytes:
    return b"%d" % (int(value or b"0") + 1)


@pytest.mark.parametrize("name", CALLS)
def test_an_interrupted_call_holds_up_nobody_and_leaves_nothing_half(
    node: AccountsNode, name: str
) -> None:
    numbers = count()

    def others() -> None:
        """Do all that there is to do, as other threads do, and see that it is done."""
        own, number = node.accounts, next(numbers)
        record = session(f"other {number}")
        own.open_session(record)
        assert own.find_session(record.key) == record
        assert own.recipient("ann") == "id-ann"
        node.states.change("key", _count, keep_ms=60_000)
        another_hash(node, number)
        assert own.find_session(record.key) is None
        found = own.find("ann")
        assert found is not None
        assert dict(own.hash_profiles()) == {profile_of(found.password_hash): 1}

    place: str | None = ""
    for at in count(0, EVERY):
        known = session(f"known {at}")
        Call(lambda known=known: node.accounts.open_session(known)).outcome(SOON)  # type: ignore[misc]
        place = interrupt(lambda at=at, known=known: CALLS[name](node, known, at), at)  # type: ignore[misc]
        Call(others).outcome(SOON)
        if place is None:
            break
    assert at > EVERY, "several places were interrupted"
