"""Connections that fail on purpose, and what tests of the SQLite store wait for."""

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from waiting import fail_with_stacks


class Faults:
    """What goes wrong next, in every connection of one store.

    Attributes:
        commits: how many were made.
        before: called with each statement, by its first word; raises to make it fail.
    """

    def __init__(self) -> None:
        self.commits = 0
        self.before: Callable[[str], None] = lambda _word: None
        faults = self

        class Connection(sqlite3.Connection):
            def execute(self, text: str, *values: Any) -> sqlite3.Cursor:
                word = text.split(maxsplit=1)[0]
                faults.before(word)
                cursor = super().execute(text, *values)
                faults.commits += word == "COMMIT"
                return cursor

        self.factory = Connection

    def fail(self, word: str, times: int = 1, error: str = "disk I/O error") -> None:
        """Let the next statements that begin with a word fail."""
        left = times

        def before(this: str) -> None:
            nonlocal left
            if this == word and left > 0:
                left -= 1
                raise sqlite3.OperationalError(error)

        self.before = before

    def stop_at(self, word: str) -> "Gate":
        """Stop the next statement that begins with a word until it is let go."""
        gate = Gate()

        def before(this: str) -> None:
            if this == word and not gate.reached.is_set():
                gate.reached.set()
                if not gate.let_go.wait(30):
                    fail_with_stacks("the test lets the statement go", 30)

        self.before = before
        return gate


class Gate:
    """A place where a statement stands until the test lets it go."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.let_go = threading.Event()


def sqlite_locks(path: Path) -> int:
    """Return how many locks of SQLite's this process has on a file."""
    place = path.stat()
    name = f"{os.major(place.st_dev):02x}:{os.minor(place.st_dev):02x}:{place.st_ino}"
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    mine = ["POSIX", str(os.getpid()), name]
    return sum([line[1], *line[4:6]] == mine for line in lines)
