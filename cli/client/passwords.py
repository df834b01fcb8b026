"""Gets a password without ever taking it from argv, where every user of the machine can read it."""

import getpass
import os
import sys
import warnings
from pathlib import Path
from typing import Final

import click

from twinline.cli.console.command import option
from twinline.cli.console.errors import CommandError
from twinline.cli.console.exit_codes import ExitCode
from twinline.core.errors import InvalidPassword
from twinline.core.protocol import PASSWORD_CHARACTERS

PASSWORD_VARIABLE: Final = "TWINLINE_PASSWORD"  # noqa: S105 - a name, no password

password_option: Final = option(
    "--password-file",
    type=click.Path(allow_dash=True),
    metavar="FILE",
    help="<Its first line is the password|Read the password from the first line of this file>; "
    f"- is stdin.<|  [default: the variable {PASSWORD_VARIABLE}, else a prompt]>",
)
new_password_option: Final = option(
    "--new-password-file",
    type=click.Path(allow_dash=True),
    metavar="FILE",
    help="<Its first line is the new password|Read the new password from the first line of this "
    "file>; - is stdin<|, its second line where the first is the password>."
    "<|  [default: a prompt]>",
)


class PasswordsDiffer(CommandError):
    """What was typed twice was not the same."""

    exit_code = ExitCode.USAGE


def read_password(file: str | None, prompt: str, *, twice: bool = False) -> str:
    """Return a password: from the file, else from TWINLINE_PASSWORD, else from a prompt.

    Args:
        file: a path, or ``-`` for stdin; its first line is the password.
        prompt: what the prompt asks for. It names the server, so that a password is not typed
            for another one.
        twice: ask again and compare, for a password that is new.

    Raises:
        InvalidPassword: what was typed cannot be a password, where one is new; it is not asked for
            again.
        CommandError: there is no password, or the two differ.
    """
    if file is not None:
        return _from_file(file)
    instead = f"use --password-file or {PASSWORD_VARIABLE}"
    return os.environ.get(PASSWORD_VARIABLE) or _typed(prompt, instead, twice=twice)


def new_password(prompt: str) -> str:
    """Return the password of a new account: from TWINLINE_PASSWORD, else from a prompt, twice.

    Raises:
        InvalidPassword: what was typed cannot be a password; it is not asked for again.
        CommandError: there is no password, or the two differ.
    """
    return read_password(None, prompt, twice=True)


def read_new_password(file: str | None, prompt: str) -> str:
    """Return the password that takes another one's place: from the file, else from a prompt.

    Args:
        file: as for `read_password`.
        prompt: what the prompt asks for, twice.

    Raises:
        InvalidPassword: what was typed cannot be a password; it is not asked for again.
        CommandError: there is no password, or the two differ.
    """
    if file is not None:
        return _from_file(file)
    return _typed(prompt, "use --new-password-file", twice=True)


def _typed(prompt: str, instead: str, *, twice: bool) -> str:
    password = ask_password(prompt, instead)
    if twice and len(password) not in PASSWORD_CHARACTERS:
        raise InvalidPassword
    if twice and ask_password("The same again", instead) != password:
        raise PasswordsDiffer("the two passwords differ")
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


def ask_password(prompt: str, instead: str) -> str:
    """Ask for a password at the terminal, without showing it.

    Args:
        prompt: what to ask for.
        instead: what to do where there is no terminal.

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
                f"there is no terminal to ask for the password: {instead}",
                ExitCode.USAGE,
            ) from None
