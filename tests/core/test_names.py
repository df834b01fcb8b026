"""Usernames have one spelling; patterns match them anchored, folded and in linear time."""

import functools
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinline.core.errors import BadRequest, InvalidUsername
from twinline.core.names import MAX_PATTERN_CHARACTERS, NamePattern, parse_username


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ann", "ann"),
        ("ANN", "ann"),
        ("a", "a"),
        ("0", "0"),
        ("a.b_c-d", "a.b_c-d"),
        ("x" * 32,) * 2,
    ],
)
def test_a_username_has_one_spelling(text: str, name: str) -> None:
    assert parse_username(text) == name


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("x" * 33, id="33 characters"),
        pytest.param(".ann", id="begins with a dot"),
        pytest.param("-ann", id="begins with a dash"),
        pytest.param("_ann", id="begins with an underscore"),
        pytest.param("ann ", id="space"),
        pytest.param("ann\n", id="a line break at the end"),
        pytest.param("an\0n", id="zero"),
        pytest.param("an/n", id="slash"),
        pytest.param("an*", id="star"),
        pytest.param("ａｎｎ", id="full width"),  # noqa: RUF001
        pytest.param("аnn", id="Cyrillic a"),  # noqa: RUF001
        pytest.param("a\u200bnn", id="zero width"),
        pytest.param("\u202eann", id="right to left"),
        pytest.param("\u212aate", id="the Kelvin sign, whose lower case is k"),
        pytest.param("İbo", id="a letter whose lower case is two characters"),
        pytest.param("٣", id="a digit that is not ASCII"),
    ],
)
def test_anything_else_is_no_username(text: str) -> None:
    with pytest.raises(InvalidUsername):
        parse_username(text)


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("*", "ann", True),
        ("", "ann", False),
        ("ann", "ann", True),
        ("ANN", "ann", True),
        ("\\A", "a", True),
        ("ann", "anna", False),
        ("ann", "hann", False),
        ("a*", "ann", True),
        ("*n", "ann", True),
        ("*a", "ann", False),
        ("a?n", "ann", True),
        ("a?n", "an", False),
        ("?", "an", False),
        ("a*b*c", "aXbXbXc", True),
        ("a*b*c", "acb", False),
        ("a*a", "a", False),
        ("a**n", "ann", True),
        ("*ab*ab", "abab", True),
        ("*ab*ab", "ab", False),
        ("*ab*ab", "aab", False),
        ("*?", "a", True),
        ("*?*", "", False),
        ("a.c", "abc", False),
        ("[a]", "a", False),
        (r"\*", "*", True),
        (r"\*", "a", False),
        (r"\?", "?", True),
        (r"\\", "\\", True),
        ("*\u212a", "ak", False),
        ("*x*", "a\nx\nb", True),
    ],
)
def test_patterns(pattern: str, name: str, fits: bool) -> None:
    assert NamePattern(pattern).matches(name) is fits


@pytest.mark.parametrize(
    ("pattern", "prefix", "exact"),
    [
        ("", "", True),
        ("ann", "ann", True),
        ("Ann", "ann", True),
        (r"a\*", "a*", True),
        ("ann*", "ann", False),
        ("an?", "an", False),
        ("?ann", "", False),
        ("*", "", False),
        ("a*b", "a", False),
        ("a?b*", "a", False),
    ],
)
def test_what_a_store_can_seek_to(pattern: str, prefix: str, exact: bool) -> None:
    parsed = NamePattern(pattern)
    assert (parsed.prefix, parsed.exact, parsed.text) == (prefix, exact, pattern)


@pytest.mark.parametrize("pattern", ["\\", "ann\\", "\\\\\\", "x" * (MAX_PATTERN_CHARACTERS + 1)])
def test_patterns_that_cannot_be_read(pattern: str) -> None:
    with pytest.raises(BadRequest):
        NamePattern(pattern)


def test_the_longest_pattern() -> None:
    assert NamePattern("x" * MAX_PATTERN_CHARACTERS).exact


def naive_match(pattern: str, name: str) -> bool:
    """Try every way: what the words of the rule say and nothing more."""

    @functools.cache
    def fits(at: int, name_at: int) -> bool:
        if at == len(pattern):
            return name_at == len(name)
        if pattern[at] == "*":
            return any(fits(at + 1, then) for then in range(name_at, len(name) + 1))
        literal = pattern[at] == "\\"
        wanted = pattern[at + literal]
        if name_at == len(name) or (wanted != name[name_at] and (literal or wanted != "?")):
            return False
        return fits(at + 1 + literal, name_at + 1)

    return fits(0, 0)


tokens = st.sampled_from(["*", "?", "a", "b", ".", "\\*", "\\?", "\\\\", "\\a"])


@settings(max_examples=400, deadline=None)
@given(st.lists(tokens, max_size=9).map("".join), st.text("ab.*?\\", max_size=9))
def test_matching_is_what_the_rule_says(pattern: str, name: str) -> None:
    parsed = NamePattern(pattern)
    assert parsed.matches(name) is naive_match(pattern, name)
    if parsed.matches(name):
        assert name.startswith(parsed.prefix)
        assert not parsed.exact or name == parsed.prefix


@pytest.mark.parametrize("pattern", ["*a" * 60 + "b", "*a?" * 60 + "*b", "*" * 200 + "b"])
def test_no_pattern_makes_matching_explode(pattern: str) -> None:
    """Backtracking over 60 stars would outlast the universe.

    In a process of its own: a match that runs away holds the interpreter, and no timeout of the
    test run could end it.
    """
    script = (
        "import sys; from twinline.core.names import NamePattern;"
        "sys.exit(NamePattern(sys.argv[1]).matches('a' * 4000))"
    )
    run = [sys.executable, "-c", script, pattern]
    assert subprocess.run(run, timeout=10, check=False).returncode == 0
