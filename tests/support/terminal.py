"""A terminal for tests: a command on a pseudo-terminal, and the screen that its user would see."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pyte
from cli_server import CommandLine
from waiting import fail_with_stacks, join

COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:[349]\d|10\d|38;|48;)[\d;]*m")
"""A sequence that sets a colour (ECMA-48, SGR), other than back to the default one."""
_DEFAULT_COLOUR = re.compile(rb"\x1b\[(?:0;)?(?:39|49)m")
# The pseudo-terminal becomes the one that Ctrl-C and /dev/tty belong to.
_LAUNCH = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from twinline.cli.main import main
main(prog_name="twinline")
"""


class Terminal:
    """A command that runs at a terminal of its own."""

    def __init__(
        self, command: list[str], environment: dict[str, str], columns: int = 80, lines: int = 24
    ) -> None:
        self.output = bytearray()  # all that the command wrote; appended by the reader's thread
        self._screen = pyte.HistoryScreen(columns, lines, history=10_000)
        self._stream = pyte.ByteStream(self._screen)
        self._changed = threading.Condition()
        self._master, slave = pty.openpty()
        _set_size(slave, columns, lines)
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        self._slave = slave  # kept open: its settings are looked at after the command has ended
        self.settings_before = termios.tcgetattr(slave)
        self._closed = False
        self._reader = threading.Thread(target=self._read, name="terminal", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:
                return
            if not data:
                return
            with self._changed:
                self.output += data
                self._stream.feed(data)
                self._changed.notify_all()

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def enter(self, text: str = "") -> None:
        self.type(f"{text}\r")

    def resize(self, columns: int, lines: int) -> None:
        with self._changed:
            self._screen.resize(lines, columns)
        _set_size(self._master, columns, lines)
        os.killpg(self.process.pid, signal.SIGWINCH)

    @property
    def lines(self) -> list[str]:
        """What the screen shows, and above it what has scrolled away, without blank ends."""
        with self._changed:
            top = [
                "".join(row[x].data for x in range(self._screen.columns))
                for row in self._screen.history.top
            ]
            return [line.rstrip() for line in [*top, *self._screen.display]]

    @property
    def foot(self) -> list[str]:
        """The last lines that are not blank: the prompt, and the toolbar."""
        return ["", "", *(line for line in self.lines if line)][-2:]

    @property
    def line(self) -> str:
        """The prompt's line."""
        return self.foot[0]

    @property
    def toolbar(self) -> str:
        return self.foot[-1]

    @property
    def above(self) -> list[str]:
        """All lines above the prompt."""
        return [line for line in self.lines if line][:-2]

    def wait(self, predicate: Callable[[], object], what: str, seconds: float = 30.0) -> None:
        """Return once the predicate is true of what is shown."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not predicate():
                left = deadline - time.monotonic()
                if left <= 0:
                    print("\n".join(self.lines))
                    fail_with_stacks(what, seconds)
                self._changed.wait(min(left, 0.5))  # a predicate may look at more than the screen

    def wait_text(self, text: str) -> None:
        self.wait(lambda: any(text in line for line in self.lines), f"{text!r} on the screen")

    def wait_line(self, text: str) -> None:
        """Wait until a line is this and no more; below it may be a menu."""
        self.wait(lambda: text in self.lines, f"{text!r} as the prompt's line")

    def wait_toolbar(self, text: str) -> None:
        self.wait(lambda: text in self.toolbar, f"{text!r} in the toolbar")

    def exit_code(self, seconds: float = 30.0) -> int:
        """Wait until the command has ended, and until all that it wrote has been read."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            print("\n".join(self.lines))
            fail_with_stacks("the command to end", seconds)
            raise
        os.write(self._slave, b"\x00")  # comes out behind all that the command wrote
        self.wait(lambda: self.output.endswith(b"\x00"), "the last of what was written")
        return code

    @property
    def is_as_before(self) -> bool:
        """Whether the terminal's settings are those from before the command."""
        return termios.tcgetattr(self._slave) == self.settings_before

    def close(self) -> None:
        """Kill the command if it has not ended; once more does no harm."""
        if self._closed:
            return
        self._closed = True
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)
        os.close(self._slave)
        join(self._reader)
        os.close(self._master)


@contextmanager
def terminal(*command: str, environment: dict[str, str], **size: Any) -> Iterator[Terminal]:
    """Run `twinline` at a terminal while the body runs."""
    # A worker of pytest has these, and they would count more than the terminal's own size.
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")
    }
    shown = Terminal(
        [sys.executable, "-c", _LAUNCH, *command],
        {**inherited, "TERM": "xterm-256color", "LANG": "C.UTF-8", **environment},
        **size,
    )
    try:
        yield shown
    finally:
        shown.close()


def chat(
    twinline: CommandLine, *arguments: str, variables: dict[str, str] | None = None, **size: int
) -> AbstractContextManager[Terminal]:
    """Run `twinline chat` at a terminal, as the user of a command line."""
    environment = {**twinline.environment, "TWINLINE_CHECK_LOCKS": "1", **(variables or {})}
    return terminal("chat", *arguments, environment=environment, **size)


@contextmanager
def serving(
    twinline: CommandLine, *options: str, at: str | None = None, **size: int
) -> Iterator[Terminal]:
    """Run `twinline serve`, where a command line looks for it or elsewhere, once it listens."""
    command = ("serve", "--listen", at or twinline.place, *options)
    with terminal(*command, environment=twinline.environment, **size) as server:
        server.wait(lambda: b"listening" in server.output, "the server")
        yield server


def colours(output: bytes) -> list[bytes]:
    """Return the sequences that set a colour."""
    return [found for found in COLOUR.findall(output) if not _DEFAULT_COLOUR.fullmatch(found)]


def _set_size(descriptor: int, columns: int, lines: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
