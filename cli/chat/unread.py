"""What has come and was not opened, counted by conversation, in this run and in the next.

The server counts what is not acknowledged, and a chat acknowledges what is on the screen: of mail
from others that is one line. So the count of what a person has yet to open is kept here, in the
folder ``unread`` beside the kept sessions: a file for each account, of mode 600, which all chats of
that account on this machine share. It is replaced as a whole. `seen` says how far its counts go, so
that what comes again, because a chat was killed before it was acknowledged, is not counted twice.
"""

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from twinline.cli.console.text import visible
from twinline.core.locks import new_lock
from twinline.core.protocol import Message

MOST: Final = 1_000
"""So many conversations have a count; the one that has waited longest loses it to a new one."""
_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Unopened:
    """The mail of one conversation that was not opened.

    Attributes:
        count: how many messages.
        since: the first one's seq.
    """

    count: int
    since: int


@dataclass
class Counts:
    """What is not opened of one mailbox.

    Attributes:
        seen: the seq up to which messages are counted.
        names: by the username of the other side.
    """

    seen: int = 0
    names: dict[str, Unopened] = field(default_factory=dict)

    def take_in(self, messages: Iterable[Message], here: str | None) -> None:
        """Count messages of both sides, in order, each once.

        Args:
            messages: as they came. Who has answered, from any device, has opened what was there.
            here: the conversation that is open: its messages are read as they come.
        """
        for message in messages:
            is_new = message.seq > self.seen
            self.seen = max(self.seen, message.seq)
            if message.to is not None:
                if is_new:
                    self.names.pop(message.to, None)
            elif message.sender == here:
                self.names.pop(here, None)  # another chat may have counted it
            elif is_new:
                self._count(message.sender, message.seq)

    def _count(self, name: str, seq: int) -> None:
        before = self.names.get(name)
        if before is not None:
            self.names[name] = replace(before, count=before.count + 1)
            return
        if len(self.names) >= MOST:
            del self.names[min(self.names, key=lambda each: self.names[each].since)]
        self.names[name] = Unopened(1, seq)

    def settle(self, newest: int, known: Iterable[str] | None) -> None:
        """Drop what cannot be so any more.

        Args:
            newest: the last message's seq: beyond it nothing was counted in this mailbox.
            known: with whom there are conversations; None: with others too.
        """
        self.seen = min(self.seen, newest)
        if known is not None:
            there = set(known)
            self.names = {name: each for name, each in self.names.items() if name in there}


class Unread:
    """Counts for the toolbar, from two threads: one hears of mail, another opens conversations."""

    def __init__(self, kept: "KeptCounts | None" = None) -> None:
        """Begin with what was kept.

        Args:
            kept: the file; None: nothing is kept.
        """
        self._kept = kept
        self._lock = new_lock("unread")
        self._counts = Counts() if kept is None else kept.read()  # guarded by _lock

    def take_in(self, messages: Sequence[Message], here: str | None) -> None:
        """Count messages; see `Counts.take_in`."""
        self._change(lambda counts: counts.take_in(messages, here))

    def open(self, name: str) -> None:
        """Take what is there of a conversation as read."""
        self._change(lambda counts: counts.names.pop(name, None))

    def settle(self, newest: int, known: Iterable[str] | None) -> None:
        """Drop what cannot be so any more; see `Counts.settle`."""
        names = None if known is None else list(known)
        self._change(lambda counts: counts.settle(newest, names))

    def begin_anew(self) -> None:
        """Forget all: the mailbox is another one."""

        def forget(counts: Counts) -> None:
            counts.seen, counts.names = 0, {}

        self._change(forget)

    def _change(self, change: Callable[[Counts], object]) -> None:
        with self._lock:
            change(self._counts)
        if self._kept is not None:
            self._kept.change(change)

    @property
    def seen(self) -> int:
        """The seq up to which messages are counted."""
        with self._lock:
            return self._counts.seen

    @property
    def names(self) -> Mapping[str, Unopened]:
        """What is not opened, the most of it first."""
        with self._lock:
            found = self._counts.names.copy()
        return dict(sorted(found.items(), key=lambda each: (-each[1].count, each[1].since)))

    def __str__(self) -> str:
        names = self.names
        total = sum(each.count for each in names.values())
        if not total:
            return "0 unread"
        shown = list(names.items())[:_NAMED]
        listed = ", ".join(f"{visible(name)} {each.count}" for name, each in shown)
        more = ", ..." if len(names) > _NAMED else ""
        return f"{total} unread ({listed}{more})"


class KeptCounts:
    """The counts of one account, on the disk."""

    def __init__(self, folder: Path, account: str) -> None:
        """Prepare; nothing is written before there is something to keep.

        Args:
            folder: of the files.
            account: whose, at which server: any text that tells it from others.
        """
        self._folder = folder
        self._account = account
        self._path = folder / f"{hashlib.sha256(account.encode()).hexdigest()[:16]}.json"

    def read(self) -> Counts:
        """Return what is kept; nothing where that cannot be read."""
        try:
            kept: Any = json.loads(self._path.read_bytes())
            names = {str(name): Unopened(*map(int, two)) for name, two in kept["unread"].items()}
            return Counts(int(kept["seen"]), names)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return Counts()

    def change(self, change: Callable[[Counts], object]) -> None:
        """Change what is kept, whichever chat has written it; a full disk loses no more than that.

        Args:
            change: is given the counts.
        """
        with suppress(OSError), self._locked():
            before = self.read()
            counts = Counts(before.seen, dict(before.names))
            change(counts)
            if counts != before:
                self._write(counts)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, counts: Counts) -> None:
        unread = {name: [each.count, each.since] for name, each in counts.names.items()}
        kept = {"account": self._account, "seen": counts.seen, "unread": unread}
        # Of mode 600, and on the same file system, so that the replacement is atomic.
        file, name = tempfile.mkstemp(dir=self._folder, prefix=".")
        try:
            with os.fdopen(file, "w") as temporary:
                temporary.write(json.dumps(kept))
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
