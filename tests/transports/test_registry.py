"""The registry finds transports by name, the built-in and the installed ones."""

import logging
from importlib.metadata import EntryPoint

import pytest
from streams import PING, PINGED, receive

from twinline.transports import registry
from twinline.transports.auto import AutoServerCodec
from twinline.transports.contract import Transport
from twinline.transports.jsonl import JsonlServerCodec, JsonlTransport
from twinline.transports.registry import (
    BrokenTransport,
    UnknownTransport,
    transport,
    transport_names,
)


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
