"""The messages between the watcher that fetches them and the application that consumes them."""

import threading
from collections import deque
from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from twinline.core.deadline import Deadline
from twinline.core.locks import new_lock
from twinline.core.protocol import Entry, Message
from twinline.core.waiting import Wake
from twinline.transports.client.engine.cancel import Cancelled, CancelToken, Waiter
from twinline.transports.client.errors import ClientBusy


class Progress(NamedTuple):
    """Where an inbox stands, at one moment.

    Attributes:
        cursor: the last seq that was fetched.
        unacked: the seq that the next ack should have, or None when the server knows it all.
        held: how many messages are fetched and not dealt with.
        held_bytes: of their bodies, in UTF-8.
        taken: how many have ever been taken out.
        done: how many of those may be acked.
    """

    cursor: int
    unacked: int | None
    held: int
    held_bytes: int
    taken: int
    done: int


class Inbox:
    """One session's messages: fetched, not dealt with yet, and how far acks have come.

    ::

        position ............ done ............... cursor
        acked at the server   dealt with here      fetched; what lies below is never taken twice

    How much it holds is for the watcher to see to, which asks to be told when the application has
    come so far that there is something to do: see `tell_at`.
    """

    def __init__(self, position: int) -> None:
        """Begin with nothing fetched.

        Args:
            position: the last acked seq of the mailbox.
        """
        self._lock = new_lock("inbox")
        self._pending: deque[Entry] = deque()  # guarded by _lock
        self._cursor = position  # the last seq fetched; guarded by _lock
        self._done = position  # the last seq dealt with; guarded by _lock
        self._position = position  # the last seq known to be acked; guarded by _lock
        self._consumer: MessageLoop | None = None  # the last one; guarded by _lock
        self._held_bytes = 0  # of the bodies of _pending; guarded by _lock
        self._taken = 0  # how many were taken out; guarded by _lock
        self._done_count = 0  # how many of those may be acked; guarded by _lock
        self._on_progress: Wake | None = None  # guarded by _lock
        self._tell_taken = inf  # when to call it next; guarded by _lock
        self._tell_done = inf  # the same; guarded by _lock
        self._tell_below = 0  # the same; guarded by _lock
        self._tell_empty = False  # the same; guarded by _lock
        self._ended = CancelToken("end of inbox")

    # -- for the watcher ----------------------------------------------------------------

    def on_progress(self, wake: Wake) -> None:
        """Have this called when the application has come as far as `tell_at` says."""
        with self._lock:
            self._on_progress = wake

    def tell_at(
        self, *, taken: float = inf, done: float = inf, below: int = 0, empty: bool = False
    ) -> bool:
        """Say when the watcher is to be told of progress the next time, once.

        Args:
            taken: when so many messages have ever been taken out.
            done: when so many of those may be acked.
            below: when fewer bytes of bodies than this are held.
            empty: when there is none left.

        Returns:
            Whether it has come so far already, so that nothing will be told.
        """
        with self._lock:
            self._tell_taken, self._tell_done = taken, done
            self._tell_below, self._tell_empty = below, empty
            return self._has_come()

    @property
    def progress(self) -> Progress:
        """Where it stands."""
        with self._lock:
            return Progress(
                self._cursor,
                self._done if self._done > self._position else None,
                len(self._pending),
                self._held_bytes,
                self._taken,
                self._done_count,
            )

    @property
    def cursor(self) -> int:
        """The last seq that was fetched."""
        with self._lock:
            return self._cursor

    def is_empty(self) -> bool:
        """Whether all that was fetched is dealt with."""
        with self._lock:
            return not self._pending

    @property
    def unacked(self) -> int | None:
        """The seq that the next ack should have, or None when the server knows it all."""
        with self._lock:
            return self._done if self._done > self._position else None

    def put(self, entries: Sequence[Entry], position: int = 0, seen: int = 0) -> bool:
        """Take what was fetched, and return whether any is new; what was seen before is dropped.

        Args:
            entries: by rising seq.
            position: as `acked` has it, of the same reply.
            seen: up to where the reply has looked.
        """
        with self._lock:
            before = self._cursor
            for entry in entries:
                if entry.seq > self._cursor:
                    self._pending.append(entry)
                    self._held_bytes += _size(entry)
                    self._cursor = entry.seq
            any_new = self._cursor > before
            self._cursor = max(self._cursor, seen)
            self._position = max(self._position, min(position, self._cursor))
            consumer = self._consumer
        if any_new and consumer is not None:
            consumer.waiter.wake()
        return any_new

    def acked(self, up_to: int) -> None:
        """Note how far the server knows that messages are dealt with.

        Beyond what was fetched it says nothing: others may have acked that, or a server be wrong,
        and what is dealt with here is acked all the same.

        Args:
            up_to: the position that the server told, or an ack that it has answered.
        """
        with self._lock:
            self._position = max(self._position, min(up_to, self._cursor))

    def rewind(self, position: int) -> None:
        """Begin again from the server's position: its mailbox is another than it was."""
        with self._lock:
            self._pending.clear()
            self._held_bytes = 0
            self._cursor = self._done = self._position = position

    # -- for the application ------------------------------------------------------------

    def head(self) -> Entry | None:
        """Return the first entry that is not dealt with; it stays where it is."""
        with self._lock:
            return self._pending[0] if self._pending else None

    async def wait_head(self, waiter: Waiter, deadline: Deadline) -> Entry | None:
        """Return the first entry that is not dealt with, waiting for it if need be.

        Args:
            waiter: the consumer's.
            deadline: for a message to be there.

        Returns:
            None when there is none in time, or the inbox has ended.
        """
        while not self._ended.is_set:
            message = self.head()
            if message is not None:
                return message
            try:
                woken = await self._ended.wait(waiter, deadline)
            except Cancelled:
                break
            if not woken:
                break
        return None

    def pop(self, entry: Entry, *, done: bool) -> Entry | None:
        """Take the first entry out, and return the next one, which stays.

        Args:
            entry: what `head` returned; nothing is taken out if it is not the first any more.
            done: whether it may be acked, with all before it.
        """
        wake = None
        with self._lock:
            pending = self._pending
            if pending and pending[0] is entry:
                pending.popleft()
                self._held_bytes -= _size(entry)
                self._taken += 1
                if done:
                    self._done = entry.seq
                    self._done_count += 1
                if self._has_come():
                    wake = self._on_progress
            head = pending[0] if pending and not self._ended.is_set else None
        if wake is not None:
            wake()
        return head

    def drop(self, up_to: int) -> None:
        """Take out what the application has acked by itself, handed over or not, fetched or not."""
        with self._lock:
            while self._pending and self._pending[0].seq <= up_to:
                self._held_bytes -= _size(self._pending.popleft())
                self._taken += 1
            # The three move together. A page that is under way may still bring what was acked:
            # it lies below the cursor.
            self._cursor = max(self._cursor, up_to)
            self._done = max(self._done, up_to)
            self._position = max(self._position, up_to)
            on_progress = self._on_progress
        if on_progress is not None:
            on_progress()

    def enter(self, consumer: "MessageLoop") -> None:
        """Have a loop as the consumer, for as long as it lasts.

        Raises:
            ClientBusy: another one lasts.
        """
        with self._lock:
            if self._consumer is not None and self._consumer.lasts.locked():
                raise ClientBusy("another loop over messages() is running")
            self._consumer = consumer

    def end(self) -> None:
        """End the consumer's wait, now and from now on: the session or the client has ended."""
        self._ended.set()

    def _has_come(self) -> bool:
        """Return whether the watcher is to be told, and have it told once; with the lock held."""
        if (
            self._taken < self._tell_taken
            and self._done_count < self._tell_done
            and self._held_bytes >= self._tell_below
            and not (self._tell_empty and not self._pending)
        ):
            return False
        self._tell_taken = self._tell_done = inf
        self._tell_below, self._tell_empty = 0, False
        return True


def _size(entry: Entry) -> int:
    if not isinstance(entry, Message):
        return 0
    body = entry.body
    return len(body) if body.isascii() else len(body.encode())


class MessageLoop:
    """One loop over an inbox: a message is dealt with when the loop comes back for the next.

    Attributes:
        lasts: held while it is the inbox's consumer, by whatever is left however the loop is: a
            message that the body still had stays in the inbox.
        waiter: woken when there is a message.
    """

    def __init__(self, inbox: Inbox, waiter: Waiter, timeout: float | None, *, ack: bool) -> None:
        """Prepare; `enter` begins.

        Args:
            inbox: where the messages are.
            waiter: of the loop.
            timeout: how long to wait for each message, in seconds; None for ever.
            ack: whether what is dealt with may be acked.
        """
        self.lasts = threading.Lock()
        self.waiter = waiter
        self._inbox = inbox
        self._timeout = timeout
        self._ack = ack
        self._message: Entry | None = None  # that the body of the loop has now

    def enter(self) -> None:
        """Become the inbox's consumer, with ``lasts`` held.

        Raises:
            ClientBusy: there is another consumer.
        """
        self._inbox.enter(self)

    async def next(self) -> Entry | None:
        """Deal with the message before, and return the next; None at the end."""
        message = self.next_nowait()
        if message is None:
            deadline = Deadline.after(self._timeout)
            message = self._message = await self._inbox.wait_head(self.waiter, deadline)
        return message

    def next_nowait(self) -> Entry | None:
        """Deal with the message before, and return the next if it is there already."""
        message, self._message = self._message, None
        if message is None:
            return None
        message = self._message = self._inbox.pop(message, done=self._ack)
        return message
