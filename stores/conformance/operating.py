"""Rules 86 to 96 of the store kit: what an operator asks of accounts, mailboxes and messages."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any, Final

from twinline.core.conformance import Checks, NotChecked, rule, shown
from twinline.core.errors import InvitationInvalid, MailboxFull, NoSuchUser, UsernameTaken
from twinline.core.store import (
    Account,
    Accounts,
    Depths,
    Invitation,
    MailboxUsage,
    MessageTrace,
    SessionRecord,
    Store,
)
from twinline.stores.conformance.bench import (
    DAY,
    HOUR,
    NOW,
    Bell,
    StoreBench,
    outcomes,
    password_hash,
)

_NOBODY: Final = b"\0" * 32


def _opened(
    bench: StoreBench, accounts: Accounts, account: Account, count: int
) -> list[tuple[SessionRecord, Bell]]:
    """Open sessions of an account, the one used last first, and subscribe to their ends."""
    opened = []
    for number in range(count):
        session, bell = bench.session(account, NOW - number * HOUR), bench.bell()
        accounts.open_session(session)
        accounts.on_session_end(session.key, bell.ring)
        opened.append((session, bell))
    return opened


def _ended(
    checks: Checks,
    bench: StoreBench,
    accounts: Accounts,
    opened: list[tuple[SessionRecord, Bell]],
    what: str,
) -> None:
    for session, bell in opened:
        found = bench.settled(lambda: accounts.find_session(session.key), None)  # noqa: B023 - called at once
        checks.equal(found, None, f"a session of the account after {what}")
        checks.that(bell.rang(), f"who waits on a session is not woken by {what}")
    checks.equal(accounts.sessions(_owner(opened)), [], f"the sessions listed after {what}")


def _owner(opened: list[tuple[SessionRecord, Bell]]) -> str:
    return opened[0][0].account_id


def _invitation(bench: StoreBench, hours: int, note: str = "") -> Invitation:
    token_hash = sha256(bench.id().encode()).digest()
    return Invitation(token_hash, NOW, NOW + hours * HOUR, note)


@rule(86, "Disabling an account ends all its sessions, and none opens until it is enabled again.")
def disabled_accounts_are_closed(checks: Checks, bench: StoreBench) -> None:
    """Disable an account with two sessions beside another; twice, and enable it; then nobody's."""
    accounts = bench.store().accounts
    ann, bob = bench.account("ann"), bench.account("bob")
    for account in (ann, bob):
        accounts.create(account)
    opened, others = _opened(bench, accounts, ann, 2), _opened(bench, accounts, bob, 1)
    for _ in range(2):
        accounts.enable(ann.account_id, enabled=False)
    checks.equal(accounts.find("ann"), replace(ann, enabled=False), "a disabled account")
    _ended(checks, bench, accounts, opened, "disabling it")
    for verified in (None, ann.password_hash):
        stray = bench.session(ann)
        opening = partial(accounts.open_session, stray, verified=verified)
        checks.raises(NoSuchUser, opening, "a session of a disabled account")
        found = bench.settled(lambda: accounts.find_session(stray.key), None)  # noqa: B023 - called at once
        checks.equal(found, None, "a session of a disabled account")
    for _ in range(2):
        accounts.enable(ann.account_id, enabled=True)
    checks.equal(accounts.find("ann"), ann, "the account that was enabled again")
    _opened(bench, accounts, ann, 1)
    [(session, bell)] = others
    checks.equal(accounts.find("bob"), bob, "another account")
    checks.that(accounts.find_session(session.key), "the session of another account ends")
    checks.that(bell.quiet(), "who waits on another account's session is woken")
    for enabled in (True, False):
        changing = partial(accounts.enable, bench.id(), enabled=enabled)
        checks.raises(NoSuchUser, changing, "enabling or disabling what is not there")


@rule(87, "An account's sessions are listed, the one used last first, and closed all at once.")
def sessions_are_listed_and_closed(checks: Checks, bench: StoreBench) -> None:
    """List and close the sessions of one account of two, and those of an account with none."""
    accounts = bench.store().accounts
    ann, bob = bench.account("ann"), bench.account("bob")
    for account in (ann, bob):
        accounts.create(account)
    checks.equal(list(accounts.sessions(ann.account_id)), [], "the sessions of a new account")
    opened, others = _opened(bench, accounts, ann, 3), _opened(bench, accounts, bob, 1)
    expected = [session for session, _ in opened]
    listed = bench.settled(lambda: list(accounts.sessions(ann.account_id)), expected)
    checks.equal(listed, expected, "an account's sessions")
    checks.equal(accounts.close_sessions(ann.account_id), 3, "how many were closed")
    _ended(checks, bench, accounts, opened, "closing all of them")
    checks.equal(accounts.close_sessions(ann.account_id), 0, "how many were closed again")
    checks.equal(accounts.close_sessions(bench.id()), 0, "how many of no account were closed")
    [(session, bell)] = others
    checks.that(accounts.find_session(session.key), "the session of another account ends")
    checks.that(bell.quiet(), "who waits on another account's session is woken")
    _opened(bench, accounts, ann, 1)  # nothing keeps it from logging in again


@rule(88, "A password that is set without the old one ends every session, and may have to change.")
def passwords_are_reset(checks: Checks, bench: StoreBench) -> None:
    """Reset a password, whatever it was; then have it changed, and its hash upgraded between."""
    accounts = bench.store().accounts
    ann = bench.account("ann")
    accounts.create(ann)
    opened = _opened(bench, accounts, ann, 2)
    once, better, own = (password_hash(word) for word in ("once", "better", "own"))
    done = accounts.change_password(
        ann.account_id, once, instead_of=None, keep=None, must_change=True
    )
    checks.equal(done, expected=True, what="resetting a password")
    _ended(checks, bench, accounts, opened, "resetting the password")
    expected = replace(ann, password_hash=once, must_change=True)
    checks.equal(accounts.find("ann"), expected, "the account whose password was reset")
    accounts.set_password_hash(ann.account_id, better, instead_of=once)
    expected = replace(expected, password_hash=better)
    checks.equal(accounts.find("ann"), expected, "that account, when its hash was upgraded,")
    checks.equal(
        accounts.change_password(ann.account_id, own, instead_of=once, keep=None),
        expected=False,
        what="changing a password that is another by now",
    )
    checks.equal(accounts.find("ann"), expected, "the account after that")
    opened = _opened(bench, accounts, ann, 1)
    checks.equal(
        accounts.change_password(ann.account_id, own, instead_of=better, keep=None),
        expected=True,
        what="changing it",
    )
    expected = replace(ann, password_hash=own)
    checks.equal(accounts.find("ann"), expected, "the account whose password was changed")
    _ended(checks, bench, accounts, opened, "a change that keeps none")
    resetting = partial(accounts.change_password, bench.id(), own, instead_of=None, keep=None)
    checks.raises(NoSuchUser, resetting, "resetting the password of no account")


@rule(89, "An invitation makes one account before it expires, and is spent by that alone.")
def invitations_make_one_account(checks: Checks, bench: StoreBench) -> None:
    """Spend invitations, for a name that is taken too; and try those that count no more."""
    accounts = bench.store().accounts
    checks.equal(list(accounts.invitations()), [], "the invitations of a new store")
    ann = bench.account("ann")
    accounts.create(ann)
    first, second, third = (_invitation(bench, hours, f"für {hours}") for hours in (1, 2, 3))
    for each in (first, second, third):
        accounts.add_invitation(each)
    checks.raises(ValueError, lambda: accounts.add_invitation(second), "a token that is in use")
    checks.equal(accounts.find_invitation(second.token_hash), second, "an invitation")
    checks.equal(accounts.find_invitation(_NOBODY), None, "an invitation that was not made")
    checks.equal(set(accounts.invitations()), {first, second, third}, "the invitations")

    def create(name: str, token_hash: bytes, at: int = NOW) -> Account:
        account = replace(bench.account(name), created_at=at)
        accounts.create(account, invitation=token_hash)
        return account

    taken, unknown = partial(create, "ann", second.token_hash), partial(create, "bob", _NOBODY)
    checks.raises(UsernameTaken, taken, "a name that is taken")
    checks.raises(InvitationInvalid, unknown, "an invitation that was not made")
    late = partial(create, "bob", first.token_hash, first.expires_at)
    checks.raises(InvitationInvalid, late, "an invitation that has expired")
    checks.equal(accounts.is_free("bob"), expected=True, what="whether a refused name is free")
    bob = create("bob", second.token_hash, second.expires_at - 1)
    checks.equal(accounts.find("bob"), bob, "the account of an invitation")
    checks.equal(accounts.find_invitation(second.token_hash), None, "an invitation that is spent")
    again = partial(create, "carl", second.token_hash)
    checks.raises(InvitationInvalid, again, "an invitation that is spent")
    checks.equal(accounts.drop_invitation(third.token_hash), expected=True, what="withdrawing one")
    checks.equal(accounts.drop_invitation(third.token_hash), expected=False, what="that again")
    withdrawn = partial(create, "carl", third.token_hash)
    checks.raises(InvitationInvalid, withdrawn, "an invitation that was withdrawn")
    checks.equal(list(accounts.invitations()), [first], "the invitations that are left")
    fourth = replace(_invitation(bench, 9), created_at=first.expires_at)
    accounts.add_invitation(fourth)
    checks.equal(list(accounts.invitations()), [fourth], "those, when one was made after its time")


@rule(90, "Of those who spend one invitation at once exactly one gets an account.")
def one_spends_an_invitation(checks: Checks, bench: StoreBench) -> None:
    """Create accounts of other names by one invitation at once, while it may be withdrawn."""
    accounts = bench.store().accounts
    for number in bench.tries(checks):
        invitation = _invitation(bench, 1)
        accounts.add_invitation(invitation)
        token_hash = invitation.token_hash
        candidates = [bench.account(f"u{number}-{each}") for each in range(3)]
        creating: list[Callable[[], Any]] = [
            partial(accounts.create, one, invitation=token_hash) for one in candidates
        ]
        withdraws = number % 2 == 1
        if withdraws:
            creating.append(partial(accounts.drop_invitation, token_hash))
        results = bench.race(checks, *creating)
        outcomes(checks, results, [InvitationInvalid], "creating by an invitation")
        made = [one for one, each in zip(candidates, results, strict=False) if each is None]
        spent = len(made) + (results[-1] is True if withdraws else 0)
        checks.equal(spent, 1, "how many have spent one invitation")
        there = [one for one in candidates if accounts.find(one.username) is not None]
        checks.equal(there, made, "the accounts that are there")
        for one in candidates:
            accounts.withdraw(one.account_id, keep_name=False)


@rule(91, "No session of an account that is disabled meanwhile is left open.")
def disabling_races_with_no_login(checks: Checks, bench: StoreBench) -> None:
    """Disable an account and open sessions of it, at once."""
    accounts = bench.store().accounts
    for number in bench.tries(checks):
        ann = bench.account(f"ann{number}")
        accounts.create(ann)
        opening = [bench.session(ann) for _ in range(3)]
        disabled, *opened = bench.race(
            checks,
            partial(accounts.enable, ann.account_id, enabled=False),
            *(partial(accounts.open_session, session) for session in opening),
        )
        checks.equal(disabled, None, "disabling an account")
        outcomes(checks, opened, [NoSuchUser], "opening a session meanwhile")
        for session in opening:
            look = partial(accounts.find_session, session.key)
            found = bench.settled(look, None)
            checks.equal(found, None, "a session of an account that was disabled meanwhile")


@rule(92, "A mailbox's own quota holds instead of the policy's, and what it holds is counted.")
def quotas_are_set(checks: Checks, bench: StoreBench) -> None:
    """Set, exceed, raise and take back a quota; acked mail does not count."""
    boxes = bench.store(mailbox_messages=3).mailboxes
    bob, carl = bench.id(), bench.id()
    for each in (bob, carl):
        boxes.create(each)

    def fill(account_id: str) -> int:
        for number in range(9):
            try:
                boxes.append(account_id, bench.draft("ö!"))
            except MailboxFull:
                return number
        return 9

    checks.equal(boxes.usage(bob), MailboxUsage(0, 0, 0, None), "what an empty mailbox holds")
    boxes.set_quota(bob, 5)
    checks.equal(fill(bob), 5, "how many messages fit into a mailbox of 5")
    checks.equal(fill(carl), 3, "how many fit into another, where the policy says 3")
    checks.equal(boxes.usage(bob), MailboxUsage(5, 5, 15, 5), "what a full mailbox holds")
    boxes.set_quota(bob, 2)
    checks.equal(boxes.standing(bob).unread, 5, "what is unread when the quota is lower")
    checks.equal(fill(bob), 0, "how many more fit into it then")
    boxes.ack(bob, 4, NOW)
    checks.equal(boxes.usage(bob), MailboxUsage(5, 1, 15, 2), "what it holds when 4 are acked")
    checks.equal(fill(bob), 1, "how many more fit into it then")
    boxes.set_quota(bob, None)
    checks.equal(fill(bob), 1, "how many more fit when the quota was taken back")
    checks.equal(boxes.usage(bob), MailboxUsage(7, 3, 21, None), "what it holds in the end")
    nobody = bench.id()
    checks.raises(NoSuchUser, lambda: boxes.usage(nobody), "what no mailbox holds")
    checks.raises(NoSuchUser, lambda: boxes.set_quota(nobody, 1), "the quota of no mailbox")


@rule(93, "A trace tells where a message is: waiting, acked and when, or deleted.")
def messages_are_traced(checks: Checks, bench: StoreBench) -> None:
    """Trace what waits, is acked, was deleted and never was, in one mailbox and in all."""
    boxes = bench.store().mailboxes
    bob, carl = bench.id(), bench.id()
    for each in (bob, carl):
        boxes.create(each)
    waiting, acked, known, plain = (
        bench.draft(f"{number}", sent_at=NOW + number, send_id=send_id)
        for number, send_id in enumerate((None, "b", "c", None))
    )
    for draft in (acked, known, plain, waiting):
        boxes.append(bob, draft)
    boxes.append(carl, bench.draft("elsewhere"))
    boxes.ack(bob, 1, NOW + 5)
    boxes.ack(bob, 3, NOW + 9)
    boxes.delete(bob, [2, 3])

    def found(draft: Any, account_id: str | None) -> MessageTrace | None:
        trace = boxes.trace(draft.message_id, account_id, now=NOW + 9)
        if trace is not None and trace.sender_id is not None:
            checks.equal(trace.sender_id, draft.sender_id, "the sender's account id")
        return None if trace is None else trace._replace(sender_id=None)

    for account_id in (bob, None):
        where = "in all mailboxes" if account_id is None else "in its mailbox"
        for draft, seq, at in ((waiting, 4, None), (acked, 1, NOW + 5)):
            expected = MessageTrace(
                bob, draft.message_id, draft.sent_at, seq, draft.sender, None, at is not None, at
            )
            checks.equal(found(draft, account_id), expected, f"a message traced {where}")
        expected = MessageTrace(
            bob,
            known.message_id,
            known.sent_at,
            None,
            None,
            None,
            acked=False,
            acked_at=None,
            deleted=True,
        )
        checks.equal(found(known, account_id), expected, f"one that was deleted, traced {where}")
        checks.equal(found(plain, account_id), None, f"one deleted without a send_id, {where}")
    for account_id in (carl, bench.id()):
        checks.equal(found(waiting, account_id), None, "a message traced where it is not")
    boxes.drop(bob)
    checks.equal(found(waiting, None), None, "a message of a mailbox that was dropped")


@rule(94, "What an operator has set survives a reopening.")
def what_was_set_survives(checks: Checks, bench: StoreBench) -> None:
    """Reopen with an account disabled, one with a one-time password, a quota and invitations."""
    store = bench.one_node()
    ann, bob = bench.account("ann"), bench.account("bob")
    for account in (ann, bob):
        store.mailboxes.create(account.account_id)
        store.accounts.create(account)
    once = password_hash("once")
    store.accounts.enable(ann.account_id, enabled=False)
    store.accounts.change_password(
        bob.account_id, once, instead_of=None, keep=None, must_change=True
    )
    store.mailboxes.set_quota(bob.account_id, 7)
    kept, spent = _invitation(bench, 1, "kept"), _invitation(bench, 1)
    for each in (kept, spent):
        store.accounts.add_invitation(each)
    store.accounts.create(bench.account("carl"), invitation=spent.token_hash)
    again: Store = bench.reopened(store)
    disabled = replace(ann, enabled=False)
    checks.equal(again.accounts.find("ann"), disabled, "a disabled account, after a reopening,")
    reset = replace(bob, password_hash=once, must_change=True)
    checks.equal(again.accounts.find("bob"), reset, "a password that was reset, after a reopening,")
    stray = bench.session(ann)
    checks.raises(NoSuchUser, lambda: again.accounts.open_session(stray), "a session of it")
    usage = again.mailboxes.usage(bob.account_id)
    checks.equal(usage.quota, 7, "a quota after a reopening")
    checks.equal(list(again.accounts.invitations()), [kept], "the invitations after a reopening")
    found = shown(again.accounts.find_invitation(spent.token_hash))
    checks.equal(found, "None", "an invitation that was spent, after a reopening,")


@rule(95, "How full the mailboxes are is told by what is unread and by what each may hold.")
def depths_are_told(checks: Checks, bench: StoreBench) -> None:
    """Fill mailboxes to three depths, set quotas, ack and drop; a store may also tell nothing."""
    boxes = bench.store(mailbox_messages=3).mailboxes
    if boxes.depths() is None:
        raise NotChecked("the store does not tell how full its mailboxes are")

    def expect(mailboxes: int, deepest: int, full: int, when: str) -> None:
        expected = Depths(mailboxes, deepest, full)
        checks.equal(bench.seen(boxes.depths, expected), expected, f"how full they are {when}")

    expect(0, 0, 0, "before there are any")
    empty, two, three = (bench.id() for _ in range(3))
    for account_id, count in ((empty, 0), (two, 2), (three, 3)):
        boxes.create(account_id)
        for _ in range(count):
            boxes.append(account_id, bench.draft("hi"))
    expect(3, 3, 1, "with 0, 2 and 3 messages where the policy says 3")
    boxes.set_quota(two, 2)
    expect(3, 3, 2, "when a mailbox of 2 may hold no more")
    boxes.set_quota(two, 1)
    expect(3, 3, 2, "when it may hold less than it does")
    boxes.set_quota(three, 9)
    expect(3, 3, 1, "when the deepest may hold more")
    boxes.ack(three, 3, NOW)
    expect(3, 2, 1, "when the deepest was acked")
    boxes.set_quota(two, None)
    expect(3, 2, 0, "when the quota was taken back")
    boxes.drop(two)
    expect(2, 0, 0, "when the only one with unread mail was dropped")


@rule(96, "A trace calls deleted what would be there still, and gone what may have expired.")
def what_has_expired_is_gone(checks: Checks, bench: StoreBench) -> None:
    """Have messages expire by their number and their age, and delete some before they would."""
    boxes = bench.store(history_messages=2, history_days=1, send_id_hours=72).mailboxes
    bob = bench.id()
    boxes.create(bob)
    drafts = [bench.draft(f"{number}", send_id=f"{number}") for number in range(1, 7)]
    for draft in drafts:
        boxes.append(bob, draft)

    def expect(now: int, *states: str) -> None:
        for account_id in (bob, None):
            traces = [boxes.trace(each.message_id, account_id, now=now) for each in drafts]
            found = tuple("unknown" if each is None else each.state for each in traces)
            where = "in its mailbox" if account_id else "in all mailboxes"
            checks.equal(found, states, f"where messages are {now - NOW} ms later, traced {where}")

    boxes.ack(bob, 3, NOW + 1)  # the first one is too many
    expect(NOW + 1, "gone", "acked", "acked", "waiting", "waiting", "waiting")
    boxes.delete(bob, [3, 5])
    expect(NOW + 2, "gone", "acked", "deleted", "waiting", "deleted", "waiting")
    boxes.ack(bob, 4, NOW + 3)
    expect(NOW + DAY, "gone", "acked", "gone", "acked", "deleted", "waiting")
    expect(NOW + DAY + 1, "gone", "gone", "gone", "acked", "deleted", "waiting")
    expect(NOW + DAY + 3, "gone", "gone", "gone", "gone", "deleted", "waiting")
