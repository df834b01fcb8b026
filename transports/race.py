"""The race between the addresses of an endpoint: the first that answers carries the connection.

RFC 8305 ("Happy Eyeballs"), sections 4 and 5: the families take turns, an attempt begins 250 ms
after the one before or as soon as one has failed, those under way go on, the first to connect wins
and the others are closed. So an address that swallows packets costs a quarter of a second, and not
the whole attempt. Where the deadline leaves less than that for each address, they share what it
leaves.

`Race` has the rules and the sockets, and never waits. Whoever drives it does, a thread by polling
and a task by its event loop::

    with Race(addresses, deadline) as race:
        while (connected := race.step()) is None:
            ...  # until one of race.sockets is writable, or race.until passes
"""

import os
import socket
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from errno import EINPROGRESS
from itertools import zip_longest
from select import POLLOUT, poll
from typing import Any, Final, NamedTuple, Self

from twinline.core.deadline import Deadline
from twinline.transports.endpoints import tune

ATTEMPT_DELAY: Final = 0.25
"""Seconds from one attempt to the next; RFC 8305, section 8, recommends it."""
LEAST_DELAY: Final = 0.01
"""The least that section 8 allows, for many addresses and little time."""


class Address(NamedTuple):
    """What a socket connects to.

    Attributes:
        family: such as ``socket.AF_INET6``.
        protocol: as `socket.socket` takes it.
        place: as ``connect`` takes it.
    """

    family: int
    protocol: int
    place: Any

    def __str__(self) -> str:
        return self.place if isinstance(self.place, str) else str(self.place[0])


class Connected(NamedTuple):
    """The end of a race.

    Attributes:
        socket: connected; it does not block.
        address: that has won.
    """

    socket: socket.socket
    address: Address


def interleaved(addresses: Iterable[Address]) -> list[Address]:
    """Return the addresses, each once, such that their families take turns.

    Args:
        addresses: in the order of RFC 6724, which ``getaddrinfo`` gives them.
    """
    families: dict[int, list[Address]] = {}
    for address in dict.fromkeys(addresses):
        families.setdefault(address.family, []).append(address)
    turns = zip_longest(*families.values())
    return [address for turn in turns for address in turn if address is not None]


class Race:
    """Attempts to connect to some addresses; each attempt is a socket that does not block."""

    def __init__(self, addresses: Sequence[Address], deadline: Deadline) -> None:
        """Prepare; the first `step` begins.

        Args:
            addresses: in the order in which they are tried, one at least.
            deadline: for being connected.
        """
        self._left = deque(addresses)
        self._deadline = deadline
        seconds = deadline.remaining()
        share = ATTEMPT_DELAY if seconds is None else seconds / len(addresses)
        self._delay = max(LEAST_DELAY, min(ATTEMPT_DELAY, share))
        self._next = Deadline(0.0)  # when the next attempt is due
        self._running: dict[socket.socket, Address] = {}
        self._failures: dict[str, tuple[Address, OSError]] = {}  # by the reason

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close what has not won."""
        for each in self._running:
            each.close()

    @property
    def sockets(self) -> Iterable[socket.socket]:
        """The attempts that are under way: a socket is writable when its attempt has ended."""
        return self._running.keys()

    @property
    def until(self) -> Deadline:
        """When to take the next step, even if no socket is writable."""
        if not self._left:
            return self._deadline
        return self._deadline.sooner(self._next.remaining() or 0.0)

    def step(self) -> Connected | None:
        """Look what has become of the attempts, and begin those that are due.

        Returns:
            The winner, which is the caller's to close; None while there is none.

        Raises:
            TimeoutError: the deadline passed.
            OSError: every attempt has failed.
        """
        won = self._look()
        while won is None and self._left and self._next.passed:
            self._deadline.timeout()
            won = self._begin(self._left.popleft())
        if won is None:
            if not self._running:
                raise self._failure()
            self._deadline.timeout()
        return won

    def shutdown(self) -> None:
        """End all attempts that are under way; another thread may call it during the wait."""
        for each in self._running:
            with suppress(OSError):  # it was not connected yet, or is not any more
                each.shutdown(socket.SHUT_RDWR)

    def _begin(self, address: Address) -> Connected | None:
        self._next = Deadline.after(self._delay)
        try:
            attempt = socket.socket(address.family, socket.SOCK_STREAM, address.protocol)
        except OSError as error:  # a family that this machine has not, or no descriptor left
            self._failed(address, error)
            return None
        self._running[attempt] = address
        attempt.setblocking(False)  # noqa: FBT003 - the name of the method says what it means
        try:
            attempt.connect(address.place)
        except OSError as error:
            if error.errno != EINPROGRESS:  # EAGAIN is a Unix socket whose queue is full
                self._lost(attempt, error)
            return None
        return self._won(attempt)

    def _look(self) -> Connected | None:
        if not self._running:
            return None
        writable = poll()
        for each in self._running:
            writable.register(each, POLLOUT)
        ended = {descriptor for descriptor, _ in writable.poll(0)}
        for attempt in [each for each in self._running if each.fileno() in ended]:
            code = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._lost(attempt, OSError(code, os.strerror(code)))
            elif (won := self._won(attempt)) is not None:
                return won
        return None

    def _won(self, attempt: socket.socket) -> Connected | None:
        try:
            tune(attempt)
        except OSError as error:
            self._lost(attempt, error)
            return None
        return Connected(attempt, self._running.pop(attempt))

    def _lost(self, attempt: socket.socket, error: OSError) -> None:
        attempt.close()
        self._failed(self._running.pop(attempt), error)

    def _failed(self, address: Address, error: OSError) -> None:
        self._failures.setdefault(error.strerror or str(error), (address, error))
        self._next = Deadline(0.0)

    def _failure(self) -> OSError:
        """Return why no attempt has succeeded: the one reason, or each with an address of it."""
        if len(self._failures) == 1:
            return next(iter(self._failures.values()))[1]
        reasons = self._failures.items()
        return OSError("; ".join(f"{address}: {reason}" for reason, (address, _) in reasons))
