"""The threaded listener: accepts connections, gives each a thread, and drains them.

One thread accepts; each connection gets a thread that runs `handle_connection`::

    serve_forever ── accept ──┬── thread: Connection.handle_connection ── ChatService
                              └── thread: ...

A thread a connection is the simplest thing that is fair: a slow or dead peer costs its own
thread, and no other connection any time. What bounds it: the number of connections, the stacks of
threads, and deadlines for everything a peer can be slow at.

Its states, and what each call does in them::

    state      serve_forever           stop             close
    bound      -> serving              -> stopped       -> draining, returns when closed
    stopped    -> draining             nothing          -> draining, returns when closed
    serving    RuntimeError            -> draining      -> draining, returns when closed
    draining   returns when closed     nothing          returns when closed
    closed     returns                 nothing          returns

The thread that drains is the one in `serve_forever`, or, where there is none, the one that closes
first. Called in that very thread, by a signal handler, `close` cannot wait for what it interrupts:
there it is `stop`.
"""

import contextlib
import errno
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from twinline.core.addresses import UNIX, canonical, is_loopback, limit_key
from twinline.core.deadline import Deadline
from twinline.core.errors import Busy, LockRuleError
from twinline.core.forks import watch_forks
from twinline.core.locks import new_lock
from twinline.core.service import ChatService
from twinline.core.waiting import Waiter
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint, tune
from twinline.transports.listener.binding import BoundEndpoint, listen
from twinline.transports.listener.connection import Connection
from twinline.transports.listener.poller import Poller, Waker
from twinline.transports.listener.settings import ListenerSettings
from twinline.transports.listener.threads import start_thread

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.2
_START_SECONDS = 0.2
"""How often to look whether a thread that was started and does not run yet is still there."""
_CUT_SECONDS = 0.2
"""For a thread whose connection was cut to end."""
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ACCEPT_BATCH = 64
_NO_ROOM = "the server has no room for another connection; try again"
_RETRY_AFTER_MS = 1_000


@dataclass(frozen=True, slots=True, eq=False)
class _Drainer:
    """Who drains: the first that serves or closes.

    Attributes:
        thread: its number.
        serving: whether it serves before.
    """

    thread: int
    serving: bool


class Listener:
    """Serves a `ChatService` on endpoints; each has a transport of its own.

    The sockets listen as soon as the object exists; connections are accepted while
    `serve_forever` runs. `serve_forever`, `stop` and `close` may be called in any order, from any
    thread, and again; the module's text has the table. As a context manager it is closed at the
    end.

    It is a guest in its process: it sets no signal handler, no stack size, no limit.

    Attributes:
        endpoints: where it listens, with the ports that the system chose, in the order given.
    """

    def __init__(
        self,
        service: ChatService,
        endpoints: Sequence[tuple[Endpoint, Transport]],
        settings: ListenerSettings | None = None,
        *,
        waker: Waker | None = None,
    ) -> None:
        """Bind.

        Args:
            service: carries the requests out; it may serve other listeners as well.
            endpoints: pairs of a place and the transport that is spoken there.
            settings: None for the defaults.
            waker: what ends the wait for connections; it stays the caller's, who may have signals
                wake it, and is closed after the listener. None for one of the listener's own.

        Raises:
            EndpointError: one of them cannot be listened on; then none is.
        """
        self._service = service
        self._settings = settings or ListenerSettings()
        self._bound: list[BoundEndpoint] = []
        self._transports: dict[int, tuple[socket.socket, Transport]] = {}  # of listening sockets
        with contextlib.ExitStack() as undone_on_error:
            for endpoint, transport in endpoints:
                bound = listen(endpoint)
                undone_on_error.callback(bound.close)
                self._bound.append(bound)
                for listening in bound.sockets:
                    self._transports[listening.fileno()] = (listening, transport)
            self._poller = Poller(waker)
            undone_on_error.pop_all()
        self.endpoints = [bound.endpoint for bound in self._bound]
        # Its one item is set by the first that comes, in one step and without a lock, which a
        # signal handler could find taken by the thread that it interrupts.
        self._drainer: dict[str, _Drainer] = {}
        self._stopping = False  # set by any thread or signal handler
        self._drained = False  # set by the thread that drains
        self._closing: list[Waiter] = []  # woken when it is; appended and popped, no more
        self._ended = Waiter()  # woken at the end of each connection, once it is stopping
        self._resume: Deadline | None = None  # when to accept again; None: it accepts
        self._short_of = ""  # what there was too little of, until a connection is served again
        self._lock = new_lock("connections")
        # In the order of their arrival, in which they are drained; guarded by _lock.
        self._connections: dict[Connection, None] = {}
        # Those whose thread does not run yet, with what returns None if it has ended; guarded by
        # _lock.
        self._starting: dict[Connection, Callable[[], object | None]] = {}
        self._by_address: Counter[str] = Counter()  # by `limit_key`; guarded by _lock
        self._refused: list[Connection] = []  # only of the thread that accepts, and then drains
        self._is_parents = False
        watch_forks(self)

    def forked(self) -> None:
        """Be the parent's alone: close a forked child's copies of the sockets, and do no more.

        The parent's peers would else see no end of a connection before the child's.
        """
        self._is_parents = True
        for bound in self._bound:
            for listening in bound.sockets:
                listening.close()
        for connection in (*self._connections, *self._refused):
            connection.forget()

    def serve_forever(self) -> None:
        """Accept and serve until `stop`, then drain; the calling thread does the accepting.

        In the main thread a signal handler that calls `stop` is enough; unless signals wake the
        waker, it may be noticed half a second late. One that was stopped or closed before
        returns at once.

        Raises:
            RuntimeError: another call of it is under way, or this is a forked child.
        """
        if self._is_parents:
            raise RuntimeError("this listener was inherited by a fork; make another one here")
        me = _Drainer(threading.get_ident(), serving=True)
        try:
            # Here, and not before: an exception of a signal handler may come after any step.
            first = self._drainer.setdefault("first", me)
            if first is me:
                self._serve()
        finally:
            if self._drainer.get("first") is me:
                self._drain()
        if first is not me:
            if first.serving and not self._drained:
                raise RuntimeError("this listener serves already")
            self._wait_drained(first)

    def stop(self) -> None:
        """Ask `serve_forever` to drain and return; from any thread or a signal handler."""
        if self._is_parents:
            return  # the waker is shared with it
        self._stopping = True
        self._poller.wake()

    def close(self) -> None:
        """Stop, and wait until it has drained; from any thread or a signal handler.

        In a signal handler that interrupts the draining thread itself it does not wait.
        """
        if self._is_parents:
            return
        me = _Drainer(threading.get_ident(), serving=False)
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

    def _wait_drained(self, drainer: _Drainer) -> None:
        if drainer.thread == threading.get_ident():
            return
        # One for each call: a handler may interrupt a wait at any step, and wait as well.
        waiter = Waiter()
        self._closing.append(waiter)
        while not self._drained:
            waiter.wait(Deadline.after(None))

    # -- accepting ----------------------------------------------------------------------

    def _serve(self) -> None:
        self._resume = Deadline.after(0)
        while not self._stopping:
            try:
                self._serve_once()
            except MemoryError:
                # Nothing here is certain to work now, a log line least of all.
                time.sleep(_PAUSE_SECONDS)

    def _serve_once(self) -> None:
        if self._resume is not None and self._resume.passed:
            self._accept_again()
        for fd in self._poller.wait(self._patience()):
            if not self._accept(*self._transports[fd]):
                self._pause()
                break
        self._refuse_stillborn()

    def _patience(self) -> float | None:
        """Return how long to wait for events, in seconds."""
        deadline = self._resume or Deadline.after(None)
        with self._lock:
            starting = bool(self._starting)
        return (deadline.sooner(_START_SECONDS) if starting else deadline).remaining()

    def _accept_again(self) -> None:
        self._close_refused()
        for listening, _ in self._transports.values():
            self._poller.add(listening)
        self._resume = None

    def _pause(self) -> None:
        """Accept nothing for a moment: a thread or a descriptor may become free.

        The pending connections would otherwise wake the loop again at once, for ever.
        """
        self._resume = Deadline.after(_PAUSE_SECONDS)
        for listening, _ in self._transports.values():
            self._poller.remove(listening)

    def _accept(self, listening: socket.socket, transport: Transport) -> bool:
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
                    return False
                continue  # that peer was gone again
            # Those behind one that is refused are told as well, before the pause.
            enough = self._admit(peer, _host(peer_address), transport) and enough
        return enough

    def _admit(self, peer: socket.socket, address: str, transport: Transport) -> bool:
        """Give a connection its thread, and return False when there is none to give."""
        try:
            connection = self._connection(peer, address, transport)
            admitted = self._register(connection)
        except BaseException as error:
            peer.close()
            if not isinstance(error, Exception) or isinstance(error, MemoryError | LockRuleError):
                raise
            log.exception("the connection from %s cannot be served", address)
            return True
        if not admitted:
            connection.close()
            return True
        return self._start(connection)

    def _connection(self, peer: socket.socket, address: str, transport: Transport) -> Connection:
        with contextlib.suppress(OSError):  # gone again; its thread will see
            tune(peer)
        return Connection(
            peer,
            address,
            transport.server_codec(self._service.settings.frame_bytes_before_login),
            self._service,
            self._settings,
            limit_key=limit_key(address, self._service.settings.ipv6_prefix),
        )

    def _register(self, connection: Connection) -> bool:
        """Count a connection, unless there are too many."""
        key = connection.limit_key
        limit = self._settings.connections_per_address
        if not self._settings.limit_local_connections and _is_local(connection.address):
            limit = self._settings.connections
        with self._lock:
            if (
                len(self._connections) >= self._settings.connections
                or self._by_address[key] >= limit
            ):
                return False
            self._by_address[key] += 1
            try:
                # Before its thread starts, so that a drain that begins now includes it.
                self._connections[connection] = None
                self._starting[connection] = object  # not None: it is about to begin
            except MemoryError:
                self._forget(connection)
                raise
        return True

    def _forget(self, connection: Connection) -> None:
        """Count a connection no more; under the lock, and without taking memory."""
        self._connections.pop(connection, None)
        self._starting.pop(connection, None)
        self._by_address[connection.limit_key] -= 1
        if not self._by_address[connection.limit_key]:
            del self._by_address[connection.limit_key]

    def _start(self, connection: Connection) -> bool:
        """Start a thread for a connection, or refuse it and return False."""
        try:
            ended = start_thread(f"connection {connection.address}", self._run, connection)
        except (RuntimeError, MemoryError):
            self._refuse(connection)
            return False
        with self._lock:
            if connection in self._starting:
                self._starting[connection] = ended
        self._short_of = ""
        return True

    def _refuse_stillborn(self) -> None:
        """Refuse those whose thread has ended before it ran, for want of memory."""
        with self._lock:
            stillborn = [c for c, ended in self._starting.items() if ended() is None]
        for connection in stillborn:
            self._refuse(connection)
        if stillborn:
            self._pause()

    def _refuse(self, connection: Connection) -> None:
        if self._claim(connection):
            connection.refuse(Busy(_NO_ROOM, retry_after_ms=_RETRY_AFTER_MS))
            with self._lock:
                self._forget(connection)
            # Closed after the pause that follows, when the peer has read it.
            self._refused.append(connection)
        self._is_short("cannot start a thread")

    def _close_refused(self) -> None:
        while self._refused:
            connection = self._refused.pop()
            connection.discard()
            connection.close()

    def _is_short(self, of: str) -> None:
        """Log that there is too little of something, once until there is enough again."""
        if of != self._short_of:
            self._short_of = of
            log.warning("%s; trying again every %g s", of, _PAUSE_SECONDS)

    # -- a connection's own thread ------------------------------------------------------

    def _run(self, connection: Connection) -> None:
        claimed = False
        try:
            claimed = self._claim(connection)
            if claimed:
                connection.handle_connection()
        except LockRuleError:
            raise  # a bug here, and not one to carry on with
        except Exception:
            log.exception("the connection from %s failed", connection.address)
        finally:
            if claimed:
                self._end(connection)

    def _claim(self, connection: Connection) -> bool:
        """Return whether a connection is this thread's to serve or refuse: the first has it."""
        with self._lock:
            return self._starting.pop(connection, None) is not None

    def _end(self, connection: Connection) -> None:
        # Each step, whatever the one before it came to.
        try:
            connection.close()
        finally:
            with self._lock:
                self._forget(connection)
            if self._stopping:
                self._ended.wake()

    # -- draining -----------------------------------------------------------------------

    def _drain(self) -> None:
        """Accept no more, let replies in flight finish, and end what does not."""
        try:
            self._stopping = True
            for bound in self._bound:
                bound.close()
            self._close_refused()
            deadline = Deadline.after(self._settings.drain_seconds)
            for connection in self._running():
                connection.drain()
            self._wait_ended(deadline)
            with self._lock:
                never_ran = list(self._starting)
            for connection in never_ran:
                if self._claim(connection):
                    self._end(connection)
            stuck = self._running()
            if stuck:
                log.warning("%d connections did not finish in time and are cut", len(stuck))
            for connection in stuck:
                connection.cut()
            self._wait_ended(Deadline.after(_CUT_SECONDS))
        finally:
            for connection in self._running():
                connection.cut()  # again, or at last where an exception came between
            self._poller.close()
            self._drained = True
            while self._closing:
                self._closing.pop().wake()

    def _running(self) -> list[Connection]:
        with self._lock:
            return list(self._connections)

    def _wait_ended(self, deadline: Deadline) -> None:
        while self._running() and self._ended.wait(deadline):
            pass


def _host(peer_address: object) -> str:
    """Return where a peer comes from, as an address or "unix"."""
    return canonical(str(peer_address[0])) if isinstance(peer_address, tuple) else UNIX


def _is_local(address: str) -> bool:
    return address == UNIX or is_loopback(address)
