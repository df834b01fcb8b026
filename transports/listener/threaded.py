"""The threaded listener: gives each connection a thread.

One thread accepts; each connection gets a thread that runs `handle_connection`::

    serve_forever ── accept ──┬── thread: Connection.handle_connection ── ChatService
                              └── thread: ...

A thread a connection is the simplest thing that is fair: a slow or dead peer costs its own
thread, and no other connection any time. What bounds it: the number of connections, the stacks of
threads, and deadlines for everything a peer can be slow at.
"""

import logging
import socket
import time
from collections.abc import Callable, Sequence

from twinline.core.deadline import Deadline
from twinline.core.errors import Busy, LockRuleError
from twinline.core.metrics import ConnectionCounts, Metrics, Refusal
from twinline.core.service import ChatService
from twinline.core.waiting import Waiter
from twinline.transports.contract import ServerCodec, Transport
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener.base import (
    CUT_SECONDS,
    PAUSE_SECONDS,
    Arrival,
    Listener,
)
from twinline.transports.listener.connection import Connection
from twinline.transports.listener.introduction import Introduction
from twinline.transports.listener.poller import Poller
from twinline.transports.listener.settings import ListenerSettings
from twinline.transports.listener.threads import start_thread
from twinline.transports.listener.waker import Waker
from twinline.transports.tls.layer import TlsLayer

log = logging.getLogger(__name__)

_START_SECONDS = 0.2
"""How often to look whether a thread that was started and does not run yet is still there."""
_NO_ROOM = "the server has no room for another connection; try again"
_RETRY_AFTER_MS = 1_000


class ThreadedListener(Listener):
    """A listener that gives each connection a thread; see `Listener`.

    Requests may block as long as they like: they hold up their own connection alone.
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
        """Bind; see `Listener`."""
        super().__init__(service, endpoints, settings, waker=waker, metrics=metrics)
        self._poller = Poller(self._waker, signals_wake=not self._owns_waker)
        self._ended = Waiter()  # woken at the end of each connection, once it is stopping
        self._resume: Deadline | None = None  # when to accept again; None: it accepts
        # Those whose thread does not run yet, with what returns None if it has ended; guarded by
        # _lock.
        self._starting: dict[Connection, Callable[[], object | None]] = {}
        self._refused: list[Connection] = []  # only of the thread that accepts, and then drains

    def forked(self) -> None:
        """See `Listener.forked`."""
        super().forked()
        for connection in self._refused:
            connection.forget()

    # -- accepting ----------------------------------------------------------------------

    def _serve(self) -> None:
        self._resume = Deadline.after(0)
        while not self._stopping:
            try:
                self._serve_once()
            except MemoryError:
                # Nothing here is certain to work now, a log line least of all.
                time.sleep(PAUSE_SECONDS)

    def _serve_once(self) -> None:
        if self._resume is not None and self._resume.passed:
            self._accept_again()
        for fd in self._poller.wait(self._patience()):
            if not self._accept(*self._served[fd]):
                self._pause()
                break
        self._come_round()
        self._refuse_stillborn()

    def _patience(self) -> float | None:
        """Return how long to wait for events, in seconds."""
        deadline = self._resume or Deadline.after(None)
        with self._lock:
            starting = bool(self._starting)
        return (deadline.sooner(_START_SECONDS) if starting else deadline).remaining()

    def _accept_again(self) -> None:
        self._close_refused()
        for listening, _ in self._served.values():
            self._poller.add(listening)
        self._resume = None

    def _pause(self) -> None:
        """Accept nothing for a moment: a thread or a descriptor may become free.

        The pending connections would otherwise wake the loop again at once, for ever.
        """
        self._resume = Deadline.after(PAUSE_SECONDS)
        for listening, _ in self._served.values():
            self._poller.remove(listening)

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
    ) -> Connection:
        return Connection(
            peer,
            address,
            codec,
            self.service,
            self.in_force,
            limit_key=limit_key,
            layer=layer,
            introduction=introduction,
            counts=counts,
        )

    def _count_in(self, connection: Connection, arrival: Arrival) -> None:
        super()._count_in(connection, arrival)
        self._starting[connection] = object  # not None: it is about to begin

    def _count_out(self, connection: Connection) -> None:
        super()._count_out(connection)
        self._starting.pop(connection, None)

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
                self._count_out(connection)
            if connection.counts is not None:
                self._note_refusal(connection.counts.endpoint, Refusal.EXHAUSTED)
            self._note_end(connection)
            # Closed after the pause that follows, when the peer has read it.
            self._refused.append(connection)
        self._is_short("cannot start a thread")

    def _close_refused(self) -> None:
        while self._refused:
            connection = self._refused.pop()
            connection.discard()
            connection.close()

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
                self._count_out(connection)
            self._note_end(connection)
            if self._stopping:
                self._ended.wake()

    # -- draining -----------------------------------------------------------------------

    def _end_connections(self) -> None:
        self._close_refused()
        for seconds in self._told_gradually():
            time.sleep(seconds)
        self._wait_ended(Deadline.after(self.settings.drain_seconds))
        with self._lock:
            never_ran = list(self._starting)
        for starting in never_ran:
            if self._claim(starting):
                self._end(starting)
        self._cut_what_runs()
        self._wait_ended(Deadline.after(CUT_SECONDS))

    def _wait_ended(self, deadline: Deadline) -> None:
        while self._running() and self._ended.wait(deadline):
            pass
