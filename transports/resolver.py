"""The addresses of an endpoint: names are looked up in a thread, which a deadline may abandon.

The system's ``getaddrinfo`` cannot be cut short. Where a name server does not answer, it blocks
for as long as it likes, so it does that in a daemon thread of its own, and whoever asked goes on
when its time is up.
"""

import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from twinline.core.deadline import Deadline
from twinline.core.locks import new_lock
from twinline.transports.endpoints import Endpoint, Scheme
from twinline.transports.race import Address, interleaved

GetAddrInfo = Callable[..., Sequence[tuple[Any, ...]]]
"""A function such as `socket.getaddrinfo`."""
FRESH_SECONDS: Final = 60.0
"""How long the answer to a lookup that was abandoned is good for the next attempt."""
THREAD_NAME: Final = "twinline lookup"
_MOST_DEMOTED: Final = 64
_MOST_LOOKUPS: Final = 64


class Lookup:
    """A name that is being looked up, or was."""

    def __init__(self, ask: Callable[[], list[Address]]) -> None:
        """Prepare; `start` begins.

        Args:
            ask: blocks, and raises OSError if there is no address.
        """
        self._ask = ask
        self._pid = os.getpid()
        self._lock = new_lock("lookup")
        self._wakes: list[Callable[[], object]] = []  # guarded by _lock
        self._outcome: list[Address] | OSError | None = None  # None: under way; set under _lock
        self._fresh = Deadline.after(None)
        self._taken = False

    def start(self) -> None:
        """Begin, in a thread."""
        try:
            threading.Thread(target=self.run, name=THREAD_NAME, daemon=True).start()
        except RuntimeError as error:
            self._end(OSError(f"no thread to look the name up in: {error}"))

    @property
    def is_of_use(self) -> bool:
        """Whether it is under way, or has an answer that nobody has taken and that is not old."""
        if self._outcome is None:
            return self._pid == os.getpid()  # its thread is not there in a forked child
        return not (self._taken or self._fresh.passed or isinstance(self._outcome, OSError))

    @property
    def is_done(self) -> bool:
        """Whether there is an outcome."""
        return self._outcome is not None

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """Have ``wake`` called in any thread, if the lookup ends while the body runs."""
        with self._lock:
            self._wakes.append(wake)
        try:
            if self.is_done:  # before it could be woken
                wake()
            yield
        finally:
            with self._lock:
                self._wakes.remove(wake)

    def take(self) -> list[Address]:
        """Return the addresses.

        Raises:
            TimeoutError: it is still under way.
            OSError: there are none.
        """
        outcome = self._outcome
        if outcome is None:
            raise TimeoutError("looking the name up takes too long")
        if isinstance(outcome, OSError):
            raise outcome
        self._taken = True
        return outcome

    def run(self) -> None:
        """Ask here and now; it never raises."""
        try:
            self._end(self._ask())
        except OSError as error:
            self._end(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the name has no address
            self._end(OSError(f"the name cannot be looked up: {error}"))

    def _end(self, outcome: list[Address] | OSError) -> None:
        self._fresh = Deadline.after(FRESH_SECONDS)
        with self._lock:
            self._outcome = outcome
            wakes = list(self._wakes)
        for wake in wakes:
            wake()


class Resolver:
    """Finds the addresses of one client's endpoints; at most one lookup of each is under way.

    It also remembers which addresses have connected and then been of no use, and puts them last:
    a server that takes connections and answers none would be the first of each attempt.
    """

    def __init__(self, getaddrinfo: GetAddrInfo = socket.getaddrinfo) -> None:
        self._getaddrinfo = getaddrinfo
        self._lock = new_lock("resolver")
        # The last one for each place, the latest at the end; guarded by _lock.
        self._lookups: dict[tuple[str, int], Lookup] = {}
        self._demoted: tuple[Address, ...] = ()  # the latest at the end; replaced as a whole

    def begin(self, endpoint: Endpoint) -> Lookup:
        """Return a lookup of an endpoint's addresses: the one under way, if there is one.

        It is done at once where there is no name to look up.
        """
        if endpoint.scheme is Scheme.UNIX:
            return _known(lambda: [Address(socket.AF_UNIX, 0, endpoint.path)])
        if _is_address(endpoint.host):
            return _known(lambda: _addresses(endpoint, socket.getaddrinfo, socket.AI_NUMERICHOST))
        place = (endpoint.host, endpoint.port)
        with self._lock:
            lookup = self._lookups.pop(place, None)
            begin = lookup is None or not lookup.is_of_use
            if lookup is None or begin:
                lookup = Lookup(lambda: _addresses(endpoint, self._getaddrinfo))
            self._lookups[place] = lookup
            if len(self._lookups) > _MOST_LOOKUPS:
                del self._lookups[next(iter(self._lookups))]
        if begin:
            lookup.start()
        return lookup

    def order(self, addresses: Sequence[Address]) -> list[Address]:
        """Return the addresses in the order in which they are to be tried."""
        last = self._demoted
        first = interleaved(address for address in addresses if address not in last)
        return first + [address for address in last if address in addresses]

    def demote(self, address: Address) -> None:
        """Try an address last from now on: it connected, and was of no use."""
        others = (each for each in self._demoted if each != address)
        self._demoted = (*others, address)[-_MOST_DEMOTED:]


def _known(ask: Callable[[], list[Address]]) -> Lookup:
    """Return a lookup that is done, for what does not block."""
    lookup = Lookup(ask)
    lookup.run()
    return lookup


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _addresses(endpoint: Endpoint, getaddrinfo: GetAddrInfo, flags: int = 0) -> list[Address]:
    found = getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=flags)
    if not found:
        raise OSError(f"{endpoint.host} has no address")
    return [Address(family, protocol, place) for family, _, protocol, _, place in found]
