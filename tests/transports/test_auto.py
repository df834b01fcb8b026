"""`auto` chooses a transport by a connection's first bytes."""

import pytest
from opened import asking, frame, said
from streams import PING, PINGED, pieces, receive

from twinline.core.errors import ShuttingDown
from twinline.core.protocol import Done
from twinline.transports.auto import MAX_START_BYTES, AutoTransport
from twinline.transports.binary import BinaryServerCodec, BinaryTransport
from twinline.transports.jsonl import JsonlClientCodec, JsonlServerCodec, JsonlTransport
from twinline.transports.registry import transport

JSONL_PING, BINARY_PING = PING["jsonl"], PING["binary"]


class Worded(JsonlTransport):
    """A transport of another package: it begins with a word of its own."""

    name = "worded"
    word = b"COME IN\n"
    asked: list[bytes] = []  # noqa: RUF012 - cleared by each test that reads it

    def recognises(self, start):
        self.asked.append(start)
        if start.startswith(self.word):
            return True
        return None if self.word.startswith(start) else False

    def server_codec(self, frame_limit):
        return WordedServerCodec(frame_limit)


class WordedServerCodec(JsonlServerCodec):
    def receive_data(self, data):
        super().receive_data(data.removeprefix(Worded.word))


class Undecided(Worded):
    name = "undecided"

    def recognises(self, start):
        return None


def auto(*transports, limit=4096):
    return AutoTransport(transports or [JsonlTransport(), BinaryTransport()]).server_codec(limit)


@pytest.mark.parametrize("size", [None, 1, 5])
@pytest.mark.parametrize(
    ("data", "chosen"), [(JSONL_PING, JsonlServerCodec), (BINARY_PING, BinaryServerCodec)]
)
def test_the_first_bytes_choose(data, chosen, size):
    server = auto()
    assert server.resolve() is server
    assert receive(server, pieces(data * 3, size)) == [PINGED] * 3
    assert type(server.resolve()) is chosen
    server.send(9, Done())
    plain = chosen(4096)
    plain.send(9, Done())
    assert server.data_to_send() == plain.data_to_send()


@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("start", [b"\x00\x01\x02", b"\x7f", b"\x80abc", b"\x16\x04", b"\xb6\x01"])
def test_strangers_get_a_line_that_a_person_can_read(start, size):
    server = auto()
    (event,) = receive(server, pieces(start + JSONL_PING, size))
    assert event.fatal
    assert event.id is None
    assert event.error.message.endswith("spoken here: binary, jsonl")
    server.send(None, event.error.to_reply())
    assert server.data_to_send().startswith(b'{"id":null,"ok":false,"error":{"code":"bad_request"')
    server.receive_data(JSONL_PING)
    assert server.next_event() is None
    assert not server.mid_frame


def test_the_frame_limit_reaches_the_chosen_codec():
    long = b'{"op":"ping","id":9' + b" " * 100 + b"}\n"
    server = auto(limit=8)
    server.frame_limit = 64
    assert server.frame_limit == 64
    server.receive_data(JSONL_PING + long + long)
    assert server.next_event() == PINGED
    server.frame_limit = 4096
    assert server.resolve().frame_limit == server.frame_limit == 4096
    assert server.next_event() == PINGED
    server.frame_limit = 64
    assert server.next_event().error.code == "frame_too_large"


def test_mid_frame_before_and_after_the_choice():
    server = auto()
    assert not server.mid_frame
    server.receive_data(b"P")
    assert server.next_event() is None
    assert server.mid_frame
    server.receive_data(b"ING\n{")
    assert server.next_event().error.code == "bad_request"
    assert server.next_event() is None
    assert server.mid_frame
    server.receive_data(JSONL_PING[1:])
    assert server.next_event() == PINGED
    assert not server.mid_frame


def test_the_end_of_the_stream_before_the_choice():
    server = auto()
    server.receive_data(b"GE")
    assert server.next_event() is None
    server.receive_eof()
    assert server.next_event() is None
    assert not server.mid_frame
    server.receive_data(JSONL_PING)  # nothing can be sent after the end
    assert server.next_event() is None
    assert server.resolve() is server


def test_the_end_of_the_stream_with_requests_still_to_choose_by():
    server = auto()
    server.receive_data(JSONL_PING + b"{")
    server.receive_eof()
    assert server.next_event() == PINGED
    assert server.next_event() is None
    assert not server.mid_frame


def test_the_end_of_the_stream_after_the_choice():
    server = auto()
    server.receive_data(BINARY_PING + BINARY_PING[:3])
    assert server.next_event() == PINGED
    server.receive_eof()
    assert server.next_event() is None
    assert not server.mid_frame


def test_what_is_said_before_the_choice_is_a_line():
    server = auto()
    server.send(None, ShuttingDown().to_reply())
    assert server.data_to_send().startswith(b'{"id":null,"ok":false')
    server.receive_data(BINARY_PING)
    assert server.next_event() == PINGED
    assert server.data_to_send() == b""


@pytest.mark.parametrize("size", [None, 1])
def test_a_transport_with_words_of_its_own_goes_before_jsonl(size):
    transports = [JsonlTransport(), BinaryTransport(), Worded()]
    server = auto(*transports)
    assert receive(server, pieces(Worded.word + JSONL_PING, size)) == [PINGED]
    assert type(server.resolve()) is WordedServerCodec
    server = auto(*transports)
    assert receive(server, pieces(b"COME ON\n" + JSONL_PING, size))[-1] == PINGED
    assert type(server.resolve()) is JsonlServerCodec


def test_each_transport_is_asked_about_every_start_once():
    Worded.asked.clear()
    server = auto(Worded())
    server.receive_data(b"COM")
    assert server.next_event() is None
    assert server.next_event() is None
    server.receive_data(b"MERCE")
    assert server.next_event().fatal
    assert Worded.asked == [b"C", b"CO", b"COM", b"COMM"]


def test_a_transport_that_never_decides_does_not_stop_the_others():
    server = auto(JsonlTransport(), Undecided())
    server.receive_data(b" " * (MAX_START_BYTES - 1))
    assert server.next_event() is None
    server.receive_data(JSONL_PING)
    assert server.next_event() == PINGED
    server = auto(Undecided())
    server.receive_data(JSONL_PING * 20)
    assert server.next_event().fatal


def test_auto_recognises_what_any_of_its_transports_does():
    both = AutoTransport([JsonlTransport(), BinaryTransport()])
    assert both.recognises(b"{") is True
    assert both.recognises(b"\xb7") is True
    assert both.recognises(b"G") is None
    assert both.recognises(b"GET ") is False


def test_what_a_websocket_says_by_itself_is_handed_on():
    """Before a login, after which it is used by itself."""
    server = transport("auto").server_codec(4096)
    assert server.unprompted
    assert receive(server, [asking(), frame(0x9, b"?")]) == []
    answer, _, pong = server.data_to_send().partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert said(pong) == [(0xA, b"?")]
    assert not server.ended
    assert receive(server, [frame(0x8, b"\x03\xe8")]) == []
    assert server.ended
    assert said(server.data_to_send()) == [(0x8, b"\x03\xe8")]
    server = transport("auto").server_codec(4096)
    receive(server, [asking()])
    server.data_to_send()
    server.end()
    assert said(server.data_to_send()) == [(0x8, b"\x03\xe9")]
    server = transport("auto").server_codec(4096)
    receive(server, [JSONL_PING])
    server.end()
    assert server.data_to_send() == b""
    assert not server.ended


def test_a_client_that_says_auto_speaks_jsonl():
    client = transport("auto").client_codec(4096)
    assert type(client) is JsonlClientCodec
    assert client.frame_limit == 4096
