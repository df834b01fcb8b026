"""Checking, repairing, measuring and backing up a PostgreSQL store, from outside its servers."""

from pathlib import Path
from typing import Final

from twinline.stores.archive import Archive
from twinline.stores.backup import write_backup
from twinline.stores.postgresql.archive import PostgresqlArchive
from twinline.stores.postgresql.condition import SETTINGS, durability_of
from twinline.stores.postgresql.link import Call
from twinline.stores.postgresql.schema import VERSION
from twinline.stores.postgresql.session import Session, name_of
from twinline.stores.postgresql.url import Target, parse_url
from twinline.stores.shared.opening import StoreNotOpened
from twinline.stores.upkeep import (
    Findings,
    MailboxSize,
    Migration,
    Stats,
    Step,
    Upkeep,
    UpkeepError,
    no_step,
    require_finished,
)

# A page or a value that is damaged is found by reading it.
_READ_ALL: Final = (
    "messages",
    """SELECT count(*) FROM (SELECT body, message_id FROM messages
        UNION ALL SELECT body, message_id FROM copies) AS every
    WHERE sha256(body) = '' OR message_id = '' IS NULL""",
)
# What must not be found: what it is, and a query that counts it.
_FAULTS: Final = (
    (
        "mailboxes whose position or an entry's seq is beyond the last seq given out",
        """SELECT count(*) FROM mailboxes WHERE position > last OR last < greatest(
        (SELECT max(seq) FROM messages WHERE messages.box = mailboxes.box),
        (SELECT max(seq) FROM copies WHERE copies.box = mailboxes.box),
        (SELECT max(seq) FROM receipts WHERE receipts.box = mailboxes.box))""",
    ),
    (
        "mailboxes with a message of a higher number than any that was given out",
        """SELECT count(*) FROM mailboxes WHERE newest < (
        SELECT max(n) FROM messages WHERE messages.box = mailboxes.box)""",
    ),
    (
        "mailboxes whose count of unread or of read messages is wrong",
        """SELECT count(*) FROM mailboxes LEFT JOIN (
            SELECT box, count(*) FILTER (WHERE seq > position) AS beyond,
                count(*) FILTER (WHERE seq <= position AND seq > floor) AS kept
            FROM messages JOIN mailboxes USING (box) GROUP BY box) AS counted USING (box)
        WHERE unread <> coalesce(beyond, 0) OR acked <> coalesce(kept, 0)""",
    ),
    (
        "mailboxes whose count of copies, of receipts or of blocked accounts is wrong",
        """SELECT count(*) FROM mailboxes
        WHERE copies <> (SELECT count(*) FROM copies WHERE copies.box = mailboxes.box)
            OR receipts <> (SELECT count(*) FROM receipts WHERE receipts.box = mailboxes.box)
            OR blocked <> (SELECT count(*) FROM blocked WHERE blocked.box = mailboxes.box)""",
    ),
    (
        "seqs that two entries of a mailbox have",
        """SELECT (SELECT count(*) FROM copies JOIN messages USING (box, seq))
            + (SELECT count(*) FROM receipts JOIN messages USING (box, seq))
            + (SELECT count(*) FROM receipts JOIN copies USING (box, seq))""",
    ),
    (
        "messages that a mailbox has several copies of",
        """SELECT count(*) FROM (SELECT FROM copies GROUP BY box, message_id
            HAVING count(*) > 1) AS several""",
    ),
    (
        "messages with a seq below 1 or in no mailbox",
        """SELECT count(*) FROM messages WHERE seq < 1 OR (
            NOT EXISTS (SELECT FROM mailboxes WHERE mailboxes.box = messages.box)
            AND NOT EXISTS (SELECT FROM dropped WHERE dropped.box = messages.box))""",
    ),
    (
        "mailboxes with a history and no ack that it ages by",
        """SELECT count(*) FROM mailboxes WHERE acked > 0 AND (oldest_ack IS NULL OR NOT EXISTS (
            SELECT FROM acks WHERE acks.box = mailboxes.box AND acks.position > floor))""",
    ),
    (
        "acks beyond their mailbox's position",
        """SELECT count(*) FROM acks JOIN mailboxes USING (box)
        WHERE acks.position > mailboxes.position""",
    ),
    *(
        (
            what,
            f"""SELECT count(*) FROM {table} WHERE
            NOT EXISTS (SELECT FROM mailboxes WHERE mailboxes.box = {table}.box)
            AND NOT EXISTS (SELECT FROM dropped WHERE dropped.box = {table}.box)""",  # noqa: S608
        )
        for what, table in (
            ("send_ids of no mailbox", "send_ids"),
            ("copies in no mailbox", "copies"),
            ("receipts in no mailbox", "receipts"),
            ("blocked accounts of no mailbox", "blocked"),
        )
    ),
    (
        "mailboxes that remember more send_ids than they ever had",
        """SELECT count(*) FROM mailboxes WHERE sends < (
            SELECT count(*) FROM send_ids WHERE send_ids.box = mailboxes.box)""",
    ),
    (
        "mailboxes that are dropped and still there",
        "SELECT count(*) FROM dropped JOIN mailboxes USING (box)",
    ),
    (
        "mailboxes of an epoch that the store has not reached",
        "SELECT count(*) FROM mailboxes WHERE epoch > (SELECT epoch FROM store)",
    ),
    (
        "accounts without a mailbox",
        """SELECT count(*) FROM names WHERE account_id IS NOT NULL AND NOT EXISTS (
            SELECT FROM mailboxes WHERE mailboxes.account_id = names.account_id)""",
    ),
    (
        "sessions of no account, or under another name than it has",
        """SELECT count(*) FROM sessions LEFT JOIN names USING (account_id)
        WHERE names.username IS DISTINCT FROM sessions.username""",
    ),
    (
        "addresses of no account",
        """SELECT count(*) FROM known_addresses LEFT JOIN names USING (account_id)
        WHERE names.username IS NULL""",
    ),
    (
        "accounts more or fewer than are counted by their passwords' hashes",
        """SELECT abs((SELECT count(*) FROM names WHERE account_id IS NOT NULL)
            - (SELECT coalesce(sum(accounts), 0) FROM hash_profiles))::bigint""",
    ),
)
# What a crash between two steps leaves: it does no harm.
_NOTES: Final = (
    (
        "mailboxes whose account is gone",
        """SELECT count(*) FROM mailboxes WHERE NOT EXISTS (
            SELECT FROM names WHERE names.account_id = mailboxes.account_id)""",
    ),
    ("dropped mailboxes that servers will sweep", "SELECT count(*) FROM dropped"),
)
_SWEEP: Final = """
    WITH gone AS (DELETE FROM {0} WHERE NOT EXISTS (
        SELECT FROM mailboxes WHERE mailboxes.box = {0}.box) RETURNING 1)
    SELECT count(*) FROM gone"""
# What is mended: what it came to, and the statement that does it and counts.
_REPAIRS: Final = (
    (
        "accounts had no mailbox, and have an empty one now",
        # Of the first epoch: its seqs begin beyond what a reader of the lost one may have seen.
        """WITH made AS (INSERT INTO mailboxes (account_id, epoch)
            SELECT account_id, 0 FROM names WHERE account_id IS NOT NULL AND NOT EXISTS (
                SELECT FROM mailboxes WHERE mailboxes.account_id = names.account_id) RETURNING 1)
        SELECT count(*) FROM made""",
    ),
    (
        "sessions of no account were ended",
        """WITH ended AS (DELETE FROM sessions WHERE NOT EXISTS (
            SELECT FROM names WHERE names.account_id = sessions.account_id
            AND names.username = sessions.username) RETURNING 1)
        SELECT count(*) FROM ended""",
    ),
    (
        "addresses of no account were forgotten",
        """WITH gone AS (DELETE FROM known_addresses WHERE NOT EXISTS (
            SELECT FROM names WHERE names.account_id = known_addresses.account_id) RETURNING 1)
        SELECT count(*) FROM gone""",
    ),
    (
        "mailboxes whose account is gone were dropped",
        # With no account at all, and none that ever was, they are kept somewhere else.
        """WITH gone AS (DELETE FROM mailboxes WHERE EXISTS (SELECT FROM names) AND NOT EXISTS (
            SELECT FROM names WHERE names.account_id = mailboxes.account_id) RETURNING 1)
        SELECT count(*) FROM gone""",
    ),
    *(
        (f"{what} of mailboxes that are gone were swept", _SWEEP.format(table))
        for what, table in (
            ("messages", "messages"),
            ("send_ids", "send_ids"),
            ("acks", "acks"),
            ("copies", "copies"),
            ("receipts", "receipts"),
            ("blocked accounts", "blocked"),
        )
    ),
    (
        "dropped mailboxes were noted as swept",
        "WITH gone AS (DELETE FROM dropped RETURNING 1) SELECT count(*) FROM gone",
    ),
)
_STATS: Final = """
    SELECT (SELECT count(*) FROM names WHERE account_id IS NOT NULL),
        (SELECT count(*) FROM sessions), count(*), coalesce(sum(unread + acked), 0)::bigint,
        coalesce(sum(unread), 0)::bigint,
        (SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
            WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r')
    FROM mailboxes"""

# What lies below the floor is removed, though it may still be there.
_MAIL: Final = """
    SELECT ((SELECT coalesce(sum(octet_length(body)), 0)
            FROM messages JOIN mailboxes USING (box) WHERE seq > floor)
        + (SELECT coalesce(sum(octet_length(body)), 0) FROM copies JOIN mailboxes USING (box)
        ))::bigint"""
_LARGEST: Final = """
    SELECT username, messages, unread, quota, mail FROM (
        SELECT account_id, count(seq) AS messages, unread, quota,
            (coalesce(sum(octet_length(body)), 0) + (
                SELECT coalesce(sum(octet_length(body)), 0) FROM copies
                WHERE copies.box = mailboxes.box))::bigint AS mail
        FROM mailboxes LEFT JOIN messages ON messages.box = mailboxes.box AND seq > floor
        GROUP BY mailboxes.box, account_id, unread, quota
        ORDER BY mail DESC, account_id LIMIT $1::bigint) AS found
    LEFT JOIN names USING (account_id) ORDER BY mail DESC, account_id"""


class PostgresqlUpkeep(Upkeep):
    """All of it, for the store of a URL."""

    # ruff: noqa: D102 - the contract tells what the methods do

    def __init__(self, url: str) -> None:
        """Read the URL; nothing is connected yet.

        Raises:
            StoreNotOpened: the URL is wrong.
        """
        self._target: Target = parse_url(url)
        self.name = name_of(self._target)

    def check(self, step: Step = no_step) -> Findings:
        findings = Findings()
        with Session(self._target) as session:
            session.begin_snapshot()
            if session.has_tables and session.version() == VERSION:
                findings.faults.extend(f"there is no {each}" for each in session.lacking())
            if findings.faults:
                return findings
            self._require_whole(session)
            total = 1 + len(_FAULTS) + len(_NOTES)
            what, query = _READ_ALL
            step(0, total, what)
            try:
                session.ask(query)
            except UpkeepError as error:
                findings.faults.append(f"not all messages can be read: {error}")
                return findings
            done = 1
            for found, queries in ((findings.faults, _FAULTS), (findings.notes, _NOTES)):
                for what, query in queries:
                    step(done, total, what)
                    ((count,),) = session.ask(query)
                    if count:
                        found.append(f"{count} {what}")
                    done += 1
            step(total, total, "done")
        return findings

    def repair(self) -> list[str]:
        done = []
        with Session(self._target) as session:
            session.take_alone()
            self._require_whole(session)
            calls = [Call(statement) for _, statement in _REPAIRS]
            for (what, _), ((count,),) in zip(_REPAIRS, session.run(*calls), strict=True):
                if count:
                    done.append(f"{count} {what}")
        return done

    def stats(self, largest: int = 0) -> Stats:
        with Session(self._target) as session:
            session.begin_snapshot()
            self._require_whole(session)
            (settings,), (counts,), ((mail,),) = session.run(SETTINGS, Call(_STATS), Call(_MAIL))
            found = session.ask(_LARGEST, largest) if largest else ()
        accounts, sessions, mailboxes, messages, unread, size = counts
        return Stats(
            accounts,
            sessions,
            mailboxes,
            messages,
            unread,
            size,
            VERSION,
            durability_of(*settings),
            mail,
            tuple(MailboxSize(*row) for row in found),
        )

    def backup(self, target: Path, step: Step = no_step) -> None:
        with PostgresqlArchive.open_source(self._target, served=True) as source:
            write_backup(source, target, step)

    def migrate(self, step: Step = no_step) -> Migration:
        step(0, 1, "")
        with Session(self._target) as session:
            session.take_alone()
            if not session.has_tables:
                raise StoreNotOpened(f"{self.name} holds no store yet")
            before = session.version()
            session.prepare()
            after = session.version()
        step(1, 1, "")
        return Migration(before, after, None)

    def source(self) -> Archive:
        return PostgresqlArchive.open_source(self._target)

    def target(self) -> Archive:
        return PostgresqlArchive.open_target(self._target)

    def _require_whole(self, session: Session) -> None:
        require_finished(self.name, session.require_store())
