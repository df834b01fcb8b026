"""The registry finds transports by name, the built-in and the installed ones."""

import logging
from importlib.metadata import EntryPoint

import pytest
from opened import asking
from streams import PING, PINGED, receive

from twinline.transports import registry
from twinline.transports.auto import AutoServerCodec
from twinline.transports.binary import BinaryTransport
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint
from twinline.transports.jsonl import JsonlServerCodec, JsonlTransport
from twinline.transports.registry import (
    BrokenTransport,
    UnknownTransport,
    connecting_transport,
    listening_transport,
    transport,
    transport_names,
)
from twinline.transports.web import ChatPage
from twinline.transports.websocket import WebSocketTransport


@pytest.fixture
def installed(monkeypatch):
    """Let entry points be "installed": name -> value."""
    found: dict[str, str] = {}

    def entry_points(group):
        assert group == "twinline.transports"
        return [EntryPoint(name, value, group) for name, value in found.items()]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    return found


def test_the_built_in_transports():
    assert {"auto", "binary", "jsonl", "websocket"} <= set(transport_names())
    for name in ("auto", "binary", "jsonl", "websocket"):
        assert transport(name).name == name
        assert isinstance(transport(name), Transport)


def test_an_unknown_name_gets_the_nearest_and_all(installed):
    installed["worded"] = "codec_plugin:WORDED"
    with pytest.raises(UnknownTransport) as caught:
        transport("jsnl")
    assert str(caught.value) == (
        "there is no transport 'jsnl'; did you mean jsonl? known: auto, binary, jsonl, websocket, "
        "worded"
    )
    with pytest.raises(UnknownTransport) as caught:
        transport("???")
    assert str(caught.value) == (
        "there is no transport '???'; known: auto, binary, jsonl, websocket, worded"
    )


@pytest.mark.parametrize(
    "value", ["twinline.transports.jsonl:JsonlTransport", "codec_plugin:WORDED"]
)
def test_a_class_or_an_instance_can_be_installed(installed, value):
    installed["worded"] = value
    assert transport_names() == ["auto", "binary", "jsonl", "websocket", "worded"]
    assert isinstance(transport("worded"), JsonlTransport)


def test_auto_serves_what_is_installed(installed, caplog):
    installed["worded"] = "codec_plugin:WORDED"
    installed["auto"] = "codec_plugin:missing"  # never asked for itself
    server = transport("auto").server_codec(4096)
    assert not caplog.records
    assert receive(server, [b"HOLA\n" + PING["jsonl"]]) == [PINGED]
    assert isinstance(server, AutoServerCodec)
    assert type(server.resolve()).__name__ == "HolaServerCodec"


def test_a_built_in_name_cannot_be_taken_over(installed):
    installed["jsonl"] = "codec_plugin:WORDED"
    assert type(transport("jsonl")) is JsonlTransport
    server = transport("auto").server_codec(4096)
    assert len(receive(server, [b"HOLA\n" + PING["jsonl"]])) == 2
    assert type(server.resolve()) is JsonlServerCodec


def status(spoken: Transport, data: bytes) -> int:
    """Return the status that a server answers a request of HTTP with."""
    server = spoken.server_codec(4096)
    for event in receive(server, [data]):
        server.send(None, event.error.to_reply())
    return int(server.data_to_send().split()[1])


HOSTED = asking("Origin: https://listed.example")
BINARY = asking("Sec-WebSocket-Protocol: twinline.binary")


@pytest.mark.parametrize(
    ("place", "name", "listed", "binary", "page"),
    [
        ("ws://x", "auto", 101, 101, 200),
        ("wss://x", "websocket", 101, 101, 200),
        ("ws://x?transport=jsonl", "auto", 101, 400, 200),
        ("ws://x?transport=binary", "jsonl", 101, 101, 200),
        ("ws://x", "jsonl", 101, 400, 200),
        ("unix:/x?transport=websocket", "auto", 101, 101, 200),
        ("tcp://x", "websocket", 101, 101, 200),
        ("tls://x", "auto", 101, 101, 426),
        ("tcp://x?transport=jsonl", "auto", 400, 400, 400),
    ],
)
def test_what_a_server_speaks_at_an_endpoint(place, name, listed, binary, page) -> None:
    spoken = listening_transport(
        Endpoint.parse(place), name, origins=["https://listed.example"], page=ChatPage()
    )
    assert status(spoken, HOSTED) == listed
    assert status(spoken, BINARY) == binary
    assert status(spoken, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == page


@pytest.mark.parametrize(
    ("place", "spoken", "first"),
    [
        ("ws://x", None, "GET / twinline.jsonl x"),
        ("wss://x:8443/a/b", None, "GET /a/b twinline.jsonl x:8443"),
        ("ws://x/?transport=binary", None, "GET / twinline.binary x"),
        ("ws://x?transport=binary", "jsonl", "GET / twinline.jsonl x"),
        ("ws://[::1]:99", BinaryTransport(), "GET / twinline.binary [::1]:99"),
        ("ws://x", "auto", "GET / twinline.jsonl x"),
        ("tcp://x:99", "websocket", "GET / twinline.jsonl x:99"),
        ("unix:/x", "websocket", "GET / twinline.jsonl localhost"),
        ("ws://x", WebSocketTransport(host="y", path="/z"), "GET /z twinline.jsonl y"),
        ("tcp://x", None, ""),
        ("tcp://x", JsonlTransport(), ""),
    ],
)
def test_what_a_client_says_first_at_an_endpoint(place, spoken, first) -> None:
    client = connecting_transport(Endpoint.parse(place), spoken).client_codec(4096)
    said = client.data_to_send().decode()
    assert client.opened == (first == "")
    if first:
        line, *fields = said.split("\r\n")
        named = dict(field.split(": ") for field in fields if field)
        shown = f"{line} {named['Sec-WebSocket-Protocol']} {named['Host']}"
        assert shown.replace(" HTTP/1.1", "") == first


def test_what_does_not_travel_over_websocket_is_unknown_there(installed) -> None:
    installed["worded"] = "codec_plugin:WORDED"
    endpoint = Endpoint.parse("ws://x?transport=worded")
    for make in (
        lambda: connecting_transport(endpoint, None),
        lambda: connecting_transport(Endpoint.parse("ws://x"), transport("worded")),
        lambda: listening_transport(endpoint, "auto"),
    ):
        with pytest.raises(UnknownTransport, match=r"worded.*there are binary, jsonl"):
            make()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("no_such_module_anywhere:X", "cannot be loaded: No module named"),
        ("codec_plugin:missing", "cannot be loaded"),
        ("codec_plugin:Unmakeable", "cannot be loaded: not today"),
        ("twinline.core.protocol:MAX_INT", "is no Transport"),
        ("twinline.core.protocol:Ping", "is no Transport"),
    ],
)
def test_a_broken_transport_says_why_and_is_left_out_of_auto(installed, caplog, value, why):
    installed["broken"] = value
    with pytest.raises(BrokenTransport, match=why):
        transport("broken")
    with caplog.at_level(logging.WARNING):
        server = transport("auto").server_codec(4096)
    assert "it is not served" in caplog.text
    assert receive(server, [PING["jsonl"]]) == [PINGED]
