"""Breaks what is shown into rows of the terminal: at words, with a hanging indent.

A text of several lines is several rows, and each begins below the first one's text. So no line of a
message can pass for another message: what stands at the left edge is the chat's own.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from prompt_toolkit.utils import get_cwidth

from twinline.cli.console.text import visible

Line = list[tuple[str, str]]
"""One line: (style, text) pairs."""
MOST_ROWS: Final = 200
"""How many rows one message has on the screen; what is left is counted."""
_LEAST_TEXT: Final = 20
_MORE: Final = " ..."
_SMALL_INDENT: Final = 2


class Entry(NamedTuple):
    """Something that is shown above the prompt, whatever the width of the terminal.

    Attributes:
        head: stands before the text, in the first row alone; its texts can be seen as they are.
        text: of one or more lines, as it came.
        style: of the text.
        in_one_row: whether it is cut at the terminal's edge, with what follows its first line.
    """

    head: Line
    text: str = ""
    style: str = ""
    in_one_row: bool = False

    def __str__(self) -> str:
        """Return it on one line, without its styles."""
        return "".join(text for _, text in self.head) + visible(self.text)

    def rows(self, columns: int) -> list[Line]:
        """Return what it is on a terminal of so many columns."""
        taken = sum(get_cwidth(text) for _, text in self.head)
        if self.in_one_row:
            first, newline, _ = self.text.partition("\n")
            return [[*self.head, (self.style, cut(visible(first), columns - taken, newline))]]
        indent = taken if columns - taken >= _LEAST_TEXT else min(_SMALL_INDENT, columns // 4)
        rows: list[Line] = [list(self.head)]
        left = columns - taken
        for number, line in enumerate(self.text.split("\n")):
            for part, text in enumerate(broken(visible(line), max(left, 0), columns - indent)):
                if number or part:
                    if len(rows) == MOST_ROWS:
                        more = self.text.count("\n") + 1 - number
                        rows.append([("class:talk", f"{' ' * indent}... {more} more lines")])
                        return rows
                    rows.append([("", " " * indent)])
                rows[-1].append((self.style, text))
            left = columns - indent
        return rows


def cut(text: str, columns: int, more: str = "") -> str:
    """Return what fits of a text, with a sign if that is not all.

    Args:
        text: without controls.
        columns: how many it may have.
        more: is there as well, if it is not empty.
    """
    if not more and get_cwidth(text) <= columns:
        return text
    room = columns - len(_MORE)
    end = width = 0
    while end < len(text) and width + get_cwidth(text[end]) <= room:
        width += get_cwidth(text[end])
        end += 1
    return text[:end].rstrip(" ") + _MORE


def broken(text: str, first: int, others: int) -> Iterator[str]:
    """Yield the parts of a line that fit, broken at spaces where there are some.

    Args:
        text: without controls.
        first: how many columns the first part may have; 0: it is left empty.
        others: how many each other part may have.
    """
    room = first
    others = max(others, 1)
    start = end = at = width = 0  # end: behind the last space at which the part could be broken
    while at < len(text):
        step = get_cwidth(text[at])
        if width + step > room and (at > start or room != others):
            cut = end if end > start else at
            if start == 0 and cut == at and get_cwidth(text.partition(" ")[0]) <= others > room:
                cut = 0  # the first word does not fit behind the head, and does in the next row
            yield text[start:cut].rstrip(" ")
            start = end = at = cut
            width, room = 0, others
            continue
        width += step
        at += 1
        if text[at - 1] == " ":
            end = at
    yield text[start:]
