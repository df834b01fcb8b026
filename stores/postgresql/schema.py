"""The tables of the PostgreSQL store, their version, and who makes them.

::

    names(username, account_id, password_hash, created_at, enabled, must_change)
        one row a name, in use or, without an account, reserved: it cannot be both
    sessions(account_id, token_hash, username, opened_at, used_at)
    known_addresses(account_id, address, noted_at)
        where an account was logged in to; the address in UTF-8
    hash_profiles(profile, part, accounts)
        how many accounts have hashes of the same parameters, in several parts, so that those who
        create accounts at once do not all wait for one row
    invitations(token_hash, created_at, expires_at, note)
        those that are not spent; the note in UTF-8
    states(key, value, expires_at)
        what limits are counted in

    mailboxes(account_id, box, position, last, unread, acked, oldest_ack, floor, epoch, sends,
              made_at, quota, newest, copies, receipts, blocked, gives_receipts)
        box         a number that is never used twice: what is left of a dropped mailbox can
                    be swept later and never shows up in another
        last        the last seq that was given out; never lower, whatever is deleted
        unread      how many messages have a seq above the position
        acked       how many have not, and are kept as history
        oldest_ack  when the first of `acks` was made, or NULL
        floor       what has a seq up to here counts as removed, and will be
        epoch       the store's, when a seq was last given out
        sends       how many send_ids it has ever had
        made_at     by the database's clock
        quota       how many may be unread, or NULL: as many as the policy says
        newest      the highest `n` of a message that was put into it
        copies, receipts, blocked
                    how many rows it has in the tables of these names
        gives_receipts
                    whether it gives receipts, and takes them
    messages(box, seq, message_id, sender, body, sent_at, sender_id, n)
        sender_id and n are '' and 0 of those that came before they were kept
    copies(box, seq, message_id, sender, peer_id, peer, body, sent_at, n)
        what the account has sent, to whom; one a message
    receipts(box, seq, peer_id, peer, n, acked_at)
        what was acknowledged of that; one a peer, with a new seq whenever it is replaced
    blocked(box, peer_id, peer)
        whose mail is refused
    acks(box, position, acked_at)
        history ages from its ack, so each ack that moved over messages is kept with them
    send_ids(box, sender_id, send_id, content, message_id, sent_at, seq, n)
        content     a hash of the body
        seq         of the message, and so the order in which they came
    dropped(box)    what is in it is still to be swept
    store(version, epoch, origin, policy, filled_from)
        one row; `origin` tells where the epoch comes from (`health`); `filled_from` is the store
        that this one is the unfinished copy of, or nothing (`archive`)

The two groups do not refer to each other, as the two halves of a store do not. Texts that a peer
chose are ``bytea``, for PostgreSQL's ``text`` cannot have U+0000 in it; names sort by code point,
whatever the database's locale (``COLLATE "C"``). A row of ``mailboxes`` changes with every
message, so its pages are half empty: the new version stays on the page, and no index changes.

Mail, copies and receipts share the seqs of their mailbox, and no statement about mail alone looks
at the others' tables.
"""

from typing import Final

from twinline.stores.postgresql.link import Call, EngineError, Link
from twinline.stores.shared.opening import SchemaTooNew, StoreNotOpened

VERSION: Final = 3
"""The version of the tables below, kept in ``store``."""
LOCK_SPACE: Final = 0x74776C6E
"""The first half of the key of every advisory lock of ours; the second is made of the schema."""
_OLDEST_ENGINE: Final = 130_000

_MIGRATION_SECONDS: Final = 3600.0  # an index over all mail takes its time

_INVITATIONS: Final = """CREATE TABLE invitations (
        token_hash bytea PRIMARY KEY,
        created_at bigint NOT NULL,
        expires_at bigint NOT NULL,
        note bytea NOT NULL
    )"""
_BY_SENDER: Final = "CREATE INDEX messages_by_sender ON messages (box, sender_id, seq)"
# Mail of before is found by its sender's name; that there is none of it any more costs nothing.
_BY_NAME: Final = """CREATE INDEX messages_by_name ON messages (box, sender, seq)
        WHERE sender_id = ''"""
_CONVERSING: Final = (
    """CREATE TABLE copies (
        box bigint NOT NULL,
        seq bigint NOT NULL,
        message_id text COLLATE "C" NOT NULL,
        sender text COLLATE "C" NOT NULL,
        peer_id text COLLATE "C" NOT NULL,
        peer text COLLATE "C" NOT NULL,
        body bytea NOT NULL,
        sent_at bigint NOT NULL,
        n bigint NOT NULL,
        PRIMARY KEY (box, seq)
    ) WITH (autovacuum_vacuum_scale_factor = 0.05)""",
    # With n it tells whether the copy of a message is there.
    "CREATE INDEX copies_by_peer ON copies (box, peer_id, seq, n)",
    """CREATE TABLE receipts (
        box bigint NOT NULL,
        seq bigint NOT NULL,
        peer_id text COLLATE "C" NOT NULL,
        peer text COLLATE "C" NOT NULL,
        n bigint NOT NULL,
        acked_at bigint NOT NULL,
        PRIMARY KEY (box, peer_id),
        CONSTRAINT receipts_by_seq UNIQUE (box, seq)
    ) WITH (autovacuum_vacuum_scale_factor = 0.05)""",
    """CREATE TABLE blocked (
        box bigint NOT NULL,
        peer_id text COLLATE "C" NOT NULL,
        peer text COLLATE "C" NOT NULL,
        PRIMARY KEY (box, peer_id)
    )""",
)
TABLES: Final = (
    """CREATE TABLE names (
        username text COLLATE "C" PRIMARY KEY,
        account_id text COLLATE "C" UNIQUE,
        password_hash text,
        created_at bigint,
        enabled boolean NOT NULL DEFAULT true,
        must_change boolean NOT NULL DEFAULT false,
        CHECK (num_nulls(account_id, password_hash, created_at) IN (0, 3))
    )""",
    # Pages of names skip those that are reserved.
    "CREATE INDEX names_in_use ON names (username) WHERE account_id IS NOT NULL",
    """CREATE TABLE sessions (
        account_id text COLLATE "C" NOT NULL,
        token_hash bytea NOT NULL,
        username text COLLATE "C" NOT NULL,
        opened_at bigint NOT NULL,
        used_at bigint NOT NULL,
        PRIMARY KEY (account_id, token_hash)
    )""",
    """CREATE TABLE known_addresses (
        account_id text COLLATE "C" NOT NULL,
        address bytea NOT NULL,
        noted_at bigint NOT NULL,
        PRIMARY KEY (account_id, address)
    )""",
    """CREATE TABLE hash_profiles (
        profile text COLLATE "C" NOT NULL,
        part bigint NOT NULL,
        accounts bigint NOT NULL,
        PRIMARY KEY (profile, part)
    )""",
    _INVITATIONS,
    """CREATE TABLE states (
        key bytea PRIMARY KEY,
        value bytea NOT NULL,
        expires_at timestamptz NOT NULL
    ) WITH (fillfactor = 70)""",
    "CREATE INDEX states_by_end ON states (expires_at)",
    """CREATE TABLE mailboxes (
        account_id text COLLATE "C" PRIMARY KEY,
        box bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
        position bigint NOT NULL DEFAULT 0,
        last bigint NOT NULL DEFAULT 0,
        unread bigint NOT NULL DEFAULT 0 CHECK (unread >= 0),
        acked bigint NOT NULL DEFAULT 0 CHECK (acked >= 0),
        oldest_ack bigint,
        floor bigint NOT NULL DEFAULT 0,
        epoch bigint NOT NULL,
        sends bigint NOT NULL DEFAULT 0,
        made_at timestamptz NOT NULL DEFAULT now(),
        quota bigint CHECK (quota > 0),
        newest bigint NOT NULL DEFAULT 0,
        copies bigint NOT NULL DEFAULT 0 CHECK (copies >= 0),
        receipts bigint NOT NULL DEFAULT 0 CHECK (receipts >= 0),
        blocked bigint NOT NULL DEFAULT 0 CHECK (blocked >= 0),
        gives_receipts boolean NOT NULL DEFAULT true,
        CHECK (floor <= position AND position <= last)
    ) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05)""",
    """CREATE TABLE messages (
        box bigint NOT NULL,
        seq bigint NOT NULL,
        message_id text COLLATE "C" NOT NULL,
        sender text COLLATE "C" NOT NULL,
        body bytea NOT NULL,
        sent_at bigint NOT NULL,
        sender_id text COLLATE "C" NOT NULL DEFAULT '',
        n bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (box, seq)
    ) WITH (autovacuum_vacuum_scale_factor = 0.05)""",
    _BY_SENDER,
    _BY_NAME,
    *_CONVERSING,
    """CREATE TABLE acks (
        box bigint NOT NULL,
        position bigint NOT NULL,
        acked_at bigint NOT NULL,
        PRIMARY KEY (box, position)
    ) WITH (autovacuum_vacuum_scale_factor = 0.05)""",
    """CREATE TABLE send_ids (
        box bigint NOT NULL,
        sender_id text COLLATE "C" NOT NULL,
        send_id bytea NOT NULL,
        content bytea NOT NULL,
        message_id text COLLATE "C" NOT NULL,
        sent_at bigint NOT NULL,
        seq bigint NOT NULL,
        n bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (box, sender_id, send_id)
    ) WITH (autovacuum_vacuum_scale_factor = 0.05)""",
    # They come and go in about the order of their times, so a summary of each stretch of the
    # table finds those that have expired; a sorted index would cost every send.
    """CREATE INDEX send_ids_by_age ON send_ids USING brin (sent_at)
        WITH (pages_per_range = 32, autosummarize = on)""",
    "CREATE TABLE dropped (box bigint PRIMARY KEY)",
    """CREATE TABLE store (
        singular boolean PRIMARY KEY DEFAULT true CHECK (singular),
        version bigint NOT NULL,
        epoch bigint NOT NULL,
        origin text NOT NULL,
        policy text NOT NULL,
        filled_from text NOT NULL DEFAULT ''
    )""",
    # Of no epoch and no policy until the first server has settled them.
    f"INSERT INTO store (version, epoch, origin, policy) VALUES ({VERSION}, 0, '', '')",  # noqa: S608
)

MIGRATIONS: Final[dict[int, tuple[str, ...]]] = {
    1: (
        "ALTER TABLE names ADD COLUMN enabled boolean NOT NULL DEFAULT true",
        "ALTER TABLE names ADD COLUMN must_change boolean NOT NULL DEFAULT false",
        "ALTER TABLE mailboxes ADD COLUMN quota bigint CHECK (quota > 0)",
        _INVITATIONS,
    ),
    2: (
        """ALTER TABLE mailboxes ADD COLUMN newest bigint NOT NULL DEFAULT 0,
        ADD COLUMN copies bigint NOT NULL DEFAULT 0 CHECK (copies >= 0),
        ADD COLUMN receipts bigint NOT NULL DEFAULT 0 CHECK (receipts >= 0),
        ADD COLUMN blocked bigint NOT NULL DEFAULT 0 CHECK (blocked >= 0),
        ADD COLUMN gives_receipts boolean NOT NULL DEFAULT true""",
        """ALTER TABLE messages ADD COLUMN sender_id text COLLATE "C" NOT NULL DEFAULT '',
        ADD COLUMN n bigint NOT NULL DEFAULT 0""",
        "ALTER TABLE send_ids ADD COLUMN n bigint NOT NULL DEFAULT 0",
        _BY_SENDER,
        _BY_NAME,
        *_CONVERSING,
    ),
}
"""For each older version, the statements that make the next one of it."""

_LOOK: Final = """
    SELECT to_regclass('store') IS NOT NULL, current_setting('server_encoding'),
        current_setting('server_version_num')::bigint,
        (SELECT count(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace),
        (SELECT count(*) FROM pg_namespace WHERE nspname = $1)"""
_LOCK: Final = f"SELECT pg_advisory_xact_lock({LOCK_SPACE}, hashtext($1))"


def prepare(link: Link, schema: str) -> None:
    """Make the tables, or bring them to this version; one server does, and the others wait for it.

    Args:
        link: a connection whose search_path is the schema.
        schema: its name, a plain identifier.

    Raises:
        SchemaTooNew: a later version of this program made them.
        StoreNotOpened: the database cannot be used as a store, or the user may not make tables, or
            it is a copy that is unfinished.
        EngineError, LinkLost: nothing is changed.
    """
    with link.transaction():
        link.execute(_LOCK, schema)
        ((there, encoding, engine, others, has_schema),) = link.execute(_LOOK, schema)
        if encoding != "UTF8":
            raise StoreNotOpened(f"the database has the encoding {encoding}; a store needs UTF8")
        if engine < _OLDEST_ENGINE:
            raise StoreNotOpened(f"the database is PostgreSQL {engine // 10_000}; 13 is the oldest")
        try:
            if not there:
                _make(link, schema, others=bool(others), has_schema=bool(has_schema))
            else:
                _migrate(link, schema)
        except EngineError as error:
            if error.sqlstate == "42501":  # insufficient_privilege
                raise StoreNotOpened(
                    f"the database's user may not make the schema {schema} and its tables: {error}"
                ) from error
            raise
    lacking = lacking_tables(link)
    if lacking:
        raise StoreNotOpened(f"the schema {schema} is damaged: it has no {', '.join(lacking)}")
    ((filled_from,),) = link.execute("SELECT filled_from FROM store")
    if filled_from:
        raise StoreNotOpened(
            f"the schema {schema} is the unfinished copy of {filled_from}; have it finished by "
            "saying the same 'twinline store copy' once more, or drop the schema"
        )


def _make(link: Link, schema: str, *, others: bool, has_schema: bool) -> None:
    if others:
        raise StoreNotOpened(f"the schema {schema} has tables, and is no store of twinline")
    if not has_schema:
        link.execute(f"CREATE SCHEMA {schema}")
    for statement in TABLES:
        link.execute(statement)


def _migrate(link: Link, schema: str) -> None:
    ((version,),) = link.execute("SELECT version FROM store")
    if version > VERSION:
        raise SchemaTooNew(
            f"the schema {schema} has version {version}, and this program knows versions up to "
            f"{VERSION}; use the program that wrote it, or a later one"
        )
    if version != VERSION:
        link.execute("SET LOCAL statement_timeout = 0")
    for each in range(version, VERSION):
        if each not in MIGRATIONS:
            raise StoreNotOpened(f"the schema {schema} has version {version}, which is too old")
        for statement in MIGRATIONS[each]:
            link.execute(statement, seconds=_MIGRATION_SECONDS)
    if version != VERSION:
        link.execute("UPDATE store SET version = $1::bigint", VERSION)


VERSION_NOW: Final = Call("SELECT version FROM store")
"""Asks for the version; for every connection, as another server may have migrated meanwhile."""


def lacking_tables(link: Link) -> list[str]:
    """Return which tables and columns of this version a schema has not."""
    rows = link.execute(
        "SELECT table_name || '.' || column_name FROM information_schema.columns "
        "WHERE table_schema = current_schema()"
    )
    there = {name for (name,) in rows}
    lacking = []
    for statement in TABLES:
        if statement.startswith("CREATE TABLE"):
            head, *lines = statement.splitlines()
            table = head.split()[2]
            columns = [line.split()[0] for line in lines if line.startswith("        ")]
            wanted = columns or [statement.partition("(")[2].split()[0]]
            lacking += [
                f"{table}.{column}"
                for column in wanted
                if column.islower() and f"{table}.{column}" not in there
            ]
    return lacking
