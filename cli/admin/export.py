"""`twinline admin export`: one account's data, for who has a right to it."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from twinline.cli.admin.client import AdminTarget, admin_options
from twinline.cli.console.command import argument, command, option
from twinline.cli.console.errors import CommandError
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.console.output import json_line, report, say, write_line
from twinline.cli.console.shapes import Exported, ExportedMessage, ExportedSession
from twinline.cli.console.text import counted
from twinline.cli.server.admin import replies, requests
from twinline.core.names import parse_username


@command(
    example="twinline admin export bob --output bob.jsonl",
    short_help="Write what is kept of an account.",
    details="""
    First the account with the addresses that it was logged in to from and whom it has blocked, then
    its sessions, then the messages in its mailbox: what it was sent, and the copies that it has
    kept of what it has sent. All else that it has sent is in the mailboxes of others, and theirs.
    With --output, --json tells of the file.
    """,
)
@argument("username", metavar="NAME")
@option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write it to a new file, which only you can read<|; else to stdout>.",
)
@admin_options
def export(username: str, output: Path | None, as_json: bool, **options: Any) -> None:
    """Write what is kept of the account NAME, as JSON lines."""
    target, name = AdminTarget.of(options), parse_username(username)
    account = target.ask(requests.Export(username=name), replies.ExportedAccount)
    messages = 0
    with _writing(output) as write:
        write(account)
        for each in target.ask(requests.Sessions(username=name), replies.OpenSessions).sessions:
            write(ExportedSession(opened_at=each.opened_at, used_at=each.used_at))
        for message in _mail(target, account.account_id):
            write(message)
            messages += 1
    words = f"{name} is exported, with {counted(messages, 'message')}"
    if output is None:
        say(words)
    else:
        report(
            Exported(username=name, path=str(output), messages=messages),
            f"{words}, to {output}",
            as_json=as_json,
        )


def _mail(target: AdminTarget, account_id: str) -> Iterator[ExportedMessage]:
    after, more = 0, True
    while more:
        asked = requests.ExportMail(account_id=account_id, after=after)
        page = target.ask(asked, replies.ExportedMail)
        for message in page.messages:
            yield ExportedMessage(**message.model_dump())
            after = message.seq
        more = page.more


@contextlib.contextmanager
def _writing(output: Path | None) -> Iterator[Callable[[BaseModel], None]]:
    """Yield what writes a line; a file that is not whole is removed."""
    if output is None:
        yield lambda shape: write_line(json_line(shape))
        return
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CommandError(f"cannot write {output}: {error.strerror}", ExitCode.USAGE) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield lambda shape: print(json_line(shape), file=file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        output.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            raise CommandError(f"cannot write {output}: {error.strerror}") from None
        raise
