"""`twinline history`: prints the mailbox, read messages included, or one conversation."""

from collections import deque
from typing import Any

import click

from twinline.cli.client.paging import pages, paging_options
from twinline.cli.client.target import Target, client_options
from twinline.cli.console.command import command, option
from twinline.cli.console.output import say, write_message
from twinline.core.protocol import MAX_PAGE, HistoryReply, Message
from twinline.transports.client import Client


@command(
    example="twinline history --with bob --limit 20",
    details="""
    What you wrote is kept as copies, which are shown with --with alone; without it there is the
    mail that came to you.
    """,
)
@paging_options("Only those with a seq below this one.")
@option(
    "--with",
    "peer",
    metavar="NAME",
    help="Only what NAME wrote to you, and what you wrote to NAME.",
)
@option(
    "--account",
    metavar="ID",
    help="Which account of that name<|, if another one has it now: as 'twinline conversations' "
    "shows it>.",
)
@client_options
def history(
    limit: int,
    before: int | None,
    peer: str | None,
    account: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Print the newest messages of the mailbox, oldest first, read ones included.

    Each line begins with the message's seq, which --before takes to go further
    back. With --with an arrow to the right marks what you wrote.
    """
    if account is not None and peer is None:
        raise click.UsageError("--account says which account of a name is meant: it needs --with")
    with Target.of(options).logged_in() as client:
        messages, more = newest(client, before, limit, peer=peer, account=account)
    for message in messages:
        write_message(message, as_json=as_json, numbered=True, arrows=peer is not None)
    if more:
        say(f"there are older ones: --before {messages[0].seq}")


def newest(
    client: Client,
    before: int | None,
    limit: int,
    *,
    peer: str | None = None,
    account: str | None = None,
) -> tuple[deque[Message], bool]:
    """Return the newest messages below a seq, oldest first, and whether older ones are kept.

    Args:
        client: is logged in.
        before: only seqs below this one; None begins at the newest.
        limit: at most so many.
        peer: only what this account wrote, and the copies of what was written to it.
        account: which one of that name; None: the one that has it now.
    """
    messages: deque[Message] = deque()

    def ask(before: int | None) -> HistoryReply:
        wanted = min(limit - len(messages), MAX_PAGE)
        return client.history(before, wanted, peer=peer, account=account)

    for page in pages(ask, before):
        messages.extendleft(reversed(page.messages))
        if len(messages) >= limit:
            return messages, page.more
    return messages, False
