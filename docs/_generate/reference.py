"""Walks the commands for the documentation: one reading of them for the manual and docs/cli.md."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

from twinline.cli.console.command import Documented, Option, paragraphs
from twinline.cli.main import main

Record = tuple[str, str]
_PROGRAM: Final = "twinline"
_LIKE_ALL_CLIENTS: Final = "status"
"""A command that has the options of every client command, and no other."""
CLIENT_OPTIONS_WORDS: Final = (
    "Every command that talks to a server has these, but for one that it has another use for."
)
_OF_CLIENTS_ONLY: Final = "--wait"
_WIDE: Final[dict[str, Any]] = {"terminal_width": 1000, "max_content_width": 1000}
_IN_EVERY_HELP: Final = ("-h", "--help-all")


@dataclass(frozen=True, slots=True)
class Described:
    """A command, as the documentation has it.

    Attributes:
        name: with the names of its groups, as it is typed.
        usage: its arguments.
        summary: its first sentence.
        text: its other paragraphs.
        options: its own, each as it is written and what it means.
        is_client: whether it has the options of client commands besides.
        has_settings: whether it has a flag for every setting besides.
        example: a command line.
    """

    name: str
    usage: str
    summary: str
    text: Sequence[str]
    options: Sequence[Record]
    is_client: bool
    has_settings: bool
    example: str


def program() -> Described:
    """Return the program itself."""
    with _context(main, _PROGRAM) as context:
        return _described(main, context, frozenset())


def commands() -> list[Described]:
    """Return every command that does something, in the order of the overview."""
    with _context(main, _PROGRAM) as context:
        shared = frozenset(client_options())
        return [_described(*each, shared) for each in _leaves(main, context)]


def client_options() -> list[Record]:
    """Return the options that client commands have in common."""
    with _context(main, _PROGRAM) as context:
        like_all = main.get_command(context, _LIKE_ALL_CLIENTS)
        assert like_all is not None  # noqa: S101 - it is one of ours
        with _context(like_all, _LIKE_ALL_CLIENTS, context) as its:
            return _records(like_all, its)


def settings_options() -> dict[str, list[Record]]:
    """Return the flag of every setting, under the headings of the documentation."""
    with _context(main, _PROGRAM) as context:
        group = main.get_command(context, "config")
        assert isinstance(group, click.Group)  # noqa: S101 - it is one of ours
        with _context(group, "config", context) as its:
            show = group.get_command(its, "show")
            assert show is not None  # noqa: S101
            found: dict[str, list[Record]] = {}
            for option in show.params:
                if isinstance(option, Option) and option.group is not None:
                    record = option.full_record(its)
                    if record is not None:
                        found.setdefault(option.group, []).append(_one_spaced(record))
            return found


def _context(
    command: click.Command, name: str, parent: click.Context | None = None
) -> click.Context:
    # Wide enough for no line of usage to be broken, however wide the terminal is.
    return click.Context(command, parent, name, **{**command.context_settings, **_WIDE})


def _leaves(
    group: click.Group, context: click.Context
) -> Iterator[tuple[click.Command, click.Context]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None  # noqa: S101 - it was listed
        its = _context(command, name, context)
        if isinstance(command, click.Group):
            yield from _leaves(command, its)
        else:
            yield command, its


def _described(
    command: click.Command, context: click.Context, shared: frozenset[Record]
) -> Described:
    documented = command if isinstance(command, Documented) else None
    summary, *text = paragraphs(inspect.cleandoc(command.help or ""))
    text += paragraphs(documented.details) if documented else []
    records = _records(command, context)
    example = documented.example if documented else ""
    is_client = any(name == _OF_CLIENTS_ONLY for name, _ in records)
    return Described(
        name=context.command_path,
        usage=" ".join(command.collect_usage_pieces(context)),
        summary=summary,
        text=text,
        options=[each for each in records if not is_client or each not in shared],
        is_client=is_client,
        has_settings=any(isinstance(each, Option) and each.group for each in command.params),
        example=example or (command.epilog or "").removeprefix("Example: "),
    )


def _records(command: click.Command, context: click.Context) -> list[Record]:
    """Return a command's options but for those that stand among the settings."""
    found = []
    for parameter in command.get_params(context):
        if not isinstance(parameter, click.Option) or set(parameter.opts) & set(_IN_EVERY_HELP):
            continue
        record: Any
        if isinstance(parameter, Option):
            if parameter.group is not None:
                continue
            record = parameter.full_record(context)
        else:
            record = parameter.get_help_record(context)
        if record is not None:
            found.append(_one_spaced(record))
    return found


def _one_spaced(record: Record) -> Record:
    name, words = record
    return name, " ".join(words.split())
