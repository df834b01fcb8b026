"""`twinline`: the group that holds the commands, and the one place where a command ends."""

import sys
import traceback
from collections.abc import Sequence
from importlib import import_module, metadata
from typing import Any, Final

import click

from twinline.cli.errors import tell
from twinline.cli.exit_codes import ExitCode
from twinline.cli.options import show_help
from twinline.cli.output import prepare_streams

# In the order of the help. A command's module is imported when the command is used, because
# half of a short command's time would go into importing what the others need.
_COMMANDS: Final[tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...]] = (
    (
        "Start here",
        (
            ("demo", "demo:demo", "See two people talk through a real server."),
            ("serve", "serve:serve", "Run a server."),
            ("config", "config:config", "Show or check the settings."),
        ),
    ),
    (
        "Your account",
        (
            ("register", "account_commands:register", "Create an account and log in."),
            ("login", "account_commands:login", "Log in, and stay logged in."),
            ("logout", "account_commands:logout", "End the session."),
            ("status", "account_commands:status", "Show who is logged in and what is unread."),
            ("accounts", "account_commands:accounts", "List accounts."),
            ("delete-account", "account_commands:delete_account", "Delete the account."),
        ),
    ),
    (
        "Messages",
        (
            ("chat", "chat:chat", "Talk, line by line."),
            ("send", "send:send", "Send a message, or many."),
            ("watch", "watch:watch", "Print messages as they arrive."),
            ("history", "account_commands:history", "Print the mailbox."),
        ),
    ),
    (
        "Checks",
        (
            ("store", "store:store", "Check, copy or measure a store's file."),
            ("ping", "ping:ping", "Measure the way to the server and back."),
            ("verify", "verify:verify", "Check that a server loses and repeats nothing."),
            ("bench", "bench:bench", "Measure how fast a server is."),
        ),
    ),
)
_PLACES: Final = {name: place for _, commands in _COMMANDS for name, place, _summary in commands}


class CommandGroup(click.Group):
    """A group that imports a command when it is used, and turns every error into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the commands in the order of the help."""
        return list(_PLACES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command."""
        if cmd_name not in _PLACES:
            return None
        module, _, attribute = _PLACES[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"twinline.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the commands under the headings of their groups."""
        for title, commands in _COMMANDS:
            with formatter.section(title):
                formatter.write_dl([(name, summary) for name, _, summary in commands])

    def main(  # type: ignore[override]  # click's overloads tell apart what we always do
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        **extra: Any,
    ) -> None:
        """Run a command and exit with its code."""
        extra.pop("standalone_mode", None)
        prepare_streams()
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(arguments, prog_name, standalone_mode=False, **extra)
        except Exception as error:  # noqa: BLE001 - a command ends in one line, whatever ended it
            if "--debug" in arguments:
                traceback.print_exc()
            code = tell(error)
        sys.exit(int(code or ExitCode.OK))


@click.command(
    cls=CommandGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: twinline demo. Settings come from flags, TWINLINE_... variables and "
    "twinline.toml; exit codes are 0 done, 1 failed, 2 usage, 3 refused, 4 not reachable, "
    "5 timed out, 130 interrupted.",
)
@click.version_option(metadata.version("twinline"), message="twinline %(version)s")
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback with an error.")
@click.pass_context
def main(context: click.Context) -> None:
    """Accounts, direct messages and instant delivery, from the command line."""
    show_help(context)


if __name__ == "__main__":
    main()
