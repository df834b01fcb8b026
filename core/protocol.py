"""The protocol: every request and every reply as a frozen pydantic model.

This file is the one source for the transports, the client, the service and the tables in
``docs/protocol.md``. A model says what a message means; how it looks on the wire is a
transport's affair, and so is the ``id`` that ties a reply to its request.

Rules that hold for every model:

* integers are 0 ... 2**53 - 1, so that any JSON reader can hold them exactly;
* times are integer milliseconds since 1970-01-01 UTC;
* an unknown field is ignored, a missing or mistyped one is an error;
* a password or a token is in no model's ``repr``, and no refused value in an error's text;
* a field that equals its default is left out on the wire.
"""

from collections.abc import Callable
from enum import StrEnum
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Final, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, Strict

PROTOCOL_VERSION: Final = 1
"""The version that this package speaks."""
MAX_INT: Final = 2**53 - 1
"""The largest integer in any field."""
MAX_PAGE: Final = 1_000
"""The most usernames, messages or seqs that one request may ask for or name."""
MAX_WAIT_SECONDS: Final = 60
"""The longest that a watch may wait."""
PASSWORD_CHARACTERS: Final = range(8, 128 + 1)
"""How many characters a password may have that is set."""
MAX_REPLY_BYTES: Final = 1 << 20
"""No reply is longer than this on any built-in transport; a client may refuse a longer one."""


class Kind(StrEnum):
    """What an entry of a mailbox is."""

    MAIL = "mail"
    """A message that was sent to the mailbox's account."""
    SENT = "sent"
    """The copy of a message that the account has sent."""
    RECEIPT = "receipt"
    """That another account has acknowledged what was sent to it."""


Kinds = frozenset[Kind]
"""Some of them, in no order."""
MAIL_ALONE: Final[Kinds] = frozenset({Kind.MAIL})
"""What a client of a mailbox gets that asks for nothing else."""
TALK: Final[Kinds] = frozenset({Kind.MAIL, Kind.SENT})
"""What both sides of a conversation have written."""
EVERY_KIND: Final[Kinds] = frozenset(Kind)
"""All that there is."""


_MAIL_NAMED: Final = (Kind.MAIL,)


def kinds_of(named: tuple[Kind, ...]) -> Kinds:
    """Return the kinds that a request names: most name mail alone, which is one object."""
    return MAIL_ALONE if named is _MAIL_NAMED or named == _MAIL_NAMED else frozenset(named)


_seq_in: Final = attrgetter("seq")
Uint = Annotated[int, Strict(), Field(ge=0, le=MAX_INT)]
Text = Annotated[str, Strict()]
Secret = Text
"""A password or a token. Each such field has ``repr=False``, for a model may get into a log."""
Flag = Annotated[bool, Strict()]
PageSize = Annotated[int, Strict(), Field(ge=1, le=MAX_PAGE)]
# A list of wrong items is refused at the first: an error for each would cost megabytes.
KindsField = Annotated[tuple[Kind, ...], Field(min_length=1, max_length=len(Kind), fail_fast=True)]
MessageId = Annotated[str, Strict(), Field(pattern=r"^[0-9a-f]{24}$")]
"""96 bits as 24 lowercase hexadecimal digits."""
AccountId = Annotated[str, Strict(), Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
"""What a request names an account by that may have its name no more."""


class _Model(BaseModel):
    # A value that is refused may be a password that went into the wrong field. A field that is
    # called `with` or `copy` on the wire is `with_` or `copy_` here, for one is a word of Python
    # and the other a method of every model: see `own_names`.
    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        validate_by_name=True,
        serialize_by_alias=True,
    )


Model = TypeVar("Model", bound=_Model)


def maker(model: type[Model]) -> Callable[[dict[str, Any]], Model]:
    """Return what validates a dictionary of fields and makes a model of them.

    It is ``model_validate`` without the Python around it, for what is made in every send and every
    delivery.

    Raises:
        pydantic.ValidationError: by what is returned, as ``model_validate`` does.
    """
    make: Callable[[dict[str, Any]], Model] = model.__pydantic_validator__.validate_python
    return make


def own_names(model: type[BaseModel]) -> tuple[str, ...]:
    """Return the names of those fields that are called otherwise in the protocol.

    A program may use them as keywords. To a peer they are no fields: a codec that validates the
    peer's names says ``by_name=False``, or drops these first.
    """
    return tuple(name for name, field in model.model_fields.items() if field.alias is not None)


# ---------------------------------------------------------------------------------------
# Replies


class Reply(_Model):
    """The base of every reply."""

    @property
    def continues(self) -> bool:
        """Whether another reply to the same request follows."""
        return False


class ErrorReply(Reply):
    """A request was refused; `twinline.core.errors` has an exception for each code."""

    code: Text = Field(description="one of the error codes")
    message: Text = Field(description="a sentence for a person")
    retryable: Flag = Field(description="whether the same request may succeed later")
    retry_after_ms: Uint | None = Field(
        default=None, description="`rate_limited`, `busy` and `shutting_down`: when to try again"
    )
    count: Uint | None = Field(
        default=None, description="`undelivered_messages`: how many there are"
    )
    endpoints: tuple[Text, ...] | None = Field(
        default=None, description="`shutting_down`: other servers with the same accounts and mail"
    )


class Limits(_Model):
    """What a server accepts, as `HelloReply` has it."""

    body_bytes: Uint = Field(description="a message's body, in bytes of UTF-8")
    frame_bytes: Uint = Field(description="a request's frame after login")
    frame_bytes_before_login: Uint = Field(description="a request's frame before login")
    reply_bytes: Uint = Field(description="the longest reply that the server sends")
    page: Uint = Field(
        description="the largest `limit` or `window`, and the most `seqs`, of one request"
    )
    wait_seconds: Uint = Field(description="the longest `wait` of a watch")


class HelloReply(Reply):
    """The server's name, version and limits."""

    protocol: Uint = Field(description="the protocol version that the server speaks")
    server: Text = Field(description="the server's name and version")
    node: Text | None = Field(
        default=None,
        description="which of the servers with one state this is, if it is named",
    )
    limits: Limits = Field(description="what the server accepts")
    incarnation: Text | None = Field(
        default=None,
        description="where all accounts, sessions and mail end with the server, which keeps them "
        "in memory alone: stands for this start of it, and another one for the next, which has "
        "forgotten them",
    )


class SessionReply(Reply):
    """The connection is logged in."""

    username: Text = Field(description="the account, as the server spells it")
    session: Secret = Field(repr=False, description="the token that `resume` takes; a secret")
    position: Uint = Field(description="the last acked seq of the mailbox")
    unread: Uint = Field(description="how many messages wait beyond the position")


class Done(Reply):
    """Carried out; there is nothing more to say."""


class AccountsReply(Reply):
    """A page of usernames."""

    usernames: tuple[Text, ...] = Field(description="sorted by code point")
    more: Flag = Field(description="whether others follow the last one")


class SentReply(Reply):
    """The message is in the store, to the durability that the store states."""

    message_id: MessageId = Field(description="the message's id, unique everywhere")
    sent_at: Uint = Field(description="when the server accepted it, in ms")
    n: Uint = Field(
        description="rises from one message to this recipient to the next; see `Receipt`"
    )


class Message(_Model):
    """One message, as it stands in its recipient's mailbox, or as a copy in its sender's."""

    seq: Uint = Field(description="its number in the mailbox, rising")
    message_id: MessageId = Field(description="its id, as its sender got it")
    sender: Text = Field(description="the sender's username")
    body: Text = Field(description="the text, exactly as sent")
    sent_at: Uint = Field(description="when the server accepted it, in ms")
    to: Text | None = Field(default=None, description="of a copy alone: whom it was sent to")
    n: Uint | None = Field(
        default=None, description="of a copy alone: as the reply to `send` had it"
    )

    @property
    def kind(self) -> Kind:
        """What it is in this mailbox: mail, or the copy of what was sent."""
        return Kind.MAIL if self.to is None else Kind.SENT


class Receipt(_Model):
    """Another account has acknowledged all that was sent to it, up to one message.

    There is one for each account; a later one takes its place, under a new seq.
    """

    seq: Uint = Field(description="its number in the mailbox, rising")
    username: Text = Field(description="who has acknowledged")
    n: Uint = Field(description="what was sent to it with this `n` or a lower one is acknowledged")
    acked_at: Uint = Field(description="when that was, in ms")


Entry = Message | Receipt
"""What lies in a mailbox."""


def entries_of(messages: tuple[Message, ...], receipts: tuple[Receipt, ...]) -> tuple[Entry, ...]:
    """Return the entries of a page, by rising seq."""
    if not receipts:
        return messages
    entries: list[Entry] = [*messages, *receipts]
    return tuple(sorted(entries, key=_seq_in))


class WatchReply(Reply):
    """What is in the mailbox beyond `after`; empty when the time is up."""

    messages: tuple[Message, ...] = Field(description="by rising seq")
    position: Uint = Field(description="the last acked seq of the mailbox")
    seen: Uint = Field(
        description="up to which seq it has looked for the kinds that were asked for: the next "
        "`after`"
    )
    receipts: tuple[Receipt, ...] = Field(default=(), description="by rising seq")
    more: Flag = Field(
        default=False, description="whether another reply to this watch follows: it is a stream"
    )

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What it brings, by rising seq."""
        return entries_of(self.messages, self.receipts)

    @property
    def continues(self) -> bool:
        """Whether another reply to the same watch follows."""
        return self.more


class AckReply(Reply):
    """Where the mailbox stands after the ack."""

    position: Uint = Field(description="the last acked seq of the mailbox")
    unread: Uint = Field(description="how many messages wait beyond the position")


class HistoryReply(Reply):
    """A page of the mailbox, going back in time."""

    messages: tuple[Message, ...] = Field(description="by rising seq: the newest is last")
    more: Flag = Field(description="whether older ones are kept")
    seen: Uint = Field(description="down to which seq it has looked: the next `before`")
    receipts: tuple[Receipt, ...] = Field(default=(), description="by rising seq")
    account: Text | None = Field(
        default=None, description="of `with`: which account has the name now; left out: none has"
    )

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What it brings, by rising seq: the newest is last."""
        return entries_of(self.messages, self.receipts)


class Conversation(_Model):
    """Another account, and what was last written to or by it."""

    username: Text = Field(description="the other account, as its messages have it")
    last: Message = Field(description="the newest message of either side")
    unread: Uint = Field(description="how many messages of it wait beyond the position")
    account: Text | None = Field(
        default=None,
        description="which account that is, for `history`: another one may have its name now; left "
        "out of old messages of which the name alone was kept",
    )


class ConversationsReply(Reply):
    """A page of conversations."""

    conversations: tuple[Conversation, ...] = Field(
        description="the one with the newest message first"
    )
    more: Flag = Field(description="whether others follow: the next `before` is the last one's seq")


class BlockedReply(Reply):
    """Whose mail this account refuses."""

    usernames: tuple[Text, ...] = Field(description="sorted by code point")


class TraceReply(Reply):
    """Where a message is that the caller sent."""

    state: Text = Field(
        description="`waiting`: in the mailbox; `acked`: acknowledged, and in the history; "
        "`deleted`: by its recipient, for it would be kept still; `gone`: expired from the "
        "history, or deleted, which cannot be told any more; `accepted`: it was stored, and no "
        "more is told, for one of the two gives no receipts or has blocked the other; `unknown`: "
        "the server knows of no such message"
    )
    sent_at: Uint | None = Field(default=None, description="when the server accepted it, in ms")
    acked_at: Uint | None = Field(
        default=None, description="when its recipient acknowledged it, in ms, if that is known"
    )


class DeletedReply(Reply):
    """How many of the named messages there were to delete."""

    deleted: Uint = Field(description="messages deleted")


class StatusReply(Reply):
    """Who is logged in here, and where the mailbox stands."""

    username: Text = Field(description="the account of this connection")
    position: Uint = Field(description="the last acked seq of the mailbox")
    unread: Uint = Field(description="how many messages wait beyond the position")
    receipts: Flag = Field(
        description="whether senders are told what this account acknowledges, and it is told of "
        "what it sends"
    )


# ---------------------------------------------------------------------------------------
# Requests


class Request(_Model):
    """The base of every request."""

    op: ClassVar[str]
    """Its name in the protocol."""
    reply: ClassVar[type[Reply]]
    """What answers it, unless it is refused."""
    before_login: ClassVar[bool] = False
    """Whether a connection that is not logged in may ask this."""
    repeatable: ClassVar[bool] = True
    """Whether a client that does not know if it was carried out may simply ask again."""
    may_take_long: ClassVar[bool] = False
    """Whether it may take more than moments: it waits, hashes a password, or looks at all names."""


class Hello(Request):
    """Ask who the server is; the first request of a connection, if it is sent at all."""

    op = "hello"
    reply = HelloReply
    before_login = True
    protocol: Uint = Field(
        default=PROTOCOL_VERSION, description="the version that the client speaks"
    )
    client: Text | None = Field(default=None, description="the client's name and version")


class CreateAccount(Request):
    """Create an account and log in to it."""

    op = "create_account"
    reply = SessionReply
    may_take_long = True
    before_login = True
    repeatable = False
    username: Text = Field(description="1 to 32 of a-z 0-9 . _ -, case is folded")
    password: Secret = Field(repr=False, description="8 to 128 characters")
    invitation: Secret | None = Field(
        default=None,
        repr=False,
        description="the operator's, where the server asks for one; it is spent with it",
    )


class Login(Request):
    """Open a session."""

    op = "login"
    reply = SessionReply
    may_take_long = True
    before_login = True
    repeatable = False
    username: Text = Field(description="the account")
    password: Secret = Field(repr=False, description="its password")
    new_password: Secret | None = Field(
        default=None,
        repr=False,
        description="set this password first, which revokes every session of the account; "
        "`password_change_required` asks for it",
    )


class LoginCertificate(Request):
    """Open a session of the account that the client's certificate names, over TLS."""

    op = "login_certificate"
    reply = SessionReply
    before_login = True
    repeatable = False


class Resume(Request):
    """Bind this connection to a session that is open already."""

    op = "resume"
    reply = SessionReply
    before_login = True
    session: Secret = Field(repr=False, description="the token from login")


class Logout(Request):
    """Revoke the session; every connection of it ends."""

    op = "logout"
    reply = Done
    repeatable = False


class ListAccounts(Request):
    """List usernames by pattern, page by page."""

    op = "list_accounts"
    reply = AccountsReply
    may_take_long = True
    pattern: Text = Field(
        default="*", description="`*` any run, `?` any character, `\\` escapes; anchored"
    )
    after: Text | None = Field(default=None, description="the last username of the page before")
    limit: PageSize = Field(default=100, description="1 to 1,000")


class Send(Request):
    """Send a message."""

    op = "send"
    reply = SentReply
    to: Text = Field(description="the recipient's username")
    body: Text = Field(description="the text, not empty")
    send_id: Text | None = Field(
        default=None,
        description="1 to 64 bytes of the sender's choice; a repeat to the same recipient gets the "
        "first result",
    )
    copy_: Flag = Field(
        default=False,
        alias="copy",
        description="keep a copy in the sender's own mailbox; needs a `send_id`",
    )


class Watch(Request):
    """Read beyond `after`; with `wait`, until there is something to read; with `window`, on and on.

    A watch without a window has one reply. A watch with one is a stream: it has as many as mail
    comes in, until the window is used up or the time is.
    """

    op = "watch"
    reply = WatchReply
    may_take_long = True
    after: Uint = Field(description="the last seq that this connection has seen")
    ack: Uint | None = Field(default=None, description="acknowledge up to here first")
    limit: PageSize = Field(default=64, description="messages of one reply, 1 to 1,000")
    wait: Annotated[int, Strict(), Field(ge=0, le=MAX_WAIT_SECONDS)] = Field(
        default=0, description="seconds, 0 to 60"
    )
    window: Annotated[int, Strict(), Field(ge=0, le=MAX_PAGE)] = Field(
        default=0,
        description="0: one reply; else replies with so many messages beyond `after` in all, up to "
        "1,000",
    )
    renew: Flag = Field(
        default=False,
        description="go on from the last seq that the stream before it on this connection has "
        "sent, even if that has ended",
    )
    kinds: KindsField = Field(
        default=_MAIL_NAMED, description="which entries, 1 to 3: `mail`, `sent`, `receipt`"
    )


class Ack(Request):
    """Acknowledge every message up to a seq; the position never moves back."""

    op = "ack"
    reply = AckReply
    up_to: Uint = Field(description="the last seq that is dealt with")


class History(Request):
    """Read the mailbox backwards, acked messages included."""

    op = "history"
    reply = HistoryReply
    before: Uint | None = Field(default=None, description="only seqs below this one")
    limit: PageSize = Field(default=50, description="1 to 1,000")
    with_: Text | None = Field(
        default=None,
        alias="with",
        description="only what this account has sent, and the copies of what was sent to it",
    )
    kinds: KindsField | None = Field(
        default=None,
        description="which entries, 1 to 3: `mail`, `sent`, `receipt`; if left out, mail alone, "
        "and with `with` mail and copies",
    )
    account: AccountId | None = Field(
        default=None,
        description="beside `with`: the account of a conversation, as `conversations` has it; if "
        "left out, the one that has the name now, and if none has, all that had it",
    )


class Conversations(Request):
    """List whom this account has written to or heard from, the newest message first."""

    op = "conversations"
    reply = ConversationsReply
    before: Uint | None = Field(
        default=None, description="only those whose last message has a seq below this one"
    )
    limit: PageSize = Field(default=50, description="1 to 1,000")


class Block(Request):
    """Refuse what an account sends from now on; it is told `refused`."""

    op = "block"
    reply = Done
    username: Text = Field(description="whose mail")


class Unblock(Request):
    """Take mail of an account again; nothing happens if it is not refused."""

    op = "unblock"
    reply = Done
    username: Text = Field(description="whose mail")


class ListBlocked(Request):
    """Ask whose mail is refused."""

    op = "list_blocked"
    reply = BlockedReply


class SetReceipts(Request):
    """Let senders be told what this account acknowledges, or not; then it is not told either."""

    op = "set_receipts"
    reply = Done
    receipts: Flag = Field(description="whether it may be told")


class DeleteMessages(Request):
    """Delete messages from the own mailbox."""

    op = "delete_messages"
    reply = DeletedReply
    seqs: Annotated[tuple[Uint, ...], FailFast(), Field(min_length=1, max_length=MAX_PAGE)] = Field(
        description="1 to 1,000 seqs"
    )


class Trace(Request):
    """Ask where a message is that this account sent."""

    op = "trace"
    reply = TraceReply
    may_take_long = True
    message_id: MessageId = Field(description="as its reply to `send` had it")
    to: Text = Field(description="whom it was sent to")


class Status(Request):
    """Ask who is logged in and how much is unread."""

    op = "status"
    reply = StatusReply


class ChangePassword(Request):
    """Set another password; every other session of the account is revoked."""

    op = "change_password"
    reply = Done
    may_take_long = True
    repeatable = False
    password: Secret = Field(repr=False, description="the password that holds now")
    new_password: Secret = Field(repr=False, description="8 to 128 characters")


class DeleteAccount(Request):
    """Delete the own account, its mailbox and its sessions."""

    op = "delete_account"
    reply = Done
    may_take_long = True
    repeatable = False
    password: Secret = Field(repr=False, description="the password")
    force: Flag = Field(default=False, description="even with undelivered mail")


class Ping(Request):
    """Ask whether the server answers."""

    op = "ping"
    reply = Done
    before_login = True


REQUESTS: Final[tuple[type[Request], ...]] = (
    Hello,
    CreateAccount,
    Login,
    LoginCertificate,
    Resume,
    Logout,
    ListAccounts,
    Send,
    Watch,
    Ack,
    History,
    Conversations,
    DeleteMessages,
    Trace,
    Block,
    Unblock,
    ListBlocked,
    SetReceipts,
    Status,
    ChangePassword,
    DeleteAccount,
    Ping,
)
"""Every request, in the order of the documentation. A transport may number them by this order
only if it writes the numbers down: the order is not part of the protocol."""

REQUEST_BY_OP: Final[dict[str, type[Request]]] = {request.op: request for request in REQUESTS}
"""The model of each op."""
