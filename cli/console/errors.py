"""Turns whatever ended a command into one line on stderr and an exit code, in one place."""

import click

from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.console.output import (
    OutputClosed,
    OutputFailed,
    drop_stdout,
    json_line,
    say,
)
from twinline.cli.console.shapes import Failure
from twinline.cli.console.text import visible
from twinline.core.errors import RequestError, SessionExpired, TwinlineError, UndeliveredMessages
from twinline.transports.client import ConnectionLost, NotConnected, TimedOut


class CommandError(TwinlineError):
    """A command cannot go on.

    Attributes:
        exit_code: what the command exits with.
    """

    exit_code = ExitCode.FAILURE

    def __init__(self, message: str, exit_code: ExitCode | None = None) -> None:
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code


class SettingsError(CommandError):
    """A setting is unknown or has a value that it cannot have."""

    exit_code = ExitCode.USAGE


_EXIT_CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (RequestError, ExitCode.REFUSED),
    (NotConnected, ExitCode.UNREACHABLE),
    (ConnectionLost, ExitCode.UNREACHABLE),
    (TimedOut, ExitCode.TIMED_OUT),
)


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the exit code of a command that ended with this error."""
    if isinstance(error, CommandError):
        return error.exit_code
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    if isinstance(error, OutputClosed):
        return ExitCode.OK
    if isinstance(error, click.UsageError):
        return ExitCode.USAGE
    for kind, code in _EXIT_CODES:
        if isinstance(error, kind):
            return code
    return ExitCode.FAILURE


def sentence(error: BaseException) -> str:
    """Return what a person needs to know of an error, in one line.

    A server's words are shown with their control characters made visible.
    """
    match error:
        case UndeliveredMessages():
            mail = "message" if error.count == 1 else "messages"
            return (
                f"{error.count} undelivered {mail} would be lost: read them with 'twinline watch', "
                "or say --force"
            )
        case SessionExpired():
            return "the session has ended; log in again with 'twinline login'"
        case RequestError(retry_after_ms=int(wait)):
            return visible(f"{error.message} (try again in {wait / 1000:.3g} s)")
        case RequestError():
            return visible(error.message)
        case click.UsageError(ctx=click.Context() as context):
            # click lists choices on lines of their own, and quotes what it was given as it is.
            words = visible(" ".join(error.format_message().split()))
            return f"{words} (see '{context.command_path} --help')"
        case click.ClickException():
            return visible(" ".join(error.format_message().split()))
        case TwinlineError() | OutputFailed():
            return visible(str(error))
        case OSError(strerror=str(reason)):
            return f"{reason}: {error.filename}" if error.filename else reason
    return f"unexpected {type(error).__name__}: {visible(str(error))} (--debug shows more)"


def report(error: BaseException, *, as_json: bool = False) -> ExitCode:
    """Tell the person at the terminal what ended the command, and return its exit code.

    Args:
        error: what ended it.
        as_json: report to a script instead, as an object; on stderr all the same.
    """
    code = exit_code_of(error)
    if isinstance(error, OutputClosed | OutputFailed):
        drop_stdout()
    if isinstance(error, OutputClosed) or code is ExitCode.INTERRUPTED:
        pass
    elif as_json:
        # What says more than the server's error does, or stands for one, has that as its cause.
        cause: BaseException | None = error
        while isinstance(cause, CommandError):
            cause = cause.__cause__
        refused = cause if isinstance(cause, RequestError) else None
        failure = Failure(
            error=refused.code if refused is not None else code.word,
            message=sentence(error),
            exit_code=code,
            retry_after_ms=None if refused is None else refused.retry_after_ms,
        )
        say(json_line(failure))
    else:
        say(f"twinline: {sentence(error)}")
    return code
