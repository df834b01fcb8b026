"""Endpoints: where bytes travel, and what is laid around them.

::

    tcp://host:port     in plain
    tls://host:port     in TLS
    ws://host:port      WebSocket, in plain
    wss://host:port     WebSocket in TLS
    unix:/path          a socket of this machine

An endpoint may name the transport that is spoken there: `unix:/run/chat.sock?transport=binary`.
One to listen on may have other options behind the question mark: `ListenOptions` has them.
"""

import ipaddress
import os
import re
import socket
import sys
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final, Self
from urllib.parse import parse_qsl, quote, urlsplit

from twinline.core.addresses import is_loopback
from twinline.transports.contract import TransportError

DEFAULT_PORT: Final = 7767
"""The port of a TCP or TLS endpoint that names none."""
TLS_VERSIONS: Final = ("1.2", "1.3")
"""Versions of TLS that may be the lowest one."""
_LAST_PORT: Final = 65_535
_URL_PATH: Final = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")
_PATH_BYTES: Final = 107 if sys.platform == "linux" else 103  # of sun_path, without the last NUL
_NAME_BYTES: Final = 253  # RFC 1035, section 3.1, as text without the last dot
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


class EndpointError(TransportError):
    """An endpoint cannot be understood, or cannot be listened on."""


class Scheme(StrEnum):
    """What carries the bytes."""

    TCP = "tcp"
    """A TCP connection, in plain."""
    TLS = "tls"
    """A TCP connection, in TLS."""
    WS = "ws"
    """A WebSocket over TCP, in plain."""
    WSS = "wss"
    """A WebSocket over TLS."""
    UNIX = "unix"
    """A Unix socket."""

    @property
    def is_tls(self) -> bool:
        """Whether the bytes travel in TLS."""
        return self in (Scheme.TLS, Scheme.WSS)

    @property
    def is_web(self) -> bool:
        """Whether WebSocket is spoken, and HTTP before it."""
        return self in (Scheme.WS, Scheme.WSS)

    @property
    def default_port(self) -> int:
        """The port of an endpoint that names none."""
        return _WEB_PORTS.get(self, DEFAULT_PORT)


_WEB_PORTS: Final = {Scheme.WS: 80, Scheme.WSS: 443}
_EXAMPLES: Final = "tcp://host:port, tls://host:port, ws://host:port, wss://host:port or unix:/path"
_SWITCHES: Final = ("proxy", "reuse_port")
"""Options that are ``yes`` or ``no``, and none of TLS."""


@dataclass(frozen=True, slots=True)
class ListenOptions:
    """What an endpoint to listen on has besides its place: the options behind the question mark.

    Attributes:
        proxy: whether peers come through a proxy that names them by the PROXY protocol
            (``proxy=yes``).
        reuse_port: whether other processes may listen on the same port (``reuse_port=yes``): the
            system spreads the peers over all of them. Any process of the same user that asks for
            it as well gets its part, whatever it is.
        certificate: the file with the certificate and its chain, instead of the setting's.
        key: the file with its key, instead of the setting's.
        client_ca: the file with those who sign clients' certificates, instead of the setting's.
        crl: the file with what they have revoked, instead of the setting's.
        minimum: the lowest version of TLS, "1.2" or "1.3", instead of the setting's.
    """

    proxy: bool = False
    reuse_port: bool = False
    certificate: str | None = None
    key: str | None = None
    client_ca: str | None = None
    crl: str | None = None
    minimum: str | None = None

    def as_options(self) -> list[tuple[str, str]]:
        """Return those that are set, as they are written behind the question mark."""
        named = [(each.name, getattr(self, each.name)) for each in fields(self)]
        return [(name, "yes" if value is True else value) for name, value in named if value]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place to listen on or to connect to.

    Attributes:
        scheme: what carries the bytes.
        host: a name or an address; "" for Unix.
        port: 0 lets the system choose when listening; 0 for Unix.
        path: of the socket file, for Unix; of the URL that a WebSocket's client asks for, "" being
            its root; "" otherwise.
        transport: the name of the transport spoken here, or None where that is said elsewhere;
            inside the WebSocket, where there is one.
        listening: its other options.

    Raises:
        EndpointError: there can be no such host, port, path or options.
    """

    scheme: Scheme
    host: str = ""
    port: int = 0
    path: str = ""
    transport: str | None = None
    listening: ListenOptions = ListenOptions()

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
        transport, listening = _options(text, query) if question else (None, ListenOptions())
        name, _, rest = place.partition(":")
        if name.lower() == Scheme.UNIX:
            if not rest or rest.startswith("//"):
                raise EndpointError(f"{text!r}: a Unix socket is written unix:/path")
            return cls(Scheme.UNIX, path=rest, transport=transport, listening=listening)
        try:
            scheme = Scheme(name.lower())
        except ValueError:
            raise EndpointError(f"{text!r} is not an endpoint: use {_EXAMPLES}") from None
        if any(character.isspace() or not character.isprintable() for character in place):
            raise EndpointError(f"{text!r}: a host has no spaces and no control characters")
        try:
            parts = urlsplit(place)
            port = parts.port
        except ValueError as error:
            raise EndpointError(f"{text!r} is not an endpoint: {error}") from None
        path = "" if parts.path == "/" else parts.path
        if (
            not parts.hostname
            or (path and not scheme.is_web)
            or parts.username is not None
            or "#" in place
        ):
            raise EndpointError(f"{text!r}: write {scheme}://host:port")
        return cls(
            scheme,
            host=parts.hostname,
            port=scheme.default_port if port is None else port,
            path=path,
            transport=transport,
            listening=listening,
        )

    def __post_init__(self) -> None:
        """Refuse what the system could not connect to, however the endpoint was made."""
        self._check_options()
        if self.scheme is Scheme.UNIX:
            _check_path(self.path)
            return
        _check_host(self.host)
        if not 0 <= self.port <= _LAST_PORT:
            raise EndpointError(f"{self.port} is no port: they end at {_LAST_PORT}")
        if self.path and not (self.scheme.is_web and _URL_PATH.fullmatch(self.path)):
            raise EndpointError(
                f"{self.path!r} is no path of a URL, as in {Scheme.WSS}://host/path"
            )

    def _check_options(self) -> None:
        options = self.listening
        tls = [name for name, _ in options.as_options() if name not in _SWITCHES]
        if tls and not self.scheme.is_tls:
            raise EndpointError(f"{tls[0]} is an option of {Scheme.TLS} and {Scheme.WSS} alone")
        if options.key is not None and options.certificate is None:
            raise EndpointError("the option key comes with the option certificate")
        if options.reuse_port and self.scheme is Scheme.UNIX:
            raise EndpointError(
                "reuse_port is an option of TCP: a Unix socket belongs to one process"
            )
        if options.minimum not in (None, *TLS_VERSIONS):
            raise EndpointError(f"{options.minimum!r}: write minimum={' or '.join(TLS_VERSIONS)}")

    def check_connectable(self) -> None:
        """Do nothing if a client can connect here.

        Raises:
            EndpointError: port 0, which asks the system for a port to listen on; or an option for
                listening.
        """
        if self.scheme is not Scheme.UNIX and self.port == 0:
            raise EndpointError(f"{self}: port 0 is for listening only; name the server's port")
        if self.listening != ListenOptions():
            name = self.listening.as_options()[0][0]
            raise EndpointError(f"{self}: the option {name} is for listening only")

    def check_listenable(self) -> None:
        """Do nothing if a server can listen here.

        Raises:
            EndpointError: the path of a URL, all of which are served.
        """
        if self.scheme.is_web and self.path:
            raise EndpointError(f"{self}: a server listens at every path; write no path")

    def __str__(self) -> str:
        options = [] if self.transport is None else [("transport", self.transport)]
        options += self.listening.as_options()
        query = "&".join(f"{name}={quote(value, safe='/')}" for name, value in options)
        return f"{self.place}?{query}" if query else self.place

    @property
    def place(self) -> str:
        """Where it is, without its options."""
        if self.scheme is Scheme.UNIX:
            return f"unix:{self.path}"
        return f"{self.scheme}://{self._bracketed}:{self.port}{self.path}"

    @property
    def authority(self) -> str:
        """What a URL has behind its slashes: the host, and the port if it is not the usual one."""
        port = "" if self.port == self.scheme.default_port else f":{self.port}"
        return f"{self._bracketed}{port}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

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


def _options(text: str, query: str) -> tuple[str | None, ListenOptions]:
    """Return the transport that the part after the question mark names, and the other options."""
    options = parse_qsl(query, keep_blank_values=True)
    known = ["transport", *(each.name for each in fields(ListenOptions))]
    unknown = ", ".join(sorted({name for name, _ in options} - set(known)))
    if unknown:
        raise EndpointError(f"{text!r}: unknown option {unknown}; there are {', '.join(known)}")
    named = dict(options)
    if not options or len(named) < len(options) or not all(named.values()):
        raise EndpointError(f"{text!r}: write ?transport=NAME, each option once, or nothing")
    switches = {}
    for name in _SWITCHES:
        said = named.pop(name, "no")
        if said not in ("yes", "no"):
            raise EndpointError(f"{text!r}: write {name}=yes, or nothing")
        switches[name] = said == "yes"
    transport = named.pop("transport", None)
    return transport, ListenOptions(**switches, **named)  # type: ignore[arg-type]


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
