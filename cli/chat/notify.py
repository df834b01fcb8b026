"""Desktop notifications, by the sequences that terminals have for them.

``9`` is the one of iTerm2, kitty and WezTerm: ``OSC 9 ; text ST``. ``777`` is the one of urxvt and
foot: ``OSC 777 ; notify ; title ; text ST``. No terminal tells which it takes, and one that takes
both would show two; so the person says which. Within tmux the sequence is wrapped so that tmux
passes it on, where its ``allow-passthrough`` is on.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Final

from twinline.cli.console.text import visible
from twinline.core.protocol import Message

_TITLE: Final = "twinline"
_MOST: Final = 100
_ST: Final = "\x1b\\"


class Osc(Enum):
    """The operating system command (ECMA-48, OSC) that a terminal takes."""

    ITERM2 = "9"
    URXVT = "777"


def notification(by: Osc, text: str, *, in_tmux: bool) -> str:
    """Return what makes a terminal show a notification.

    Args:
        by: which sequence.
        text: of others, as it came: no control character of it gets through.
        in_tmux: whether tmux is between.
    """
    shown = visible(text)
    if len(shown) > _MOST:
        shown = f"{shown[:_MOST]} ..."
    before = by.value if by is Osc.ITERM2 else f"{by.value};notify;{_TITLE}"
    sequence = f"\x1b]{before};{shown}{_ST}"
    return f"\x1bPtmux;{sequence.replace(chr(27), chr(27) * 2)}{_ST}" if in_tmux else sequence


def told(messages: Sequence[Message]) -> str:
    """Return what to tell of messages that came together: the one, or how many and from whom."""
    if len(messages) == 1:
        return f"{messages[0].sender}: {messages[0].body}"
    senders = ", ".join(dict.fromkeys(each.sender for each in messages))
    return f"{len(messages)} messages from {senders}"
