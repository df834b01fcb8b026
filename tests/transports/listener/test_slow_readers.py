"""Watchers that never read cost a bounded number of bytes, and nobody else any time."""

import fcntl
import json
import logging
import statistics
import subprocess
import sys
import termios
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cli_server import ended
from listening import Peer, Server, mail, note_unsent, said, serving, socket_path
from services import PASSWORD, enter, make_service
from waiting import join, wait_until

from twinline.transports.endpoints import Endpoint

over_each = pytest.mark.usefixtures("each_listener")
SLOW = 50
# Every character of a control kind is six in JSON, so this is as long as a body can be.
LONGEST = "\x01" * 60_000
STREAMS = b"".join(b'{"op":"watch","id":%d,"after":0,"window":1000}\n' % n for n in range(100))
PAGES = STREAMS.replace(b',"window":1000', b"")


@contextmanager
def slow_readers(
    monkeypatch: pytest.MonkeyPatch,
    asked: bytes = STREAMS,
    bodies: Sequence[str] = (LONGEST,) * 4,
    **settings: float,
) -> Iterator[tuple[Server, list[Peer], list[int]]]:
    """Yield a server with peers who ask for much more than their sockets hold, and read nothing.

    And how many bytes were held for each, once for each time that it could not be written to.
    """
    held: list[int] = []
    note_unsent(monkeypatch, held.append)
    service = make_service(body_bytes=64 * 1024, watches_per_account=1_000)
    token = service.create_account(service.session(), "bob", PASSWORD).session
    with (
        socket_path() as path,
        serving([(f"unix:{path}", "auto")], service, **settings) as server,
        ExitStack() as peers,
    ):
        mail(server, enter(service, "ann"), *bodies)
        slow = [peers.enter_context(server.peer()) for _ in range(SLOW)]
        for peer in slow:
            assert peer.ask("resume", session=token)["ok"]
            peer.send(asked)
        yield server, slow, held


@over_each
@pytest.mark.parametrize(
    ("asked", "bodies"),
    [(STREAMS, [LONGEST] * 4), (PAGES, ["x" * 60_000])],
    ids=["streams of the longest", "pages of less than is sent at once"],
)
def test_what_a_slow_reader_holds_is_bounded_and_it_is_cut(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked: bytes,
    bodies: list[str],
) -> None:
    caplog.set_level(logging.INFO)
    with slow_readers(monkeypatch, asked, bodies, write_seconds=1) as (server, _, held):
        wait_until(lambda: len(held) >= SLOW, "none of them can be written to")
        with server.peer() as carol, server.peer() as dave:
            carol.enter("carol").send_line(op="watch", id=5, after=0, wait=30, window=10)
            dave.enter("dave")
            for number in range(3):
                assert dave.ask("send", to="carol", body=f"{number}")["ok"]
                assert said(carol.read_line()) == (5, [f"{number}"], True)
        server.wait_connections(0)
        assert not server.subscriptions
    # What is said before the next look, the longest body in JSON, and some for the rest of it.
    assert max(held) < 64 * 1024 + len(json.dumps(bodies[0])) + 1024
    assert caplog.text.count("took too long to read what it was sent") == SLOW
    again = server.service.session()
    assert server.service.login(again, "bob", PASSWORD).unread == len(bodies)


@over_each
def test_slow_readers_do_not_hold_up_the_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    with slow_readers(monkeypatch, drain_seconds=0.5) as (server, _, held):
        wait_until(lambda: len(held) >= SLOW, "none of them can be written to")
        started = time.monotonic()
        server.listener.stop()
        join(server.thread)
        assert time.monotonic() - started < 5  # and not the 10 s that a peer may take to read
        server.wait_connections(0)


# -- what others notice ---------------------------------------------------------------------


@contextmanager
def server_process(path: str) -> Iterator[tuple[Endpoint, Path]]:
    """Run `twinline serve`; yield where, and the folder that has an entry for each thread."""
    place = f"unix:{path}"
    command = [sys.executable, "-m", "twinline.cli", "serve", "--listen", place]
    options = ["--store", "memory:", "--write-seconds", "50", "--body-bytes", "65536"]
    options += ["--frame-bytes", "131072"]
    with ended(
        subprocess.Popen(
            [*command, "--log-level", "warning", *options], stdout=subprocess.PIPE, text=True
        )
    ) as process:
        assert process.stdout is not None
        assert place in process.stdout.readline()
        yield Endpoint.parse(place), Path(f"/proc/{process.pid}/task")
        process.terminate()
        assert process.wait(20) == 0


@contextmanager
def unread_streams(endpoint: Endpoint, tokens: Sequence[str]) -> Iterator[None]:
    """Have a peer for each token that asks for streams and reads nothing."""
    with ExitStack() as peers:
        slow = [peers.enter_context(Peer(endpoint)) for _ in tokens]
        for peer, token in zip(slow, tokens, strict=True):
            assert peer.ask("resume", session=token)["ok"]
            peer.send(STREAMS)
        unread = [0]

        def is_stuck() -> bool:
            before, unread[:] = unread[:], [unread_bytes(peer) for peer in slow]
            return unread == before and min(unread) > 64 * 1024

        wait_until(is_stuck, "the server can write to none of them")
        yield


def unread_bytes(peer: Peer) -> int:
    count = array("i", [0])
    fcntl.ioctl(peer.socket, termios.FIONREAD, count)
    return count[0]


class Pair:
    """Ann, who sends, and bob, who watches: what both of them wait for.

    Attributes:
        ann: her connection.
    """

    def __init__(self, endpoint: Endpoint, stack: ExitStack) -> None:
        self.ann = stack.enter_context(Peer(endpoint)).enter("ann")
        self._bob = stack.enter_context(Peer(endpoint)).enter("bob")
        self._seq = 0

    def p99(self, messages: int = 1_000) -> float:
        """Return the seconds from a send to both its reply and its delivery, of one in hundred."""
        took = []
        for number in range(messages):
            if number % 200 == 0:  # in time, for a stream has 64 KiB
                self._bob.send_line(
                    op="watch", id=2, after=self._seq, ack=self._seq, wait=60, window=1_000
                )
            started = time.perf_counter()
            assert self.ann.ask("send", to="bob", body="hello")["ok"]
            messages_came = []
            while not messages_came:  # an empty reply is the end of the stream before
                messages_came = self._bob.read_line()["messages"]
            took.append(time.perf_counter() - started)
            self._seq += 1
            assert messages_came[0]["seq"] == self._seq
        return statistics.quantiles(took, n=100)[98]


@pytest.mark.timeout(300)
def test_watchers_that_never_read_cost_others_less_than_a_fifth_of_their_p99() -> None:
    """In turns with and without them. A run that other programs disturbed is repeated."""
    ratios = []
    with socket_path() as path, server_process(path) as (endpoint, tasks), ExitStack() as stack:
        pair = Pair(endpoint, stack)
        tokens = []
        for number in range(10):  # each account has a few, for mail to one wakes them all
            with Peer(endpoint) as peer:
                reply = peer.ask("create_account", username=f"slow{number}", password=PASSWORD)
                tokens += [reply["session"]] * (SLOW // 10)
            for _ in range(4):
                assert pair.ann.ask("send", to=f"slow{number}", body="x" * 60_000)["ok"]
        threads = len(list(tasks.iterdir()))

        def wait_threads(slow: int) -> None:
            # One more puts receipts in, and ends a second after the last.
            expected = threads + slow
            wait_until(lambda: len(list(tasks.iterdir())) == expected, f"{expected} threads")

        while not ratios or (min(ratios) > 1.2 and len(ratios) < 4):
            without, beside = [], []
            for _ in range(5):
                without.append(pair.p99())
                with unread_streams(endpoint, tokens):
                    wait_threads(SLOW)
                    beside.append(pair.p99())
                wait_threads(0)
            ratios.append(statistics.median(beside) / statistics.median(without))
    assert min(ratios) < 1.2, ratios
