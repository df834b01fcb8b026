"""`Look`: what a watch does at once, for callers that wait in a way of their own."""

from dataclasses import dataclass
from typing import ClassVar

from twinline.core.protocol import MAIL_ALONE, Kinds


@dataclass(slots=True)  # not frozen, for that costs as much again, and one is made a delivery
class Look:
    """One look at the caller's mailbox; see `ChatService.look`.

    Attributes:
        after: the last seq that the caller has seen.
        ack: acknowledge up to here first, or None.
        limit: at most so many messages; 0 to acknowledge only.
        max_bytes: at most so many bytes of bodies, but one message always fits.
        follow: whether the session's ``on_mail`` is to be called for what comes after the look.
        kinds: which entries it is about.
    """

    after: int
    ack: int | None
    limit: int
    max_bytes: int
    follow: bool
    kinds: Kinds = MAIL_ALONE

    op: ClassVar[str] = "watch"
    """The request that it is a part of."""
    may_take_long: ClassVar[bool] = True
    """As `Request.may_take_long`: where it acknowledges, a store may have to sync."""
