"""The code blocks of the documentation, and what a comment before a block says about it.

A block is run as its language says. A comment just before its fence changes that:

===============================  ===============================================================
``<!-- not run: REASON -->``     it cannot be run here; its ``twinline`` lines are parsed
``<!-- file: NAME -->``          it is the content of a file, which later blocks use
``<!-- prints -->``              it is what the block before it printed
``<!-- terminal: NAME -->``      a console block goes on in the terminal of that name
``<!-- goes on -->``             its last command does not end by itself
``<!-- types: TEXT -->``         what is typed at its password prompts, unseen
``<!-- logged in: A, B -->``     the accounts A and B are there, and A is logged in
``<!-- needs: PROGRAM -->``      skipped, and said so, where there is no such program
===============================  ===============================================================
"""

import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What is no code: pictures, what a program prints, and what only Sphinx reads.
NO_CODE = {"", "text", "mermaid", "{eval-rst}", "{toctree}"}
RUNNABLE = {"python", "sh", "console", "toml", "json", "ini"}
_MARKS = {"not run", "file", "prints", "terminal", "goes on", "types", "logged in", "needs"}
_COMMENT = re.compile(r"\s*<!-- ([a-z ]+?)(?:: (.*?))? -->")
_FENCE = re.compile(r"(\s*)(`{3,})([^\s`]*)\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: where its fence stands, from 1.
        language: the word behind the fence.
        text: what is in it.
        marks: what the comments before it say.
    """

    line: int
    language: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def not_run(self) -> str | None:
        """Why it is not run, or None."""
        return self.marks.get("not run")


def pages() -> list[Path]:
    """Return every page of the documentation that is there."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    found += sorted((ROOT / "docs").glob("**/*.md"))
    found += sorted((ROOT / "examples").glob("**/README.md"))
    return found


def blocks_of(text: str) -> list[Block]:
    """Return the blocks of a page, in order.

    Raises:
        ValueError: a fence has no end.
    """
    found: list[Block] = []
    marks: dict[str, str] = {}
    lines = iter(enumerate(text.splitlines(), start=1))
    for number, line in lines:
        comment, fence = _COMMENT.fullmatch(line), _FENCE.fullmatch(line)
        if comment is not None and comment[1] in _MARKS:
            marks[comment[1]] = comment[2] or ""
        elif fence is not None:
            found.append(Block(number, fence[3], _inside(lines, fence[2], number), marks))
            marks = {}
        elif marks:
            raise ValueError(f"line {number}: {', '.join(marks)} is said of no block")
    return found


def command_lines(text: str) -> list[str]:
    """Return the ``twinline`` commands of a text that is not run, whole lines of them."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return re.findall(r"^\s*(?:\$ )?(twinline .*)$", joined, re.MULTILINE)


def outside_of_fences(text: str) -> str:
    """Return a page without its fenced blocks."""
    kept: list[str] = []
    lines = iter(enumerate(text.splitlines(), start=1))
    for number, line in lines:
        fence = _FENCE.fullmatch(line)
        if fence is None:
            kept.append(line)
        else:
            _inside(lines, fence[2], number)
    return "\n".join(kept)


def _inside(lines: "enumerate[str]", fence: str, number: int) -> str:  # type: ignore[type-arg]
    inside = []
    for _, line in lines:
        if line.strip() == fence:
            return textwrap.dedent("\n".join(inside) + "\n") if inside else ""
        inside.append(line)
    raise ValueError(f"line {number}: this fence has no end")
