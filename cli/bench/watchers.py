"""The watchers of `twinline bench`: connections that receive messages, count and acknowledge them.

Nothing is decoded while the clock runs. What a watcher receives is kept, and read when the time
is up; until then a message is known by its text, which stands in every transport as it is.

Acknowledgements go as the client engine has them: at once if none went in the last 50 ms, and else
after that time or with the 32nd message. So go those to servers that are measured beside.
"""

import socket
import time
from collections.abc import Callable
from typing import Final

from twinline.cli.bench.sockets import receive
from twinline.cli.bench.wire import BODY

_MARK: Final = BODY.encode()
ACK_MESSAGES: Final = 32
"""So many messages bring the next acknowledgement, however soon it follows the one before."""
ACK_SECONDS: Final = 0.05
"""How long after one the next goes with the first message."""


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
        self._said_at = 0.0
        self._tail = b""

    def begin(self) -> None:
        """Acknowledge what was not yet, and have what is sent from now on come."""
        if self._acknowledge is not None and self._said < self.seen:
            self._say()

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
        """Acknowledge what came and ask for what comes next, unless that can wait."""
        if self._acknowledge is not None and self._is_due():
            self._say()

    def _is_due(self) -> bool:
        if self.seen - self._said >= ACK_MESSAGES:
            return True
        return time.monotonic() - self._said_at >= ACK_SECONDS and self._said < self.seen

    def _say(self) -> None:
        assert self._acknowledge is not None  # noqa: S101 - else there is nobody to tell
        self.socket.send(self._acknowledge(self.seen))
        self._said, self._said_at = self.seen, time.monotonic()

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

    def begin(self) -> None:
        """Ask for the first message."""
        self.go_on()

    def go_on(self) -> None:
        """Ask for the next message."""
        self.socket.send(self._request)


class MailboxWatcher(Watcher):
    """A connection that watches a mailbox, as a stream or by one blocked watch after another.

    A stream is renewed by the watch that acknowledges what came.

    Attributes:
        streams: whether it watches by a stream; may be set between two loads.
        asked: how many watches it has sent since the last check.
        asked_bytes: the length of the last of them.
    """

    def __init__(
        self,
        connected: socket.socket,
        encode: Callable[[int, bool], bytes],
        *,
        streams: bool,
    ) -> None:
        """Take a connection that is logged in, to a mailbox whose mail is acknowledged.

        Args:
            connected: where messages come.
            encode: makes the watch that follows so many messages and acknowledges them, with
                whether it opens a stream.
            streams: whether it watches by a stream.
        """
        super().__init__(connected)
        self.asked = 0
        self.asked_bytes = 0
        self._encode = encode
        self.streams = streams

    def checked(self) -> None:
        """Note that what was received is as it should be."""
        super().checked()
        self.asked = 0

    def begin(self) -> None:
        """Watch from the last message on, and acknowledge it."""
        self._watch()

    def go_on(self) -> None:
        """Acknowledge what came and ask on, unless that can wait."""
        if not self.streams or self._is_due():
            self._watch()

    def _watch(self) -> None:
        frame = self._encode(self.seen, self.streams)
        self.socket.send(frame)
        self.asked += 1
        self.asked_bytes = len(frame)
        self._said, self._said_at = self.seen, time.monotonic()
