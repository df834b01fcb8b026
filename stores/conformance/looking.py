"""Rules 72 and 73 of the store kit: acks and reads in one step, and many of them at once."""

from functools import partial
from typing import Final

from twinline.core.conformance import Checks, rule, shown
from twinline.core.errors import CursorInvalid, NoSuchUser, RequestError
from twinline.core.store import MailboxLook, MailPage, Standing
from twinline.stores.conformance.bench import ALL, DAY, NOW, StoreBench, everything, seqs

_LOOKS: Final[tuple[tuple[int, int, int, int | None], ...]] = (
    # after, limit, max_bytes, ack
    (0, ALL, ALL, None),
    (0, 2, ALL, None),
    (2, 2, ALL, 1),
    (0, 0, ALL, None),
    (0, 0, ALL, 3),
    (0, ALL, 3, 2),
    (4, 1, 0, 4),
    (4, ALL, ALL, 4),
    (8, 3, ALL, 7),
    (5, 0, 0, 8),
    (8, ALL, ALL, 8),
)


@rule(72, "A look acks and then reads, as ack() and read() do it; with a limit of 0 it reads none.")
def looks_ack_and_read(checks: Checks, bench: StoreBench) -> None:
    """Look at one mailbox, and do the same by two calls with another one, again and again."""
    store = bench.store(history_messages=3, history_days=1)
    boxes = store.mailboxes
    looked, called = bench.mailbox(store, messages=8), bench.mailbox(store, messages=8)
    for hours, (after, limit, max_bytes, ack) in enumerate(_LOOKS):
        now = NOW + hours * DAY // 6
        what = f"look(after={after}, limit={limit}, max_bytes={max_bytes}, ack={ack})"
        page = boxes.look(MailboxLook(looked, after, limit, max_bytes, ack, now))
        standing = boxes.standing(called) if ack is None else boxes.ack(called, ack, now)
        bodies = [message.body for message in page.messages]
        expected = MailPage((), standing.position, more=False, seen=after)
        if limit:
            expected = boxes.read(called, after, limit, max_bytes)
        checks.equal(
            (seqs(page), bodies, page.position, page.seen),
            (
                seqs(expected),
                [one.body for one in expected.messages],
                expected.position,
                expected.seen,
            ),
            what,
        )
        if limit:
            checks.equal(page.more, expected.more, f"whether there is more after {what}")
        checks.equal(boxes.standing(looked), boxes.standing(called), f"the standing after {what}")
        left = [seqs(boxes.history(each, None, ALL, ALL, now)) for each in (looked, called)]
        checks.equal(left[0], left[1], f"the history after {what}")
    before = everything(boxes, looked)
    refused: dict[str, tuple[type[RequestError], str, int, int, int | None]] = {
        # what it is: what refuses it, the mailbox, after, limit and ack
        "a look from beyond the end": (CursorInvalid, looked, 9, 1, None),
        "a look that acks beyond the end": (CursorInvalid, looked, 0, 1, 9),
        "a look that only acks, beyond the end": (CursorInvalid, looked, 0, 0, 9),
        "a look at no mailbox": (NoSuchUser, bench.id(), 0, 1, None),
        "a look at no mailbox that reads nothing": (NoSuchUser, bench.id(), 0, 0, None),
        "a look at no mailbox that acks": (NoSuchUser, bench.id(), 0, 1, 0),
    }
    for what, (error, account_id, after, limit, ack) in refused.items():
        look = MailboxLook(account_id, after, limit, ALL, ack, NOW)
        checks.raises(error, partial(boxes.look, look), what)
        checks.equal(everything(boxes, looked), before, f"the mailbox after {what}")


@rule(73, "Many looks are answered in their order, and one that is refused is its own affair.")
def many_looks_are_apart(checks: Checks, bench: StoreBench) -> None:
    """Look at three mailboxes at once, some of them twice, with refused looks among them."""
    store = bench.store()
    boxes = store.mailboxes
    ann, bob, carl = (bench.mailbox(store, messages=count) for count in (5, 3, 0))
    checks.equal(list(boxes.look_many([])), [], "what no looks bring")
    looks: list[tuple[MailboxLook, list[int] | type[RequestError], int | None]] = [
        # the look, the seqs that it shows or what refuses it, and the position where it is certain
        (MailboxLook(bob, 1, 9, ALL, None, NOW), [2, 3], 0),
        (MailboxLook(bench.id(), 0, 9, ALL, None, NOW), NoSuchUser, None),
        (MailboxLook(ann, 0, 2, ALL, 2, NOW), [1, 2], None),
        (MailboxLook(carl, 0, 9, ALL, None, NOW), [], 0),
        (MailboxLook(carl, 1, 9, ALL, None, NOW), CursorInvalid, None),
        (MailboxLook(ann, 0, 9, ALL, 6, NOW), CursorInvalid, None),
        (MailboxLook(ann, 3, 9, ALL, 3, NOW), [4, 5], 3),
        (MailboxLook(ann, 0, 0, ALL, None, NOW), [], None),
        (MailboxLook(bench.id(), 0, 0, ALL, 1, NOW), NoSuchUser, None),
        (MailboxLook(bob, 0, 1, ALL, None, NOW), [1], 0),
    ]
    outcomes = boxes.look_many([look for look, _, _ in looks])
    if not checks.equal(len(outcomes), len(looks), "how many outcomes ten looks have"):
        return
    for number, ((look, expected, position), outcome) in enumerate(
        zip(looks, outcomes, strict=True), 1
    ):
        what = f"look {number} of {len(looks)}"
        if isinstance(expected, type):
            refused = isinstance(outcome, expected)
            checks.that(refused, f"{what} should be {expected.__name__}, is {shown(outcome)}")
        elif checks.that(isinstance(outcome, MailPage), f"{what} is {shown(outcome)}"):
            page = outcome if isinstance(outcome, MailPage) else MailPage((), 0, more=False, seen=0)
            checks.equal(seqs(page), expected, f"what {what} shows")
            if position is not None:
                checks.equal(page.position, position, f"the position that {what} tells")
            else:
                # Of two looks at one mailbox a store may make both acks first.
                known = page.position in range(look.ack or 0, 4)
                checks.that(known, f"{what} tells the position {page.position}")
    positions = [boxes.standing(each) for each in (ann, bob, carl)]
    checks.equal(
        positions, [Standing(3, 2), Standing(0, 3), Standing(0, 0)], "the standings after ten looks"
    )
