"""The settings of the client engine, as a typed model that any front end can fill in."""

from enum import Enum

from pydantic import BaseModel, ConfigDict, Field

from twinline.core.deadline import Seconds
from twinline.core.protocol import MAX_PAGE, MAX_WAIT_SECONDS


class WatchMode(Enum):
    """How the client watches its mailbox."""

    STREAMING = "streaming"
    """The server sends mail as it comes, as much as there is room for here."""
    BLOCKING = "blocking"
    """A request waits at the server until there is mail, and the next one fetches the next page."""
    POLLING = "polling"
    """The client looks every ``poll_seconds``."""
    OFF = "off"
    """There is no watch connection and no thread: for a caller that reads no mail."""


class ClientSettings(BaseModel):
    """How long the client engine waits, and how much it asks for at once."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    connect_seconds: Seconds = Field(
        default=5, gt=0, description="for one attempt to open a connection"
    )
    reply_seconds: Seconds = Field(
        default=10, gt=0, description="for a reply; then the connection is taken for dead"
    )
    command_seconds: Seconds = Field(
        default=30,
        gt=0,
        description="for a whole command, with waiting for a connection and with retries",
    )
    wait_seconds: Seconds = Field(
        default=25,
        gt=0,
        le=MAX_WAIT_SECONDS,
        description="how long a watch waits for mail, and how often a connection "
        "that does not watch is tried; on the wire it is rounded up to whole seconds",
    )
    poll_seconds: Seconds = Field(
        default=1, gt=0, description="between two looks at the mailbox, when polling"
    )
    window: int = Field(
        default=256,
        ge=1,
        le=MAX_PAGE,
        description="messages that are held here at most, when streaming; half as many are dealt "
        "with before the server is told that there is room again",
    )
    batch: int = Field(
        default=64,
        ge=1,
        le=MAX_PAGE,
        description="messages of one reply at most; when not streaming, all that are held here",
    )
    backoff_first: Seconds = Field(
        default=1, gt=0, description="the wait after the first failed attempt; it then doubles"
    )
    backoff_max: Seconds = Field(default=30, gt=0, description="the longest wait between attempts")
    backoff_jitter: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="the part of a wait that is left to chance: it is shorter by so much at most; "
        "one that a server asks for is longer by so much of ``backoff_first`` at most",
    )
    shuffle: bool = Field(
        default=True,
        description="whether several servers are tried in an order of chance, so that clients "
        "spread over them; else in the order in which they are given",
    )
