"""The half of the in-memory store with messages and positions, under the message lock."""

# ruff: noqa: D102 - the contract tells what the methods do

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from twinline.core.errors import NoSuchUser, SendIdConflict
from twinline.core.locks import new_lock
from twinline.core.protocol import Message
from twinline.core.store import (
    Draft,
    Mailboxes,
    MailboxPolicy,
    MailPage,
    Receipt,
    Standing,
    Unsubscribe,
)
from twinline.core.waiting import Wake, wake_after_reply, wake_all
from twinline.stores.memory.mailbox import Entry, Kept, Mailbox
from twinline.stores.rules import Retention, fingerprint, fitting

_EXPIRED_A_SEND: Final = 2  # more than the one that a send adds, so that what expires goes


class MemoryMailboxes(Mailboxes):
    """Mailboxes in dictionaries.

    Each method decides under the message lock, and wakes, hashes, measures and builds
    the protocol's messages outside it.
    """

    def __init__(self, policy: MailboxPolicy) -> None:
        self._retention = Retention.of(policy)
        self._lock = new_lock("message")
        self._boxes: dict[str | None, Mailbox] = {}  # by account id; guarded by the message lock
        self._sends = _SendIds(self._retention.send_id_ms)  # guarded by the message lock

    def create(self, account_id: str) -> None:
        with self._lock:
            if account_id in self._boxes:
                raise ValueError(f"account id {account_id!r} is used twice")
            self._boxes[account_id] = Mailbox(self._retention)

    def drop(self, account_id: str) -> None:
        with self._lock:
            box = self._boxes.pop(account_id, None)
            wakes = () if box is None else tuple(box.watchers.values())
        wake_all(wakes)

    def append(self, account_id: str | None, draft: Draft) -> Receipt:
        now = draft.sent_at
        receipt = Receipt(draft.message_id, now)
        content = b"" if draft.send_id is None else fingerprint(draft)
        with self._lock:
            if self._sends.firsts:  # none for as long as nobody gives send_ids
                self._sends.expire(now)
            if content:
                first = self._sends.first(draft, content)
                if first is not None:
                    return first
            box = self._box(account_id)
            box.append(draft)
            if content:
                self._sends.keep(draft, content, receipt)
            wakes = tuple(box.watchers.values()) if box.watchers else ()
        if wakes:
            wake_after_reply(wakes)
        return receipt

    def read(self, account_id: str, after: int, limit: int, max_bytes: int) -> MailPage:
        with self._lock:
            box = self._box(account_id)
            entries = box.after(after, limit + 1)
            position = box.position
        # Most looks are of those who wait for mail, and find nothing or the one that woke them.
        if not entries:
            return MailPage((), position, more=False)
        if len(entries) == 1 <= limit:
            return MailPage((_message(*entries[0]),), position, more=False)
        page, more = fitting(_messages(entries), limit, max_bytes)
        return MailPage(page, position, more)

    def history(
        self, account_id: str, before: int | None, limit: int, max_bytes: int, now: int
    ) -> MailPage:
        with self._lock:
            box = self._box(account_id)
            box.trim(now)
            entries = box.before(before, limit + 1)
            position = box.position
        page, more = fitting(_messages(reversed(entries)), limit, max_bytes)
        return MailPage(page[::-1], position, more)

    def ack(self, account_id: str, up_to: int, now: int) -> Standing:
        with self._lock:
            box = self._box(account_id)
            box.ack(up_to, now)
            box.trim(now)
            return box.standing

    def delete(self, account_id: str, seqs: Collection[int]) -> int:
        with self._lock:
            return self._box(account_id).delete(seqs)

    def standing(self, account_id: str) -> Standing:
        with self._lock:
            return self._box(account_id).standing

    def on_mail(self, account_id: str, wake: Wake) -> Unsubscribe:
        key = object()
        with self._lock:
            box = self._boxes.get(account_id)
            # Not the mailbox: a subscription must not keep a dropped one's mail alive.
            watchers = {} if box is None else box.watchers
            watchers[key] = wake

        def unsubscribe() -> None:
            with self._lock:
                watchers.pop(key, None)

        return unsubscribe

    def _box(self, account_id: str | None) -> Mailbox:
        box = self._boxes.get(account_id)  # no mailbox has the key None
        if box is None:
            raise NoSuchUser
        return box


class _SendIds:
    """What each sender's send_ids stand for; its owner's lock guards it.

    Attributes:
        firsts: the content and the receipt by the sender's account and its send_id, oldest first.
    """

    __slots__ = ("_keep_ms", "firsts")

    def __init__(self, keep_ms: float) -> None:
        self._keep_ms = keep_ms
        # An OrderedDict: taking from the front of a plain one walks over all it lost before.
        self.firsts: OrderedDict[tuple[str, str | None], tuple[bytes, Receipt]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.firsts)

    def first(self, draft: Draft, content: bytes) -> Receipt | None:
        """Return the receipt of the first send under this draft's send_id, if it still counts.

        Raises:
            SendIdConflict: that send had another recipient or body.
        """
        known = self.firsts.get((draft.sender_id, draft.send_id))
        if known is None or self._expired(known[1], draft.sent_at):
            return None
        if known[0] != content:
            raise SendIdConflict
        return known[1]

    def keep(self, draft: Draft, content: bytes, receipt: Receipt) -> None:
        """Remember what a send_id stands for from now on."""
        if self._keep_ms > 0:
            key = (draft.sender_id, draft.send_id)
            self.firsts[key] = (content, receipt)
            self.firsts.move_to_end(key)

    def expire(self, now: int) -> None:
        """Forget the oldest if they have expired: a few, so that every send costs the same."""
        for _ in range(_EXPIRED_A_SEND):
            if not self.firsts:
                return
            key = next(iter(self.firsts))
            if not self._expired(self.firsts[key][1], now):
                return
            del self.firsts[key]

    def _expired(self, receipt: Receipt, now: int) -> bool:
        return now - receipt.sent_at >= self._keep_ms


def _messages(entries: Iterable[Entry]) -> Iterator[Message]:
    for seq, kept in entries:
        yield _message(seq, kept)


def _message(seq: int, kept: Kept) -> Message:
    message_id, _, sender, _, body, sent_at, _ = kept
    return Message(seq=seq, message_id=message_id, sender=sender, body=body, sent_at=sent_at)
