"""The load of `twinline bench`: what it counts, and that it notices a server that cheats."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest
from cli_server import running_server
from listening import Server, serving
from waiting import join, wait_until

from twinline.cli.bench import sockets
from twinline.cli.bench.accounts import Accounts
from twinline.cli.bench.idle import Crowd
from twinline.cli.bench.load import (
    Caller,
    Pair,
    Sample,
    deliveries,
    delivery_latency,
    one_at_a_time,
    percentile,
    pipelined,
    polled_latency,
)
from twinline.cli.bench.sockets import LoadError, Refused
from twinline.cli.bench.subjects import FloorSubject, ServerSubject
from twinline.cli.bench.target import ServerProcess, floor_server
from twinline.cli.console.exit_codes import ExitCode
from twinline.core.errors import RateLimited
from twinline.transports.registry import transport

pytestmark = [pytest.mark.measure, pytest.mark.timeout(300)]

SECONDS = 0.05
REQUEST = b"request.\n"
GOOD = b"ok 1234\n"
START = b"ok"
TRANSPORTS = ["jsonl", "binary"]


# -- servers that do one thing wrong ------------------------------------------------------


class Peer:
    """Answers requests on the other end of a socket pair, as a function says.

    Attributes:
        requests: how many it has read.
    """

    def __init__(self, answer: Callable[[int], list[bytes]]) -> None:
        self.near, self._far = socket.socketpair()
        self.requests = 0
        self._answer = answer
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        # The load leaves in the middle when it has seen enough.
        with suppress(OSError), self._far, self._far.makefile("rb") as lines:
            for _ in lines:
                self.requests += 1
                for piece in self._answer(self.requests):
                    if not piece:
                        return
                    self._far.sendall(piece)

    def close(self) -> None:
        self.near.shutdown(socket.SHUT_RDWR)
        self.near.close()
        join(self._thread)


@contextmanager
def answering(answer: Callable[[int], list[bytes]]) -> Iterator[tuple[Pair, Peer]]:
    """Have a sender that is answered so, and a watcher that gets nothing."""
    with closing(Peer(answer)) as peer, closing(Peer(lambda _: [])) as silent:
        yield Pair(Caller(peer.near, [REQUEST], len(GOOD), START), silent.near, None), peer


LOADS: dict[str, Callable[[Pair], Sample]] = {
    "one": lambda pair: one_at_a_time([pair.sender], SECONDS),
    "pipelined": lambda pair: pipelined([pair.sender], 8, SECONDS),
    "deliveries": lambda pair: deliveries([pair], SECONDS),
    "latency": lambda pair: delivery_latency([pair], SECONDS),
}


@pytest.mark.parametrize("load", ["one", "pipelined"])
def test_every_answer_is_counted_once(load: str) -> None:
    with answering(lambda _: [GOOD]) as (pair, peer):
        sample = LOADS[load](pair)
        assert sample.operations == peer.requests > 20
        assert SECONDS <= sample.seconds < 10
        assert sample.rate == sample.operations / sample.seconds
        assert 0 < sample.processor_seconds <= sample.seconds
        assert pair.sender.socket.gettimeout() is None  # as it was


def test_latencies_are_those_of_each_operation() -> None:
    with answering(lambda _: [GOOD]) as (pair, _):
        sample = one_at_a_time([pair.sender], SECONDS)
    assert sample.latencies == sorted(sample.latencies)
    assert len(sample.latencies) == sample.operations
    assert 0 < sum(sample.latencies) <= sample.seconds


@pytest.mark.parametrize("load", ["one", "pipelined"])
def test_a_reply_may_come_in_pieces(load: str) -> None:
    with answering(lambda _: [GOOD[:1], GOOD[1:5], GOOD[5:]]) as (pair, peer):
        assert LOADS[load](pair).operations == peer.requests > 0


@pytest.mark.parametrize("frames", [[REQUEST], [b"one\n", b"twenty\n", b"three\n"]])
def test_frames_are_sent_in_turn(frames: list[bytes]) -> None:
    near, far = socket.socketpair()
    seen = []

    def serve() -> None:
        with far, far.makefile("rb") as lines:
            for line in lines:
                seen.append(line)
                far.sendall(GOOD)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with near:
        pipelined([Caller(near, frames, len(GOOD), START)], 8, SECONDS)
    join(thread)
    assert seen == [frames[number % len(frames)] for number in range(len(seen))]


@pytest.mark.parametrize(
    ("load", "after"),
    # A watcher that gets nothing lets there be no second message.
    [*((load, 1) for load in LOADS), ("one", 10), ("pipelined", 2), ("pipelined", 10)],
)
def test_a_refusal_is_found(load: str, after: int) -> None:
    refusal = b"no, not any more of this\n"
    answer = [GOOD, refusal]
    with (
        answering(lambda number: [answer[number >= after]]) as (pair, _),
        pytest.raises(Refused) as caught,
    ):
        LOADS[load](pair)
    assert refusal.startswith(caught.value.reply[: len(refusal)])
    assert caught.value.exit_code is ExitCode.REFUSED


@pytest.mark.parametrize("load", LOADS)
def test_a_connection_that_ends_is_found(load: str) -> None:
    with answering(lambda _: [b""]) as (pair, _), pytest.raises(LoadError) as caught:
        LOADS[load](pair)
    assert "ended a connection" in str(caught.value)
    assert caught.value.exit_code is ExitCode.UNREACHABLE


@pytest.mark.parametrize("load", LOADS)
def test_silence_is_found(load: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "PATIENCE_SECONDS", 0.1)
    with answering(lambda _: []) as (pair, _), pytest.raises(LoadError) as caught:
        LOADS[load](pair)
    assert caught.value.exit_code is ExitCode.TIMED_OUT


def test_no_request_to_watch_is_left_behind_when_the_time_is_up_in_the_middle() -> None:
    watcher, delivering = socket.socketpair()
    asked = b"ask\n"

    def answer(number: int) -> list[bytes]:
        if number == 1:
            threading.Event().wait(2 * SECONDS)  # the time is up before there is a delivery
        delivering.sendall(b"message\n")
        if number == 1:
            assert delivering.recv(2 * len(asked), socket.MSG_WAITALL) == asked * 2
        return [GOOD]

    with watcher, delivering, answering(answer) as (silent, peer):
        sample = deliveries([Pair(silent.sender, watcher, lambda _: asked)], SECONDS)
        assert sample.operations == peer.requests == 2
        delivering.setblocking(False)
        with pytest.raises(BlockingIOError):
            delivering.recv(1)


def test_more_than_was_asked_for_is_found() -> None:
    with answering(lambda _: [GOOD + GOOD]) as (pair, _), pytest.raises(LoadError, match="more"):
        one_at_a_time([pair.sender], SECONDS)


def test_percentiles() -> None:
    values = [float(number) for number in range(100)]
    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (50, 99, 99)
    assert percentile([7.0], 99) == 7


# -- a real server ------------------------------------------------------------------------


@contextmanager
def subject_at(server: Server, name: str, pairs: int = 4) -> Iterator[ServerSubject]:
    target = ServerProcess(server.endpoints[0])
    accounts = Accounts(target.endpoint, transport(name))
    with closing(ServerSubject(target, transport(name), accounts)) as subject:
        subject.make_accounts(2, pairs)
        yield subject


@pytest.mark.parametrize("name", TRANSPORTS)
def test_deliveries_are_counted_and_checked(name: str) -> None:
    with serving() as server, subject_at(server, name) as subject:
        subject.open(4, 4)
        done = 0
        for _ in range(2):  # nothing is left behind that the second time would find
            sample = deliveries(subject.pairs, SECONDS)
            assert sample.operations >= 4
            done += sample.operations
            assert sum(len(pair.received) for pair in subject.pairs) == sample.operations
            subject.settle()
            sample = delivery_latency(subject.pairs, SECONDS)
            assert 0 < sample.latencies[0] <= sample.latencies[-1] < SECONDS * 10
            done += sample.operations
            subject.settle()
            assert one_at_a_time(subject.callers(4), SECONDS).operations >= 4
            assert pipelined(subject.callers(4), 8, SECONDS).operations >= 4 * 8
            subject.settle()
        assert sum(pair.seen for pair in subject.pairs) == done


@pytest.mark.parametrize("name", TRANSPORTS)
def test_polling_finds_each_message_at_the_next_look(name: str) -> None:
    with serving() as server, subject_at(server, name, pairs=8) as subject:
        subject.open(0, 8, wait=0)
        sample = polled_latency(subject.pairs, 0.4)
        subject.settle()
    assert sample.operations == 8
    # Spread evenly over the interval, give or take what a busy machine adds.
    assert sample.latencies[0] < 0.2
    assert 0.3 < sample.latencies[-1] < 2
    assert 0.1 < percentile(sample.latencies, 50) < 1


def lose(received: list[bytes]) -> None:
    del received[1]


def lose_the_first(received: list[bytes]) -> None:
    del received[0]


def double(received: list[bytes]) -> None:
    received[1] = received[0]


def swap(received: list[bytes]) -> None:
    received[0], received[1] = received[1], received[0]


def change(received: list[bytes]) -> None:
    received[0] = received[0].replace(b"station", b"airport")


@pytest.mark.parametrize("name", TRANSPORTS)
@pytest.mark.parametrize("cheat", [lose, lose_the_first, double, swap, change])
def test_a_delivery_that_is_wrong_is_found(name: str, cheat: Callable[[list[bytes]], None]) -> None:
    with serving() as server, subject_at(server, name, pairs=1) as subject:
        subject.open(0, 1)
        for _ in range(3):
            delivery_latency(subject.pairs, 0)
        cheat(subject.pairs[0].received)
        with pytest.raises(LoadError, match="once and in order"):
            subject.settle()


@pytest.mark.parametrize("name", TRANSPORTS)
def test_no_mail_piles_up(name: str) -> None:
    with serving() as server, subject_at(server, name) as subject:
        subject.open(4, 4)
        one_at_a_time(subject.callers(4), SECONDS)
        subject.settle()
        assert subject._accounts.acknowledge(subject._unwatched) == 0


@pytest.mark.parametrize("name", TRANSPORTS)
def test_a_refusal_is_told_in_the_server_s_words(name: str) -> None:
    with running_server(sends_per_second=20) as endpoint:
        accounts = Accounts(endpoint, transport(name))
        with closing(ServerSubject(ServerProcess(endpoint), transport(name), accounts)) as subject:
            subject.make_accounts(1, 0)
            subject.open(4, 0)
            with pytest.raises(Refused) as caught:
                pipelined(subject.callers(4), 32, 1)
            assert isinstance(subject.explain(caught.value), RateLimited)


@pytest.mark.parametrize("name", TRANSPORTS)
def test_the_accounts_are_deleted(name: str) -> None:
    with running_server() as endpoint:
        accounts = Accounts(endpoint, transport(name))
        told: list[int] = []
        made = accounts.make(5, told.append)
        assert len({member.name for member in made}) == sum(told) == 5
        assert accounts.delete(told.append) == 0
        assert sum(told) == 10
        with pytest.raises(Exception, match="ended"):
            accounts.acknowledge(made)


def test_idle_users_hold_two_lines_each_and_notice_the_end() -> None:
    with serving() as server:
        spoken = transport("jsonl")
        members = Accounts(server.endpoints[0], spoken).make(3)
        server.wait_connections(0)
        with Crowd(server.endpoints[0], spoken) as crowd:
            crowd.join(members)
            server.wait_connections(6)
            crowd.check()
        server.wait_connections(0)
        with Crowd(server.endpoints[0], spoken) as crowd:
            crowd.join(members)
            server.stop()
            wait_until(lambda: crowd._failure is not None, "the end of the connections")
            with pytest.raises(LoadError, match="idle user"):
                crowd.check()


def test_the_limit_on_open_files_is_raised_and_kept_to() -> None:
    code = (
        "import resource; from twinline.cli.bench.idle import room_for_users\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 300))\n"
        "print(room_for_users(20, 100), *resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        "print(room_for_users(1000, 100), *resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        "print(room_for_users(1000, 400))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["20", "140", "300", "100", "300", "300", "0"]


# -- the floor, and what a process takes --------------------------------------------------


def test_the_floor_echoes_and_relays() -> None:
    with floor_server() as target, closing(FloorSubject(target)) as floor:
        floor.open(4, 4)
        assert one_at_a_time(floor.callers(4), SECONDS).operations >= 4
        sample = deliveries(floor.pairs, SECONDS)
        assert sum(len(pair.received) for pair in floor.pairs) == sample.operations >= 4
        assert delivery_latency(floor.pairs, SECONDS).operations >= 1
        floor.settle()
        assert (target.processor_seconds() or 0) > 0
        pid = target.pid
        delivery_latency(floor.pairs, 0)
        floor.pairs[0].received[0] += b"more"
        with pytest.raises(LoadError, match="relay"):
            floor.settle()
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_this_process_takes_can_be_seen() -> None:
    with serving() as server:
        target = ServerProcess(server.endpoints[0], os.getpid())
        before = target.processor_seconds()
        assert before is not None
        began = time.process_time()
        while time.process_time() - began < 0.05:
            pass
        after = target.processor_seconds()
        assert after is not None
        assert 0.05 <= after - before < 5
        memory = target.resident_bytes()
        assert memory is not None
        kept = bytearray(b"x") * 50_000_000
        grown = target.resident_bytes()
        assert grown is not None
        assert 40_000_000 < grown - memory < 100_000_000
        del kept
        threads = target.threads()
        assert threads is not None
        with answering(lambda _: []):
            assert target.threads() == threads + 2


def test_what_nobody_can_see_is_none() -> None:
    with serving() as server:
        for pid in (None, 2**22 + 1):  # no process has this number: it is above the limit
            target = ServerProcess(server.endpoints[0], pid)
            assert target.processor_seconds() is None
            assert target.resident_bytes() is None
            assert target.threads() is None
