"""`twinline chat`: lines in, lines out; works at a terminal and in a pipe."""

import re
import sys
from collections.abc import Iterable
from typing import Any, Final

import click

from twinline.cli.connecting import Target, client_options
from twinline.cli.errors import sentence
from twinline.cli.interruption import Interruption, noticed_reader
from twinline.cli.output import say, write_message, write_usernames
from twinline.cli.text import visible
from twinline.cli.watch import StateTeller
from twinline.core.errors import NotLoggedIn, RequestError, SessionExpired
from twinline.core.protocol import Message
from twinline.transports.client import Client
from twinline.transports.client_errors import ClientError
from twinline.transports.client_settings import WatchMode
from twinline.transports.client_state import State, StateKind

_ADDRESSED: Final = re.compile(r"([a-zA-Z0-9][a-zA-Z0-9._-]{0,31}):(?:\s+(.*))?", re.DOTALL)
_HELP: Final = """\
NAME: TEXT       send TEXT to NAME, who is then the one you talk to
TEXT             send TEXT to the one you talk to
/to NAME         talk to NAME
/who [PATTERN]   list accounts
/quit            leave; so does the end of input"""


@click.command(epilog="Example: twinline chat bob")
@click.argument("to", required=False)
@client_options
def chat(to: str | None, as_json: bool, **options: Any) -> None:
    """Talk to others, line by line, and see what they say as it arrives.

    Write 'bob: hello' to say hello to bob; further lines go to bob until another name comes
    first. /help tells the rest. Stdin may be a pipe: each line is then a message, and the end of
    input ends the talk.
    """

    def show(message: Message) -> None:
        write_message(message, as_json=as_json)

    def not_shown(_message: Message, error: Exception) -> None:
        # It is not acknowledged, and comes again next time.
        interruption.end(error)

    tell = StateTeller()

    def tell_and_end(state: State) -> None:
        tell(state)
        if state.kind is StateKind.LOGGED_OUT:
            # Nothing happens before there is a session, for the body has not begun then.
            interruption.end(SessionExpired())

    target = Target.of(options)
    interruption = Interruption()
    with target.logged_in(
        watch=WatchMode.BLOCKING,
        on_message=show,
        on_state=tell_and_end,
        on_handler_error=not_shown,
    ) as client:
        if sys.stdin.isatty():
            say(f"you are {client.username} at {target.place}; /help tells what to type")
        with interruption, noticed_reader(sys.stdout):
            _Talk(client, to, as_json=as_json).hold(sys.stdin)


class _Talk:
    def __init__(self, client: Client, to: str | None, *, as_json: bool) -> None:
        self._client = client
        self._to = to
        self._as_json = as_json

    def hold(self, lines: Iterable[str]) -> None:
        """Carry out each line until the input ends."""
        for line in lines:
            text = line.rstrip("\r\n")
            if text == "/quit":
                return
            try:
                self._obey(text)
            except NotLoggedIn:
                raise
            except (RequestError, ClientError) as error:
                say(f"twinline: {sentence(error)}")

    def _obey(self, text: str) -> None:
        word, _, rest = text.partition(" ")
        addressed = _ADDRESSED.fullmatch(text)
        if not text.strip():
            return
        if word == "/help":
            say(_HELP)
        elif word == "/to" and rest.strip():
            self._to = rest.strip()
        elif word == "/who":
            found = self._client.accounts(rest.strip() or "*")
            write_usernames(found, as_json=self._as_json)
        elif text.startswith("/"):
            say(f"there is no {visible(word)}; /help tells what there is")
        elif addressed is not None:
            self._to = addressed[1]
            if addressed[2]:
                self._client.send(self._to, addressed[2])
        elif self._to is None:
            say("to whom? write 'NAME: text' first")
        else:
            self._client.send(self._to, text)
