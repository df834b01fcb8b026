"""Receipts: when the thread that puts them in begins and ends, and what it does between."""

import gc
import logging
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from forking import Child
from interrupting import each_place
from listening import Hold
from services import START_MS, FakeClock, enter, login, make_service
from waiting import Call, join, wait_until

from twinline.core import receipts as receipts_module
from twinline.core.errors import LockRuleError, StoreUnavailable
from twinline.core.looks import Look
from twinline.core.protocol import EVERY_KIND, Receipt
from twinline.core.receipts import Receipts
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.core.store import Delivery, PeerReceipt, SessionRecord
from twinline.stores.memory import MemoryStore

LONG = 600.0
"""Seconds that no test waits for."""
BOB = SessionRecord(b"", "id-bob", "bob", START_MS, START_MS)


class Boxes:
    """Mailboxes that write down what is put into them.

    Attributes:
        put: to whom, and up to which ``n``.
        before: called before each is written down.
    """

    def __init__(self) -> None:
        self.put: list[tuple[str, int]] = []
        self.before: Callable[[], object] = lambda: None

    def put_receipt(self, account_id: str, receipt: PeerReceipt) -> None:
        """Write down a receipt of bob."""
        self.before()
        assert receipt[:2] == ("id-bob", "bob")
        self.put.append((account_id, receipt.n))

    def wait(self, count: int) -> None:
        """Wait until so many were put in."""
        wait_until(lambda: len(self.put) >= count, f"{count} are put in")


def threads() -> list[threading.Thread]:
    """Return the threads that put receipts in, of whatever service."""
    return [each for each in threading.enumerate() if each.name == "receipts"]


@contextmanager
def noting(
    pause_seconds: float = LONG, stop_seconds: float = 20.0
) -> Iterator[tuple[Boxes, Receipts]]:
    boxes = Boxes()
    receipts = Receipts(
        boxes,  # type: ignore[arg-type]
        pause_seconds=pause_seconds,
        stop_seconds=stop_seconds,
    )
    try:
        yield boxes, receipts
    finally:
        receipts.stop()


def note(receipts: Receipts, *ns: int, sender: str = "ann") -> None:
    """Note what bob has acknowledged, by one ack after the other."""
    for n in ns:
        receipts.note(BOB, [Delivery(sender, n)], START_MS)


@pytest.fixture(autouse=True)
def _no_thread_of_another_test() -> None:
    wait_until(lambda: not threads(), "those of other tests have ended")


# -- the thread -----------------------------------------------------------------------------


def test_there_is_a_thread_while_something_is_due_and_no_longer() -> None:
    with noting(pause_seconds=0.01) as (boxes, receipts):
        assert not threads()
        hold = Hold()
        boxes.before = hold
        note(receipts, 1)
        hold.wait_reached()
        assert len(threads()) == 1
        hold.release()
        wait_until(lambda: not threads(), "it has ended")
        note(receipts, 2)  # and begins again
        boxes.wait(2)


def test_what_is_noted_meanwhile_is_put_in_together_and_the_highest_counts() -> None:
    with noting() as (boxes, receipts):
        note(receipts, 5)
        boxes.wait(1)
        note(receipts, 7, 9, 8)
        note(receipts, 6, sender="dave")
        assert len(threads()) == 1
        receipts.stop()
        assert boxes.put == [("ann", 5), ("ann", 9), ("dave", 6)]


def test_a_pair_waits_a_pause_from_one_to_the_next_however_long_a_round_takes() -> None:
    with noting(pause_seconds=0.2) as (boxes, receipts):
        hold = Hold()
        boxes.before = hold
        note(receipts, 1)
        hold.wait_reached()
        begun = time.monotonic()
        note(receipts, 2)
        wait_until(lambda: time.monotonic() > begun + 0.3, "the round takes more than a pause")
        released = time.monotonic()
        hold.release()
        boxes.wait(2)
        assert time.monotonic() - released >= 0.2


def test_of_more_pairs_than_may_be_due_the_last_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receipts_module, "MOST_DUE", 2)
    with noting() as (boxes, receipts):
        note(receipts, 1)
        boxes.wait(1)
        for sender in ("ann", "bob", "carol"):
            note(receipts, 2, sender=sender)
        note(receipts, 3)  # of a pair that is due
        receipts.stop()
        assert boxes.put[1:] == [("ann", 3), ("bob", 2)]


@pytest.mark.parametrize("error", [StoreUnavailable("it is away"), ZeroDivisionError("a bug")])
def test_what_cannot_be_put_in_is_logged_once_and_dropped(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[int] = []

    def fail() -> None:
        tried.append(1)
        if len(tried) in {1, 2, 4}:
            raise error

    with noting(pause_seconds=0.001) as (boxes, receipts), caplog.at_level(logging.WARNING):
        boxes.before = fail
        for n in range(1, 5):
            note(receipts, n)
            wait_until(lambda n=n: len(tried) == n, "it is tried")  # type: ignore[misc]
            wait_until(lambda: not threads(), "the round is over")
    assert boxes.put == [("ann", 3)]
    lost = [record for record in caplog.records if "receipts are lost" in record.message]
    assert len(lost) == 2  # of the first, and of the one after it went well
    assert all(str(error) in record.message for record in lost)
    # Where it is a bug, and not the store, one wants to know where it is.
    assert [bool(record.exc_info) for record in lost] == [error.args == ("a bug",)] * 2


# -- its end --------------------------------------------------------------------------------


def test_stop_puts_in_what_is_due_and_takes_nothing_more() -> None:
    with noting() as (boxes, receipts):
        note(receipts, 1)
        boxes.wait(1)
        note(receipts, 2)
        receipts.stop()
        assert boxes.put == [("ann", 1), ("ann", 2)]
        assert not threads()
        note(receipts, 3)
        receipts.stop()
        assert not threads()
        assert len(boxes.put) == 2


def test_stop_waits_for_a_moment_only_and_the_rest_is_dropped() -> None:
    with noting(stop_seconds=0.05) as (boxes, receipts):
        hold = Hold()
        boxes.before = hold
        receipts.note(BOB, [Delivery("ann", 1), Delivery("dave", 1)], START_MS)
        hold.wait_reached()
        Call(receipts.stop).outcome()
        assert boxes.put == []
        hold.release()  # the store may be closed by now
        wait_until(lambda: not threads(), "it has ended")
        assert boxes.put == [("ann", 1)]


def test_a_service_that_nobody_stops_is_not_kept_by_its_thread() -> None:
    service = make_service()
    ann, bob = enter(service, "ann"), enter(service, "bob")
    service.send(ann, "bob", "hello")
    service.ack(bob, 1)
    assert len(threads()) == 1
    gone = weakref.ref(service)
    del service, ann, bob
    wait_until(lambda: not threads(), "it has ended")
    gc.collect()
    assert gone() is None


def test_a_forked_child_puts_in_its_own_and_none_of_its_parents() -> None:
    with noting() as (boxes, receipts):
        note(receipts, 1)
        boxes.wait(1)
        note(receipts, 2)

        def use() -> None:
            assert not threads()
            note(receipts, 3)
            boxes.wait(2)
            receipts.stop()
            assert boxes.put == [("ann", 1), ("ann", 3)]

        Child(use).end()
        receipts.stop()
        assert boxes.put == [("ann", 1), ("ann", 2)]


def test_a_thread_that_cannot_start_fails_no_ack_and_the_next_one_mends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with noting() as (boxes, receipts):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            note(receipts, 1)
        note(receipts, 1, sender="dave")
        boxes.wait(2)
        assert boxes.put == [("ann", 1), ("dave", 1)]


def test_a_thread_that_starts_after_another_took_its_place_does_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, hold = threading.Thread.start, Hold()

    def held(thread: threading.Thread) -> None:
        if thread.name == "receipts":
            hold()
        start(thread)

    with noting() as (boxes, receipts):
        monkeypatch.setattr(threading.Thread, "start", held)
        late = threading.Thread(target=note, args=(receipts, 1))
        start(late)
        hold.wait_reached()
        note(receipts, 2)
        boxes.wait(1)
        note(receipts, 3)  # which waits for the next round
        hold.release()
        join(late)
        wait_until(lambda: len(threads()) == 1, "the other one has ended")
        assert boxes.put == [("ann", 2)]


def test_a_thread_that_comes_to_a_bad_end_is_followed_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_type))
    with noting(pause_seconds=0.001) as (boxes, receipts):
        ends = [LockRuleError("a lock is held")]

        def end() -> None:
            if ends:
                raise ends.pop()

        boxes.before = end
        note(receipts, 1)
        wait_until(lambda: not ends and not threads(), "it has ended")
        note(receipts, 2)
        boxes.wait(1)
        assert boxes.put == [("ann", 2)]
        assert told == [LockRuleError]


_ENDS_UNSTOPPED = """
import threading
from twinline.core.receipts import Receipts
from twinline.core.store import Delivery, SessionRecord

class Boxes:
    done = threading.Event()

    def put_receipt(self, account_id, receipt):
        self.done.set()

receipts = Receipts(Boxes(), pause_seconds=600)
receipts.note(SessionRecord(b"", "id-bob", "bob", 0, 0), [Delivery("ann", 1)], 0)
assert Boxes.done.wait(40)
receipts.note(SessionRecord(b"", "id-bob", "bob", 0, 0), [Delivery("ann", 2)], 0)
"""


def test_a_program_that_ends_without_a_stop_waits_for_no_round() -> None:
    run = [sys.executable, "-c", _ENDS_UNSTOPPED]
    done = subprocess.run(run, capture_output=True, check=False, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_thread_that_starts_when_all_is_stopped_puts_in_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, hold = threading.Thread.start, Hold()

    def held(thread: threading.Thread) -> None:
        if thread.name == "receipts":
            hold()
        start(thread)

    with noting(stop_seconds=LONG) as (boxes, receipts):
        monkeypatch.setattr(threading.Thread, "start", held)
        late = threading.Thread(target=note, args=(receipts, 1))
        start(late)
        hold.wait_reached()
        receipts.stop()  # which has nobody to wait for; the store may be closed by now
        hold.release()
        join(late)
        wait_until(lambda: not threads(), "it has ended")
        assert boxes.put == []


def test_an_interrupted_note_leaves_one_that_goes_on() -> None:
    with noting(pause_seconds=0.001) as (boxes, receipts):
        n = 0

        def noted() -> None:
            nonlocal n
            n += 1
            note(receipts, n)

        for place in each_place(noted):
            n += 1
            note(receipts, n)
            wait_until(
                lambda: boxes.put[-1:] == [("ann", n)],  # noqa: B023 - called at once
                f"one after {place}",
            )
        assert n > 10


# -- of a service ---------------------------------------------------------------------------


def by_ack(service: ChatService, bob: Session) -> None:
    service.ack(bob, 1)


def by_watch(service: ChatService, bob: Session) -> None:
    service.watch(bob, 1, ack=1)


def by_watch_that_waits(service: ChatService, bob: Session) -> None:
    waiting = Call(lambda: service.watch(bob, 1, ack=1, wait=60))
    wait_until(threads, "it has acknowledged")
    bob.interrupt()
    waiting.outcome()


def by_look(service: ChatService, bob: Session) -> None:
    service.look(bob, Look(1, 1, 0, 65536, follow=False))


def by_looks(service: ChatService, bob: Session) -> None:
    refused = Look(99, None, 1, 65536, follow=False)
    look = Look(1, 1, 1, 65536, follow=False)
    service.look_many([(bob, refused), (bob, look), (service.session(), look)])


@pytest.mark.parametrize("acks", [by_ack, by_watch, by_watch_that_waits, by_look, by_looks])
def test_whatever_acknowledges_gives_a_receipt(
    acks: Callable[[ChatService, Session], None],
) -> None:
    clock = FakeClock()
    service = make_service(clock=clock)
    ann, bob = enter(service, "ann"), enter(service, "bob")
    sent = service.send(ann, "bob", "hello")
    clock.forward(seconds=5)
    acks(service, bob)
    service.stop()
    assert receipts_of(service, ann) == [
        Receipt(seq=1, username="bob", n=sent.n, acked_at=clock.now)
    ]


def test_stop_of_a_service_puts_in_what_is_due() -> None:
    service = make_service()
    ann, bob = enter(service, "ann"), enter(service, "bob")
    service.send(ann, "bob", "one")
    service.ack(bob, 1)
    wait_until(lambda: receipts_of(service, ann), "the first is put in")
    last = service.send(ann, "bob", "two")
    service.ack(bob, 2)  # which waits for the next round
    service.stop()
    assert [each.n for each in receipts_of(service, ann)] == [last.n]


def receipts_of(service: ChatService, session: Session) -> list[Receipt]:
    """Return the receipts in a mailbox, also when the service has stopped."""
    assert session.username is not None
    account = service.store.accounts.find(session.username)
    assert account is not None
    page = service.store.mailboxes.read(account.account_id, 0, 100, 65536, EVERY_KIND)
    return list(page.receipts)


def test_an_ack_is_answered_before_its_receipt_is_put_in() -> None:
    store = MemoryStore()
    service = make_service(store=store)
    ann, bob = enter(service, "ann"), enter(service, "bob")
    service.send(ann, "bob", "hello")
    hold, put = Hold(), store.mailboxes.put_receipt

    def held(account_id: str, receipt: PeerReceipt) -> None:
        hold()
        put(account_id, receipt)

    store.mailboxes.put_receipt = held  # type: ignore[method-assign]
    reply: Any = Call(lambda: service.ack(bob, 1)).outcome()
    assert (reply.position, reply.unread) == (1, 0)
    hold.wait_reached()
    assert receipts_of(service, ann) == []
    hold.release()
    watch: Any = service.watch(ann, 0, wait=20, kinds=EVERY_KIND)
    assert [each.username for each in watch.receipts] == ["bob"]
    service.stop()


def ann_wants_none(service: ChatService, ann: Session, _: Session) -> None:
    service.set_receipts(ann, receipts=False)


def bob_gives_none(service: ChatService, _: Session, bob: Session) -> None:
    service.set_receipts(bob, receipts=False)


def ann_has_blocked_bob(service: ChatService, ann: Session, _: Session) -> None:
    service.block(ann, "bob")


def bob_has_blocked_ann(service: ChatService, _: Session, bob: Session) -> None:
    service.block(bob, "ann")


@pytest.mark.parametrize(
    ("private", "asked"),
    [
        (ann_wants_none, True),
        (bob_gives_none, False),
        (ann_has_blocked_bob, True),
        (bob_has_blocked_ann, False),
    ],
)
def test_no_receipt_is_given_where_one_of_the_two_says_no(
    private: Callable[[ChatService, Session, Session], None], asked: bool
) -> None:
    service = make_service()
    ann, bob = enter(service, "ann"), enter(service, "bob")
    service.send(ann, "bob", "hello")
    private(service, ann, bob)
    asks: list[str] = []
    put = service.store.mailboxes.put_receipt

    def noted(account_id: str, receipt: PeerReceipt) -> None:
        asks.append(receipt.username)
        put(account_id, receipt)

    service.store.mailboxes.put_receipt = noted  # type: ignore[method-assign]
    service.ack(bob, 1)
    service.stop()
    assert receipts_of(service, ann) == []
    # What the acking mailbox says costs nothing: there is no receipt on its way, and no thread.
    assert asks == (["bob"] if asked else [])


def test_mail_to_oneself_and_a_second_ack_give_none() -> None:
    service = make_service()
    ann = enter(service, "ann")
    service.send(ann, "ann", "a note")
    service.ack(ann, 1)
    assert not threads()
    bob = enter(service, "bob")
    service.send(ann, "bob", "hello")
    service.ack(bob, 1)
    wait_until(lambda: not threads(), "the first is put in")
    service.ack(bob, 1)
    service.ack(login(service, "bob"), 1)
    assert not threads()
    service.stop()


def test_the_next_ack_mends_a_receipt_that_was_lost() -> None:
    service = make_service()
    ann, bob = enter(service, "ann"), enter(service, "bob")
    service.send(ann, "bob", "one")
    put = service.store.mailboxes.put_receipt

    def lost(*_: object) -> None:
        service.store.mailboxes.put_receipt = put  # type: ignore[method-assign]
        raise StoreUnavailable

    service.store.mailboxes.put_receipt = lost  # type: ignore[method-assign]
    service.ack(bob, 1)
    wait_until(lambda: not threads(), "it was tried")
    assert receipts_of(service, ann) == []
    second = service.send(ann, "bob", "two")
    service.ack(bob, 2)
    service.stop()
    assert [each.n for each in receipts_of(service, ann)] == [second.n]
