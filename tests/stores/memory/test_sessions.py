"""The sessions of the in-memory store: who has one, who ends it, and who is woken by that."""

import pytest
from store_samples import account, session

from twinline.core.errors import NoSuchUser
from twinline.core.locks import may_block
from twinline.stores.memory import MemoryStore
from twinline.stores.memory.accounts import MemoryAccounts


@pytest.fixture
def accounts() -> MemoryAccounts:
    return MemoryStore().accounts


class Wakes:
    """Counts the wakes of each subscription; a wake with a lock held is a breach of the rule."""

    def __init__(self) -> None:
        self.of: list[str] = []

    def named(self, name: str) -> "Wakes.Wake":
        return Wakes.Wake(self, name)

    class Wake:
        def __init__(self, wakes: "Wakes", name: str) -> None:
            self.wakes, self.name = wakes, name

        def __call__(self) -> None:
            may_block("a wake")
            self.wakes.of.append(self.name)


def test_a_session_is_found_by_its_token_hash(accounts: MemoryAccounts) -> None:
    accounts.create(account("ann"))
    record = session("one")
    assert accounts.find_session(b"one") is None
    accounts.open_session(record)
    assert accounts.find_session(b"one") == record
    assert accounts.find_session(b"on") is None


def test_a_session_needs_its_account(accounts: MemoryAccounts) -> None:
    with pytest.raises(NoSuchUser):
        accounts.open_session(session("one"))
    accounts.create(account("ann"))
    accounts.withdraw("id-ann", keep_name=False)
    accounts.create(account("ann", "id-ann-2"))
    with pytest.raises(NoSuchUser):
        accounts.open_session(session("one"))
    assert accounts.find_session(b"one") is None


def test_a_token_is_used_once(accounts: MemoryAccounts) -> None:
    for name in ("ann", "bob"):
        accounts.create(account(name))
    accounts.open_session(session("one", "ann"))
    with pytest.raises(ValueError, match="used twice") as caught:
        accounts.open_session(session("one", "bob"))
    assert "one" not in str(caught.value)
    assert accounts.find_session(b"one") == session("one", "ann")
    accounts.withdraw("id-bob", keep_name=False)
    assert accounts.find_session(b"one") == session("one", "ann")


def test_touching_a_session(accounts: MemoryAccounts) -> None:
    accounts.create(account("ann"))
    accounts.open_session(session("one"))
    accounts.touch_session(b"one", 77)
    found = accounts.find_session(b"one")
    assert found is not None
    assert (found.used_at, found.opened_at, found.username) == (77, 1, "ann")
    accounts.touch_session(b"gone", 78)
    assert accounts.find_session(b"gone") is None


def test_closing_a_session_ends_that_one_alone(accounts: MemoryAccounts) -> None:
    accounts.create(account("ann"))
    wakes = Wakes()
    for token in ("one", "two"):
        accounts.open_session(session(token))
        accounts.on_session_end(token.encode(), wakes.named(token))
        accounts.on_session_end(token.encode(), wakes.named(f"{token} again"))
    accounts.close_session(b"one")
    assert sorted(wakes.of) == ["one", "one again"]
    assert accounts.find_session(b"one") is None
    assert accounts.find_session(b"two") is not None
    accounts.close_session(b"one")
    accounts.close_session(b"never was")
    assert len(wakes.of) == 2


def test_closing_the_other_sessions(accounts: MemoryAccounts) -> None:
    wakes = Wakes()
    for name, tokens in (("ann", ("one", "two", "three")), ("bob", ("four",))):
        accounts.create(account(name))
        for token in tokens:
            accounts.open_session(session(token, name))
            accounts.on_session_end(token.encode(), wakes.named(token))
    accounts.close_other_sessions("id-ann", keep=b"two")
    assert sorted(wakes.of) == ["one", "three"]
    assert accounts.find_session(b"two") is not None
    assert accounts.find_session(b"four") is not None
    # A token of another account keeps none of this one's.
    accounts.close_other_sessions("id-ann", keep=b"four")
    assert sorted(wakes.of) == ["one", "three", "two"]
    assert accounts.find_session(b"four") is not None
    accounts.close_other_sessions("id-ann", keep=b"two")
    accounts.close_other_sessions("never was", keep=b"two")
    assert len(wakes.of) == 3


def test_withdrawing_ends_every_session_of_the_account_and_no_other(
    accounts: MemoryAccounts,
) -> None:
    wakes = Wakes()
    for name, tokens in (("ann", ("one", "two")), ("bob", ("three",))):
        accounts.create(account(name))
        for token in tokens:
            accounts.open_session(session(token, name))
            accounts.on_session_end(token.encode(), wakes.named(token))
    accounts.withdraw("id-ann", keep_name=False)
    assert sorted(wakes.of) == ["one", "two"]
    assert accounts.find_session(b"one") is accounts.find_session(b"two") is None
    assert accounts.find_session(b"three") is not None


def test_a_subscription_ends_once_and_for_itself(accounts: MemoryAccounts) -> None:
    accounts.create(account("ann"))
    accounts.open_session(session("one"))
    wakes = Wakes()
    same = wakes.named("same")
    unsubscribe = accounts.on_session_end(b"one", same)
    accounts.on_session_end(b"one", same)
    unsubscribe()
    unsubscribe()
    accounts.close_session(b"one")
    assert wakes.of == ["same"]
    unsubscribe()


def test_nothing_is_called_for_a_session_that_is_gone(accounts: MemoryAccounts) -> None:
    accounts.create(account("ann"))
    wakes = Wakes()
    unsubscribe = accounts.on_session_end(b"one", wakes.named("one"))
    accounts.open_session(session("one"))
    accounts.close_session(b"one")
    assert wakes.of == []
    unsubscribe()


def test_what_has_ended_leaves_nothing_behind(accounts: MemoryAccounts) -> None:
    for number in range(20):
        accounts.create(account("ann"))
        accounts.open_session(session(f"a{number}"))
        accounts.open_session(session(f"b{number}"))
        accounts.on_session_end(b"a", Wakes().named("a"))
        accounts.close_session(f"a{number}".encode())
        accounts.withdraw("id-ann", keep_name=False)
    held = (accounts._by_name, accounts._by_id, accounts._sessions, accounts._tokens)
    assert [len(each) for each in held] == [0, 0, 0, 0]
    assert len(accounts._names) == 0
    assert accounts._reserved == set()


def test_a_session_opens_only_with_the_password_that_was_verified(
    accounts: MemoryAccounts,
) -> None:
    accounts.create(account("ann"))
    known = accounts.find("ann")
    assert known is not None
    accounts.open_session(session("one"), verified=known.password_hash)
    with pytest.raises(NoSuchUser):
        accounts.open_session(session("two"), verified="$argon2id$another")
    assert accounts.find_session(b"two") is None


def test_beyond_the_most_the_session_that_was_used_longest_ago_ends(
    accounts: MemoryAccounts,
) -> None:
    accounts.create(account("ann"))
    ended: list[str] = []
    for number, token in enumerate(("one", "two", "three")):
        accounts.open_session(session(token), most=3)
        accounts.touch_session(token.encode(), number)
        accounts.on_session_end(token.encode(), lambda token=token: ended.append(token))  # type: ignore[misc]
    accounts.touch_session(b"one", 9)
    accounts.open_session(session("four"), most=3)
    assert ended == ["two"]
    accounts.open_session(session("five"), most=1)
    assert accounts.find_session(b"five") is not None
