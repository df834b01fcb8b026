"""TLS over bytes: what a socket brings is opened, what it is to take is sealed; no socket here.

The socket itself stays plain (`ssl.MemoryBIO`; Python's documentation, "Memory BIO Support"). So a
connection over TLS has the deadlines, wakes and shutdowns of any other, and whatever shuts the
socket down, nothing can leave it in clear text: only what this layer has sealed is ever written.
"""

import ssl
from typing import Final

from twinline.transports.contract import TransportError

_HEADER_BYTES: Final = 5
"""Of a record: its type, its version, and in the last two its length (RFC 8446 section 5.1)."""
_READ_BYTES: Final = 64 * 1024


class TlsError(TransportError):
    """The peer does not speak TLS as it must, or is not who it has to be."""


class TlsLayer:
    """One connection's TLS, of the server's side or the client's; used by one thread at a time.

    Attributes:
        established: whether the handshake is over.
        ended: whether the peer has closed the connection as TLS does (``close_notify``).
        has_to_send: whether `send` has something even if it is given nothing.
    """

    __slots__ = (
        "_arrived",
        "_closing",
        "_header",
        "_left",
        "_tls",
        "_to_send",
        "ended",
        "established",
    )

    def __init__(self, context: ssl.SSLContext, host: str | None = None) -> None:
        """Begin a handshake; nothing is sent yet.

        Args:
            context: of the server's side, or of the client's.
            host: for the client's side, the server's name or address, which its certificate must
                be for; None on the server's side.
        """
        self.established = False
        self.ended = False
        self._arrived = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._arrived, self._to_send, server_side=host is None, server_hostname=host
        )
        self._closing = False
        self._left = 0  # of the record that has begun, so many bytes have not arrived
        self._header = b""  # the first bytes of a record, as long as they are not all there

    def begin(self) -> None:
        """Put in the client's hello."""
        self._shake_hands()

    @property
    def has_to_send(self) -> bool:
        """Whether there is something to send: of a handshake, or an alert."""
        return self._to_send.pending > 0

    @property
    def mid_record(self) -> bool:
        """Whether a record has begun and its end has not arrived."""
        return self._left > 0 or bool(self._header)

    def receive_data(self, data: bytes) -> bytes:
        """Take in what the socket brought, and return what it says, which may be nothing.

        Raises:
            TlsError: the connection is to end, when what there is to send is sent: an alert.
        """
        if self.ended or self._closing:
            return b""
        self._follow(data)
        self._arrived.write(data)
        if not self.established and not self._shake_hands():
            return b""
        return self._read()

    def send(self, data: bytes, *, last: bool = False) -> bytes:
        """Seal bytes, and return all that the socket is to take.

        Before the handshake is over there is no way to seal anything: it is dropped then.

        Args:
            data: what to say; it may be nothing.
            last: whether nothing else follows.
        """
        if data and self.established and not self._closing:
            self._tls.write(data)
        if last and not self._closing:
            self._closing = True
            if self.established:
                self._say_end()
        return self._to_send.read()

    @property
    def certificate(self) -> bytes | None:
        """The peer's certificate as DER, or None: it has shown none."""
        return self._tls.getpeercert(binary_form=True)

    @property
    def protocol(self) -> str | None:
        """What the two have agreed to speak (ALPN), or None."""
        return self._tls.selected_alpn_protocol()

    @property
    def certificate_expires_at(self) -> int:
        """When the peer's certificate, which is checked, expires, in ms since 1970 UTC."""
        shown = self._tls.getpeercert() or {}
        return ssl.cert_time_to_seconds(str(shown["notAfter"])) * 1000

    def names(self) -> tuple[tuple[str, str], ...]:
        """Return the kinds and values of the names in the peer's certificate, which is checked."""
        shown = self._tls.getpeercert() or {}
        return shown.get("subjectAltName", ())  # type: ignore[return-value]

    def _shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except (ssl.SSLError, ValueError) as error:
            raise TlsError(_reason(error)) from error
        self.established = True
        return True

    def _read(self) -> bytes:
        pieces = []
        try:
            # Another read that finds nothing would raise, which costs as much as a read.
            while self._arrived.pending or self._tls.pending():
                piece = self._tls.read(_READ_BYTES)
                if not piece:
                    self.ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            raise TlsError(_reason(error)) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _say_end(self) -> None:
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            return  # it has said so, and waits for the peer's; or the peer broke off before

    def _follow(self, data: bytes) -> None:
        """Note where the last record that has begun will end."""
        at, size, left = 0, len(data), self._left
        while True:
            if left > size - at:
                self._left = left - (size - at)
                return
            at += left
            left = 0
            header = self._header + data[at : at + _HEADER_BYTES - len(self._header)]
            at += len(header) - len(self._header)
            if len(header) < _HEADER_BYTES:
                self._header, self._left = header, 0
                return
            self._header = b""
            left = int.from_bytes(header[3:])


def _reason(error: ssl.SSLError | ValueError) -> str:
    """Return what went wrong, as a sentence about the peer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate is refused: {error.verify_message}"
    reason = getattr(error, "reason", None)
    if reason is None:
        return f"TLS failed: {error}"
    return f"TLS failed: {reason.lower().replace('_', ' ')}"
