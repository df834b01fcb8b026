"""The event loop's listener: drives all connections in one thread, by callbacks.

::

    asyncio, uvloop ── bytes ──▶ LoopConnection ── Conversation ── ChatService
          ▲                        │        ▲
          │                        ▼        │ outcome, mail, time: `Turns`
          └──── writes ────────────┘     Workers: what may block

No thread is woken for a message, and an idle connection costs no stack. In return nothing on the
loop may block: hashes, listings of all names, and every request on a store that blocks are carried
out by workers, one at a time for each connection, so that replies keep their order.
"""

import asyncio
import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from twinline.core.looks import Look
from twinline.core.metrics import ConnectionCounts, Metrics
from twinline.core.protocol import REQUESTS, Hello, Ping
from twinline.core.service import ChatService
from twinline.core.store import Mailboxes
from twinline.transports.contract import ServerCodec, Transport
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener.base import CUT_SECONDS, PAUSE_SECONDS, Drainer, Listener
from twinline.transports.listener.conversation import Job
from twinline.transports.listener.holds import HoldDetector
from twinline.transports.listener.introduction import Introduction
from twinline.transports.listener.loop_connection import LoopConnection
from twinline.transports.listener.settings import ListenerSettings
from twinline.transports.listener.threads import start_thread
from twinline.transports.listener.turns import Turns
from twinline.transports.listener.waker import Waker
from twinline.transports.listener.workers import Work, Workers
from twinline.transports.tls.layer import TlsLayer

log = logging.getLogger(__name__)

_SIGNAL_SECONDS: Final = 0.5
"""How long a signal may go unnoticed by a main thread that waits with a waker of its own."""
_START_SECONDS: Final = 0.2
"""How often to look whether a worker that was started and does not run yet is still there."""
_LOOKS_A_CALL: Final = 64
"""So many looks at most are one call of a store."""
_LOOKS_UNDER_WAY: Final = 4
"""So many of those calls at once; what comes up meanwhile is one of the next."""
_ON_STORE: Final[frozenset[type[Job]]] = frozenset({*REQUESTS, Look} - {Hello, Ping})
"""All jobs but those that have nothing to do with a store."""


class LoopListener(Listener):
    """A listener that drives all connections by one event loop; see `Listener`.

    `serve_forever` runs a loop of its own in the calling thread, uvloop's where that is installed;
    `serve` runs in the asyncio loop that it is awaited in. One of the two is called, once.

    Attributes:
        turns: of its connections, once it serves.
        elsewhere: the jobs that may block, and so are a worker's.
        looks_together: whether the looks of a turn are one worker's, in one call of the store.
        long: of those, the ones that take more than moments; they have workers of their own.
        detector: logs what holds the loop, if the settings ask for it.
    """

    turns: Turns

    def __init__(
        self,
        service: ChatService,
        endpoints: Sequence[tuple[Endpoint, Transport]],
        settings: ListenerSettings | None = None,
        *,
        waker: Waker | None = None,
        metrics: Metrics | None = None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        """Bind; see `Listener`.

        Args:
            service: as there.
            endpoints: as there.
            settings: as there.
            waker: as there.
            metrics: as there.
            loop_factory: makes the loop of `serve_forever`; None for uvloop's where that is
                installed, else for asyncio's own.

        Raises:
            EndpointError: as there.
        """
        super().__init__(service, endpoints, settings, waker=waker, metrics=metrics)
        self.long: frozenset[type[Job]] = frozenset(job for job in REQUESTS if job.may_take_long)
        self.elsewhere = _ON_STORE if service.store.blocks else self.long
        self.detector = self._new_detector()
        store = service.store
        # One that makes each of several looks alone is better off with a worker for each.
        self.looks_together = (
            store.blocks and type(store.mailboxes).look_many is not Mailboxes.look_many
        )
        self._looking: deque[LoopConnection] = deque()  # those whose looks wait for the next call
        self._looks_under_way = 0  # calls
        self._looks_called = False  # whether it is about to make some
        self._loop_factory = loop_factory or _new_loop
        # Apart, or two hundred logins that wait for their hashes would keep mail waiting.
        self._workers = Workers("worker", self.settings.loop_workers)
        self._patient = Workers("patient worker", self.settings.loop_workers)
        self._loop: asyncio.AbstractEventLoop | None = None  # while it serves
        self._stopped: asyncio.Future[None] | None = None
        self._all_ended: asyncio.Future[None] | None = None  # while it drains
        self._opening: set[asyncio.Task[Any]] = set()
        self._checks = False  # whether it is about to look at workers that were started

    def change_settings(
        self, settings: ListenerSettings, transports: Sequence[Transport] | None = None
    ) -> None:
        """See `Listener.change_settings`."""
        super().change_settings(settings, transports)
        self.detector = self._new_detector()
        for workers in (self._workers, self._patient):
            workers.change(settings.loop_workers)

    def _new_detector(self) -> HoldDetector | None:
        seconds = self.settings.loop_warn_seconds
        return HoldDetector(self.service, seconds) if seconds else None

    # -- its life -----------------------------------------------------------------------

    async def serve(self) -> None:
        """Accept and serve in the running loop until `stop`, then drain; as `serve_forever`.

        If it is cancelled it drains and is then cancelled; if it is cancelled again while it
        drains, the connections are cut.

        Raises:
            RuntimeError: another call of it is under way, or this is a forked child.
        """
        self._refuse_child()
        me = Drainer(threading.get_ident(), serving=True)
        try:
            first = self._drainer.setdefault("first", me)
            if first is me:
                await self._serve_in_loop()
        finally:
            if self._drainer.get("first") is me:
                self._drain()
        if first is not me:
            self._refuse_another(first)
            await asyncio.to_thread(self._wait_drained, first)

    def _serve(self) -> None:
        loop = self._loop_factory()
        try:
            task = loop.create_task(self._serve_in_loop())
            try:
                loop.run_until_complete(task)
            finally:
                # An exception of a signal's handler may have stopped the loop: then it drains, and
                # if another one comes meanwhile, it cuts the connections.
                try:
                    _cancel(loop, task)
                finally:
                    _cancel(loop, task)
        finally:
            loop.close()

    async def _serve_in_loop(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self.turns = Turns(loop)
        self._stopped = loop.create_future()
        loop.add_reader(self._waker.woken, self._look_up)
        if self._owns_waker and threading.current_thread() is threading.main_thread():
            self._tick()
        try:
            self._accept_again()
            self._look_up()
            await self._stopped
        finally:
            try:
                await self._drain_in_loop()
            finally:
                loop.remove_reader(self._waker.woken)
                self._workers.close()
                self._patient.close()
                self.turns.close()
                self._loop = None

    def _look_up(self) -> None:
        """See whether it is to stop: something has woken it."""
        self._waker.clear()
        self._come_round()
        if self._stopping and self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)

    def _tick(self) -> None:
        """Look up now and then, where a signal may not wake the loop."""
        self._look_up()
        if self._loop is not None:
            self._loop.call_later(_SIGNAL_SECONDS, self._tick)

    # -- accepting ----------------------------------------------------------------------

    def _accept_again(self) -> None:
        if self._loop is not None and not self._stopping:
            for number in self._served:
                self._loop.add_reader(number, self._arrived, number)

    def _pause(self) -> None:
        """Accept nothing for a moment: a descriptor may become free."""
        assert self._loop is not None  # noqa: S101 - while it serves
        self._loop.call_later(PAUSE_SECONDS, self._accept_again)  # first: it may find no memory
        self._accept_no_more()

    def _accept_no_more(self) -> None:
        assert self._loop is not None  # noqa: S101 - while it serves
        for listening, _ in self._served.values():
            self._loop.remove_reader(listening)

    def _arrived(self, number: int) -> None:
        enough = False
        with suppress(MemoryError):
            enough = self._accept(*self._served[number])
        if not enough:
            self._pause()

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
    ) -> LoopConnection:
        peer.setblocking(False)  # noqa: FBT003 - the name of the method says what it means
        return LoopConnection(
            peer,
            address,
            codec,
            self,
            limit_key,
            layer=layer,
            introduction=introduction,
            counts=counts,
        )

    def _start(self, connection: LoopConnection) -> bool:
        assert self._loop is not None  # noqa: S101 - while it serves
        task = self._loop.create_task(
            self._loop.connect_accepted_socket(lambda: connection, connection.socket)
        )
        self._opening.add(task)
        task.add_done_callback(partial(self._opened, connection))
        self._short_of = ""
        return True

    def _opened(self, connection: LoopConnection, task: asyncio.Task[Any]) -> None:
        """Count a connection no more that the loop did not take; it may have been cancelled."""
        self._opening.discard(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            connection.close()
            self.ended(connection)
        if error is not None and not isinstance(error, OSError):  # its peer was gone again
            log.error("the connection from %s failed", connection.address, exc_info=error)

    # -- for its connections ------------------------------------------------------------

    def submit(self, job: Job, work: Work) -> None:
        """Have a worker carry out a job by calling ``work``.

        Raises:
            RuntimeError, MemoryError: there is none.
        """
        workers = self._patient if type(job) in self.long else self._workers
        workers.submit(work)
        if workers.starting and not self._checks:
            self._check_later()

    def look(self, connection: LoopConnection) -> None:
        """Have the look of a connection made, with those of others; it is told what came of it."""
        self._looking.append(connection)
        if not self._looks_called:
            assert self._loop is not None  # noqa: S101 - while it serves
            self._looks_called = True
            self._loop.call_soon(self._make_looks)

    def _make_looks(self) -> None:
        """Hand all looks to workers that have come up in this turn, or while others were made."""
        self._looks_called = False
        looking = self._looking
        while looking and self._looks_under_way < _LOOKS_UNDER_WAY:
            some = [looking.popleft() for _ in range(min(len(looking), _LOOKS_A_CALL))]
            try:
                self._workers.submit(partial(self._look_for, some))
            except (RuntimeError, MemoryError):
                for connection in some:
                    connection.has_no_worker()
            else:
                self._looks_under_way += 1
                if self._workers.starting and not self._checks:
                    self._check_later()

    def _look_for(self, some: Sequence[LoopConnection]) -> None:
        """Make the looks of some connections, by one call of the store; in a worker's thread."""
        try:
            outcomes = self.service.look_many([each.looks for each in some])
        except BaseException as error:  # noqa: BLE001 - the loop ends the connections, and logs it
            for connection in some:
                connection.has_looked(failure=error)
        else:
            for connection, outcome in zip(some, outcomes, strict=True):
                connection.has_looked(outcome)
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # it is closed: nobody looks any more
                loop.call_soon_threadsafe(self._looks_made)

    def _looks_made(self) -> None:
        self._looks_under_way -= 1
        self._make_looks()

    def _check_later(self) -> None:
        """See a moment later whether the workers that were started run."""
        assert self._loop is not None  # noqa: S101 - while it serves
        self._checks = True
        self._loop.call_later(_START_SECONDS, self._check)

    def _check(self) -> None:
        self._checks = False
        if self._loop is None:
            return
        for workers in (self._workers, self._patient):
            workers.replace_stillborn()
            if workers.starting and not self._checks:
                self._check_later()

    def ended(self, connection: LoopConnection) -> None:
        """Count a connection no more; harmless when repeated."""
        with self._lock:
            if connection in self._connections:
                self._count_out(connection)
            others = bool(self._connections)
        self._note_end(connection)
        if not others and self._all_ended is not None and not self._all_ended.done():
            self._all_ended.set_result(None)

    # -- draining -----------------------------------------------------------------------

    async def _drain_in_loop(self) -> None:
        self._stopping = True
        self._accept_no_more()
        self._tell_drain()
        try:
            # Others may lock a Unix socket's directory.
            await self._in_thread(self._stop_listening)
            for seconds in self._told_gradually():
                await asyncio.sleep(seconds)
            await self._wait_ended(self.settings.drain_seconds)
        finally:
            self._cut_what_runs()
            await self._wait_ended(CUT_SECONDS)

    async def _in_thread(self, work: Work) -> None:
        """Carry out what may block, and is not a connection's."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def carry_out() -> None:
            try:
                work()
            finally:
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(finish)

        def finish() -> None:
            if not done.done():
                done.set_result(None)

        try:
            # Not by a worker: all of them may be held up.
            start_thread("listener", lambda _: carry_out(), None)
        except (RuntimeError, MemoryError):
            work()
        else:
            await done

    async def _wait_ended(self, seconds: float) -> None:
        if self._running():
            assert self._loop is not None  # noqa: S101 - while it serves
            self._all_ended = self._loop.create_future()
            await asyncio.wait([self._all_ended], timeout=seconds)

    def _end_connections(self) -> None:
        """Let go of those that the loop could not end, for it is no more."""
        for connection in self._running():
            connection.close()
            with self._lock:
                self._count_out(connection)
            self._note_end(connection)


def _cancel(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    if not task.done():
        task.cancel()
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415 - only where it is installed, and only for a loop of our own
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
