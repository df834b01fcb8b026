"""What can be asked on the admin socket: a JSON object a line, with its ``op`` and its fields.

    → {"op":"kick","username":"ann"}
    ← {"username":"ann","sessions":2}
    → {"op":"kick","username":"nobody"}
    ← {"error":{"code":"no_such_user","message":"there is no such user","retryable":false}}

There is one reply to each request, in their order. What has no end, such as a million accounts, is
asked for page by page.
"""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from twinline.cli.server.admin import replies
from twinline.core.admin import INVITATION_HOURS
from twinline.stores.rules import LOOK_THROUGH_SECONDS

PAGE: Final = 25
"""Accounts of one reply: each mailbox among them is read for its size."""
MOST_CONNECTIONS: Final = 1_000
"""Of one reply."""
MOST_NAMES: Final = 1_000
NOTE_CHARACTERS: Final = 200
_Name = Annotated[str, Field(max_length=200)]


class AdminRequest(BaseModel):
    """The base of every request."""

    # Strict, so that no `true` passes for the number 1.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    reply: ClassVar[type[BaseModel]]
    """What answers it, unless it is refused."""
    seconds: ClassVar[float] = 0.0
    """A client waits at least so long for the answer, whatever it is told to: the work takes it."""


class Accounts(AdminRequest):
    """List accounts."""

    reply = replies.AccountStates
    op: Literal["accounts"] = "accounts"
    pattern: _Name = "*"
    after: _Name | None = None
    limit: int = Field(default=PAGE, ge=1, le=PAGE)


class Sessions(AdminRequest):
    """List the sessions of an account."""

    reply = replies.OpenSessions
    op: Literal["sessions"] = "sessions"
    username: _Name


class Kick(AdminRequest):
    """End all sessions of an account."""

    reply = replies.Kicked
    op: Literal["kick"] = "kick"
    username: _Name


class Disable(AdminRequest):
    """Let nobody log in to an account, and end its sessions."""

    reply = replies.Switched
    op: Literal["disable"] = "disable"
    username: _Name


class Enable(AdminRequest):
    """Let an account be logged in to again."""

    reply = replies.Switched
    op: Literal["enable"] = "enable"
    username: _Name


class ResetPassword(AdminRequest):
    """Give an account a one-time password."""

    reply = replies.OneTimePassword
    op: Literal["reset_password"] = "reset_password"
    username: _Name


class Quota(AdminRequest):
    """Set how many unacknowledged messages a mailbox may hold; null: as the setting has it."""

    reply = replies.QuotaSet
    op: Literal["quota"] = "quota"
    username: _Name
    messages: int | None = Field(ge=1, le=2**53 - 1)


class Delete(AdminRequest):
    """Delete an account, with its mailbox and its sessions."""

    reply = replies.Deleted
    op: Literal["delete"] = "delete"
    username: _Name


class Invite(AdminRequest):
    """Make an invitation."""

    reply = replies.NewInvitation
    op: Literal["invite"] = "invite"
    hours: float = Field(default=INVITATION_HOURS, allow_inf_nan=False)
    note: str = Field(default="", max_length=NOTE_CHARACTERS)


class Invitations(AdminRequest):
    """List the invitations that count."""

    reply = replies.OpenInvitations
    op: Literal["invitations"] = "invitations"


class Withdraw(AdminRequest):
    """Take an invitation back."""

    reply = replies.OpenInvitation
    op: Literal["withdraw"] = "withdraw"
    number: _Name


class Drain(AdminRequest):
    """End the server, as SIGTERM does."""

    reply = replies.Draining
    op: Literal["drain"] = "drain"


class Reload(AdminRequest):
    """Read again what can be, as SIGHUP does."""

    reply = replies.Reloaded
    op: Literal["reload"] = "reload"


class SetLogLevel(AdminRequest):
    """Change how much is logged, or only tell that."""

    reply = replies.LogLevel
    op: Literal["log_level"] = "log_level"
    level: Literal["debug", "info", "warning", "error"] | None = None


class Export(AdminRequest):
    """Begin to export what is kept of an account."""

    reply = replies.ExportedAccount
    op: Literal["export"] = "export"
    username: _Name


class ExportMail(AdminRequest):
    """Read a page of the messages of an account that is exported."""

    reply = replies.ExportedMail
    op: Literal["export_mail"] = "export_mail"
    account_id: _Name
    after: int = Field(default=0, ge=0, le=2**53 - 1)


class Trace(AdminRequest):
    """Ask where a message is."""

    seconds = LOOK_THROUGH_SECONDS + 5.0
    reply = replies.Traced
    op: Literal["trace"] = "trace"
    message_id: _Name
    to: _Name | None = None


class Connections(AdminRequest):
    """List the connections that are open."""

    reply = replies.OpenConnections
    op: Literal["connections"] = "connections"
    after: int = Field(default=0, ge=0)
    limit: int = Field(default=MOST_CONNECTIONS, ge=0, le=MOST_CONNECTIONS)


class CountUnread(AdminRequest):
    """Ask how many messages wait for accounts."""

    reply = replies.Unread
    op: Literal["unread"] = "unread"
    usernames: tuple[_Name, ...] = Field(max_length=MOST_NAMES)


AnyRequest = (
    Accounts
    | Sessions
    | Kick
    | Disable
    | Enable
    | ResetPassword
    | Quota
    | Delete
    | Invite
    | Invitations
    | Withdraw
    | Drain
    | Reload
    | SetLogLevel
    | Export
    | ExportMail
    | Trace
    | Connections
    | CountUnread
)
"""Whatever can be asked."""
ANY_REQUEST: Final[TypeAdapter[AnyRequest]] = TypeAdapter(
    Annotated[AnyRequest, Field(discriminator="op")]
)
"""Reads it."""
