"""The right to serve a SQLite file, and whether its name still leads to it.

One process at a time serves a file. It holds an flock on the file itself, so that neither another
name for it (a hard link) nor a removed lock file lets a second one in, and one on the file's log,
which another database would share if it were put in this one's place. The kernel frees both when
the process ends, however it ends. Readers from elsewhere (``twinline store check``, ``backup``,
``stats``) need no lock: a reader in WAL mode sees the last commit and delays no writer.

SQLite's own locks on the file are POSIX ones, and those a process loses when it closes any
descriptor of the file (https://sqlite.org/howtocorrupt.html, section 2.2). So the one descriptor
here is opened before SQLite's first connection and closed after its last, and nothing else in the
process may open the file but SQLite, which knows of all its own descriptors.
"""

import fcntl
import os
import sqlite3
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from twinline.core.locks import new_lock
from twinline.stores.shared.opening import StoreNotOpened

_Place = tuple[int, int]  # device and inode: what a file is, whatever its names are

_lock: Final = new_lock("held files")
# The descriptors of each file that this process serves; guarded by the lock on held files.
_held: Final[dict[_Place, list[int]]] = {}


class StoreLocked(StoreNotOpened):
    """Another server has the file."""


class FileReplaced(sqlite3.OperationalError):
    """A file's name leads to another file, or nowhere.

    An error of SQLite's, for whoever uses a connection is prepared for those.
    """


class FileLock:
    """The right to serve a file: from `take` until it is closed or the process ends.

    Attributes:
        path: the file's name, with links resolved.
        device: of the file.
        inode: of the file.
    """

    def __init__(self, path: Path) -> None:
        """Take nothing yet."""
        self.path = path
        self._descriptor: int | None = None  # None: it is not taken
        self._log_path = path.with_name(f"{path.name}-wal")
        self._log: int | None = None  # a descriptor of the log
        self._log_place: _Place | None = None
        self._log_salt = b""
        self._looked_at = 0.0

    def take(self) -> None:
        """Take it; a file that is not there is made, readable by its owner alone.

        Unless it has returned it is to be closed all the same: a signal's handler may have raised.

        Raises:
            StoreLocked: another store has it, in this process or another.
            StoreNotOpened: it is no file of its own: a folder, a device, one of several links.
            OSError: it cannot be opened or made.
        """
        path = self.path
        with suppress(FileNotFoundError):
            place = _place(path.stat())
            with _lock:
                is_held = place in _held
            if is_held:  # then it must not be opened
                raise _locked(path, f"process {os.getpid()}")
        # Mode 600, for it holds password hashes and mail. A pipe must not make this wait.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o600)
        self._status = os.fstat(descriptor)
        self.device, self.inode = self._place = _place(self._status)
        with _lock:
            is_held = self._place in _held
            if not is_held:
                self._descriptor = descriptor
            # Closed with the other's, for its sake.
            _held.setdefault(self._place, []).append(descriptor)
        if is_held:
            raise _locked(path, f"process {os.getpid()}")
        try:
            self._take(descriptor)
        except BaseException:
            self.close()
            raise

    def _take(self, descriptor: int) -> None:
        if not stat.S_ISREG(self._status.st_mode):
            raise StoreNotOpened(f"{self.path} cannot be opened as a store: it is not a file")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _locked(self.path, _holder(self._place)) from None
        # Its log is found by its name, so under another name it has another log.
        links = self._status.st_nlink
        if links > 1:
            raise StoreNotOpened(
                f"{self.path} has {links} names (hard links), and a log beside each would damage "
                f"it; leave one of those that 'find DIRECTORY -samefile {self.path}' shows"
            )
        try:
            self.hold_log()
        finally:
            self._leave_log()  # this one goes into the file now, and another begins
        if not self._is_in_place():
            raise StoreNotOpened(f"{self.path} was replaced while it was opened")
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)  # the file's name must survive a loss of power too
        finally:
            os.close(folder)

    def hold_log(self) -> None:
        """Take the log that is beside the file now, so that no other file can have it.

        Raises:
            StoreLocked: a server has it whose file was moved away.
            OSError: it cannot be opened.
        """
        self._leave_log()
        try:
            self._log = os.open(self._log_path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return
        place = self._log_place = _place(os.fstat(self._log))
        try:
            fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreLocked(
                f"another server writes {self._log_path} ({_holder(place)}): its file was "
                f"moved away, and {self.path} put in its place; stop it first"
            ) from None

    def log_began_anew(self) -> bool:
        """Return whether the log was begun again from its start since the last call."""
        # Each beginning has another salt (https://sqlite.org/fileformat2.html#walformat).
        salt = before = self._log_salt
        with suppress(OSError):
            salt = b"" if self._log is None else os.pread(self._log, 8, 16)
        self._log_salt = salt
        return salt not in (b"", before)

    def make_private(self) -> str | None:
        """Take the right to read the file and its log from everybody but the owner.

        Returns:
            What has to be told the person who runs the server, or None.
        """
        mode = stat.S_IMODE(self._status.st_mode)
        if not mode & 0o077:
            return None
        words = f"{self.path} has mode {mode:o}, and it holds password hashes and mail"
        try:
            os.fchmod(self._taken(), mode & 0o700)
            for end in ("-wal", "-shm"):  # SQLite gives new ones the mode of the file
                with suppress(FileNotFoundError):
                    self.path.with_name(self.path.name + end).chmod(mode & 0o700)
        except OSError as error:
            return f"{words}; take the rights of others away: {error.strerror}"
        return f"{words}: only its owner can read it from now on"

    def _taken(self) -> int:
        if self._descriptor is None:
            raise ValueError("the lock is not taken")
        return self._descriptor

    def require(self, seconds: float = 0.0) -> None:
        """See that the names of the file and of its log still lead to them.

        Args:
            seconds: how old the last look may be, to be enough.

        Raises:
            FileReplaced: they do not.
        """
        now = time.monotonic()
        if seconds and now - self._looked_at < seconds:
            return
        if not self._is_in_place():
            raise FileReplaced(f"{self.path} or its log was moved, removed or replaced")
        self._looked_at = now

    def close(self) -> None:
        """Let another server have the file; SQLite's connections to it must be closed.

        Harmless when repeated, as after a signal's handler has interrupted it.
        """
        self._leave_log()
        if self._descriptor is None:
            return
        with suppress(OSError):
            # A child process that was forked may still have the descriptor.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        while True:
            with _lock:
                descriptors = _held.get(self._place)
                if not descriptors:
                    _held.pop(self._place, None)
                    self._descriptor = None
                    return
                descriptor = descriptors.pop()
            os.close(descriptor)

    def forget(self) -> None:
        """Close a forked child's copies of the descriptors; the parent's keep the locks.

        So they end with the parent, even if the child lives on. The file stays among those that
        this process serves: it can never open it, for SQLite has the parent's connections here.
        """
        for descriptor in (self._descriptor, self._log):
            if descriptor is not None:
                os.close(descriptor)
        self._descriptor = self._log = None

    def _leave_log(self) -> None:
        log = self._log
        if log is None:
            return
        with suppress(OSError):
            fcntl.flock(log, fcntl.LOCK_UN)
        # No place for a signal's handler between this and the close: it is closed, and once.
        self._log = self._log_place = None
        os.close(log)

    def _is_in_place(self) -> bool:
        try:
            if _place(os.stat(self.path)) != self._place:  # noqa: PTH116 - before each commit
                return False
            log = self._log_place
            return log is None or _place(os.stat(self._log_path)) == log  # noqa: PTH116
        except OSError:
            return False


def _place(status: os.stat_result) -> _Place:
    return status.st_dev, status.st_ino


def _locked(path: Path, holder: str) -> StoreLocked:
    return StoreLocked(
        f"another server has {path} open ({holder}); one server at a time serves a SQLite store"
    )


def _holder(place: _Place) -> str:
    """Return which process has an flock on a file, where the kernel tells."""
    device, inode = place
    name = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
    with suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            match line.split():
                case [_, "FLOCK", _, _, process, where, *_] if where == name:
                    return f"process {process}"
    return "process unknown"
