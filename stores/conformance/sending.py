"""Rules 27 to 33 and 59 of the store kit: repeated sends, full mailboxes, kept history."""

from twinline.core.conformance import Checks, rule
from twinline.core.errors import MailboxFull, NoSuchUser, SendIdConflict
from twinline.core.store import Accepted, Standing
from twinline.stores.conformance.bench import ALL, DAY, HOUR, NOW, StoreBench, everything, seqs


@rule(
    27,
    "A repeat of a sender's send_id and body to a mailbox gets the first receipt, stores nothing.",
)
def repeats_get_the_first_receipt(checks: Checks, bench: StoreBench) -> None:
    """Repeat sends in every state of the mailbox: read, full, deleted from, and gone."""
    store = bench.store(mailbox_messages=2, history_messages=0)
    boxes = store.mailboxes
    bob = bench.mailbox(store)
    first = bench.draft("hi", send_id="x")
    receipt = boxes.append(bob, first)
    checks.equal(receipt, Accepted(first.message_id, NOW, NOW), "the first receipt")

    def repeat(when: str) -> None:
        again = boxes.append(bob, bench.draft("hi", send_id="x", sent_at=NOW + HOUR))
        checks.equal(again, receipt, f"the receipt of a repeat {when}")

    repeat("at once")
    checks.equal(seqs(boxes.read(bob, 0, 9, ALL)), [1], "what is stored after a repeat")
    boxes.append(bob, bench.draft("hi", send_id="y"))
    checks.equal(seqs(boxes.read(bob, 0, 9, ALL)), [1, 2], "what is stored with another send_id")
    repeat("to a mailbox that is full")
    boxes.ack(bob, 2, NOW)
    repeat("of a message that was acked, of which no history is kept")
    boxes.append(bob, bench.draft("hi"))
    boxes.append(bob, bench.draft("hi"))
    checks.equal(seqs(boxes.read(bob, 0, 9, ALL)), [3, 4], "what is stored without send_ids")
    boxes.delete(bob, [3, 4])
    repeat("when all was deleted")
    boxes.drop(bob)
    gone = bench.draft("hi", send_id="x")
    checks.raises(NoSuchUser, lambda: boxes.append(bob, gone), "a repeat to a mailbox that is gone")


@rule(
    28,
    "A send_id stands for one body in one mailbox: with another there it is SendIdConflict, "
    "and to another mailbox, or from another sender, it is another message.",
)
def send_ids_stand_for_one_body(checks: Checks, bench: StoreBench) -> None:
    """Use one send_id for other bodies, to another mailbox, and from another sender."""
    store = bench.store()
    boxes = store.mailboxes
    bob, carl = bench.mailbox(store), bench.mailbox(store)
    first = boxes.append(bob, bench.draft("hi", send_id="x"))
    before = everything(boxes, bob)
    for body in ("ho", "hi ", "", "hi\0"):
        draft = bench.draft(body, send_id="x")
        checks.raises(
            SendIdConflict,
            lambda: boxes.append(bob, draft),  # noqa: B023 - called at once
            f"a send_id that was used, with the body {body!r}",
        )
    checks.equal(everything(boxes, bob), before, "the mailbox then")
    for body in ("hi", "hi"):
        other = boxes.append(carl, bench.draft(body, send_id="x"))
    checks.that(other != first, "a send_id that was used for one mailbox is a repeat to another")
    checks.equal(seqs(boxes.read(carl, 0, 9, ALL)), [1], "what is stored in the other mailbox")
    checks.raises(
        SendIdConflict,
        lambda: boxes.append(carl, bench.draft("ho", send_id="x")),
        "another body in the other mailbox",
    )
    boxes.append(bob, bench.draft("ho", sender="dora", send_id="x"))
    boxes.append(bob, bench.draft("ho", send_id="X"))
    bodies = [one.body for one in boxes.read(bob, 0, 9, ALL).messages]
    checks.equal(bodies, ["hi", "ho", "ho"], "what is stored of another sender and send_id")
    boxes.drop(carl)
    again = boxes.append(bob, bench.draft("hi", send_id="x"))
    checks.equal(again, first, "the receipt of a repeat when another mailbox is gone")


@rule(
    29, "A send_id counts as long as the policy says; one that was refused does not count at all."
)
def send_ids_expire(checks: Checks, bench: StoreBench) -> None:
    """Repeat a send before and after its time, with none kept, and after a refusal."""
    store = bench.store(send_id_hours=3)
    boxes = store.mailboxes
    bob = bench.mailbox(store)
    first = boxes.append(bob, bench.draft("hi", send_id="x"))
    for number in range(20):
        boxes.append(bob, bench.draft(f"{number}", send_id=f"{number}"))
    almost = boxes.append(bob, bench.draft("hi", send_id="x", sent_at=NOW + 3 * HOUR - 1_000))
    checks.equal(almost, first, "the receipt of a repeat just within the hours that it counts")
    late = bench.draft("other", send_id="x", sent_at=NOW + 3 * HOUR + 1_000)
    receipt = boxes.append(bob, late)
    checks.equal(
        receipt,
        Accepted(late.message_id, late.sent_at, late.sent_at),
        "the receipt of a send after them",
    )
    checks.equal(boxes.standing(bob), Standing(0, 22), "the standing then")
    _wrong_clock(checks, bench)
    boxes = bench.store(send_id_hours=0).mailboxes
    boxes.create(bob)
    for _ in range(2):
        boxes.append(bob, bench.draft("hi", send_id="x"))
    checks.equal(boxes.standing(bob), Standing(0, 2), "the standing when no send_ids are kept")
    boxes = bench.store(mailbox_messages=1).mailboxes
    boxes.create(bob)
    boxes.append(bob, bench.draft())
    again = bench.draft("hi", send_id="x")
    checks.raises(MailboxFull, lambda: boxes.append(bob, again), "an append to a full mailbox")
    gone = bench.draft("hi", send_id="y")
    checks.raises(NoSuchUser, lambda: boxes.append(bench.id(), gone), "an append to no mailbox")
    boxes.ack(bob, 1, NOW)
    boxes.append(bob, again)
    boxes.ack(bob, 2, NOW)
    boxes.append(bob, gone)
    checks.equal(boxes.standing(bob), Standing(2, 1), "the standing when both were sent again")


def _wrong_clock(checks: Checks, bench: StoreBench) -> None:
    """Have the clock 25 days ahead for one send, and behind for another."""
    store = bench.store(send_id_hours=3)
    boxes, bob = store.mailboxes, bench.mailbox(store)
    sent = ((NOW + 25 * DAY, "ahead"), (NOW - 25 * DAY, "behind"), (NOW, "right"))
    for at, send_id in sent:
        boxes.append(bob, bench.draft("hi", send_id=send_id, sent_at=at))
    for send_id, stored in (("right", False), ("ahead", True), ("behind", True)):
        again = bench.draft("hi", send_id=send_id, sent_at=NOW + HOUR)
        new = boxes.append(bob, again).message_id == again.message_id
        checks.equal(new, stored, f"whether a send by a clock that was {send_id} is forgotten")


@rule(
    59,
    "The policy's number of send_ids is remembered of a mailbox, and of a sender in it; "
    "the first to come are the first to go.",
)
def send_ids_are_bounded(checks: Checks, bench: StoreBench) -> None:
    """Send more than are remembered, of one sender and of many, by clocks that jump."""
    store = bench.store(send_ids_per_mailbox=6, send_ids_per_sender=4)
    boxes = store.mailboxes
    bob, other = bench.mailbox(store), bench.mailbox(store)

    def is_new(account_id: str, sender: str, send_id: str) -> bool:
        again = bench.draft("hi", sender=sender, send_id=send_id)
        return boxes.append(account_id, again).message_id == again.message_id

    def send(account_id: str, sender: str, count: int) -> None:
        for number in range(count):
            jump = DAY // 2 if number % 2 else 0
            draft = bench.draft("hi", sender=sender, send_id=f"{number}", sent_at=NOW + jump)
            boxes.append(account_id, draft)

    send(bob, "ann", 5)
    send(other, "ann", 4)
    for number in range(1, 5):
        checks.equal(
            is_new(bob, "ann", f"{number}"),
            expected=False,
            what=f"send_id {number} of 5, 4 remembered",
        )
    checks.equal(
        is_new(bob, "ann", "0"),
        expected=True,
        what="whether the first of 5 where 4 are remembered goes",
    )
    send(bob, "carl", 2)
    checks.equal(
        is_new(bob, "ann", "2"), expected=False, what="the first of 6 where 6 are remembered"
    )
    send(bob, "dora", 1)
    for sender, send_id in (("ann", "3"), ("ann", "0"), ("carl", "0"), ("dora", "0")):
        checks.equal(
            is_new(bob, sender, send_id),
            expected=False,
            what=f"{sender}'s, when the first of 7 went",
        )
    checks.equal(
        is_new(bob, "ann", "2"),
        expected=True,
        what="whether the first of 7 where 6 are remembered goes",
    )
    for number in range(4):
        checks.equal(
            is_new(other, "ann", f"{number}"), expected=False, what="a send_id of another mailbox"
        )


@rule(30, "A mailbox with the policy's number of unacked messages is full; acking makes room.")
def full_mailboxes_refuse(checks: Checks, bench: StoreBench) -> None:
    """Fill a mailbox, ack, delete, and fill it again."""
    store = bench.store(mailbox_messages=3)
    boxes = store.mailboxes
    bob, other = bench.mailbox(store, messages=3), bench.mailbox(store, messages=1)

    def refused(when: str) -> None:
        checks.raises(MailboxFull, lambda: boxes.append(bob, bench.draft()), f"a message {when}")

    refused("to a full mailbox")
    checks.equal(seqs(boxes.read(bob, 0, 9, ALL)), [1, 2, 3], "what is in the full mailbox")
    boxes.append(other, bench.draft())
    boxes.ack(bob, 2, NOW)
    boxes.append(bob, bench.draft())
    boxes.append(bob, bench.draft())
    refused("when two were acked and two sent")
    boxes.delete(bob, [1, 2])
    refused("when only acked ones were deleted")
    boxes.delete(bob, [4])
    boxes.append(bob, bench.draft())
    refused("when an unacked one was deleted and another sent")
    checks.equal(boxes.standing(bob), Standing(2, 3), "the standing in the end")


@rule(31, "Of the acked messages a mailbox keeps the newest, as many as the policy says.")
def history_has_a_size(checks: Checks, bench: StoreBench) -> None:
    """Ack step by step, with a history of three, and of none."""
    for kept, steps in (
        (3, {2: [1, 2, 3, 4, 5, 6, 7, 8], 5: [3, 4, 5, 6, 7, 8], 8: [6, 7, 8]}),
        (0, {0: [1, 2, 3, 4, 5, 6, 7, 8], 3: [4, 5, 6, 7, 8], 8: []}),
    ):
        store = bench.store(history_messages=kept, history_days=100)
        boxes = store.mailboxes
        bob, other = bench.mailbox(store, messages=8), bench.mailbox(store, messages=8)
        for up_to, left in steps.items():
            boxes.ack(bob, up_to, NOW)
            how = f"with a history of {kept}, after an ack of {up_to} of 8"
            checks.equal(seqs(boxes.read(bob, 0, ALL, ALL)), left, f"{how}, what is read")
            history = boxes.history(bob, None, ALL, ALL, NOW)
            checks.equal((seqs(history), history.more), (left, False), f"{how}, the history")
        checks.equal(boxes.standing(bob), Standing(8, 0), "the standing when all is acked")
        boxes.append(bob, bench.draft())
        left = [*steps[8], 9]
        checks.equal(seqs(boxes.read(bob, 0, ALL, ALL)), left, "what is read when there is mail")
        checks.equal(boxes.standing(other), Standing(0, 8), "the standing of another mailbox")


@rule(32, "An acked message is in the history for the policy's days after its ack, and no longer.")
def history_has_an_age(checks: Checks, bench: StoreBench) -> None:
    """Ack two messages half a day apart, long after they were sent, and let time pass."""
    store = bench.store(history_days=1)
    boxes = store.mailboxes
    bob = bench.mailbox(store, messages=3)
    acked = NOW + 30 * DAY
    boxes.ack(bob, 1, acked)
    boxes.ack(bob, 2, acked + DAY // 2)
    boxes.ack(bob, 1, acked + DAY // 2)
    steps = (
        (acked + DAY - 1_000, [1, 2, 3]),
        (acked + DAY + 1_000, [2, 3]),
        (acked + DAY + DAY // 2 - 1_000, [2, 3]),
        (acked + DAY + DAY // 2 + 1_000, [3]),
        (acked + 900 * DAY, [3]),
    )
    for now, left in steps:
        page = boxes.history(bob, None, ALL, ALL, now)
        after = (now - acked) / DAY
        checks.equal((seqs(page), page.more), (left, False), f"the history {after:.3f} days later")
    checks.equal(boxes.standing(bob), Standing(2, 1), "the standing in the end")
    boxes = bench.store(history_days=0).mailboxes
    boxes.create(bob)
    boxes.append(bob, bench.draft())
    boxes.append(bob, bench.draft())
    boxes.ack(bob, 1, NOW)
    page = boxes.history(bob, None, ALL, ALL, NOW)
    checks.equal(seqs(page), [2], "the history when it is kept for no time")


@rule(33, "What is not acked is kept, whatever its age and however much there is.")
def unacked_mail_is_kept(checks: Checks, bench: StoreBench) -> None:
    """Let years pass over unacked mail, with no history, and send more."""
    store = bench.store(history_messages=0, history_days=0, send_id_hours=0)
    boxes = store.mailboxes
    bob = bench.mailbox(store, messages=50)
    boxes.ack(bob, 10, NOW)
    later = NOW + 5_000 * DAY
    boxes.append(bob, bench.draft(sent_at=later))
    page = boxes.history(bob, None, ALL, ALL, later)
    checks.equal(seqs(page), list(range(11, 52)), "the history, years later")
    boxes.ack(bob, 11, later)
    checks.equal(seqs(boxes.read(bob, 0, ALL, ALL)), list(range(12, 52)), "what is read then")
    checks.equal(boxes.standing(bob), Standing(11, 40), "the standing then")
