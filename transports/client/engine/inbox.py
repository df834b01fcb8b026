"""The messages between the watcher that fetches them and the application that consumes them."""

import threading
from collections import deque
from collections.abc import Sequence

from twinline.core.deadline import Deadline
from twinline.core.locks import new_lock
from twinline.core.protocol import Message
from twinline.core.waiting import Wake
from twinline.transports.client.engine.cancel import Cancelled, CancelToken, Waiter
from twinline.transports.client.errors import ClientBusy


class Inbox:
    """One session's messages: fetched, not dealt with yet, and how far acks have come.

    ::

        position ............ done ............... cursor
        acked at the server   dealt with here      fetched; what lies below is never taken twice

    It holds one batch: the watcher fetches the next when this one is dealt with.
    """

    def __init__(self, position: int) -> None:
        """Begin with nothing fetched.

        Args:
            position: the last acked seq of the mailbox.
        """
        self._lock = new_lock("inbox")
        self._pending: deque[Message] = deque()  # guarded by _lock
        self._cursor = position  # the last seq fetched; guarded by _lock
        self._done = position  # the last seq dealt with; guarded by _lock
        self._position = position  # the last seq known to be acked; guarded by _lock
        self._consumer: MessageLoop | None = None  # the last one; guarded by _lock
        self._on_progress: Wake | None = None  # guarded by _lock
        self._ended = CancelToken("end of inbox")

    # -- for the watcher ----------------------------------------------------------------

    def on_progress(self, wake: Wake) -> None:
        """Have this called whenever the application has dealt with a message."""
        with self._lock:
            self._on_progress = wake

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

    def put(self, messages: Sequence[Message]) -> bool:
        """Take what was fetched, and return whether any is new; what was seen before is dropped."""
        with self._lock:
            before = self._cursor
            for message in messages:
                if message.seq > self._cursor:
                    self._pending.append(message)
                    self._cursor = message.seq
            any_new = self._cursor > before
            consumer = self._consumer
        if consumer is not None:
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
            self._cursor = self._done = self._position = position

    # -- for the application ------------------------------------------------------------

    def head(self) -> Message | None:
        """Return the first message that is not dealt with; it stays where it is."""
        with self._lock:
            return self._pending[0] if self._pending else None

    async def wait_head(self, waiter: Waiter, deadline: Deadline) -> Message | None:
        """Return the first message that is not dealt with, waiting for it if need be.

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

    def pop(self, message: Message, *, done: bool) -> None:
        """Take the first message out.

        Args:
            message: what `head` returned; nothing happens if it is not the first any more.
            done: whether it may be acked, with all before it.
        """
        with self._lock:
            if not self._pending or self._pending[0] is not message:
                return
            self._pending.popleft()
            if done:
                self._done = message.seq
            on_progress = self._on_progress
        if on_progress is not None:
            on_progress()

    def drop(self, up_to: int) -> None:
        """Take out what the application has acked by itself, handed over or not, fetched or not."""
        with self._lock:
            while self._pending and self._pending[0].seq <= up_to:
                self._pending.popleft()
            # The three move together. A batch that is under way may still bring what was acked:
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
        self._message: Message | None = None  # that the body of the loop has now

    def enter(self) -> None:
        """Become the inbox's consumer, with ``lasts`` held.

        Raises:
            ClientBusy: there is another consumer.
        """
        self._inbox.enter(self)

    async def next(self) -> Message | None:
        """Deal with the message before, and return the next; None at the end."""
        message, self._message = self._message, None
        if message is not None:
            self._inbox.pop(message, done=self._ack)
        self._message = await self._inbox.wait_head(self.waiter, Deadline.after(self._timeout))
        return self._message
