"""TLS for tests: its records, two layers that speak to each other, and a peer that breaks rules."""

import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha384
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

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


def records(stream: bytes) -> list[Record]:
    """Return the records of a stream, which must consist of such and nothing else."""
    found, at = [], 0
    while at < len(stream):
        kind, version = stream[at], stream[at + 1 : at + 3]
        size = int.from_bytes(stream[at + 3 : at + _HEADER_BYTES])
        assert kind in _KINDS, f"no record at {at}: {stream[at : at + 60]!r}"
        assert version in (b"\x03\x01", b"\x03\x03"), f"no record at {at}: {version!r}"
        assert size <= _MOST_BYTES, f"a record of {size} bytes at {at}"
        body = stream[at + _HEADER_BYTES :][:size]
        assert len(body) == size, f"half a record at {at}: {len(body)} of {size} bytes"
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


class Forger:
    """Seals what it likes as a client of TLS 1.3: the secret is in the log of its context's keys.

    Python's `ssl` has no way to ask for new keys, to send an empty record or a longer one than
    there may be (RFC 8446 sections 4.6.3, 5.2 and 7.2).
    """

    def __init__(self, key_log: Path) -> None:
        """Take the newest secret of a log, of a connection over TLS_AES_256_GCM_SHA384."""
        lines = [line.split() for line in key_log.read_text().splitlines()]
        secrets = [line[2] for line in lines if line and line[0] == "CLIENT_TRAFFIC_SECRET_0"]
        self._use(bytes.fromhex(secrets[-1]))

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
