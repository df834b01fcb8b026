"""Checking, copying, putting back and measuring a SQLite store's file."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from twinline.core.store import Durability
from twinline.stores.archive import Archive
from twinline.stores.shared.opening import StoreNotOpened
from twinline.stores.sqlite.archive import SqliteArchive
from twinline.stores.sqlite.columns import BYTES_OF_BODY
from twinline.stores.sqlite.file import StoreFile, Synchronous, located
from twinline.stores.sqlite.lock import FileLock
from twinline.stores.sqlite.provenance import (
    epoch_of,
    renew_epoch,
    require_own_log,
    require_whole,
)
from twinline.stores.sqlite.schema import (
    VERSION,
    Progress,
    change_version,
    copied,
    copy_database,
    free_name,
    lacking_tables,
    prepare,
    publish,
    require_known,
    sync,
    version_of,
)
from twinline.stores.upkeep import Findings, MailboxSize, Migration, Stats, Step, Upkeep, no_step

# What must not be found: what it is, and a query that counts it.
_FAULTS: Final = (
    (
        "mailboxes whose position or an entry's seq is beyond the last seq given out",
        (
            "SELECT count(*) FROM mailboxes WHERE position > last OR last < max("
            "(SELECT ifnull(max(seq), 0) FROM messages WHERE messages.box = mailboxes.box), "
            "(SELECT ifnull(max(seq), 0) FROM copies WHERE copies.box = mailboxes.box), "
            "(SELECT ifnull(max(seq), 0) FROM receipts WHERE receipts.box = mailboxes.box))"
        ),
    ),
    (
        "mailboxes whose count of unread or of read messages is wrong",
        (
            "SELECT count(*) FROM mailboxes LEFT JOIN ("
            "SELECT box, count(*) AS kept, sum(seq > position) AS beyond "
            "FROM messages JOIN mailboxes USING (box) GROUP BY box) AS counted USING (box) "
            "WHERE unread != ifnull(beyond, 0) OR acked != ifnull(kept - beyond, 0)"
        ),
    ),
    (
        "mailboxes whose count of copies, receipts or blocked accounts is wrong",
        (
            "SELECT count(*) FROM mailboxes WHERE "
            "copies != (SELECT count(*) FROM copies AS of WHERE of.box = mailboxes.box) OR "
            "receipts != (SELECT count(*) FROM receipts AS of WHERE of.box = mailboxes.box) OR "
            "blocked != (SELECT count(*) FROM blocked AS of WHERE of.box = mailboxes.box)"
        ),
    ),
    (
        "mailboxes with a message that has a higher n than the newest",
        (
            "SELECT count(*) FROM mailboxes WHERE newest < "
            "(SELECT ifnull(max(n), 0) FROM messages WHERE messages.box = mailboxes.box)"
        ),
    ),
    (
        "mailboxes whose seqs are used twice",
        (
            "SELECT count(DISTINCT box) FROM (SELECT box FROM (SELECT box, seq FROM messages "
            "UNION ALL SELECT box, seq FROM copies UNION ALL SELECT box, seq FROM receipts) "
            "GROUP BY box, seq HAVING count(*) > 1)"
        ),
    ),
    (
        "messages with a seq below 1 or in no mailbox",
        (
            "SELECT count(*) FROM messages WHERE seq < 1 OR ("
            "box NOT IN (SELECT box FROM mailboxes) AND box NOT IN (SELECT box FROM dropped))"
        ),
    ),
    (
        "messages that cannot be read",
        (
            "SELECT count(*) FROM messages WHERE typeof(message_id) != 'text' "
            "OR typeof(sender) != 'text' OR typeof(body) NOT IN ('text', 'blob') "
            "OR typeof(sent_at) != 'integer' OR typeof(seq) != 'integer' "
            "OR typeof(sender_id) != 'text' OR typeof(n) != 'integer'"
        ),
    ),
    *(
        (
            f"{table} in no mailbox",
            (
                f"SELECT count(*) FROM {table} WHERE box NOT IN (SELECT box FROM mailboxes) "  # noqa: S608 - constants
                "AND box NOT IN (SELECT box FROM dropped)"
            ),
        )
        for table in ("copies", "receipts", "blocked")
    ),
    (
        "copies that cannot be read",
        (
            "SELECT count(*) FROM copies WHERE typeof(message_id) != 'text' "
            "OR typeof(sender) != 'text' OR typeof(peer_id) != 'text' OR typeof(peer) != 'text' "
            "OR typeof(body) NOT IN ('text', 'blob') OR typeof(sent_at) != 'integer' "
            "OR typeof(n) != 'integer' OR seq < 1"
        ),
    ),
    *(
        (
            f"{table} that are not found by conversation",
            (
                f"SELECT count(*) FROM {table} AS entry JOIN mailboxes USING (box) "  # noqa: S608 - constants
                f"WHERE (entry.filed IS NULL) = (seq <= mailboxes.filed){old}"
            ),
        )
        # A migrated file has those of before by name.
        for table, old in (("messages", " AND sender_id != ''"), ("copies", ""))
    ),
    (
        "messages that a mailbox has several copies of",
        (
            "SELECT count(*) FROM (SELECT 1 FROM copies GROUP BY box, message_id "
            "HAVING count(*) > 1)"
        ),
    ),
    (
        "receipts that cannot be read",
        (
            "SELECT count(*) FROM receipts WHERE typeof(peer_id) != 'text' "
            "OR typeof(peer) != 'text' OR typeof(n) != 'integer' "
            "OR typeof(acked_at) != 'integer' OR seq < 1"
        ),
    ),
    (
        "mailboxes whose history does not begin with its oldest ack",
        (
            "SELECT count(*) FROM mailboxes WHERE oldest_ack IS NOT (SELECT acked_at FROM acks "
            "WHERE acks.box = mailboxes.box ORDER BY acks.position LIMIT 1)"
        ),
    ),
    (
        "acks beyond their mailbox's position",
        (
            "SELECT count(*) FROM acks JOIN mailboxes USING (box) "
            "WHERE acks.position > mailboxes.position"
        ),
    ),
    (
        "send_ids of no mailbox",
        (
            "SELECT count(*) FROM send_ids WHERE box NOT IN (SELECT box FROM mailboxes) "
            "AND box NOT IN (SELECT box FROM dropped)"
        ),
    ),
    (
        "mailboxes that are dropped and still there",
        "SELECT count(*) FROM dropped JOIN mailboxes USING (box)",
    ),
    (
        "accounts without a mailbox",
        "SELECT count(*) FROM accounts WHERE account_id NOT IN (SELECT account_id FROM mailboxes)",
    ),
    (
        "sessions of no account, or under another name than it has",
        (
            "SELECT count(*) FROM sessions LEFT JOIN accounts USING (account_id) "
            "WHERE accounts.username IS NOT sessions.username"
        ),
    ),
    (
        "sessions of accounts that are disabled",
        "SELECT count(*) FROM sessions JOIN accounts USING (account_id) WHERE NOT enabled",
    ),
    (
        "accounts that are neither enabled nor disabled, or whose password is of no kind",
        "SELECT count(*) FROM accounts WHERE enabled NOT IN (0, 1) OR must_change NOT IN (0, 1)",
    ),
    (
        "mailboxes whose quota is no number above 0",
        (
            "SELECT count(*) FROM mailboxes "
            "WHERE quota < 1 OR typeof(quota) NOT IN ('integer', 'null')"
        ),
    ),
    (
        "invitations that cannot be read",
        (
            "SELECT count(*) FROM invitations WHERE typeof(token_hash) != 'blob' "
            "OR typeof(created_at) != 'integer' OR typeof(expires_at) != 'integer' "
            "OR typeof(note) NOT IN ('text', 'blob')"
        ),
    ),
)
# What a crash between two steps leaves: it does no harm.
_NOTES: Final = (
    (
        "mailboxes whose account is gone",
        "SELECT count(*) FROM mailboxes WHERE account_id NOT IN (SELECT account_id FROM accounts)",
    ),
    (
        "dropped mailboxes that the next server will sweep",
        "SELECT count(*) FROM dropped",
    ),
)
# What is mended: what it came to, and the statement that does it and counts.
_REPAIRS: Final = (
    (
        "accounts had no mailbox, and have an empty one now",
        """INSERT INTO mailboxes (account_id) SELECT account_id FROM accounts
        WHERE account_id NOT IN (SELECT account_id FROM mailboxes)""",
    ),
    (
        "sessions of no account were ended",
        """DELETE FROM sessions WHERE NOT EXISTS (SELECT 1 FROM accounts WHERE
        accounts.account_id = sessions.account_id AND accounts.username = sessions.username)""",
    ),
    (
        "sessions of accounts that are disabled were ended",
        """DELETE FROM sessions WHERE account_id IN
        (SELECT account_id FROM accounts WHERE NOT enabled)""",
    ),
    (
        "mailboxes whose account is gone were dropped",
        # With no account at all, and none that ever was, they are kept somewhere else.
        """DELETE FROM mailboxes WHERE account_id NOT IN (SELECT account_id FROM accounts) AND
        (EXISTS (SELECT 1 FROM accounts) OR EXISTS (SELECT 1 FROM reserved_names))""",
    ),
    (
        "messages of mailboxes that are gone were swept",
        "DELETE FROM messages WHERE box NOT IN (SELECT box FROM mailboxes)",
    ),
    (
        "send_ids of mailboxes that are gone were swept",
        "DELETE FROM send_ids WHERE box NOT IN (SELECT box FROM mailboxes)",
    ),
    *(
        (
            f"{what} of mailboxes that are gone were swept",
            f"DELETE FROM {table} WHERE box NOT IN (SELECT box FROM mailboxes)",  # noqa: S608 - constants
        )
        for table, what in (
            ("copies", "copies"),
            ("receipts", "receipts"),
            ("blocked", "blocked accounts"),
        )
    ),
    (
        "acks of mailboxes that are gone were swept",
        "DELETE FROM acks WHERE box NOT IN (SELECT box FROM mailboxes)",
    ),
    ("dropped mailboxes were noted as swept", "DELETE FROM dropped"),
)

# The first row has what there is in all: of no mailbox, there is none.
_LARGEST: Final = f"""
    SELECT sum(size) OVER (), username, unread + acked, unread, quota, size FROM (
        SELECT mailboxes.*, (SELECT ifnull(sum({BYTES_OF_BODY}), 0) FROM messages
            WHERE messages.box = mailboxes.box)
            + (SELECT ifnull(sum({BYTES_OF_BODY}), 0) FROM copies
            WHERE copies.box = mailboxes.box) AS size FROM mailboxes
    ) LEFT JOIN accounts USING (account_id) ORDER BY size DESC, username LIMIT max(?, 1)"""  # noqa: S608 - a constant


def check(path: Path, step: Step = no_step) -> Findings:
    """Check a file: SQLite's own check of every page, then what this store relies on.

    It looks at one moment of the file, and a server meanwhile waits for nothing; but the
    log grows.

    Args:
        path: the file.
        step: called with the progress.

    Raises:
        StoreNotOpened: it is no store of this version.
        sqlite3.Error, OSError: it cannot be read.
    """
    findings = Findings()
    with _snapshot(path) as connection:
        total = 1 + len(_FAULTS) + len(_NOTES)
        step(0, total, "every page")
        findings.faults.extend(_broken(connection))
        done = 1
        if findings.faults:
            return findings  # what is counted on broken pages says nothing
        for found, queries in ((findings.faults, _FAULTS), (findings.notes, _NOTES)):
            for what, query in queries:
                step(done, total, what)
                (count,) = connection.execute(query).fetchone()
                if count:
                    found.append(f"{count} {what}")
                done += 1
        step(total, total, "done")
    return findings


def _broken(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield what SQLite finds wrong with the pages, and which tables are not there."""
    for (text,) in connection.execute("PRAGMA integrity_check").fetchall():
        if text != "ok":
            yield f"SQLite: {text}"
    for part in lacking_tables(connection):
        yield f"there is no {part}"


def repair(path: Path) -> list[str]:
    """Mend what creating and deleting accounts can leave half done; no mail that can be read goes.

    Args:
        path: the file, which no server has open.

    Returns:
        What was mended: sentences, each with a count.

    Raises:
        StoreLocked: a server has it open.
        StoreNotOpened: it is no store of this version.
        sqlite3.Error, OSError: it cannot be read or written; nothing is changed.
    """
    with _snapshot(path):  # it is there, and of this version
        pass
    done: list[str] = []
    with closing(FileLock(located(path))) as lock:
        lock.take()
        with closing(StoreFile(lock.path, lock=lock).writer()) as connection:
            if list(_broken(connection)):
                return []  # a write could make it worse; `check` says what it is
            connection.execute("BEGIN IMMEDIATE")
            for what, statement in _REPAIRS:
                count = connection.execute(statement).rowcount
                if count:
                    done.append(f"{count} {what}")
            connection.execute("COMMIT")
    return done


def backup(path: Path, target: Path, progress: Progress | None = None) -> None:
    """Copy a file as it is at this moment, also while a server has it open.

    Args:
        path: the file.
        target: the copy, which must not be there yet.
        progress: called with the pages that are copied, and all of them.

    Raises:
        FileExistsError: the target is there, or a log of one that was.
        StoreNotOpened: the file is no store.
        sqlite3.Error, OSError: it cannot be read, or the copy not written; then there is none.
    """
    with _opened(path) as connection:
        _require_store(connection, path)
        copy_database(connection, target, progress)


def restore(path: Path, target: Path, progress: Progress | None = None) -> Path | None:
    """Put a backup in the place of a file, which is kept under another name with its log.

    All seqs jump beyond those that readers of either file can have seen.

    Args:
        path: the backup, which stays as it is.
        target: the file, which no server has open; it need not be sound, nor there.
        progress: called with the pages that are copied, and all of them.

    Returns:
        Where what was there before is, or None if there was nothing.

    Raises:
        StoreLocked: a server has the target open.
        StoreNotOpened: the backup is no store, or not sound.
        sqlite3.Error, OSError: it cannot be read or written; the target is as it was.
    """
    target = located(target)
    with ExitStack() as stack:
        backup = stack.enter_context(_opened(path))
        version = _require_store(backup, path)
        require_known(version, path)
        if target.exists():
            if target.samefile(path):
                raise StoreNotOpened(f"{path} cannot be put in its own place")
            lock = stack.enter_context(closing(FileLock(target)))
            lock.take()
        part = stack.enter_context(copied(backup, target, progress))
        with closing(sqlite3.connect(part, isolation_level=None)) as copy:
            if version != VERSION:
                change_version(copy, version)
            for fault in _broken(copy):
                raise StoreNotOpened(f"{path} is not sound, and {target} stays: {fault}")
            status = part.stat()
            copy.execute("BEGIN IMMEDIATE")
            renew_epoch(copy, f"{status.st_dev}:{status.st_ino}", epoch_of(target))
            copy.execute("COMMIT")
        owner = (target if target.exists() else target.parent).stat()
        if os.geteuid() == 0:  # else the server, which is another user, could not open it
            os.chown(part, owner.st_uid, owner.st_gid)
        sync(part)
        return _put_in_place(part, target)


def _put_in_place(part: Path, target: Path) -> Path | None:
    # The old file has two names until the new one takes its own, and with two no server takes
    # it: so none can run between these steps on the old file without its log, or on none at all.
    kept = free_name(target, "replaced")
    there = target.exists()
    if there:
        try:
            os.link(target, kept)
        except OSError:  # a file system without links
            target.rename(kept)
    for end in ("-wal", "-journal"):
        with suppress(FileNotFoundError):
            target.with_name(target.name + end).rename(kept.with_name(kept.name + end))
            there = True
    target.with_name(f"{target.name}-shm").unlink(missing_ok=True)
    if target.exists():
        part.rename(target)
        sync(target.parent)
    else:
        publish(part, target)
    return kept if there else None


def migrate(path: Path, progress: Progress | None = None) -> Migration:
    """Bring an older file to this version, after a copy.

    Args:
        path: the file, which no server has open.
        progress: called with the pages that are copied, and all of them.

    Raises:
        StoreLocked: a server has it open.
        StoreNotOpened: it is no store, or one of a later version.
        sqlite3.Error, OSError: it cannot be read or written.
    """
    with _opened(path) as connection:
        before = _require_store(connection, path)
    with closing(FileLock(located(path))) as lock:
        lock.take()
        copy = prepare(StoreFile(lock.path, lock=lock), progress)
    return Migration(before, VERSION, None if copy is None else str(copy))


def stats(path: Path, synchronous: Synchronous = Synchronous.FULL, *, largest: int = 0) -> Stats:
    """Return what a file holds.

    Args:
        path: the file.
        synchronous: what a server of it is told, and so how durable it is.
        largest: how many of the largest mailboxes to tell of.

    Raises:
        StoreNotOpened: it is no store of this version.
        sqlite3.Error, OSError: it cannot be read.
    """
    with _snapshot(path) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM sessions), "
            "count(*), ifnull(sum(unread + acked), 0), ifnull(sum(unread), 0) FROM mailboxes"
        ).fetchone()
        mail = connection.execute(_LARGEST, (largest,)).fetchall()
    path = located(path)  # the log is beside the file, not beside a link to it
    files = (path, path.with_name(f"{path.name}-wal"))
    size = sum(each.stat().st_size for each in files if each.exists())
    accounts, sessions, mailboxes, messages, unread = row
    full = synchronous is Synchronous.FULL
    durability = Durability.DISK if full else Durability.PROCESS
    return Stats(
        accounts,
        sessions,
        mailboxes,
        messages,
        unread,
        size,
        VERSION,
        durability,
        mail[0][0] if mail else 0,
        tuple(MailboxSize(*row[1:]) for row in mail[:largest]),
    )


class SqliteUpkeep(Upkeep):
    """All of it, for the file of a path."""

    # ruff: noqa: D102 - the contract tells what the methods do

    def __init__(self, path: Path, synchronous: Synchronous = Synchronous.FULL) -> None:
        self.name = str(path)
        self.path = path
        self._synchronous = synchronous

    def check(self, step: Step = no_step) -> Findings:
        return check(self.path, step)

    def repair(self) -> list[str]:
        return repair(self.path)

    def stats(self, largest: int = 0) -> Stats:
        return stats(self.path, self._synchronous, largest=largest)

    def backup(self, target: Path, step: Step = no_step) -> None:
        backup(self.path, target, lambda done, total: step(done, total, ""))

    def migrate(self, step: Step = no_step) -> Migration:
        return migrate(self.path, lambda done, total: step(done, total, ""))

    def source(self) -> Archive:
        return SqliteArchive.open_source(self.path)

    def target(self) -> Archive:
        return SqliteArchive.open_target(self.path)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder, not a file", str(path))
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "there is no such file", str(path))
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, "it cannot be read: permission denied", str(path))
    file = StoreFile(located(path))
    shared = _can_be_shared(file.path)  # first: to compare the log makes an index, where it can
    require_own_log(file)
    if shared:
        with closing(file.reader()) as connection:
            yield connection
        return
    # SQLite makes an index of the log to read a file of ours, and cannot here. Without it nothing
    # keeps others from writing, but who does has a log, or leaves the file changed.
    before = _state(file.path)
    with closing(file.plain("ro&immutable=1")) as connection:
        yield connection
    if _state(file.path) != before:
        raise StoreNotOpened(f"{path} was written while it was read")


def _can_be_shared(path: Path) -> bool:
    """Return whether a file can be read beside others; else it has to be read by itself.

    Raises:
        StoreNotOpened: it cannot be read at all: its log cannot.
    """
    beside = {end: path.with_name(f"{path.name}-{end}") for end in ("shm", "wal", "journal")}
    if os.access(path.parent, os.W_OK) or beside["shm"].exists():
        return True
    for log in (beside["wal"], beside["journal"]):
        if log.exists() and log.stat().st_size:
            raise StoreNotOpened(
                f"{path} has a log, {log.name}, and cannot be read with it where nothing can be "
                "written; copy both to another folder, and look at the copy"
            )
    return False


def _state(path: Path) -> tuple[object, ...]:
    """Return what changes when somebody writes a file."""
    status = path.stat()
    log = path.with_name(f"{path.name}-wal")
    return status.st_ino, status.st_size, status.st_mtime_ns, log.exists()


def _require_store(connection: sqlite3.Connection, path: Path) -> int:
    version = version_of(connection, path)
    if version is None:
        raise StoreNotOpened(f"{path} holds no store yet")
    require_whole(StoreFile(located(path)), connection)
    return version


@contextmanager
def _snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file of this version, all that is read being of one moment."""
    with _opened(path) as connection:
        connection.execute("BEGIN")
        version = _require_store(connection, path)
        require_known(version, path)
        if version != VERSION:
            raise StoreNotOpened(
                f"{path} has schema version {version}; bring it to {VERSION} with "
                "'twinline store migrate'"
            )
        yield connection
