"""The vectors, as a client in another language would use them: both ways, and in pieces."""

import json
from pathlib import Path

import pytest
import vectors
from streams import PING, PINGED, pieces, receive, receive_replies

from twinline.core import protocol
from twinline.core.errors import ERROR_BY_CODE
from twinline.core.protocol import REQUEST_BY_OP, REQUESTS, ErrorReply
from twinline.transports.contract import ReplyReceived, RequestReceived, RequestRefused
from twinline.transports.registry import transport

TEXT = (Path(__file__).parents[2] / "docs" / "protocol-vectors.json").read_text(encoding="utf-8")
VECTORS = json.loads(TEXT)
NAMES = ("jsonl", "binary")
LIMIT = 1 << 20
WAYS = {
    "whole": lambda data, _: [data],
    "byte by byte": lambda data, _: pieces(data, 1),
    "with a tail": lambda data, tail: [data + tail[:3], tail[3:]],
}
REPLY_TAIL = {"jsonl": b'{"id":9,"ok":true}\n', "binary": bytes.fromhex("b70180000000000109")}


def named(vector):
    return vector["name"]


def cases(section):
    return pytest.mark.parametrize("vector", VECTORS[section], ids=named)


def model_of(vector):
    model = getattr(protocol, vector["model"])
    assert set(vector["fields"]) == {f.alias or name for name, f in model.model_fields.items()}
    return model(**vector["fields"])


def test_the_file_is_made_from_the_models():
    assert vectors.vectors() == TEXT


def test_every_request_reply_and_error_has_a_vector():
    assert {vector["op"] for vector in VECTORS["requests"]} == set(REQUEST_BY_OP)
    assert {vector["to"] for vector in VECTORS["replies"]} == set(REQUEST_BY_OP)
    models = {vector["model"] for vector in VECTORS["replies"]}
    assert models == {request.reply.__name__ for request in REQUESTS} | {"ErrorReply"}
    codes = {vector["fields"].get("code") for vector in VECTORS["replies"]}
    assert set(ERROR_BY_CODE) <= codes


def test_every_field_is_shown_with_its_default_and_with_another_value():
    for request in REQUESTS:
        shown = [v["fields"] for v in VECTORS["requests"] if v["op"] == request.op]
        for name, field in request.model_fields.items():
            if not field.is_required():
                default = json.loads(json.dumps(field.default))
                values = [fields[field.alias or name] for fields in shown]
                assert default in values, (request, name)
                assert any(value != default for value in values), (request, name)


@pytest.mark.parametrize("name", NAMES)
@cases("requests")
def test_requests_to_bytes(vector, name):
    client = transport(name).client_codec(LIMIT)
    client.send(vector["id"], model_of(vector))
    assert client.data_to_send().hex() == vector[name]


@pytest.mark.parametrize("name", NAMES)
@cases("requests")
def test_bytes_to_requests(vector, name):
    request = model_of(vector)
    assert request.op == vector["op"]
    for way, cut in WAYS.items():
        tail = PING[name] if way == "with a tail" else b""
        stream = cut(bytes.fromhex(vector[name]), tail)
        events = receive(transport(name).server_codec(LIMIT), stream)
        assert events[0] == RequestReceived(vector["id"], request), way
        assert len(events) == (2 if tail else 1), way


@pytest.mark.parametrize("name", NAMES)
@cases("replies")
def test_replies_to_bytes(vector, name):
    server = transport(name).server_codec(LIMIT)
    server.send(vector["id"], model_of(vector))
    assert server.data_to_send().hex() == vector[name]


@pytest.mark.parametrize("name", NAMES)
@cases("replies")
def test_bytes_to_replies(vector, name):
    reply = model_of(vector)
    request = REQUEST_BY_OP[vector["to"]]
    assert isinstance(reply, (request.reply, ErrorReply))
    for way, cut in WAYS.items():
        client = transport(name).client_codec(LIMIT)
        if vector["id"] is not None:
            client.send(vector["id"], an_example(request))
        client.send(9, protocol.Ping())
        tail = REPLY_TAIL[name] if way == "with a tail" else b""
        events = receive_replies(client, cut(bytes.fromhex(vector[name]), tail))
        assert events[0] == ReplyReceived(vector["id"], reply), way
        assert len(events) == (2 if tail else 1), way


def an_example(request):
    return model_of(next(v for v in VECTORS["requests"] if v["op"] == request.op))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_also_accepted(name, way):
    for vector in VECTORS["also_accepted"][name]:
        server = transport(name).server_codec(LIMIT)
        events = receive(server, WAYS[way](bytes.fromhex(vector["bytes"]), PING[name]))
        assert events[0] == RequestReceived(vector["id"], model_of(vector)), vector["name"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "served"), [*zip(NAMES, NAMES, strict=True), ("jsonl", "auto")])
def test_what_is_refused(name, served, way):
    for vector in VECTORS["malformed"][name]:
        server = transport(served).server_codec(vector["frame_limit"])
        tail = PING[name] if way == "with a tail" else b""
        first, *others = receive(server, WAYS[way](bytes.fromhex(vector["bytes"]), tail))
        assert isinstance(first, RequestRefused), vector["name"]
        assert (first.error.code, first.id, first.fatal) == (
            vector["error"],
            vector["id"],
            vector["fatal"],
        ), vector["name"]
        assert others == ([PINGED] if tail and not vector["fatal"] else []), vector["name"]
        assert not server.mid_frame, vector["name"]


# -- streams ------------------------------------------------------------------------------------


def stream_cases():
    return pytest.mark.parametrize("vector", VECTORS["streams"], ids=named)


@pytest.mark.parametrize("name", NAMES)
@stream_cases()
def test_a_streams_conversation_step_by_step(vector, name):
    client, server = transport(name).client_codec(LIMIT), transport(name).server_codec(LIMIT)
    for step in vector["conversation"]:
        message, data = model_of(step), bytes.fromhex(step[name])
        if step["from"] == "client":
            client.send(step["id"], message)
            assert client.data_to_send() == data
            assert receive(server, [data]) == [RequestReceived(step["id"], message)]
        else:
            server.send(step["id"], message)
            assert server.data_to_send() == data
            (received,) = receive_replies(client, [data])
            assert received == ReplyReceived(step["id"], message)
            assert received.more is step["fields"].get("more", False)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
@stream_cases()
def test_a_streams_replies_when_all_was_asked_before(vector, name, way):
    client = transport(name).client_codec(LIMIT)
    stream, expected = b"", []
    for step in vector["conversation"]:
        if step["from"] == "client":
            client.send(step["id"], model_of(step))
        else:
            stream += bytes.fromhex(step[name])
            expected.append(ReplyReceived(step["id"], model_of(step)))
    # Behind a stream that is still open the pong would be a reply to another request.
    tail = REPLY_TAIL[name] if way == "with a tail" and not expected[-1].more else b""
    if tail:
        client.send(9, protocol.Ping())
        expected.append(ReplyReceived(9, protocol.Done()))
    assert receive_replies(client, WAYS[way](stream, tail)) == expected


@stream_cases()
def test_a_streams_conversation_is_one_that_the_protocol_allows(vector):
    asked, answered, sent = [], [], []
    for step in vector["conversation"]:
        if step["from"] == "client":
            asked.append(step["id"])
            if not step["fields"].get("renew", True):
                sent = [seq for seq in sent if seq <= step["fields"]["after"]]
            continue
        assert step["id"] == asked[len(answered)]
        messages = step["fields"].get("messages", [])
        assert [message["seq"] for message in messages] == sorted(
            {message["seq"] for message in messages}.difference(sent)
        ), "a message is sent twice, or out of order"
        sent += [message["seq"] for message in messages]
        if not step["fields"].get("more", False):
            answered.append(step["id"])
        else:
            assert messages, "a reply that is not the last brings something"


def test_streams_end_in_every_way():
    last = [vector["conversation"][-1] for vector in VECTORS["streams"]]
    assert {step["model"] for step in last} == {"WatchReply", "ErrorReply", "Done"}
    assert {"shutting_down", "session_expired"} <= {step["fields"].get("code") for step in last}
