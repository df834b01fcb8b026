"""The states of a client that a user interface can show, reported in order."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from twinline.core.locks import new_lock
from twinline.transports.endpoints import Endpoint

log = logging.getLogger(__name__)


class StateKind(Enum):
    """Where a client stands."""

    CONNECTING = "connecting"
    """Never connected yet."""
    ONLINE = "online"
    """Connected, with a session."""
    RECONNECTING = "reconnecting"
    """The connection broke; commands wait."""
    LOGGED_OUT = "logged out"
    """Connected, without a session."""
    CLOSED = "closed"
    """`close` was called; the last state."""


@dataclass(frozen=True, slots=True)
class State:
    """A state, and why it came to it; `str` gives what a user interface shows.

    Attributes:
        kind: where the client stands.
        reason: a sentence for a person, or None where there is nothing to explain.
        retry_in: seconds from this state's beginning to the next attempt, or None.
        retry_at: that moment on the monotonic clock, or None.
        endpoint: of the server that this is about: while connected the one of the newest
            connection, else the one that is tried next; None where that is not known.
        node: how that server calls itself, where several have one state and are named.
    """

    kind: StateKind
    reason: str | None = None
    retry_in: float | None = None
    retry_at: float | None = field(default=None, compare=False)
    endpoint: Endpoint | None = None
    node: str | None = None

    def __str__(self) -> str:
        text: str = self.kind.value
        if self.retry_in is not None:
            text = f"{text} in {max(1, round(self.retry_in))} s"
        if self.reason is not None:
            text = f"{text}: {self.reason}"
        return text


class StateReport:
    """Reports every state to a callback, in order, one at a time, with no lock held.

    `push` is called under whatever lock decides the order of states, `deliver` after that lock
    has been released. The thread that delivers may be another than the one that pushed.
    """

    def __init__(self, on_state: Callable[[State], object] | None) -> None:
        self._on_state = on_state or _ignore
        self._queue: deque[State] = deque()  # its own operations are atomic
        self._lock = new_lock("state report")
        # Held by whoever calls the callback, for as long as that takes; a `with` leaves it even if
        # a signal's handler raises. Both are written under _lock.
        self._lasts: threading.Lock | None = None
        self._thread: int | None = None

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is within the callback."""
        lasts = self._lasts
        return lasts is not None and lasts.locked() and self._thread == threading.get_ident()

    def push(self, state: State) -> None:
        """Queue a state; it neither blocks nor takes a lock."""
        self._queue.append(state)

    def deliver(self) -> None:
        """Report what is queued, unless another thread does so: then that thread goes on."""
        lasts = threading.Lock()
        with lasts:
            while (state := self._begin(lasts)) is not None:
                try:
                    self._on_state(state)
                except Exception as error:  # noqa: BLE001 - whatever it is, the next is reported
                    self._complain(state, error)

    async def settle(self, seconds: float) -> None:
        """Wait until all is reported, where the callback is not called at once."""

    def _begin(self, lasts: threading.Lock) -> State | None:
        """Return the next state to report, unless there is none or one is being reported.

        Args:
            lasts: the caller's, which holds it while it reports.
        """
        with self._lock:
            others = self._lasts if self._lasts is not lasts else None
            if others is not None and others.locked():
                return None
            if not self._queue:
                self._lasts = None  # what is pushed from now on is another's to report
                return None
            self._lasts, self._thread = lasts, threading.get_ident()
            return self._queue.popleft()

    def _complain(self, state: State, error: Exception) -> None:
        log.error("on_state raised for %s", state.kind.value, exc_info=error)


def _ignore(_: State) -> None:
    """Do nothing with it: the client has no callback."""
