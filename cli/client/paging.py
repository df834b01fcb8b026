"""The flags of commands that list a mailbox backwards, some at a time."""

from collections.abc import Callable
from typing import Any

import click

from twinline.cli.console.command import option


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
