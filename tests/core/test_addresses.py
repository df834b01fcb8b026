"""Addresses of peers: one form for each, which are this machine's, and what limits count by."""

import pytest

from twinline.core.addresses import UNIX, canonical, is_loopback, limit_key


@pytest.mark.parametrize(
    ("address", "one_form", "loopback", "counted_by"),
    [
        ("192.0.2.1", "192.0.2.1", False, "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1", False, "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1", False, "192.0.2.1"),
        ("127.0.0.1", "127.0.0.1", True, "127.0.0.1"),
        ("127.9.9.9", "127.9.9.9", True, "127.9.9.9"),
        ("::ffff:127.0.0.1", "127.0.0.1", True, "127.0.0.1"),
        ("::1", "::1", True, "::/64"),
        ("2001:DB8:0:0:1::1", "2001:db8::1:0:0:1", False, "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::1%eth0", False, "fe80::/64%eth0"),
        (UNIX, "unix", False, "unix"),
        ("", "", False, ""),
        ("proxy.example", "proxy.example", False, "proxy.example"),
    ],
)
def test_an_address(address: str, one_form: str, loopback: bool, counted_by: str) -> None:
    assert canonical(address) == one_form
    assert is_loopback(address) is loopback
    assert limit_key(address, 64) == counted_by


def test_a_network_counts_as_one_and_its_neighbour_as_another() -> None:
    keys = {limit_key(f"2001:db8:1:2::{n:x}", 64) for n in range(1, 100)}
    assert keys == {"2001:db8:1:2::/64"}
    assert limit_key("2001:db8:1:3::1", 64) not in keys
    assert limit_key("2001:db8:1:3::1", 48) == limit_key("2001:db8:1:2::1", 48)
    assert limit_key("2001:db8::1", 128) != limit_key("2001:db8::2", 128)


def test_an_address_in_its_one_form_is_not_copied() -> None:
    address = ".".join(["192", "0", "2", "1"])
    assert canonical(address) is address
    assert limit_key(address, 64) is address
