"""The plot of `twinline bench`: latencies as cumulative curves, and throughput by connections.

Drawn by matplotlib, which is an extra of the package and imported only here.
"""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from twinline.cli.bench.figures import FLOOR, SEND_LOADS, Book, Part, Who, middle
from twinline.cli.console.errors import CommandError
from twinline.cli.console.exit_codes import ExitCode

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS: Final = frozenset({Part.SENDS, Part.LATENCY})
"""What can be drawn."""
_ENDINGS: Final = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, which most colour-blind people can tell apart: one for each transport.
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_STYLES: Final = ("-", "--", ":", "-.")
"""One for each place with a listener."""
_MARKERS: Final = ("o", "s", "^", "D")
_TIMES: Final = " \N{MULTIPLICATION SIGN} "
_FLOOR_COLOUR: Final = "#555555"
_POINTS: Final = 1_000
"""Of a curve: a finer one looks the same and makes a large file."""
_SHOWN_PERCENT: Final = 99
"""The few that were slowest would take half of the width."""


def check(path: Path, parts: Iterable[Part]) -> None:
    """Return if a plot can be drawn there.

    Args:
        path: the file; its ending says which kind.
        parts: what will be measured.

    Raises:
        CommandError: it cannot.
    """
    if path.suffix.lower() not in _ENDINGS:
        raise CommandError(f"--plot: the file ends in one of {', '.join(_ENDINGS)}", ExitCode.USAGE)
    if not path.parent.is_dir():
        raise CommandError(f"--plot: there is no folder {path.parent}", ExitCode.USAGE)
    if not PARTS & set(parts):
        drawn = " or ".join(sorted(PARTS))
        raise CommandError(f"--plot: nothing to draw without --only {drawn}", ExitCode.USAGE)
    if find_spec("matplotlib") is None:
        raise CommandError("--plot draws with matplotlib: pip install 'twinline[plot]'")


def draw(book: Book, everybody: Sequence[Who], path: Path) -> None:
    """Draw what was measured.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and slow to import

    panels = []
    if book.latencies:
        panels.append(_draw_latency)
    if book.values(everybody[0], SEND_LOADS[0].rate):
        panels.append(_draw_throughput)
    figure = Figure(figsize=(6.4 * len(panels), 4.8), layout="constrained", dpi=150)
    looks = _looks(everybody)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        panel(axes, book, looks)
        axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize="small", loc="best")
    figure.savefig(path, metadata=None)


def _looks(everybody: Sequence[Who]) -> dict[Who, dict[str, Any]]:
    """Return how each is drawn: transports differ in colour, servers in line and marker."""
    transports = list(dict.fromkeys(who.transport for who in everybody))
    places = list(dict.fromkeys((who.place, who.listener) for who in everybody))
    looks: dict[Who, dict[str, Any]] = {
        FLOOR: {"color": _FLOOR_COLOUR, "linestyle": "-", "marker": "x", "label": "the floor"}
    }
    for who in everybody:
        place = places.index((who.place, who.listener))
        looks[who] = {
            "color": _COLOURS[transports.index(who.transport) % len(_COLOURS)],
            "linestyle": _STYLES[place % len(_STYLES)],
            "marker": _MARKERS[place % len(_MARKERS)],
            "label": f"{who.column}, {who.place.removesuffix(':')}",
        }
    return looks


def _draw_latency(axes: "Axes", book: Book, looks: dict[Who, dict[str, Any]]) -> None:
    low, high = float("inf"), 0.0
    for who, look in looks.items():
        latencies = sorted(1e6 * latency for latency in book.latencies.get(who, []))
        if not latencies:
            continue
        last = len(latencies) - 1
        shares = [number / _POINTS for number in range(_POINTS + 1)]
        values = [latencies[round(share * last)] for share in shares]
        axes.plot(values, [100 * share for share in shares], **{**look, "marker": None})
        low = min(low, values[0])
        high = max(high, latencies[round(last * _SHOWN_PERCENT / 100)])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlim(low * 0.9, high * 1.1)
    axes.set_ylim(0, 100)
    axes.grid(visible=True, which="minor", axis="x", color="#eeeeee", linewidth=0.5)
    axes.set_title("Delivery to a blocked watcher")
    axes.set_xlabel("from the send until the watcher has it (µs)")
    axes.set_ylabel("deliveries that took no longer (%)")


def _draw_throughput(axes: "Axes", book: Book, looks: dict[Who, dict[str, Any]]) -> None:
    single = [load for load in SEND_LOADS if load.window == 1]
    others = [load for load in SEND_LOADS if load.window > 1]
    for who, look in looks.items():
        rates = [middle(book.values(who, load.rate)) for load in single]
        measured = [(at, rate) for at, rate in enumerate(rates) if rate is not None]
        axes.plot([at for at, _ in measured], [rate for _, rate in measured], **look)
        for at, load in enumerate(others, len(single)):
            rate = middle(book.values(who, load.rate))
            if rate is not None:
                axes.plot([at], [rate], **{**look, "linestyle": "none", "label": None})
    names = [str(load.connections) for load in single]
    names += [f"{load.connections}{_TIMES}{load.window}" for load in others]
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_title("Acknowledged sends")
    more = "; ".join(f"{load.connections}{_TIMES}{load.window}: {load.window}" for load in others)
    axes.set_xlabel(f"connections, with one send under way on each ({more})")
    axes.set_ylabel("sends a second")
