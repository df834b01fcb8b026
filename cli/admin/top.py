"""`twinline top`: who is connected to a server, from where, and what they do."""

import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import click

from twinline.cli.admin.client import AdminTarget, admin_options, see_all_answered
from twinline.cli.admin.table import ORDERS, Look, lines, rates
from twinline.cli.console.command import command, option
from twinline.cli.console.numbers import FiniteRange
from twinline.cli.console.output import write_json, write_line
from twinline.cli.console.shapes import ConnectionRate, TopShown
from twinline.cli.console.text import visible
from twinline.cli.server.admin import replies, requests

_HOME: Final = "\x1b[H\x1b[2J"
_TITLES: Final = 3  # the total, the titles, and the line where the cursor stands
_LINES: Final = 24  # where the terminal does not say
_MOST_UNREAD: Final = 10_000
"""Accounts whose unread messages are counted for one table."""


@command(
    example="twinline top --admin unix:/run/twinline/admin",
    details="""
    FOR is how long a connection is open; the rates are of the time between two looks, and of a
    connection that is new since it was opened. IN and OUT are bytes as the server sees them. UNREAD
    is what waits in the account's mailbox. With several nodes it shows the connections of all.

    At a terminal the table takes the place of the one before, and Ctrl-C ends it. With --json each
    look is one object, with all connections unless --limit says otherwise. A node that does not
    answer is named below the table; with --once the exit code is 1 then.
    """,
)
@option(
    "--interval",
    type=FiniteRange(min=0.2, max=3_600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks.",
)
@option("--once", is_flag=True, help="Show one table, after one interval, and end.")
@option(
    "--sort",
    "order",
    type=click.Choice(list(ORDERS)),
    default="rate",
    show_default=True,
    metavar="BY",
    help="<rate, bytes, unread, since or name|What comes first: rate, requests and messages a "
    "second; bytes; unread; since, the oldest; or name>.",
)
@option(
    "--limit",
    type=click.IntRange(min=1, max=100_000),
    metavar="NUMBER",
    help="Show so many connections.<|  [default: as many as fit; all with --json]>",
)
@admin_options
def top(
    interval: float, once: bool, order: str, limit: int | None, as_json: bool, **options: Any
) -> None:
    """Show who is connected to a server, from where, and how busy they are."""
    target = AdminTarget.of(options)
    at_terminal = sys.stdout is not None and sys.stdout.isatty()
    before: Sequence[Look] = ()
    if once:
        before, _ = look(target)
        time.sleep(interval)
    while True:
        now, silent = look(target)
        rows = rates(before, now)
        size = shutil.get_terminal_size((80, _LINES))
        shown = limit or (len(rows) if as_json else max(1, size.lines - _TITLES - len(silent)))
        rows = in_order(target, rows, order, shown)
        servers = [each.server for each in now]
        if as_json:
            write_json(
                TopShown(
                    interval_seconds=interval,
                    servers=tuple(servers),
                    silent=tuple(silent),
                    connections=tuple(rows[:shown]),
                )
            )
        else:
            screen = _HOME if at_terminal and not once else ""
            table = lines(servers, rows, shown, size.columns)
            notes = () if once else (f"no answer: {visible(why)}"[: size.columns] for why in silent)
            write_line(screen + "\n".join((*table, *notes)))
        if once:
            see_all_answered(silent)
            return
        before = now
        time.sleep(interval)


def look(target: AdminTarget) -> tuple[list[Look], list[str]]:
    """Return the connections of every node as they are now, and why others have not answered."""
    found, silent = target.ask_all_pages(
        lambda after: requests.Connections(after=after),
        replies.OpenConnections,
        lambda page: page.connections[-1].number if page.more else None,
    )
    return [Look.of(pages) for pages in found], silent


def in_order(
    target: AdminTarget, rows: Sequence[ConnectionRate], order: str, shown: int
) -> list[ConnectionRate]:
    """Return the rows in an order, those that are shown with what is unread."""
    if order == "unread":
        return sorted(with_unread(target, rows), key=ORDERS[order])
    found = sorted(rows, key=ORDERS[order])
    return [*with_unread(target, found[:shown]), *found[shown:]]


def with_unread(target: AdminTarget, rows: Sequence[ConnectionRate]) -> list[ConnectionRate]:
    """Return rows with what waits in the mailboxes of their accounts."""
    names = list(dict.fromkeys(row.username for row in rows if row.username is not None))
    unread: dict[str, int] = {}
    for at in range(0, min(len(names), _MOST_UNREAD), requests.MOST_NAMES):
        asked = requests.CountUnread(usernames=tuple(names[at : at + requests.MOST_NAMES]))
        unread |= target.ask(asked, replies.Unread).unread
    return [row.model_copy(update={"unread": unread.get(row.username or "")}) for row in rows]
