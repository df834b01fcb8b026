"""The store in a SQLite file: durable, on one machine, for one server at a time.

Opened as ``sqlite:PATH`` or ``sqlite:PATH?synchronous=normal``. Writes are made by one thread, a
transaction for all that wait (`twinline.stores.sqlite.writer`); reads by the threads that ask
(`twinline.stores.sqlite.readers`). Watches are woken in this process.
"""

import logging
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, Self
from urllib.parse import parse_qsl

from twinline.core.errors import StoreUnavailable
from twinline.core.forks import refuse_calls, watch_forks
from twinline.core.store import Durability, Health, MailboxPolicy, OnCommit, Store
from twinline.stores.shared.opening import StoreNotOpened
from twinline.stores.sqlite.accounts import SqliteAccounts
from twinline.stores.sqlite.file import StoreFile, Synchronous, located
from twinline.stores.sqlite.lock import FileLock
from twinline.stores.sqlite.mailboxes import SqliteMailboxes
from twinline.stores.sqlite.orphans import Orphans
from twinline.stores.sqlite.readers import Readers
from twinline.stores.sqlite.schema import prepare
from twinline.stores.sqlite.writer import Writer

log = logging.getLogger(__name__)

_DEFAULT_POLICY: Final = MailboxPolicy()


class SqliteStore(Store):
    """Everything in one file; with ``Synchronous.FULL`` it survives power loss.

    Attributes:
        path: the file.
        durability: `Durability.DISK`, or `Durability.PROCESS` with ``Synchronous.NORMAL``.
    """

    def __init__(
        self,
        path: Path | str,
        policy: MailboxPolicy = _DEFAULT_POLICY,
        *,
        synchronous: Synchronous = Synchronous.FULL,
        factory: type[sqlite3.Connection] = sqlite3.Connection,
    ) -> None:
        """Open a file, or make it; an older one is copied and migrated.

        Args:
            path: the file; its folder must exist.
            policy: how much its mailboxes keep.
            synchronous: what an acknowledged write waits for.
            factory: the class of the connections, for tests.

        Raises:
            StoreLocked: another server has it open.
            SchemaTooNew: a later version of this program wrote it.
            StoreNotOpened: it cannot be read or written, or is something else.
        """
        self.path = located(path)
        full = synchronous is Synchronous.FULL
        self.durability = Durability.DISK if full else Durability.PROCESS
        self._closed = False
        self._lock = FileLock(self.path)
        self._readers: Readers | None = None
        self._writer: Writer | None = None
        self._file = file = StoreFile(self.path, synchronous, factory, self._lock)
        try:
            self._lock.take()
            copy = prepare(file)
            if copy is not None:
                log.warning("%s was migrated; what it was before is in %s", file.path, copy)
            readers = self._readers = Readers(file.reader)
            self._lock.hold_log()
            writer = self._writer = Writer(file.writer, self._lock)
            writer.start(self)
            self.accounts: SqliteAccounts = SqliteAccounts(readers, writer)
            self.mailboxes: SqliteMailboxes = SqliteMailboxes(readers, writer, policy)
            Orphans(readers, writer, self.mailboxes)
            watch_forks(self)
        except (OSError, sqlite3.Error) as error:
            self._release()
            raise _not_opened(file.path, error) from error
        except BaseException:
            self._release()
            raise

    @classmethod
    def open(cls, url: str, policy: MailboxPolicy = _DEFAULT_POLICY) -> Self:
        """Open the store that a URL names.

        Raises:
            StoreNotOpened: the URL is wrong, or the file cannot be opened.
        """
        path, synchronous = parse_url(url)
        return cls(path, policy, synchronous=synchronous)

    def health(self) -> Health:
        """Read the file's epoch, and so see that it can be read.

        Raises:
            StoreUnavailable: it cannot.
        """
        if self._readers is None:
            raise StoreUnavailable
        with self._readers.reading() as connection:
            (epoch,) = connection.execute("SELECT epoch FROM store").fetchone()
        try:
            free = shutil.disk_usage(self.path.parent).free
        except OSError:
            free = None
        return Health(self.durability, str(epoch), free_bytes=free)

    def on_commit(self, call: OnCommit) -> None:
        """Have ``call`` called after each transaction; see `Store.on_commit`."""
        if self._writer is not None:
            self._writer.on_commit = call

    def change_policy(self, policy: MailboxPolicy) -> bool:
        """See `Store.change_policy`."""
        self.mailboxes.change_policy(policy)
        return True

    def close(self) -> None:
        """Make the writes that wait, refuse others, and let another server have the file."""
        if not self._closed and not self._release():
            # It may still write, so no other server gets the file before this process ends.
            log.error("%s does not answer, and is left as it is", self.path)
        self._closed = True

    def forked(self) -> None:
        """Refuse every call in a forked child, and leave SQLite's connections as they are.

        SQLite must not see them again, not even to close them: it would take the parent's locks
        for the child's (https://sqlite.org/howtocorrupt.html, section 2.6).
        """
        self._closed = True
        self._lock.forget()
        refuse_calls(self.accounts)
        refuse_calls(self.mailboxes)

    def _release(self) -> bool:
        """Let go of what was taken so far; False says that the writer does not end."""
        ended = self._writer is None or self._writer.close()
        if self._readers is not None:
            self._readers.close()
        if ended:
            if self._readers is not None:
                self._leave_one_file()
            self._lock.close()
        return ended

    def _leave_one_file(self) -> None:
        # The last connection that closes moves the log into the database and removes it; the
        # readers, which were there to the last, may not write.
        with suppress(sqlite3.Error), closing(self._file.plain()) as connection:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()


def parse_url(url: str) -> tuple[Path, Synchronous]:
    """Return what ``sqlite:PATH?synchronous=LEVEL`` says.

    Raises:
        StoreNotOpened: it has no path, or options that there are not.
    """
    text = url.partition(":")[2]
    path, _, query = text.partition("?")
    if not path or path == ":memory:":
        raise StoreNotOpened(
            "a SQLite store is written sqlite:PATH, like sqlite:/var/lib/twinline/chat.db; "
            "for one that ends with the server write memory:"
        )
    options = dict(parse_qsl(query, keep_blank_values=True))
    level = options.pop("synchronous", "full")
    if options or level not in ("full", "normal"):
        raise StoreNotOpened(
            "the only option of a SQLite store is ?synchronous=full or ?synchronous=normal"
        )
    return Path(path), Synchronous[level.upper()]


def _not_opened(path: Path, error: Exception) -> StoreNotOpened:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return StoreNotOpened(f"{path} cannot be opened as a store: {reason}")
