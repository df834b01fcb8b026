"""A TCP proxy on loopback that does to a connection what networks do: the faults of the tests.

Each connection through it is a `Route` with two `Way`s, `up` to the server and `down` from it.
A fault is set on the proxy, for the connections to come, or on one route's way, at once.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from waiting import join, wait_until

from twinline.transports.endpoints import Endpoint
from twinline.transports.listener.binding import listen

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close() sends a reset


@dataclass(frozen=True)
class Fault:
    """What happens to the bytes of one direction.

    Attributes:
        delay: seconds before each piece.
        blackhole: bytes are read and dropped.
        pieces: pass on so many bytes at a time; None is as they come.
        cut_after: end the connection when so many bytes have been passed on.
        reset: whether a cut is a reset and not an orderly end.
        half_close: whether a cut ends this direction only.
    """

    delay: float = 0
    blackhole: bool = False
    pieces: int | None = None
    cut_after: int | None = None
    reset: bool = False
    half_close: bool = False


NO_FAULT = Fault()


class Way:
    """One direction of a connection.

    Attributes:
        route: the connection.
        fault: what happens to what comes from now on.
        passed: how many bytes have been passed on.
        seen: these bytes, from the first on, where the proxy was told to keep them.
    """

    def __init__(self, route: "Route", source: socket.socket, sink: socket.socket) -> None:
        self.route = route
        self.fault = NO_FAULT
        self.passed = 0
        self.seen: bytearray | None = None
        self._source = source
        self._sink = sink
        self._thread = threading.Thread(target=self._run, name="proxy way", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        join(self._thread)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._source.recv(65536):
                if not self._pass(data):
                    return
            self._sink.shutdown(socket.SHUT_WR)
            return
        self.route.cut()

    def _pass(self, data: bytes) -> bool:
        while data:
            fault = self.fault
            if fault.blackhole:
                return True
            size = fault.pieces or len(data)
            if fault.cut_after is not None:
                size = min(size, fault.cut_after - self.passed)
            piece, data = data[:size], data[size:]
            if fault.delay and self.route.ended.wait(fault.delay):
                return False
            if piece:
                # Counted first: what a peer has got is never missing from what a test reads here.
                self.passed += len(piece)
                if self.seen is not None:
                    self.seen += piece
                self._sink.sendall(piece)
            if fault.cut_after is not None and self.passed >= fault.cut_after:
                if fault.half_close:
                    self._sink.shutdown(socket.SHUT_WR)
                    return False
                self.route.cut(reset=fault.reset)
                return False
        return True


class Route:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._sockets = (client, server)
        self.ended = threading.Event()
        self.up = Way(self, client, server)
        self.down = Way(self, server, client)

    def start(self) -> None:
        self.up.start()
        self.down.start()

    def cut(self, *, reset: bool = False) -> None:
        """End the connection, both ways."""
        self.ended.set()
        for end in self._sockets:
            with contextlib.suppress(OSError):
                if reset:
                    # No end may be sent before the reset; reading is ended so that the way's
                    # own thread lets go of the socket.
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    end.shutdown(socket.SHUT_RD)
                else:
                    end.shutdown(socket.SHUT_RDWR)
        if reset:
            for end in self._sockets:
                end.close()

    def close(self) -> None:
        self.cut()
        self.up.join()
        self.down.join()
        for end in self._sockets:
            end.close()


class FaultProxy:
    """The proxy.

    Attributes:
        endpoint: where it listens; the port stays the same from `refuse` to `allow`.
        routes: all connections so far, in the order in which they came.
        up, down: the faults of connections to come, one for each direction.
        on_route: called with each new connection before a byte goes through.
        keeps: whether the bytes of connections to come are kept.
    """

    def __init__(self, target: Endpoint) -> None:
        self.target = target
        self.up = NO_FAULT
        self.down = NO_FAULT
        self.on_route: Callable[[Route], None] | None = None
        self.keeps = False
        self.routes: list[Route] = []
        self._bound = listen(Endpoint.parse("tcp://127.0.0.1:0"))
        self.endpoint = replace(self._bound.endpoint, scheme=target.scheme)
        self._accepting()

    def _accepting(self) -> None:
        self._bound.sockets[0].settimeout(None)
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._bound.sockets[0].accept()
                try:
                    server = socket.create_connection((self.target.host, self.target.port), 5)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                route = Route(client, server)
                route.up.fault = self.up
                route.down.fault = self.down
                if self.keeps:
                    route.up.seen, route.down.seen = bytearray(), bytearray()
                self.routes.append(route)
                if self.on_route is not None:
                    self.on_route(route)
                route.start()

    def wait_routes(self, count: int) -> Route:
        """Wait until so many connections have come, and return the last of them."""
        wait_until(lambda: len(self.routes) >= count, f"{count} connections")
        return self.routes[count - 1]

    def cut(self, *, reset: bool = False) -> None:
        """End every connection; new ones are taken."""
        for route in list(self.routes):
            route.cut(reset=reset)

    def refuse(self) -> None:
        """Listen no more and end every connection: a server that was killed."""
        with contextlib.suppress(OSError):
            self._bound.sockets[0].shutdown(socket.SHUT_RDWR)
        join(self._thread)
        self._bound.close()
        self.cut()

    def allow(self) -> None:
        """Listen again, on the same port."""
        self._bound = listen(self.endpoint)
        self._accepting()

    def close(self) -> None:
        self.refuse()
        for route in self.routes:
            route.close()

    def __enter__(self) -> "FaultProxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
