"""The watch line of a client: a worker that fetches mail, hands it over, and acks it.

::

    ┌─▶ Watch(after = place, ack = done) ──▶ messages ──▶ inbox ──▶ handler or messages()
    └────────────── when the application has dealt with all of them ◀───────────┘

The worker is a thread or a task, and the line belongs to it alone. While the application takes its
time, it acks what is dealt with so far and sends a ping now and then, so that a dead line is
noticed.
"""

import logging
from collections.abc import Callable
from math import ceil
from time import monotonic
from typing import Final

from twinline.core.deadline import Deadline
from twinline.core.errors import (
    CursorInvalid,
    NotLoggedIn,
    RequestError,
    SessionExpired,
    ShuttingDown,
    UnsupportedVersion,
)
from twinline.core.protocol import (
    Ack,
    AckReply,
    ErrorReply,
    Message,
    Ping,
    Reply,
    Request,
    Status,
    StatusReply,
    Watch,
    WatchReply,
)
from twinline.transports.client.engine.backend import Backend
from twinline.transports.client.engine.backoff import Backoff
from twinline.transports.client.engine.cancel import Cancelled, CancelToken
from twinline.transports.client.engine.connection import LineBroken
from twinline.transports.client.engine.dialler import ClientLine, Dialler
from twinline.transports.client.engine.link import Link, Session
from twinline.transports.client.settings import ClientSettings, WatchMode

log = logging.getLogger(__name__)

OnMessage = Callable[[Message], object]
OnHandlerError = Callable[[Message, Exception], object]

ACK_SECONDS: Final = 0.2
"""How long a message may be dealt with and not acked while others of its batch are not."""
FLUSH_SECONDS: Final = 1.0
"""For the last ack, when the client ends."""
THREAD_NAME: Final = "twinline watcher"
"""Of the thread, or of the task."""


class Watcher:
    """The worker that watches for one session."""

    def __init__(
        self,
        backend: Backend,
        dialler: Dialler,
        link: Link,
        session: Session,
        settings: ClientSettings,
        *,
        mode: WatchMode,
        on_message: OnMessage | None,
        on_handler_error: OnHandlerError | None,
        before: "Watcher | None" = None,
    ) -> None:
        """Prepare; `start` begins.

        Args:
            backend: has the worker.
            dialler: opens the line.
            link: is told what becomes of it.
            session: whose mail it is.
            settings: the waits.
            mode: blocking or polling.
            on_message: called for each message, or None when the inbox has a consumer.
            on_handler_error: told when that raises; None logs it.
            before: whose handler must have returned before this one's is called.
        """
        self._dialler = dialler
        self._link = link
        self.session = session
        self._inbox = session.inbox
        self._settings = settings
        self._mode = mode
        self._on_message = on_message
        self._on_handler_error = on_handler_error or _log_handler_error
        self._waiter = backend.waiter()
        self._stop = CancelToken("stop of watcher")  # ends every wait but that for an ack
        self._cut = CancelToken("cut of watcher")  # ends that one too
        self._line: ClientLine | None = None  # the worker's own
        self._last_exchange = monotonic()  # the worker's own
        self._backoff = backoff_of(settings)  # of refusals and of handlers; the worker's own
        self._before = before
        self._worker = backend.worker(self._run, THREAD_NAME)

    def start(self) -> None:
        """Start the worker."""
        self._inbox.tell(self._waiter.wake)
        self._worker.start()

    @property
    def is_here(self) -> bool:
        """Whether the caller is the worker, or within a handler that it called."""
        return self._worker.is_here

    def stop(self) -> None:
        """Ask the worker to ack what is dealt with, and to end; do not wait for it."""
        self._stop.set()

    def cut(self) -> None:
        """Ask the worker to end with nothing more said; do not wait for it."""
        self._stop.set()
        self._cut.set()

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
                await self._hand_over()
                await self._fetch()
        except Cancelled:
            pass
        except UnsupportedVersion as error:
            self._link.end_session(self.session, error.message)
        except BaseException as error:
            # A bug, which the worker shows, or a task that somebody else has cancelled: either
            # way nobody must believe to be watching.
            if not self._cut.is_set:
                self._link.end_session(self.session, f"the watcher has failed: {error!r}")
            raise
        finally:
            try:
                await self._flush()
            finally:
                self._drop()

    async def _fetch(self) -> None:
        """Ask once for what is beyond the place."""
        line = await self._have_line()
        # The first look does not wait: it proves the line, and brings what is there already.
        blocking = self._mode is WatchMode.BLOCKING and line.proved
        seconds = min(ceil(self._settings.wait_seconds), line.limits.wait_seconds)
        wait = seconds if blocking else 0
        batch = min(self._settings.batch, line.limits.page)
        request = Watch(after=self._inbox.place, ack=self._inbox.unacked, limit=batch, wait=wait)
        reply = await self._ask(request, wait)
        if isinstance(reply, ErrorReply):
            await self._refused(RequestError.from_reply(reply))
        if not isinstance(reply, WatchReply):
            return
        self._backoff.reset()
        self._inbox.acked(reply.position)
        self._inbox.put(reply.messages)
        if not reply.messages and self._mode is WatchMode.POLLING:
            await self._rest(self._settings.poll_seconds)

    async def _hand_over(self) -> None:
        """See to it that all that was fetched is dealt with."""
        if self._on_message is None:
            await self._wait_for_application()
        else:
            await self._call_handler(self._on_message)

    async def _wait_for_application(self) -> None:
        """Wait until the inbox is empty; meanwhile ack progress and keep the line alive."""
        progress: Deadline | None = None  # when what is dealt with has waited long enough
        while not self._inbox.is_empty():
            if self._inbox.unacked is None:
                progress = None
            elif progress is None:
                progress = Deadline.after(ACK_SECONDS)
            idle = self._last_exchange + self._settings.wait_seconds - monotonic()
            due = Deadline.after(max(0.0, idle))
            await self._stop.wait(self._waiter, due if progress is None else progress.sooner(idle))
            if self._inbox.is_empty():
                return  # the next watch carries the ack
            if progress is not None and progress.passed:
                await self._ack()
                progress = None
            elif due.passed:
                await self._ask(Ping())

    async def _call_handler(self, on_message: OnMessage) -> None:
        """Hand over each message in order; one that the handler fails on is handed over again."""
        acked_at = monotonic()
        while (message := self._inbox.head()) is not None:
            self._stop.check()
            try:
                await self._worker.call(on_message, message)
            except Exception as error:  # noqa: BLE001 - whatever it is, the mail must not be lost
                await self._tell_handler_error(message, error)
                await self._pause()
                continue
            self._backoff.reset()
            self._inbox.pop(message, done=True)
            if monotonic() - acked_at >= ACK_SECONDS and not self._inbox.is_empty():
                await self._ack()
                acked_at = monotonic()

    async def _tell_handler_error(self, message: Message, error: Exception) -> None:
        try:
            await self._worker.call(self._on_handler_error, message, error)
        except Exception:
            log.exception("on_handler_error raised for message %s", message.message_id)

    async def _pause(self, retry_after: float = 0.0) -> None:
        """Wait for as long as the backoff says, keeping the line alive."""
        end = Deadline.after(max(self._backoff.next(), retry_after))
        while not end.passed:
            await self._rest(min(end.remaining() or 0.0, self._settings.wait_seconds))
            if not end.passed:
                await self._ask(Ping())

    async def _rest(self, seconds: float) -> None:
        """Do nothing for a while.

        Raises:
            Cancelled: the worker is to end.
        """
        end = Deadline.after(seconds)
        while not end.passed:
            await self._stop.wait(self._waiter, end)

    # -- the line -----------------------------------------------------------------------

    async def _have_line(self) -> ClientLine:
        """Return the line, or a new one.

        Raises:
            Cancelled: the worker is to end, or the session has ended.
        """
        self._stop.check()
        if self._line is None:
            line = await self._dialler.dial(Deadline.after(None), self._stop)
            if line.session is not self.session:
                line.line.close()
                raise Cancelled
            self._line = line
        return self._line

    async def _ack(self) -> None:
        unacked = self._inbox.unacked
        if unacked is None:
            return  # another session of the account was faster
        reply = await self._ask(Ack(up_to=unacked))
        if isinstance(reply, AckReply):
            self._inbox.acked(reply.position)

    async def _flush(self) -> None:
        """Ack what was dealt with and not acked yet, as the last thing on this line."""
        unacked = self._inbox.unacked
        line = self._line
        if unacked is None or line is None or self._cut.is_set:
            return
        try:
            with self._cut.waking(line.line.shutdown):
                reply = await line.line.exchange(Ack(up_to=unacked), Deadline.after(FLUSH_SECONDS))
        except (LineBroken, Cancelled):
            return  # it comes again in the next session
        if isinstance(reply, AckReply):
            self._inbox.acked(reply.position)

    async def _ask(self, request: Request, wait: int = 0) -> Reply | None:
        """Carry out a request, opening a line for it if need be.

        Returns:
            The reply, or None when the line broke, or is about to.

        Raises:
            Cancelled: the worker is to end, or the session has ended.
        """
        line = await self._have_line()
        deadline = Deadline.after(wait + self._settings.reply_seconds)
        try:
            if isinstance(request, Watch):
                # What is on its way out may be an ack, so only the wait for the reply ends.
                with self._stop.waking(line.line.stop_reading):
                    reply = await line.line.exchange(request, deadline)
            else:
                with self._cut.waking(line.line.shutdown):
                    reply = await line.line.exchange(request, deadline)
        except LineBroken as broken:
            self._drop()
            self._stop.check()
            self._link.watch_lost(self.session, str(broken))
            if not line.proved:
                self._link.failed(self.session, str(broken))
            return None
        self._last_exchange = monotonic()
        if isinstance(reply, ErrorReply):
            error = RequestError.from_reply(reply)
            if isinstance(error, SessionExpired | NotLoggedIn):
                self._link.end_session(self.session, error.message)
                raise Cancelled
            if isinstance(error, ShuttingDown):
                self._drop()
                self._link.watch_lost(self.session, error.message)
                self._link.failed(self.session, error.message)
                return None
        if not line.proved:
            line.proved = True
            self._link.proved()
        self._link.alive()
        return reply

    async def _refused(self, error: RequestError) -> None:
        """See to it that the mailbox is not looked at again too soon."""
        log.warning("the mailbox cannot be read: %s: %s", error.code, error.message)
        if isinstance(error, CursorInvalid):
            # It is another mailbox than it was: the server's store was put back to before.
            status = await self._ask(Status())
            if isinstance(status, StatusReply):
                self._inbox.rewind(status.position)
        await self._pause((error.retry_after_ms or 0) / 1000)

    def _drop(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.line.close()


def backoff_of(settings: ClientSettings) -> Backoff:
    """Return a backoff as the settings say."""
    return Backoff(settings.backoff_first, settings.backoff_max, settings.backoff_jitter)


def _log_handler_error(message: Message, error: Exception) -> None:
    log.error(
        "on_message raised for message %s, which will come again",
        message.message_id,
        exc_info=error,
    )
