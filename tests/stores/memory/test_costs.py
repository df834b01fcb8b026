"""What the in-memory store's calls cost, and that nothing stays of what is gone.

These promises have no other face, so some of the tests look inside on purpose.
"""

import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterator

import pytest
from store_samples import (
    DAY,
    HOUR,
    account,
    boxes_with,
    draft,
    fill,
    history,
    key,
    read,
    session,
)
from waiting import join, wait_event, wait_until

from twinline.core.locks import may_block, new_lock
from twinline.core.names import NamePattern
from twinline.core.store import Draft, Durability, UsernamePage
from twinline.stores.memory import MemoryStore
from twinline.stores.memory import accounts as memory_accounts
from twinline.stores.memory.accounts import MemoryAccounts
from twinline.stores.memory.mailboxes import MemoryMailboxes
from twinline.stores.rules import CHUNK_NAMES


def test_its_durability_is_the_process() -> None:
    with MemoryStore() as store:
        assert store.durability is Durability.PROCESS


# --- pages of names


class CountedLock:
    """A lock that counts how often it was taken."""

    def __init__(self, name: str) -> None:
        self.taken = 0
        self._lock = new_lock(name)

    def __enter__(self) -> None:
        self.taken += 1
        self._lock.__enter__()

    def __exit__(self, *error: object) -> None:
        self._lock.__exit__(*error)  # type: ignore[arg-type]


class CountingPattern(NamePattern):
    """A pattern that counts the names it was asked about, by how often the lock was taken."""

    def __init__(self, text: str, lock: CountedLock) -> None:
        super().__init__(text)
        self.lock = lock
        self.asked: Counter[int] = Counter()
        lock.taken = 0

    def matches(self, username: str) -> bool:
        may_block("matching")
        self.asked[self.lock.taken] += 1
        return super().matches(username)


@pytest.fixture(scope="module")
def crowd() -> tuple[MemoryAccounts, CountedLock]:
    locks: list[CountedLock] = []

    def counted(name: str) -> CountedLock:
        locks.append(CountedLock(name))
        return locks[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_accounts, "new_lock", counted)
        accounts = MemoryAccounts()
    for number in range(20_000):
        accounts.create(account(f"user{number:05}"))
    return accounts, locks[0]


@pytest.mark.parametrize(
    ("pattern", "after", "first"),
    [
        ("user05*", None, "user05000"),
        ("user*", "user17776", "user17777"),
        ("*", "user19800", "user19801"),
    ],
)
def test_a_page_by_prefix_looks_at_no_more_names_than_it_returns(
    crowd: tuple[MemoryAccounts, CountedLock], pattern: str, after: str | None, first: str
) -> None:
    accounts, lock = crowd
    counting = CountingPattern(pattern, lock)
    page = accounts.page(counting, after, 100)
    assert (page.usernames[0], len(page.usernames), page.more) == (first, 100, True)
    assert counting.asked == {1: 101}  # one beyond the page, for `more`


def test_a_prefix_that_few_have_costs_what_they_cost(
    crowd: tuple[MemoryAccounts, CountedLock],
) -> None:
    accounts, lock = crowd
    counting = CountingPattern("user0424*", lock)
    page = accounts.page(counting, None, 100)
    assert page == UsernamePage(tuple(f"user0424{digit}" for digit in range(10)), more=False)
    assert counting.asked == {1: 10}


def test_an_exact_pattern_is_looked_up(crowd: tuple[MemoryAccounts, CountedLock]) -> None:
    accounts, lock = crowd
    counting = CountingPattern("USER01234", lock)
    assert accounts.page(counting, None, 100).usernames == ("user01234",)
    assert (counting.asked, lock.taken) == ({}, 0)  # one look-up needs no lock


def test_a_scan_copies_one_chunk_each_time_it_takes_the_lock(
    crowd: tuple[MemoryAccounts, CountedLock],
) -> None:
    accounts, lock = crowd
    counting = CountingPattern("*x*", lock)
    assert accounts.page(counting, None, 100) == UsernamePage((), more=False)
    assert counting.asked.total() == 20_000
    assert max(counting.asked.values()) == CHUNK_NAMES
    assert lock.taken <= 20_000 / CHUNK_NAMES + 2


class StoppingPattern(NamePattern):
    """A pattern that stops in the middle of a scan until it is let go."""

    def __init__(self, text: str, at: str) -> None:
        super().__init__(text)
        self.at = at
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def matches(self, username: str) -> bool:
        if username == self.at:
            self.reached.set()
            wait_event(self.go_on, "the test lets the scan go on")
        return super().matches(username)


def test_others_go_on_while_names_are_matched() -> None:
    accounts = MemoryAccounts()
    for number in range(2_000):
        accounts.create(account(f"user{number:04}"))
    pattern = StoppingPattern("*9*", at="user1000")
    pages: list[UsernamePage] = []
    scan = threading.Thread(
        target=lambda: pages.append(accounts.page(pattern, None, 5000)), daemon=True
    )
    scan.start()
    wait_event(pattern.reached, "the scan reaches its middle")
    # Were a lock held, these would never end.
    accounts.create(account("user0000x9"))  # behind the scan
    accounts.create(account("user1999x9"))  # before it
    for number in range(900, 1990):  # where it stands too
        accounts.withdraw(f"id-user{number:04}", keep_name=False)
    accounts.open_session(session("token", "user0001"))
    assert accounts.page(NamePattern("user000*"), None, 3).more
    pattern.go_on.set()
    join(scan)
    wait_until(lambda: pages, "the scan ends")
    names = list(pages[0].usernames)
    assert names == sorted(set(names))
    assert "user0000x9" not in names
    assert names[-2:] == ["user1999", "user1999x9"]
    assert {f"user{number:04}" for number in range(900) if "9" in str(number)} <= set(names)


# --- reading and trimming


class CountedMessages(dict[int, Draft]):
    """A mailbox's messages that count how many were touched."""

    touched = 0

    def __getitem__(self, seq: int) -> Draft:
        self.touched += 1
        return super().__getitem__(seq)


@pytest.fixture(scope="module")
def full() -> MemoryMailboxes:
    boxes = boxes_with()
    fill(boxes, 10_000)
    boxes._boxes["bob"]._messages = CountedMessages(boxes._boxes["bob"]._messages)  # type: ignore[arg-type, assignment]
    return boxes


@pytest.fixture
def counted(full: MemoryMailboxes) -> Iterator[CountedMessages]:
    messages = full._boxes["bob"]._messages
    assert isinstance(messages, CountedMessages)
    messages.touched = 0
    yield messages
    assert messages.touched == 11  # the page, and one more for `more`


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("after", [0, 4_000, 9_900])
def test_reading_at_a_position_touches_its_page_alone(full: MemoryMailboxes, after: int) -> None:
    assert read(full, after, limit=10) == list(range(after + 1, after + 11))


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("before", [10_001, 4_000])
def test_reading_backwards_touches_its_page_alone(full: MemoryMailboxes, before: int) -> None:
    assert history(full, before, limit=10) == list(range(before - 10, before))


def test_reading_over_what_was_deleted_touches_its_page_alone(
    full: MemoryMailboxes, counted: CountedMessages
) -> None:
    full.delete("bob", range(5_001, 9_001))
    counted.touched = 0
    assert read(full, 4_995, limit=10) == [*range(4_996, 5_001), *range(9_001, 9_006)]
    assert 5_001 not in full._boxes["bob"]._seqs


@pytest.mark.parametrize("kept", [10, 1_000])
def test_the_list_of_seqs_stays_short_and_moves_each_seq_a_bounded_number_of_times(
    kept: int,
) -> None:
    boxes = boxes_with(history_messages=kept)
    box = boxes._boxes["bob"]
    moved = 0
    for number in range(1, 5_001):
        fill(boxes, 1)
        before = box._head
        boxes.ack("bob", number, now=1)
        assert len(box) <= kept + 1
        assert len(box._seqs) <= max(kept + 1 + 64, 2 * (kept + 1))
        if box._head < before:
            moved += len(box._seqs)
    assert 0 < moved <= 2 * 5_000
    assert read(boxes, 4_998) == [4_999, 5_000]


# --- what is gone leaves nothing behind


def test_senders_whose_messages_are_gone_leave_the_index() -> None:
    boxes = boxes_with(history_messages=10)
    box = boxes._boxes["bob"]
    for number in range(1, 501):
        boxes.append("bob", draft(f"{number}", sender=f"sender{number}"))
        boxes.ack("bob", number, now=1)
        assert len(box._peers) <= 11 + 64
    assert history(boxes) == list(range(491, 501))


def test_what_has_ended_leaves_nothing_behind() -> None:
    accounts = MemoryAccounts()
    for number in range(20):
        accounts.create(account("ann"))
        accounts.open_session(session(f"a{number}"))
        accounts.open_session(session(f"b{number}"))
        accounts.on_session_end(key("a"), lambda: None)
        accounts.close_session(key(f"a{number}"))
        accounts.withdraw("id-ann", keep_name=False)
    held = vars(accounts)
    left = {name: value for name, value in held.items() if name != "_lock" and len(value)}
    assert left == {}


def test_acks_of_one_moment_are_one_mark_and_marks_go_with_their_messages() -> None:
    boxes = boxes_with(history_messages=5)
    fill(boxes, 100)
    box = boxes._boxes["bob"]
    for seq in range(1, 11):
        boxes.ack("bob", seq, now=7)
    assert box._acks is not None
    assert list(box._acks) == [(10, 7)]
    for seq in range(11, 101):
        boxes.ack("bob", seq, now=seq)
        assert len(box._acks) <= 6
    boxes.delete("bob", range(1, 101))
    boxes.ack("bob", 100, now=101)
    assert box._acks is None


def test_a_send_id_that_is_used_anew_waits_behind_the_others() -> None:
    boxes = boxes_with(send_id_hours=1)
    for send_id, hour in (("y", 9.5), ("o", 9), ("p", 9.6)):  # the clock steps back
        boxes.append("bob", draft(send_id=send_id, sent_at=round(hour * HOUR)))
    boxes.append("bob", draft(send_id="o", sent_at=10 * HOUR + 1))
    for _ in range(2):
        boxes.append("bob", draft(sent_at=11 * HOUR))
    assert list(boxes._boxes["bob"].send_ids._by_sender["id-ann"]) == ["o"]
    assert boxes._boxes["bob"].send_ids.count == 1


def test_with_no_time_for_send_ids_none_is_kept() -> None:
    boxes = boxes_with(send_id_hours=0)
    for sent_at in (5, 5, 4):
        boxes.append("bob", draft("hi", send_id="x", sent_at=sent_at))
    assert read(boxes) == [1, 2, 3]
    assert boxes._boxes["bob"].send_ids.count == 0
    assert not boxes._expiring


def test_removing_expired_send_ids_costs_each_send_the_same_and_keeps_up() -> None:
    boxes = boxes_with(send_id_hours=1)
    kept = boxes._boxes["bob"].send_ids
    for number in range(100):
        boxes.append("bob", draft(send_id=f"{number}", sent_at=1))
    assert kept.count == 100
    for number in range(50):
        boxes.append("bob", draft(send_id=f"later {number}", sent_at=1 + HOUR))
        assert kept.count == 99 - number  # two go, one comes
    boxes.append("bob", draft(sent_at=1 + HOUR))  # one without a send_id removes too
    boxes.append("bob", draft(send_id="last", sent_at=1 + 3 * HOUR))
    for _ in range(100):
        boxes.append("bob", draft(sent_at=1 + 5 * HOUR))
    assert kept.count == 0
    assert (kept._by_sender, kept._order) == ({}, None)
    assert not boxes._expiring


def test_send_ids_expire_in_mailboxes_that_get_no_more_mail() -> None:
    boxes = boxes_with(send_id_hours=1)
    names = [f"m{number}" for number in range(30)]
    for name in names:
        boxes.create(name)
        for number in range(10):
            boxes.append(name, draft(send_id=f"{number}", sent_at=1))
    boxes.drop("m0")
    kept = [boxes._boxes[name].send_ids for name in names[1:]]
    for number in range(300):
        boxes.append("bob", draft(send_id=f"{number}", sent_at=1 + HOUR))
    assert [each.count for each in kept] == [0] * 29
    assert list(boxes._expiring) == [boxes._boxes["bob"].send_ids]


def test_a_clock_that_was_wrong_for_a_moment_holds_up_no_expiry() -> None:
    boxes = boxes_with(send_id_hours=1)
    kept = boxes._boxes["bob"].send_ids
    for number in range(50):
        for at in (25 * DAY, DAY, -25 * DAY):
            boxes.append("bob", draft(send_id=f"{at} {number}", sent_at=at))
    for _ in range(75):
        boxes.append("bob", draft(sent_at=DAY + HOUR))
    assert kept.count == 0
    assert (kept._by_sender, kept._order) == ({}, None)


def test_a_busy_sender_leaves_a_bounded_number_of_send_ids() -> None:
    boxes = boxes_with(mailbox_messages=10**6, send_ids_per_mailbox=300, send_ids_per_sender=200)
    kept = boxes._boxes["bob"].send_ids
    for number in range(3_000):
        boxes.append("bob", draft(send_id=f"{number}"))
        assert kept.count == len(kept._by_sender["id-ann"])
        assert min(number + 1, 200 - 15) <= kept.count <= 200  # 16 go at once
    for number in range(3_000):
        boxes.append("bob", draft(sender=f"s{number}", send_id="x"))
    assert kept.count == len(kept._by_sender) == 300


def test_send_ids_that_are_forgotten_out_of_turn_do_not_pile_up() -> None:
    """One sender has the first of all; those of another are forgotten behind it."""
    boxes = boxes_with(mailbox_messages=10**6, send_ids_per_sender=100)
    kept = boxes._boxes["bob"].send_ids
    first = boxes.append("bob", draft(sender="carl", send_id="x"))
    for number in range(5_000):
        boxes.append("bob", draft(send_id=f"{number}"))
        assert kept._order is not None
        assert len(kept._order) <= 2 * kept.count + 65
    assert boxes.append("bob", draft(sender="carl", send_id="x")) == first


def test_what_is_kept_of_a_send_id_is_small_whatever_was_sent() -> None:
    boxes = boxes_with(history_messages=0)
    body = "x" * 16_384
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(1_000):
            boxes.append("bob", draft(body + f"{number}", send_id=f"{number:032}"))
        boxes.ack("bob", 1_000, now=1)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert boxes._boxes["bob"].send_ids.count == 1_000
    assert (after - before) / 1_000 < 500


def test_subscriptions_that_come_and_go_leave_nothing_behind() -> None:
    boxes = boxes_with()
    for _ in range(10):
        boxes.on_mail("bob", lambda: None)()
        fill(boxes, 1)
    assert boxes._boxes["bob"].watchers == []
