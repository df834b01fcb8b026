"""What a client is made with, in one object for the whole engine."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from twinline.core.protocol import Message
from twinline.transports import registry
from twinline.transports.client.settings import ClientSettings, WatchMode
from twinline.transports.client.state import State
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint, EndpointError, Scheme
from twinline.transports.tls import ALPN, ALPN_WEB, TlsLayer, client_context

OnMessage = Callable[[Message], object]
OnState = Callable[[State], object]
OnHandlerError = Callable[[Message, Exception], object]


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """The arguments of `Client`, understood."""

    endpoint: Endpoint
    transport: Transport
    tls: ssl.SSLContext | None
    settings: ClientSettings
    watch: WatchMode
    resume: bool
    on_message: OnMessage | None
    on_state: OnState | None
    on_handler_error: OnHandlerError | None

    @classmethod
    def of(
        cls,
        endpoint: str | Endpoint,
        transport: str | Transport | None,
        settings: ClientSettings | None,
        *,
        tls: ssl.SSLContext | None = None,
        **others: Any,
    ) -> Self:
        """Return the options, with the defaults of what is None.

        Raises:
            EndpointError: the endpoint cannot be understood, or not be connected to; or it is one
                in plain, and there is a context of TLS for it.
            ValueError: the context cannot be one of a client.
            UnknownTransport: there is no transport of that name, or it does not travel over
                WebSocket.
        """
        if not isinstance(endpoint, Endpoint):
            endpoint = Endpoint.parse(endpoint)
        endpoint.check_connectable()
        spoken = registry.connecting_transport(endpoint, transport)
        if tls is not None and not endpoint.scheme.is_tls:
            schemes = f"{Scheme.TLS}:// and {Scheme.WSS}://"
            raise EndpointError(f"{endpoint} is in plain; a context of TLS is for {schemes}")
        if tls is not None and tls.protocol is ssl.PROTOCOL_TLS_SERVER:
            raise ValueError("the context is one of a server")
        if tls is None and endpoint.scheme.is_tls:
            tls = client_context(protocols=[ALPN_WEB if endpoint.scheme.is_web else ALPN])
        return cls(endpoint, spoken, tls, settings or ClientSettings(), **others)

    def new_layer(self) -> TlsLayer | None:
        """Return the layer of a new connection's TLS, or None: the endpoint is one in plain."""
        if self.tls is None or not self.endpoint.scheme.is_tls:
            return None
        # The dot at the end of a name, and an address's zone, are for this machine alone
        # (RFC 6066 section 3, RFC 4007 section 11.2).
        return TlsLayer(self.tls, self.endpoint.host.removesuffix(".").partition("%")[0])
