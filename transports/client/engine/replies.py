"""Whether a reply can be the answer to its request: what a server that is broken would get wrong.

A codec has checked its fields one by one. What lies between them is checked here, for the client
goes on from it: to the next page, to an ack.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from twinline.core.protocol import (
    AccountsReply,
    History,
    HistoryReply,
    ListAccounts,
    Message,
    Reply,
    Request,
    WatchReply,
)

_NOT_RISING: Final = "sent messages whose seqs do not rise"


def contradiction(request: Request, reply: Reply) -> str | None:
    """Return what is wrong with a reply, as the end of a sentence about the server, or None.

    Messages that do not rise would be acked unseen by the ack of one before them. A page that does
    not lead on, with others said to follow, would be asked for again without end.
    """
    match reply:
        case WatchReply():
            return None if _rise(reply.messages) else _NOT_RISING
        case HistoryReply():
            assert isinstance(request, History)  # noqa: S101 - a connection checks it
            return _of_history(request, reply)
        case AccountsReply():
            assert isinstance(request, ListAccounts)  # noqa: S101 - a connection checks it
            return _of_accounts(request, reply)
    return None


def _rise(messages: Sequence[Message]) -> bool:
    return all(before.seq < after.seq for before, after in pairwise(messages))


def _of_history(request: History, page: HistoryReply) -> str | None:
    if not page.messages:
        return "sent no messages and says that there are older ones" if page.more else None
    if not _rise(page.messages):
        return _NOT_RISING
    if request.before is not None and page.messages[-1].seq >= request.before:
        return "sent messages that are not older than was asked"
    return None


def _of_accounts(request: ListAccounts, page: AccountsReply) -> str | None:
    names = page.usernames
    if not names:
        return "sent no usernames and says that others follow" if page.more else None
    if not all(before < after for before, after in pairwise(names)):
        return "sent usernames that are not sorted"
    if request.after is not None and names[0] <= request.after:
        return "sent usernames that do not follow those before"
    return None
