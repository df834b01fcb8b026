"""Which server a client goes to next: of those with one state, one after the other.

A round begins with the server that worked last, and goes on to the next one after each failure, at
once. When each has failed the round is over, and the next one begins after a wait. The order is one
of chance, made once for each client, so that clients spread over the servers, and those of a server
that ends spread over the others.

A server that ends may name others. They are tried first, but not believed in everything: see
`believed`.
"""

import random
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from time import monotonic
from typing import Final

from twinline.transports.client.options import ClientOptions, Server
from twinline.transports.contract import TransportError
from twinline.transports.endpoints import Endpoint

MOST_NAMED: Final = 4
"""How many servers that another one names are kept in mind at once."""
_MOST_READ: Final = 64
_MOST_REASONS: Final = 16


def believed(options: ClientOptions, named: Iterable[str], here: Server) -> list[Server]:
    """Return the servers that another one has named, without those that are passed over.

    The session's token is about to be sent there. So it must be no easier for others to read on the
    way than before: from TLS there is no way to what is in plain, nor from this machine to what is
    in plain beyond it. And nobody elsewhere has a say in what the client does on its own machine.

    Args:
        options: the client's.
        named: their endpoints, as the server wrote them.
        here: the server that named them.
    """
    found: dict[Server, None] = {}
    for text in islice(named, _MOST_READ):
        if len(found) == MOST_NAMED:
            break
        try:
            endpoint = Endpoint.parse(text)
            endpoint.check_connectable()
            if not _is_as_safe(endpoint, here.endpoint):
                continue
            known = (each for each in options.servers if each.endpoint.place == endpoint.place)
            if (server := next(known, None)) is None:
                if endpoint.transport is None and endpoint.scheme is here.endpoint.scheme:
                    endpoint = replace(endpoint, transport=here.endpoint.transport)
                server = options.server(endpoint, here)
        except TransportError:
            continue
        found[server] = None
    return list(found)


def _is_as_safe(named: Endpoint, here: Endpoint) -> bool:
    if named.is_local:
        return here.is_local and (named.scheme.is_tls or not here.scheme.is_tls)
    return named.scheme.is_tls or not (here.scheme.is_tls or here.is_local)


class Route:
    """The servers of one client, and which of them is next.

    Not safe for several threads at once; its owner guards it.

    Attributes:
        server: to go to now, or the one that works.
    """

    def __init__(self, options: ClientOptions) -> None:
        """Begin at a server of chance, unless the settings say that their order is meant."""
        self._shuffle = options.settings.shuffle
        self._quiet = options.settings.backoff_first
        self._ring = list(options.servers)
        if self._shuffle:
            random.shuffle(self._ring)
        self._at = 0  # of the server of the ring that was gone to last
        self._named: list[Server] = []  # by a server that ended, and not tried since
        self._failed: set[Server] = set()  # in this round
        self._worked_at: float | None = None  # when one was first of use after the last failure
        self._reasons: dict[Server, str] = {}  # why each failed, since one was of use
        self.server = self._ring[0]

    @property
    def why(self) -> str:
        """Why no server was of use, for a person; with their endpoints where there are several."""
        if len(self._ring) == 1 and list(self._reasons) == self._ring:
            return self._reasons[self._ring[0]]
        places: dict[str, list[str]] = {}
        for server, reason in self._reasons.items():
            places.setdefault(reason, []).append(server.endpoint.place)
        return "; ".join(f"{', '.join(those)}: {reason}" for reason, those in places.items())

    def failed(self, server: Server, reason: str, named: Iterable[Server] = ()) -> bool:
        """Go on to another server.

        Args:
            server: that has failed.
            reason: for a person.
            named: those that it has named in its place.

        Returns:
            Whether there is one that has not failed in this round; else the round is over.
        """
        self._note(server)
        self._reasons.pop(server, None)
        self._reasons[server] = reason  # the last one, at the end
        for oldest in list(self._reasons)[:-_MOST_REASONS]:
            del self._reasons[oldest]
        if those := [each for each in named if each not in self._failed]:
            if self._shuffle:
                random.shuffle(those)  # all clients of that server were told the same
            self._named = those
        elif server != self.server and self.server not in self._failed:
            return True  # another connection has found that out before, and gone on
        return self._go_on()

    def avoid(self, server: Server) -> None:
        """Go to another server first, if there is one: this one has stopped answering."""
        if server == self.server:
            self._note(server)
            self._go_on()

    def works(self, server: Server) -> None:
        """Stay at a server: it has carried a request."""
        if self._worked_at is None:
            self._worked_at = monotonic()
        self._reasons.clear()
        self.server = server
        if server in self._ring:
            self._at = self._ring.index(server)

    def _note(self, server: Server) -> None:
        # One that worked for a while begins another round. One that breaks at once does not, or
        # servers that take turns at that would be gone to in a circle without a wait.
        if self._worked_at is not None and monotonic() - self._worked_at >= self._quiet:
            self._failed.clear()
        self._worked_at = None
        self._failed.add(server)
        self._named = [each for each in self._named if each != server]

    def _go_on(self) -> bool:
        """Go to the next server that has not failed in this round, and return whether one has."""
        for server in self._named:
            if server not in self._failed:
                self.server = server
                return True
        for step in range(1, len(self._ring) + 1):
            at = (self._at + step) % len(self._ring)
            if self._ring[at] not in self._failed:
                self._at, self.server = at, self._ring[at]
                return True
        self._failed.clear()
        self._at = (self._at + 1) % len(self._ring)
        self.server = self._ring[self._at]
        return False
