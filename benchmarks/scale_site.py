"""What `scale.py`, `wires.py` and `receipts.py` share: filled servers, connections, tables."""

# ruff: noqa: T201 - a script prints

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

import scale_store

from twinline.cli.bench.accounts import Accounts, Member
from twinline.cli.bench.load import Caller, LoadError, one_at_a_time, percentile
from twinline.cli.bench.subjects import ServerSubject
from twinline.cli.bench.target import ServerProcess, server_process
from twinline.cli.bench.wire import Wire
from twinline.core.protocol import Resume, SessionReply
from twinline.transports.registry import transport

WIRE: Final = transport("jsonl")
CONNECTIONS: Final = 16
_TAKEN: Final = {"threads": 10_000, "loop": 20_000}
"""Connections that a server takes, by its listener."""
_SPREAD: Final = 1_024  # recipients: more than fit in a processor's nearest caches


@dataclass(frozen=True, slots=True)
class Cost:
    """What sends cost in one round: sends a second, and the server's processor µs for one."""

    rate: float
    microseconds: float


class Site:
    """A server with so many accounts, and what is connected to it.

    Attributes:
        target: the server.
        accounts: how many it has.
    """

    def __init__(self, target: ServerProcess, accounts: int) -> None:
        self.target = target
        self.accounts = accounts
        self._members = Accounts(target.endpoint, WIRE)
        self._subjects: list[ServerSubject] = []

    def member(self, number: int) -> Member:
        """Return an account that has a session, by its number."""
        return Member(scale_store.username(number), scale_store.token(number))

    def callers(self, connections: int = CONNECTIONS) -> list[Caller]:
        """Return connections that send to accounts all over the store."""
        step = max(1, (self.accounts - 1) // _SPREAD)
        return self.callers_to(range(1, self.accounts, step)[:_SPREAD], connections)

    def callers_to(self, numbers: range, connections: int = CONNECTIONS) -> list[Caller]:
        """Return connections that send to these accounts."""
        subject = self._subject(numbers)
        subject.open(connections, 0)
        return subject.callers(connections)

    def lone(self) -> Caller:
        """Return a connection that pings."""
        return self._subject(range(1)).lone()

    def _subject(self, numbers: range) -> ServerSubject:
        subject = ServerSubject(self.target, WIRE, self._members)
        self._subjects.append(subject)
        subject.take_accounts(self.member(0), [self.member(number) for number in numbers])
        return subject

    def empty(self, numbers: range) -> None:
        """Let these accounts acknowledge all their mail."""
        self._members.acknowledge([self.member(number) for number in numbers])

    def wire(self) -> Wire:
        """Return another connection that is logged in."""
        wire = Wire(self.target.endpoint, WIRE)
        wire.ask(Resume(session=self.member(0).token), SessionReply)
        return wire

    def close(self) -> None:
        """Close the connections of the callers."""
        for subject in self._subjects:
            subject.close()

    def cost(self, callers: list[Caller], seconds: float) -> Cost:
        """Send for so long."""
        before = self._processor_seconds()
        sample = one_at_a_time(callers, seconds)
        used = self._processor_seconds() - before
        return Cost(sample.rate, 1e6 * used / sample.operations)

    def _processor_seconds(self) -> float:
        seconds = self.target.processor_seconds()
        if seconds is None:
            raise LoadError("this system does not tell what another process uses")
        return seconds


class Sites:
    """The sites of a run; each is filled once, when it is asked for first."""

    def __init__(self, listener: str, say: Callable[[str], None]) -> None:
        self._listener = listener
        self._say = say
        self._open = ExitStack()
        self._sites: dict[tuple[int, int], Site] = {}

    def __enter__(self) -> Self:
        self._open.enter_context(plugged_in())
        return self

    def __exit__(self, *_exception: object) -> None:
        self._open.close()

    def site(self, accounts: int, queued: int = 0) -> Site:
        """Return the server with so many accounts, and mail in the mailboxes of some."""
        if (accounts, queued) not in self._sites:
            self._say(f"  filling {accounts:,} accounts, {queued:,} messages queued")
            began = time.monotonic()
            store = f"filled:accounts={accounts},queued={queued}"
            served = server_process(store, _TAKEN[self._listener], listener=self._listener)
            site = Site(self._open.enter_context(served), accounts)
            self._open.callback(site.close)
            self._sites[accounts, queued] = site
            self._say(f"  ... in {time.monotonic() - began:.0f} s")
        return self._sites[accounts, queued]


@contextmanager
def plugged_in() -> Iterator[None]:
    """Install `scale_store` for the processes that are started meanwhile, as a package would."""
    with tempfile.TemporaryDirectory(prefix="twinline-scale-") as name:
        about = Path(name, "scale_store-0.dist-info")
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: scale-store\nVersion: 0\n")
        (about / "entry_points.txt").write_text(
            "[twinline.stores]\nfilled = scale_store:open_filled\n"
        )
        Path(name, "scale_store.py").symlink_to(scale_store.__file__)
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (name, before)))
        try:
            yield
        finally:
            del os.environ["PYTHONPATH"]
            if before is not None:
                os.environ["PYTHONPATH"] = before


@dataclass(frozen=True, slots=True)
class Spread:
    """How long something took, in ms."""

    p50: float
    p99: float
    longest: float

    @property
    def text(self) -> str:
        """The three for a table."""
        return f"{self.p50:.2f}, {self.p99:.2f}, {self.longest:.1f} ms"

    @property
    def figures(self) -> dict[str, object]:
        """The three for JSON."""
        return {f"{name}_ms": value for name, value in asdict(self).items()}


def in_ms(seconds: list[float]) -> Spread:
    """Return the spread of times, which are in seconds and in no order."""
    ordered = sorted(seconds)
    return Spread(1e3 * percentile(ordered, 50), 1e3 * percentile(ordered, 99), 1e3 * ordered[-1])


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    Attributes:
        what: was measured.
        found: for a person.
        wanted: what is to be reached, "" where there is nothing to reach.
        figures: for JSON.
    """

    what: str
    found: str
    wanted: str
    figures: dict[str, object]


def print_tables(
    tables: Mapping[str, Sequence[Row]], *, as_json: bool, also: Mapping[str, str] | None = None
) -> None:
    """Print what was measured at each listener.

    Args:
        tables: the rows, by the listener's name.
        as_json: every figure, and the machine, for a program.
        also: what else belongs to the machine.
    """
    if as_json:
        machine = {
            "python": platform.python_version(),
            **(also or {}),
            "system": platform.platform(),
            "cores": os.cpu_count(),
        }
        rows = [
            {"listener": name, **asdict(row)} for name, found in tables.items() for row in found
        ]
        print(json.dumps({"machine": machine, "rows": rows}, indent=2))
        return
    width = max(len(row.what) for rows in tables.values() for row in rows)
    for name, found in tables.items():
        print(f"{name}:")
        for row in found:
            wanted = f"   (wanted: {row.wanted})" if row.wanted else ""
            print(f"  {row.what:{width}}  {row.found}{wanted}")
