"""`twinline chat`: a prompt at a terminal, and lines in and out anywhere else."""

import os
import sys
from typing import Any

import click

from twinline.cli.chat.conversation import Talk
from twinline.cli.chat.lines import LineScreen, Mail, Presence, hold
from twinline.cli.client.sessions import KeptSession
from twinline.cli.client.target import Target, client_options
from twinline.cli.console.command import argument, command, option
from twinline.cli.console.interruption import Interruption, exit_on_closed_pipe
from twinline.cli.console.output import say
from twinline.core.errors import SessionExpired
from twinline.core.protocol import EVERY_KIND, Message
from twinline.transports.client import State, StateKind, WatchMode


@command(
    example="twinline chat bob",
    details="""
    /help, typed into the chat, tells what else there is. What comes in appears above the line that
    is typed; Tab completes names and commands; Ctrl-C clears the line.

    Where stdin or stdout is no terminal, or the terminal is a dumb one, or with --plain or --json,
    there is no prompt: each line of stdin is carried out, and the end of input ends the talk. If
    lines of a pipe were not carried out, the exit code is that of the last of them.

    Without a prompt, unread messages are printed, then others as they arrive, until the input ends,
    and none is acknowledged: they come again next time. With --ack a message is acknowledged after
    it was printed. At the prompt it is once it is on the screen.
    """,
)
@argument("to", metavar="[NAME]", required=False)
@option(
    "--plain",
    is_flag=True,
    help="No prompt<|, also at a terminal>: lines in and out.",
)
@option(
    "--ack",
    is_flag=True,
    help="Without a prompt: acknowledge what was printed.",
)
@option(
    "--notify",
    type=click.Choice(["9", "777"]),
    help="Notify of mail by this OSC of the terminal<|: at the prompt, of mail of other "
    "conversations>.",
)
@client_options
def chat(
    to: str | None, *, plain: bool, ack: bool, notify: str | None, as_json: bool, **options: Any
) -> None:
    """Talk to others, and see what they say as it arrives.

    Lines go to NAME, and after '/to bob' to bob. /help tells the rest, Ctrl-D leaves.
    """
    target = Target.of(options)
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if at_terminal:
        from twinline.cli.chat.start import session_at_terminal  # noqa: PLC0415 - only here

        session = session_at_terminal(target)
    else:
        session = target.session()
    if plain or as_json or not at_terminal or os.environ.get("TERM", "dumb") in ("dumb", ""):
        _talk_in_lines(target, session, to, ack=ack, as_json=as_json)
    else:
        _talk_at_prompt(target, session, to, notify)


def _talk_at_prompt(
    target: Target, session: KeptSession, to: str | None, notify: str | None
) -> None:
    import asyncio  # noqa: PLC0415 - a pipe should not wait for it

    from twinline.cli.chat.live import LiveTalk  # noqa: PLC0415 - nor for this
    from twinline.cli.chat.notify import Osc  # noqa: PLC0415 - nor for this

    live = LiveTalk(target, session, None if notify is None else Osc(notify))
    with target.logged_in(
        session, watch=WatchMode.STREAMING, kinds=EVERY_KIND, on_state=live.on_state
    ) as client:
        asyncio.run(live.hold(client, to))


def _talk_in_lines(
    target: Target, session: KeptSession, to: str | None, *, ack: bool, as_json: bool
) -> None:
    screen = LineScreen(as_json=as_json)
    presence = Presence()
    interruption = Interruption()
    talk: Talk | None = None

    def not_shown(_message: Message, error: Exception) -> None:
        # It is not acknowledged, and comes again next time.
        interruption.end(error)

    def on_state(state: State) -> None:
        presence(state)
        if state.kind is StateKind.LOGGED_OUT and not (talk is not None and talk.over):
            # Nothing happens before there is a session, for the body has not begun then.
            interruption.end(SessionExpired())

    # The client acknowledges what a handler has taken, the last one at the end too. What is not
    # to be acknowledged is read from it instead.
    handlers = {"on_message": screen.show, "on_handler_error": not_shown} if ack else {}
    with (
        Mail(screen, interruption.end) as mail,
        target.logged_in(
            session, watch=WatchMode.STREAMING, on_state=on_state, **handlers
        ) as client,
    ):
        if sys.stdin.isatty():
            say(f"you are {client.username} at {target.place}; /help tells what to type")
        talk = Talk(
            client,
            screen,
            place=target.place,
            forget=lambda: target.forget(session),
        )
        if to is not None:
            talk.turn_to(to)
        with interruption, exit_on_closed_pipe(sys.stdout):
            if not ack:
                mail.read(client)
            # A pipe speaks UTF-8, as `send` has it; a terminal whatever it is set to.
            encoding = sys.stdin.encoding if sys.stdin.isatty() else "utf-8"
            hold(talk, sys.stdin.buffer, presence, encoding)
