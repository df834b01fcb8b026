"""Faults in the place of the methods of the in-memory store's mailboxes.

Each gets the half that it is in, the method that it replaces, and the arguments.
"""

import threading
import time
from bisect import insort
from contextlib import suppress
from dataclasses import replace

from twinline.core.errors import CursorInvalid, MailboxFull, NoSuchUser, StoreUnavailable
from twinline.core.store import Accepted, Acked, MailPage
from twinline.core.waiting import wake_all
from twinline.stores.memory.mailbox import Mailbox
from twinline.stores.memory.mailboxes import MemoryMailboxes
from twinline.stores.memory.subscribers import wakes_of

ALL = 10**9


def a_moment() -> None:
    """Let other threads through where two steps should have been one."""
    time.sleep(0.005)


def begins_anew(half: MemoryMailboxes, was, account_id):
    half._boxes.pop(account_id, None)
    was(account_id)


def strips_bodies(half: MemoryMailboxes, was, account_id, draft):
    return was(account_id, draft._replace(body=draft.body.strip()))


def counts_over_all_mailboxes(half: MemoryMailboxes, was, account_id, draft):
    last = max((box.last for box in half._boxes.values()), default=0)
    if account_id in half._boxes:
        half._boxes[account_id].last = last
    return was(account_id, draft)


def gives_deleted_seqs_again(half: MemoryMailboxes, was, account_id, seqs):
    count = was(account_id, seqs)
    box = half._boxes[account_id]
    box.last = max([box.position, *box._messages])
    return count


def makes_missing_mailboxes(half: MemoryMailboxes, was, account_id, draft):
    if account_id not in half._boxes:
        half.create(account_id)
    return was(account_id, draft)


def raises_what_it_likes(half: MemoryMailboxes, was, account_id):
    if account_id not in half._boxes:
        raise KeyError(account_id)
    return was(account_id)


def ignores_the_byte_budget(  # noqa: PLR0917 - as it is there
    half: MemoryMailboxes, was, account_id, after, limit, max_bytes, *kinds
):
    return was(account_id, after, limit, ALL, *kinds)


def tells_more_by_the_limit(  # noqa: PLR0917 - as it is there
    half: MemoryMailboxes, was, account_id, after, limit, max_bytes, *kinds
):
    page = was(account_id, after, limit, max_bytes, *kinds)
    return page._replace(more=len(page.messages) == limit)


def reads_beyond_the_end(half: MemoryMailboxes, was, account_id, after, limit, max_bytes, *kinds):  # noqa: PLR0917 - as it is there
    last = half._boxes[account_id].last if account_id in half._boxes else 0
    return was(account_id, min(after, last), limit, max_bytes, *kinds)


def begins_at_before(  # noqa: PLR0917 - as it is there
    half: MemoryMailboxes, was, account_id, before, limit, max_bytes, now, **kinds
):
    return was(account_id, None if before is None else before + 1, limit, max_bytes, now, **kinds)


def gives_the_oldest(  # noqa: PLR0917 - as it is there
    half: MemoryMailboxes, was, account_id, before, limit, max_bytes, now, **kinds
):
    page = was(account_id, before, ALL, ALL, now, **kinds)
    return page._replace(messages=page.messages[:limit], more=len(page.messages) > limit)


def forgets_acks(half: MemoryMailboxes, was, account_id, up_to, now):
    standing = half.standing(account_id)
    if up_to > half._boxes[account_id].last:
        raise CursorInvalid
    return Acked(max(up_to, standing.position), standing.unread)


def moves_back(half: MemoryMailboxes, was, account_id, up_to, now):
    acked = was(account_id, up_to, now)
    box = half._boxes[account_id]
    if up_to < box.position:
        box.position = up_to
        box.unread = sum(seq > up_to for seq in box._messages)
        return Acked(box.position, box.unread)
    return acked


def counts_what_was_named(half: MemoryMailboxes, was, account_id, seqs):
    was(account_id, seqs)
    return len(seqs)


def acks_what_there_is(half: MemoryMailboxes, was, account_id, up_to, now):
    """Go to the end before it refuses what is beyond it."""
    box = half._boxes.get(account_id)
    if box is not None and up_to > box.last:
        was(account_id, box.last, now)
    return was(account_id, up_to, now)


def tells_repeats_their_own(half: MemoryMailboxes, was, account_id, draft):
    n = was(account_id, draft).n
    return Accepted(draft.message_id, draft.sent_at, n)


def _first(half: MemoryMailboxes, account_id, draft):
    """Return the receipt of the first send under a send_id, whatever its body was."""
    box = half._boxes.get(account_id)
    mine = {} if box is None else box.send_ids._by_sender.get(draft.sender_id, {})
    if draft.send_id not in mine:
        return None
    _, _, _, message_id, sent_at, _, n = mine[draft.send_id]
    return Accepted(message_id, sent_at, n)


def _keep(box: Mailbox, draft):
    """Keep what a send_id stands for, whatever became of the message."""
    mine, first = box.send_ids.make_room(draft, hash(draft.body), box.last + 1, draft.sent_at)
    mine[draft.send_id] = first
    box.send_ids.count += 1


def looks_only_at_the_id(half: MemoryMailboxes, was, account_id, draft):
    return _first(half, account_id, draft) or was(account_id, draft)


def looks_at_all_mailboxes(half: MemoryMailboxes, was, account_id, draft):
    half.standing(account_id)
    for each in half._boxes:
        first = draft.send_id and _first(half, each, draft)
        if first and each != account_id:
            return first
    return was(account_id, draft)


def forgets_the_newest(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes.get(account_id)
    mine = {} if box is None else box.send_ids._by_sender.get(draft.sender_id, {})
    if draft.send_id not in mine and len(mine) >= half._limits.send_ids_per_sender:
        draft = draft._replace(send_id=None)
    return was(account_id, draft)


def keeps_what_comes_later(half: MemoryMailboxes, was, account_id, draft):
    """Take a send_id of the future for one that counts."""
    key = account_id, draft.sender_id, draft.send_id
    kept = vars(half).setdefault("kept", {})
    if key in kept and kept[key].sent_at > draft.sent_at:
        return kept[key]
    kept[key] = was(account_id, draft)
    return kept[key]


def mixes_senders(half: MemoryMailboxes, was, account_id, draft):
    return was(account_id, draft._replace(sender_id="everyone"))


def keeps_refused_send_ids(half: MemoryMailboxes, was, account_id, draft):
    try:
        return was(account_id, draft)
    except (MailboxFull, NoSuchUser):
        for box in half._boxes.values():
            _keep(box, draft)
        raise


def counts_acked_mail(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes.get(account_id)
    if box is not None and len(box) >= box._limits.mailbox_messages:
        raise MailboxFull
    return was(account_id, draft)


def trims_by_sending_time(  # noqa: PLR0917 - as it is there
    half: MemoryMailboxes, was, account_id, before, limit, max_bytes, now, **kinds
):
    """Count a message's age from when it was sent."""
    page = was(account_id, before, limit, max_bytes, now, **kinds)
    keep_ms = half._limits.history_ms
    fresh = [
        one
        for one in page.messages
        if one.seq > page.position or now - one.sent_at < keep_ms or keep_ms == 0
    ]
    return page._replace(messages=tuple(fresh))


def trims_what_is_unread(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes.get(account_id)
    if box is not None and draft.sent_at > 1_767_225_600_000 + 86_400_000 * 365:
        box.delete(list(box._messages))
    return was(account_id, draft)


def wakes_everyone(half: MemoryMailboxes, was, account_id, draft):
    receipt = was(account_id, draft)
    wake_all(wake for box in half._boxes.values() for wake in wakes_of(box.watchers))
    return receipt


def wakes_the_others(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes[account_id]
    own, box.watchers = box.watchers, None
    receipt = was(account_id, draft)
    box.watchers = own
    others = [other for other in half._boxes.values() if other is not box]
    wake_all(wake for other in others[:1] for wake in wakes_of(other.watchers))
    return receipt


def wakes_nobody(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes.get(account_id, Mailbox(half._limits))
    own, box.watchers = box.watchers, None
    try:
        return was(account_id, draft)
    finally:
        box.watchers = own


def wakes_once(half: MemoryMailboxes, was, account_id, draft):
    receipt = was(account_id, draft)
    half._boxes[account_id].watchers = None
    return receipt


def drops_in_silence(half: MemoryMailboxes, was, account_id):
    half._boxes.pop(account_id, None)


def subscribes_each_wake_once(half: MemoryMailboxes, was, account_id, wake, *kinds):
    box = half._boxes.get(account_id)
    if box is None:
        return lambda: None
    same = [each for each in box.watchers or () if each.wake == wake]
    return same[0] if same else was(account_id, wake, *kinds)


def stays_subscribed(half: MemoryMailboxes, was, account_id, wake, *kinds):
    was(account_id, wake, *kinds)
    return lambda: None


def wakes_under_its_lock(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes[account_id]
    receipt = was(account_id, draft)
    with half._lock:
        for wake in wakes_of(box.watchers):
            wake()
    return receipt


def wakes_until_one_raises(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes[account_id]
    receipt = wakes_nobody(half, was, account_id, draft)
    for wake in wakes_of(box.watchers):
        with suppress(Exception):
            wake()
            continue
        break
    return receipt


def tells_what_a_wake_raised(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes[account_id]
    receipt = wakes_nobody(half, was, account_id, draft)
    for wake in wakes_of(box.watchers):
        wake()
    return receipt


WRITING = threading.Semaphore()


def writes_one_at_a_time(half: MemoryMailboxes, was, account_id, draft):
    """Let a wake that writes wait for the write that it is a part of."""
    if not WRITING.acquire(timeout=2):
        raise StoreUnavailable
    try:
        return was(account_id, draft)
    finally:
        WRITING.release()


def in_the_lock(half: MemoryMailboxes, was, account_id, draft):
    with half._lock:
        return was(account_id, draft)


def counts_then_stores(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes[account_id]
    last = box.last
    a_moment()
    with half._lock:
        box.last = last
        accepted = box.append(account_id, draft, None)
        box._seqs = sorted(set(box._seqs))
    return accepted


def stores_out_of_order(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes[account_id]
    with half._lock:
        box.last += 1
        seq = box.last
    if seq % 3 == 1:
        a_moment()
    with half._lock:
        insort(box._seqs, seq)
        box._messages[seq] = (*draft[:5], draft.sent_at)
        box.unread += 1
        wakes = wakes_of(box.watchers)
    wake_all(wakes)
    return Accepted(draft.message_id, draft.sent_at, draft.sent_at)


def wakes_then_stores(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes[account_id]
    wake_all(wakes_of(box.watchers))
    time.sleep(0.05)
    return wakes_nobody(half, was, account_id, draft)


def looks_then_stores(half: MemoryMailboxes, was, account_id, draft):
    first = _first(half, account_id, draft)
    a_moment()
    if first:
        return first
    receipt = was(account_id, draft._replace(send_id=None))
    box = half._boxes[account_id]
    with half._lock:
        _keep(box, draft)
    return receipt


def counts_then_fills(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes[account_id]
    most = box._limits.mailbox_messages
    if box.unread >= most:
        raise MailboxFull
    a_moment()
    with half._lock:
        box._limits = replace(box._limits, mailbox_messages=10**6)
        accepted = box.append(account_id, draft, None)
        box._limits = replace(box._limits, mailbox_messages=most)
    return accepted


def looks_then_revives(half: MemoryMailboxes, was, account_id, draft):
    with half._lock:
        box = half._box(account_id)
    a_moment()
    with half._lock:
        accepted = box.append(account_id, draft, None)
        half._boxes[account_id] = box
    return accepted


def looks_then_acks(half: MemoryMailboxes, was, account_id, up_to, now):
    position = max(half.standing(account_id).position, up_to)
    a_moment()
    was(account_id, up_to, now)
    box = half._boxes[account_id]
    with half._lock:
        box.position = position
        box.unread = sum(seq > position for seq in box._messages)
        return Acked(box.position, box.unread)


def sleeps_a_moment(half, was, account_id, draft):
    time.sleep(0.0001)
    return was(account_id, draft)


def asks_another_thread(half, was, account_id):
    found = []

    def look():
        time.sleep(0.001)  # else it may be done before anybody has to wait for it
        found.append(was(account_id))

    other = threading.Thread(target=look)
    other.start()
    other.join()
    return found[0]


def reads_then_acks(half: MemoryMailboxes, was, look):
    page = was(look._replace(ack=None))
    if look.ack is not None:
        half.ack(look.account_id, look.ack, look.now)
    return page


def reads_one_at_least(half: MemoryMailboxes, was, look):
    return was(look._replace(limit=max(1, look.limit)))


def acks_only_what_it_reads(half: MemoryMailboxes, was, look):
    return was(look if look.limit else look._replace(ack=None))


def stops_at_what_is_refused(half: MemoryMailboxes, was, looks):
    return [half.look(look) for look in looks]


def leaves_out_what_is_refused(half: MemoryMailboxes, was, looks):
    return [outcome for outcome in was(looks) if isinstance(outcome, MailPage)]


def answers_mailbox_by_mailbox(half: MemoryMailboxes, was, looks):
    return was(sorted(looks))


def unsubscribes_under_a_lock(half: MemoryMailboxes, was, account_id, wake, *kinds):
    """Have a wake that unsubscribes wait for itself, and give up."""
    unsubscribe = was(account_id, wake, *kinds)
    vars(half).setdefault("lock", threading.Lock())

    def end():
        if not half.lock.acquire(timeout=0.1):  # type: ignore[attr-defined]
            raise StoreUnavailable
        unsubscribe()
        half.lock.release()  # type: ignore[attr-defined]

    return end


def wakes_under_that_lock(half: MemoryMailboxes, was, account_id, draft):
    with vars(half).setdefault("lock", threading.Lock()):
        return was(account_id, draft)


def raises_the_quota_alone(half: MemoryMailboxes, was, account_id, messages):
    box = half._boxes.get(account_id)
    if box is None or messages is None or messages > (box.quota or 0):
        was(account_id, messages)


def fills_by_all_that_is_kept(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes.get(account_id)
    if box is not None and box.quota is not None and len(box) >= box.quota:
        raise MailboxFull
    return was(account_id, draft)


def counts_characters(half: MemoryMailboxes, was, account_id):
    usage = was(account_id)
    bodies = (message.body for message in half.read(account_id, 0, 10**6, 10**9).messages)
    return usage._replace(size=sum(map(len, bodies)))


def counts_unread_alone(half: MemoryMailboxes, was, account_id):
    usage = was(account_id)
    return usage._replace(messages=usage.unread)


def traces_the_last_ack(half: MemoryMailboxes, was, message_id, account_id=None, *, now):
    found = was(message_id, account_id, now=now)
    if found is None or found.acked_at is None:
        return found
    return found._replace(acked_at=half._boxes[found.account_id]._acks[-1][1])


def traces_everywhere(half: MemoryMailboxes, was, message_id, account_id=None, *, now):
    return was(message_id, now=now)


def traces_what_is_there(half: MemoryMailboxes, was, message_id, account_id=None, *, now):
    found = was(message_id, account_id, now=now)
    return None if found is None or found.seq is None else found


def measures_all_that_is_kept(half: MemoryMailboxes, was):
    deepest = max((len(box) for box in half._boxes.values()), default=0)
    return replace(was(), deepest=deepest)


def measures_by_the_policy_alone(half: MemoryMailboxes, was):
    usual = half._limits.mailbox_messages
    return replace(was(), full=sum(box.unread >= usual for box in half._boxes.values()))


def calls_full_what_is_over(half: MemoryMailboxes, was):
    usual, boxes = half._limits.mailbox_messages, half._boxes.values()
    return replace(was(), full=sum(box.unread > (box.quota or usual) for box in boxes))


def traces_what_has_aged(half: MemoryMailboxes, was, message_id, account_id=None, *, now):
    return was(message_id, account_id, now=0)


def traces_no_expiry(half: MemoryMailboxes, was, message_id, account_id=None, *, now):
    found = was(message_id, account_id, now=now)
    return None if found is None else found._replace(deleted=found.seq is None)


def traces_no_deletion(half: MemoryMailboxes, was, message_id, account_id=None, *, now):
    found = was(message_id, account_id, now=now)
    return None if found is None else found._replace(deleted=False)


def traces_deletion_of_unread_mail(half: MemoryMailboxes, was, message_id, account_id=None, *, now):
    """Take what was deleted behind the position for what has expired."""
    found = was(message_id, account_id, now=now)
    box = None if found is None else half._boxes[found.account_id]
    if box is None or not found.deleted:
        return found
    seqs = (each[5] for each in box.send_ids.kept() if each[3] == message_id)
    return found._replace(deleted=next(seqs) > box.position)
