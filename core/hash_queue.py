"""The queue for hashes: so many run at once, and whoever waits for one waits by urgency.

Among those of one urgency each address has its turn, however many of its connections wait: one that
asks a thousand times at once makes another wait for one hash, not for a thousand.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from random import randint
from typing import Final
from weakref import WeakSet

from twinline.core.deadline import Deadline
from twinline.core.errors import Busy
from twinline.core.locks import may_block, new_lock
from twinline.core.metrics import Metrics
from twinline.core.waiting import Waiter, wake_all

_RETRY_AFTER_MS: Final = 1_000
_OWNERS_IN_A_ROW: Final = 2  # while another login waits
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

    __slots__ = ("__weakref__", "granted", "waiter", "whose")

    def __init__(self, whose: Hashable) -> None:
        self.whose = whose or id(self)
        self.waiter = Waiter()
        self.granted = False


class _Waiting:
    """Those who wait with one urgency, in turn by whose they are; the queue's lock guards it."""

    def __init__(self) -> None:
        self._tickets: OrderedDict[Hashable, OrderedDict[_Ticket, None]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._tickets.values()))

    def __bool__(self) -> bool:
        return bool(self._tickets)

    def add(self, ticket: _Ticket) -> None:
        self._tickets.setdefault(ticket.whose, OrderedDict())[ticket] = None

    def discard(self, ticket: _Ticket) -> None:
        mine = self._tickets.get(ticket.whose)
        if mine is not None:
            mine.pop(ticket, None)
            if not mine:
                del self._tickets[ticket.whose]

    def first(self) -> _Ticket:
        """Return who is next, and put what shares with it behind all others."""
        whose, mine = next(iter(self._tickets.items()))
        self._tickets.move_to_end(whose)
        return next(iter(mine))


class HashQueue:
    """A semaphore that is acquired by urgency, and in turn within it."""

    def __init__(self, slots: int, metrics: Metrics | None = None) -> None:
        """Let so many hashes run at once, and count them if there is something to count in."""
        self._metrics = metrics
        self._lock = new_lock("hash queue")
        self._slots = slots
        # Guarded by _lock. Each that waits is a thread of somebody's, so they are as many at most.
        # What holds a slot is known weakly: where a signal's handler raises in `_leave`, the slot
        # is free again when the frame that had the ticket is gone.
        self._held: WeakSet[_Ticket] = WeakSet()
        self._waiting = {urgency: _Waiting() for urgency in Urgency}
        self._owners = 0  # slots that went to owners since one went to another login
        if metrics is not None:
            metrics.hash_queues.append(self.standing)

    def standing(self) -> tuple[int, int]:
        """Return how many wait, and how many run."""
        with self._lock:
            return sum(map(len, self._waiting.values())), len(self._held)

    @contextmanager
    def slot(self, urgency: Urgency, seconds: float, whose: Hashable = None) -> Iterator[None]:
        """Hold a slot, after waiting for it so many seconds at most.

        Args:
            urgency: how soon it is to come.
            seconds: how long to wait.
            whose: what shares a turn with all others of the same; none with nobody.

        Raises:
            Busy: none was free in time.
        """
        may_block("hashing a password")
        ticket, deadline = _Ticket(whose), Deadline.after(seconds)
        metrics = self._metrics
        since = 0.0 if metrics is None else metrics.clock()
        try:
            self._enter(ticket, urgency)
            while not ticket.granted and not deadline.passed:
                if not ticket.waiter.wait(deadline.sooner(_LOOK_AGAIN_SECONDS)):
                    self._grant_what_is_free()
            if metrics is not None:
                asked, since = since, metrics.clock()
                metrics.hash_wait_seconds.observe(since - asked)
            if not ticket.granted:
                raise Busy(
                    "too many logins at once; try again",
                    # At a moment of its own: many are refused together.
                    retry_after_ms=randint(_RETRY_AFTER_MS, 2 * _RETRY_AFTER_MS),  # noqa: S311
                )
            yield
        finally:
            self._leave(ticket, urgency)
            if metrics is not None and ticket.granted:
                metrics.hash_seconds.observe(metrics.clock() - since)

    def _enter(self, ticket: _Ticket, urgency: Urgency) -> None:
        with self._lock:
            self._waiting[urgency].add(ticket)
        self._grant_what_is_free()

    def _leave(self, ticket: _Ticket, urgency: Urgency) -> None:
        with self._lock:
            self._waiting[urgency].discard(ticket)
            self._held.discard(ticket)
        self._grant_what_is_free()

    def _grant_what_is_free(self) -> None:
        with self._lock:
            granted = self._grant()
        wake_all(ticket.waiter.wake for ticket in granted)

    def _grant(self) -> list[_Ticket]:
        """Give free slots to those who wait, under the lock, and return whom to wake after it."""
        granted = []
        while (urgency := self._next()) is not None:
            ticket = self._waiting[urgency].first()
            # In this order: wherever a signal's handler raises, the ticket is in one of them.
            self._held.add(ticket)
            ticket.granted = True
            self._waiting[urgency].discard(ticket)
            granted.append(ticket)
        return granted

    def _next(self) -> Urgency | None:
        """Return the urgency of who gets a slot now, if there is one and somebody waits."""
        free = self._slots - len(self._held)
        owners, logins, registrations = self._waiting.values()
        # Owners come first, but keep no other login out.
        if free and logins and (not owners or self._owners >= _OWNERS_IN_A_ROW):
            self._owners = 0
            return Urgency.LOGIN
        if free and owners:
            self._owners += 1
            return Urgency.OWNER
        left_to_logins = 1 if self._slots > 1 else 0
        return Urgency.REGISTRATION if free > left_to_logins and registrations else None
