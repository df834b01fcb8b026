"""Whom a peer's certificate names: the account of a client, and what revocation knows it by.

What is read here has been verified by the handshake: the layer's context trusts who signed it.
"""

import hashlib
import logging
from collections.abc import Iterable
from typing import Final

from twinline.core.certificates import Certificate
from twinline.core.errors import InvalidUsername
from twinline.core.names import parse_username
from twinline.transports.contract import TransportError
from twinline.transports.tls.layer import TlsLayer

log = logging.getLogger(__name__)

SCHEME: Final = "twinline"
"""Of the URI that names an account: ``twinline:USERNAME``."""
_INTEGER: Final = 0x02
_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0  # context-specific, constructed, number 0


class NamesNoAccount(TransportError):
    """A certificate is good, and logs in nobody; the message says why."""


def client_certificate(layer: TlsLayer) -> Certificate | None:
    """Return what the client's certificate says, once the handshake is over.

    None if it has shown none, or one that does not name exactly one account; then why is logged.
    """
    der = layer.certificate
    if der is None:
        return None
    identity = identity_of(der)
    try:
        username = account_of(layer.names())
    except NamesNoAccount as reason:
        log.warning("a client's certificate (%.16s) %s", identity.hex(), reason)
        return None
    except UnicodeDecodeError:
        log.warning("a client's certificate (%.16s) has a name that is no text", identity.hex())
        return None
    return Certificate(username, identity, layer.certificate_expires_at)


def account_of(names: Iterable[tuple[str, str]]) -> str:
    """Return the username that a certificate's alternative names hold.

    Args:
        names: the kind and the value of each, as `ssl.SSLSocket.getpeercert` has them.

    Raises:
        NamesNoAccount: there is not exactly one URI of our scheme, or it is not a username.
    """
    # A scheme has no case (RFC 3986 section 3.1): another spelling of it is a second account too.
    ours = [
        value.partition(":")[2]
        for kind, value in names
        if kind == "URI" and value.partition(":")[0].lower() == SCHEME
    ]
    if len(ours) != 1:
        count = "no" if not ours else str(len(ours))
        raise NamesNoAccount(f"has {count} URIs {SCHEME}:USERNAME among its names, and needs one")
    try:
        return parse_username(ours[0])
    except InvalidUsername:
        raise NamesNoAccount(f"names {ours[0]!r:.80}, which is no username") from None


def identity_of(der: bytes) -> bytes:
    """Return what no other certificate of its issuer has, as `Certificate.identity`.

    Args:
        der: the certificate, RFC 5280 section 4.1.

    Raises:
        ValueError: it is no certificate.
    """
    _, start, _ = element(der, 0, _SEQUENCE)  # Certificate
    _, at, _ = element(der, start, _SEQUENCE)  # TBSCertificate
    tag, _, end = element(der, at)
    if tag == _VERSION:
        at = end
    _, start, at = element(der, at, _INTEGER)
    serial = int.from_bytes(der[start:at], signed=True)
    _, _, at = element(der, at, _SEQUENCE)  # the signature's algorithm
    _, _, end = element(der, at, _SEQUENCE)
    return identity(der[at:end], serial)


def identity(issuer: bytes, serial: int) -> bytes:
    """Return the SHA-256 of an issuer's name, as DER, and a serial number."""
    length = serial.bit_length() // 8 + 1
    return hashlib.sha256(issuer + serial.to_bytes(length, signed=True)).digest()


def element(der: bytes, at: int, expected: int | None = None) -> tuple[int, int, int]:
    """Return the tag of the element at a place, and where its content begins and ends.

    Raises:
        ValueError: there is none, or one with another tag than is expected.
    """
    start = at + 2
    if start > len(der):
        raise ValueError("it ends too early")
    tag, length = der[at], der[at + 1]
    if length >= 0x80:
        size = length - 0x80
        length = int.from_bytes(der[start : start + size])
        start += size
    end = start + length
    if end > len(der):
        raise ValueError("it ends too early")
    if expected not in (None, tag):
        raise ValueError(f"there is 0x{tag:02X} where 0x{expected:02X} should be")
    return tag, start, end
