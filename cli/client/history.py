"""`twinline history`: prints the mailbox, read messages included."""

from collections import deque
from typing import Any

import click

from twinline.cli.client.target import Target, client_options
from twinline.cli.console.command import command, option
from twinline.cli.console.output import say, write_message
from twinline.core.protocol import MAX_PAGE, Message
from twinline.transports.client import Client


@command(example="twinline history --limit 20 --before 100")
@option(
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    metavar="NUMBER",
    help="How many.",
)
@option(
    "--before",
    type=click.IntRange(min=0),
    metavar="SEQ",
    help="Only those with a seq below this one.",
)
@client_options
def history(limit: int, before: int | None, as_json: bool, **options: Any) -> None:
    """Print the newest messages of the mailbox, oldest first, read ones included.

    Each line begins with the message's seq, which --before takes to go further back.
    """
    with Target.of(options).logged_in() as client:
        messages, more = newest(client, before, limit)
    for message in messages:
        write_message(message, as_json=as_json, numbered=True)
    if more:
        say(f"there are older ones: --before {messages[0].seq}")


def newest(client: Client, before: int | None, limit: int) -> tuple[deque[Message], bool]:
    """Return the newest messages below a seq, oldest first, and whether older ones are kept.

    Args:
        client: is logged in.
        before: only seqs below this one; None begins at the newest.
        limit: at most so many.
    """
    messages: deque[Message] = deque()
    more = True
    while more and len(messages) < limit:
        page = client.history(before, min(limit - len(messages), MAX_PAGE))
        messages.extendleft(reversed(page.messages))
        more = page.more and bool(page.messages)
        before = messages[0].seq if messages else before
    return messages, more
