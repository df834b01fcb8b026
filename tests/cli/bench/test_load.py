"""The load of `twinline bench`: what it counts, and that it notices a server that cheats."""

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import cycle, islice, repeat
from types import SimpleNamespace
from typing import Any

import pytest
from cli_server import running_server
from fault_proxy import FaultProxy
from listening import Server, serving
from waiting import join, wait_until

from twinline.cli.bench import receivers, sockets, watchers
from twinline.cli.bench.accounts import Accounts
from twinline.cli.bench.idle import Crowd
from twinline.cli.bench.load import (
    Caller,
    Pair,
    Sample,
    beside,
    deliveries,
    delivery_latency,
    flow,
    one_at_a_time,
    percentile,
    pipelined,
    polled_latency,
)
from twinline.cli.bench.plan import fill
from twinline.cli.bench.receivers import by_async_client, by_client
from twinline.cli.bench.sockets import LoadError, Refused
from twinline.cli.bench.subjects import FloorSubject, ServerSubject
from twinline.cli.bench.target import ServerProcess, floor_server, server_process
from twinline.cli.bench.watchers import AskingWatcher, MailboxWatcher, Watcher
from twinline.cli.bench.wire import BODY, WINDOW, Wire
from twinline.cli.console.exit_codes import ExitCode
from twinline.core.errors import RateLimited
from twinline.core.protocol import Done, Ping, Watch
from twinline.transports.client import ClientSettings
from twinline.transports.client.engine import stream
from twinline.transports.contract import RequestReceived
from twinline.transports.endpoints import Scheme
from twinline.transports.registry import transport
from twinline.transports.tls import client_context

pytestmark = pytest.mark.timeout(300)

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
        caller = Caller(peer.near, repeat(REQUEST), len(GOOD), START)
        yield Pair(caller, Watcher(silent.near)), peer


LOADS: dict[str, Callable[[Pair], Sample]] = {
    "one": lambda pair: one_at_a_time([pair.sender], SECONDS),
    "pipelined": lambda pair: pipelined([pair.sender], 8, SECONDS),
    "deliveries": lambda pair: deliveries([pair], SECONDS),
    "latency": lambda pair: delivery_latency([pair], SECONDS),
    "flow": lambda pair: flow(pair, 8, SECONDS),
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
        pipelined([Caller(near, cycle(frames), len(GOOD), START)], 8, SECONDS)
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


@pytest.mark.parametrize(("load", "messages"), [("deliveries", 2), ("flow", 1)])
def test_no_request_to_watch_is_left_behind_when_the_time_is_up_in_the_middle(
    load: str, messages: int
) -> None:
    watcher, delivering = socket.socketpair()
    asked = b"ask\n"

    def answer(number: int) -> list[bytes]:
        if number == 1:
            threading.Event().wait(2 * SECONDS)  # the time is up before there is a delivery
        delivering.sendall(BODY.encode())
        if number == 1:
            assert delivering.recv(messages * len(asked), socket.MSG_WAITALL) == asked * messages
        return [GOOD]

    with watcher, delivering, answering(answer) as (silent, peer):
        pair = Pair(silent.sender, AskingWatcher(watcher, asked))
        sample = deliveries([pair], SECONDS) if load == "deliveries" else flow(pair, 1, SECONDS)
        assert sample.operations == peer.requests == messages
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


# -- watchers -----------------------------------------------------------------------------


MESSAGE = b'{"messages":["' + BODY.encode() + b'"]}'


@contextmanager
def watching(*, streams: bool = True) -> Iterator[tuple[MailboxWatcher, socket.socket]]:
    """Have a watcher of a socket pair, whose frames say what they acknowledge and how."""
    near, far = socket.socketpair()
    far.setblocking(False)
    with near, far:

        def encode(seen: int, streams: bool) -> bytes:
            return b"%d %s," % (seen, b"stream" if streams else b"blocked")

        yield MailboxWatcher(near, encode, streams=streams), far


def said(far: socket.socket) -> bytes:
    try:
        return far.recv(1000)
    except BlockingIOError:
        return b""


def bring(watcher: Watcher, far: socket.socket, data: bytes) -> int:
    far.sendall(data)
    return watcher.take()


def test_a_stream_is_what_the_client_engine_makes_it() -> None:
    assert ClientSettings().window == WINDOW == 256
    assert watchers.ACK_MESSAGES == stream.ACK_MESSAGES
    assert watchers.ACK_SECONDS == stream.ACK_SECONDS == stream.QUIET_SECONDS


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Have the watchers' clock stand at ``now``."""
    clock = SimpleNamespace(now=100.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(watchers, "time", clock)
    return clock


def test_a_message_is_acknowledged_at_once_unless_another_was_just_now(
    clock: SimpleNamespace,
) -> None:
    with watching() as (watcher, far):
        watcher.begin()
        assert said(far) == b"0 stream,"
        for waited, expected in (
            (0.049, b""),
            (0.051, b"2 stream,"),
            (0.1, b""),
            (9, b"4 stream,"),
        ):
            clock.now = 100 + waited
            bring(watcher, far, MESSAGE)
            watcher.go_on()
            assert said(far) == expected


def test_however_soon_32_messages_bring_the_next_acknowledgement(clock: SimpleNamespace) -> None:
    with watching() as (watcher, far):
        watcher.begin()
        said(far)
        bring(watcher, far, 31 * MESSAGE)
        watcher.go_on()
        assert said(far) == b""
        bring(watcher, far, MESSAGE)
        watcher.go_on()
        assert said(far) == b"32 stream,"
        assert clock.now == 100


def test_a_server_beside_is_acknowledged_at_the_same_pace(clock: SimpleNamespace) -> None:
    near, far = socket.socketpair()
    far.setblocking(False)
    with near, far:
        watcher = Watcher(near, lambda seen: b"%d," % seen)
        watcher.begin()
        assert said(far) == b""
        for waited, expected in ((0, b"1,"), (0.049, b""), (0.051, b"3,"), (0.06, b"")):
            clock.now = 100 + waited
            bring(watcher, far, MESSAGE)
            watcher.go_on()
            assert said(far) == expected
        watcher.begin()
        assert said(far) == b"4,"


def test_a_blocked_watch_is_asked_for_each_time() -> None:
    with watching(streams=False) as (watcher, far):
        watcher.begin()
        bring(watcher, far, MESSAGE)
        watcher.go_on()
        bring(watcher, far, MESSAGE)
        watcher.go_on()
        assert said(far) == b"0 blocked,1 blocked,2 blocked,"
        watcher.streams = True
        bring(watcher, far, MESSAGE)
        watcher.begin()
        bring(watcher, far, MESSAGE)
        watcher.go_on()
        assert said(far) == b"3 stream,"


@pytest.mark.parametrize("cut", [1, len(MESSAGE) // 2, len(MESSAGE) + 20])
def test_a_message_in_two_pieces_is_one(cut: int) -> None:
    near, far = socket.socketpair()
    with near, far:
        watcher = Watcher(near)
        data = 2 * MESSAGE
        came = []
        for piece in (data[:cut], data[cut:]):
            far.sendall(piece)
            came.append(watcher.take())
        assert sum(came) == watcher.seen == watcher.unchecked == 2
        assert b"".join(watcher.received) == data


def test_what_a_server_pushes_is_acknowledged_once_if_at_all() -> None:
    near, far = socket.socketpair()
    with near, far:
        far.setblocking(False)
        watcher = Watcher(near, lambda seen: b"ack %d," % seen)
        watcher.begin()
        far.sendall(MESSAGE)
        watcher.take()
        watcher.go_on()
        watcher.begin()
        assert said(far) == b"ack 1,"


# -- a real server ------------------------------------------------------------------------


@contextmanager
def subject_at(
    server: Server, name: str, pairs: int = 4, tls: ssl.SSLContext | None = None
) -> Iterator[ServerSubject]:
    target = ServerProcess(server.endpoints[0], tls=tls)
    accounts = Accounts(target.endpoint, transport(name), tls)
    with closing(ServerSubject(target, transport(name), accounts)) as subject:
        subject.make_accounts(2, pairs)
        yield subject


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        *(("tcp", name) for name in TRANSPORTS),
        ("tls", "jsonl"),
        ("ws", "binary"),
        ("wss", "jsonl"),
        ("tcp", "websocket"),
    ],
)
def test_deliveries_are_counted_and_checked(scheme: str, name: str, certificates: Any) -> None:
    shown, tls = certificates.server, client_context(ca_file=str(certificates.ca.file))
    files = {"tls_certificate": str(shown.certificate), "tls_key": str(shown.key)}
    with (
        serving([(f"{scheme}://127.0.0.1:0", "auto")], **files) as server,
        subject_at(server, name, tls=tls) as subject,
    ):
        subject.open(4, 4)
        done = 0
        for streams in (True, False, True, True):  # nothing is left behind that the next would find
            subject.watch(streams=streams)
            sample = deliveries(subject.pairs, SECONDS)
            assert sample.operations >= 4
            done += sample.operations
            assert sum(pair.watcher.unchecked for pair in subject.pairs) == sample.operations
            subject.settle()
            sample = delivery_latency(subject.pairs, SECONDS)
            assert 0 < sample.latencies[0] <= sample.latencies[-1] < SECONDS * 10
            done += sample.operations
            subject.settle()
            assert one_at_a_time(subject.callers(4), SECONDS).operations >= 4
            assert pipelined(subject.callers(4), 8, SECONDS).operations >= 4 * 8
            for window in (1, 32):
                sample = flow(subject.pairs[0], window, SECONDS)
                assert sample.operations >= window
                done += sample.operations
            subject.settle()
        assert sum(pair.watcher.seen for pair in subject.pairs) == done


@pytest.mark.parametrize("name", TRANSPORTS)
def test_watchers_watch_by_a_stream_unless_they_are_told(name: str) -> None:
    with serving() as server, subject_at(server, name, pairs=1) as subject:
        subject.open(0, 1)
        asked: dict[bool, list[Watch]] = {}
        for streams in (True, False):
            subject.watch(streams=streams)
            codec = transport(name).server_codec(64 * 1024)
            codec.receive_data(watcher_of(subject)._encode(5, streams))
            event = codec.next_event()
            assert isinstance(event, RequestReceived)
            asked[streams] = event.request
            delivery_latency(subject.pairs, 0)
            subject.settle()
    assert (asked[True].window, asked[True].renew) == (WINDOW, True)
    assert (asked[False].window, asked[False].renew) == (0, False)
    assert asked[True].after == asked[True].ack == asked[False].ack


def watcher_of(subject: ServerSubject) -> MailboxWatcher:
    watcher = subject.pairs[0].watcher
    assert isinstance(watcher, MailboxWatcher)
    return watcher


@pytest.mark.parametrize("name", TRANSPORTS)
def test_every_send_has_an_id_of_its_own_unless_it_is_asked_for_without(name: str) -> None:
    with serving() as server, subject_at(server, name) as subject:
        subject.open(2, 0)
        codec = transport(name).server_codec(64 * 1024)
        for caller in [*subject.callers(2), *subject.filling(1), *subject.without_send_ids(2)]:
            codec.receive_data(b"".join(islice(caller.frames, 3)))
    sends = []
    while (event := codec.next_event()) is not None:
        assert isinstance(event, RequestReceived)
        sends.append(event.request)
    ids = [send.send_id for send in sends]
    assert len(set(ids[:9])) == 9
    assert None not in ids[:9]
    assert {len(send_id) for send_id in ids[:9]} == {16}
    assert ids[9:] == [None] * 6
    assert {send.to for send in sends[6:9]} == {subject.receiver.name}
    assert subject.receiver.name not in {send.to for send in sends[:6]}


@pytest.mark.parametrize("name", TRANSPORTS)
def test_a_lone_ping_is_timed_beside_senders(name: str) -> None:
    with serving() as server, subject_at(server, name) as subject:
        subject.open(4, 0)
        sample = beside(subject.callers(4), subject.lone(), SECONDS)
        assert 0 < sample.latencies[0] <= sample.latencies[-1] < SECONDS * 10
        assert sample.operations == len(sample.latencies)
        # More was sent meanwhile than asked: each of the four sends as often as the one asks.
        unread = subject._accounts.acknowledge(subject._unwatched)
        assert unread > sample.operations
        assert subject.lone() is subject.lone()


@pytest.mark.parametrize("receive", [by_client, by_async_client])
@pytest.mark.parametrize("name", TRANSPORTS)
def test_clients_receive_what_was_filled_in(name: str, receive: Callable[..., Sample]) -> None:
    with serving() as server, subject_at(server, name) as subject:
        subject.open(8, 0)
        for _ in range(2):  # the second finds nothing of the first
            filled = fill(subject, SECONDS)
            assert filled >= 8 * 32
            token = subject.receiver.token
            sample = receive(subject.target, transport(name), token, filled)
            assert sample.operations == filled - 1
            assert 100 < sample.rate < 10_000_000


@pytest.mark.parametrize("receive", [by_client, by_async_client])
def test_a_client_that_receives_too_little_is_found(
    receive: Callable[..., Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receivers, "PATIENCE_SECONDS", 0.2)
    with serving() as server, subject_at(server, "jsonl") as subject:
        subject.open(8, 0)
        filled = fill(subject, 0)
        token = subject.receiver.token
        with pytest.raises(LoadError, match=f"{filled} of {filled + 1} messages"):
            receive(subject.target, transport("jsonl"), token, filled + 1)


@pytest.mark.parametrize("name", TRANSPORTS)
def test_polling_finds_each_message_at_the_next_look(name: str) -> None:
    with serving() as server, subject_at(server, name, pairs=8) as subject:
        subject.watch(streams=False)
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
        cheat(subject.pairs[0].watcher.received)
        with pytest.raises(LoadError, match=r"once and in order|had not asked for"):
            subject.settle()


@pytest.mark.parametrize("name", TRANSPORTS)
def test_no_mail_piles_up(name: str) -> None:
    with serving() as server, subject_at(server, name) as subject:
        subject.open(4, 4)
        one_at_a_time(subject.callers(4), SECONDS)
        subject.settle()
        assert subject._accounts.acknowledge(subject._unwatched) == 0


@pytest.mark.parametrize("place", ["tcp://127.0.0.1:0", "ws://127.0.0.1:0"])
def test_the_load_is_spread_over_several_servers(place: str) -> None:
    with (
        running_server(place) as endpoint,
        FaultProxy(endpoint) as one,
        FaultProxy(endpoint) as two,
    ):
        target = ServerProcess(one.endpoint, others=(two.endpoint,))
        spoken = transport("binary")
        with closing(ServerSubject(target, spoken, Accounts(endpoint, spoken))) as subject:
            subject.make_accounts(1, 2)
            subject.open(0, 2)  # of each pair the sender is at one, and the watcher at the other
            assert [len(each.routes) for each in (one, two)] == [2, 2]
            assert deliveries(subject.pairs, SECONDS).operations > 0


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


def test_a_private_server_may_be_reached_over_tls(certificates: object) -> None:
    with server_process("memory:", scheme=Scheme.WSS) as target:
        with closing(Wire(target.endpoint, transport("websocket"), target.tls)) as wire:
            assert wire.ask(Ping(), Done)
        with pytest.raises(LoadError, match=r"no TLS with wss://.*unable to get local issuer"):
            Wire(target.endpoint, transport("websocket"), client_context())


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


@pytest.mark.parametrize("direct", [False, True])
def test_the_floor_echoes_and_relays(direct: bool) -> None:
    with floor_server() as target, closing(FloorSubject(target, direct=direct)) as floor:
        floor.open(4, 4)
        assert one_at_a_time(floor.callers(4), SECONDS).operations >= 4
        assert beside(floor.callers(4), floor.lone(), SECONDS).operations >= 1
        sample = deliveries(floor.pairs, SECONDS)
        assert sum(pair.watcher.unchecked for pair in floor.pairs) == sample.operations >= 4
        assert delivery_latency(floor.pairs, SECONDS).operations >= 1
        floor.settle()
        assert (target.processor_seconds() or 0) > 0
        pid = target.pid
        delivery_latency(floor.pairs, 0)
        floor.pairs[0].watcher.received[0] += b"more"
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
