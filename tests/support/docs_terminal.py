"""A terminal with a shell in it, as a reader of the documentation has it open.

A console block is what its screen shows: ``$ `` begins a command, ``^C`` is that key, everything
else is printed. In what is printed ``…`` stands for anything within a line, and alone on a line
for any lines. Times, message ids and process numbers need not be the same.
"""

import os
import pty
import re
import select
import subprocess
import termios
import time
from dataclasses import dataclass, field
from pathlib import Path

READY = "\x1eready\x1e"
SECONDS = 60.0  # for one command; far more than any takes, on a slow machine too
_VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "TIME"),
    (re.compile(r"\b[0-9a-f]{24}\b"), "ID"),
    (re.compile(r"\b1\d{12}\b"), "MS"),
    (re.compile(r"^\[(\d)\] \d+$", re.MULTILINE), r"[\1] PID"),
)
_ASKS = re.compile(r"[^\n]*(?:[Pp]assword|The same again)[^\n]*: \Z")


class WrongOutputError(AssertionError):
    """The screen does not show what the page says."""


@dataclass
class Step:
    """A command or a key, and what is printed afterwards.

    Attributes:
        command: None where the block begins with what is printed, "^C" for that key.
        printed: the lines.
    """

    command: str | None
    printed: list[str] = field(default_factory=list)


def steps_of(text: str) -> list[Step]:
    """Return the steps of a console block."""
    steps: list[Step] = []
    continued = False
    for line in text.splitlines():
        if continued:
            steps[-1].command = f"{steps[-1].command}\n{line.removeprefix('> ')}"
        elif line.startswith("$ "):
            steps.append(Step(line[2:]))
        elif line == "^C":
            steps.append(Step("^C"))
        else:
            if not steps:
                steps.append(Step(None))
            steps[-1].printed.append(line)
        continued = line.endswith("\\") and (continued or line.startswith("$ "))
    return steps


def fits(shown: str, printed: list[str]) -> bool:
    """Return whether what is shown is what should be printed."""
    pattern = ""
    for line in _same("\n".join(printed)).splitlines():
        if line == "…":
            pattern += r"(?:[^\n]*\n)*"
        else:
            pattern += "[^\n]*".join(map(re.escape, line.split("…"))) + r"[ ]*\n"
    shown = _same(shown).rstrip("\n")
    return re.fullmatch(pattern, f"{shown}\n" if shown else "") is not None


def _same(text: str) -> str:
    for varying, word in _VARYING:
        text = varying.sub(word, text)
    return text


class Terminal:
    """A pseudo-terminal with an interactive shell; to be closed."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._screen = ""
        self._master, slave = pty.openpty()
        attributes = termios.tcgetattr(slave)
        attributes[1] &= ~termios.ONLCR  # a line ends with one character
        attributes[3] &= ~termios.ECHO  # the page's command is not shown a second time
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        # The shell that leads its session and opens a terminal has it as its own: Ctrl-C works.
        self._shell = subprocess.Popen(
            [
                "bash",
                "-c",
                'PS1="$1" exec bash --noprofile --norc --noediting -i <"$0" >"$0" 2>&1',
                os.ttyname(slave),
                READY,  # not as a variable: a shell that is not interactive drops it
            ],
            cwd=folder,
            env={**environment, "PS2": "", "TERM": "dumb", "HISTFILE": ""},
            start_new_session=True,
        )
        try:
            self._read_until(lambda: READY in self._screen, "the shell's prompt")
        finally:
            os.close(slave)
        self._screen = ""

    def follow(self, text: str, *, goes_on: bool = False, types: str = "") -> None:
        """Do what a block says, and see that the screen shows it.

        Raises:
            WrongOutputError: it does not.
        """
        steps = steps_of(text)
        for step in steps:
            stays = goes_on and step is steps[-1]
            if step.command == "^C":
                self._type("\x03")
                self._read_until(lambda: READY in self._screen, "the prompt after ^C")
                self._screen = ""
                continue
            if step.command is not None:
                self._screen = ""
                self._type(f"{step.command}\n")
            if step.command is None or stays:
                # What goes on may have printed more by now, such as a server that is ready.
                self._expect([*step.printed, "…"] if stays else step.printed, types)
            else:
                prompts = step.command.count("\n") + 1
                self._read_until(
                    lambda n=prompts: self._screen.count(READY) >= n or self._ends(),
                    step.command,
                    types,
                )
                if not fits(self._shown(), step.printed):
                    self._wrong(step.printed, step.command)
            self._screen = ""

    def close(self) -> None:
        """End the shell and what it has started."""
        for child in _children_of(self._shell.pid):
            _kill(child)
        self._shell.kill()
        self._shell.wait()
        os.close(self._master)

    def _ends(self) -> bool:
        return self._screen.endswith(READY)

    def _shown(self) -> str:
        return self._screen.replace(READY, "")

    def _type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def _expect(self, printed: list[str], types: str) -> None:
        try:
            self._read_until(lambda: fits(self._shown(), printed), "\n".join(printed), types)
        except TimeoutError:
            self._wrong(printed, "it")

    def _read_until(self, done: "object", what: str, types: str = "") -> None:
        deadline = time.monotonic() + SECONDS
        asked = 0
        while not done():  # type: ignore[operator]
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{what!r} is not done; the screen shows {self._shown()!r}")
            if select.select([self._master], [], [], min(left, 0.2))[0]:
                try:
                    self._screen += os.read(self._master, 65536).decode(errors="replace")
                except OSError:  # the other end is closed
                    raise WrongOutputError(f"the shell has ended: {self._shown()!r}") from None
            elif types and len(self._screen) > asked and _ASKS.search(self._screen):
                # Once it is quiet: getpass throws away what was typed before it asked.
                asked = len(self._screen)
                self._type(f"{types}\n")

    def _wrong(self, printed: list[str], command: str) -> None:
        raise WrongOutputError(
            f"{command!r} should print\n"
            + "\n".join(printed)
            + f"\nand the screen shows\n{self._shown()}"
        )


def _children_of(pid: int) -> list[int]:
    """Return the processes below one, where the system tells them."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [*_children_of(child), child]
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return
