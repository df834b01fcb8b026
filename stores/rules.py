"""What every store decides alike: what is kept, what fits a page, what a send_id stands for."""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from twinline.core.clock import DAY_MS, HOUR_MS
from twinline.core.errors import StoreUnavailable
from twinline.core.names import NamePattern
from twinline.core.protocol import Message, Receipt
from twinline.core.store import MailboxPolicy, MailPage, UsernamePage

CHUNK_NAMES: Final = 512
"""The most names that a listing reads at once, and so while it holds a lock."""
LOOK_THROUGH_SECONDS: Final = 30.0
"""How long all mailboxes may be looked through for one message."""
_YIELD_SECONDS: Final = 0.00002
Entry = TypeVar("Entry", bound=Message | Receipt)
_LONG: Final = 2**62  # "for ever", as milliseconds that fit the integers of a store


def history_span(policy: MailboxPolicy) -> int:
    """Return the milliseconds for which a message stays in the history after its ack."""
    return min(math.ceil(policy.history_days * DAY_MS), _LONG)


def history_ends(policy: MailboxPolicy, now: int) -> int:
    """Return the moment at or before which an ack has aged out of the history."""
    return now - history_span(policy)


def was_deleted(ends: int, most: int, *, sent_at: int, seq: int, position: int) -> bool:
    """Return whether a message that is not in its mailbox any more was deleted, for certain.

    An unread one does not expire. An acked one does when its ack has aged, which came after it was
    sent; or when enough newer ones are acked, of which there are no more than seqs. Where both may
    have come about it cannot be told.

    Args:
        ends: the moment at or before which an ack has aged out of the history.
        most: the most acked messages that are kept.
        sent_at: when it was accepted.
        seq: its number.
        position: the last acked seq.
    """
    return seq > position or (sent_at > ends and position - seq < most)


def send_id_span(policy: MailboxPolicy) -> int:
    """Return the milliseconds for which a send_id counts: two sends so far apart are not one.

    Whichever is the later one: a first send that lies so far ahead was sent by a clock that was
    wrong, and were it kept until its time comes, it would be in the way of those behind it.
    """
    return min(math.ceil(policy.send_id_hours * HOUR_MS), _LONG)


def send_ids_count(policy: MailboxPolicy, now: int) -> tuple[int, int]:
    """Return the moments between which a send_id counts at ``now``, neither of them included."""
    span = send_id_span(policy)
    return now - span, now + span


def fingerprint(body: str) -> bytes:
    """Return a hash of a message's body: the content that a send_id stands for, anywhere."""
    return hashlib.blake2b(body.encode(errors="surrogatepass"), digest_size=16).digest()


def size_of(body: str) -> int:
    """Return a message's body's bytes of UTF-8."""
    return len(body if body.isascii() else body.encode(errors="surrogatepass"))


def not_looked_through() -> StoreUnavailable:
    """Return what is raised when `LOOK_THROUGH_SECONDS` are over."""
    return StoreUnavailable(
        f"the mail of this store cannot be looked through in {LOOK_THROUGH_SECONDS:.0f} seconds; "
        "say whose mailbox the message was sent to"
    )


def fitting(entries: Iterable[Entry], limit: int, max_bytes: int) -> tuple[tuple[Entry, ...], bool]:
    """Return the first entries whose bodies fit, at most ``limit`` and at least one.

    Args:
        entries: those that could be in the page, at least one more than the limit if there
            are as many; taken one by one, and no more of them than needed. A receipt has no body.
        limit: at most so many.
        max_bytes: stop before the bodies have more bytes of UTF-8 than this.

    Returns:
        The page, and whether there are others behind it.
    """
    page: list[Entry] = []
    total = 0
    for entry in entries:
        if isinstance(entry, Message):
            total += size_of(entry.body)
        if len(page) == limit or (page and total > max_bytes):
            return tuple(page), True
        page.append(entry)
    return tuple(page), False


def mail_page(
    page: Sequence[Message | Receipt], position: int, seen: int, *, more: bool
) -> MailPage:
    """Return a page of entries of any kind, by rising seq."""
    messages = tuple([each for each in page if isinstance(each, Message)])
    if len(messages) == len(page):
        return MailPage(messages, position, more, seen)
    receipts = tuple([each for each in page if isinstance(each, Receipt)])
    return MailPage(messages, position, more, seen, receipts)


def page_of_names(
    pattern: NamePattern,
    after: str | None,
    limit: int,
    *,
    exists: Callable[[str], bool],
    names_from: Callable[[str, int], Sequence[str]],
) -> UsernamePage:
    """Return the first names beyond ``after`` that match, read in chunks.

    The chunks are matched here, with no lock held, so a page is not a snapshot: of a name that
    comes or goes meanwhile it may have either.

    Args:
        pattern: what is asked for.
        after: only what sorts behind it.
        limit: at most so many.
        exists: whether there is a name, for a pattern that names one.
        names_from: the first names at or above a text, sorted, at most so many; none when there
            are none.
    """
    # The smallest text above `after` is `after` and a zero.
    start = pattern.prefix if after is None else max(pattern.prefix, f"{after}\0")
    if pattern.exact:
        known = start == pattern.prefix and exists(pattern.prefix)
        return UsernamePage((pattern.prefix,) if known else (), more=False)
    found: list[str] = []
    # Most pages want the first names that follow, so the first chunk is as long as the page.
    count = min(CHUNK_NAMES, limit + 1)
    while chunk := names_from(start, count):
        for name in chunk:
            if not name.startswith(pattern.prefix):
                return UsernamePage(tuple(found), more=False)
            if pattern.matches(name):
                if len(found) == limit:
                    return UsernamePage(tuple(found), more=True)
                found.append(name)
        start, count = f"{chunk[-1]}\0", CHUNK_NAMES
        # A scan of a million names runs Python for half a second: other threads get the
        # interpreter now and then. With 0 this one would take it again before they are awake.
        time.sleep(_YIELD_SECONDS)
    return UsernamePage(tuple(found), more=False)
