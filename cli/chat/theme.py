"""How a talk looks at the prompt: pieces of text, each with the name of its style.

Who said a line is shown by words and an arrow: ``←`` came in, ``→`` went out. Colours only help.
All text from others goes through `visible`, here or in `Entry`.
"""

import sys
import zlib
from datetime import datetime
from typing import Final

from twinline.cli.chat.rows import Entry
from twinline.cli.console.output import standing_line
from twinline.cli.console.text import local_time, visible
from twinline.core.protocol import Message, StatusReply

NICK_COLOURS: Final = ("ansicyan", "ansiyellow", "ansimagenta", "ansiblue", "ansigreen", "ansired")
STYLES: Final[dict[str, str]] = {
    "time": "ansibrightblack",
    "seq": "ansibrightblack",
    "in": "bold",
    **{f"nick{number}": f"bold {colour}" for number, colour in enumerate(NICK_COLOURS)},
    "out": "ansigreen",
    "waits": "ansibrightblack",
    "trouble": "ansired",
    "talk": "italic",
    "toolbar": "reverse noinherit",
    "chosen": "bold underline noinherit",
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


def came_in(message: Message, *, numbered: bool = False) -> Entry:
    """Return a message from the mailbox, if need be with its seq."""
    number = [("class:seq", f"{message.seq:>6}  ")] if numbered else []
    head = [
        *number,
        ("class:time", f"{clock_time(message.sent_at)} "),
        ("class:in", f"{arrows()[0]} "),
        (nick_style(message.sender), visible(message.sender)),
        ("class:in", ": "),
    ]
    return Entry(head, message.body)


def went_out(to: str, body: str, sent_at: int) -> Entry:
    """Return a message that was sent."""
    head = [
        ("class:time", f"{clock_time(sent_at)} "),
        ("class:out", f"{arrows()[1]} {visible(to)}: "),
    ]
    return Entry(head, body, "class:out")


def waits(to: str, body: str) -> Entry:
    """Return a message that waits to be sent, on one line."""
    return Entry([("class:waits", f"{_dot()} {visible(to)}: {visible(body)}")])


def _dot() -> str:
    return "○" if arrows() == _ARROWS else "o"


def nick_style(name: str) -> str:
    """Return the style of a name, which is the same in every run; its colour says nothing alone."""
    return f"class:nick{zlib.crc32(name.encode(errors='replace')) % len(NICK_COLOURS)}"


def talk(text: str) -> list[Entry]:
    """Return what is said about the talk, line by line."""
    return [Entry([("class:talk", "")], line, "class:talk") for line in text.splitlines()]


def trouble(text: str) -> Entry:
    """Return something that went wrong."""
    return Entry([("class:trouble", "! ")], text, "class:trouble")


def standing(status: StatusReply, place: str) -> list[Entry]:
    """Return how an account stands."""
    return talk(standing_line(f"{visible(status.username)} at {place}", status))


def clock_time(milliseconds: int) -> str:
    """Return a moment for a reader who knows what day it is: the date only if it is another."""
    text = local_time(milliseconds)
    return text.removeprefix(f"{datetime.now().astimezone():%Y-%m-%d} ")
