"""Races on the in-memory store: threads leave one barrier at the same moment.

The interpreter switches between them as often as it can meanwhile. What is asserted holds for
every order; that no call goes through the middle of another is in test_store_crossings.py.
"""

import sys
import threading
from collections import Counter
from collections.abc import Callable

import pytest
from store_samples import account, draft, session
from waiting import join, wait_until

from twinline.core.deadline import Deadline
from twinline.core.errors import MailboxFull, NoSuchUser, UsernameTaken
from twinline.core.names import NamePattern
from twinline.core.store import MailboxPolicy, Receipt
from twinline.core.waiting import Waiter
from twinline.stores.memory import MemoryStore

ALL = 10**9
SOON = 5.0
ROUNDS = 60


def race(*steps: Callable[[], object]) -> list[object]:
    """Run the steps at once, each in its thread; return what each returned or raised."""
    interval = sys.getswitchinterval()
    # Not before every thread has started: a tracer cannot be installed in two threads at once.
    barrier = threading.Barrier(len(steps), action=lambda: sys.setswitchinterval(1e-6))
    results: list[object] = [None] * len(steps)

    def run(index: int) -> None:
        barrier.wait(SOON)
        try:
            results[index] = steps[index]()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(steps))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            join(thread)
    finally:
        sys.setswitchinterval(interval)
    return results


def test_of_those_who_create_one_name_exactly_one_wins() -> None:
    accounts = MemoryStore().accounts
    for number in range(ROUNDS):
        candidates = [account(f"ann{number}", f"{number}-{which}") for which in range(4)]
        results = race(*(lambda one=one: accounts.create(one) for one in candidates))
        assert Counter(map(type, results)) == {type(None): 1, UsernameTaken: 3}
        winner = candidates[results.index(None)]
        assert accounts.find(f"ann{number}") == winner
        # The losers' ids were not published.
        assert [accounts.withdraw(one.account_id, keep_name=False) for one in candidates] == [
            one is winner for one in candidates
        ]


def test_of_those_who_withdraw_an_account_exactly_one_is_told_so() -> None:
    accounts = MemoryStore().accounts
    for number in range(ROUNDS):
        accounts.create(account("ann", f"{number}"))
        results = race(*[lambda: accounts.withdraw(f"{number}", keep_name=False)] * 3)  # noqa: B023
        assert sorted(map(bool, results)) == [False, False, True]


def test_no_session_outlives_an_account_that_is_withdrawn_meanwhile() -> None:
    for _ in range(ROUNDS):
        accounts = MemoryStore().accounts
        accounts.create(account("ann"))
        accounts.open_session(session("before"))
        ended = threading.Event()
        accounts.on_session_end(b"before", ended.set)
        withdrawn, *opened = race(
            lambda: accounts.withdraw("id-ann", keep_name=False),  # noqa: B023
            lambda: accounts.open_session(session("one")),  # noqa: B023
            lambda: accounts.open_session(session("two")),  # noqa: B023
        )
        assert withdrawn is True
        assert all(result is None or isinstance(result, NoSuchUser) for result in opened)
        assert [accounts.find_session(token) for token in (b"before", b"one", b"two")] == [None] * 3
        assert ended.is_set()
        assert (accounts._sessions, accounts._tokens) == ({}, {})


def test_whoever_subscribes_while_a_session_is_revoked_learns_of_it() -> None:
    """Subscribe, then look: either the wake comes or the look finds nothing."""
    for _ in range(ROUNDS):
        accounts = MemoryStore().accounts
        accounts.create(account("ann"))
        accounts.open_session(session("one"))
        waiter = Waiter()

        def watch() -> bool:
            accounts.on_session_end(b"one", waiter.wake)  # noqa: B023
            gone = accounts.find_session(b"one") is None  # noqa: B023
            return gone or waiter.wait(Deadline.after(SOON))  # noqa: B023

        assert race(watch, lambda: accounts.close_session(b"one"))[0] is True  # noqa: B023


def test_pages_read_while_names_come_and_go_are_sorted_and_have_what_stays() -> None:
    accounts = MemoryStore().accounts
    staying = [f"stay{number:03}" for number in range(900)]
    for name in staying:
        accounts.create(account(name))

    def come_and_go(suffix: str) -> None:
        for number in range(0, 900, 3):
            accounts.create(account(f"stay{number:03}{suffix}"))
        for number in range(0, 900, 3):
            accounts.withdraw(f"id-stay{number:03}{suffix}", keep_name=False)

    def scan() -> None:
        for _ in range(4):
            names = accounts.page(NamePattern("*"), None, ALL).usernames
            assert list(names) == sorted(set(names))
            assert set(staying) <= set(names)

    assert race(lambda: come_and_go("a"), lambda: come_and_go("b"), scan) == [None] * 3
    assert accounts.page(NamePattern("*"), None, ALL).usernames == tuple(staying)


def test_messages_of_many_senders_get_seqs_without_gap_or_repeat() -> None:
    boxes = MemoryStore().mailboxes
    boxes.create("bob")
    senders, each = 4, 150

    def send(sender: int) -> None:
        for number in range(each):
            boxes.append("bob", draft(f"{number}", sender=f"s{sender}"))

    assert race(*(lambda sender=sender: send(sender) for sender in range(senders))) == [None] * 4
    messages = boxes.read("bob", 0, ALL, ALL).messages
    assert [message.seq for message in messages] == list(range(1, senders * each + 1))
    for sender in range(senders):
        bodies = [message.body for message in messages if message.sender == f"s{sender}"]
        assert bodies == [f"{number}" for number in range(each)]


def test_a_reader_sees_no_gap_while_messages_arrive() -> None:
    boxes = MemoryStore().mailboxes
    boxes.create("bob")
    total = 400

    def send() -> None:
        for _ in range(total // 2):
            boxes.append("bob", draft())

    def read() -> list[int]:
        seen: list[int] = []
        waiter = Waiter()
        boxes.on_mail("bob", waiter.wake)
        while len(seen) < total:
            page = boxes.read("bob", seen[-1] if seen else 0, 7, ALL)
            seen += [message.seq for message in page.messages]
            if not page.messages:
                assert waiter.wait(Deadline.after(SOON)), "a wake was lost"
        return seen

    results = race(send, send, read, read)
    assert results[2] == results[3] == list(range(1, total + 1))


def test_of_one_send_id_sent_at_once_one_message_is_stored() -> None:
    for _ in range(ROUNDS):
        boxes = MemoryStore().mailboxes
        boxes.create("bob")
        drafts = [draft("hi", send_id="x") for _ in range(4)]
        receipts = race(*(lambda one=one: boxes.append("bob", one) for one in drafts))  # noqa: B023
        stored = boxes.read("bob", 0, 10, ALL).messages
        assert len(stored) == 1
        assert receipts == [Receipt(stored[0].message_id, 1)] * 4


def test_a_mailbox_never_holds_more_than_its_quota() -> None:
    boxes = MemoryStore(MailboxPolicy(mailbox_messages=50)).mailboxes
    boxes.create("bob")
    results = race(*[lambda: [boxes.append("bob", draft()) for _ in range(30)]] * 3)
    assert any(isinstance(result, MailboxFull) for result in results)
    assert boxes.standing("bob").unread == 50


def test_a_message_to_a_mailbox_that_is_dropped_is_stored_or_refused() -> None:
    for _ in range(ROUNDS):
        boxes = MemoryStore().mailboxes
        boxes.create("bob")
        woken: list[int] = []
        boxes.on_mail("bob", lambda: woken.append(1))  # noqa: B023
        sent, dropped = race(
            lambda: boxes.append("bob", draft()),  # noqa: B023
            lambda: boxes.drop("bob"),  # noqa: B023
        )
        assert dropped is None
        # One wake for the drop, and one for the message if it came first.
        assert len(woken) == 1 + isinstance(sent, Receipt)
        assert isinstance(sent, Receipt | NoSuchUser)
        with pytest.raises(NoSuchUser):
            boxes.standing("bob")


def test_acks_deletes_and_messages_at_once_keep_the_count() -> None:
    boxes = MemoryStore(MailboxPolicy(history_messages=5)).mailboxes
    boxes.create("bob")
    total = 300

    def send() -> None:
        for _ in range(total):
            boxes.append("bob", draft())

    def ack() -> None:
        done = 0
        while done < total - 20:
            page = boxes.read("bob", done, 9, ALL)
            for message in page.messages:
                done = min(message.seq, total - 20)
                boxes.ack("bob", done, now=1)

    def delete() -> None:
        for seq in range(1, total + 1, 2):
            boxes.delete("bob", [seq])

    assert race(send, ack, delete) == [None] * 3
    page = boxes.read("bob", 0, ALL, ALL)
    standing = boxes.standing("bob")
    assert standing.position == total - 20
    assert standing.unread == sum(message.seq > standing.position for message in page.messages)
    assert len(page.messages) <= standing.unread + 5


# --- no wake is lost, and no wrong one is woken


def test_mail_between_looking_and_waiting_is_not_missed() -> None:
    """The one order in which a wake could be lost, step by step."""
    boxes = MemoryStore().mailboxes
    boxes.create("bob")
    waiter = Waiter()
    boxes.on_mail("bob", waiter.wake)
    assert boxes.read("bob", 0, 10, ALL).messages == ()
    boxes.append("bob", draft())
    assert waiter.wait(Deadline.after(0))
    assert len(boxes.read("bob", 0, 10, ALL).messages) == 1


def test_whoever_subscribes_while_mail_arrives_learns_of_it() -> None:
    for _ in range(ROUNDS):
        boxes = MemoryStore().mailboxes
        boxes.create("bob")
        waiter = Waiter()

        def watch() -> bool:
            boxes.on_mail("bob", waiter.wake)  # noqa: B023
            found = boxes.read("bob", 0, 10, ALL).messages  # noqa: B023
            return bool(found) or waiter.wait(Deadline.after(SOON))  # noqa: B023

        assert race(watch, lambda: boxes.append("bob", draft()))[0] is True  # noqa: B023


def test_whoever_subscribes_while_a_mailbox_is_dropped_learns_of_it() -> None:
    for _ in range(ROUNDS):
        boxes = MemoryStore().mailboxes
        boxes.create("bob")
        waiter = Waiter()

        def watch() -> bool:
            boxes.on_mail("bob", waiter.wake)  # noqa: B023
            try:
                boxes.read("bob", 0, 10, ALL)  # noqa: B023
            except NoSuchUser:
                return True
            return waiter.wait(Deadline.after(SOON))  # noqa: B023

        assert race(watch, lambda: boxes.drop("bob"))[0] is True  # noqa: B023


def test_among_blocked_watchers_only_bobs_are_woken() -> None:
    store = MemoryStore()
    boxes = store.mailboxes
    names = ["ann", "bob", "carl", "dora"]
    woken: list[str] = []
    stop = threading.Event()

    class Watching(threading.Thread):
        def __init__(self, name: str) -> None:
            super().__init__(name=f"watching {name}", daemon=True)
            self.account_id = name
            self.waiter = Waiter()
            self.unsubscribe = boxes.on_mail(name, self.waiter.wake)

        def run(self) -> None:
            while self.waiter.wait(Deadline.after(SOON)) and not stop.is_set():
                woken.append(self.account_id)

    for name in names:
        boxes.create(name)
    watching = [Watching(name) for name in names for _ in range(3)]
    for thread in watching:
        thread.start()
    for number in range(1, 6):
        boxes.append("bob", draft())
        wait_until(lambda: len(woken) == 3 * number, "all of bob's watchers wake")  # noqa: B023
    stop.set()
    for thread in watching:
        thread.unsubscribe()
        thread.waiter.wake()
        join(thread)
    assert Counter(woken) == {"bob": 15}


def test_watchers_that_come_and_go_while_mail_arrives_leave_nothing_behind() -> None:
    boxes = MemoryStore().mailboxes
    boxes.create("bob")

    def come_and_go() -> None:
        for _ in range(200):
            boxes.on_mail("bob", Waiter().wake)()

    def send() -> None:
        for _ in range(200):
            boxes.append("bob", draft())

    assert race(come_and_go, come_and_go, send) == [None] * 3
    assert boxes._boxes["bob"].watchers == {}
