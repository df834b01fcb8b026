"""Subscriptions in memory: any of them can end, in any order, and the others stay."""

import random

from interrupting import each_place

from twinline.core.locks import new_lock
from twinline.core.waiting import Wake
from twinline.stores.memory.subscribers import Subscription, wakes_of


def subscribed(count: int) -> tuple[list[Subscription], dict[int, Subscription]]:
    """Return a list with so many subscriptions, and these by the number that each wake is."""
    lock = new_lock("test")
    joined: list[Subscription] = []
    own = {number: Subscription(wake(number), lock) for number in range(count)}
    for each in own.values():
        each.join(joined)
    return joined, own


def wake(number: int) -> Wake:
    return lambda: woken.append(number)


woken: list[int] = []


def woken_by(joined: list[Subscription]) -> list[int]:
    """Return the numbers of those that are woken."""
    woken.clear()
    for each in wakes_of(joined):
        each()
    return sorted(woken)


def test_any_of_them_ends_once_and_takes_no_other_with_it() -> None:
    joined, own = subscribed(50)
    order = list(own)
    random.Random(7).shuffle(order)
    for number in order:
        end = own.pop(number)
        end()
        end()  # harmless
        assert woken_by(joined) == list(own)
    assert joined == []
    assert wakes_of(joined) == wakes_of(None) == ()


def test_what_never_joined_can_end() -> None:
    joined, _ = subscribed(2)
    Subscription(wake(2), new_lock("test"))()
    assert woken_by(joined) == [0, 1]


def test_one_wake_can_be_subscribed_twice() -> None:
    joined: list[Subscription] = []
    lock, same = new_lock("test"), wake(0)
    first, second = Subscription(same, lock), Subscription(same, lock)
    first.join(joined)
    second.join(joined)
    assert woken_by(joined) == [0, 0]
    first()
    assert woken_by(joined) == [0]
    second()
    assert woken_by(joined) == []


def test_an_interruption_ends_it_or_leaves_it_to_be_ended() -> None:
    kept: tuple[list[Subscription], dict[int, Subscription]] = ([], {})

    def end() -> None:
        nonlocal kept
        kept = subscribed(3)
        kept[1][0]()

    places = 0
    for place in each_place(end):
        places += 1
        joined, own = kept
        if len(own) == 3:
            assert woken_by(joined) in ([0, 1, 2], [1, 2]), place
            own[0]()
            assert woken_by(joined) == [1, 2], place
    assert places > 3
