"""The watchers of `twinline bench`: connections that receive messages, count and acknowledge them.

Nothing is decoded while the clock runs. What a watcher receives is kept, and read when the time
is up; until then a message is known by its text, which stands in every transport as it is.
"""

import socket
import time
from collections.abc import Callable
from typing import Final

from twinline.cli.bench.sockets import receive
from twinline.cli.bench.wire import BODY

_MARK: Final = BODY.encode()
ACK_MESSAGES: Final = 32
"""While an acknowledgement is under way: so many messages bring the next one."""
ACK_SECONDS: Final = 0.05
"""Or so much time since the first of them."""


class Watcher:
    """A connection to which a server pushes messages.

    Attributes:
        socket: connected; nothing else may read it.
        seen: how many messages it has received.
        received: what it read since the last check.
    """

    def __init__(
        self, connected: socket.socket, acknowledge: Callable[[int], bytes] | None = None
    ) -> None:
        """Take a connection that waits for messages.

        Args:
            connected: where they come.
            acknowledge: makes the frame that acknowledges so many messages; None where the
                server wants to hear of none.
        """
        self.socket = connected
        self.seen = 0
        self.received: list[bytes] = []
        self._acknowledge = acknowledge
        self._checked = 0  # messages
        self._said = 0  # messages that were acknowledged
        self._tail = b""

    def begin(self) -> None:
        """Acknowledge what was not yet, and have what is sent from now on come."""
        self.go_on()

    def take(self) -> int:
        """Read what has come; return how many messages that brought, perhaps none.

        Raises:
            LoadError: the connection has come to its end.
        """
        data = receive(self.socket)
        self.received.append(data)
        # With the end of what came before, too short for a message: one may come in two pieces.
        data = self._tail + data
        self._tail = data[1 - len(_MARK) :]
        came = data.count(_MARK)
        self.seen += came
        return came

    def go_on(self) -> None:
        """Acknowledge what came, and ask for what comes next."""
        if self._acknowledge is not None and self._said < self.seen:
            self.socket.send(self._acknowledge(self.seen))
            self._said = self.seen

    @property
    def unchecked(self) -> int:
        """How many messages have come since the last check."""
        return self.seen - self._checked

    def checked(self) -> None:
        """Note that what was received is as it should be."""
        self.received.clear()
        self._checked = self.seen


class AskingWatcher(Watcher):
    """A connection that asks for each message by the same request."""

    def __init__(self, connected: socket.socket, request: bytes) -> None:
        """Take a connection, and what it asks with."""
        super().__init__(connected)
        self._request = request

    def go_on(self) -> None:
        """Ask for the next message."""
        self.socket.send(self._request)


class MailboxWatcher(Watcher):
    """A connection that watches a mailbox, as a stream or by one blocked watch after another.

    A stream is renewed as the client engine does it, with the acknowledgement of what came: at
    once when none is under way, and else with every 32 messages, or after 50 ms. An
    acknowledgement is under way until the last reply of the stream that it ended has come.

    Attributes:
        asked: how many watches it has sent since the last check.
        asked_bytes: the length of the last of them.
    """

    def __init__(
        self,
        connected: socket.socket,
        encode: Callable[[int, bool], bytes],
        last_reply: bytes,
        *,
        streams: bool,
    ) -> None:
        """Take a connection that is logged in, to a mailbox whose mail is acknowledged.

        Args:
            connected: where messages come.
            encode: makes the watch that follows so many messages and acknowledges them, with
                whether it opens a stream.
            last_reply: what the last reply of a stream begins with, and no other.
            streams: whether it watches by a stream.
        """
        super().__init__(connected)
        self.asked = 0
        self.asked_bytes = 0
        self._encode = encode
        self._last_reply = last_reply
        self._streams = streams
        self._open = 0  # watches whose last reply has not come
        self._waiting_since: float | None = None  # when the first of those that were not came

    def checked(self) -> None:
        """Note that what was received is as it should be."""
        super().checked()
        self.asked = 0

    @property
    def streams(self) -> bool:
        """Whether it watches by a stream; set between two loads."""
        return self._streams

    @streams.setter
    def streams(self, streams: bool) -> None:
        if streams != self._streams:
            # What a blocked watch asked for has come. A stream's end comes before the next reply.
            self._streams, self._open = streams, 0

    def begin(self) -> None:
        """Watch from the last message on, and acknowledge it."""
        self._watch()

    def take(self) -> int:
        """Read what has come; return how many messages that brought, perhaps none."""
        came = super().take()
        if self._open > 1:
            self._open -= self.received[-1].count(self._last_reply)
        return came

    def go_on(self) -> None:
        """Acknowledge what came and ask on, unless that can wait."""
        if not self._streams or self._open <= 1 or self._is_due():
            self._watch()

    def _is_due(self) -> bool:
        if self.seen - self._said >= ACK_MESSAGES:
            return True
        now = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        return now - self._waiting_since >= ACK_SECONDS

    def _watch(self) -> None:
        frame = self._encode(self.seen, self._streams)
        self.socket.send(frame)
        self.asked += 1
        self.asked_bytes = len(frame)
        self._open += self._streams
        self._said, self._waiting_since = self.seen, None
