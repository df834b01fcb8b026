"""The tables of the SQLite store, their version, and how an older file becomes a new one.

::

    accounts(account_id, username, password_hash, created_at, enabled, must_change)
    reserved_names(username)
    sessions(token_hash, account_id, username, opened_at, used_at)
    known_addresses(account_id, address, noted_at)
        where the account was logged in to; triggers drop them with it
    hash_profiles(profile, accounts)
        how many accounts have hashes of the same parameters; triggers count them
    invitations(token_hash, created_at, expires_at, note)
        those that are not spent

    mailboxes(box, account_id, position, last, unread, acked, oldest_ack, quota, newest, copies,
              receipts, blocked, gives_receipts, filed)
        box         a number that is never used twice: what is left of a dropped mailbox can
                    be swept later and never shows up in another
        last        the last seq that was given out; never lower, whatever is deleted
        unread      how many messages have a seq above the position
        acked       how many have not, and are kept as history
        oldest_ack  when the first of `acks` was made, or NULL
        quota       how many messages may be unread, or NULL for the policy's number
        newest      the highest n of a message that came
        copies, receipts, blocked
                    how many rows of the tables of these names there are
        gives_receipts
                    whether it gives receipts, and takes them
        filed       up to this seq the indexes by conversation have its mail and copies; those
                    few behind it are looked through. An index that had each at once would cost a
                    send one more page of the file, which this way costs some dozens of them
    messages(box, seq, message_id, sender, body, sent_at, sender_id, n, filed)
        sender_id   of one that came before version 4, '', and its n is 0; such messages have an
                    index by name, all others one by sender_id
        filed       whether that index has it: 1, or NULL
    copies(box, seq, message_id, sender, peer_id, peer, sent_at, n, body, filed)
        what the mailbox's account has sent; the peer is the recipient
    receipts(box, peer_id, peer, seq, n, acked_at)
        one for each account that has acknowledged what was sent to it
    blocked(box, peer_id, peer)
    acks(box, position, acked_at)
        history ages from its ack, so each ack that moved over messages is kept with them
    send_ids(box, sender_id, send_id, content, message_id, sent_at, seq, n)
        content     a hash of the body
        seq         of the message, and so the order in which they came
    dropped(box)    whose messages are still to be swept
    store(fence, epoch, place, identity, identity_before)
        one row: fence is written to see whether the file can be written, and to have the row
        in the log; the others tell where the file comes from (`provenance`)

The two groups do not refer to each other, as the two halves of a store do not.
"""

import errno
import json
import logging
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from twinline.stores.shared.opening import SchemaTooNew, StoreNotOpened
from twinline.stores.sqlite.file import APPLICATION_ID, StoreFile
from twinline.stores.sqlite.provenance import (
    mark_as_copy,
    require_own_log,
    require_whole,
    settle,
)

log = logging.getLogger(__name__)

VERSION: Final = 4
"""The version of the tables below, kept in ``PRAGMA user_version``."""


def _profile(column: str) -> str:
    """Return SQL for what `profile_of` gives: a hash without what is behind its last two ``$``."""
    others = f"replace({column}, '$', '')"
    return f"rtrim(rtrim(rtrim(rtrim({column}, {others}), '$'), {others}), '$')"


_ADDRESSES_AND_PROFILES: Final = (
    """CREATE TABLE known_addresses (
        account_id TEXT NOT NULL,
        address TEXT NOT NULL,
        noted_at INTEGER NOT NULL,
        PRIMARY KEY (account_id, address)
    ) WITHOUT ROWID""",
    """CREATE TABLE hash_profiles (
        profile TEXT NOT NULL PRIMARY KEY,
        accounts INTEGER NOT NULL
    ) WITHOUT ROWID""",
    f"""CREATE TRIGGER account_created AFTER INSERT ON accounts BEGIN
        INSERT INTO hash_profiles VALUES ({_profile("new.password_hash")}, 1)
        ON CONFLICT (profile) DO UPDATE SET accounts = accounts + 1;
    END""",  # noqa: S608 - the column's name is ours
    f"""CREATE TRIGGER account_deleted AFTER DELETE ON accounts BEGIN
        UPDATE hash_profiles SET accounts = accounts - 1
        WHERE profile = {_profile("old.password_hash")};
        DELETE FROM known_addresses WHERE account_id = old.account_id;
    END""",  # noqa: S608 - the column's name is ours
    f"""CREATE TRIGGER password_changed AFTER UPDATE OF password_hash ON accounts BEGIN
        UPDATE hash_profiles SET accounts = accounts - 1
        WHERE profile = {_profile("old.password_hash")};
        INSERT INTO hash_profiles VALUES ({_profile("new.password_hash")}, 1)
        ON CONFLICT (profile) DO UPDATE SET accounts = accounts + 1;
    END""",  # noqa: S608 - the column's name is ours
)

OLD_SEND_IDS: Final = "send_ids_1"
"""What version 1 knew of send_ids, in a migrated file: until the last of them has expired."""

# Columns as a table is made with them, and as an older one gets them.
_N: Final = "n INTEGER NOT NULL DEFAULT 0"
_SENDER_ID: Final = "sender_id TEXT NOT NULL DEFAULT ''"


def _send_ids(*more: str) -> tuple[str, str]:
    """Return what makes the table of send_ids and its index, with more columns."""
    columns = "".join(f"{column}, " for column in more)
    return (
        f"""CREATE TABLE send_ids (
        box INTEGER NOT NULL,
        sender_id TEXT NOT NULL,
        send_id TEXT NOT NULL,
        content BLOB NOT NULL,
        message_id TEXT NOT NULL,
        sent_at INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        {columns}
        PRIMARY KEY (box, sender_id, send_id)
    ) WITHOUT ROWID""",
        "CREATE INDEX send_ids_by_age ON send_ids (sent_at)",
    )


# Of what an index by conversation has; see `filed` above.
FILED: Final = "filed IS NOT NULL"
_FILED: Final = "filed INTEGER"
# The index has n too: so it tells whether the copy of a message is there.
_COPIES: Final = (
    f"""CREATE TABLE copies (
        box INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        message_id TEXT NOT NULL,
        sender TEXT NOT NULL,
        peer_id TEXT NOT NULL,
        peer TEXT NOT NULL,
        sent_at INTEGER NOT NULL,
        n INTEGER NOT NULL,
        body NOT NULL,
        {_FILED},
        PRIMARY KEY (box, seq)
    ) WITHOUT ROWID""",
    f"CREATE INDEX copies_by_peer ON copies (box, peer_id, seq, n) WHERE {FILED}",
)
_RECEIPTS: Final = (
    """CREATE TABLE receipts (
        box INTEGER NOT NULL,
        peer_id TEXT NOT NULL,
        peer TEXT NOT NULL,
        seq INTEGER NOT NULL,
        n INTEGER NOT NULL,
        acked_at INTEGER NOT NULL,
        PRIMARY KEY (box, peer_id)
    ) WITHOUT ROWID""",
    "CREATE INDEX receipts_by_seq ON receipts (box, seq)",
)
_BLOCKED: Final = """CREATE TABLE blocked (
        box INTEGER NOT NULL,
        peer_id TEXT NOT NULL,
        peer TEXT NOT NULL,
        PRIMARY KEY (box, peer_id)
    ) WITHOUT ROWID"""
_BY_SENDER: Final = (
    f"CREATE INDEX messages_by_sender ON messages (box, sender_id, seq) WHERE {FILED}",
    # A message of today costs this one nothing.
    "CREATE INDEX messages_by_name ON messages (box, sender, seq) WHERE sender_id = ''",
)

_INVITATIONS: Final = """CREATE TABLE invitations (
        token_hash BLOB NOT NULL PRIMARY KEY,
        created_at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL,
        note NOT NULL
    ) WITHOUT ROWID"""
_ENABLED: Final = "enabled INTEGER NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1))"
_MUST_CHANGE: Final = "must_change INTEGER NOT NULL DEFAULT 0 CHECK (must_change IN (0, 1))"
_QUOTA: Final = "quota INTEGER CHECK (quota >= 1)"
_BESIDE_MAIL: Final = (
    "newest INTEGER NOT NULL DEFAULT 0",
    "copies INTEGER NOT NULL DEFAULT 0 CHECK (copies >= 0)",
    "receipts INTEGER NOT NULL DEFAULT 0 CHECK (receipts >= 0)",
    "blocked INTEGER NOT NULL DEFAULT 0 CHECK (blocked >= 0)",
    "gives_receipts INTEGER NOT NULL DEFAULT 1 CHECK (gives_receipts IN (0, 1))",
    "filed INTEGER NOT NULL DEFAULT 0",
)

TABLES: Final = (
    f"""CREATE TABLE accounts (
        account_id TEXT NOT NULL PRIMARY KEY,
        username TEXT NOT NULL UNIQUE,
        password_hash TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        {_ENABLED},
        {_MUST_CHANGE}
    ) WITHOUT ROWID""",
    "CREATE TABLE reserved_names (username TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID",
    """CREATE TABLE sessions (
        token_hash BLOB NOT NULL PRIMARY KEY,
        account_id TEXT NOT NULL,
        username TEXT NOT NULL,
        opened_at INTEGER NOT NULL,
        used_at INTEGER NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX sessions_of_account ON sessions (account_id, used_at)",
    *_ADDRESSES_AND_PROFILES,
    _INVITATIONS,
    f"""CREATE TABLE mailboxes (
        box INTEGER PRIMARY KEY AUTOINCREMENT,
        account_id TEXT NOT NULL UNIQUE,
        position INTEGER NOT NULL DEFAULT 0 CHECK (position <= last),
        last INTEGER NOT NULL DEFAULT 0,
        unread INTEGER NOT NULL DEFAULT 0 CHECK (unread >= 0),
        acked INTEGER NOT NULL DEFAULT 0 CHECK (acked >= 0),
        oldest_ack INTEGER,
        {_QUOTA},
        {", ".join(_BESIDE_MAIL)}
    )""",
    f"""CREATE TABLE messages (
        box INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        message_id TEXT NOT NULL,
        sender TEXT NOT NULL,
        body NOT NULL,
        sent_at INTEGER NOT NULL,
        {_SENDER_ID},
        {_N},
        {_FILED},
        PRIMARY KEY (box, seq)
    ) WITHOUT ROWID""",
    *_BY_SENDER,
    *_COPIES,
    *_RECEIPTS,
    _BLOCKED,
    """CREATE TABLE acks (
        box INTEGER NOT NULL,
        position INTEGER NOT NULL,
        acked_at INTEGER NOT NULL,
        PRIMARY KEY (box, position)
    ) WITHOUT ROWID""",
    *_send_ids(_N),
    "CREATE TABLE dropped (box INTEGER PRIMARY KEY)",
    """CREATE TABLE store (
        fence INTEGER NOT NULL,
        epoch INTEGER NOT NULL DEFAULT 0,
        place TEXT NOT NULL DEFAULT '',
        identity TEXT NOT NULL DEFAULT '',
        identity_before TEXT NOT NULL DEFAULT ''
    )""",
    "INSERT INTO store (fence) VALUES (0)",
)

MIGRATIONS: Final[dict[int, tuple[str, ...]]] = {
    # What a version has beyond the one before stands in TABLES too: a new file and a migrated one
    # are alike.
    1: (
        *_ADDRESSES_AND_PROFILES,
        f"""INSERT INTO hash_profiles
        SELECT {_profile("password_hash")}, count(*) FROM accounts GROUP BY 1""",  # noqa: S608
        "DROP INDEX send_ids_by_age",
        f"ALTER TABLE send_ids RENAME TO {OLD_SEND_IDS}",
        *_send_ids(),
        # A creation whose commit the disk had held up could leave an account without one.
        (
            "INSERT INTO mailboxes (account_id) SELECT account_id FROM accounts "
            "WHERE account_id NOT IN (SELECT account_id FROM mailboxes)"
        ),
        "ALTER TABLE store ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE store ADD COLUMN place TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE store ADD COLUMN identity TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE store ADD COLUMN identity_before TEXT NOT NULL DEFAULT ''",
    ),
    2: (
        f"ALTER TABLE accounts ADD COLUMN {_ENABLED}",
        f"ALTER TABLE accounts ADD COLUMN {_MUST_CHANGE}",
        _INVITATIONS,
        f"ALTER TABLE mailboxes ADD COLUMN {_QUOTA}",
    ),
    3: (
        *(f"ALTER TABLE mailboxes ADD COLUMN {column}" for column in _BESIDE_MAIL),
        f"ALTER TABLE messages ADD COLUMN {_SENDER_ID}",
        f"ALTER TABLE messages ADD COLUMN {_N}",
        f"ALTER TABLE messages ADD COLUMN {_FILED}",
        # What is there has an index by name.
        "UPDATE mailboxes SET filed = last",
        *_BY_SENDER,
        *_COPIES,
        *_RECEIPTS,
        _BLOCKED,
        f"ALTER TABLE send_ids ADD COLUMN {_N}",
    ),
}
"""For each older version, the statements that make the next one of it."""

Progress = Callable[[int, int], None]
"""Called with how much of a long work is done, and how much there is."""


def version_of(connection: sqlite3.Connection, path: Path) -> int | None:
    """Return the version of a file's tables, or None if it is empty.

    Raises:
        SchemaTooNew: a later program wrote it.
        StoreNotOpened: it is a database, but not a store.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID:
        if tables or application:
            raise StoreNotOpened(f"{path} is a SQLite database, but not a store of twinline")
        return None
    if version > VERSION:
        raise SchemaTooNew(
            f"{path} has schema version {version}, and this program knows versions up to "
            f"{VERSION}; use the program that wrote it, or a later one"
        )
    return int(version)


def prepare(file: StoreFile, progress: Progress | None = None) -> Path | None:
    """Make a file's tables, or bring them to this version; its lock must be held.

    An older file is copied first and then changed in one transaction, so it has either version
    whatever happens in between.

    Args:
        file: what to open.
        progress: called with the pages that are copied, and all of them.

    Returns:
        Where the copy of an older file is, or None if there was nothing to migrate.

    Raises:
        StoreNotOpened: the file cannot be used; it is left as it was.
        sqlite3.Error: it cannot be read or written.
    """
    require_own_log(file)
    version = _version_of_file(file)
    require_known(version, file.path)
    warning = file.lock.make_private() if file.lock is not None else None
    if warning is not None:
        log.warning("%s", warning)
    copy = None
    if version is not None and version < VERSION:
        copy = free_name(file.path, f"version-{version}")
        with closing(file.reader()) as connection:
            copy_database(connection, copy, progress)
    with closing(file.writer()) as connection:
        if version != VERSION:
            try:
                change_version(connection, version)
            except BaseException:
                if copy is not None:
                    copy.unlink()  # the file is what it was, and the next attempt makes another
                raise
        lacking = lacking_tables(connection)
        if lacking:
            raise StoreNotOpened(f"{file.path} is damaged: it has no {', '.join(lacking)}")
        if file.lock is not None:
            settle(connection, file.lock)
    return copy


def _version_of_file(file: StoreFile) -> int | None:
    # By a connection that changes nothing, not even a log, for the file may be another's.
    try:
        with closing(file.reader()) as connection:
            version = version_of(connection, file.path)
            require_whole(file, connection)
            return version
    except sqlite3.OperationalError:
        # What was being made when the power failed has to be rolled back before it can be read.
        with closing(file.plain()) as connection:
            return version_of(connection, file.path)


def require_known(version: int | None, path: Path) -> None:
    """See that this program can bring a file of a version to its own.

    Raises:
        StoreNotOpened: it cannot.
    """
    if version is not None and not all(each in MIGRATIONS for each in range(version, VERSION)):
        raise StoreNotOpened(f"{path} has schema version {version}, which is too old")


def lacking_tables(connection: sqlite3.Connection) -> list[str]:
    """Return what a file of this version has to have and has not: tables, columns, indexes."""
    lacking = _wanted() - _parts(connection)
    # Of a table that is not there at all, its columns are not told.
    return sorted(part for part in lacking if part.rpartition(" of ")[2] not in lacking - {part})


@cache
def _wanted() -> frozenset[str]:
    with closing(sqlite3.connect(":memory:")) as model:
        model.executescript(";".join(TABLES))
        return _parts(model)


def _parts(connection: sqlite3.Connection) -> frozenset[str]:
    (parts,) = connection.execute(
        "SELECT json_group_array(part) FROM (SELECT type || ' ' || name AS part "
        "FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' UNION ALL "
        "SELECT 'column ' || info.name || ' of table ' || owner.name "
        "FROM sqlite_schema AS owner, pragma_table_info(owner.name) AS info "
        "WHERE owner.type = 'table')"
    ).fetchone()
    return frozenset(json.loads(parts))


def copy_database(
    source: sqlite3.Connection, target: Path, progress: Progress | None = None
) -> None:
    """Copy a database as it is at this moment, while others read and write it.

    Args:
        source: a connection to it; no transaction is open on it.
        target: a file that is not there yet; it is complete once it has this name.
        progress: called with the pages that are copied, and all of them.

    Raises:
        FileExistsError: the target is there, or a log that SQLite would take for its own.
        OSError, sqlite3.Error: it cannot be read or written; no target is left.
    """
    require_free(target)
    with copied(source, target, progress) as part:
        sync(part)
        require_free(target)
        publish(part, target)


@contextmanager
def copied(
    source: sqlite3.Connection, target: Path, progress: Progress | None = None
) -> Iterator[Path]:
    """Copy a database to a file beside a target; it is removed again if it is still there.

    Raises:
        OSError, sqlite3.Error: it cannot be read or written.
    """
    try:
        descriptor, name = tempfile.mkstemp(".part", f"{target.name}.", target.parent)  # mode 600
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error
    os.close(descriptor)
    part = Path(name)

    def report(_status: int, remaining: int, total: int) -> None:
        if progress is not None:
            progress(total - remaining, total)

    try:
        with closing(sqlite3.connect(part, isolation_level=None)) as copy:
            # A snapshot: without it the copy begins again whenever the file is written.
            source.execute("BEGIN")
            try:
                source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                source.backup(copy, pages=256, progress=report, sleep=0)
            finally:
                source.execute("COMMIT")
            # One file instead of a file and a log; the next server makes it a log again.
            copy.execute("PRAGMA journal_mode = DELETE")
            mark_as_copy(copy)
        yield part
    finally:
        part.unlink(missing_ok=True)


def publish(part: Path, target: Path) -> None:
    """Give a file the name of one that is not there.

    Raises:
        FileExistsError: it is there by now.
        OSError: it cannot be done.
    """
    try:
        os.link(part, target)  # unlike a renaming, it never replaces what is there
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        part.rename(target)
    part.unlink(missing_ok=True)
    sync(target.parent)


def change_version(connection: sqlite3.Connection, version: int | None) -> None:
    """Make the tables of this version out of an older one's, or of none, in a transaction.

    Raises:
        sqlite3.Error: it cannot be done; nothing is changed.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        if version is None:
            statements: tuple[str, ...] = TABLES
        else:
            steps = (MIGRATIONS[number] for number in range(version, VERSION))
            statements = tuple(statement for step in steps for statement in step)
        for statement in statements:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def free_name(path: Path, end: str) -> Path:
    """Return a name beside a file, with this end, that nothing has."""
    copy, number = path.with_name(f"{path.name}.{end}"), 1
    while _taken(copy) is not None:
        number += 1
        copy = path.with_name(f"{path.name}.{end}.{number}")
    return copy


def _taken(target: Path) -> Path | None:
    """Return what has a database's name already: a file, or what SQLite keeps beside one."""
    names = (target.with_name(target.name + end) for end in ("", "-wal", "-shm", "-journal"))
    return next((path for path in names if os.path.lexists(path)), None)


def require_free(target: Path) -> None:
    """See that neither a file nor a log of a database has this name.

    Raises:
        FileExistsError: one has it.
    """
    taken = _taken(target)
    if taken is not None:
        raise FileExistsError(errno.EEXIST, "there is a file already", str(taken))


def sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
