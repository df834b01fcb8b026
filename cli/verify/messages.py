"""The messages of the workload of `twinline verify`, and what is said of them: errors, verdict.

A body holds nothing but the message's id and padding made from it, so a message that was changed
on its way is one that was never sent.
"""

from typing import Final

from pydantic import Field

from twinline.cli.console.shapes import Shape
from twinline.core.errors import (
    Busy,
    InternalError,
    NoSuchUser,
    NotLoggedIn,
    RateLimited,
    RequestError,
    SessionExpired,
    ShuttingDown,
    StoreUnavailable,
    TwinlineError,
)
from twinline.core.protocol import Message
from twinline.stores.conformance.history import Outcome, Verdict
from twinline.transports.client import NotConnected

_SAYS_NOTHING: Final = (
    NoSuchUser,
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
    happened all the same. Nor does what is said before a send is looked at, or of a recipient that
    has gone meanwhile: the client engine may have had an attempt in doubt before the one that was
    refused so.
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
    """Return the id of a received message, or a text that is the id of none if it was changed.

    Args:
        message: what came.
        length: of the body that was sent.
    """
    message_id = message.body.partition(" ")[0]
    sender = message_id.rpartition("-")[0]
    if message.sender == sender and message.body == body_of(message_id, length):
        return message_id
    return f"changed: {message.sender}: {message.body[:80]}"


class RuleFound(Shape):
    """How well one rule was kept."""

    count: int = Field(description="how often it was broken")
    cases: int = Field(description="how often it could have been")
    below_95: float | None = Field(
        description="with 95 % confidence it is broken in less than this part of the cases; null "
        "where nothing can be said"
    )
    examples: tuple[str, ...] = Field(description="some breaches, for a person")


class Verified(Shape):
    """The verdict on a server."""

    verdict: Verdict = Field(description="`ok`, `violated` or `unknown`")
    attempted: int = Field(description="messages that somebody tried to send")
    acknowledged: int = Field(description="of these, acknowledged to the sender")
    failed: int = Field(description="of these, certainly not sent")
    undecided: int = Field(description="of these, with an outcome that nobody knows")
    delivered: int = Field(description="different messages received")
    copies: int = Field(description="different copies received by their senders")
    receipts: int = Field(description="times that a receipt was received")
    handed: int = Field(description="times that a message or a copy was received")
    redelivered: int = Field(description="times that one came again, to another life of a reader")
    undrained: int = Field(description="acknowledged, in a mailbox not read to its end")
    unread: int = Field(description="mailboxes not read to their end, or gone")
    findings: dict[str, RuleFound] = Field(description="by the name of each rule")
