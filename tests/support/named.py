"""Names for tests, with the addresses that a client is told; and addresses that are no good."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from twinline.transports.client import AsyncClient, Client
from twinline.transports.resolver import GetAddrInfo, Resolver

NAME = "chat.example"


def naming(*hosts: str) -> GetAddrInfo:
    """Return a ``getaddrinfo`` to which every name has these addresses, in this order."""

    def look_up(_name: str, port: int, **options: Any) -> list[tuple[Any, ...]]:
        return [found for host in hosts for found in socket.getaddrinfo(host, port, **options)]

    return look_up


def look_up_with(client: Client | AsyncClient, getaddrinfo: GetAddrInfo) -> Resolver:
    """Have a client that has not connected yet look its name up so."""
    resolver = client._engine._backend.resolver = Resolver(getaddrinfo)
    return resolver


class StuckLookup:
    """A ``getaddrinfo`` that does not return before it is told to.

    Attributes:
        calls: how often it was called.
    """

    def __init__(self, then: GetAddrInfo) -> None:
        self.calls = 0
        self.go_on = threading.Event()
        self._then = then

    def __call__(self, name: str, port: int, **options: Any) -> Any:
        self.calls += 1
        assert self.go_on.wait(60)
        return self._then(name, port, **options)


@contextmanager
def swallowing(port: int = 0, host: str = "127.0.0.2") -> Iterator[int]:
    """Have an address swallow what is sent to connect to it, and yield the port.

    The queue of a listening socket is full, and so the system drops what comes.
    """
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(0)
        place = listening.getsockname()
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(place)
        yield place[1]


@contextmanager
def mute(port: int, host: str = "127.0.0.2") -> Iterator[Callable[[], int]]:
    """Have an address take connections and answer none; yield what counts those of until now."""
    taken: list[socket.socket] = []
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()
        listening.setblocking(False)

        def count() -> int:
            while True:
                try:
                    taken.append(listening.accept()[0])
                except BlockingIOError:
                    return len(taken)

        try:
            yield count
        finally:
            for each in taken:
                each.close()
