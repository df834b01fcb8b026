"""The engine, one server or a cluster, as the rest of the store sees it: it asks who has a key.

Each server that has keys has two lanes: one for what is short, and one for answers that may be
long, so that a send does not wait behind a page of mail. A cluster says by MOVED that a key has
another place by now: the call goes there, and so do those after it. ASK is for this call alone, and
TRYAGAIN is said of keys half of which have been moved.

**Epoch.** A primary has a replication id, which is another after every start and every failover:
the moments at which it may have lost the newest of what it acknowledged. Two numbers go with every
call that gives out seqs: that id, and how far seqs are to jump where a mailbox last had another
(`twinline.core.store.Mailboxes`). The number is the time since 2026 in steps of ten minutes, or
more if this process has seen more: so of two failovers the second jumps further, even if the first
one's jump was lost with it.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import redis

from twinline.core.clock import wall_clock_ms
from twinline.core.deadline import Deadline
from twinline.core.errors import StoreUnavailable
from twinline.core.forks import ForkedStore
from twinline.core.locks import new_lock
from twinline.core.store import CLOCK_REFUSE_MS, Durability, OnCommit
from twinline.stores.shared.opening import StoreNotOpened
from twinline.stores.valkey.greeting import OLDEST, Greeting
from twinline.stores.valkey.lane import Call, Lane, NotUsableError, Peer, details_of, unavailable
from twinline.stores.valkey.url import Address, Target, shown
from twinline.stores.valkey.wire import (
    SLOTS,
    Script,
    asked,
    command,
    connect,
    disconnect,
    packed,
    slot_of,
)

log = logging.getLogger(__name__)

CALL_SECONDS: Final = 5.0
"""How long a call may take in all before its thread gives up."""
_CLOSE_SECONDS: Final = 5.0
_UNUSED_SECONDS: Final = 10.0  # longer than any call takes
_AGAIN_SECONDS: Final = 0.02  # a slot that is on its way is looked for again after so long
_BEGAN: Final = 1_767_225_600_000  # 2026, in ms since 1970
_TICK: Final = 600_000  # ms; 2^53 holds 2^21 jumps, or forty years of them
_LEVELS: Final = (Durability.PROCESS, Durability.DISK)
# What an engine says that has not done what it was asked for, and will soon.
_NOT_NOW: Final = (
    "LOADING", "MISCONF", "BUSY", "NOREPLICAS", "MASTERDOWN", "OOM", "NOAUTH", "NOPERM",
)  # fmt: skip
_NOT_NOW_KINDS: Final = (
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.AuthenticationError,
    redis.exceptions.NoPermissionError,
)


class Engine:
    """The servers that have the keys, and the lanes to them."""

    def __init__(self, target: Target, scripts: Iterable[Script]) -> None:
        """Know where they are; `open` asks them."""
        self.target = target
        self._scripts = tuple(scripts)
        self._lock = new_lock("engine")
        # All guarded by the engine lock.
        self._lanes: dict[tuple[Address, bool], Lane] = {}
        self._peers: dict[Address, Peer] = {}
        self._slots: list[Address | None] = [
            None if target.cluster else target.addresses[0]
        ] * SLOTS
        self._epochs: dict[bytes, int] = {}
        self._refusals: dict[str, str] = {}
        self._refusal: str | None = None
        self._asked_anew = False
        self._closed = False
        self._forked = False
        self._required = target.durability
        self.on_moved: Callable[[], object] = lambda: None
        """Called when slots have another place than was known; it must be quick."""
        self._on_commit: OnCommit | None = None  # guarded by the engine lock

    def open(self) -> None:
        """Ask every server that has keys what it is.

        Raises:
            StoreNotOpened: one does not answer, or cannot be used.
        """
        try:
            if self.target.cluster:
                self.refresh()
            for address in self.addresses():
                connection, _, _ = self._peer(address).connect()
                disconnect(connection)
        except (redis.RedisError, OSError, NotUsableError, StoreUnavailable) as error:
            raise StoreNotOpened(f"{self.target.place}: {details_of(error)}") from error
        greetings = self.greetings()
        for greeting in greetings:
            if greeting.evicts is not None:
                raise StoreNotOpened(
                    f"the engine's maxmemory-policy is {greeting.evicts}: it would throw mail away "
                    "when its memory is full; set it to noeviction"
                )
            if abs(greeting.clock_offset_ms) > CLOCK_REFUSE_MS:
                raise StoreNotOpened(_clock_text(greeting.clock_offset_ms))
        found = self.durability
        required = self.target.durability
        if required is not None and _LEVELS.index(found) < _LEVELS.index(required):
            raise StoreNotOpened(_durability_text(required, found))
        self._required = required or found

    @property
    def durability(self) -> Durability:
        """What an acknowledged write survives, by what every server with keys said last."""
        found = [greeting.durability for greeting in self.greetings()]
        return min(found, key=_LEVELS.index, default=Durability.PROCESS)

    @property
    def refusal(self) -> str | None:
        """Why writes are refused, or None."""
        return self._refusal

    def refuse(self, what: str, why: str | None) -> None:
        """Refuse writes for a reason, or for that one no more."""
        with self._lock:
            known = self._refusals.pop(what, None)
            if why is not None:
                self._refusals[what] = why
            self._refusal = next(iter(self._refusals.values()), None)
        if why is not None and why != known:
            log.error("the store refuses writes: %s", why)
        elif why is None and known is not None:
            log.warning("the store takes writes again: it was refused because %s", known)

    # --- who has what

    def addresses(self) -> list[Address]:
        """Return where the servers are that have keys."""
        with self._lock:
            return list(dict.fromkeys(each for each in self._slots if each is not None))

    def address_of(self, key: bytes) -> Address:
        """Return where the server is that has a key.

        Raises:
            StoreUnavailable: none has.
        """
        if not self.target.cluster:
            return self.target.addresses[0]
        address = self._slots[slot_of(key)]
        if address is None:
            self.ask_anew()
            raise StoreUnavailable("no server of the cluster has these keys now")
        return address

    def greetings(self) -> list[Greeting]:
        """Return what the servers that have keys said last."""
        with self._lock:
            owners = {each for each in self._slots if each is not None}
            peers = [peer for address, peer in self._peers.items() if address in owners]
        return [peer.greeting for peer in peers if peer.greeting is not None]

    def peers(self) -> list[Peer]:
        """Return the servers that have keys."""
        return [self._peer(address) for address in self.addresses()]

    def refresh(self) -> None:
        """Ask the cluster which server has what.

        Raises:
            StoreUnavailable: none of those that are known answers.
        """
        with self._lock:
            self._asked_anew = False
            known = list(dict.fromkeys([*self._peers, *self.target.addresses]))
        if not self.target.cluster:
            return
        for address in known:
            found = self._ask_slots(address)
            if found is not None:
                break
        else:
            raise StoreUnavailable("no server of the cluster answers")
        with self._lock:
            changed = found != self._slots
            self._slots = found
        if changed:
            self.on_moved()

    def _ask_slots(self, address: Address) -> list[Address | None] | None:
        connection = None
        try:
            connection = connect(self.target, address)
            (ranges,) = asked(connection, command(b"CLUSTER", b"SLOTS"))
        except (redis.RedisError, OSError):
            return None
        finally:
            disconnect(connection)
        if isinstance(ranges, redis.ResponseError) or not ranges:
            return None
        found: list[Address | None] = [None] * SLOTS
        for first, last, (host, port, *_), *_ in ranges:
            owner = (_host(host.decode() if host else "") or address[0], int(port))
            found[first : last + 1] = [owner] * (last + 1 - first)
        return found

    def ask_anew(self) -> None:
        """Have `refresh` called soon."""
        with self._lock:
            self._asked_anew = True

    @property
    def is_asked_anew(self) -> bool:
        """Whether `refresh` is to be called."""
        with self._lock:
            return self._asked_anew

    def _peer(self, address: Address) -> Peer:
        with self._lock:
            peer = self._peers.get(address)
        if peer is None:
            made = Peer(self.target, address, self._scripts, self._greeted)
            with self._lock:
                made.on_commit = self._on_commit
                peer = self._peers.setdefault(address, made)
        return peer

    def on_commit(self, call: OnCommit) -> None:
        """Have ``call`` called after each pipeline with writes in it, to whichever server."""
        with self._lock:
            self._on_commit = call
            for peer in self._peers.values():
                peer.on_commit = call

    def _greeted(self, peer: Peer, greeting: Greeting) -> bytes:
        """Take what a server says on a new connection; return its epoch as packed arguments."""
        if greeting.version < OLDEST:
            raise NotUsableError(
                f"the engine has version {greeting.version}; {OLDEST} is the oldest"
            )
        if not greeting.primary:
            self.ask_anew()
            raise NotUsableError("the engine is a replica, which takes no writes")
        self.check(peer, greeting)
        with self._lock:
            number = self._epochs.get(greeting.replication_id)
            if number is None:
                ticks = (wall_clock_ms() - _BEGAN) // _TICK
                number = max(ticks, 1 + max(self._epochs.values(), default=0))
                self._epochs[greeting.replication_id] = number
        return packed(greeting.replication_id, b"%d" % number)

    def check(self, peer: Peer, greeting: Greeting) -> None:
        """Refuse writes while a server promises less than was asked for, or its clock is off."""
        name = shown(peer.address)
        level, required = greeting.durability, self._required
        less = required is not None and _LEVELS.index(level) < _LEVELS.index(required)
        evicts, offset = greeting.evicts, greeting.clock_offset_ms
        why: str | None = None
        if less and required is not None:
            why = _durability_text(required, level)
        elif evicts is not None:
            why = f"the engine's maxmemory-policy is {evicts}"
        elif abs(offset) > CLOCK_REFUSE_MS:
            why = _clock_text(offset)
        peer.refusal = why
        self.refuse(name, why)

    def forget_gone(self) -> None:
        """Let go of servers that have no keys any more.

        Nothing is refused for what is wrong with them, and lanes to them end once nobody has asked
        by them for a while: one that is about to be given keys is asked before it has any.
        """
        now = time.monotonic()
        with self._lock:
            owners = set(self._slots)
            gone = [address for address in self._peers if address not in owners]
            unused = [
                each
                for each, lane in self._lanes.items()
                if each[0] not in owners and now - lane.used_at > _UNUSED_SECONDS
            ]
            lanes = [self._lanes.pop(each) for each in unused]
        for address in gone:
            self.refuse(shown(address), None)
        for lane in lanes:
            lane.close(0.0)

    # --- asking

    def do(self, call: Call, seconds: float = CALL_SECONDS) -> Any:
        """Make a call and return its answer.

        Raises:
            StoreUnavailable: there is none in time, or writes are refused; see
                `StoreUnavailable.in_doubt`.
        """
        deadline = Deadline.after(seconds)
        lane = self._lane(call)
        return self._settled(call, lane.ask(call, deadline), deadline)

    def do_many(self, calls: Sequence[Call], seconds: float = CALL_SECONDS) -> list[Any]:
        """Make calls at once; return each answer, or the `StoreUnavailable` of it."""
        deadline = Deadline.after(seconds)
        lanes: list[Lane | StoreUnavailable] = []
        for call in calls:
            try:
                chosen = self._lane(call)
                chosen.submit(call)
                lanes.append(chosen)
            except StoreUnavailable as error:
                lanes.append(error)
        outcomes: list[Any] = []
        for call, lane in zip(calls, lanes, strict=True):
            try:
                if isinstance(lane, StoreUnavailable):
                    raise lane
                outcomes.append(self._settled(call, lane.outcome(call, deadline), deadline))
            except StoreUnavailable as error:
                outcomes.append(error)
        return outcomes

    def post(self, call: Call) -> None:
        """Make a call soon, if nothing prevents it, and return at once."""
        try:
            self._lane(call).submit(call)
        except StoreUnavailable:
            return

    def ask_peer(self, peer: Peer, calls: Sequence[Call], seconds: float) -> list[Any]:
        """Make calls to one server, whatever keys it has.

        Raises:
            StoreUnavailable: it does not answer.
        """
        deadline = Deadline.after(seconds)
        lane = self._lane_to(peer.address, bulk=False)
        for call in calls:
            lane.submit(call)
        return [lane.outcome(call, deadline) for call in calls]

    def _settled(self, call: Call, answer: Any, deadline: Deadline) -> Any:
        """Follow an answer that is none until there is one."""
        while isinstance(answer, redis.ResponseError):
            address, asking = self._next(call, answer)
            # Another one: whoever notifies the calls behind this one may still look at it.
            call = call.again(asking=asking)
            if deadline.passed:
                raise unavailable("the engine moves these keys, and has not done so in time", call)
            lane = self._lane(call) if address is None else self._lane_to(address, bulk=call.bulk)
            answer = lane.ask(call, deadline)
        return answer

    def _next(self, call: Call, refusal: redis.ResponseError) -> tuple[Address | None, bool]:
        """Return where a call goes that was refused, and whether for this once.

        None is where its key is.

        Raises:
            StoreUnavailable: nowhere.
        """
        text = str(refusal)
        if isinstance(refusal, redis.exceptions.AskError):  # MOVED is one too
            host, port = refusal.node_addr
            address = (_host(host) or self.address_of(call.key)[0], int(port))
            if isinstance(refusal, redis.exceptions.MovedError):
                self.moved(refusal.slot_id, address)
                return None, False
            return address, True
        if isinstance(refusal, redis.exceptions.TryAgainError):
            time.sleep(_AGAIN_SECONDS)
            return None, False
        if isinstance(refusal, redis.exceptions.NoScriptError):
            return None, False  # its lane has loaded them by now
        if isinstance(refusal, _NOT_NOW_KINDS) or text.startswith(_NOT_NOW):
            self.ask_anew()
            if isinstance(refusal, redis.exceptions.ReadOnlyError):
                self._peer(self.address_of(call.key)).renew()
            raise StoreUnavailable(f"the engine refuses: {text.split('. ', maxsplit=1)[0][:200]}")
        log.error("the engine refuses what the store asks: %s", text[:500])
        raise unavailable("the engine refuses what the store asks", call)

    def moved(self, slot: int, address: Address) -> None:
        """Take it that a part of the cluster is somewhere else."""
        with self._lock:
            self._slots[slot] = address
        self.ask_anew()
        self.on_moved()

    def _lane(self, call: Call) -> Lane:
        if call.writes:
            why = self.refusal
            if why is not None:
                raise StoreUnavailable(why)
        return self._lane_to(self.address_of(call.key), bulk=call.bulk)

    def _lane_to(self, address: Address, *, bulk: bool) -> Lane:
        if self._forked:
            raise ForkedStore("a store that a fork has inherited cannot be used")
        lane = self._lanes.get((address, bulk))
        if lane is not None:
            return lane
        kind = "bulk" if bulk else "calls"
        made = Lane(self._peer(address), f"valkey {kind} {shown(address)}")  # not started yet
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            return self._lanes.setdefault((address, bulk), made)

    def close(self) -> None:
        """Send what waits, and close every connection."""
        with self._lock:
            self._closed = True
            lanes = list(self._lanes.values())
        for lane in lanes:
            lane.close(_CLOSE_SECONDS)

    def forked(self) -> None:
        """Refuse every call: the threads that would make it are the parent's."""
        self._forked = True


def _host(host: str) -> str:
    """Return a host as a cluster tells it, or nothing for one that it does not know itself."""
    return "" if host == "?" else host


def _durability_text(required: Durability, found: Durability) -> str:
    return (
        f"the engine's settings let an acknowledged write survive less ({found}) than is asked for "
        f"({required}): it needs appendonly yes and appendfsync always"
    )


def _clock_text(offset_ms: int) -> str:
    return f"this machine's clock is {offset_ms / 1000:+.1f} s off the engine's"
