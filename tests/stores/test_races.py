"""Races that the store kit does not make: threads leave one barrier at the same moment.

The interpreter switches between them as often as it can meanwhile. What is asserted holds for
every order; that no call goes through the middle of another is in memory/test_crossings.py.
"""

import threading
from collections import Counter
from collections.abc import Callable

from racing import SOON, race
from store_samples import ALL, account, draft
from waiting import join, wait_until

from twinline.core.deadline import Deadline
from twinline.core.names import NamePattern
from twinline.core.store import Accounts, Mailboxes
from twinline.core.waiting import Waiter


def test_pages_read_while_names_come_and_go_are_sorted_and_have_what_stays(
    accounts: Accounts,
) -> None:
    staying = [f"stay{number:03}" for number in range(600)]
    for name in staying:
        accounts.create(account(name))

    def come_and_go(suffix: str) -> None:
        for number in range(0, 600, 6):
            accounts.create(account(f"stay{number:03}{suffix}"))
        for number in range(0, 600, 6):
            accounts.withdraw(f"id-stay{number:03}{suffix}", keep_name=False)

    def scan() -> None:
        for _ in range(4):
            names = accounts.page(NamePattern("*"), None, ALL).usernames
            assert list(names) == sorted(set(names))
            assert set(staying) <= set(names)

    assert race(lambda: come_and_go("a"), lambda: come_and_go("b"), scan) == [None] * 3
    assert accounts.page(NamePattern("*"), None, ALL).usernames == tuple(staying)


def test_among_blocked_watchers_only_bobs_are_woken(open_boxes: Callable[[], Mailboxes]) -> None:
    boxes = open_boxes()
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

    for name in names[2:]:
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
