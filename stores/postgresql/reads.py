"""How mailboxes are read: all reads that wait at the same time are one statement.

One statement is also one moment of the database, so a page and its position belong together.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from twinline.core.errors import CursorInvalid, NoSuchUser, RequestError
from twinline.core.protocol import Message
from twinline.core.store import Depths, MailboxPolicy, MailboxUsage, MailPage, Standing
from twinline.stores.postgresql.arrays import integers, texts
from twinline.stores.postgresql.batch import message
from twinline.stores.postgresql.database import Pool
from twinline.stores.postgresql.link import Call
from twinline.stores.rules import fitting, history_ends
from twinline.stores.shared.coalescing import Coalescing
from twinline.stores.sql.ageing import aged
from twinline.stores.sql.epochs import jump
from twinline.stores.sql.mailbox import NO_SUCH_SEQ

_AT_ONCE: Final = 256  # reads in a statement

_READ: Final = """
    SELECT number, position, unread, last, epoch, (SELECT epoch FROM store),
        seq, message_id, sender, body, sent_at
    FROM unnest($1::text[], $2::bigint[], $3::bigint[]) WITH ORDINALITY
        AS wanted (account_id, after, most, number)
    CROSS JOIN LATERAL (SELECT * FROM mailboxes
        WHERE mailboxes.account_id = wanted.account_id OFFSET 0) AS mailbox
    LEFT JOIN LATERAL (SELECT * FROM messages
        WHERE messages.box = mailbox.box AND seq > greatest(after, floor)
        ORDER BY seq LIMIT most) AS found ON true
    ORDER BY number, seq"""
_DEPTHS: Final = """
    SELECT count(*), coalesce(max(unread), 0),
        count(*) FILTER (WHERE unread >= coalesce(quota, $1::bigint)) FROM mailboxes"""
# Of constants alone.
_HISTORY: Final = f"""
    SELECT position, mine.ageing, seq, message_id, sender, body, sent_at
    FROM (SELECT *, coalesce(oldest_ack <= $2::bigint, false) AS ageing
        FROM mailboxes WHERE account_id = $1) AS mine
    LEFT JOIN LATERAL (SELECT * FROM messages
        WHERE messages.box = mine.box AND seq < $3::bigint AND seq > greatest(floor,
            CASE WHEN mine.ageing THEN {aged("mine.box", "$2::bigint")} ELSE 0 END)
        ORDER BY seq DESC LIMIT $4::bigint) AS found ON true
    ORDER BY seq DESC"""  # noqa: S608

_USAGE: Final = """
    SELECT count(seq), unread, coalesce(sum(octet_length(body)), 0)::bigint, quota
    FROM mailboxes LEFT JOIN messages ON messages.box = mailboxes.box AND seq > floor
    WHERE account_id = $1 GROUP BY account_id"""


class Wanted(NamedTuple):
    """A read, as `Mailboxes.read`; with a limit of 0 the standing alone."""

    account_id: str
    after: int
    limit: int
    max_bytes: int


class Read(NamedTuple):
    """What was read of a mailbox that is there."""

    standing: Standing
    page: MailPage
    beyond: bool
    """Whether ``after`` is beyond the last seq, and not inside a jump."""


class Reads:
    """Reads by the connections that are for reading."""

    def __init__(self, pool: Pool, policy: MailboxPolicy) -> None:
        self._pool = pool
        self._policy = policy
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

    def history(
        self, account_id: str, before: int | None, limit: int, max_bytes: int, now: int
    ) -> tuple[MailPage, bool]:
        """Return what `Mailboxes.history` does, and whether something has aged.

        Raises:
            NoSuchUser: there is no such mailbox.
            StoreUnavailable: it cannot be read.
        """
        (rows,) = self._pool.run(
            Call(
                _HISTORY,
                account_id,
                history_ends(self._policy, now),
                NO_SUCH_SEQ if before is None else min(before, NO_SUCH_SEQ),
                min(limit, NO_SUCH_SEQ) + 1,
            )
        )
        if not rows:
            raise NoSuchUser
        messages = (message(*row[2:]) for row in rows if row[2] is not None)
        page, more = fitting(messages, limit, max_bytes)
        return MailPage(page[::-1], rows[0][0], more), rows[0][1]

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

    def depths(self) -> Depths:
        """Return how full the mailboxes are.

        Raises:
            StoreUnavailable: they cannot be read.
        """
        ((row,),) = self._pool.run(Call(_DEPTHS, self._policy.mailbox_messages))
        return Depths(*row)

    def _read(self, wanted: Sequence[Wanted]) -> Mapping[Wanted, Read]:
        (rows,) = self._pool.run(
            Call(
                _READ,
                texts([each.account_id for each in wanted]),
                integers([min(each.after, NO_SUCH_SEQ) for each in wanted]),
                integers(
                    [min(each.limit, NO_SUCH_SEQ) + 1 if each.limit else 0 for each in wanted]
                ),
            )
        )
        heads: dict[int, tuple[int, ...]] = {}
        messages: dict[int, list[Message]] = defaultdict(list)
        for number, *head, seq, message_id, sender, body, sent_at in rows:
            heads[number] = tuple(head)
            if seq is not None:
                messages[number].append(message(seq, message_id, sender, body, sent_at))
        found = {}
        for number, (position, unread, last, epoch, epoch_now) in heads.items():
            each = wanted[number - 1]
            page, more = fitting(messages[number], each.limit, each.max_bytes)
            found[each] = Read(
                Standing(position, unread),
                MailPage(page, position, more),
                each.after > last + jump(epoch, max(epoch, epoch_now)),
            )
        return found


def _outcome(found: Read | None, wanted: Wanted) -> MailPage | RequestError:
    if found is None:
        return NoSuchUser()
    if wanted.limit and found.beyond:
        return CursorInvalid()
    return found.page
