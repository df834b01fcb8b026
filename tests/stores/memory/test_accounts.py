"""The accounts half of the in-memory store: names, pages, sessions, and who is woken."""

import threading
from collections.abc import Iterator

import pytest
from sortedcontainers import SortedList
from store_samples import account, session
from waiting import join, wait_event, wait_until

from twinline.core.errors import NoSuchUser, UsernameTaken
from twinline.core.locks import may_block
from twinline.core.names import NamePattern
from twinline.core.store import UsernamePage
from twinline.stores.memory import MemoryStore
from twinline.stores.memory.accounts import CHUNK_NAMES, MemoryAccounts


@pytest.fixture
def accounts() -> MemoryAccounts:
    return MemoryStore().accounts


def with_names(*names: str) -> MemoryAccounts:
    accounts = MemoryAccounts()
    for name in names:
        accounts.create(account(name))
    return accounts


# --- accounts


def test_an_account_is_found_by_its_name(accounts: MemoryAccounts) -> None:
    ann = account("ann")
    assert accounts.find("ann") is None
    assert accounts.is_free("ann")
    accounts.create(ann)
    assert accounts.find("ann") == ann
    assert not accounts.is_free("ann")
    assert accounts.find("bob") is None


def test_a_name_is_taken_once(accounts: MemoryAccounts) -> None:
    ann = account("ann")
    accounts.create(ann)
    with pytest.raises(UsernameTaken):
        accounts.create(account("ann", "another id"))
    assert accounts.find("ann") == ann
    assert accounts.page(NamePattern("*"), None, 10).usernames == ("ann",)
    # The refused id is still free.
    accounts.create(account("bob", "another id"))


def test_an_id_is_used_once(accounts: MemoryAccounts) -> None:
    accounts.create(account("ann"))
    with pytest.raises(ValueError, match="used twice"):
        accounts.create(account("bob", "id-ann"))
    assert accounts.find("bob") is None
    assert accounts.is_free("bob")
    assert accounts.page(NamePattern("*"), None, 10).usernames == ("ann",)


def test_another_password_hash(accounts: MemoryAccounts) -> None:
    accounts.create(account("ann"))
    before = account("ann").password_hash
    assert accounts.set_password_hash("id-ann", "$argon2id$new", instead_of=before)
    assert not accounts.set_password_hash("id-ann", "$argon2id$late", instead_of=before)
    found = accounts.find("ann")
    assert found is not None
    assert (found.password_hash, found.account_id, found.created_at) == (
        "$argon2id$new",
        "id-ann",
        1,
    )
    assert accounts.withdraw("id-ann", keep_name=False)
    with pytest.raises(NoSuchUser):
        accounts.set_password_hash("id-ann", "$argon2id$newer", instead_of="$argon2id$new")


def test_withdrawing_frees_the_name_or_keeps_it(accounts: MemoryAccounts) -> None:
    for name in ("ann", "bob"):
        accounts.create(account(name))
    assert accounts.withdraw("id-ann", keep_name=False)
    assert accounts.withdraw("id-bob", keep_name=True)
    assert accounts.find("ann") is None
    assert accounts.find("bob") is None
    assert accounts.page(NamePattern("*"), None, 10).usernames == ()
    assert accounts.is_free("ann")
    assert not accounts.is_free("bob")
    with pytest.raises(UsernameTaken):
        accounts.create(account("bob", "id-bob-2"))
    accounts.create(account("ann", "id-ann-2"))
    found = accounts.find("ann")
    assert found is not None
    assert found.account_id == "id-ann-2"


def test_an_account_is_withdrawn_once(accounts: MemoryAccounts) -> None:
    accounts.create(account("ann"))
    assert accounts.withdraw("id-ann", keep_name=True)
    assert not accounts.withdraw("id-ann", keep_name=True)
    assert not accounts.withdraw("never was", keep_name=True)


# --- pages


@pytest.mark.parametrize(
    ("pattern", "after", "limit", "usernames", "more"),
    [
        ("*", None, 10, "ab abc b bc c", False),
        ("*", None, 5, "ab abc b bc c", False),
        ("*", None, 4, "ab abc b bc", True),
        ("*", "ab", 10, "abc b bc c", False),
        ("*", "aa", 10, "ab abc b bc c", False),
        ("*", "c", 10, "", False),
        ("*", "", 1, "ab", True),
        ("*", "ABC", 10, "ab abc b bc c", False),
        ("a*", None, 10, "ab abc", False),
        ("a*", None, 1, "ab", True),
        ("a*", None, 2, "ab abc", False),
        ("a*", "ab", 1, "abc", False),
        ("a*", "abc", 1, "", False),
        ("b*", "a", 10, "b bc", False),
        ("a*", "b", 10, "", False),
        ("*c", None, 2, "abc bc", True),
        ("*c", None, 3, "abc bc c", False),
        ("*c", "bc", 3, "c", False),
        ("*b*", None, 3, "ab abc b", True),
        ("*b", None, 2, "ab b", False),
        ("?", None, 10, "b c", False),
        ("?b?", None, 10, "abc", False),
        ("b", None, 10, "b", False),
        ("b", "a", 10, "b", False),
        ("b", "b", 10, "", False),
        ("b", "c", 10, "", False),
        ("B", None, 10, "b", False),
        ("d", None, 10, "", False),
        ("", None, 10, "", False),
        ("z*", None, 10, "", False),
    ],
)
def test_pages(pattern: str, after: str | None, limit: int, usernames: str, more: bool) -> None:
    accounts = with_names("bc", "b", "abc", "c", "ab")
    page = accounts.page(NamePattern(pattern), after, limit)
    assert page == UsernamePage(tuple(usernames.split()), more)


@pytest.mark.parametrize("limit", [1, 7, CHUNK_NAMES, 10_000])
@pytest.mark.parametrize("pattern", ["*", "user00*", "*7*"])
def test_pages_follow_each_other_without_gap_or_repeat(pattern: str, limit: int) -> None:
    names = [f"user{number:04}" for number in range(2 * CHUNK_NAMES + 3)]
    accounts = with_names(*names)
    wanted = [name for name in names if NamePattern(pattern).matches(name)]
    if limit == 1:
        wanted = wanted[:40]
    read: list[str] = []
    more = True
    while more and len(read) < len(wanted):
        page = accounts.page(NamePattern(pattern), read[-1] if read else None, limit)
        read += page.usernames
        more = page.more
    assert read == wanted


class CountingPattern(NamePattern):
    """A pattern that counts the names it was asked about."""

    asked = 0

    def matches(self, username: str) -> bool:
        self.asked += 1
        return super().matches(username)


class CountingNames(SortedList):
    """A sorted list that counts how often and how much was copied out of it."""

    copies = 0
    copied = 0

    def irange(self, minimum: str) -> Iterator[str]:
        self.copies += 1
        for name in super().irange(minimum):
            self.copied += 1
            yield name


@pytest.fixture(scope="module")
def crowd() -> MemoryAccounts:
    accounts = MemoryAccounts()
    accounts._names = CountingNames()
    for number in range(100_000):
        accounts.create(account(f"user{number:06}"))
    return accounts


@pytest.mark.parametrize(
    ("pattern", "after", "first"),
    [
        ("user05*", None, "user050000"),
        ("user*", "user077776", "user077777"),
        ("*", "user099000", "user099001"),
    ],
)
def test_a_page_by_prefix_looks_at_no_more_names_than_it_returns(
    crowd: MemoryAccounts, pattern: str, after: str | None, first: str
) -> None:
    names = crowd._names
    assert isinstance(names, CountingNames)
    names.copies = names.copied = 0
    counting = CountingPattern(pattern)
    page = crowd.page(counting, after, 100)
    assert (page.usernames[0], len(page.usernames), page.more) == (first, 100, True)
    assert counting.asked == 101  # one beyond the page, for `more`
    assert names.copies <= 2
    assert names.copied <= 2 * CHUNK_NAMES


def test_a_prefix_that_few_have_costs_what_they_cost(crowd: MemoryAccounts) -> None:
    counting = CountingPattern("user04242*")
    page = crowd.page(counting, None, 100)
    assert page == UsernamePage(tuple(f"user04242{digit}" for digit in range(10)), more=False)
    assert counting.asked == 10


def test_an_exact_pattern_is_looked_up(crowd: MemoryAccounts) -> None:
    names = crowd._names
    assert isinstance(names, CountingNames)
    names.copies = 0
    counting = CountingPattern("USER012345")
    assert crowd.page(counting, None, 100).usernames == ("user012345",)
    assert (counting.asked, names.copies) == (0, 0)


def test_a_scan_takes_the_lock_for_one_chunk_at_a_time(crowd: MemoryAccounts) -> None:
    names = crowd._names
    assert isinstance(names, CountingNames)
    names.copies = names.copied = 0
    counting = CountingPattern("*x*")
    assert crowd.page(counting, None, 100) == UsernamePage((), more=False)
    assert counting.asked == names.copied == 100_000
    assert 100_000 / CHUNK_NAMES <= names.copies <= 2 * 100_000 / CHUNK_NAMES + 1


class StoppingPattern(NamePattern):
    """A pattern that stops in the middle of a scan until it is let go."""

    def __init__(self, text: str, at: str) -> None:
        super().__init__(text)
        self.at = at
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def matches(self, username: str) -> bool:
        may_block("matching")
        if username == self.at:
            self.reached.set()
            wait_event(self.go_on, "the test lets the scan go on")
        return super().matches(username)


@pytest.fixture
def stopped_scan() -> Iterator[tuple[MemoryAccounts, StoppingPattern, list[UsernamePage]]]:
    accounts = with_names(*(f"user{number:04}" for number in range(2000)))
    pattern = StoppingPattern("*9*", at="user1000")
    pages: list[UsernamePage] = []
    thread = threading.Thread(
        target=lambda: pages.append(accounts.page(pattern, None, 5000)), daemon=True
    )
    thread.start()
    wait_event(pattern.reached, "the scan reaches its middle")
    yield accounts, pattern, pages
    pattern.go_on.set()
    join(thread)


def test_others_go_on_while_names_are_matched(
    stopped_scan: tuple[MemoryAccounts, StoppingPattern, list[UsernamePage]],
) -> None:
    accounts, pattern, _ = stopped_scan
    done = threading.Event()

    def others() -> None:
        assert accounts.find("user1000") is not None
        accounts.create(account("user0000x9"))  # behind the scan
        accounts.create(account("user1999x9"))  # before it
        accounts.withdraw("id-user1999", keep_name=False)
        accounts.withdraw("id-user1000", keep_name=False)  # where it stands
        accounts.open_session(session("token", "user0001"))
        assert accounts.page(NamePattern("user000*"), None, 3).more
        done.set()

    thread = threading.Thread(target=others, daemon=True)
    thread.start()
    wait_event(done, "other calls while a scan is stopped")
    join(thread)
    pattern.go_on.set()


def test_a_scan_goes_on_in_what_the_set_has_become(
    stopped_scan: tuple[MemoryAccounts, StoppingPattern, list[UsernamePage]],
) -> None:
    accounts, pattern, pages = stopped_scan
    accounts.create(account("user0000x9"))
    accounts.create(account("user1999x9"))
    for number in range(900, 1990):
        accounts.withdraw(f"id-user{number:04}", keep_name=False)
    pattern.go_on.set()
    wait_until(lambda: pages, "the scan ends")
    names = list(pages[0].usernames)
    assert names == sorted(set(names))
    assert "user0000x9" not in names
    assert names[-2:] == ["user1999", "user1999x9"]
    assert {f"user{number:04}" for number in range(900) if "9" in str(number)} <= set(names)
