"""The tables of `benchmarks/peers.py`, and how twinline stands beside the others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

DASH = "-"
_LEFT = 36


@dataclass(frozen=True, slots=True)
class Figures:
    """What one round found of one server; None is what was not measured, or nobody can tell.

    Attributes:
        p50: median latency of a delivery, in µs, of one pair.
        p99: its 99th percentile, in µs.
        deliveries: a second, over 64 pairs.
        sends: a second, over 64 connections.
        single_cost: the server's processor µs for each delivery of the one pair.
        delivery_cost: the same for each delivery of the 64 pairs.
        send_cost: the same for each send.
        delivery_load: share of a processor that the load took, of the deliveries.
        send_load: the same of the sends.
        ping_p99: of a lone ping beside 64 senders, in µs.
        plain_sends: a second, of sends without a ``send_id``.
        plain_send_cost: the server's processor µs for each of them.
        pipelined_cost: the same for each send of 8 connections with 32 under way on each.
        blocked_p50: as `p50`, by blocked watches.
        blocked_deliveries: as `deliveries`, by blocked watches.
        blocked_cost: as `delivery_cost`, by blocked watches.
        flow: messages a second from one sender to one watcher, 32 under way.
        client: messages a second that a `Client` hands on.
        async_client: the same of an `AsyncClient`.
    """

    p50: float
    p99: float
    deliveries: float
    sends: float
    single_cost: float | None = None
    delivery_cost: float | None = None
    send_cost: float | None = None
    delivery_load: float = 0.0
    send_load: float = 0.0
    ping_p99: float | None = None
    plain_sends: float | None = None
    plain_send_cost: float | None = None
    pipelined_cost: float | None = None
    blocked_p50: float | None = None
    blocked_deliveries: float | None = None
    blocked_cost: float | None = None
    flow: float | None = None
    client: float | None = None
    async_client: float | None = None


Rounds = Mapping[str, Sequence[Figures]]
_Pick = Callable[[Figures], float | None]

_PICKS: dict[str, tuple[_Pick, str]] = {
    "p50 µs": (lambda of: of.p50, ".0f"),
    "p99 µs": (lambda of: of.p99, ".0f"),
    "deliveries/s": (lambda of: of.deliveries, ",.0f"),
    "sends/s": (lambda of: of.sends, ",.0f"),
    "µs/delivery": (lambda of: of.delivery_cost, ".1f"),
    "1 pair": (lambda of: of.single_cost, ".1f"),
    "µs/send": (lambda of: of.send_cost, ".1f"),
    "load": (lambda of: max(of.delivery_load, of.send_load), ".2f"),
}
"""What every server has, by its column."""
_MORE: dict[str, tuple[_Pick, str]] = {
    "ping p99 µs": (lambda of: of.ping_p99, ".0f"),
    "plain sends/s": (lambda of: of.plain_sends, ",.0f"),
    "µs": (lambda of: of.plain_send_cost, ".1f"),
    "8x32 µs/send": (lambda of: of.pipelined_cost, ".1f"),
    "blocked: p50 µs": (lambda of: of.blocked_p50, ".0f"),
    "deliveries/s": (lambda of: of.blocked_deliveries, ",.0f"),
    "µs/delivery": (lambda of: of.blocked_cost, ".1f"),
    "1x32 msgs/s": (lambda of: of.flow, ",.0f"),
    "Client msgs/s": (lambda of: of.client, ",.0f"),
    "AsyncClient": (lambda of: of.async_client, ",.0f"),
}
"""What is asked of twinline, and some of the floor."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A figure that is to be reached.

    Attributes:
        words: what it is.
        pick: it, of a round.
        least: at least so much, or None.
        most: at most so much, or None.
    """

    words: str
    pick: _Pick
    least: float | None = None
    most: float | None = None

    @property
    def limit(self) -> str:
        """What is wanted, in words."""
        return f"<= {self.most:,g}" if self.most is not None else f">= {self.least:,g}"

    def best(self, found: Rounds, names: Sequence[str]) -> str | None:
        """Return which of these is best at it, or None where none is there."""
        known = {
            name: value
            for name in names
            if name in found and (value := _middle(found[name], self.pick)) is not None
        }
        if not known:
            return None
        return (min if self.most is not None else max)(known, key=lambda name: known[name])


THREADED = (
    Wanted("delivery p50", lambda of: of.p50, most=1.0),
    Wanted("deliveries/s", lambda of: of.deliveries, least=1.0),
    Wanted("sends/s", lambda of: of.sends, least=1.3),
)
"""Over the best Python peer with threads."""
BEFORE = (
    Wanted("delivery p50", lambda of: of.p50, most=0.75),
    Wanted("server µs a delivery", lambda of: of.delivery_cost, most=0.65),
    Wanted("p99 of a lone ping", lambda of: of.ping_p99, most=1.0),
)
"""Over another installation of twinline, in the same transport."""
LOOP = (
    Wanted("delivery p50", lambda of: of.p50, most=1.4),
    Wanted("server µs a delivery", lambda of: of.delivery_cost, most=1.5),
    Wanted("deliveries/s", lambda of: of.deliveries, least=0.65),
    Wanted("sends/s", lambda of: of.sends, least=0.6),
)
"""The event loop's listener over a router on uvloop that keeps a message until it is acked."""
LOOP_THREADED = (Wanted("deliveries/s", lambda of: of.deliveries, least=1.5),)
"""The same over the best Python peer with threads."""
LOOP_BROKER = (Wanted("delivery p50", lambda of: of.p50, most=1.0),)
"""The same over a broker."""
LOOP_SQLITE = (Wanted("sends/s", lambda of: of.sends, least=1.0),)
"""The same on SQLite, over the threads."""
SQLITE = (Wanted("deliveries/s", lambda of: of.deliveries, least=0.6),)
"""Over the store in memory."""
ALONE = (
    Wanted("messages/s, one pair, 32 under way", lambda of: of.flow, least=30_000),
    Wanted("messages/s, a Client", lambda of: of.client, least=20_000),
    Wanted("messages/s, an AsyncClient", lambda of: of.async_client, least=20_000),
)
"""Over nothing."""


def table(found: Rounds, acknowledged: Mapping[str, str], twinline: str, floor: str) -> str:
    """Return a row for each server: figures, ratios to twinline and to the floor, its promise."""
    heads = ["", *_PICKS]
    parts = [_aligned([heads, *_medians(found, _PICKS)])]
    if more := _medians(found, _MORE):
        parts.append(_aligned([["", *_MORE], *more]))
    ratios: list[_Pick] = [pick for pick, _ in _PICKS.values()][:-1]
    for base in (twinline, floor):
        if base in found:
            rows = [
                [name, *(_shown(_ratio(rounds, found[base], pick), ".2f") for pick in ratios)]
                for name, rounds in found.items()
            ]
            parts.append(_aligned([[f"over {base}'s", *heads[1:-1]], *rows]))
    parts.append(
        _aligned([["", "what is acknowledged"], *([n, acknowledged[n]] for n in found)], left=True)
    )
    return "\n".join(parts)


def _medians(found: Rounds, picks: Mapping[str, tuple[_Pick, str]]) -> list[list[str]]:
    """Return a row for each server that has any of these figures."""
    return [
        [name, *(_shown(_middle(rounds, pick), form) for pick, form in picks.values())]
        for name, rounds in found.items()
        if any(_middle(rounds, pick) is not None for pick, _ in picks.values())
    ]


def verdicts(
    found: Rounds, name: str, others: Sequence[str], wanted: Sequence[Wanted]
) -> list[str]:
    """Return a line for each target: one server over the best of others, and what is wanted.

    Args:
        found: the rounds of all.
        name: the server.
        others: which it is compared with, one by one figure.
        wanted: the figures.
    """
    lines = []
    for each in wanted:
        best = each.best(found, others)
        if name in found and best is not None:
            ratio = _ratio(found[name], found[best], each.pick)
            words = f"{each.words} over {best}'s"
            lines.append(f"  {words:<{_LEFT}} {_shown(ratio, '.2f')}  (wanted: {each.limit})")
    return lines


def values(found: Rounds, name: str, wanted: Sequence[Wanted]) -> list[str]:
    """Return a line for each target that is compared with nothing."""
    lines = []
    for each in wanted:
        value = _middle(found[name], each.pick) if name in found else None
        if value is not None:
            lines.append(f"  {each.words:<{_LEFT}} {value:,.0f}  (wanted: {each.limit})")
    return lines


def _middle(rounds: Sequence[Figures], pick: _Pick) -> float | None:
    """Return a figure's median, or None where it is not known."""
    values = [value for each in rounds if (value := pick(each)) is not None]
    return median(values) if values else None


def _ratio(rounds: Sequence[Figures], base: Sequence[Figures], pick: _Pick) -> float | None:
    """Return the median of the ratios within each round, in which a noisy time cancels out."""
    ratios = []
    for each, other in zip(rounds, base, strict=True):
        value, under = pick(each), pick(other)
        if value is not None and under:
            ratios.append(value / under)
    return median(ratios) if ratios else None


def _shown(value: float | None, form: str) -> str:
    return DASH if value is None else format(value, form)


def _aligned(rows: Sequence[Sequence[str]], *, left: bool = False) -> str:
    """Return rows as text: the first column to the left, the others to the right unless told."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = zip(row, widths, strict=True)
        cells = [f"{first[0]:<{first[1]}}"]
        cells += [f"{cell:{'<' if left else '>'}{width}}" for cell, width in others]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"
