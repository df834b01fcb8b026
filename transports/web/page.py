"""Finds the files of the chat page, which are part of the package."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Final

from twinline.transports.endpoints import Endpoint, EndpointError
from twinline.transports.websocket import StaticFile

INDEX: Final = "index.html"
"""What is served where a folder is asked for."""
_SERVERS: Final = '<meta name="twinline-servers" content="{}">'
"""Where the page finds the other servers; in the file there are none."""
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class ChatPage:
    """The page's files, read once and kept: some 150 KB.

    It is what `twinline.transports.websocket.Pages` describes.
    """

    def __init__(self, servers: Sequence[str] = ()) -> None:
        """Read the files.

        Args:
            servers: endpoints of WebSocket of other servers with the same state, which the page
                uses when the server that it came from is not there.

        Raises:
            OSError: a file cannot be read.
            EndpointError: one of these is no endpoint of WebSocket.
        """
        urls = tuple(page_server(text) for text in servers)
        folder = files("twinline.transports.web").joinpath("files")
        self._files: dict[str, StaticFile] = {}
        for file in folder.iterdir():
            ending = file.name.rpartition(".")[2]
            if ending in _TYPES:
                body = file.read_bytes()
                if file.name == INDEX and urls:
                    # Neither a host nor a path of a URL has a character that HTML gives a meaning,
                    # but for the ampersand.
                    told = " ".join(urls).replace("&", "&amp;")
                    body = body.replace(
                        _SERVERS.format("").encode(), _SERVERS.format(told).encode()
                    )
                self._files[f"/{file.name}"] = _static(body, _TYPES[ending])
        index = self._files[f"/{INDEX}"]
        connects = tuple(dict.fromkeys(url[: url.index("/", len("wss://"))] for url in urls))
        self._files["/"] = self._files[f"/{INDEX}"] = replace(index, connects=connects)

    def find(self, path: str) -> StaticFile | None:
        """Return the file of a path, or None if there is none.

        Only the names that are here are found, so there is no path that leads elsewhere.

        Args:
            path: as the browser sent it, without the query.
        """
        return self._files.get(path)


def page_server(text: str) -> str:
    """Return the URL of a server that a page may use, from its endpoint.

    Raises:
        EndpointError: it is no endpoint of WebSocket that a client can connect to.
    """
    endpoint = Endpoint.parse(text)
    endpoint.check_connectable()
    # An apostrophe or a semicolon would end a part of the page's policy.
    if not endpoint.scheme.is_web or not endpoint.host.isascii():
        raise EndpointError(f"{text!r}: write the URL of a WebSocket, as in wss://host/")
    return f"{endpoint.scheme}://{endpoint.authority}{endpoint.path or '/'}"


def _static(body: bytes, content_type: str) -> StaticFile:
    return StaticFile(body, content_type, etag=f'"{hashlib.sha256(body).hexdigest()[:16]}"')
