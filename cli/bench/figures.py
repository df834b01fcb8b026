"""The figures of `twinline bench`: what each is, and the report that they make, as models."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median
from typing import Final

from pydantic import Field

from twinline.cli.console.shapes import Shape


class Part(StrEnum):
    """What can be measured by itself."""

    SENDS = "sends"
    LATENCY = "latency"
    DELIVERIES = "deliveries"
    POLLING = "polling"
    BYTES = "bytes"
    IDLE = "idle"


class Unit(StrEnum):
    """What a figure is counted in."""

    PER_SECOND = "1/s"
    MICROSECONDS = "us"
    MILLISECONDS = "ms"
    BYTES = "bytes"
    SHARE = "share"


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that is measured.

    Attributes:
        name: in the report, unique.
        label: in the table.
        unit: of the value.
        shown: whether the table has it.
    """

    name: str
    label: str
    unit: Unit
    shown: bool = True


@dataclass(frozen=True, slots=True)
class Load:
    """A load whose operations are counted, and beside it the time that the processors take.

    Attributes:
        one: what an operation is.
        many: several of them.
        words: how a person calls the load.
        suffix: of its figures' names, where there are several loads of the same operations.
        connections: how many send.
        window: requests under way on each.
    """

    one: str
    many: str
    words: str
    suffix: str
    connections: int
    window: int = 1

    @property
    def rate(self) -> Figure:
        """Acknowledged operations a second."""
        name = f"{self.many}_per_second{self.suffix}"
        return Figure(name, f"{self.many}/s, {self.words}", Unit.PER_SECOND)

    @property
    def server_time(self) -> Figure:
        """What the server took of a processor, an operation."""
        return self._time("server")

    @property
    def load_time(self) -> Figure:
        """What the load took of a processor, an operation."""
        return self._time("load", shown=False)

    @property
    def load_share(self) -> Figure:
        """What the load took of a processor, of the time."""
        name = f"load_share_{self.many}{self.suffix}"
        return Figure(name, f"load, {self.words}", Unit.SHARE, shown=False)

    def _time(self, side: str, *, shown: bool = True) -> Figure:
        name = f"{side}_us_per_{self.one}{self.suffix}"
        return Figure(name, f"{side} µs/{self.one}, {self.words}", Unit.MICROSECONDS, shown)


def _sends(connections: int, window: int = 1) -> Load:
    words = f"{connections} connection{'s' * (connections > 1)}"
    suffix = f"_{connections}"
    if window > 1:
        words, suffix = f"{words}, {window} under way", f"{suffix}x{window}"
    return Load("send", "sends", words, suffix, connections, window)


SEND_LOADS: Final = (_sends(1), _sends(16), _sends(64), _sends(8, 32))
PAIRS: Final = 64
DELIVERIES: Final = Load("delivery", "deliveries", f"{PAIRS} pairs", "", PAIRS)
IDLE_LOAD: Final = _sends(16)
"""What is sent while others are idle."""

LATENCY_P50: Final = Figure("delivery_p50_us", "delivery µs, p50", Unit.MICROSECONDS)
LATENCY_P99: Final = Figure("delivery_p99_us", "delivery µs, p99", Unit.MICROSECONDS)
POLLED_P50: Final = Figure("polled_p50_ms", "delivery ms, polled, p50", Unit.MILLISECONDS)
POLLED_P99: Final = Figure("polled_p99_ms", "delivery ms, polled, p99", Unit.MILLISECONDS)
SEND_REQUEST: Final = Figure("bytes_send_request", "bytes, a send", Unit.BYTES)
SEND_REPLY: Final = Figure("bytes_send_reply", "bytes, its reply", Unit.BYTES)
WATCH_REQUEST: Final = Figure("bytes_watch_request", "bytes, a watch that acks", Unit.BYTES)
WATCH_REPLY: Final = Figure("bytes_watch_reply", "bytes, the message it brings", Unit.BYTES)
IDLE_BYTES: Final = Figure("idle_user_bytes", "memory, an idle user", Unit.BYTES)
ALONE_P99: Final = Figure(
    "send_p99_us_alone", f"send µs, p99, {IDLE_LOAD.words}, nobody idle", Unit.MICROSECONDS
)
CROWDED_P99: Final = Figure(
    "send_p99_us_crowded", "  the same beside the idle users", Unit.MICROSECONDS
)
CROWDED_COST: Final = Figure("send_p99_crowded_ratio", "  the second to the first", Unit.SHARE)

FIGURES: Final[tuple[Figure, ...]] = (
    *(load.rate for load in SEND_LOADS),
    *(load.server_time for load in SEND_LOADS),
    *(load.load_time for load in SEND_LOADS),
    *(load.load_share for load in SEND_LOADS),
    LATENCY_P50,
    LATENCY_P99,
    POLLED_P50,
    POLLED_P99,
    DELIVERIES.rate,
    DELIVERIES.server_time,
    DELIVERIES.load_time,
    DELIVERIES.load_share,
    SEND_REQUEST,
    SEND_REPLY,
    WATCH_REQUEST,
    WATCH_REPLY,
    IDLE_BYTES,
    ALONE_P99,
    CROWDED_P99,
    CROWDED_COST,
)
"""All of them, in the order of the table."""


@dataclass(frozen=True, slots=True)
class Who:
    """Whose figures they are.

    Attributes:
        place: the store of a private server, or the endpoint of a deployment; "" for the floor.
        transport: that was spoken; "" for the floor.
    """

    place: str = ""
    transport: str = ""

    def __str__(self) -> str:
        return f"{self.place} {self.transport}" if self.place else "the floor"


FLOOR: Final = Who()


@dataclass(slots=True)
class Book:
    """What was measured, round by round.

    Attributes:
        rounds: each figure's values, in the order of the rounds.
        latencies: of the deliveries to blocked watchers, in seconds.
    """

    rounds: dict[tuple[Who, str], list[float]] = field(default_factory=dict)
    latencies: dict[Who, list[float]] = field(default_factory=dict)

    def add(self, who: Who, figure: Figure, value: float | None) -> None:
        """Note the value of a round; None, where it is not known, is not noted."""
        if value is not None:
            self.rounds.setdefault((who, figure.name), []).append(value)

    def values(self, who: Who, figure: Figure) -> list[float]:
        """Return the values of a figure; none if it was not measured."""
        return self.rounds.get((who, figure.name), [])

    def results(self, everybody: Iterable[Who]) -> "tuple[Result, ...]":
        """Return all figures of these, each beside the floor's."""
        return tuple(
            _result(who, figure, self.values(who, figure), self.values(FLOOR, figure))
            for who in everybody
            for figure in FIGURES
            if self.values(who, figure)
        )


def middle(values: Sequence[float]) -> float | None:
    """Return the median, or None of nothing."""
    return median(values) if values else None


def _result(who: Who, figure: Figure, values: Sequence[float], floor: Sequence[float]) -> "Result":
    # A value is compared with the floor of its own round: the machine may have been another then.
    same_round = len(values) == len(floor)
    ratios = [value / least for value, least in zip(values, floor, strict=False) if least]
    return Result(
        place=who.place,
        transport=who.transport,
        figure=figure.name,
        unit=figure.unit,
        median=median(values),
        rounds=tuple(values),
        floor=middle(floor),
        ratio=median(ratios) if ratios and same_round else None,
    )


class Result(Shape):
    """One figure of one server in one transport."""

    place: str = Field(description="the store of a private server, or the endpoint of another")
    transport: str = Field(description="the transport that was spoken")
    figure: str = Field(description="what was measured")
    unit: Unit = Field(description="`1/s`, `us`, `ms`, `bytes`, or `share`, which is of 1")
    median: float = Field(description="of the rounds")
    rounds: tuple[float, ...] = Field(description="the value of each round")
    floor: float | None = Field(description="the median of the floor's rounds, or null")
    ratio: float | None = Field(
        description="the median of the rounds' ratios to the floor of the same round, or null"
    )


class Machine(Shape):
    """Where it was measured."""

    system: str = Field(description="the operating system")
    processors: int = Field(description="that this process may use")
    python: str = Field(description="the version of the load's Python")


class Report(Shape):
    """All that a run found; its JSON is what `--json` prints."""

    twinline: str = Field(description="the version")
    started_at: int = Field(description="milliseconds since 1970 UTC")
    machine: Machine = Field(description="where it was measured")
    rounds: int = Field(description="how many")
    seconds: float = Field(description="of each load in a round")
    idle_users: int = Field(description="that were connected while sends were timed")
    results: tuple[Result, ...] = Field(description="the figures")
    warnings: tuple[str, ...] = Field(description="what makes the figures doubtful")
