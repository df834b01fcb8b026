"""The figures of `twinline bench`: what each is, and the report that they make, as models."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median
from typing import Final

from pydantic import BaseModel, ConfigDict, Field


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
class SendLoad:
    """So many connections that send, with so many requests under way on each.

    Attributes:
        connections: how many.
        window: requests under way on each.
    """

    connections: int
    window: int = 1

    @property
    def name(self) -> str:
        """How figures call it: ``64``, or ``8x32`` where several requests are under way."""
        return f"{self.connections}" if self.window == 1 else f"{self.connections}x{self.window}"

    @property
    def words(self) -> str:
        """How a person calls it."""
        if self.window > 1:
            return f"{self.connections} connections, {self.window} under way"
        return f"{self.connections} connection{'s' * (self.connections > 1)}"

    @property
    def rate(self) -> Figure:
        """Acknowledged sends a second."""
        return Figure(f"sends_per_second_{self.name}", f"sends/s, {self.words}", Unit.PER_SECOND)

    @property
    def server_time(self) -> Figure:
        """What the server took of a processor, a send."""
        label = f"server µs/send, {self.words}"
        return Figure(f"server_us_per_send_{self.name}", label, Unit.MICROSECONDS)

    @property
    def load_time(self) -> Figure:
        """What the load took of a processor, a send."""
        label = f"load µs/send, {self.words}"
        return Figure(f"load_us_per_send_{self.name}", label, Unit.MICROSECONDS, shown=False)

    @property
    def load_share(self) -> Figure:
        """What the load took of a processor, of the time."""
        return Figure(f"load_share_sends_{self.name}", f"load, {self.words}", Unit.SHARE, False)


SEND_LOADS: Final = (SendLoad(1), SendLoad(16), SendLoad(64), SendLoad(8, 32))
PAIRS: Final = 64
IDLE_LOAD: Final = SendLoad(16)
"""What is sent while others are idle."""

LATENCY_P50: Final = Figure("delivery_p50_us", "delivery µs, p50", Unit.MICROSECONDS)
LATENCY_P99: Final = Figure("delivery_p99_us", "delivery µs, p99", Unit.MICROSECONDS)
DELIVERY_RATE: Final = Figure(
    "deliveries_per_second", f"deliveries/s, {PAIRS} pairs", Unit.PER_SECOND
)
DELIVERY_SERVER_TIME: Final = Figure(
    "server_us_per_delivery", f"server µs/delivery, {PAIRS} pairs", Unit.MICROSECONDS
)
DELIVERY_LOAD_TIME: Final = Figure(
    "load_us_per_delivery", f"load µs/delivery, {PAIRS} pairs", Unit.MICROSECONDS, shown=False
)
DELIVERY_LOAD_SHARE: Final = Figure(
    "load_share_deliveries", f"load, {PAIRS} pairs", Unit.SHARE, shown=False
)
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
    DELIVERY_RATE,
    DELIVERY_SERVER_TIME,
    DELIVERY_LOAD_TIME,
    DELIVERY_LOAD_SHARE,
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
        """Note the value of a round; None, where nobody could tell, is not noted."""
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


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Result(_Model):
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


class Machine(_Model):
    """Where it was measured."""

    system: str = Field(description="the operating system")
    processors: int = Field(description="that this process may use")
    python: str = Field(description="the version of the load's Python")


class Report(_Model):
    """All that a run found; its JSON is what `--json` prints."""

    twinline: str = Field(description="the version")
    started_at: int = Field(description="milliseconds since 1970 UTC")
    machine: Machine = Field(description="where it was measured")
    rounds: int = Field(description="how many")
    seconds: float = Field(description="of each load in a round")
    idle_users: int = Field(description="that were connected while sends were timed")
    results: tuple[Result, ...] = Field(description="the figures")
    warnings: tuple[str, ...] = Field(description="what makes the figures doubtful")
