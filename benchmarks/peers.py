"""Puts twinline beside what a Python user would pick instead, with the same work, in one run.

    pip install -e '.[bench]'                # websockets, rpyc, grpcio, uvloop, orjson
    python benchmarks/peers.py               # about half an hour
    python benchmarks/peers.py --quick       # a look
    python benchmarks/peers.py --only twinline-jsonl --only websockets
    python benchmarks/peers.py --against ../old/bin/python --idle-users 500

mosquitto, nats-server and redis-server take part where they are installed
(`apt-get install mosquitto nats-server redis-server`).

The work: a sender sends a message of 54 bytes, addressed to a recipient; the server passes it to
the recipient's watcher, which waits; the sender gets an acknowledgement. What that says differs
from one to the other, and stands in the table. Every server is a process of its own. The load is
one loop over raw sockets with frames that were encoded once; its share of a processor stands in
the column `load`. Near 1 it is the load that limits a server, whose µs are the figure then.
Servers take turns in each round, and a ratio is the median of those within a round.

A send to twinline has a ``send_id``, and a watcher watches by a stream that it renews, which also
acknowledges: as a client does it. What a second table has of twinline alone is the same without a
``send_id`` and by blocked watches, one pair with 32 messages under way, a lone ping beside 64
senders, and what clients hand to an application.

twinline and the floor keep their threads on one processor. The Python peers run as their
documentation has it, and a second time in the same way as twinline, as `...-pinned`. Those with
threads are what twinline's targets are about; the event loop on uvloop is the best that a Python
user can write.

With ``--against`` another installation of twinline takes part, as `against-...`: one from before
a change, say. Its watchers are blocked, for it may know no streams. With ``--idle-users`` the
memory of an idle user is measured after the rounds: of two connections, one with an open stream.
"""

# A script: it prints, and starts what it measures.
# ruff: noqa: T201

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from typing import Any

import peer_brokers
import peer_twinline
from peer_contract import Peer, Server
from peer_rounds import one_round
from peer_table import (
    ALONE,
    BEFORE,
    LOOP,
    LOOP_BROKER,
    LOOP_SQLITE,
    LOOP_THREADED,
    SQLITE,
    THREADED,
    Figures,
    Rounds,
    Wanted,
    table,
    values,
    verdicts,
)

from twinline.cli.bench.figures import IDLE_BYTES, Part
from twinline.cli.bench.idle import room_for_users
from twinline.cli.bench.plan import Place, Plan, Run
from twinline.cli.bench.sockets import LoadError
from twinline.cli.bench.target import ServerProcess, server_process
from twinline.cli.console.progress import Progress
from twinline.core.errors import TwinlineError
from twinline.transports.registry import transport

FLOOR = "floor"
TRANSPORTS = ("jsonl", "binary")
TWINLINE = tuple(f"twinline-{name}" for name in TRANSPORTS)
ON_LOOP = tuple(f"{name}-loop" for name in TWINLINE)
ON_SQLITE = "twinline-jsonl-sqlite"
LOOP_ON_SQLITE = "twinline-jsonl-loop-sqlite"
_IDLE_SECONDS = 0.5
AGAINST = tuple(f"against-{name}" for name in TRANSPORTS)


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


# --- who takes part


def _python_peer(
    name: str, script: str, packages: tuple[str, ...], acknowledged: str, *flags: str
) -> Peer:
    def serve() -> AbstractContextManager[Server]:
        served: AbstractContextManager[Server] = import_module(f"peer_{script}").serve(*flags)
        return served

    def missing() -> str | None:
        absent = [each for each in packages if not find_spec(each.replace("grpcio", "grpc"))]
        words = " and ".join(absent)
        verb = "are" if len(absent) > 1 else "is"
        return f"{words} {verb} not installed: pip install {' '.join(absent)}" if absent else None

    return Peer(name, acknowledged, serve, python=True, missing=missing)


def _python_peers() -> list[Peer]:
    routed = "the router has passed it on, and forgets it"
    kept = "the router (in memory) has it until the watcher acknowledged it"
    loop = ("uvloop", "orjson")
    peers = []
    for suffix, flags in (("", ()), ("-pinned", ("--one-processor",))):
        peers += [
            _python_peer(f"{name}{suffix}", script, packages, acknowledged, *more, *flags)
            for name, script, packages, acknowledged, more in (
                ("websockets", "websockets", ("websockets",), routed, ()),
                ("websockets-acked", "websockets", ("websockets",), kept, ("--acked",)),
                ("rpyc", "rpyc", ("rpyc",), routed, ()),
                ("grpc", "grpc", ("grpcio",), routed, ()),
                ("uvloop", "uvloop", loop, routed, ()),
                ("uvloop-acked", "uvloop", loop, kept, ("--acked",)),
            )
        ]
    return peers


_STORED = "the store ({}) has it until it is acked"


def _twinline(name: str, spoken: str, **options: Any) -> Peer:
    where = "a file, synced" if options.get("store") == "sqlite:" else "in memory"
    return Peer(name, _STORED.format(where), peer_twinline.serve_twinline(spoken, **options))


PEERS = [
    Peer(FLOOR, "nothing: bytes are echoed or relayed", peer_twinline.serve_floor),
    Peer(
        "floor-direct",
        "nothing: the sender's thread writes to the watcher",
        partial(peer_twinline.serve_floor, direct=True),
    ),
    *(_twinline(name, spoken) for name, spoken in zip(TWINLINE, TRANSPORTS, strict=True)),
    *(
        _twinline(name, spoken, listener="loop")
        for name, spoken in zip(ON_LOOP, TRANSPORTS, strict=True)
    ),
    _twinline(ON_SQLITE, "jsonl", store="sqlite:"),
    _twinline(LOOP_ON_SQLITE, "jsonl", store="sqlite:", listener="loop"),
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


# --- a run


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
                except (LoadError, TwinlineError, OSError) as error:
                    # The others are still worth the time that they took.
                    left_out[name] = f"it failed in round {round_ + 1}: {error}"
                    say(f"  {name} is left out: {left_out[name]}")
                    found.pop(name)
                    del servers[name]
    return found, left_out


def idle_users(wanted: int, against: str | None) -> list[str]:
    """Return a line for each store: the memory of an idle user, whose watch is an open stream."""
    stores = ("memory:", "sqlite:")
    lines = []
    with tempfile.TemporaryDirectory(prefix="twinline-peers-") as folder:
        places = []
        served: list[tuple[str | None, str]] = [(None, kind) for kind in ("threads", "loop")]
        if against:
            served.append((against, "threads"))
        for number, ((python, kind), store) in enumerate(product(served, stores)):
            url = f"{store}{folder}/{number}.db" if store == "sqlite:" else store
            name = f"{'against, ' if python else ''}{store}"
            serve = partial(_serve, url, kind, python)
            places.append(Place(name, serve, keeps=False, listener=kind))
        plan = Plan(
            frozenset({Part.IDLE}), tuple(places), (transport("jsonl"),), 1, _IDLE_SECONDS, wanted
        )
        room = room_for_users(wanted, plan.descriptors)
        if room < wanted:
            return [f"  there are descriptors for {room:,} idle users only (ulimit -n)"]
        run_ = Run(plan, Progress())
        run_.measure()
    for place in places:
        for value in run_.book.values(place.who(transport("jsonl")), IDLE_BYTES):
            words = f"{place.name} {place.listener}, memory of an idle user"
            most = 20 if place.listener == "loop" else 64
            lines.append(f"  {words:<44} {value / 1024:.1f} KiB  (wanted: <= {most})")
    return lines


def _serve(
    url: str, listener: str, python: str | None, connections: int
) -> AbstractContextManager[ServerProcess]:
    return server_process(url, max(10_000, connections), listener=listener, python=python)


def versions() -> dict[str, str]:
    """Return what was measured, as far as Python knows it."""
    known = {"python": platform.python_version(), "machine": f"{os.cpu_count()} processors"}
    for package in ("twinline", "websockets", "rpyc", "grpcio", "uvloop", "orjson"):
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
    parser.add_argument("--against", metavar="PYTHON", help="an interpreter with another twinline")
    parser.add_argument(
        "--idle-users", type=int, default=0, help="whose memory is measured  [default: 0]"
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
    if chosen.idle_users < 0:
        parser.error("--idle-users is 0 or more")
    return chosen


def taking_part(only: list[str] | None, against: str | None) -> list[Peer]:
    """Return who is asked for; another installation always is where it is named."""
    peers = [peer for peer in PEERS if not only or peer.name in only]
    if against is not None:
        others = [
            _twinline(name, spoken, python=against, streams=False)
            for name, spoken in zip(AGAINST, TRANSPORTS, strict=True)
        ]
        # Beside those that they are compared with: a machine changes its pace.
        at = 1 + max((at for at, peer in enumerate(peers) if peer.name in TWINLINE), default=-1)
        peers[at:at] = others
    return peers


def standing(found: Rounds) -> list[str]:
    """Return the lines that say how twinline stands: heads, and figures under them."""
    python = [peer.name for peer in PEERS if peer.python]
    loops = [name for name in python if name.startswith("uvloop")]
    threaded = [name for name in python if name not in loops]
    before = dict(zip(TWINLINE, AGAINST, strict=True))
    lines = []
    for name in TWINLINE:
        groups = {
            "against the best Python peer with threads": (threaded, THREADED),
            "against the best of those that promises the same": (_acked(threaded), THREADED),
            "against an event loop on uvloop": (loops, THREADED),
            "against one that promises the same": (_acked(loops), THREADED),
            "against the other installation": ([before[name]], BEFORE),
        }
        for head, (others, wanted) in groups.items():
            if found_lines := verdicts(found, name, others, wanted):
                lines += [f"{name} {head}:", *found_lines]
        if found_lines := values(found, name, ALONE):
            lines += [f"{name}:", *found_lines]
    for name, most in zip(ON_LOOP, (9, 8), strict=True):
        groups = {
            "against one on uvloop that promises the same": (_acked(loops), LOOP),
            "against the best Python peer with threads": (threaded, LOOP_THREADED),
            "against a broker": (["nats"], LOOP_BROKER),
        }
        for head, (others, wanted) in groups.items():
            if found_lines := verdicts(found, name, others, wanted):
                lines += [f"{name} {head}:", *found_lines]
        pipelined = Wanted("µs a pipelined send, 8 x 32", lambda of: of.pipelined_cost, most=most)
        if found_lines := values(found, name, (pipelined,)):
            lines += [f"{name}:", *found_lines]
    if found_lines := verdicts(found, LOOP_ON_SQLITE, [ON_SQLITE], LOOP_SQLITE):
        lines += ["The event loop on SQLite:", *found_lines]
    if found_lines := verdicts(found, ON_SQLITE, TWINLINE[:1], SQLITE):
        lines += ["On SQLite:", *found_lines]
    return lines


def _acked(names: list[str]) -> list[str]:
    return [name for name in names if "acked" in name]


def main() -> int:
    """Measure what was asked for, and print a table."""
    chosen = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    peers = taking_part(chosen.only, chosen.against)
    try:
        found, left_out = run(peers, chosen.rounds, chosen.seconds)
        idle = idle_users(chosen.idle_users, chosen.against) if chosen.idle_users else []
    except KeyboardInterrupt:
        return 130
    failed = [name for name, why in left_out.items() if why.startswith("it failed")]
    if chosen.json:
        rounds = {name: [asdict(each) for each in figures] for name, figures in found.items()}
        said = {"versions": versions(), "left_out": left_out, "rounds": rounds, "idle": idle}
        print(json.dumps(said))
        return bool(failed)
    print(", ".join(f"{name} {found_}" for name, found_ in versions().items()))
    print(f"medians of {chosen.rounds} rounds, {chosen.seconds:g} s a measurement\n")
    print(table(found, {peer.name: peer.acknowledged for peer in peers}, TWINLINE[0], FLOOR))
    for name, why in left_out.items():
        print(f"{name} is left out: {why}")
    print(
        *standing(found), *([f"{chosen.idle_users:,} idle users:", *idle] if idle else []), sep="\n"
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
