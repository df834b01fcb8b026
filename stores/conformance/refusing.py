"""Rules 119 to 121 of the store kit: what comes before a block, and what meets one."""

from functools import partial

from twinline.core.conformance import Checks, rule
from twinline.core.errors import MailboxFull, NoSuchUser, Refused, SendIdConflict
from twinline.core.protocol import EVERY_KIND
from twinline.core.store import Accepted, Blocked, PeerReceipt
from twinline.stores.conformance.bench import ALL, HOUR, NOW, StoreBench, outcomes, seqs
from twinline.stores.conformance.conversing import RECEIPT, Talkers


@rule(119, "A send_id is looked for before a block, and that before room; the copy follows suit.")
def send_ids_come_before_blocks(checks: Checks, bench: StoreBench) -> None:
    """Have a mailbox that is full, and blocks; repeat to it what it has, and what it has not."""
    talkers = Talkers(bench, bench.store(mailbox_messages=1), "ann", "bob", "carl")
    boxes, ids = talkers.boxes, talkers.ids
    bare = talkers.draft("ann", "bob", "hi", send_id="x", copy=False)
    first = talkers.append("bob", bare)
    before = boxes.read(ids["bob"], 0, ALL, ALL, EVERY_KIND)
    boxes.block(ids["bob"], Blocked(ids["ann"], "ann"))

    def send(body: str, send_id: str, sender: str = "ann", to: str = "bob") -> Accepted:
        again = talkers.draft(sender, "bob", body, send_id=send_id, sent_at=NOW + HOUR)
        return talkers.append(to, again)

    talkers.ids["nobody"] = bench.id()
    full_and_blocked = "to a full mailbox that blocks its sender"
    checks.raises(SendIdConflict, lambda: send("ho", "x"), f"another body {full_and_blocked}")
    checks.raises(Refused, lambda: send("hi", "y"), f"a new message {full_and_blocked}")
    checks.raises(MailboxFull, lambda: send("hi", "x", "carl"), "another's send_id to it")
    checks.raises(NoSuchUser, lambda: send("hi", "x", to="nobody"), "a repeat to no mailbox")
    for name in ("ann", "carl"):
        checks.equal(talkers.copies(name), [], f"{name}'s copies when all was refused")
    checks.equal(send("hi", "x"), first, f"the result of a repeat {full_and_blocked}")
    copies = [
        (each.message_id, each.sent_at, each.n, each.body)
        for each in talkers.read("ann", EVERY_KIND).messages
    ]
    expected = [(first.message_id, first.sent_at, first.n, "hi")]
    checks.equal(copies, expected, f"the copies after a repeat {full_and_blocked}")
    now = boxes.read(ids["bob"], 0, ALL, ALL, EVERY_KIND)
    checks.equal(now, before, "what the mailbox has in the end")


@rule(120, "Of one send that is sent many times while it is blocked, all are accepted or none.")
def repeats_that_meet_a_block_agree(checks: Checks, bench: StoreBench) -> None:
    """Send each send_id four times at once, while its sender is blocked."""
    store = bench.store()
    for number in bench.tries(checks):
        talkers = Talkers(bench, store, "ann", "bob")
        drafts = [talkers.draft("ann", "bob", send_id=f"{number}") for _ in range(4)]
        sends = [partial(talkers.append, "bob", each) for each in drafts]
        block = partial(talkers.boxes.block, talkers.ids["bob"], Blocked(talkers.ids["ann"], "ann"))
        *results, blocked = bench.race(checks, *sends, block)
        outcomes(checks, results, [Refused], "sending while a block is made")
        outcomes(checks, [blocked], [], "a block while it is sent")
        stored = talkers.read("bob").messages
        accepted = [Accepted(each.message_id, NOW, NOW) for each in stored]
        told = [each for each in results if isinstance(each, Accepted)]
        checks.equal(told, accepted * 4, "what was accepted, of a message that is there or not")
        copies = [each.message_id for each in talkers.read("ann", EVERY_KIND).messages]
        checks.equal(copies, [each.message_id for each in accepted], "the copies of it")


@rule(121, "What is put in when an account takes no receipts, or blocks their giver, is ignored.")
def receipts_end_at_once(checks: Checks, bench: StoreBench) -> None:
    """Put in receipts from two threads while they are turned off, or their account is blocked."""
    store = bench.store()
    for number in bench.tries(checks):
        talkers = Talkers(bench, store, "ann", "bob", "carl")
        boxes, ann = talkers.boxes, talkers.ids["ann"]

        def put(name: str, talkers: Talkers = talkers, ann: str = ann) -> None:
            for n in range(100):
                receipt = PeerReceipt(talkers.ids[name], name, NOW + n, NOW)
                talkers.boxes.put_receipt(ann, receipt)

        def end(number: int = number, talkers: Talkers = talkers, ann: str = ann) -> object:
            if number % 2:
                talkers.boxes.set_receipts(ann, receipts=False)
            else:
                for name in ("bob", "carl"):
                    talkers.boxes.block(ann, Blocked(talkers.ids[name], name))
            return talkers.read("ann", RECEIPT)

        *results, seen = bench.race(checks, partial(put, "bob"), partial(put, "carl"), end)
        outcomes(checks, [*results, seen], [], "putting in receipts that are turned off")
        checks.equal(talkers.read("ann", RECEIPT), seen, "the receipts since none are taken")
        boxes.set_receipts(ann, receipts=True)
        for name in ("bob", "carl"):
            boxes.unblock(ann, talkers.ids[name])
        talkers.receive("ann", "bob", NOW + 100)
        left = [each.n for each in talkers.read("ann", RECEIPT).receipts if each.username == "bob"]
        checks.equal(left, [NOW + 100], "the receipt of one who is heard again")
        checks.equal(seqs(talkers.read("ann")), [], "the mail beside them")
