"""Answers a shell that completes a command line, and makes the scripts by which it asks.

The protocol between the script and this program is click's: variables tell the words, each line of
the answer is a completion. Whatever goes wrong, the answer is empty: a Tab key shows no errors.
"""

import contextlib
import io
import os
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    split_arg_string,
)

from twinline.cli.commands import COMMANDS, COMPLETE_VARIABLE

PROGRAM: Final = "twinline"
_SUMMARIES: Final = {name: summary for _, each in COMMANDS for name, _, summary in each}

# Unlike click's: asks with the whole line, for bash has split the words at colons; works in a bash
# older than 4.4, which macOS has, without its own order; and takes no candidate for a pattern.
_BASH: Final = """\
%(complete_func)s() {
    local IFS=$'\\n' completion kind value
    COMPREPLY=()
    while read -r completion; do
        kind=${completion%%%%,*} value=${completion#*,}
        case $kind in
            dir) compopt -o dirnames 2>/dev/null ;;
            file) compopt -o default 2>/dev/null ;;
            plain)
                COMPREPLY+=("$value")
                [[ $value == *[:/] ]] && compopt -o nospace 2>/dev/null
                ;;
        esac
    done < <(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" COMP_WORDBREAKS="$COMP_WORDBREAKS" \
%(complete_var)s=bash_complete "$1" 2>/dev/null)
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s 2>/dev/null ||
    complete -F %(complete_func)s %(prog_name)s
"""


class _Values(ShellComplete):
    """Completes what click cannot know: names and endpoints."""

    def get_completions(self, args: list[str], incomplete: str) -> "list[CompletionItem[str]]":
        try:
            return self._found(args, incomplete)
        except Exception:  # noqa: BLE001 - a person who presses Tab wants no errors
            return []

    def _found(self, args: list[str], incomplete: str) -> "list[CompletionItem[str]]":
        context, asked, incomplete = _resolved(self, args, incomplete)
        if asked is self.cli and not incomplete.startswith("-"):
            if any(not word.startswith("-") for word in args):
                return []  # there is no such command
            # Not by way of the commands themselves, which would all be imported.
            return _beginning(incomplete, _SUMMARIES)
        if isinstance(asked, click.Parameter):
            # Values that depend on settings, a session or the server, all slower to import.
            from twinline.cli.completion.values import values  # noqa: PLC0415

            found = values(context, asked, incomplete)
            if found is not None:
                return _beginning(incomplete, dict.fromkeys(found, None))
        return asked.shell_complete(context, incomplete)


class _Bash(_Values, BashComplete):
    source_template = _BASH

    def source(self) -> str:
        # Without asking which bash there is: the script works in all.
        return ShellComplete.source(self)

    def get_completion_args(self) -> tuple[list[str], str]:
        point = int(os.environ["COMP_POINT"])
        line = os.environ["COMP_LINE"][:point]
        words = split_arg_string(line)
        if line[-1:].isspace():
            return words[1:], ""
        return words[1:-1], words[-1]

    def complete(self) -> str:
        args, incomplete = self.get_completion_args()
        # Bash replaces only what follows the last character at which it breaks words.
        breaks = "".join(set(os.environ.get("COMP_WORDBREAKS", "")) & set(":="))
        kept = re.match(f".*[{breaks}]", incomplete) if breaks else None
        start = len(kept[0]) if kept else 0
        option = incomplete.partition("=")[0] if incomplete.startswith("-") else ""
        value_at = len(option) + 1 if "=" in incomplete and option else 0
        return "\n".join(
            f"{item.type},{item.value[max(0, start - value_at) :]}"
            for item in self.get_completions(args, incomplete)
        )


class _Zsh(_Values, ZshComplete):
    pass


class _Fish(_Values, FishComplete):
    pass


SHELLS: Final[Mapping[str, type[ShellComplete]]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def script(shell: str) -> str:
    """Return what a shell evaluates.

    Args:
        shell: one of `SHELLS`.
    """
    # Which command it is for does not matter to the script.
    return SHELLS[shell](click.Command(PROGRAM), {}, PROGRAM, COMPLETE_VARIABLE).source()


def answer(cli: click.Group, instruction: str) -> Literal[0, 1]:
    """Answer a shell, and return the exit code.

    Args:
        cli: the program.
        instruction: the shell and what it wants, as in ``bash_complete``.
    """
    shell, _, wish = instruction.partition("_")
    if shell not in SHELLS or wish not in ("complete", "source"):
        return 1
    asking = SHELLS[shell](cli, {}, PROGRAM, COMPLETE_VARIABLE)
    with contextlib.redirect_stderr(io.StringIO()):  # a log's line would stand in the prompt
        try:
            text = asking.source() if wish == "source" else asking.complete()
        except Exception:  # noqa: BLE001 - a variable is missing, or is no number
            return 1
    click.echo(f"{text}\n".encode() if text else b"", nl=False)
    return 0


def _resolved(
    asking: ShellComplete, args: list[str], incomplete: str
) -> tuple[click.Context, click.Command | click.Parameter, str]:
    """Return where the words lead, what is to be completed there, and its beginning."""
    from click.shell_completion import (  # noqa: PLC0415 - private, and there is no public way
        _resolve_context,
        _resolve_incomplete,
    )

    # An unknown option, or a value that cannot be, leaves nothing to complete.
    context = _resolve_context(asking.cli, asking.ctx_args, asking.prog_name, args)
    asked, incomplete = _resolve_incomplete(context, args, incomplete)
    return context, asked, incomplete


def _beginning(incomplete: str, found: Mapping[str, Any]) -> "list[CompletionItem[str]]":
    return [
        CompletionItem(name, help=words)
        for name, words in found.items()
        if name.startswith(incomplete)
    ]
