"""Two servers of one state on a real engine, for the crash tests, and when what they did came."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from crash_server import CrashServer, WarmStart
from postgres_engine import PostgresEngine
from valkey_engine import ValkeyEngine, free_port

from twinline.stores.conformance.history import Event, Op, Outcome

ENGINES = ("postgresql", "valkey")
Engine = PostgresEngine | ValkeyEngine
Nodes = tuple[CrashServer, CrashServer]
_LISTENERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE query LIKE '%pg_notif%' AND pid <> pg_backend_pid()"""


def engine_of(request: pytest.FixtureRequest) -> tuple[Engine, str]:
    """Start the engine that a test is given as parameter; return it and the URL of a store."""
    if request.param == "valkey":
        valkey: ValkeyEngine = request.getfixturevalue("start_valkey")()
        return valkey, valkey.url()
    postgres: PostgresEngine = request.getfixturevalue("start_postgres")()
    return postgres, postgres.new_store_url()


@contextmanager
def nodes_at(
    folder: Path, *urls: str, fault: str = "", log_level: str = "error"
) -> Iterator[tuple[CrashServer, ...]]:
    """Start a server for each URL, all of which name one state.

    Args:
        folder: for their logs.
        urls: of their store.
        fault: what each of them does wrong (`crash_faults`).
        log_level: from which on they log.
    """
    with ExitStack() as opened:
        warm = opened.enter_context(WarmStart(fault))
        servers = []
        for number, url in enumerate(urls):
            place = folder / f"node{number}"
            place.mkdir()
            # Its port is none that Linux would give to a connection while it is down.
            server = CrashServer(place, store=url, port=free_port(), warm=warm, log_level=log_level)
            servers.append(opened.enter_context(server))
            server.start_warm()
        yield tuple(servers)
        for server in servers:
            assert "Traceback" not in server.log, server.log


def kill_one(servers: Nodes, chance: random.Random) -> None:
    """Kill one of them, and start it again."""
    victim = chance.choice(servers)
    victim.kill()
    victim.start_warm()


def cut_listeners(engine: Engine) -> int:
    """Kill the connections that notices come by; return how many there were."""
    if isinstance(engine, ValkeyEngine):
        return int(engine.command("CLIENT", "KILL", "TYPE", "pubsub"))
    return len(engine.sql(_LISTENERS))


@dataclass
class Times:
    """When messages were acknowledged, and when received: a sink of events.

    Attributes:
        begun: when the last attempt to send each began.
        acknowledged: when it was acknowledged.
        received: when it was received for the first time.
    """

    begun: dict[str, float] = field(default_factory=dict)
    acknowledged: dict[str, float] = field(default_factory=dict)
    received: dict[str, float] = field(default_factory=dict)

    def feed(self, event: Event) -> None:
        """Take the next event."""
        if event.message is None:
            return
        if event.op is Op.SEND and event.outcome is Outcome.INVOKE:
            self.begun[event.message] = event.at
        elif event.op is Op.SEND and event.outcome is Outcome.OK:
            self.acknowledged[event.message] = event.at
        elif event.op is Op.RECEIVE:
            self.received.setdefault(event.message, event.at)

    @property
    def slowest(self) -> float:
        """The most seconds from an acknowledgement to the receipt, of what was received."""
        return max(
            at - self.acknowledged[message]
            for message, at in self.received.items()
            if message in self.acknowledged
        )

    def first_after(self, moment: float) -> float:
        """Return when the first attempt that began after a moment was acknowledged."""
        return min(at for message, at in self.acknowledged.items() if self.begun[message] > moment)
