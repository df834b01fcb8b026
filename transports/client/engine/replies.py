"""Whether a reply can be the answer to its request: what a server that is broken would get wrong.

A codec has checked its fields one by one. What lies between them is checked here, and what lies
between the replies of a stream, for the client goes on from it: to the next page, to an ack.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from twinline.core.protocol import (
    AccountsReply,
    Entry,
    History,
    HistoryReply,
    ListAccounts,
    Reply,
    Request,
    Watch,
    WatchReply,
)

_NOT_RISING: Final = "sent messages whose seqs do not rise"


class Asked:
    """A request whose last reply has not come.

    Attributes:
        id: that it was sent with.
        request: what was asked.
        left: how many messages its replies may still bring, if it is a watch with a window; below 0
            when they have brought more.
    """

    __slots__ = ("_after", "id", "left", "request")

    def __init__(self, id: int, request: Request) -> None:
        self.id = id
        self.request = request
        self._after, self.left = 0, 0
        if isinstance(request, Watch):
            self._after, self.left = request.after, request.window

    def count(self, entries: Sequence[Entry]) -> None:
        """Take entries off the window: also those that come with a watch before this one.

        Args:
            entries: by rising seq, at least one.
        """
        if entries[0].seq > self._after:
            self.left -= len(entries)
        else:
            self.left -= sum(entry.seq > self._after for entry in entries)


def contradiction(asked: Asked, reply: Reply) -> str | None:
    """Return what is wrong with a reply, as the end of a sentence about the server, or None.

    The messages of a watch are counted before this, by `Asked.count`.

    Messages that do not rise would be acked unseen by the ack of one before them. A page that does
    not lead on, with others said to follow, would be asked for again without end.
    """
    match reply:
        case WatchReply():
            return _of_watch(asked, reply)
        case HistoryReply():
            assert isinstance(asked.request, History)  # noqa: S101 - a connection checks it
            return _of_history(asked.request, reply)
        case AccountsReply():
            assert isinstance(asked.request, ListAccounts)  # noqa: S101 - a connection checks it
            return _of_accounts(asked.request, reply)
    return None


def _of_watch(asked: Asked, page: WatchReply) -> str | None:
    assert isinstance(asked.request, Watch)  # noqa: S101 - a connection checks it
    if not asked.request.window:
        if page.more:
            return "sent one reply to a watch and says that others follow"
    elif page.more and not page.messages and not page.receipts:
        return "sent no messages and says that others follow"
    elif asked.left < 0:
        return "sent more messages than there was room for"
    entries = page.entries
    if not _rise(entries):
        return _NOT_RISING
    if entries and page.seen < entries[-1].seq:
        return "sent messages and says that it has not looked as far"
    return None


def _rise(entries: Sequence[Entry]) -> bool:
    return len(entries) < 2 or all(before.seq < after.seq for before, after in pairwise(entries))


def _of_history(request: History, page: HistoryReply) -> str | None:
    entries = page.entries
    if not entries:
        return "sent no messages and says that there are older ones" if page.more else None
    if not _rise(entries):
        return _NOT_RISING
    if request.before is not None and entries[-1].seq >= request.before:
        return "sent messages that are not older than was asked"
    if page.seen > entries[0].seq:
        return "sent messages and says that it has not looked as far"
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
