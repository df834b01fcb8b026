"""What JSON-lines and binary frames promise beyond the kit's rules and the vectors."""

import time
import tracemalloc

import pytest
from malformed_samples import MALFORMED_BINARY, MALFORMED_JSONL, frame, line
from streams import PING, PINGED, pieces, receive, receive_replies

from twinline.core.errors import FrameTooLarge
from twinline.core.protocol import (
    REQUESTS,
    Conversation,
    Done,
    ErrorReply,
    History,
    Limits,
    Login,
    Message,
    Ping,
    Receipt,
    Send,
    Watch,
    WatchReply,
    own_names,
)
from twinline.transports.binary.frames import ERROR_WITHOUT_ID, KIND_BY_REPLY, KIND_BY_REQUEST
from twinline.transports.contract import (
    LocalProtocolError,
    RemoteProtocolError,
    ReplyReceived,
    RequestReceived,
)
from twinline.transports.registry import transport

BOTH = pytest.mark.parametrize("name", ["jsonl", "binary"])
SEND_LATIN_1 = b'{"op":"send","id":1,"to":"bob","body":"\xff"}\n'


def refusal(name, data, limit=65_536):
    """Feed a server's codec, and return the error that the first frame gets."""
    server = transport(name).server_codec(limit)
    server.receive_data(data)
    return server.next_event().error


def client_expecting(name, *requests):
    client = transport(name).client_codec(256)
    for number, request in enumerate(requests, 1):
        client.send(number, request)
    client.data_to_send()
    return client


def served(name):
    return transport(name).server_codec(4096)


# -- what is said about what cannot be read -----------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "jsonl",
            line('{"op":"login","id":1,"username":"ann","password":["hunter2 secret"]}'),
            "the field 'password' is wrong: input should be a valid string",
        ),
        ("jsonl", line('{"op":"send","id":1,"to":"bob"}'), "the field 'body' is missing"),
        ("jsonl", SEND_LATIN_1, "this line is not one JSON object in UTF-8"),
        *(
            (
                "jsonl",
                line(f'{{"op":"send","id":1,"to":"bob","body":"{body}"}}'),
                "this line has a \\u escape that is no character: half of a surrogate pair",
            )
            for body in (r"\ud800", r"\udc00 x", r"\ud83dx", r"\ud83d\u0041")
        ),
        ("jsonl", line('{"op":"ping"}'), "'id' must be an integer, 0 to 9007199254740991"),
        ("jsonl", line('{"id":1}'), "'op' must be a string that names the request"),
        (
            "jsonl",
            line('{"op":"correct horse","id":1}'),
            "there is no request of this name, of 13 characters",
        ),
        (
            "binary",
            frame(b"\x01" + b"\xff" * 7 + b"\x7f", kind=9),
            "the field 'up_to' is wrong: input should be less than or equal to 9007199254740991",
        ),
        (
            "binary",
            frame(b"\x01\x00", kind=11),
            "the field 'seqs' is wrong: list should have at least 1 item after validation, not 0",
        ),
        ("binary", b"\xb7\x07", "version 7 of the binary frames is not known here; known: 1"),
    ],
)
def test_an_error_names_the_field_and_never_its_value(name, data, message):
    assert refusal(name, data).message == message


@pytest.mark.parametrize(
    ("named", "here", "there"),
    [
        (Send(to="bob", body="hi", copy_=True), '"copy_":true', '"copy":true'),
        (History(with_="bob"), '"with_":"bob"', '"with":"bob"'),
    ],
)
def test_a_field_with_a_name_of_its_own_in_python_has_the_protocols_alone_on_the_wire(
    named, here, there
):
    """It is as good as any unknown field there, whatever its value."""
    client = transport("jsonl").client_codec(256)
    client.send(1, named)
    sent = client.data_to_send().decode()
    assert there in sent
    server = served("jsonl")
    assert receive(server, [sent.encode()]) == [RequestReceived(1, named)]
    (name,) = own_names(type(named))
    plain = type(named)(**{**dict(named), name: type(named).model_fields[name].default})
    for wrong in (here, here.partition(":")[0] + ":[]"):
        assert receive(server, [sent.replace(there, wrong).encode()]) == [RequestReceived(1, plain)]
        both = sent.replace(there, f"{wrong},{there}").encode()
        assert receive(server, [both]) == [RequestReceived(1, named)]


def test_no_reply_has_a_field_with_a_name_of_its_own_in_python():
    """A reply is read without a look for such names."""
    inside = [Limits, Message, Receipt, Conversation]
    assert [own_names(model) for model in (*KIND_BY_REPLY, *inside) if own_names(model)] == []


def test_every_answer_to_malformed_bytes_is_short_and_clean():
    for name, cases in (("jsonl", MALFORMED_JSONL), ("binary", MALFORMED_BINARY)):
        for case in cases:
            message = refusal(name, case.data, case.frame_limit).message
            assert len(message) < 160
            for telltale in ("http", "Traceback", "tuple"):
                assert telltale not in message


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
    server = transport("binary").server_codec(4096)
    server.receive_data(start)
    assert server.next_event().fatal


@pytest.mark.parametrize(
    ("start", "last", "word"), [(b"\x16", b"\x03", "TLS"), (b"GET", b" ", "HTTP")]
)
def test_a_foreign_protocol_is_named_at_its_first_bytes(start, last, word):
    server = transport("jsonl").server_codec(4096)
    server.receive_data(start)
    assert server.next_event() is None
    server.receive_data(last)
    event = server.next_event()
    assert event.fatal
    assert word in event.error.message


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\n", b"\x16\x03\x01\n"])
def test_only_the_first_line_can_be_of_a_foreign_protocol(start):
    first, second = receive(transport("jsonl").server_codec(4096), [PING["jsonl"] + start])
    assert first == PINGED
    assert not second.fatal


# -- what is not kept, and what does not cost -----------------------------------------------


def test_parsed_passwords_are_not_kept_by_the_parsers_cache():
    def password():
        server = transport("jsonl").server_codec(4096)
        server.receive_data(line('{"op":"login","id":1,"username":"ann","password":"s3cret"}'))
        request = server.next_event().request
        assert isinstance(request, Login)
        return request.password

    assert password() == password()
    assert password() is not password()


def test_a_list_of_wrong_items_costs_no_more_than_its_line():
    data = line('{"op":"delete_messages","id":1,"seqs":[' + '"",' * 20_000 + '""]}')
    tracemalloc.start()
    error = refusal("jsonl", data, 1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.message == "the field 'seqs.0' is wrong: input should be a valid integer"
    assert peak < 1 << 20


def test_a_length_costs_no_memory_before_its_bytes_arrive():
    server = transport("binary").server_codec(1 << 31)
    tracemalloc.start()
    server.receive_data(b"\xb7\x01\x0f\x00\x7f\xff\x00\x00")
    assert server.next_event() is None
    server.receive_data(b"\xb7\x01\x0b\x00")
    assert server.next_event() is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


@BOTH
def test_many_frames_in_one_piece_take_linear_time(name):
    def seconds(count):
        best = float("inf")
        for _ in range(5):
            server = transport(name).server_codec(4096)
            server.receive_data(PING[name] * count)
            start = time.thread_time()
            for _ in range(count):
                assert server.next_event() is not None
            best = min(best, time.thread_time() - start)
        return best

    assert seconds(8_000) < 24 * seconds(1_000)


@BOTH
@pytest.mark.parametrize("size", [None, 1, 3])
def test_the_limit_is_exact_to_the_byte(name, size):
    client = transport(name).client_codec(4096)
    client.send(1, Send(to="bob", body="x" * 80))
    data = client.data_to_send()
    limit = len(data.removesuffix(b"\n"))  # the line feed does not count
    (event,) = receive(transport(name).server_codec(limit), pieces(data, size))
    assert isinstance(event, RequestReceived)
    (event,) = receive(transport(name).server_codec(limit - 1), pieces(data, size))
    assert (type(event.error), event.id, event.fatal) == (FrameTooLarge, None, True)


@BOTH
def test_a_lowered_limit_holds_for_a_frame_that_is_half_here(name):
    client, server = transport(name).client_codec(4096), transport(name).server_codec(4096)
    client.send(1, Send(to="bob", body="x" * 100))
    server.receive_data(client.data_to_send()[:100])
    assert server.next_event() is None
    server.frame_limit = 64
    assert isinstance(server.next_event().error, FrameTooLarge)


# -- the client's end -----------------------------------------------------------------------


def test_unknown_fields_of_a_reply_are_ignored():
    client = client_expecting("jsonl", Ping())
    client.receive_data(b'{"id":1,"ok":true,"of_tomorrow":[1]}\r\n')
    assert client.next_event() == ReplyReceived(1, Done())


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("jsonl", b"\n", "not a JSON object"),
        ("jsonl", b"[]\n", "not a JSON object"),
        ("jsonl", b"HTTP/1.1 400 Bad Request\r\n", "the server speaks HTTP"),
        ("jsonl", b'{"id":2,"ok":true}\n', "not to request 1"),
        ("jsonl", b'{"id":true,"ok":true}\n', "not to request 1"),
        ("jsonl", b'{"id":1.0,"ok":true}\n', "not to request 1"),
        ("jsonl", b'{"id":null,"ok":true}\n', "not to request 1"),
        ("jsonl", b'{"ok":true}\n', "not to request 1"),
        ("jsonl", b'{"id":1,"message_id":"0123456789abcdef01234567","sent_at":0}\n', "no 'ok'"),
        ("jsonl", b'{"id":1,"ok":1}\n', "no 'ok'"),
        (
            "jsonl",
            b'{"id":1,"ok":true}\n',
            "SentReply cannot be read: the field 'message_id' is missing",
        ),
        ("jsonl", b'{"id":1,"ok":true,"message_id":"0123","sent_at":0}\n', "'message_id' is wrong"),
        ("jsonl", b'{"id":1,"ok":false}\n', "ErrorReply cannot be read"),
        ("jsonl", b'{"id":1,"ok":false,"error":{}}\n', "ErrorReply cannot be read"),
        ("jsonl", b'{"id":null,"ok":false,"error":"?"}\n', "ErrorReply cannot be read"),
        ("jsonl", b'{"id":1,"ok":true' + b" " * 500, "longer than 256 bytes"),
        ("binary", b"HTTP/1.1 400 Bad Request\r\n", "begins with the byte 0xB7"),
        ("binary", frame(b"\x01", kind=0x84, version=2), "version 2"),
        ("binary", frame(b"\x01", kind=0x84, flags=1), "flag"),
        ("binary", frame(b"", kind=0x80), "empty"),
        ("binary", frame(b"\x01", kind=7), "no reply of kind 7"),
        ("binary", frame(b"\x01", kind=0x7F), "no reply of kind 127"),
        ("binary", frame(b"\x80", kind=0x84), "not a proper integer"),
        ("binary", frame(b"\x02" + bytes(13), kind=0x84), "not the reply to request 1"),
        ("binary", frame(b"\x01", kind=0x80), "not the reply to request 1"),
        ("binary", frame(b"\x01\x00\x00", kind=0x86), "not the reply to request 1"),
        ("binary", frame(b"\x01" + bytes(11), kind=0x84), "beyond the end"),
        ("binary", frame(b"\x01" + bytes(12), kind=0x84), "beyond the end"),
        ("binary", frame(b"\x01" + bytes(15), kind=0x84), "longer than its fields"),
        ("binary", frame(b"\x01" + bytes(12) + b"\x81\x00", kind=0x84), "shortest form"),
        (
            "binary",
            frame(b"\x01" + bytes(12) + b"\xff" * 7 + b"\x7f\x00", kind=0x84),
            "'sent_at' is wrong",
        ),
        ("binary", frame(b"\x01\x01\xff\x00\x00", kind=0xFF), "not UTF-8"),
        ("binary", frame(b"\x00\x00\x02", kind=0xFE), "truth value"),
        ("binary", frame(b"\x01" + bytes(300), kind=0x84), "longer than 256 bytes"),
    ],
)
@pytest.mark.parametrize("size", [None, 1])
def test_what_is_not_a_reply_ends_the_conversation(name, data, why, size):
    client = client_expecting(name, Send(to="bob", body="hi"), Ping())
    with pytest.raises(RemoteProtocolError, match=why):
        receive_replies(client, pieces(data, size))
    server = transport(name).server_codec(4096)
    server.send(2, Done())
    client.receive_data(server.data_to_send())
    assert client.next_event() is None
    assert not client.mid_frame


WATCHED = WatchReply(messages=(), position=7, seen=7, more=True)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        *(
            (
                "jsonl",
                b'{"id":1,"ok":true,"messages":[],"position":7,"seen":7,"more":%b}\n' % more,
                "'more' is wrong",
            )
            for more in (b"1", b"null")
        ),
        ("jsonl", b'{"id":1,"ok":true,"messages":[],"position":7}\n', "'seen' is missing"),
        ("jsonl", b'{"id":2,"ok":true}\n', "not to request 1"),
        ("binary", frame(b"\x01\x00\x07\x07\x02", kind=0x85, flags=2), "truth value"),
        ("binary", frame(b"\x01\x00\x07\x07\x01", kind=0x85), "longer than its fields"),
        ("binary", frame(b"\x01\x00\x07\x07\x01", kind=0x85, flags=6), "flag"),
        ("binary", frame(b"\x01\x01\x04", kind=0x85), "presence bit"),
        ("binary", frame(b"\x01\x01", kind=0x85), "beyond the end"),
        ("binary", frame(b"\x02", kind=0x80), "not the reply to request 1"),
        ("binary", frame(b"\x01", kind=0x80), "not the reply to request 1"),
    ],
)
@pytest.mark.parametrize("size", [None, 1])
def test_what_is_no_reply_of_a_stream_ends_the_conversation(name, data, why, size):
    client, server = client_expecting(name, Watch(after=0, window=9), Ping()), served(name)
    server.send(1, WATCHED)
    assert receive_replies(client, [server.data_to_send()]) == [ReplyReceived(1, WATCHED)]
    with pytest.raises(RemoteProtocolError, match=why):
        receive_replies(client, pieces(data, size))
    server.send(1, WATCHED)
    assert receive_replies(client, [server.data_to_send()]) == []


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("jsonl", b'{"id":1,"ok":true,"messages":[],"position":7,"seen":7,"more":false}\n'),
        ("binary", frame(b"\x01\x00\x07\x07\x00", kind=0x85, flags=2)),
    ],
)
def test_a_stream_may_say_that_it_ends(name, data):
    client = client_expecting(name, Watch(after=0, window=9))
    (event,) = receive_replies(client, [data])
    assert event == ReplyReceived(1, WatchReply(messages=(), position=7, seen=7))
    assert not event.more
    with pytest.raises(RemoteProtocolError, match="no request"):
        receive_replies(client, [data])


@BOTH
def test_an_error_without_an_id_says_nothing_of_a_stream(name):
    client, server = client_expecting(name, Watch(after=0, window=9)), served(name)
    refused = ErrorReply(code="bad_request", message="?", retryable=False)
    for number, reply in ((1, WATCHED), (None, refused), (1, WATCHED), (1, refused)):
        server.send(number, reply)
        (event,) = receive_replies(client, [server.data_to_send()])
        assert event == ReplyReceived(number, reply)
        assert event.more is (reply is WATCHED)


@BOTH
def test_what_cannot_be_sent_says_why(name):
    client, server = transport(name).client_codec(4096), transport(name).server_codec(4096)
    with pytest.raises(LocalProtocolError, match="surrogate"):
        client.send(1, Send(to="bob", body="\ud800"))
    with pytest.raises(LocalProtocolError, match="id is 0 to"):
        client.send(-1, Ping())
    with pytest.raises(LocalProtocolError, match="only an error"):
        server.send(None, Done())
    server.send(1, Done())
    client.receive_data(server.data_to_send())
    with pytest.raises(RemoteProtocolError, match="no request"):  # none of them is expected
        client.next_event()


# -- kinds, and first bytes -----------------------------------------------------------------


def test_every_request_and_every_reply_has_a_kind_of_its_own():
    assert list(KIND_BY_REQUEST) == list(REQUESTS)
    assert set(KIND_BY_REPLY) == {request.reply for request in REQUESTS} | {ErrorReply}
    kinds = [*KIND_BY_REQUEST.values(), *KIND_BY_REPLY.values(), ERROR_WITHOUT_ID]
    assert len(set(kinds)) == len(kinds)
    assert all(0 < kind < 0x80 for kind in KIND_BY_REQUEST.values())
    assert all(0x80 <= kind <= 0xFF for kind in KIND_BY_REPLY.values())


@pytest.mark.parametrize(
    ("name", "start", "answer"),
    [
        ("jsonl", b"{", True),
        ("jsonl", b'{"op":"ping"', True),
        ("jsonl", b"\n", True),
        ("jsonl", b"\r", True),
        ("jsonl", b"\t", True),
        ("jsonl", b" ", True),
        ("jsonl", b"help", True),
        ("jsonl", "é".encode(), True),
        ("jsonl", b"\xef\xbb\xbf", True),
        ("jsonl", b"\xff\xfe", True),
        ("jsonl", b"\xfe\xff", True),
        ("jsonl", b"\xc0", True),
        ("jsonl", b"G", None),
        ("jsonl", b"GET", None),
        ("jsonl", b"GET ", False),
        ("jsonl", b"GET / HTTP/1.1\r\n", False),
        ("jsonl", b"GETTING", True),
        ("jsonl", b"P", None),
        ("jsonl", b"PRI * HTTP/2.0", False),
        ("jsonl", b"PRIVATE", True),
        ("jsonl", b"\x16", None),
        ("jsonl", b"\x16\x03\x01", False),
        ("jsonl", b"\x16\x04", False),
        ("jsonl", b"\x00", False),
        ("jsonl", b"\x1b[A", False),
        ("jsonl", b"\x1f", False),
        ("jsonl", b"~", True),
        ("jsonl", b"\x7f", False),
        ("jsonl", b"\x80", False),
        ("jsonl", b"\xb7\x01", False),
        ("jsonl", b"\xbf", False),
        ("binary", b"\xb7", True),
        ("binary", b"\xb7\x09", True),
        ("binary", b"{", False),
    ],
)
def test_recognises(name, start, answer):
    assert transport(name).recognises(start) is answer
