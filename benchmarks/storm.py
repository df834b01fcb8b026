"""Simulates a reconnect storm: servers are gone for a moment, and all their clients come back.

    pip install -e '.[plot]'                     # numpy, which this needs, and matplotlib
    python benchmarks/storm.py                   # a million clients, 250 servers: half a minute
    python benchmarks/storm.py --clients 20000   # a look
    python benchmarks/storm.py --plot storm.svg

Nothing is measured and no server runs. Compared is how clients spread their attempts and how
servers admit them; what the servers can do is given:

- A server resumes ``rate / nodes`` clients a second, in the order in which they came. One that has
  waited for longer than a client's patience has been left by it, and is resumed in vain.
- With bounded admission a server takes no more than it can serve in two seconds. The others are
  told ``busy`` and when to come back, which costs the server a part of what a resume does.
- A client tries another server each time, drawn at random. Its first attempt is made at once, the
  next ones after the waits of a backoff, 1, 2, 4 ... 30 s, varied by a jitter.
- A server that ends in order may tell its clients when to come back, each another time.

Time is cut into slices of 20 ms; within one, the attempts are dealt with in order. The same options
and the same numpy give the same figures.
"""

# ruff: noqa: T201 - a script prints

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLICE: Final = 0.02
"""Seconds: short beside every wait, and a few resumes of one server."""
FIRST: Final = 1.0
"""Seconds of a backoff's first wait, as `transports/client/settings.py` has it."""
LONGEST: Final = 30.0
"""And of its longest."""
ASKED: Final = 0.5
"""The part of its first wait that a client adds at random to what a server asks for, at most."""
TURN_SPREAD: Final = (0.5, 1.5)
"""By this a server varies the time until a turn, so that they do not come back together."""
ADMITTED_SECONDS: Final = 2.0
"""The work that a server with bounded admission lets wait."""
TOO_LONG: Final = 2.0
"""By so much a queue that is too long outlasts the clients' patience."""
SLACK: Final = 1.2
"""A spread is longer than the work by this, for times that are random are not even."""
GIVES_UP: Final = 400.0
"""Seconds after which a simulation ends, whoever is missing."""
PERCENTS: Final = (50, 90, 99, 100)
# Okabe and Ito's colours, which most colour-blind people can tell apart.
_COLOURS: Final = ("#d55e00", "#e69f00", "#cc79a7", "#56b4e9", "#009e73", "#0072b2")
_STYLES: Final = ("-", "--", ":", "-.", "-", "--")
_POINTS: Final = 200
"""Of a curve: a finer one looks the same and makes a large file."""


class Jitter(Enum):
    """How a wait of the backoff is varied: it is multiplied by a number of this range."""

    TWENTY = (0.8, 1.2)
    FULL = (0.0, 1.0)
    EQUAL = (0.5, 1.0)


class Queue(Enum):
    """How many clients a server lets wait."""

    ANY = "without bound"
    LONG = "longer than patience"
    BOUNDED = "bounded admission"


class Busy(Enum):
    """What a server tells those whom it does not admit, and what they make of it."""

    RANDOM = "a random time"
    """From 1 s to `Storm.busy_seconds`. The client adds up to half a second at random, its backoff
    goes on, and the longer wait counts."""
    TURN = "a turn"
    """When it will have served those who are admitted or have a turn before, give or take half, as
    `core/admission.py` says it. The client does as above."""
    KEPT_TURN = "a turn, which is kept to"
    """To the moment, in the place of the backoff's wait; the backoff begins again."""


@dataclass(frozen=True, slots=True)
class Storm:
    """What every strategy meets.

    Attributes:
        clients: that are connected before, evenly over the servers.
        nodes: the servers.
        rate: clients that all servers together resume in a second.
        gone: servers that restart, all at the same moment.
        outage: seconds for which they are away.
        patience: seconds after which a client gives up an attempt.
        refusal: what refusing a client costs, as a part of what resuming one does.
        busy_seconds: the longest random time that a refused client is told.
        seed: of the random numbers.
    """

    clients: int
    nodes: int
    rate: float
    gone: int
    outage: float
    patience: float
    refusal: float
    busy_seconds: float
    seed: int

    @property
    def lost(self) -> int:
        """Clients whose server is gone."""
        return self.clients * self.gone // self.nodes


@dataclass(frozen=True, slots=True)
class Strategy:
    """What clients and servers do.

    Attributes:
        jitter: of the clients.
        queue: of the servers.
        busy: what they tell those whom they do not admit.
        told: whether a server that ends tells its clients when to come back.
    """

    jitter: Jitter
    queue: Queue
    busy: Busy = Busy.RANDOM
    told: bool = False

    @property
    def name(self) -> str:
        """All of it, for the table."""
        jitter = {Jitter.TWENTY: "±20 %", Jitter.FULL: "full", Jitter.EQUAL: "equal"}[self.jitter]
        parts = [jitter, f"queues {self.queue.value}"]
        if self.queue is Queue.BOUNDED:
            parts[1:] = [self.queue.value, self.busy.value]
        if self.told:
            parts.append("told at the end")
        return ", ".join(parts)


STRATEGIES: Final = (
    Strategy(Jitter.TWENTY, Queue.ANY),
    Strategy(Jitter.FULL, Queue.ANY),
    Strategy(Jitter.EQUAL, Queue.ANY),
    Strategy(Jitter.TWENTY, Queue.LONG),
    Strategy(Jitter.EQUAL, Queue.LONG),
    Strategy(Jitter.TWENTY, Queue.BOUNDED),
    Strategy(Jitter.FULL, Queue.BOUNDED),
    Strategy(Jitter.EQUAL, Queue.BOUNDED),
    Strategy(Jitter.EQUAL, Queue.BOUNDED, Busy.TURN),
    Strategy(Jitter.EQUAL, Queue.BOUNDED, Busy.KEPT_TURN),
    Strategy(Jitter.EQUAL, Queue.BOUNDED, Busy.KEPT_TURN, told=True),
)
DRAWN: Final = tuple(STRATEGIES[number] for number in (0, 1, 5, 7, 9, 10))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a strategy.

    Attributes:
        back_at: the seconds after the break at which each client was back, in order.
        clients: that were to come back.
        attempts: connections that were tried, the first ones to a server that is away too.
        refused: by `busy`.
        unreachable: attempts that met a server that was away.
        in_vain: resumes that a server carried out for a client that had given up.
    """

    back_at: "NDArray[np.float64]"
    clients: int
    attempts: int
    refused: int
    unreachable: int
    in_vain: int

    def until(self, percent: float) -> float | None:
        """Return the seconds until so many of the clients are back, None if they never are."""
        wanted = int(np.ceil(self.clients * percent / 100))
        return float(self.back_at[wanted - 1]) if len(self.back_at) >= wanted else None


class _Clients:
    """When each client makes its next attempt, and how long it waits after that.

    They are kept by the second in which that is, so that few are looked at in each slice.

    Attributes:
        at: seconds since the break, of each client's next attempt.
        wait: the next wait of its backoff, before jitter.
    """

    def __init__(
        self, at: "NDArray[np.float64]", jitter: Jitter, random: np.random.Generator
    ) -> None:
        self.at = at
        self.wait = np.full(len(at), FIRST)
        self._jitter = jitter
        self._random = random
        self._by_second: defaultdict[int, list[NDArray[np.int64]]] = defaultdict(list)
        self._unsorted = [np.arange(len(at))]

    def back_off(self, clients: "NDArray[np.int64]", failed_at: "NDArray[np.float64]") -> None:
        """Let these try again after the waits of their backoff."""
        low, high = self._jitter.value
        waits = self.wait[clients] * self._random.uniform(low, high, len(clients))
        self.wait[clients] = np.minimum(2 * self.wait[clients], LONGEST)
        self.at[clients] = failed_at + np.maximum(waits, SLICE)
        self._unsorted.append(clients)

    def slices(self) -> Iterator[tuple[float, "NDArray[np.int64]"]]:
        """Return the beginnings of the slices in which somebody tries, and who does."""
        self._sort()
        while self._by_second:
            second = min(self._by_second)
            waiting = np.concatenate(self._by_second.pop(second))
            for number in range(round(1 / SLICE)):
                begin = second + number * SLICE
                due = self.at[waiting] < begin + SLICE
                if due.any():
                    yield begin, waiting[due]
                    self._sort()
                    # Some may come again within this second.
                    waiting = np.concatenate([waiting[~due], *self._by_second.pop(second, [])])
            if len(waiting):  # of the last slice, which sums of floats end a little early
                self._by_second[second + 1].append(waiting)

    def _sort(self) -> None:
        clients = np.concatenate(self._unsorted)
        self._unsorted = [clients[:0]]
        seconds = self.at[clients].astype(np.int16)  # which are sorted fastest
        order = np.argsort(seconds, kind="stable")
        clients, seconds = clients[order], seconds[order]
        for second, begin, number in zip(
            *np.unique(seconds, return_index=True, return_counts=True), strict=True
        ):
            self._by_second[int(second)].append(clients[begin : begin + number])


class _Servers:
    """What each server has admitted, and told turns for.

    Attributes:
        free_at: when each has done what it has admitted.
    """

    def __init__(self, storm: Storm, queue: Queue) -> None:
        self._seconds_each = storm.nodes / storm.rate
        self._refusal = storm.refusal
        self._room = {
            Queue.ANY: np.inf,
            Queue.LONG: TOO_LONG * storm.patience,
            Queue.BOUNDED: ADMITTED_SECONDS,
        }[queue]
        self.free_at = np.zeros(storm.nodes)
        self.free_at[: storm.gone] = storm.outage
        self._booked_until = self.free_at.copy()

    def admit(
        self, begin: float, servers: "NDArray[np.int64]"
    ) -> tuple["NDArray[np.bool_]", "NDArray[np.float64]"]:
        """Deal with the attempts of a slice.

        Args:
            begin: of the slice.
            servers: of each attempt, in order; those at one server in the order in which they came.

        Returns:
            Whether each is admitted, and when it is resumed, or has its turn to come again.
        """
        each, refusal = self._seconds_each, self._refusal
        number = np.bincount(servers, minlength=len(self.free_at))
        place = np.arange(len(servers)) - np.repeat(np.cumsum(number) - number, number)
        begins = np.maximum(self.free_at, begin)
        places = np.maximum(np.floor((self._room + begin - begins) / each), 0)
        taken = np.minimum(number, places)
        work = each * (taken + refusal * (number - taken))
        self.free_at = np.where(number > 0, begins + work, self.free_at)
        booked_until = np.maximum(self._booked_until, self.free_at)
        self._booked_until = booked_until + each * (number - taken)
        admitted = place < places[servers]
        done = begins[servers] + each * (place + 1)
        with np.errstate(invalid="ignore"):  # of a queue without bound, which refuses nobody
            turns = booked_until[servers] + each * (place - places[servers] + 1)
        return admitted, np.where(admitted, done, turns)


def simulate(storm: Storm, strategy: Strategy) -> Outcome:
    """Let the servers go and come back, and return what their clients met."""
    random = np.random.default_rng(storm.seed)
    lost = storm.lost
    left = storm.nodes - storm.gone
    others = 0  # the first server that a client tries at first
    at = np.zeros(lost)
    if strategy.told:
        # Those who are left serve them at once, and are named; without any, after the restart.
        spread = SLACK * lost / storm.rate * storm.nodes / (left or storm.nodes)
        at = (0 if left else storm.outage) + spread * random.random(lost)
        others = storm.gone if left else 0
    all_clients = _Clients(at, strategy.jitter, random)
    all_servers = _Servers(storm, strategy.queue)
    back_at = [np.empty(0)]
    attempts = refused = unreachable = in_vain = 0
    for begin, trying in all_clients.slices():
        if begin > GIVES_UP:
            break
        attempts += len(trying)
        first = np.where(all_clients.wait[trying] == FIRST, others, 0)
        servers = random.integers(first, storm.nodes)
        away = (servers < storm.gone) & (at[trying] < storm.outage)
        unreachable += int(away.sum())
        all_clients.back_off(trying[away], at[trying[away]])

        clients, servers = trying[~away], servers[~away]
        order = np.argsort(servers + (at[clients] - begin) / (2 * SLICE))
        clients, servers = clients[order], servers[order]
        admitted, when = all_servers.admit(begin, servers)

        inside = clients[admitted]
        done = np.maximum(when[admitted], at[inside])
        in_time = done - at[inside] <= storm.patience
        back_at.append(done[in_time])
        gave_up = inside[~in_time]
        in_vain += len(gave_up)
        all_clients.back_off(gave_up, at[gave_up] + storm.patience)

        outside, told = clients[~admitted], when[~admitted]
        refused += len(outside)
        since = at[outside]
        if strategy.busy is Busy.RANDOM:
            told = since + random.uniform(1, storm.busy_seconds, len(outside))
        all_clients.back_off(outside, since)
        if strategy.busy is Busy.KEPT_TURN:
            at[outside] = told
            all_clients.wait[outside] = FIRST
        else:
            if strategy.busy is Busy.TURN:
                told = since + (told - since) * random.uniform(*TURN_SPREAD, len(outside))
            later = np.minimum(told - since, FIRST) * random.uniform(0, ASKED, len(outside))
            at[outside] = np.maximum(at[outside], told + later)
    return Outcome(np.sort(np.concatenate(back_at)), lost, attempts, refused, unreachable, in_vain)


def table(storms: Sequence[Storm], outcomes: Sequence[dict[str, Outcome]]) -> str:
    """Return what came of each strategy, for a person."""
    width = max(len(name) for found in outcomes for name in found)
    lines = []
    for storm, found in zip(storms, outcomes, strict=True):
        servers = "every server" if storm.gone == storm.nodes else f"{storm.gone:,}"
        lines.append(
            f"{servers} of {storm.nodes:,} away for {storm.outage:g} s; {storm.lost:,} clients, "
            f"{storm.rate:,.0f} resumes a second, patience of {storm.patience:g} s, "
            f"a refusal costs {storm.refusal:g} of a resume"
        )
        lines.append(f"  {'':{width}}  99 % back  all back  attempts  refused  in vain")
        for name, outcome in found.items():
            until = [outcome.until(percent) for percent in (99, 100)]
            seconds = ["never" if at is None else f"{at:.1f} s" for at in until]
            each = [
                f"{count / outcome.clients:.2f}"
                for count in (outcome.attempts, outcome.refused, outcome.in_vain)
            ]
            lines.append(
                f"  {name:{width}}  {seconds[0]:>9}  {seconds[1]:>8}  {each[0]:>8}  {each[1]:>7}"
                f"  {each[2]:>7}"
            )
    return "\n".join([*lines, "Attempts, refused and in vain are counted for each client."])


def figures(storms: Sequence[Storm], outcomes: Sequence[dict[str, Outcome]]) -> str:
    """Return the same for a program, as JSON."""
    rows = [
        {
            "strategy": name,
            "seconds_until": {str(percent): outcome.until(percent) for percent in PERCENTS},
            "clients": outcome.clients,
            "attempts": outcome.attempts,
            "refused": outcome.refused,
            "unreachable": outcome.unreachable,
            "in_vain": outcome.in_vain,
            "storm": asdict(storm),
        }
        for storm, found in zip(storms, outcomes, strict=True)
        for name, outcome in found.items()
    ]
    return json.dumps({"numpy": np.__version__, "rows": rows}, indent=2)


def draw(storm: Storm, outcomes: dict[str, Outcome], path: Path) -> None:
    """Draw how many are back by when.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib import rc_context  # noqa: PLC0415 - slow to import, and only this needs it
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(8, 4.6), layout="constrained", dpi=120)
    axes = figure.subplots()
    shown = [name for name in outcomes if name in {strategy.name for strategy in DRAWN}]
    for name, colour, style in zip(shown, _COLOURS, _STYLES, strict=True):
        back_at = outcomes[name].back_at
        shares = np.linspace(0, 1, _POINTS)
        values = np.quantile(back_at, shares) if len(back_at) else []
        axes.plot(
            values,
            100 * shares * len(back_at) / storm.lost,
            color=colour,
            linestyle=style,
            label=name,
        )
    axes.set_xlim(left=0)
    axes.set_ylim(0, 100)
    axes.set_xlabel(f"seconds since {storm.gone:,} of {storm.nodes:,} servers went away")
    axes.set_ylabel("clients that are back (%)")
    axes.grid(visible=True, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="lower right")
    # The same picture is the same file, and the text of an SVG stays text.
    with rc_context({"svg.hashsalt": "storm", "svg.fonttype": "none"}):
        dated = path.suffix.lower() in (".svg", ".pdf")
        name = "Date" if path.suffix.lower() == ".svg" else "CreationDate"
        figure.savefig(path, metadata={name: None} if dated else None)


def main() -> None:
    """Simulate what was asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=1_000_000, help="[default: 1,000,000]")
    parser.add_argument("--nodes", type=int, help="servers  [default: one for 4,000 clients]")
    parser.add_argument(
        "--rate", type=float, help="resumes a second, of all  [default: a 20th of the clients]"
    )
    parser.add_argument(
        "--gone", type=int, action="append", help="servers; repeatable  [default: all, and one]"
    )
    parser.add_argument("--outage", type=float, default=5, help="seconds  [default: 5]")
    parser.add_argument(
        "--patience", type=float, default=5, help="of a client, in seconds  [default: 5]"
    )
    parser.add_argument(
        "--refusal", type=float, default=0.25, help="cost, in resumes  [default: 0.25]"
    )
    parser.add_argument(
        "--busy", type=float, default=5, help="longest random time, in seconds  [default: 5]"
    )
    parser.add_argument("--seed", type=int, default=1, help="[default: 1]")
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it: .png, .svg or .pdf")
    options = parser.parse_args()
    nodes = options.nodes or max(2, round(options.clients / 4_000))
    storms = [
        Storm(
            clients=options.clients,
            nodes=nodes,
            rate=options.rate or options.clients / 20,
            gone=gone,
            outage=options.outage,
            patience=options.patience,
            refusal=options.refusal,
            busy_seconds=options.busy,
            seed=options.seed,
        )
        for gone in options.gone or (nodes, 1)
    ]
    if any(not 1 <= storm.gone <= nodes <= storm.clients for storm in storms):
        parser.error("there are at least as many clients as servers, and as many servers as go")
    outcomes = [{each.name: simulate(storm, each) for each in STRATEGIES} for storm in storms]
    print((figures if options.json else table)(storms, outcomes))
    if options.plot:
        draw(storms[0], outcomes[0], options.plot)


if __name__ == "__main__":
    main()
