"""What a repeated send_id gets, whichever table remembers it."""

from typing import Final

from twinline.core.errors import SendIdConflict
from twinline.core.store import Accepted, Draft, MailboxPolicy
from twinline.stores.rules import send_ids_count

AT_ONCE: Final = 8
"""Beyond a bound this part of it is forgotten: finding the oldest reads all of them."""

First = tuple[bytes, str, int, int]
"""The first send under a send_id: its content, and the message's id, ``sent_at`` and ``n``."""


def first_accepted(
    policy: MailboxPolicy, draft: Draft, content: bytes, known: First | None
) -> Accepted | None:
    """Return what the first send under a draft's send_id got, if it still counts.

    Args:
        policy: says how long it does.
        draft: what is sent.
        content: its fingerprint.
        known: the first send, if there was one.

    Raises:
        SendIdConflict: that send had another body.
    """
    if known is None:
        return None
    first, message_id, sent_at, n = known
    begin, end = send_ids_count(policy, draft.sent_at)
    if not begin < sent_at < end:
        return None
    if first != content:
        raise SendIdConflict
    return Accepted(message_id, sent_at, n)


def surplus(count: int, most: int) -> int:
    """Return how many of the oldest are forgotten when there are so many, and a bound."""
    return count - most + most // AT_ONCE if count > most else 0


def fewest(policy: MailboxPolicy) -> int:
    """Return how many send_ids a mailbox may have before any bound can be reached."""
    return min(policy.send_ids_per_mailbox, policy.send_ids_per_sender)
