"""Rules 80 to 85, 116 and 117 of the store kit: what one node does, and another must learn."""

import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from twinline.core.conformance import Checks, rule
from twinline.core.errors import NoSuchUser, Refused, TwinlineError
from twinline.core.passwords import profile_of
from twinline.core.protocol import EVERY_KIND, Kind
from twinline.core.store import (
    Account,
    Accounts,
    Blocked,
    Mailboxes,
    MailboxLook,
    PeerReceipt,
    SessionRecord,
    Standing,
    Store,
)
from twinline.stores.conformance.bench import (
    ALL,
    HOUR,
    NOW,
    StoreBench,
    password_hash,
    seqs,
)

_RESERVING: Final = "a withdrawal that keeps the name"


@rule(80, "What a node does to a mailbox wakes all who watch it on every other, and shows there.")
def mail_wakes_on_every_node(checks: Checks, bench: StoreBench) -> None:
    """Watch on every node, and send and drop on each in turn."""
    store = bench.store()
    nodes = bench.nodes(store)
    for number, sending in enumerate(nodes):
        bob, other = bench.mailbox(store), bench.mailbox(store)
        bells, others = [bench.bell() for _ in nodes], [bench.bell() for _ in nodes]
        for node, bell, other_bell in zip(nodes, bells, others, strict=True):
            node.mailboxes.on_mail(bob, bell.ring)
            node.mailboxes.on_mail(other, other_bell.ring)
        for seq in (1, 2):
            sending.mailboxes.append(bob, bench.draft(f"{seq}"))
            for at, (node, bell) in enumerate(zip(nodes, bells, strict=True)):
                what = f"a message that node {number} stored"
                checks.that(bell.rang(), f"{what} does not wake who watches on node {at}")
                found = seqs(node.mailboxes.read(bob, seq - 1, 9, ALL))
                checks.equal(found, [seq], f"{what}, as node {at} shows it when it has woken")
        sending.mailboxes.drop(bob)
        for at, bell in enumerate(bells):
            what = f"a mailbox that node {number} dropped"
            checks.that(bell.rang(), f"{what} does not wake who watches it on node {at}")
        woken = [bell for bell in others if not bell.quiet()]
        checks.that(not woken, f"{len(woken)} who watch another mailbox are woken")


@rule(
    81,
    "A session that ends on a node has ended on every other within a second, "
    "and wakes all who wait on it there.",
)
def sessions_end_on_every_node(checks: Checks, bench: StoreBench) -> None:
    """Use sessions on every node, and end them on another in every way."""
    for ending, watching in itertools.permutations(bench.nodes(bench.store()), 2):
        for what, end in _ends(ending.accounts, bench).items():
            account = bench.account(f"u{bench.id()}")
            ending.accounts.create(account)
            session, kept = bench.session(account), bench.session(account, NOW + 1)
            for each in (session, kept):
                ending.accounts.open_session(each)
            bell = bench.bell()
            watching.accounts.on_session_end(session.key, bell.ring)
            found = bench.settled(lambda: watching.accounts.find_session(session.key), session)  # noqa: B023 - called at once
            checks.equal(found, session, "the session that another node has opened")
            bell.quiet()  # what was done before is then known, and wakes nobody later
            begun = time.monotonic()
            end(account, session, kept)
            while watching.accounts.find_session(session.key) is not None:
                if time.monotonic() >= begun + bench.stale_seconds:
                    checks.wrong(f"{what} leaves the session open on another node for too long")
                    break
                time.sleep(0.01)
            checks.that(bell.rang(), f"{what} does not wake who waits on it on another node")


def _ends(
    accounts: Accounts, bench: StoreBench
) -> dict[str, Callable[[Account, SessionRecord, SessionRecord], object]]:
    """Return all that ends the first of two sessions of an account."""
    return {
        "closing it": lambda _account, session, _kept: accounts.close_session(session.key),
        "another password": lambda account, _session, kept: accounts.change_password(
            account.account_id,
            password_hash("second"),
            instead_of=account.password_hash,
            keep=kept.token_hash,
        ),
        "disabling the account": lambda account, _session, _kept: accounts.enable(
            account.account_id, enabled=False
        ),
        "closing all sessions": lambda account, _session, _kept: accounts.close_sessions(
            account.account_id
        ),
        "a session that takes its room": lambda account, _session, _kept: accounts.open_session(
            bench.session(account, NOW + 2), most=2
        ),
        "a withdrawal": lambda account, _session, _kept: accounts.withdraw(
            account.account_id, keep_name=False
        ),
    }


@rule(82, "A node under another policy is refused; one under the policy of the others is not.")
def nodes_have_one_policy(checks: Checks, bench: StoreBench) -> None:
    """Open nodes under policies that differ in one thing each, and then one that does not."""
    store = bench.store(mailbox_messages=5, history_days=2)
    bob = bench.mailbox(store, messages=1)
    for other in ({"mailbox_messages": 6}, {"mailbox_messages": 5, "history_days": 3}):
        checks.raises(
            TwinlineError,
            lambda: bench.another_node(store, **other),  # noqa: B023 - called at once
            f"a node under {other}, where there are 5 messages and 2 days",
        )
    same = bench.another_node(store, mailbox_messages=5, history_days=2)
    found = seqs(same.mailboxes.read(bob, 0, ALL, ALL))
    checks.equal(found, [1], "what a node under the same policy shows")


@rule(83, "A node that closes takes nothing from the others: they store, wake and end as before.")
def nodes_close_alone(checks: Checks, bench: StoreBench) -> None:
    """Close nodes that others watch beside, one that stored last and one that did nothing."""
    store = bench.store()
    nodes = bench.nodes(store)
    bob = bench.user(store, "bob")
    for number, busy in enumerate((True, False)):
        leaving = bench.another_node(store)
        bell = bench.bell()
        if busy:
            leaving.mailboxes.on_mail(bob, bell.ring)
            leaving.mailboxes.append(bob, bench.draft("from one that leaves"))
            checks.that(bell.rang(), "a message does not wake who watches on a node opened later")
        bench.close_node(leaving)
        for storing, watching in itertools.permutations(nodes, 2):
            account = bench.account(f"u{bench.id()}")
            storing.accounts.create(account)
            session = bench.session(account)
            storing.accounts.open_session(session)
            mail, end = bench.bell(), bench.bell()
            unsubscribe = watching.mailboxes.on_mail(bob, mail.ring)
            watching.accounts.on_session_end(session.key, end.ring)
            mail.quiet()  # what was done before is then known, and wakes nobody later
            storing.mailboxes.append(bob, bench.draft("after it"))
            storing.accounts.close_session(session.key)
            what = f"when node {number} of those that leave has closed"
            checks.that(mail.rang(), f"a message wakes nobody {what}")
            checks.that(end.rang(), f"the end of a session wakes nobody {what}")
            unsubscribe()
    pairs = len(nodes) * (len(nodes) - 1)
    bodies = Counter(one.body for one in store.mailboxes.read(bob, 0, ALL, ALL).messages)
    expected = {"from one that leaves": 1, "after it": 2 * pairs}
    checks.equal(dict(bodies), expected, "what was stored, before and after nodes closed")


@rule(84, "What a login asks of an account, a node that is opened later knows.")
def later_nodes_know_the_accounts(checks: Checks, bench: StoreBench) -> None:
    """Create accounts and note addresses on every node, and ask one that has no memory yet."""
    store = bench.store()
    accounts = [bench.account(f"u{number}") for number in range(4)]
    for account in accounts:
        store.accounts.create(account)
        store.accounts.note_address(account.account_id, "192.0.2.1", NOW + HOUR, most=3)
    store.accounts.withdraw(accounts[0].account_id, keep_name=True)
    later: Store = bench.another_node(store)
    profiles = +Counter(later.accounts.hash_profiles())
    checks.equal(
        dict(profiles), {profile_of(password_hash("first")): 3}, "the profiles, on another node"
    )
    noted = [later.accounts.address_noted_at(each.account_id, "192.0.2.1") for each in accounts]
    checks.equal(noted, [None] + [NOW + HOUR] * 3, "when an address was noted, on another node")


@rule(85, "What a node did to an account or a mailbox is so on every other at once.")
def nodes_agree_at_once(checks: Checks, bench: StoreBench) -> None:
    """Have a node do one thing after the other, and look on the others after each."""
    for doing, looking in itertools.permutations(bench.nodes(bench.store()), 2):
        name, account_id = f"u{bench.id()}", bench.id()
        for what, do, account, standing in _changes(bench, doing, name, account_id):
            do()
            found = looking.accounts.find(name)
            checks.equal(found, account, f"the account on another node after {what}")
            free = looking.accounts.is_free(name)
            expected = account is None and what != _RESERVING
            checks.equal(free, expected, f"whether the name is free there after {what}")
            stands = _standing(looking, account_id)
            checks.equal(stands, standing, f"the standing on another node after {what}")


_Change = tuple[str, Callable[[], object], Account | None, Standing | None]
"""What it is, how it is done, and then the account of the name and the standing of the mailbox."""


def _changes(bench: StoreBench, node: Store, name: str, account_id: str) -> list[_Change]:
    """Return what happens to a name and to the mailbox of its first account, in this order."""
    accounts, boxes = node.accounts, node.mailboxes
    first, again = bench.account(name, account_id), bench.account(name)
    second, third = (replace(first, password_hash=password_hash(one)) for one in ("2nd", "3rd"))
    once = replace(first, password_hash=password_hash("once"), must_change=True)
    closed = replace(once, enabled=False)
    look = MailboxLook(account_id, 0, 9, ALL, 2, NOW)

    def send() -> None:
        boxes.append(account_id, bench.draft())

    def set_hash() -> None:
        new = second.password_hash
        accounts.set_password_hash(account_id, new, instead_of=first.password_hash)

    def change_password() -> None:
        new = third.password_hash
        accounts.change_password(account_id, new, instead_of=second.password_hash, keep=b"")

    def reset_password() -> None:
        new = once.password_hash
        accounts.change_password(account_id, new, instead_of=None, keep=None, must_change=True)

    def withdraw(*, keep_name: bool) -> None:
        gone = again.account_id if keep_name else account_id
        accounts.withdraw(gone, keep_name=keep_name)

    return [
        ("nothing", lambda: None, None, None),
        ("a new mailbox", lambda: boxes.create(account_id), None, Standing(0, 0)),
        ("a new account", lambda: accounts.create(first), first, Standing(0, 0)),
        ("a message", send, first, Standing(0, 1)),
        ("another message", send, first, Standing(0, 2)),
        ("an ack", lambda: boxes.ack(account_id, 1, NOW), first, Standing(1, 1)),
        ("a look that acks", lambda: boxes.look(look), first, Standing(2, 0)),
        ("a third message", send, first, Standing(2, 1)),
        ("a deletion", lambda: boxes.delete(account_id, [3]), first, Standing(2, 0)),
        ("another hash", set_hash, second, Standing(2, 0)),
        ("another password", change_password, third, Standing(2, 0)),
        ("a one-time password", reset_password, once, Standing(2, 0)),
        (
            "disabling it",
            partial(accounts.enable, account_id, enabled=False),
            closed,
            Standing(2, 0),
        ),
        ("enabling it", partial(accounts.enable, account_id, enabled=True), once, Standing(2, 0)),
        ("a withdrawal", partial(withdraw, keep_name=False), None, Standing(2, 0)),
        ("the name's next account", lambda: accounts.create(again), again, Standing(2, 0)),
        ("a drop", lambda: boxes.drop(account_id), again, None),
        (_RESERVING, partial(withdraw, keep_name=True), None, None),
    ]


def _standing(node: Store, account_id: str) -> Standing | None:
    try:
        return node.mailboxes.standing(account_id)
    except NoSuchUser:
        return None


@rule(
    116,
    "A copy or a receipt that a node puts in wakes who watches its kind on every other, "
    "and shows there.",
)
def notes_wake_on_every_node(checks: Checks, bench: StoreBench) -> None:
    """Watch each kind on every node, and put in a copy and a receipt on each in turn."""
    store = bench.store()
    nodes = bench.nodes(store)
    ann, bob = bench.mailbox(store), bench.mailbox(store)
    mail = [bench.bell() for _ in nodes]
    bells = {kind: [bench.bell() for _ in nodes] for kind in (Kind.SENT, Kind.RECEIPT)}
    for at, node in enumerate(nodes):
        node.mailboxes.on_mail(ann, mail[at].ring)
        for kind, of_kind in bells.items():
            node.mailboxes.on_mail(ann, of_kind[at].ring, frozenset({kind}))
    last = 0
    for number, doing in enumerate(nodes):
        draft = bench.draft(f"{number}", send_id=f"{number}")
        draft = draft._replace(sender_id=ann, copy_to="bob")
        receipt = PeerReceipt(bob, "bob", NOW + number, NOW)
        puts: dict[Kind, Callable[[], object]] = {
            Kind.SENT: partial(doing.mailboxes.append, bob, draft),
            Kind.RECEIPT: partial(doing.mailboxes.put_receipt, ann, receipt),
        }
        for kind, put in puts.items():
            put()
            for at, (node, bell) in enumerate(zip(nodes, bells[kind], strict=True)):
                what = f"an entry of kind {kind.value} that node {number} put in"
                checks.that(bell.rang(), f"{what} does not wake who watches it on node {at}")
                page = node.mailboxes.read(ann, last, 9, ALL, frozenset({kind}))
                found = [each.seq for each in page.messages] + [each.seq for each in page.receipts]
                checks.equal(found, [last + 1], f"{what}, as node {at} shows it")
            last += 1
    woken = [bell for bell in mail if not bell.quiet()]
    checks.that(not woken, f"{len(woken)} who watch for mail alone are woken")


@rule(
    117, "Whom a node blocks, and whether a mailbox gives receipts, is so on every other at once."
)
def nodes_refuse_alike(checks: Checks, bench: StoreBench) -> None:
    """Have a node set these, and see what another does after each."""
    for doing, other in itertools.permutations(bench.nodes(bench.store()), 2):
        _refuse_alike(checks, bench, doing.mailboxes, other.mailboxes)


def _refuse_alike(checks: Checks, bench: StoreBench, boxes: Mailboxes, other: Mailboxes) -> None:
    ann, bob, carl = (bench.id() for _ in range(3))
    for each in (ann, bob, carl):
        boxes.create(each)
    sent = itertools.count(1)

    def is_sent() -> bool:
        draft = bench.draft()._replace(sender_id=ann, sent_at=NOW + next(sent))
        try:
            other.append(bob, draft)
        except Refused:
            return False
        return True

    def delivered() -> list[str]:
        (last,) = other.history(bob, None, 1, ALL, NOW).messages
        return [each.sender_id for each in other.ack(bob, last.seq, NOW).deliveries]

    def has_read(n: int) -> list[int]:
        other.put_receipt(bob, PeerReceipt(ann, "ann", n, NOW))
        return [each.n for each in other.read(bob, 0, ALL, ALL, EVERY_KIND).receipts]

    checks.that(is_sent(), "mail is refused though nobody is blocked")
    checks.equal(delivered(), [ann], "whose mail an ack has passed")
    checks.that(is_sent(), "mail is refused though nobody is blocked")
    blocked = [Blocked(ann, "ann"), Blocked(carl, "carl")]
    for peer in blocked:
        boxes.block(bob, peer)
    checks.that(not is_sent(), "mail is taken that another node has blocked")
    checks.equal(list(other.blocked(bob)), blocked, "who is blocked, on another node")
    checks.equal(delivered(), [], "whose mail an ack has passed, the sender being blocked")
    checks.equal(has_read(1), [], "the receipts of who is blocked")
    boxes.unblock(bob, ann)
    checks.that(is_sent(), "mail is refused that another node has unblocked")
    checks.equal(has_read(2), [2], "the receipts of who is unblocked")
    boxes.set_receipts(bob, receipts=False)
    checks.that(
        not other.standing(bob).gives_receipts, "receipts are given that another node ended"
    )
    checks.equal(delivered(), [], "whose mail an ack has passed of who gives no receipts")
    checks.equal(has_read(3), [2], "the receipts of who takes none")
    boxes.set_receipts(bob, receipts=True)
    checks.that(other.standing(bob).gives_receipts, "no receipts are given that another node began")
    checks.equal(has_read(4), [4], "the receipts of who takes them again")
