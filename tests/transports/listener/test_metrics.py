"""What is counted: each row of the table moves when its event happens, and no more than it."""

import errno
import gc
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from argon2 import PasswordHasher
from listening import TCP, Hold, Peer, Server, serving
from services import PASSWORD, make_service
from waiting import wait_until

from twinline.core import metrics as rows
from twinline.core.errors import ERROR_BY_CODE
from twinline.core.metrics import (
    COUNTED,
    ConnectionCounts,
    Count,
    Distribution,
    Histogram,
    Kind,
    Metric,
    Metrics,
    Refusal,
)
from twinline.core.protocol import REQUEST_BY_OP, Ping
from twinline.core.service import ChatService
from twinline.stores.memory import MemoryStore
from twinline.stores.sqlite import SqliteStore
from twinline.transports.jsonl import JsonlTransport
from twinline.transports.listener import threaded

pytestmark = pytest.mark.usefixtures("each_listener")


class HeldHasher(PasswordHasher):
    """Holds a hash up while a test looks at the queue."""

    hold: Hold | None = None

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        if self.hold is not None:
            self.hold()
        return super().hash(password, salt=salt)


class Counting:
    """A server that counts all it does, and takes the time of every request."""

    def __init__(self, server: Server, metrics: Metrics, hasher: HeldHasher) -> None:
        self.server = server
        self.metrics = metrics
        self.hasher = hasher

    def samples(self, metric: Metric) -> dict[tuple[str, ...], float]:
        """Return the values of a metric by its labels; of a histogram, how many it has observed."""
        (family,) = (each for each in self.metrics.collect() if each.metric is metric)
        return {
            labels: sum(value.counts) if isinstance(value, Distribution) else value
            for labels, value in family.samples
        }

    def value(self, metric: Metric) -> float:
        """Return what a metric has come to, over all labels."""
        return sum(self.samples(metric).values())

    def wait_value(self, metric: Metric, least: float) -> None:
        wait_until(lambda: self.value(metric) >= least, f"{metric.name} is {least}")

    def entered(self, username: str) -> Peer:
        """Return a peer with a new account."""
        return self.server.peer().enter(username)


@contextmanager
def counting(
    store: Any = None,
    *,
    sample: int = 1,
    endpoint: str = TCP,
    spoken: str = "auto",
    **settings: Any,
) -> Iterator[Counting]:
    metrics = Metrics(sample)
    hasher = HeldHasher(time_cost=1, memory_cost=8, parallelism=1)
    service = ChatService(store or MemoryStore(), hasher=hasher, metrics=metrics)
    with serving([(endpoint, spoken)], service, metrics=metrics, **settings) as server:
        yield Counting(server, metrics, hasher)


def ping(site: Counting) -> None:
    with site.server.peer() as peer:
        assert peer.ask("ping")["ok"]


def connect(site: Counting) -> Any:
    peer = site.server.peer()
    peer.ask("ping")
    return peer


def send(site: Counting) -> None:
    with site.entered("ann") as ann:
        assert ann.ask("send", to="ann", body="hello")["ok"]


def deliver(site: Counting) -> None:
    with site.entered("ann") as ann:
        ann.ask("send", to="ann", body="hello")
        assert len(ann.ask("watch", after=0)["messages"]) == 1


def deliver_again(site: Counting) -> None:
    with site.server.peer() as ann:
        token = ann.ask("create_account", username="ann", password=PASSWORD)["session"]
        ann.ask("send", to="ann", body="hello")
        ann.ask("watch", after=0)
    site.server.wait_connections(0)
    with site.server.peer() as back:
        back.ask("resume", session=token)
        back.ask("watch", after=0)
    site.server.wait_connections(0)


def wake(site: Counting) -> None:
    """What arrives before the first look of a watch is found by that look, and is no wake."""
    with site.entered("ann") as ann, site.entered("bob") as bob:
        for seen in range(1_000):
            bob.send_line(op="watch", id=7, after=seen, wait=30)
            site.server.wait_watching()
            ann.ask("send", to="bob", body="hello")
            assert bob.read_line()["messages"]
            if site.value(rows.WAKE_SECONDS):
                return


def acknowledge(site: Counting) -> None:
    with site.entered("ann") as ann:
        ann.ask("send", to="ann", body="hello")
        ann.ask("watch", after=0)
        assert ann.ask("ack", up_to=1)["ok"]


def hash_while_others_wait(site: Counting) -> Iterator[None]:
    queue = site.server.service._accounts._passwords._queue
    queue._slots = 1
    hold = site.hasher.hold = Hold()
    with site.server.peer() as ann, site.server.peer() as bob:
        ann.send_line(op="create_account", id=1, username="ann", password=PASSWORD)
        hold.wait_reached()
        bob.send_line(op="create_account", id=1, username="bob", password=PASSWORD)
        yield
        hold.release()
        assert ann.read_line()["ok"]
        assert bob.read_line()["ok"]


def fail_to_log_in(site: Counting, times: int = 1) -> None:
    with site.server.peer() as peer:
        for _ in range(times):
            peer.ask("login", username="nobody", password="not the password")


def lock_out(site: Counting) -> None:
    fail_to_log_in(site, 8)


def connect_in_vain(site: Counting) -> None:
    peers = [connect(site) for _ in range(3)]
    with site.server.peer() as refused:
        assert refused.socket.recv(1) == b""
    for peer in peers:
        peer.socket.close()


EVENTS: dict[Metric, Callable[[Counting], Any]] = {
    rows.CONNECTIONS: connect,
    rows.CONNECTIONS_TOTAL: ping,
    rows.REFUSED: connect_in_vain,
    rows.SESSIONS: lambda site: site.entered("ann"),
    rows.RECEIVED: ping,
    rows.SENT: ping,
    rows.REQUESTS: ping,
    rows.REQUEST_SECONDS: ping,
    rows.DELIVERIES: deliver,
    rows.REDELIVERIES: deliver_again,
    rows.WAKE_SECONDS: wake,
    rows.ACK_SECONDS: acknowledge,
    rows.HASHES_WAITING: hash_while_others_wait,
    rows.HASHES_RUNNING: hash_while_others_wait,
    rows.HASH_WAIT_SECONDS: send,
    rows.HASH_SECONDS: send,
    rows.LOGIN_FAILURES: fail_to_log_in,
    rows.LOCKOUTS: lock_out,
    rows.STORE_SECONDS: send,
    rows.COMMIT_SECONDS: send,
    rows.COMMIT_WRITES: send,
}


@pytest.mark.parametrize("metric", COUNTED, ids=lambda metric: metric.name)
def test_a_metric_moves_when_its_event_happens(metric: Metric, tmp_path: Path) -> None:
    with (
        SqliteStore(tmp_path / "chat.db") as store,
        counting(store, connections=3) as site,
    ):
        before = site.value(metric)
        event = EVENTS[metric](site)
        if isinstance(event, Iterator):
            next(event)
        site.wait_value(metric, before + 1)
        if isinstance(event, Iterator):
            next(event, None)
        if isinstance(event, Peer):
            event.socket.close()
        site.server.wait_connections(0)
        if metric.kind is Kind.GAUGE:
            wait_until(lambda: site.value(metric) == 0, f"{metric.name} is 0 again")


def test_every_row_of_the_table_has_an_event() -> None:
    declared = {each for each in vars(rows).values() if isinstance(each, Metric)}
    assert declared == set(COUNTED) == EVENTS.keys()
    assert len({each.name for each in declared}) == len(declared)
    assert {reason for reason, _ in REFUSALS} == set(Refusal)


def no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the next connection not be accepted, for want of a descriptor."""
    accept, failed = socket.socket.accept, []

    def accept_or_fail(listening: socket.socket) -> Any:
        if not failed:
            failed.append(True)
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listening)

    monkeypatch.setattr(socket.socket, "accept", accept_or_fail)


def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no connection's thread start."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threaded, "start_thread", refuse)


def no_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a connection that cannot be prepared."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(JsonlTransport, "server_codec", fail)


class Refused(NamedTuple):
    """How a connection comes to be refused."""

    settings: dict[str, Any]
    after: int = 0  # so many are served
    fault: Callable[[pytest.MonkeyPatch], None] | None = None
    kinds: tuple[str, ...] = ("threads", "loop", "uvloop")
    is_ended: bool = True  # else it is served a moment later


REFUSALS: dict[tuple[Refusal, str], Refused] = {
    (Refusal.CONNECTIONS, ""): Refused({"connections": 1}, after=1),
    (Refusal.ADDRESS, ""): Refused(
        {"connections_per_address": 1, "limit_local_connections": True}, after=1
    ),
    (Refusal.PROXY, ""): Refused(
        {"trusted_proxies": ("192.0.2.1",), "endpoint": f"{TCP}?proxy=yes"}
    ),
    (Refusal.EXHAUSTED, "no descriptor"): Refused({}, fault=no_descriptor, is_ended=False),
    (Refusal.EXHAUSTED, "no thread"): Refused({}, fault=no_thread, kinds=("threads",)),
    (Refusal.FAULT, ""): Refused({"spoken": "jsonl"}, fault=no_codec),
}


@pytest.mark.parametrize(
    ("case", "each_listener"),
    [(case, kind) for case, refused in REFUSALS.items() for kind in refused.kinds],
    indirect=["each_listener"],
    ids=lambda value: " ".join(value).strip() if isinstance(value, tuple) else value,
)
def test_a_connection_that_is_refused_counts_by_its_reason(
    case: tuple[Refusal, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = REFUSALS[case]
    with counting(**refused.settings) as site, ExitStack() as peers:
        for _ in range(refused.after):
            assert peers.enter_context(site.server.peer()).ask("ping")["ok"]
        if refused.fault is not None:
            refused.fault(monkeypatch)
        with site.server.peer() as peer:
            site.wait_value(rows.REFUSED, 1)
            if refused.is_ended:
                peer.rest()
            else:
                assert peer.ask("ping")["ok"]
        monkeypatch.undo()
        place = site.server.endpoints[0].place
        found = {labels for labels, value in site.samples(rows.REFUSED).items() if value}
        assert found == {(place, case[0])}
        # All reasons are there from the first moment, for a rate of what is not there is none.
        assert site.samples(rows.REFUSED).keys() == {(place, each) for each in Refusal}


def test_requests_count_by_op_and_outcome_once_each() -> None:
    with counting() as site, site.entered("ann") as ann, site.server.peer() as other:
        for _ in range(3):
            ann.ask("ping")
        ann.ask("send", to="nobody", body="hello")
        ann.ask("send", to="ann", body="hello")
        ann.ask("watch", after=0)
        ann.ask("watch", after=9)
        ann.send_line(op="watch", id=3, after=1, wait=30)
        ann.ask("status")  # ends the watch
        ann.read_line()
        ann.ask("no_such_op")
        other.ask("status")

        def counted() -> dict[tuple[str, ...], float]:
            return site.samples(rows.REQUESTS)

        expected = {
            ("create_account", "ok"): 1,
            ("ping", "ok"): 3,
            ("send", "ok"): 1,
            ("send", "no_such_user"): 1,
            ("watch", "ok"): 2,
            ("watch", "cursor_invalid"): 1,
            ("status", "ok"): 1,
            ("status", "not_logged_in"): 1,
            ("unreadable", "unknown_op"): 1,
        }
        wait_until(lambda: counted() == expected, f"{counted()} is {expected}")
        sums = [site.value(each) for each in (rows.RECEIVED, rows.SENT, rows.DELIVERIES)]
        ann.ask("ping")
        ann.close()
        other.close()
        site.server.wait_connections(0)
        # What a connection has counted stays when it has gone, also what nobody has seen before.
        assert counted() == expected | {("ping", "ok"): 4}
        received, sent, deliveries = sums
        assert site.value(rows.RECEIVED) > received
        assert site.value(rows.SENT) > sent
        assert site.value(rows.DELIVERIES) == deliveries
        assert site.samples(rows.REQUEST_SECONDS)[("watch",)] >= 3
        assert site.value(rows.CONNECTIONS_TOTAL) == 2


def test_a_drain_and_a_watch_that_it_ends_count() -> None:
    with counting() as site, site.entered("ann") as ann:
        ann.send_line(op="watch", id=3, after=0, wait=30)
        site.server.wait_watching()
        site.server.stop()
        assert site.samples(rows.REQUESTS)[("watch", "shutting_down")] == 1


def test_a_connection_counts_by_what_it_speaks_as_soon_as_that_is_known() -> None:
    with counting() as site, site.server.peer() as silent, site.server.speaker("binary") as speaker:
        place = site.server.endpoints[0].place
        speaker.ask(Ping())
        site.server.wait_connections(2)
        assert site.samples(rows.CONNECTIONS) == {(place, "binary"): 1, (place, "none"): 1}
        assert site.samples(rows.CONNECTIONS_TOTAL) == {(place, "binary"): 1}
        with site.entered("ann"):
            assert site.samples(rows.CONNECTIONS)[place, "jsonl"] == 1
        silent.close()
        site.server.wait_connections(1)
        assert site.samples(rows.CONNECTIONS_TOTAL) == {
            (place, each): 1 for each in ("binary", "jsonl", "none")
        }
    with counting(spoken="jsonl") as site, site.server.peer():
        site.server.wait_connections(1)
        place = site.server.endpoints[0].place
        assert site.samples(rows.CONNECTIONS_TOTAL) == {(place, "jsonl"): 1}


def test_a_message_that_is_read_for_the_first_time_is_no_redelivery() -> None:
    with counting() as site:
        deliver(site)
        with site.server.peer().login("ann") as another_session:
            another_session.ask("watch", after=0)
            assert site.value(rows.DELIVERIES) == 2
            assert site.value(rows.REDELIVERIES) == 0
            another_session.ask("watch", after=0)
        site.server.wait_connections(0)
        assert site.value(rows.REDELIVERIES) == 1


def test_times_are_taken_of_a_sample_and_of_every_op_alike() -> None:
    """Two ops take turns: every sixteenth request would be one of the two for ever."""
    with counting(sample=4) as site, site.entered("ann") as ann:
        rounds = 1_000
        ann.send(b'{"op":"ping","id":1}\n{"op":"status","id":2}\n' * rounds)
        for _ in range(2 * rounds):
            ann.read_line()
        found = site.samples(rows.REQUEST_SECONDS)
        # Each is 250, and about 12 off: the bounds are eight times that.
        assert 150 < found[("ping",)] < 350
        assert 150 < found[("status",)] < 350


def test_nothing_is_counted_and_nothing_made_where_nobody_asks() -> None:
    kinds = (Metrics, ConnectionCounts, Count, Histogram)
    gc.collect()
    before = {id(each) for each in gc.get_objects() if isinstance(each, kinds)}
    with serving(service=make_service()) as server, server.peer() as peer:
        peer.enter("ann")
        peer.ask("send", to="ann", body="hello")
        peer.ask("watch", after=0)
        (connection,) = server.listener._connections
        assert connection.counts is None
        assert {id(e) for e in gc.get_objects() if isinstance(e, kinds)} <= before


def test_no_label_says_who_anybody_is() -> None:
    with counting() as site:
        with site.entered("zaphod") as peer:
            peer.ask("send", to="trillian", body="a secret")
            with suppress(AssertionError):
                peer.ask("op_of_my_own_" * 9)
        allowed = {"ok", "unreadable", *ERROR_BY_CODE, *REQUEST_BY_OP, *Refusal}
        for family in site.metrics.collect():
            for labels, _ in family.samples:
                for name, value in zip(family.metric.labels, labels, strict=True):
                    if name in ("op", "outcome", "reason"):
                        assert value in allowed
                    elif name == "endpoint":
                        assert value == site.server.endpoints[0].place
                    elif name == "transport":
                        assert value in ("jsonl", "none")
                    else:
                        assert name == "call"
                        assert value in rows.TIMED
