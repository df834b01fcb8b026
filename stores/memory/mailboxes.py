"""The half of the in-memory store with messages and positions, under the message lock."""

# ruff: noqa: D102 - the contract tells what the methods do

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from heapq import merge
from operator import attrgetter, itemgetter
from typing import Final

from twinline.core.errors import NoSuchUser, RequestError
from twinline.core.locks import new_lock
from twinline.core.protocol import MAIL_ALONE, Conversation, Kind, Kinds, Message, Receipt, maker
from twinline.core.store import (
    Accepted,
    Acked,
    Blocked,
    ConversationPage,
    Delivery,
    Depths,
    Draft,
    Mailboxes,
    MailboxLook,
    MailboxPolicy,
    MailboxUsage,
    MailPage,
    MessageTrace,
    Peer,
    PeerReceipt,
    Standing,
    Unsubscribe,
)
from twinline.core.waiting import Wake, wake_after_reply, wake_all
from twinline.stores.memory.limits import limits_of
from twinline.stores.memory.log import Entry, Kept
from twinline.stores.memory.mailbox import Found, KeptReceipt, Mailbox
from twinline.stores.memory.send_ids import SendIds
from twinline.stores.memory.subscribers import Subscription, wakes_for, wakes_of
from twinline.stores.rules import fitting, mail_page, size_of, was_deleted

_make_message: Final = maker(Message)
_seq_of: Final = attrgetter("seq")


class MemoryMailboxes(Mailboxes):
    """Mailboxes in dictionaries.

    Each method decides under the message lock, and wakes, hashes, measures and builds
    the protocol's messages outside it.
    """

    def __init__(self, policy: MailboxPolicy) -> None:
        self._limits = limits_of(policy)
        self._lock = new_lock("message")
        # Both guarded by the message lock.
        self._boxes: dict[str, Mailbox] = {}  # by account id
        self._expiring: deque[SendIds] = deque()  # of the mailboxes that have some, in turn

    def change_policy(self, policy: MailboxPolicy) -> None:
        """See `Store.change_policy`."""
        with self._lock:
            self._limits.change(policy)

    def create(self, account_id: str) -> None:
        with self._lock:
            if account_id in self._boxes:
                raise ValueError(f"account id {account_id!r} is used twice")
            self._boxes[account_id] = Mailbox(self._limits)

    def drop(self, account_id: str) -> None:
        with self._lock:
            box = self._boxes.pop(account_id, None)
            wakes = () if box is None else wakes_of(box.watchers) + wakes_of(box.others)
            if box is not None:
                box.send_ids.clear()  # they leave the queue when their turn comes
        wake_all(wakes)

    def append(self, account_id: str, draft: Draft) -> Accepted:
        body, send_id = draft[3], draft[5]
        content = hash(body) if send_id is not None and self._limits.send_id_ms else None
        accepted: Accepted | None = None
        wakes: tuple[Wake, ...] = ()
        try:
            with self._lock:
                box = self._box(account_id)
                if self._expiring:  # none for as long as no sender gives send_ids
                    self._expire(draft[4])
                if content is not None:
                    send_ids = box.send_ids
                    accepted = send_ids.first(draft, content)
                repeated = accepted is not None
                if accepted is None:
                    if box.watchers:
                        wakes = wakes_of(box.watchers)
                    accepted = box.append(account_id, draft, content)
                    if content is not None and not send_ids.queued:
                        self._expiring.append(send_ids)
                        send_ids.queued = True
                if draft[6] is not None and draft[1] != account_id:
                    # Behind the mail: what interrupts this thread between the two leaves the mail
                    # alone, which a repeat completes.
                    wakes += self._put_copy(account_id, draft, accepted, repeated=repeated)
            if wakes:
                wake_after_reply(wakes)
        except RequestError:
            raise  # nothing is stored
        except BaseException:
            wake_all(wakes)  # what interrupts this thread is no affair of those that wait
            raise
        return accepted

    def read(
        self,
        account_id: str,
        after: int,
        limit: int,
        max_bytes: int,
        kinds: Kinds = MAIL_ALONE,
    ) -> MailPage:
        return self.look(MailboxLook(account_id, after, limit, max_bytes, None, 0, kinds))

    def look(self, look: MailboxLook) -> MailPage:
        account_id, after, limit, max_bytes, ack, now, kinds = look
        deliveries: tuple[Delivery, ...] = ()
        entries: Sequence[Entry] = ()
        found: Found | None = None
        with self._lock:
            box = self._box(account_id)
            if ack is not None:
                deliveries = box.ack(account_id, ack, now)
                box.trim(now)
            position, last = box.position, box.last
            if not limit:
                last = after
            elif kinds is MAIL_ALONE or kinds == MAIL_ALONE:
                entries = box.after(after, limit + 1)
            else:
                found, owner = box.found_after(after, limit + 1, kinds), box.owner
        if found is not None:
            page, more = fitting(merge(*_models(found, owner), key=_seq_of), limit, max_bytes)
            talk = mail_page(page, position, page[-1].seq if more else last, more=more)
            return talk._replace(deliveries=deliveries)
        # Most looks are of those who wait for mail, and find nothing or the one that woke them.
        if not entries:
            return MailPage((), position, more=False, seen=last, deliveries=deliveries)
        if len(entries) == 1 <= limit:
            woke = (_message(*entries[0]),)
            return MailPage(woke, position, more=False, seen=last, deliveries=deliveries)
        mail, more = fitting(_messages(entries), limit, max_bytes)
        seen = mail[-1].seq if more else last
        return MailPage(mail, position, more, seen, deliveries=deliveries)

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
        with self._lock:
            box = self._box(account_id)
            box.trim(now)
            found = box.found_before(before, limit + 1, kinds, peer, now)
            position, owner = box.position, box.owner
        entries = merge(*_models(found, owner), key=_seq_of, reverse=True)
        page, more = fitting(entries, limit, max_bytes)
        return mail_page(page[::-1], position, page[-1].seq if more else 0, more=more)

    def conversations(
        self, account_id: str, before: int | None, limit: int, max_bytes: int, now: int
    ) -> ConversationPage:
        with self._lock:
            box = self._box(account_id)
            box.trim(now)
            talks = box.talks(before, limit + 1, now)
            owner = box.owner
        last = (
            _message(*talk.last) if talk.kind is Kind.MAIL else _copy(*talk.last, owner)
            for talk in talks
        )
        page, more = fitting(last, limit, max_bytes)
        conversations = [
            Conversation(
                username=talk.last[1][2],
                last=message,
                unread=talk.unread,
                account=talk.last[1][1] or None,
            )
            for talk, message in zip(talks, page, strict=False)
        ]
        return ConversationPage(tuple(conversations), more)

    def put_receipt(self, account_id: str, receipt: PeerReceipt) -> None:
        if receipt.account_id == account_id:
            return
        wakes: tuple[Wake, ...] = ()
        try:
            with self._lock:
                box = self._boxes.get(account_id)
                if box is not None:
                    wakes = wakes_for(Kind.RECEIPT, box.watchers, box.others)
                    if not box.put_receipt(receipt):
                        wakes = ()
        finally:
            wake_all(wakes)

    def set_receipts(self, account_id: str, *, receipts: bool) -> None:
        with self._lock:
            self._box(account_id).gives_receipts = receipts

    def block(self, account_id: str, peer: Blocked) -> None:
        with self._lock:
            self._box(account_id).block(peer)

    def unblock(self, account_id: str, peer_id: str) -> bool:
        with self._lock:
            return self._box(account_id).unblock(peer_id)

    def blocked(self, account_id: str) -> Sequence[Blocked]:
        with self._lock:
            blocked = [Blocked(*each) for each in (self._box(account_id).blocked or {}).items()]
        return sorted(blocked, key=itemgetter(1, 0))

    def ack(self, account_id: str, up_to: int, now: int) -> Acked:
        with self._lock:
            box = self._box(account_id)
            deliveries = box.ack(account_id, up_to, now)
            box.trim(now)
            return Acked(box.position, box.unread, deliveries)

    def delete(self, account_id: str, seqs: Collection[int]) -> int:
        with self._lock:
            return self._box(account_id).delete(seqs)

    def standing(self, account_id: str) -> Standing:
        with self._lock:
            return self._box(account_id).standing

    def usage(self, account_id: str) -> MailboxUsage:
        with self._lock:
            box = self._box(account_id)
            entries, unread, quota = box.entries(), box.unread, box.quota
            copies = box.copies_of(None).entries()
        size = sum(size_of(body) for _, (_, _, _, body, _, _) in entries + copies)
        return MailboxUsage(len(entries), unread, size, quota, len(copies))

    def set_quota(self, account_id: str, messages: int | None) -> None:
        with self._lock:
            self._box(account_id).quota = messages

    def trace(
        self, message_id: str, account_id: str | None = None, *, now: int
    ) -> MessageTrace | None:
        if account_id is not None:
            return self._trace(account_id, message_id, now)
        with self._lock:
            account_ids = list(self._boxes)
        return next(
            filter(None, (self._trace(each, message_id, now) for each in account_ids)), None
        )

    def _trace(self, account_id: str, message_id: str, now: int) -> MessageTrace | None:
        with self._lock:
            box = self._boxes.get(account_id)
            if box is None:
                return None
            box.trim(now)
            entries, known, position = box.entries(), box.send_ids.kept(), box.position
        for seq, kept in entries:
            if kept[0] == message_id:
                _, sender_id, sender, _, sent_at, _ = kept
                with self._lock:
                    acked_at = box.acked_at(seq) if seq <= position else None
                return MessageTrace(
                    account_id,
                    message_id,
                    sent_at,
                    seq,
                    sender,
                    sender_id,
                    acked=seq <= position,
                    acked_at=acked_at,
                )
        for sender_id, _, _, first, sent_at, seq, _ in known:
            if first == message_id:
                return MessageTrace(
                    account_id,
                    message_id,
                    sent_at,
                    None,
                    None,
                    sender_id,
                    acked=False,
                    acked_at=None,
                    deleted=was_deleted(
                        now - self._limits.history_ms,
                        self._limits.history_messages,
                        sent_at=sent_at,
                        seq=seq,
                        position=position,
                    ),
                )
        return None

    def depths(self) -> Depths:
        with self._lock:
            boxes = list(self._boxes.values())
        # Each is looked at without the lock, as there may be a million: a number is a number.
        usual, deepest, full = self._limits.mailbox_messages, 0, 0
        for box in boxes:
            unread = box.unread
            deepest = max(deepest, unread)
            full += unread >= (box.quota or usual)
        return Depths(len(boxes), deepest, full)

    def on_mail(self, account_id: str, wake: Wake, kinds: Kinds = MAIL_ALONE) -> Unsubscribe:
        subscription = Subscription(wake, self._lock, kinds)
        with self._lock:
            box = self._boxes.get(account_id)
            if box is not None:
                # Not the mailbox: a subscription must not keep a dropped one's mail alive.
                subscription.join(box.watchers_of(kinds))
        return subscription

    def _put_copy(
        self, account_id: str, draft: Draft, first: Accepted, *, repeated: bool
    ) -> tuple[Wake, ...]:
        """Put a copy into the sender's mailbox, under the message lock; return whom to wake."""
        sender = self._boxes.get(draft.sender_id)
        if sender is None:
            return ()
        watched = sender.watchers or sender.others
        wakes = wakes_for(Kind.SENT, sender.watchers, sender.others) if watched else ()
        return wakes if sender.put_copy(account_id, draft, first, repeated=repeated) else ()

    def _expire(self, now: int) -> None:
        """Forget the oldest send_ids that count no more, under the message lock: two at the most.

        One is for the send_id that a send adds, and one to go on. Every send does so, whichever
        mailbox it is to: so each costs the same, and mailboxes that get no more mail are looked
        at as well. When there is none to forget, the next mailbox has its turn.
        """
        send_ids = self._expiring[0]
        if send_ids.expire(now) and send_ids.expire(now):
            return
        if not send_ids.count:
            send_ids.queued = False
            self._expiring.popleft()
        elif len(self._expiring) > 1:
            self._expiring.rotate(-1)

    def _box(self, account_id: str) -> Mailbox:
        box = self._boxes.get(account_id)
        if box is None:
            raise NoSuchUser
        return box


def _models(found: Found, owner: str) -> tuple[Iterator[Message | Receipt], ...]:
    """Return entries of each kind as the protocol has them, made as they are asked for."""
    copies = (_copy(seq, kept, owner) for seq, kept in found.copies)
    return _messages(found.mail), copies, map(_receipt, found.receipts)


def _messages(entries: Iterable[Entry]) -> Iterator[Message]:
    for seq, kept in entries:
        yield _message(seq, kept)


def _message(seq: int, kept: Kept) -> Message:
    message_id, _, sender, body, sent_at, _ = kept
    return _make_message(
        {"seq": seq, "message_id": message_id, "sender": sender, "body": body, "sent_at": sent_at}
    )


def _copy(seq: int, kept: Kept, owner: str) -> Message:
    message_id, _, peer, body, sent_at, n = kept
    return Message(
        seq=seq, message_id=message_id, sender=owner, body=body, sent_at=sent_at, to=peer, n=n
    )


def _receipt(kept: KeptReceipt) -> Receipt:
    seq, username, n, acked_at = kept
    return Receipt(seq=seq, username=username, n=n, acked_at=acked_at)
