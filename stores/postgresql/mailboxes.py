"""The half of the PostgreSQL store with messages and positions."""

# ruff: noqa: D102 - the contract tells what the methods do

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Final

from twinline.core.errors import (
    BlockListFull,
    CursorInvalid,
    NoSuchUser,
    RequestError,
    StoreUnavailable,
)
from twinline.core.protocol import MAIL_ALONE, Kinds
from twinline.core.store import (
    MOST_BLOCKED,
    Accepted,
    Acked,
    Blocked,
    ConversationPage,
    Depths,
    Draft,
    Mailboxes,
    MailboxLook,
    MailboxUsage,
    MailPage,
    MessageTrace,
    Peer,
    PeerReceipt,
    Standing,
    Unsubscribe,
)
from twinline.core.waiting import Wake, wake_after_reply
from twinline.stores.postgresql.batch import (
    Ack,
    Create,
    Delete,
    Drop,
    Looks,
    PutReceipt,
    Trim,
    append_of,
)
from twinline.stores.postgresql.entries import Back
from twinline.stores.postgresql.lane import Lane
from twinline.stores.postgresql.link import Call, Link
from twinline.stores.postgresql.reads import Reads, Wanted
from twinline.stores.postgresql.tracing import Tracing
from twinline.stores.postgresql.wakes import Wakes
from twinline.stores.sql.mailbox import NO_SUCH_SEQ

_TRIM_SECONDS: Final = 0.05  # what trimming may make a reader wait
_SET_QUOTA: Final = """
    UPDATE mailboxes SET quota = $2::bigint WHERE account_id = $1 RETURNING true"""
_SET_RECEIPTS: Final = """
    UPDATE mailboxes SET gives_receipts = $2 WHERE account_id = $1 RETURNING true"""
_LOCK: Final = "SELECT box, blocked FROM mailboxes WHERE account_id = $1 FOR NO KEY UPDATE"
_IS_BLOCKED: Final = "SELECT true FROM blocked WHERE box = $1::bigint AND peer_id = $2"
_BLOCK: Final = "INSERT INTO blocked (box, peer_id, peer) VALUES ($1::bigint, $2, $3)"
_UNBLOCK: Final = """
    DELETE FROM blocked WHERE box = $1::bigint AND peer_id = $2 RETURNING true"""
_COUNT_BLOCKED: Final = """
    UPDATE mailboxes SET blocked = blocked + $2::bigint WHERE box = $1::bigint"""


class PostgresqlMailboxes(Mailboxes):
    """Mailboxes in tables: the lane writes, many calls in a transaction; reads share statements."""

    def __init__(
        self,
        lane: Lane,
        reads: Reads,
        wakes: Wakes,
        tracing: Tracing,
        change: Callable[[], AbstractContextManager[Link]],
    ) -> None:
        """Join the parts.

        Args:
            lane: writes.
            reads: reads.
            wakes: knows who watches.
            tracing: looks for messages.
            change: makes a block a transaction of its own.
        """
        self._lane = lane
        self._reads = reads
        self._wakes = wakes
        self._tracing = tracing
        self._change = change

    def create(self, account_id: str) -> None:
        self._lane.do(Create(account_id))

    def drop(self, account_id: str) -> None:
        self._lane.do(Drop(account_id))

    def append(self, account_id: str, draft: Draft) -> Accepted:
        accepted: Accepted = self._lane.do(append_of(_known(account_id), draft), wake_after_reply)
        return accepted

    def read(
        self,
        account_id: str,
        after: int,
        limit: int,
        max_bytes: int,
        kinds: Kinds = MAIL_ALONE,
    ) -> MailPage:
        read = self._reads.read(Wanted(_known(account_id), after, limit, max_bytes, kinds))
        if read.beyond:
            raise CursorInvalid
        return read.page

    def look(self, look: MailboxLook) -> MailPage:
        outcome: MailPage | RequestError
        if look.ack is not None:
            (outcome,) = self._lane.do(Looks((_in_range(look),)))
        else:
            _known(look.account_id)
            read = self._reads.read(_wanted(look))
            outcome = CursorInvalid() if look.limit and read.beyond else read.page
        if isinstance(outcome, RequestError):
            raise outcome
        return outcome

    def look_many(self, looks: Sequence[MailboxLook]) -> list[MailPage | RequestError]:
        outcomes: list[MailPage | RequestError] = [NoSuchUser() for _ in looks]
        asked = {}
        for place, look in enumerate(looks):
            with suppress(NoSuchUser):
                _known(look.account_id)
                asked[place] = look
        found: list[MailPage | RequestError]
        try:
            if any(look.ack is not None for look in asked.values()):
                found = self._lane.do(Looks(tuple(map(_in_range, asked.values()))))
            else:
                found = self._reads.pages([_wanted(look) for look in asked.values()])
        except StoreUnavailable as error:
            found = [error for _ in asked]
        for place, outcome in zip(asked, found, strict=True):
            outcomes[place] = outcome
        return outcomes

    def history(
        self,
        account_id: str,
        before: int | None,
        limit: int,
        max_bytes: int,
        now: int,
        *,
        kinds: Kinds = MAIL_ALONE,
        peer: Peer | None = None,
    ) -> MailPage:
        back = Back(_known(account_id), before, limit, max_bytes, now, kinds)
        if peer is not None:
            return self._reads.conversations.history(back, peer)
        page, ageing = self._reads.history(back)
        if ageing:
            # The page is without them already: that they go must not make a reader wait.
            with suppress(StoreUnavailable):
                self._lane.do(Trim(account_id, now), seconds=_TRIM_SECONDS)
        return page

    def conversations(
        self, account_id: str, before: int | None, limit: int, max_bytes: int, now: int
    ) -> ConversationPage:
        back = Back(_known(account_id), before, limit, max_bytes, now)
        return self._reads.conversations.page(back)

    def put_receipt(self, account_id: str, receipt: PeerReceipt) -> None:
        if _is_column(account_id):
            self._lane.do(PutReceipt(account_id, receipt))

    def set_receipts(self, account_id: str, *, receipts: bool) -> None:
        with self._change() as link:
            if not link.execute(_SET_RECEIPTS, _known(account_id), receipts):
                raise NoSuchUser

    def block(self, account_id: str, peer: Blocked) -> None:
        with self._change() as link:
            box, count = _locked(link, account_id)
            if link.execute(_IS_BLOCKED, box, peer.account_id):
                return
            if count >= MOST_BLOCKED:
                raise BlockListFull
            link.run(Call(_BLOCK, box, *peer), Call(_COUNT_BLOCKED, box, 1))

    def unblock(self, account_id: str, peer_id: str) -> bool:
        with self._change() as link:
            box, _ = _locked(link, account_id)
            if not link.execute(_UNBLOCK, box, peer_id):
                return False
            link.execute(_COUNT_BLOCKED, box, -1)
        return True

    def blocked(self, account_id: str) -> Sequence[Blocked]:
        return self._reads.blocked(_known(account_id))

    def ack(self, account_id: str, up_to: int, now: int) -> Acked:
        acked: Acked = self._lane.do(Ack(_known(account_id), min(up_to, NO_SUCH_SEQ), now))
        return acked

    def delete(self, account_id: str, seqs: Collection[int]) -> int:
        deleted: int = self._lane.do(Delete(_known(account_id), frozenset(seqs)))
        return deleted

    def standing(self, account_id: str) -> Standing:
        return self._reads.read(Wanted(_known(account_id), 0, 0, 0)).standing

    def depths(self) -> Depths:
        return self._reads.depths()

    def usage(self, account_id: str) -> MailboxUsage:
        return self._reads.usage(_known(account_id))

    def set_quota(self, account_id: str, messages: int | None) -> None:
        quota = None if messages is None else min(messages, NO_SUCH_SEQ)
        with self._change() as link:
            if not link.execute(_SET_QUOTA, _known(account_id), quota):
                raise NoSuchUser

    def trace(
        self, message_id: str, account_id: str | None = None, *, now: int
    ) -> MessageTrace | None:
        for text in (message_id, account_id):
            if text is not None and not _is_column(text):
                return None
        return self._tracing.find(message_id, account_id, now)

    def on_mail(self, account_id: str, wake: Wake, kinds: Kinds = MAIL_ALONE) -> Unsubscribe:
        return self._wakes.watchers.add(account_id, wake, kinds)


def _wanted(look: MailboxLook) -> Wanted:
    return Wanted(look.account_id, look.after, look.limit, look.max_bytes, look.kinds)


def _locked(link: Link, account_id: str) -> tuple[int, int]:
    """Lock a mailbox's row, as who writes to it does; return its number and how many it blocks.

    Raises:
        NoSuchUser: there is none.
    """
    rows = link.execute(_LOCK, _known(account_id))
    if not rows:
        raise NoSuchUser
    box, blocked = rows[0]
    return box, blocked


def _known(account_id: str) -> str:
    """Return an account id, if it is one that a column can have.

    Raises:
        NoSuchUser: it is not.
    """
    if not _is_column(account_id):
        raise NoSuchUser
    return account_id


def _is_column(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return "\0" not in text


def _in_range(look: MailboxLook) -> MailboxLook:
    """Return a look whose numbers fit the columns."""
    if look.ack is None or (look.ack <= NO_SUCH_SEQ and look.after <= NO_SUCH_SEQ):
        return look
    return look._replace(ack=min(look.ack, NO_SUCH_SEQ), after=min(look.after, NO_SUCH_SEQ))
