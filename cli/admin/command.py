"""`twinline admin`: what the operator of a server does to accounts, invitations and the server."""

from typing import Any

import click

from twinline.cli.admin.client import AdminTarget, admin_options, see_all_answered
from twinline.cli.admin.export import export
from twinline.cli.console.asking import confirm
from twinline.cli.console.command import Group, argument, command, option, show_help
from twinline.cli.console.errors import CommandError
from twinline.cli.console.numbers import FiniteRange
from twinline.cli.console.output import report, say, write_json, write_line
from twinline.cli.console.text import counted, local_time, visible
from twinline.cli.server.admin import replies, requests
from twinline.core.admin import INVITATION_HOURS
from twinline.core.names import parse_username

_MOST_HOURS = 24 * 366


class _AdminGroup(Group):
    """A group whose help has its commands, in their order, and fits a screen."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the commands in the order of the help."""
        return list(self.commands)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands alone."""
        self.format_commands(ctx, formatter)


@click.group(cls=_AdminGroup, example="twinline admin accounts --admin unix:/run/twinline/admin")
@click.pass_context
def admin(context: click.Context) -> None:
    """Look after a server that runs, through its admin socket (--admin)."""
    show_help(context)


# -- accounts ---------------------------------------------------------------------------------


@command(
    example="twinline admin accounts 'a*'",
    short_help="List accounts, with what their mailboxes hold.",
    details="""
    In PATTERN * stands for any run of characters, ? for one, and \\ escapes. The list comes page by
    page, and each mailbox is read for its size: `| head` is enough to end it.
    """,
)
@argument("pattern", default="*")
@admin_options
def accounts(pattern: str, as_json: bool, **options: Any) -> None:
    """List the accounts that match PATTERN, with what their mailboxes hold."""
    target = AdminTarget.of(options)
    after, more, titled = None, True, as_json
    while more:
        asked = requests.Accounts(pattern=pattern, after=after)
        page = target.ask(asked, replies.AccountStates)
        for each in page.accounts:
            if not titled:
                titled = True
                write_line(_ROW.format(*_TITLES))
            if as_json:
                write_json(each)
            else:
                write_line(_account_line(each))
        after, more = page.last, page.more


_TITLES = ("ACCOUNT", "STATE", "SESSIONS", "UNREAD", "MESSAGES", "BYTES", "QUOTA")
_ROW = "{:<24} {:<8} {:>8} {:>8} {:>8} {:>10} {:>7}"


def _account_line(each: replies.AccountState) -> str:
    state = "one-time" if each.must_change else "enabled"
    return _ROW.format(
        visible(each.username),
        state if each.enabled else "disabled",
        each.sessions,
        each.unread,
        each.messages,
        each.bytes,
        "-" if each.quota is None else each.quota,
    )


@command(example="twinline admin sessions bob", short_help="List the open sessions of an account.")
@argument("username", metavar="NAME")
@admin_options
def sessions(username: str, as_json: bool, **options: Any) -> None:
    """List the open sessions of the account NAME, the one that was used last first."""
    asked = requests.Sessions(username=parse_username(username))
    found = AdminTarget.of(options).ask(asked, replies.OpenSessions)
    for each in found.sessions:
        if as_json:
            write_json(each)
        else:
            write_line(
                f"opened {local_time(each.opened_at)}, used {local_time(each.used_at)} or later"
            )


@command(
    example="twinline admin kick bob",
    short_help="End the sessions of an account, and its connections.",
)
@argument("username", metavar="NAME")
@admin_options
def kick(username: str, as_json: bool, **options: Any) -> None:
    """End all sessions of the account NAME, and its connections with them.

    Whoever knows the password can log in again: 'twinline admin disable' lets nobody.
    """
    asked = requests.Kick(username=parse_username(username))
    done = AdminTarget.of(options).ask(asked, replies.Kicked)
    were = counted(done.sessions, "session was", "sessions were")
    report(done, f"{were} ended of {done.username}", as_json=as_json)


@command(example="twinline admin disable bob", short_help="Let nobody log in to an account.")
@argument("username", metavar="NAME")
@admin_options
def disable(username: str, as_json: bool, **options: Any) -> None:
    """Let nobody log in to the account NAME, and end all its sessions.

    Its mail still arrives, and is there when it is enabled again.
    """
    asked = requests.Disable(username=parse_username(username))
    done = AdminTarget.of(options).ask(asked, replies.Switched)
    report(done, f"{done.username} is disabled", as_json=as_json)


@command(example="twinline admin enable bob", short_help="Let an account be logged in to again.")
@argument("username", metavar="NAME")
@admin_options
def enable(username: str, as_json: bool, **options: Any) -> None:
    """Let the account NAME be logged in to again."""
    asked = requests.Enable(username=parse_username(username))
    done = AdminTarget.of(options).ask(asked, replies.Switched)
    report(done, f"{done.username} is enabled", as_json=as_json)


@command(
    name="reset-password",
    example="twinline admin reset-password bob",
    short_help="Print a one-time password for an account.",
    details="The password is shown once and kept nowhere. It opens nothing but a login that sets "
    "another one: 'twinline login', the chat and the web page ask for that.",
)
@argument("username", metavar="NAME")
@admin_options
def reset_password(username: str, as_json: bool, **options: Any) -> None:
    """Give the account NAME a one-time password, print it, and end all its sessions."""
    asked = requests.ResetPassword(username=parse_username(username))
    done = AdminTarget.of(options).ask(asked, replies.OneTimePassword)
    if as_json:
        write_json(done)
        return
    write_line(done.password)
    say(f"{done.username} logs in with it once, and chooses another password then")


@command(
    example="twinline admin quota bob 100000",
    short_help="Set how many unread messages a mailbox may hold.",
)
@argument("username", metavar="NAME")
@argument("messages", metavar="MESSAGES|default")
@admin_options
def quota(username: str, messages: str, as_json: bool, **options: Any) -> None:
    """Set how many unread messages the mailbox of NAME may hold before senders wait.

    With 'default' it is the setting mailbox_messages again.
    """
    number = None
    if messages != "default":
        if not messages.isdecimal() or not 1 <= len(messages) <= 15 or int(messages) < 1:
            raise click.UsageError(f"{visible(messages)} is no number of messages, nor 'default'")
        number = int(messages)
    asked = requests.Quota(username=parse_username(username), messages=number)
    done = AdminTarget.of(options).ask(asked, replies.QuotaSet)
    what = "as the setting has it" if done.quota is None else counted(done.quota, "message")
    report(done, f"the quota of {done.username} is {what}", as_json=as_json)


@command(example="twinline admin delete bob", short_help="Delete an account, and all its mail.")
@argument("username", metavar="NAME")
@option("--yes", is_flag=True, help="Do not ask.")
@admin_options
def delete(username: str, yes: bool, as_json: bool, **options: Any) -> None:
    """Delete the account NAME, with its mailbox and all its sessions.

    It cannot be undone, and the name stays reserved. Messages that it sent stay
    with those who got them. 'twinline admin export' keeps a copy of its data.
    """
    target, name = AdminTarget.of(options), parse_username(username)
    if not yes:
        confirm(f"Delete {name} and all its mail?")
    done = target.ask(requests.Delete(username=name), replies.Deleted)
    report(done, f"{done.username} is deleted", as_json=as_json)


# -- invitations ------------------------------------------------------------------------------


@command(
    example="twinline admin invite --hours 24 --note 'for carol'",
    short_help="Print the token of a new invitation.",
    details="The token is shown once and kept nowhere. Whoever has it creates one account with "
    "'twinline register --invitation', where the setting registration is 'invitation'.",
)
@option(
    "--hours",
    type=FiniteRange(min=0, min_open=True, max=_MOST_HOURS),
    default=INVITATION_HOURS,
    show_default=True,
    metavar="NUMBER",
    help="How long it counts.",
)
@option("--note", default="", metavar="TEXT", help="For the list of invitations.")
@admin_options
def invite(hours: float, note: str, as_json: bool, **options: Any) -> None:
    """Print the token of a new invitation, which lets one account be created."""
    if len(note) > requests.NOTE_CHARACTERS or not note.isprintable():
        raise click.UsageError(
            f"a note is one line of at most {requests.NOTE_CHARACTERS} characters"
        )
    asked = requests.Invite(hours=hours, note=note)
    done = AdminTarget.of(options).ask(asked, replies.NewInvitation)
    if as_json:
        write_json(done)
        return
    write_line(done.token)
    say(f"invitation {done.number} counts until {local_time(done.expires_at)}")


@command(example="twinline admin invitations --json", short_help="List the invitations that count.")
@admin_options
def invitations(as_json: bool, **options: Any) -> None:
    """List the invitations that count, the oldest first."""
    found = AdminTarget.of(options).ask(requests.Invitations(), replies.OpenInvitations)
    for each in found.invitations:
        if as_json:
            write_json(each)
        else:
            note = f"  {visible(each.note)}" if each.note else ""
            write_line(f"{each.number}  until {local_time(each.expires_at)}{note}")


@command(example="twinline admin withdraw 0123456789abcdef", short_help="Take an invitation back.")
@argument("number")
@admin_options
def withdraw(number: str, as_json: bool, **options: Any) -> None:
    """Take back the invitation of this NUMBER, which 'twinline admin invitations' shows."""
    asked = requests.Withdraw(number=number[:200].lower())
    done = AdminTarget.of(options).ask(asked, replies.OpenInvitation)
    report(done, f"invitation {done.number} is withdrawn", as_json=as_json)


# -- the server -------------------------------------------------------------------------------


@command(example="twinline admin drain", short_help="End the server as SIGTERM does.")
@admin_options
def drain(as_json: bool, **options: Any) -> None:
    """End the server as SIGTERM does: replies in flight finish, and nobody new comes.

    Of several nodes all are told. It does not wait for their end.
    """
    # Whoever does not answer, since it has ended or is about to start, drains with the others.
    servers, _ = AdminTarget.of(options).ask_all(requests.Drain(), replies.Draining)
    for each in servers:
        words = f"{_which(each.node)} drains {counted(each.connections, 'connection')}"
        report(each, words, as_json=as_json)


@command(example="twinline admin reload", short_help="Read again what can be, as SIGHUP does.")
@admin_options
def reload(as_json: bool, **options: Any) -> None:
    """Have the server read again what can be, as SIGHUP does, and say what came of it.

    The exit code is 1 if anything could not be read: then that is what it was. It is 1 as well if
    a node does not answer.
    """
    failed = 0
    servers, silent = AdminTarget.of(options).ask_all(requests.Reload(), replies.Reloaded)
    if not any(each.outcomes for each in servers):
        say("there is nothing to read again")
    for each in servers:
        for outcome in each.outcomes:
            failed += outcome.kept is not None
            if as_json:
                write_json(outcome)
                continue
            how = (
                f"was read again: {outcome.told}"
                if outcome.kept is None
                else f"goes on with what it had: {outcome.kept}"
            )
            write_line(visible(f"{_where(outcome.node)}{outcome.what} {how}"))
            if outcome.needs_restart:
                names = ", ".join(outcome.needs_restart)
                write_line(visible(f"{_where(outcome.node)}these wait for a restart: {names}"))
    if failed:
        raise CommandError("not all could be read again")
    see_all_answered(silent)


@command(
    name="log-level",
    example="twinline admin log-level debug",
    short_help="Change how much the server logs, until it ends.",
)
@argument(
    "level",
    required=False,
    type=click.Choice(["debug", "info", "warning", "error"]),
    metavar="[debug|info|warning|error]",  # releases of click differ here
)
@admin_options
def log_level(level: str | None, as_json: bool, **options: Any) -> None:
    """Change how much the server logs, until it ends; without LEVEL, say how much that is.

    The exit code is 1 if a node does not answer, as one that is about to start.
    """
    asked = requests.SetLogLevel.model_validate({"level": level})
    servers, silent = AdminTarget.of(options).ask_all(asked, replies.LogLevel)
    for each in servers:
        if as_json:
            write_json(each)
        else:
            write_line(f"{_where(each.node)}{each.level}")
    see_all_answered(silent)


def _which(node: str | None) -> str:
    return "the server" if node is None else visible(node)


def _where(node: str | None) -> str:
    return "" if node is None else f"{visible(node)}: "


for each_command in (
    accounts,
    sessions,
    kick,
    disable,
    enable,
    reset_password,
    quota,
    delete,
    export,
    invite,
    invitations,
    withdraw,
    drain,
    reload,
    log_level,
):
    admin.add_command(each_command)
