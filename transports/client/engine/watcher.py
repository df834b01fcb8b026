"""The watch connection of a client: a worker that fetches mail, hands it over, and acks it.

The worker is a thread or a task, and the connection belongs to it alone. What it does with the
connection is for `paging` or `streaming` to say; this has what both share: the worker's life, its
connection, and what becomes of refusals and of a handler's errors.
"""

import logging
from abc import ABC, abstractmethod
from contextlib import nullcontext
from math import inf
from time import monotonic
from typing import Final

from twinline.core import errors, protocol
from twinline.core.deadline import Deadline
from twinline.transports.client.engine.backend import Backend
from twinline.transports.client.engine.backoff import Backoff
from twinline.transports.client.engine.cancel import Cancelled, CancelToken
from twinline.transports.client.engine.connection import (
    Connection,
    ConnectionBroken,
    ReplyTimedOut,
)
from twinline.transports.client.engine.dialler import Dialler
from twinline.transports.client.engine.link import ClientSession, Link
from twinline.transports.client.options import ClientOptions

log = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 1.0
"""For the last ack, when the client ends."""
THREAD_NAME: Final = "twinline watcher"
"""Of the thread, or of the task."""


class Watcher(ABC):
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
        self._mode = options.watch
        self._on_message = options.on_message
        self._kinds = options.watched
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
        self._inbox.on_progress(self._progressed)
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
                await self._round()
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

    @abstractmethod
    async def _round(self) -> None:
        """Do what there is to do, and wait for what comes next.

        Raises:
            Cancelled: the worker is to end.
        """

    @abstractmethod
    def _progressed(self) -> None:
        """Look at the inbox soon: the application has come as far as was asked; in its thread."""

    async def _handle(self, entry: protocol.Entry) -> bool:
        """Hand a message to the handler, and return whether it has dealt with it.

        A receipt is dealt with at once: the handler takes messages.

        Raises:
            Cancelled: the worker is to end.
        """
        self._stop.check()
        assert self._on_message is not None  # noqa: S101 - else the application takes them itself
        if not isinstance(entry, protocol.Message):
            return True
        try:
            await self._worker.call(self._on_message, entry)
        except Exception as error:  # noqa: BLE001 - whatever it is, the mail must not be lost
            await self._report_handler_error(entry, error)
            return False
        return True

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
        while self._connection is None:
            connection = await self._dialler.dial(Deadline.after(None), self._stop)
            if connection.session is not self.session:
                connection.close()
                raise Cancelled
            connection.end_with(self._cut)
            try:
                self._connected(connection)
            except OSError as error:
                connection.close()
                reason = error.strerror or str(error)
                self._link.attempt_failed(self.session, connection.server, reason)
                continue
            self._connection = connection
        return self._connection

    def _connected(self, connection: Connection) -> None:  # noqa: B027 - not all have a use for it
        """Prepare for a new connection, which nobody else sees yet.

        Raises:
            OSError: it cannot be used; another one is opened, at the pace of the backoff.
        """

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
        except (ConnectionBroken, errors.FrameTooLarge) as error:
            self._broke(connection, error)
            return None
        self._last_exchange = monotonic()
        return reply if self._lasts(connection, reply) else None

    def _lasts(self, connection: Connection, reply: protocol.Reply) -> bool:
        """Note that a request was answered, and return whether the connection goes on.

        Raises:
            Cancelled: the session has ended.
        """
        if isinstance(reply, protocol.ErrorReply):
            error = errors.RequestError.from_reply(reply)
            if isinstance(error, errors.SessionExpired | errors.NotLoggedIn):
                self._link.session_ended(self.session, error.message)
                raise Cancelled
            if isinstance(error, errors.ShuttingDown):
                self._lost(connection, error.message, failed=True, refusal=error)
                return False
        if not connection.proved:
            connection.proved = True
            self._link.proved(connection.server, connection.failures)
        self._link.watch_answered(self.session)
        return True

    def _broke(
        self, connection: Connection, error: ConnectionBroken | errors.FrameTooLarge
    ) -> None:
        """Drop a connection that broke, or whose server tells limits that cannot be right.

        Raises:
            Cancelled: the worker is to end.
        """
        self._drop()
        if isinstance(error, errors.FrameTooLarge):
            self._lost(connection, error.message, failed=True)
            return
        self._stop.check()
        # One that has carried a request is replaced at once, but not again and again.
        before, self._broke_at = self._broke_at, monotonic()
        soon = self._broke_at - before < self._settings.backoff_first
        failed = soon or not connection.proved
        if isinstance(error, ReplyTimedOut) and not failed:
            self._link.stopped_answering(connection.server)
        self._lost(connection, str(error), failed=failed)

    def _lost(
        self,
        connection: Connection,
        reason: str,
        *,
        failed: bool,
        refusal: errors.RequestError | None = None,
    ) -> None:
        """Replace the connection; at the pace of the backoff if it has failed to be of use."""
        self._drop()
        self._link.watch_broke(self.session, reason)
        if failed:
            self._link.attempt_failed(self.session, connection.server, reason, refusal)

    async def _refused(self, error: errors.RequestError) -> None:
        """Let time pass before the mailbox is read again."""
        log.warning("the mailbox cannot be read: %s: %s", error.code, error.message)
        if isinstance(error, errors.CursorInvalid):
            # It is another mailbox than it was: the server's store was put back to before.
            status = await self._ask(protocol.Status())
            if isinstance(status, protocol.StatusReply):
                self._rewind(status.position)
        await self._pause(error.retry_after())

    def _rewind(self, position: int) -> None:
        """Begin again from the server's position."""
        self._inbox.rewind(position)

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
