"""The commands of `twinline`, one by one, for tests that must hold for all of them."""

from collections.abc import Iterator

import click

from twinline.cli.main import main


def every_command() -> list[tuple[str, ...]]:
    """Return the words that name each command, groups and the program itself included."""

    def below(group: click.Group, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        context = click.Context(group, **group.context_settings)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            if isinstance(command, click.Group):
                yield from below(command, (*words, name))
            else:
                yield (*words, name)

    return list(below(main, ()))


def command_of(words: tuple[str, ...]) -> click.Command:
    """Return a command by its words."""
    command: click.Command = main
    for word in words:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command, **command.context_settings), word)
        assert found is not None
        command = found
    return command
