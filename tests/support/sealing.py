"""TLS for tests: its records, two layers that speak to each other, peers, and one that forges."""

import socket
import ssl
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha384
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from listening import Peer
from waiting import fail_with_stacks

from twinline.core.protocol import Reply, Request
from twinline.transports.contract import ReplyReceived
from twinline.transports.endpoints import Endpoint
from twinline.transports.registry import transport
from twinline.transports.tls import ServerTls, TlsFiles, TlsLayer, client_context

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
ALERT, HANDSHAKE, SPOKEN = 21, 22, 23
"""Kinds of records: the last is what applications say (RFC 8446 section 5.1)."""
_KINDS = frozenset({20, ALERT, HANDSHAKE, SPOKEN})
_HEADER_BYTES = 5
_MOST_BYTES = (1 << 14) + 256


@dataclass(frozen=True)
class Record:
    """A record as it travels."""

    kind: int
    body: bytes

    @property
    def size(self) -> int:
        """Its bytes with its header."""
        return _HEADER_BYTES + len(self.body)


def records(stream: bytes, *, last_may_be_cut: bool = False) -> list[Record]:
    """Return the records of a stream, which must consist of such and nothing else."""
    found, at = [], 0
    while at < len(stream):
        kind, version = stream[at], stream[at + 1 : at + 3]
        size = int.from_bytes(stream[at + 3 : at + _HEADER_BYTES])
        assert kind in _KINDS, f"no record at {at}: {stream[at : at + 60]!r}"
        assert version in (b"\x03\x01", b"\x03\x03"), f"no record at {at}: {version!r}"
        assert size <= _MOST_BYTES, f"a record of {size} bytes at {at}"
        body = stream[at + _HEADER_BYTES :][:size]
        assert last_may_be_cut or len(body) == size, f"half a record at {at}: {body!r}"
        found.append(Record(kind, body))
        at += _HEADER_BYTES + size
    return found


def server_tls(certificates: Any, issued: Any = None, **files: str) -> ServerTls:
    """Return what makes the layers of a server."""
    issued = issued or certificates.server
    return ServerTls(TlsFiles(str(issued.certificate), str(issued.key), **files))


def trusting(certificates: Any, version: str | None = None) -> ssl.SSLContext:
    """Return the context of a client that trusts the server, and speaks one version or any."""
    context = client_context(ca_file=str(certificates.ca.file))
    if version is not None:
        context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


class Pair:
    """A server's layer and a client's, and what has gone between them.

    Attributes:
        server: the server's layer.
        client: the client's.
        up: all that the client has sent.
        down: all that the server has sent.
    """

    def __init__(self, tls: ServerTls, context: ssl.SSLContext) -> None:
        self.server = tls.layer()
        self.client = TlsLayer(context, "localhost")
        self.up = self.down = b""

    def begin(self) -> bytes:
        """Return the client's hello."""
        self.client.begin()
        return self.take_up()

    def take_up(self, data: bytes = b"", *, last: bool = False) -> bytes:
        """Return what the client sends."""
        sent = self.client.send(data, last=last)
        self.up += sent
        return sent

    def take_down(self, data: bytes = b"", *, last: bool = False) -> bytes:
        """Return what the server sends."""
        sent = self.server.send(data, last=last)
        self.down += sent
        return sent

    def shake_hands(self) -> "Pair":
        """Make the handshake; what either side says by itself has then been exchanged."""
        data = self.begin()
        while data:
            assert self.server.receive_data(data) == b""
            assert self.client.receive_data(self.take_down()) == b""
            data = self.take_up()
        assert self.server.established
        assert self.client.established
        return self


def opened(layer: TlsLayer, stream: Iterable[bytes]) -> bytes:
    """Return what pieces say to a layer."""
    return b"".join(map(layer.receive_data, stream))


class TlsPeer(Peer):
    """A peer over TLS; where the server does not say its end as TLS does, that is an error.

    Attributes:
        token: of its session, once it has entered.
    """

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext, seconds: float = 10.0) -> None:
        super().__init__(endpoint, seconds)
        self.token = ""
        plain = self.socket
        try:
            self.socket = context.wrap_socket(
                plain, server_hostname="localhost", suppress_ragged_eofs=False
            )
        except BaseException:
            plain.close()
            raise

    def send_plain(self, data: bytes) -> None:
        """Send bytes past TLS."""
        socket.socket.sendall(self.socket, data)

    def shut_down(self) -> None:
        """End its side, without a word of TLS."""
        socket.socket.shutdown(self.socket, socket.SHUT_WR)


class TlsSpeaker:
    """A peer over TLS that speaks a transport and writes its records in any pieces.

    Attributes:
        socket: the connection, in plain.
    """

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext, spoken: str) -> None:
        self._seconds = 20.0
        self.socket = Peer(endpoint, self._seconds).socket
        self._layer = TlsLayer(context, "localhost")
        self._codec = transport(spoken).client_codec(1 << 20)
        self._received: deque[ReplyReceived] = deque()
        self._layer.begin()
        while not self._layer.established:
            self.socket.sendall(self._layer.send(b""))
            assert self._receive(), "the connection ended"

    def put(self, *requests: tuple[int, Request]) -> bytes:
        """Return what seals requests, in one record."""
        for number, request in requests:
            self._codec.send(number, request)
        return self._layer.send(self._codec.data_to_send())

    def send(self, number: int, request: Request) -> "TlsSpeaker":
        """Send a request."""
        self.socket.sendall(self.put((number, request)))
        return self

    def read(self) -> ReplyReceived | None:
        """Return the next reply, or None at the end of the connection."""
        while not self._received:
            if self._layer.ended or not self._receive():
                return None
        return self._received.popleft()

    def ask(self, request: Request) -> Reply:
        """Send a request and return its reply."""
        received = self.send(1, request).read()
        assert received is not None, "the connection ended"
        return received.reply

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            fail_with_stacks("a reply, or the end", self._seconds)
        self._codec.receive_data(self._layer.receive_data(data))
        while (event := self._codec.next_event()) is not None:
            self._received.append(event)
        return bool(data)

    def __enter__(self) -> "TlsSpeaker":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


class Forger:
    """Seals what it likes as a client of TLS 1.3: the secret is in the log of its context's keys.

    Python's `ssl` has no way to ask for new keys, to send an empty record or a longer one than
    there may be (RFC 8446 sections 4.6.3, 5.2 and 7.2).
    """

    def __init__(self, key_log: Path, sent: int = 0) -> None:
        """Take the newest secret of a log, of a connection over TLS_AES_256_GCM_SHA384.

        Args:
            key_log: the file.
            sent: how many records the client has sent since its handshake.
        """
        lines = [line.split() for line in key_log.read_text().splitlines()]
        secrets = [line[2] for line in lines if line and line[0] == "CLIENT_TRAFFIC_SECRET_0"]
        self._use(bytes.fromhex(secrets[-1]))
        self._number = sent

    def record(self, kind: int, content: bytes) -> bytes:
        """Return a sealed record of some kind."""
        inner = content + bytes([kind])
        header = bytes([SPOKEN, 3, 3]) + (len(inner) + 16).to_bytes(2)
        nonce = (int.from_bytes(self._iv) ^ self._number).to_bytes(12)
        self._number += 1
        return header + self._key.encrypt(nonce, inner, header)

    def key_update(self) -> bytes:
        """Return a record that changes this side's keys, and asks for the same of the other."""
        sealed = self.record(HANDSHAKE, bytes([24, 0, 0, 1, 1]))
        self._use(_derived(self._secret, b"traffic upd", sha384().digest_size))
        return sealed

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._key = AESGCM(_derived(secret, b"key", 32))
        self._iv = _derived(secret, b"iv", 12)
        self._number = 0


def _derived(secret: bytes, label: bytes, size: int) -> bytes:
    label = b"tls13 " + label
    info = size.to_bytes(2) + bytes([len(label)]) + label + b"\0"
    return HKDFExpand(SHA384(), size, info).derive(secret)
