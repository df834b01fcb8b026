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
    FAIRNESS = "fairness"
    CLIENTS = "clients"
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


PIPELINED: Final = _sends(8, 32)
SEND_LOADS: Final = (_sends(1), _sends(16), _sends(64), PIPELINED)
HOGS: Final = Load("send", "sends", "8 that have 256 under way", "_8x256", 8, 256)
"""Those that a ping is timed beside; what they get done is no figure."""
PLAIN_LOAD: Final = Load("send", "sends", "64 connections, no send_id", "_64_plain", 64)
"""What a send costs whose sender does not care for repeats; a client's always has a send_id."""
PAIRS: Final = 64
DELIVERIES: Final = Load("delivery", "deliveries", f"{PAIRS} pairs", "", PAIRS)
BLOCKED_DELIVERIES: Final = Load(
    "delivery", "deliveries", f"{PAIRS} pairs, blocked watches", "_blocked", PAIRS
)
"""By a watch for each message, where a client has a stream."""
FLOW: Final = Load("message", "messages", "1 pair, 32 under way", "_1x32", 1, 32)
IDLE_LOAD: Final = _sends(16)
"""What is sent while others are idle."""

LATENCY_P50: Final = Figure("delivery_p50_us", "delivery µs, p50", Unit.MICROSECONDS)
LATENCY_P99: Final = Figure("delivery_p99_us", "delivery µs, p99", Unit.MICROSECONDS)
BLOCKED_P50: Final = Figure(
    "delivery_p50_us_blocked", "delivery µs, p50, blocked watch", Unit.MICROSECONDS
)
BLOCKED_P99: Final = Figure(
    "delivery_p99_us_blocked", "delivery µs, p99, blocked watch", Unit.MICROSECONDS
)
PING_P99: Final = Figure(
    "ping_p99_us_beside_64", "a lone ping µs, p99, beside 64 senders", Unit.MICROSECONDS
)
HOGGED_PING_P99: Final = Figure(
    "ping_p99_us_beside_hogs", f"  beside {HOGS.words}", Unit.MICROSECONDS
)
CLIENT: Final = Figure(
    "client_messages_per_second", "messages/s, received by a Client", Unit.PER_SECOND
)
ASYNC_CLIENT: Final = Figure(
    "async_client_messages_per_second", "  by an AsyncClient", Unit.PER_SECOND
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

_SENDS: Final = (*SEND_LOADS, PLAIN_LOAD)
_RECEIVED: Final = (DELIVERIES, BLOCKED_DELIVERIES, FLOW)
LOADS: Final = (*_SENDS, *_RECEIVED)
"""All loads whose operations are counted."""
FIGURES: Final[tuple[Figure, ...]] = (
    *(load.rate for load in _SENDS),
    *(load.server_time for load in _SENDS),
    *(load.load_time for load in _SENDS),
    *(load.load_share for load in _SENDS),
    PING_P99,
    HOGGED_PING_P99,
    LATENCY_P50,
    LATENCY_P99,
    BLOCKED_P50,
    BLOCKED_P99,
    POLLED_P50,
    POLLED_P99,
    *(load.rate for load in _RECEIVED),
    *(load.server_time for load in _RECEIVED),
    *(load.load_time for load in _RECEIVED),
    *(load.load_share for load in _RECEIVED),
    CLIENT,
    ASYNC_CLIENT,
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
        place: the store of a private server, and how it is reached if not by TCP, or the endpoint
            of a deployment; "" for the floor, "floor" for its other form.
        transport: that was spoken; "" for the floor.
        listener: of a private server, ``threads`` or ``loop``; "" for all others.
    """

    place: str = ""
    transport: str = ""
    listener: str = ""

    def __str__(self) -> str:
        return f"{self.place} {self.column}" if self.place else "the floor"

    @property
    def column(self) -> str:
        """The transport, and the listener if that is not the default."""
        return f"{self.transport} loop" if self.listener == "loop" else self.transport


FLOOR: Final = Who()
DIRECT_FLOOR: Final = Who("floor", "direct")
"""The floor whose sender's thread relays; it is shown beside the other, as a server is."""


@dataclass(slots=True)
class Book:
    """What was measured, round by round.

    Attributes:
        rounds: each figure's values, in the order of the rounds.
        latencies: of the deliveries by a stream, in seconds.
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
        listener=who.listener,
        figure=figure.name,
        unit=figure.unit,
        median=median(values),
        rounds=tuple(values),
        floor=middle(floor),
        ratio=median(ratios) if ratios and same_round else None,
    )


class Result(Shape):
    """One figure of one server in one transport."""

    place: str = Field(
        description="the store of a private server, and behind it the scheme if that is not "
        "`tcp`; the endpoint of another, or `floor`"
    )
    transport: str = Field(
        description="the transport that was spoken; `direct` is the floor's second form"
    )
    listener: str = Field(
        description="what drove the connections of a private server, `threads` or `loop`; else "
        "empty"
    )
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
