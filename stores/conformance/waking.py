"""Rules 34 to 37, 54 and 55 of the store kit: whom mail wakes, and how."""

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

from twinline.core.conformance import Checks, rule
from twinline.core.errors import LockRuleError
from twinline.core.locks import may_block
from twinline.core.store import SessionKey, Store
from twinline.stores.conformance.bench import NOW, Bell, StoreBench, password_hash

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
        boxes.append(ids[name], bench.draft())
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
    boxes.on_mail(bench.id(), late.ring)
    if bench.alone:  # another node may learn of it later than who subscribes there
        boxes.on_mail(bob, late.ring)
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
    other = bench.mailbox(store)
    store.accounts.create(bench.account("carl"))
    for cause in _causes(bench, store):
        probe = _Probe(store, other, bench.wake_seconds)
        cause.subscribe(probe.wake)
        cause.call()
        verdict = probe.verdict()
        checks.that(verdict is None, f"the wake for {cause.what}: {verdict}")


@rule(54, "A wake that raises keeps no other from being called, and is not told to who caused it.")
def wakes_are_called_on_their_own(checks: Checks, bench: StoreBench) -> None:
    """Let the first and the last of four wakes raise."""
    store = bench.store()

    def raises() -> None:
        raise _MisbehavingWake("a wake of the kit raises, which the store may log")

    for cause in _causes(bench, store):
        bells = bench.bell(), bench.bell()
        for wake in (raises, bells[0].ring, bells[1].ring, raises):
            cause.subscribe(wake)
        try:
            cause.call()
        except _MisbehavingWake:
            checks.wrong(f"{cause.what} raises what its wake raised")
        for bell in bells:
            checks.that(bell.rang(), f"{cause.what}: a wake that raises keeps another from it")


@rule(55, "A wake that writes to the store, as it must not, is answered or refused at once.")
def wakes_that_write_are_refused(checks: Checks, bench: StoreBench) -> None:
    """Let a wake send a message and close a session, and see that neither waits for itself."""
    store = bench.store()
    boxes, accounts = store.mailboxes, store.accounts
    other, ann = bench.mailbox(store), bench.account("ann")
    accounts.create(ann)
    writes: list[tuple[str, Callable[[], object]]] = [
        ("a message", lambda: boxes.append(other, bench.draft())),
        ("the end of a session", lambda: accounts.close_session(SessionKey("nobody", bytes(32)))),
    ]
    for what, write in writes:
        bob = bench.mailbox(store)
        done = bench.bell()

        def wake(write: Callable[[], object] = write, done: Bell = done) -> None:
            # Noted even if nobody catches what it raises.
            try:
                write()
            finally:
                done.ring()

        boxes.on_mail(bob, wake)
        begun = time.monotonic()
        boxes.append(bob, bench.draft())
        checks.that(done.rang(), f"{what} that a wake asks for has no outcome")
        seconds = time.monotonic() - begun
        checks.that(
            seconds < _LOOK_SECONDS + bench.wake_seconds / 2,
            f"{what} that a wake asks for takes {seconds:.1f} s: does it wait for itself?",
        )
        checks.that(
            boxes.standing(bob).unread == 1, f"the message is lost whose wake asks for {what}"
        )


class _MisbehavingWake(Exception):
    """What a wake of the kit raises."""


class _Cause(NamedTuple):
    """Something that wakes.

    Attributes:
        what: in words.
        subscribe: has a wake called by it.
        call: makes it happen.
    """

    what: str
    subscribe: Callable[[Callable[[], None]], object]
    call: Callable[[], object]


def _causes(bench: StoreBench, store: Store) -> list[_Cause]:
    """Return all that wakes, in an order in which each can happen."""
    boxes, accounts = store.mailboxes, store.accounts
    bob, ann = bench.mailbox(store), bench.account("ann")
    accounts.create(ann)

    def session(used_at: int = NOW) -> SessionKey:
        opened = bench.session(ann, used_at)
        accounts.open_session(opened)
        return opened.key

    kept = session(NOW + 9)
    closed, made_room, one_of_all, withdrawn = session(NOW + 8), session(1), session(), kept
    return [
        _Cause(
            "a message", lambda w: boxes.on_mail(bob, w), lambda: boxes.append(bob, bench.draft())
        ),
        _Cause("a drop", lambda w: boxes.on_mail(bob, w), lambda: boxes.drop(bob)),
        _Cause(
            "a session's end",
            lambda w: accounts.on_session_end(closed, w),
            lambda: accounts.close_session(closed),
        ),
        _Cause(
            "a session that makes room",
            lambda w: accounts.on_session_end(made_room, w),
            lambda: accounts.open_session(bench.session(ann), most=3),
        ),
        _Cause(
            "another password",
            lambda w: accounts.on_session_end(one_of_all, w),
            lambda: accounts.change_password(
                ann.account_id,
                password_hash("second"),
                instead_of=ann.password_hash,
                keep=kept.token_hash,
            ),
        ),
        _Cause(
            "a withdrawal",
            lambda w: accounts.on_session_end(withdrawn, w),
            lambda: accounts.withdraw(ann.account_id, keep_name=False),
        ),
    ]


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
