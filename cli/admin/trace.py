"""`twinline trace`: where a message is, for the operator or for who has sent it."""

from typing import Any, Final

from twinline.cli.admin.client import AdminTarget, admin_option
from twinline.cli.client.target import Target, client_options
from twinline.cli.console.command import argument, command, option
from twinline.cli.console.errors import CommandError
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.console.output import write_json, write_line
from twinline.cli.console.text import local_time, visible
from twinline.cli.server.admin import requests
from twinline.cli.server.admin.replies import Traced
from twinline.core.names import parse_username

_STATES: Final = ("waiting", "acked", "deleted", "gone", "accepted")


@command(
    example="twinline trace 01890a5d-ac96-774b-bcce-b302099a8057 --to bob",
    details="""
    'twinline send --json' prints the id of what it has sent; the recipient has it from 'twinline
    watch --json' and 'twinline history --json'.

    With --admin, or admin_listen in the settings, the operator's socket is asked, for the messages
    of everybody: it tells the mailbox and the seq as well, and without --to it looks through all
    mailboxes, which takes its time in a large store. Otherwise the account is asked that is logged
    in: it is told of what it has sent itself, and only that it was accepted where one of the two
    gives no receipts or blocks the other.

    The exit code is 0 for a message that is known, wherever it is, and 1 for one that is not: it
    never was, or is gone for longer than its send_id is remembered.
    """,
)
@argument("message_id")
@option("--to", metavar="NAME", help="Whom it was sent to<|; a sender has to say that>.")
@admin_option
@client_options
def trace(message_id: str, to: str | None, as_json: bool, **options: Any) -> None:
    """Say where a message is: when it was accepted, and when it was acknowledged.

    Or that it is not there any more: its recipient has deleted it, or it has expired. Where the
    settings would not keep it any longer, the server cannot tell which.
    """
    name = None if to is None else parse_username(to)
    admin = AdminTarget.named(options)
    if admin is not None:
        found = admin.ask(requests.Trace(message_id=message_id[:200], to=name), Traced)
    elif name is None:
        raise CommandError(
            "say to whom it was sent: --to NAME; or, as the operator, --admin unix:/path",
            ExitCode.USAGE,
        )
    else:
        found = _as_sender(Target.of(options), message_id, name)
    if as_json:
        write_json(found)
    elif found.state != "unknown":
        for line in _lines(found):
            write_line(line)
    if found.state == "unknown":
        raise CommandError(f"nothing is known of a message {visible(message_id)}")


def _as_sender(target: Target, message_id: str, to: str) -> Traced:
    with target.logged_in() as client:
        found = client.trace(message_id, to)
        sender = client.username
    state = found.state if found.state in _STATES else "unknown"
    return Traced.model_validate(
        {
            "message_id": message_id,
            "state": state,
            "recipient": None if state == "unknown" else to,
            "seq": None,
            "sender": None if state == "unknown" else sender,
            "sent_at": found.sent_at,
            "acked_at": found.acked_at,
        }
    )


def _lines(found: Traced) -> list[str]:
    sender = "an account that is not known any more" if found.sender is None else found.sender
    told = ["accepted" if found.sent_at is None else f"accepted {local_time(found.sent_at)}"]
    told[0] += f", from {visible(sender)}"
    whose = "of an account that was deleted"
    if found.recipient is not None:
        whose = f"of {visible(found.recipient)}"
    number = "" if found.seq is None else f", as seq {found.seq}"
    match found.state:
        case "waiting":
            told.append(f"in the mailbox {whose}{number}: not acknowledged yet")
        case "acked":
            when = "" if found.acked_at is None else f" {local_time(found.acked_at)}"
            told.append(f"in the mailbox {whose}{number}: acknowledged{when}")
        case "deleted":
            told.append(f"not in the mailbox {whose} any more: deleted by its owner")
        case "accepted":
            told.append("no more is told: one of the two gives no receipts, or blocks the other")
        case _:
            told.append(
                f"not in the mailbox {whose} any more: expired from the history, or deleted"
            )
    return told
