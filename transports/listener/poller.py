"""What the accept loop waits on: new connections, and a wake-up from another thread."""

import contextlib
import select
import socket
import threading
from typing import Final, Self

from twinline.core.locks import may_block

_SIGNAL_SECONDS: Final = 0.5
"""How long a signal may go unnoticed by a main thread that waits with a waker of its own."""


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


class Poller:
    """Waits for arrivals on listening sockets, and for its waker."""

    def __init__(self, waker: Waker | None = None) -> None:
        """Prepare to wait.

        Args:
            waker: the caller's, which signals wake too and which stays open; None for one of its
                own.
        """
        self._poll = select.poll()
        self._owns_waker = waker is None
        self._waker = waker or Waker()
        self.add(self._waker.woken)

    def add(self, listening: socket.socket) -> None:
        """Report arrivals on a listening socket; only from the thread that waits."""
        self._poll.register(listening, select.POLLIN)

    def remove(self, listening: socket.socket) -> None:
        """Report arrivals no more; only from the thread that waits."""
        with contextlib.suppress(KeyError):  # they are not reported
            self._poll.unregister(listening)

    def wake(self) -> None:
        """Let `wait` return; from any thread or a signal handler."""
        self._waker.wake()

    def wait(self, seconds: float | None) -> list[int]:
        """Return the descriptors that have arrivals; none when woken or when the time is up."""
        may_block("waiting for connections")
        if self._owns_waker and threading.current_thread() is threading.main_thread():
            # A handler runs between two steps of Python; for a signal that came just before the
            # wait that is after it, and no signal is known to end the wait.
            seconds = _SIGNAL_SECONDS if seconds is None else min(seconds, _SIGNAL_SECONDS)
        happened = [fd for fd, _ in self._poll.poll(None if seconds is None else seconds * 1000)]
        if self._waker.woken.fileno() in happened:
            happened.remove(self._waker.woken.fileno())
            self._waker.clear()
        return happened

    def close(self) -> None:
        """Release what it holds."""
        if self._owns_waker:
            self._waker.close()
