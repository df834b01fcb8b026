"""Writes the tables of ``docs/how-to/watch.md`` from the table of metrics."""

from typing import Final

from twinline.cli.server.metrics.table import OF_PROCESS, TABLE
from twinline.core.metrics import Metric

BEGIN: Final = "<!-- metrics: begin -->"
END: Final = "<!-- metrics: end -->"


def tables() -> str:
    """Return every metric as Markdown: a table of ours, and one of the process."""
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{each.full_name}` | {_kind(each)} | {_labels(each)} | {each.help} |" for each in TABLE
    ]
    lines += ["", "Of the process, as all programs with prometheus-client have them:", ""]
    lines += ["| metric | kind | meaning |", "|---|---|---|"]
    lines += [f"| `{each.name}` | {each.kind} | {each.help} |" for each in OF_PROCESS]
    return "\n".join([*lines, ""])


def inserted(document: str) -> str:
    """Return a document with the tables between its markers."""
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{tables()}\n{END}{tail}"


def _kind(metric: Metric) -> str:
    return f"{metric.kind}, sampled" if metric.sampled else metric.kind


def _labels(metric: Metric) -> str:
    return ", ".join(f"`{label}`" for label in metric.labels)
