"""Looks of many connections of an event loop in one call of a store that makes several as one."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest
from listening import Peer, Server, loops_only, said, serving
from services import cheap_hasher, enter
from waiting import wait_event, wait_until

from twinline.core.errors import RequestError, StoreUnavailable
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.core.store import MailboxLook, MailPage
from twinline.stores.memory import MemoryStore
from twinline.stores.memory.mailboxes import MemoryMailboxes
from twinline.transports.listener import loop
from twinline.transports.listener.workers import Workers

pytestmark = [pytest.mark.usefixtures("each_listener"), loops_only]
AT_ONCE = loop._LOOKS_UNDER_WAY


class JoinedMailboxes(MemoryMailboxes):
    """Makes several looks as one, each when it is let.

    Attributes:
        calls: how many looks each call has.
        open: whether calls go on.
        before, after: called around the looks of each call.
    """

    calls: list[int]
    open: threading.Event
    before: Callable[[], object]
    after: Callable[[], object]

    def look_many(self, looks: Sequence[MailboxLook]) -> list[MailPage | RequestError]:
        self.calls.append(len(looks))
        wait_event(self.open, "the test lets looks be made")
        self.before()
        found = super().look_many(looks)
        self.after()
        return found


class Site:
    """A server over such a store, peers that wait for mail, and somebody who writes to them."""

    def __init__(self, server: Server, boxes: JoinedMailboxes, ann: Session, stack: ExitStack):
        self.server, self.boxes, self._ann, self._stack = server, boxes, ann, stack

    def watching(self, number: int, *, window: int = 0) -> list[Peer]:
        """Return peers that wait for mail, each of an account of its own."""
        peers = []
        for each in range(number):
            peer = self._stack.enter_context(self.server.peer()).enter(f"user{each}")
            peer.send_line(op="watch", id=5, after=0, wait=30, window=window)
            peers.append(peer)
        self.server.wait_watching(number)
        # Not a look that they begin to follow by.
        assert self.boxes.calls == []
        return peers

    def write(self, *numbers: int) -> None:
        for number in numbers:
            self.server.service.send(self._ann, f"user{number}", f"mail {number}")


@pytest.fixture
def site() -> Iterator[Site]:
    store = MemoryStore()
    boxes = store.mailboxes
    boxes.__class__ = JoinedMailboxes
    assert isinstance(boxes, JoinedMailboxes)
    boxes.calls, boxes.open = [], threading.Event()
    boxes.before = boxes.after = lambda: None
    boxes.open.set()
    store.blocks = True
    service = ChatService(store, hasher=cheap_hasher())
    ann = enter(service, "ann")
    with serving(service=service) as server, ExitStack() as stack:
        try:
            yield Site(server, boxes, ann, stack)
        finally:
            boxes.open.set()


def test_what_comes_up_while_looks_are_made_is_one_of_the_next_call(site: Site) -> None:
    peers = site.watching(40)
    site.boxes.open.clear()
    for number in range(AT_ONCE):
        site.write(number)
        wait_until(lambda number=number: len(site.boxes.calls) == number + 1, "its call")
    site.write(*range(AT_ONCE, 40))
    wait_until(lambda: len(site.server.listener._looking) == 40 - AT_ONCE, "the others to wait")
    # Who has nothing to do with the store waits for none of them.
    with site.server.peer() as other:
        assert other.ask("ping")["ok"]
    site.boxes.open.set()
    for number, peer in enumerate(peers):
        assert said(peer.read_line()) == (5, [f"mail {number}"], False)
    assert site.boxes.calls == [1] * AT_ONCE + [40 - AT_ONCE]
    wait_until(lambda: not site.server.listener._looks_under_way, "none is under way")


def test_no_call_has_more_than_so_many(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_LOOKS_A_CALL", 8)
    peers = site.watching(30)
    site.boxes.open.clear()
    site.write(*range(30))
    wait_until(lambda: len(site.boxes.calls) == AT_ONCE, "as many calls as may be")
    site.boxes.open.set()
    for peer in peers:
        assert peer.read_line()["ok"]
    assert max(site.boxes.calls) <= 8
    assert sum(site.boxes.calls) == 30


def test_the_order_of_a_connections_replies_stays(site: Site) -> None:
    (peer,) = site.watching(1, window=100)
    site.boxes.open.clear()
    site.write(0)
    wait_until(lambda: site.boxes.calls == [1], "its look is under way")
    peer.send(b'{"op":"ping","id":6}\n{"op":"watch","id":7,"after":1,"ack":1}\n')
    peer.send(b'{"op":"status","id":8}\n{"op":"ping","id":9}\n')
    site.boxes.open.set()
    replies = [peer.read_line() for _ in range(6)]
    assert [reply["id"] for reply in replies] == [5, 5, 6, 7, 8, 9]
    assert said(replies[0]) == (5, ["mail 0"], True)
    assert (replies[3]["position"], replies[4]["unread"]) == (1, 0)


@pytest.mark.parametrize("when", ["before", "after"])
def test_mail_that_comes_while_a_look_is_made_is_not_missed(site: Site, when: str) -> None:
    (peer,) = site.watching(1, window=100)
    numbers = [0]

    def write_once() -> None:
        while numbers:
            site.write(numbers.pop())

    setattr(site.boxes, when, write_once)
    site.write(0)
    bodies: list[str] = []
    while len(bodies) < 2:
        bodies += said(peer.read_line())[1]
    assert bodies == ["mail 0"] * 2


def test_one_that_is_refused_or_gone_is_no_affair_of_the_others(site: Site) -> None:
    peers = site.watching(4)
    site.boxes.open.clear()
    for number in range(AT_ONCE):
        site.write(number)
        wait_until(lambda number=number: len(site.boxes.calls) == number + 1, "its call")
    # They are logged in, so these looks follow already, and wait to be made together.
    for number, peer in enumerate(peers):
        peer.send_line(op="watch", id=6, after=9 if number == 1 else 0)
    peers[2].close()
    site.boxes.open.set()
    for number in (0, 1, 3):
        assert said(peers[number].read_line())[:2] == (5, [f"mail {number}"])
    for number in (0, 3):
        assert said(peers[number].read_line()) == (6, [f"mail {number}"], False)
    assert peers[1].read_line()["error"]["code"] == "cursor_invalid"
    site.server.wait_connections(3)


def test_a_store_that_does_not_answer_is_told_to_each(site: Site) -> None:
    peers = site.watching(3)

    def fail() -> None:
        raise StoreUnavailable

    site.boxes.before = fail
    site.write(0, 1, 2)
    for peer in peers:
        assert peer.read_line()["error"]["code"] == "store_unavailable"
    site.boxes.before = lambda: None
    for peer in peers:
        assert len(said(peer.ask("watch", after=0))[1]) == 1


def test_a_fault_of_a_store_ends_those_that_it_met(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = site.watching(2)

    def fail() -> None:
        raise ZeroDivisionError

    site.boxes.before = fail
    site.write(0)
    assert first.rest() == b""
    assert "ZeroDivisionError" in caplog.text
    site.boxes.before = lambda: None
    site.write(1)
    assert said(second.read_line())[1] == ["mail 1"]


def test_where_there_is_no_thread_each_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = site.watching(2)

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Workers, "submit", refuse)
    for number, peer in enumerate(peers):
        site.server.service.send(site._ann, f"user{number}", "x")
        assert peer.read_line()["error"]["code"] == "busy"
    monkeypatch.undo()
    assert said(peers[0].ask("watch", after=0))[1] == ["x"]


def test_a_drain_waits_for_looks_that_are_under_way(site: Site) -> None:
    (peer,) = site.watching(1)
    site.boxes.open.clear()
    site.write(0)
    wait_until(lambda: site.boxes.calls == [1], "its look is under way")
    site.server.listener.stop()
    site.boxes.open.set()
    assert said(peer.read_line())[1] == ["mail 0"]
    assert peer.rest() == b""


def test_a_store_that_makes_each_look_alone_gets_a_worker_for_each() -> None:
    store = MemoryStore()
    store.blocks = True
    with serving(service=ChatService(store, hasher=cheap_hasher())) as server:
        assert not server.listener.looks_together
        with server.peer() as peer:
            peer.enter("ann")
            assert peer.ask("send", to="ann", body="x")["ok"]
            assert said(peer.ask("watch", after=0))[1] == ["x"]
