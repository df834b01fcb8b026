"""How mailboxes are read: all reads that wait at the same time are one statement.

One statement is also one moment of the database, so a page and its position belong together.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from twinline.core.errors import CursorInvalid, NoSuchUser, RequestError
from twinline.core.protocol import MAIL_ALONE, Kinds, Message, Receipt
from twinline.core.store import (
    Blocked,
    Depths,
    MailboxPolicy,
    MailboxUsage,
    MailPage,
    Standing,
)
from twinline.stores.postgresql.arrays import Array, integers, texts
from twinline.stores.postgresql.conversations import Conversations
from twinline.stores.postgresql.database import Pool
from twinline.stores.postgresql.entries import (
    Back,
    asked_back,
    bits,
    entry,
    message,
    of_kinds,
    page_after,
    page_before,
)
from twinline.stores.postgresql.link import Call, Rows
from twinline.stores.shared.coalescing import Coalescing
from twinline.stores.sql.ageing import aged
from twinline.stores.sql.epochs import jump
from twinline.stores.sql.mailbox import NO_SUCH_SEQ

_AT_ONCE: Final = 256  # reads in a statement

_READ: Final = """
    SELECT number, position, unread, gives_receipts, last, epoch, (SELECT epoch FROM store),
        seq, message_id, sender, body, sent_at
    FROM unnest($1::text[], $2::bigint[], $3::bigint[]) WITH ORDINALITY
        AS wanted (account_id, after, most, number)
    CROSS JOIN LATERAL (SELECT * FROM mailboxes
        WHERE mailboxes.account_id = wanted.account_id OFFSET 0) AS mailbox
    LEFT JOIN LATERAL (SELECT * FROM messages
        WHERE messages.box = mailbox.box AND seq > greatest(after, floor)
        ORDER BY seq LIMIT most) AS found ON true
    ORDER BY number, seq"""
_AFTER: Final = of_kinds(
    "mailbox.box",
    "wanted.kinds",
    mail="seq > greatest(after, floor)",
    copies="seq > after",
    receipts="seq > after",
    order="ASC",
    most="most",
)
# Of constants alone, as the next two.
_READ_KINDS: Final = f"""
    SELECT number, position, unread, gives_receipts, last, epoch, (SELECT epoch FROM store),
        found.*
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) WITH ORDINALITY
        AS wanted (account_id, after, most, kinds, number)
    CROSS JOIN LATERAL (SELECT * FROM mailboxes
        WHERE mailboxes.account_id = wanted.account_id OFFSET 0) AS mailbox
    LEFT JOIN LATERAL {_AFTER} AS found ON true
    ORDER BY number, seq"""  # noqa: S608
_DEPTHS: Final = """
    SELECT count(*), coalesce(max(unread), 0),
        count(*) FILTER (WHERE unread >= coalesce(quota, $1::bigint)) FROM mailboxes"""
_MINE: Final = """(SELECT *, coalesce(oldest_ack <= $2::bigint, false) AS ageing
        FROM mailboxes WHERE account_id = $1) AS mine"""
_KEPT: Final = f"""greatest(floor,
            CASE WHEN mine.ageing THEN {aged("mine.box", "$2::bigint")} ELSE 0 END)"""
_HISTORY: Final = f"""
    SELECT position, mine.ageing, seq, message_id, sender, body, sent_at
    FROM {_MINE}
    LEFT JOIN LATERAL (SELECT * FROM messages
        WHERE messages.box = mine.box AND seq < $3::bigint AND seq > {_KEPT}
        ORDER BY seq DESC LIMIT $4::bigint) AS found ON true
    ORDER BY seq DESC"""  # noqa: S608
_BEFORE: Final = of_kinds(
    "mine.box",
    "$5::bigint",
    mail=f"seq < $3::bigint AND seq > {_KEPT}",
    copies="seq < $3::bigint AND sent_at > $2::bigint",
    receipts="seq < $3::bigint AND acked_at > $2::bigint",
    order="DESC",
    most="$4::bigint",
)
_HISTORY_KINDS: Final = f"""
    SELECT position, mine.ageing, found.* FROM {_MINE}
    LEFT JOIN LATERAL {_BEFORE} AS found ON true
    ORDER BY seq DESC"""  # noqa: S608

_USAGE: Final = """
    SELECT mail.count, unread, (mail.size + copied.size)::bigint, quota, copied.count
    FROM mailboxes
    CROSS JOIN LATERAL (SELECT count(*), coalesce(sum(octet_length(body)), 0) AS size
        FROM messages WHERE messages.box = mailboxes.box AND seq > floor) AS mail
    CROSS JOIN LATERAL (SELECT count(*), coalesce(sum(octet_length(body)), 0) AS size
        FROM copies WHERE copies.box = mailboxes.box) AS copied
    WHERE account_id = $1"""
_BLOCKED: Final = """
    SELECT peer_id, peer FROM mailboxes LEFT JOIN blocked USING (box)
    WHERE account_id = $1 ORDER BY peer, peer_id"""


class Wanted(NamedTuple):
    """A read, as `Mailboxes.read`; with a limit of 0 the standing alone."""

    account_id: str
    after: int
    limit: int
    max_bytes: int
    kinds: Kinds = MAIL_ALONE


class Read(NamedTuple):
    """What was read of a mailbox that is there."""

    standing: Standing
    page: MailPage
    beyond: bool
    """Whether ``after`` is beyond the last seq, and not inside a jump."""


class Reads:
    """Reads by the connections that are for reading.

    Attributes:
        conversations: reads by the account at the other side.
    """

    def __init__(self, pool: Pool, policy: MailboxPolicy) -> None:
        self._pool = pool
        self._policy = policy
        self.conversations = Conversations(pool, policy)
        self._coalescing: Coalescing[Wanted, Read] = Coalescing("reads", self._read, most=_AT_ONCE)

    def read(self, wanted: Wanted) -> Read:
        """Read a mailbox.

        Raises:
            NoSuchUser: there is none.
            StoreUnavailable: it cannot be read.
        """
        found = self._coalescing.get(wanted)
        if found is None:
            raise NoSuchUser
        return found

    def pages(self, wanted: Sequence[Wanted]) -> list[MailPage | RequestError]:
        """Read several mailboxes by one statement.

        Raises:
            StoreUnavailable: they cannot be read.
        """
        found = self._read(list(dict.fromkeys(wanted)))
        return [_outcome(found.get(each), each) for each in wanted]

    def history(self, back: Back) -> tuple[MailPage, bool]:
        """Return what `Mailboxes.history` does, and whether something has aged.

        Raises:
            NoSuchUser: there is no such mailbox.
            StoreUnavailable: it cannot be read.
        """
        asked = asked_back(back, self._policy)
        entries: list[Message | Receipt]
        if back.kinds == MAIL_ALONE:
            (rows,) = self._pool.run(Call(_HISTORY, *asked))
            entries = [message(*row[2:]) for row in rows if row[2] is not None]
        else:
            (rows,) = self._pool.run(Call(_HISTORY_KINDS, *asked, bits(back.kinds)))
            entries = [entry(row[2:]) for row in rows if row[2] is not None]
        if not rows:
            raise NoSuchUser
        return page_before(entries, back.limit, back.max_bytes, rows[0][0]), rows[0][1]

    def usage(self, account_id: str) -> MailboxUsage:
        """Return what a mailbox holds.

        Raises:
            NoSuchUser: there is none.
            StoreUnavailable: it cannot be read.
        """
        (rows,) = self._pool.run(Call(_USAGE, account_id))
        if not rows:
            raise NoSuchUser
        return MailboxUsage(*rows[0])

    def blocked(self, account_id: str) -> list[Blocked]:
        """Return whom a mailbox has blocked.

        Raises:
            NoSuchUser: there is none.
            StoreUnavailable: it cannot be read.
        """
        (rows,) = self._pool.run(Call(_BLOCKED, account_id))
        if not rows:
            raise NoSuchUser
        return [Blocked(peer_id, peer) for peer_id, peer in rows if peer_id is not None]

    def depths(self) -> Depths:
        """Return how full the mailboxes are.

        Raises:
            StoreUnavailable: they cannot be read.
        """
        ((row,),) = self._pool.run(Call(_DEPTHS, self._policy.mailbox_messages))
        return Depths(*row)

    def _read(self, wanted: Sequence[Wanted]) -> Mapping[Wanted, Read]:
        mail = [each for each in wanted if each.kinds == MAIL_ALONE]
        others = [each for each in wanted if each.kinds != MAIL_ALONE]
        calls = []
        if mail:
            calls.append(Call(_READ, *_columns(mail)))
        if others:
            kinds = integers([bits(each.kinds) for each in others])
            calls.append(Call(_READ_KINDS, *_columns(others), kinds))
        results = iter(self._pool.run(*calls))
        found: dict[Wanted, Read] = {}
        if mail:
            _take(next(results), mail, lambda row: message(*row), found)
        if others:
            _take(next(results), others, entry, found)
        return found


def _columns(wanted: Sequence[Wanted]) -> tuple[Array, Array, Array]:
    return (
        texts([each.account_id for each in wanted]),
        integers([min(each.after, NO_SUCH_SEQ) for each in wanted]),
        integers([min(each.limit, NO_SUCH_SEQ) + 1 if each.limit else 0 for each in wanted]),
    )


def _take(
    rows: Rows,
    wanted: Sequence[Wanted],
    make: Callable[[Sequence[Any]], Message | Receipt],
    found: dict[Wanted, Read],
) -> None:
    """Take what was read, each entry made of the columns behind its mailbox's."""
    heads: dict[int, tuple[Standing, int, int, int]] = {}
    entries: dict[int, list[Message | Receipt]] = defaultdict(list)
    for number, position, unread, gives_receipts, last, epoch, epoch_now, *row in rows:
        if number not in heads:
            heads[number] = Standing(position, unread, gives_receipts), last, epoch, epoch_now
        if row[0] is not None:
            entries[number].append(make(row))
    for number, (standing, last, epoch, epoch_now) in heads.items():
        each = wanted[number - 1]
        seen = max(each.after, last) if each.limit else each.after
        found[each] = Read(
            standing,
            page_after(entries[number], each.limit, each.max_bytes, standing.position, seen),
            each.after > last + jump(epoch, max(epoch, epoch_now)),
        )


def _outcome(found: Read | None, wanted: Wanted) -> MailPage | RequestError:
    if found is None:
        return NoSuchUser()
    if wanted.limit and found.beyond:
        return CursorInvalid()
    return found.page
