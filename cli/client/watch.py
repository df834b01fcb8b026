"""`twinline watch`: prints messages as they arrive, or runs a command on each, and acks them."""

import contextlib
import sys
from typing import Any

import click

from twinline.cli.client.target import Target, client_options_but
from twinline.cli.client.watch_command import MessageCommand
from twinline.cli.console.command import command, option
from twinline.cli.console.errors import CommandError
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.console.interruption import defer_interrupt, ended_by_sigterm, exit_on_closed_pipe
from twinline.cli.console.numbers import FiniteRange
from twinline.cli.console.output import OutputClosed, say, write_message
from twinline.cli.console.text import visible
from twinline.core.deadline import LONGEST_SECONDS
from twinline.core.errors import SessionExpired, TwinlineError
from twinline.transports.client import Client, State, StateKind, WatchMode


@command(
    example="twinline watch --exec 'mail -s \"from $TWINLINE_SENDER\" ann'",
    details="""
    --exec runs COMMAND by /bin/sh -c, once for each message, in order, one at a time. Stdin is the
    body, exactly, with no newline added; with --json it is the JSON object on a line. The
    variables TWINLINE_SENDER, TWINLINE_SEQ, TWINLINE_MESSAGE_ID and TWINLINE_SENT_AT (ms since
    1970 UTC) tell the rest, TWINLINE_CONNECT, TWINLINE_CLIENT_TRANSPORT and TWINLINE_USER let a
    twinline in it act at the same server as the same account, and TWINLINE_PASSWORD is taken out.
    Stdout and stderr are those of watch, which prints nothing itself.

    Exit status 0 acknowledges the message at once. After any other status it stays unread, and
    --on-failure says what is next: stop ends with exit code 1, and a later watch begins with the
    same message; retry runs the command again after 1 s, 2 s, 4 s ... 30 s, until it succeeds.

    Ctrl-C or SIGTERM begins no other message: the command that runs is waited for, its message
    is acknowledged if it succeeds, and the exit code is 130. A terminal's Ctrl-C reaches the
    command too; a SIGTERM to watch is not passed on. A second one sends the command SIGTERM and
    waits no longer. A message is delivered at least once: when watch is killed, or the session
    ends, after the command succeeded and before the server has the acknowledgement, it comes
    again. TWINLINE_MESSAGE_ID tells a command what it has seen.
    """,
)
@option(
    "--count",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="End after so many messages.",
)
@option(
    "--timeout",
    "idle_seconds",
    type=FiniteRange(0, LONGEST_SECONDS),
    metavar="SECONDS",
    help="End when no message came for so long<|; with exit code 5 if --count was not reached>.",
)
@click.option(
    "--ack/--no-ack",
    default=True,
    help="Whether to acknowledge them.  [default: ack]",
)
@option(
    "--exec",
    "shell_command",
    metavar="COMMAND",
    help="Run <it|a command of the shell> for each message<| instead of printing it>, with the "
    "body on stdin<|; acknowledge the message when the command succeeds>.",
)
@option(
    "--on-failure",
    type=click.Choice(["stop", "retry"]),
    metavar="stop|retry",
    help="What to do when <COMMAND|the command> fails<|: end, or run it again until it succeeds>.  "
    "[<|default: >stop]",
)
@client_options_but("timeout")
def watch(
    *,
    count: int | None,
    idle_seconds: float | None,
    ack: bool,
    shell_command: str | None,
    on_failure: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Print unread messages, and then others as they arrive, one a line.

    A message is acknowledged after it was written, or when the command of
    --exec has ended with status 0; else it comes again next time.
    """
    if on_failure is not None and shell_command is None:
        raise click.UsageError("--on-failure is for --exec")
    if shell_command is not None and not shell_command.strip():
        # An unset variable, most likely; it would succeed on every message.
        raise click.UsageError("--exec: the command is empty")
    target = Target.of(options)
    with (
        ended_by_sigterm(),
        target.logged_in(watch=WatchMode.STREAMING, on_state=StateTeller()) as client,
    ):
        if shell_command is None:
            seen = _print_messages(client, count, idle_seconds, ack=ack, as_json=as_json)
        else:
            retry = on_failure == "retry"
            run = MessageCommand(shell_command, target, as_json=as_json, retry=retry)
            seen = run.on_each(client, count, idle_seconds, ack=ack)
        if client.state.kind is StateKind.LOGGED_OUT:
            raise SessionExpired
    if count is not None and seen < count:
        raise CommandError(f"timed out: {seen} of {count} messages came", ExitCode.TIMED_OUT)


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
        with exit_on_closed_pipe(sys.stdout):
            # The engine acknowledges a message when the loop comes back for the next one.
            for message in client.messages(idle_seconds, ack=ack):
                with defer_interrupt():
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
