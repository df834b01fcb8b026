"""The chat page: static files that a WebSocket endpoint serves to a browser.

::

    page           finds a file of the page by its path
    files/         the page itself, and twinline.js, the client that it uses; no build makes them
"""

from twinline.transports.web.page import ChatPage, page_server

__all__ = ["ChatPage", "page_server"]
