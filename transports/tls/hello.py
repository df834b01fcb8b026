"""How long a client's hello says it is: OpenSSL sets memory aside for all of it at its first bytes.

It would take 128 KiB, and so nine bytes on each of a thousand connections took 170 MiB.
"""

from typing import Final

MOST_BYTES: Final = 1 << 14
"""Of a hello (RFC 8446 section 4.1.2): those of today's browsers have two KiB."""
_RECORD_HEADER_BYTES: Final = 5
_HANDSHAKE: Final = 22  # the type of a record
_MESSAGE_HEADER_BYTES: Final = 4  # its type, and its length in three
_CLIENT_HELLO: Final = 1


class HelloReader:
    """Follows the records of a handshake that are in plain, however they are cut.

    A client may say hello twice (section 4.1.4), and a message may go on in the next record.
    """

    __slots__ = ("_found", "_header", "_is_handshake", "_message_left", "_record_left", "_start")

    def __init__(self) -> None:
        self._header = b""  # of a record, as long as it is not all there
        self._record_left = 0
        self._is_handshake = False
        self._start = b""  # of a message, as long as its header is not all there
        self._message_left = 0
        self._found = False  # in the record that has begun

    def too_long(self, data: bytes) -> bool:
        """Take in what has arrived, and return whether a hello has begun that is too long.

        What is encrypted may look like one: it is one if it does not end the handshake. Whether it
        does is known once its record is whole, and before that OpenSSL takes no memory for it.
        """
        at, size = 0, len(data)
        while at < size:
            if self._record_left:
                end = min(at + self._record_left, size)
                if self._is_handshake and not self._found:
                    self._found = self._has_too_long(data[at:end])
                self._record_left -= end - at
                at = end
                if self._found and not self._record_left:
                    return True
                continue
            header = self._header + data[at : at + _RECORD_HEADER_BYTES - len(self._header)]
            at += len(header) - len(self._header)
            if len(header) < _RECORD_HEADER_BYTES:
                self._header = header
                return False
            self._header = b""
            self._is_handshake = header[0] == _HANDSHAKE
            self._record_left = int.from_bytes(header[3:])
        return False

    def _has_too_long(self, piece: bytes) -> bool:
        at, size = 0, len(piece)
        while at < size:
            skipped = min(self._message_left, size - at)
            self._message_left -= skipped
            at += skipped
            start = self._start + piece[at : at + _MESSAGE_HEADER_BYTES - len(self._start)]
            at += len(start) - len(self._start)
            self._start = start
            if len(start) == _MESSAGE_HEADER_BYTES:
                self._message_left = int.from_bytes(start[1:])
                if start[0] == _CLIENT_HELLO and self._message_left > MOST_BYTES:
                    return True
                self._start = b""
        return False
