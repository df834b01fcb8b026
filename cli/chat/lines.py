"""The talk without a prompt: lines in and out, for a pipe and for a terminal that can no more.

Messages are lines of stdout, as `twinline watch` writes them; talk goes to stderr. While the
server is away no line is read.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Self, TypeVar

import click

from twinline.cli.chat.conversation import WHICH, Declined, Opening, Outcome, Talk, needs_server
from twinline.cli.client.passwords import ask_password, read_password
from twinline.cli.client.watch import StateTeller
from twinline.cli.console.errors import CommandError, exit_code_of
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.console.output import (
    message_line,
    say,
    standing_line,
    write_json,
    write_line,
    write_message,
    write_usernames,
)
from twinline.cli.console.text import counted, visible
from twinline.core.deadline import Deadline
from twinline.core.errors import NotLoggedIn
from twinline.core.protocol import Conversation, Message, StatusReply
from twinline.core.waiting import Waiter
from twinline.transports.client import Client, ClientClosed, State, StateKind

_Answer = TypeVar("_Answer")


class LineScreen:
    """Writes to stdout and stderr."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def show(self, message: Message) -> None:
        """Show a message that has arrived.

        Raises:
            OutputClosed: the reader of stdout is gone.
        """
        write_message(message, as_json=self._as_json)

    def inform(self, text: str) -> None:
        """Say something about the talk."""
        say(text)

    def explain(self, rows: Sequence[tuple[str, str]]) -> None:
        """Tell what can be typed, one a line."""
        width = max(len(what) for what, _ in rows)
        say("\n".join(f"{what:{width}}  {does}" for what, does in rows))

    def complain(self, text: str) -> None:
        """Say what went wrong."""
        say(f"twinline: {text}")

    def sent(self, to: str, body: str, sent_at: int) -> None:
        """Do nothing: whoever wrote the line knows it."""

    def list_accounts(self, usernames: Iterable[str]) -> None:
        """Write one username a line."""
        write_usernames(usernames, as_json=self._as_json)

    def list_messages(self, messages: Iterable[Message], *, more: bool) -> None:
        """Write one message a line."""
        for message in messages:
            write_message(message, as_json=self._as_json, numbered=True, arrows=True)
        if more:
            say("there are older ones")

    def open(self, name: str, opening: Opening) -> None:
        """Do nothing: a pipe reads what comes."""

    def list_conversations(self, conversations: Sequence[Conversation]) -> None:
        """Write one conversation a line."""
        for each in conversations:
            if self._as_json:
                write_json(each)
            else:
                unread = f"{each.unread} unread" if each.unread else ""
                line = message_line(each.last, arrows=True)
                write_line(f"{each.last.seq:>6}  {unread:>12}  {line}")

    def choose(self, conversations: Sequence[Conversation]) -> str:
        """Ask at the terminal, below the conversations with their numbers."""
        _require_terminal()
        for number, each in enumerate(conversations, 1):
            unread = f"{each.unread} unread  " if each.unread else ""
            say(f"{number} {unread}{message_line(each.last, arrows=True)}")
        return _answered(lambda: str(click.prompt(WHICH, "", show_default=False, err=True)))

    def show_status(self, status: StatusReply, place: str) -> None:
        """Write how the account stands."""
        if self._as_json:
            write_json(status)
        else:
            write_line(standing_line(f"{visible(status.username)} at {place}", status))

    def ask_password(self, question: str, *, known: bool) -> str:
        """Ask at the terminal, for a password that is known also TWINLINE_PASSWORD."""
        if known:
            return read_password(None, question)
        return ask_password(question, "use 'twinline change-password'")

    def confirm(self, question: str) -> bool:
        """Ask at the terminal."""
        _require_terminal()
        return _answered(lambda: click.confirm(question, err=True))


def _require_terminal() -> None:
    if not sys.stdin.isatty():
        raise CommandError("there is no terminal to ask at", ExitCode.USAGE)


def _answered(ask: Callable[[], _Answer]) -> _Answer:
    try:
        return ask()
    except click.Abort:
        raise Declined from None


class Mail:
    """Shows what comes without acknowledging it, in a thread that ends with the client."""

    def __init__(self, screen: LineScreen, on_fault: Callable[[Exception], None]) -> None:
        self._screen = screen
        self._on_fault = on_fault
        self._thread: threading.Thread | None = None

    def read(self, client: Client) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._read, args=(client,), name="mail")
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        """Wait for the thread; the client must be closed before."""
        if self._thread is not None:
            self._thread.join()

    def _read(self, client: Client) -> None:
        try:
            for message in client.messages(ack=False):
                self._screen.show(message)
        except (ClientClosed, NotLoggedIn):
            pass  # the talk is over, or its state tells that it has to be
        except Exception as error:  # noqa: BLE001 - stdout is closed, or cannot be written
            self._on_fault(error)


class Presence:
    """Knows whether the server is there, and lets the talk wait until it is."""

    def __init__(self) -> None:
        self._tell = StateTeller()
        self._waiter = Waiter()
        self._away = False

    def __call__(self, state: State) -> None:
        """Take in a state of the client, and show it to the person at the terminal."""
        self._tell(state)
        self._away = state.kind is StateKind.RECONNECTING
        self._waiter.wake()

    def wait(self) -> None:
        """Wait until the server is not away."""
        while self._away:
            self._waiter.wait(Deadline.after(None))


def hold(talk: Talk, lines: Iterable[bytes], presence: Presence, encoding: str) -> None:
    """Carry out each line until the input ends.

    Args:
        talk: carries them out.
        lines: what is typed, or comes from a pipe.
        presence: is waited for before what needs the server.
        encoding: of the lines.

    Raises:
        CommandError: a line of a pipe was not carried out, and the talk went on after it.
        NotLoggedIn, SessionExpired: there is no session any more.
    """
    failed = 0
    code = ExitCode.OK
    for line in lines:
        outcome = _carry_out(talk, line.rstrip(b"\r\n"), presence, encoding)
        if outcome is Outcome.LEAVE:
            break
        if outcome is Outcome.NOT_DONE and talk.last_error is not None:
            failed += 1
            code = exit_code_of(talk.last_error)
    if failed and not sys.stdin.isatty():
        were = counted(failed, "line was", "lines were")
        raise CommandError(f"{were} not carried out", code)


def _carry_out(talk: Talk, line: bytes, presence: Presence, encoding: str) -> Outcome:
    try:
        text = line.decode(encoding)
    except UnicodeDecodeError:
        return talk.refuse(f"the line is not {encoding.upper()}")
    if needs_server(text):
        presence.wait()
    return talk.obey(text)
