"""Every code block of the documentation that can be run is run; the others say why they are not."""

import re
from pathlib import Path

import click
import pytest
from docs_blocks import blocks_of, command_lines, outside_of_fences, pages
from docs_page import Page
from docs_terminal import WrongOutputError

from twinline.cli.main import main

pytestmark = pytest.mark.timeout(300)


def name_of(path: Path) -> str:
    return "/".join(path.parts[-2:])


@pytest.mark.parametrize("path", pages(), ids=name_of)
def test_the_blocks_of_a_page_do_what_it_says(path: Path, tmp_path: Path) -> None:
    page = Page(path, tmp_path)
    assert not page.unknown()
    page.follow()
    if page.lacking:
        pytest.skip(f"not all of {page.name} was run: {page.lacking} need what is not here")


@pytest.mark.parametrize("path", pages(), ids=name_of)
def test_commands_that_are_not_run_are_commands(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    shown = [each.text for each in blocks_of(text) if each.not_run is not None]
    shown += [line for line in outside_of_fences(text).splitlines() if line.startswith("    ")]
    for line in command_lines("\n".join(shown)):
        assert_parses(line)


def assert_parses(line: str) -> None:
    """See to it that a command line has only commands and options that there are."""
    words = [word.strip("\"'") for word in re.sub(r"\s+#.*|[|;&>].*", "", line).split()[1:]]
    command: click.Command = main
    while isinstance(command, click.Group) and words and not words[0].startswith(("-", "[")):
        found = command.get_command(click.Context(command, **command.context_settings), words[0])
        assert found is not None, line
        command, words = found, words[1:]
    options = {
        name
        for parameter in command.get_params(click.Context(command, **command.context_settings))
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in options, line


# -- the tests above can fail ---------------------------------------------------------------


def follow(tmp_path: Path, text: str) -> Page:
    path = tmp_path / "page.md"
    path.write_text(text, encoding="utf-8")
    page = Page(path, tmp_path)
    page.follow()
    return page


@pytest.mark.parametrize(
    "text",
    [
        "```python\nassert 1 == 2\n```\n",
        "```python\nprint('a')\n```\n<!-- prints -->\n```text\nb\n```\n",
        "```sh\ntwinline nonsense\n```\n",
        "```sh\nfalse\ntrue\n```\n",
        "```console\n$ echo a\nb\n```\n",
        "```console\n$ printf 'a\\nb\\n'\na\n```\n",
        "```toml\nbody_byte = 4096\n```\n",
        '```json\n{"a":}\n```\n',
    ],
)
def test_what_is_not_so_is_noticed(text: str, tmp_path: Path) -> None:
    with pytest.raises((WrongOutputError, ValueError)):
        follow(tmp_path, text)


def test_what_is_so_passes(tmp_path: Path) -> None:
    follow(
        tmp_path,
        "```python\na = 1\n```\n\n```python\nprint(a)\n```\n\n<!-- prints -->\n```text\n1\n```\n"
        "```console\n$ echo a; echo b\n…\nb\n```\n",
    )


def test_accounts_can_be_there_before(tmp_path: Path) -> None:
    follow(
        tmp_path,
        "<!-- logged in: ann, bob -->\n```sh\ntwinline send bob hello\n"
        "twinline status | cut -d : -f 1\n```\n<!-- prints -->\n"
        "```text\nann at tcp\n```\n",
    )


def test_what_needs_a_program_that_is_not_here_is_told(tmp_path: Path) -> None:
    page = follow(tmp_path, "<!-- needs: no-such-program -->\n```sh\nno-such-program\n```\n")
    assert page.lacking == {"no-such-program": 1}


def test_a_block_of_an_unknown_language_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("```cobol\nSTOP RUN.\n```\n")
    assert Page(path, tmp_path).unknown()
    path.write_text("<!-- not run: no compiler -->\n```cobol\nSTOP RUN.\n```\n")
    assert not Page(path, tmp_path).unknown()


def test_a_mark_without_its_block_is_noticed() -> None:
    with pytest.raises(ValueError, match="of no block"):
        blocks_of("<!-- not run: why -->\n\ntext\n```sh\ntrue\n```\n")
    with pytest.raises(ValueError, match="no end"):
        blocks_of("```sh\ntrue\n")


@pytest.mark.parametrize("line", ["twinline sendd bob", "twinline send --loud bob hello"])
def test_a_command_that_there_is_not_is_noticed(line: str) -> None:
    with pytest.raises(AssertionError):
        assert_parses(line)
