"""Gets a password without ever taking it from argv, where every user of the machine can read it."""

import getpass
import os
import sys
import warnings
from pathlib import Path

import click

from twinline.cli.errors import CommandError
from twinline.cli.exit_codes import ExitCode

password_option = click.option(
    "--password-file",
    metavar="FILE",
    help="Read the password from the first line of this file; - is stdin.  "
    "[default: the variable TWINLINE_PASSWORD, else a prompt]",
)


def read_password(file: str | None, prompt: str, *, twice: bool = False) -> str:
    """Return a password: from the file, else from TWINLINE_PASSWORD, else from a prompt.

    Args:
        file: a path, or ``-`` for stdin; its first line is the password.
        prompt: what the prompt asks for. It names the server, so that nobody types a password
            for another one.
        twice: ask again and compare, for a password that is new.

    Raises:
        CommandError: there is no password, or the two differ.
    """
    if file is not None:
        return _from_file(file)
    variable = os.environ.get("TWINLINE_PASSWORD")
    if variable:
        return variable
    password = ask_password(prompt)
    if twice and ask_password("The same again") != password:
        raise CommandError("the two passwords differ", ExitCode.USAGE)
    return password


def _from_file(file: str) -> str:
    try:
        if file == "-":
            line = sys.stdin.readline()
        else:
            with Path(file).open(encoding="utf-8") as lines:
                line = lines.readline()
    except OSError as error:
        message = f"cannot read the password file {file}: {error.strerror}"
        raise CommandError(message, ExitCode.USAGE) from None
    except UnicodeDecodeError:
        raise CommandError(f"the password file {file} is not UTF-8", ExitCode.USAGE) from None
    password = line.rstrip("\r\n")
    if not password:
        where = "stdin" if file == "-" else file
        raise CommandError(f"the first line of {where} is empty: no password", ExitCode.USAGE)
    return password


def ask_password(prompt: str) -> str:
    """Ask for a password at the terminal, without showing it.

    Raises:
        CommandError: there is no terminal.
    """
    with warnings.catch_warnings():
        # Without a terminal getpass would read stdin with an echo; we say what to do instead.
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(f"{prompt}: ")
        except (getpass.GetPassWarning, EOFError):
            raise CommandError(
                "there is no terminal to ask for the password: "
                "use --password-file or TWINLINE_PASSWORD",
                ExitCode.USAGE,
            ) from None
