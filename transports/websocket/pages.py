"""What a WebSocket endpoint serves to a browser besides: static files, each with its headers."""

from dataclasses import dataclass
from typing import Final, Protocol

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = (
    ("Cache-Control", "no-cache"),
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)
"""What goes with every file. ``no-cache`` lets a browser keep it, and ask whether it is current."""


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file, as it is served.

    Attributes:
        body: its bytes.
        content_type: what they are, such as ``text/html; charset=utf-8``.
        etag: names this version of it, in its quotation marks: ``"3f2a"`` (RFC 9110, section
            8.8.3). It is of ASCII.
    """

    body: bytes
    content_type: str
    etag: str


class Pages(Protocol):
    """The files that are served, by their paths."""

    def find(self, path: str) -> StaticFile | None:
        """Return the file of a path, or None if there is none.

        Args:
            path: as the browser sent it, beginning with ``/``: without the query, and with the
                escapes that it has.
        """
