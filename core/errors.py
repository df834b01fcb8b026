"""What can go wrong, as one tree with one leaf for each error code of the protocol.

::

    TwinlineError
    ├── RequestError                 refused by the service; crosses the wire as an ErrorReply
    │   ├── BadRequest               bad_request
    │   ├── UnknownOp                unknown_op
    │   ├── UnsupportedVersion       unsupported_version
    │   ├── FrameTooLarge            frame_too_large
    │   ├── NotLoggedIn              not_logged_in
    │   ├── AlreadyLoggedIn          already_logged_in
    │   ├── BadCredentials           bad_credentials
    │   ├── SessionExpired           session_expired
    │   ├── AccountDisabled          account_disabled
    │   ├── PasswordChangeRequired   password_change_required
    │   ├── RegistrationClosed       registration_closed
    │   ├── InvitationInvalid        invitation_invalid
    │   ├── UsernameTaken            username_taken
    │   ├── InvalidUsername          invalid_username
    │   ├── InvalidPassword          invalid_password
    │   ├── NoSuchUser               no_such_user
    │   ├── MessageTooLong           message_too_long
    │   ├── MailboxFull              mailbox_full            retryable
    │   ├── Refused                  refused
    │   ├── BlockListFull            block_list_full
    │   ├── SendIdConflict           send_id_conflict
    │   ├── CursorInvalid            cursor_invalid
    │   ├── UndeliveredMessages      undelivered_messages    carries count
    │   ├── RateLimited              rate_limited            retryable, carries retry_after_ms
    │   ├── Busy                     busy                    retryable, carries retry_after_ms
    │   ├── ShuttingDown             shutting_down           retryable, carries retry_after_ms,
    │   │                                                    endpoints
    │   ├── StoreUnavailable         store_unavailable       retryable
    │   └── InternalError            internal
    └── LockRuleError                a thread broke the lock rule: a bug in this program

The transports add `TransportError` and the client its own branch; all of them derive from
`TwinlineError`.
"""

from typing import ClassVar, Final

from pydantic import ValidationError

from twinline.core.protocol import ErrorReply


class TwinlineError(Exception):
    """The base of every error that twinline raises."""


class LockRuleError(TwinlineError):
    """A thread took a second lock, or blocked, while it held one."""


MAX_RETRY_AFTER_SECONDS: Final = 60.0
"""No client waits longer than this for being told so."""


class RequestError(TwinlineError):
    """The service refused a request.

    Attributes:
        code: the error's name in the protocol.
        retryable: whether the same request may succeed later.
        message: a sentence for a person, free of secrets.
        retry_after_ms: when to try again, where the server says so.
        count: how many messages are undelivered, for `UndeliveredMessages`.
        endpoints: where to go instead, for `ShuttingDown`, as a client's settings name a server.
    """

    code: str = "internal"
    retryable: bool = False
    default_message: ClassVar[str] = "the request was refused"
    """The sentence of an error that is raised without one."""

    def __init__(
        self,
        message: str | None = None,
        *,
        retry_after_ms: int | None = None,
        count: int | None = None,
        endpoints: tuple[str, ...] | None = None,
    ) -> None:
        self.message = message or self.default_message
        self.retry_after_ms = retry_after_ms
        self.count = count
        self.endpoints = endpoints
        super().__init__(self.message)

    def retry_after(self, default: float = 0.0) -> float:
        """Return the seconds to wait before asking again: a minute at most, whatever a server says.

        Args:
            default: for a server that does not say, or says none.
        """
        if not self.retry_after_ms:
            return default
        return min(self.retry_after_ms / 1000, MAX_RETRY_AFTER_SECONDS)

    def to_reply(self) -> ErrorReply:
        """Return this error as the reply that carries it."""
        return ErrorReply(
            code=self.code,
            message=self.message,
            retryable=self.retryable,
            retry_after_ms=self.retry_after_ms,
            count=self.count,
            endpoints=self.endpoints,
        )

    @staticmethod
    def from_reply(reply: ErrorReply) -> "RequestError":
        """Return the exception that a reply stands for.

        A code that this version does not know becomes a plain `RequestError` with that code.
        """
        kind = ERROR_BY_CODE.get(reply.code, RequestError)
        error = kind(
            reply.message,
            retry_after_ms=reply.retry_after_ms,
            count=reply.count,
            endpoints=reply.endpoints,
        )
        error.code = reply.code
        error.retryable = reply.retryable
        return error


class BadRequest(RequestError):
    """The request cannot be read: a field is missing, mistyped or out of range."""

    code = "bad_request"
    default_message = "the request cannot be read"


class UnknownOp(RequestError):
    """There is no such request."""

    code = "unknown_op"
    default_message = "there is no such request"


class UnsupportedVersion(RequestError):
    """The peer speaks a version of the protocol that the server does not."""

    code = "unsupported_version"
    default_message = "this protocol version is not supported"


class FrameTooLarge(RequestError):
    """A frame is longer than the limit; the connection ends, for its end cannot be found."""

    code = "frame_too_large"
    default_message = "the frame is too large"


class NotLoggedIn(RequestError):
    """The request needs a session and the connection has none."""

    code = "not_logged_in"
    default_message = "log in first"


class AlreadyLoggedIn(RequestError):
    """The connection has a session; open another connection for another account."""

    code = "already_logged_in"
    default_message = "this line is logged in already"


class BadCredentials(RequestError):
    """No such user, or another password, deliberately the same; or no certificate that logs in."""

    code = "bad_credentials"
    default_message = "the username or the password is wrong"


class SessionExpired(RequestError):
    """The session was revoked, has expired, or never was: deliberately the same."""

    code = "session_expired"
    default_message = "the session has ended; log in again"


class AccountDisabled(RequestError):
    """The operator has disabled the account; told to nobody but who has its password."""

    code = "account_disabled"
    default_message = "the operator of this server has disabled this account"


class PasswordChangeRequired(RequestError):
    """The password is a one-time password: it opens a session only together with a new one."""

    code = "password_change_required"
    default_message = "this is a one-time password: set a password of your own to log in"


class RegistrationClosed(RequestError):
    """Only the operator creates accounts on this server."""

    code = "registration_closed"
    default_message = "this server takes no registrations; ask its operator for an account"


class InvitationInvalid(RequestError):
    """An invitation is needed here, and this is none: unknown, spent, withdrawn or expired."""

    code = "invitation_invalid"
    default_message = "this server needs an invitation that counts; ask its operator for one"


class UsernameTaken(RequestError):
    """The name belongs to an account, or is reserved because it once did."""

    code = "username_taken"
    default_message = "this username is taken"


class InvalidUsername(RequestError):
    """The name does not follow the rule."""

    code = "invalid_username"
    default_message = (
        "a username is 1 to 32 of a-z, 0-9, '.', '_' and '-', and begins with a letter or a digit"
    )


class InvalidPassword(RequestError):
    """The password does not follow the rule."""

    code = "invalid_password"
    default_message = "a password has 8 to 128 characters"


class NoSuchUser(RequestError):
    """There is no account of that name."""

    code = "no_such_user"
    default_message = "there is no such user"


class MessageTooLong(RequestError):
    """The body is longer than the limit."""

    code = "message_too_long"
    default_message = "the message is too long"


class MailboxFull(RequestError):
    """The recipient has not acknowledged enough of the mail that waits."""

    code = "mailbox_full"
    retryable = True
    default_message = "the recipient's mailbox is full"


class Refused(RequestError):
    """The recipient takes no mail of the sender; nothing is stored."""

    code = "refused"
    default_message = "the recipient takes no messages from you"


class BlockListFull(RequestError):
    """The account refuses as many others as it may."""

    code = "block_list_full"
    default_message = "the list of blocked accounts is full; unblock one first"


class SendIdConflict(RequestError):
    """The send_id was used before, for another message to this recipient."""

    code = "send_id_conflict"
    default_message = "this send_id was used for another message to this recipient"


class CursorInvalid(RequestError):
    """A seq lies beyond the last message of the mailbox."""

    code = "cursor_invalid"
    default_message = "there is no message with this seq yet"


class UndeliveredMessages(RequestError):
    """The account has mail that was never acknowledged; `force` deletes it all the same."""

    code = "undelivered_messages"
    default_message = "there are undelivered messages"


class RateLimited(RequestError):
    """Too many attempts; `retry_after_ms` says when the next one is allowed."""

    code = "rate_limited"
    retryable = True
    default_message = "too many attempts; try again later"


class Busy(RequestError):
    """The server could not get to it in time; nothing was done."""

    code = "busy"
    retryable = True
    default_message = "the server is busy; try again"


RESTART_MS: Final = 1_000
"""How long a server that is started again is away, as far as it can tell who asks."""


class ShuttingDown(RequestError):
    """The server is stopping; nothing was done."""

    code = "shutting_down"
    retryable = True
    default_message = "the server is shutting down"


class StoreUnavailable(RequestError):
    """The store cannot be read or written now; nothing is acknowledged.

    Attributes:
        in_doubt: whether what was asked for may have been done all the same: the store was asked
            and did not say. Its owner sets it.
    """

    code = "store_unavailable"
    retryable = True
    default_message = "the store is not available"
    in_doubt: bool = False


class InternalError(RequestError):
    """A fault in the server; its log has the cause, the reply has not."""

    code = "internal"
    default_message = "an internal error; the server's log has more"


ERROR_BY_CODE: Final[dict[str, type[RequestError]]] = {
    kind.code: kind
    for kind in (
        BadRequest,
        UnknownOp,
        UnsupportedVersion,
        FrameTooLarge,
        NotLoggedIn,
        AlreadyLoggedIn,
        BadCredentials,
        SessionExpired,
        AccountDisabled,
        PasswordChangeRequired,
        RegistrationClosed,
        InvitationInvalid,
        UsernameTaken,
        InvalidUsername,
        InvalidPassword,
        NoSuchUser,
        MessageTooLong,
        MailboxFull,
        Refused,
        BlockListFull,
        SendIdConflict,
        CursorInvalid,
        UndeliveredMessages,
        RateLimited,
        Busy,
        ShuttingDown,
        StoreUnavailable,
        InternalError,
    )
}
"""The leaf of each error code."""


def describe_validation_error(error: ValidationError) -> str:
    """Return which field of a model is wrong and what it should be; never what it was.

    For `BadRequest`, where a request's fields come as a dictionary or as JSON.
    """
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    # A field whose name on the wire is a word of Python's, or another thing's, has a `_` behind it.
    field = ".".join(str(each).removesuffix("_") for each in first["loc"])
    if first["type"] == "missing":
        return f"the field '{field}' is missing"
    what = first["msg"][:1].lower() + first["msg"][1:]
    # A list on the wire is a tuple in the model.
    return f"the field '{field}' is wrong: {what.replace('tuple', 'list')}"
