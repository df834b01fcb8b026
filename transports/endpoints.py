"""Endpoints: where bytes travel. `tcp://host:port` or `unix:/path`.

An endpoint may name the transport that is spoken there: `unix:/run/chat.sock?transport=binary`.
"""

import contextlib
import errno
import ipaddress
import socket
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qsl, urlsplit

from twinline.core.deadline import Deadline
from twinline.core.locks import may_block
from twinline.transports.contract import TransportError

DEFAULT_PORT: Final = 7767
"""The port of a TCP endpoint that names none."""
_BACKLOG: Final = 1024


ConnectGuard = Callable[[socket.socket], AbstractContextManager[object]]
"""Makes the context within which a socket connects; see `Endpoint.connect`."""


def _unguarded(_: socket.socket) -> AbstractContextManager[object]:
    return contextlib.nullcontext()


class EndpointError(TransportError):
    """An endpoint cannot be understood, or cannot be listened on."""


class Scheme(StrEnum):
    """What carries the bytes."""

    TCP = "tcp"
    """A TCP connection, in plain."""
    UNIX = "unix"
    """A Unix socket."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place to listen on or to connect to.

    Attributes:
        scheme: what carries the bytes.
        host: a name or an address, for TCP; "" otherwise.
        port: for TCP; 0 lets the system choose when listening.
        path: of the socket file, for Unix; "" otherwise.
        transport: the name of the transport spoken here, or None where that is said elsewhere.
    """

    scheme: Scheme
    host: str = ""
    port: int = 0
    path: str = ""
    transport: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an endpoint as a user writes it.

        Raises:
            EndpointError: with a sentence that says what is wrong and what is expected.
        """
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise EndpointError(f"{text!r} is not an endpoint: {error}") from None
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        transport = options.pop("transport", None)
        if options:
            unknown = ", ".join(sorted(options))
            raise EndpointError(f"{text!r}: unknown option {unknown}; there is only 'transport'")
        if parts.scheme == Scheme.UNIX:
            if parts.netloc or not parts.path:
                raise EndpointError(f"{text!r}: a Unix socket is written unix:/path")
            return cls(Scheme.UNIX, path=parts.path, transport=transport)
        if parts.scheme != Scheme.TCP:
            raise EndpointError(f"{text!r} is not an endpoint: use tcp://host:port or unix:/path")
        if not parts.hostname or parts.path not in ("", "/") or parts.username is not None:
            raise EndpointError(f"{text!r}: write tcp://host:port")
        return cls(
            Scheme.TCP,
            host=parts.hostname,
            port=DEFAULT_PORT if port is None else port,
            transport=transport,
        )

    def __str__(self) -> str:
        if self.scheme is Scheme.UNIX:
            place = f"unix:{self.path}"
        else:
            host = f"[{self.host}]" if ":" in self.host else self.host
            place = f"tcp://{host}:{self.port}"
        return place if self.transport is None else f"{place}?transport={self.transport}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it: a Unix socket, or a loopback address."""
        if self.scheme is Scheme.UNIX or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def connect(self, deadline: Deadline, guard: ConnectGuard = _unguarded) -> socket.socket:
        """Return a connected socket.

        Args:
            deadline: for resolving the name and connecting; resolving cannot be cut short.
            guard: makes a context for each socket, within which it connects; while it is open
                another thread may `shutdown()` the socket and so end the attempt.

        Raises:
            OSError: nothing listens there, or the deadline passed (TimeoutError).
        """
        may_block("connecting")
        if self.scheme is Scheme.UNIX:
            unconnected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            return _connect(unconnected, self.path, deadline, guard)
        failure: OSError = ConnectionError(f"{self.host} has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(
            self.host, self.port, type=socket.SOCK_STREAM
        ):
            try:
                unconnected = socket.socket(family, kind, protocol)
                connected = _connect(unconnected, address, deadline, guard)
            except OSError as error:
                failure = error
                continue
            tune(connected)
            return connected
        raise failure

    def listen(self) -> "BoundEndpoint":
        """Return a listening socket, and the endpoint with the port that it got.

        A socket file that no process listens on is a left-over and is replaced.

        Raises:
            EndpointError: the address is in use or not this machine's, or may not be bound.
        """
        try:
            listening = self._listen_unix() if self.scheme is Scheme.UNIX else self._listen_tcp()
        except OSError as error:
            reason = error.strerror or str(error)
            raise EndpointError(f"cannot listen on {self}: {reason}") from error
        # The accept loop must not block on a connection that was gone again.
        listening.setblocking(False)  # noqa: FBT003 - the name of the method says what it means
        if self.scheme is Scheme.UNIX:
            return BoundEndpoint(self, listening)
        port: int = listening.getsockname()[1]
        return BoundEndpoint(replace(self, port=port), listening)

    def _listen_tcp(self) -> socket.socket:
        family, kind, protocol, _, address = socket.getaddrinfo(
            self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(_BACKLOG)
        except BaseException:
            listening.close()
            raise
        return listening

    def _listen_unix(self) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            try:
                listening.bind(self.path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not _is_left_over(self.path):
                    raise
                Path(self.path).unlink()
                listening.bind(self.path)
            listening.listen(_BACKLOG)
        except BaseException:
            listening.close()
            raise
        return listening


@dataclass(frozen=True, slots=True)
class BoundEndpoint:
    """An endpoint with the socket that listens there.

    Attributes:
        endpoint: with the port that it got.
        socket: listens.
    """

    endpoint: Endpoint
    socket: socket.socket

    def close(self) -> None:
        """Stop listening, and remove a Unix socket's file."""
        self.socket.close()
        if self.endpoint.scheme is Scheme.UNIX:
            with contextlib.suppress(OSError):
                Path(self.endpoint.path).unlink()


def tune(connected: socket.socket) -> None:
    """Let a TCP connection send at once, and notice after a while that its peer is gone.

    Raises:
        OSError: the connection has ended.
    """
    if connected.family != socket.AF_UNIX:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _connect(
    unconnected: socket.socket, address: Any, deadline: Deadline, guard: ConnectGuard
) -> socket.socket:
    try:
        unconnected.settimeout(deadline.timeout())
        with guard(unconnected):
            unconnected.connect(address)
    except BaseException:
        unconnected.close()
        raise
    return unconnected


def _is_left_over(path: str) -> bool:
    """Return whether a path is a socket file that no process listens on."""
    if not stat.S_ISSOCK(Path(path).stat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        return False
