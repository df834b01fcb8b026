"""JSON-lines to the byte: what is written, what a server reads, and what strangers get."""

import time
import tracemalloc

import pytest
from malformed_samples import ALSO_ACCEPTED_JSONL, MALFORMED_JSONL, Malformed, line
from streams import pieces, receive

from twinline.core.errors import BadRequest, FrameTooLarge, UndeliveredMessages
from twinline.core.protocol import (
    MAX_INT,
    AckReply,
    Done,
    Hello,
    Ping,
    Send,
)
from twinline.transports.contract import (
    LocalProtocolError,
    RemoteProtocolError,
    RequestReceived,
    RequestRefused,
)
from twinline.transports.jsonl import JsonlClientCodec, JsonlServerCodec, JsonlTransport

PING = b'{"op":"ping","id":9}\n'
PINGED = RequestReceived(9, Ping())


def sent_by_client(*requests):
    codec = JsonlClientCodec(4096)
    for number, request in enumerate(requests, 1):
        codec.send(number, request)
    return codec.data_to_send()


def sent_by_server(id, reply):
    codec = JsonlServerCodec(4096)
    codec.send(id, reply)
    return codec.data_to_send()


# -- writing ----------------------------------------------------------------------------


def test_requests_leave_out_what_equals_its_default():
    assert sent_by_client(Ping(), Send(to="bob", body="hé\n"), Hello(client="x")) == (
        b'{"op":"ping","id":1}\n'
        b'{"op":"send","id":2,"to":"bob","body":"h\xc3\xa9\\n"}\n'
        b'{"op":"hello","id":3,"client":"x"}\n'
    )


def test_replies():
    assert sent_by_server(0, Done()) == b'{"id":0,"ok":true}\n'
    assert sent_by_server(MAX_INT, AckReply(position=1, unread=0)) == (
        b'{"id":9007199254740991,"ok":true,"position":1,"unread":0}\n'
    )


def test_error_replies():
    assert sent_by_server(7, UndeliveredMessages("three", count=3).to_reply()) == (
        b'{"id":7,"ok":false,"error":'
        b'{"code":"undelivered_messages","message":"three","retryable":false,"count":3}}\n'
    )
    assert sent_by_server(None, BadRequest("what?").to_reply()) == (
        b'{"id":null,"ok":false,"error":'
        b'{"code":"bad_request","message":"what?","retryable":false}}\n'
    )


def test_what_was_sent_is_taken_out_once_and_together():
    codec = JsonlServerCodec(4096)
    codec.send(1, Done())
    codec.send(2, Done())
    assert codec.data_to_send() == b'{"id":1,"ok":true}\n{"id":2,"ok":true}\n'
    assert codec.data_to_send() == b""


def test_what_cannot_be_sent_is_the_callers_fault():
    client, server = JsonlClientCodec(4096), JsonlServerCodec(4096)
    with pytest.raises(LocalProtocolError, match="surrogate"):
        client.send(1, Send(to="bob", body="\ud800"))
    for number in (-1, MAX_INT + 1):
        with pytest.raises(LocalProtocolError, match="id is 0 to"):
            client.send(number, Ping())
    with pytest.raises(LocalProtocolError, match="only an error"):
        server.send(None, Done())
    assert (client.data_to_send(), server.data_to_send()) == (b"", b"")
    client.receive_data(b'{"id":1,"ok":true}\n')
    with pytest.raises(RemoteProtocolError, match="no request"):  # none of them is expected
        client.next_event()


# -- reading requests -------------------------------------------------------------------


@pytest.mark.parametrize("case", MALFORMED_JSONL, ids=lambda case: case.name)
def test_malformed_lines_are_refused_and_the_next_is_read(case: Malformed):
    for size in (None, 1, 7):
        server = JsonlServerCodec(case.frame_limit)
        first, *others = receive(server, pieces(case.data + PING, size))
        assert isinstance(first, RequestRefused)
        assert (first.error.code, first.id, first.fatal) == (case.code, case.id, case.fatal)
        assert others == ([] if case.fatal else [PINGED])
        assert not server.mid_frame


@pytest.mark.parametrize("case", ALSO_ACCEPTED_JSONL, ids=lambda case: case[0])
def test_other_spellings_are_accepted(case):
    _, data, request_id, request = case
    assert receive(JsonlServerCodec(4096), pieces(data + PING, None)) == [
        RequestReceived(request_id, request),
        PINGED,
    ]


def test_every_answer_to_a_malformed_line_is_short_and_clean():
    for case in MALFORMED_JSONL:
        server = JsonlServerCodec(case.frame_limit)
        server.receive_data(case.data)
        event = server.next_event()
        message = event.error.message
        assert len(message) < 160
        assert "http" not in message
        assert "Traceback" not in message
        assert "tuple" not in message
        server.send(event.id, event.error.to_reply())
        assert server.data_to_send().endswith(b"}\n")


def test_an_error_names_the_field_and_never_its_value():
    server = JsonlServerCodec(4096)
    server.receive_data(
        line('{"op":"login","id":1,"username":"ann","password":["hunter2 secret"]}')
    )
    message = server.next_event().error.message
    assert message == "the field 'password' is wrong: input should be a valid string"


def test_a_missing_field_is_named():
    server = JsonlServerCodec(4096)
    server.receive_data(line('{"op":"send","id":1,"to":"bob"}'))
    assert server.next_event().error.message == "the field 'body' is missing"


def test_an_unknown_op_is_cut_and_made_visible():
    server = JsonlServerCodec(65_536)
    server.receive_data(line('{"op":"\\u001b[2J' + "x" * 60_000 + '","id":1}'))
    message = server.next_event().error.message
    assert "\\x1b[2J" in message
    assert "\x1b" not in message
    assert message.endswith("x'…")
    assert len(message) < 80


def test_a_list_of_wrong_items_costs_no_more_than_its_line():
    server = JsonlServerCodec(65_536)
    server.receive_data(line('{"op":"delete_messages","id":1,"seqs":[' + '"",' * 20_000 + '""]}'))
    tracemalloc.start()
    event = server.next_event()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert event.error.message == "the field 'seqs.0' is wrong: input should be a valid integer"
    assert peak < 1 << 20


def test_parsed_passwords_are_not_kept_by_the_parsers_cache():
    def password():
        server = JsonlServerCodec(4096)
        server.receive_data(line('{"op":"login","id":1,"username":"ann","password":"s3cret"}'))
        return server.next_event().request.password

    assert password() == password()
    assert password() is not password()


# -- the limit --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, 1, 3])
def test_exactly_the_limit_is_accepted_and_one_more_is_not(size):
    text = b'{"op":"ping","id":9}'
    limit = 64
    fits = text + b" " * (limit - len(text))
    assert receive(JsonlServerCodec(limit), pieces(fits + b"\n", size)) == [PINGED]
    (refused,) = receive(JsonlServerCodec(limit), pieces(fits + b" \n", size))
    assert (type(refused.error), refused.id, refused.fatal) == (FrameTooLarge, None, True)


def test_the_carriage_return_counts():
    text = b'{"op":"ping","id":9}\r\n'
    assert receive(JsonlServerCodec(len(text) - 1), [text]) == [PINGED]
    (refused,) = receive(JsonlServerCodec(len(text) - 2), [text])
    assert isinstance(refused.error, FrameTooLarge)


def test_too_large_is_said_with_the_first_byte_too_many():
    server = JsonlServerCodec(16)
    server.receive_data(b"x" * 16)
    assert server.next_event() is None
    server.receive_data(b"x")
    assert isinstance(server.next_event().error, FrameTooLarge)


def test_a_limit_changed_between_two_events_holds_for_the_second():
    long = b'{"op":"ping","id":9' + b" " * 100 + b"}\n"
    server = JsonlServerCodec(64)
    server.receive_data(PING + long + long)
    assert server.next_event() == PINGED
    server.frame_limit = 4096
    assert server.next_event() == PINGED
    server.frame_limit = 64
    assert isinstance(server.next_event().error, FrameTooLarge)


def test_a_lowered_limit_holds_for_a_line_that_is_half_here():
    server = JsonlServerCodec(4096)
    server.receive_data(b"x" * 100)
    assert server.next_event() is None
    server.frame_limit = 64
    assert isinstance(server.next_event().error, FrameTooLarge)


class CountedSearches(bytearray):
    """A buffer that counts the bytes that were searched for a line feed."""

    searched = 0

    def find(self, what, start, end):
        self.searched += max(0, min(len(self), end) - start)
        return super().find(what, start, end)


def test_in_one_byte_pieces_every_byte_is_searched_once():
    server = JsonlServerCodec(4096)
    buffer = server._received = CountedSearches()
    for _ in range(4096):
        server.receive_data(b"x")
        assert server.next_event() is None
    assert buffer.searched == 4096
    server.receive_data(b"x")
    assert isinstance(server.next_event().error, FrameTooLarge)
    assert buffer.searched <= 4098


def test_short_lines_behind_a_long_one_that_came_in_two_pieces():
    server = JsonlServerCodec(4096)
    events = receive(server, [PING[:18], PING[18:] + b"\n\n" + PING])
    assert [type(event) for event in events] == [
        RequestReceived,
        RequestRefused,
        RequestRefused,
        RequestReceived,
    ]


def test_many_lines_at_once_take_linear_time():
    def seconds(count):
        best = float("inf")
        for _ in range(5):
            server = JsonlServerCodec(4096)
            server.receive_data(PING * count)
            start = time.thread_time()
            for _ in range(count):
                assert server.next_event() is not None
            best = min(best, time.thread_time() - start)
        return best

    assert seconds(16_000) < 24 * seconds(2_000)


# -- the state of the stream ------------------------------------------------------------


def test_mid_frame_and_the_end_of_the_stream():
    server = JsonlServerCodec(4096)
    assert not server.mid_frame
    server.receive_data(PING + b'{"op"')
    assert server.next_event() == PINGED
    assert server.next_event() is None
    assert server.mid_frame
    server.receive_data(b':"ping","id":9}\n{"op":"pi')
    server.receive_eof()
    server.receive_data(b'ng","id":10}\n')  # nobody can send after the end
    assert server.next_event() == PINGED
    assert server.next_event() is None
    assert not server.mid_frame


def test_after_a_fatal_event_there_is_nothing_more_to_read_but_the_answer_goes_out():
    server = JsonlServerCodec(16)
    server.receive_data(b"x" * 17)
    assert server.next_event().fatal
    server.receive_data(b"\n\n\n")
    assert server.next_event() is None
    server.receive_eof()
    assert server.next_event() is None
    server.send(None, FrameTooLarge().to_reply())
    assert b"frame_too_large" in server.data_to_send()


# -- strangers --------------------------------------------------------------------------


def test_tls_is_recognised_by_two_bytes():
    server = JsonlServerCodec(4096)
    server.receive_data(b"\x16")
    assert server.next_event() is None
    server.receive_data(b"\x03")
    event = server.next_event()
    assert event.fatal
    assert "TLS" in event.error.message


def test_http_is_recognised_by_its_method():
    server = JsonlServerCodec(4096)
    server.receive_data(b"POST")
    assert server.next_event() is None
    server.receive_data(b" ")
    event = server.next_event()
    assert event.fatal
    assert "HTTP" in event.error.message


@pytest.mark.parametrize("greeting", [b"GET / HTTP/1.1\n", b"\x16\x03\x01\n"])
def test_only_the_first_line_can_be_a_greeting(greeting):
    first, second = receive(JsonlServerCodec(4096), [PING + greeting])
    assert first == PINGED
    assert not second.fatal


@pytest.mark.parametrize(
    ("start", "answer"),
    [
        (b"{", True),
        (b'{"op":"ping"', True),
        (b"\n", True),
        (b"\r", True),
        (b"\t", True),
        (b" ", True),
        (b"help", True),
        ("é".encode(), True),
        (b"\xef\xbb\xbf", True),
        (b"\xff\xfe", True),
        (b"\xfe\xff", True),
        (b"G", None),
        (b"GET", None),
        (b"GET ", False),
        (b"GET / HTTP/1.1\r\n", False),
        (b"GETTING", True),
        (b"P", None),
        (b"PRI * HTTP/2.0", False),
        (b"PRIVATE", True),
        (b"\x16", None),
        (b"\x16\x03\x01", False),
        (b"\x16\x04", False),
        (b"\x00", False),
        (b"\x1b[A", False),
        (b"\x7f", False),
        (b"\x80", False),
        (b"\xb7\x01", False),
        (b"\xbf", False),
    ],
)
def test_recognises(start, answer):
    assert JsonlTransport().recognises(start) is answer
