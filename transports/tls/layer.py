"""TLS over bytes: what a socket brings is opened, what it is to take is sealed; no socket here.

The socket itself stays plain (`ssl.MemoryBIO`; Python's documentation, "Memory BIO Support"). So a
connection over TLS has the deadlines, wakes and shutdowns of any other, and whatever shuts the
socket down, nothing can leave it in clear text: only what this layer has sealed is ever written.

Its states, and what each event does in them::

    state          what happens                    what is to be sent         next state
    shaking hands  a part of the peer's handshake  the next part of our own   as before, or
                                                                              established
                   what is no such part            an alert, or nothing       over
                   our last words                  nothing                    over
    established    records                         nothing, or new keys       established
                   the peer's end                  nothing                    established, ended
                   a record that is not as it      an alert                   over
                   must be
                   our words                       them                       established
                   our last words                  them, and our end          over
    over           anything                        nothing                    over
"""

import ssl
from typing import Final

from twinline.transports.contract import TransportError
from twinline.transports.tls.hello import HelloReader

_HEADER_BYTES: Final = 5
"""Of a record: its type, its version, and in the last two its length (RFC 8446 section 5.1)."""
_RECORD_BYTES: Final = 1 << 14
"""What a record brings, at the most.

A `ssl.MemoryBIO` keeps the room for the most that it has ever held, as long as the connection
lasts. So it is never given more than this at once.
"""


class TlsError(TransportError):
    """The peer does not speak TLS as it must, or is not who it has to be."""


class TlsLayer:
    """One connection's TLS, of the server's side or the client's; used by one thread at a time.

    Attributes:
        established: whether the handshake is over.
        ended: whether the peer has closed the connection as TLS does (``close_notify``).
        mid_record: whether a record has begun and its end has not arrived.
    """

    __slots__ = (
        "_arrived",
        "_header",
        "_hello",
        "_left",
        "_over",
        "_tls",
        "_to_send",
        "ended",
        "established",
        "mid_record",
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
        self.mid_record = False
        self._arrived = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._arrived, self._to_send, server_side=host is None, server_hostname=host
        )
        self._over = False
        self._left = 0  # of the record that has begun, so many bytes have not arrived
        self._header = b""  # the first bytes of a record, as long as they are not all there
        self._hello = HelloReader() if host is None else None  # until the handshake is over

    def begin(self) -> None:
        """Put in the client's hello."""
        self._shake_hands()

    @property
    def has_to_send(self) -> bool:
        """Whether there is something to send: of a handshake, or an alert."""
        return self._to_send.pending > 0

    def receive_data(self, data: bytes) -> bytes:
        """Take in what the socket brought, and return what it says, which may be nothing.

        Raises:
            TlsError: the connection is to end, when what there is to send is sent: an alert.
                It is raised once; what arrives later is not looked at.
        """
        if self.ended or self._over:
            return b""
        size = len(data)
        # Nearly always it is one whole record, whose end need not be looked for.
        whole = size > _HEADER_BYTES and data[3] << 8 | data[4] == size - _HEADER_BYTES
        if self.mid_record or not whole:
            self._follow(data)
        if size <= _RECORD_BYTES and self.established:
            return self._read(data)
        said = [
            self._take_in(data[at : at + _RECORD_BYTES]) for at in range(0, size, _RECORD_BYTES)
        ]
        return said[0] if len(said) == 1 else b"".join(said)

    def send(self, data: bytes, *, last: bool = False) -> bytes:
        """Seal bytes, and return all that the socket is to take.

        Before the handshake is over there is no way to seal anything: it is dropped then, as it is
        when the connection is over.

        Args:
            data: what to say; it may be nothing.
            last: whether nothing else follows.
        """
        if not self._over:
            if data and self.established:
                if len(data) > _RECORD_BYTES:
                    return self._send_much(data, last=last)
                self._tls.write(data)
            if last:
                self._end()
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
            self._over = True
            raise TlsError(self._reason(error)) from error
        self.established = True
        return True

    def _take_in(self, data: bytes) -> bytes:
        """As `receive_data`, of one piece."""
        if self.established:
            return self._read(data)
        too_long = self._hello is not None and self._hello.too_long(data)
        self._arrived.write(data)
        if self._shake_hands():
            self._hello = None
            return self._read(b"")
        if too_long:
            self._over = True
            del self._tls  # with what was set aside; the connection may last for a moment
            raise TlsError("the client's hello is too long")
        return b""

    def _read(self, data: bytes) -> bytes:
        arrived, read = self._arrived, self._tls.read
        arrived.write(data)
        said = b""
        try:
            # Each brings one record. Another one that finds nothing would raise, which costs as
            # much as a read.
            while arrived.pending:
                piece = read(_RECORD_BYTES)
                if not piece:
                    self.ended = True
                    break
                said = said + piece if said else piece
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._over = True
            raise TlsError(self._reason(error)) from error
        return said

    def _send_much(self, data: bytes, *, last: bool) -> bytes:
        sealed = []
        for at in range(0, len(data), _RECORD_BYTES):
            self._tls.write(data[at : at + _RECORD_BYTES])
            sealed.append(self._to_send.read())
        sealed.append(self.send(b"", last=last))
        return b"".join(sealed)

    def _end(self) -> None:
        self._over = True
        if self.established:
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                return  # it has said so, and waits for the peer's; or the peer broke off before

    def _follow(self, data: bytes) -> None:
        """Note where the last record that has begun will end."""
        at, size, left, begun = 0, len(data), self._left, self._header
        while True:
            if left > size - at:
                left -= size - at
                break
            at += left
            left = 0
            header = begun + data[at : at + _HEADER_BYTES - len(begun)]
            at += len(header) - len(begun)
            begun = b""
            if len(header) < _HEADER_BYTES:
                begun = header
                break
            left = int.from_bytes(header[3:])
        self._left, self._header = left, begun
        self.mid_record = left > 0 or begun != b""

    def _reason(self, error: ssl.SSLError | ValueError) -> str:
        """Return what went wrong, as a sentence about the peer."""
        peer = "client" if self._tls.server_side else "server"
        if isinstance(error, ssl.SSLCertVerificationError):
            unknown = error.verify_code in _UNKNOWN_AUTHORITY_CODES
            words = UNKNOWN_AUTHORITY if unknown else error.verify_message.rstrip(".")
            return f"the {peer}'s certificate is refused: {words}"
        reason = getattr(error, "reason", None)
        if reason is None:
            return f"TLS failed: {error}"
        if reason in _REASONS:
            return f"the {peer} {_REASONS[reason]}"
        return f"TLS failed: {reason.lower().replace('_', ' ')}"


UNKNOWN_AUTHORITY: Final = "who has signed it is not trusted here"
"""Of a certificate that is refused; which authorities are trusted is a matter of settings."""
_UNKNOWN_AUTHORITY_CODES: Final = (18, 19, 20, 21)
"""What X509_V_ERR_* calls a chain that ends in nobody who is known, or in itself."""
_NO_TLS: Final = "does not speak TLS"
_OTHER_VERSION: Final = "speaks no version of TLS that is spoken here"
_REFUSES: Final = "refuses the certificate that it was shown"
_REASONS: Final = {
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "PACKET_LENGTH_TOO_LONG": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "HTTPS_PROXY_REQUEST": _NO_TLS,
    "UNSUPPORTED_PROTOCOL": _OTHER_VERSION,
    "TLSV1_ALERT_PROTOCOL_VERSION": _OTHER_VERSION,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "wants to be shown a certificate",
    "TLSV1_ALERT_UNKNOWN_CA": f"{_REFUSES}: it does not trust who has signed it",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": f"{_REFUSES}: its time is over",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": f"{_REFUSES}: it was revoked",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _REFUSES,
    "SSLV3_ALERT_BAD_CERTIFICATE": _REFUSES,
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": f"{_REFUSES}: it is not for this use",
}
"""OpenSSL's names for what happens in practice, as what the peer does; alerts are the peer's."""
