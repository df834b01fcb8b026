"""A PostgreSQL store's tables as an archive: read in one snapshot, or filled while no server runs.

A target's row in ``store`` says that it is unfinished until it is whole, and no server opens it.
Each mailbox is one transaction, so that one that is there is whole; their commits do not wait for
the disk, which the last one does for all of them.

A mailbox is given the epoch that its last seq lies in, and the store one that is not above any
(`twinline.stores.sql.epochs`). The first server that opens it finds tables of an origin that was
never noted, and renews the store's: so the seqs of every mailbox jump, once.
"""

# ruff: noqa: D102 - the contract tells what the methods do

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final, Self

from twinline.core.passwords import profile_of
from twinline.core.store import SEQ_JUMP, Account, Blocked, Invitation
from twinline.stores.archive import (
    AccountRow,
    AckRow,
    CopyRow,
    MailboxRow,
    MessageRow,
    ReceiptRow,
    SendIdRow,
)
from twinline.stores.postgresql.arrays import blobs, integers, texts
from twinline.stores.postgresql.link import Call, Rows
from twinline.stores.postgresql.session import Session
from twinline.stores.postgresql.url import Target
from twinline.stores.shared.paged import FIRST, Beginnings, PagedArchive
from twinline.stores.upkeep import UpkeepError

_AT_ONCE: Final = 10  # statements: few mailboxes need more, and a page of messages may be 16 MiB
_PROFILED: Final = 5_000  # accounts of which the hashes are counted at a time

_ACCOUNTS: Final = """
    SELECT account_id, username, password_hash, created_at, enabled, must_change FROM names
    WHERE username > $1 AND account_id IS NOT NULL ORDER BY username LIMIT $2::bigint"""
_ADDRESSES: Final = """
    SELECT account_id, address, noted_at FROM known_addresses WHERE account_id = ANY ($1::text[])"""
_RESERVED: Final = """
    SELECT username FROM names WHERE username > $1 AND account_id IS NULL
    ORDER BY username LIMIT $2::bigint"""
_INVITATIONS: Final = """
    SELECT token_hash, created_at, expires_at, note FROM invitations WHERE token_hash > $1
    ORDER BY token_hash LIMIT $2::bigint"""
_MAILBOX: Final = """
    SELECT account_id, position, last, quota, newest, gives_receipts FROM mailboxes
    WHERE account_id = $1"""
# What lies below the floor is removed, though it may still be there.
_MESSAGES: Final = """
    SELECT seq, message_id, sender, body, sent_at, sender_id, n FROM messages
    JOIN mailboxes USING (box) WHERE account_id = $1 AND seq > greatest(floor, $2::bigint)
    ORDER BY seq LIMIT $3::bigint"""
_ACKS: Final = """
    SELECT acks.position, acked_at FROM acks
    JOIN mailboxes USING (box) WHERE account_id = $1
        AND acks.position > greatest(floor, $2::bigint)
    ORDER BY acks.position LIMIT $3::bigint"""
_SEND_IDS: Final = """
    SELECT seq, sender_id, send_id, content, message_id, sent_at, n FROM send_ids
    JOIN mailboxes USING (box) WHERE account_id = $1 AND seq > $2::bigint
    ORDER BY seq LIMIT $3::bigint"""
_COPIES: Final = """
    SELECT seq, message_id, sender, peer_id, peer, body, sent_at, n FROM copies
    JOIN mailboxes USING (box) WHERE account_id = $1 AND seq > $2::bigint
    ORDER BY seq LIMIT $3::bigint"""
_RECEIPTS: Final = """
    SELECT seq, peer_id, peer, n, acked_at FROM receipts
    JOIN mailboxes USING (box) WHERE account_id = $1 AND seq > $2::bigint
    ORDER BY seq LIMIT $3::bigint"""
_BLOCKED: Final = """
    SELECT peer_id, peer FROM blocked JOIN mailboxes USING (box) WHERE account_id = $1
    ORDER BY peer_id"""
_HASHES: Final = """
    SELECT username, password_hash FROM names
    WHERE username > $1 AND account_id IS NOT NULL ORDER BY username LIMIT $2::bigint"""

_BEGIN: Final = """
    UPDATE store SET filled_from = $1
    WHERE NOT EXISTS (SELECT FROM mailboxes) RETURNING filled_from"""
_BOX: Final = "(SELECT box FROM mailboxes WHERE account_id = $1)"
# Of constants alone.
_DELETES: Final = tuple(
    f"DELETE FROM {table} WHERE box = {_BOX}"  # noqa: S608
    for table in (
        "messages",
        "acks",
        "send_ids",
        "copies",
        "receipts",
        "blocked",
        "mailboxes",
    )
)
_MAKE: Final = "INSERT INTO mailboxes (account_id, epoch) VALUES ($1, 0)"
_PUT_MESSAGES: Final = f"""
    INSERT INTO messages (box, seq, message_id, sender, body, sent_at, sender_id, n)
    SELECT {_BOX}, * FROM unnest($2::bigint[], $3::text[], $4::text[], $5::bytea[],
        $6::bigint[], $7::text[], $8::bigint[])"""  # noqa: S608
_PUT_ACKS: Final = f"""
    INSERT INTO acks (box, position, acked_at)
    SELECT {_BOX}, * FROM unnest($2::bigint[], $3::bigint[])"""  # noqa: S608
_PUT_SEND_IDS: Final = f"""
    INSERT INTO send_ids (box, sender_id, send_id, content, message_id, sent_at, seq, n)
    SELECT {_BOX}, * FROM unnest($2::text[], $3::bytea[], $4::bytea[], $5::text[],
        $6::bigint[], $7::bigint[], $8::bigint[])"""  # noqa: S608
_PUT_COPIES: Final = f"""
    INSERT INTO copies (box, seq, message_id, sender, peer_id, peer, body, sent_at, n)
    SELECT {_BOX}, * FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[],
        $7::bytea[], $8::bigint[], $9::bigint[])"""  # noqa: S608
_PUT_RECEIPTS: Final = f"""
    INSERT INTO receipts (box, seq, peer_id, peer, n, acked_at)
    SELECT {_BOX}, * FROM unnest($2::bigint[], $3::text[], $4::text[], $5::bigint[],
        $6::bigint[])"""  # noqa: S608
_PUT_BLOCKED: Final = f"""
    INSERT INTO blocked (box, peer_id, peer)
    SELECT {_BOX}, * FROM unnest($2::text[], $3::text[])"""  # noqa: S608
_WHOLE: Final = """
    UPDATE mailboxes AS mine SET position = $2::bigint, last = $3::bigint, epoch = $4::bigint,
        quota = $5::bigint, newest = $6::bigint, gives_receipts = $7,
        unread = (SELECT count(*) FROM messages WHERE box = mine.box AND seq > $2::bigint),
        acked = (SELECT count(*) FROM messages WHERE box = mine.box AND seq <= $2::bigint),
        oldest_ack = (SELECT acked_at FROM acks WHERE acks.box = mine.box
            ORDER BY acks.position LIMIT 1),
        floor = greatest(0, least($2::bigint,
            (SELECT min(seq) - 1 FROM messages WHERE box = mine.box),
            (SELECT min(acks.position) - 1 FROM acks WHERE acks.box = mine.box))),
        sends = (SELECT count(*) FROM send_ids WHERE box = mine.box),
        copies = (SELECT count(*) FROM copies WHERE box = mine.box),
        receipts = (SELECT count(*) FROM receipts WHERE box = mine.box),
        blocked = (SELECT count(*) FROM blocked WHERE box = mine.box)
    WHERE account_id = $1"""
_END: Final = """
    UPDATE store SET filled_from = '', origin = '',
        epoch = greatest(epoch, (SELECT coalesce(max(epoch), 0) FROM mailboxes))"""


class PostgresqlArchive(PagedArchive):
    """The tables, over one connection."""

    def __init__(self, session: Session, filled_from: str, *, there: bool) -> None:
        """Take over a connection.

        Args:
            session: the connection.
            filled_from: see `Archive`.
            there: whether there are tables yet.
        """
        self.name = session.name
        self.filled_from = filled_from
        self._session = session
        self._there = there
        self._waiting: list[Call] = []  # what is still to be asked for a mailbox's transaction
        self._open = False  # whether that transaction was begun

    @classmethod
    def open_source(cls, target: Target, *, served: bool = False) -> Self:
        """Open the store to be read, as it is at this moment.

        Args:
            target: where it is.
            served: whether servers may use it meanwhile.

        Raises:
            UpkeepError: servers use it, or it cannot be read.
            StoreNotOpened: it is no store of this version.
        """
        session = Session(target)
        try:
            if not served:
                session.take_alone()
            session.begin_snapshot()
            return cls(session, session.require_store(), there=True)
        except BaseException:
            session.close()
            raise

    @classmethod
    def open_target(cls, target: Target) -> Self:
        """Open the store that is to be one, or go on with one that is unfinished.

        Raises:
            UpkeepError: servers use it, or it cannot be written.
            StoreNotOpened: what is there is something else, or of another version.
        """
        session = Session(target)
        try:
            session.take_alone()
            session.ask("SELECT set_config('synchronous_commit', 'off', false)")
            there = session.has_tables
            return cls(session, session.require_store() if there else "", there=there)
        except BaseException:
            session.close()
            raise

    # -- reading

    def accounts(self, after: str, limit: int) -> Sequence[AccountRow]:
        if not self._there:
            return ()
        rows = self._session.ask(_ACCOUNTS, after, limit)
        noted = defaultdict(list)
        ids = texts([row[0] for row in rows])
        for account_id, address, at in self._session.ask(_ADDRESSES, ids) if rows else ():
            noted[account_id].append((_text(address), at))
        return [AccountRow(Account(*row), tuple(sorted(noted[row[0]]))) for row in rows]

    def reserved_names(self, after: str, limit: int) -> Sequence[str]:
        if not self._there:
            return ()
        return [name for (name,) in self._session.ask(_RESERVED, after, limit)]

    def invitations(self, after: bytes, limit: int) -> Sequence[Invitation]:
        if not self._there:
            return ()
        rows = self._session.ask(_INVITATIONS, after, limit)
        return [
            Invitation(bytes(token_hash), created_at, expires_at, _text(note))
            for token_hash, created_at, expires_at, note in rows
        ]

    def _beginnings(self, account_id: str) -> Beginnings | None:
        reads = (_MESSAGES, _ACKS, _SEND_IDS, _COPIES, _RECEIPTS)
        rows, blocked, messages, acks, send_ids, copies, receipts = self._session.run(
            Call(_MAILBOX, account_id),
            Call(_BLOCKED, account_id),
            *(Call(sql, account_id, 0, FIRST) for sql in reads),
        )
        if not rows:
            return None
        return Beginnings(
            MailboxRow(*rows[0]),
            _messages(messages),
            _acks(acks),
            _send_ids(send_ids),
            _copies(copies),
            _receipts(receipts),
            [Blocked(*row) for row in blocked],
        )

    def _messages(self, account_id: str, after: int, limit: int) -> Sequence[MessageRow]:
        return _messages(self._session.ask(_MESSAGES, account_id, after, limit))

    def _acks(self, account_id: str, after: int, limit: int) -> Sequence[AckRow]:
        return _acks(self._session.ask(_ACKS, account_id, after, limit))

    def _send_ids(self, account_id: str, after: int, limit: int) -> Sequence[SendIdRow]:
        return _send_ids(self._session.ask(_SEND_IDS, account_id, after, limit))

    def _copies(self, account_id: str, after: int, limit: int) -> Sequence[CopyRow]:
        return _copies(self._session.ask(_COPIES, account_id, after, limit))

    def _receipts(self, account_id: str, after: int, limit: int) -> Sequence[ReceiptRow]:
        return _receipts(self._session.ask(_RECEIPTS, account_id, after, limit))

    # -- writing

    def begin(self, source: str) -> None:
        if self.filled_from:
            return
        if not self._there:
            self._session.prepare()
        if not self._session.ask(_BEGIN, source):
            raise UpkeepError(f"{self.name} has mailboxes already; nothing in it was changed")
        self._there = True
        self.filled_from = source

    def put_accounts(self, rows: Sequence[AccountRow]) -> None:
        ids = texts([account.account_id for account, _ in rows])
        names = texts([account.username for account, _ in rows])
        noted = [
            (account.account_id, _column(address), at)
            for account, addresses in rows
            for address, at in addresses
        ]
        self._session.run(
            Call(
                "DELETE FROM names WHERE account_id = ANY ($1::text[]) "
                "OR username = ANY ($2::text[])",
                ids,
                names,
            ),
            Call("DELETE FROM known_addresses WHERE account_id = ANY ($1::text[])", ids),
            Call(
                "INSERT INTO names (username, account_id, password_hash, created_at, enabled, "
                "must_change) SELECT username, account_id, password_hash, created_at, "
                "enabled = 1, must_change = 1 FROM unnest($1::text[], $2::text[], $3::text[], "
                "$4::bigint[], $5::bigint[], $6::bigint[]) AS given (username, account_id, "
                "password_hash, created_at, enabled, must_change)",
                names,
                ids,
                texts([account.password_hash for account, _ in rows]),
                integers([account.created_at for account, _ in rows]),
                integers([int(account.enabled) for account, _ in rows]),
                integers([int(account.must_change) for account, _ in rows]),
            ),
            Call(
                "INSERT INTO known_addresses (account_id, address, noted_at) "
                "SELECT * FROM unnest($1::text[], $2::bytea[], $3::bigint[])",
                texts([account_id for account_id, _, _ in noted]),
                blobs([address for _, address, _ in noted]),
                integers([at for _, _, at in noted]),
            ),
        )

    def put_reserved_names(self, names: Sequence[str]) -> None:
        self._session.ask(
            "INSERT INTO names (username) SELECT * FROM unnest($1::text[]) ON CONFLICT DO NOTHING",
            texts(names),
        )

    def put_invitations(self, rows: Sequence[Invitation]) -> None:
        hashes = blobs([row.token_hash for row in rows])
        self._session.run(
            Call("DELETE FROM invitations WHERE token_hash = ANY ($1::bytea[])", hashes),
            Call(
                "INSERT INTO invitations (token_hash, created_at, expires_at, note) "
                "SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bytea[])",
                hashes,
                integers([row.created_at for row in rows]),
                integers([row.expires_at for row in rows]),
                blobs([_column(row.note) for row in rows]),
            ),
        )

    def begin_mailbox(self, account_id: str) -> None:
        self._read = None
        if self._open:  # a mailbox that was not ended was not even begun
            self._session.ask("ROLLBACK")
            self._open = False
        self._waiting = [
            Call("BEGIN"),
            *(Call(sql, account_id) for sql in _DELETES),
            Call(_MAKE, account_id),
        ]

    def put_messages(self, account_id: str, rows: Sequence[MessageRow]) -> None:
        seqs, ids, senders, bodies, times, sender_ids, ns = zip(*rows, strict=True)
        self._put(
            Call(
                _PUT_MESSAGES,
                account_id,
                integers(seqs),
                texts(ids),
                texts(senders),
                blobs([_column(body) for body in bodies]),
                integers(times),
                texts(sender_ids),
                integers(ns),
            )
        )

    def put_acks(self, account_id: str, rows: Sequence[AckRow]) -> None:
        positions, times = zip(*rows, strict=True)
        self._put(Call(_PUT_ACKS, account_id, integers(positions), integers(times)))

    def put_send_ids(self, account_id: str, rows: Sequence[SendIdRow]) -> None:
        seqs, senders, send_ids, contents, ids, times, ns = zip(*rows, strict=True)
        self._put(
            Call(
                _PUT_SEND_IDS,
                account_id,
                texts(senders),
                blobs([_column(send_id) for send_id in send_ids]),
                blobs(contents),
                texts(ids),
                integers(times),
                integers(seqs),
                integers(ns),
            )
        )

    def put_copies(self, account_id: str, rows: Sequence[CopyRow]) -> None:
        seqs, ids, senders, peer_ids, peers, bodies, times, ns = zip(*rows, strict=True)
        self._put(
            Call(
                _PUT_COPIES,
                account_id,
                integers(seqs),
                texts(ids),
                texts(senders),
                texts(peer_ids),
                texts(peers),
                blobs([_column(body) for body in bodies]),
                integers(times),
                integers(ns),
            )
        )

    def put_receipts(self, account_id: str, rows: Sequence[ReceiptRow]) -> None:
        seqs, peer_ids, peers, ns, times = zip(*rows, strict=True)
        columns = integers(seqs), texts(peer_ids), texts(peers), integers(ns), integers(times)
        self._put(Call(_PUT_RECEIPTS, account_id, *columns))

    def put_blocked(self, account_id: str, rows: Sequence[Blocked]) -> None:
        peer_ids, peers = zip(*rows, strict=True)
        self._put(Call(_PUT_BLOCKED, account_id, texts(peer_ids), texts(peers)))

    def _put(self, call: Call) -> None:
        """Leave it for the end of the mailbox, where there is not too much already."""
        self._waiting.append(call)
        if len(self._waiting) > _AT_ONCE:
            self._open = True
            self._session.run(*self._waiting)
            self._waiting.clear()

    def end_mailbox(self, row: MailboxRow) -> None:
        account_id, position, last, quota, newest, receipts = row
        epoch = last // SEQ_JUMP
        whole = Call(_WHOLE, account_id, position, last, epoch, quota, newest, receipts)
        self._open = True
        self._session.run(*self._waiting, whole, Call("COMMIT"))
        self._open = False
        self._waiting.clear()

    def end(self) -> None:
        profiles = self._profiles()
        session = self._session
        session.ask("RESET synchronous_commit")
        session.run(
            Call("DELETE FROM hash_profiles"),
            Call(
                "INSERT INTO hash_profiles (profile, part, accounts) "
                "SELECT profile, 0, count FROM unnest($1::text[], $2::bigint[]) "
                "AS counted (profile, count)",
                texts(list(profiles)),
                integers(list(profiles.values())),
            ),
            Call(_END),
        )
        if session.link.warnings:
            raise UpkeepError(
                f"{self.name}: the wait for its standby was cut short; it is whole, and may not be "
                "on the standby yet"
            )
        self.filled_from = ""

    def _profiles(self) -> Counter[str]:
        profiles: Counter[str] = Counter()
        after = ""
        while rows := self._session.ask(_HASHES, after, _PROFILED):
            profiles.update(profile_of(password_hash) for _, password_hash in rows)
            after = rows[-1][0]
        return profiles

    def close(self) -> None:
        self._session.close()


def _messages(rows: Rows) -> list[MessageRow]:
    return [
        MessageRow(seq, message_id, sender, _text(body), *rest)
        for seq, message_id, sender, body, *rest in rows
    ]


def _acks(rows: Rows) -> list[AckRow]:
    return [AckRow(*row) for row in rows]


def _send_ids(rows: Rows) -> list[SendIdRow]:
    return [
        SendIdRow(seq, sender_id, _text(send_id), bytes(content), *rest)
        for seq, sender_id, send_id, content, *rest in rows
    ]


def _copies(rows: Rows) -> list[CopyRow]:
    return [
        CopyRow(seq, message_id, sender, peer_id, peer, _text(body), *rest)
        for seq, message_id, sender, peer_id, peer, body, *rest in rows
    ]


def _receipts(rows: Rows) -> list[ReceiptRow]:
    return [ReceiptRow(*row) for row in rows]


def _column(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _text(column: bytes) -> str:
    return column.decode(errors="surrogatepass")
