"""What every listener does: binds, accepts, limits, and ends in an order that loses no reply.

How a connection is driven is a subclass's: by a thread of its own, or by an event loop. What its
peers and its owner see of a listener is here, and is the same for both.

Its states, and what each call does in them::

    state      serve_forever           stop             close
    bound      -> serving              -> stopped       -> draining, returns when closed
    stopped    -> draining             nothing          -> draining, returns when closed
    serving    RuntimeError            -> draining      -> draining, returns when closed
    draining   returns when closed     nothing          returns when closed
    closed     returns                 nothing          returns

The thread that drains is the one that serves, or, where there is none, the one that closes first.
Called in that very thread, by a signal handler, `close` cannot wait for what it interrupts: there
it is `stop`.
"""

import contextlib
import errno
import logging
import socket
import ssl
import threading
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol, Self

from twinline.core import events
from twinline.core.addresses import UNIX, AddressSet, canonical, is_local, limit_key
from twinline.core.clock import wall_clock_ms
from twinline.core.deadline import Deadline
from twinline.core.errors import LockRuleError
from twinline.core.events import emit
from twinline.core.forks import watch_forks
from twinline.core.locks import new_lock
from twinline.core.metrics import ConnectionCounts, Metrics, Refusal
from twinline.core.service import ChatService
from twinline.core.waiting import Waiter, Wake, wake_all
from twinline.transports.contract import ServerCodec, Transport
from twinline.transports.endpoints import Endpoint, EndpointError, tune
from twinline.transports.listener.binding import BoundEndpoint, listen
from twinline.transports.listener.conversation import Conversation
from twinline.transports.listener.introduction import Introduction
from twinline.transports.listener.settings import InForce, ListenerSettings
from twinline.transports.listener.tls import server_tls, tls_files
from twinline.transports.listener.waker import Waker
from twinline.transports.tls.contexts import ServerTls, TlsFiles, TlsFilesError
from twinline.transports.tls.layer import TlsLayer

log = logging.getLogger(__name__)

_TELL_SECONDS: Final = (0.02, 0.2)
"""At least and at most, between two times that connections are told that the server stops."""
PAUSE_SECONDS: Final = 0.2
"""How long nothing is accepted after the system had no descriptor, thread or memory to give."""
CUT_SECONDS: Final = 0.2
"""For a connection that was cut to end."""
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ACCEPT_BATCH: Final = 64
_SETTINGS: Final = {
    Refusal.CONNECTIONS: "connections",
    Refusal.ADDRESS: "connections_per_address",
}
"""The setting beyond which a connection is refused."""


@dataclass(frozen=True, slots=True, eq=False)
class Drainer:
    """Who drains: the first that serves or closes.

    Attributes:
        thread: its number.
        serving: whether it serves before.
    """

    thread: int
    serving: bool


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """What is served at an endpoint.

    Attributes:
        endpoint: where it listens.
        transport: what is spoken there.
        tls: makes the layer of TLS, or None: in plain.
    """

    endpoint: Endpoint
    transport: Transport
    tls: ServerTls | None


@dataclass(frozen=True, slots=True)
class TlsReload:
    """What came of reading an endpoint's files of TLS again.

    Attributes:
        endpoint: whose they are.
        files: what was read.
        error: why it goes on with what it had; None: what was read is in force.
        ended: how many sessions ended, since their certificates are revoked.
    """

    endpoint: Endpoint
    files: TlsFiles
    error: TlsFilesError | None
    ended: int = 0


class ConnectionView(NamedTuple):
    """A connection that is open, for who looks after a server.

    Attributes:
        number: tells it from every other one of its listener; later ones have higher numbers.
        username: who is logged in, or None.
        address: where it comes from: an IP address, or "unix".
        endpoint: which it has come to.
        transport: what it speaks; "" where that is not known yet.
        since: when it was opened, in ms since 1970 UTC.
        requests: how many have come.
        messages: how many it was sent.
        received: how many bytes have come.
        sent: how many bytes were to be sent.
    """

    number: int
    username: str | None
    address: str
    endpoint: str
    transport: str
    since: int
    requests: int
    messages: int
    received: int
    sent: int


class Arrival(NamedTuple):
    """What is known of a connection from its beginning.

    Attributes:
        number: as `ConnectionView` has it.
        at: in ms since 1970 UTC.
        served: what it has come to.
    """

    number: int
    at: int
    served: Served


class ServedConnection(Protocol):
    """A peer that was accepted, however it is driven.

    Attributes:
        address: where it comes from: an IP address, or "unix".
        limit_key: what limits by address count it by; "" while it is counted by none.
        counts: what it counts in, or None.
    """

    address: str
    limit_key: str
    counts: ConnectionCounts | None

    @property
    def talk(self) -> Conversation:
        """What is said on it; it belongs to who drives it, and others only look at its numbers."""

    @property
    def lingers(self) -> bool:
        """Whether all is said, and it only waits for its peer to take note of that."""

    def drain(self) -> None:
        """Let the request that is being carried out finish, and then end."""

    def cut(self) -> None:
        """End now, whatever the peer does."""

    def close(self) -> None:
        """Close the socket."""

    def forget(self) -> None:
        """Close a forked child's copies of the descriptors; the peer does not notice."""


class Listener(ABC):
    """Serves a `ChatService` on endpoints; each has a transport of its own.

    The sockets listen as soon as the object exists; connections are accepted while
    `serve_forever` runs. `serve_forever`, `stop` and `close` may be called in any order, from any
    thread, and again; the module's text has the table. As a context manager it is closed at the
    end.

    It is a guest in its process: it sets no signal handler, no stack size, no limit.

    Attributes:
        service: carries requests out.
        in_force: its deadlines and limits, shared with its connections.
        endpoints: where it listens, with the ports that the system chose, in the order given.
    """

    def __init__(
        self,
        service: ChatService,
        endpoints: Sequence[tuple[Endpoint, Transport]],
        settings: ListenerSettings | None = None,
        *,
        waker: Waker | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """Bind.

        Args:
            service: carries the requests out; it may serve other listeners as well.
            endpoints: pairs of a place and the transport that is spoken there.
            settings: None for the defaults.
            waker: what ends the wait for connections; it stays the caller's, who may have signals
                wake it, and is closed after the listener. None for one of the listener's own.
            metrics: where connections, requests and deliveries are counted; None: nowhere.

        Raises:
            EndpointError: one of them cannot be listened on, then none is; or proxies are to name
                the peers there, and the settings trust none.
            TlsFilesError: what one of them needs for TLS cannot be used.
        """
        self.service = service
        self.in_force = InForce(settings or ListenerSettings())
        self._bound: list[BoundEndpoint] = []
        self._served: dict[int, tuple[socket.socket, Served]] = {}  # by listening sockets
        self._proxies = AddressSet(self.settings.trusted_proxies)
        with contextlib.ExitStack() as undone_on_error:
            for endpoint, transport in endpoints:
                check_proxies(endpoint, self.settings)
                tls = server_tls(endpoint, transport, self.settings)
                bound = listen(endpoint)
                undone_on_error.callback(bound.close)
                self._bound.append(bound)
                served = Served(bound.endpoint, transport, tls)
                for listening in bound.sockets:
                    self._served[listening.fileno()] = (listening, served)
            self._owns_waker = waker is None
            self._waker = waker or Waker()
            undone_on_error.pop_all()
        self.endpoints = [bound.endpoint for bound in self._bound]
        # Its one item is set by the first that comes, in one step and without a lock, which a
        # signal handler could find taken by the thread that it interrupts.
        self._drainer: dict[str, Drainer] = {}
        self._stopping = False  # set by any thread or signal handler
        self._drained = False  # set by the thread that drains
        self._drains: list[Wake] = []  # called when it begins to drain
        # Called when the thread that serves comes round; appended and popped, no more.
        self._rounds: deque[Wake] = deque()
        self._closing: list[Waiter] = []  # woken when it is; appended and popped, no more
        self._short_of = ""  # what there was too little of, until a connection is served again
        self._lock = new_lock("connections")
        # In the order of their arrival, in which they are drained; guarded by _lock.
        self._connections: dict[ServedConnection, Arrival] = {}
        self._by_address: Counter[str] = Counter()  # by `limit_key`; guarded by _lock
        self._metrics = metrics
        if metrics is not None:
            for endpoint in self.endpoints:
                metrics.listen(endpoint.place)
        self._accepted = 0  # connections, so far; guarded by _lock
        # Of the thread that drains: when it began, the connections that there were, and how many
        # of them were cut.
        self._drain_began: float | None = None
        self._to_drain = self._cut = 0
        self._is_parents = False
        for served in self._served_once():
            if served.tls is not None:
                self._revoke(served.tls)
        watch_forks(self)

    # -- its states ---------------------------------------------------------------------

    def serve_forever(self) -> None:
        """Accept and serve until `stop`, then drain; the calling thread does the accepting.

        In the main thread a signal handler that calls `stop` is enough; unless signals wake the
        waker, it may be noticed half a second late. One that was stopped or closed before
        returns at once.

        Raises:
            RuntimeError: another call of it is under way, or this is a forked child.
        """
        self._refuse_child()
        me = Drainer(threading.get_ident(), serving=True)
        try:
            # Here, and not before: an exception of a signal handler may come after any step.
            first = self._drainer.setdefault("first", me)
            if first is me:
                self._serve()
        finally:
            if self._drainer.get("first") is me:
                self._drain()
        if first is not me:
            self._refuse_another(first)
            self._wait_drained(first)

    def stop(self) -> None:
        """Ask `serve_forever` to drain and return; from any thread or a signal handler."""
        if self._is_parents:
            return  # the waker is shared with it
        self._stopping = True
        self._waker.wake()

    def close(self) -> None:
        """Stop, and wait until it has drained; from any thread or a signal handler.

        In a signal handler that interrupts the draining thread itself it does not wait.
        """
        if self._is_parents:
            return
        me = Drainer(threading.get_ident(), serving=False)
        try:
            self.stop()
            first = self._drainer.setdefault("first", me)
        finally:
            if self._drainer.get("first") is me:
                self._drain()
        if first is not me:
            self._wait_drained(first)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def forked(self) -> None:
        """Be the parent's alone: close a forked child's copies of the sockets, and do no more.

        The parent's peers would else see no end of a connection before the child's.
        """
        self._is_parents = True
        for bound in self._bound:
            for listening in bound.sockets:
                listening.close()
        for connection in self._connections:
            connection.forget()

    def reload(self) -> list[TlsReload]:
        """Read again what TLS is made of, for the connections that come from now on.

        Those that are open stay as they are, and the sessions end that a certificate has opened
        which is revoked now. It may be called from any thread; it reads files.

        Returns:
            What came of it, for each endpoint with TLS in the order given. One whose files cannot
            be used goes on with what it had, and the others do not mind.
        """
        results = []
        for served in self._served_once():
            if served.tls is not None:
                try:
                    served.tls.reload()
                except TlsFilesError as error:
                    results.append(TlsReload(served.endpoint, served.tls.files, error))
                else:
                    ended = self._revoke(served.tls)
                    results.append(TlsReload(served.endpoint, served.tls.files, None, ended))
        return results

    def change_settings(
        self, settings: ListenerSettings, transports: Sequence[Transport] | None = None
    ) -> None:
        """Go by other settings from now on; from any thread. It may read files of TLS.

        No connection ends. What is decided when one comes (its transport, its TLS, whether there
        are too many, who is believed where it comes from) is decided so for those that come from
        now on; deadlines that run already stay as they are, and the next ones are the new ones.

        Args:
            settings: all of them.
            transports: what is spoken at each endpoint from now on, in the order in which they
                were given; None: what is spoken there now.

        Raises:
            EndpointError: proxies are to name the peers of an endpoint, and none is trusted now.
            TlsFilesError: what an endpoint needs for TLS cannot be used. In both cases nothing has
                changed.
        """
        before = list(self._served_once())
        spoken = [each.transport for each in before] if transports is None else transports
        after = {
            served: self._served_with(settings, served, transport)
            for served, transport in zip(before, spoken, strict=True)
        }
        for number, (listening, served) in list(self._served.items()):
            self._served[number] = (listening, after[served])
        self._proxies = AddressSet(settings.trusted_proxies)
        self.in_force.settings = settings
        self._revoke_anew(before, list(after.values()))

    def _served_with(
        self, settings: ListenerSettings, served: Served, transport: Transport
    ) -> Served:
        """Return what an endpoint is served with under other settings."""
        check_proxies(served.endpoint, settings)
        tls = served.tls
        if tls is not None and tls_files(served.endpoint, settings) != tls.files:
            tls = server_tls(served.endpoint, transport, settings)
        return Served(served.endpoint, transport, tls)

    def _revoke_anew(self, before: Sequence[Served], after: Sequence[Served]) -> None:
        """Have the revocation lists hold that are named now, and no others."""
        known = {served.tls for served in before}
        lists = {served.tls.files.crl for served in after if served.tls is not None}
        for served in before:
            crl = None if served.tls is None else served.tls.files.crl
            if crl is not None and crl not in lists:
                self.service.revoke_certificates((), crl)
        for served in after:
            if served.tls is not None and served.tls not in known:
                self._revoke(served.tls)

    @property
    def settings(self) -> ListenerSettings:
        """Its deadlines and limits; `change_settings` replaces them."""
        return self.in_force.settings

    @property
    def connection_count(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def connections(
        self, *, after: int = 0, limit: int = 1_000
    ) -> tuple[list[ConnectionView], bool]:
        """Return connections that are open, in the order of their arrival, for who looks after it.

        Args:
            after: the number of the last one that is known; 0 begins with the first.
            limit: at most so many.

        Returns:
            Them, and whether others follow. They go on meanwhile: the numbers of one are hardly
            ever of the same moment.
        """
        with self._lock:
            open_now = list(self._connections.items())
        found = [item for item in open_now if item[1].number > after]
        return [_view(*item) for item in found[:limit]], len(found) > limit

    def _revoke(self, tls: ServerTls) -> int:
        """End the sessions of revoked certificates, and return how many there were."""
        if tls.files.crl is None:
            return 0
        return self.service.revoke_certificates(tls.revoked, tls.files.crl)

    @property
    def tls_files(self) -> list[tuple[Endpoint, TlsFiles]]:
        """The endpoints with TLS, in the order given, and what theirs is made of."""
        return [
            (served.endpoint, served.tls.files)
            for served in self._served_once()
            if served.tls is not None
        ]

    @property
    def tls_contexts(self) -> list[tuple[Endpoint, ssl.SSLContext]]:
        """The endpoints with TLS, in the order given, and what their connections begin with now."""
        return [
            (served.endpoint, served.tls.context)
            for served in self._served_once()
            if served.tls is not None
        ]

    @property
    def draining(self) -> bool:
        """Whether it was told to stop, and takes no more connections."""
        return self._stopping

    def on_round(self, call: Wake) -> None:
        """Have ``call`` called once by the thread that takes connections, when it comes round.

        So it is seen whether that thread lives. It may be called from any thread; while nothing
        serves, nobody calls.
        """
        self._rounds.append(call)
        self._waker.wake()

    def on_drain(self, call: Wake) -> None:
        """Have ``call`` called once when it begins to drain, by the thread that drains.

        It must not wait. It is not called of one that is closed before it has served.
        """
        self._drains.append(call)

    def _come_round(self) -> None:
        """Call those who wait for it; in the thread that takes connections."""
        if self._rounds:
            wake_all([self._rounds.popleft() for _ in range(len(self._rounds))])

    def _served_once(self) -> Iterable[Served]:
        """Return what is served at each endpoint, which may have several sockets."""
        return dict.fromkeys(served for _, served in self._served.values())

    @abstractmethod
    def _serve(self) -> None:
        """Accept and serve until `_stopping` is set and the waker woken."""

    @abstractmethod
    def _end_connections(self) -> None:
        """Let replies in flight finish, and cut what does not within the time for it."""

    def _refuse_child(self) -> None:
        if self._is_parents:
            raise RuntimeError("this listener was inherited by a fork; make another one here")

    def _refuse_another(self, first: Drainer) -> None:
        if first.serving and not self._drained:
            raise RuntimeError("this listener serves already")

    def _drain(self) -> None:
        """Accept no more, and end the connections; for the first that serves or closes."""
        try:
            self._stopping = True
            self._tell_drain()
            self._stop_listening()
            self._end_connections()
        finally:
            for connection in self._running():
                connection.cut()  # again, or at last where an exception came between
            if self._owns_waker:
                self._waker.close()
            try:
                self._tell_drained()
            finally:
                self._drained = True
                while self._closing:
                    self._closing.pop().wake()

    def _tell_drain(self) -> None:
        """Tell that a drain has begun, once, if there was anything to serve."""
        if self._drain_began is None and self._drainer["first"].serving:
            self._drain_began, self._to_drain = monotonic(), len(self._running())
            emit(
                events.DRAIN_BEGUN,
                connections=self._to_drain,
                seconds=self.settings.drain_spread_seconds + self.settings.drain_seconds,
            )
            wake_all(self._drains)

    def _tell_drained(self) -> None:
        if self._drain_began is not None:
            with self._lock:
                accepted = self._accepted
            emit(
                events.DRAIN_ENDED,
                finished=self._to_drain - self._cut,
                cut=self._cut,
                served=accepted,
                seconds=round(monotonic() - self._drain_began, 3),
            )

    def _stop_listening(self) -> None:
        # Each once: the file of a Unix socket may be another server's when it is closed again.
        while self._bound:
            self._bound.pop().close()

    def _wait_drained(self, drainer: Drainer) -> None:
        if drainer.thread == threading.get_ident():
            return
        # One for each call: a handler may interrupt a wait at any step, and wait as well.
        waiter = Waiter()
        self._closing.append(waiter)
        while not self._drained:
            waiter.wait(Deadline.after(None))

    # -- accepting ----------------------------------------------------------------------

    @abstractmethod
    def _connection(
        self,
        peer: socket.socket,
        address: str,
        limit_key: str,
        codec: ServerCodec,
        layer: TlsLayer | None,
        *,
        introduction: Introduction | None,
        counts: ConnectionCounts | None,
    ) -> ServedConnection:
        """Return what is to drive a connection; nothing is read yet."""

    @abstractmethod
    def _start(self, connection: Any) -> bool:
        """Begin to drive a connection that is admitted, and return False if it cannot be."""

    def _accept(self, listening: socket.socket, served: Served) -> bool:
        """Take what has arrived, and return False when the system has no more to give."""
        enough = True
        for _ in range(_ACCEPT_BATCH):
            try:
                peer, peer_address = listening.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._is_short(f"cannot accept: {error.strerror}")
                    self._note_refusal(served.endpoint.place, Refusal.EXHAUSTED)
                    return False
                continue  # that peer was gone again
            # Those behind one that is refused are told as well, before the pause.
            enough = self._admit(peer, _host(peer_address), served) and enough
        return enough

    def _admit(self, peer: socket.socket, address: str, served: Served) -> bool:
        """Have a connection driven, and return False when there is nothing to drive it."""
        header, introduction, key = served.endpoint.listening.proxy, None, ""
        place, counts = served.endpoint.place, None
        try:
            limits = self.service.settings
            if self._proxies and address in self._proxies:
                introduction = Introduction(address, self._proxies, header=header)
            elif header:
                peer.close()
                emit(events.PROXY_REFUSED, address=address, why="it is none of trusted_proxies")
                self._note_refusal(place, Refusal.PROXY)
                return True
            else:
                key = limit_key(address, limits.ipv6_prefix)
            with contextlib.suppress(OSError):  # gone again; whoever reads it will see
                tune(peer)
            codec = served.transport.server_codec(limits.frame_bytes_before_login)
            layer = None if served.tls is None else served.tls.layer()
            if self._metrics is not None:
                counts = self._metrics.connection(place, _speaking(served.transport, codec))
            connection = self._connection(
                peer, address, key, codec, layer, introduction=introduction, counts=counts
            )
            if introduction is not None:
                introduction.on_address = partial(self._introduce, connection)
            refusal = self._register(connection, served)
        except BaseException as error:
            peer.close()
            if not isinstance(error, Exception) or isinstance(error, MemoryError | LockRuleError):
                raise
            log.exception("the connection from %s cannot be served", address)
            self._note_refusal(place, Refusal.FAULT)
            return True
        if refusal is not None:
            connection.close()
            self._note_refusal(place, refusal)
            self._note_end(connection)
            emit(events.CONNECTION_REFUSED, address=address, why=_SETTINGS[refusal])
            return True
        if self._metrics is not None and counts is not None:
            self._metrics.connected(counts)
        return self._start(connection)

    def _note_refusal(self, place: str, reason: Refusal) -> None:
        """Count a connection that is not served, if anything is counted."""
        if self._metrics is not None:
            self._metrics.refuse(place, reason)

    def _note_end(self, connection: ServedConnection) -> None:
        """Add up what a connection has counted, if anything; harmless when repeated."""
        if self._metrics is not None and connection.counts is not None:
            self._metrics.disconnected(connection.counts)

    def _register(self, connection: ServedConnection, served: Served) -> Refusal | None:
        """Count a connection, unless there are too many: then return of what."""
        key, connection.limit_key = connection.limit_key, ""
        at = wall_clock_ms()
        with self._lock:
            if len(self._connections) >= self.settings.connections:
                return Refusal.CONNECTIONS
            if not self._count_address(connection, key):
                return Refusal.ADDRESS
            try:
                # Before it is driven, so that a drain that begins now includes it.
                self._count_in(connection, Arrival(self._accepted + 1, at, served))
            except MemoryError:
                self._count_out(connection)
                raise
            self._accepted += 1
        return None

    def _introduce(self, connection: ServedConnection, introduction: Introduction) -> bool:
        """Go by the address that a proxy has named; from any thread.

        Args:
            connection: counted by no address so far.
            introduction: what is known of it; once that is all, the connection is counted by it.

        Returns:
            False if there are too many from there.
        """
        prefix = self.service.settings.ipv6_prefix
        key = limit_key(introduction.address, prefix) if introduction.known else ""
        with self._lock:
            if connection not in self._connections:
                return False  # it has ended meanwhile
            connection.address = introduction.address
            counted = self._count_address(connection, key)
        if not counted and connection.counts is not None:
            self._note_refusal(connection.counts.endpoint, Refusal.ADDRESS)
        return counted

    def _count_address(self, connection: ServedConnection, key: str) -> bool:
        """Count a connection by an address too, unless there are too many; under the lock.

        Args:
            connection: counted by none so far.
            key: what to count it by; "" for none as yet.
        """
        if key:
            limit = self.settings.connections_per_address
            if not self.settings.limit_local_connections and is_local(connection.address):
                limit = self.settings.connections
            if self._by_address[key] >= limit:
                return False
            self._by_address[key] += 1
            connection.limit_key = key
        return True

    def _count_in(self, connection: Any, arrival: Arrival) -> None:
        """Note a connection; under the lock."""
        self._connections[connection] = arrival

    def _count_out(self, connection: Any) -> None:
        """Count a connection no more; under the lock, and without taking memory."""
        self._connections.pop(connection, None)
        key = connection.limit_key
        if key:
            self._by_address[key] -= 1
            if not self._by_address[key]:
                del self._by_address[key]

    def _is_short(self, of: str) -> None:
        """Log that there is too little of something, once until there is enough again."""
        if of != self._short_of:
            self._short_of = of
            emit(events.LISTENER_SHORT, why=of, seconds=PAUSE_SECONDS)

    def _told_gradually(self) -> Iterator[float]:
        """Let the connections drain one after the other, over the time that is set for it.

        Those that have not been told yet are served as before. Yields, until all have been told,
        how many seconds to wait before it goes on.
        """
        spread = self.settings.drain_spread_seconds
        waiting = deque(self._running())
        number, began = len(waiting), monotonic()
        shortest, longest = _TELL_SECONDS
        while waiting and self._running():  # else the rest has ended by itself
            passed = (monotonic() - began) / spread if spread else 1.0
            while waiting and number - len(waiting) <= number * passed:
                connection = waiting.popleft()
                with self._lock:
                    there = connection in self._connections
                if there:
                    connection.drain()
            if waiting:
                yield min(longest, max(shortest, spread / number))

    def _cut_what_runs(self) -> None:
        """Cut the connections that have not ended, and tell of those that had more to say."""
        running = self._running()
        self._cut = sum(not connection.lingers for connection in running)
        if self._cut:
            log.warning("%d connections did not finish in time and are cut", self._cut)
        for connection in running:
            connection.cut()

    def _running(self) -> list[ServedConnection]:
        with self._lock:
            return list(self._connections)


def _speaking(transport: Transport, codec: ServerCodec) -> Callable[[], str]:
    """Return what tells which transport a connection speaks."""

    def spoken() -> str:
        chosen = codec.spoken
        return transport.name if chosen is None else chosen

    return spoken


def _view(connection: ServedConnection, arrival: Arrival) -> ConnectionView:
    talk = connection.talk
    spoken = talk.spoken
    return ConnectionView(
        number=arrival.number,
        username=talk.session.username,
        address=connection.address,
        endpoint=arrival.served.endpoint.place,
        transport=arrival.served.transport.name if spoken is None else spoken,
        since=arrival.at,
        requests=talk.asked,
        messages=talk.brought,
        received=talk.received,
        sent=talk.said,
    )


def _host(peer_address: object) -> str:
    """Return where a peer comes from, as an address or "unix"."""
    return canonical(str(peer_address[0])) if isinstance(peer_address, tuple) else UNIX


def check_proxies(endpoint: Endpoint, settings: ListenerSettings) -> None:
    """Refuse an endpoint where proxies are to name the peers, and none is trusted.

    Raises:
        EndpointError: so it is.
    """
    if endpoint.listening.proxy and not settings.trusted_proxies:
        raise EndpointError(
            f"{endpoint}: proxy=yes needs trusted_proxies: the addresses of the proxies whose word "
            "is believed there"
        )
