"""A watcher that fetches a page at a time, by blocking for it or by polling.

::

    ┌─▶ Watch(after = cursor, ack = done) ──▶ messages ──▶ inbox ──▶ handler or messages()
    └────────────── when the application has dealt with all of them ◀─────────────┘

While the application takes its time, it acks what is dealt with so far and sends a ping now and
then, so that a dead connection is noticed.
"""

from math import ceil, inf
from time import monotonic
from typing import Final

from twinline.core import errors, protocol
from twinline.core.deadline import Deadline
from twinline.transports.client.engine.stream import LOOK_SECONDS
from twinline.transports.client.engine.watcher import Watcher
from twinline.transports.client.settings import WatchMode

ACK_SECONDS: Final = 0.2
"""How long a message may be dealt with and not acked while others of its page are not."""


class PagingWatcher(Watcher):
    """Holds one page, and fetches the next when the application has dealt with it."""

    async def _round(self) -> None:
        if self._on_message is None:
            await self._wait_for_application()
        else:
            await self._call_handler()
        await self._fetch()

    def _progressed(self) -> None:
        self._waiter.wake()

    async def _fetch(self) -> None:
        """Ask once for what is beyond the cursor."""
        connection = await self._have_connection()
        limits = connection.limits
        # The first look does not wait: it proves the connection, and brings what is there already.
        blocking = self._mode is WatchMode.BLOCKING
        first = blocking and not connection.proved
        waits = blocking and connection.proved
        wait = min(ceil(self._settings.wait_seconds), limits.wait_seconds) if waits else 0
        page = max(1, min(self._settings.batch, limits.page))
        request = protocol.Watch(
            after=self._inbox.cursor,
            ack=self._inbox.unacked,
            limit=page,
            wait=wait,
            kinds=self._kinds,
        )
        pace = Deadline.after(self._settings.poll_seconds)
        reply = await self._ask(request, wait)
        if isinstance(reply, protocol.ErrorReply):
            await self._refused(errors.RequestError.from_reply(reply))
        if not isinstance(reply, protocol.WatchReply):
            return
        self._backoff.reset()
        # Of more than was asked for the rest is asked for again.
        entries = reply.entries[:page]
        seen = reply.seen if len(entries) == len(reply.entries) else 0
        any_new = self._inbox.put(entries, max(reply.position, request.ack or 0), seen)
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
            # Of the first that is dealt with, which starts the clock of its ack, and of the last.
            first = self._inbox.progress.done + 1
            if self._inbox.tell_at(done=first if progress is None else inf, empty=True):
                continue
            # A signal's handler may keep the application from saying that it has dealt with one.
            await self._stop.wait(self._waiter, wake.sooner(LOOK_SECONDS))
            if self._inbox.is_empty():
                return  # the next watch carries the ack
            if progress is not None and progress.passed:
                await self._ack()
                progress = None
            elif due.passed:
                await self._ask(protocol.Ping())

    async def _call_handler(self) -> None:
        """Hand over each message in order; one that the handler fails on is handed over again."""
        acked_at = monotonic()
        while (entry := self._inbox.head()) is not None:
            if not await self._handle(entry):
                await self._pause()
                continue
            self._backoff.reset()
            self._inbox.pop(entry, done=True)
            if monotonic() - acked_at >= ACK_SECONDS and not self._inbox.is_empty():
                await self._ack()
                acked_at = monotonic()

    async def _ack(self) -> None:
        unacked = self._inbox.unacked
        if unacked is None:
            return  # another session of the account was faster
        reply = await self._ask(protocol.Ack(up_to=unacked))
        if isinstance(reply, protocol.AckReply):
            self._inbox.acked(max(reply.position, unacked))
