"""The commands about others: whose messages are refused, and who is told what is read."""

from typing import Any

import click

from twinline.cli.client.target import Target, client_options
from twinline.cli.console.command import argument, command
from twinline.cli.console.output import report, write_json, write_line, write_usernames
from twinline.cli.console.shapes import Account, ReceiptsGiven
from twinline.core.names import parse_username


@command(
    example="twinline block eve",
    details="""
    What NAME has sent before stays. A name is blocked as the account that has it: whoever has the
    name after that account is another one.
    """,
)
@argument("peer", metavar="NAME")
@client_options
def block(peer: str, as_json: bool, **options: Any) -> None:
    """Refuse what the account NAME sends from now on; it is told so.

    Neither side is told any more what the other one reads.
    """
    name = parse_username(peer)
    with Target.of(options).logged_in() as client:
        client.block(name)
    report(Account(username=name), f"{name} is blocked", as_json=as_json)


@command(example="twinline unblock eve")
@argument("peer", metavar="NAME")
@client_options
def unblock(peer: str, as_json: bool, **options: Any) -> None:
    """Take messages of the account NAME again.

    Nothing happens if they are not refused.
    """
    name = parse_username(peer)
    with Target.of(options).logged_in() as client:
        client.unblock(name)
    report(Account(username=name), f"{name} is not blocked", as_json=as_json)


@command(example="twinline blocked")
@client_options
def blocked(as_json: bool, **options: Any) -> None:
    """List the accounts whose messages are refused, sorted, one a line."""
    with Target.of(options).logged_in() as client:
        write_usernames(client.blocked(), as_json=as_json)


@command(
    example="twinline receipts off",
    details="""
    A receipt says that a message was acknowledged: the sender sees that it has arrived. It is given
    only where both accounts give receipts, so who turns them off is not told of others either.
    """,
)
@click.argument("switch", required=False, metavar="[on|off]", type=click.Choice(["on", "off"]))
@client_options
def receipts(switch: str | None, as_json: bool, **options: Any) -> None:
    """Let senders be told what this account reads, or not; show which.

    With neither on nor off it shows how it is now.
    """
    with Target.of(options).logged_in() as client:
        if switch is None:
            given = client.status().receipts
        else:
            given = switch == "on"
            client.set_receipts(given)
    words = f"receipts are {'on' if given else 'off'}"
    if switch is not None:
        report(ReceiptsGiven(receipts=given), words, as_json=as_json)
    elif as_json:
        write_json(ReceiptsGiven(receipts=given))
    else:
        write_line(words)
