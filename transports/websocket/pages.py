"""What a WebSocket endpoint serves to a browser besides: static files, each with its headers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


def headers(connects: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    """Return what goes with a file: a browser may keep it, and asks whether it is current.

    Args:
        connects: where the file's scripts may connect to, besides the server that it came from.
    """
    sources = " ".join(("'self'", *connects))
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; "
        f"connect-src {sources}; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return (
        ("Cache-Control", "no-cache"),
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
    )


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file, as it is served.

    Attributes:
        body: its bytes.
        content_type: what they are, such as ``text/html; charset=utf-8``.
        etag: names this version of it, in its quotation marks: ``"3f2a"`` (RFC 9110, section
            8.8.3). It is of ASCII.
        connects: where its scripts may connect to besides the server that it came from, as sources
            of a Content-Security-Policy: ``wss://b.example.org``.
    """

    body: bytes
    content_type: str
    etag: str
    connects: tuple[str, ...] = ()


class Pages(Protocol):
    """The files that are served, by their paths."""

    def find(self, path: str) -> StaticFile | None:
        """Return the file of a path, or None if there is none.

        Args:
            path: as the browser sent it, beginning with ``/``: without the query, and with the
                escapes that it has.
        """
