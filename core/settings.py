"""The settings of the service, as a typed model that any front end can fill in.

The command line builds its file, variables and flags from the descriptions here.
"""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from twinline.core.deadline import LONGEST_DAYS, Seconds
from twinline.core.protocol import MAX_PAGE, MAX_REPLY_BYTES, MAX_WAIT_SECONDS, Limits
from twinline.core.reloading import RELOADED


class Registration(StrEnum):
    """Who may create an account."""

    OPEN = "open"
    """Everybody who can connect."""
    INVITATION = "invitation"
    """Who has an invitation of the operator's, and the operator."""
    CLOSED = "closed"
    """The operator alone."""


class ServiceSettings(BaseModel):
    """What `ChatService` allows, and for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    body_bytes: int = Field(
        default=16 * 1024,
        ge=1,
        le=64 * 1024,
        json_schema_extra=RELOADED,
        description="the longest message body, in bytes of UTF-8",
    )
    frame_bytes: int = Field(
        default=64 * 1024,
        ge=1024,
        le=MAX_REPLY_BYTES,
        json_schema_extra=RELOADED,
        description="the longest request frame after login",
    )
    frame_bytes_before_login: int = Field(
        default=4 * 1024,
        ge=512,
        le=MAX_REPLY_BYTES,
        json_schema_extra=RELOADED,
        description="the longest request frame before login",
    )
    session_idle_days: float = Field(
        default=30,
        gt=0,
        le=LONGEST_DAYS,
        json_schema_extra=RELOADED,
        description="a session that is not used for so long expires",
    )
    sessions_per_account: int = Field(
        default=1_000,
        ge=1,
        json_schema_extra=RELOADED,
        description="open sessions of one account; beyond it the one that was used longest ago "
        "ends",
    )
    watches_per_account: int = Field(
        default=64,
        ge=1,
        json_schema_extra=RELOADED,
        description="connections of one account that may wait for mail; one more gets `busy`",
    )
    free_deleted_names: bool = Field(
        default=False,
        json_schema_extra=RELOADED,
        description="let the name of a deleted account be taken again",
    )
    hash_wait_seconds: Seconds = Field(
        default=5,
        ge=0,
        json_schema_extra=RELOADED,
        description="how long a login may wait for a free core before it is answered `busy`",
    )
    admission_seconds: Seconds = Field(
        default=2,
        gt=0,
        json_schema_extra=RELOADED,
        description="who comes back to a session is let in as long as it will be served within "
        "so many seconds, by what the server was seen to serve; others get `busy`",
    )
    failures_per_account: int = Field(
        default=5,
        ge=1,
        json_schema_extra=RELOADED,
        description="failed logins to one account from one address before the next ones are slowed",
    )
    failures_per_address: int = Field(
        default=20,
        ge=1,
        json_schema_extra=RELOADED,
        description="failed logins from one address, to whichever accounts, before the next ones "
        "are slowed",
    )
    guesses_per_minute: int = Field(
        default=20,
        ge=2,
        json_schema_extra=RELOADED,
        description="passwords a minute that are tried at one account by all addresses together "
        "that have not logged in to it within 30 days; each address gets its turn",
    )
    registration: Registration = Field(
        default=Registration.OPEN,
        json_schema_extra=RELOADED,
        description="who may create an account: everybody (`open`), who has an invitation of the "
        "operator's (`invitation`), or only the operator (`closed`)",
    )
    registrations_per_hour: int = Field(
        default=20,
        ge=0,
        le=10_000,
        json_schema_extra=RELOADED,
        description="accounts an hour that one address may create, loopback addresses and Unix "
        "sockets excepted; 0 is no limit",
    )
    ipv6_prefix: int = Field(
        default=64,
        ge=1,
        le=128,
        json_schema_extra=RELOADED,
        description="limits by address count IPv6 addresses that begin with the same so many bits "
        "as one, because whoever has one of them has all",
    )
    sends_per_second: float = Field(
        default=0,
        ge=0,
        json_schema_extra=RELOADED,
        description="sends a second that one account may make through one server process; 0 is no "
        "limit",
    )

    def limits(self) -> Limits:
        """Return the limits that the reply to `hello` has."""
        return Limits(
            body_bytes=self.body_bytes,
            frame_bytes=self.frame_bytes,
            frame_bytes_before_login=self.frame_bytes_before_login,
            reply_bytes=MAX_REPLY_BYTES,
            page=MAX_PAGE,
            wait_seconds=MAX_WAIT_SECONDS,
        )
