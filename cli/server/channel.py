"""What the parent of several nodes and each of them say to each other: JSON lines on a socket pair.

::

    parent ── start: settings, place ─▶ node
           ── reload: settings or why none, stop ─▶
           ◀── ready: durability ─────
           ◀── reload: please ────────
           ◀── drain ─────────────────
           ◀── failed: why, exit code ─

The node has its end as its standard input. The end of the stream is the other's end, however that
came: by kill -9 too.
"""

import json
import socket
from typing import Any, Final

Said = dict[str, Any]
MOST_BYTES: Final = 1 << 20
"""No line is longer: the longest one has all settings."""


class ChannelError(Exception):
    """What came is nothing that the other end says."""


class Channel:
    """One end; `send` may be called by any thread, all else by one."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._begun = b""

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def send(self, **said: Any) -> bool:
        """Say something, and return whether the other end is there."""
        try:
            self._socket.sendall(json.dumps(said).encode() + b"\n")
        except OSError:
            return False
        return True

    def receive(self) -> list[Said] | None:
        """Wait, and return what was said, which may be nothing whole yet; None at the end.

        Raises:
            ChannelError: it cannot be read.
        """
        try:
            data = self._socket.recv(65_536)
        except OSError:
            data = b""
        if not data:
            return None
        *lines, self._begun = (self._begun + data).split(b"\n")
        if len(self._begun) > MOST_BYTES:
            raise ChannelError("a line is too long")
        try:
            found = [json.loads(line) for line in lines]
        except ValueError as error:
            raise ChannelError(str(error)) from None
        if not all(isinstance(each, dict) for each in found):
            raise ChannelError("a line is no object")
        return found

    def close(self) -> None:
        """Close it; the other end notices."""
        self._socket.close()
