"""JSON-lines at the client's end: replies, and what is none."""

import pytest
from streams import pieces, receive_replies

from twinline.core.errors import InternalError
from twinline.core.protocol import (
    Ack,
    AckReply,
    Done,
    ErrorReply,
    Ping,
    Send,
    SentReply,
)
from twinline.transports.contract import (
    RemoteProtocolError,
    ReplyReceived,
    RequestReceived,
)
from twinline.transports.jsonl import JsonlClientCodec, JsonlTransport


def client_expecting(*requests, limit=4096):
    client = JsonlClientCodec(limit)
    for number, request in enumerate(requests, 1):
        client.send(number, request)
    client.data_to_send()
    return client


@pytest.mark.parametrize("size", [None, 1])
def test_replies_in_the_order_of_the_requests(size):
    client = client_expecting(Ping(), Ack(up_to=7), Ping(), Ping())
    data = (
        b'{"id":1,"ok":true,"of_tomorrow":[1]}\n'
        b'{"id":2,"ok":true,"position":7,"unread":0}\r\n'
        b'{"id":null,"ok":false,"error":{"code":"bad_request","message":"?","retryable":false}}\n'
        b'{"id":3,"ok":false,"error":{"code":"x","message":"?","retryable":true}}\n'
        b'{"id":4,"ok":true}\n'
    )
    assert receive_replies(client, pieces(data, size)) == [
        ReplyReceived(1, Done()),
        ReplyReceived(2, AckReply(position=7, unread=0)),
        ReplyReceived(None, ErrorReply(code="bad_request", message="?", retryable=False)),
        ReplyReceived(3, ErrorReply(code="x", message="?", retryable=True)),
        ReplyReceived(4, Done()),
    ]
    assert not client.mid_frame


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\n", "not a JSON object"),
        (b"[]\n", "not a JSON object"),
        (b"HTTP/1.1 400 Bad Request\r\n", "not a JSON object"),
        (b'{"id":2,"ok":true}\n', "not to request 1"),
        (b'{"id":true,"ok":true}\n', "not to request 1"),
        (b'{"id":1.0,"ok":true}\n', "not to request 1"),
        (b'{"id":null,"ok":true}\n', "not to request 1"),
        (b'{"ok":true}\n', "not to request 1"),
        (b'{"id":1,"message_id":"0123456789abcdef01234567","sent_at":0}\n', "no 'ok'"),
        (b'{"id":1,"ok":1}\n', "no 'ok'"),
        (b'{"id":1,"ok":true}\n', "SentReply cannot be read: the field 'message_id' is missing"),
        (b'{"id":1,"ok":true,"message_id":"0123","sent_at":0}\n', "'message_id' is wrong"),
        (b'{"id":1,"ok":false}\n', "ErrorReply cannot be read"),
        (b'{"id":1,"ok":false,"error":{}}\n', "ErrorReply cannot be read"),
        (b'{"id":null,"ok":false,"error":"?"}\n', "ErrorReply cannot be read"),
        (b'{"id":1,"ok":true' + b" " * 500, "longer than 256 bytes"),
    ],
)
@pytest.mark.parametrize("size", [None, 1])
def test_what_is_not_a_reply_ends_the_conversation(data, why, size):
    client = client_expecting(Send(to="bob", body="hi"), Ping(), limit=256)
    with pytest.raises(RemoteProtocolError, match=why):
        receive_replies(client, pieces(data, size))
    client.receive_data(b'{"id":1,"ok":true}\n{"id":2,"ok":true}\n')
    assert client.next_event() is None
    assert not client.mid_frame


def test_a_reply_to_nothing():
    client = client_expecting(Ping())
    client.receive_data(b'{"id":1,"ok":true}\n{"id":1,"ok":true}\n')
    assert client.next_event() == ReplyReceived(1, Done())
    with pytest.raises(RemoteProtocolError, match="no request"):
        client.next_event()


def test_the_servers_end_of_stream():
    client = client_expecting(Ping())
    client.receive_data(b'{"id":1,')
    assert client.next_event() is None
    assert client.mid_frame
    client.receive_eof()
    assert client.next_event() is None
    assert not client.mid_frame


def test_both_ends_understand_each_other():
    transport = JsonlTransport()
    client, server = transport.client_codec(4096), transport.server_codec(4096)
    client.send(1, Send(to="bob", body="hi"))
    server.receive_data(client.data_to_send())
    assert server.next_event() == RequestReceived(1, Send(to="bob", body="hi"))
    reply = SentReply(message_id="0" * 24, sent_at=7)
    server.send(1, reply)
    client.receive_data(server.data_to_send())
    assert client.next_event() == ReplyReceived(1, reply)
    client.send(2, Ping())
    server.send(2, InternalError().to_reply())
    client.receive_data(server.data_to_send())
    assert client.next_event() == ReplyReceived(2, InternalError().to_reply())
