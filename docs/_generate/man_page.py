r"""Writes the manual page ``docs/man/twinline.1`` from the commands, in roff's ``man`` macros.

The text depends on nothing but the program: neither the width of a terminal nor the clock nor the
environment. In roff a backslash, a hyphen, and a line that begins with a dot or a quote have a
meaning of their own, so every text is escaped (groff_char(7), groff_man_style(7)).
"""

from collections.abc import Iterable, Iterator
from typing import Final

from json_shapes import PRINTED, fields
from reference import (
    CLIENT_OPTIONS_WORDS,
    Described,
    Record,
    client_options,
    commands,
    program,
    settings_options,
)

from twinline.cli.console.exit_codes import ExitCode

_ESCAPES: Final = str.maketrans(
    {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": "", "^": r"\(ha", "~": r"\(ti"}
)
_ENVIRONMENT: Final[tuple[Record, ...]] = (
    ("TWINLINE_CONFIG", "The settings file, where no --config names one."),
    ("TWINLINE_PASSWORD", "The password, where no --password-file names one."),
    (
        "TWINLINE_...",
        "Every setting: its key in capitals, as TWINLINE_LOG_LEVEL for log_level.",
    ),
    (
        "TWINLINE_SENDER, TWINLINE_SEQ, TWINLINE_MESSAGE_ID, TWINLINE_SENT_AT",
        "Set for the command of twinline watch --exec.",
    ),
    ("XDG_STATE_HOME, XDG_CONFIG_HOME", "Where the directories of the files below are."),
)
_FILES: Final[tuple[Record, ...]] = (
    (
        "./twinline.toml, ~/.config/twinline/twinline.toml",
        "The settings; the first that exists is read.",
    ),
    (
        "~/.local/state/twinline/sessions.json",
        "The sessions of register and login, which only their owner can read.",
    ),
)
_EXAMPLES: Final[tuple[Record, ...]] = (
    ("A server that keeps its state:", "twinline serve --store sqlite:chat.db"),
    ("An account, and a message to it:", "twinline register ann\ntwinline send ann 'hello'"),
    ("Wait a minute for one message:", "twinline watch --count 1 --timeout 60 --json"),
    (
        "Answer every message:",
        'twinline watch --exec \'twinline send "$TWINLINE_SENDER" "I got it"\'',
    ),
)


def page() -> str:
    """Return the page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    whole, described = program(), commands()
    yield r".\" Made by docs/_generate from the program; do not edit."
    yield '.TH TWINLINE 1 "" "twinline" "User Commands"'
    # Examples and the like must not be hyphenated or filled out.
    yield ".nh"
    yield ".ad l"
    yield ".SH NAME"
    yield r"twinline \- accounts, direct messages and instant delivery"
    yield ".SH SYNOPSIS"
    yield f".B {_escaped(whole.name)}"
    yield _escaped(whole.usage)
    yield ".SH DESCRIPTION"
    yield _escaped(whole.summary)
    yield from _paragraphs(whole.text)
    yield ".SH OPTIONS"
    yield from _list(whole.options)
    yield from _list(
        [
            ("-h, --help", "Show the help of the program, or of a command, on one screen."),
            ("--help-all", "Of a command: show every option, page by page."),
        ]
    )
    yield ".SH COMMANDS"
    for command in described:
        yield from _command(command)
    yield ".SH OPTIONS OF CLIENT COMMANDS"
    yield _escaped(CLIENT_OPTIONS_WORDS)
    yield from _list(client_options())
    yield ".SH SETTINGS"
    yield _escaped(
        "Each is also a variable and a key of the settings file, as TWINLINE_LOG_LEVEL and "
        "log_level for --log-level. A flag wins over the variable, that over the file."
    )
    for title, records in settings_options().items():
        yield f'.SS "{_escaped(title)}"'
        yield from _list(records)
    yield ".SH JSON"
    yield _escaped(
        "With --json a command prints objects, one a line, with these fields. Times are "
        "milliseconds since 1970 UTC. A failure is an object on stderr: error, message, exit_code "
        "and retry_after_ms."
    )
    for name, printed in PRINTED.items():
        names = [", ".join(field for field, *_ in fields(model)) for model in printed.models]
        yield from _list([(f"twinline {name}", f"{printed.each}: {'; or '.join(names)}.")])
    yield ".SH EXIT STATUS"
    yield from _list((str(int(code)), f"{code.meaning}.") for code in ExitCode)
    yield ".SH ENVIRONMENT"
    yield from _list(_ENVIRONMENT)
    yield ".SH FILES"
    yield from _list(_FILES)
    yield ".SH EXAMPLES"
    for words, lines in _EXAMPLES:
        yield ".PP"
        yield _escaped(words)
        yield from _code(lines)
    yield ".SH SEE ALSO"
    yield ".BR bash (1),"
    yield ".BR nc (1)"


def _command(command: Described) -> Iterator[str]:
    yield f'.SS "{_escaped(command.name)} {_escaped(command.usage)}"'
    yield _escaped(command.summary)
    yield from _paragraphs(command.text)
    yield from _list(command.options)
    more = [
        "OPTIONS OF CLIENT COMMANDS" * command.is_client,
        "SETTINGS" * command.has_settings,
    ]
    if any(more):
        yield ".PP"
        yield f"Further options: see {' and '.join(filter(None, more))}."
    yield ".PP"
    yield "Example:"
    yield from _code(command.example)


def _paragraphs(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield ".PP"
        yield _escaped(text)


def _list(records: Iterable[Record]) -> Iterator[str]:
    for name, words in records:
        yield ".TP"
        yield rf"\fB{_escaped(name)}\fR"
        yield _escaped(words)


def _code(text: str) -> Iterator[str]:
    yield ".PP"
    yield ".RS 4"
    yield ".nf"
    for line in text.splitlines():
        yield _escaped(line)
    yield ".fi"
    yield ".RE"


def _escaped(text: str) -> str:
    # A double quote ends an argument of a macro; elsewhere its name does no harm.
    words = text.translate(_ESCAPES).replace('"', r"\(dq")
    return rf"\&{words}" if words.startswith(".") else words
