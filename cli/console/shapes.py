"""What the commands print with `--json`: a model for each, with every field's meaning and unit.

What is a reply of the server's is its own model in `twinline.core.protocol`. The tables of
``docs/cli.md`` are made from all of these (`docs/_generate`), and tests compare them with
what the commands print.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Shape(BaseModel):
    """One JSON object on one line."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Failure(Shape):
    """What ended a command, on stderr."""

    error: str = Field(
        description="the server's error code, such as `no_such_user`; without one, what the exit "
        "code means: `failure`, `usage`, `denied`, `unreachable` or `timed_out`"
    )
    message: str = Field(description="for a person")
    exit_code: int = Field(description="what the command ends with")
    retry_after_ms: int | None = Field(description="how long the server asks to wait, or null")


class Account(Shape):
    """An account."""

    username: str = Field(description="the account")


class LoggedIn(Account):
    """A session that was opened; its token is not printed."""

    position: int = Field(description="the last acknowledged seq, 0 at first")
    unread: int = Field(description="messages after it")


class ReceiptsGiven(Shape):
    """Whether an account gives receipts, and is given them."""

    receipts: bool = Field(description="whether senders are told what this account acknowledges")


class Listening(Shape):
    """An endpoint that is ready."""

    endpoint: str = Field(description="where clients connect, with the port that was chosen")
    transport: str = Field(description="what is spoken there; `auto` is all")
    store: str = Field(description="the scheme of the store's URL")
    durability: str = Field(description="of an acknowledged message: what it outlives")
    ca_file: str | None = Field(
        None, description="what clients are to trust, with `--self-signed`; else null"
    )


class DemoStep(Shape):
    """Something that happens in the demo."""

    event: Literal["listening", "registered", "sent", "received", "offline", "online"] = Field(
        description="what happens"
    )
    endpoint: str | None = Field(None, description="of the server, when it is listening")
    username: str | None = Field(None, description="who it happens to")
    peer: str | None = Field(None, description="whom they write to, or who wrote")
    body: str | None = Field(None, description="the message's text")
    transport: str | None = Field(None, description="what they speak, when they register")


class InForce(Shape):
    """A setting."""

    value: Any = Field(description="the value in force; null is unset")
    source: str = Field(description="where it comes from")


class Explained(Shape):
    """A setting, and all there is to know of it."""

    key: str = Field(description="the setting")
    value: Any = Field(description="the value in force; null is unset")
    source: str = Field(description="where it comes from")
    line: int | None = Field(description="of the settings file, from 1; null where it is not there")
    about: str = Field(description="what it does")
    expected: str = Field(description="what it can be")
    default: Any = Field(description="the value that it has if nothing is said")
    reload: str = Field(description="what becomes of a change while a server runs")
    flag: str = Field(description="its flag")
    variable: str = Field(description="its environment variable")


class FileChecked(Shape):
    """A settings file that a server could run with."""

    path: str = Field(description="the file")
    warnings: tuple[str, ...] = Field((), description="what its operator should know")


class RoundTrip(Shape):
    """One ping."""

    number: int = Field(description="which, from 1")
    milliseconds: float = Field(description="that it took")
    endpoint: str = Field(description="of the server that answered")
    node: str | None = Field(description="how that server calls itself, or null")


class Script(Shape):
    """The completion of a shell."""

    shell: str = Field(description="the shell")
    script: str = Field(description="what it should evaluate")


class StoreChecked(Shape):
    """What a check of a store found."""

    sound: bool = Field(description="whether there are no faults")
    repaired: tuple[str, ...] = Field(description="what was mended before, with --repair")
    faults: tuple[str, ...] = Field(description="what is wrong")
    notes: tuple[str, ...] = Field(description="what is unusual, and no fault")


class StoreCopied(Shape):
    """A copy of a store in a file."""

    source: str = Field(description="the store")
    target: str = Field(description="its copy")
    bytes: int = Field(description="the copy's size")


class StoreMoved(Shape):
    """All that a store keeps, in another one."""

    source: str = Field(description="the store that was read")
    target: str = Field(description="the one that has it all now")
    accounts: int = Field(description="accounts")
    reserved_names: int = Field(description="names of deleted accounts")
    messages: int = Field(description="messages, read and unread")


class StoreRestored(Shape):
    """A backup in the place of a store's file."""

    source: str = Field(description="the backup")
    target: str = Field(description="the file")
    replaced: str | None = Field(
        description="where the file is that was there before; null if there was none"
    )
    bytes: int = Field(description="the file's size")


class StoreMigrated(Shape):
    """A store at the schema version of this program."""

    before: int = Field(description="its schema version before")
    after: int = Field(description="its schema version now")
    copy_: str | None = Field(
        alias="copy", description="the file as it was before; null if none was copied"
    )


class MailboxSize(Shape):
    """How much mail one mailbox holds."""

    username: str | None = Field(description="whose it is; null if the account is gone")
    messages: int = Field(description="messages, read and unread")
    unread: int = Field(description="messages that are not acknowledged")
    quota: int | None = Field(
        description="how many of those it may hold; null: as many as the server's settings say"
    )
    mail_bytes: int = Field(description="the bodies' bytes of UTF-8, copies included")


class StoreStats(Shape):
    """What a store holds."""

    accounts: int = Field(description="accounts")
    sessions: int = Field(description="open sessions")
    mailboxes: int = Field(description="mailboxes")
    messages: int = Field(description="messages, read and unread")
    unread: int = Field(description="messages that are not acknowledged")
    bytes: int = Field(description="that it takes: a file and its log, or in its engine")
    schema_version: int = Field(description="of the store")
    durability: str = Field(description="of an acknowledged message")
    mail_bytes: int | None = Field(
        description="the bodies' bytes of UTF-8, of all mailboxes, copies included; null: the "
        "store does not tell"
    )
    largest: tuple[MailboxSize, ...] = Field(
        description="the mailboxes with the most of them, as many as `--largest` says"
    )


class Exported(Shape):
    """An account whose data is in a file."""

    username: str = Field(description="the account")
    path: str = Field(description="the file, which only its owner can read")
    messages: int = Field(description="how many messages are in it")


class ExportedSession(Shape):
    """A session of an account whose data is exported."""

    kind: Literal["session"] = Field("session", description="`session`")
    opened_at: int = Field(description="when it was opened, in ms")
    used_at: int = Field(description="when it was last seen in use, to within an hour, in ms")


class ExportedMessage(Shape):
    """A message in the mailbox of an account whose data is exported, or the copy of one."""

    kind: Literal["message"] = Field("message", description="`message`")
    seq: int = Field(description="its number in the mailbox")
    message_id: str = Field(description="its id")
    sender: str = Field(description="who sent it")
    body: str = Field(description="its text")
    sent_at: int = Field(description="when the server accepted it, in ms")
    to: str | None = Field(description="of a copy of what the account has sent: to whom; else null")
    n: int | None = Field(description="of a copy: as the reply to `send` had it; else null")


class ConnectionRate(Shape):
    """A connection, and what it does."""

    node: str | None = Field(description="the server that it is connected to, or null")
    number: int = Field(description="tells it from every other one of that server")
    username: str | None = Field(description="who is logged in, or null")
    address: str = Field(description="where it comes from: an IP address, or `unix`")
    endpoint: str = Field(description="which it has come to")
    transport: str = Field(description="what it speaks; empty where that is not known yet")
    since: int = Field(description="when it was opened, in ms")
    requests_per_second: float = Field(description="that it asks")
    messages_per_second: float = Field(description="that it is sent")
    received_per_second: float = Field(description="bytes that it sends")
    sent_per_second: float = Field(description="bytes that it is sent")
    unread: int | None = Field(description="messages that wait for its account, or null")


class ServerState(Shape):
    """A server that answers."""

    node: str | None = Field(description="its name among several servers, or null")
    version: str = Field(description="of twinline")
    pid: int = Field(description="of its process")
    now: int = Field(description="its time, in ms")
    connections: int = Field(description="that are open")


class TopShown(Shape):
    """One look at all connections."""

    interval_seconds: float = Field(description="between two looks")
    servers: tuple[ServerState, ...] = Field(description="one for each that has answered")
    silent: tuple[str, ...] = Field(description="why others have not, a sentence each")
    connections: tuple[ConnectionRate, ...] = Field(description="in the order of `--sort`")
