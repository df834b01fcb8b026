"""The settings of the service, as a typed model that any front end can fill in.

The command line builds its file, variables and flags from the descriptions here.
"""

from pydantic import BaseModel, ConfigDict, Field

from twinline.core.protocol import MAX_PAGE, MAX_REPLY_BYTES, MAX_WAIT_SECONDS, Limits


class ServiceSettings(BaseModel):
    """What `ChatService` allows, and for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    body_bytes: int = Field(
        default=16 * 1024,
        ge=1,
        le=64 * 1024,
        description="the longest message body, in bytes of UTF-8",
    )
    frame_bytes: int = Field(
        default=64 * 1024,
        ge=1024,
        le=MAX_REPLY_BYTES,
        description="the longest request frame after login",
    )
    frame_bytes_before_login: int = Field(
        default=4 * 1024,
        ge=512,
        le=MAX_REPLY_BYTES,
        description="the longest request frame before login",
    )
    session_idle_days: float = Field(
        default=30, gt=0, description="a session that is not used for so long expires"
    )
    sessions_per_account: int = Field(
        default=1_000,
        ge=1,
        description="open sessions of one account; beyond it the one that was used longest ago "
        "ends",
    )
    watches_per_account: int = Field(
        default=64,
        ge=1,
        description="connections of one account that may wait for mail; one more gets `busy`",
    )
    free_deleted_names: bool = Field(
        default=False, description="let the name of a deleted account be taken again"
    )
    hash_wait_seconds: float = Field(
        default=5,
        ge=0,
        description="how long a login may wait for a free core before it is answered `busy`",
    )
    failures_per_account: int = Field(
        default=5,
        ge=1,
        description="failed logins to one account before the next ones are slowed",
    )
    failures_per_address: int = Field(
        default=20,
        ge=1,
        description="failed logins from one address before the next ones are slowed",
    )
    ipv6_prefix: int = Field(
        default=64,
        ge=1,
        le=128,
        description="limits by address count IPv6 addresses that begin with the same so many bits "
        "as one, because whoever has one of them has all",
    )
    sends_per_second: float = Field(
        default=0, ge=0, description="sends a second that one account may make; 0 is no limit"
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
