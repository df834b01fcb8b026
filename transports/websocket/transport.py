"""WebSocket as a transport: what travels in it, who may connect, and what a browser is served."""

# ruff: noqa: D102 - the contract documents the methods of a transport

from collections.abc import Iterable, Sequence

from twinline.transports.contract import LocalProtocolError, Transport
from twinline.transports.foreign import is_http
from twinline.transports.websocket.codec import WebSocketClientCodec, WebSocketServerCodec
from twinline.transports.websocket.handshake import Site
from twinline.transports.websocket.pages import Pages
from twinline.transports.websocket.subprotocols import SUBPROTOCOLS


class WebSocketTransport(Transport):
    """Messages of JSON-lines or of binary frames, each a message of a WebSocket.

    Args:
        inner: the transports whose messages travel in it, "jsonl" and "binary". A server speaks
            the one that the client asks for, and the first where it asks for none; a client
            speaks the first. None means both.
        host: which server a client asks for, with its port if that is not the usual one.
        path: of the URL that a client asks for.
        origins: the sites besides the server's own whose pages may connect, such as
            ``https://chat.example.org``.
        page: the files that a server has for a browser; None: it has none.

    Raises:
        LocalProtocolError: there is no subprotocol for one of these transports, or there is none.
    """

    name = "websocket"

    def __init__(
        self,
        inner: Sequence[Transport] | None = None,
        *,
        host: str = "localhost",
        path: str = "/",
        origins: Iterable[str] = (),
        page: Pages | None = None,
    ) -> None:
        names = list(SUBPROTOCOLS) if inner is None else [each.name for each in inner]
        unknown = ", ".join(sorted(set(names) - SUBPROTOCOLS.keys()))
        if unknown or not names:
            raise LocalProtocolError(
                f"these do not travel over WebSocket: {unknown or 'no transport'}; "
                f"there are {', '.join(sorted(SUBPROTOCOLS))}"
            )
        subprotocols = tuple(SUBPROTOCOLS[name] for name in names)
        self._site = Site(subprotocols, frozenset(map(str.lower, origins)), page)
        self._host = host
        self._path = path

    def recognises(self, start: bytes) -> bool | None:
        """Return whether a connection begins as one of HTTP does."""
        return is_http(start)

    def server_codec(self, frame_limit: int) -> WebSocketServerCodec:
        return WebSocketServerCodec(frame_limit, self._site)

    def client_codec(self, frame_limit: int) -> WebSocketClientCodec:
        return WebSocketClientCodec(
            frame_limit, self._site.subprotocols[0], host=self._host, path=self._path
        )
