"""Commands whose help fits a screen, with all there is to know behind `--help-all`.

The short help, `--help-all`, the manual page and ``docs/cli.md`` are made from the same commands:
their docstring, `details`, `example` and options. An option has one text for all of them: in
``Run <it|a command of the shell>.`` what stands before the bar is for the short help, and what
stands behind it for the others.
"""

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from twinline.cli.console.output import write_line

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

WIDTH: Final = 80
CONTEXT_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": WIDTH}
_HELP_WORDS: Final = "Show this; --help-all shows everything."
_EITHER: Final = re.compile(r"<([^|>]*)\|([^>]*)>")


class _Completed(click.Parameter):
    """A parameter whose value is completed by what the context holds, else by its type."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem[str]]":
        """Return the values that begin so.

        The context's object is a function of the context, the parameter and the beginning; it
        returns what the value can be, or None where that is left to the type.
        """
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - for a shell only

        found: Iterable[str] | None = ctx.obj(ctx, self, incomplete)
        if found is None:
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(value) for value in found if value.startswith(incomplete)]


class Argument(_Completed, click.Argument):
    """An argument with names to complete."""


class Option(_Completed, click.Option):
    """An option with a line for the short help beside its whole description.

    Attributes:
        brief: the line.
        group: the heading of a setting in the long help; None is "Options".
        rare: whether the short help leaves the option out.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        help: str,
        group: str | None = None,
        rare: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(names, help=_EITHER.sub(r"\2", help), **kwargs)
        self.brief = _EITHER.sub(r"\1", help)
        self.group = group
        self.rare = rare

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return what the short help says."""
        if self.rare:
            return None
        default = f"  [{self.get_default(ctx)}]" if self.show_default else ""
        metavar = f" {self.make_metavar(ctx)}" if not self.is_flag else ""
        return f"{', '.join(self.opts)}{metavar}", f"{self.brief}{default}"

    def full_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return what the long help says."""
        return super().get_help_record(ctx)


class Documented(click.Command):
    """What commands and groups have in common.

    Attributes:
        example: a command line that can be tried.
        details: paragraphs for the long help and the manual, beyond those of the docstring.
    """

    def __init__(self, *args: Any, example: str = "", details: str = "", **kwargs: Any) -> None:
        kwargs["context_settings"] = {**CONTEXT_SETTINGS, **kwargs.get("context_settings", {})}
        super().__init__(*args, **kwargs)
        self.example = example
        self.details = details

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return `--help`, written as all else is: click has an end of its own for a pipe's."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = _show_help
        return option

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example, on a line that can be copied."""
        if self.example:
            formatter.write(f"\nExample: {self.example}\n")
        super().format_epilog(ctx, formatter)


class Command(Documented):
    """A command with `--help` and `--help-all`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_help_all())

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return `--help`, which points to the other one."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.help = _HELP_WORDS
        return option

    def long_help(self, ctx: click.Context) -> str:
        """Return the long help: every paragraph, and every option with its whole description."""
        formatter = ctx.make_formatter()
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        for paragraph in paragraphs(self.details):
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(paragraph)
        for title, records in full_records(self, ctx):
            with formatter.section(title):
                formatter.write_dl(records)
        self.format_epilog(ctx, formatter)
        return formatter.getvalue()


class Group(Documented, click.Group):
    """A group of commands; by itself it shows its help."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("invoke_without_command", True)
        super().__init__(*args, **kwargs)


def command(**attributes: Any) -> Callable[[Callable[..., Any]], Command]:
    """Return a decorator that makes a `Command` of a function."""
    return click.command(cls=Command, **attributes)


def option(*names: str, **attributes: Any) -> Callable[..., Any]:
    """Return a decorator that gives a command an `Option`."""
    return click.option(*names, cls=Option, **attributes)


def argument(name: str, **attributes: Any) -> Callable[..., Any]:
    """Return a decorator that gives a command an `Argument`."""
    return click.argument(name, cls=Argument, **attributes)


def _show_help(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        write_line(context.get_help())
        context.exit()


def show_help(context: click.Context) -> None:
    """Print a group's help when no command was named."""
    if context.invoked_subcommand is None:
        write_line(context.get_help())


def paragraphs(text: str) -> Sequence[str]:
    """Return the paragraphs of a text, each on one line."""
    return [" ".join(each.split()) for each in text.split("\n\n") if each.strip()]


def full_records(
    command: click.Command, ctx: click.Context
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return every option with its whole description, under the headings of the settings."""
    sections: dict[str, list[tuple[str, str]]] = {"Options": []}
    for parameter in command.get_params(ctx):
        title = None
        if isinstance(parameter, Option):
            record, title = parameter.full_record(ctx), parameter.group
        else:
            record = parameter.get_help_record(ctx)
        if record is not None:
            sections.setdefault(title or "Options", []).append(record)
    return [(title, records) for title, records in sections.items() if records]


def _help_all() -> Option:
    def show(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
        if asked and not context.resilient_parsing:
            command = context.command
            assert isinstance(command, Command)  # noqa: S101 - it is a parameter of nothing else
            text = command.long_help(context)
            if sys.stdout is not None and sys.stdout.isatty():
                click.echo_via_pager(text)
            else:
                write_line(text.removesuffix("\n"))
            context.exit()

    return Option(
        ["--help-all"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        rare=True,
        help="Show every option with all there is to know, page by page.",
    )
