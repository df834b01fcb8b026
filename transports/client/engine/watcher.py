"""The watch connection of a client: a worker that fetches mail, hands it over, and acks it.

::

    ┌─▶ Watch(after = cursor, ack = done) ──▶ messages ──▶ inbox ──▶ handler or messages()
    └────────────── when the application has dealt with all of them ◀─────────────┘

The worker is a thread or a task, and the connection belongs to it alone. While the application
takes its time, it acks what is dealt with so far and sends a ping now and then, so that a dead
connection is noticed.
"""

import logging
from contextlib import nullcontext
from math import ceil, inf
from time import monotonic
from typing import Final

from twinline.core import errors, protocol
from twinline.core.deadline import Deadline
from twinline.transports.client.engine.backend import Backend
from twinline.transports.client.engine.backoff import Backoff
from twinline.transports.client.engine.cancel import Cancelled, CancelToken
from twinline.transports.client.engine.connection import Connection, ConnectionBroken
from twinline.transports.client.engine.dialler import Dialler
from twinline.transports.client.engine.link import ClientSession, Link
from twinline.transports.client.options import ClientOptions, OnMessage
from twinline.transports.client.settings import WatchMode

log = logging.getLogger(__name__)

ACK_SECONDS: Final = 0.2
"""How long a message may be dealt with and not acked while others of its batch are not."""
_LOOK_SECONDS: Final = 0.5
"""How long what is dealt with may go unnoticed."""
FLUSH_SECONDS: Final = 1.0
"""For the last ack, when the client ends."""
THREAD_NAME: Final = "twinline watcher"
"""Of the thread, or of the task."""


class Watcher:
    """The worker that watches for one session.

    Attributes:
        session: whose mail it is.
    """

    def __init__(
        self,
        backend: Backend,
        options: ClientOptions,
        dialler: Dialler,
        link: Link,
        session: ClientSession,
        *,
        before: "Watcher | None",
    ) -> None:
        """Prepare; `start` begins.

        Args:
            backend: has the worker.
            options: the callbacks, the mode and the waits.
            dialler: opens the connection.
            link: what becomes of the connection is noted there.
            session: whose mail it is.
            before: the watcher whose handler must have returned before this one's is called.
        """
        self.session = session
        self._dialler = dialler
        self._link = link
        self._inbox = session.inbox
        self._settings = options.settings
        self._blocking = options.watch is WatchMode.BLOCKING
        self._on_message = options.on_message
        self._on_handler_error = options.on_handler_error or _log_handler_error
        self._waiter = backend.waiter()
        self._stop = CancelToken("stop of watcher")  # ends every wait but that for an ack
        self._cut = CancelToken("cut of watcher")  # ends that one too
        self._connection: Connection | None = None  # the worker's own
        self._last_exchange = monotonic()  # the worker's own
        self._broke_at = -inf  # when a connection broke last; the worker's own
        self._backoff = Backoff.of(options.settings)  # of refusals and handlers; the worker's own
        self._before = before
        self._worker = backend.worker(self._run, THREAD_NAME)

    def start(self) -> None:
        """Start the worker."""
        self._inbox.on_progress(self._waiter.wake)
        self._worker.start()

    @property
    def is_here(self) -> bool:
        """Whether the caller is the worker, or within a handler that it called."""
        return self._worker.is_here

    def stop(self) -> None:
        """Ask the worker to ack what is dealt with, and to end; do not wait for it."""
        self._stop.set()

    def cut(self) -> None:
        """Ask the worker to end with nothing more sent; do not wait for it."""
        self._stop.set()
        self._cut.set()

    def forget(self) -> None:
        """Close a forked child's copy of the socket; the parent goes on with its own."""
        if self._connection is not None:
            self._connection.forget()

    async def join(self) -> None:
        """Wait until the worker has ended, unless it is the caller, or a handler is stuck.

        Call `stop` or `cut` first.
        """
        if not self.is_here:
            await self._worker.join(2 * FLUSH_SECONDS)
            self._cut.set()
            await self._worker.join(FLUSH_SECONDS)

    async def abandon(self) -> None:
        """End stuck handlers by force where that can be done; unless the caller is within one."""
        before = self._before
        if before is not None:
            await before.abandon()
        if not self.is_here:
            await self._worker.abandon(FLUSH_SECONDS)

    async def wait_ended(self) -> None:
        """Wait until the worker has ended, however long its handler takes."""
        await self._worker.join(None)

    # -- the worker ---------------------------------------------------------------------

    async def _run(self) -> None:
        if self._before is not None:
            await self._before.wait_ended()
            self._before = None
        try:
            while True:
                if self._on_message is None:
                    await self._wait_for_application()
                else:
                    await self._call_handler(self._on_message)
                await self._fetch()
        except Cancelled:
            pass
        except errors.UnsupportedVersion as error:
            self._link.session_ended(self.session, error.message)
        except BaseException as error:
            # A bug, which the worker shows, or a task that was cancelled from elsewhere: either
            # way the application must not believe to be watching. The end of the session cuts the
            # connection, so what was dealt with before is acked first.
            if not self._cut.is_set:
                await self._flush()
                self._link.session_ended(self.session, f"the watcher has failed: {error!r}")
            raise
        finally:
            try:
                await self._flush()
            finally:
                self._drop()

    async def _fetch(self) -> None:
        """Ask once for what is beyond the cursor."""
        connection = await self._have_connection()
        limits = connection.limits
        # The first look does not wait: it proves the connection, and brings what is there already.
        first = self._blocking and not connection.proved
        blocking = self._blocking and connection.proved
        wait = min(ceil(self._settings.wait_seconds), limits.wait_seconds) if blocking else 0
        batch = max(1, min(self._settings.batch, limits.page))
        request = protocol.Watch(
            after=self._inbox.cursor, ack=self._inbox.unacked, limit=batch, wait=wait
        )
        pace = Deadline.after(self._settings.poll_seconds)
        reply = await self._ask(request, wait)
        if isinstance(reply, protocol.ErrorReply):
            await self._refused(errors.RequestError.from_reply(reply))
        if not isinstance(reply, protocol.WatchReply):
            return
        self._backoff.reset()
        # Of more than was asked for the rest is asked for again.
        any_new = self._inbox.put(reply.messages[:batch])
        self._inbox.acked(max(reply.position, request.ack or 0))
        if not any_new and not first:
            # A watch that waits takes longer: this polls a server that answers at once.
            await self._rest(pace.remaining() or 0.0)

    async def _wait_for_application(self) -> None:
        """Wait until the inbox is empty; meanwhile ack progress and keep the connection alive."""
        progress: Deadline | None = None  # when what is dealt with has waited long enough
        while not self._inbox.is_empty():
            if self._inbox.unacked is None:
                progress = None
            elif progress is None:
                progress = Deadline.after(ACK_SECONDS)
            idle = self._last_exchange + self._settings.wait_seconds - monotonic()
            due = Deadline.after(max(0.0, idle))
            wake = due if progress is None else progress.sooner(idle)
            # A signal's handler may keep the application from saying that it has dealt with one.
            await self._stop.wait(self._waiter, wake.sooner(_LOOK_SECONDS))
            if self._inbox.is_empty():
                return  # the next watch carries the ack
            if progress is not None and progress.passed:
                await self._ack()
                progress = None
            elif due.passed:
                await self._ask(protocol.Ping())

    async def _call_handler(self, on_message: OnMessage) -> None:
        """Hand over each message in order; one that the handler fails on is handed over again."""
        acked_at = monotonic()
        while (message := self._inbox.head()) is not None:
            self._stop.check()
            try:
                await self._worker.call(on_message, message)
            except Exception as error:  # noqa: BLE001 - whatever it is, the mail must not be lost
                await self._report_handler_error(message, error)
                await self._pause()
                continue
            self._backoff.reset()
            self._inbox.pop(message, done=True)
            if monotonic() - acked_at >= ACK_SECONDS and not self._inbox.is_empty():
                await self._ack()
                acked_at = monotonic()

    async def _report_handler_error(self, message: protocol.Message, error: Exception) -> None:
        try:
            await self._worker.call(self._on_handler_error, message, error)
        except Exception:
            log.exception("on_handler_error raised for message %s", message.message_id)

    async def _pause(self, retry_after: float = 0.0) -> None:
        """Wait for as long as the backoff says, keeping the connection alive."""
        end = Deadline.after(max(self._backoff.next(), retry_after))
        while not end.passed:
            await self._rest(min(end.remaining() or 0.0, self._settings.wait_seconds))
            if not end.passed:
                await self._ask(protocol.Ping())

    async def _rest(self, seconds: float) -> None:
        """Do nothing for a while.

        Raises:
            Cancelled: the worker is to end.
        """
        end = Deadline.after(seconds)
        while not end.passed:
            await self._stop.wait(self._waiter, end)

    # -- the connection -----------------------------------------------------------------

    async def _have_connection(self) -> Connection:
        """Return the connection, or a new one.

        Raises:
            Cancelled: the worker is to end, or the session has ended.
        """
        self._stop.check()
        if self._connection is None:
            connection = await self._dialler.dial(Deadline.after(None), self._stop)
            if connection.session is not self.session:
                connection.close()
                raise Cancelled
            connection.end_with(self._cut)
            self._connection = connection
        return self._connection

    async def _ack(self) -> None:
        unacked = self._inbox.unacked
        if unacked is None:
            return  # another session of the account was faster
        reply = await self._ask(protocol.Ack(up_to=unacked))
        if isinstance(reply, protocol.AckReply):
            self._inbox.acked(max(reply.position, unacked))

    async def _flush(self) -> None:
        """Ack what was dealt with and not acked yet, as the last thing on this connection."""
        unacked = self._inbox.unacked
        connection = self._connection
        if unacked is None or connection is None or self._cut.is_set:
            return
        try:
            reply = await connection.exchange(
                protocol.Ack(up_to=unacked), Deadline.after(FLUSH_SECONDS)
            )
        except (ConnectionBroken, errors.FrameTooLarge):
            return  # `Engine.close` tries the command connection
        if isinstance(reply, protocol.AckReply):
            self._inbox.acked(max(reply.position, unacked))

    async def _ask(self, request: protocol.Request, wait: int = 0) -> protocol.Reply | None:
        """Carry out a request, opening a connection for it if need be.

        Returns:
            The reply, or None when the connection broke, or is about to.

        Raises:
            Cancelled: the worker is to end, or the session has ended.
        """
        connection = await self._have_connection()
        deadline = Deadline.after(wait + self._settings.reply_seconds)
        # What is on its way out with a watch may be an ack, so only the wait for the reply ends.
        # All else is carried out: the token that cuts it is the connection's own.
        watching = isinstance(request, protocol.Watch)
        try:
            with self._stop.waking(connection.stop_reading) if watching else nullcontext():
                reply = await connection.exchange(request, deadline)
        except ConnectionBroken as broken:
            self._drop()
            self._stop.check()
            # One that has carried a request is replaced at once, but not again and again.
            before, self._broke_at = self._broke_at, monotonic()
            soon = self._broke_at - before < self._settings.backoff_first
            self._lost(str(broken), failed=soon or not connection.proved)
            return None
        except errors.FrameTooLarge as refused:
            # By the limits that the server told, which cannot be right.
            self._lost(refused.message, failed=True)
            return None
        self._last_exchange = monotonic()
        if isinstance(reply, protocol.ErrorReply):
            error = errors.RequestError.from_reply(reply)
            if isinstance(error, errors.SessionExpired | errors.NotLoggedIn):
                self._link.session_ended(self.session, error.message)
                raise Cancelled
            if isinstance(error, errors.ShuttingDown):
                self._lost(error.message, failed=True)
                return None
        if not connection.proved:
            connection.proved = True
            self._link.proved()
        self._link.watch_answered(self.session)
        return reply

    def _lost(self, reason: str, *, failed: bool) -> None:
        """Replace the connection; at the pace of the backoff if it has failed to be of use."""
        self._drop()
        self._link.watch_broke(self.session, reason)
        if failed:
            self._link.attempt_failed(self.session, reason)

    async def _refused(self, error: errors.RequestError) -> None:
        """Let time pass before the mailbox is read again."""
        log.warning("the mailbox cannot be read: %s: %s", error.code, error.message)
        if isinstance(error, errors.CursorInvalid):
            # It is another mailbox than it was: the server's store was put back to before.
            status = await self._ask(protocol.Status())
            if isinstance(status, protocol.StatusReply):
                self._inbox.rewind(status.position)
        await self._pause(error.retry_after())

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _log_handler_error(message: protocol.Message, error: Exception) -> None:
    log.error(
        "on_message raised for message %s, which will come again",
        message.message_id,
        exc_info=error,
    )
