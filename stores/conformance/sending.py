"""Rules 27 to 33 of the store kit: repeated sends, full mailboxes, and what is kept as history."""

from twinline.core.conformance import Checks, rule
from twinline.core.errors import MailboxFull, NoSuchUser, SendIdConflict
from twinline.core.store import Receipt, Standing
from twinline.stores.conformance.bench import ALL, DAY, HOUR, NOW, StoreBench, everything, seqs


@rule(27, "A repeat of a sender's send_id and content gets the first receipt, and stores nothing.")
def repeats_get_the_first_receipt(checks: Checks, bench: StoreBench) -> None:
    """Repeat sends in every state of the mailbox: read, full, deleted from, and gone."""
    store = bench.store(mailbox_messages=2, history_messages=0)
    boxes = store.mailboxes
    bob = bench.mailbox(store)
    first = bench.draft("hi", send_id="x")
    receipt = boxes.append(bob, first)
    checks.equal(receipt, Receipt(first.message_id, NOW), "the first receipt")

    def repeat(account_id: str | None, when: str) -> None:
        again = boxes.append(account_id, bench.draft("hi", send_id="x", sent_at=NOW + HOUR))
        checks.equal(again, receipt, f"the receipt of a repeat {when}")

    repeat(bob, "at once")
    checks.equal(seqs(boxes.read(bob, 0, 9, ALL)), [1], "what is stored after a repeat")
    boxes.append(bob, bench.draft("hi", send_id="y"))
    checks.equal(seqs(boxes.read(bob, 0, 9, ALL)), [1, 2], "what is stored with another send_id")
    repeat(bob, "to a mailbox that is full")
    boxes.ack(bob, 2, NOW)
    repeat(bob, "of a message that was acked, of which no history is kept")
    boxes.append(bob, bench.draft("hi"))
    boxes.append(bob, bench.draft("hi"))
    checks.equal(seqs(boxes.read(bob, 0, 9, ALL)), [3, 4], "what is stored without send_ids")
    boxes.delete(bob, [3, 4])
    repeat(bob, "when all was deleted")
    repeat(None, "to nobody")
    boxes.drop(bob)
    repeat(bob, "to a mailbox that is gone")
    repeat(None, "to nobody, when the mailbox is gone")
    checks.raises(
        NoSuchUser,
        lambda: boxes.append(None, bench.draft("hi", send_id="z")),
        "a first send to nobody",
    )


@rule(
    28,
    "A sender's send_id that stands for another recipient or body is SendIdConflict.",
)
def send_ids_stand_for_one_content(checks: Checks, bench: StoreBench) -> None:
    """Use one send_id for other contents, and from another sender."""
    store = bench.store()
    boxes = store.mailboxes
    bob, carl = bench.mailbox(store), bench.mailbox(store)
    boxes.append(bob, bench.draft("hi", send_id="x"))
    before = everything(boxes, bob), everything(boxes, carl)
    others = (
        ("another body", bob, bench.draft("ho", send_id="x")),
        ("a longer body", bob, bench.draft("hi ", send_id="x")),
        ("another recipient", carl, bench.draft("hi", to="carl", send_id="x")),
        ("another body, to nobody", None, bench.draft("ho", send_id="x")),
        ("name and body that join alike", bob, bench.draft("bhi", to="bo", send_id="x")),
    )
    for what, account_id, draft in others:
        checks.raises(
            SendIdConflict,
            lambda: boxes.append(account_id, draft),  # noqa: B023 - called at once
            f"a send_id that was used, with {what}",
        )
    checks.equal((everything(boxes, bob), everything(boxes, carl)), before, "the mailboxes then")
    boxes.append(bob, bench.draft("ho", sender="dora", send_id="x"))
    boxes.append(bob, bench.draft("ho", send_id="X"))
    bodies = [one.body for one in boxes.read(bob, 0, 9, ALL).messages]
    checks.equal(bodies, ["hi", "ho", "ho"], "what is stored of another sender and send_id")


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
        receipt, Receipt(late.message_id, late.sent_at), "the receipt of a send after them"
    )
    checks.equal(boxes.standing(bob), Standing(0, 22), "the standing then")
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
