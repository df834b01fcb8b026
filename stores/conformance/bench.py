"""What the store kit's rules work on: empty stores, things to put into them, bells and races.

Where the kit was told how to open several nodes of a state, a store is a `SpreadStore` of them, and
every rule that does not say otherwise is checked on that.
"""

import itertools
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import sha256
from queue import Empty, SimpleQueue
from random import Random
from typing import Any, Final

from twinline.core.conformance import Checks, NotChecked, failure
from twinline.core.protocol import EVERY_KIND, Message
from twinline.core.store import (
    Account,
    Draft,
    Mailboxes,
    MailboxPolicy,
    MailPage,
    SessionRecord,
    Store,
)
from twinline.stores.conformance.spread import SpreadStore

OpenStore = Callable[[MailboxPolicy], Store]
"""Opens a new store with nothing in it."""
Reopen = Callable[[Store], Store]
"""Closes a store and opens what it kept again."""
Failing = Callable[[Store], AbstractContextManager[object]]
"""Has a store's next write fail: the one that is made with what it returns entered."""
PutBack = Callable[[Store], Store]
"""Closes a store and opens what it kept as a backup of it that was put back."""
OpenNodes = Callable[[Store, MailboxPolicy, int], Sequence[Store]]
"""Opens so many more nodes of the state that a store is a node of, under a policy."""
NOW: Final = 1_767_225_600_000
HOUR: Final = 60 * 60 * 1000
DAY: Final = 24 * HOUR
ALL: Final = 10**6
"""More messages and more bytes than any rule stores."""
_START_SECONDS: Final = 5.0
_STALE_SECONDS: Final = 1.5  # a store that several servers share may be a second behind
_SETTLE_SECONDS: Final = 0.02
_RACE_SECONDS: Final = 25.0


@dataclass(frozen=True, slots=True)
class Subject:
    """What is checked: how to open it, and what can be done to it."""

    open_store: OpenStore
    reopen: Reopen | None = None
    failing: Failing | None = None
    put_back: PutBack | None = None
    open_nodes: OpenNodes | None = None
    nodes: int = 2


class StoreBench:
    """One rule's bench.

    Attributes:
        rounds: how often to try a race.
        wake_seconds: how long to wait for a wake.
        stale_seconds: how old what a node knows of sessions and recipients may be, and a little
            more, for a busy machine.
    """

    def __init__(self, subject: Subject, seed: str, *, wake_seconds: float, slow: bool) -> None:
        self.rounds = 300 if slow else 15
        self.wake_seconds = wake_seconds
        self.stale_seconds = _STALE_SECONDS
        self._stale_seconds = _STALE_SECONDS
        self._subject = subject
        self._seed = seed
        self._random = Random(seed)  # noqa: S311 - it only puts threads in order, and picks nodes
        self._ids = itertools.count(1)
        self._open: list[Store] = []

    @property
    def alone(self) -> bool:
        """Whether what a store does is known at once wherever a rule looks: on its only node."""
        return self._subject.open_nodes is None

    def store(self, **policy: float) -> Store:
        """Return a new store with nothing in it; its nodes take turns where it has several."""
        parsed = MailboxPolicy.model_validate(policy)
        return self._spread(self.one_node(**policy), parsed)

    def one_node(self, **policy: float) -> Store:
        """Return a new store for a rule about one process: it has one node."""
        store = self._subject.open_store(MailboxPolicy.model_validate(policy))
        self._open.append(store)
        return store

    def nodes(self, store: Store) -> tuple[Store, ...]:
        """Return the nodes of a store.

        Raises:
            NotChecked: the kit was not given a way to open more than one.
        """
        if not isinstance(store, SpreadStore):
            raise NotChecked("it was not told how to open several nodes of one state")
        return store.nodes

    def a_node(self, store: Store) -> Store:
        """Return one node of a store, for someone who looks where he has subscribed."""
        return self._random.choice(store.nodes) if isinstance(store, SpreadStore) else store

    def another_node(self, store: Store, **policy: float) -> Store:
        """Open one more node of a store, under a policy.

        Raises:
            NotChecked: the kit was not given a way to.
        """
        first = self.nodes(store)[0]
        return self._opened_nodes(first, MailboxPolicy.model_validate(policy), 1)[0]

    def close_node(self, node: Store) -> None:
        """Close what `another_node` has opened."""
        self._open.remove(node)
        node.close()

    def reopened(self, store: Store) -> Store:
        """Close a store and return what comes back of it.

        Raises:
            NotChecked: the kit was not given a way to.
        """
        if self._subject.reopen is None:
            raise NotChecked("it was not told how to reopen the store")
        return self._replaced(store, self._subject.reopen)

    def put_back(self, store: Store) -> Store:
        """Close a store and return it as after a backup of it was put back.

        Raises:
            NotChecked: the kit was not given a way to.
        """
        if self._subject.put_back is None:
            raise NotChecked("it was not told how to put a backup of the store back")
        return self._replaced(store, self._subject.put_back)

    def _replaced(self, store: Store, replace: Callable[[Store], Store]) -> Store:
        if not isinstance(store, SpreadStore):
            self._open.remove(store)
            self._open.append(replace(store))
            return self._open[-1]
        first, *others = store.nodes
        for node in others:
            self.close_node(node)
        return self._spread(self._replaced(first, replace), store.policy)

    def _spread(self, first: Store, policy: MailboxPolicy) -> Store:
        """Return a store over a node and as many others as the kit was told to open."""
        if self._subject.open_nodes is None:
            return first
        others = self._opened_nodes(first, policy, self._subject.nodes - 1)
        return SpreadStore((first, *others), policy, self._random)

    def _opened_nodes(self, first: Store, policy: MailboxPolicy, count: int) -> Sequence[Store]:
        if self._subject.open_nodes is None:
            raise NotChecked("it was not told how to open several nodes of one state")
        nodes = self._subject.open_nodes(first, policy, count)
        self._open += nodes
        return nodes

    def failing(self, store: Store) -> AbstractContextManager[object]:
        """Return what has a store's next write fail.

        Raises:
            NotChecked: the kit was not given a way to.
        """
        if self._subject.failing is None:
            raise NotChecked("it was not told how to make the store's next write fail")
        return self._subject.failing(store)

    def close(self) -> None:
        """Close every store that the rule opened."""
        while self._open:
            self._open.pop().close()

    def bell(self) -> "Bell":
        """Return a wake that notes its calls."""
        return Bell(self)

    def settled(self, look: Callable[[], Any], expected: object) -> Any:
        """Return what is seen once it is as expected, or after more than a second what there is.

        For what a store may answer from memory that is a second old.
        """
        until = time.monotonic() + self._stale_seconds
        while (seen := look()) != expected:
            if time.monotonic() >= until:
                self._stale_seconds = 0.0  # one wait in vain is enough
                break
            time.sleep(0.02)
        return seen

    def seen(self, look: Callable[[], Any], expected: object) -> Any:
        """Return what is seen at once; where a store has several nodes, as `settled` does."""
        return look() if self.alone else self.settled(look, expected)

    def comes_true(self, look: Callable[[], bool]) -> bool:
        """Return whether something that a store does in the background is done in time."""
        until = time.monotonic() + self.wake_seconds
        while not look():
            if time.monotonic() >= until:
                return False
            time.sleep(0.02)
        return True

    def tries(self, checks: Checks, most: int | None = None) -> Iterator[int]:
        """Yield the number of each try of a race; none after one that gave evidence."""
        for number in range(self.rounds if most is None else most):
            if checks.evidence:
                return
            yield number

    def race(self, checks: Checks, *steps: Callable[[], object]) -> list[Any]:
        """Run steps at once, each in its thread; return what each returned or raised."""
        interval = sys.getswitchinterval()
        # Not before every thread has started: a tracer cannot be installed in two threads at once.
        barrier = threading.Barrier(len(steps), action=lambda: sys.setswitchinterval(1e-5))
        results: list[Any] = [None] * len(steps)

        def run(index: int) -> None:
            try:
                barrier.wait(_START_SECONDS)
                results[index] = steps[index]()
            except BaseException as error:  # noqa: BLE001 - it is the result
                results[index] = error

        threads = [
            threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(steps))
        ]
        # The thread that comes to the barrier last is the first to go on: another each time.
        for thread in self._random.sample(threads, len(threads)):
            thread.start()
        until = time.monotonic() + _RACE_SECONDS
        try:
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))
        finally:
            sys.setswitchinterval(interval)
        if any(thread.is_alive() for thread in threads):
            checks.give_up(f"calls at once are not done within {_RACE_SECONDS:g} s")
        return results

    def id(self) -> str:
        """Return an account id that was not used before."""
        return uuid.uuid5(uuid.NAMESPACE_OID, f"{self._seed}/{next(self._ids)}").hex

    def account(self, username: str, account_id: str | None = None) -> Account:
        """Return an account with all that the rules of accounts put into one."""
        return Account(account_id or self.id(), username, password_hash("first"), NOW)

    def session(self, account: Account, used_at: int = NOW) -> SessionRecord:
        """Return a session with a token hash that was not used before."""
        token = sha256(self.id().encode()).digest()
        return SessionRecord(token, account.account_id, account.username, NOW, used_at)

    def draft(
        self,
        body: str = "hello",
        *,
        sender: str = "ann",
        sent_at: int = NOW,
        send_id: str | None = None,
    ) -> Draft:
        """Return a message; its sender's account id is made of the name."""
        message_id = f"{next(self._ids):024x}"
        sender_id = uuid.uuid5(uuid.NAMESPACE_OID, sender).hex
        return Draft(message_id, sender_id, sender, body, sent_at, send_id)

    def mailbox(self, store: Store, messages: int = 0) -> str:
        """Make a mailbox with some messages, m1, m2 and so on, and return its account id."""
        account_id = self.id()
        store.mailboxes.create(account_id)
        for number in range(1, messages + 1):
            store.mailboxes.append(account_id, self.draft(f"m{number}"))
        return account_id

    def user(self, store: Store, username: str, messages: int = 0) -> str:
        """Make a mailbox with some messages, and its account; return the account's id."""
        account_id = self.mailbox(store, messages)
        store.accounts.create(self.account(username, account_id))
        return account_id


def password_hash(word: str) -> str:
    """Return what the hash of a password looks like."""
    digest = sha256(word.encode()).hexdigest()[:43]
    return f"$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHRzb21lc2FsdA${digest}"


# -- looking -----------------------------------------------------------------------------


def seqs(page: MailPage) -> list[int]:
    """Return the seqs of a page."""
    return [message.seq for message in page.messages]


def everything(boxes: Mailboxes, account_id: str) -> object:
    """Return all that can be seen of a mailbox, to compare before with after."""
    return (
        boxes.standing(account_id),
        boxes.read(account_id, 0, ALL, ALL, EVERY_KIND),
        boxes.history(account_id, None, ALL, ALL, NOW, kinds=EVERY_KIND),
        boxes.blocked(account_id),
    )


def arrived(draft: Draft, seq: int) -> Message:
    """Return the message that a draft becomes."""
    return Message(
        seq=seq,
        message_id=draft.message_id,
        sender=draft.sender,
        body=draft.body,
        sent_at=draft.sent_at,
    )


# -- waking ------------------------------------------------------------------------------


class Bell:
    """A wake that notes its calls."""

    def __init__(self, bench: StoreBench) -> None:
        self._bench = bench
        self._rings: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        """Be the wake: never block, never raise."""
        self._rings.put(None)

    def rang(self) -> bool:
        """Return whether the wake was called since the last look; wait a few seconds for it."""
        if self._taken(self._bench.wake_seconds):
            return True
        self._bench.wake_seconds = _SETTLE_SECONDS  # one wait in vain is enough
        return False

    def quiet(self) -> bool:
        """Return whether the wake was not called since the last look, nor is in a moment."""
        return not self._taken(_SETTLE_SECONDS)

    def _taken(self, seconds: float) -> bool:
        try:
            self._rings.get(timeout=seconds)
        except Empty:
            return False
        # It may be called more than once for one thing, and that again is one.
        while not self._rings.empty():
            self._rings.get_nowait()
        return True


def outcomes(checks: Checks, results: Iterable[Any], known: Sequence[type], what: str) -> None:
    """Note evidence for each exception that none of those known."""
    for result in results:
        if isinstance(result, BaseException):
            checks.that(isinstance(result, tuple(known)), f"{what}: {failure(result)}")
