"""The queue for hashes: so many run at once, and whoever waits for one waits by urgency."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Final
from weakref import WeakSet

from twinline.core.deadline import Deadline
from twinline.core.errors import Busy
from twinline.core.locks import may_block, new_lock
from twinline.core.waiting import Waiter, wake_all

_RETRY_AFTER_MS: Final = 1_000
_LOOK_AGAIN_SECONDS: Final = 0.5  # for a slot that an interrupted thread did not give back


class Urgency(IntEnum):
    """Whose hash comes first."""

    OWNER = 0
    """Asked for on an open session, or from an address that has logged in to the account."""
    LOGIN = 1
    """Any other login."""
    REGISTRATION = 2
    """A new account. It never takes the last slot where there are two."""


class _Ticket:
    """One that waits for a slot or has one; the queue's lock guards it."""

    __slots__ = ("__weakref__", "granted", "waiter")

    def __init__(self) -> None:
        self.waiter = Waiter()
        self.granted = False


class HashQueue:
    """A semaphore that is acquired by urgency, and by age within it."""

    def __init__(self, slots: int) -> None:
        """Let so many hashes run at once."""
        self._lock = new_lock("hash queue")
        self._slots = slots
        # Guarded by _lock. Each that waits is a thread of somebody's, so they are as many at most.
        # What holds a slot is known weakly: where a signal's handler raises in `_leave`, the slot
        # is free again when the frame that had the ticket is gone.
        self._held: WeakSet[_Ticket] = WeakSet()
        self._waiting: dict[Urgency, OrderedDict[_Ticket, None]] = {
            urgency: OrderedDict() for urgency in Urgency
        }
        self._kept = {Urgency.REGISTRATION: 1 if slots > 1 else 0}  # slots that are left to others

    @contextmanager
    def slot(self, urgency: Urgency, seconds: float) -> Iterator[None]:
        """Hold a slot, after waiting for it so many seconds at most.

        Raises:
            Busy: none was free in time.
        """
        may_block("hashing a password")
        ticket, deadline = _Ticket(), Deadline.after(seconds)
        try:
            self._enter(ticket, urgency)
            while not ticket.granted and not deadline.passed:
                if not ticket.waiter.wait(deadline.sooner(_LOOK_AGAIN_SECONDS)):
                    self._grant_what_is_free()
            if not ticket.granted:
                raise Busy("too many logins at once; try again", retry_after_ms=_RETRY_AFTER_MS)
            yield
        finally:
            self._leave(ticket, urgency)

    def _enter(self, ticket: _Ticket, urgency: Urgency) -> None:
        with self._lock:
            self._waiting[urgency][ticket] = None
        self._grant_what_is_free()

    def _leave(self, ticket: _Ticket, urgency: Urgency) -> None:
        with self._lock:
            self._waiting[urgency].pop(ticket, None)
            self._held.discard(ticket)
        self._grant_what_is_free()

    def _grant_what_is_free(self) -> None:
        with self._lock:
            granted = self._grant()
        wake_all(ticket.waiter.wake for ticket in granted)

    def _grant(self) -> list[_Ticket]:
        """Give free slots to those who wait, under the lock, and return whom to wake after it."""
        granted = []
        for urgency, waiting in self._waiting.items():
            while waiting and len(self._held) < self._slots - self._kept.get(urgency, 0):
                ticket, _ = waiting.popitem(last=False)
                self._held.add(ticket)
                ticket.granted = True
                granted.append(ticket)
        return granted
