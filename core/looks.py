"""The rules for looks: what a watch does at once, by itself or with others, and how it waits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from twinline.core.clock import Clock
from twinline.core.deadline import Deadline
from twinline.core.errors import InternalError, NoSuchUser, RequestError, SessionExpired
from twinline.core.metrics import CallTimer
from twinline.core.protocol import MAIL_ALONE, Kinds, Reply
from twinline.core.receipts import Receipts
from twinline.core.session import Session, Subscription
from twinline.core.store import (
    MailboxLook,
    MailPage,
    SessionKey,
    SessionRecord,
    Store,
    Unsubscribe,
)
from twinline.core.waiting import Waiter, Wake
from twinline.core.watches import Watches

_NOT_LOOKED: Final = InternalError().to_reply()


@dataclass(slots=True)  # not frozen, for that costs as much again, and one is made a delivery
class Look:
    """One look at the caller's mailbox; see `ChatService.look`.

    Attributes:
        after: the last seq that the caller has seen.
        ack: acknowledge up to here first, or None.
        limit: at most so many messages; 0 to acknowledge only.
        max_bytes: at most so many bytes of bodies, but one message always fits.
        follow: whether the session's ``on_mail`` is to be called for what comes after the look.
        kinds: which entries it is about.
    """

    after: int
    ack: int | None
    limit: int
    max_bytes: int
    follow: bool
    kinds: Kinds = MAIL_ALONE

    op: ClassVar[str] = "watch"
    """The request that it is a part of."""
    may_take_long: ClassVar[bool] = True
    """As `Request.may_take_long`: where it acknowledges, a store may have to sync."""


class LookRules:
    """Looks at mailboxes, and has those woken who wait for something to come.

    Each look is of a session as the store has it then.
    """

    def __init__(  # noqa: PLR0917 - each has its own type
        self,
        store: Store,
        watches: Watches,
        receipts: Receipts,
        record: Callable[[SessionKey | None, int], SessionRecord],
        clock: Clock,
        timer: CallTimer | None = None,
    ) -> None:
        """Look at the mailboxes of a store.

        Args:
            store: where they are.
            watches: those that wait.
            receipts: is told what looks have acknowledged.
            record: returns a session as the store has it at a time, in ms, or raises why it is
                refused.
            clock: in ms.
            timer: of the store's calls; None: they are not measured.
        """
        self._store = store
        self._mailboxes = store.mailboxes
        self._watches = watches
        self._receipts = receipts
        self._record = record
        self._clock = clock
        self._timer = timer

    def look(self, session: Session, look: Look, key: SessionKey | None = None) -> MailPage:
        """Acknowledge and return what there is now; see `ChatService.look`.

        Args:
            session: the caller.
            look: at what.
            key: of the session that looks; None: of the one that the caller is bound to now.
        """
        record, asked = self._asked(session, key or session.key, look, self._clock())
        timer = self._timer
        try:
            if timer is not None and timer.due:
                page = timer.call("look", self._mailboxes.look, asked)
            else:
                page = self._mailboxes.look(asked)
        except NoSuchUser:
            raise SessionExpired from None  # the account was deleted just now
        if page.deliveries:
            self._receipts.note(record, page.deliveries, asked.now)
        return page

    def look_many(self, looks: Sequence[tuple[Session, Look]]) -> list[Reply | MailPage]:
        """Make several looks by one call of the store; see `ChatService.look_many`."""
        now = self._clock()
        outcomes: list[Reply | MailPage] = []
        places: list[int] = []
        records: list[SessionRecord] = []
        asked: list[MailboxLook] = []
        for session, look in looks:
            try:
                record, one = self._asked(session, session.key, look, now)
            except RequestError as error:
                outcomes.append(error.to_reply())
                continue
            places.append(len(outcomes))
            outcomes.append(_NOT_LOOKED)
            records.append(record)
            asked.append(one)
        try:
            look_many, timer = self._mailboxes.look_many, self._timer
            found: Sequence[MailPage | RequestError]
            if timer is not None and timer.due:
                found = timer.call("look_many", look_many, asked)
            else:
                found = look_many(asked)
        except RequestError as error:
            found = [error] * len(asked)
        for place, record, page in zip(places, records, found, strict=True):
            if isinstance(page, NoSuchUser):
                page = SessionExpired()  # noqa: PLW2901 - the account was deleted just now
            if isinstance(page, RequestError):
                outcomes[place] = page.to_reply()
                continue
            outcomes[place] = page
            if page.deliveries:
                self._receipts.note(record, page.deliveries, now)
        return outcomes

    def watch(self, session: Session, look: Look, wait: int) -> MailPage:
        """Look, and again whenever something may have come, until something has.

        Args:
            session: the caller.
            look: how to look first; later looks begin where the one before has ended.
            wait: for at most so many seconds.
        """
        # From its first look to its last a watch is of one session, whatever becomes of the caller.
        key = session.key
        if not wait or key is None:
            return self.look(session, look)
        waiter = Waiter()
        unsubscribe = self.subscribe(session, key, waiter.wake, look.kinds)
        try:
            # Subscribed, look, wait, look again: a message that comes in between is not missed,
            # nor is the end of the session or of the service.
            page = self.look(session, look, key)
            look.ack = None
            deadline = Deadline.after(wait)
            while not (page.messages or page.receipts or session.interrupted) and waiter.wait(
                deadline
            ):
                look.after = page.seen
                page = self.look(session, look, key)
        finally:
            unsubscribe()
        return page

    def subscribe(
        self, session: Session, key: SessionKey | None, wake: Wake, kinds: Kinds
    ) -> Unsubscribe:
        """Have ``wake`` called whenever a watch would look again; see `ChatService.subscribe`."""
        record = self._record(key, self._clock())
        return Subscription(session, record, self._store, self._watches, wake, kinds=kinds)

    def _asked(
        self, session: Session, key: SessionKey | None, look: Look, now: int
    ) -> tuple[SessionRecord, MailboxLook]:
        """Return whose look it is, and what the store is asked; begin to follow before that."""
        kinds = look.kinds
        if look.follow and session.followed != kinds:
            self._follow(session, key, kinds)
        record = self._record(key, now)
        return record, MailboxLook(
            record.account_id, look.after, look.limit, look.max_bytes, look.ack, now, kinds
        )

    def _follow(self, session: Session, key: SessionKey | None, kinds: Kinds) -> None:
        on_mail = session.on_mail
        if key is None or on_mail is None:
            return  # the caller has left meanwhile
        # Of one caller there is one at a time. Nothing is missed in between, for a look follows.
        session.follow_no_more()
        session.follow(key, kinds, self.subscribe(session, key, on_mail, kinds))
