"""Reads a mailbox backwards, over as many pages as it takes."""

from collections import deque

from twinline.core.protocol import MAX_PAGE, Message
from twinline.transports.client import Client


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
