"""The rules for messages: what may be sent, and what a mailbox that is gone means to its owner."""

import os
from collections.abc import Callable
from typing import Concatenate, Final, ParamSpec, TypeVar

from twinline.core.errors import BadRequest, MessageTooLong, NoSuchUser, SessionExpired
from twinline.core.forks import watch_forks
from twinline.core.metrics import CallTimer
from twinline.core.names import parse_username
from twinline.core.settings import ServiceSettings
from twinline.core.store import Accepted, Draft, SessionRecord, Store
from twinline.core.throttle import RateThrottle

Params = ParamSpec("Params")
Result = TypeVar("Result")

PAGE_BYTES: Final = 64 * 1024
"""The bodies of one page, in bytes of UTF-8. JSON escapes one byte as six at the most, so a page
stays well below `protocol.MAX_REPLY_BYTES` on every transport."""
MAX_SEND_ID_BYTES: Final = 64
_MESSAGE_ID_BYTES: Final = 12
_IDS_AT_ONCE: Final = 256


class MessageRules:
    """Sends into any mailbox, by a session as the store has it now."""

    def __init__(
        self, store: Store, settings: ServiceSettings, timer: CallTimer | None = None
    ) -> None:
        self._timer = timer
        self._accounts = store.accounts
        self._mailboxes = store.mailboxes
        self._rate: RateThrottle | None = None
        self.follow(settings)
        self._ids: list[str] = []  # to be given out; appended and popped, no more
        watch_forks(self)

    def follow(self, settings: ServiceSettings) -> None:
        """Allow what settings say, from now on; from any thread."""
        self._body_bytes = settings.body_bytes
        rate = settings.sends_per_second
        if not rate:
            self._rate = None
        elif self._rate is None:
            self._rate = RateThrottle(rate)
        else:
            self._rate.change(rate)

    def forked(self) -> None:
        """Drop the ids that were drawn before a fork: the parent gives them out."""
        self._ids.clear()

    def send(
        self,
        session: SessionRecord,
        to: str,
        body: str,
        send_id: str | None,
        now: int,
        *,
        copy: bool = False,
    ) -> Accepted:
        """Put a message into a mailbox, and its copy into the sender's if that is asked for.

        When this returns the store has both.

        Raises:
            BadRequest: the body is empty or is no text, the send_id has a wrong length, or there is
                none, which a copy needs.
            MessageTooLong: the body has more bytes than the limit.
            InvalidUsername, NoSuchUser, Refused, MailboxFull, SendIdConflict, RateLimited.
        """
        name = parse_username(to)
        # Nearly every text is short and ASCII, which has as many bytes as characters.
        if not body or len(body) > self._body_bytes or not body.isascii():
            self._check_body(body)
        if send_id is not None and not (
            0 < len(send_id) <= MAX_SEND_ID_BYTES and send_id.isascii()
        ):
            _check_send_id(send_id)
        if copy and send_id is None:
            # Else a repeat would be another message, and never complete the copy of the first.
            raise BadRequest("a copy needs a send_id")
        rate = self._rate  # which may be replaced meanwhile
        if rate is not None:
            rate.take(session.account_id)
        recipient = self._accounts.recipient(name)
        if recipient is None:
            raise NoSuchUser
        try:
            message_id = self._ids.pop()
        except IndexError:
            message_id = self._draw_ids()
        draft = Draft(
            message_id,
            session.account_id,
            session.username,
            body,
            now,
            send_id,
            name if copy else None,
        )
        append, timer = self._mailboxes.append, self._timer
        try:
            if timer is not None and timer.due:
                return timer.call("append", append, recipient, draft)
            return append(recipient, draft)
        except NoSuchUser:
            # What a store answers from memory may be a second old: once more, as it is now.
            account = self._accounts.find(name)
            if account is None or account.account_id == recipient:
                raise
            return self._mailboxes.append(account.account_id, draft)

    def _check_body(self, body: str) -> None:
        if not body:
            raise BadRequest("the message is empty")
        if _utf8_length(body) > self._body_bytes:
            raise MessageTooLong(f"a message has at most {self._body_bytes} bytes of UTF-8")

    def _draw_ids(self) -> str:
        """Return 96 bits from the system's generator, as 24 hexadecimal digits.

        They are drawn for many messages at once, because each drawing is a system call.
        """
        drawn = os.urandom(_MESSAGE_ID_BYTES * _IDS_AT_ONCE)
        ids = drawn.hex(" ", _MESSAGE_ID_BYTES).split()
        last = ids.pop()
        self._ids.extend(ids)
        return last


def on_own_mailbox(
    call: Callable[Concatenate[str, Params], Result],
    session: SessionRecord,
    *args: Params.args,
    **options: Params.kwargs,
) -> Result:
    """Make a call of the store on the caller's own mailbox.

    Raises:
        SessionExpired: the mailbox is gone: the account was deleted between the look at the
            session and the call.
    """
    try:
        return call(session.account_id, *args, **options)
    except NoSuchUser:
        raise SessionExpired from None


def _check_send_id(send_id: str) -> None:
    if not 1 <= _utf8_length(send_id) <= MAX_SEND_ID_BYTES:
        raise BadRequest(f"a send_id has 1 to {MAX_SEND_ID_BYTES} bytes of UTF-8")


def _utf8_length(text: str) -> int:
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise BadRequest("a text cannot hold half a surrogate pair") from None
