"""The queue for hashes: logins before registrations, and always a slot for a login."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from argon2 import PasswordHasher
from interrupting import each_place
from services import PASSWORD
from waiting import join, wait_event, wait_until

from twinline.core.errors import Busy
from twinline.core.hash_queue import HashQueue, Urgency
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.core.settings import ServiceSettings
from twinline.stores.memory import MemoryStore


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


def order_of(*asked: tuple[Urgency, str]) -> list[tuple[Urgency, str]]:
    """Return in which order those who have asked, one after the other, get the only slot."""
    queue, order = HashQueue(1), []
    with holding(queue, Urgency.LOGIN) as (first, _):
        threads = []
        for urgency, whose in asked:

            def ask(urgency: Urgency = urgency, whose: str = whose) -> None:
                with queue.slot(urgency, 30, whose):
                    order.append((urgency, whose))

            before = _waiting(queue)
            threads.append(threading.Thread(target=ask))
            threads[-1].start()
            wait_until(lambda before=before: _waiting(queue) > before, "it waits")
        first[0].leave.set()
        for thread in threads:
            join(thread)
    return order


@pytest.mark.parametrize("urgency", Urgency)
def test_each_address_has_its_turn(urgency: Urgency) -> None:
    asked = [(urgency, whose) for whose in ("a", "a", "a", "b", "a", "c", "b")]
    assert [whose for _, whose in order_of(*asked)] == ["a", "b", "c", "a", "b", "a", "a"]


def test_owners_come_first_and_keep_no_other_login_out() -> None:
    owner, login, new = Urgency.OWNER, Urgency.LOGIN, Urgency.REGISTRATION
    asked = [(urgency, str(n)) for urgency in (new, login, owner) for n in range(4)]
    served = [urgency for urgency, _ in order_of(*asked)]
    assert served == [owner, owner, login, owner, owner, *[login] * 3, *[new] * 4]


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
    assert not queue._held


def test_one_slot_serves_registrations_too() -> None:
    queue = HashQueue(1)
    with queue.slot(Urgency.REGISTRATION, 0), pytest.raises(Busy), queue.slot(Urgency.OWNER, 0):
        pass
    with queue.slot(Urgency.REGISTRATION, 0):
        pass
    assert (len(queue._held), _waiting(queue)) == (0, 0)


def test_a_slot_comes_back_whatever_ends_its_use() -> None:
    queue = HashQueue(1)
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), queue.slot(Urgency.LOGIN, 0):
            raise error
    with queue.slot(Urgency.LOGIN, 0):
        pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_slot_comes_back_wherever_a_signals_handler_raises() -> None:
    queue = HashQueue(1)

    def use() -> None:
        with queue.slot(Urgency.LOGIN, 30):
            pass

    places = list(each_place(use))
    assert len(places) > 20
    with queue.slot(Urgency.REGISTRATION, 30):
        assert _waiting(queue) == 0


class SlowToCreate(PasswordHasher):
    """Makes no new hash before the test says so; verifies at once."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.open = threading.Event()
        self.hashing = threading.Semaphore(0)

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        """Return a hash, when it may."""
        self.hashing.release()
        wait_event(self.open, "the test lets hashes be made")
        return super().hash(password, salt=salt)


def test_the_owner_logs_in_beside_64_registrations(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 create_account that nobody is logged in for; every one of them stands in its hash."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    hasher = SlowToCreate()
    service = ChatService(MemoryStore(), ServiceSettings(hash_wait_seconds=30), hasher=hasher)
    hasher.open.set()
    service.add_account("ann", PASSWORD)
    service.login(service.session("192.0.2.1"), "ann", PASSWORD)
    hasher.open.clear()
    assert hasher.hashing.acquire(timeout=0)

    def create(number: int) -> None:
        service.create_account(service.session("127.0.0.1"), f"user{number}", PASSWORD)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    try:
        assert hasher.hashing.acquire(timeout=30)
        wait_until(lambda: _waiting(service._accounts._passwords._queue) == 63, "63 wait")
        for address in ("192.0.2.1", "192.0.2.2"):
            service.login(service.session(address), "ann", PASSWORD)
        assert not hasher.hashing.acquire(timeout=0)  # one hash, and no more, is being made
    finally:
        hasher.open.set()
        for thread in threads:
            join(thread)
    assert service.list_accounts(_logged_in(service), limit=100).usernames == tuple(
        sorted(["ann", *(f"user{number}" for number in range(64))])
    )


def _logged_in(service: ChatService) -> Session:
    session = service.session()
    service.login(session, "ann", PASSWORD)
    return session
