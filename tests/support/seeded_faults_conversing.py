"""Faults in what the store in memory does with copies, kinds, receipts and blocked accounts.

Each is a method of its mailboxes, called with these, the method as it was, and the arguments.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from seeded_faults_mailboxes import a_moment

from twinline.core.errors import (
    MailboxFull,
    NoSuchUser,
    Refused,
    SendIdConflict,
    StoreUnavailable,
)
from twinline.core.protocol import EVERY_KIND, TALK, Kind
from twinline.core.store import Accepted, Blocked, Delivery, Draft, Peer
from twinline.core.waiting import wake_all
from twinline.stores.memory import MemoryStore
from twinline.stores.memory.mailbox import Copies, Mailbox
from twinline.stores.memory.mailboxes import MemoryMailboxes
from twinline.stores.memory.subscribers import wakes_for, wakes_of

# -- copies --------------------------------------------------------------------------------


def _plain(draft: Draft) -> Draft:
    return draft._replace(copy_to=None)


def _put(half: MemoryMailboxes, account_id, draft, message_id, n):
    """Put in a copy, whether there is one or not."""
    box = half._boxes.get(draft.sender_id)
    if box is not None and draft.copy_to is not None:
        with half._lock:
            first = Accepted(message_id, draft.sent_at, n)
            box.put_copy(account_id, draft, first, repeated=False)


def keeps_no_copies(half: MemoryMailboxes, was, account_id, draft):
    return was(account_id, _plain(draft))


def names_the_sender(half: MemoryMailboxes, was, account_id, draft):
    return was(account_id, draft._replace(copy_to=draft.copy_to and draft.sender))


def copies_to_oneself(half: MemoryMailboxes, was, account_id, draft):
    accepted = was(account_id, draft)
    if account_id == draft.sender_id:
        _put(half, account_id, draft, accepted.message_id, accepted.n)
    return accepted


def shows_copies_unasked(half: MemoryMailboxes, was, account_id, after, limit, max_bytes, *kinds):  # noqa: PLR0917 - as it is there
    return was(account_id, after, limit, max_bytes, *(kinds or (TALK,)))


def copies_each_time(half: MemoryMailboxes, was, account_id, draft):
    accepted = was(account_id, _plain(draft))
    if account_id != draft.sender_id:
        _put(half, account_id, draft, accepted.message_id, accepted.n)
    return accepted


def copies_by_the_repeats_id(half: MemoryMailboxes, was, account_id, draft):
    accepted = was(account_id, _plain(draft))
    box = half._boxes.get(draft.sender_id)
    known = box is not None and box.copies is not None and box.copies.has(accepted.message_id)
    if not known:
        _put(half, account_id, draft, draft.message_id, accepted.n)
    return accepted


def completes_nothing(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes.get(account_id)
    mine = {} if box is None else box.send_ids._by_sender.get(draft.sender_id, {})
    return was(account_id, _plain(draft) if draft.send_id in mine else draft)


def counts_copies_as_unread(half: MemoryMailboxes, was, account_id):
    standing = was(account_id)
    copies = half._boxes[account_id].copies
    return standing._replace(unread=standing.unread + len(copies or ()))


def fills_by_copies(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes.get(account_id)
    if box is not None and box.unread + len(box.copies or ()) >= half._limits.mailbox_messages:
        raise MailboxFull
    return was(account_id, draft)


def trims_copies_by_acks(half: MemoryMailboxes, was, account_id, up_to, now):
    box = half._boxes.get(account_id)
    if box is not None and box.copies is not None and up_to <= box.last:
        box.copies.delete(set(range(up_to + 1)))
    return was(account_id, up_to, now)


def counts_copies_as_deep(half: MemoryMailboxes, was):
    boxes = half._boxes.values()
    copies = max((len(box.copies or ()) for box in boxes), default=0)
    depths = was()
    return replace(depths, deepest=max(copies, depths.deepest))


def traces_copies(half: MemoryMailboxes, was, message_id, account_id=None, *, now):
    found = was(message_id, account_id, now=now)
    box = half._boxes.get(account_id)
    if found is None and box is not None and box.copies is not None and box.copies.has(message_id):
        return was(message_id, now=now)
    return found


class _Untrimmed(Copies):
    __slots__ = ()

    def trim(self, most, aged, spare=0):
        """Keep all."""


def keeps_every_copy(half: MemoryMailboxes, was, account_id, draft):
    accepted = was(account_id, draft)
    box = half._boxes.get(draft.sender_id)
    if box is not None and box.copies is not None:
        box.copies.__class__ = _Untrimmed
    return accepted


def counts_n_by_the_clock(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes.get(account_id)
    if box is not None:
        box.newest = 0
    return was(account_id, draft)


def counts_n_by_what_is_there(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes.get(account_id)
    if box is not None:
        box.newest = max((kept[5] for _, kept in box.entries()), default=0)
    return was(account_id, draft)


def looks_then_copies(half: MemoryMailboxes, was, account_id, draft):
    accepted = was(account_id, _plain(draft))
    box = half._boxes.get(draft.sender_id)
    missing = box is None or box.copies is None or not box.copies.has(accepted.message_id)
    a_moment()
    if missing:
        _put(half, account_id, draft, accepted.message_id, accepted.n)
    return accepted


def copies_into_what_was_there(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes.get(draft.sender_id)
    a_moment()
    accepted = was(account_id, draft)
    if box is not None:
        half._boxes[draft.sender_id] = box
    return accepted


# -- kinds and conversations -----------------------------------------------------------------


def sees_its_page_alone(half: MemoryMailboxes, was, account_id, after, limit, max_bytes, *kinds):  # noqa: PLR0917 - as it is there
    page = was(account_id, after, limit, max_bytes, *kinds)
    ends = [each.seq for each in (*page.messages, *page.receipts)]
    return page._replace(seen=max(ends, default=after))


def sees_to_the_end(half: MemoryMailboxes, was, account_id, after, limit, max_bytes, *kinds):  # noqa: PLR0917 - as it is there
    page = was(account_id, after, limit, max_bytes, *kinds)
    return page._replace(seen=half._boxes[account_id].last)


def sees_all_by_asking_for_none(half: MemoryMailboxes, was, look):
    page = was(look)
    return page if look.limit else page._replace(seen=half._boxes[look.account_id].last)


def reads_every_kind(half: MemoryMailboxes, was, account_id, after, limit, max_bytes, *kinds):  # noqa: PLR0917 - as it is there
    return was(account_id, after, limit, max_bytes, *(kinds and (EVERY_KIND,)))


def ignores_the_peer(half: MemoryMailboxes, was, *arguments, peer=None, **kinds):
    return was(*arguments, **kinds)


def gives_a_peers_mail_alone(half: MemoryMailboxes, was, *arguments, kinds, peer=None):
    return was(*arguments, kinds=kinds - {Kind.SENT} if peer else kinds, peer=peer)


def knows_peers_by_name(half: MemoryMailboxes, was, *arguments, peer=None, **kinds):
    return was(*arguments, peer=peer and Peer(None, peer.username), **kinds)


def has_seen_all_history(half: MemoryMailboxes, was, *arguments, **kinds):
    return was(*arguments, **kinds)._replace(seen=0)


def shows_what_has_aged(  # noqa: PLR0917 - as it is there
    half: MemoryMailboxes, was, account_id, before, limit, max_bytes, now, **kinds
):
    return was(account_id, before, limit, max_bytes, 0, **kinds)


def pages_from_the_newest(half: MemoryMailboxes, was, account_id, before, *arguments, **kinds):
    """Take a place in a conversation for a distance from its end, which moves."""
    last = half._boxes[account_id].last if account_id in half._boxes else 0
    ended = vars(half).setdefault("ended", {}).setdefault(account_id, last)
    if kinds.get("peer") is not None and before is not None and before <= ended:
        before += last - ended
    return was(account_id, before, *arguments, **kinds)


def shows_aged_copies_of_a_peer(  # noqa: PLR0917 - as it is there
    half: MemoryMailboxes, was, account_id, before, limit, max_bytes, now, **kinds
):
    return was(account_id, before, limit, max_bytes, 0 if kinds.get("peer") else now, **kinds)


def lists_until_all_has_aged(half: MemoryMailboxes, was, account_id, before, limit, max_bytes, now):  # noqa: PLR0917 - as it is there
    """List by what is the last, aged or not, as long as something has not."""
    there = was(account_id, before, limit, max_bytes, now)
    listed = was(account_id, before, limit, max_bytes, 0)
    return listed if there.conversations else there


def lists_by_name(half: MemoryMailboxes, was, *arguments):
    page = was(*arguments)
    by_name = {each.username: each for each in reversed(page.conversations)}
    return page._replace(conversations=tuple(reversed(by_name.values())))


def lists_a_name_as_one_account(half: MemoryMailboxes, was, account_id, *arguments):
    """Say of each conversation whose name it is now, and not whose it was."""
    box = half._boxes.get(account_id)
    now = {} if box is None else {box._messages[last][2]: each for each, last in box.peers()}
    page = was(account_id, *arguments)
    told = [
        each.model_copy(update={"account": now.get(each.username, each.account)})
        for each in page.conversations
    ]
    return page._replace(conversations=tuple(told))


def knows_nobody_without_a_name(
    half: MemoryMailboxes, was, account_id, before, *arguments, **kinds
):
    peer = kinds.get("peer")
    if peer is not None and not peer.username:
        return was(account_id, 0, *arguments, **kinds)
    return was(account_id, before, *arguments, **kinds)


def lists_from_before(half: MemoryMailboxes, was, account_id, before, *arguments):
    return was(account_id, None if before is None else before + 1, *arguments)


def lists_what_has_aged(half: MemoryMailboxes, was, account_id, before, limit, max_bytes, now):  # noqa: PLR0917 - as it is there
    return was(account_id, before, limit, max_bytes, 0)


def counts_all_as_unread(half: MemoryMailboxes, was, account_id, *arguments):
    box = half._boxes[account_id]
    position, box.position = box.position, 0
    page = was(account_id, *arguments)
    box.position = position
    return page


# -- receipts --------------------------------------------------------------------------------


@contextmanager
def _but_for(box: Mailbox | None, **changed) -> Iterator[None]:
    """Let a mailbox be another for a moment."""
    kept = {name: getattr(box, name, None) for name in changed}
    for name, value in changed.items():
        if box is not None:
            setattr(box, name, value)
    try:
        yield
    finally:
        for name, value in kept.items():
            if box is not None:
                setattr(box, name, value)


def tells_of_own_mail(half: MemoryMailboxes, was, account_id, up_to, now):
    box = half._boxes[account_id]
    before = box.position
    standing = was(account_id, up_to, now)
    own = [Delivery(account_id, 1)] if standing.position > before and up_to == 5 else []
    return standing._replace(deliveries=(*standing.deliveries, *own))


def tells_of_blocked_mail(half: MemoryMailboxes, was, account_id, up_to, now):
    with _but_for(half._boxes.get(account_id), blocked=None):
        return was(account_id, up_to, now)


def tells_in_any_case(half: MemoryMailboxes, was, account_id, up_to, now):
    with _but_for(half._boxes.get(account_id), gives_receipts=True):
        return was(account_id, up_to, now)


def tells_the_newest_of_all(half: MemoryMailboxes, was, account_id, up_to, now):
    standing = was(account_id, up_to, now)
    newest = half._boxes[account_id].newest
    told = tuple(each._replace(n=newest) for each in standing.deliveries)
    return standing._replace(deliveries=told)


def looks_without_deliveries(half: MemoryMailboxes, was, look):
    return was(look)._replace(deliveries=())


def takes_any_receipt(half: MemoryMailboxes, was, account_id, receipt):
    box = half._boxes.get(account_id)
    if box is not None and box.receipts:
        box.receipts.pop(receipt.account_id, None)
    was(account_id, receipt)


def keeps_a_receipts_seq(half: MemoryMailboxes, was, account_id, receipt):
    box = half._boxes.get(account_id)
    before = box.receipts.get(receipt.account_id) if box is not None and box.receipts else None
    was(account_id, receipt)
    if box is not None and before is not None and box.receipts is not None:
        box.receipts[receipt.account_id] = (before[0], *box.receipts[receipt.account_id][1:])


def takes_receipts_where_none_are_given(half: MemoryMailboxes, was, account_id, receipt):
    with _but_for(half._boxes.get(account_id), gives_receipts=True):
        was(account_id, receipt)


def takes_receipts_of_the_blocked(half: MemoryMailboxes, was, account_id, receipt):
    with _but_for(half._boxes.get(account_id), blocked=None):
        was(account_id, receipt)


def keeps_every_receipt(half: MemoryMailboxes, was, account_id, receipt):
    box = half._boxes.get(account_id)
    if box is None:
        return
    limits = replace(box._limits, history_messages=10**6)
    with _but_for(box, _limits=limits):
        was(account_id, receipt)


def looks_then_puts_receipts(half: MemoryMailboxes, was, account_id, receipt):
    box = half._boxes[account_id]
    mine = (box.receipts or {}).get(receipt.account_id)
    a_moment()
    if mine is None or mine[2] < receipt.n:
        takes_any_receipt(half, was, account_id, receipt)


def looks_then_takes_receipts(half: MemoryMailboxes, was, account_id, receipt):
    box = half._boxes.get(account_id)
    own = receipt.account_id == account_id
    if own or box is None or not box.gives_receipts or receipt.account_id in (box.blocked or {}):
        return
    a_moment()
    with half._lock, _but_for(box, gives_receipts=True, blocked=None):
        put = box.put_receipt(receipt)
    if put:
        wake_all(wakes_for(Kind.RECEIPT, box.watchers, box.others))


# -- blocked accounts ------------------------------------------------------------------------


def refuses_by_name(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes.get(account_id)
    if box is not None and draft.sender in (box.blocked or {}).values() and draft.send_id != "x":
        raise Refused
    return was(account_id, draft)


def refuses_repeats(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes.get(account_id)
    if box is not None and draft.sender_id in (box.blocked or {}):
        raise Refused
    return was(account_id, draft)


def stores_what_it_refuses(half: MemoryMailboxes, was, account_id, draft):
    try:
        return was(account_id, draft)
    except Refused:
        with _but_for(half._boxes[account_id], blocked=None, quota=10**6):
            was(account_id, _plain(draft)._replace(send_id=None))
        raise


def copies_what_is_refused(half: MemoryMailboxes, was, account_id, draft):
    try:
        return was(account_id, draft)
    except Refused:
        _put(half, account_id, draft, draft.message_id, draft.sent_at)
        raise


def refuses_when_full(half: MemoryMailboxes, was, account_id, draft):
    """Look for room before it looks for blocks."""
    box = half._boxes.get(account_id)
    if box is not None and box.unread >= half._limits.mailbox_messages:
        with _but_for(box, blocked=None):
            return was(account_id, draft)
    return was(account_id, draft)


def blocks_without_end(half: MemoryMailboxes, was, account_id, peer):
    with half._lock:
        box = half._box(account_id)
        box.blocked = {**(box.blocked or {}), peer.account_id: peer.username}


def lists_as_they_came(half: MemoryMailboxes, was, account_id):
    return [Blocked(*each) for each in (half._box(account_id).blocked or {}).items()]


def unblocks_who_is_gone(half: MemoryMailboxes, was, account_id):
    was(account_id)
    for box in half._boxes.values():
        if box.blocked:
            box.blocked.pop(account_id, None)


def refuses_other_bodies(half: MemoryMailboxes, was, account_id, draft):
    """Look for blocks before it looks at what a send_id stands for."""
    try:
        return was(account_id, draft)
    except SendIdConflict:
        if draft.sender_id in (half._boxes[account_id].blocked or {}):
            raise Refused from None
        raise


def completes_nothing_for_the_blocked(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes.get(account_id)
    blocked = box is not None and draft.sender_id in (box.blocked or {})
    return was(account_id, _plain(draft) if blocked else draft)


def looks_for_repeats_then_for_blocks(half: MemoryMailboxes, was, account_id, draft):
    """Take no repeat for one of what another thread has sent meanwhile."""
    box = half._boxes.get(account_id)
    mine = {} if box is None else box.send_ids._by_sender.get(draft.sender_id, {})
    known = draft.send_id in mine
    if int(draft.message_id, 16) % 2:
        a_moment()
    if box is None or known or draft.sender_id == account_id:
        return was(account_id, draft)
    if draft.sender_id in (box.blocked or {}):
        raise Refused
    return was(account_id, draft)


def looks_then_sends(half: MemoryMailboxes, was, account_id, draft):
    box = half._boxes.get(account_id)
    if box is not None and draft.sender_id in (box.blocked or {}):
        raise Refused
    a_moment()
    # As another account that is not blocked, for the mailbox; as itself for all others.
    return was(account_id, draft._replace(sender_id=f"{draft.sender_id}'"))


# -- wakes -----------------------------------------------------------------------------------


def wakes_all_by_copies(half: MemoryMailboxes, was, account_id, draft):
    accepted = was(account_id, draft)
    box = half._boxes.get(draft.sender_id)
    if box is not None and draft.copy_to is not None:
        wake_all(wakes_of(box.watchers))
    return accepted


def wakes_nobody_by_copies(half: MemoryMailboxes, was, account_id, draft):
    with _but_for(half._boxes.get(draft.sender_id), others=None):
        return was(account_id, draft)


def wakes_by_mail_who_asks_for_none(half: MemoryMailboxes, was, account_id, draft):
    accepted = was(account_id, draft)
    wake_all(wakes_of(half._boxes[account_id].others))
    return accepted


def ends_in_silence(half: MemoryMailboxes, was, account_id):
    box = half._boxes.get(account_id)
    if box is None:
        raise NoSuchUser
    box.others = None
    was(account_id)


# -- what fails, and what is opened again ------------------------------------------------------


def fails_between_the_two(half: MemoryMailboxes, was, account_id, draft):
    """Store the mail, and then take its send_id for both."""
    if vars(half).get("failing"):
        was(account_id, _plain(draft))
        raise StoreUnavailable
    return completes_nothing(half, was, account_id, draft)


def _each(store: MemoryStore, **changed) -> None:
    for box in store.mailboxes._boxes.values():
        for name, value in changed.items():
            setattr(box, name, value)


def forgets_copies(store: MemoryStore) -> None:
    _each(store, copies=None)


def forgets_receipts(store: MemoryStore) -> None:
    _each(store, receipts=None)


def forgets_blocks(store: MemoryStore) -> None:
    _each(store, blocked=None)


def forgets_who_gives_receipts(store: MemoryStore) -> None:
    _each(store, gives_receipts=True)


def forgets_the_newest_n(store: MemoryStore) -> None:
    _each(store, newest=0)


def forgets_of_which_messages_copies_are(store: MemoryStore) -> None:
    for box in store.mailboxes._boxes.values():
        if box.copies is not None:
            box.copies._by_id.clear()
