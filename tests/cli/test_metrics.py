"""Metrics and health over HTTP: what they say, and that nobody can hold them up."""

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from cli_server import CommandLine, ended
from listening import TCP, Hold, Peer, Server, serving
from services import PASSWORD, cheap_hasher
from waiting import wait_until

from twinline.cli.server.metrics import http as pages
from twinline.cli.server.metrics import readiness, table, watched, watching
from twinline.cli.server.metrics.survey import Survey
from twinline.cli.settings.model import Settings
from twinline.core.errors import StoreUnavailable
from twinline.core.metrics import REQUESTS, Family, Kind, Metric, Metrics
from twinline.core.protocol import Send
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.core.store import CLOCK_REFUSE_MS, Durability, Health, MailboxPolicy
from twinline.stores.memory import MemoryStore
from twinline.transports.endpoints import Endpoint
from twinline.transports.jsonl import JsonlTransport
from twinline.transports.listener.conversation import Conversation
from twinline.transports.listener.settings import InForce, ListenerSettings
from twinline.transports.tls import ServerTls, TlsFiles, certificate_end

if TYPE_CHECKING:
    from certificates import Certificates

pytest.importorskip("prometheus_client")
from prometheus_client.parser import text_string_to_metric_families

from twinline.cli.server.metrics.text import CONTENT_TYPE, Text

FREE = 1 << 40
WELL = Health(Durability.DISK, "7", free_bytes=FREE)


class ToldStore(MemoryStore):
    """A store that is as a test says, and counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__(MailboxPolicy(mailbox_messages=2))
        self.now: Health | Exception = WELL
        self.asked = 0
        self.hold: Hold | None = None

    def health(self) -> Health:
        self.asked += 1
        if self.hold is not None:
            self.hold()
        if isinstance(self.now, Exception):
            raise self.now
        return self.now


class Got(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str


class Watched:
    """A server whose metrics are served."""

    def __init__(self, server: Server, store: ToldStore, place: Endpoint) -> None:
        self.server = server
        self.store = store
        self.place = place

    def connect(self) -> socket.socket:
        return socket.create_connection((self.place.host, self.place.port), 10)

    def get(self, path: str, method: str = "GET", body: str | None = None) -> Got:
        connection = http.client.HTTPConnection(self.place.host, self.place.port, timeout=20)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return Got(answer.status, dict(answer.getheaders()), answer.read().decode())
        finally:
            connection.close()

    def samples(self, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Return the values of a metric by its labels."""
        got = self.get("/metrics")
        assert got.status == 200
        return {
            tuple(sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(got.body)
            for sample in family.samples
            if sample.name == name
        }

    def wait_value(self, metric: Metric, wanted: float, **labels: str) -> None:
        key = tuple(sorted(labels.items()))
        wait_until(
            lambda: self.samples(metric.full_name).get(key) == wanted,
            f"{metric.full_name} {labels} is {wanted}",
        )


@contextmanager
def watched_server(
    monkeypatch: pytest.MonkeyPatch, listen: str = TCP, **settings: Any
) -> Iterator[Watched]:
    # A test that waits for a change need not wait for long.
    monkeypatch.setattr(readiness, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(watching, "_WRITTEN_SECONDS", 0.02)
    monkeypatch.setattr(Survey.__init__, "__kwdefaults__", {"seconds": 0.05})
    store, metrics = ToldStore(), Metrics()
    given = Settings(metrics_listen="tcp://127.0.0.1:0", listen=(listen,), **settings)
    service = ChatService(store, given, hasher=cheap_hasher(), metrics=metrics)
    with (
        serving([(listen, "auto")], service, metrics=metrics) as server,
        watched(given, metrics, server.listener, store, index=0) as place,
    ):
        assert place is not None
        yield Watched(server, store, place)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    with watched_server(monkeypatch) as found:
        yield found


# -- metrics --------------------------------------------------------------------------------


def test_where_the_metrics_are_is_an_event(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with watched_server(monkeypatch):
        (record,) = [e for e in caplog.records if getattr(e, "event", "") == "metrics_ready"]
        assert record.fields["endpoint"].startswith("http://127.0.0.1:")  # type: ignore[attr-defined]


def fill(site: Watched) -> None:
    """Have a mailbox as full as may be, and another one that is not."""
    with site.server.peer() as ann, site.server.peer() as bob:
        ann.enter("ann")
        bob.enter("bob")
        for _ in range(2):
            assert ann.ask("send", to="bob", body="hello")["ok"]


def told(**changes: Any) -> Callable[[Watched], None]:
    def tell(site: Watched) -> None:
        site.store.now = Health(
            **{"durability": Durability.DISK, "epoch": "7", "free_bytes": FREE, **changes}
        )

    return tell


def silent(site: Watched) -> None:
    site.store.now = StoreUnavailable("the engine is away")


EVENTS: dict[Metric, tuple[Callable[[Watched], None], float, dict[str, str]]] = {
    table.READY: (silent, 0, {}),
    table.STORE_UP: (silent, 0, {}),
    table.STORE_INFO: (
        told(durability=Durability.REPLICATED, epoch='a "b"\\\n'),
        1,
        {"store": "memory", "durability": "replicated", "epoch": 'a "b"\\\n'},
    ),
    table.STORE_LAG: (told(lag_seconds=1.5), 1.5, {}),
    table.CLOCK_OFFSET: (told(clock_offset_ms=-2500), -2.5, {}),
    table.FREE_BYTES: (told(free_bytes=12345), 12345, {}),
    table.MAILBOXES: (fill, 2, {}),
    table.DEEPEST: (fill, 2, {}),
    table.FULL: (fill, 1, {}),
}
OTHERWISE = {table.SURVEY_AGE, table.CERTIFICATE_END, table.THREADS, table.BUILD}


@pytest.mark.parametrize("metric", EVENTS, ids=lambda metric: metric.name)
def test_a_metric_says_what_has_happened(metric: Metric, site: Watched) -> None:
    event, wanted, labels = EVENTS[metric]
    assert site.samples(metric.full_name).get(tuple(sorted(labels.items()))) != wanted
    event(site)
    site.wait_value(metric, wanted, **labels)


def test_every_metric_is_told_and_no_other_and_tried(site: Watched) -> None:
    """The table is what is served, and what the documentation is made from."""
    assert EVENTS.keys() | OTHERWISE == set(table.ADDED)
    wait_until(lambda: site.samples("twinline_mailboxes"), "the mailboxes were looked at")
    got = site.get("/metrics")
    assert got.headers["Content-Type"] == CONTENT_TYPE
    told = dict(re.findall(r"^# TYPE (\S+) (\S+)$", got.body, re.MULTILINE))
    expected = {each.full_name: str(each.kind) for each in table.TABLE}
    expected |= {each.name: str(each.kind) for each in table.OF_PROCESS}
    del expected[table.CERTIFICATE_END.full_name]  # there is none
    assert told == expected
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", got.body, re.MULTILINE))
    for each in table.TABLE:
        if each.full_name in helps:
            assert helps[each.full_name].startswith(each.help)
            assert ("of one in 16" in helps[each.full_name]) is each.sampled


def test_names_follow_the_conventions(site: Watched) -> None:
    for each in table.TABLE:
        assert each.name.endswith("_total") is (each.kind is Kind.COUNTER), each
        assert re.fullmatch(r"[a-z][a-z0-9_]*[a-z]", each.name)
        assert not re.search(r"_(ms|milliseconds|kib|mib|percent)(_|$)", each.name), each
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not here (Debian: prometheus)")
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=site.get("/metrics").body,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_threads_are_counted_however_they_were_started(site: Watched) -> None:
    def threads() -> float:
        (value,) = site.samples(table.THREADS.full_name).values()
        return value

    before = threads()
    peers = [site.server.peer() for _ in range(20)]
    for peer in peers:
        peer.ask("ping")
    # A few of those of before may have ended, and a scrape may be a moment old.
    wait_until(lambda: threads() >= before + 15, what="the threads of 20 connections")
    for peer in peers:
        peer.close()
    assert dict(*site.samples(table.BUILD.full_name))["listener"] == "threads"
    assert all(value < 60 for value in site.samples(table.SURVEY_AGE.full_name).values())


def test_a_certificates_end_is_that_of_the_one_in_force(
    certificates: "Certificates", monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"

    def issue(days: int) -> None:
        issued = certificates.ca.issue("renewed", hosts=("localhost",), lasts=timedelta(days=days))
        issued.certificate.replace(certificate)
        issued.key.replace(key)

    issue(5)
    tls = ServerTls(TlsFiles(str(certificate), str(key)))
    end = certificate_end(tls.context)
    assert end is not None
    assert end == pytest.approx(time.time() + 5 * 86400, abs=3600)
    issue(50)
    assert certificate_end(tls.context) == end
    tls.reload()
    assert certificate_end(tls.context) == pytest.approx(time.time() + 50 * 86400, abs=3600)
    place = f"tls://127.0.0.1:0?certificate={certificate}&key={key}"
    with watched_server(monkeypatch, place) as site:
        name = table.CERTIFICATE_END.full_name
        wait_until(lambda: site.samples(name), "the certificate was looked at")
        (endpoint,) = site.server.endpoints
        assert site.samples(name) == {(("endpoint", endpoint.place),): certificate_end(tls.context)}


def test_what_is_served_names_nobody(site: Watched) -> None:
    with site.server.peer() as peer:
        entered = peer.ask("create_account", username="zaphod", password=PASSWORD)
        peer.ask("send", to="trillian", body="a secret of mine")
        peer.ask("login", username="marvin", password="a wrong one of marvin")
        port = str(peer.socket.getsockname()[1])
        text = site.get("/metrics").body
    for secret in (entered["session"], PASSWORD, "a secret", "marvin", "zaphod", "trillian", port):
        assert secret not in text


def test_labels_are_escaped() -> None:
    awkward = 'unix:/a "quoted"\\ path\nof two lines {x="y"}'
    metrics = Metrics()
    metrics.listen(awkward)
    facts = readiness.Facts("1", "threads", "memory", ready=True, health=WELL)
    text = Text(metrics, Survey(MemoryStore(), None)).write(facts).decode()  # type: ignore[arg-type]
    found = {
        sample.labels["endpoint"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "endpoint" in sample.labels
    }
    assert found == {awkward}
    assert Family(table.READY, ()).metric is table.READY


def test_a_scrape_a_second_costs_two_hundredths_of_a_processor_at_most() -> None:
    """With a thousand connections that have all done something since the one before."""
    metrics = Metrics()
    metrics.listen(TCP)
    connections = [metrics.connection(TCP, lambda: "jsonl") for _ in range(1_000)]
    talks = [
        SimpleNamespace(
            session=Session(), received=0, said=0, brought=0, watched=0, last_sent=0, observed=False
        )
        for _ in connections
    ]
    for each, talk in zip(connections, talks, strict=True):
        each.follow(talk)
        metrics.connected(each)
    facts = readiness.Facts("1", "threads", "memory", ready=True, health=WELL)
    text = Text(metrics, Survey(MemoryStore(), None))  # type: ignore[arg-type]
    times = []
    for _ in range(15):
        for each, talk in zip(connections, talks, strict=True):
            talk.received += 100
            each.answered[Send] += 1
        began = time.thread_time()
        text.write(facts)
        times.append(time.thread_time() - began)
    assert sorted(times)[len(times) // 4] < 0.02, times
    (family,) = (each for each in metrics.collect() if each.metric is REQUESTS)
    assert dict(family.samples)["send", "ok"] == 15_000


def test_a_scrape_a_second_under_full_load_costs_two_hundredths_of_a_processor_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Processor time of the thread that answers, which does nothing else, over real time."""
    with ExitStack() as held:
        found = held.enter_context(watched_server(monkeypatch, sends_per_second=0))
        monkeypatch.undo()  # what goes on by itself beside the scrape goes on as it does
        (thread,) = (each for each in threading.enumerate() if each.name == "metrics")
        clock = time.pthread_getcpuclockid(thread.ident or 0)
        stop = threading.Event()
        sent = [0, 0, 0, 0]

        def load(number: int, peer: Peer) -> None:
            while not stop.is_set():
                peer.ask("send", to=f"user{number}", body="hello there")
                peer.ask("watch", after=sent[number], ack=sent[number], wait=0)
                sent[number] += 1

        peers = [found.server.peer().enter(f"user{number}") for number in range(len(sent))]
        loads = [threading.Thread(target=load, args=each, daemon=True) for each in enumerate(peers)]
        for each in loads:
            each.start()
        held.callback(lambda: [peer.close() for peer in peers])
        held.callback(lambda: [each.join(20) for each in loads])
        held.callback(stop.set)
        found.get("/metrics")
        used = []
        for _ in range(5):
            before = time.clock_gettime(clock)
            due = time.monotonic() + 1
            assert found.get("/metrics").status == 200
            time.sleep(max(0, due - time.monotonic()))
            used.append(time.clock_gettime(clock) - before)
        assert min(sent) > 20, "there was no load"
        assert sorted(used)[len(used) // 2] <= 0.02, used


def test_to_count_costs_hardly_more() -> None:
    """A send, its delivery and its ack, in memory and without a socket, where most of it shows.

    What is compared are low quantiles of processor time, of several servers each, for where the
    memory of one happens to lie is worth some hundredths; the bound is above what is left of that.
    """
    plain = [Exchange(None) for _ in range(4)]
    counted = [Exchange(Metrics()) for _ in range(4)]
    times: dict[Exchange, list[float]] = {each: [] for each in (*plain, *counted)}
    for _ in range(40):
        for pair in zip(plain, counted, strict=True):
            for each in pair:
                times[each].append(each.seconds(25))
    floors = {each: sorted(took)[len(took) // 10] for each, took in times.items()}
    ratio = sum(floors[each] for each in counted) / sum(floors[each] for each in plain)
    assert ratio < 1.12, floors.values()


class Exchange:
    """Sends to itself what a watch of its own brings and acknowledges, without a socket."""

    def __init__(self, metrics: Metrics | None) -> None:
        settings = Settings(sends_per_second=0)
        self._service = ChatService(MemoryStore(), settings, hasher=cheap_hasher(), metrics=metrics)
        self._sender, self._watcher = self._talk(metrics), self._talk(metrics)
        request = {"op": "create_account", "id": 1, "username": "trillian", "password": PASSWORD}
        session = self._ask(self._sender, request)["session"]
        self._ask(self._watcher, {"op": "resume", "id": 1, "session": session})
        self._seq = 0
        self.seconds(50)  # by then Python has specialised its bytecode

    def _talk(self, metrics: Metrics | None) -> Conversation:
        codec, counts = JsonlTransport().server_codec(4096), None
        if metrics is not None:
            counts = metrics.connection(TCP, lambda: "jsonl")
            metrics.connected(counts)

        def on_mail() -> None:  # as the event loop has it
            if talk.brought >= talk.wake_timed_at:
                talk.note_wake()

        talk = Conversation(
            codec,
            self._service,
            InForce(ListenerSettings()),
            address="unix",
            on_mail=on_mail,
            on_end=lambda: None,
            clock=time.monotonic,
            counts=counts,
        )
        return talk

    def _go_on(self, talk: Conversation) -> bytes:
        while (job := talk.next_job()) is not None:
            talk.finish(self._service.handle(talk.session, job))
        return talk.data_to_send()

    def _ask(self, talk: Conversation, request: dict[str, Any]) -> Any:
        talk.receive_data(json.dumps(request).encode() + b"\n")
        return json.loads(self._go_on(talk))

    def seconds(self, exchanges: int) -> float:
        """Return the processor time that so many exchanges have taken."""
        began = time.thread_time()
        for _ in range(exchanges):
            seq = self._seq
            self._watcher.receive_data(
                b'{"op":"watch","id":2,"after":%d,"ack":%d,"wait":30}\n' % (seq, seq)
            )
            self._go_on(self._watcher)
            self._sender.receive_data(b'{"op":"send","id":3,"to":"trillian","body":"hello"}\n')
            self._go_on(self._sender)
            self._watcher.look_again()
            assert b'"messages":[{' in self._go_on(self._watcher)
            self._seq += 1
        return time.thread_time() - began


# -- health ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("health", "words"),
    [
        (StoreUnavailable("the engine is away"), "the store cannot be used: the engine is away"),
        (ZeroDivisionError(), "the store cannot be asked; see the log"),
        (Health(Durability.DISK, lag_seconds=2.5), "nothing has been heard of the other servers"),
        (Health(Durability.DISK, clock_offset_ms=-CLOCK_REFUSE_MS), "clock is -30 s off"),
        (Health(Durability.DISK, free_bytes=5), "5 bytes are free, and ready_free_bytes is 26"),
    ],
)
def test_a_server_that_is_not_ready_says_why(
    site: Watched, health: Health | Exception, words: str
) -> None:
    assert site.get("/readyz") == Got(200, site.get("/readyz").headers, "ready\n")
    site.store.now = health
    wait_until(lambda: site.get("/readyz").status == 503, "it is not ready")
    body = site.get("/readyz").body
    assert words in body
    assert body.count("\n") == 1
    assert site.get("/healthz").status == 200
    site.store.now = WELL
    wait_until(lambda: site.get("/readyz").status == 200, "it is ready again")


def test_a_server_that_drains_lives_and_is_not_ready(site: Watched) -> None:
    assert site.get("/readyz").status == 200
    site.server.stop()
    assert site.get("/readyz")[::2] == (503, "the server drains\n")
    assert site.get("/healthz")[::2] == (200, "ok\n")
    (ready,) = site.samples(table.READY.full_name).values()
    assert ready == 0


def test_a_store_that_does_not_answer_holds_up_nothing_but_its_own_probe(
    site: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "ANSWER_SECONDS", 0.3)
    site.store.hold = Hold()
    began = time.monotonic()
    assert site.get("/readyz")[::2] == (503, "the store has not answered within 0.3 s\n")
    assert site.get("/healthz").status == 200
    (up,) = site.samples(table.STORE_UP.full_name).values()
    assert up == 0
    assert time.monotonic() - began < 5
    # Whoever asks meanwhile waits for the look that is under way: there is one.
    for _ in range(5):
        assert site.get("/readyz").status == 503
    assert site.store.asked == 1
    site.store.hold.release()
    wait_until(lambda: site.get("/readyz").status == 200, "it is ready")


def test_a_flood_of_probes_asks_the_store_once_a_second(
    site: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # as it is by default
    store, metrics = ToldStore(), Metrics()
    settings = Settings(metrics_listen="tcp://127.0.0.1:0")
    with watched(settings, metrics, site.server.listener, store, index=0) as place:
        assert place is not None
        found = Watched(site.server, store, place)
        began = time.monotonic()
        for _ in range(100):
            assert found.get("/readyz").status == 200
        assert store.asked <= 2 + (time.monotonic() - began) / readiness.LOOK_SECONDS


@pytest.mark.usefixtures("each_listener")
def test_a_listener_whose_thread_does_not_come_round_does_not_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readiness, "ROUND_SECONDS", 0.3)
    with watched_server(monkeypatch) as site:
        assert site.get("/healthz")[::2] == (200, "ok\n")
        hold = Hold()
        site.server.listener.on_round(hold)
        hold.wait_reached()
        wait_until(lambda: site.get("/healthz").status == 503, "it does not live")
        assert "does not come round" in site.get("/healthz").body
        hold.release()
        wait_until(lambda: site.get("/healthz").status == 200, "it lives again")


# -- HTTP -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"\0\1\2\r\n\r\n", 400),
        (b"GET /healthz\r\n\r\n", 400),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /healthz?verbose HTTP/1.0\r\nHost: x\r\n\r\n", 200),
    ],
)
def test_what_is_answered(site: Watched, sent: bytes, status: int) -> None:
    with site.connect() as peer:
        peer.sendall(sent)
        answer = b""
        while data := peer.recv(65536):
            answer += data
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (b"\r\nAllow: GET, HEAD\r\n" in answer) is (status == 405)


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
def test_a_head_has_no_body(site: Watched, path: str) -> None:
    got = site.get(path, "HEAD")
    assert (got.status, got.body) == (200, "")
    assert int(got.headers["Content-Length"]) > 0


def test_silent_and_slow_peers_hold_nobody_up(
    site: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "SECONDS", 0.5)
    held = [site.connect() for _ in range(3 * pages.CONNECTIONS)]
    try:
        for number, each in enumerate(held):
            if number % 2:
                with suppress(BrokenPipeError, ConnectionResetError):  # it has made room already
                    each.sendall(b"GET /metr")
        began = time.monotonic()
        assert site.get("/metrics").status == 200
        assert time.monotonic() - began < 5
        for each in held:  # and each of them is ended
            each.settimeout(10)
            with suppress(ConnectionResetError):
                assert each.recv(1) == b""
    finally:
        for each in held:
            each.close()
    assert not [each for each in threading.enumerate() if each.name == "metrics text"]


def test_a_flood_of_connections_takes_no_more_descriptors_than_its_bound(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def page() -> pages.Page:
        return pages.Page(b"here\n")

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    opened: list[socket.socket] = []
    try:
        with pages.HttpServer(Endpoint.parse(TCP), lambda: {"/": page}) as server:
            place = server.endpoint.host, server.endpoint.port
            before = descriptors()
            opened += (socket.create_connection(place, 10) for _ in range(10 * pages.CONNECTIONS))
            wait_until(
                lambda: descriptors() <= before + len(opened) + pages.CONNECTIONS,
                "those that are too many to be closed",
            )
            opened[-1].sendall(b"GET / HTTP/1.1\r\n\r\n")
            opened[-1].settimeout(10)
            assert opened[-1].recv(100).startswith(b"HTTP/1.1 200 OK")
    finally:
        for each in opened:
            each.close()
    # Those that were open at its end, which is nothing to tell of.
    assert [each for each in caplog.records if each.name != "twinline.events"] == []


# -- the command ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--metrics-listen", "tcp://0.0.0.0:9464"), "accept that with --metrics-insecure"),
        (("--metrics-listen", "tcp://127.0.0.1:7767"), "metrics have a port of their own"),
        (("--metrics-listen", "tls://127.0.0.1:9464"), "expected tcp://host:port"),
        (("--metrics-listen", "tcp://127.0.0.1:9464?proxy=yes"), "expected tcp://host:port"),
        (("--metrics-listen", "nonsense"), "is not an endpoint"),
    ],
)
def test_what_is_refused(tmp_path: Path, flags: tuple[str, ...], words: str) -> None:
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    assert words in twinline.run("serve", *flags, code=2).stderr


def test_without_the_extra_the_flag_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinline.cli.settings.checks.find_spec", lambda _: None)
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    file = tmp_path / "twinline.toml"
    file.write_text('metrics_listen = "tcp://127.0.0.1:0"\n')
    words = "pip install 'twinline[metrics]'\n"
    assert twinline.run("serve", "--config", str(file), code=2).stderr.endswith(words)
    assert twinline.run("config", "check", str(file), code=2).stderr.endswith(words)


def test_each_node_has_the_next_port() -> None:
    settings = Settings(metrics_listen="tcp://127.0.0.1:9464")
    places = [str(watching.metrics_endpoint(settings, index)) for index in range(3)]
    assert places == [f"tcp://127.0.0.1:{port}" for port in (9464, 9465, 9466)]
    settings = Settings(metrics_listen="tcp://127.0.0.1:0")
    assert watching.metrics_endpoint(settings, 2).port == 0


@pytest.mark.parametrize("listener", ["threads", "loop"])
def test_a_server_serves_its_metrics_until_it_has_drained(tmp_path: Path, listener: str) -> None:
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    log = tmp_path / "log"
    with log.open("w") as stderr:
        server = twinline.start(
            *("serve", "--listen", TCP, "--listener", listener),
            *("--metrics-listen", "tcp://127.0.0.1:0", "--store", f"sqlite:{tmp_path}/chat.db"),
            stderr=stderr,
        )
    with ended(server):
        assert server.stdout is not None
        place = Endpoint.parse(server.stdout.readline().split()[2])
        ready = re.compile(r"metrics and health are at http://127\.0\.0\.1:(\d+):")
        wait_until(lambda: ready.search(log.read_text()), "the log says where they are")
        (where,) = ready.findall(log.read_text())
        site = Watched(None, None, Endpoint.parse(f"tcp://127.0.0.1:{where}"))  # type: ignore[arg-type]
        assert site.get("/readyz").status == 200
        twinline.run("register", "ann", "--connect", str(place))
        requests = "twinline_requests_total"
        created = (("op", "create_account"), ("outcome", "ok"))
        wait_until(lambda: site.samples(requests).get(created) == 1, "the account was counted")
        (free,) = site.samples(table.FREE_BYTES.full_name).values()
        assert free > 0
        server.send_signal(signal.SIGTERM)
        assert server.wait(15) == 0
        with pytest.raises(ConnectionRefusedError):
            site.get("/healthz")
