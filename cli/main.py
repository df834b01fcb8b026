"""`twinline`: the group that holds the commands, and the one place where a command ends."""

import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from twinline.cli.commands import COMMANDS, COMPLETE_VARIABLE, PLACES, TOGETHER
from twinline.cli.console.command import Group, show_help
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.console.output import prepare_streams, write_line
from twinline.cli.console.text import visible

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class CommandGroup(Group):
    """A group that imports a command when it is used, and turns every error into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the commands in the order of the help."""
        return list(PLACES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command."""
        if cmd_name not in PLACES:
            return None
        module, _, attribute = PLACES[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"twinline.cli.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is named, or say which one may be meant."""
        if args and args[0] not in PLACES:
            near = get_close_matches(args[0], PLACES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            ctx.fail(f"there is no command {visible(args[0])}{hint}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem[str]]":
        """Return the commands that begin so, by the table: none has to be imported."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - for a shell only

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=summary)
            for _, commands in COMMANDS
            for name, _, summary in commands
            if name.startswith(incomplete)
        ]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the commands beside the titles of their groups; the usage has the options."""
        formatter.write("\n")
        for title, commands in COMMANDS:
            shared = {second for second, _ in TOGETHER.values()}
            for at, (name, _, summary) in enumerate(commands):
                if name in shared:
                    continue
                heading = "" if at else f"{title}:"
                second, words = TOGETHER.get(name, ("", summary))
                names = f"{name}, {second}" if second else name
                formatter.write(f"{heading:<14}{names:<18}{words}\n")

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the example."""
        formatter.write(f"Example:      {self.example}\n")

    def main(  # type: ignore[override]  # click's overloads tell apart what we always do
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        **extra: Any,
    ) -> None:
        """Run a command and exit with its code."""
        extra.pop("standalone_mode", None)
        prepare_streams()
        if COMPLETE_VARIABLE in os.environ:
            from twinline.cli.completion.shells import answer  # noqa: PLC0415 - for a shell only

            sys.exit(answer(self, os.environ[COMPLETE_VARIABLE]))
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(arguments, prog_name, standalone_mode=False, **extra)
        except Exception as error:  # noqa: BLE001 - a command ends in one line, whatever ended it
            from twinline.cli.console.errors import report  # noqa: PLC0415 - imports every kind of error

            flags = arguments[: arguments.index("--")] if "--" in arguments else arguments
            if "--debug" in flags:
                traceback.print_exc()
            code = report(error, as_json="--json" in flags)
        sys.exit(int(code or ExitCode.OK))


def _show_version(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        from importlib import metadata  # noqa: PLC0415 - is slow to import

        write_line(f"twinline {metadata.version('twinline')}")
        context.exit()


@click.command(
    cls=CommandGroup,
    invoke_without_command=True,
    options_metavar="[--version] [--debug] [--help]",
    subcommand_metavar="COMMAND [ARGS]...",
    example="twinline demo    (twinline COMMAND --help has one for each)",
    details="""
    Standard output carries data, standard error talk, and the exit code says what happened.

    Settings come from flags, TWINLINE_... variables and twinline.toml, in this order.
    """,
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version.",
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback with an error.")
@click.pass_context
def main(context: click.Context) -> None:
    """Accounts, direct messages and instant delivery, from the command line."""
    show_help(context)


if __name__ == "__main__":
    main()
