"""The users of `twinline bench` that are connected and do nothing, two connections each.

The command connection is silent. The watch connection has an open stream, and renews it when it
has ended, so that there is one for as long as it is wanted.
"""

import os
import resource
import select
import socket
import ssl
import struct
import threading
from collections.abc import Sequence
from typing import Final, Self

from twinline.cli.bench.accounts import Member, OnDone, ignore
from twinline.cli.bench.sockets import LoadError
from twinline.cli.bench.wire import WINDOW, Wire, expect
from twinline.cli.console.exit_codes import ExitCode
from twinline.core.errors import RequestError
from twinline.core.protocol import Resume, SessionReply, Watch, WatchReply
from twinline.transports.client import ClientSettings
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint

CONNECTIONS_A_USER: Final = 2
"""Connections of a user."""
_WAIT_SECONDS: Final = round(ClientSettings().wait_seconds)  # as the client engine asks
_RECEIVE_BYTES: Final = 1 << 12


def room_for_users(wanted: int, reserved: int) -> int:
    """Return how many of the wanted users this process may have the descriptors for.

    Raises the process's limit on open files as far as it may.

    Args:
        wanted: users.
        reserved: descriptors for everything else.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CONNECTIONS_A_USER * wanted + reserved
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, needed)
    if soft < min(needed, hard):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))
        soft = min(needed, hard)
    return max(0, min(wanted, (soft - reserved) // CONNECTIONS_A_USER))


class Crowd:
    """Users that are connected and idle, until the end of the context.

    Attributes:
        received: how many messages have come for them.
    """

    def __init__(
        self, endpoint: Endpoint, transport: Transport, tls: ssl.SSLContext | None = None
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            endpoint: of the server.
            transport: to speak.
            tls: for an endpoint over TLS.
        """
        self._endpoint = endpoint
        self._tls = tls
        self._transport = transport
        self.received = 0  # written by the thread alone
        self._wires: list[Wire] = []
        self._watching: dict[int, tuple[Wire, int]] = {}  # by descriptor: connection and cursor
        self._poll = select.epoll()
        self._ending, self._end = os.pipe()  # readable once the other end is closed
        self._poll.register(self._ending, select.EPOLLIN)
        self._failure: LoadError | None = None  # written by the thread, and then it ends
        self._thread = threading.Thread(target=self._keep, name="idle users", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._end)
        self._thread.join()
        self._poll.close()
        os.close(self._ending)
        for wire in self._wires:
            wire.close()

    def join(self, members: Sequence[Member], on_done: OnDone = ignore) -> None:
        """Connect users.

        Raises:
            RequestError: the server refused one.
            LoadError: it does not answer, or takes no more connections.
        """
        for member in members:
            resume = Resume(session=member.token)
            self._connect().ask(resume, SessionReply)
            watching = self._connect()
            standing = watching.ask(resume, SessionReply)
            last = standing.position + standing.unread
            self._watching[watching.socket.fileno()] = watching, last
            _watch(watching, last)
            self._poll.register(watching.socket, select.EPOLLIN)
            on_done(1)

    def check(self) -> None:
        """Return if all are still there.

        Raises:
            LoadError: the server ended the connection of one.
        """
        if self._failure is not None:
            raise self._failure

    def reset_at_the_end(self) -> None:
        """Have the connections be reset when they are closed, as if the network had failed."""
        for wire in self._wires:
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _connect(self) -> Wire:
        wire = Wire(self._endpoint, self._transport, self._tls)
        self._wires.append(wire)
        return wire

    def _keep(self) -> None:
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._ending:
                    return
                watching, last = self._watching[descriptor]
                try:
                    reply = watching.take(watching.socket.recv(_RECEIVE_BYTES))
                    if reply is not None:
                        watched = expect(reply, WatchReply)
                        last = watched.messages[-1].seq if watched.messages else last
                        self.received += len(watched.messages)
                        self._watching[descriptor] = watching, last
                        if not watched.more:
                            _watch(watching, last)
                except (LoadError, RequestError, OSError):
                    message = "the server ended the connection of an idle user"
                    self._failure = LoadError(message, ExitCode.UNREACHABLE)
                    return


def _watch(watching: Wire, last: int) -> None:
    stream = Watch(after=last, wait=_WAIT_SECONDS, window=WINDOW)
    watching.socket.sendall(watching.frame(stream))
