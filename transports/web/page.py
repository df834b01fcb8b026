"""Finds the files of the chat page, which are part of the package."""

import hashlib
from importlib.resources import files
from typing import Final

from twinline.transports.websocket import StaticFile

INDEX: Final = "index.html"
"""What is served where a folder is asked for."""
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class ChatPage:
    """The page's files, read once and kept: some 90 KB.

    It is what `twinline.transports.websocket.Pages` describes.
    """

    def __init__(self) -> None:
        """Read the files.

        Raises:
            OSError: one cannot be read.
        """
        folder = files("twinline.transports.web").joinpath("files")
        self._files: dict[str, StaticFile] = {}
        for file in folder.iterdir():
            ending = file.name.rpartition(".")[2]
            if ending in _TYPES:
                self._files[f"/{file.name}"] = _static(file.read_bytes(), _TYPES[ending])
        self._files["/"] = self._files[f"/{INDEX}"]

    def find(self, path: str) -> StaticFile | None:
        """Return the file of a path, or None if there is none.

        Only the names that are here are found, so there is no path that leads elsewhere.

        Args:
            path: as the browser sent it, without the query.
        """
        return self._files.get(path)


def _static(body: bytes, content_type: str) -> StaticFile:
    return StaticFile(body, content_type, etag=f'"{hashlib.sha256(body).hexdigest()[:16]}"')
