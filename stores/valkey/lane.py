"""One connection to an engine, and the one thread that uses it: what waits goes in one pipeline.

A round trip, and with ``appendfsync always`` a sync of the engine's disk, costs the same however
many commands are in it. So a call is not sent by the thread that asks: it is left here, and while
one pipeline is on its way the next gathers.

1. Answers come in the order of the commands, so each is given to its call by counting.
2. When the connection is lost, what was sent and not answered may have been done: *in doubt*. The
   engine may have it in its buffers still. So the next thing that it hears of us, on whichever
   connection, is to close the lost one: what it has not begun by then is never done.
3. A call whose thread waits no more is not sent, if it was not yet.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final

import redis
from redis.connection import Connection

from twinline.core.deadline import Deadline
from twinline.core.errors import StoreUnavailable
from twinline.core.interrupts import may_be_interrupted
from twinline.core.locks import may_block, new_lock
from twinline.core.store import OnCommit
from twinline.core.waiting import Waiter
from twinline.stores.valkey.greeting import Greeting, greet
from twinline.stores.valkey.url import Address, Target
from twinline.stores.valkey.wire import (
    LOST,
    Script,
    answer,
    asked,
    command,
    connect,
    disconnect,
    packed,
    send,
)

log = logging.getLogger(__name__)

_BATCH: Final = 512  # the most calls in a pipeline
_BATCH_BYTES: Final = 1 << 20  # and about the most bytes
_IDLE_SECONDS: Final = 0.05  # after so long it is seen first whether the connection is still there
_PAUSE_SECONDS: Final = 0.05  # after a connection that was not made, calls are refused for so long
_ASKING: Final = command(b"ASKING")


class Call:
    """One command that waits for its answer.

    Attributes:
        key: which part of a cluster it is for.
        writes: whether it may change anything.
        bulk: whether its answer may be long: it goes by a lane of its own.
        asking: whether a part of a cluster that is on its way is asked.
        value: the answer, or what is raised instead.
    """

    __slots__ = (
        "_arguments",
        "_count",
        "_tail",
        "asking",
        "bulk",
        "key",
        "next",
        "notifies",
        "outcome",
        "sent",
        "value",
        "writes",
    )

    def __init__(
        self,
        key: bytes,
        arguments: bytes,
        count: int,
        *,
        writes: bool,
        bulk: bool = False,
        tail: bool = False,
    ) -> None:
        """Prepare a call.

        Args:
            key: as above.
            arguments: of the command, packed.
            count: how many they are.
            writes: as above.
            bulk: as above.
            tail: whether the engine's epoch is two arguments more.
        """
        self.key = key
        self.writes = writes
        self.bulk = bulk
        self.asking = False
        self.value: Any = None
        self.outcome: SimpleQueue[Any] = SimpleQueue()
        self.sent = False  # guarded by the lane's lock, as is `notifies`
        self.notifies = False
        self.next: Call | None = None
        self._arguments = arguments
        self._count = count
        self._tail = tail

    def bytes_with(self, tail: bytes) -> bytes:
        """Return the whole command.

        Args:
            tail: two packed arguments.
        """
        prefix = _ASKING if self.asking else b""
        if self._tail:
            return b"%b*%d\r\n%b%b" % (prefix, self._count + 2, self._arguments, tail)
        return b"%b*%d\r\n%b" % (prefix, self._count, self._arguments)

    def again(self, *, asking: bool) -> "Call":
        """Return a call that asks for the same, for one that was refused."""
        call = Call(
            self.key,
            self._arguments,
            self._count,
            writes=self.writes,
            bulk=self.bulk,
            tail=self._tail,
        )
        call.asking = asking
        return call

    def __len__(self) -> int:
        return len(self._arguments)


def plain(key: bytes, *arguments: bytes, writes: bool = False) -> Call:
    """Return a call of a plain command."""
    return Call(key, packed(*arguments), len(arguments), writes=writes)


class Peer:
    """One engine, as all connections to it know it.

    Attributes:
        address: where it is.
        greeting: what it said last.
        refusal: why nothing is to be written to it, or None.
        on_commit: called after each pipeline with writes in it, as `Store.on_commit` says; None:
            nobody asks.
    """

    def __init__(
        self,
        target: Target,
        address: Address,
        scripts: Iterable[Script],
        greeted: "Callable[[Peer, Greeting], bytes]",
    ) -> None:
        """Know where it is; nothing is connected yet.

        Args:
            target: how to log in.
            address: where it is.
            scripts: what it is to keep.
            greeted: called with what it says on each new connection; returns its epoch as two
                packed arguments, or raises `NotUsableError`.
        """
        self.address = address
        self.greeting: Greeting | None = None
        self.refusal: str | None = None
        self.on_commit: OnCommit | None = None
        self._target = target
        self._scripts = tuple(scripts)
        self._greeted = greeted
        self._lock = new_lock("peer")
        # Connections that it is to close: of which of its runs, and their ids; guarded by _lock.
        self._lost: set[tuple[bytes, bytes]] = set()
        self._generation = 0  # guarded by _lock

    def connect(self) -> tuple[Connection, Greeting, bytes]:
        """Return a connection, what the engine said on it, and the engine's epoch.

        Raises:
            NotUsableError: the engine is not what is asked for.
            redis.RedisError, OSError: it cannot be made.
        """
        connection = connect(self._target, self.address)
        try:
            self.greeting = greeting = greet(connection)
            tail = self._greeted(self, greeting)
            self.load(connection)
        except BaseException:
            disconnect(connection)
            raise
        with self._lock:
            self._lost = {each for each in self._lost if each[0] == greeting.run_id}
        return connection, greeting, tail

    def load(self, connection: Connection) -> None:
        """Have the engine keep the scripts."""
        for each in asked(connection, *(script.load for script in self._scripts)):
            if isinstance(each, redis.ResponseError):
                raise NotUsableError(f"the engine takes no scripts: {each}")

    @property
    def generation(self) -> int:
        """How often connections were to be made anew."""
        with self._lock:
            return self._generation

    def renew(self) -> None:
        """Have all connections made anew, for it may have become another than it was."""
        with self._lock:
            self._generation += 1

    def lose(self, greeting: Greeting) -> None:
        """Note a connection that the engine may still be reading from."""
        with self._lock:
            self._lost.add((greeting.run_id, greeting.connection_id))

    def lost(self, run_id: bytes) -> list[bytes]:
        """Return the ids of the connections that it is to close in this run.

        Those of a run that has ended are gone, and their ids are other connections' by now.
        """
        with self._lock:
            return [connection_id for run, connection_id in self._lost if run == run_id]

    def closed(self, run_id: bytes, connection_ids: Iterable[bytes]) -> None:
        """Note that it has closed some, or never had them."""
        with self._lock:
            self._lost.difference_update((run_id, each) for each in connection_ids)


class NotUsableError(Exception):
    """An engine answers, and cannot be used; the text says why."""


class Lane:
    """A connection, its thread, and the calls that wait for it.

    Attributes:
        peer: the engine.
        used_at: when the engine has answered last, or this was made; any thread may read it.
    """

    def __init__(self, peer: Peer, name: str) -> None:
        self.peer = peer
        self.used_at = time.monotonic()
        self._lock = new_lock("lane")
        self._waiting: list[Call] = []  # guarded by the lane lock
        self._started = False  # guarded by the lane lock
        self._closed = False  # guarded by the lane lock
        self._work = Waiter()
        # The thread's own.
        self._connection: Connection | None = None
        self._greeting: Greeting | None = None  # on that connection
        self._tail = b""
        self._generation = -1
        self._failed_at = -_PAUSE_SECONDS
        self._reason = ""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def ask(self, call: Call, deadline: Deadline) -> Any:
        """Make a call and return its answer, also one that refuses.

        Raises:
            StoreUnavailable: there is no answer; see `StoreUnavailable.in_doubt`.
        """
        may_block("asking the engine")
        if threading.get_ident() == self._thread.ident:  # pragma: no cover - no wake runs in it
            raise RuntimeError("the thread that asks the engine cannot wait for itself")
        call.notifies = not may_be_interrupted()
        try:
            self.submit(call)
            return self.outcome(call, deadline)
        except BaseException:
            self._abandon(call)
            raise

    def submit(self, call: Call) -> None:
        """Queue a call.

        Raises:
            StoreUnavailable: the store is closed.
        """
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            self._waiting.append(call)
            starts, self._started = not self._started, True
        if starts:
            self._thread.start()
        self._work.wake()

    def outcome(self, call: Call, deadline: Deadline) -> Any:
        """Wait for the answer of a call that was queued; see `ask`."""
        try:
            value = call.outcome.get(timeout=deadline.remaining())
        except Empty:
            self._abandon(call)
            raise unavailable("the store does not answer in time", call) from None
        if call.next is not None and call.notifies:
            self._notify(call.next)
        if isinstance(value, StoreUnavailable):
            raise value
        return value

    def close(self, seconds: float) -> None:
        """Send what waits, refuse what comes, and end."""
        with self._lock:
            self._closed = True
        self._work.wake()
        with suppress(RuntimeError):  # nobody has asked anything, or somebody does just now
            self._thread.join(seconds)

    def _notify(self, call: Call | None) -> None:
        """Notify calls up to the first whose thread notifies the next one.

        Were all notified at once, all would want the interpreter at once, and most would be
        woken only to wait for it.
        """
        while call is not None:
            call.outcome.put(call.value)
            with self._lock:
                notifies = call.notifies
            if notifies:
                return
            call = call.next

    def _abandon(self, call: Call) -> None:
        """Wait no more; those that this thread would have notified are notified all the same."""
        with self._lock:
            call.notifies = False
            with suppress(ValueError):  # it was sent
                self._waiting.remove(call)
        if not call.outcome.empty():
            self._notify(call.next)

    # --- in the thread

    def _run(self) -> None:
        while True:
            batch, closed = self._take()
            if batch:
                self._serve(batch)
            elif closed:
                break
            else:
                self._work.wait(Deadline.after(None))
        disconnect(self._connection)

    def _take(self) -> tuple[list[Call], bool]:
        with self._lock:
            size = count = 0
            for call in self._waiting[:_BATCH]:
                size += len(call)
                if count and size > _BATCH_BYTES:
                    break
                count += 1
                call.sent = True
            batch, self._waiting = self._waiting[:count], self._waiting[count:]
            return batch, self._closed

    def _serve(self, batch: list[Call]) -> None:
        """Send a pipeline, and give each call its answer."""
        connection = self._connected()
        if connection is None:
            refuse(batch, self._reason)
        else:
            sent, why = batch, self.peer.refusal
            if why is not None:  # as may have been found out on connecting just now
                refuse([call for call in batch if call.writes], why)
                sent = [call for call in batch if not call.writes]
            self._exchange(connection, sent)
        for call, following in zip(batch, [*batch[1:], None], strict=True):
            call.next = following
        self._notify(batch[0])

    def _exchange(self, connection: Connection, batch: list[Call]) -> None:
        answered = 0
        assert self._greeting is not None  # noqa: S101 - it came with the connection
        run_id = self._greeting.run_id
        lost = self.peer.lost(run_id)
        commands = [command(b"CLIENT", b"KILL", b"ID", each) for each in lost]
        commands += [call.bytes_with(self._tail) for call in batch]
        began = time.monotonic()
        try:
            send(connection, b"".join(commands))
            for _ in lost:
                answer(connection)
            if lost:
                self.peer.closed(run_id, lost)
            for call in batch:
                if call.asking:
                    answer(connection)
                call.value = answer(connection)
                answered += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, the others must not wait
            self._lose(error)
            for call in batch[answered:]:
                call.value = unavailable("the engine was asked and did not answer", call)
            return
        self.used_at = time.monotonic()
        on_commit = self.peer.on_commit
        if on_commit is not None:
            writes = sum(call.writes for call in batch)
            if writes:
                on_commit(writes, self.used_at - began)
        if any(isinstance(call.value, redis.exceptions.NoScriptError) for call in batch):
            self._load_again(connection)

    def _load_again(self, connection: Connection) -> None:
        """Have the engine keep the scripts once more: somebody had it forget all."""
        try:
            self.peer.load(connection)
        except (*LOST, NotUsableError) as error:
            self._lose(error)

    def _connected(self) -> Connection | None:
        """Return the connection, made anew if need be; None if there is none, with a reason."""
        generation = self.peer.generation
        connection = self._connection
        if connection is not None and self._generation != generation:
            self._drop()
        elif connection is not None and time.monotonic() - self.used_at > _IDLE_SECONDS:
            try:
                idle = not connection.can_read(0)
            except LOST:
                idle = False
            if not idle:  # nothing was asked, so all that can come is the end
                self._drop()
        if self._connection is None:
            if time.monotonic() - self._failed_at < _PAUSE_SECONDS:
                return None
            try:
                self._connection, self._greeting, self._tail = self.peer.connect()
            except Exception as error:  # noqa: BLE001 - whatever it is, this thread must go on
                self._failed_at = time.monotonic()
                self._reason = reason_of(error)
                return None
            self._generation = generation
            self.used_at = time.monotonic()
        return self._connection

    def _lose(self, error: Exception) -> None:
        log.warning("a connection to the engine was lost: %s", details_of(error))
        if self._greeting is not None:
            self.peer.lose(self._greeting)
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        disconnect(connection)


def reason_of(error: Exception) -> str:
    """Return why an engine cannot be used, for anybody: without where it is."""
    if isinstance(error, NotUsableError):
        return str(error)
    return f"the engine does not answer ({type(error).__name__})"


def details_of(error: Exception) -> str:
    """Return why an engine cannot be used, for its operator; redis-py's texts have no password."""
    if isinstance(error, NotUsableError) or not str(error):
        return reason_of(error)
    return f"{reason_of(error)}: {str(error)[:300]}"


def refuse(calls: Iterable[Call], why: str) -> None:
    """Answer calls that are not sent."""
    for call in calls:
        call.sent = False
        call.value = unavailable(why, call)


def unavailable(text: str, call: Call) -> StoreUnavailable:
    """Return what is raised for a call that has no answer."""
    error = StoreUnavailable(text)
    error.in_doubt = call.writes and call.sent
    return error
