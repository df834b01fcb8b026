"""The rule for usernames, and the patterns that list them."""

import re
from functools import cached_property, lru_cache
from typing import Final

from twinline.core.errors import BadRequest, InvalidUsername

MAX_PATTERN_CHARACTERS: Final = 256
"""The longest pattern that is read."""
_USERNAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")


# Twice as fast for the names that are written all the time; what is refused is not cached.
@lru_cache(maxsize=10_000)
def parse_username(text: str) -> str:
    """Return a username in its one spelling: ASCII, case folded.

    Raises:
        InvalidUsername: the text does not follow the rule.
    """
    # ASCII first: str.lower turns the Kelvin sign (U+212A) into an ordinary "k".
    name = text.lower() if text.isascii() else ""
    if _USERNAME.fullmatch(name) is None:
        raise InvalidUsername
    return name


class NamePattern:
    r"""A pattern over usernames: ``*`` any run, ``?`` one character, ``\`` escapes the next.

    It is anchored at both ends and folds case as usernames do. Matching is linear in the name
    times the pattern: each run of ``*`` takes the first match and never looks back
    (an atomic group), which for patterns of this kind loses no match.

    Attributes:
        text: the pattern as given.
        prefix: the literal text that every match begins with; a store seeks to it.
        exact: whether the pattern is all prefix, so that it names one account.
    """

    def __init__(self, text: str) -> None:
        r"""Read a pattern.

        Raises:
            BadRequest: it is longer than 256 characters, or ends in a single ``\``.
        """
        if len(text) > MAX_PATTERN_CHARACTERS:
            raise BadRequest(f"a pattern has at most {MAX_PATTERN_CHARACTERS} characters")
        self.text = text
        # Only ASCII is folded, as in a username: str.lower turns the Kelvin sign into a "k".
        folded = "".join(c.lower() if c.isascii() else c for c in text)
        self._runs = _parse(folded)
        self.exact = len(self._runs) == 1 and None not in self._runs[0]
        first = self._runs[0]
        literal = first[: first.index(None)] if None in first else first
        self.prefix = "".join(character or "" for character in literal)

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        first, *others = (
            "".join("." if character is None else re.escape(character) for character in run)
            for run in self._runs
        )
        if not others:
            return re.compile(first, re.DOTALL)
        *middle, last = others
        atoms = "".join(f"(?>.*?{run})" for run in middle)
        return re.compile(f"{first}{atoms}.*{last}", re.DOTALL)

    def matches(self, username: str) -> bool:
        """Return whether the whole username fits the pattern."""
        return self._regex.fullmatch(username) is not None


def _parse(text: str) -> list[list[str | None]]:
    """Split a pattern at its stars into runs of characters, None for ``?``."""
    runs: list[list[str | None]] = [[]]
    characters = iter(text)
    for character in characters:
        if character == "*":
            # Adjacent stars mean what one means.
            if len(runs) == 1 or runs[-1]:
                runs.append([])
        elif character == "?":
            runs[-1].append(None)
        elif character == "\\":
            escaped = next(characters, None)
            if escaped is None:
                raise BadRequest("a pattern cannot end in a single backslash")
            runs[-1].append(escaped)
        else:
            runs[-1].append(character)
    return runs
