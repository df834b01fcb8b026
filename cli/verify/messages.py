"""The messages of the workload of `twinline verify`, and what an error says about one.

A body holds nothing but the message's id and padding made from it, so a message that was changed
on its way is one that nobody sent.
"""

from typing import Final

from twinline.core.errors import (
    Busy,
    InternalError,
    NotLoggedIn,
    RateLimited,
    RequestError,
    SessionExpired,
    ShuttingDown,
    StoreUnavailable,
    TwinlineError,
)
from twinline.core.protocol import Message
from twinline.stores.conformance.history.recorder import Outcome
from twinline.transports.client import NotConnected

_SAYS_NOTHING: Final = (
    StoreUnavailable,
    InternalError,
    RateLimited,
    NotLoggedIn,
    SessionExpired,
    Busy,
    ShuttingDown,
)


def outcome_of(error: TwinlineError) -> Outcome:
    """Return what an error says about a send: that it was not done, or nothing at all.

    `store_unavailable` and `internal` say nothing: a commit whose end could not be seen may have
    happened all the same. Nor does what is said before a send is looked at: the client engine
    may have had an attempt in doubt before the one that was refused so.
    """
    if isinstance(error, NotConnected):
        return Outcome.FAIL
    if isinstance(error, RequestError) and not isinstance(error, _SAYS_NOTHING):
        return Outcome.FAIL
    return Outcome.INFO


def body_of(message_id: str, length: int) -> str:
    """Return the body of a message: its id, and padding that follows from it."""
    return f"{message_id} ".ljust(length, message_id[-1])


def id_of(message: Message, length: int) -> str:
    """Return the id of a received message, or a text that is nobody's if it was changed.

    Args:
        message: what came.
        length: of the body that was sent.
    """
    message_id = message.body.partition(" ")[0]
    sender = message_id.rpartition("-")[0]
    if message.sender == sender and message.body == body_of(message_id, length):
        return message_id
    return f"changed: {message.sender}: {message.body[:80]}"
