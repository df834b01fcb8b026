"""The table of `twinline top`: what each connection does a second, made of two looks at it.

It fits 80 columns: where there are several nodes, their names take the place of what is spoken. A
wider terminal has both, and the endpoint.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from twinline.cli.console.shapes import ConnectionRate, ServerState
from twinline.cli.console.text import visible
from twinline.cli.server.admin.replies import OpenConnection, OpenConnections

_UNITS: Final = (("s", 60), ("m", 60), ("h", 24), ("d", 365), ("y", 1_000))
_SIZES: Final = ("", "k", "M", "G", "T")

Key = tuple[str | None, int, int]
"""Of a connection: its node, that one's process, its number there."""


class Look(NamedTuple):
    """All connections of one server at one moment.

    Attributes:
        server: which.
        connections: its connections.
    """

    server: ServerState
    connections: tuple[OpenConnection, ...]

    @classmethod
    def of(cls, pages: Sequence[OpenConnections]) -> "Look":
        """Return what some pages show."""
        return cls(pages[-1].server, tuple(each for page in pages for each in page.connections))


def rates(before: Iterable[Look], now: Iterable[Look]) -> list[ConnectionRate]:
    """Return what each connection has done a second between two looks.

    One that is new has done what it has done since it was opened.
    """
    known = {
        _key(look.server, each): (look.server.now, each)
        for look in before
        for each in look.connections
    }
    found = []
    for look in now:
        for each in look.connections:
            at, was = known.get(_key(look.server, each), (each.since, None))
            seconds = max(0.001, (look.server.now - at) / 1000)

            def a_second(
                count: Callable[[OpenConnection], int],
                each: OpenConnection = each,
                was: OpenConnection | None = was,
                seconds: float = seconds,
            ) -> float:
                return round((count(each) - (0 if was is None else count(was))) / seconds, 2)

            found.append(
                ConnectionRate(
                    node=look.server.node,
                    number=each.number,
                    username=each.username,
                    address=each.address,
                    endpoint=each.endpoint,
                    transport=each.transport,
                    since=each.since,
                    requests_per_second=a_second(lambda c: c.requests),
                    messages_per_second=a_second(lambda c: c.messages),
                    received_per_second=a_second(lambda c: c.received),
                    sent_per_second=a_second(lambda c: c.sent),
                    unread=None,
                )
            )
    return found


def _key(server: ServerState, each: OpenConnection) -> Key:
    return server.node, server.pid, each.number


ORDERS: Final[Mapping[str, Callable[[ConnectionRate], tuple[float | str, ...]]]] = {
    "rate": lambda row: (-(row.requests_per_second + row.messages_per_second), row.since),
    "bytes": lambda row: (-(row.received_per_second + row.sent_per_second), row.since),
    "unread": lambda row: (-(row.unread or 0), row.since),
    "since": lambda row: (row.since,),
    "name": lambda row: (row.username is None, row.username or "", row.since),
}
"""What `--sort` can say."""


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    width: int
    cell: Callable[[ConnectionRate, int], str]
    is_number: bool = False

    def show(self, text: str) -> str:
        if len(text) > self.width:
            text = f"{text[: self.width - 1]}~"
        return text.rjust(self.width) if self.is_number else text.ljust(self.width)


_COLUMNS: Final = (
    _Column("ACCOUNT", 13, lambda row, _: visible(row.username or "-")),
    _Column("FROM", 15, lambda row, _: visible(row.address)),
    _Column("SPEAKS", 9, lambda row, _: visible(row.transport or "-")),
    _Column("NODE", 9, lambda row, _: visible(row.node or "-")),
    _Column("FOR", 4, lambda row, now: lasting((now - row.since) / 1000), is_number=True),
    _Column("REQ/S", 6, lambda row, _: number(row.requests_per_second), is_number=True),
    _Column("MSG/S", 6, lambda row, _: number(row.messages_per_second), is_number=True),
    _Column("IN/S", 6, lambda row, _: number(row.received_per_second), is_number=True),
    _Column("OUT/S", 6, lambda row, _: number(row.sent_per_second), is_number=True),
    _Column("UNREAD", 6, lambda row, _: _unread(row), is_number=True),
    _Column("ENDPOINT", 30, lambda row, _: visible(row.endpoint)),
)
_WIDE: Final = 122


def lines(
    servers: Sequence[ServerState], rows: Sequence[ConnectionRate], shown: int, columns: int
) -> list[str]:
    """Return the table as lines.

    Args:
        servers: that have answered.
        rows: of all connections, in their order.
        shown: how many of them to show.
        columns: of the terminal.
    """
    left_out = {"NODE"} if all(each.node is None for each in servers) else {"SPEAKS"}
    left_out = left_out - {"SPEAKS"} if columns >= _WIDE else left_out | {"ENDPOINT"}
    table = [each for each in _COLUMNS if each.title not in left_out]
    now = max(each.now for each in servers)
    named = {row.username for row in rows if row.username is not None}
    total = (
        f"{len(rows):,} connections of {len(named):,} accounts"
        f"{'' if len(servers) == 1 else f' on {len(servers)} nodes'}, "
        f"{number(sum(row.requests_per_second for row in rows))} req/s, "
        f"{number(sum(row.messages_per_second for row in rows))} msg/s, "
        f"{number(sum(row.received_per_second for row in rows))}B/s in, "
        f"{number(sum(row.sent_per_second for row in rows))}B/s out"
    )
    return [
        line[:columns].rstrip()
        for line in (
            total,
            " ".join(each.show(each.title) for each in table),
            *(" ".join(each.show(each.cell(row, now)) for each in table) for row in rows[:shown]),
        )
    ]


def _unread(row: ConnectionRate) -> str:
    return "-" if row.unread is None else number(row.unread)


def number(value: float) -> str:
    """Return a number in at most six characters, such as ``12.3``, ``999`` or ``4.5M``."""
    if value < 1_000:
        return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"
    for size in _SIZES:
        if value < 999.5 or size == _SIZES[-1]:
            return f"{value:.0f}{size}" if value >= 99.95 else f"{value:.1f}{size}"
        value /= 1_000
    raise AssertionError("the last size ends it")


def lasting(seconds: float) -> str:
    """Return how long something takes, such as ``59s``, ``4m`` or ``12d``."""
    value = max(0.0, seconds)
    for unit, most in _UNITS:
        if value < most:
            return f"{int(value)}{unit}"
        value /= most
    return "long"
