"""Endpoints: how they are written, listened on and connected to."""

import socket
from pathlib import Path

import pytest
from listening import TCP, serving, socket_path
from services import make_service

from twinline.core.deadline import Deadline
from twinline.transports.endpoints import Endpoint, EndpointError
from twinline.transports.listener import Listener
from twinline.transports.registry import transport


@pytest.mark.parametrize(
    ("text", "shown", "local"),
    [
        ("tcp://127.0.0.1:80", "tcp://127.0.0.1:80", True),
        ("tcp://[::1]:80", "tcp://[::1]:80", True),
        ("tcp://localhost", "tcp://localhost:7767", True),
        ("tcp://0.0.0.0:0", "tcp://0.0.0.0:0", False),
        ("tcp://example.org:1?transport=binary", "tcp://example.org:1?transport=binary", False),
        ("unix:/run/x.sock", "unix:/run/x.sock", True),
        ("unix:x.sock?transport=jsonl", "unix:x.sock?transport=jsonl", True),
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
        "tls://x",
        "tcp://",
        "tcp://:80",
        "tcp://x:99999",
        "tcp://x:y",
        "tcp://x/path",
        "tcp://user@x",
        "unix:",
        "unix://host/x",
        "tcp://x?speed=fast",
    ],
)
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(EndpointError):
        Endpoint.parse(text)


def test_a_port_in_use() -> None:
    with serving() as server:
        taken = server.endpoints[0]
        spare = Endpoint.parse(TCP)
        with pytest.raises(EndpointError, match=r"cannot listen on tcp://127\.0\.0\.1:\d+: Addr"):
            Listener(make_service(), [(spare, transport("auto")), (taken, transport("auto"))])


def test_a_left_over_socket_file_is_replaced_and_a_live_one_is_not() -> None:
    with socket_path() as path:
        with socket.socket(socket.AF_UNIX) as left_over:
            left_over.bind(path)
        with serving([(f"unix:{path}", "auto")]) as server, server.peer() as peer:
            assert peer.ask("ping")["ok"]
            with pytest.raises(EndpointError, match="in use"):
                Endpoint.parse(f"unix:{path}").listen()
        Path(path).write_text("an ordinary file")
        with pytest.raises(EndpointError, match="in use"):
            Endpoint.parse(f"unix:{path}").listen()
        assert Path(path).read_text() == "an ordinary file"


def test_connecting_has_a_deadline() -> None:
    endpoint = Endpoint.parse("tcp://127.0.0.1:9")
    with pytest.raises(TimeoutError):
        endpoint.connect(Deadline.after(0))
    with socket_path() as path, pytest.raises(FileNotFoundError):
        Endpoint.parse(f"unix:{path}").connect(Deadline.after(1))
