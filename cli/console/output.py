"""Where a command's words go: data to stdout, a line at a time; talk to stderr."""

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from twinline.cli.console.text import local_time, visible

if TYPE_CHECKING:  # a completion or an error needs no models, which take a while to import
    from pydantic import BaseModel

    from twinline.core.protocol import Message, StatusReply


class OutputClosed(Exception):
    """The reader of stdout has gone away, as ``head`` does."""


class OutputFailed(Exception):
    """Nothing can be written to stdout, such as a file on a disk that is full."""


def prepare_streams() -> None:
    """Let no text fail because the terminal's character set lacks it."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def write_line(text: str = "") -> None:
    """Write a line of data to stdout; when this returns, the operating system has it.

    Raises:
        OutputClosed: the reader is gone.
        OutputFailed: it cannot be written.
    """
    stdout: TextIO | None = sys.stdout
    if stdout is None:  # the process was started with it closed
        raise OutputClosed
    try:
        stdout.write(f"{text}\n")
        stdout.flush()
    except (BrokenPipeError, ConnectionResetError) as error:
        raise OutputClosed from error
    except OSError as error:
        raise OutputFailed(f"stdout cannot be written: {error.strerror or error}") from error


def write_json(shape: "BaseModel | Mapping[str, Any]") -> None:
    """Write one JSON object as a line of data.

    What is not ASCII is escaped: a reader gets every character exactly, a terminal gets none
    that could steer it.

    Raises:
        OutputClosed: the reader is gone.
    """
    write_line(json_line(shape))


def report(shape: "BaseModel", words: str, *, as_json: bool) -> None:
    """Write a command's outcome: an object for a script, on stdout, or words, on stderr."""
    if as_json:
        write_json(shape)
    else:
        say(words)


def json_line(shape: "BaseModel | Mapping[str, Any]") -> str:
    """Return a JSON object as a line of ASCII."""
    # A model's own JSON is not escaped, so it goes by way of plain values.
    return json.dumps(
        shape if isinstance(shape, Mapping) else shape.model_dump(mode="json", by_alias=True)
    )


def write_message(
    message: "Message", *, as_json: bool, numbered: bool = False, arrows: bool = False
) -> None:
    """Write one message as a line: for a person, or exactly and for a script.

    Args:
        message: the message.
        as_json: as an object with all its fields.
        numbered: begin the line for a person with the message's seq.
        arrows: show a person which side of a conversation wrote it.

    Raises:
        OutputClosed: the reader is gone.
    """
    if as_json:
        write_json(message)
        return
    number = f"{message.seq:>6}  " if numbered else ""
    write_line(f"{number}{message_line(message, arrows=arrows)}")


def write_usernames(usernames: Iterable[str], *, as_json: bool) -> None:
    """Write one username a line, as they come.

    Raises:
        OutputClosed: the reader is gone.
    """
    for username in usernames:
        if as_json:
            write_json({"username": username})
        else:
            write_line(visible(username))


def message_line(message: "Message", *, arrows: bool = False) -> str:
    """Return a message as a line for a person: when, who, what."""
    # The other side, as the chat has it; of what one wrote to oneself there is no copy.
    who = visible(message.sender if message.to is None else message.to)
    arrow = ("← " if message.to is None else "→ ") if arrows else ""
    return f"{local_time(message.sent_at)}  {arrow}{who}: {visible(message.body)}"


def standing_line(who: str, status: "StatusReply") -> str:
    """Return how an account stands, as a line for a person."""
    receipts = "" if status.receipts else ", receipts off"
    return f"{who}: {status.unread} unread, acknowledged up to {status.position}{receipts}"


def say(text: str) -> None:
    """Say something to the person at the terminal, on stderr."""
    # It may be closed too, and that is no reason to fail.
    with contextlib.suppress(OSError, AttributeError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def drop_stdout() -> None:
    """Let what could not be written go nowhere, so that the interpreter does not try at exit."""
    with contextlib.suppress(OSError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
