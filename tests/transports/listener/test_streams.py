"""A watch as a stream, over real sockets: what it brings, and what ends it."""

import json
import select
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from listening import Hold, Kind, Peer, Server, mail, mail_without_end, said, serving
from services import cheap_hasher, enter, make_service
from waiting import Call, wait_until

from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.core.store import MailboxPolicy
from twinline.stores.registry import open_store
from twinline.transports.listener import connection as connection_module
from twinline.transports.listener.loop_connection import LoopConnection

pytestmark = pytest.mark.usefixtures("each_listener")
PING = b'{"op":"ping","id":90}\n'
PINGED = {"id": 90, "ok": True}


@contextmanager
def bob(
    service: ChatService | None = None, **settings: object
) -> Iterator[tuple[Server, Peer, Session]]:
    """Yield a server, bob's connection, and ann's session, who writes to him."""
    with serving(service=service, **settings) as server, server.peer() as peer:
        peer.enter("bob")
        yield server, peer, enter(server.service, "ann")


# -- what it brings -------------------------------------------------------------------------


def test_a_stream_brings_mail_as_it_comes_until_its_window_is_used() -> None:
    with bob() as (server, peer, ann):
        peer.send_line(op="watch", id=5, after=0, wait=30, window=3)
        server.wait_watching()
        for number, more in ((1, True), (2, True), (3, False)):
            mail(server, ann, f"{number}")
            assert said(peer.read_line()) == (5, [f"{number}"], more)
        mail(server, ann, "4")
        assert peer.send(PING).read_line() == PINGED  # and nothing before it


def test_a_stream_ends_when_its_time_is_up_counted_from_the_request() -> None:
    with bob() as (server, peer, ann):
        started = time.monotonic()
        peer.send_line(op="watch", id=5, after=0, wait=1, window=10)
        server.wait_watching()
        mail(server, ann, "1")
        assert said(peer.read_line()) == (5, ["1"], True)
        assert said(peer.read_line()) == (5, [], False)
        assert 1 <= time.monotonic() - started < 20


def test_a_stream_that_does_not_wait_brings_all_pages_and_ends() -> None:
    with bob() as (server, peer, ann):
        mail(server, ann, *"abcde")
        peer.send_line(op="watch", id=5, after=0, limit=2, window=100)
        for page, more in (("ab", True), ("cd", True), ("e", False)):
            assert said(peer.read_line()) == (5, list(page), more)
        assert peer.send(PING).read_line() == PINGED


def test_a_stream_sends_64_kib_and_then_waits_for_its_peer() -> None:
    with bob() as (server, peer, ann):
        body = "x" * 10_000
        mail(server, ann, *[body] * 20)
        peer.send_line(op="watch", id=5, after=0, limit=1, window=100, wait=30)
        # Seven is the least number of them that has 64 KiB.
        expected = [(5, [body], True)] * 7 + [(5, [], False)]
        assert [said(peer.read_line()) for _ in expected] == expected
        # Two of them are under way, and their bytes count.
        peer.send_line(op="watch", id=6, after=5, limit=1, window=100, wait=30, renew=True)
        expected = [(6, [body], True)] * 5 + [(6, [], False)]
        assert [said(peer.read_line()) for _ in expected] == expected


@pytest.mark.parametrize("store", ["memory:", "sqlite:{}/t.db"])
def test_a_window_that_shrinks_below_what_is_under_way_brings_nothing(
    store: str, tmp_path: Path
) -> None:
    """No store is asked for fewer messages than none, which one takes for all there are."""
    with closing(open_store(store.format(tmp_path))) as opened:
        service = ChatService(opened, hasher=cheap_hasher())
        with bob(service) as (server, peer, ann):
            mail(server, ann, *"abcde")
            peer.send_line(op="watch", id=5, after=0, window=3, wait=30)
            assert said(peer.read_line()) == (5, list("abc"), False)
            peer.send_line(op="watch", id=6, after=0, window=1, wait=30, renew=True)
            assert said(peer.read_line()) == (6, [], False)


# -- what ends it, and what does not --------------------------------------------------------


@pytest.mark.parametrize("window", [0, 10])
def test_a_whole_frame_ends_an_open_watch_whose_last_reply_goes_first(window: int) -> None:
    with bob() as (server, peer, _):
        peer.send_line(op="watch", id=5, after=0, wait=30, window=window)
        server.wait_watching()
        peer.send(PING)
        assert said(peer.read_line()) == (5, [], False)
        assert peer.read_line() == PINGED


@pytest.mark.parametrize("window", [0, 10])
def test_a_watch_that_was_sent_with_the_next_request_looks_once(window: int) -> None:
    watch = json.dumps({"op": "watch", "id": 5, "after": 0, "wait": 30, "window": window})
    both = watch.encode() + b"\n" + PING
    with bob() as (server, peer, ann):
        assert said(peer.send(both).read_line()) == (5, [], False)
        assert peer.read_line() == PINGED
        mail(server, ann, "a")
        bodies: list[str] = []
        more = True
        peer.send(both)
        while more:
            _, found, more = said(peer.read_line())
            bodies += found
        assert bodies == ["a"]
        assert peer.read_line() == PINGED


@pytest.mark.parametrize(
    ("refused", "id", "code"),
    [(b"what?\n", None, "bad_request"), (b'{"op":"nothing","id":91}\n', 91, "unknown_op")],
)
def test_a_frame_that_is_refused_ends_an_open_watch(
    refused: bytes, id: int | None, code: str
) -> None:
    with bob() as (server, peer, _):
        peer.send_line(op="watch", id=5, after=0, wait=30, window=10)
        server.wait_watching()
        peer.send(refused)
        assert said(peer.read_line()) == (5, [], False)
        reply = peer.read_line()
        assert (reply["id"], reply["error"]["code"]) == (id, code)
        assert peer.send(PING).read_line() == PINGED


def test_half_a_frame_leaves_a_watch_open_and_its_other_half_ends_it() -> None:
    with bob() as (server, peer, ann):
        peer.send_line(op="watch", id=5, after=0, wait=30, window=10)
        server.wait_watching()
        for body in "ab":
            peer.send(b" ")
            mail(server, ann, body)
            assert said(peer.read_line()) == (5, [body], True)
        peer.send(PING)
        assert said(peer.read_line()) == (5, [], False)
        assert peer.read_line() == PINGED


def test_mail_and_half_a_frame_that_come_at_once_are_both_taken_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hold = Hold()
    owner_kind: Any = LoopConnection if Kind.loop else connection_module.Connection
    step = "_rest" if Kind.loop else "_wait"
    wait = getattr(owner_kind, step)
    with bob() as (server, peer, ann):
        monkeypatch.setattr(owner_kind, step, lambda owner: (hold(), wait(owner)))
        peer.send_line(op="watch", id=5, after=0, wait=30, window=10)
        hold.wait_reached()
        mail(server, ann, "a")
        peer.send(PING[:5])
        hold.release()
        assert said(peer.read_line()) == (5, ["a"], True)
        peer.send(PING[5:])
        assert said(peer.read_line()) == (5, [], False)
        assert peer.read_line() == PINGED


def test_half_a_frame_is_cut_when_its_time_is_up_whatever_the_watch_brings() -> None:
    """Mail comes all the while, and none of it extends the time."""
    service = make_service(policy=MailboxPolicy(mailbox_messages=1_000_000))
    with bob(service, frame_seconds=0.5) as (server, peer, ann):
        peer.send_line(op="watch", id=5, after=0, wait=60, window=1000)
        server.wait_watching()
        started = time.monotonic()
        peer.send(b'{"op":')
        with mail_without_end(server, ann):
            came = peer.rest(20)
        assert 0.5 <= time.monotonic() - started < 10
        assert came.startswith(b'{"id":5,"ok":true,"messages":[{"seq":1,')
        server.wait_connections(0)
        assert not server.subscriptions


@pytest.mark.parametrize(
    ("flood", "late", "setting"),
    [(PING, "log in", "login_seconds"), (b" ", "finish a frame", "frame_seconds")],
)
def test_what_never_stops_coming_extends_no_deadline(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    flood: bytes,
    late: str,
    setting: str,
) -> None:
    """Whenever the server waits for it, there is something to read."""
    caplog.set_level("INFO")
    with serving(**{setting: 0.3}) as server, server.peer() as peer:
        flooding = True

        def send_more() -> None:
            if flooding:
                with suppress(OSError):
                    peer.socket.send(flood, socket.MSG_DONTWAIT)

        class Flooded:
            def __init__(self) -> None:
                self._poll = select.poll()
                self.register = self._poll.register

            def poll(self, milliseconds: int) -> object:
                send_more()
                return self._poll.poll(milliseconds)

        read = LoopConnection.buffer_updated
        monkeypatch.setattr(connection_module, "poll", Flooded)
        monkeypatch.setattr(
            LoopConnection,
            "buffer_updated",
            lambda owner, nbytes: (read(owner, nbytes), send_more())[0],
        )
        if late == "finish a frame":
            peer.enter("bob")
        peer.send(flood)
        try:
            wait_until(lambda: f"took too long to {late}" in caplog.text, "it is cut", 5)
        finally:
            flooding = False


def test_thousands_of_watches_in_one_go_are_answered_in_order() -> None:
    """Each looks once and is ended by the next, and what that says does not pile up."""
    count = 5_000
    watch = b'{"op":"watch","id":%d,"after":1,"ack":1,"wait":30,"window":10}\n'
    with bob() as (server, peer, ann):
        mail(server, ann, "a")
        watches = b"".join(watch % number for number in range(count))
        sending = Call(lambda: peer.send(watches + PING))
        for number in range(count):
            assert said(peer.read_line()) == (number, [], False)
        assert peer.read_line() == PINGED
        sending.outcome()
        assert server.subscribed == 1


# -- the end of input -----------------------------------------------------------------------


@pytest.mark.parametrize("wait", [0, 30])
def test_the_end_of_input_ends_a_stream_with_all_that_there_is(wait: int) -> None:
    """As of `nc -N`: whoever has asked gets its answer, in as many pages as it has."""
    with bob() as (server, peer, ann):
        mail(server, ann, *"abcde")
        peer.send_line(op="watch", id=5, after=0, limit=2, window=100, wait=wait)
        peer.socket.shutdown(socket.SHUT_WR)
        assert_all_pages(peer)
        server.wait_connections(0)
        assert not server.subscriptions


def test_the_end_of_input_while_a_page_is_looked_for_loses_none_of_the_pages() -> None:
    with bob() as (server, peer, ann):
        mail(server, ann, *"abcde")
        hold = Hold()
        server.around_looks(before=lambda _: hold())
        peer.send_line(op="watch", id=5, after=0, limit=2, window=100, wait=30)
        hold.wait_reached()
        peer.socket.shutdown(socket.SHUT_WR)
        hold.release()
        assert_all_pages(peer)


def assert_all_pages(peer: Peer) -> None:
    replies = [said(json.loads(line)) for line in peer.rest().splitlines()]
    assert [body for _, bodies, _ in replies for body in bodies] == list("abcde")
    assert [more for _, _, more in replies] == [True] * (len(replies) - 1) + [False]
