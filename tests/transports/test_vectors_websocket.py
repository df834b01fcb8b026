"""The vectors of WebSocket, as a client or a server in another language would use them."""

import json
from pathlib import Path

import pytest
import websocket_vectors
from opened import CLOSE, said, take
from streams import pieces

from twinline.core import protocol
from twinline.core.protocol import MAX_REPLY_BYTES, REQUEST_BY_OP, Hello
from twinline.transports.contract import ReplyReceived, RequestReceived
from twinline.transports.websocket import WebSocketServerCodec, WebSocketTransport

VECTORS = json.loads((Path(__file__).parents[2] / "docs" / "protocol-vectors.json").read_text())
OVER = VECTORS["websocket"]
INNER = ("jsonl", "binary")
SIZES = pytest.mark.parametrize("size", [None, 1])


def told(section: str, name: str) -> tuple[int | None, object, str]:
    """Return the id, the model and the op of a request or a reply that is in frames too."""
    vector = next(each for each in VECTORS[section] if each["name"] == name)
    model = getattr(protocol, vector["model"])
    return vector["id"], model(**vector["fields"]), vector.get("to", "")


def handshake(inner: str) -> dict[str, str]:
    name = f"twinline.{inner}"
    return next(each for each in OVER["handshakes"] if each["subprotocol"] == name)


def server_of(inner: str, limit: int = MAX_REPLY_BYTES) -> WebSocketServerCodec:
    """Return a server's end whose handshake is that of the vectors."""
    server = WebSocketTransport().server_codec(limit)
    assert take(server, handshake(inner)["request"].encode()) == []
    assert server.data_to_send().decode() == handshake(inner)["answer"]
    return server


def client_of(inner: str):
    """Return a client's end whose handshake is that of the vectors."""
    client = websocket_vectors.client_of(inner)
    assert client.data_to_send().decode() == handshake(inner)["request"]
    assert take(client, handshake(inner)["answer"].encode()) == []
    assert client.opened
    return client


@SIZES
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("vector", OVER["requests"], ids=lambda vector: vector["name"])
def test_requests(vector, inner, size) -> None:
    number, request, _ = told("requests", vector["name"])
    data = bytes.fromhex(vector[inner])
    assert take(server_of(inner), *pieces(data, size)) == [RequestReceived(number, request)]
    client = client_of(inner)
    client.send(number, request)
    assert client.data_to_send() == data


@SIZES
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("vector", OVER["replies"], ids=lambda vector: vector["name"])
def test_replies(vector, inner, size) -> None:
    number, reply, op = told("replies", vector["name"])
    data = bytes.fromhex(vector[inner])
    server = server_of(inner)
    server.send(number, reply)
    assert server.data_to_send() == data
    client = client_of(inner)
    if number is not None:
        example = next(each for each in VECTORS["requests"] if each["op"] == op)
        client.send(number, REQUEST_BY_OP[op](**example["fields"]))
    assert take(client, *pieces(data, size)) == [ReplyReceived(number, reply)]


@SIZES
@pytest.mark.parametrize("vector", OVER["also_accepted"], ids=lambda vector: vector["name"])
def test_what_is_also_accepted(vector, size) -> None:
    (event,) = take(server_of("jsonl"), *pieces(bytes.fromhex(vector["bytes"]), size))
    assert isinstance(event.request, Hello)
    assert event.id == 1


@SIZES
@pytest.mark.parametrize("vector", OVER["control"], ids=lambda vector: vector["name"])
def test_control_frames(vector, size) -> None:
    server = server_of("jsonl")
    assert take(server, *pieces(bytes.fromhex(vector["bytes"]), size)) == []
    assert server.data_to_send().hex() == vector["answer"]
    assert server.ended == vector["name"].startswith("a close")


@SIZES
@pytest.mark.parametrize("vector", OVER["refused_frames"]["cases"], ids=lambda v: v["name"])
def test_frames_that_are_refused(vector, size) -> None:
    server = server_of("jsonl", OVER["refused_frames"]["frame_limit"])
    (event,) = take(server, *pieces(bytes.fromhex(vector["bytes"]), size))
    assert event.fatal
    server.send(event.id, event.error.to_reply())
    server.end()
    assert said(server.data_to_send())[1] == (CLOSE, vector["close"].to_bytes(2))


@SIZES
@pytest.mark.parametrize("vector", OVER["refused_heads"]["cases"], ids=lambda v: v["name"])
def test_heads_that_are_refused(vector, size) -> None:
    server = WebSocketTransport(origins=OVER["refused_heads"]["origins"]).server_codec(4_096)
    (event,) = take(server, *pieces(vector["bytes"].encode(), size))
    assert event.fatal
    server.send(event.id, event.error.to_reply())
    assert server.data_to_send().startswith(f"HTTP/1.1 {vector['status']} ".encode())
