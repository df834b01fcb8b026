"""A store that several servers share, in one process: nodes over one store in memory.

What a node does it tells its own watchers at once and the others by a notice, as the stores over
an engine do: a thread of the engine's brings it to all nodes but the one whose id it has.
"""

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any, ClassVar

from seeded_faults_stores import put_back as put_back_in_memory
from seeded_faults_stores import reopened as reopened_in_memory

from twinline.core.errors import NoSuchUser, TwinlineError
from twinline.core.locks import new_lock
from twinline.core.protocol import MAIL_ALONE, Kind
from twinline.core.store import (
    Accounts,
    Durability,
    Health,
    Mailboxes,
    MailboxPolicy,
    SharedStates,
    Step,
    Store,
    Unsubscribe,
)
from twinline.core.waiting import Wake, wake_all
from twinline.stores.conformance.conversing import KINDS
from twinline.stores.memory import MemoryStore

Notice = tuple[int, str, str, Kind | None]
"""The id of the node that sent it, the half that it is about, an account id, and of which kind the
entry is that has come, if it is about one."""


class OtherPolicy(TwinlineError):
    """A node has another policy than the state."""


class Engine:
    """What the nodes share.

    Attributes:
        store: the state, whose own subscriptions are not used.
        states: values by key, and until when they are kept; guarded by ``lock``.
    """

    def __init__(self, policy: MailboxPolicy, store: MemoryStore | None = None, epoch: int = 1):
        self.policy = policy
        self.store = store or MemoryStore(policy)
        self.epoch = epoch
        self.lock = new_lock("shared states")
        self.states: dict[str, tuple[bytes, float]] = {}
        self.notices: SimpleQueue[Notice | None] = SimpleQueue()
        self.nodes: list[SharedNode] = []
        self._ids = itertools.count(1)
        threading.Thread(target=self._carry, name="notices", daemon=True).start()

    def join(self, node: "SharedNode") -> int:
        """Bring notices to a node from now on, and return its id."""
        self.nodes = [*self.nodes, node]
        return next(self._ids)

    def leave(self, node: "SharedNode") -> None:
        """Bring a node no more notices; with the last one the thread ends."""
        self.nodes = [each for each in self.nodes if each is not node]
        if not self.nodes:
            self.notices.put(None)

    def _carry(self) -> None:
        while (notice := self.notices.get()) is not None:
            sender, half, account_id, kind = notice
            for node in self.nodes:
                if node.id != sender:
                    getattr(node, half).hear(account_id, kind)


class Watches:
    """Who is woken, by key, on one node."""

    def __init__(self) -> None:
        self._lock = new_lock("watches of a node")
        self._entries: dict[Hashable, list[list[Wake]]] = defaultdict(list)

    def add(self, key: Hashable, wake: Wake) -> Unsubscribe:
        entry = [wake]  # an object of its own: the same wake may be given twice

        def remove() -> None:
            with self._lock:
                kept = [each for each in self._entries.pop(key, ()) if each is not entry]
                if kept:
                    self._entries[key] = kept

        with self._lock:
            self._entries[key].append(entry)
        return remove

    def of(self, key: Hashable, *, and_end: bool = False) -> list[Wake]:
        with self._lock:
            entries = self._entries.pop(key, []) if and_end else self._entries.get(key, [])
            return [wake for (wake,) in entries]

    def watched(self) -> list[Any]:
        """Return the keys that somebody watches."""
        with self._lock:
            return list(self._entries)


def passed_on(name: str) -> Any:
    """Return a method that the store of the engine answers."""

    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        return getattr(self.shared, name)(*arguments, **options)

    return call


def told(name: str) -> Any:
    """Return the same, of which the nodes then hear; its account is the first argument's."""

    def call(self: Any, about: Any, *arguments: Any, **options: Any) -> Any:
        result = getattr(self.shared, name)(about, *arguments, **options)
        self.tell(getattr(about, "account_id", about))
        return result

    return call


class _Half:
    """What both halves of a node do: tell and hear."""

    name: ClassVar[str]
    shared: Any

    def __init__(self, node: "SharedNode") -> None:
        self.node = node
        self.shared = getattr(node.engine.store, self.name)
        self.watches = Watches()

    def tell(self, account_id: str, kind: Kind | None = None) -> None:
        """Have those woken who watch an account's, here and on the other nodes."""
        self.hear(account_id, kind)
        self.node.engine.notices.put((self.node.id, self.name, account_id, kind))

    def hear(self, account_id: str, kind: Kind | None = None) -> None:
        raise NotImplementedError


class SharedAccounts(_Half, Accounts):
    """A node's accounts: what is told of one is that some of its sessions may have ended."""

    name = "accounts"
    create = passed_on("create")
    find = passed_on("find")
    is_free = passed_on("is_free")
    page = passed_on("page")
    set_password_hash = passed_on("set_password_hash")
    hash_profiles = passed_on("hash_profiles")
    note_address = passed_on("note_address")
    address_noted_at = passed_on("address_noted_at")
    change_password = told("change_password")
    withdraw = told("withdraw")
    open_session = told("open_session")
    enable = told("enable")
    close_sessions = told("close_sessions")
    sessions = passed_on("sessions")
    addresses = passed_on("addresses")
    add_invitation = passed_on("add_invitation")
    find_invitation = passed_on("find_invitation")
    invitations = passed_on("invitations")
    drop_invitation = passed_on("drop_invitation")
    _close_session = told("close_session")

    def close_session(self, key):
        if key.account_id is not None:
            self._close_session(key)

    def find_session(self, key):
        return None if key.account_id is None else self.shared.find_session(key)

    def touch_session(self, key, used_at):
        if key.account_id is not None:
            self.shared.touch_session(key, used_at)

    def on_session_end(self, key, wake):
        remove = self.watches.add(key, wake)
        if self.find_session(key) is None:
            remove()
        return remove

    def hear(self, account_id: str, kind: Kind | None = None) -> None:
        wakes: list[Wake] = []
        for key in self.watches.watched():
            if key.account_id == account_id and self.shared.find_session(key) is None:
                wakes += self.watches.of(key, and_end=True)
        wake_all(wakes)


class SharedMailboxes(_Half, Mailboxes):
    """A node's mailboxes: what is told of one is which kind of entry has come, or that it is gone.

    Whether anything has come, and what, is heard of the store of the engine.
    """

    name = "mailboxes"
    create = passed_on("create")
    read = passed_on("read")
    history = passed_on("history")
    conversations = passed_on("conversations")
    ack = passed_on("ack")
    delete = passed_on("delete")
    standing = passed_on("standing")
    usage = passed_on("usage")
    set_quota = passed_on("set_quota")
    trace = passed_on("trace")
    depths = passed_on("depths")
    set_receipts = passed_on("set_receipts")
    block = passed_on("block")
    unblock = passed_on("unblock")
    blocked = passed_on("blocked")
    drop = told("drop")

    def append(self, account_id, draft):
        with self.telling((account_id, Kind.MAIL), (draft.sender_id, Kind.SENT)):
            return self.shared.append(account_id, draft)

    def put_receipt(self, account_id, receipt):
        with self.telling((account_id, Kind.RECEIPT)):
            self.shared.put_receipt(account_id, receipt)

    @contextmanager
    def telling(self, *of: tuple[str, Kind]) -> Iterator[None]:
        """Tell of the entries of a kind that come into a mailbox meanwhile."""
        with ExitStack() as subscribed:
            for account_id, kind in of:
                tell = partial(self.tell, account_id, kind)
                subscribed.callback(self.shared.on_mail(account_id, tell, frozenset({kind})))
            yield

    def on_mail(self, account_id, wake, kinds=MAIL_ALONE):
        remove = self.watches.add((account_id, kinds), wake)
        try:
            self.shared.standing(account_id)
        except NoSuchUser:
            remove()
        return remove

    def hear(self, account_id: str, kind: Kind | None = None) -> None:
        for kinds in KINDS:
            if kind is None or kind in kinds:
                # It may be after the reply already: what is left for later then waits for the next.
                wake_all(self.watches.of((account_id, kinds)))


class States(SharedStates):
    """The engine's states, changed by comparing and swapping."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def change(self, key: str, step: Step, *, keep_ms: int) -> None:
        while True:
            old = self.read(key)
            new = step(old)
            with self.engine.lock:
                if self._value(key) != old:
                    continue  # another node was faster
                if new is None:
                    self.engine.states.pop(key, None)
                else:
                    self.engine.states[key] = new, time.monotonic() + keep_ms / 1000
                return

    def read(self, key: str) -> bytes | None:
        with self.engine.lock:
            return self._value(key)

    def _value(self, key: str) -> bytes | None:
        value, until = self.engine.states.get(key, (None, 0.0))
        return value if time.monotonic() < until else None


class SharedNode(Store):
    """A server's part of a state."""

    durability = Durability.PROCESS
    accounts_type: ClassVar[type[SharedAccounts]] = SharedAccounts
    mailboxes_type: ClassVar[type[SharedMailboxes]] = SharedMailboxes
    states_type: ClassVar[type[States]] = States

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.accounts = self.accounts_type(self)
        self.mailboxes = self.mailboxes_type(self)
        self.states = self.states_type(engine)
        self.id = engine.join(self)

    def health(self) -> Health:
        return Health(self.durability, f"{self.engine.epoch}")

    def close(self) -> None:
        self.engine.leave(self)


def open_first(policy: MailboxPolicy, kind: type[SharedNode] = SharedNode) -> SharedNode:
    """Open the first node of a new state."""
    return kind(Engine(policy))


def open_more(first: Any, policy: MailboxPolicy, count: int) -> Sequence[Store]:
    """Open other nodes of a node's state, of its kind."""
    if policy != first.engine.policy:
        raise OtherPolicy
    return [type(first)(first.engine) for _ in range(count)]


def reopened(node: Any) -> Store:
    """Close the last node of a state, and open what it kept."""
    return _again(node, reopened_in_memory, node.engine.epoch)


def put_back(node: Any) -> Store:
    """Do the same, as with a backup that was put back."""
    return _again(node, put_back_in_memory, node.engine.epoch + 1)


def _again(node: Any, replace: Callable[[MemoryStore], MemoryStore], epoch: int) -> Store:
    node.close()
    engine = node.engine
    return type(node)(Engine(engine.policy, replace(engine.store), epoch))
