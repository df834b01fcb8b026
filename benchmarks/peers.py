"""Puts twinline beside what a Python user would pick instead, with the same work, in one run.

    pip install -e '.[bench]'                # websockets, rpyc, grpcio
    python benchmarks/peers.py               # about ten minutes
    python benchmarks/peers.py --quick       # a look
    python benchmarks/peers.py --only twinline-jsonl --only websockets

mosquitto, nats-server and redis-server take part where they are installed
(`apt-get install mosquitto nats-server redis-server`).

The work: a sender sends a message of 54 bytes, addressed to a recipient; the server passes it to
the recipient's watcher, which waits; the sender gets an acknowledgement. What that says differs
from one to the other, and stands in the table. Every server is a process of its own. The load is
one loop over raw sockets with frames that were encoded once; its share of a processor stands in
the column `load`. Near 1 it is the load that limits a server, whose µs are the figure then.
Servers take turns in each round, and a ratio is the median of those within a round.

twinline and the floor keep their threads on one processor. The Python peers run as their
documentation has it, and a second time in the same way as twinline, as `...-pinned`.
"""

# A script: it prints, and starts what it measures.
# ruff: noqa: T201

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec

import peer_brokers
import peer_twinline
from peer_contract import Peer, Server
from peer_table import Figures, table, verdicts

from twinline.cli.bench.load import (
    LoadError,
    Sample,
    deliveries,
    delivery_latency,
    one_at_a_time,
    percentile,
)

CONNECTIONS = 64
_LATENCY_PAIRS = 8
FLOOR = "floor"
TWINLINE = ("twinline-jsonl", "twinline-binary")


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


# --- who takes part


def _python_peer(name: str, package: str, acknowledged: str, *flags: str) -> Peer:
    module = package.replace("grpcio", "grpc")

    def serve() -> AbstractContextManager[Server]:
        served: AbstractContextManager[Server] = import_module(f"peer_{module}").serve(*flags)
        return served

    def missing() -> str | None:
        return None if find_spec(module) else f"{package} is not installed: pip install {package}"

    return Peer(name, acknowledged, serve, python=True, missing=missing)


def _python_peers() -> list[Peer]:
    routed = "the router has passed it on, and forgets it"
    kept = "the router (in memory) has it until the watcher acknowledged it"
    peers = []
    for suffix, flags in (("", ()), ("-pinned", ("--one-processor",))):
        peers += [
            _python_peer(f"websockets{suffix}", "websockets", routed, *flags),
            _python_peer(f"websockets-acked{suffix}", "websockets", kept, "--acked", *flags),
            _python_peer(f"rpyc{suffix}", "rpyc", routed, *flags),
            _python_peer(f"grpc{suffix}", "grpcio", routed, *flags),
        ]
    return peers


PEERS = [
    Peer(FLOOR, "nothing: bytes are echoed or relayed", peer_twinline.serve_floor),
    Peer(TWINLINE[0], "the store (in memory) has it until it is acked", peer_twinline.serve_jsonl),
    Peer(TWINLINE[1], "the store (in memory) has it until it is acked", peer_twinline.serve_binary),
    *_python_peers(),
    Peer(
        "mosquitto",
        "PUBACK of QoS 1: the broker has it; dropped where nobody subscribed",
        peer_brokers.serve_mosquitto,
        missing=peer_brokers.not_found("mosquitto"),
    ),
    Peer(
        "nats",
        "PONG of a flush: the server has read it; dropped where nobody subscribed",
        peer_brokers.serve_nats,
        missing=peer_brokers.not_found("nats-server"),
    ),
    Peer(
        "redis",
        "RPUSH: the list has it, until BLPOP takes it",
        peer_brokers.serve_redis,
        missing=peer_brokers.not_found("redis-server"),
    ),
]


# --- what is measured


@dataclass(frozen=True, slots=True)
class Measured:
    """A sample, and what it took.

    Attributes:
        sample: what was counted.
        server: processor µs of the server for each operation, or None where nobody can tell.
        load: the share of a processor that the load took.
    """

    sample: Sample
    server: float | None
    load: float


def measured(server: Server, run: Callable[[], Sample]) -> Measured:
    """Run a load, and count what it takes."""
    before, own, began = server.target.processor_seconds(), time.process_time(), time.monotonic()
    sample = run()
    after, elapsed = server.target.processor_seconds(), time.monotonic() - began
    load = (time.process_time() - own) / elapsed
    took = None if before is None or after is None else 1e6 * (after - before) / sample.operations
    return Measured(sample, took, load)


def one_round(server: Server, seconds: float) -> Figures:
    """Measure a server once; each load has connections of its own."""
    try:
        pairs = server.pairs(_LATENCY_PAIRS)
        latency = measured(server, partial(delivery_latency, pairs, seconds))
        for pair in pairs:
            server.check(pair)
        server.disconnect()
        pairs = server.pairs(CONNECTIONS)
        delivered = measured(server, partial(deliveries, pairs, seconds))
        for pair in pairs:
            server.check(pair)
        server.disconnect()
        callers = server.callers(CONNECTIONS)
        sent = measured(server, partial(one_at_a_time, callers, seconds))
    finally:
        server.disconnect()
    return Figures(
        p50=1e6 * percentile(latency.sample.latencies, 50),
        p99=1e6 * percentile(latency.sample.latencies, 99),
        deliveries=delivered.sample.rate,
        sends=sent.sample.rate,
        delivery_cost=delivered.server,
        send_cost=sent.server,
        delivery_load=delivered.load,
        send_load=sent.load,
    )


def run(
    peers: list[Peer], rounds: int, seconds: float
) -> tuple[dict[str, list[Figures]], dict[str, str]]:
    """Measure in turns; return each peer's rounds, and why the others have none."""
    found: dict[str, list[Figures]] = {}
    left_out: dict[str, str] = {}
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for peer in peers:
            if (why := peer.missing()) is not None:
                left_out[peer.name] = why
                say(f"  {peer.name} is left out: {why}")
                continue
            try:
                servers[peer.name] = stack.enter_context(peer.serve())
            except (LoadError, OSError) as error:
                left_out[peer.name] = f"it failed to start: {error}"
                say(f"  {peer.name} is left out: {left_out[peer.name]}")
        for round_ in range(rounds):
            for name, server in list(servers.items()):
                say(f"  round {round_ + 1} of {rounds}: {name}")
                try:
                    found.setdefault(name, []).append(one_round(server, seconds))
                except (LoadError, OSError) as error:
                    # The others are still worth the time that they took.
                    left_out[name] = f"it failed in round {round_ + 1}: {error}"
                    say(f"  {name} is left out: {left_out[name]}")
                    found.pop(name)
                    del servers[name]
    return found, left_out


def versions() -> dict[str, str]:
    """Return what was measured, as far as Python knows it."""
    known = {"python": platform.python_version(), "machine": f"{os.cpu_count()} processors"}
    for package in ("twinline", "websockets", "rpyc", "grpcio"):
        if find_spec(package.replace("grpcio", "grpc")):
            known[package] = version(package)
    return known


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [peer.name for peer in PEERS]
    parser.add_argument(
        "--only",
        choices=names,
        action="append",
        metavar="NAME",
        help=f"repeatable; one of {', '.join(names)}",
    )
    parser.add_argument("--rounds", type=int, default=5, help="[default: 5]")
    parser.add_argument(
        "--seconds", type=float, default=2, help="of each measurement  [default: 2]"
    )
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--json", action="store_true", help="every round, instead of the table")
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.rounds, chosen.seconds = 1, 0.5
    if chosen.rounds < 1 or chosen.seconds <= 0:
        parser.error("a run takes a round and some time")
    return chosen


def main() -> int:
    """Measure what was asked for, and print a table."""
    chosen = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    peers = [peer for peer in PEERS if not chosen.only or peer.name in chosen.only]
    try:
        found, left_out = run(peers, chosen.rounds, chosen.seconds)
    except KeyboardInterrupt:
        return 130
    failed = [name for name, why in left_out.items() if why.startswith("it failed")]
    if chosen.json:
        rounds = {name: [asdict(each) for each in figures] for name, figures in found.items()}
        print(json.dumps({"versions": versions(), "left_out": left_out, "rounds": rounds}))
        return bool(failed)
    print(", ".join(f"{name} {found_}" for name, found_ in versions().items()))
    print(f"medians of {chosen.rounds} rounds, {chosen.seconds:g} s a measurement\n")
    print(table(found, {peer.name: peer.acknowledged for peer in PEERS}, TWINLINE[0], FLOOR))
    for name, why in left_out.items():
        print(f"{name} is left out: {why}")
    python = [peer.name for peer in PEERS if peer.python]
    print("Against the best Python peer:")
    print(*verdicts(found, TWINLINE, python), sep="\n")
    print("Against the best that promises the same:")
    print(*verdicts(found, TWINLINE, [name for name in python if "acked" in name]), sep="\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
