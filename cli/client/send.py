"""`twinline send`: one message from the command line or stdin, or one for every line."""

import shlex
import sys
import time
from typing import Any

import click

from twinline.cli.client.target import Target, client_options
from twinline.cli.console.command import argument, command, option
from twinline.cli.console.errors import CommandError, exit_code_of, sentence
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.console.output import say, write_json
from twinline.core.deadline import Deadline
from twinline.core.errors import MessageTooLong, RateLimited, TwinlineError
from twinline.core.protocol import SentReply
from twinline.transports.client import Client

_PROGRESS_SECONDS = 0.2


@command(
    example="tail -f log | twinline send bob --lines",
    details="""
    Without TEXT one newline at the end of stdin is dropped. With --lines the first line that
    fails ends it: the error names the line and tells how many were sent before. Where the server
    limits the rate of sends, the command waits as it is told.
    """,
    context_settings={"allow_extra_args": True},  # to say what is wrong with them
)
@argument("to")
@click.argument("text", required=False)
@option("--lines", is_flag=True, help="Send every line of stdin as a message of its own.")
@option(
    "--no-copy",
    is_flag=True,
    help="Keep no copy in your own mailbox<|, where 'twinline history --with TO' shows it>.",
)
@client_options
@click.pass_context
def send(
    context: click.Context,
    /,
    *,
    to: str,
    text: str | None,
    lines: bool,
    no_copy: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Send TEXT to the account TO; without TEXT, send what stdin holds as one message.

    The server has stored a message when this returns. With --json its id is
    printed; else a success is silent.
    """
    if context.args:
        meant = shlex.join([to, " ".join([text or "", *context.args])])
        raise click.UsageError(
            f"the text is one argument, and these are {1 + len(context.args)}: put it in quotes, "
            f"as in: twinline send {meant}"
        )
    if lines and text is not None:
        raise click.UsageError("give TEXT, or --lines with the text on stdin, not both")
    target = Target.of(options)
    if lines:
        with target.logged_in() as client:
            _send_lines(client, to, as_json, target.timeout, copy=not no_copy)
        return
    body = _whole_stdin() if text is None else _checked(text.encode("utf-8", "surrogateescape"))
    with target.logged_in() as client:
        _report(_send(client, to, body, target.timeout, copy=not no_copy), as_json)


def _send_lines(client: Client, to: str, as_json: bool, timeout: float, *, copy: bool) -> None:
    progress = _Progress()
    try:
        for number, line in enumerate(sys.stdin.buffer, start=1):
            try:
                body = _checked(line.removesuffix(b"\n").removesuffix(b"\r"))
                reply = _send(client, to, body, timeout, copy=copy)
            except TwinlineError as error:
                progress.end()
                raise CommandError(
                    f"line {number} was not sent: {sentence(error)} ({progress.sent} sent before)",
                    exit_code_of(error),
                ) from error
            progress.count()
            _report(reply, as_json)
    except KeyboardInterrupt:
        progress.end()
        say(f"twinline: interrupted, {progress.sent} sent")
        raise
    progress.end()


class _Progress:
    """Counts what was sent, on stderr, for a person who waits."""

    def __init__(self) -> None:
        self.sent = 0
        self._to_terminal = sys.stderr.isatty()
        self._next = Deadline.after(_PROGRESS_SECONDS)
        self._shown = False

    def count(self) -> None:
        self.sent += 1
        if self._to_terminal and self._next.passed:
            self._show()
            self._next = Deadline.after(_PROGRESS_SECONDS)

    def end(self) -> None:
        if self._shown:
            self._show()
            say("")

    def _show(self) -> None:
        self._shown = True
        sys.stderr.write(f"\r{self.sent:,} sent")
        sys.stderr.flush()


def _send(client: Client, to: str, body: str, timeout: float, *, copy: bool) -> SentReply:
    """Send one message, in the server's own time where it limits the rate."""
    limits = client.limits
    size = len(body.encode())
    if limits is not None and size > limits.body_bytes:
        # The server would have to read all of it, and might cut the line instead of answering.
        raise CommandError(
            f"the message is too long: {size:,} bytes, and the server takes {limits.body_bytes:,}",
            ExitCode.REFUSED,
        ) from MessageTooLong()
    deadline = Deadline.after(timeout)
    while True:
        try:
            return client.send(to, body, copy=copy)
        except RateLimited as error:
            pause = error.retry_after(1.0)
            if (deadline.remaining() or 0) < pause:
                raise
            time.sleep(pause)


def _report(reply: SentReply, as_json: bool) -> None:
    if as_json:
        write_json(reply)


def _whole_stdin() -> str:
    if sys.stdin.isatty():
        say("type the message; Ctrl-D on a line of its own ends it")
    return _checked(sys.stdin.buffer.read().removesuffix(b"\n").removesuffix(b"\r"))


def _checked(data: bytes) -> str:
    if not data:
        raise CommandError("the message is empty", ExitCode.USAGE)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise CommandError("the message is not UTF-8", ExitCode.USAGE) from None
