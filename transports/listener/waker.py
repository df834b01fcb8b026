"""Ends a wait for connections from another thread, or from a signal's handler."""

import contextlib
import socket
from typing import Self


class Waker:
    """Ends a wait from another thread or from a signal handler.

    A program that owns its process may make ``fileno()`` the interpreter's wakeup descriptor
    (`signal.set_wakeup_fd`), for as long as the waker is open: then every signal ends the wait.
    It is a pair of sockets, because the interpreter writes single bytes, which an eventfd refuses.
    """

    def __init__(self) -> None:
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)  # noqa: FBT003
        self._waker.setblocking(False)  # noqa: FBT003

    def fileno(self) -> int:
        """Return the descriptor that a byte is to be written to; it does not block."""
        return self._waker.fileno()

    def wake(self) -> None:
        """End the wait that is under way, or the next one."""
        # A full buffer means that a wake-up is pending; a closed socket, that no wait is.
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    @property
    def woken(self) -> socket.socket:
        """What is readable once it was woken; for whoever waits."""
        return self._woken

    def clear(self) -> None:
        """Forget that it was woken; for whoever waits."""
        with contextlib.suppress(OSError):
            self._woken.recv(4096)

    def close(self) -> None:
        """Release what it holds; it may still be woken, to no effect."""
        self._woken.close()
        self._waker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
