"""Writes the drawing and the tables of a client's states in `docs/api/client.md` from the table."""

import ast
import inspect
from enum import Enum
from typing import Any, Final

from twinline.transports.client.engine.link import TRANSITIONS, Event, LinkState

BEGIN: Final = "<!-- states: begin -->"
END: Final = "<!-- states: end -->"


def drawing() -> str:
    """Return the transitions as a Mermaid drawing; states that are reported as one are in a box."""
    lines = ["stateDiagram-v2", f"    [*] --> {LinkState.CONNECTING.name}"]
    for kind in {state.kind: None for state in LinkState}:
        states = [f'state "{one.value}" as {one.name}' for one in LinkState if one.kind is kind]
        if len(states) > 1:
            states = [f'state "{kind.value}" as {kind.name} {{', *(f"    {s}" for s in states), "}"]
        lines += [f"    {state}" for state in states]
    for state, row in TRANSITIONS.items():
        for to in dict.fromkeys(row.values()):
            events = ", ".join(event.value for event, then in row.items() if then is to)
            lines.append(f"    {state.name} --> {to.name}: {events}")
    return "\n".join(lines)


def table(head: str, kind: type[Enum]) -> str:
    """Return the members of an enumeration with what the source says of each."""
    body = ast.parse(inspect.getsource(kind)).body[0]
    said: list[Any] = [
        node.value.value
        for node in getattr(body, "body", [])
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    rows = [f"| {member.value} | {text} |" for member, text in zip(kind, said[1:], strict=True)]
    return "\n".join([f"| {head} | meaning |", "|---|---|", *rows])


def inserted(document: str) -> str:
    """Return a document with the drawing and the tables between its markers."""
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    made = f"```mermaid\n{drawing()}\n```\n\n{table('state', LinkState)}\n\n{table('event', Event)}"
    return f"{head}{BEGIN}\n\n{made}\n\n{END}{tail}"
