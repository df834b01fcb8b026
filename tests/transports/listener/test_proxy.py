"""The PROXY protocol's header: what is read of it, what is refused, and every way to cut it."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from proxied import SIGNATURE, binary, line

from twinline.transports.listener.proxy import ProxyHeader, ProxyHeaderError

BEHIND = b'\x16{"op":"ping","id":1}\n\r\nPROXY '
NAMED = {  # headers, each with the address that it names and whether it is the proxy's own
    "a line": (line("203.0.113.9"), "203.0.113.9", False),
    "a line with IPv6": (line("2001:DB8::9"), "2001:db8::9", False),
    "a line with IPv4 as IPv6": (line("::ffff:203.0.113.9"), "203.0.113.9", False),
    "the longest line": (
        b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535".ljust(105) + b"\r\n",
        None,
        False,
    ),
    "unknown": (b"PROXY UNKNOWN\r\n", None, False),
    "unknown, with bytes that are no text": (b"PROXY UNKNOWN \xff\0\r\r\n", None, False),
    "binary": (binary("203.0.113.9"), "203.0.113.9", False),
    "binary with IPv6": (binary("2001:db8::9"), "2001:db8::9", False),
    "binary with IPv4 as IPv6": (binary("::ffff:203.0.113.9"), "203.0.113.9", False),
    "binary with TLVs": (binary("203.0.113.9", b"\x03\0\x04\1\2\3\4"), "203.0.113.9", False),
    "binary of the greatest length": (
        binary("203.0.113.9", bytes(65_535 - 12)),
        "203.0.113.9",
        False,
    ),
    "a datagram's": (binary("203.0.113.9", family=0x12), "203.0.113.9", False),
    "a Unix socket's": (binary("unix"), "unix", False),
    "of no family": (binary(None), None, False),
    "of no family, with more behind it": (binary(None, b"\xff" * 40), None, False),
    "of no kind": (binary("203.0.113.9", family=0x10), None, False),
    "the proxy's own": (binary(None, command=0x20), None, True),
    "the proxy's own, with addresses": (binary("203.0.113.9", command=0x20), None, True),
}
REFUSED = {
    "no header": b'{"op":"ping","id":1}\n',
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    "HTTP": b"GET / HTTP/1.1\r\n",
    "small letters": b"proxy TCP4 203.0.113.9 192.0.2.1 1 2\r\n",
    "a line without CR": b"PROXY TCP4 203.0.113.9 192.0.2.1 1 2\n",
    "unknown without CR": b"PROXY UNKNOWN 1\n",
    "a line without an end": b"PROXY TCP4 203.0.113.9 192.0.2.1 1 2 ".ljust(107, b"x"),
    "a line that is a byte too long": b"PROXY UNKNOWN ".ljust(106) + b"\r\n",
    "another protocol": b"PROXY UDP4 203.0.113.9 192.0.2.1 1 2\r\n",
    "no addresses": b"PROXY TCP4\r\n",
    "one address": b"PROXY TCP4 203.0.113.9 1 2\r\n",
    "more than there is": b"PROXY TCP4 203.0.113.9 192.0.2.1 1 2 3\r\n",
    "two spaces": b"PROXY TCP4  203.0.113.9 192.0.2.1 1 2\r\n",
    "a number too large": b"PROXY TCP4 203.0.113.256 192.0.2.1 1 2\r\n",
    "a number that begins with 0": b"PROXY TCP4 203.0.113.09 192.0.2.1 1 2\r\n",
    "too few numbers": b"PROXY TCP4 203.0.113 192.0.2.1 1 2\r\n",
    "the wrong family": b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
    "the wrong family, the other way": b"PROXY TCP6 203.0.113.9 192.0.2.1 1 2\r\n",
    "a target that cannot be": b"PROXY TCP4 203.0.113.9 192.0.2 1 2\r\n",
    "a link": b"PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n",
    "a port too large": b"PROXY TCP4 203.0.113.9 192.0.2.1 65536 2\r\n",
    "a port that begins with 0": b"PROXY TCP4 203.0.113.9 192.0.2.1 01 2\r\n",
    "digits of another script": "PROXY TCP4 203.0.113.9 192.0.2.1 \u0661 2\r\n".encode(),
    "almost unknown": b"PROXY UNKNOWNS\r\n",
    "a signature that ends otherwise": SIGNATURE[:-1] + b"\r!\x11\0\0",
    "version 1 in binary": binary("203.0.113.9", command=0x11),
    "version 3": binary("203.0.113.9", command=0x31),
    "another command": binary("203.0.113.9", command=0x22),
    "another family": binary("203.0.113.9", family=0x41),
    "another kind": binary("203.0.113.9", family=0x13),
    "no room for IPv4": SIGNATURE + b"\x21\x11\0\x0b" + bytes(11),
    "no room for IPv6": SIGNATURE + b"\x21\x21\0\x23" + bytes(35),
    "no room for paths": SIGNATURE + b"\x21\x31\0\xd7" + bytes(215),
}


def read(pieces: Iterable[bytes]) -> tuple[str | None, bool, bytes] | str:
    """Return what is read of these: the address, whether it is the proxy's own, what is behind it.

    If it is refused, that is "refused"; if it is not whole, "more".
    """
    header, rest = ProxyHeader(), bytearray()
    for piece in pieces:
        if header.whole:
            rest += piece
            continue
        try:
            rest += header.receive_data(piece)
        except ProxyHeaderError:
            return "refused"
        assert header.whole or not rest
        assert len(header._start) <= 232, "it holds more than it needs"
    return (header.address, header.own, bytes(rest)) if header.whole else "more"


def by_bytes(data: bytes) -> Iterable[bytes]:
    """Cut it into single bytes."""
    return (data[at : at + 1] for at in range(len(data)))


@pytest.mark.parametrize("name", NAMED)
def test_what_a_header_names(name: str) -> None:
    header, address, own = NAMED[name]
    assert read([header + BEHIND]) == (address, own, BEHIND)
    assert read([header, BEHIND]) == (address, own, BEHIND)
    assert read(by_bytes(header + BEHIND)) == (address, own, BEHIND)
    assert read([header[:-1]]) == "more"


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_header(name: str) -> None:
    assert read([REFUSED[name]]) == "refused"
    assert read(by_bytes(REFUSED[name])) == "refused"


def test_a_refusal_quotes_what_was_sent_and_no_more_than_a_line_of_it() -> None:
    with pytest.raises(ProxyHeaderError) as refused:
        ProxyHeader().receive_data(b"PROXY TCP4 \x1b[31m\r\n" + b"secret" * 1_000)
    assert "\x1b" not in str(refused.value)
    assert "secret" not in str(refused.value)


MOST = max(len(header) for header, _, _ in NAMED.values() if len(header) < 1_000)


@given(
    st.one_of(
        st.sampled_from([header for header, _, _ in NAMED.values() if len(header) < 1_000]),
        st.sampled_from(list(REFUSED.values())),
        st.binary(max_size=40),
        st.binary(max_size=40).map(SIGNATURE.__add__),
        st.binary(max_size=120).map(b"PROXY ".__add__),
        st.from_regex(rb"PROXY TCP[46] [0-9a-f.:]* [0-9a-f.:]* [0-9]* [0-9]*\r\n", fullmatch=True),
    ),
    st.binary(max_size=20),
    st.lists(st.integers(0, MOST + 20), max_size=6),
)
@example(b"PROXY UNKNOWN\r", b"\n", [1])
def test_a_header_is_the_same_however_it_is_cut(start: bytes, rest: bytes, cuts: list[int]) -> None:
    data = start + rest
    whole = read([data])
    edges = [0, *sorted(cuts), len(data)]
    assert read(data[a:b] for a, b in pairwise(edges)) == whole
    assert read(by_bytes(data)) == whole


@given(st.ip_addresses(), st.binary(max_size=30), st.binary(max_size=30))
def test_whatever_a_proxy_names_is_read(address: object, tlvs: bytes, rest: bytes) -> None:
    named = str(getattr(address, "ipv4_mapped", None) or address)
    assert read([binary(str(address), tlvs) + rest]) == (named, False, rest)
    assert read([line(str(address)) + rest]) == (named, False, rest)
