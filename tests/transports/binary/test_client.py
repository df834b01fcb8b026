"""Binary frames at the client's end: replies, and what is none."""

import pytest
from malformed_samples import frame
from streams import pieces, receive_replies

from twinline.core.errors import BadRequest, RateLimited
from twinline.core.protocol import (
    Ack,
    AckReply,
    Done,
    Ping,
    Send,
)
from twinline.transports.binary import BinaryClientCodec, BinaryServerCodec
from twinline.transports.contract import (
    RemoteProtocolError,
    ReplyReceived,
)


def sent_by_server(number, reply):
    codec = BinaryServerCodec(4096)
    codec.send(number, reply)
    return codec.data_to_send()


def client_expecting(*requests, limit=4096):
    client = BinaryClientCodec(limit)
    for number, request in enumerate(requests, 1):
        client.send(number, request)
    client.data_to_send()
    return client


@pytest.mark.parametrize("size", [None, 1])
def test_replies_in_the_order_of_the_requests(size):
    client = client_expecting(Ping(), Ack(up_to=7), Ping())
    replies = [
        ReplyReceived(1, Done()),
        ReplyReceived(None, BadRequest("?").to_reply()),
        ReplyReceived(2, AckReply(position=7, unread=0)),
        ReplyReceived(3, RateLimited(retry_after_ms=9).to_reply()),
    ]
    data = b"".join(sent_by_server(reply.id, reply.reply) for reply in replies)
    assert receive_replies(client, pieces(data, size)) == replies
    assert not client.mid_frame


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "begins with the byte 0xB7"),
        (frame(b"\x01", kind=0x84, version=2), "version 2"),
        (frame(b"\x01", kind=0x84, flags=1), "flag"),
        (frame(b"", kind=0x80), "empty"),
        (frame(b"\x01", kind=7), "no reply of kind 7"),
        (frame(b"\x01", kind=0x7F), "no reply of kind 127"),
        (frame(b"\x80", kind=0x84), "not a proper integer"),
        (frame(b"\x02" + bytes(13), kind=0x84), "not the reply to request 1"),
        (frame(b"\x01", kind=0x80), "not the reply to request 1"),
        (frame(b"\x01\x00\x00", kind=0x86), "not the reply to request 1"),
        (frame(b"\x01" + bytes(11), kind=0x84), "beyond the end"),
        (frame(b"\x01" + bytes(12), kind=0x84), "beyond the end"),
        (frame(b"\x01" + bytes(14), kind=0x84), "longer than its fields"),
        (frame(b"\x01" + bytes(12) + b"\x81\x00", kind=0x84), "shortest form"),
        (frame(b"\x01" + bytes(12) + b"\xff" * 7 + b"\x7f", kind=0x84), "'sent_at' is wrong"),
        (frame(b"\x01\x01\xff\x00\x00", kind=0xFF), "not UTF-8"),
        (frame(b"\x00\x00\x02", kind=0xFE), "truth value"),
        (frame(b"\x01" + bytes(300), kind=0x84), "longer than 256 bytes"),
    ],
)
@pytest.mark.parametrize("size", [None, 1])
def test_what_is_not_a_reply_ends_the_conversation(data, why, size):
    client = client_expecting(Send(to="bob", body="hi"), Ping(), limit=256)
    with pytest.raises(RemoteProtocolError, match=why):
        receive_replies(client, pieces(data, size))
    client.receive_data(sent_by_server(2, Done()))
    assert client.next_event() is None
    assert not client.mid_frame


def test_the_servers_end_of_stream():
    client = client_expecting(Ping())
    client.receive_data(b"\xb7\x01")
    assert client.next_event() is None
    assert client.mid_frame
    client.receive_eof()
    assert client.next_event() is None
    assert not client.mid_frame
