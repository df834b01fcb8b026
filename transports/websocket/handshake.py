"""The opening handshake (RFC 6455, section 4) of both ends, and what other requests get.

A server answers a request in one of these ways::

    an upgrade                        101, and frames follow
    an upgrade of another version     426, which names the version
    an upgrade from another site      403: its Origin is neither the own host nor listed
    GET, HEAD of a page               200, 304 or 404; the connection goes on
    anything else, where pages are    405, and the connection ends
    anything else, where none are     426 with a sentence of help, and the connection ends
    a head that is not read           400, 431 or 505, and the connection ends
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from twinline.core.errors import BadRequest, FrameTooLarge, RequestError
from twinline.transports.contract import RemoteProtocolError
from twinline.transports.foreign import http_answer, http_head
from twinline.transports.websocket.head import (
    HeadError,
    RequestHead,
    StatusHead,
)
from twinline.transports.websocket.pages import Pages, StaticFile, headers
from twinline.transports.websocket.subprotocols import Subprotocol

VERSION: Final = "13"
"""The version of WebSocket, that of RFC 6455."""
_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")  # 16 bytes in base64
_ORIGIN: Final = re.compile(r"(https?)://([^/?#@\s]+)", re.IGNORECASE)
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
_MOST_PROXIES: Final = 32
"""As many of the addresses that proxies named are kept, the last ones."""
_HELP: Final = "this is a server of twinline messages: open a WebSocket here, with the subprotocol "
_TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Upgraded:
    """A connection on which frames follow.

    Attributes:
        data: the answer.
        subprotocol: what is spoken.
        forwarded_for: the addresses that proxies named, the nearest proxy's last.
    """

    data: bytes
    subprotocol: Subprotocol
    forwarded_for: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that has its answer.

    Attributes:
        data: the answer.
        last: whether the connection ends behind it.
    """

    data: bytes
    last: bool


class Refused(Exception):
    """A request that ends the connection: the status, the fields that it asks for, the error."""

    def __init__(
        self, status: HTTPStatus, error: RequestError, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self.status = status
        self.error = error
        self.headers = headers
        super().__init__(error.message)

    @classmethod
    def of_head(cls, error: HeadError) -> "Refused":
        """Return how a head is refused that was not read."""
        too_long = error.status is HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        kind = FrameTooLarge if too_long else BadRequest
        return cls(error.status, kind(str(error)))


@dataclass(frozen=True, slots=True)
class Site:
    """What the server's ends of all connections have in common.

    Attributes:
        subprotocols: those that are spoken; the first one where a client asks for none.
        origins: the sites besides the own host whose scripts may connect, such as
            ``https://chat.example.org``, in small letters.
        page: the files that are served, if any.
    """

    subprotocols: tuple[Subprotocol, ...]
    origins: frozenset[str]
    page: Pages | None

    def answer(self, request: RequestHead) -> Upgraded | Answered:
        """Return what a request gets.

        Raises:
            Refused: the connection ends by it.
        """
        if (
            request.may_upgrade
            and request.method == "GET"
            and request.fields.has("connection", "upgrade")
            and request.fields.has("upgrade", "websocket")
        ):
            return self._upgrade(request)
        if self.page is not None:
            return _serve(self.page, request)
        names = " or ".join(subprotocol.name for subprotocol in self.subprotocols)
        raise Refused(HTTPStatus.UPGRADE_REQUIRED, BadRequest(_HELP + names), _UPGRADE)

    def _upgrade(self, request: RequestHead) -> Upgraded:
        fields = request.fields
        if fields.get("sec-websocket-version") != VERSION:
            raise Refused(
                HTTPStatus.UPGRADE_REQUIRED,
                BadRequest(f"the version of WebSocket that is spoken here is {VERSION}"),
                (*_UPGRADE, ("Sec-WebSocket-Version", VERSION)),
            )
        key = fields.get("sec-websocket-key")
        if key is None or _KEY.fullmatch(key) is None:
            raise _bad("its Sec-WebSocket-Key is not 16 bytes in base64")
        origin = fields.get("origin")
        if origin is not None and not self._allowed(origin, request.host):
            raise Refused(
                HTTPStatus.FORBIDDEN, BadRequest("a page of this Origin may not connect here")
            )
        offered = fields.listed("sec-websocket-protocol")
        chosen = self._choose(offered)
        answer = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", accept_of(key)),
        ]
        if offered:
            answer.append(("Sec-WebSocket-Protocol", chosen.name))
        return Upgraded(
            http_head(HTTPStatus.SWITCHING_PROTOCOLS, answer),
            chosen,
            tuple(fields.listed("x-forwarded-for")[-_MOST_PROXIES:]),
        )

    def _allowed(self, origin: str, host: str) -> bool:
        if origin.lower() in self.origins:
            return True
        match = _ORIGIN.fullmatch(origin.lower())
        if match is None:
            return False  # "null" too, which is a file or a sandbox
        port = _DEFAULT_PORTS[match[1]]
        return match[2].removesuffix(port) == host.removesuffix(port)

    def _choose(self, offered: list[str]) -> Subprotocol:
        if not offered:
            return self.subprotocols[0]
        spoken = {subprotocol.name: subprotocol for subprotocol in self.subprotocols}
        for name in offered:
            if name in spoken:
                return spoken[name]
        # Without one a browser would end the connection, and could not tell why.
        raise _bad(f"it asks for no subprotocol that is spoken here: {', '.join(spoken)}")


_UPGRADE: Final = (("Upgrade", "websocket"), ("Connection", "Upgrade, close"))


def _bad(what: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, BadRequest(f"the handshake cannot be read: {what}"))


def _serve(page: Pages, request: RequestHead) -> Answered:
    """Answer a request for a page."""
    last, shown = request.last, request.method != "HEAD"
    if request.method not in ("GET", "HEAD"):
        allow = (("Allow", "GET, HEAD"),)
        status = HTTPStatus.METHOD_NOT_ALLOWED
        text = b"there are only pages here, to be read\n"
        return Answered(http_answer(status, text, _TEXT, allow, last=True), last=True)
    file = page.find(request.path)
    if file is None:
        status = HTTPStatus.NOT_FOUND
        data = http_answer(
            status, b"there is no such page\n", _TEXT, headers(), last=last, shown=shown
        )
        return Answered(data, last)
    fields = (("ETag", file.etag), *headers(file.connects))
    if _is_current(file, request):
        ends = (("Connection", "close"),) if last else ()
        return Answered(http_head(HTTPStatus.NOT_MODIFIED, (*fields, *ends)), last)
    status = HTTPStatus.OK
    data = http_answer(status, file.body, file.content_type, fields, last=last, shown=shown)
    return Answered(data, last)


def _is_current(file: StaticFile, request: RequestHead) -> bool:
    """Return whether a browser has this version of a file (RFC 9110, section 13.1.2)."""
    known = request.fields.listed("if-none-match")
    return "*" in known or file.etag in (tag.removeprefix("W/") for tag in known)


def accept_of(key: str) -> str:
    """Return the answer to a key (RFC 6455, section 4.2.2)."""
    digest = hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


# -- the client's end -----------------------------------------------------------------------


def request_upgrade(host: str, path: str, key: str, subprotocol: Subprotocol) -> bytes:
    """Return the request that opens a connection.

    Args:
        host: the server's, with its port if that is not the usual one.
        path: of the URL.
        key: 16 bytes in base64, other ones each time.
        subprotocol: what is to be spoken.
    """
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Version: {VERSION}",
        f"Sec-WebSocket-Protocol: {subprotocol.name}",
        "",
        "",
    )
    return "\r\n".join(lines).encode()


def check_upgraded(answer: StatusHead, key: str, subprotocol: Subprotocol) -> None:
    """Do nothing if a server has opened the connection.

    Raises:
        RemoteProtocolError: it has not, or not as it should.
    """
    fields = answer.fields
    if answer.status != HTTPStatus.SWITCHING_PROTOCOLS:
        # Whatever may be on a screen; the reason is the server's, and means nothing.
        reason = "".join(letter for letter in answer.reason if letter.isprintable())[:60]
        raise RemoteProtocolError(
            f"the server does not open a WebSocket: it answers {answer.status} {reason}".rstrip()
        )
    if not (fields.has("upgrade", "websocket") and fields.has("connection", "upgrade")):
        raise RemoteProtocolError("the server switches to another protocol than WebSocket")
    if fields.get("sec-websocket-accept") != accept_of(key):
        raise RemoteProtocolError("the server's answer is not to the key of this handshake")
    if fields.listed("sec-websocket-extensions"):
        raise RemoteProtocolError("the server uses an extension that nobody asked for")
    if fields.get("sec-websocket-protocol") != subprotocol.name:
        raise RemoteProtocolError(f"the server does not speak the subprotocol {subprotocol.name}")
