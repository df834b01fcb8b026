"""The commands about accounts: from `register` and `login` to `delete-account`."""

from collections.abc import Callable
from typing import Any

from twinline.cli.client.gone import IN_MEMORY_ALONE, gone_for_a_command, is_gone
from twinline.cli.client.passwords import (
    new_password_option,
    password_option,
    read_new_password,
    read_password,
)
from twinline.cli.client.target import Target, client_options, whereabouts
from twinline.cli.console.asking import confirm
from twinline.cli.console.command import argument, command, option
from twinline.cli.console.errors import CommandError, sentence
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.console.output import (
    report,
    say,
    standing_line,
    write_json,
    write_line,
    write_usernames,
)
from twinline.cli.console.shapes import Account, LoggedIn
from twinline.cli.console.text import visible
from twinline.core.errors import (
    BadCredentials,
    InvitationInvalid,
    PasswordChangeRequired,
    SessionExpired,
)
from twinline.core.names import parse_username
from twinline.core.protocol import SessionReply
from twinline.transports.client import Client


@command(example="twinline register ann --password-file ann.password")
@argument("username")
@option(
    "--invitation",
    metavar="TOKEN",
    help="The operator's invitation<|, where the server asks for one; it counts once>.",
)
@password_option
@client_options
def register(
    username: str, invitation: str | None, password_file: str | None, as_json: bool, **options: Any
) -> None:
    """Create the account USERNAME and log in to it.

    The session is kept for the commands that follow.
    """
    target = Target.of(options)
    name = parse_username(username)
    password = read_password(
        password_file, f"New password for {name} at {target.place}", twice=True
    )
    try:
        _open_session(
            target,
            as_json,
            lambda client: client.create_account(name, password, invitation=invitation),
        )
    except InvitationInvalid as error:
        how = "say --invitation TOKEN" if invitation is None else "this one does not count"
        raise InvitationInvalid(f"{error.message} ({how})") from None


@command(
    example="twinline login ann --connect unix:/tmp/twinline.sock",
    details="""
    With --certificate there is neither a name nor a password to give: the certificate of
    --client-cert names the account. Its session ends when the certificate expires or is revoked.

    A one-time password, which the operator has given out, is changed by the login: the new one
    comes from --new-password-file or a prompt, and is asked for only then. With - for both, stdin
    has the password on its first line and the new one on its second.
    """,
)
@argument("username", required=False)
@option(
    "--certificate",
    is_flag=True,
    help="Log in as whom the client certificate names<|, without a password>.",
)
@password_option
@new_password_option
@client_options
def login(
    username: str | None,
    certificate: bool,
    password_file: str | None,
    new_password_file: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Log in as USERNAME, or as whom a certificate names.

    The session is kept, in a file that only you can read, for the commands that follow. Several
    accounts can be logged in; --user tells them apart.
    """
    target = Target.of(options)
    if certificate:
        if (username, password_file, new_password_file) != (None, None, None):
            raise CommandError(
                "with --certificate there is no USERNAME and no password to give: the certificate "
                "says who it is",
                ExitCode.USAGE,
            )
        target.require_certificate()
        _open_session(target, as_json, Client.login_certificate)
        return
    if username is None:
        raise CommandError("say who logs in: USERNAME, or --certificate", ExitCode.USAGE)
    name = parse_username(username)
    password = read_password(password_file, f"Password for {name} at {target.place}")
    try:
        _open_session(target, as_json, lambda client: _log_in(client, target, name, password))
    except PasswordChangeRequired as error:
        # Apart from the connection, which does not wait for a person.
        say(error.message)
        new = read_new_password(new_password_file, f"New password for {name} at {target.place}")
        _open_session(
            target, as_json, lambda client: client.login(name, password, new_password=new)
        )


@command(example="twinline logout --user ann")
@client_options
def logout(as_json: bool, **options: Any) -> None:
    """End the kept session, on the server and here."""
    target = Target.of(options)
    session = target.session()
    with target.anonymous() as client:
        try:
            client.resume(session.token)
            client.logout()
        except SessionExpired:
            say("the session had ended already")
    target.forget(session)
    report(
        Account(username=session.username),
        f"{session.username} is logged out of {target.place}",
        as_json=as_json,
    )


@command(example="twinline status --json")
@client_options
def status(as_json: bool, **options: Any) -> None:
    """Show who is logged in, and how much is unread."""
    target = Target.of(options)
    with target.logged_in() as client:
        reply = client.status()
        where = whereabouts(client)
    if as_json:
        write_json(reply)
    else:
        write_line(standing_line(f"{visible(reply.username)} at {where}", reply))


@command(example="twinline accounts 'a*'")
@argument("pattern", default="*")
@client_options
def accounts(pattern: str, as_json: bool, **options: Any) -> None:
    r"""List the accounts that match PATTERN, sorted, one a line.

    In a pattern * stands for any run of characters, ? for one, and \ escapes. Quote it, or the
    shell may take it for files.
    """
    with Target.of(options).logged_in() as client:
        write_usernames(client.accounts(pattern), as_json=as_json)


@command(
    name="change-password",
    example="twinline change-password --user ann --new-password-file ann.new",
    details="""
    The password comes from --password-file, TWINLINE_PASSWORD or a prompt, as for login; the new
    one from --new-password-file or a prompt. With - for both, stdin has the password on its first
    line and the new one on its second.
    """,
)
@password_option
@new_password_option
@client_options
def change_password(
    password_file: str | None, new_password_file: str | None, as_json: bool, **options: Any
) -> None:
    """Change the password of the account that is logged in.

    The kept session goes on; every other session of the account ends.
    """
    target = Target.of(options)
    session = target.session()
    name = session.username
    password = read_password(password_file, f"Password for {name} at {target.place}")
    new = read_new_password(new_password_file, f"New password for {name} at {target.place}")
    with target.logged_in(session) as client:
        client.change_password(password, new)
    report(Account(username=name), f"the password of {name} is changed", as_json=as_json)


@command(name="delete-account", example="twinline delete-account --user ann --force")
@password_option
@option("--force", is_flag=True, help="Even if messages were never delivered.")
@option("--yes", is_flag=True, help="Do not ask.")
@client_options
def delete_account(
    password_file: str | None, force: bool, yes: bool, as_json: bool, **options: Any
) -> None:
    """Delete the account that is logged in, with its mailbox and all its sessions.

    It cannot be undone, and the name stays reserved. Messages that it sent stay with those who
    got them.
    """
    target = Target.of(options)
    session = target.session()
    if not yes:
        confirm(f"Delete {session.username} at {target.place} and all its mail?")
    password = read_password(password_file, f"Password for {session.username} at {target.place}")
    with target.logged_in(session) as client:
        client.delete_account(password, force=force)
    target.forget(session)
    report(Account(username=session.username), f"{session.username} is deleted", as_json=as_json)


def _log_in(client: Client, target: Target, username: str, password: str) -> SessionReply:
    """Log in by a password.

    Raises:
        CommandError: the username or the password is wrong, and the account may be gone.
        BadCredentials: one of them is wrong, for another reason.
    """
    try:
        return client.login(username, password)
    except BadCredentials as error:
        if client.incarnation is None:
            raise
        try:
            kept = target.sessions.find(target.endpoints, username)
        except CommandError:  # there is none, as a command has forgotten it
            why = f"{sentence(error)} ({IN_MEMORY_ALONE})"
            raise CommandError(why, ExitCode.REFUSED) from error
        if not is_gone(kept, client):
            raise
        raise gone_for_a_command(username, target.place) from error


def _open_session(
    target: Target, as_json: bool, open_one: Callable[[Client], SessionReply]
) -> None:
    with target.anonymous() as client:
        reply = open_one(client)
        target.keep(reply, client)
    report(
        # Without the token: what a script logs must not open the mailbox.
        LoggedIn(username=reply.username, position=reply.position, unread=reply.unread),
        f"logged in as {visible(reply.username)} at {target.place}, {reply.unread} unread",
        as_json=as_json,
    )
