"""What is read of a mailbox: each page by one statement, so that all of it is of one moment."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cache
from itertools import chain
from typing import Any, Final, NamedTuple

from twinline.core.errors import NoSuchUser
from twinline.core.protocol import Conversation, Kind, Kinds, Message, Receipt
from twinline.core.store import Peer
from twinline.stores.rules import fitting
from twinline.stores.sql.mailbox import NO_SUCH_SEQ
from twinline.stores.sqlite.columns import from_column
from twinline.stores.sqlite.mailbox import AGED
from twinline.stores.sqlite.schema import FILED

Entry = Message | Receipt


class Page(NamedTuple):
    """Entries of a mailbox, and what its row says.

    Attributes:
        entries: those that fit.
        more: whether there are others behind them.
        position: the last acked seq.
        last: the last seq that was given out.
        ageing: whether some of its history has aged.
    """

    entries: tuple[Entry, ...]
    more: bool
    position: int
    last: int
    ageing: bool


# What most looks ask for: the mail behind a seq.
_MAIL: Final = """
    SELECT mailboxes.position, mailboxes.last, seq, message_id, sender, body, sent_at
    FROM mailboxes LEFT JOIN messages ON messages.box = mailboxes.box AND seq > ?
    WHERE account_id = ? ORDER BY seq LIMIT ?"""


class _Whose(Enum):
    """Which entries a statement looks for, by the account at the other side."""

    ANYBODY = 0
    ACCOUNT = 1
    """An account, and of before there were ids those of its name."""
    NAME = 2
    """Every account that had a name."""


# The seq up to which the history has aged, for a row of mailboxes.
_HISTORY_AGED: Final = f"""
    CASE WHEN oldest_ack <= :ends THEN {AGED.replace(":box", "mailboxes.box")} ELSE 0 END"""
# The first row of a page, in either order: what the mailbox's own row says.
_OWN_ROW: Final = """
    SELECT NULL, {first} AS seq, position, last, ifnull(oldest_ack <= :ends, 0), NULL, NULL, NULL
    FROM mailboxes WHERE account_id = :id"""
# By kind: the columns that `_entry` takes, the table, and what the history still has.
_SOURCES: Final = {
    Kind.MAIL: (
        "'mail', seq, message_id, sender, body, sent_at, NULL, NULL",
        "messages",
        f"seq > {_HISTORY_AGED}",
    ),
    Kind.SENT: (
        "'sent', seq, message_id, sender, body, sent_at, peer, n",
        "copies",
        "sent_at > :ends",
    ),
    Kind.RECEIPT: (
        "'receipt', seq, NULL, peer, NULL, acked_at, NULL, n",
        "receipts",
        "acked_at > :ends",
    ),
}
# By kind: an index, for SQLite might take another, and what is looked for in it.
_Place = tuple[str, str]
_Places = tuple[_Place, ...]
_BEFORE: Final = "seq < :before"
_BY_KEY: Final = "NOT INDEXED"
# Of mail and copies, those that are filed and the few that are not yet.
_UNFILED: Final = f"{_BEFORE} AND seq > mailboxes.filed"
_OLD_MAIL: Final = (
    "INDEXED BY messages_by_name",
    f"sender_id = '' AND sender = :name AND {_BEFORE}",
)
_OF_ACCOUNT: Final[dict[Kind, _Places]] = {
    Kind.MAIL: (
        (
            "INDEXED BY messages_by_sender",
            f"sender_id = :peer AND {_BEFORE} AND messages.{FILED}",
        ),
        (_BY_KEY, f"sender_id = :peer AND {_UNFILED}"),
        _OLD_MAIL,
    ),
    Kind.SENT: (
        ("INDEXED BY copies_by_peer", f"peer_id = :peer AND {_BEFORE} AND copies.{FILED}"),
        (_BY_KEY, f"peer_id = :peer AND {_UNFILED}"),
    ),
    Kind.RECEIPT: (("", f"peer_id = :peer AND {_BEFORE}"),),
}


def _of_names(table: str, index: str, column: str) -> tuple[_Place, _Place]:
    named = f"{column} IN (SELECT value FROM json_each(:peers))"  # noqa: S608 - a constant
    return (
        # The seqs come from an index, so that what is sorted are these and not the bodies.
        (
            "",
            f"""seq IN (SELECT seq FROM {table} AS named INDEXED BY {index}
    WHERE named.box = mailboxes.box AND named.{named} AND {_BEFORE} AND named.{FILED}
        ORDER BY seq DESC LIMIT :limit)""",  # noqa: S608 - constants
        ),
        (_BY_KEY, f"{named} AND {_UNFILED}"),
    )


_OF_NAME: Final[dict[Kind, _Places]] = {
    Kind.MAIL: (*_of_names("messages", "messages_by_sender", "sender_id"), _OLD_MAIL),
    Kind.SENT: _of_names("copies", "copies_by_peer", "peer_id"),
    Kind.RECEIPT: (("INDEXED BY receipts_by_seq", f"peer = :name AND {_BEFORE}"),),
}
_OF_ANYBODY: Final[dict[Kind, _Places]] = dict.fromkeys(Kind, (("", _BEFORE),))
_WHOSE: Final[dict[_Whose, dict[Kind, _Places]]] = {
    _Whose.ANYBODY: _OF_ANYBODY,
    _Whose.ACCOUNT: _OF_ACCOUNT,
    _Whose.NAME: _OF_NAME,
}


@dataclass(frozen=True, slots=True)
class MailboxReader:
    """Reads pages of one mailbox; each method raises `NoSuchUser` if there is none.

    Attributes:
        connection: by which.
        account_id: whose mailbox.
        limit: at most so many entries.
        max_bytes: as for `twinline.core.store.Mailboxes.read`.
    """

    connection: sqlite3.Connection
    account_id: str
    limit: int
    max_bytes: int

    def mail(self, after: int) -> Page:
        """Return the first messages with a seq above ``after``."""
        values = (min(after, NO_SUCH_SEQ), self.account_id, self._one_more)
        with self._rows(_MAIL, values) as (first, rows):
            page, more = fitting(_mail(first, rows), self.limit, self.max_bytes)
        return Page(page, more, first[0], first[1], ageing=False)

    def entries(self, after: int, kinds: Kinds) -> Page:
        """Return the first entries of some kinds with a seq above ``after``."""
        return self._page(_forwards(kinds), after=min(after, NO_SUCH_SEQ), ends=None)

    def history(self, before: int | None, ends: int, kinds: Kinds, peer: Peer | None) -> Page:
        """Return the last entries with a seq below ``before``, the newest first.

        Args:
            before: a seq; None: beyond the last one.
            ends: the moment at or before which something has aged.
            kinds: which entries.
            peer: whose alone; None: everybody's.
        """
        values = {"before": _end(before), "ends": ends}
        if peer is None:
            return self._page(_backwards(kinds, _Whose.ANYBODY), **values)
        if peer.account_id is not None:
            query = _backwards(kinds, _Whose.ACCOUNT)
            return self._page(query, peer=peer.account_id, name=peer.username, **values)
        of = {"id": self.account_id, "name": peer.username}
        (peers,) = self.connection.execute(_NAMED, of).fetchone()
        query = _backwards(kinds, _Whose.NAME)
        return self._page(query, peers=peers, name=peer.username, **values)

    def conversations(
        self, before: int | None, ends: int
    ) -> tuple[tuple[Conversation, ...], bool, bool]:
        """Return conversations.

        Args:
            before: only those whose last message has a seq below this; None: all.
            ends: the moment at or before which something has aged.

        Returns:
            The page, whether others follow, and whether some of the mailbox's history has aged.
        """
        values = {
            "id": self.account_id,
            "before": _end(before),
            "limit": self._one_more,
            "ends": ends,
        }
        kept: list[tuple[str, int]] = []

        def messages(found: Iterable[tuple[Any, ...]]) -> Iterator[Message]:
            for _, peer_id, unread, *row in found:
                if row[0] is not None:
                    kept.append((peer_id, unread))
                    yield _message(row)

        with self._rows(_CONVERSATIONS, values) as (first, rows):
            page, more = fitting(messages(chain((first,), rows)), self.limit, self.max_bytes)
        conversations = [
            Conversation(
                username=each.to or each.sender,
                last=each,
                unread=unread,
                account=peer_id or None,
            )
            for each, (peer_id, unread) in zip(page, kept, strict=False)
        ]
        return tuple(conversations), more, bool(first[0])

    @property
    def _one_more(self) -> int:
        return min(self.limit, NO_SUCH_SEQ) + 1

    def _page(self, query: str, **values: Any) -> Page:
        # And one for the mailbox's own row.
        values |= {"id": self.account_id, "limit": self._one_more + 1}
        with self._rows(query, values) as (own_row, rows):
            page, more = fitting(map(_entry, rows), self.limit, self.max_bytes)
        _, _, position, last, ageing, *_ = own_row
        return Page(page, more, position, last, bool(ageing))

    @contextmanager
    def _rows(self, query: str, values: Any) -> Iterator[tuple[tuple[Any, ...], sqlite3.Cursor]]:
        # Closed: a statement that is not read to its end keeps its snapshot.
        with closing(self.connection.execute(query, values)) as rows:
            first = rows.fetchone()
            if first is None:
                raise NoSuchUser
            yield first, rows


def _end(before: int | None) -> int:
    return NO_SUCH_SEQ if before is None else min(before, NO_SUCH_SEQ)


@cache
def _forwards(kinds: Kinds) -> str:
    arms = [_arm(kind, "", "seq > :after") for kind in Kind if kind in kinds]
    return _compound([_OWN_ROW.format(first=-1), *arms], "ORDER BY seq LIMIT :limit")


@cache
def _backwards(kinds: Kinds, whose: _Whose) -> str:
    arms = [
        _arm(kind, index, f"{which} AND {_kept(kind, index, whose)}")
        for kind in Kind
        if kind in kinds
        for index, which in _WHOSE[whose][kind]
    ]
    own_row = _OWN_ROW.format(first=NO_SUCH_SEQ)
    return _compound([own_row, *arms], "ORDER BY seq DESC LIMIT :limit")


def _kept(kind: Kind, index: str, whose: _Whose) -> str:
    """Return what the history still has, of what a place leads to."""
    # A plus keeps SQLite from looking by this seq where another one is nearer, or a list of them.
    plus = "+" if whose is _Whose.NAME or index == _BY_KEY else ""
    return plus + _SOURCES[kind][2]


def _arm(kind: Kind, index: str, which: str) -> str:
    columns, table, _ = _SOURCES[kind]
    return (
        f"SELECT {columns} FROM mailboxes CROSS JOIN {table} {index} "  # noqa: S608 - constants
        f"ON {table}.box = mailboxes.box WHERE account_id = :id AND {which}"
    )


def _compound(arms: list[str], order: str) -> str:
    # Each arm has an index with this order: SQLite merges them, and reads no more than it returns.
    return f"{' UNION ALL '.join(arms)} {order}"


def _mail(first: tuple[Any, ...], others: Iterable[tuple[Any, ...]]) -> Iterator[Message]:
    for _, _, *row in chain((first,), others):
        if row[0] is not None:  # else there is the mailbox's row alone
            yield _message(row)


def _entry(row: Sequence[Any]) -> Entry:
    kind, *others = row
    return _receipt(others) if kind == Kind.RECEIPT else _message(others)


def _receipt(row: Sequence[Any]) -> Receipt:
    seq, _, username, _, acked_at, _, n = row
    return Receipt(seq=seq, username=username, n=n, acked_at=acked_at)


def _message(row: Sequence[Any]) -> Message:
    seq, message_id, sender, body, sent_at = row[:5]
    to, n = row[5:] or (None, None)
    return Message(
        seq=seq,
        message_id=message_id,
        sender=sender,
        body=from_column(body),
        sent_at=sent_at,
        to=to,
        n=n,
    )


def _distinct(name: str, source: str, column: str, which: str) -> str:
    """Return tables of a WITH clause: each value of a column, by one look-up in an index."""
    least = f"SELECT min({column}) FROM {source} WHERE box = (SELECT box FROM mine) AND {which}"  # noqa: S608 - ours
    return f"""
    {name}_and_null (found) AS (
        SELECT ({least} AND {column} > '')
        UNION ALL SELECT ({least} AND {column} > found) FROM {name}_and_null
            WHERE found IS NOT NULL
    ), {name} (found) AS (SELECT found FROM {name}_and_null WHERE found IS NOT NULL)"""  # noqa: S608


_BY_SENDER: Final = "messages INDEXED BY messages_by_sender"
_BY_NAME: Final = "messages INDEXED BY messages_by_name"
_BY_PEER: Final = "copies INDEXED BY copies_by_peer"
_SENDERS: Final = _distinct("senders", _BY_SENDER, "sender_id", FILED)
_NAMES: Final = _distinct("names", _BY_NAME, "sender", "sender_id = ''")
_PEERS: Final = _distinct("peers", _BY_PEER, "peer_id", FILED)
# Those that are not filed yet.
_NEW: Final = """
    new_mail AS (SELECT sender_id AS id, sender AS name, seq FROM messages NOT INDEXED
        WHERE box = (SELECT box FROM mine) AND seq > (SELECT filed FROM mine)),
    new_copies AS (SELECT peer_id AS id, peer AS name, seq, sent_at FROM copies NOT INDEXED
        WHERE box = (SELECT box FROM mine) AND seq > (SELECT filed FROM mine))"""
# The account ids that a name had, as their last messages have it: a list in JSON.
_NAMED: Final = f"""
    WITH RECURSIVE mine AS (SELECT box, filed FROM mailboxes WHERE account_id = :id),
    {_SENDERS}, {_PEERS}, {_NEW}
    SELECT json_group_array(found) FROM (
        SELECT found FROM senders WHERE :name = (SELECT sender FROM {_BY_SENDER}
            WHERE box = (SELECT box FROM mine) AND sender_id = found AND {FILED}
            ORDER BY seq DESC LIMIT 1)
        UNION SELECT found FROM peers WHERE :name = (SELECT peer FROM {_BY_PEER}
            WHERE box = (SELECT box FROM mine) AND peer_id = found AND {FILED}
            ORDER BY seq DESC LIMIT 1)
        UNION SELECT id FROM new_mail WHERE name = :name AND id <> ''
        UNION SELECT id FROM new_copies WHERE name = :name
    )"""  # noqa: S608 - constants
# `kind` is of the row that has the highest seq: so SQLite has it beside max().
_CONVERSATIONS: Final = f"""
    WITH RECURSIVE mine AS (
        SELECT box, position, filed, ifnull(oldest_ack <= :ends, 0) AS ageing,
            {_HISTORY_AGED} AS aged
        FROM mailboxes WHERE account_id = :id
    ), {_SENDERS}, {_NAMES}, {_PEERS}, {_NEW},
    lasts (kind, id, name, seq) AS (
        SELECT 'mail', found, '', (SELECT max(seq) FROM {_BY_SENDER}
            WHERE box = (SELECT box FROM mine) AND sender_id = found AND {FILED}) FROM senders
        UNION ALL SELECT 'mail', id, '', max(seq) FROM new_mail WHERE id <> '' GROUP BY id
        UNION ALL SELECT 'mail', '', found, (SELECT max(seq) FROM {_BY_NAME}
            WHERE box = (SELECT box FROM mine) AND sender_id = '' AND sender = found) FROM names
        UNION ALL SELECT 'sent', found, '', (SELECT seq FROM {_BY_PEER}
            WHERE box = (SELECT box FROM mine) AND peer_id = found AND {FILED} AND sent_at > :ends
            ORDER BY seq DESC LIMIT 1) FROM peers
        UNION ALL SELECT 'sent', id, '', max(seq) FROM new_copies WHERE sent_at > :ends GROUP BY id
    ),
    talks AS (
        SELECT kind, id, name, max(seq) AS seq FROM lasts
        WHERE seq > CASE kind WHEN 'mail' THEN (SELECT aged FROM mine) ELSE 0 END
        GROUP BY id, name
    ),
    page AS (SELECT * FROM talks WHERE seq < :before ORDER BY seq DESC LIMIT :limit)
    SELECT mine.ageing, page.id,
        CASE id WHEN '' THEN (SELECT count(*) FROM {_BY_NAME} WHERE box = mine.box
            AND sender_id = '' AND sender = page.name AND seq > mine.position)
        ELSE (SELECT count(*) FROM {_BY_SENDER} WHERE box = mine.box
            AND sender_id = page.id AND seq > mine.position AND {FILED})
            + (SELECT count(*) FROM new_mail WHERE id = page.id AND seq > mine.position) END,
        page.seq, ifnull(mail.message_id, copy.message_id), ifnull(mail.sender, copy.sender),
        ifnull(mail.body, copy.body), ifnull(mail.sent_at, copy.sent_at), copy.peer, copy.n
    FROM mine LEFT JOIN page
    LEFT JOIN messages AS mail ON kind = 'mail' AND mail.box = mine.box AND mail.seq = page.seq
    LEFT JOIN copies AS copy ON kind = 'sent' AND copy.box = mine.box AND copy.seq = page.seq
    ORDER BY page.seq DESC"""  # noqa: S608 - constants
