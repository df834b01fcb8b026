"""Writes the tables of ``docs/events.md`` from the table of events."""

import logging
from typing import Final

from twinline.core.events import EVENTS, Event

BEGIN: Final = "<!-- events: begin -->"
END: Final = "<!-- events: end -->"


def tables() -> str:
    """Return every event as Markdown: a table of all, and one of the fields."""
    lines = ["| event | level | when | counted by |", "|---|---|---|---|"]
    lines += [
        f"| `{each.name}` | {_level(each)} | {each.about} | {' and '.join(each.by)} |"
        for each in EVENTS.values()
    ]
    lines += ["", "| event | field | meaning |", "|---|---|---|"]
    lines += [
        f"| `{each.name}` | `{name}` | {meaning} |"
        for each in EVENTS.values()
        for name, meaning in each.fields.items()
    ]
    return "\n".join([*lines, ""])


def inserted(document: str) -> str:
    """Return a document with the tables between its markers."""
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{tables()}\n{END}{tail}"


def _level(event: Event) -> str:
    return logging.getLevelName(event.level).lower()
