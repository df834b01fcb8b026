"""Rules 15 to 21 of the store kit: a mailbox, its seqs, and its one owner."""

from collections.abc import Callable
from typing import Final

from twinline.core.conformance import Checks, rule
from twinline.core.errors import NoSuchUser
from twinline.core.store import Accepted, Blocked, Durability, Mailboxes, MailPage, Standing
from twinline.stores.conformance.bench import ALL, NOW, StoreBench, arrived, everything, seqs

_BODIES: Final = (
    "hello",
    "",
    " \t\r\n ",
    "Grüße, мир, 世界 👋",
    "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0)])),
    "\0",
    "'; DROP TABLE messages; --",
    "%s {} \\ \" ' \u2028\u202e\ufeff\U0010ffff",
    "x" * 16_384,
    "\U0001f44b" * 4_096,
)


@rule(15, "A new mailbox is empty, at position 0; an id that has one is ValueError, and it stays.")
def mailboxes_begin_empty(checks: Checks, bench: StoreBench) -> None:
    """Look at a new mailbox, and make another under its id."""
    store = bench.store()
    checks.that(isinstance(store.durability, Durability), "the store states no durability")
    boxes = store.mailboxes
    bob = bench.mailbox(store)
    checks.equal(boxes.standing(bob), Standing(0, 0), "the standing of a new mailbox")
    empty = MailPage((), 0, more=False, seen=0)
    checks.equal(boxes.read(bob, 0, 10, ALL), empty, "what is read in a new mailbox")
    checks.equal(boxes.history(bob, None, 10, ALL, NOW), empty, "the history of a new mailbox")
    boxes.append(bob, bench.draft())
    boxes.append(bob, bench.draft())
    boxes.ack(bob, 1, NOW)
    before = everything(boxes, bob)
    checks.raises(
        ValueError, lambda: boxes.create(bob), "making a mailbox under an id that has one"
    )
    checks.equal(everything(boxes, bob), before, "the mailbox, after that,")


@rule(16, "A message is kept exactly as it was sent, and its sender gets its id and time.")
def messages_are_kept_exactly(checks: Checks, bench: StoreBench) -> None:
    """Send texts of every kind, and read them both ways."""
    store = bench.store()
    boxes = store.mailboxes
    bob = bench.mailbox(store)
    drafts = [bench.draft(body, sent_at=NOW + at) for at, body in enumerate(_BODIES)]
    drafts += [bench.draft("from another", sender="carl", sent_at=0)]
    for draft in drafts:
        receipt = boxes.append(bob, draft)
        told = Accepted(draft.message_id, draft.sent_at, receipt.n)
        checks.equal(receipt, told, "what the sender is told")
    expected = tuple(arrived(draft, seq) for seq, draft in enumerate(drafts, 1))
    checks.equal(boxes.read(bob, 0, ALL, ALL).messages, expected, "what is read")
    checks.equal(boxes.history(bob, None, ALL, ALL, NOW).messages, expected, "the history")


@rule(17, "Each mailbox counts its messages by itself: 1, 2, 3 and so on, without a gap.")
def seqs_have_no_gaps(checks: Checks, bench: StoreBench) -> None:
    """Send to three mailboxes in turn, refused and repeated sends among them."""
    store = bench.store(mailbox_messages=12)
    boxes = store.mailboxes
    three = [bench.mailbox(store) for _ in range(3)]
    for number in range(10):
        for which, account_id in enumerate(three[: 3 if number % 2 else 2]):
            boxes.append(account_id, bench.draft(f"{which}", send_id=f"{number}/{which}"))
            boxes.append(account_id, bench.draft(f"{which}", send_id=f"{number}/{which}"))
        checks.raises(NoSuchUser, lambda: boxes.append(bench.id(), bench.draft()), "no mailbox")
    for which, account_id in enumerate(three):
        messages = boxes.read(account_id, 0, ALL, ALL).messages
        expected = list(range(1, 6 if which == 2 else 11))
        checks.equal([one.seq for one in messages], expected, "the seqs of one mailbox of three")
        checks.equal({one.body for one in messages}, {f"{which}"}, "what is in that mailbox")


@rule(18, "A seq is never used twice, whatever was deleted, acked or trimmed before.")
def seqs_are_never_used_again(checks: Checks, bench: StoreBench) -> None:
    """Take the last messages away in every way, and send another."""
    store = bench.store(history_messages=0)
    boxes = store.mailboxes
    takes: dict[str, Callable[[str], object]] = {
        "the last one was deleted": lambda box: boxes.delete(box, [3]),
        "all were deleted": lambda box: boxes.delete(box, [1, 2, 3]),
        "all were acked, and no history is kept": lambda box: boxes.ack(box, 3, NOW),
        "they were acked and deleted": lambda box: (
            boxes.ack(box, 2, NOW),
            boxes.delete(box, [1, 2, 3]),
        ),
    }
    for how, take in takes.items():
        bob = bench.mailbox(store, messages=3)
        take(bob)
        boxes.append(bob, bench.draft("next"))
        page = boxes.read(bob, 3, 10, ALL)
        checks.equal(
            seqs(page), [4], f"the seqs after 3 messages when {how}, and then another sent"
        )


@rule(19, "Every call about a mailbox that is not there is NoSuchUser; before or after its life.")
def missing_mailboxes_are_told(checks: Checks, bench: StoreBench) -> None:
    """Call everything on a mailbox that never was and on one that was dropped."""
    store = bench.store()
    boxes = store.mailboxes
    dropped = bench.mailbox(store, messages=2)
    boxes.ack(dropped, 1, NOW)
    other = bench.mailbox(store, messages=2)
    before = everything(boxes, other)
    boxes.drop(dropped)
    for what, gone in (("never was", bench.id()), ("was dropped", dropped)):
        for name, call in _calls(boxes, gone, bench).items():
            checks.raises(NoSuchUser, call, f"{name} on a mailbox that {what}")
        boxes.drop(gone)
        boxes.on_mail(gone, lambda: None)()
    checks.equal(everything(boxes, other), before, "another mailbox, after all that,")


def _calls(boxes: Mailboxes, gone: str, bench: StoreBench) -> dict[str, Callable[[], object]]:
    return {
        "append": lambda: boxes.append(gone, bench.draft()),
        "read": lambda: boxes.read(gone, 0, 10, ALL),
        "history": lambda: boxes.history(gone, None, 10, ALL, NOW),
        "ack": lambda: boxes.ack(gone, 0, NOW),
        "delete": lambda: boxes.delete(gone, [1]),
        "standing": lambda: boxes.standing(gone),
        "conversations": lambda: boxes.conversations(gone, None, 10, ALL, NOW),
        "set_receipts": lambda: boxes.set_receipts(gone, receipts=False),
        "block": lambda: boxes.block(gone, Blocked(bench.id(), "ann")),
        "unblock": lambda: boxes.unblock(gone, bench.id()),
        "blocked": lambda: boxes.blocked(gone),
    }


@rule(20, "The two halves share nothing: a mailbox needs no account, and outlives one.")
def halves_share_nothing(checks: Checks, bench: StoreBench) -> None:
    """Make the mailbox first, as creating does; drop it last, as deleting does."""
    store = bench.store()
    ann = bench.account("ann")
    store.mailboxes.create(ann.account_id)
    store.mailboxes.append(ann.account_id, bench.draft("early"))
    store.accounts.create(ann)
    store.accounts.withdraw(ann.account_id, keep_name=False)
    page = store.mailboxes.read(ann.account_id, 0, 10, ALL)
    checks.equal(seqs(page), [1], "what is in the mailbox of an account that was withdrawn")
    store.mailboxes.append(ann.account_id, bench.draft("late"))
    store.mailboxes.drop(ann.account_id)
    bob = bench.account("bob")
    store.mailboxes.create(bob.account_id)
    store.accounts.create(bob)
    store.mailboxes.drop(bob.account_id)
    checks.equal(store.accounts.find("bob"), bob, "the account whose mailbox was dropped")


@rule(21, "A new account of an old name sees nothing of the old one's mail, and gets none of it.")
def old_mail_stays_old(checks: Checks, bench: StoreBench) -> None:
    """Delete an account with mail on the way, and create one of its name."""
    store = bench.store()
    boxes = store.mailboxes
    old = bench.account("bob")
    boxes.create(old.account_id)
    store.accounts.create(old)
    boxes.append(old.account_id, bench.draft("secret", send_id="x"))
    boxes.ack(old.account_id, 1, NOW)
    boxes.append(old.account_id, bench.draft("another secret"))
    store.accounts.withdraw(old.account_id, keep_name=False)
    boxes.drop(old.account_id)
    new = bench.account("bob")
    boxes.create(new.account_id)
    store.accounts.create(new)
    empty = MailPage((), 0, more=False, seen=0)
    checks.equal(boxes.read(new.account_id, 0, 10, ALL), empty, "the new account's mail")
    history = boxes.history(new.account_id, None, 10, ALL, NOW)
    checks.equal(history, empty, "the new account's history")
    checks.equal(boxes.standing(new.account_id), Standing(0, 0), "the new account's standing")
    for late in (bench.draft("late"), bench.draft("secret", send_id="x")):
        checks.raises(
            NoSuchUser,
            lambda: boxes.append(old.account_id, late),  # noqa: B023 - called at once
            "mail to the old account",
        )
    checks.equal(boxes.read(new.account_id, 0, 10, ALL), empty, "the new account's mail, at last,")
