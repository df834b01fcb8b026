"""The report of `twinline bench` as a table for a person, and what makes it doubtful."""

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import Final

from twinline.cli.bench.figures import (
    DIRECT_FLOOR,
    FIGURES,
    FLOOR,
    LOADS,
    Book,
    Figure,
    Report,
    Result,
    Unit,
    Who,
    middle,
)
from twinline.cli.console.text import counted

_LABEL: Final = 42
_VALUE: Final = 12
_RATIO: Final = 7
_WIDTH: Final = 100
_COLUMNS: Final = (_WIDTH - _LABEL - _VALUE) // (_VALUE + _RATIO)
"""Transports side by side, each with one listener and then the other."""
_BUSY_SHARE: Final = 0.95


def table(report: Report) -> Iterator[str]:
    """Yield the lines of a table for each place: figures down, transports across."""
    machine = report.machine
    yield from wrap(
        f"twinline {report.twinline}, Python {machine.python}, {machine.processors} processors, "
        f"{machine.system}",
        _WIDTH,
    )
    yield (
        f"medians of {counted(report.rounds, 'round')} of {report.seconds:g} s; beside each the "
        "ratio to the floor of its round"
    )
    for place in dict.fromkeys(result.place for result in report.results):
        mine = [result for result in report.results if result.place == place]
        transports = list(dict.fromkeys(result.transport for result in mine))
        columns = sorted(
            dict.fromkeys(map(_who, mine)), key=lambda who: transports.index(who.transport)
        )
        for first in range(0, len(columns), _COLUMNS):
            yield ""
            yield from _table_of(place, mine, columns[first : first + _COLUMNS])
    remarks = [*_notes(report), *(f"warning: {warning}" for warning in report.warnings)]
    for number, remark in enumerate(remarks):
        if not number:
            yield ""
        yield from wrap(remark, _WIDTH, subsequent_indent="  ")


def _who(result: Result) -> Who:
    return Who(result.place, result.transport, result.listener)


def _table_of(place: str, results: Sequence[Result], columns: Sequence[Who]) -> Iterator[str]:
    head = f"{place:<{_LABEL}}{'floor':>{_VALUE}}"
    yield head + "".join(f"{who.column:>{_VALUE}}{'ratio':>{_RATIO}}" for who in columns)
    for figure in FIGURES:
        found = {_who(result): result for result in results if result.figure == figure.name}
        if not figure.shown or not found:
            continue
        floor = next(iter(found.values())).floor
        cells = [_cell(found.get(who), figure) for who in columns]
        least = "" if floor is None else _shown(floor, figure.unit)
        yield f"{figure.label:<{_LABEL}}{least:>{_VALUE}}{''.join(cells)}".rstrip()


def _cell(result: Result | None, figure: Figure) -> str:
    if result is None:
        return " " * (_VALUE + _RATIO)
    ratio = "" if result.ratio is None else f"{result.ratio:.2f}"
    return f"{_shown(result.median, figure.unit):>{_VALUE}}{ratio:>{_RATIO}}"


def _shown(value: float, unit: Unit) -> str:
    match unit:
        case Unit.SHARE:
            return f"{value:.2f}"
        case Unit.MICROSECONDS if value < 100:
            return f"{value:.1f}"
        case Unit.BYTES if value >= 10_000:
            return f"{value / 1024:.1f} KiB"
    return f"{value:,.0f}"


def _notes(report: Report) -> Iterator[str]:
    shares = [result.median for result in report.results if result.figure.startswith("load_share_")]
    if shares:
        yield (f"the load took {min(shares):.0%} to {max(shares):.0%} of a processor of its own")


def warnings_of(book: Book, everybody: Sequence[Who]) -> Iterator[str]:
    """Yield where the load was the bottleneck, so that a server could have done more.

    A single connection keeps neither side busy, so there is nothing to compare.
    """
    loads = [load for load in LOADS if load.connections > 1]
    for who in (FLOOR, DIRECT_FLOOR, *everybody):
        for load in loads:
            server, spent, share = (
                middle(book.values(who, figure))
                for figure in (load.server_time, load.load_time, load.load_share)
            )
            if share is not None and share > _BUSY_SHARE:
                yield (
                    f"{who}, {load.words}: "
                    f"the load had no more of a processor to take ({share:.0%})"
                )
            elif server is not None and spent is not None and spent > server:
                yield (
                    f"{who}, {load.words}: the load took {spent:.1f} µs of a processor for each, "
                    f"and the server {server:.1f}"
                )
