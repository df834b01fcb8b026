"""What a client is made with, in one object for the whole engine."""

import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Self

from twinline.core.protocol import Kind, Kinds, Message
from twinline.transports import registry
from twinline.transports.client.settings import ClientSettings, WatchMode
from twinline.transports.client.state import State
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint, EndpointError, Scheme
from twinline.transports.tls import ALPN, ALPN_WEB, TlsLayer, client_context

OnMessage = Callable[[Message], object]
OnState = Callable[[State], object]
OnHandlerError = Callable[[Message, Exception], object]
Endpoints = str | Endpoint | Iterable[str | Endpoint]
"""Where a client may connect: one endpoint, or those of several servers with one state."""


@dataclass(frozen=True, slots=True)
class Server:
    """One of the servers that a client may go to; its endpoint says which one.

    Attributes:
        endpoint: where it is.
        transport: what is spoken there.
        tls: what its connections begin with; None where they travel in plain.
    """

    endpoint: Endpoint
    transport: Transport = field(compare=False)
    tls: ssl.SSLContext | None = field(compare=False)

    def new_layer(self) -> TlsLayer | None:
        """Return the layer of a new connection's TLS, or None: the endpoint is one in plain."""
        if self.tls is None:
            return None
        # The dot at the end of a name, and an address's zone, are for this machine alone
        # (RFC 6066 section 3, RFC 4007 section 11.2).
        return TlsLayer(self.tls, self.endpoint.host.removesuffix(".").partition("%")[0])


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """The arguments of `Client`, understood.

    Attributes:
        servers: that it may go to, each once, in the order in which they were given.
        spoken: the transport to speak at all of them, or None for what each endpoint says.
        tls: the context for those over TLS, or None for one that trusts what the system does.
    """

    servers: tuple[Server, ...]
    spoken: str | Transport | None
    tls: ssl.SSLContext | None
    settings: ClientSettings
    watch: WatchMode
    kinds: Kinds
    resume: bool
    on_message: OnMessage | None
    on_state: OnState | None
    on_handler_error: OnHandlerError | None

    @property
    def watched(self) -> tuple[Kind, ...]:
        """The kinds that it watches for, as a request names them."""
        return tuple(kind for kind in Kind if kind in self.kinds)

    @classmethod
    def of(
        cls,
        endpoints: Endpoints,
        transport: str | Transport | None,
        settings: ClientSettings | None,
        *,
        tls: ssl.SSLContext | None = None,
        **others: Any,
    ) -> Self:
        """Return the options, with the defaults of what is None.

        Raises:
            EndpointError: there is no endpoint, or one cannot be understood, or not be connected
                to; or all are in plain, and there is a context of TLS for them.
            ValueError: the context cannot be one of a client, or mail is not watched for.
            UnknownTransport: there is no transport of that name, or it does not travel over
                WebSocket.
        """
        if isinstance(endpoints, str | Endpoint) or not isinstance(endpoints, Iterable):
            endpoints = (endpoints,)
        places = list(
            dict.fromkeys(
                each if isinstance(each, Endpoint) else Endpoint.parse(each) for each in endpoints
            )
        )
        if not places:
            raise EndpointError("there is no endpoint: name that of a server at least")
        for place in places:
            place.check_connectable()
        if tls is not None and not any(place.scheme.is_tls for place in places):
            schemes = f"{Scheme.TLS}:// and {Scheme.WSS}://"
            raise EndpointError(f"{places[0]} is in plain; a context of TLS is for {schemes}")
        if tls is not None and tls.protocol is ssl.PROTOCOL_TLS_SERVER:
            raise ValueError("the context is one of a server")
        if Kind.MAIL not in others["kinds"]:
            # An ack is of all that lies before it, and what was never seen must not be acked.
            raise ValueError("mail is among the kinds that a client watches for")
        options = cls((), transport, tls, settings or ClientSettings(), **others)
        servers: list[Server] = []
        for place in places:
            servers.append(options.server(place, servers[-1] if servers else None))
        return replace(options, servers=tuple(servers))

    def server(self, endpoint: Endpoint, like: Server | None = None) -> Server:
        """Return a server that the client may go to.

        Args:
            endpoint: where it is.
            like: another one, whose context of TLS it can share where it speaks the same.

        Raises:
            UnknownTransport: as `of`.
        """
        tls = None
        if endpoint.scheme.is_tls:
            tls = self.tls
            if tls is None and like is not None and like.endpoint.scheme is endpoint.scheme:
                tls = like.tls
            if tls is None:
                tls = client_context(protocols=[ALPN_WEB if endpoint.scheme.is_web else ALPN])
        return Server(endpoint, registry.connecting_transport(endpoint, self.spoken), tls)
