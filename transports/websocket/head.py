"""The head of a request or an answer of HTTP/1.1 (RFC 9112): cut off a stream, and read strictly.

What two readers could understand in two ways is refused: a bare carriage return or line feed, a
folded line, white space before a colon, a field twice that may be there once. So no proxy before a
server sees other requests than the server does.
"""

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

MOST_BYTES: Final = 16 * 1024
"""The longest head, with its empty line."""
_END: Final = b"\r\n\r\n"
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a token of the RFC's grammar
_FIELD: Final = re.compile(rf"({_TOKEN}):([\t\x20-\x7e\x80-\xff]*)".encode())
"""White space around the value is not cut off here: a pattern that did so would try every way to
share it out, and 16 KiB of it held up all connections for a second."""
_REQUEST: Final = re.compile(rf"({_TOKEN}) ([\x21-\x7e]+) HTTP/(\d)\.(\d)\r\n".encode())
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-9]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
_TARGET: Final = re.compile(r"(?:https?://([^/?#]+))?(/[^?#]*)?(?:\?[^#]*)?", re.IGNORECASE)
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+;=-]+)(:\d{1,5})?", re.ASCII)
# Not those of a body: a request that has one of them is refused.
_ONCE: Final = frozenset(
    (
        "host",
        "origin",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
    )
)
_BROKEN: Final = "this is not the head of a message of HTTP/1.1: "


class HeadError(Exception):
    """A head that is not read: the status of the answer, and its sentence."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        self.status = status
        super().__init__(message)


class Fields:
    """The fields of a head, by their names in small letters."""

    def __init__(self, lines: list[bytes]) -> None:
        """Read them.

        Raises:
            HeadError: one is no field, or is there twice and may not be.
        """
        self._values: dict[str, list[str]] = {}
        for line in lines:
            match = _FIELD.fullmatch(line)
            if match is None:
                raise _bad("a line is no field")
            name = match[1].decode().lower()
            values = self._values.setdefault(name, [])
            if values and name in _ONCE:
                raise _bad(f"it has the field {name} twice")
            values.append(match[2].strip(b" \t").decode("latin-1"))

    def get(self, name: str) -> str | None:
        """Return the value of a field that may be there once; None if it is not there."""
        values = self._values.get(name)
        return None if values is None else values[0]

    def listed(self, name: str) -> list[str]:
        """Return the items of a field that is a list, in all its lines, without the empty ones."""
        lines = ",".join(self._values.get(name, ()))
        return [item for part in lines.split(",") if (item := part.strip(" \t"))]

    def has(self, name: str, token: str) -> bool:
        """Return whether a list has a token, in letters of any case."""
        return token in (item.lower() for item in self.listed(name))


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What a request asks for.

    Attributes:
        method: such as ``GET``.
        path: what it is about, without the query.
        host: the authority that it is sent to, in small letters; empty if HTTP/1.0 names none.
        fields: the rest.
        last: whether the connection is to end behind its answer.
        may_upgrade: whether its version of HTTP knows that.
    """

    method: str
    path: str
    host: str
    fields: Fields
    last: bool
    may_upgrade: bool


@dataclass(frozen=True, slots=True)
class StatusHead:
    """How a server answers.

    Attributes:
        status: its number.
        reason: its words, which mean nothing.
        fields: the rest.
    """

    status: int
    reason: str
    fields: Fields


class _HeadReader:
    """Cuts a head off what arrives, and searches every byte once; its first line is judged first.

    So a peer that does not speak HTTP at all is told as soon as it has ended a line.
    """

    __slots__ = ("_line", "_searched")

    def __init__(self) -> None:
        self._searched = 0
        self._line: re.Match[bytes] | None = None

    def _first_line(self, line: bytes) -> re.Match[bytes]:
        raise NotImplementedError

    def _cut(self, buffer: bytearray) -> tuple[re.Match[bytes], list[bytes]] | None:
        """Return the first line and the others; None until all of them are there.

        Raises:
            HeadError: this is no head, or one that is too long.
        """
        if not buffer:
            return None
        if self._line is None:
            if not buffer[:1].isalpha():
                raise _bad("it does not begin as one")
            end = buffer.find(b"\n", self._searched, MOST_BYTES)
            if end < 0:
                self._searched = len(buffer)
                _check_length(buffer)
                return None
            self._line = self._first_line(bytes(buffer[: end + 1]))
            self._searched = end - 1
        end = buffer.find(_END, self._searched, MOST_BYTES)
        if end < 0:
            self._searched = max(self._searched, len(buffer) - len(_END) + 1)
            _check_length(buffer)
            return None
        lines = bytes(buffer[:end]).split(b"\r\n")
        del buffer[: end + len(_END)]
        line, self._line, self._searched = self._line, None, 0
        return line, lines[1:]


class RequestReader(_HeadReader):
    """Reads the requests of a connection, at the server's end."""

    __slots__ = ()

    def take(self, buffer: bytearray) -> RequestHead | None:
        """Return the next request, cut off the buffer; None until it is there.

        Raises:
            HeadError: it is refused; nothing may be read behind it.
        """
        cut = self._cut(buffer)
        if cut is None:
            return None
        line, fields = cut[0], Fields(cut[1])
        newer = line[4] != b"0"
        match = _TARGET.fullmatch(line[2].decode())
        if match is None or not (match[1] or match[2]):
            raise _bad("its target is no path")
        host = fields.get("host")
        if host is None and newer:
            raise _bad("it has no field host")
        if host is not None and _HOST.fullmatch(host) is None:
            raise _bad("its field host is none")
        for name in ("content-length", "transfer-encoding"):
            if fields.get(name) is not None:
                raise HeadError(HTTPStatus.BAD_REQUEST, "a request has no body here")
        return RequestHead(
            method=line[1].decode(),
            path=match[2] or "/",
            host=(match[1] or host or "").lower(),
            fields=fields,
            last=fields.has("connection", "close") or not newer,
            may_upgrade=newer,
        )

    def _first_line(self, line: bytes) -> re.Match[bytes]:
        match = _REQUEST.fullmatch(line)
        if match is None:
            raise _bad("its first line is no request")
        if match[3] != b"1":
            version = f"HTTP/{match[3].decode()}.{match[4].decode()}"
            raise HeadError(
                HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, f"{version} is not spoken here; use HTTP/1.1"
            )
        return match


class StatusReader(_HeadReader):
    """Reads the answer to a handshake, at the client's end."""

    __slots__ = ()

    def take(self, buffer: bytearray) -> StatusHead | None:
        """Return the answer, cut off the buffer; None until it is there.

        Raises:
            HeadError: it is none.
        """
        cut = self._cut(buffer)
        if cut is None:
            return None
        line, fields = cut[0], Fields(cut[1])
        return StatusHead(int(line[1]), (line[2] or b"").decode("latin-1").strip(), fields)

    def _first_line(self, line: bytes) -> re.Match[bytes]:
        match = _STATUS.fullmatch(line)
        if match is None:
            raise _bad("its first line is no answer")
        return match


def _check_length(buffer: bytearray) -> None:
    """Do nothing while the end of a head may still come.

    Raises:
        HeadError: it is too long.
    """
    if len(buffer) >= MOST_BYTES:
        raise HeadError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"a head of HTTP is longer than {MOST_BYTES} bytes",
        )


def _bad(what: str) -> HeadError:
    return HeadError(HTTPStatus.BAD_REQUEST, _BROKEN + what)
