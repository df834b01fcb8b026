"""Writes the tables of ``docs/settings.md`` from the model."""

from typing import Any, Final

from twinline.cli.settings.model import GROUPS, SERVER_FIELDS, describe_expected
from twinline.cli.settings.options import CLIENT_FLAGS
from twinline.cli.settings.sources import flag_name
from twinline.core.reloading import OnReload, on_reload

BEGIN: Final = "<!-- settings: begin -->"
END: Final = "<!-- settings: end -->"


_MARKS: Final = {
    OnReload.APPLIES: "yes",
    OnReload.STORE: "alone",
    OnReload.RESTART: "restart",
    "client": "",
}
"""What a reload does, in a word; the page says what they mean."""


def tables() -> str:
    """Return every setting as Markdown, a table for each group."""
    lines: list[str] = []
    for title, model in GROUPS:
        lines += [f"### {title}", "", "| key | flag | default | value | reload | meaning |"]
        lines.append("|---|---|---|---|---|---|")
        for name, field in model.model_fields.items():
            cells = (
                f"`{name}`",
                f"`{CLIENT_FLAGS.get(name, flag_name(name))}`",
                _shown(field.default),
                describe_expected(name),
                _MARKS["client" if name not in SERVER_FIELDS else on_reload(field)],
                field.description or "",
            )
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def inserted(document: str) -> str:
    """Return a document with the tables between its markers."""
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{tables()}\n{END}{tail}"


def _shown(default: Any) -> str:
    if default is None or default == ():
        return "unset"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return " ".join(f"`{item}`" for item in default)
    return f"`{default}`"
