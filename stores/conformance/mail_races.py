"""Rules 42 to 48 of the store kit: calls at once about mailboxes, and what is woken meanwhile."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from twinline.core.conformance import Checks, rule, shown
from twinline.core.errors import MailboxFull, NoSuchUser
from twinline.core.store import Accepted, Mailboxes, SessionKey, Store
from twinline.stores.conformance.bench import (
    ALL,
    NOW,
    StoreBench,
    outcomes,
    seqs,
)

_READING_SECONDS: Final = 20.0


@rule(
    42, "Messages at once get seqs without gap or repeat, each sender's in the order it sent them."
)
def messages_at_once_are_all_kept(checks: Checks, bench: StoreBench) -> None:
    """Send from four threads to two mailboxes."""
    store = bench.store()
    boxes = store.mailboxes
    ids = [bench.mailbox(store) for _ in range(2)]
    each = 40 if bench.rounds < 100 else 400

    def send(sender: str) -> None:
        for number in range(each):
            boxes.append(ids[number % 2], bench.draft(f"{number}", sender=sender))

    results = bench.race(checks, *(partial(send, f"s{number}") for number in range(4)))
    outcomes(checks, results, [], "sending")
    for which, account_id in enumerate(ids):
        messages = boxes.read(account_id, 0, ALL, ALL).messages
        expected = list(range(1, 2 * each + 1))
        checks.equal([one.seq for one in messages], expected, "the seqs")
        for number in range(4):
            bodies = [one.body for one in messages if one.sender == f"s{number}"]
            wanted = [f"{one}" for one in range(which, each, 2)]
            checks.equal(bodies, wanted, "what one sender sent, in order")


@rule(
    43,
    "What a reader sees is a prefix: no seq appears behind one that it has read; no wake is lost.",
)
def readers_see_a_prefix(checks: Checks, bench: StoreBench) -> None:
    """Read to the end again and again while two threads send."""
    store = bench.store()
    boxes = store.mailboxes
    bob = bench.mailbox(store)
    each = 60 if bench.rounds < 100 else 600

    def send() -> None:
        for _ in range(each):
            boxes.append(bob, bench.draft())

    def read(limit: int) -> list[int] | str:
        bell = bench.bell()
        boxes.on_mail(bob, bell.ring)
        seen: list[int] = []
        until = time.monotonic() + _READING_SECONDS
        while len(seen) < 2 * each and time.monotonic() < until:
            page = boxes.read(bob, seen[-1] if seen else 0, limit, ALL)
            seen += seqs(page)
            if seen != list(range(1, len(seen) + 1)):
                return f"a reader saw {shown(seen[-9:])}: a seq is missing that may come later"
            if not page.messages and not bell.rang():
                return f"a reader that waits behind seq {seen[-1:]} is not woken"
        return seen

    *sent, first, second = bench.race(checks, send, send, partial(read, 7), partial(read, ALL))
    outcomes(checks, sent, [], "sending")
    for seen in (first, second):
        expected = list(range(1, 2 * each + 1))
        checks.that(seen == expected, seen if isinstance(seen, str) else f"it saw {shown(seen)}")


@rule(44, "Of one send_id sent many times at once one message is stored, and all get its receipt.")
def one_of_many_repeats_is_stored(checks: Checks, bench: StoreBench) -> None:
    """Send each send_id four times at once."""
    store = bench.store()
    boxes = store.mailboxes
    for number in bench.tries(checks):
        bob = bench.mailbox(store)
        drafts = [bench.draft("hi", send_id=f"{number}") for _ in range(4)]
        results = bench.race(checks, *(partial(boxes.append, bob, one) for one in drafts))
        outcomes(checks, results, [], "sending")
        stored = boxes.read(bob, 0, ALL, ALL).messages
        checks.equal([one.seq for one in stored], [1], "the seqs of one send_id")
        receipts = [Accepted(one.message_id, NOW, NOW) for one in stored[:1]] * 4
        checks.equal(results, receipts, "the receipts")


@rule(45, "A mailbox never holds more than its quota, whoever sends at once.")
def quotas_hold_at_once(checks: Checks, bench: StoreBench) -> None:
    """Send ten messages from each of four threads where 15 are the most."""
    store = bench.store(mailbox_messages=15)
    boxes = store.mailboxes
    for _ in bench.tries(checks, max(2, bench.rounds // 5)):
        bob = bench.mailbox(store)

        def send(bob: str = bob) -> int:
            sent = 0
            for _ in range(10):
                try:
                    boxes.append(bob, bench.draft())
                except MailboxFull:
                    continue
                sent += 1
            return sent

        results = bench.race(checks, *[send] * 4)
        outcomes(checks, results, [], "sending")
        checks.equal(boxes.standing(bob).unread, 15, "how many are unread where 15 are the most")
        sent = sum(result for result in results if isinstance(result, int))
        checks.equal(sent, 15, "how many were told that they sent one")


@rule(
    46, "A message to a mailbox that is dropped meanwhile is stored or refused, and is gone then."
)
def dropped_mail_is_gone(checks: Checks, bench: StoreBench) -> None:
    """Append and drop at once, with a watcher."""
    store = bench.store()
    boxes = store.mailboxes
    for _ in bench.tries(checks):
        bob, bell = bench.mailbox(store), bench.bell()
        boxes.on_mail(bob, bell.ring)
        *sent, dropped = bench.race(
            checks,
            partial(boxes.append, bob, bench.draft()),
            partial(boxes.append, bob, bench.draft()),
            partial(boxes.drop, bob),
        )
        outcomes(checks, sent, [NoSuchUser], "sending to a mailbox that is dropped meanwhile")
        checks.equal(dropped, None, "dropping")
        checks.that(bell.rang(), "who watches a mailbox that is dropped is not woken")
        checks.raises(NoSuchUser, partial(boxes.standing, bob), "standing, when it is dropped,")
        checks.raises(NoSuchUser, partial(boxes.read, bob, 0, 9, ALL), "reading then")


@rule(47, "Who subscribes and then looks misses nothing: the look shows it, or the wake comes.")
def no_wake_is_lost(checks: Checks, bench: StoreBench) -> None:
    """Subscribe while mail arrives, while the mailbox is dropped, and while a session ends."""
    store = bench.store()
    ann = bench.account("ann")
    store.accounts.create(ann)
    for _ in bench.tries(checks):
        bob, gone = bench.mailbox(store), bench.mailbox(store)
        session = bench.session(ann)
        store.accounts.open_session(session)
        watches: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "a message": (
                partial(_sees_mail, bench, store.mailboxes, bob),
                partial(store.mailboxes.append, bob, bench.draft()),
            ),
            "a drop": (
                partial(_sees_drop, bench, store.mailboxes, gone),
                partial(store.mailboxes.drop, gone),
            ),
            "a session's end": (
                partial(_sees_end, bench, bench.a_node(store), session.key),
                partial(store.accounts.close_session, session.key),
            ),
        }
        for what, (watch, happen) in watches.items():
            learned, happened = bench.race(checks, watch, happen)
            outcomes(checks, [happened], [], what)
            checks.equal(
                learned,
                expected=True,
                what=f"whether one who subscribes meanwhile learns of {what}",
            )


def _sees_mail(bench: StoreBench, boxes: Mailboxes, account_id: str) -> bool:
    bell = bench.bell()
    boxes.on_mail(account_id, bell.ring)

    def look() -> bool:
        return bool(boxes.read(account_id, 0, 1, ALL).messages)

    return look() or (bell.rang() and look())


def _sees_drop(bench: StoreBench, boxes: Mailboxes, account_id: str) -> bool:
    bell = bench.bell()
    boxes.on_mail(account_id, bell.ring)

    def look() -> bool:
        try:
            boxes.read(account_id, 0, 1, ALL)
        except NoSuchUser:
            return True
        return False

    return look() or (bell.rang() and look())


def _sees_end(bench: StoreBench, store: Store, key: SessionKey) -> bool:
    bell = bench.bell()
    store.accounts.on_session_end(key, bell.ring)
    if store.accounts.find_session(key) is None:
        return True
    look = partial(store.accounts.find_session, key)
    return bell.rang() and bench.settled(look, None) is None


@rule(48, "Acks, deletes and messages at once keep the position, the count and the mail together.")
def counts_stay_right_at_once(checks: Checks, bench: StoreBench) -> None:
    """Send, ack in two threads and delete, then count; and once more, for all may go well."""
    store = bench.store(history_messages=5)
    for _ in bench.tries(checks, 3):
        _use_at_once(checks, bench, store, total=60 if bench.rounds < 100 else 600)


def _use_at_once(checks: Checks, bench: StoreBench, store: Store, total: int) -> None:
    boxes = store.mailboxes
    bob = bench.mailbox(store)

    def send() -> None:
        for _ in range(total):
            boxes.append(bob, bench.draft())

    def ack(step: int) -> None:
        done = 0
        until = time.monotonic() + _READING_SECONDS
        while done < total - 20 and time.monotonic() < until:
            for seq in seqs(boxes.read(bob, done, step, ALL)):
                done = min(seq, total - 20)
            position = boxes.ack(bob, done, NOW).position
            checks.that(position >= done, f"after an ack of {done} the position is {position}")

    def look() -> str | None:
        last = 0
        until = time.monotonic() + _READING_SECONDS
        while last < total - 20 and time.monotonic() < until:
            position = boxes.standing(bob).position
            if position < last:
                return f"the position moved from {last} back to {position}"
            last = position
        return None

    def delete() -> None:
        for seq in range(1, total + 1, 3):
            boxes.delete(bob, [seq])

    seen, *others = bench.race(checks, look, send, partial(ack, 3), partial(ack, 8), delete)
    outcomes(checks, [seen, *others], [], "a call")
    checks.that(not isinstance(seen, str), f"{seen}")
    left = seqs(boxes.read(bob, 0, ALL, ALL))
    standing = boxes.standing(bob)
    checks.equal(standing.position, total - 20, "the position in the end")
    unread = sum(seq > standing.position for seq in left)
    checks.equal(standing.unread, unread, "the number of unread messages")
    checks.that(
        len(left) - unread <= 5, f"{len(left) - unread} are kept as history, 5 are the most"
    )
