"""The help of every command: it fits a screen, has an example, and hides nothing for good."""

import click
import pytest
from cli_tree import command_of, every_command
from click.testing import CliRunner

from twinline.cli.console.command import Command
from twinline.cli.main import main

LINES = 24
COLUMNS = 80
COMMANDS = every_command()
LEAVES = [words for words in COMMANDS if not isinstance(command_of(words), click.Group)]


def shown(*arguments: str, columns: int = COLUMNS, **environment: str) -> str:
    result = CliRunner().invoke(
        main, arguments, prog_name="twinline", env={"COLUMNS": str(columns), **environment}
    )
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_help_fits_a_screen_and_has_an_example(words: tuple[str, ...]) -> None:
    text = shown(*words, "--help")
    lines = text.splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    assert lines[0].startswith(" ".join(("Usage: twinline", *words)))
    assert "Example: " in text
    assert "twinline " in text.partition("Example: ")[2]
    assert text == shown(*words, "-h")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_wide_terminal_and_one_with_colours_get_the_same(words: tuple[str, ...]) -> None:
    text = shown(*words, "--help")
    assert text.replace("\n", "").isprintable()
    assert shown(*words, "--help", columns=200) == text
    for variable in ("NO_COLOR", "FORCE_COLOR"):
        assert shown(*words, "--help", **{variable: "1"}) == text


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_the_long_help_has_every_option_and_every_paragraph(words: tuple[str, ...]) -> None:
    command = command_of(words)
    if not isinstance(command, Command):
        pytest.skip("has click's own help, which leaves nothing out")
    text = shown(*words, "--help-all")
    assert max(map(len, text.splitlines())) <= COLUMNS
    plain = " ".join(text.split())
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert all(name in text for name in (*parameter.opts, *parameter.secondary_opts))
            assert " ".join((parameter.help or "").split()) in plain
    for paragraph in (*(command.help or "").split("\n\n"), *command.details.split("\n\n")):
        assert " ".join(paragraph.split()) in plain
    assert f"Example: {command.example}" in text


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_every_command_has_json(words: tuple[str, ...]) -> None:
    assert "--json" in shown(*words, "--help")


def test_every_option_has_a_meaning() -> None:
    for words in COMMANDS:
        for parameter in command_of(words).params:
            assert not isinstance(parameter, click.Option) or parameter.help, (words, parameter)


def test_the_overview_has_every_command_once() -> None:
    text = shown()
    assert text == shown("--help")
    rows = [line[14:32].split(", ") for line in text.splitlines()[4:-1]]
    named = [name.strip() for row in rows for name in row]
    assert named == main.list_commands(click.Context(main))
    assert shown("--version").startswith("twinline ")
