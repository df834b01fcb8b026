"""Peers that speak HTTP or TLS where something else is spoken: how they begin, and the answer.

Whoever speaks HTTP is answered in HTTP, which a browser shows and a program reports; the
connection ends behind it. TLS has no answer in plain text, so that peer gets one as anybody does.
"""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from twinline.core.errors import BadRequest
from twinline.core.protocol import ErrorReply

TLS_START: Final = b"\x16\x03"
_METHODS: Final = b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PRI"
HTTP_STARTS: Final = tuple(method + b" " for method in _METHODS.split())
"""How the requests of HTTP begin; ``PRI`` is HTTP/2 (RFC 9113, section 3.4)."""
LONGEST_START: Final = max(map(len, HTTP_STARTS))


def is_http(start: bytes) -> bool | None:
    """Return whether a connection that begins so speaks HTTP; None while it may turn out so."""
    if start.startswith(HTTP_STARTS):
        return True
    return None if any(each.startswith(start) for each in HTTP_STARTS) else False


def is_tls(start: bytes) -> bool | None:
    """Return whether a connection that begins so wants TLS; None while it may turn out so."""
    if start.startswith(TLS_START):
        return True
    return None if TLS_START.startswith(start) else False


def speaks_tls() -> BadRequest:
    """Return what is said to a peer that wants TLS."""
    return BadRequest("this looks like TLS, but plain text is spoken here; connect without it")


def speaks_http(spoken: str) -> BadRequest:
    """Return what is said to a peer that speaks HTTP.

    Args:
        spoken: what is spoken here, as the end of a sentence.
    """
    return BadRequest(f"this looks like HTTP, but this is no web server; {spoken}")


def http_refusal(
    reply: ErrorReply, status: int | None = None, headers: Iterable[tuple[str, str]] = ()
) -> bytes:
    """Return an error as an answer of HTTP/1.1, behind which the connection ends.

    Args:
        reply: its message is the text, in a line.
        status: 503 if unset, where it may be tried again, and 400 elsewhere.
        headers: those that the status asks for.
    """
    if status is None:
        status = 503 if reply.retryable else 400
    others = (*headers, ("X-Content-Type-Options", "nosniff"))
    return http_answer(
        status, f"{reply.message}\n".encode(), "text/plain; charset=utf-8", others, last=True
    )


def http_answer(
    status: int,
    body: bytes,
    content_type: str,
    headers: Iterable[tuple[str, str]],
    *,
    last: bool,
    shown: bool = True,
) -> bytes:
    """Return an answer of HTTP/1.1 with a body (RFC 9112).

    Args:
        status: its number.
        body: the content.
        content_type: what it is.
        headers: the other header fields.
        last: whether the connection ends behind it.
        shown: False for the answer to HEAD, which has the header of the body alone.
    """
    fields = [("Content-Type", content_type), ("Content-Length", str(len(body))), *headers]
    if last and not any(name == "Connection" for name, _ in fields):
        fields.append(("Connection", "close"))
    return http_head(status, fields) + (body if shown else b"")


def http_head(status: int, fields: Iterable[tuple[str, str]]) -> bytes:
    """Return the head of an answer, with its empty line."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in fields]
    return "\r\n".join((*lines, "", "")).encode()
