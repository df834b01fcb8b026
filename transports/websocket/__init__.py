"""WebSocket: messages of another transport in frames of RFC 6455, opened by an HTTP upgrade.

::

    transport      what travels in it, who may connect, and what a browser is served
    codec          the two ends of a connection: the handshake, then messages
    frames         cuts a stream into messages; masks, pings and the close handshake
    head           the head of a request or an answer of HTTP/1.1, read strictly
    handshake      the opening handshake of both ends, and what other requests get
    subprotocols   what travels in it: the messages of JSON-lines and of binary frames
    pages          the static files that are served to a browser, and their headers
"""

from twinline.transports.websocket.codec import WebSocketClientCodec, WebSocketServerCodec
from twinline.transports.websocket.pages import Pages, StaticFile
from twinline.transports.websocket.transport import WebSocketTransport

__all__ = [
    "Pages",
    "StaticFile",
    "WebSocketClientCodec",
    "WebSocketServerCodec",
    "WebSocketTransport",
]
