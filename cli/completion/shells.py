"""Answers a shell that completes a command line, and makes the scripts by which it asks.

The protocol between the script and this program is click's: variables tell the words, each line of
the answer is a completion. Whatever goes wrong, the answer is empty: a Tab key shows no errors.
"""

import contextlib
import io
import os
import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    split_arg_string,
)

from twinline.cli.commands import COMPLETE_VARIABLE
from twinline.cli.console.output import drop_stdout

PROGRAM: Final = "twinline"

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


class _Silent(ShellComplete):
    """Completes nothing where nothing can be completed, such as behind an unknown option."""

    def get_completions(self, args: list[str], incomplete: str) -> "list[CompletionItem[str]]":
        try:
            return super().get_completions(args, incomplete)
        except Exception:  # noqa: BLE001 - a person who presses Tab wants no errors
            return []


class _Bash(_Silent, BashComplete):
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


class _Zsh(_Silent, ZshComplete):
    pass


class _Fish(_Silent, FishComplete):
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
    asking = SHELLS[shell](cli, {"obj": _values}, PROGRAM, COMPLETE_VARIABLE)
    with contextlib.redirect_stderr(io.StringIO()):  # a log's line would stand in the prompt
        try:
            text = asking.source() if wish == "source" else asking.complete()
        except Exception:  # noqa: BLE001 - a variable is missing, or is no number
            return 1
    try:
        click.echo(f"{text}\n".encode() if text else b"", nl=False)
    except OSError:  # the shell has given up, or its disk is full; a traceback helps neither
        drop_stdout()
        return 1
    return 0


def _values(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> Iterable[str] | None:
    # They depend on settings, a session or the server, all slow to import.
    from twinline.cli.completion.values import values  # noqa: PLC0415

    return values(context, parameter, incomplete)
