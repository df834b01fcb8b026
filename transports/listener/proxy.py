"""The header by which a proxy names its peer: the PROXY protocol, versions 1 and 2.

It comes before everything else on a connection, TLS included, and is written by the proxy, not by
the peer behind it ("The PROXY protocol", HAProxy Technologies, 2020; the sections below are its).
Version 1 is a line of text, version 2 is binary::

    PROXY TCP4 203.0.113.9 192.0.2.1 51234 7767 CR LF
    0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A, 21, 11, length, addresses, TLVs

Only the source's address is of use here. The TLVs behind it are skipped, a checksum among them: TCP
has one, and a proxy that is trusted has no reason to damage its own header.
"""

import re
import socket
from typing import Final

from twinline.core.addresses import UNIX, canonical
from twinline.transports.contract import TransportError

MAX_LINE_BYTES: Final = 107
"""Of version 1, with its CRLF (section 2.1)."""
_TEXT: Final = b"PROXY "
_BINARY: Final = b"\r\n\r\n\0\r\nQUIT\n"
_BINARY_HEAD_BYTES: Final = 16  # with version and command, families, and the length of the rest
_VERSION: Final = 2
_LOCAL, _PROXY = 0, 1  # the commands of version 2
_UNSPEC: Final = 0
_STREAM, _DATAGRAM = 1, 2
_IP_FAMILIES: Final = {1: (socket.AF_INET, 4, 12), 2: (socket.AF_INET6, 16, 36)}
"""By their number: the system's, the bytes of an address, and those of all the addresses."""
_UNIX_FAMILY, _UNIX_BYTES = 3, 216
_NAMED: Final = re.compile(
    rb"TCP(?P<version>[46]) (?P<source>[0-9A-Fa-f:.]+) (?P<target>[0-9A-Fa-f:.]+)"
    rb" (?P<source_port>0|[1-9][0-9]{0,4}) (?P<target_port>0|[1-9][0-9]{0,4})"
)
_UNKNOWN: Final = re.compile(rb"UNKNOWN( .*)?", re.DOTALL)
_LAST_PORT: Final = 65_535


class ProxyHeaderError(TransportError):
    """What a connection began with is no header of the PROXY protocol; it must end."""


class ProxyHeader:
    """Reads the header at the start of a connection, however it is cut.

    It holds no more of it than the addresses need: 232 bytes.

    Attributes:
        whole: whether it has all arrived.
        own: once it is whole, whether the connection is the proxy's own: it asks for the server's
            health, for instance.
        address: once it is whole, where the peer comes from: an IP address, or "unix" for a peer of
            the proxy's machine; None where the proxy does not say.
    """

    __slots__ = ("_skip", "_start", "address", "own", "whole")

    def __init__(self) -> None:
        self.whole = False
        self.own = False
        self.address: str | None = None
        self._start = bytearray()  # what has arrived, up to the addresses
        self._skip = 0  # bytes that belong to the header and say nothing of use

    @property
    def begun(self) -> bool:
        """Whether anything of it has arrived."""
        return self.whole or bool(self._start or self._skip)

    def receive_data(self, data: bytes) -> bytes:
        """Take in what has arrived, and return what lies behind the header.

        Args:
            data: any number of bytes; once the header is whole there may be no more.

        Raises:
            ProxyHeaderError: this is no such header, or says what cannot be.
        """
        if not self._skip:
            self._start += data
            data = self._read()
        skipped = min(self._skip, len(data))
        if skipped:
            self._skip -= skipped
            data = data[skipped:]
            self.whole = not self._skip
        return data

    def _read(self) -> bytes:
        """Read what has arrived; return what lies behind what was read, or nothing yet."""
        start = self._start
        if start.startswith(_TEXT):
            return self._read_line()
        if start.startswith(_BINARY):
            return self._read_binary()
        if _TEXT.startswith(start) or _BINARY.startswith(start):
            return b""
        raise ProxyHeaderError("the connection does not begin with a header of the PROXY protocol")

    def _read_line(self) -> bytes:
        start = self._start
        end = start.find(b"\n", 0, MAX_LINE_BYTES)
        if end < 0:
            if len(start) >= MAX_LINE_BYTES:
                raise ProxyHeaderError(f"a PROXY line is longer than {MAX_LINE_BYTES} bytes")
            return b""
        if start[end - 1 : end] != b"\r":
            raise ProxyHeaderError("a PROXY line does not end with CR and LF")
        line = bytes(start[len(_TEXT) : end - 1])
        if not _UNKNOWN.fullmatch(line):
            self.address = _named(line)
        return self._behind(end + 1)

    def _read_binary(self) -> bytes:
        start = self._start
        if len(start) < _BINARY_HEAD_BYTES:
            return b""
        version, command = divmod(start[12], 16)
        if version != _VERSION or command not in (_LOCAL, _PROXY):
            raise ProxyHeaderError(f"a PROXY header has the version and command {start[12]:#04x}")
        family, kind = divmod(start[13], 16)
        if family > _UNIX_FAMILY or kind not in (_UNSPEC, _STREAM, _DATAGRAM):
            raise ProxyHeaderError(f"a PROXY header has the address family {start[13]:#04x}")
        length = int.from_bytes(start[14:_BINARY_HEAD_BYTES])
        used = 0
        if command == _LOCAL:
            self.own = True
        elif _UNSPEC not in (family, kind):
            system, size, used = _IP_FAMILIES.get(family, (None, 0, _UNIX_BYTES))
            if length < used:
                raise ProxyHeaderError(f"a PROXY header has no room for its addresses: {length}")
            if len(start) < _BINARY_HEAD_BYTES + used:
                return b""
            self.address = UNIX
            if system is not None:
                source = start[_BINARY_HEAD_BYTES : _BINARY_HEAD_BYTES + size]
                self.address = canonical(socket.inet_ntop(system, bytes(source)))
        self._skip = length - used
        return self._behind(_BINARY_HEAD_BYTES + used)

    def _behind(self, end: int) -> bytes:
        rest = bytes(self._start[end:])
        self._start = bytearray()
        self.whole = not self._skip
        return rest


def _named(line: bytes) -> str:
    """Return the source of a line that names one.

    Raises:
        ProxyHeaderError: it does not.
    """
    match = _NAMED.fullmatch(line)
    if match is None:
        raise ProxyHeaderError(f"a PROXY line cannot be read: {line!r}")
    family = socket.AF_INET if match["version"] == b"4" else socket.AF_INET6
    try:
        for name in ("source", "target"):
            socket.inet_pton(family, match[name].decode())
    except OSError:
        raise ProxyHeaderError(f"a PROXY line has no such address: {line!r}") from None
    if max(int(match["source_port"]), int(match["target_port"])) > _LAST_PORT:
        raise ProxyHeaderError(f"a PROXY line has no such port: {line!r}")
    return canonical(match["source"].decode())
