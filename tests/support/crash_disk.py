"""What a disk may hold after power loss, rebuilt from the trace of a server's system calls.

What was written is on the disk for certain only when a sync of that file, begun after the write
had ended, has ended. Of what was written since, any part may be there: each write whole, not at
all, or some of its sectors. A name that was removed may be there again until something was synced
afterwards, which is how journalling file systems behave. A name that was made is there as soon as
its file was synced.

Acknowledgements are in the same trace, as the replies that the server sends: whatever the clocks
say, what was acknowledged at a point of the trace is what a disk of that point must hold.
"""

import contextlib
import json
import random
import re
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

from twinline.stores.registry import open_store

CALLS: Final = "pwrite64,fdatasync,fsync,ftruncate,unlink,sendto"
RECORD: Final = ("-y", "-xx", "-s1000000", f"-etrace={CALLS}")
"""Options of strace: the files' names, and every byte, in hexadecimal."""
SECTOR: Final = 512
_LINE: Final = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)", re.DOTALL)
_FILE: Final = re.compile(r"\d+<([^>]*)>")
_UNFINISHED: Final = "<unfinished ...>"
_FAILED: Final = re.compile(r"\) += (?:-1 E[A-Z]+ |\?)[^\"]*$")
"""Or nobody knows: a call in which the process was killed has ``?`` for its result."""


@dataclass(frozen=True)
class Write:
    """Bytes at an offset."""

    path: str
    offset: int
    content: bytes


@dataclass(frozen=True)
class Truncate:
    """Another length."""

    path: str
    length: int


@dataclass(frozen=True)
class Remove:
    """A name that is taken away."""

    path: str


@dataclass(frozen=True)
class SyncBegin:
    """A sync of a file that is called."""

    path: str
    thread: str


@dataclass(frozen=True)
class SyncEnd:
    """And that has returned."""

    path: str
    thread: str


@dataclass(frozen=True)
class Acknowledged:
    """A send's reply, at the moment at which it leaves the server."""

    message_id: str


Step = Write | Truncate | Remove | SyncBegin | SyncEnd | Acknowledged


def read_trace(lines: Iterable[str]) -> Iterator[Step]:
    """Yield what a trace of `RECORD` says, in its order."""
    begun: dict[str, str] = {}  # what each thread's call that has not returned was called with
    for line in lines:
        found = _LINE.match(line)
        if found is None:
            continue
        thread, resumed, call, rest = found.groups()
        if call in ("fdatasync", "fsync"):
            yield SyncBegin(_path(rest), thread)
        if _UNFINISHED in rest and call != "sendto":
            begun[thread] = rest.partition(_UNFINISHED)[0]
            continue
        if resumed is not None and resumed != "sendto":
            # A call counts from its end: what had only begun may not be on its way yet.
            call, rest = resumed, begun.pop(thread) + rest
        if _FAILED.search(rest):
            continue  # it has done nothing, and a sync that failed has made nothing certain
        if call in ("fdatasync", "fsync"):
            yield SyncEnd(_path(rest), thread)
        elif call == "pwrite64":
            arguments = rest.split('"')
            yield Write(_path(rest), int(re.findall(r"\d+", arguments[2])[1]), _hex(arguments[1]))
        elif call == "ftruncate":
            yield Truncate(_path(rest), int(re.findall(r">, (\d+)", rest)[0]))
        elif call == "unlink":
            yield Remove(_hex(rest.split('"')[1]).decode())
        elif call == "sendto":
            yield from _acknowledgements(_hex(rest.split('"')[1]))


def _acknowledgements(data: bytes) -> Iterator[Acknowledged]:
    for line in data.splitlines():
        # The rest of a long reply, sent in pieces, is no line; the reply to a send is short.
        with contextlib.suppress(ValueError):
            reply = json.loads(line)
            if "message_id" in reply:
                yield Acknowledged(reply["message_id"])


def _path(rest: str) -> str:
    found = _FILE.match(rest)
    assert found is not None, rest[:200]
    return _hex(found.group(1)).decode()


def _hex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


class Loss(Enum):
    """What of the unsynced is lost."""

    ALL = "all"
    WRITES = "some writes"
    SECTORS = "some sectors"


@dataclass
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Write | Truncate] = field(default_factory=list)
    syncs: dict[str, int] = field(default_factory=dict)  # by thread: how many it will settle
    exists: bool = False  # for certain

    def settle(self, count: int) -> None:
        for step in self.pending[:count]:
            _apply(self.durable, step)
        del self.pending[:count]
        self.syncs = {thread: max(0, waiting - count) for thread, waiting in self.syncs.items()}
        self.exists = True

    def image(self, loss: Loss, chance: random.Random) -> bytes | None:
        content = bytearray(self.durable)
        kept = False
        for step in self.pending if loss is not Loss.ALL else ():
            if loss is Loss.SECTORS and isinstance(step, Write):
                for at in range(0, len(step.content), SECTOR):
                    if chance.random() < 0.5:
                        piece = step.content[at : at + SECTOR]
                        _apply(content, Write(step.path, step.offset + at, piece))
                        kept = True
            elif chance.random() < 0.5:
                _apply(content, step)
                kept = True
        return bytes(content) if self.exists or kept else None


def _apply(content: bytearray, step: Write | Truncate) -> None:
    end = step.length if isinstance(step, Truncate) else step.offset + len(step.content)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    if isinstance(step, Truncate):
        del content[end:]
    else:
        content[step.offset : end] = step.content


class Disk:
    """The files of a folder, and what of them is certain.

    Attributes:
        acknowledged: the ids of the messages that were acknowledged so far.
    """

    def __init__(self, folder: Path, ignored: Sequence[str] = ("-shm",)) -> None:
        self.acknowledged: set[str] = set()
        self._folder = f"{folder}/"
        self._ignored = tuple(ignored)
        self._files: dict[str, _File] = {}
        self._removed: dict[str, _File] = {}  # and may be there again

    def take(self, step: Step) -> None:
        """Let a step happen."""
        if isinstance(step, Acknowledged):
            self.acknowledged.add(step.message_id)
            return
        inside = step.path.startswith(self._folder) and not step.path.endswith(self._ignored)
        match step:
            case Write() | Truncate() if inside:
                self._file(step.path).pending.append(step)
            case Remove() if inside:
                if (file := self._files.pop(step.path, None)) is not None:
                    self._removed[step.path] = file
            case SyncBegin() if inside:
                file = self._file(step.path)
                file.syncs[step.thread] = len(file.pending)
            case SyncEnd():
                self._removed.clear()
                if inside:
                    file = self._file(step.path)
                    file.settle(file.syncs.pop(step.thread, 0))

    def images(self, loss: Loss, chance: random.Random) -> dict[str, bytes]:
        """Return what the files may hold if the power fails now, by name."""
        again = {
            path: file
            for path, file in self._removed.items()
            if loss is Loss.ALL or chance.random() < 0.5
        }
        found = {path: file.image(loss, chance) for path, file in (again | self._files).items()}
        return {Path(path).name: content for path, content in found.items() if content is not None}

    def _file(self, path: str) -> _File:
        return self._files.setdefault(path, _File())


def kept_on(images: dict[str, bytes], place: Path) -> set[str]:
    """Open a disk's files as a server would, and return the ids of the messages in them.

    Args:
        images: the files' content by name, ``store`` among them.
        place: a folder that is not there, for their time.

    Raises:
        StoreNotOpened, sqlite3.Error: they cannot be opened.
        ValueError: they are broken.
    """
    place.mkdir()
    try:
        for name, content in images.items():
            (place / name).write_bytes(content)
        with open_store(f"sqlite:{place / 'store'}"):
            pass
        with closing(sqlite3.connect(place / "store")) as connection:
            (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
            if verdict != "ok":
                raise ValueError(verdict)
            return {row[0] for row in connection.execute("SELECT message_id FROM messages")}
    finally:
        shutil.rmtree(place)
