"""Whether a file is the one that was served, and its log its own: the row of ``store``.

A backup that is put back is behind what readers have seen: were its seqs to go on from there, new
mail would have seqs that a reader passed long ago, and be acked unseen. So a file has an *epoch*,
a number that is renewed when the file is put back, and with it all seqs jump by so many times
2^32 as the epoch rose. A reader's seq from before lies inside the jump, where nothing is, and all
new mail beyond it. Put back is what ``twinline store restore`` made, what ``twinline store
backup`` marked, and whatever is not on the device and the inode that were noted when it was
served. What was written over the file in place cannot be told from the file.

A log (``-wal``) belongs to the file that it was written beside. SQLite knows it by its name alone
and would replay it into any file (https://sqlite.org/howtocorrupt.html, section 1.4). So each
opening gives the file an *identity*; each beginning of the log has it too, and the two are
compared before SQLite uses the log.
"""

import secrets
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from twinline.stores.shared.opening import StoreNotOpened
from twinline.stores.sql.epochs import jump, next_epoch
from twinline.stores.sqlite.file import APPLICATION_ID, StoreFile
from twinline.stores.sqlite.lock import FileLock


class _Identity(NamedTuple):
    now: str
    before: str  # what the file itself may still say; the same as `now` when it cannot


def require_own_log(file: StoreFile) -> None:
    """See that the log beside a file was written for it; nothing is changed.

    Raises:
        StoreNotOpened: it was written for another.
    """
    log = file.path.with_name(f"{file.path.name}-wal")
    if not log.exists() or not log.stat().st_size:
        return
    if not file.path.stat().st_size:
        raise StoreNotOpened(
            f"{file.path} is empty, and {log} is the log of a file that was there before; move "
            "the log away, or put the file back that it belongs to"
        )
    for _ in range(3):  # a server may begin between the two looks
        # Immutable: SQLite reads the file alone, without its log.
        alone, together = _identity(file, "ro&immutable=1"), _identity(file, "ro")
        if alone is None or together is None or alone.now in together:
            return
    raise StoreNotOpened(
        f"{log} is the log of another file than {file.path}; move it away, or put the file back "
        "that it belongs to; 'twinline store restore' puts a backup in a file's place"
    )


def _identity(file: StoreFile, mode: str) -> _Identity | None:
    """Return the identity, or None if it cannot be told: of an older version, or of no store."""
    try:
        with closing(file.plain(mode)) as connection:
            if connection.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
                return None
            row = connection.execute("SELECT identity, identity_before FROM store").fetchone()
            return None if row is None else _Identity(*row)
    except sqlite3.Error:
        return None  # what is wrong shows when it is opened


def require_whole(file: StoreFile, connection: sqlite3.Connection) -> None:
    """See that a file has the length that it says it has; SQLite sees only missing pages.

    Raises:
        StoreNotOpened: something is cut off.
    """
    log = file.path.with_name(f"{file.path.name}-wal")
    if log.exists() and log.stat().st_size:
        return  # what is missing may be in the log, from where it is moved again
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    missing = pages * page - file.path.stat().st_size
    if missing > 0:
        raise StoreNotOpened(
            f"{file.path} is cut: {missing:,} of its {pages * page:,} bytes are missing; go back "
            "to a backup with 'twinline store restore'"
        )


def settle(connection: sqlite3.Connection, lock: FileLock) -> None:
    """Note where a file is that is about to be served; renew its epoch if it was elsewhere.

    Raises:
        sqlite3.Error: it cannot be written; it is as it was.
    """
    was_moved = _move_log(connection)
    place = f"{lock.device}:{lock.inode}"
    connection.execute("BEGIN IMMEDIATE")
    try:
        (noted,) = connection.execute("SELECT place FROM store").fetchone()
        if noted != place:
            renew_epoch(connection, place)
        if was_moved:  # else the file itself may be two identities behind
            connection.execute(
                "UPDATE store SET identity_before = identity, identity = ?", (secrets.token_hex(8),)
            )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    if _move_log(connection):
        connection.execute("UPDATE store SET identity_before = identity")


def renew_epoch(connection: sqlite3.Connection, place: str, beyond: int = 0) -> None:
    """Let the seqs of every mailbox jump, in the transaction that is open.

    Args:
        connection: to the file.
        place: where the file is, or "" for a file that is to be renewed when it is served.
        beyond: an epoch that readers of the file may have seen already.
    """
    (epoch,) = connection.execute("SELECT epoch FROM store").fetchone()
    new = next_epoch(epoch, beyond)
    connection.execute("UPDATE mailboxes SET last = last + ?", (jump(epoch, new),))
    connection.execute("UPDATE store SET epoch = ?, place = ?", (new, place))


def mark_as_copy(connection: sqlite3.Connection) -> None:
    """Have a copy's epoch renewed when it is served, and no log of the original taken for its own.

    A copy of a version that knows neither is left as it is: it is renewed when it is migrated.
    """
    columns = connection.execute("SELECT name FROM pragma_table_info('store')").fetchall()
    if ("identity",) in columns:
        connection.execute(
            "UPDATE store SET place = '', identity = :new, identity_before = :new",
            {"new": secrets.token_hex(8)},
        )


def epoch_of(path: Path) -> int:
    """Return the epoch of a file that may be anything; 0 if it has none that can be read."""
    try:
        with closing(StoreFile(path).reader()) as connection:
            (epoch,) = connection.execute("SELECT epoch FROM store").fetchone()
            return epoch if isinstance(epoch, int) else 0
    except (sqlite3.Error, TypeError):
        return 0


def _move_log(connection: sqlite3.Connection) -> bool:
    """Move the log into the file as far as no reader is in the way; return whether all of it is."""
    (_, pages, moved) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return bool(pages == moved)
