"""What the admin socket answers; the commands print most of it as it is, with `--json`."""

from typing import Literal

from pydantic import ConfigDict, Field

from twinline.cli.console.shapes import ServerState, Shape
from twinline.core.protocol import ErrorReply, Message


class AddressSeen(Shape):
    """Where an account was logged in to from."""

    address: str = Field(description="an IP address, of IPv6 its network, or `unix`")
    at: int = Field(description="when it was last noted, in ms")


class AccountState(Shape):
    """An account, as the operator sees it."""

    username: str = Field(description="the account")
    enabled: bool = Field(description="whether it can be logged in to")
    must_change: bool = Field(description="whether its password is a one-time password")
    sessions: int = Field(description="open sessions")
    unread: int = Field(description="messages that are not acknowledged")
    messages: int = Field(description="messages in its mailbox, read and unread")
    bytes: int = Field(description="of the bodies of those, and of its copies of what it has sent")
    quota: int | None = Field(
        description="how many unacknowledged messages it may have; null: as the setting has it"
    )
    created_at: int = Field(description="when it was created, in ms")
    addresses: tuple[AddressSeen, ...] = Field(description="where it was logged in to from")


class AccountStates(Shape):
    """A page of accounts."""

    accounts: tuple[AccountState, ...] = Field(description="sorted by name")
    last: str | None = Field(description="the name to go on after")
    more: bool = Field(description="whether others follow")


class OpenSession(Shape):
    """A session of an account; its token is known to nobody but its client."""

    username: str = Field(description="the account")
    opened_at: int = Field(description="when it was opened, in ms")
    used_at: int = Field(description="when it was last seen in use, to within an hour, in ms")


class OpenSessions(Shape):
    """The sessions of an account."""

    sessions: tuple[OpenSession, ...] = Field(description="the one that was used last first")


class Kicked(Shape):
    """An account whose sessions were ended."""

    username: str = Field(description="the account")
    sessions: int = Field(description="how many sessions were ended")


class Switched(Shape):
    """An account that can be logged in to, or not."""

    username: str = Field(description="the account")
    enabled: bool = Field(description="whether it can be logged in to now")


class OneTimePassword(Shape):
    """A password that opens nothing but a login that sets another."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    username: str = Field(description="the account")
    password: str = Field(repr=False, description="the one-time password, which is kept nowhere")


class QuotaSet(Shape):
    """What a mailbox may hold."""

    username: str = Field(description="the account")
    quota: int | None = Field(
        description="how many unacknowledged messages it may have; null: as the setting has it"
    )


class Deleted(Shape):
    """An account that is gone."""

    username: str = Field(description="the account")


class OpenInvitation(Shape):
    """An invitation that was not spent yet."""

    number: str = Field(description="what it is withdrawn by; it opens nothing")
    created_at: int = Field(description="when it was made, in ms")
    expires_at: int = Field(description="it counts before then, in ms")
    note: str = Field(description="what the operator wrote to it")


class NewInvitation(OpenInvitation):
    """An invitation that was just made."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    token: str = Field(repr=False, description="what `register --invitation` takes; kept nowhere")


class OpenInvitations(Shape):
    """The invitations that count."""

    invitations: tuple[OpenInvitation, ...] = Field(description="the oldest first")


class Draining(Shape):
    """A server that ends."""

    node: str | None = Field(description="its name among several servers, or null")
    connections: int = Field(description="how many it had when it was told")


class ReadAgain(Shape):
    """What was read again, or why it could not be."""

    node: str | None = Field(description="the server's name among several, or null")
    what: str = Field(description="what it is")
    told: str = Field(description="what is in force now; empty where it was not read")
    kept: str | None = Field(description="why that is what it was; null: it was read")
    needs_restart: tuple[str, ...] = Field(
        description="the settings that have changed, and hold from the next start on"
    )


class Reloaded(Shape):
    """All that was read again."""

    outcomes: tuple[ReadAgain, ...] = Field(description="one for each thing that can be")


class LogLevel(Shape):
    """How much a server logs."""

    node: str | None = Field(description="its name among several servers, or null")
    level: Literal["debug", "info", "warning", "error"] = Field(description="from this level on")


class ExportedAccount(AccountState):
    """An account whose data is exported."""

    kind: Literal["account"] = Field("account", description="`account`")
    account_id: str = Field(description="what its mailbox is known by")
    receipts: bool = Field(description="whether it gives and takes receipts")
    blocked: tuple[str, ...] = Field(description="whose mail it refuses, sorted")


class ExportedMail(Shape):
    """A page of messages."""

    messages: tuple[Message, ...] = Field(description="by rising seq")
    more: bool = Field(description="whether others follow")


class Traced(Shape):
    """Where a message is."""

    message_id: str = Field(description="the message")
    state: Literal["waiting", "acked", "deleted", "gone", "accepted", "unknown"] = Field(
        description="`waiting`: in the mailbox; `acked`: acknowledged, and in the history; "
        "`deleted`: by its recipient, for it would be kept still; `gone`: expired from the "
        "history, or deleted, which cannot be told any more; `accepted`, to its sender alone: it "
        "was stored, and no more is told, for one of the two gives no receipts or has blocked the "
        "other; `unknown`: the server knows of no such message"
    )
    recipient: str | None = Field(description="whose mailbox it was put into, where that is known")
    seq: int | None = Field(
        description="its number there; null: not there any more, or not told to its sender"
    )
    sender: str | None = Field(description="who sent it, where that is known")
    sent_at: int | None = Field(description="when the server accepted it, in ms")
    acked_at: int | None = Field(description="when it was acknowledged, in ms, if that is known")


class OpenConnection(Shape):
    """A connection, and what it has counted since it was opened."""

    number: int = Field(description="tells it from every other one of this server")
    username: str | None = Field(description="who is logged in, or null")
    address: str = Field(description="where it comes from: an IP address, or `unix`")
    endpoint: str = Field(description="which it has come to")
    transport: str = Field(description="what it speaks; empty where that is not known yet")
    since: int = Field(description="when it was opened, in ms")
    requests: int = Field(description="that it has asked")
    messages: int = Field(description="that it was sent")
    received: int = Field(description="bytes that it has sent")
    sent: int = Field(description="bytes that it was sent")


class OpenConnections(Shape):
    """A page of connections."""

    server: ServerState = Field(description="which server has them")
    connections: tuple[OpenConnection, ...] = Field(description="in the order of their arrival")
    more: bool = Field(description="whether others follow")


class Unread(Shape):
    """How many messages wait for accounts."""

    unread: dict[str, int] = Field(description="by the account's name")


class Refused(Shape):
    """Why something was not done."""

    error: ErrorReply = Field(description="as the protocol has it")
