"""The rules for messages: what may be sent, and what the owner of a mailbox may do with it."""

import random
from collections.abc import Sequence
from typing import Final

from twinline.core.clock import Clock
from twinline.core.errors import BadRequest, MessageTooLong
from twinline.core.names import parse_username
from twinline.core.session import while_account_lives
from twinline.core.settings import ServiceSettings
from twinline.core.store import Draft, MailPage, Receipt, SessionRecord, Standing, Store
from twinline.core.throttle import RateThrottle

PAGE_BYTES: Final = 64 * 1024
"""The bodies of one page, in bytes of UTF-8. JSON escapes one byte as six at the most, so a page
stays well below `protocol.MAX_REPLY_BYTES` on every transport."""
MAX_SEND_ID_BYTES: Final = 64


class MessageRules:
    """Sends into any mailbox; reads, acknowledges and deletes in the caller's own."""

    def __init__(self, store: Store, settings: ServiceSettings, clock: Clock) -> None:
        self._accounts = store.accounts
        self._mailboxes = store.mailboxes
        self._clock = clock
        self._body_bytes = settings.body_bytes
        rate = settings.sends_per_second
        self._rate = RateThrottle(rate) if rate else None
        # Message ids must be unique, not secret: a generator seeded by the system is enough
        # and spares a system call a message.
        self._random = random.Random()  # noqa: S311

    def send(self, session: SessionRecord, to: str, body: str, send_id: str | None) -> Receipt:
        """Put a message into a mailbox; when this returns the store has it.

        Raises:
            BadRequest: the body is empty or is no text, or the send_id has a wrong length.
            MessageTooLong: the body has more bytes than the limit.
            InvalidUsername, NoSuchUser, MailboxFull, SendIdConflict, RateLimited.
        """
        name = parse_username(to)
        if not body:
            raise BadRequest("the message is empty")
        if _utf8_length(body) > self._body_bytes:
            raise MessageTooLong(f"a message has at most {self._body_bytes} bytes of UTF-8")
        if send_id is not None and not 1 <= _utf8_length(send_id) <= MAX_SEND_ID_BYTES:
            raise BadRequest(f"a send_id has 1 to {MAX_SEND_ID_BYTES} bytes of UTF-8")
        if self._rate is not None:
            self._rate.take(session.account_id)
        recipient = self._accounts.find(name)
        draft = Draft(
            message_id=f"{self._random.getrandbits(96):024x}",
            sender_id=session.account_id,
            sender=session.username,
            to=name,
            body=body,
            sent_at=self._clock(),
            send_id=send_id,
        )
        # Asked even without a recipient: a repeat of a send that was accepted before the
        # recipient left gets its first result.
        return self._mailboxes.append(recipient.account_id if recipient else None, draft)

    def read(self, session: SessionRecord, after: int, limit: int) -> MailPage:
        """Return messages beyond a seq.

        Raises:
            CursorInvalid: the seq is beyond the last one.
            SessionExpired: the account is gone.
        """
        with while_account_lives():
            return self._mailboxes.read(session.account_id, after, limit, PAGE_BYTES)

    def history(self, session: SessionRecord, before: int | None, limit: int) -> MailPage:
        """Return the last messages below a seq.

        Raises:
            SessionExpired: the account is gone.
        """
        with while_account_lives():
            return self._mailboxes.history(
                session.account_id, before, limit, PAGE_BYTES, self._clock()
            )

    def ack(self, session: SessionRecord, up_to: int) -> Standing:
        """Acknowledge up to a seq.

        Raises:
            CursorInvalid: the seq is beyond the last one.
            SessionExpired: the account is gone.
        """
        with while_account_lives():
            return self._mailboxes.ack(session.account_id, up_to, self._clock())

    def delete(self, session: SessionRecord, seqs: Sequence[int]) -> int:
        """Delete messages and return how many there were.

        Raises:
            SessionExpired: the account is gone.
        """
        with while_account_lives():
            return self._mailboxes.delete(session.account_id, seqs)

    def standing(self, session: SessionRecord) -> Standing:
        """Return the position and how much is unread.

        Raises:
            SessionExpired: the account is gone.
        """
        with while_account_lives():
            return self._mailboxes.standing(session.account_id)


def _utf8_length(text: str) -> int:
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise BadRequest("a text cannot hold half a surrogate pair") from None
