"""Rules 106 to 109 and 113 of the store kit: receipts, blocked accounts, and wakes by kind."""

from collections.abc import Callable
from functools import partial
from typing import Final

from twinline.core.conformance import Checks, rule
from twinline.core.errors import BlockListFull, MailboxFull, Refused
from twinline.core.protocol import EVERY_KIND, MAIL_ALONE, TALK, Kind
from twinline.core.store import (
    MOST_BLOCKED,
    Blocked,
    MailboxLook,
    PeerReceipt,
    Standing,
)
from twinline.stores.conformance.bench import ALL, HOUR, NOW, Bell, StoreBench, outcomes
from twinline.stores.conformance.conversing import KINDS, RECEIPT, SENT, Talkers

_AT_ONCE: Final = 10


@rule(106, "An ack tells whose mail it has passed, and the last `n` of each, for receipts.")
def acks_tell_whose_mail_they_pass(checks: Checks, bench: StoreBench) -> None:
    """Ack mail of several; one's own, of who is blocked, deleted, and with receipts refused."""
    store = bench.store(history_messages=0)
    talkers = Talkers(bench, store, "ann", "bob", "carl", "dora")
    boxes, ids = talkers.boxes, talkers.ids
    bob = ids["bob"]

    def ack(up_to: int, expected: dict[str, int], what: str, *, by_look: bool = False) -> None:
        if by_look:
            deliveries = boxes.look(MailboxLook(bob, 0, 1, ALL, up_to, NOW)).deliveries
        else:
            deliveries = boxes.ack(bob, up_to, NOW).deliveries
        told = {each.sender_id: each.n for each in deliveries}
        checks.equal(len(deliveries), len(told), f"how many deliveries {what} tells")
        checks.equal(told, {ids[name]: n for name, n in expected.items()}, what)

    sent = [
        talkers.send(sender, "bob").n
        for sender in ("ann", "carl", "ann", "ann", "bob", "carl", "dora", "carl", "ann")
    ]
    ack(3, {"ann": sent[2], "carl": sent[1]}, "an ack of three messages")
    ack(3, {}, "the same ack again")
    ack(2, {}, "an ack of a lower seq")
    ack(4, {"ann": sent[3]}, "a look that acks one message", by_look=True)
    ack(5, {}, "an ack of one's own message")
    boxes.delete(bob, [8])
    boxes.block(bob, Blocked(ids["dora"], "dora"))
    ack(9, {"carl": sent[5], "ann": sent[8]}, "an ack beyond a deleted and a blocked one's message")
    boxes.set_receipts(bob, receipts=False)
    talkers.send("ann", "bob")
    ack(10, {}, "an ack where no receipts are given")
    boxes.set_receipts(bob, receipts=True)
    ack(11, {"ann": talkers.send("ann", "bob").n}, "an ack where they are given again")


@rule(
    107, "A receipt takes the place of its account's last one, under a new seq, if `n` is higher."
)
def receipts_replace_each_other(checks: Checks, bench: StoreBench) -> None:
    """Put in receipts of two accounts; with the same n or a lower one; and where none are taken."""
    talkers = Talkers(bench, bench.store(), "ann", "bob", "carl")
    boxes, ids = talkers.boxes, talkers.ids
    ann = ids["ann"]
    checks.equal(boxes.standing(ann), Standing(0, 0), "the standing of a new mailbox")

    def kept(when: str) -> None:
        for kinds in (EVERY_KIND, RECEIPT):
            expected = tuple(each.model for each in talkers.of_kinds("ann", RECEIPT))
            checks.equal(talkers.read("ann", kinds).receipts, expected, f"the receipts {when}")

    def ignored(name: str, n: int, why: str, owner: str = "ann") -> None:
        boxes.put_receipt(ids[owner], PeerReceipt(ids[name], name, n, NOW + HOUR))
        kept(f"after one that {why}")

    talkers.receive("ann", "bob", NOW + 5, NOW + 1)
    kept("after the first")
    talkers.receive("ann", "carl", NOW, NOW + 2)
    talkers.send("ann", "bob")
    talkers.receive("ann", "bob", NOW + 6, NOW + 3)
    kept("after a higher one")
    ignored("bob", NOW + 6, "has the same n")
    ignored("bob", NOW + 5, "has a lower n")
    ignored("ann", NOW + 9, "is its own")
    boxes.set_receipts(ann, receipts=False)
    off = Standing(0, 0, gives_receipts=False)
    checks.equal(boxes.standing(ann), off, "the standing of a mailbox that gives no receipts")
    ignored("carl", NOW + 9, "comes where none are taken")
    boxes.set_receipts(ann, receipts=True)
    boxes.block(ann, Blocked(ids["carl"], "carl"))
    ignored("carl", NOW + 9, "is of a blocked account")
    boxes.unblock(ann, ids["carl"])
    talkers.receive("ann", "carl", NOW + 1, NOW + 9)
    kept("when they are taken again")
    checks.equal(boxes.standing(ann), Standing(0, 0), "the standing then")
    talkers.delete("ann", talkers.entries["ann"].index(talkers.of_kinds("ann", RECEIPT)[0]))
    talkers.receive("ann", "bob", NOW)
    kept("after one of an account whose last was deleted")
    boxes.put_receipt(bench.id(), PeerReceipt(ann, "ann", NOW, NOW))


@rule(
    108, "Mail of a blocked account is Refused and stored nowhere; all that is not blocked comes."
)
def blocked_mail_is_refused(checks: Checks, bench: StoreBench) -> None:
    """Block and unblock; repeat what was accepted before; and fill the list."""
    store = bench.store(mailbox_messages=4)
    talkers = Talkers(bench, store, "ann", "bob", "carl", "ann.2")
    boxes, ids = talkers.boxes, talkers.ids
    bob = ids["bob"]
    checks.equal(list(boxes.blocked(bob)), [], "whom a new mailbox refuses")
    draft = talkers.draft("ann", "bob", "before", send_id="x")
    first = talkers.append("bob", draft)

    def refused(send_id: str, when: str) -> None:
        again = talkers.draft("ann", "bob", "late", send_id=send_id)
        checks.raises(Refused, lambda: talkers.append("bob", again), f"mail {when}")
        checks.equal(talkers.copies("ann")[1:], [], f"the copies of mail {when}")

    for _ in range(2):
        boxes.block(bob, Blocked(ids["ann"], "ann"))
    checks.equal(list(boxes.blocked(bob)), [Blocked(ids["ann"], "ann")], "whom it refuses then")
    refused("y", "of a blocked account")
    checks.equal(talkers.append("bob", draft), first, "the result of a repeat from before")
    talkers.send("ann.2", "bob", "of another account of the name")
    talkers.send("carl", "bob", "of another account")
    talkers.send("ann", "carl", "to another mailbox")
    talkers.boxes.delete(ids["ann"], [2])
    boxes.block(bob, Blocked(bob, "bob"))
    talkers.send("bob", "bob", "to oneself")
    refused("y", "of a blocked account to a full mailbox")
    full = talkers.draft("carl", "bob")
    checks.raises(MailboxFull, lambda: talkers.append("bob", full), "other mail to it")
    boxes.unblock(bob, bob)
    was = boxes.unblock(bob, ids["carl"])
    checks.that(was is False, "unblocking who is not blocked returns True")
    was = boxes.unblock(bob, ids["ann"])
    checks.that(was is True, "unblocking who is returns False")
    was = boxes.unblock(bob, ids["ann"])
    checks.that(was is False, "unblocking it again returns True")
    boxes.ack(bob, 4, NOW)
    other = talkers.draft("ann", "bob", "another body", send_id="y")
    accepted = talkers.append("bob", other)
    checks.equal(
        accepted.message_id, other.message_id, "the result under a send_id that was refused"
    )
    stored = [each.body for each in talkers.read("bob", MAIL_ALONE).messages]
    expected = ["before", "of another account of the name", "of another account", "to oneself"]
    checks.equal(stored, [*expected, "another body"], "what is stored")
    _outlive_the_blocked(checks, talkers)
    _fill_the_list(checks, bench, talkers, "carl")


def _outlive_the_blocked(checks: Checks, talkers: Talkers) -> None:
    """Drop the mailbox of an account that is blocked: the block is its owner's, and stays."""
    boxes, ids = talkers.boxes, talkers.ids
    boxes.block(ids["carl"], Blocked(ids["ann.2"], "ann"))
    boxes.drop(ids["ann.2"])
    left = list(boxes.blocked(ids["carl"]))
    checks.equal(left, [Blocked(ids["ann.2"], "ann")], "who is blocked whose account is gone")
    draft = talkers.draft("ann.2", "carl")
    checks.raises(Refused, lambda: talkers.append("carl", draft), "mail that it still had sent")
    talkers.send("ann", "carl")
    was = boxes.unblock(ids["carl"], ids["ann.2"])
    checks.that(was is True, "unblocking one whose account is gone returns False")


def _fill_the_list(checks: Checks, bench: StoreBench, talkers: Talkers, name: str) -> None:
    """Block as many as may be, many at once, and one more."""
    boxes, account_id = talkers.boxes, talkers.ids[name]
    peers = [Blocked(bench.id(), f"u{number % 7}") for number in range(MOST_BLOCKED)]

    def block(some: list[Blocked]) -> None:
        for peer in some:
            boxes.block(account_id, peer)

    parts = [partial(block, peers[first::_AT_ONCE]) for first in range(_AT_ONCE)]
    outcomes(checks, bench.race(checks, *parts), [], "blocking as many as may be")
    expected = sorted(peers, key=lambda each: (each.username, each.account_id))
    checks.equal(list(boxes.blocked(account_id)), expected, "the list of all of them")
    one_more = Blocked(bench.id(), "one more")
    checks.raises(BlockListFull, lambda: boxes.block(account_id, one_more), "one more of them")
    boxes.block(account_id, peers[3])
    boxes.unblock(account_id, peers[5].account_id)
    boxes.block(account_id, one_more)
    checks.equal(len(boxes.blocked(account_id)), MOST_BLOCKED, "how many there are in the end")


@rule(109, "An entry wakes who watches its kind, and nobody else; the end of a mailbox wakes all.")
def kinds_wake_their_watchers(checks: Checks, bench: StoreBench) -> None:
    """Watch every choice of kinds, and put in one of each; and what changes nothing."""
    talkers = Talkers(bench, bench.store(), "ann", "bob")
    boxes, ids = talkers.boxes, talkers.ids
    ann = ids["ann"]
    bells = {kinds: bench.bell() for kinds in KINDS}
    for kinds, bell in bells.items():
        boxes.on_mail(ann, bell.ring, kinds)
    plain, ended = bench.bell(), bench.bell()
    boxes.on_mail(ann, plain.ring)
    for kinds in (SENT, TALK):
        boxes.on_mail(ann, ended.ring, kinds)()
    first = talkers.draft("ann", "bob", copy=False)
    talkers.append("bob", first)
    kept = talkers.draft("ann", "bob")
    steps: list[tuple[Kind | None, Callable[[], object]]] = [
        (Kind.MAIL, lambda: talkers.send("bob", "ann")),
        (Kind.SENT, lambda: talkers.append("bob", kept)),
        (Kind.RECEIPT, lambda: talkers.receive("ann", "bob", NOW)),
        (None, lambda: talkers.append("bob", kept)),
        (None, lambda: talkers.receive("ann", "bob", NOW)),
        (None, lambda: talkers.send("ann", "bob", copy=False)),
        (Kind.SENT, lambda: talkers.append("bob", first._replace(copy_to="bob"))),
        (Kind.RECEIPT, lambda: talkers.receive("ann", "bob", NOW + 1)),
        (Kind.MAIL, lambda: talkers.send("ann", "ann")),
    ]
    for number, (kind, step) in enumerate(steps):
        step()
        _rung(checks, bells, kind, f"step {number}, {kind or 'which puts in nothing'}")
        if kind is Kind.MAIL:
            checks.that(plain.rang(), "mail does not wake one who names no kinds")
        else:
            checks.that(plain.quiet(), f"{kind} wakes one who names no kinds")
    boxes.drop(ann)
    for kinds, bell in bells.items():
        checks.that(bell.rang(), f"the end of a mailbox does not wake one of {sorted(kinds)}")
    checks.that(ended.quiet(), "one is woken who has unsubscribed")


def _rung(checks: Checks, bells: dict[frozenset[Kind], Bell], kind: Kind | None, what: str) -> None:
    for kinds, bell in bells.items():
        if kind in kinds:
            checks.that(bell.rang(), f"{what}, does not wake one who watches {sorted(kinds)}")
    for kinds, bell in bells.items():
        if kind not in kinds:
            checks.that(bell.quiet(), f"{what}, wakes one who watches {sorted(kinds)}")


@rule(113, "Of receipts of one account that come at once the highest stays, and no other.")
def the_highest_receipt_stays(checks: Checks, bench: StoreBench) -> None:
    """Put in eight receipts of each of two accounts at once, in no order."""
    store = bench.store()
    for _ in bench.tries(checks):
        talkers = Talkers(bench, store, "ann", "bob", "carl")
        receipts = [
            PeerReceipt(talkers.ids[name], name, NOW + n, NOW)
            for n in range(4)
            for name in ("bob", "carl")
        ]
        put = partial(talkers.boxes.put_receipt, talkers.ids["ann"])
        results = bench.race(checks, *(partial(put, receipt) for receipt in receipts))
        outcomes(checks, results, [], "putting in a receipt")
        page = talkers.read("ann", RECEIPT)
        left = sorted((each.username, each.n) for each in page.receipts)
        checks.equal(left, [("bob", NOW + 3), ("carl", NOW + 3)], "the receipts that are left")
