"""`twinline completion`: prints what a shell evaluates to complete commands with the Tab key."""

import click

from twinline.cli.completion.shells import SHELLS, script
from twinline.cli.console.command import command
from twinline.cli.console.output import write_json, write_line
from twinline.cli.console.shapes import Script
from twinline.cli.settings.options import json_option


@command(
    example='eval "$(twinline completion bash)"    # in ~/.bashrc',
    details="""
    For zsh the line stands in ~/.zshrc after compinit; for fish it is
    "twinline completion fish | source" in ~/.config/fish/config.fish.

    Commands, options and their values are completed. Usernames are asked for at the server, as
    the account that is logged in, in less than a second; without a server or a session there are
    none. Those of --user come from the kept sessions.
    """,
)
@click.argument("shell", type=click.Choice(list(SHELLS)), metavar="SHELL")
@json_option
def completion(shell: str, as_json: bool) -> None:
    """Print what SHELL evaluates to complete commands with the Tab key.

    SHELL is bash, zsh or fish. Usernames are completed too, from the server, where
    somebody is logged in.
    """
    text = script(shell)
    if as_json:
        write_json(Script(shell=shell, script=text))
    else:
        write_line(text.rstrip("\n"))
