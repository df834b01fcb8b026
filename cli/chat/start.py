"""How a talk gets its session: the kept one, or, at a terminal, one that is made on the spot.

Where nobody is logged in and there is a client certificate, that is tried before anything is asked.
"""

import os
from collections import Counter
from typing import Final

import click

from twinline.cli.client.gone import gone, is_gone
from twinline.cli.client.passwords import (
    PASSWORD_VARIABLE,
    PasswordsDiffer,
    new_password,
    read_new_password,
    read_password,
)
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

_TRIES: Final = 5
"""How often each question is asked; each mistake has a count of its own."""


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
            else:
                return kept
            reply = _again(client, target, kept)
        elif target.user is None and target.shows_certificate:
            reply = _by_certificate(client) or _asked(client, target)
        else:
            reply = _asked(client, target)
        return target.keep(reply, client)


def _again(client: Client, target: Target, ended: KeptSession) -> SessionReply:
    """Open another session of an account, which may be gone with what a server had in memory."""
    username = ended.username
    if not is_gone(ended, client):
        say(f"the session of {username} at {target.place} has ended")
    else:
        say(gone(username, target.place))
        if click.confirm(f"Create {username} again?", default=True, err=True):
            try:
                return _create(client, target, username, is_known=True)
            except UsernameTaken as error:
                say(f"twinline: {sentence(error)}")
    return _log_in(client, target, username, is_known=True)


def _kept(target: Target) -> KeptSession | None:
    try:
        return target.session()
    except CommandError as error:
        if error.exit_code is not ExitCode.REFUSED:
            raise
        return None


def _by_certificate(client: Client) -> SessionReply | None:
    try:
        return client.login_certificate()
    except BadCredentials as error:
        say(f"twinline: {sentence(error)}")
        return None


def _asked(client: Client, target: Target) -> SessionReply:
    name = target.user
    who = "nobody" if name is None else name
    say(f"{who} is {'' if name is None else 'not '}logged in at {target.place}")
    choice = click.prompt(
        "Create an account (c), log in to one (l), or quit (q)?",
        type=click.Choice(["c", "l", "q"]),
        default="c",
        show_choices=False,
        err=True,
    )
    if choice == "q":
        raise CommandError("nobody is logged in", ExitCode.REFUSED)
    if choice == "c":
        return _create(client, target, name)
    return _log_in(client, target, name, is_known=False)


def _create(
    client: Client, target: Target, proposed: str | None, *, is_known: bool = False
) -> SessionReply:
    """Ask for what an account needs, each until it will do; what will do is not asked again.

    Raises:
        UsernameTaken: the name is known, and there is such an account.
    """
    tries = _Tries()
    username = proposed if is_known else None
    password: str | None = None
    invitation: str | None = None
    while True:
        if username is None:
            username = _new_name(tries, proposed)
        if password is None:
            password = _new_password(tries, f"New password for {username} at {target.place}")
        try:
            return client.create_account(username, password, invitation=invitation)
        except (InvalidUsername, UsernameTaken) as error:
            if is_known:
                raise
            tries.again(error)
            username = proposed = None
        except InvalidPassword as error:
            tries.again(error)
            password = None
        except InvitationInvalid as error:
            tries.again(error)
            answer: str = click.prompt("Invitation", err=True)
            invitation = answer.strip()


def _log_in(client: Client, target: Target, name: str | None, *, is_known: bool) -> SessionReply:
    """Ask for the password until it is right, and for the name beside it unless that is known."""
    tries = _Tries()
    while True:
        username = name if is_known and name else _new_name(tries, name)
        try:
            password = read_password(None, f"Password for {username} at {target.place}")
            try:
                return client.login(username, password)
            except PasswordChangeRequired as error:
                say(f"twinline: {sentence(error)}")
            new = _new_password(tries, f"New password for {username} at {target.place}", new=True)
            return client.login(username, password, new_password=new)
        except (BadCredentials, InvalidPassword) as error:
            if os.environ.get(PASSWORD_VARIABLE):
                raise  # it would be the same again
            tries.again(error)


def _new_name(tries: "_Tries", proposed: str | None) -> str:
    while True:
        answer: str = click.prompt("Name", default=proposed, err=True)
        try:
            return parse_username(answer.strip())
        except InvalidUsername as error:
            tries.again(error)
            proposed = None


def _new_password(tries: "_Tries", question: str, *, new: bool = False) -> str:
    """Ask for a password that is new, twice; one that cannot be one is told before that.

    Args:
        tries: counts.
        question: what is asked for.
        new: it takes the place of the one that `read_password` knows.
    """
    while True:
        try:
            password = read_new_password(None, question) if new else new_password(question)
        except (InvalidPassword, PasswordsDiffer) as error:
            tries.again(error)
        else:
            return password


class _Tries:
    """Counts how often each mistake was made."""

    def __init__(self) -> None:
        self._made: Counter[type[Exception]] = Counter()

    def again(self, error: Exception) -> None:
        """Tell a mistake, so that it is asked again.

        Raises:
            CommandError: it was made too often.
        """
        say(f"twinline: {sentence(error)}")
        self._made[type(error)] += 1
        if self._made[type(error)] == _TRIES:
            raise CommandError("too many attempts", ExitCode.REFUSED)
