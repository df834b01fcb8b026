"""Finds what a change made slower: compares a fixed workload's figures with those that are kept.

    python benchmarks/check.py             # a quarter of a minute; tox -e bench-check does the same
    python benchmarks/check.py --update    # keep what is found now as the figures of this Python

Two figures of each workload are kept in ``baseline.json``, for each Python version: the bytecode
instructions of an operation, which are exact and the same everywhere, and its processor time as
a multiple of a yardstick's, which sees C as well and was repeatable to about a tenth on a busy
machine (`check_figures` says how they are taken, and why so). Both are needed: work that moves
into C leaves the count, and a C function that becomes slower changes nothing in it.

A figure that is worse by more than 20 % fails the check. A time that looks worse is measured
again before it is believed: the median is then that of all processes. One that is better by more
than 20 % is a reason to renew the figures, or the next loss would hide in the gain.

The times were kept on one machine. Another kind of processor can shift them by some percent,
because Python's C and pydantic's Rust do not gain alike: where a time is called worse and its
count is not, check the commit before the change as well, on the same machine (``--update
--baseline FILE`` there, ``--baseline FILE`` here).

Exit codes: 0 nothing is worse; 1 something is; 2 there is nothing to compare with.
"""

# ruff: noqa: T201 - a script prints

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from check_figures import PROCESSES, ROUNDS, Found
from check_workloads import BUILDERS

TOLERATED: Final = 1.2
"""How much worse a figure may be than the one that is kept."""
_AGAIN: Final = 2  # times that a time which looks worse is measured again
_KEPT: Final = 3  # times as many processes for figures that are to be kept
_BASELINE: Final = Path(__file__).with_name("baseline.json")
_PYTHON: Final = "{}.{}".format(*sys.version_info)
Kept = dict[str, dict[str, float]]
"""Figures by workload and by kind."""


class Kind(StrEnum):
    """What a figure counts."""

    INSTRUCTIONS = "instructions"
    TIME = "time"


class Verdict(StrEnum):
    """What a comparison comes to."""

    WORSE = "WORSE"
    SAME = "same"
    BETTER = "better"
    UNKNOWN = "nothing kept"


@dataclass(frozen=True, slots=True)
class Row:
    """A figure beside the one that is kept; `kept` is None where there is none."""

    workload: str
    kind: Kind
    kept: float | None
    found: float

    @property
    def ratio(self) -> float:
        """What was found over what is kept; above 1 is worse."""
        return self.found / self.kept if self.kept else float("nan")

    @property
    def verdict(self) -> Verdict:
        """Whether that is more than is tolerated, either way."""
        if not self.kept:
            return Verdict.UNKNOWN
        if self.ratio > TOLERATED:
            return Verdict.WORSE
        return Verdict.BETTER if self.ratio < 1 / TOLERATED else Verdict.SAME


def compared(kept: Kept, found: Found) -> list[Row]:
    """Return a row for every figure that was found."""
    rows = []
    for name, instructions in found.instructions.items():
        of_it = kept.get(name, {})
        rows.append(Row(name, Kind.INSTRUCTIONS, of_it.get(Kind.INSTRUCTIONS), instructions))
        if name in found.times:
            rows.append(Row(name, Kind.TIME, of_it.get(Kind.TIME), found.times[name].ratio))
    return rows


def checked(kept: Kept, found: Found, rounds: int, processes: int) -> list[Row]:
    """Compare, and measure the times that look worse again before they are believed."""
    rows = compared(kept, found)
    for _ in range(_AGAIN):
        late = [row.workload for row in rows if (row.kind, row.verdict) == _SUSPECT]
        if not late:
            break
        print(f"measuring again: {', '.join(late)}", file=sys.stderr)
        found.measure(late, rounds, processes)
        rows = compared(kept, found)
    return rows


_SUSPECT: Final = (Kind.TIME, Verdict.WORSE)


def table(rows: Sequence[Row], found: Found) -> str:
    """Return the rows for a person to read."""
    heads = ("workload", "figure", "kept", "found", "ratio", "verdict", "µs here")
    lines = [heads]
    for row in rows:
        digits = ",.1f" if row.kind is Kind.INSTRUCTIONS else ".3f"
        lines.append(
            (
                row.workload,
                row.kind,
                format(row.kept, digits) if row.kept else "-",
                format(row.found, digits),
                f"{row.ratio:.2f}" if row.kept else "-",
                row.verdict,
                f"{found.times[row.workload].microseconds:.1f}" if row.kind is Kind.TIME else "",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    left = {0, 1, 5}
    return "\n".join(
        "  ".join(
            f"{cell:{'<' if column in left else '>'}{widths[column]}}"
            for column, cell in enumerate(line)
        ).rstrip()
        for line in lines
    )


def judged(rows: Sequence[Row]) -> tuple[int, list[str]]:
    """Return the exit code, and what there is to say."""
    of = {verdict: [row for row in rows if row.verdict is verdict] for verdict in Verdict}
    said = []
    if of[Verdict.BETTER]:
        said.append(
            f"{len(of[Verdict.BETTER])} figures are better by more than 20 %: keep them with "
            "--update, or the next loss hides in the gain"
        )
    if of[Verdict.UNKNOWN]:
        said.append(
            f"nothing is kept for {len(of[Verdict.UNKNOWN])} figures on Python {_PYTHON}: run "
            "with --update on the commit to compare with, and commit benchmarks/baseline.json"
        )
    if of[Verdict.WORSE]:
        said.append(f"{len(of[Verdict.WORSE])} figures are worse by more than 20 %")
        return 1, said
    return (2 if of[Verdict.UNKNOWN] else 0), said


def keep(path: Path, found: Found, kept: Kept) -> None:
    """Write what was found as the figures of this Python, beside what is kept."""
    everything: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    figures = kept | {
        name: {Kind.INSTRUCTIONS: round(instructions, 1)}
        | ({Kind.TIME: round(found.times[name].ratio, 3)} if name in found.times else {})
        for name, instructions in found.instructions.items()
    }
    made_with = f"{platform.python_implementation()} {platform.python_version()}"
    everything[_PYTHON] = {"made_with": made_with, "figures": figures}
    path.write_text(json.dumps(everything, indent=2, sort_keys=True) + "\n")


def kept_in(path: Path) -> Kept:
    """Return the figures of this Python, none if there are none."""
    everything = json.loads(path.read_text()) if path.exists() else {}
    figures: Kept = everything.get(_PYTHON, {}).get("figures", {})
    return figures


def main() -> int:
    """Measure, compare, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--update", action="store_true", help="keep what is found")
    parser.add_argument("--only", action="append", choices=list(BUILDERS), help="repeatable")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="0 only counts instructions")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="one after the other")
    parser.add_argument("--baseline", type=Path, default=_BASELINE, help="another file of figures")
    parser.add_argument("--explain", action="store_true", help="tell what the workloads are")
    options = parser.parse_args()
    if options.rounds < 0 or options.processes < 1:
        parser.error("--rounds is 0 or more, --processes is 1 or more")
    if options.explain:
        print("\n".join(f"{name:18} {build().what}" for name, build in BUILDERS.items()))
        return 0
    found = Found()
    # What is kept is compared with many times, so it is worth more processes.
    processes = options.processes * (_KEPT if options.update else 1)
    found.measure(options.only or list(BUILDERS), options.rounds, processes)
    kept = kept_in(options.baseline)
    if options.update:
        print(table(compared(kept, found), found))
        # Of a workload that is no more nothing is kept.
        keep(options.baseline, found, kept if options.only else {})
        return 0
    rows = checked(kept, found, options.rounds, options.processes)
    print(table(rows, found))
    code, said = judged(rows)
    print("\n".join(said), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
