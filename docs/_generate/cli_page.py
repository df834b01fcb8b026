"""Writes the parts of ``docs/cli.md`` that are made from the program: flags, shapes, exit codes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from json_shapes import PRINTED, fields, inner_models
from pydantic import BaseModel
from reference import (
    CLIENT_OPTIONS_WORDS,
    Described,
    Record,
    client_options,
    commands,
    program,
)

from twinline.cli.commands import COMMANDS
from twinline.cli.console.command import paragraphs
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.console.shapes import Failure


def overview() -> str:
    """Return the table of the commands."""
    first: dict[str, str] = {}  # a group's first command, or the command itself
    for command in commands():
        first.setdefault(command.name.split()[1], command.name)
    rows = ["| command | does |", "|---|---|"]
    for title, each in COMMANDS:
        rows.append(f"| **{title}** | |")
        rows += [f"| [`{name}`](#{_anchor(first[name])}) | {does} |" for name, _, does in each]
    return "\n".join(rows) + "\n"


def exit_codes() -> str:
    """Return the table of the exit codes."""
    rows = ["| code | meaning |", "|---|---|"]
    rows += [f"| {int(code)} | {_cell(code.meaning)} |" for code in ExitCode]
    return "\n".join(rows) + "\n"


def shapes() -> str:
    """Return which objects each command prints, and the fields of each."""
    rows = ["| command | objects | each with |", "|---|---|---|"]
    models: list[type[BaseModel]] = []
    for name, printed in PRINTED.items():
        for model in printed.models:
            models += [model, *inner_models(model)]
        linked = " or ".join(
            f"[{model.__name__}](#json-{model.__name__.lower()})" for model in printed.models
        )
        rows.append(f"| `{name}` | {printed.each} | {linked} |")
    parts = ["\n".join(rows) + "\n"]
    parts += [_shape(model) for model in dict.fromkeys(models)]
    return "\n".join(parts)


def failure() -> str:
    """Return the fields of what a failure prints."""
    return _fields(Failure)


def reference() -> str:
    """Return every command with its options."""
    whole = program()
    parts = [
        f"### twinline\n\n    twinline {whole.usage}\n\n{_options(whole.options)}",
        f"### Options of client commands\n\n{CLIENT_OPTIONS_WORDS}\n\n{_options(client_options())}",
    ]
    return "\n".join([*parts, *(_command(each) for each in commands())])


SECTIONS: Final[Mapping[str, Callable[[], str]]] = {
    "commands": overview,
    "exit codes": exit_codes,
    "failure": failure,
    "shapes": shapes,
    "reference": reference,
}
"""By the name between the markers."""


def inserted(document: str) -> str:
    """Return the page with each part between its markers made anew.

    Raises:
        ValueError: there is not one place for a part.
    """
    for name, make in SECTIONS.items():
        begin, end = f"<!-- made: {name} -->\n", f"<!-- end: {name} -->"
        if (document.count(begin), document.count(end)) != (1, 1):
            raise ValueError(f"the page does not have one place for {name}")
        before, _, rest = document.partition(begin)
        after = rest.partition(end)[2]
        document = f"{before}{begin}\n{make()}\n{end}{after}"
    return document


def _command(command: Described) -> str:
    lines = [f"### {command.name}", "", f"    {command.name} {command.usage}", ""]
    for paragraph in (command.summary, *command.text):
        lines += [_escaped(paragraph), ""]
    if command.options:
        lines += [_options(command.options)]
    more = [
        "the [options of client commands](#options-of-client-commands)" * command.is_client,
        "a flag for every [setting](settings.md)" * command.has_settings,
    ]
    if any(more):
        begin = "Besides" if command.options else "It has"
        words = " and ".join(filter(None, more))
        lines += [f"{begin}: {words}." if command.options else f"{begin} {words}.", ""]
    lines += [f"Example: `{command.example}`", ""]
    return "\n".join(lines)


def _options(records: Iterable[Record]) -> str:
    rows = ["| option | meaning |", "|---|---|"]
    rows += [f"| `{_cell(name)}` | {_cell(_escaped(words))} |" for name, words in records]
    return "\n".join(rows) + "\n"


def _shape(model: type[BaseModel]) -> str:
    summary = paragraphs(model.__doc__ or "")[0]
    return f"### JSON: {model.__name__}\n\n{summary}\n\n{_fields(model)}"


def _fields(model: type[BaseModel]) -> str:
    rows = ["| field | is | type |", "|---|---|---|"]
    rows += [f"| `{name}` | {_cell(words)} | {kind} |" for name, words, kind in fields(model)]
    return "\n".join(rows) + "\n"


def _anchor(heading: str) -> str:
    return heading.replace(" ", "-")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _escaped(text: str) -> str:
    for character in "\\*<":
        text = text.replace(character, f"\\{character}")
    return text
