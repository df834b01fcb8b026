"""The file of the SQLite store: its lock, and the connections to it with their settings.

One process at a time serves a file. It holds an flock on a file beside it, whose name ends in
``-lock``; the kernel frees it when the process ends, however it ends. Readers from elsewhere
(``twinline store check``, ``backup``, ``stats``) need no lock: a reader in WAL mode sees the last
commit and delays no writer.

Settings, each read back where it matters:

- ``journal_mode=WAL``: a commit is one append to a log and one sync; readers see the last commit
  and neither wait for the writer nor hold it up (https://sqlite.org/wal.html).
- ``synchronous=FULL``: the log is synced before a commit returns. With ``NORMAL`` it is not: a
  commit survives the end of the process, but not the loss of power.
- ``wal_autocheckpoint``: the log goes into the database when it has so many pages.
"""

import fcntl
import os
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

from twinline.core.errors import TwinlineError

APPLICATION_ID: Final = 0x7477696E
"""What marks a file as a store of ours, in its header: ``twin``."""
CHECKPOINT_PAGES: Final = 2_000
"""How long the log grows before it goes into the database: 8 MB."""
BUSY_SECONDS: Final = 5.0
"""How long another process may hold a lock of SQLite's."""


class StoreNotOpened(TwinlineError):
    """A file cannot be opened as a store."""


class StoreLocked(StoreNotOpened):
    """Another server has the file."""


class Synchronous(IntEnum):
    """What a commit waits for; the numbers are SQLite's."""

    NORMAL = 1
    """Nothing: it survives the end of the process, and not the loss of power."""
    FULL = 2
    """The sync of the log: it survives the loss of power."""


class FileLock:
    """The right to serve a file, held until it is closed or the process ends."""

    def __init__(self, path: Path) -> None:
        """Take it.

        Raises:
            StoreLocked: another store has it, in this process or another.
            OSError: the lock's file cannot be made.
        """
        lock_path = path.with_name(f"{path.name}-lock")
        # Never removed: between a look at it and the lock on it, it could be another file.
        self._descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take(path)
        except BaseException:
            self.close()
            raise
        with suppress(OSError):  # for the other's error only; a full disk must not matter
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode("ascii"), 0)

    def _take(self, path: Path) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip()
            raise StoreLocked(
                f"another server has {path} open (process {holder or 'unknown'}); "
                "one server at a time serves a SQLite store"
            ) from None

    def close(self) -> None:
        """Let another server have the file."""
        os.close(self._descriptor)


def located(path: Path | str) -> Path:
    """Return the path with links resolved, so that one file has one name.

    Raises:
        StoreNotOpened: its links lead nowhere.
    """
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError) as error:  # a RuntimeError is a loop of links, until 3.13
        raise StoreNotOpened(f"{path} cannot be opened as a store: {error}") from None


@dataclass(frozen=True, slots=True)
class StoreFile:
    """Opens connections to one file.

    Attributes:
        path: absolute, with links resolved, so that one file has one lock.
        synchronous: what a commit waits for.
        factory: the connection's class; tests pass one that fails on purpose.
    """

    path: Path
    synchronous: Synchronous = Synchronous.FULL
    factory: type[sqlite3.Connection] = sqlite3.Connection

    def make(self) -> None:
        """Make the file, readable by its owner alone: it holds password hashes and mail.

        Raises:
            OSError: it cannot be made.
        """
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)  # the file's name must survive a loss of power too
        finally:
            os.close(folder)

    def writer(self) -> sqlite3.Connection:
        """Open a connection that writes, and see that it is set as this store needs it.

        Raises:
            StoreNotOpened: SQLite does not take the settings.
            sqlite3.Error: the file cannot be opened.
        """
        connection = self.plain()
        try:
            self._set(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set(self, connection: sqlite3.Connection) -> None:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute(f"PRAGMA synchronous = {self.synchronous.name}")
        connection.execute("PRAGMA fullfsync = ON")  # macOS: through the drive's cache too
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        (level,) = connection.execute("PRAGMA synchronous").fetchone()
        if (mode, level) != ("wal", self.synchronous):
            raise StoreNotOpened(
                f"{self.path} cannot be made durable: journal_mode is {mode} instead of wal, "
                f"or synchronous is {level} instead of {int(self.synchronous)}"
            )

    def reader(self) -> sqlite3.Connection:
        """Open a connection that only reads.

        Raises:
            sqlite3.Error: the file cannot be opened.
        """
        return self.plain("ro")

    def plain(self, mode: str = "rw") -> sqlite3.Connection:
        """Open a connection that changes no setting of the file; with "ro" it only reads.

        Raises:
            sqlite3.Error: the file cannot be opened.
        """
        return sqlite3.connect(
            f"{self.path.as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,  # transactions begin and end where the code says so
            check_same_thread=False,  # one thread at a time, but not always the same
            cached_statements=256,
            factory=self.factory,
        )
