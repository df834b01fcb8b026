"""What the accepting thread waits on: new connections, and a wake-up from another thread."""

import contextlib
import select
import socket
import threading
from typing import Final

from twinline.core.locks import may_block
from twinline.transports.listener.waker import Waker

_SIGNAL_SECONDS: Final = 0.5
"""How long a signal may go unnoticed by a main thread that waits with a waker of its own."""


class Poller:
    """Waits for arrivals on listening sockets, and for its waker."""

    def __init__(self, waker: Waker, *, signals_wake: bool) -> None:
        """Prepare to wait.

        Args:
            waker: what ends the wait.
            signals_wake: whether signals may be expected to wake it too.
        """
        self._poll = select.poll()
        self._signals_wake = signals_wake
        self._waker = waker
        self.add(waker.woken)

    def add(self, listening: socket.socket) -> None:
        """Report arrivals on a listening socket; only from the thread that waits."""
        self._poll.register(listening, select.POLLIN)

    def remove(self, listening: socket.socket) -> None:
        """Report arrivals no more; only from the thread that waits."""
        with contextlib.suppress(KeyError):  # they are not reported
            self._poll.unregister(listening)

    def wait(self, seconds: float | None) -> list[int]:
        """Return the descriptors that have arrivals; none when woken or when the time is up."""
        may_block("waiting for connections")
        if not self._signals_wake and threading.current_thread() is threading.main_thread():
            # A handler runs between two steps of Python; for a signal that came just before the
            # wait that is after it, and no signal is known to end the wait.
            seconds = _SIGNAL_SECONDS if seconds is None else min(seconds, _SIGNAL_SECONDS)
        happened = [fd for fd, _ in self._poll.poll(None if seconds is None else seconds * 1000)]
        if self._waker.woken.fileno() in happened:
            happened.remove(self._waker.woken.fileno())
            self._waker.clear()
        return happened
