"""Shows text from others so that it can neither steer a terminal nor hide anything.

A message is stored and passed on exactly as sent. On a terminal an escape sequence in it could
clear the screen or set the clipboard, a bidirectional control could reorder what stands beside
it (Boucher and Anderson, "Trojan Source", 2021), and a line separator could forge another line.
So each such character is replaced by something that can be seen: C0 controls by their control
pictures (U+2400 and on), all others by their number, as in ``<U+202E>``.
"""

import re
import unicodedata
from datetime import datetime
from typing import Final

_ZERO_WIDTH_JOINER: Final = "\u200d"
_HIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
# Letters and marks that are blank by definition (Unicode's Default_Ignorable_Code_Point) and
# that no category gives away.
_BLANK: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0")
_PLAIN: Final = re.compile(r"[ -~]*")


def visible(text: str) -> str:
    """Return the text on one line, with every control and invisible character made visible.

    A zero-width joiner between two pictographs stays, for it makes one picture of them.
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(
        character if _shows(text, at) else _picture(character) for at, character in enumerate(text)
    )


def _shows(text: str, at: int) -> bool:
    character = text[at]
    if character == _ZERO_WIDTH_JOINER:
        return _is_pictograph(text[at - 1 : at]) and _is_pictograph(text[at + 1 : at + 2])
    return unicodedata.category(character) not in _HIDDEN_CATEGORIES and character not in _BLANK


def _is_pictograph(character: str) -> bool:
    # A variation selector or a skin tone may stand between a pictograph and the joiner.
    return bool(character) and (
        character == "\ufe0f" or unicodedata.category(character) in ("So", "Sk")
    )


def _picture(character: str) -> str:
    number = ord(character)
    if number < 0x20:
        return chr(0x2400 + number)
    if number == 0x7F:
        return "\u2421"
    return f"<U+{number:04X}>"


def counted(count: int, one: str, many: str = "") -> str:
    """Return how many there are: ``1 message``, ``2,000 messages``.

    Args:
        count: how many.
        one: what stands behind 1.
        many: what stands behind any other number, if not the same with an s.
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def local_time(milliseconds: int) -> str:
    """Return a moment as the reader's clock shows it: ``2025-01-31 14:03:05``.

    A number that is no moment on any calendar, which only a strange server sends, stays one.
    """
    try:
        moment = datetime.fromtimestamp(milliseconds / 1000).astimezone()
    except (OverflowError, ValueError, OSError):
        return f"{milliseconds} ms"
    return f"{moment:%Y-%m-%d %H:%M:%S}"
