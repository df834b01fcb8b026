"""WebSocket: messages of another transport in frames of RFC 6455, opened by an HTTP upgrade.

::

    pages      the static files that are served to a browser, and their headers
"""

from twinline.transports.websocket.pages import Pages, StaticFile

__all__ = ["Pages", "StaticFile"]
