"""Endpoints: how they are written, listened on and connected to."""

from collections.abc import Callable

import pytest
from listening import TCP, socket_path

from twinline.core.deadline import Deadline
from twinline.transports.connecting import connect
from twinline.transports.endpoints import Endpoint, EndpointError, Scheme


@pytest.mark.parametrize(
    ("text", "shown", "local"),
    [
        ("tcp://127.0.0.1:80", "tcp://127.0.0.1:80", True),
        ("tcp://[::1]:80", "tcp://[::1]:80", True),
        ("tcp://[::ffff:127.0.0.1]:80", "tcp://[::ffff:127.0.0.1]:80", True),
        ("tcp://localhost", "tcp://localhost:7767", True),
        ("tcp://0.0.0.0:0", "tcp://0.0.0.0:0", False),
        ("tcp://example.org:1?transport=binary", "tcp://example.org:1?transport=binary", False),
        ("unix:/run/x.sock", "unix:/run/x.sock", True),
        ("unix:x.sock?transport=jsonl", "unix:x.sock?transport=jsonl", True),
        ("unix:/run/a#b c.sock", "unix:/run/a#b c.sock", True),
        ("unix:/run/%23;x:y", "unix:/run/%23;x:y", True),
        ("UNIX:/run/x", "unix:/run/x", True),
        ("tcp://[fe80::1%eth0]:1", "tcp://[fe80::1%eth0]:1", False),
        ("tcp://Bücher.example:1", "tcp://bücher.example:1", False),
        ("tcp://a_b-c.example.:1", "tcp://a_b-c.example.:1", False),
        ("tcp://" + "a" * 63 + ":1", "tcp://" + "a" * 63 + ":1", False),
        ("unix:/" + "p" * 102, "unix:/" + "p" * 102, True),
    ],
)
def test_endpoints_are_read_and_written(text: str, shown: str, local: bool) -> None:
    endpoint = Endpoint.parse(text)
    assert str(endpoint) == shown
    assert endpoint.is_local is local
    assert Endpoint.parse(shown) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:80",
        "http://x",
        "tls:/x",
        "tcp://",
        "tcp://:80",
        "tcp://x:99999",
        "tcp://x:y",
        "tcp://x/path",
        "tcp://user@x",
        "unix:",
        "unix://host/x",
        "tcp://x?speed=fast",
        # Names that Python's idna codec refuses when they are looked up.
        "tcp://a..b",
        "tcp://.a",
        "tcp://" + "a" * 64,
        "tcp://xn--é",
        "tcp://" + "é" * 64,
        "tcp://\ud800",
        # What would be looked up or opened as something else than what was written.
        "tcp://a b",
        "tcp://a\nb",
        "tcp://a\0b",
        "tcp://a%00b",
        "tcp://x:80#fragment",
        "tcp://" + ".".join(["a" * 49] * 6),
        "tcp://[::1%]:80",
        "tcp://[1.2.3.4]:80",
        "tcp://x?transport=jsonl&transport=binary",
        "tcp://x?transport=",
        "tcp://x?",
        "unix:/run/a\0b",
        "unix:\0abstract",
        "unix:/\ud800",
        "unix:/run/x?y",
        "unix:/" + "p" * 107,
        None,
        7,
        b"tcp://127.0.0.1:80",
    ],
)
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(EndpointError):
        Endpoint.parse(text)


@pytest.mark.parametrize(
    "made",
    [
        lambda: Endpoint(Scheme.TCP, host="a..b", port=1),
        lambda: Endpoint(Scheme.TCP, port=1),
        lambda: Endpoint(Scheme.TCP, host="a", port=65_536),
        lambda: Endpoint(Scheme.TCP, host="a", port=-1),
        lambda: Endpoint(Scheme.TCP, host="::x", port=1),
        lambda: Endpoint(Scheme.UNIX),
        lambda: Endpoint(Scheme.UNIX, path="/a?b"),
    ],
)
def test_an_endpoint_that_is_made_by_hand_is_checked_too(made: Callable[[], Endpoint]) -> None:
    with pytest.raises(EndpointError):
        made()


def test_port_0_is_for_listening_only() -> None:
    Endpoint.parse("tcp://127.0.0.1:1").check_connectable()
    Endpoint.parse("unix:/x").check_connectable()
    with pytest.raises(EndpointError, match="for listening only"):
        Endpoint.parse(TCP).check_connectable()


def test_connecting_has_a_deadline() -> None:
    endpoint = Endpoint.parse("tcp://127.0.0.1:9")
    with pytest.raises(TimeoutError):
        connect(endpoint, Deadline.after(0))
    with socket_path() as path, pytest.raises(FileNotFoundError):
        connect(Endpoint.parse(f"unix:{path}"), Deadline.after(1))


def test_a_port_is_shared_only_where_that_is_asked_for() -> None:
    assert not Endpoint.parse("tcp://127.0.0.1:0").listening.reuse_port
    shared = Endpoint.parse("wss://h?reuse_port=yes&minimum=1.3")
    assert shared.listening.reuse_port
    assert Endpoint.parse(str(shared)) == shared
    assert not Endpoint.parse("tcp://h?reuse_port=no").listening.reuse_port
    with pytest.raises(EndpointError, match="reuse_port=yes, or nothing"):
        Endpoint.parse("tcp://h?reuse_port=1")
    with pytest.raises(EndpointError, match="a Unix socket belongs to one process"):
        Endpoint.parse("unix:/s?reuse_port=yes")
    with pytest.raises(EndpointError, match="for listening only"):
        shared.check_connectable()
