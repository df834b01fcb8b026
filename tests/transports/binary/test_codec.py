"""Binary frames to the byte: what is written, what is read, and what strangers get."""

import time
import tracemalloc

import pytest
from malformed_samples import ALSO_ACCEPTED_BINARY, MALFORMED_BINARY, Malformed, frame
from streams import pieces, receive

from twinline.core.errors import BadRequest, FrameTooLarge, RateLimited, UnsupportedVersion
from twinline.core.protocol import (
    MAX_INT,
    REQUESTS,
    Ack,
    DeleteAccount,
    DeleteMessages,
    Done,
    ErrorReply,
    Message,
    Ping,
    Send,
    SentReply,
    Watch,
    WatchReply,
)
from twinline.transports.binary import BinaryClientCodec, BinaryServerCodec, BinaryTransport
from twinline.transports.binary.frames import ERROR_WITHOUT_ID, KIND_BY_REPLY, KIND_BY_REQUEST
from twinline.transports.contract import (
    LocalProtocolError,
    RemoteProtocolError,
    RequestReceived,
    RequestRefused,
)

PING = bytes.fromhex("b7010f0000000001 09")
PINGED = RequestReceived(9, Ping())
MESSAGE_ID = "0123456789abcdef01234567"


def sent_by_client(request, number=1):
    codec = BinaryClientCodec(4096)
    codec.send(number, request)
    return codec.data_to_send()


def sent_by_server(number, reply):
    codec = BinaryServerCodec(4096)
    codec.send(number, reply)
    return codec.data_to_send()


# -- writing ----------------------------------------------------------------------------


def test_the_frame_of_a_message_of_80_bytes_has_at_most_100_bytes():
    assert len(sent_by_client(Send(to="bob", body="x" * 80))) == 94
    assert len(sent_by_client(Send(to="bob", body="x" * 80), 1_000_000)) <= 100


@pytest.mark.parametrize(
    ("request_", "number", "expected"),
    [
        (Ping(), 1, "b7 01 0f 00 00000001 01"),
        (Ping(), 300, "b7 01 0f 00 00000002 ac02"),
        (Send(to="bob", body="hé"), 1, "b7 01 07 00 00000009 01 03 626f62 03 68c3a9"),
        (Send(to="b", body="", send_id="s"), 1, "b7 01 07 01 00000006 01 01 62 00 01 73"),
        (Watch(after=5), 1, "b7 01 08 00 00000002 01 05"),
        (Watch(after=5, wait=25), 1, "b7 01 08 04 00000003 01 05 19"),
        (Watch(after=5, ack=0, limit=9), 1, "b7 01 08 03 00000004 01 05 00 09"),
        (DeleteAccount(password="p", force=True), 1, "b7 01 0e 01 00000004 01 01 70 01"),
        (DeleteMessages(seqs=(1, 128)), 1, "b7 01 0b 00 00000005 01 02 01 8001"),
        (Ack(up_to=MAX_INT), 0, "b7 01 09 00 00000009 00 ffffffffffffff0f"),
    ],
)
def test_requests_to_the_byte(request_, number, expected):
    assert sent_by_client(request_, number) == bytes.fromhex(expected)


@pytest.mark.parametrize(
    ("reply", "number", "expected"),
    [
        (Done(), 1, "b7 01 80 00 00000001 01"),
        (
            SentReply(message_id=MESSAGE_ID, sent_at=128),
            1,
            f"b7 01 84 00 0000000f 01 {MESSAGE_ID} 8001",
        ),
        (
            WatchReply(
                messages=(Message(seq=2, message_id=MESSAGE_ID, sender="a", body="b", sent_at=3),),
                position=4,
            ),
            1,
            f"b7 01 85 00 00000015 01 01 02 {MESSAGE_ID} 01 61 01 62 03 04",
        ),
        (
            RateLimited("slow", retry_after_ms=5).to_reply(),
            1,
            "b7 01 ff 01 00000015 01 0c 726174655f6c696d69746564 04 736c6f77 01 05",
        ),
        (
            BadRequest("?").to_reply(),
            None,
            "b7 01 fe 00 0000000f 0b 6261645f72657175657374 01 3f 00",
        ),
    ],
)
def test_replies_to_the_byte(reply, number, expected):
    assert sent_by_server(number, reply) == bytes.fromhex(expected)


def test_every_request_and_every_reply_has_a_kind_of_its_own():
    assert list(KIND_BY_REQUEST) == list(REQUESTS)
    assert set(KIND_BY_REPLY) == {request.reply for request in REQUESTS} | {ErrorReply}
    kinds = [*KIND_BY_REQUEST.values(), *KIND_BY_REPLY.values(), ERROR_WITHOUT_ID]
    assert len(set(kinds)) == len(kinds)
    assert all(0 < kind < 0x80 for kind in KIND_BY_REQUEST.values())
    assert all(0x80 <= kind <= 0xFF for kind in KIND_BY_REPLY.values())


def test_what_was_sent_is_taken_out_once_and_together():
    codec = BinaryClientCodec(4096)
    codec.send(1, Ping())
    codec.send(2, Ping())
    assert codec.data_to_send() == sent_by_client(Ping(), 1) + sent_by_client(Ping(), 2)
    assert codec.data_to_send() == b""


def test_what_cannot_be_sent_is_the_callers_fault():
    client, server = BinaryClientCodec(4096), BinaryServerCodec(4096)
    with pytest.raises(LocalProtocolError, match="surrogate"):
        client.send(1, Send(to="bob", body="\ud800"))
    for number in (-1, MAX_INT + 1):
        with pytest.raises(LocalProtocolError, match="id is 0 to"):
            client.send(number, Ping())
    with pytest.raises(LocalProtocolError, match="only an error"):
        server.send(None, Done())
    assert (client.data_to_send(), server.data_to_send()) == (b"", b"")
    client.receive_data(sent_by_server(1, Done()))
    with pytest.raises(RemoteProtocolError, match="no request"):  # none of them is expected
        client.next_event()


# -- reading requests -------------------------------------------------------------------


@pytest.mark.parametrize("case", MALFORMED_BINARY, ids=lambda case: case.name)
def test_malformed_frames_are_refused_and_the_next_is_read(case: Malformed):
    for size in (None, 1, 7):
        server = BinaryServerCodec(case.frame_limit)
        first, *others = receive(server, pieces(case.data + PING, size))
        assert isinstance(first, RequestRefused)
        assert (first.error.code, first.id, first.fatal) == (case.code, case.id, case.fatal)
        assert others == ([] if case.fatal else [PINGED])
        assert not server.mid_frame


@pytest.mark.parametrize("case", ALSO_ACCEPTED_BINARY, ids=lambda case: case[0])
def test_other_spellings_are_accepted(case):
    _, data, request_id, request = case
    assert receive(BinaryServerCodec(4096), [data + PING]) == [
        RequestReceived(request_id, request),
        PINGED,
    ]


def test_an_unknown_version_names_the_known_one():
    server = BinaryServerCodec(4096)
    server.receive_data(b"\xb7\x07")
    event = server.next_event()
    assert isinstance(event.error, UnsupportedVersion)
    assert event.error.message == ("version 7 of the binary frames is not known here; known: 1")


def test_an_error_names_the_field_and_never_its_value():
    server = BinaryServerCodec(4096)
    server.receive_data(frame(b"\x01" + b"\xff" * 7 + b"\x7f", kind=9))
    message = server.next_event().error.message
    assert message.startswith("the field 'up_to' is wrong: input should be less than")
    server.receive_data(frame(b"\x01\x00", kind=11))
    message = server.next_event().error.message
    assert message.startswith("the field 'seqs' is wrong: list should have at least 1 item")


@pytest.mark.parametrize(
    "start",
    [
        b"\x00",
        b"\xb7\x02",
        b"\xb7\x01\x0f\x01\x00\x00\x00\x01",
        b"\xb7\x01\x0f\x00\x00\x00\x00\x00",
        b"\xb7\x01\x0f\x00\xff\xff\xff\xff",
        b"\xb7\x01\x7f\x00\xff\xff\xff\xff",
    ],
)
def test_a_bad_header_is_refused_before_its_payload_arrives(start):
    server = BinaryServerCodec(4096)
    server.receive_data(start)
    assert server.next_event().fatal


def test_a_length_costs_no_memory_before_its_bytes_arrive():
    server = BinaryServerCodec(1 << 31)
    tracemalloc.start()
    server.receive_data(b"\xb7\x01\x0f\x00\x7f\xff\x00\x00")
    assert server.next_event() is None
    server.receive_data(b"\xb7\x01\x0b\x00")
    assert server.next_event() is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


# -- the limit --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, 1, 3])
def test_exactly_the_limit_is_accepted_and_one_more_is_not(size):
    fits = sent_by_client(Send(to="bob", body="x" * 80))
    too_long = sent_by_client(Send(to="bob", body="x" * 81))
    (received,) = receive(BinaryServerCodec(len(fits)), pieces(fits, size))
    assert isinstance(received, RequestReceived)
    (refused,) = receive(BinaryServerCodec(len(fits)), pieces(too_long, size))
    assert (type(refused.error), refused.id, refused.fatal) == (FrameTooLarge, None, True)


def test_a_limit_changed_between_two_events_holds_for_the_second():
    long = sent_by_client(Send(to="bob", body="x" * 80))
    server = BinaryServerCodec(64)
    server.receive_data(PING + long + long)
    assert server.next_event() == PINGED
    server.frame_limit = 4096
    assert isinstance(server.next_event(), RequestReceived)
    server.frame_limit = 64
    assert isinstance(server.next_event().error, FrameTooLarge)


@pytest.mark.parametrize("size", [1, None])
def test_reading_takes_linear_time(size):
    def seconds(count):
        best = float("inf")
        for _ in range(5):
            server = BinaryServerCodec(1 << 20)
            stream = pieces(PING * (count // len(PING)) if size is None else b"\0" * count, size)
            start = time.thread_time()
            if size == 1:
                server.receive_data(b"\xb7\x01\x07\x00\x00\x0f\xff\x00")
            receive(server, stream)
            best = min(best, time.thread_time() - start)
        return best

    assert seconds(64_000) < 24 * seconds(8_000)


# -- the state of the stream ------------------------------------------------------------


def test_mid_frame_and_the_end_of_the_stream():
    server = BinaryServerCodec(4096)
    assert not server.mid_frame
    server.receive_data(PING + PING[:3])
    assert server.next_event() == PINGED
    assert server.next_event() is None
    assert server.mid_frame
    server.receive_data(PING[3:] + PING[:-1])
    server.receive_eof()
    server.receive_data(PING[-1:])  # nobody can send after the end
    assert server.next_event() == PINGED
    assert server.next_event() is None
    assert not server.mid_frame


def test_after_a_fatal_event_there_is_nothing_more_to_read_but_the_answer_goes_out():
    server = BinaryServerCodec(4096)
    server.receive_data(b"GET / HTTP/1.1\r\n")
    event = server.next_event()
    assert event.fatal
    server.receive_data(PING)
    assert server.next_event() is None
    server.receive_eof()
    assert server.next_event() is None
    server.send(None, event.error.to_reply())
    assert server.data_to_send()[:3] == b"\xb7\x01\xfe"


def test_recognises_its_magic_byte_in_any_version():
    transport = BinaryTransport()
    assert transport.recognises(b"\xb7")
    assert transport.recognises(b"\xb7\x09")
    assert not transport.recognises(b"{")
