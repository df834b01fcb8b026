"""Measures what TLS and WebSocket cost beside JSON-lines over plain TCP, in one run.

    pip install -e '.[tls]'                      # makes the certificate
    python benchmarks/wires.py                   # about three minutes
    python benchmarks/wires.py --quick           # a look
    python benchmarks/wires.py --only memory --listener loop

The servers are ``twinline serve`` with default settings and the store in memory, one for each way
to reach it and each listener; over TLS they have a certificate by ECDSA P-256. What is compared is
measured in turns, and a ratio is the median of those within a round. A server's µs are the
processor time of its process, all of it: the kernel's share of the socket too.

- sends: one at a time from 64 connections, each with a ``send_id``.
- handshakes: connections that shake hands and leave, one after the other; a handshake's µs hold
  accepting the connection, its thread if it has one, and its end.
- silent: what sends take in the two seconds in which 500 others connect, all at once, and then say
  nothing, not even the hello of TLS, beside what they take before.
- memory: what the server's process grows by for each connection that is logged in and idle.
"""

# ruff: noqa: T201 - a script prints

import argparse
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from typing import Final

import scale_store
from scale_site import Row, in_ms, plugged_in, print_tables

from twinline.cli.bench.accounts import Accounts, Member
from twinline.cli.bench.load import LoadError, one_at_a_time
from twinline.cli.bench.sockets import PATIENCE_SECONDS, over_tls
from twinline.cli.bench.subjects import ServerSubject
from twinline.cli.bench.target import ServerProcess, running, server_process
from twinline.core.deadline import Deadline
from twinline.transports.connecting import connect
from twinline.transports.endpoints import Endpoint, Scheme
from twinline.transports.registry import transport

LISTENERS: Final = ("threads", "loop")
SCHEMES: Final = (Scheme.TCP, Scheme.TLS, Scheme.WS, Scheme.WSS)
PARTS: Final = ("sends", "handshakes", "silent", "memory")
_WIRE: Final = transport("jsonl")
_SENDERS: Final = 64
_BESIDE: Final = 16
"""Connections whose sends are timed while others connect."""
_ACCOUNTS: Final = 16
_WANTED: Final = {Scheme.TLS: "<= 1.6", Scheme.WS: "<= 1.35"}
_KIB: Final = 1024


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


class Site:
    """A server that is reached in one way, and connections to it.

    Attributes:
        scheme: of its endpoint.
        target: its process.
        subject: its accounts and connections.
        member: one of the accounts, which sends.
    """

    def __init__(self, scheme: Scheme, target: ServerProcess) -> None:
        self.scheme = scheme
        self.target = target
        accounts = Accounts(target.endpoint, _WIRE, target.tls)
        self.member, *others = [
            Member(scale_store.username(number), scale_store.token(number))
            for number in range(1 + _ACCOUNTS)
        ]
        self.subject = ServerSubject(target, _WIRE, accounts)
        self.subject.take_accounts(self.member, others)

    def used(self) -> float:
        """Return the seconds of a processor that the server has used."""
        seconds = self.target.processor_seconds()
        if seconds is None:
            raise LoadError("this system does not tell what another process uses")
        return seconds

    def resident(self) -> int:
        """Return the server's memory in bytes, once it is at rest."""
        self.target.settle()
        size = self.target.resident_bytes()
        if size is None:
            raise LoadError("this system does not tell what another process uses")
        return size


@contextmanager
def served(scheme: Scheme, listener: str) -> Iterator[Site]:
    """Run a server with accounts."""
    store = f"filled:accounts={1 + _ACCOUNTS},queued=0"
    with plugged_in(), server_process(store, listener=listener, scheme=scheme) as target:
        site = Site(scheme, target)
        try:
            yield site
        finally:
            site.subject.close()


# --- sends


def measure_sends(listener: str, rounds: int, seconds: float) -> list[Row]:
    """What a send costs the server, by how it is reached."""
    costs: dict[Scheme, list[float]] = {scheme: [] for scheme in SCHEMES}
    rates: dict[Scheme, list[float]] = {scheme: [] for scheme in SCHEMES}
    loads: dict[Scheme, list[float]] = {scheme: [] for scheme in SCHEMES}
    with ExitStack() as stack:
        sites = [stack.enter_context(served(scheme, listener)) for scheme in SCHEMES]
        for site in sites:
            site.subject.open(_SENDERS, 0)
            one_at_a_time(site.subject.callers(_SENDERS), min(seconds, 0.3))
        for round_ in range(rounds):
            say(f"  sends, round {round_ + 1} of {rounds}")
            # Each comes first in its turn, so that none always has the machine at its best.
            first = round_ % len(sites)
            for site in sites[first:] + sites[:first]:
                before = site.used()
                sample = one_at_a_time(site.subject.callers(_SENDERS), seconds)
                used = site.used() - before
                costs[site.scheme].append(1e6 * used / sample.operations)
                rates[site.scheme].append(sample.rate)
                loads[site.scheme].append(sample.processor_seconds / sample.seconds)
                site.subject.settle()
    plain = costs[Scheme.TCP]
    rows = []
    for scheme in SCHEMES:
        ratio = median(own / other for own, other in zip(costs[scheme], plain, strict=True))
        rows.append(
            Row(
                f"a send over {scheme}: server µs, over plain, sends a second, load",
                f"{median(costs[scheme]):.1f} µs, {ratio:.2f}, {median(rates[scheme]):,.0f}, "
                f"{median(loads[scheme]):.2f}",
                _WANTED.get(scheme, ""),
                {
                    "scheme": scheme.value,
                    "microseconds": costs[scheme],
                    "ratio": ratio,
                    "rates": rates[scheme],
                },
            )
        )
    return rows


# --- handshakes


def measure_handshakes(listener: str, rounds: int, count: int) -> list[Row]:
    """What a handshake costs the server, beside a connection in plain that says nothing."""
    costs: dict[Scheme, list[float]] = {Scheme.TCP: [], Scheme.TLS: []}
    with ExitStack() as stack:
        sites = [stack.enter_context(served(scheme, listener)) for scheme in costs]
        for round_ in range(rounds):
            say(f"  handshakes, round {round_ + 1} of {rounds}")
            for site in sites:
                site.target.settle()
                before = site.used()
                for _ in range(count):
                    _connected(site.target.endpoint, site.target.tls).close()
                site.target.settle()
                costs[site.scheme].append(1e6 * (site.used() - before) / count)
    cost, plain = median(costs[Scheme.TLS]), median(costs[Scheme.TCP])
    return [
        Row(
            "a connection that shakes hands and leaves: server µs; such in plain",
            f"{cost:.0f}, {plain:.0f} µs",
            "",
            {"microseconds": costs[Scheme.TLS], "plain": costs[Scheme.TCP]},
        ),
        Row(
            "handshakes a second of one processor",
            f"{1e6 / cost:,.0f}",
            ">= 250",
            {"rate": 1e6 / cost},
        ),
    ]


def _connected(endpoint: Endpoint, tls: ssl.SSLContext | None) -> socket.socket:
    connected = connect(endpoint, Deadline.after(PATIENCE_SECONDS)).socket
    connected.settimeout(PATIENCE_SECONDS)
    return connected if tls is None else over_tls(connected, tls, endpoint.host)


# --- those that say nothing


def measure_silent(listener: str, rounds: int, seconds: float, count: int) -> list[Row]:
    """What others' sends take while many connect and say nothing."""
    rows = []
    for scheme in (Scheme.TLS, Scheme.TCP):
        quiet: list[float] = []
        beside: list[float] = []
        with served(scheme, listener) as site:
            site.subject.open(_BESIDE, 0)
            callers = site.subject.callers(_BESIDE)
            one_at_a_time(callers, min(seconds, 0.3))
            for round_ in range(rounds):
                say(f"  silent over {scheme}, round {round_ + 1} of {rounds}")
                with _crowd(site.target.endpoint, count) as crowd:
                    quiet += one_at_a_time(callers, seconds).latencies
                    crowd.begin()
                    beside += one_at_a_time(callers, seconds).latencies
                    crowd.wait_connected()
                site.target.settle()
        before, during = in_ms(quiet), in_ms(beside)
        what = f"sends over {scheme} from {_BESIDE} connections"
        rows += [
            Row(f"{what}: p50, p99, longest", before.text, "", before.figures),
            Row(
                f"the same while {count} connect and say nothing",
                during.text,
                "",
                during.figures,
            ),
            Row(
                "p99 over before",
                f"{during.p99 / before.p99:.2f}",
                "<= 1.2" if scheme is Scheme.TLS else "",
                {"scheme": scheme.value, "ratio": during.p99 / before.p99},
            ),
        ]
    return rows


class _Crowd:
    """A process that connects many times, once it is told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._wait("waiting")

    def begin(self) -> None:
        """Have it connect."""
        if self._process.stdin is None:
            raise AssertionError("it has pipes")
        self._process.stdin.write("\n")

    def wait_connected(self) -> None:
        """Wait until all are connected."""
        self._wait("connected")

    def _wait(self, word: str) -> None:
        if self._process.stdout is None or self._process.stdout.readline().strip() != word:
            raise LoadError("those that say nothing could not be connected")


@contextmanager
def _crowd(endpoint: Endpoint, count: int) -> Iterator[_Crowd]:
    command = [sys.executable, __file__, "--crowd", f"{endpoint.host}:{endpoint.port}:{count}"]
    pipe = subprocess.PIPE
    with partial(running, stdin=pipe, stdout=pipe, text=True, bufsize=1)(command) as process:
        yield _Crowd(process)


def be_crowd(place: str) -> None:
    """Connect many times when told to, and hold that until the input ends."""
    host, port, count = place.split(":")
    print("waiting", flush=True)
    sys.stdin.readline()
    with ExitStack() as stack:
        for _ in range(int(count)):
            stack.enter_context(socket.create_connection((host, int(port)), PATIENCE_SECONDS))
        print("connected", flush=True)
        sys.stdin.read()


# --- memory


def measure_memory(listener: str, count: int) -> list[Row]:
    """What the server grows by for each idle connection."""
    sizes: dict[Scheme, float] = {}
    for scheme in SCHEMES:
        say(f"  memory over {scheme}")
        with served(scheme, listener) as site:
            # What the first connections bring is not what each of them costs.
            site.subject.open(4, 0)
            one_at_a_time(site.subject.callers(4), 0.1)
            before = site.resident()
            for _ in range(count):
                site.subject.logged_in(site.member)
            sizes[scheme] = (site.resident() - before) / count
    plain = sizes[Scheme.TCP]
    return [
        Row(
            f"memory of an idle connection over {scheme}, and over plain",
            f"{size / _KIB:.1f}, {(size - plain) / _KIB:+.1f} KiB",
            "<= 45 more" if scheme is Scheme.TLS else "",
            {"scheme": scheme.value, "bytes": size, "over_plain": size - plain},
        )
        for scheme, size in sizes.items()
    ]


def main() -> None:
    """Measure what was asked for and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="short rounds, a tenth of the size")
    parser.add_argument("--only", choices=PARTS, action="append", help="repeatable")
    parser.add_argument(
        "--listener", choices=LISTENERS, action="append", help="repeatable  [default: both]"
    )
    parser.add_argument("--rounds", type=int, help="of each measurement  [default: 5]")
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")
    parser.add_argument("--crowd", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.crowd:
        be_crowd(options.crowd)
        return
    quick = options.quick
    rounds = options.rounds or (1 if quick else 5)
    seconds = 0.3 if quick else 0.7
    tables: dict[str, list[Row]] = {}
    for listener in options.listener or LISTENERS:
        parts = {
            "sends": partial(measure_sends, listener, rounds, seconds),
            "handshakes": partial(measure_handshakes, listener, rounds, 30 if quick else 200),
            "silent": partial(measure_silent, listener, rounds, 3 * seconds, 50 if quick else 500),
            "memory": partial(measure_memory, listener, 50 if quick else 500),
        }
        tables[listener] = []
        for part in options.only or PARTS:
            say(f"{part}, {listener}")
            tables[listener] += parts[part]()
    print_tables(tables, as_json=options.json, also={"openssl": ssl.OPENSSL_VERSION})


if __name__ == "__main__":
    main()
