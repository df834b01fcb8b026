"""Asks the person at the terminal before something is done that cannot be undone."""

import sys

import click

from twinline.cli.console.errors import CommandError
from twinline.cli.console.exit_codes import ExitCode


def confirm(question: str) -> None:
    """Return if the answer is yes.

    Raises:
        CommandError: it is no, or there is no terminal to ask at.
    """
    if not sys.stdin.isatty():
        raise CommandError("there is no terminal to ask at: say --yes", ExitCode.USAGE)
    if not click.confirm(question, err=True):
        raise CommandError("nothing was deleted")
