"""The file of the SQLite store: the connections to it with their settings.

Settings, each read back where it matters:

- ``journal_mode=WAL``: a commit is one append to a log and one sync; readers see the last commit
  and neither wait for the writer nor hold it up (https://sqlite.org/wal.html).
- ``synchronous=FULL``: the log is synced before a commit returns. With ``NORMAL`` it is not: a
  commit survives the end of the process, but not the loss of power.
- ``wal_autocheckpoint``: the log goes into the database when it has so many pages.
"""

import sqlite3
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

from twinline.stores.shared.opening import StoreNotOpened
from twinline.stores.sqlite.lock import FileLock

APPLICATION_ID: Final = 0x7477696E
"""What marks a file as a store of ours, in its header: ``twin``."""
CHECKPOINT_PAGES: Final = 2_000
"""How long the log grows before it goes into the database: 8 MB."""
BUSY_SECONDS: Final = 5.0
"""How long another process may hold a lock of SQLite's."""


class Synchronous(IntEnum):
    """What a commit waits for; the numbers are SQLite's."""

    NORMAL = 1
    """Nothing: it survives the end of the process, and not the loss of power."""
    FULL = 2
    """The sync of the log: it survives the loss of power."""


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
        lock: for who serves the file: no connection is made to what took its place.
    """

    path: Path
    synchronous: Synchronous = Synchronous.FULL
    factory: type[sqlite3.Connection] = sqlite3.Connection
    lock: FileLock | None = None

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
            sqlite3.Error: the file cannot be opened, or has another one in its place.
        """
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,  # transactions begin and end where the code says so
            check_same_thread=False,  # one thread at a time, but not always the same
            cached_statements=256,
            factory=self.factory,
        )
        if self.lock is not None:
            try:
                # Now that it is open, and before the log beside it is read or written.
                self.lock.require()
            except BaseException:
                connection.close()
                raise
        return connection
