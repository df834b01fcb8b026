"""Reads a mailbox backwards, page after page, and has the flags of commands that list it so."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from twinline.cli.console.command import option
from twinline.core.protocol import ConversationsReply, HistoryReply

Page = TypeVar("Page", HistoryReply, ConversationsReply)


def pages(ask: Callable[[int | None], Page], before: int | None = None) -> Iterator[Page]:
    """Yield page after page, the newest first, until there are no older ones.

    Args:
        ask: returns the newest page below a seq; None: of all.
        before: the seq to begin below.
    """
    while True:
        page = ask(before)
        yield page
        items = page.messages if isinstance(page, HistoryReply) else page.conversations
        if not page.more or not items:
            return
        before = page.seen if isinstance(page, HistoryReply) else page.conversations[-1].last.seq


def paging_options(which: str) -> Callable[..., Any]:
    """Return a decorator that gives a command the flags ``--limit`` and ``--before``.

    Args:
        which: what ``--before`` leaves, by the seq that it is given.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        before = option("--before", type=click.IntRange(min=0), metavar="SEQ", help=which)
        limit = option(
            "--limit",
            type=click.IntRange(min=1),
            default=50,
            show_default=True,
            metavar="NUMBER",
            help="How many.",
        )
        for give in (before, limit):
            function = give(function)
        return function

    return decorate
