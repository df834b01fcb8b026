"""Rules 66 and 67 of the store kit: what a reader sees of a store that was put back."""

from twinline.core.conformance import Checks, rule
from twinline.core.errors import CursorInvalid
from twinline.core.store import SEQ_JUMP
from twinline.stores.conformance.bench import ALL, NOW, StoreBench, seqs


@rule(66, "When a store was put back, seqs jump once, and no seq of before is given out again.")
def seqs_jump(checks: Checks, bench: StoreBench) -> None:
    """Put a store back twice, and send to mailboxes in every state after each."""
    store = bench.store(history_messages=2)
    kinds = (("full", 3), ("acked", 3), ("empty", 0), ("deleted", 3))
    full, acked, empty, deleted = (bench.user(store, *kind) for kind in kinds)
    store.mailboxes.ack(acked, 3, NOW)
    store.mailboxes.delete(deleted, [2, 3])
    seen = {full: 3, acked: 3, empty: 0, deleted: 3}
    for time in ("first", "second"):
        store = bench.put_back(store)
        boxes = store.mailboxes
        for account_id, last in seen.items():
            kept = seqs(boxes.read(account_id, 0, ALL, ALL))
            for body in ("one", "another"):
                boxes.append(account_id, bench.draft(body))
            after = seqs(boxes.read(account_id, 0, ALL, ALL))
            checks.equal(after[:-2], kept, f"the seqs of before, the {time} time")
            one, another = after[-2:]
            what = f"{one}, which the message after seq {last} has the {time} time,"
            checks.that(one >= last + SEQ_JUMP, f"{what} is less than 2^32 further")
            checks.that(one < 2**53 and another == one + 1, f"{what} is followed by {another}")
            seen[account_id] = another
    new = bench.mailbox(store, 2)
    checks.equal(seqs(store.mailboxes.read(new, 0, ALL, ALL)), [1, 2], "the seqs of a new mailbox")


@rule(67, "A place inside a jump is no error; all new mail is beyond it, and is not acked by it.")
def places_inside_a_jump_are_good(checks: Checks, bench: StoreBench) -> None:
    """Read and ack from where a reader was that saw what is lost, before and after new mail."""
    store = bench.store()
    watched, polled = bench.user(store, "ann", 3), bench.user(store, "bob", 3)
    store.mailboxes.ack(watched, 2, NOW)
    boxes = bench.put_back(store).mailboxes
    place = 3 + 100
    for account_id in (watched, polled):
        page = boxes.read(account_id, place, ALL, ALL)
        checks.equal(page.messages, (), "what lies beyond a place inside the jump")
        checks.that(not page.more, "a read from a place inside the jump says that there is more")
    unread = boxes.ack(watched, place, NOW).unread
    checks.equal(unread, 0, "how many are unread after an ack inside the jump")
    for account_id, waiting in ((watched, 1), (polled, 4)):
        boxes.append(account_id, bench.draft("new"))
        bodies = [message.body for message in boxes.read(account_id, place, ALL, ALL).messages]
        checks.equal(bodies, ["new"], "what lies beyond that place when a message has come")
        checks.equal(boxes.standing(account_id).unread, waiting, "how many are unread then")
    (last,) = seqs(boxes.read(watched, place, ALL, ALL))
    checks.equal(boxes.ack(watched, place + 1, NOW).unread, 1, "how many another such ack leaves")
    checks.equal(boxes.ack(watched, last, NOW)[:2], (last, 0), "the standing when all is acked")
    checks.equal(boxes.ack(polled, place, NOW).unread, 1, "how many the first such ack leaves")
    for account_id in (watched, polled):
        beyond = last + 1
        checks.raises(CursorInvalid, lambda: boxes.read(account_id, beyond, 9, ALL), "a read")  # noqa: B023 - called at once
        checks.raises(CursorInvalid, lambda: boxes.ack(account_id, beyond, NOW), "an ack")  # noqa: B023 - called at once
