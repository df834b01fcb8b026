"""What the accept loop waits on: new connections, hang-ups, and a wake-up from another thread.

A connection's thread that waits for mail does not read its socket, so it cannot see its peer
leave. The accept loop can: the kernel reports a hang-up on any socket that is watched for one, at
no cost while nothing happens.
"""

import contextlib
import select
import signal
import socket
from typing import Any, Final

from twinline.core.locks import may_block

_HANGUP_SUPPORTED: Final = hasattr(select, "epoll")


class Poller:
    """Waits for listening sockets and, where the system has epoll, for hang-ups.

    Elsewhere a hang-up during a wait is noticed when the wait is over.
    """

    def __init__(self) -> None:
        self._sees_hangups = _HANGUP_SUPPORTED
        self._poll: Any = select.epoll() if self._sees_hangups else select.poll()
        self._units = 1 if self._sees_hangups else 1000  # of time, in a second
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)  # noqa: FBT003
        self._waker.setblocking(False)  # noqa: FBT003
        self._signals = False
        self.add(self._woken)

    def add(self, listening: socket.socket) -> None:
        """Report arrivals on a listening socket; only from the thread that waits."""
        self._poll.register(listening, select.POLLIN)

    def remove(self, listening: socket.socket) -> None:
        """Report arrivals no more; only from the thread that waits."""
        self._poll.unregister(listening)

    def watch_for_hangup(self, fd: int) -> None:
        """Report, once, that the peer of a connection has hung up; from any thread."""
        if self._sees_hangups:
            self._poll.register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)

    def unwatch(self, fd: int) -> None:
        """Watch a connection no more; called before its socket is closed, from any thread."""
        if self._sees_hangups:
            self._poll.unregister(fd)

    def wake(self) -> None:
        """Let `wait` return; from any thread or a signal handler."""
        # A full buffer means that a wake-up is pending; a closed socket, that no wait is.
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def wake_on_signals(self) -> None:
        """Let every signal wake `wait`, from now until `close`; only from the main thread.

        Python runs a signal's handler between two steps of Python. For a signal that comes just
        before the wait begins that would be after it; the byte that is written here, by the
        interpreter's own handler, ends the wait at once.
        """
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._signals = True

    def wait(self, seconds: float | None) -> list[tuple[int, bool]]:
        """Return what happened, as file descriptors; empty when woken or when the time is up.

        Returns:
            Pairs of a descriptor and whether it hung up, hang-ups first. The order matters: as
            only this thread accepts, no descriptor among the hang-ups can belong to a newer
            connection until the arrivals are dealt with.
        """
        may_block("waiting for connections")
        happened = []
        for fd, mask in self._poll.poll(None if seconds is None else seconds * self._units):
            if fd == self._woken.fileno():
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(4096)
            else:
                happened.append((fd, not mask & select.POLLIN))
        return sorted(happened, key=lambda event: not event[1])

    def close(self) -> None:
        """Release what it holds."""
        if self._signals:
            signal.set_wakeup_fd(-1)
        if self._sees_hangups:
            self._poll.close()
        self._woken.close()
        self._waker.close()
