"""Who a peer is that proxies stand before: whom of them is believed, and how far."""

from collections.abc import Sequence

import pytest
from proxied import binary, line
from pydantic import ValidationError

from twinline.core.addresses import AddressSet
from twinline.transports.endpoints import Endpoint, EndpointError
from twinline.transports.listener import ListenerSettings
from twinline.transports.listener.base import check_proxies
from twinline.transports.listener.introduction import Introduction, forwarded_address

TRUSTED = AddressSet(["127.0.0.1", "10.0.0.0/8", "2001:db8:1::/48", "unix"])


def introduced(
    address: str, header: bytes | None = None, forwarded: Sequence[str] = ()
) -> tuple[str, bool]:
    """Return where a peer comes from, and whether that was known before its transport spoke."""
    introduction = Introduction(address, TRUSTED, header=header is not None)
    if header is not None:
        assert introduction.awaits_header
        assert introduction.receive_data(header) == b""
    assert not introduction.awaits_header
    early = introduction.known
    if not early:
        introduction.hear(forwarded)
    assert introduction.known
    return introduction.address, early


@pytest.mark.parametrize(
    ("forwarded", "peer"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["6.6.6.6", "203.0.113.9"], "203.0.113.9"),
        (["6.6.6.6", "203.0.113.9", "10.1.2.3"], "203.0.113.9"),
        (["6.6.6.6", "2001:db8::9", "10.1.2.3", "2001:db8:1::7"], "2001:db8::9"),
        (["10.0.0.1", "10.0.0.2"], "10.0.0.1"),
        (["203.0.113.9", "10.0.0.1", "unknown", "10.0.0.2"], "10.0.0.2"),
        (["203.0.113.9", "127.0.0.1"], "203.0.113.9"),
        (["::ffff:203.0.113.9"], "203.0.113.9"),
        ([" 203.0.113.9:443 "], "203.0.113.9"),
        (["127.0.0.1"], "behind 10.9.9.9"),
        (["127.0.0.7", "127.0.0.1"], "behind 10.9.9.9"),
        (["::1"], "behind 10.9.9.9"),
        (["203.0.113.9", "unknown"], "10.9.9.9"),
        ([], "10.9.9.9"),
    ],
)
def test_the_first_that_is_not_trusted_is_the_peer(forwarded: list[str], peer: str) -> None:
    assert introduced("10.9.9.9", None, forwarded) == (peer, False)


@pytest.mark.parametrize("proxy", ["127.0.0.1", "unix"])
@pytest.mark.parametrize("forwarded", [["127.0.0.1"], ["unknown"], ["unix"], [""]])
def test_who_is_behind_a_local_proxy_is_not_local(proxy: str, forwarded: list[str]) -> None:
    assert introduced(proxy, None, forwarded) == (f"behind {proxy}", False)
    assert introduced(proxy) == (proxy, False)


@pytest.mark.parametrize(
    ("header", "peer", "early"),
    [
        (line("203.0.113.9"), "203.0.113.9", True),
        (binary("2001:db8::9"), "2001:db8::9", True),
        (line("127.0.0.2"), "behind 127.0.0.1", True),
        (line("127.0.0.1"), "behind 127.0.0.1", False),
        (line("::1"), "behind 127.0.0.1", True),
        (binary("unix"), "behind 127.0.0.1", False),
        (binary(None), "behind 127.0.0.1", True),
        (b"PROXY UNKNOWN\r\n", "behind 127.0.0.1", True),
        (binary(None, command=0x20), "127.0.0.1", False),
        (line("10.1.1.1"), "10.1.1.1", False),
    ],
)
def test_what_a_header_makes_of_a_local_proxy(header: bytes, peer: str, early: bool) -> None:
    assert introduced("127.0.0.1", header) == (peer, early)


@pytest.mark.parametrize("header", [line("10.1.1.1"), line("127.0.0.1"), binary("unix")])
def test_after_a_header_a_second_proxy_is_believed_if_it_is_trusted(header: bytes) -> None:
    assert introduced("127.0.0.1", header, ["6.6.6.6", "203.0.113.9"])[0] == "203.0.113.9"
    assert introduced("127.0.0.1", header, ["127.0.0.1"])[0].startswith("behind ")
    assert introduced("127.0.0.1", line("198.51.100.1"), ["203.0.113.9"])[0] == "198.51.100.1"


@pytest.mark.parametrize(
    ("entry", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:50000", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:50000", "2001:db8::1"),
        ("[192.0.2.1]:50000", "192.0.2.1"),
        ("192.0.2.1:", None),
        ("192.0.2.1:http", None),
        ("192.0.2.1:\u0661", None),
        ("[2001:db8::1", None),
        ("[2001:db8::1]50000", None),
        ("fe80::1%eth0", None),
        ("192.0.2.01", None),
        ("0x7f.1", None),
        ("3232235777", None),
        ("_hidden", None),
        ("", None),
        (":", None),
        ("[", None),
        ("[]", None),
        ("192.0.2.1\n10.0.0.1", None),
    ],
)
def test_the_entries_that_are_read(entry: str, address: str | None) -> None:
    assert forwarded_address(entry) == address


# -- the settings -------------------------------------------------------------------------


def test_what_is_in_a_set_of_addresses() -> None:
    assert "10.255.0.1" in TRUSTED
    assert "11.0.0.1" not in TRUSTED
    assert "::ffff:10.0.0.1" in TRUSTED
    assert "2001:db8:1:2::3" in TRUSTED
    assert "fe80::1%eth0" in AddressSet(["fe80::/10"])
    assert "unix" in TRUSTED
    assert "unix" not in AddressSet(["0.0.0.0/0", "::/0"])
    for word in ("", "behind 10.0.0.1", "unknown"):
        assert word not in TRUSTED
    assert not AddressSet()
    assert AddressSet(["unix"])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("10.0.0.1/8", "write 10.0.0.0/8"),
        ("localhost", "no address"),
        ("10.0.0.0/33", "no address"),
        ("*", "no address"),
        ("::ffff:10.0.0.0/104", "IPv4"),
    ],
)
def test_a_proxy_that_cannot_be_is_refused(wrong: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ListenerSettings(trusted_proxies=("10.0.0.1", wrong))


def test_an_endpoint_for_proxies_needs_some_that_are_trusted() -> None:
    endpoint = Endpoint.parse("tcp://127.0.0.1:0?proxy=yes")
    with pytest.raises(EndpointError, match="trusted_proxies"):
        check_proxies(endpoint, ListenerSettings())
    check_proxies(endpoint, ListenerSettings(trusted_proxies=("unix",)))
    check_proxies(Endpoint.parse("tcp://127.0.0.1:0"), ListenerSettings())
