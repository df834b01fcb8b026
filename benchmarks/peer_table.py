"""The table of `benchmarks/peers.py`, and what twinline's targets say of it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

DASH = "-"


@dataclass(frozen=True, slots=True)
class Figures:
    """What one round found of one server.

    Attributes:
        p50: median latency of a delivery, in µs.
        p99: its 99th percentile, in µs.
        deliveries: a second, over 64 pairs.
        sends: a second, over 64 connections.
        delivery_cost: the server's processor µs for each delivery, or None.
        send_cost: the same for each send.
        delivery_load: share of a processor that the load took, of the deliveries.
        send_load: the same of the sends.
    """

    p50: float
    p99: float
    deliveries: float
    sends: float
    delivery_cost: float | None
    send_cost: float | None
    delivery_load: float
    send_load: float


Rounds = Mapping[str, Sequence[Figures]]
_Pick = Callable[[Figures], float | None]


def table(found: Rounds, acknowledged: Mapping[str, str], twinline: str, floor: str) -> str:
    """Return a row for each server: figures, ratios to twinline and to the floor, its promise."""
    heads = ["", "p50 µs", "p99 µs", "deliveries/s", "sends/s", "µs/delivery", "µs/send", "load"]
    picks: list[tuple[_Pick, str]] = [
        (lambda of: of.p50, ".0f"),
        (lambda of: of.p99, ".0f"),
        (lambda of: of.deliveries, ",.0f"),
        (lambda of: of.sends, ",.0f"),
        (lambda of: of.delivery_cost, ".1f"),
        (lambda of: of.send_cost, ".1f"),
        (lambda of: max(of.delivery_load, of.send_load), ".2f"),
    ]
    rows = [
        [name, *(_shown(_middle(rounds, pick), form) for pick, form in picks)]
        for name, rounds in found.items()
    ]
    parts = [_aligned([heads, *rows])]
    ratios: list[_Pick] = [pick for pick, _ in picks[:6]]
    for base in (twinline, floor):
        if base in found:
            rows = [
                [name, *(_shown(_ratio(rounds, found[base], pick), ".2f") for pick in ratios)]
                for name, rounds in found.items()
            ]
            parts.append(_aligned([[f"over {base}'s", *heads[1:7]], *rows]))
    parts.append(
        _aligned([["", "what is acknowledged"], *([n, acknowledged[n]] for n in found)], left=True)
    )
    return "\n".join(parts)


def verdicts(found: Rounds, twinline: Iterable[str], peers: Iterable[str]) -> list[str]:
    """Return a line for each target: twinline over the best Python peer, and what is wanted."""
    present = [name for name in peers if name in found]
    lines = []
    for name in twinline:
        if name not in found or not present:
            continue
        best = min(present, key=lambda peer: _middle(found[peer], lambda of: of.p50) or 0)
        ratio = _ratio(found[name], found[best], lambda of: of.p50)
        lines.append(f"{name}: delivery p50 over {best}'s: {_shown(ratio, '.2f')} (wanted: <= 0.5)")
        best = max(present, key=lambda peer: _middle(found[peer], lambda of: of.deliveries) or 0)
        ratio = _ratio(found[name], found[best], lambda of: of.deliveries)
        lines.append(f"{name}: deliveries/s over {best}'s: {_shown(ratio, '.2f')} (wanted: >= 3)")
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
