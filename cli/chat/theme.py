"""How a talk looks at the prompt: pieces of text, each with the name of its style.

Who said a line is shown by words and an arrow: ``←`` came in, ``→`` went out. Colours only help.
All text from others goes through `visible`, here or in `Entry`.
"""

import sys
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from twinline.cli.chat.conversation import Opening
from twinline.cli.chat.rows import Entry
from twinline.cli.console.output import standing_line
from twinline.cli.console.text import local_time, visible
from twinline.core.protocol import Conversation, Message, StatusReply

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


def went_out(to: str, body: str, sent_at: int, *, mark: str = "", seq: int | None = None) -> Entry:
    """Return a message that was sent.

    Args:
        to: whom to.
        body: the text.
        sent_at: in ms.
        mark: how far it has come, as `marks` has it.
        seq: of its copy, if that is shown.
    """
    head = [
        ("class:time", f"{clock_time(sent_at)} "),
        ("class:out", f"{arrows()[1]}{mark} {visible(to)}: "),
    ]
    if seq is not None:
        head.insert(0, ("class:seq", f"{seq:>6}  "))
    return Entry(head, body, "class:out")


def marks() -> tuple[str, str]:
    """Return the signs of what is stored, and of what the other has acknowledged."""
    return ("✓", "✓✓") if arrows() == _ARROWS else ("+", "++")


def listed(message: Message) -> Entry:
    """Return a message of either side with its seq."""
    if message.to is None:
        return came_in(message, numbered=True)
    return went_out(message.to, message.body, message.sent_at, seq=message.seq)


def opened(name: str, opening: Opening) -> Iterator[Entry]:
    """Yield the end of a conversation, with its days, and a line before what is unread."""
    yield rule(f"you and {visible(name)}")
    stored, arrived = marks()
    first = opening.unread_from
    unread = 0
    if first is not None:
        unread = sum(each.to is None and each.seq >= first for each in opening.messages)
    if opening.is_cut:
        yield rule("older ones are unread too: /history N shows N")
    day = ""
    for message in opening.messages:
        if day_of(message.sent_at) != day:
            day = day_of(message.sent_at)
            yield rule(day)
        if message.to is None:
            if first is not None and message.seq >= first:
                yield rule(f"{unread} unread")
                first = None
            yield came_in(message)
        else:
            mark = arrived if (message.n or 0) <= opening.delivered else stored
            yield went_out(message.to, message.body, message.sent_at, mark=mark)


def rule(text: str) -> Entry:
    """Return a line across, with a text in it."""
    line = "──" if arrows() == _ARROWS else "--"
    return Entry([("class:talk", f"{line} {text} {line}")])


def day_of(milliseconds: int) -> str:
    """Return the day of a moment, as the reader's calendar has it."""
    return local_time(milliseconds).partition(" ")[0]


def elsewhere(message: Message) -> Entry:
    """Return word of a message from somebody else than the one who is talked to, in one row."""
    head = [
        ("class:time", f"{clock_time(message.sent_at)} "),
        ("class:in", f"{arrows()[0]} ["),
        (nick_style(message.sender), visible(message.sender)),
        ("class:in", "] "),
    ]
    return Entry(head, message.body, "class:time", in_one_row=True)


def waits(text: str, to: str | None = None) -> Entry:
    """Return in one row a message that waits to be sent, or a line that waits to be carried out."""
    name = "" if to is None else f"{visible(to)}: "
    return Entry([("class:waits", f"{_dot()} {name}")], text, "class:waits", in_one_row=True)


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


def conversation(each: Conversation, number: int | None = None) -> Entry:
    """Return a conversation in one row: with whom, what is unread, and what was said last.

    Args:
        each: the conversation.
        number: that it is chosen by; None: it is not.
    """
    unread = f"{each.unread} unread  " if each.unread else ""
    arrow = arrows()[each.last.to is not None]
    head = [
        ("bold", "" if number is None else f"{number} "),
        (nick_style(each.username), f"{visible(each.username):<8}  "),
        ("bold", unread),
        ("class:time", f"{clock_time(each.last.sent_at)[:-3]} {arrow} "),  # without seconds
    ]
    return Entry(head, each.last.body, in_one_row=True)


def helped(rows: Sequence[tuple[str, str]]) -> Iterator[Entry]:
    """Yield what can be typed, each with what it does."""
    width = max(len(what) for what, _ in rows)
    for what, does in rows:
        yield Entry([("class:in", f"{what:{width}}  ")], does)


def standing(status: StatusReply, place: str) -> list[Entry]:
    """Return how an account stands."""
    return talk(standing_line(f"{visible(status.username)} at {place}", status))


def clock_time(milliseconds: int) -> str:
    """Return a moment for a reader who knows what day it is: the date only if it is another."""
    text = local_time(milliseconds)
    return text.removeprefix(f"{datetime.now().astimezone():%Y-%m-%d} ")
