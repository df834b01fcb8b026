"""`twinline conversations`: lists whom the account has written to or heard from."""

from collections import Counter
from typing import Any

from twinline.cli.client.paging import pages, paging_options
from twinline.cli.client.target import Target, client_options
from twinline.cli.console.command import command
from twinline.cli.console.output import message_line, say, write_json, write_line
from twinline.cli.console.text import visible
from twinline.core.protocol import MAX_PAGE, Conversation, ConversationsReply
from twinline.transports.client import Client


@command(example="twinline conversations --limit 5")
@paging_options("Only those whose last message has a seq below this one.")
@client_options
def conversations(limit: int, before: int | None, as_json: bool, **options: Any) -> None:
    """List whom you wrote to or heard from, the newest message first.

    Each line has the last message's seq, how many are unread, and that message.
    An arrow to the right marks what you wrote. Where two accounts had one name, a
    line below tells what --account of 'twinline history' takes.
    """
    with Target.of(options).logged_in() as client:
        found, more = newest(client, before, limit)
    of_name = Counter(each.username for each in found)
    for each in found:
        if as_json:
            write_json(each)
        else:
            unread = f"{each.unread} unread" if each.unread else ""
            last = message_line(each.last, arrows=True)
            write_line(f"{each.last.seq:>6}  {unread:>12}  {last}")
            if of_name[each.username] > 1 and each.account is not None:
                write_line(f"{'':>22}account {visible(each.account)}")
    if more:
        say(f"there are others: --before {found[-1].last.seq}")


def newest(client: Client, before: int | None, limit: int) -> tuple[list[Conversation], bool]:
    """Return the newest conversations, and whether there are others.

    Args:
        client: is logged in.
        before: only those whose last message has a seq below this; None: all.
        limit: at most so many.
    """
    found: list[Conversation] = []

    def ask(before: int | None) -> ConversationsReply:
        return client.conversations(before, min(limit - len(found), MAX_PAGE))

    for page in pages(ask, before):
        found += page.conversations
        if len(found) >= limit:
            return found, page.more
    return found, False
