"""Addresses of peers: which are this machine's, and what limits count them by.

An address is text, as the system writes it: ``192.0.2.1``, ``2001:db8::1``, ``fe80::1%eth0``. A
caller that has none gives a word of its own (``unix``) or ``""``, and both come back unchanged.
"""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

UNIX: Final = "unix"
"""What stands for the address of a peer on a Unix socket."""


def canonical(address: str) -> str:
    """Return an address in its one form: an IPv4 address that came as an IPv6 one is IPv4.

    A socket that takes both families sees IPv4 peers as ``::ffff:192.0.2.1`` (RFC 4291 section
    2.5.5.2).
    """
    parsed = _parsed(address)
    return address if parsed is None else _same(str(parsed), address)


def is_loopback(address: str) -> bool:
    """Return whether an address is this machine's own, by whichever family."""
    parsed = _parsed(address)
    return parsed is not None and parsed.is_loopback


def limit_key(address: str, ipv6_prefix: int) -> str:
    """Return what a limit by address counts an address by.

    Args:
        address: an IPv4 address counts by itself, and an IPv6 address by its network, for whoever
            has one has all of them: a provider gives a customer a /64 at least (RFC 6177).
        ipv6_prefix: how many bits make that network, up to 128.
    """
    parsed = _parsed(address)
    if parsed is None or isinstance(parsed, IPv4Address):
        return address if parsed is None else _same(str(parsed), address)
    network = IPv6Network((int(parsed), ipv6_prefix), strict=False)
    # A link has the same local addresses as every other, so there the link is part of it.
    return f"{network}%{parsed.scope_id}" if parsed.scope_id else str(network)


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


def _same(text: str, address: str) -> str:
    """Return a text as the object that an equal address is, for each connection keeps both."""
    return address if text == address else text
