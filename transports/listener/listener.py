"""The threaded listener: accepts connections, gives each a thread, and drains them.

The main thread accepts; each connection gets a thread that runs `handle_connection`::

    serve_forever ── accept ──┬── thread: Connection.handle_connection ── ChatService
                              ├── thread: ...
                              └── hang-ups of connections that wait for mail

A thread a connection is the simplest thing that is fair: a slow or dead peer costs its own
thread, and no other connection any time. What bounds it: the number of connections, a small
stack, and deadlines for everything a peer can be slow at.
"""

import contextlib
import errno
import logging
import socket
import threading
from collections import Counter
from collections.abc import Sequence

from twinline.core.addresses import UNIX, canonical, is_loopback, limit_key
from twinline.core.deadline import Deadline
from twinline.core.errors import LockRuleError
from twinline.core.locks import new_lock
from twinline.core.service import ChatService
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint, tune
from twinline.transports.listener.binding import BoundEndpoint, listen
from twinline.transports.listener.connection import Connection
from twinline.transports.listener.poller import Poller, Waker
from twinline.transports.listener.settings import ListenerSettings

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.2
_CUT_SECONDS = 0.2
"""For a thread whose connection was cut to end; and the longest that a signal goes unnoticed
while the threads are joined."""
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ACCEPT_BATCH = 64


class Listener:
    """Serves a `ChatService` on endpoints; each has a transport of its own.

    The sockets listen as soon as the object exists; connections are accepted while
    `serve_forever` runs.

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
        self._bound: list[tuple[BoundEndpoint, Transport]] = []
        with contextlib.ExitStack() as unbind_on_error:
            for endpoint, transport in endpoints:
                bound = listen(endpoint)
                unbind_on_error.callback(bound.close)
                self._bound.append((bound, transport))
            unbind_on_error.pop_all()
        self.endpoints = [bound.endpoint for bound, _ in self._bound]
        self._poller = Poller(waker)
        self._serving = False
        self._stopping = False  # set by any thread or signal handler
        self._drained = threading.Event()
        self._lock = new_lock("connections")
        self._threads: dict[Connection, threading.Thread] = {}  # guarded by _lock
        self._by_address: Counter[str] = Counter()  # by `limit_key`; guarded by _lock
        self._waiting: dict[int, Connection] = {}  # watched for hang-ups; guarded by _lock

    def serve_forever(self) -> None:
        """Accept and serve until `stop`, then drain; the calling thread does the accepting.

        In the main thread a signal handler that calls `stop` is enough; unless signals wake the
        waker, it may be noticed half a second late.
        """
        self._serving = True
        arrivals = {
            listening.fileno(): (listening, transport)
            for bound, transport in self._bound
            for listening in bound.sockets
        }
        try:
            for listening, _ in arrivals.values():
                self._poller.add(listening)
            while not self._stopping:
                for fd, hangup in self._poller.wait(None):
                    if hangup and fd not in arrivals:
                        self._hung_up(fd)
                    elif fd in arrivals and not self._accept(*arrivals[fd]):
                        self._pause()
                        break
        finally:
            self._drain()

    def stop(self) -> None:
        """Ask `serve_forever` to drain and return; from any thread or a signal handler."""
        self._stopping = True
        self._poller.wake()

    def close(self) -> None:
        """Stop, and wait until `serve_forever` has drained, if it was called at all."""
        self.stop()
        if self._serving:
            self._drained.wait()
        else:
            self._drain()

    # -- accepting ----------------------------------------------------------------------

    def _accept(self, listening: socket.socket, transport: Transport) -> bool:
        """Take what has arrived, and return False when the system has no more to give."""
        for _ in range(_ACCEPT_BATCH):
            try:
                peer, peer_address = listening.accept()
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    log.warning("cannot accept: %s; pausing", error.strerror)
                    return False
                continue  # that peer was gone again
            if not self._start(peer, _host(peer_address), transport):
                return False
        return True

    def _start(self, peer: socket.socket, address: str, transport: Transport) -> bool:
        """Give a connection its thread, and return False when there is none to give."""
        with contextlib.suppress(OSError):  # gone again; its thread will see
            tune(peer)
        connection = Connection(
            peer,
            address,
            transport.server_codec(self._service.settings.frame_bytes_before_login),
            self._service,
            self._settings,
            before_wait=self._watch_for_hangup,
        )
        thread = threading.Thread(
            target=self._run, args=(connection,), name=f"connection {address}", daemon=True
        )
        # Registered before it starts, so that a drain that begins now includes it.
        if not self._register(connection, thread):
            connection.close()
            return True
        try:
            thread.start()
        except RuntimeError:
            log.warning("cannot start a thread for %s, which is cut; pausing", address)
            self._unregister(connection)
            connection.close()
            return False
        return True

    def _register(self, connection: Connection, thread: threading.Thread) -> bool:
        address = connection.address
        limit = self._settings.connections_per_address
        if not self._settings.limit_local_connections and _is_local(address):
            limit = self._settings.connections
        key = self._limit_key(address)
        with self._lock:
            if len(self._threads) >= self._settings.connections or self._by_address[key] >= limit:
                return False
            self._threads[connection] = thread
            self._by_address[key] += 1
        return True

    def _unregister(self, connection: Connection) -> None:
        key = self._limit_key(connection.address)
        with self._lock:
            del self._threads[connection]
            self._by_address[key] -= 1
            if not self._by_address[key]:
                del self._by_address[key]

    def _limit_key(self, address: str) -> str:
        return limit_key(address, self._service.settings.ipv6_prefix)

    def _run(self, connection: Connection) -> None:
        try:
            connection.handle_connection()
        except LockRuleError:
            raise  # a bug here, and not one to carry on with
        except Exception:
            log.exception("the connection from %s failed", connection.address)
        finally:
            self._unwatch(connection)
            connection.close()
            self._unregister(connection)

    def _pause(self) -> None:
        """Accept nothing for a moment: a thread or a descriptor may become free.

        The pending connections would otherwise wake the loop again at once, for ever.
        """
        listening = [each for bound, _ in self._bound for each in bound.sockets]
        for each in listening:
            self._poller.remove(each)
        deadline = Deadline.after(_PAUSE_SECONDS)
        while not self._stopping and not deadline.passed:
            for fd, _ in self._poller.wait(deadline.remaining()):
                self._hung_up(fd)
        for each in listening:
            self._poller.add(each)

    # -- hang-ups of connections that wait ----------------------------------------------

    def _watch_for_hangup(self, connection: Connection) -> None:
        fd = connection.fileno()
        with self._lock:
            self._waiting[fd] = connection
        self._poller.watch_for_hangup(fd)

    def _unwatch(self, connection: Connection) -> None:
        fd = connection.fileno()
        with self._lock:
            watched = self._waiting.pop(fd, None) is connection
        if watched:
            self._poller.unwatch(fd)

    def _hung_up(self, fd: int) -> None:
        with self._lock:
            connection = self._waiting.get(fd)
        if connection is not None:
            connection.hung_up()

    # -- draining -----------------------------------------------------------------------

    def _drain(self) -> None:
        """Accept no more, let replies in flight finish, and end what does not."""
        for bound, _ in self._bound:
            bound.close()
        deadline = Deadline.after(self._settings.drain_seconds)
        for connection in self._running():
            connection.drain()
        self._join(deadline)
        stuck = self._running()
        if stuck:
            log.warning("%d connections did not finish in time and are cut", len(stuck))
        for connection in stuck:
            connection.cut()
        self._join(Deadline.after(_CUT_SECONDS))
        self._poller.close()
        self._drained.set()

    def _running(self) -> dict[Connection, threading.Thread]:
        with self._lock:
            return dict(self._threads)

    def _join(self, deadline: Deadline) -> None:
        for thread in self._running().values():
            # In steps, so that a signal which comes just before one is not held up for long.
            while thread.is_alive() and not deadline.passed:
                thread.join(deadline.sooner(_CUT_SECONDS).remaining())


def _host(peer_address: object) -> str:
    """Return where a peer comes from, as an address or "unix"."""
    return canonical(str(peer_address[0])) if isinstance(peer_address, tuple) else UNIX


def _is_local(address: str) -> bool:
    return address == UNIX or is_loopback(address)
