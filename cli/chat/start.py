"""How a talk gets its session: the kept one, or, at a terminal, one that is made on the spot.

Where nobody is logged in and there is a client certificate, that is tried before anything is asked.
"""

from collections.abc import Callable
from typing import Final

import click

from twinline.cli.client.passwords import PasswordsDiffer, read_new_password, read_password
from twinline.cli.client.sessions import KeptSession
from twinline.cli.client.target import Target
from twinline.cli.console.errors import CommandError, sentence
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.console.output import say
from twinline.core.errors import (
    BadCredentials,
    InvalidPassword,
    InvalidUsername,
    InvitationInvalid,
    PasswordChangeRequired,
    SessionExpired,
    UsernameTaken,
)
from twinline.core.names import parse_username
from twinline.core.protocol import SessionReply
from twinline.transports.client import Client

_ATTEMPTS: Final = 5
_TO_BE_TRIED_AGAIN: Final = (
    InvalidUsername,
    InvalidPassword,
    UsernameTaken,
    BadCredentials,
    InvitationInvalid,
    PasswordsDiffer,
)


def session_at_terminal(target: Target) -> KeptSession:
    """Return a session that is open at the server, opening one with the person's help.

    Raises:
        CommandError: there is none, and the person wants none.
        click.Abort: Ctrl-C, or the end of input.
    """
    kept = _kept(target)
    with target.anonymous() as client:
        if kept is not None:
            try:
                client.resume(kept.token)
            except SessionExpired:
                target.forget(kept)
                say(f"the session of {kept.username} at {target.place} has ended")
            else:
                return kept
        elif target.user is None:
            if target.shows_certificate:
                try:
                    return target.keep(client.login_certificate())
                except BadCredentials as error:
                    say(f"twinline: {sentence(error)}")
            say(f"nobody is logged in at {target.place}")
        else:
            say(f"{target.user} is not logged in at {target.place}")
        name = target.user if kept is None else kept.username
        reply = _opened(client, target, name, is_known=kept is not None)
    return target.keep(reply)


def _kept(target: Target) -> KeptSession | None:
    try:
        return target.session()
    except CommandError as error:
        if error.exit_code is not ExitCode.REFUSED:
            raise
        return None


def _opened(client: Client, target: Target, name: str | None, *, is_known: bool) -> SessionReply:
    choice = click.prompt(
        "Create an account (c), log in to one (l), or quit (q)?",
        type=click.Choice(["c", "l", "q"]),
        default="l" if is_known else "c",
        show_choices=False,
        err=True,
    )
    if choice == "q":
        raise CommandError("nobody is logged in", ExitCode.REFUSED)
    if choice == "c":
        return _attempts(lambda: _create(client, target, None if is_known else name))
    return _attempts(lambda: _log_in(client, target, name))


def _create(client: Client, target: Target, name: str | None) -> SessionReply:
    username = parse_username(_name("Choose a name", name))
    question = f"New password for {username} at {target.place}"
    password = read_password(None, question, twice=True)
    try:
        return client.create_account(username, password)
    except InvitationInvalid as error:
        say(f"twinline: {sentence(error)}")
    invitation: str = click.prompt("Invitation", err=True)
    return client.create_account(username, password, invitation=invitation.strip())


def _log_in(client: Client, target: Target, name: str | None) -> SessionReply:
    username = parse_username(_name("Name", name))
    password = read_password(None, f"Password for {username} at {target.place}")
    try:
        return client.login(username, password)
    except PasswordChangeRequired as error:
        say(f"twinline: {sentence(error)}")
    new = read_new_password(None, f"New password for {username} at {target.place}")
    return client.login(username, password, new_password=new)


def _name(question: str, proposed: str | None) -> str:
    answer: str = click.prompt(question, default=proposed, err=True)
    return answer.strip()


def _attempts(attempt: Callable[[], SessionReply]) -> SessionReply:
    """Try until it is done, telling what was wrong with each attempt."""
    for _ in range(_ATTEMPTS):
        try:
            return attempt()
        except _TO_BE_TRIED_AGAIN as error:
            say(f"twinline: {sentence(error)}")
    raise CommandError("too many attempts", ExitCode.REFUSED)
