"""What a proxy writes before its peer's bytes: headers of the PROXY protocol."""

import socket

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def line(source: str) -> bytes:
    """Return a header of version 1."""
    version, target = (6, "2001:db8::1") if ":" in source else (4, "192.0.2.1")
    return f"PROXY TCP{version} {source} {target} 51234 7767\r\n".encode()


def binary(
    source: str | None,
    tlvs: bytes = b"",
    *,
    command: int = 0x21,
    family: int | None = None,
) -> bytes:
    """Return a header of version 2.

    Args:
        source: an address; "unix" for the path of a socket; None for none.
        tlvs: what stands behind the addresses.
        command: the byte with the version and the command.
        family: the byte with the address family; None for the one that the source has.
    """
    if source is None:
        addresses, own = b"", 0x00
    elif source == "unix":
        addresses, own = b"/run/peer\0".ljust(108, b"\0") * 2, 0x31
    else:
        kind, own = (socket.AF_INET6, 0x21) if ":" in source else (socket.AF_INET, 0x11)
        target = "2001:db8::1" if ":" in source else "192.0.2.1"
        packed = [socket.inet_pton(kind, address) for address in (source, target)]
        addresses = b"".join(packed) + b"\xc8\x22\x1e\x57"
    rest = addresses + tlvs
    head = bytes([command, own if family is None else family]) + len(rest).to_bytes(2)
    return SIGNATURE + head + rest
