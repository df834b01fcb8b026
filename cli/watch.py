"""`twinline watch`: prints messages as they arrive, and acknowledges what it has printed."""

import contextlib
import sys
from typing import Any

import click

from twinline.cli.connecting import Target, client_options_but
from twinline.cli.errors import CommandError
from twinline.cli.exit_codes import ExitCode
from twinline.cli.interruption import noticed_reader, unbroken
from twinline.cli.output import OutputClosed, say, write_message
from twinline.cli.text import visible
from twinline.core.errors import SessionExpired, TwinlineError
from twinline.transports.client import Client
from twinline.transports.client_settings import WatchMode
from twinline.transports.client_state import State, StateKind


@click.command(epilog="Example: twinline watch --count 1 --timeout 60 --json")
@click.option("--count", type=click.IntRange(min=1), help="End after so many messages.")
@click.option(
    "--timeout",
    "idle_seconds",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="End when no message came for so long; with exit code 5 if --count was not reached.",
)
@click.option(
    "--ack/--no-ack",
    default=True,
    help="Acknowledge each message once it is printed, or leave them all unread.  [default: ack]",
)
@client_options_but("timeout")
def watch(
    count: int | None, idle_seconds: float | None, ack: bool, as_json: bool, **options: Any
) -> None:
    """Print unread messages, and then others as they arrive, one a line.

    A message is acknowledged after it was written; what could not be written comes again next
    time. With --json each line is an object with seq, message_id, sender, body and sent_at.
    """
    target = Target.of(options)
    with target.logged_in(watch=WatchMode.BLOCKING, on_state=StateTeller()) as client:
        printed = _print_messages(client, count, idle_seconds, ack=ack, as_json=as_json)
        if client.state.kind is StateKind.LOGGED_OUT:
            raise SessionExpired
    if count is not None and printed < count:
        raise CommandError(f"timed out: {printed} of {count} messages came", ExitCode.TIMED_OUT)


class StateTeller:
    """Tells the person at the terminal when the server goes away and when it is back."""

    def __init__(self) -> None:
        self._away = False

    def __call__(self, state: State) -> None:
        """Tell a state, if it is news."""
        if state.kind is StateKind.RECONNECTING:
            self._away = True
            say(f"twinline: {visible(str(state))}")
        elif state.kind is StateKind.ONLINE and self._away:
            self._away = False
            say("twinline: online again")


def _print_messages(
    client: Client, count: int | None, idle_seconds: float | None, *, ack: bool, as_json: bool
) -> int:
    """Print until there is a reason to end, and return how many messages were printed."""
    printed = 0
    last: int | None = None
    try:
        with noticed_reader(sys.stdout):
            # The engine acknowledges a message when the loop comes back for the next one.
            for message in client.messages(idle_seconds, ack=ack):
                with unbroken():
                    write_message(message, as_json=as_json)
                    last = message.seq
                printed += 1
                if printed == count:
                    break
    except (KeyboardInterrupt, OutputClosed):
        # The last one was printed, and the loop did not come back to have it acknowledged.
        with contextlib.suppress(TwinlineError):
            _ack(client, last, ack=ack)
        raise
    _ack(client, last, ack=ack)
    return printed


def _ack(client: Client, last: int | None, *, ack: bool) -> None:
    if ack and last is not None and client.state.kind is StateKind.ONLINE:
        client.ack(last)
