"""The connections that listen: one to each server of the engine, and one thread each.

A thread owns its connection, and what it is to subscribe to is told it by a queue and a pair of
sockets. It keeps these rules, for a subscription that is lost without a word is mail that nobody is
woken for:

1. One SSUBSCRIBE a channel: a command with several is refused as a whole when one of them has
   moved, and which is not said.
2. What is wanted is asked of `Watches` at the moment of sending. So it does not matter in which
   order a subscription that ends and one that begins have come here.
3. An SUNSUBSCRIBE that was not asked for means that the slot has moved, and so does MOVED: the
   channel is subscribed to where it is now, and what it is of is read again.
4. A server that says nothing for three seconds, though it is asked several times in each, is gone.
   Long before that the ends of sessions are looked for (`chores`): two answers that are missing are
   enough.
"""

import logging
import select
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any, Final

import redis
from redis.connection import Connection

from twinline.core.errors import StoreUnavailable
from twinline.core.locks import new_lock
from twinline.core.waiting import Wake, wake_all
from twinline.stores.valkey.engine import Engine
from twinline.stores.valkey.lane import details_of
from twinline.stores.valkey.url import Address, Target, shown
from twinline.stores.valkey.watches import Watches
from twinline.stores.valkey.wire import answer, command, connect, disconnect, send

log = logging.getLogger(__name__)

_PING_SECONDS: Final = 0.2
_LAG_SECONDS: Final = 2.0  # what is told of as a server that is not heard
_SILENT_SECONDS: Final = 3.0
_RETRY_SECONDS: Final = (0.05, 0.1, 0.2, 0.4, 0.8)  # and so on with the last
_AT_ONCE: Final = 500  # channels in one sending
_PING: Final = command(b"PING")


class Links:
    """The links to all servers."""

    def __init__(self, target: Target, engine: Engine, watches: Watches) -> None:
        self._target = target
        self._engine = engine
        self._watches = watches
        self._lock = new_lock("links")
        self._links: dict[Address, Link] = {}  # guarded by the links lock
        self._of: dict[bytes, Address] = {}  # where a channel was last sent; guarded by it too
        self._closed = False  # guarded by it too

    def changed(self, channel: bytes) -> None:
        """Have a channel subscribed to, or no more, where its server is and where that was."""
        try:
            address: Address | None = self._engine.address_of(channel)
        except StoreUnavailable:
            address = None  # asked again soon
        with self._lock:
            before = self._of.pop(channel, None)
            if address is not None:
                self._of[channel] = address
        for each in {before, address} - {None}:
            assert each is not None  # noqa: S101 - for the type checker
            link = self._link(each)
            if link is not None:
                link.change(channel)

    def is_still(self, channel: bytes) -> bool:
        """Return whether a channel's server is the one that was subscribed to for it."""
        with self._lock:
            before = self._of.get(channel)
        try:
            return self._engine.address_of(channel) == before
        except StoreUnavailable:
            return False

    def forget(self, channel: bytes, address: Address) -> None:
        """Forget that a server was subscribed to for a channel that nobody wants of it."""
        with self._lock:
            if self._of.get(channel) == address:
                del self._of[channel]

    def keeps(self, address: Address) -> bool:
        """Return whether a server still has keys; the link to one that has none is given up."""
        if address in self._engine.addresses():
            return True
        with self._lock:
            self._links.pop(address, None)
        return False

    def silence(self) -> float:
        """Return for how many seconds a server was not heard, where those are many; or else 0."""
        seconds = self._silent_seconds()
        return seconds if seconds > _LAG_SECONDS else 0.0

    @property
    def miss_answers(self) -> bool:
        """Whether a server has not answered twice: what it tells may be missing, too."""
        return self._silent_seconds() > 2 * _PING_SECONDS

    def _silent_seconds(self) -> float:
        with self._lock:
            links = list(self._links.values())
        return max((link.silent_seconds for link in links), default=0.0)

    def _link(self, address: Address) -> "Link | None":
        with self._lock:
            link = self._links.get(address)
        if link is not None:
            return link
        made = Link(self._target, address, self._engine, self._watches, self)
        with self._lock:
            link = None if self._closed else self._links.setdefault(address, made)
        if link is made:
            made.start()
        else:
            made.discard()
        return link

    def close(self) -> None:
        """End all links."""
        with self._lock:
            self._closed = True
            links = list(self._links.values())
        for link in links:
            link.close()


class Link:
    """One connection that listens, and its thread."""

    def __init__(
        self, target: Target, address: Address, engine: Engine, watches: Watches, links: Links
    ) -> None:
        self._target = target
        self._address = address
        self._engine = engine
        self._watches = watches
        self._links = links
        self._changed: deque[bytes] = deque()  # its steps are single ones of Python's
        self._closing = threading.Event()
        self._hear, self._tell = socket.socketpair()
        self._hear.settimeout(0)
        self._tell.settimeout(0)
        self._heard_at = time.monotonic()
        # The thread's own.
        self._subscribed: set[bytes] = set()
        self._expected: deque[tuple[bytes, bytes]] = deque()  # answers: their kind, and channel
        self._asked: set[bytes] = set()  # channels of which SSUBSCRIBE is not answered yet
        self._wakes: list[Wake] = []
        self._thread = threading.Thread(
            target=self._run, name=f"valkey notices {shown(address)}", daemon=True
        )

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def discard(self) -> None:
        """Release what was not started."""
        self._hear.close()
        self._tell.close()

    def change(self, channel: bytes) -> None:
        """Have it seen whether a channel is wanted."""
        self._changed.append(channel)
        self._ring()

    @property
    def silent_seconds(self) -> float:
        """For how many seconds it has heard nothing."""
        return time.monotonic() - self._heard_at

    def close(self) -> None:
        """End it."""
        self._closing.set()
        self._ring()
        self._thread.join(_SILENT_SECONDS)

    def _ring(self) -> None:
        # If there is no room, a ring is there already.
        with suppress(BlockingIOError, OSError):
            self._tell.send(b"\0")

    # --- in the thread

    def _run(self) -> None:
        attempt = 0
        while not self._closing.is_set():
            begun = time.monotonic()
            connection = None
            try:
                connection = connect(self._target, self._address)
                self._listen(connection)
            except (redis.RedisError, OSError) as error:
                if attempt == 0 and not self._closing.is_set():
                    log.warning("notices of %s stop: %s", shown(self._address), details_of(error))
            except Exception:
                log.exception("notices of %s stop", shown(self._address))
            finally:
                disconnect(connection)
            # In a cluster its part may have gone to another server.
            lost, self._subscribed = self._subscribed, set()
            self._expected.clear()
            self._asked.clear()
            self._watches.unconfirmed(lost)
            self._changed.extend(lost)
            self._engine.ask_anew()
            attempt = 0 if time.monotonic() - begun > _SILENT_SECONDS else attempt + 1
            if not self._links.keeps(self._address):
                break
            self._closing.wait(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
        self.discard()

    def _listen(self, connection: Connection) -> None:
        """Send what is wanted and take what comes, until the connection fails."""
        listening: Any = connection._sock  # noqa: SLF001 - redis-py has no name for it
        # Not select(2), which fails where a process with many connections has high descriptors.
        poll = select.poll()
        poll.register(listening, select.POLLIN)
        poll.register(self._hear, select.POLLIN)
        self._heard_at = time.monotonic()
        asked_at = 0.0
        while not self._closing.is_set():
            now = time.monotonic()
            if now - self._heard_at > _SILENT_SECONDS:
                raise redis.TimeoutError("nothing was heard")
            due = self._due()
            if now - asked_at >= _PING_SECONDS:
                asked_at = now
                due += _PING
                self._expected.append((b"pong", b""))
            if due:
                send(connection, due)
            seconds = 0.0 if self._changed else _PING_SECONDS
            ready = {number for number, _ in poll.poll(seconds * 1000)}
            if self._hear.fileno() in ready:
                with suppress(BlockingIOError):
                    while self._hear.recv(4096):
                        pass
            if listening.fileno() in ready:
                while connection.can_read(0):
                    self._heard_at = time.monotonic()
                    self._take(answer(connection))
                wakes, self._wakes = self._wakes, []
                wake_all(wakes)

    def _due(self) -> bytes:
        """Return what is to be sent for the channels that have changed."""
        commands = []
        for _ in range(min(len(self._changed), _AT_ONCE)):
            channel = self._changed.popleft()
            wanted = self._watches.wanted(channel, self._address)
            if wanted and channel not in self._subscribed:
                self._subscribed.add(channel)
                commands.append(command(b"SSUBSCRIBE", channel))
                self._expected.append((b"ssubscribe", channel))
                self._asked.add(channel)
            elif wanted:
                # Confirmed before, unless that is still on its way.
                if channel not in self._asked:
                    self._watches.confirmed(channel)
            else:
                self._links.forget(channel, self._address)
                if channel in self._subscribed:
                    self._subscribed.discard(channel)
                    commands.append(command(b"SUNSUBSCRIBE", channel))
                    self._expected.append((b"sunsubscribe", channel))
        return b"".join(commands)

    def _take(self, told: Any) -> None:
        """Take one thing that the server says: an answer, or a notice."""
        if isinstance(told, redis.ResponseError):
            self._refused(told)
            return
        kind, channel = (told[0], told[1]) if isinstance(told, list) else (b"pong", b"")
        if kind == b"smessage":
            self._wakes += self._watches.notice(channel, told[2])
        elif self._expected and self._expected[0] == (kind, channel):
            self._expected.popleft()
            if kind == b"ssubscribe":
                self._asked.discard(channel)
                if channel in self._subscribed:
                    self._watches.confirmed(channel)
        elif kind == b"sunsubscribe":  # not asked for: its slot is another server's by now
            self._subscribed.discard(channel)
            self._watches.unconfirmed([channel])
            self._engine.ask_anew()
            self._links.changed(channel)
        else:
            raise redis.ConnectionError("the engine says what it was not asked")

    def _refused(self, error: redis.ResponseError) -> None:
        kind, channel = self._expected.popleft() if self._expected else (b"", b"")
        if kind != b"ssubscribe":
            raise redis.ConnectionError(f"the engine refuses to notify: {error}")
        self._asked.discard(channel)
        self._subscribed.discard(channel)
        if isinstance(error, redis.exceptions.MovedError):
            host, port = error.node_addr
            self._engine.moved(error.slot_id, (host or self._address[0], int(port)))
            self._links.changed(channel)
        else:
            self._engine.ask_anew()  # and then it is tried again
