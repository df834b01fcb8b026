"""`twinline history`: prints the mailbox, read messages included."""

from typing import Any

import click

from twinline.cli.client.reading import newest
from twinline.cli.client.target import Target, client_options
from twinline.cli.console.command import Command, Option
from twinline.cli.console.output import say, write_message


@click.command(cls=Command, example="twinline history --limit 20 --before 100")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    cls=Option,
    metavar="NUMBER",
    help="How many.",
)
@click.option(
    "--before",
    type=click.IntRange(min=0),
    cls=Option,
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
