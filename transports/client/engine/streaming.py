"""A watcher that has the server send mail as it comes, for as long as there is room here.

::

    ┌──▶ Watch(after, ack, window, renew) ───────────▶ server
    │    server ──▶ messages, messages, … ──▶ inbox ──▶ handler or messages()
    └─── when there is room, or something to ack ◀──────────────┘

When that is so is for `stream` to say. The worker waits for the bytes of its connection; the
application nudges it out of that wait, and only when there is something to do. Where there is a
handler, the worker calls it itself, and looks between two calls whether there is.
"""

from math import ceil
from time import monotonic
from typing import Any

from twinline.core import errors, protocol
from twinline.core.deadline import Deadline
from twinline.transports.client.engine.backoff import Backoff
from twinline.transports.client.engine.connection import (
    Answer,
    Connection,
    ConnectionBroken,
    ReplyTimedOut,
)
from twinline.transports.client.engine.inbox import Progress
from twinline.transports.client.engine.stream import HALF_BYTES, Step, Stream
from twinline.transports.client.engine.watcher import Watcher


class StreamingWatcher(Watcher):
    """Holds a window of messages at most, and keeps a stream open while there is room."""

    _stream: Stream  # of the connection
    _window: int  # of the connection

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Prepare; see `Watcher`."""
        super().__init__(*arguments, **options)
        self._told = False  # whether the handler's progress asks for a look; the worker's own
        self._handler_backoff = Backoff.of(self._settings)  # the worker's own
        self._retry_at = Deadline(0.0)  # when the handler is called again; the worker's own

    def stop(self) -> None:
        """Ask the worker to ack what is dealt with, and to end; do not wait for it."""
        super().stop()
        self._nudge()

    async def _round(self) -> None:
        connection = await self._have_connection()
        if not connection.proved:
            await self._look_first(connection)
            return
        if early := connection.take_early():
            await self._take_in(connection, early)
            return
        progress = self._inbox.progress
        step = self._stream.step(progress, connection.received)
        match step.request:
            case protocol.Watch() as watch:
                if self._send(connection, watch, progress) and not progress.held:
                    # Nobody has anything to tell before the next mail. So that is waited for at
                    # once: whoever deals with the last one wants the interpreter now.
                    await self._receive(connection, Step(None, self._stream.dead_at))
            case protocol.Ack() as ack:
                await self._ack(ack, progress)
            case protocol.Ping() as ping:
                await self._ask(ping)
                self._stream.alive()
            case _ if self._on_message is None or not progress.held:
                await self._receive(connection, step)
            case _ if not self._retry_at.passed:
                until = min(step.until, monotonic() + (self._retry_at.remaining() or 0.0))
                await self._receive(connection, step._replace(until=until))
            case _:
                await self._call_handler(step)

    def _progressed(self) -> None:
        self._told = True
        if self._on_message is None:
            self._nudge()

    def _tell_at(self, step: Step) -> bool:
        return self._inbox.tell_at(
            taken=step.taken, done=step.done, below=step.below, empty=step.empty
        )

    def _nudge(self) -> None:
        # What it is about was changed before. So the worker has seen it if this is a connection of
        # before: it takes another one before it looks.
        connection = self._connection
        if connection is not None:
            connection.nudge()

    # -- the connection -----------------------------------------------------------------

    def _connected(self, connection: Connection) -> None:
        connection.accept_nudges()
        self._begin_stream(connection)

    def _begin_stream(self, connection: Connection) -> None:
        settings = self._settings
        self._window = max(1, min(settings.window, connection.limits.page))
        self._stream = Stream(
            window=self._window,
            page=max(1, min(settings.batch, connection.limits.page)),
            wait=min(ceil(settings.wait_seconds), connection.limits.wait_seconds),
            kinds=self._kinds,
            idle_seconds=settings.wait_seconds,
            reply_seconds=settings.reply_seconds,
            pace_seconds=settings.poll_seconds,
            clock=monotonic,
        )

    async def _look_first(self, connection: Connection) -> None:
        """Prove the connection by a look that does not wait: it brings what is there already."""
        progress = self._inbox.progress
        room = self._window - progress.held
        if room <= 0 or progress.held_bytes >= HALF_BYTES:
            await self._ask(protocol.Ping())
            return
        limit = max(1, min(self._settings.batch, connection.limits.page, room))
        request = protocol.Watch(
            after=progress.cursor, ack=progress.unacked, limit=limit, kinds=self._kinds
        )
        reply = await self._ask(request)
        if isinstance(reply, protocol.ErrorReply):
            await self._refused(errors.RequestError.from_reply(reply))
        if isinstance(reply, protocol.WatchReply):
            self._backoff.reset()
            # Of more than was asked for the rest is asked for again.
            entries = reply.entries[:limit]
            seen = reply.seen if len(entries) == len(reply.entries) else 0
            self._put(entries, max(reply.position, request.ack or 0), seen)

    def _send(self, connection: Connection, watch: protocol.Watch, progress: Progress) -> bool:
        """Send a watch, and return whether the connection has taken it."""
        try:
            asked = connection.send(watch, Deadline.after(self._settings.reply_seconds))
        except (ConnectionBroken, errors.FrameTooLarge) as error:
            self._broke(connection, error)
            return False
        self._stream.sent(asked, progress, connection.received)
        return True

    async def _ack(self, ack: protocol.Ack, progress: Progress) -> None:
        reply = await self._ask(ack)
        if isinstance(reply, protocol.AckReply):
            self._stream.said(ack.up_to, progress)
            self._stream.alive()
            self._inbox.acked(max(reply.position, ack.up_to))
        elif reply is not None:
            self._stream.refused()

    async def _receive(self, connection: Connection, step: Step) -> None:
        """Take in what comes, unless there is something else to do first."""
        if step.asks_to_be_told and self._tell_at(step):
            return
        until = Deadline(step.until)
        try:
            answers = await connection.receive(until)
            if answers:
                await self._take_in(connection, answers)
            elif answers is not None and monotonic() >= self._stream.dead_at:
                raise ReplyTimedOut("the server did not answer in time")
        except ConnectionBroken as broken:
            self._broke(connection, broken)

    async def _take_in(self, connection: Connection, answers: list[Answer]) -> None:
        refusal: errors.RequestError | None = None
        for asked, reply in answers:
            if not self._lasts(connection, reply):
                return
            if isinstance(reply, protocol.ErrorReply):
                self._stream.refused(asked)
                refusal = errors.RequestError.from_reply(reply)
            elif isinstance(reply, protocol.WatchReply):
                self._backoff.reset()
                acked = self._stream.answered(asked, ended=not reply.more)
                # Behind a cursor that is not of this mailbox others would be passed over.
                if not isinstance(refusal, errors.CursorInvalid):
                    self._put(reply.entries, max(reply.position, acked), reply.seen)
        if refusal is not None:
            await self._refused(refusal)

    def _put(self, entries: tuple[protocol.Entry, ...], position: int, seen: int) -> None:
        if self._inbox.put(entries, position, seen):
            self._stream.fetched()

    def _rewind(self, position: int) -> None:
        super()._rewind(position)
        if self._connection is not None:
            # The streams of before are over, and what they brought is of another mailbox.
            self._connection.take_early()
            self._begin_stream(self._connection)

    # -- the handler --------------------------------------------------------------------

    async def _call_handler(self, step: Step) -> None:
        """Hand over messages in order until there is something else to do."""
        self._told = False
        if self._tell_at(step):
            return
        entry = self._inbox.head()
        while entry is not None:
            if not await self._handle(entry):
                # Meanwhile the stream goes on, and what is dealt with is acked.
                self._retry_at = Deadline.after(self._handler_backoff.next())
                return
            self._handler_backoff.reset()
            entry = self._inbox.pop(entry, done=True)
            if self._told or monotonic() >= step.until:
                return
