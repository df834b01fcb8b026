"""Measures SQLite, PostgreSQL and Valkey beside each other, and what the engines themselves can do.

    pip install -e '.[test,engines]'             # the engines, and what starts them
    python benchmarks/shared_stores.py                  # about seven minutes
    python benchmarks/shared_stores.py --quick          # a look
    python benchmarks/shared_stores.py --only wakes --listener loop
    python benchmarks/shared_stores.py --postgresql postgresql://ann@db/trial --valkey redis://db

The engines are started for the run, on this machine's disk, and durable: PostgreSQL with its own
settings, Valkey with ``appendfsync always``. Engines of one's own are not told by their processor
time, and keep what was written to them. The servers are ``twinline serve`` with default settings.
What is compared is measured in turns within a round; medians are printed.

- sends: one at a time from 64 connections, each with a ``send_id``; beside it what the engine does
  with the least that there is to do: PostgreSQL one row inserted and committed on each of 64
  connections, by as many threads of Python and by pgbench; Valkey ``XADD``, 64 in a pipeline.
- appends: the same by 64 threads that call the store, without a server.
- conversing: what a copy adds to a send that comes alone, and to those of 64 threads, and what
  receipts add to an ack that comes alone; at the store, in turns, with as many copies as are kept.
- deliveries: 64 senders to a watcher each; the processor time of the server and of the engine.
- wakes: one sender to one watcher, from the send until the watcher has the message; at one server,
  and from one server to another, with 20 ms between a delivery and the next send, and across two
  without. Beside it NOTIFY and PUBLISH until a client has heard of them, with and without a pause.
"""

# ruff: noqa: T201 - a script prints

import argparse
import itertools
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

from scale_site import Row, print_tables

from twinline.cli.bench.accounts import Accounts, Member
from twinline.cli.bench.load import (
    LoadError,
    Pair,
    Sample,
    deliveries,
    delivery_latency,
    one_at_a_time,
    percentile,
)
from twinline.cli.bench.subjects import ServerSubject
from twinline.cli.bench.target import ServerProcess, server_process
from twinline.core.store import Draft, Mailboxes, MailboxPolicy
from twinline.stores.registry import open_store
from twinline.transports.endpoints import Endpoint
from twinline.transports.registry import transport

LISTENERS: Final = ("threads", "loop")
PARTS: Final = ("sends", "appends", "conversing", "deliveries", "wakes")
_WIRE: Final = transport("jsonl")
_CONNECTIONS: Final = 64
_RECIPIENTS: Final = 16
_BODY: Final = "See you at the station at half past seven, platform 4."
_WARM_SECONDS: Final = 0.5
_SUPPORT: Final = Path(__file__).parents[1] / "tests" / "support"
_HEARD_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 0.02
_COPIES: Final = 100  # that a mailbox keeps, where they are measured


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


# --- the engines


class Engine(ABC):
    """What a store keeps its state in.

    Attributes:
        name: for the tables.
        url: of a store on it.
        shared: whether several servers can use it.
        least: what `floor` counts.
        bare: what `bare_floor` counts.
        notice: what `notices` times.
    """

    name = ""
    shared = True
    least = ""
    bare = ""
    notice = ""

    def __init__(self, url: str, pids: Callable[[], list[int]] | None = None) -> None:
        """Say where it is.

        Args:
            url: of a store on it.
            pids: returns its processes; None where they are not known.
        """
        self.url = url
        self._pids = pids

    def used(self) -> float | None:
        """Return the seconds of a processor that it has used, None if that is not known."""
        if self._pids is None:
            return None
        processes = (
            ServerProcess(Endpoint.parse("tcp://127.0.0.1:1"), pid) for pid in self._pids()
        )
        return sum(process.processor_seconds() or 0.0 for process in processes)

    @abstractmethod
    def floor(self, seconds: float) -> float | None:
        """Return how often a second it can do the least there is to do; None where unknown."""

    def bare_floor(self, seconds: float) -> float | None:
        """Return the same by a program that has no Python in it; None where there is none."""
        del seconds

    @abstractmethod
    def notices(self, seconds: float, pause: float) -> list[float]:
        """Return the seconds from a notice until a client has heard of it, sorted.

        Args:
            seconds: for how long.
            pause: in seconds, before each notice.
        """


class Sqlite(Engine):
    """A file: part of the server, so that it has neither time nor notices of its own."""

    name = "SQLite"
    shared = False

    def floor(self, seconds: float) -> float | None:
        """Return None."""
        del seconds

    def notices(self, seconds: float, pause: float) -> list[float]:
        """Return nothing."""
        del seconds, pause
        return []


class PostgreSQL(Engine):
    """PostgreSQL, with its own settings."""

    name = "PostgreSQL"
    least = f"one row, one commit, on each of {_CONNECTIONS} connections"
    bare = "the same by pgbench"
    notice = "NOTIFY to LISTEN"

    def __init__(
        self, url: str, pids: Callable[[], list[int]] | None, pgbench: Path | None
    ) -> None:
        """Say where it is; see `Engine`.

        Args:
            url: of a store on it, and of libpq.
            pids: returns its processes.
            pgbench: the program, if there is one.
        """
        super().__init__(url, pids)
        self._pgbench = pgbench
        self._made = False

    def _connect(self) -> Any:
        import psycopg  # noqa: PLC0415 - an extra

        return psycopg.connect(self.url, autocommit=True)

    def floor(self, seconds: float) -> float:
        """Insert single rows, by as many threads as connections."""
        self._make_table()
        with ExitStack() as stack:
            connections = [stack.enter_context(self._connect()) for _ in range(_CONNECTIONS)]

            def insert(thread: int, number: int) -> None:
                del number
                connections[thread].execute(
                    "INSERT INTO bench_floor (body) VALUES (%s)", (_BODY.encode(),), prepare=True
                )

            return _by_threads(insert, seconds)

    def bare_floor(self, seconds: float) -> float | None:
        """Insert single rows, by pgbench."""
        if self._pgbench is None:
            return None
        self._make_table()
        with tempfile.TemporaryDirectory(prefix="twinline-bench-") as folder:
            script = Path(folder, "insert.sql")
            insert = f"INSERT INTO bench_floor (body) VALUES ('{_BODY}');\n"  # noqa: S608 - a constant
            script.write_text(insert)
            arguments = ["-n", "-M", "prepared", "-c", str(_CONNECTIONS), "-j", "1"]
            arguments += ["-T", str(max(2, round(seconds))), "-f", str(script), self.url]
            ran = subprocess.run(  # noqa: S603 - of PostgreSQL's own
                [self._pgbench, *arguments], capture_output=True, text=True, check=False
            )
        found = re.search(r"^tps = ([\d.]+)", ran.stdout, re.MULTILINE)
        if found is None:
            raise LoadError(f"pgbench: {ran.stdout.strip()} {ran.stderr.strip()}")
        return float(found[1])

    def _make_table(self) -> None:
        with self._connect() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS bench_floor (number bigserial PRIMARY KEY, body bytea)"
            )

    def notices(self, seconds: float, pause: float) -> list[float]:
        """Notify oneself, again and again."""
        found = []
        with self._connect() as listening, self._connect() as notifying:
            listening.execute("LISTEN bench_notice")
            ends = time.perf_counter() + seconds
            while time.perf_counter() < ends:
                time.sleep(pause)
                began = time.perf_counter()
                notifying.execute("NOTIFY bench_notice")
                if not list(listening.notifies(timeout=_HEARD_SECONDS, stop_after=1)):
                    raise LoadError("a notice has not come")
                found.append(time.perf_counter() - began)
        return sorted(found)


class Valkey(Engine):
    """Valkey or Redis."""

    name = "Valkey"
    least = f"XADD, {_CONNECTIONS} in a pipeline"
    notice = "PUBLISH to SUBSCRIBE"

    def _connect(self) -> Any:
        import redis  # noqa: PLC0415 - an extra

        return redis.Redis.from_url(self.url.partition("?")[0])

    def floor(self, seconds: float) -> float:
        """Add to streams, by pipelines."""
        done = 0
        with self._connect() as client:
            ends = time.perf_counter() + seconds
            began = time.perf_counter()
            while time.perf_counter() < ends:
                pipeline = client.pipeline(transaction=False)
                for number in range(_CONNECTIONS):
                    pipeline.xadd(f"bench-floor-{number % _RECIPIENTS}", {"body": _BODY})
                done += len(pipeline.execute())
            return done / (time.perf_counter() - began)

    def notices(self, seconds: float, pause: float) -> list[float]:
        """Publish to oneself, again and again."""
        found = []
        with self._connect() as client, client.pubsub() as listening:
            listening.subscribe("bench-notice")
            listening.get_message(timeout=_HEARD_SECONDS)
            ends = time.perf_counter() + seconds
            while time.perf_counter() < ends:
                time.sleep(pause)
                began = time.perf_counter()
                client.publish("bench-notice", b"1")
                if listening.get_message(timeout=_HEARD_SECONDS) is None:
                    raise LoadError("a message has not come")
                found.append(time.perf_counter() - began)
        return sorted(found)


@contextmanager
def engines(folder: Path, postgresql: str | None, valkey: str | None) -> Iterator[list[Engine]]:
    """Start the engines that are not there yet, and end them again.

    Args:
        folder: for the file of SQLite.
        postgresql: URL of a database of one's own, or None for an engine of this run's.
        valkey: likewise.
    """
    sys.path.append(str(_SUPPORT))
    import orphans  # noqa: PLC0415 - beside the tests, which use them too
    import postgres_engine  # noqa: PLC0415
    import valkey_engine  # noqa: PLC0415

    def inside(place: Path) -> list[int]:
        return [pid for pid, where in orphans.folders() if where == str(place)]

    with ExitStack() as stack:
        found: list[Engine] = [Sqlite(f"sqlite:{folder / 'bench.db'}")]
        programs = postgres_engine.binaries()
        here = None if programs is None else str(programs)
        pgbench = shutil.which("pgbench", path=here) or shutil.which("pgbench")
        path = None if pgbench is None else Path(pgbench)
        if postgresql is not None:
            found.append(PostgreSQL(postgresql, None, path))
        elif why := postgres_engine.missing():
            say(f"no PostgreSQL: {why}")
        else:
            engine = postgres_engine.PostgresEngine()
            stack.callback(engine.close)
            data = engine.data
            url = engine.url(engine.new_database())
            found.append(PostgreSQL(url, lambda: inside(data), path))
        if valkey is not None:
            found.append(Valkey(valkey))
        elif why := valkey_engine.missing():
            say(f"no Valkey: {why}")
        else:
            server = valkey_engine.ValkeyEngine()
            stack.callback(server.close)
            place = server.folder
            found.append(Valkey(server.url(), lambda: inside(place)))
        yield found


# --- the servers


class Site:
    """One server on a store, or two, and what is connected to them.

    Attributes:
        engine: of the store.
        target: the server, the first of two.
        subject: connections to it.
    """

    def __init__(self, engine: Engine, targets: list[ServerProcess], pairs: int) -> None:
        self.engine = engine
        self.target = targets[0]
        accounts = Accounts(self.target.endpoint, _WIRE)
        self._sender, *others = accounts.make(1 + _RECIPIENTS + pairs)
        self._unwatched, self._watched = others[:_RECIPIENTS], others[_RECIPIENTS:]
        self._targets = targets
        self._subjects: list[ServerSubject] = []
        self.subject = self._subject(self.target, self._watched)

    def _subject(self, target: ServerProcess, watched: list[Member]) -> ServerSubject:
        subject = ServerSubject(target, _WIRE, Accounts(target.endpoint, _WIRE))
        subject.take_accounts(self._sender, self._unwatched, watched)
        self._subjects.append(subject)
        return subject

    def across(self) -> Pair | None:
        """Return a sender at the first server and its watcher at the second, if there are two.

        The recipient is the last of those to watch, and has no other watcher that has begun.
        """
        if len(self._targets) == 1:
            return None
        ends = [self._subject(target, self._watched[-1:]) for target in self._targets]
        for subject in ends:
            subject.open(0, 1)
        return Pair(ends[0].pairs[0].sender, ends[1].pairs[0].watcher)

    def close(self) -> None:
        """Close the connections."""
        for subject in self._subjects:
            subject.close()

    def costs(self, load: Callable[[], Sample]) -> dict[str, float]:
        """Return the operations a second of a load, and what one costs server and engine in µs."""
        servers, engine = self.target.processor_seconds(), self.engine.used()
        sample = load()
        found = {"rate": sample.rate, "load": sample.processor_seconds / sample.seconds}
        for name, before, now in (
            ("server", servers, self.target.processor_seconds()),
            ("engine", engine, self.engine.used()),
        ):
            if before is not None and now is not None:
                found[name] = 1e6 * (now - before) / sample.operations
        return found


@contextmanager
def served(
    used: list[Engine], listener: str, pairs: int = 0, nodes: int = 1
) -> Iterator[list[Site]]:
    """Run servers on each of the stores, with accounts; two of them where they can share it."""
    with ExitStack() as stack:
        sites = []
        for engine in used:
            say(f"  accounts on {engine.name}")
            targets = [
                stack.enter_context(server_process(engine.url, listener=listener))
                for _ in range(nodes if engine.shared else 1)
            ]
            sites.append(Site(engine, targets, pairs))
            stack.callback(sites[-1].close)
        yield sites


Found = Mapping[str, Mapping[str, list[float]]]
"""The figures of each round, by their name, by the engine's."""


def turns(rounds: int, engines_: list[Engine], what: str) -> Iterator[list[Engine]]:
    """Return the order of each round: each comes first in its turn."""
    for round_ in range(rounds):
        say(f"  {what}, round {round_ + 1} of {rounds}")
        first = round_ % len(engines_)
        yield engines_[first:] + engines_[:first]


def over(found: Found, name: str, of: str, over: str, over_of: str | None = None) -> float | None:
    """Return the median of the ratios within a round, if there are both."""
    both = (found.get(of, {}).get(name), found.get(over, {}).get(over_of or name))
    if both[0] is None or both[1] is None:
        return None
    return median(one / other for one, other in zip(*both, strict=True))


def text(value: float | None, form: str = ",.0f", unit: str = "") -> str:
    """Return a figure for a person."""
    return "-" if value is None else f"{value:{form}}{unit}"


def middle(found: Found, of: str, name: str) -> float | None:
    """Return the median over the rounds, if there is one."""
    values = found.get(of, {}).get(name)
    return median(values) if values else None


# --- what is measured


def measure_sends(used: list[Engine], listener: str, rounds: int, seconds: float) -> list[Row]:
    """Sends through a server, beside the least that the engine can do."""
    found: dict[str, defaultdict[str, list[float]]] = {
        engine.name: defaultdict(list) for engine in used
    }
    with served(used, listener) as sites:
        by_engine = {site.engine: site for site in sites}
        for site in sites:
            site.subject.open(_CONNECTIONS, 0)
            one_at_a_time(site.subject.callers(_CONNECTIONS), _WARM_SECONDS)
        for order in turns(rounds, used, "sends"):
            for engine in order:
                subject = by_engine[engine].subject
                callers = subject.callers(_CONNECTIONS)
                for name, value in (
                    by_engine[engine].costs(lambda of=callers: one_at_a_time(of, seconds)).items()
                ):
                    found[engine.name][name].append(value)
                _add_floors(found[engine.name], engine, seconds)
                subject.settle()
    return [
        Row(
            f"{engine.name}: sends a second, over SQLite's, server µs, engine µs",
            f"{text(middle(found, engine.name, 'rate'))}, "
            f"{text(over(found, 'rate', engine.name, Sqlite.name), '.2f')}, "
            f"{text(middle(found, engine.name, 'server'), '.0f')}, "
            f"{text(middle(found, engine.name, 'engine'), '.0f')}",
            ">= 1.2 x SQLite's" if engine.name == PostgreSQL.name else "",
            {"store": engine.name, **found[engine.name]},
        )
        for engine in used
    ] + _floors(used, found, "sends")


_WANTED: Final = {PostgreSQL.name: ">= 1.5", Valkey.name: ">= 0.75"}


def _add_floors(found: dict[str, list[float]], engine: Engine, seconds: float) -> None:
    for name, floor in (("floor", engine.floor), ("bare", engine.bare_floor)):
        if (rate := floor(seconds)) is not None:
            found[name].append(rate)


def _floors(used: list[Engine], found: Found, what: str) -> list[Row]:
    return [
        Row(
            f"{engine.name}: {least}, a second; {what} over that",
            f"{text(middle(found, engine.name, name))}, "
            f"{text(over(found, 'rate', engine.name, engine.name, name), '.2f')}",
            _WANTED.get(engine.name, "") if name == "floor" else "",
            {"store": engine.name, name: found[engine.name].get(name, [])},
        )
        for engine in used
        for name, least in (("floor", engine.least), ("bare", engine.bare))
        if found[engine.name].get(name)
    ]


def measure_appends(used: list[Engine], rounds: int, seconds: float) -> list[Row]:
    """What the stores do for as many threads as there are connections, without a server."""
    found: dict[str, defaultdict[str, list[float]]] = {
        engine.name: defaultdict(list) for engine in used
    }
    for order in turns(rounds, used, "appends"):
        for engine in order:
            found[engine.name]["rate"].append(_appends(engine.url, seconds))
            _add_floors(found[engine.name], engine, seconds)
    return [
        Row(
            f"{engine.name}: appends a second of {_CONNECTIONS} threads, over SQLite's",
            f"{text(middle(found, engine.name, 'rate'))}, "
            f"{text(over(found, 'rate', engine.name, Sqlite.name), '.2f')}",
            "",
            {"store": engine.name, **found[engine.name]},
        )
        for engine in used
    ] + _floors(used, found, "appends")


def _appends(url: str, seconds: float) -> float:
    run = secrets.token_hex(6)
    with open_store(url, MailboxPolicy(mailbox_messages=10**9)) as store:
        boxes = [f"{number:02x}{run}" for number in range(_RECIPIENTS)]
        for box in boxes:
            store.mailboxes.create(box)

        def append(thread: int, number: int) -> None:
            draft = Draft(
                message_id=f"{thread:04x}{number:020x}",
                sender_id=run,
                sender="ann",
                body=_BODY,
                sent_at=_now(),
                send_id=f"{run}{thread}-{number}",
            )
            store.mailboxes.append(boxes[number % _RECIPIENTS], draft)

        return _by_threads(append, seconds)


def _by_threads(work: Callable[[int, int], None], seconds: float) -> float:
    """Return how often a second something is done by as many threads as there are connections.

    Args:
        work: is given the thread's number, and how often that has worked.
        seconds: for how long.
    """
    counts = [0] * _CONNECTIONS
    failed: list[Exception] = []
    gate = threading.Barrier(_CONNECTIONS + 1)
    ends = [0.0]

    def run(thread: int) -> None:
        gate.wait()
        try:
            while time.perf_counter() < ends[0]:
                work(thread, counts[thread])
                counts[thread] += 1
        except Exception as error:  # noqa: BLE001 - told by the main thread
            failed.append(error)

    threads = [threading.Thread(target=run, args=(each,)) for each in range(_CONNECTIONS)]
    for thread in threads:
        thread.start()
    began = time.perf_counter()
    ends[0] = began + seconds
    gate.wait()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    if failed:
        raise failed[0]
    return sum(counts) / took


def measure_conversing(used: list[Engine], rounds: int, seconds: float) -> list[Row]:
    """What copies and receipts add at the stores, without a server."""
    found: dict[str, defaultdict[str, list[float]]] = {
        engine.name: defaultdict(list) for engine in used
    }
    for order in turns(rounds, used, "copies and receipts"):
        for engine in order:
            for name, value in _conversing(engine, seconds).items():
                found[engine.name][name].append(value)
    rows = []
    for name in (engine.name for engine in used):
        for what, of, other in (
            ("a send that comes alone; with a copy, over that", "plain", "copied"),
            ("an ack that comes alone; with receipts, over that", "silent", "told"),
        ):
            ratio = over(found, other, name, name, of)
            value = f"{text(middle(found, name, of))} µs, {text(ratio, '.2f')}"
            figures = {each: found[name][each] for each in (of, other)}
            rows.append(Row(f"{name}: {what}", value, "", {"store": name, **figures}))
        many = [f"{send} {what}" for what in ("rate", "engine") for send in ("plain", "copied")]
        rate, ratio = middle(found, name, many[0]), over(found, many[0], name, name, many[1])
        engine_us = ", ".join(text(middle(found, name, each)) for each in many[2:])
        rows.append(
            Row(
                f"{name}: sends a second of {_CONNECTIONS} threads; over those with a copy; "
                "engine µs of each",
                f"{text(rate)}, {text(ratio, '.2f')}; {engine_us}",
                "",
                {"store": name, **{each: found[name][each] for each in many}},
            )
        )
    return rows


class _Talk:
    """Who sends to whom in a store, and how long what comes alone has taken.

    Attributes:
        times: by what it was, in µs.
    """

    def __init__(self, boxes: Mailboxes) -> None:
        """Make the mailboxes."""
        run = secrets.token_hex(6)
        self._boxes = boxes
        self._recipients = [f"{number:02x}{run}" for number in range(_RECIPIENTS)]
        self._senders = [f"s{number:02x}{run}" for number in range(_RECIPIENTS)]
        for each in self._recipients + self._senders:
            boxes.create(each)
        self._numbers = itertools.count()  # each message is another one
        self.times: defaultdict[str, list[float]] = defaultdict(list)

    def plain(self, thread: int, number: int) -> None:
        """Send, as one of many threads."""
        self._send(thread, number, None)

    def copied(self, thread: int, number: int) -> None:
        """Send with a copy, as one of many threads."""
        self._send(thread, number, "bob")

    def _send(self, sender: int, recipient: int, copy_to: str | None) -> None:
        send_id = f"{next(self._numbers)}"
        sender_id = self._senders[sender % _RECIPIENTS]
        message_id = secrets.token_hex(12)  # as a server draws it: it makes no index grow in order
        draft = Draft(message_id, sender_id, "ann", _BODY, _now(), send_id, copy_to)
        self._boxes.append(self._recipients[recipient % _RECIPIENTS], draft)

    def alone(self, seconds: float) -> None:
        """Send with and without a copy, to a mailbox that gives receipts and one that does not."""
        told, silent = self._recipients[:2]
        self._boxes.set_receipts(silent, receipts=False)
        acked = dict.fromkeys((told, silent), 0)
        ends = time.perf_counter() + seconds
        for number in itertools.count():
            if time.perf_counter() >= ends:
                return
            self._timed("plain", self._send, 0, number % 2, None)
            self._timed("copied", self._send, 0, 1 - number % 2, "bob")
            for name, box in (("told", told), ("silent", silent)):
                acked[box] += 1
                self._timed(name, self._boxes.ack, box, acked[box], _now())

    def _timed(self, name: str, call: Callable[..., object], *arguments: object) -> None:
        began = time.perf_counter()
        call(*arguments)
        self.times[name].append(1e6 * (time.perf_counter() - began))


def _conversing(engine: Engine, seconds: float) -> dict[str, float]:
    """Return what takes how long alone, in µs, and how many a second are sent by many threads."""
    policy = MailboxPolicy(mailbox_messages=10**9, history_messages=_COPIES)
    with open_store(engine.url, policy) as store:
        talk = _Talk(store.mailboxes)
        talk.alone(seconds)  # before there is other mail in these mailboxes
        _by_threads(talk.copied, _WARM_SECONDS)
        found = {name: median(each) for name, each in talk.times.items()}
        for name, send in (("plain", talk.plain), ("copied", talk.copied)):
            before = engine.used()
            rate = found[f"{name} rate"] = _by_threads(send, seconds)
            now = engine.used()
            if before is not None and now is not None:
                found[f"{name} engine"] = 1e6 * (now - before) / (rate * seconds)
    return found


def _now() -> int:
    return time.time_ns() // 1_000_000


def measure_deliveries(used: list[Engine], listener: str, rounds: int, seconds: float) -> list[Row]:
    """Deliveries to as many watchers, and what one costs the server and the engine."""
    found: dict[str, defaultdict[str, list[float]]] = {
        engine.name: defaultdict(list) for engine in used
    }
    with served(used, listener, pairs=_CONNECTIONS) as sites:
        by_engine = {site.engine: site for site in sites}
        for site in sites:
            site.subject.open(0, _CONNECTIONS)
            deliveries(site.subject.pairs, _WARM_SECONDS)
        for order in turns(rounds, used, "deliveries"):
            for engine in order:
                site = by_engine[engine]
                for name, value in site.costs(
                    lambda of=site.subject.pairs: deliveries(of, seconds)
                ).items():
                    found[engine.name][name].append(value)
                site.subject.settle()
    return [
        Row(
            f"{engine.name}: deliveries a second, server µs, over SQLite's, engine µs",
            f"{text(middle(found, engine.name, 'rate'))}, "
            f"{text(middle(found, engine.name, 'server'), '.0f')}, "
            f"{text(over(found, 'server', engine.name, Sqlite.name), '.2f')}, "
            f"{text(middle(found, engine.name, 'engine'), '.0f')}",
            "server <= 1.2 x SQLite's" if engine.shared else "",
            {"store": engine.name, **found[engine.name]},
        )
        for engine in used
    ]


def measure_wakes(used: list[Engine], listener: str, rounds: int, seconds: float) -> list[Row]:
    """How soon a watcher has a message, at its sender's server and at another one."""
    found: dict[str, defaultdict[str, list[float]]] = {
        engine.name: defaultdict(list) for engine in used
    }
    with served(used, listener, pairs=2, nodes=2) as sites:
        by_engine = {site.engine: site for site in sites}
        across = {site.engine: site.across() for site in sites}
        for site in sites:
            site.subject.open(0, 1)
        for order in turns(rounds, used, "wakes"):
            for engine in order:
                subject = by_engine[engine].subject
                figures = found[engine.name]
                figures["here"].append(_p50(subject.pairs, seconds, _PAUSE_SECONDS))
                if (far := across[engine]) is not None:
                    pair = [far]
                    figures["there"].append(_p50(pair, seconds, _PAUSE_SECONDS))
                    figures["busy"].append(_p50(pair, seconds))
                    for name, pause in (("notice", _PAUSE_SECONDS), ("busy_notice", 0)):
                        figures[name].append(1e6 * percentile(engine.notices(seconds, pause), 50))
    return [
        Row(
            f"{engine.name}: from a send to its watcher, p50: at one server, across two; "
            "without a pause",
            f"{text(middle(found, engine.name, 'here'))}, "
            f"{text(middle(found, engine.name, 'there'))}; "
            f"{text(middle(found, engine.name, 'busy'))} µs",
            "",
            {"store": engine.name, **found[engine.name]},
        )
        for engine in used
    ] + [
        Row(
            f"{engine.name}: {engine.notice}{words}, p50; across two servers over that",
            f"{text(middle(found, engine.name, notice))} µs, "
            f"{text(over(found, delivery, engine.name, engine.name, notice), '.2f')}",
            "<= 2.5",
            {"store": engine.name, notice: found[engine.name][notice]},
        )
        for engine in used
        if engine.shared
        for words, delivery, notice in (
            ("", "there", "notice"),
            (", without a pause", "busy", "busy_notice"),
        )
    ]


def _p50(pairs: list[Pair], seconds: float, pause: float = 0) -> float:
    return 1e6 * percentile(delivery_latency(pairs, seconds, pause).latencies, 50)


def main() -> None:
    """Measure what was asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--only", choices=PARTS, action="append", help="repeatable")
    parser.add_argument(
        "--listener", choices=LISTENERS, action="append", help="repeatable  [default: threads]"
    )
    parser.add_argument("--postgresql", metavar="URL", help="of a database that is there")
    parser.add_argument("--valkey", metavar="URL", help="of a Valkey or Redis that is there")
    parser.add_argument("--folder", type=Path, help="of SQLite's file  [default: $TMPDIR]")
    parser.add_argument("--rounds", type=int, help="of each measurement  [default: 5]")
    parser.add_argument("--seconds", type=float, help="of each load  [default: 2]")
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 5)
    seconds = options.seconds or (0.5 if options.quick else 2)
    wanted = options.only or PARTS
    tables: dict[str, list[Row]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="twinline-bench-", dir=options.folder) as name,
        engines(Path(name), options.postgresql, options.valkey) as used,
    ):
        if "appends" in wanted:
            say("appends")
            tables["no listener"] = measure_appends(used, rounds, seconds)
        if "conversing" in wanted:
            say("conversing")
            rows = measure_conversing(used, rounds, seconds)
            tables["no listener"] = tables.get("no listener", []) + rows
        for listener in options.listener or LISTENERS[:1]:
            rows = []
            for part, measure in (
                ("sends", measure_sends),
                ("deliveries", measure_deliveries),
                ("wakes", measure_wakes),
            ):
                if part in wanted:
                    say(f"{part}, {listener}")
                    rows += measure(used, listener, rounds, seconds)
            if rows:
                tables[listener] = rows
    print_tables(tables, as_json=options.json)


if __name__ == "__main__":
    main()
