"""How a talk looks at the prompt: pieces of text, each with the name of its style.

Who said a line is shown by words and an arrow: ``←`` came in, ``→`` went out. Colours only help.
All text from others goes through `visible`.
"""

import sys
from datetime import datetime
from typing import Final

from twinline.cli.console.output import standing_line
from twinline.cli.console.text import local_time, visible
from twinline.core.protocol import Message, StatusReply

Line = list[tuple[str, str]]
"""One line: (style, text) pairs."""

STYLES: Final[dict[str, str]] = {
    "time": "ansibrightblack",
    "seq": "ansibrightblack",
    "in": "bold ansicyan",
    "out": "ansigreen",
    "trouble": "ansired",
    "talk": "italic",
    "toolbar": "reverse noinherit",
    "prompt": "bold",
}
_ARROWS: Final = ("←", "→")
_PLAIN_ARROWS: Final = ("<-", "->")


def arrows() -> tuple[str, str]:
    """Return the signs of what came in and of what went out, as the terminal can show them."""
    try:
        "".join(_ARROWS).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return _PLAIN_ARROWS
    return _ARROWS


def came_in(message: Message, *, numbered: bool = False) -> Line:
    """Return the line of a message from the mailbox, if need be with its seq."""
    number = [("class:seq", f"{message.seq:>6}  ")] if numbered else []
    return [
        *number,
        ("class:time", f"{clock_time(message.sent_at)} "),
        ("class:in", f"{arrows()[0]} {visible(message.sender)}: "),
        ("", visible(message.body)),
    ]


def went_out(to: str, body: str, sent_at: int) -> Line:
    """Return the line of a message that was sent."""
    return [
        ("class:time", f"{clock_time(sent_at)} "),
        ("class:out", f"{arrows()[1]} {visible(to)}: {visible(body)}"),
    ]


def talk(text: str) -> list[Line]:
    """Return what is said about the talk, line by line."""
    return [[("class:talk", line)] for line in text.splitlines()]


def trouble(text: str) -> Line:
    """Return the line of something that went wrong."""
    return [("class:trouble", f"! {text}")]


def standing(status: StatusReply, place: str) -> list[Line]:
    """Return how an account stands."""
    return talk(standing_line(f"{visible(status.username)} at {place}", status))


def clock_time(milliseconds: int) -> str:
    """Return a moment for a reader who knows what day it is: the date only if it is another."""
    text = local_time(milliseconds)
    return text.removeprefix(f"{datetime.now().astimezone():%Y-%m-%d} ")


def plain(line: Line) -> str:
    """Return a line without its styles."""
    return "".join(text for _, text in line)
