"""What the accept loop waits on: new connections, hang-ups, and a wake-up from another thread.

A connection's thread that waits for mail does not read its socket, so it cannot see its peer
leave. The accept loop can: the kernel reports a hang-up on any socket that is watched for one, at
no cost while nothing happens.
"""

import contextlib
import select
import socket
import threading
from typing import Any, Final, Self

from twinline.core.locks import may_block

_HANGUP_SUPPORTED: Final = hasattr(select, "epoll")
_SIGNAL_SECONDS: Final = 0.5
"""How long a signal may go unnoticed by a main thread that waits with a waker of its own."""


class Waker:
    """Ends a wait from another thread or from a signal handler.

    A program that owns its process may make ``fileno()`` the interpreter's wakeup descriptor
    (`signal.set_wakeup_fd`), for as long as the waker is open: then every signal ends the wait.
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
    """Waits for listening sockets and, where the system has epoll, for hang-ups.

    Elsewhere a hang-up during a wait is noticed when the wait is over.
    """

    def __init__(self, waker: Waker | None = None) -> None:
        """Prepare to wait.

        Args:
            waker: the caller's, which signals wake too and which stays open; None for one of its
                own.
        """
        self._sees_hangups = _HANGUP_SUPPORTED
        self._poll: Any = select.epoll() if self._sees_hangups else select.poll()
        self._units = 1 if self._sees_hangups else 1000  # of time, in a second
        self._owns_waker = waker is None
        with contextlib.ExitStack() as closed_on_error:
            if self._sees_hangups:
                poll: Any = self._poll
                closed_on_error.callback(poll.close)
            self._waker = waker or closed_on_error.enter_context(Waker())
            self.add(self._waker.woken)
            closed_on_error.pop_all()

    def add(self, listening: socket.socket) -> None:
        """Report arrivals on a listening socket; only from the thread that waits."""
        with contextlib.suppress(FileExistsError):  # it is reported already
            self._poll.register(listening, select.POLLIN)

    def remove(self, listening: socket.socket) -> None:
        """Report arrivals no more; only from the thread that waits."""
        with contextlib.suppress(FileNotFoundError, KeyError):  # they are not reported
            self._poll.unregister(listening)

    # A connection may outlive the drain, and with it the epoll: those two then do nothing.

    def watch_for_hangup(self, fd: int) -> None:
        """Report, once, that the peer of a connection has hung up; from any thread."""
        if self._sees_hangups:
            with contextlib.suppress(ValueError):
                self._poll.register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)

    def unwatch(self, fd: int) -> None:
        """Watch a connection no more; called before its socket is closed, from any thread."""
        if self._sees_hangups:
            with contextlib.suppress(ValueError):
                self._poll.unregister(fd)

    def wake(self) -> None:
        """Let `wait` return; from any thread or a signal handler."""
        self._waker.wake()

    def wait(self, seconds: float | None) -> list[tuple[int, bool]]:
        """Return what happened, as file descriptors; empty when woken or when the time is up.

        Returns:
            Pairs of a descriptor and whether it hung up, hang-ups first. The order matters: as
            only this thread accepts, no descriptor among the hang-ups can belong to a newer
            connection until the arrivals are dealt with.
        """
        may_block("waiting for connections")
        if self._owns_waker and threading.current_thread() is threading.main_thread():
            # A handler runs between two steps of Python; for a signal that came just before the
            # wait that is after it, and no signal is known to end the wait.
            seconds = _SIGNAL_SECONDS if seconds is None else min(seconds, _SIGNAL_SECONDS)
        happened = []
        for fd, mask in self._poll.poll(None if seconds is None else seconds * self._units):
            if fd == self._waker.woken.fileno():
                self._waker.clear()
            else:
                happened.append((fd, not mask & select.POLLIN))
        return sorted(happened, key=lambda event: not event[1])

    def close(self) -> None:
        """Release what it holds."""
        if self._sees_hangups:
            self._poll.close()
        if self._owns_waker:
            self._waker.close()
