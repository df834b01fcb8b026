"""What servers of the crash tests do wrong on purpose, so that it is seen that this is found out.

Each fault is put into a process before its servers are forked (`crash_forker`).
"""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from twinline.stores.postgresql.batch import Batch
from twinline.stores.postgresql.link import Call
from twinline.stores.postgresql.mailbox import Mailbox
from twinline.stores.postgresql.rereads import Rereads
from twinline.stores.postgresql.wakes import Wakes
from twinline.stores.valkey.mailboxes import ValkeyMailboxes
from twinline.stores.valkey.watches import Watches

SEQUENCE_URL = "TESTS_SEQUENCE_URL"
"""The variable with the database that has the sequence ``drawn``."""
DEADLY_PATH = "TESTS_DEADLY_PATH"
"""The variable with the path of a file; whichever server takes it away dies of it."""


def put_in(cls: type, name: str, instead: Callable[..., Any]) -> None:
    """Replace a method that there is."""
    getattr(cls, name)
    setattr(cls, name, instead)


def swallow_notices() -> None:
    """Have no server hear of another's mail."""
    notice = Watches.notice

    def heard(self: Watches, channel: bytes, payload: bytes) -> Any:
        watch = self._watches.get(channel)
        return () if watch is not None and watch.mail else notice(self, channel, payload)

    put_in(Watches, "notice", heard)
    put_in(Wakes, "tell_news", lambda *_: None)
    put_in(Wakes, "telling_news", lambda *_: None)


def swallow_notices_and_never_look() -> None:
    """Have nothing stand behind notices that are lost, but the end of a watch."""
    swallow_notices()
    put_in(Rereads, "_run", lambda _: None)
    put_in(Watches, "read_again", lambda *_, **__: None)


def draw_seqs_early() -> None:
    """Take seqs from a sequence before a mailbox is locked, as a column ``bigserial`` does."""
    opening = Batch.opening
    connections: list[psycopg.Connection[Any]] = []
    drawn: list[int] = []  # the lane's thread alone uses it

    def draw(self: Batch) -> list[Call]:
        calls = opening(self)
        if not connections:
            connections.append(psycopg.connect(os.environ[SEQUENCE_URL], autocommit=True))
        found = connections[0].execute(
            "SELECT nextval('drawn') FROM generate_series(1, %s)",
            [2 * len(self._appends)],  # for the copies too
        )
        drawn[:] = [seq for (seq,) in found]
        time.sleep(random.uniform(0, 0.02))
        return calls

    def next_seq(self: Mailbox) -> int:
        seq = drawn.pop(0) if drawn else self.last + 1  # a receipt has none
        self.last = max(self.last, seq)
        return seq

    def add(self: Mailbox, sent_at: int) -> tuple[int, int]:
        seq = self.next_seq()
        self.newest = max(sent_at, self.newest + 1)
        if seq > self.position:
            self.unread += 1
        else:
            self.acked += 1
        return seq, self.newest

    put_in(Mailbox, "next_seq", next_seq)
    put_in(Batch, "opening", draw)
    put_in(Mailbox, "add", add)


def never_jump() -> None:
    """Let seqs go on after a failover from where the new primary has them."""

    def enter(self: Mailbox, _: int) -> None:
        self.low = self.floor

    put_in(Mailbox, "enter", enter)


def die_before_a_copy() -> None:
    """Kill the server between the mail of a send and its copy, as often as there is a file."""
    copy = ValkeyMailboxes._copy

    def die(self: ValkeyMailboxes, *arguments: Any) -> Any:
        with contextlib.suppress(FileNotFoundError):
            Path(os.environ[DEADLY_PATH]).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return copy(self, *arguments)

    put_in(ValkeyMailboxes, "_copy", die)


FAULTS = {
    each.__name__: each
    for each in (
        swallow_notices,
        swallow_notices_and_never_look,
        draw_seqs_early,
        never_jump,
        die_before_a_copy,
    )
}
