"""What is in mailboxes, of whichever kind: the statements that read it, and what they return.

Mail alone is read by statements of its own, which look into no other table.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from twinline.core.protocol import MAIL_ALONE, Kind, Kinds, Message, Receipt
from twinline.core.store import MailboxPolicy, MailPage
from twinline.stores.rules import fitting, history_ends, mail_page
from twinline.stores.sql.mailbox import NO_SUCH_SEQ

_BITS: Final = {Kind.MAIL: 1, Kind.SENT: 2, Kind.RECEIPT: 4}

MAIL: Final = """1::bigint AS kind, seq, message_id, sender AS who, body, sent_at AS at,
            NULL AS peer, 0::bigint AS n FROM messages"""
"""Selects messages as entries; `entry` takes such rows."""
COPIES: Final = """2::bigint AS kind, seq, message_id, sender AS who, body, sent_at AS at,
            peer, n FROM copies"""
"""Selects copies as entries."""
RECEIPTS: Final = """4::bigint AS kind, seq, '' AS message_id, peer AS who, ''::bytea AS body,
            acked_at AS at, NULL AS peer, n FROM receipts"""
"""Selects receipts as entries."""


def of_kinds(
    box: str, kinds: str, *, mail: str, copies: str, receipts: str, order: str, most: str
) -> str:
    """Return a subquery for entries of some kinds, at most so many; `entry` takes its rows.

    Args:
        box: the mailbox's number.
        kinds: as `bits` returns them.
        mail: which messages.
        copies: which copies.
        receipts: which receipts.
        order: ``ASC`` or ``DESC``, by seq.
        most: how many.
    """
    parts = [
        # What it is given is ours. Of each kind as many are found as the page may have.
        f"(SELECT {what} WHERE {table}.box = {box} AND {kinds} & {bit} <> 0 AND {which} "
        f"ORDER BY seq {order} LIMIT {most})"
        for what, table, bit, which in (
            (MAIL, "messages", 1, mail),
            (COPIES, "copies", 2, copies),
            (RECEIPTS, "receipts", 4, receipts),
        )
    ]
    every = "\n        UNION ALL ".join(parts)
    return f"(SELECT * FROM ({every}) AS every ORDER BY seq {order} LIMIT {most})"  # noqa: S608


def bits(kinds: Kinds) -> int:
    """Return kinds as a number."""
    return sum(_BITS[kind] for kind in kinds)


def message(seq: int, message_id: str, sender: str, body: bytes, sent_at: int) -> Message:
    """Return a message that was read."""
    return Message(
        seq=seq,
        message_id=message_id,
        sender=sender,
        body=body.decode(errors="surrogatepass"),
        sent_at=sent_at,
    )


def entry(row: Sequence[Any]) -> Message | Receipt:
    """Return an entry that was read by `of_kinds`."""
    kind, seq, message_id, who, body, at, peer, n = row
    if kind == _BITS[Kind.MAIL]:
        return message(seq, message_id, who, body, at)
    if kind == _BITS[Kind.RECEIPT]:
        return Receipt(seq=seq, username=who, n=n, acked_at=at)
    return Message(
        seq=seq,
        message_id=message_id,
        sender=who,
        body=body.decode(errors="surrogatepass"),
        sent_at=at,
        to=peer,
        n=n,
    )


def page_after(
    entries: Sequence[Message | Receipt], limit: int, max_bytes: int, position: int, last: int
) -> MailPage:
    """Return a page of what was read by rising seq.

    Args:
        entries: at least one more than the limit, if there are as many.
        limit: at most so many.
        max_bytes: as for `Mailboxes.read`.
        position: the mailbox's.
        last: up to where there is nothing else.
    """
    page, more = fitting(entries, limit, max_bytes)
    return mail_page(page, position, page[-1].seq if more else last, more=more)


def page_before(
    entries: Sequence[Message | Receipt], limit: int, max_bytes: int, position: int
) -> MailPage:
    """Return a page of what was read by falling seq."""
    page, more = fitting(entries, limit, max_bytes)
    return mail_page(page[::-1], position, page[-1].seq if more else 0, more=more)


class Back(NamedTuple):
    """A page that is read backwards, as for `Mailboxes.history` and `Mailboxes.conversations`."""

    account_id: str
    before: int | None
    limit: int
    max_bytes: int
    now: int
    kinds: Kinds = MAIL_ALONE


def asked_back(back: Back, policy: MailboxPolicy) -> tuple[str, int, int, int]:
    """Return what such a page is asked for by.

    Returns:
        Whose mailbox, the moment at or before which something has aged, the seq below which
        entries are, and how many are to be found.
    """
    before = NO_SUCH_SEQ if back.before is None else min(back.before, NO_SUCH_SEQ)
    ends = history_ends(policy, back.now)
    return back.account_id, ends, before, min(back.limit, NO_SUCH_SEQ) + 1
