"""The queue for hashes: logins before registrations, and always a slot for a login."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from waiting import join, wait_event, wait_until

from twinline.core.errors import Busy
from twinline.core.hash_queue import HashQueue, Urgency


class Holder(threading.Thread):
    """A thread that holds a slot until the test says so."""

    def __init__(self, queue: HashQueue, urgency: Urgency, order: list[Urgency]) -> None:
        super().__init__(daemon=True)
        self.holds, self.leave = threading.Event(), threading.Event()
        self._queue, self._urgency, self._order = queue, urgency, order

    def run(self) -> None:
        """Hold a slot."""
        with suppress(Busy), self._queue.slot(self._urgency, 30):
            self._order.append(self._urgency)
            self.holds.set()
            wait_event(self.leave, "the test lets go of the slot")


@contextmanager
def holding(queue: HashQueue, *urgencies: Urgency) -> Iterator[tuple[list[Holder], list[Urgency]]]:
    """Have threads ask for slots, one after the other; they let go at the end."""
    order: list[Urgency] = []
    holders = []
    try:
        for urgency in urgencies:
            before = _waiting(queue)
            holder = Holder(queue, urgency, order)
            holder.start()
            holders.append(holder)
            wait_until(
                lambda holder=holder, before=before: (
                    holder.holds.is_set() or _waiting(queue) > before
                ),
                "it holds a slot or waits for one",
            )
        yield holders, order
    finally:
        for holder in holders:
            holder.leave.set()
        for holder in holders:
            join(holder)


def _waiting(queue: HashQueue) -> int:
    return sum(map(len, queue._waiting.values()))


def test_registrations_leave_the_last_slot_to_logins() -> None:
    queue = HashQueue(2)
    with holding(queue, *[Urgency.REGISTRATION] * 64) as (holders, _):
        assert [holder.holds.is_set() for holder in holders] == [True] + [False] * 63
        for urgency in (Urgency.LOGIN, Urgency.OWNER):
            with queue.slot(urgency, 0):
                pass
        with pytest.raises(Busy), queue.slot(Urgency.REGISTRATION, 0):
            pass


@pytest.mark.parametrize("slots", [1, 2])
def test_whoever_waits_is_served_by_urgency(slots: int) -> None:
    queue = HashQueue(slots)
    first = [Urgency.LOGIN] * slots
    asked = [Urgency.REGISTRATION, Urgency.LOGIN, Urgency.REGISTRATION, Urgency.OWNER]
    with holding(queue, *first, *asked) as (holders, order):
        for holder in holders:
            holder.leave.set()
        for holder in holders:
            join(holder)
    later = order[slots:]
    if slots == 1:
        assert later == sorted(asked)
    else:
        assert sorted(later[:2]) == [Urgency.OWNER, Urgency.LOGIN]
    assert queue._free == slots


def test_one_slot_serves_registrations_too() -> None:
    queue = HashQueue(1)
    with queue.slot(Urgency.REGISTRATION, 0), pytest.raises(Busy), queue.slot(Urgency.OWNER, 0):
        pass
    with queue.slot(Urgency.REGISTRATION, 0):
        pass
    assert (queue._free, _waiting(queue)) == (1, 0)


def test_a_slot_comes_back_whatever_ends_its_use() -> None:
    queue = HashQueue(1)
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), queue.slot(Urgency.LOGIN, 0):
            raise error
    with queue.slot(Urgency.LOGIN, 0):
        pass
