"""Rules 49 to 53 and 64 of the store kit: what is still there when the store is opened again."""

from functools import partial

from twinline.core.conformance import Checks, rule
from twinline.core.errors import MailboxFull, NoSuchUser, SendIdConflict, UsernameTaken
from twinline.core.names import NamePattern
from twinline.core.store import Accepted, Mailboxes, Standing
from twinline.stores.conformance.bench import (
    ALL,
    DAY,
    HOUR,
    NOW,
    StoreBench,
    everything,
    password_hash,
    seqs,
)


@rule(49, "Accounts and reserved names survive a reopening; what was withdrawn stays withdrawn.")
def accounts_survive(checks: Checks, bench: StoreBench) -> None:
    """Create, change and withdraw accounts, and reopen twice."""
    store = bench.store()
    ann, bob, carl, dora = (bench.account(name) for name in ("ann", "bob", "carl", "dora"))
    for account in (ann, bob, carl, dora):
        store.accounts.create(account)
    new = password_hash("second")
    store.accounts.set_password_hash(ann.account_id, new, instead_of=ann.password_hash)
    store.accounts.withdraw(carl.account_id, keep_name=True)
    store.accounts.withdraw(dora.account_id, keep_name=False)
    for _ in range(2):
        store = bench.reopened(store)
        checks.equal(store.incarnation, None, "the incarnation of a store that lasts")
        found = store.accounts.find("ann")
        checks.equal(found and found.password_hash, new, "the hash that was replaced")
        checks.equal(store.accounts.find("bob"), bob, "an account that was created")
        names = store.accounts.page(NamePattern("*"), None, 9).usernames
        checks.equal(names, ("ann", "bob"), "the list of names")
        free = [store.accounts.is_free(name) for name in ("ann", "carl", "dora")]
        checks.equal(free, [False, False, True], "whether used, reserved and freed names are free")
    again = bench.account("carl")
    checks.raises(UsernameTaken, lambda: store.accounts.create(again), "creating a reserved name")
    twice = bench.account("erin", bob.account_id)
    checks.raises(ValueError, lambda: store.accounts.create(twice), "an account id in use")


@rule(50, "Sessions survive a reopening, and can be ended after it; those that ended stay so.")
def sessions_survive(checks: Checks, bench: StoreBench) -> None:
    """Open, touch and close sessions, reopen, and end what is left."""
    store = bench.store()
    ann = bench.account("ann")
    store.accounts.create(ann)
    kept, closed, touched, last = (bench.session(ann, NOW + at) for at in range(4))
    for session in (kept, closed, touched, last):
        store.accounts.open_session(session)
    store.accounts.close_session(closed.key)
    store.accounts.touch_session(touched.key, NOW + 5 * HOUR)
    store = bench.reopened(store)
    checks.equal(store.accounts.find_session(kept.key), kept, "a session that was open")
    checks.equal(store.accounts.find_session(closed.key), None, "a session that ended")
    found = store.accounts.find_session(touched.key)
    used = found.used_at if found else 0
    near = abs(used - NOW - 5 * HOUR) <= HOUR
    checks.that(near, f"a session touched at {NOW + 5 * HOUR} was used at {used}")
    bell = bench.bell()
    store.accounts.on_session_end(kept.key, bell.ring)
    store.accounts.change_password(
        ann.account_id,
        password_hash("second"),
        instead_of=ann.password_hash,
        keep=last.token_hash,
    )
    checks.that(bell.rang(), "the end of a session that was opened before wakes nobody")
    store = bench.reopened(store)
    checks.equal(store.accounts.find_session(kept.key), None, "a session that ended then")
    checks.equal(store.accounts.find_session(last.key), last, "the session that was kept")
    store.accounts.withdraw(ann.account_id, keep_name=False)
    store = bench.reopened(store)
    gone = store.accounts.find_session(last.key)
    checks.equal(gone, None, "a session of an account that was withdrawn")


@rule(51, "Mail, positions and history survive a reopening; what was dropped stays gone.")
def mail_survives(checks: Checks, bench: StoreBench) -> None:
    """Fill, ack, delete from and drop mailboxes, and compare all there is."""
    store = bench.store(mailbox_messages=6, history_messages=3, history_days=1)
    boxes = store.mailboxes
    bob, empty, dropped = (bench.user(store, name) for name in ("bob", "empty", "dropped"))
    boxes.append(dropped, bench.draft())
    for body in ("a", "Grüße 👋", "\0\x1b[31m", "", "x" * 16_384, "last"):
        boxes.append(bob, bench.draft(body))
    boxes.ack(bob, 3, NOW)
    boxes.delete(bob, [2])
    boxes.drop(dropped)
    before = [everything(boxes, one) for one in (bob, empty)]
    for _ in range(2):
        store = bench.reopened(store)
        boxes = store.mailboxes
        after = [everything(boxes, one) for one in (bob, empty)]
        checks.equal(after, before, "what is in the mailboxes")
        checks.raises(NoSuchUser, lambda: boxes.standing(dropped), "a mailbox that was dropped")  # noqa: B023 - called at once
    checks.raises(ValueError, lambda: boxes.create(empty), "a mailbox under an id that has one")
    history = boxes.history(bob, None, ALL, ALL, NOW + DAY + HOUR)
    checks.equal(seqs(history), [4, 5, 6], "the history when its time is over")
    for _ in range(3):
        boxes.append(bob, bench.draft())
    checks.raises(MailboxFull, lambda: boxes.append(bob, bench.draft()), "one more than the quota")
    checks.equal(boxes.ack(bob, 9, NOW)[:2], (9, 0), "the standing when all is acked")
    checks.equal(seqs(boxes.read(bob, 0, ALL, ALL)), [7, 8, 9], "a history of three")


@rule(52, "A seq is not used again after a reopening, even if its message is gone.")
def seqs_survive(checks: Checks, bench: StoreBench) -> None:
    """Take the last messages away, reopen, and send another."""
    store = bench.store(history_messages=0)
    deleted, acked, kept = (bench.user(store, name, 3) for name in ("dora", "ann", "kay"))
    store.mailboxes.delete(deleted, [2, 3])
    store.mailboxes.ack(acked, 3, NOW)
    store = bench.reopened(store)
    for account_id in (deleted, acked, kept):
        store.mailboxes.append(account_id, bench.draft("next"))
        page = store.mailboxes.read(account_id, 3, 9, ALL)
        checks.equal(seqs(page), [4], "the seq of the message after 3 others")


@rule(53, "Send_ids survive a reopening: a repeat still gets the first receipt.")
def send_ids_survive(checks: Checks, bench: StoreBench) -> None:
    """Repeat sends after reopening, to two mailboxes."""
    store = bench.store(send_id_hours=3)
    bob, carl = bench.user(store, "bob"), bench.user(store, "carl")
    receipt = store.mailboxes.append(bob, bench.draft("hi", send_id="x"))
    other = store.mailboxes.append(carl, bench.draft("hi", send_id="x"))
    store = bench.reopened(store)
    boxes = store.mailboxes
    again = bench.draft("hi", send_id="x", sent_at=NOW + HOUR)
    checks.equal(boxes.append(bob, again), receipt, "the receipt of a repeat")
    checks.equal(boxes.append(carl, again), other, "the receipt of a repeat to another mailbox")
    conflict = bench.draft("ho", send_id="x", sent_at=NOW + HOUR)
    checks.raises(SendIdConflict, lambda: boxes.append(bob, conflict), "another content")
    late = bench.draft("ho", send_id="x", sent_at=NOW + 3 * HOUR + 1_000)
    expected = Accepted(late.message_id, late.sent_at, late.sent_at)
    checks.equal(boxes.append(bob, late), expected, "the receipt of a send when its time is over")
    checks.equal(boxes.standing(bob), Standing(0, 2), "the standing then")


@rule(
    64, "A mailbox that no account has is dropped when the store is opened again, and no other is."
)
def orphans_are_dropped(checks: Checks, bench: StoreBench) -> None:
    """Stop in the middle of creating and of deleting an account, and reopen twice."""
    store = bench.store()
    kept, withdrawn = bench.user(store, "bob", 2), bench.user(store, "carl", 2)
    never = bench.mailbox(store, messages=2)
    store.accounts.withdraw(withdrawn, keep_name=True)
    before = everything(store.mailboxes, kept)
    for _ in range(2):
        store = bench.reopened(store)
        for what, orphan in (("was not published", never), ("was withdrawn", withdrawn)):
            dropped = bench.comes_true(partial(_is_missing, store.mailboxes, orphan))
            checks.that(dropped, f"the mailbox of an account that {what} is still there")
        checks.equal(everything(store.mailboxes, kept), before, "the mailbox of an account")
    late = bench.user(store, "dora", 1)
    checks.equal(store.mailboxes.standing(late), Standing(0, 1), "a mailbox that is made later")


def _is_missing(boxes: Mailboxes, account_id: str) -> bool:
    try:
        boxes.standing(account_id)
    except NoSuchUser:
        return True
    return False
