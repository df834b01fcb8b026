"""Endpoints: where bytes travel. `tcp://host:port` or `unix:/path`.

An endpoint may name the transport that is spoken there: `unix:/run/chat.sock?transport=binary`.
"""

import ipaddress
import os
import re
import socket
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self
from urllib.parse import parse_qsl, urlsplit

from twinline.core.addresses import is_loopback
from twinline.transports.contract import TransportError

DEFAULT_PORT: Final = 7767
"""The port of a TCP endpoint that names none."""
_LAST_PORT: Final = 65_535
_PATH_BYTES: Final = 107 if sys.platform == "linux" else 103  # of sun_path, without the last NUL
_NAME_BYTES: Final = 253  # RFC 1035, section 3.1, as text without the last dot
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


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

    Raises:
        EndpointError: there can be no such host, port or path.
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
        if not isinstance(text, str):
            raise EndpointError(f"{text!r} is not an endpoint: it is no text")
        # Cut here and not by urlsplit, which drops line breaks and cuts a path at a "#".
        place, question, query = text.partition("?")
        transport = _transport(text, query) if question else None
        scheme, _, rest = place.partition(":")
        if scheme.lower() == Scheme.UNIX:
            if not rest or rest.startswith("//"):
                raise EndpointError(f"{text!r}: a Unix socket is written unix:/path")
            return cls(Scheme.UNIX, path=rest, transport=transport)
        if scheme.lower() != Scheme.TCP:
            raise EndpointError(f"{text!r} is not an endpoint: use tcp://host:port or unix:/path")
        if any(character.isspace() or not character.isprintable() for character in place):
            raise EndpointError(f"{text!r}: a host has no spaces and no control characters")
        try:
            parts = urlsplit(place)
            port = parts.port
        except ValueError as error:
            raise EndpointError(f"{text!r} is not an endpoint: {error}") from None
        if (
            not parts.hostname
            or parts.path not in ("", "/")
            or parts.username is not None
            or "#" in place
        ):
            raise EndpointError(f"{text!r}: write tcp://host:port")
        return cls(
            Scheme.TCP,
            host=parts.hostname,
            port=DEFAULT_PORT if port is None else port,
            transport=transport,
        )

    def __post_init__(self) -> None:
        """Refuse what the system could not connect to, however the endpoint was made."""
        if self.scheme is Scheme.UNIX:
            _check_path(self.path)
            return
        _check_host(self.host)
        if not 0 <= self.port <= _LAST_PORT:
            raise EndpointError(f"{self.port} is no port: they end at {_LAST_PORT}")

    def check_connectable(self) -> None:
        """Do nothing if a client can connect here.

        Raises:
            EndpointError: port 0, which asks the system for a port to listen on.
        """
        if self.scheme is Scheme.TCP and self.port == 0:
            raise EndpointError(f"{self}: port 0 is for listening only; name the server's port")

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
        return self.scheme is Scheme.UNIX or self.host == "localhost" or is_loopback(self.host)


def tune(connected: socket.socket) -> None:
    """Let a TCP connection send at once, and notice after a while that its peer is gone.

    Raises:
        OSError: the connection has ended.
    """
    if connected.family != socket.AF_UNIX:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _transport(text: str, query: str) -> str:
    """Return the transport that the part after the question mark names."""
    options = parse_qsl(query, keep_blank_values=True)
    unknown = ", ".join(sorted({name for name, _ in options} - {"transport"}))
    if unknown:
        raise EndpointError(f"{text!r}: unknown option {unknown}; there is only 'transport'")
    if len(options) != 1 or not options[0][1]:
        raise EndpointError(f"{text!r}: write ?transport=NAME, once, or nothing")
    return options[0][1]


def _check_path(path: str) -> None:
    try:
        length = len(os.fsencode(path))
    except UnicodeEncodeError:
        raise EndpointError(f"{path!r} cannot be the path of a file") from None
    if not path or "\0" in path or "?" in path:
        raise EndpointError(f"{path!r}: the path of a Unix socket has no '?' and no NUL")
    if length > _PATH_BYTES:
        raise EndpointError(
            f"{path!r} is {length} bytes long, and the path of a Unix socket has at most "
            f"{_PATH_BYTES}"
        )


def _check_host(host: str) -> None:
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError as error:
            raise EndpointError(f"{host!r} is no IPv6 address: {error}") from None
        return
    name = host
    if not host.isascii():
        try:
            name = host.encode("idna").decode("ascii")  # as the system is asked for it
        except UnicodeError as error:
            reason = str(error.__cause__ or error)  # the codec wraps an error of its own
            raise EndpointError(f"{host!r} cannot be the name of a host: {reason}") from None
    if not _NAME.fullmatch(name) or len(name.removesuffix(".")) > _NAME_BYTES:
        raise EndpointError(
            f"{host!r} cannot be the name of a host: between its dots are 1 to 63 letters, "
            f"digits, '-' or '_', and at most {_NAME_BYTES} characters in all"
        )
