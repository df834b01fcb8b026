"""Addresses of peers: which are this machine's, and what limits count them by.

An address is text, as the system writes it: ``192.0.2.1``, ``2001:db8::1``, ``fe80::1%eth0``. A
caller that has none gives a word of its own (``unix``, ``behind 192.0.2.1``) or ``""``, and all of
these come back unchanged.
"""

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
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


def is_local(address: str) -> bool:
    """Return whether a peer is on this machine: on a Unix socket, or at a loopback address."""
    return address == UNIX or is_loopback(address)


def behind(proxy: str) -> str:
    """Return what stands for the address of a peer that a proxy does not name to others.

    It may be a peer of the proxy's own machine, or one that the proxy cannot or will not name. All
    of these count as one address, and as none of this machine.

    Args:
        proxy: the address of the proxy.
    """
    return f"behind {proxy}"


class AddressSet:
    """Addresses, networks, and maybe the peers of Unix sockets; ``address in set`` asks for one."""

    __slots__ = ("_networks", "_unix")

    def __init__(self, members: Iterable[str] = ()) -> None:
        """Read what is in it.

        Args:
            members: each an address, a network as ``10.0.0.0/8``, or ``unix``.

        Raises:
            ValueError: one of them is none of these.
        """
        self._unix = False
        networks = []
        for member in members:
            if member == UNIX:
                self._unix = True
            else:
                networks.append(_network(member))
        self._networks: tuple[IPv4Network | IPv6Network, ...] = tuple(networks)

    def __contains__(self, address: str) -> bool:
        if address == UNIX:
            return self._unix
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self._networks)

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)


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


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text)
    except ValueError:
        try:
            meant = ip_network(text, strict=False)
        except ValueError:
            raise ValueError(
                f"{text!r} is no address, no network such as 10.0.0.0/8, and not {UNIX}"
            ) from None
        raise ValueError(f"{text!r} has bits beyond its network: write {meant}") from None
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError(f"{text!r}: write it as the IPv4 address or network that it is")
    return network


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
