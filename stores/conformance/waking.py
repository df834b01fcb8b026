"""Rules 34 to 37 of the store kit: whom mail wakes, and how."""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from twinline.core.conformance import Checks, rule
from twinline.core.errors import LockRuleError
from twinline.core.locks import may_block
from twinline.core.store import Store
from twinline.stores.conformance.bench import NOW, Bell, StoreBench

_LOOK_SECONDS: Final = 1.0


@rule(34, "A message wakes all who watch its mailbox, every time, and nobody else.")
def mail_wakes_its_watchers(checks: Checks, bench: StoreBench) -> None:
    """Watch four mailboxes, two of them twice, and send to each."""
    store = bench.store()
    boxes = store.mailboxes
    ids = {name: bench.mailbox(store) for name in ("ann", "bob", "carl", "dora")}
    bells: dict[str, list[Bell]] = {name: [bench.bell() for _ in range(3)] for name in ids}
    for name, some in bells.items():
        for bell in some:
            boxes.on_mail(ids[name], bell.ring)
    for name in ("bob", "ann", "bob", "dora"):
        boxes.append(ids[name], bench.draft(to=name))
        for bell in bells[name]:
            checks.that(bell.rang(), f"a message to {name} does not wake one who watches it")
        for other, some in bells.items():
            if other != name:
                woken = [bell for bell in some if not bell.quiet()]
                checks.that(not woken, f"a message to {name} wakes who watches {other}")
    boxes.read(ids["bob"], 0, 9, 999)
    boxes.ack(ids["bob"], 1, NOW)
    boxes.append(ids["bob"], bench.draft())
    checks.that(bells["bob"][0].rang(), "a message after an ack does not wake who watches")


@rule(35, "Dropping a mailbox wakes all who watch it, and nobody else.")
def dropping_wakes_watchers(checks: Checks, bench: StoreBench) -> None:
    """Drop one of two mailboxes, watch it afterwards, and drop it again."""
    store = bench.store()
    boxes = store.mailboxes
    bob, other = bench.mailbox(store, messages=2), bench.mailbox(store)
    bells = [bench.bell(), bench.bell()]
    for bell in bells:
        boxes.on_mail(bob, bell.ring)
    other_bell = bench.bell()
    boxes.on_mail(other, other_bell.ring)
    boxes.drop(bob)
    for bell in bells:
        checks.that(bell.rang(), "dropping a mailbox does not wake one who watches it")
    checks.that(other_bell.quiet(), "dropping a mailbox wakes who watches another")
    late = bench.bell()
    boxes.on_mail(bob, late.ring)
    boxes.on_mail(bench.id(), late.ring)
    boxes.drop(bob)
    checks.that(late.quiet(), "who watches a mailbox that is gone is woken")


@rule(
    36, "Who has unsubscribed is not woken; unsubscribing ends one subscription, twice is harmless."
)
def unsubscribing_ends_one(checks: Checks, bench: StoreBench) -> None:
    """Subscribe one wake twice and another once, and end some."""
    store = bench.store()
    boxes = store.mailboxes
    bob = bench.mailbox(store)
    twice, ended = bench.bell(), bench.bell()
    first = boxes.on_mail(bob, twice.ring)
    boxes.on_mail(bob, twice.ring)
    unsubscribe = boxes.on_mail(bob, ended.ring)
    for _ in range(2):
        unsubscribe()
        first()
    boxes.append(bob, bench.draft())
    checks.that(twice.rang(), "of two subscriptions of one wake, ending one ends both")
    checks.that(ended.quiet(), "who has unsubscribed is woken")
    gone = boxes.on_mail(bob, ended.ring)
    boxes.drop(bob)
    checks.that(ended.rang(), "dropping a mailbox does not wake who watches it")
    gone()
    gone()


@rule(37, "A wake is called with no lock held: another thread can use the store meanwhile.")
def wakes_are_called_without_a_lock(checks: Checks, bench: StoreBench) -> None:
    """Let each wake have another thread read from both halves, and wait for that."""
    store = bench.store()
    boxes, accounts = store.mailboxes, store.accounts
    bob, other = bench.mailbox(store), bench.mailbox(store)
    ann, carl = bench.account("ann"), bench.account("carl")
    accounts.create(ann)
    accounts.create(carl)

    def session(used_at: int = NOW) -> bytes:
        opened = bench.session(ann, used_at)
        accounts.open_session(opened)
        return opened.token_hash

    kept = session(NOW + 9)
    closed, made_room, one_of_all, withdrawn = session(NOW + 8), session(1), session(), kept
    calls: list[tuple[str, Callable[[Callable[[], None]], object], Callable[[], object]]] = [
        ("a message", lambda w: boxes.on_mail(bob, w), lambda: boxes.append(bob, bench.draft())),
        ("a drop", lambda w: boxes.on_mail(bob, w), lambda: boxes.drop(bob)),
        (
            "a session's end",
            lambda w: accounts.on_session_end(closed, w),
            lambda: accounts.close_session(closed),
        ),
        (
            "a session that makes room",
            lambda w: accounts.on_session_end(made_room, w),
            lambda: accounts.open_session(bench.session(ann), most=3),
        ),
        (
            "the end of all other sessions",
            lambda w: accounts.on_session_end(one_of_all, w),
            lambda: accounts.close_other_sessions(ann.account_id, kept),
        ),
        (
            "a withdrawal",
            lambda w: accounts.on_session_end(withdrawn, w),
            lambda: accounts.withdraw(ann.account_id, keep_name=False),
        ),
    ]
    for what, subscribe, call in calls:
        probe = _Probe(store, other, bench.wake_seconds)
        subscribe(probe.wake)
        call()
        verdict = probe.verdict()
        checks.that(verdict is None, f"the wake for {what}: {verdict}")


class _Probe:
    """A wake that sees whether the store can be used while it runs."""

    def __init__(self, store: Store, account_id: str, seconds: float) -> None:
        self._store = store
        self._account_id = account_id
        self._seconds = seconds
        self._verdicts: SimpleQueue[str | None] = SimpleQueue()

    def wake(self) -> None:
        """Look from another thread; unlike a real wake this one waits, but never long."""
        try:
            may_block("a wake")
        except LockRuleError as error:
            self._verdicts.put(str(error))
            return
        thread = threading.Thread(target=self._look, daemon=True)
        thread.start()
        thread.join(_LOOK_SECONDS)
        held = "while it runs another thread cannot read: a lock is held"
        self._verdicts.put(held if thread.is_alive() else None)

    def _look(self) -> None:
        self._store.mailboxes.standing(self._account_id)
        self._store.accounts.find("carl")

    def verdict(self) -> str | None:
        """Return what is wrong with one of the calls so far, or None."""
        try:
            verdicts = [self._verdicts.get(timeout=self._seconds + _LOOK_SECONDS)]
        except Empty:
            return "it is not called"
        while not self._verdicts.empty():
            verdicts.append(self._verdicts.get_nowait())
        return next((verdict for verdict in verdicts if verdict is not None), None)
