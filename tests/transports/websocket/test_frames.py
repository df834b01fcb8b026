"""Frames: the cases of the Autobahn test suite that can be told as facts, and hostile ones.

The suite's numbers stand where a case is from it (its sections: 1 framing, 2 pings and pongs, 3
reserved bits, 4 opcodes, 5 fragmentation, 6 UTF-8, 7 closing, 9 limits). There a server echoes;
here a request is answered, so a case counts as kept when its message arrives as it was.
"""

import time
import tracemalloc

import pytest
from opened import (
    BINARY,
    CLOSE,
    CONTINUATION,
    LIMIT,
    PING,
    PONG,
    TEXT,
    close_code,
    frame,
    opened,
    said,
    take,
)
from streams import PING as PINGS
from streams import PINGED, pieces

from twinline.core.errors import BadRequest, FrameTooLarge
from twinline.core.protocol import Done, Hello, HelloReply, Limits, Send
from twinline.transports.contract import RemoteProtocolError, ReplyReceived, RequestReceived
from twinline.transports.websocket.frames import unmask

ASKED = PINGS["jsonl"][:-1]
CUTS = pytest.mark.parametrize("size", [None, 1, 3])
BIG = LIMIT * 4


def sending(body: str) -> bytes:
    return f'{{"op":"send","id":9,"to":"bob","body":"{body}"}}'.encode()


def received(body: str) -> RequestReceived:
    return RequestReceived(9, Send(to="bob", body=body))


# -- 1: lengths ---------------------------------------------------------------------------------

AROUND = len(sending(""))


@CUTS
@pytest.mark.parametrize("length", [AROUND, 125, 126, 127, 128, 252, 253, 254, 65_535, 65_536])
def test_a_message_of_any_length_arrives(length: int, size: int | None) -> None:  # 1.1
    _, server = opened(limit=BIG)
    body = "x" * (length - AROUND)
    if size and length > 60_000:
        size = 997
    assert take(server, *pieces(frame(TEXT, sending(body)) * 2, size)) == [received(body)] * 2
    assert not server.mid_frame


@pytest.mark.parametrize("length", [0, 1, 4, 5, 60, 125, 126, 65_535, 65_536])
def test_a_server_writes_lengths_in_the_shortest_way(length: int) -> None:
    client, server = opened(limit=BIG)
    limits = Limits(
        body_bytes=1, frame_bytes=1, frame_bytes_before_login=1, reply_bytes=1, page=1,
        wait_seconds=1,
    )  # fmt: skip
    reply = HelloReply(protocol=1, server="x" * length, limits=limits)
    client.send(1, Hello())
    take(server, client.data_to_send())
    server.send(1, reply)
    data = server.data_to_send()
    ((opcode, payload),) = said(data)
    assert opcode == TEXT
    assert not payload.endswith(b"\n")
    assert data == frame(TEXT, payload, mask=None)
    client.receive_data(data)
    assert client.next_event() == ReplyReceived(1, reply)


@pytest.mark.parametrize("spoken", ["jsonl", "binary"])
def test_an_empty_message_is_answered_by_an_error(spoken: str) -> None:  # 1.1.1, 1.2.1
    _, server = opened(spoken)
    (event,) = take(server, frame(TEXT if spoken == "jsonl" else BINARY))
    assert isinstance(event.error, BadRequest)
    assert event.fatal == (spoken == "binary")


@CUTS
def test_a_binary_message_is_one_frame_of_that_transport(size: int | None) -> None:  # 1.2
    _, server = opened("binary")
    assert take(server, *pieces(frame(BINARY, PINGS["binary"]) * 2, size)) == [PINGED] * 2
    for wrong in (PINGS["binary"] * 2, PINGS["binary"][:-1], PINGS["binary"][:5], b"\xb7\x01"):
        _, server = opened("binary")
        (event,) = take(server, *pieces(frame(BINARY, wrong), size))
        assert event.fatal
        assert close_code(server, event) == 1007


def test_a_text_message_is_one_object() -> None:
    _, server = opened()
    assert take(server, frame(TEXT, b' \n{"op":"ping",\n"id":9}\r\n')) == [PINGED]
    for wrong in (ASKED * 2, ASKED + b"\n" + ASKED, b"[]", b"null"):
        (event,) = take(server, frame(TEXT, wrong))
        assert not event.fatal
    assert take(server, frame(TEXT, ASKED)) == [PINGED]


# -- 2: pings and pongs -------------------------------------------------------------------------


@CUTS
@pytest.mark.parametrize("payload", [b"", b"Hello", b"\x00\xff\xfe\xfd\xfc\xfb\x00", b"\xfe" * 125])
def test_a_ping_is_answered_with_what_it_says(payload: bytes, size: int | None) -> None:  # 2.1-2.4
    _, server = opened()
    assert take(server, *pieces(frame(PING, payload), size)) == []
    assert said(server.data_to_send()) == [(PONG, payload)]


def test_a_ping_is_answered_where_it_came() -> None:  # 2.10, 2.11
    client, server = opened()
    stream = b"".join(frame(PING, b"%d" % number) for number in range(10)) + frame(TEXT, ASKED)
    assert take(server, *pieces(stream, 1)) == [PINGED]
    server.send(9, Done())
    pongs = [(PONG, b"%d" % number) for number in range(10)]
    assert said(server.data_to_send()) == [*pongs, (TEXT, b'{"id":9,"ok":true}')]
    client.receive_data(frame(PING, b"you?", mask=None))
    assert client.next_event() is None
    pong = client.data_to_send()
    assert pong[:2] == b"\x8a\x84"
    assert bytes(unmask(bytearray(pong), 6, 10)) == b"you?"


def test_a_pong_that_nobody_asked_for_is_ignored() -> None:  # 2.7 to 2.9
    _, server = opened()
    stream = frame(PONG, b"?") + frame(PONG) + frame(PING, b"!") + frame(TEXT, ASKED)
    assert take(server, stream) == [PINGED]
    assert said(server.data_to_send()) == [(PONG, b"!")]


# -- 3 to 5, 7, 9: what fails the connection ----------------------------------------------------

WRONG: dict[str, tuple[bytes, int]] = {
    **{
        f"3: reserved bits {bits:03b}, opcode {opcode}": (frame(opcode, b"", reserved=bits), 1002)
        for bits in range(1, 8)
        for opcode in (TEXT, PING, CLOSE)
    },
    **{
        f"4: opcode {opcode}": (frame(opcode, b"x" * size), 1002)
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
        for size in (0, 5)
    },
    "2.5: a ping of 126 bytes": (frame(PING, b"\xfe" * 126), 1002),
    "a close frame of 126 bytes": (frame(CLOSE, b"\x03\xe8" + b"x" * 124), 1002),
    "5.1: a fragmented ping": (frame(PING, b"x", fin=False), 1002),
    "5.2: a fragmented pong": (frame(PONG, b"x", fin=False), 1002),
    "a fragmented close frame": (frame(CLOSE, b"\x03\xe8", fin=False), 1002),
    "5.9: a continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "5.10: a continuation of nothing, to go on": (frame(CONTINUATION, b"x", fin=False), 1002),
    "5.12: a continuation behind a whole message": (
        frame(TEXT, ASKED) + frame(CONTINUATION, b"x"), 1002,
    ),
    "5.18: two messages begin": (frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), 1002),
    "two messages begin, the second is not whole": (
        frame(TEXT, b"{", fin=False) + frame(TEXT, b"}", fin=False), 1002,
    ),
    "no mask": (frame(TEXT, ASKED, mask=None), 1002),
    "a ping without a mask": (frame(PING, mask=None), 1002),
    "a length of 125 in two bytes": (frame(TEXT, b"x" * 125, length=b"\x7e\x00\x7d"), 1002),
    "a length of 65535 in eight bytes": (
        frame(TEXT, b"x" * 65_535, length=b"\x7f" + (65_535).to_bytes(8)), 1002,
    ),
    "binary where text is spoken": (frame(BINARY, ASKED), 1003),
    "9: one byte beyond the limit": (frame(TEXT, b"x" * (LIMIT + 1)), 1009),
    "9: a length of 2^63": (frame(TEXT, b"", length=b"\x7f\x80" + bytes(7)), 1009),
    "9: fragments beyond the limit": (
        frame(TEXT, b"x" * LIMIT, fin=False) + frame(CONTINUATION, b"x"), 1009,
    ),
    "7.3.2: a close frame of one byte": (frame(CLOSE, b"\x03"), 1002),
    "7.5.1: a close frame whose reason is not UTF-8": (frame(CLOSE, b"\x03\xe8\xce\xba\xe1"), 1007),
    **{
        f"7.9, 7.13: the close code {code}": (frame(CLOSE, code.to_bytes(2)), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
    },
}  # fmt: skip


@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_allowed_fails_the_connection(what: str, size: int | None) -> None:
    data, code = WRONG[what]
    if size and len(data) > 1_000:
        size = 997
    _, server = opened()
    *before, event = take(server, *pieces(data + frame(TEXT, ASKED), size))
    assert before == ([PINGED] if what.startswith("5.12") else [])
    assert event.fatal
    assert event.id is None
    assert isinstance(event.error, FrameTooLarge if code == 1009 else BadRequest)
    assert len(event.error.message) < 100
    assert close_code(server, event) == code
    assert take(server, frame(TEXT, ASKED)) == []
    assert server.data_to_send() == b""
    assert not server.mid_frame


def test_a_whole_message_inside_another_fails_the_connection_when_it_comes_by_itself() -> None:
    _, server = opened()
    (event,) = take(server, frame(TEXT, b"{", fin=False), frame(TEXT, ASKED))
    assert event.fatal
    assert close_code(server, event) == 1002


def test_text_where_binary_is_spoken_fails_the_connection() -> None:
    _, server = opened("binary")
    (event,) = take(server, frame(TEXT, PINGS["binary"]))
    assert close_code(server, event) == 1003


@pytest.mark.parametrize(
    "start",
    [
        frame(TEXT, b"", length=b"\x7e\xff\xff")[:4],
        frame(TEXT, b"", length=b"\x7f" + (1 << 40).to_bytes(8))[:10],
        frame(BINARY, b"x")[:2],
        frame(PING, b"x" * 126)[:2],
        frame(3)[:2],
    ],
)
def test_a_frame_is_refused_by_its_header(start: bytes) -> None:
    _, server = opened(limit=1_000)
    (event,) = take(server, start)
    assert event.fatal


# -- 5: fragments -------------------------------------------------------------------------------


@CUTS
@pytest.mark.parametrize("parts", [1, 2, 3, 10, 60])
@pytest.mark.parametrize("between", [b"", frame(PING, b"between"), frame(PONG)])
def test_fragments_are_one_message(parts: int, between: bytes, size: int | None) -> None:
    # 5.3 to 5.8, 5.19, 5.20
    _, server = opened()
    message = sending("é" * 20)
    step = -(-len(message) // parts)
    cut = [message[at : at + step] for at in range(0, len(message), step)]
    stream = b"".join(
        frame(TEXT if at == 0 else CONTINUATION, part, fin=at == len(cut) - 1) + between
        for at, part in enumerate(cut)
    )
    assert take(server, *pieces(stream, size)) == [received("é" * 20)]
    pongs = [(PONG, b"between")] * len(cut) if between[:1] == b"\x89" else []
    assert said(server.data_to_send()) == pongs


def test_fragments_may_be_empty() -> None:  # 6.1.2, 6.1.3
    _, server = opened()
    stream = frame(TEXT, fin=False) + frame(CONTINUATION, ASKED, fin=False) + frame(CONTINUATION)
    for at, byte in enumerate(stream, 1):
        events = take(server, bytes([byte]))
        assert events == ([PINGED] if at == len(stream) else [])
        assert server.mid_frame == (at < len(stream)), "the time of a frame is that of its message"


def test_the_end_drops_the_fragments() -> None:
    _, server = opened()
    take(server, frame(TEXT, ASKED) + frame(TEXT, b'{"op"', fin=False))
    assert server.mid_frame
    server.receive_eof()
    assert server.next_event() is None
    assert not server.mid_frame


def test_what_fragments_take_up_is_the_limit() -> None:
    _, server = opened(limit=4_096)
    take(server, frame(TEXT, b"{", fin=False))
    more = frame(CONTINUATION, fin=False) * 1_000
    tracemalloc.start()
    try:
        for _ in range(10):
            assert take(server, more) == []
        assert tracemalloc.get_traced_memory()[0] < 16_384
    finally:
        tracemalloc.stop()
    assert take(server, frame(CONTINUATION, b"x" * 4_096))[0].fatal


# -- 6: UTF-8 -----------------------------------------------------------------------------------

NO_UTF8 = {
    "6.3.1: a surrogate half in the middle": b"\xce\xba\xed\xa0\x80edited",
    "6.4: beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "6.6: cut": b"\xce\xba\xe1\xbd",
    "6.8: five bytes": b"\xf8\x88\x80\x80\x80",
    "6.10: too long for what it says": b"\xc0\xaf",
    "6.11: U+D800": b"\xed\xa0\x80",
    "6.14: a continuation alone": b"\x80",
    "6.20: impossible bytes": b"\xfe\xff",
    "a byte order mark of UTF-16": "é".encode("utf-16"),
}


@pytest.mark.parametrize("what", NO_UTF8)
@pytest.mark.parametrize(
    "around", [b'{"op":"send","id":9,"to":"bob","body":"%b"}', b"%b", b'{"op":"ping","id":9} %b']
)
def test_what_is_not_utf8_fails_the_connection(what: str, around: bytes) -> None:
    text = around % NO_UTF8[what]
    for stream in (
        frame(TEXT, text),
        frame(TEXT, text[:-3], fin=False) + frame(CONTINUATION, text[-3:]),
    ):
        _, server = opened()
        (event,) = take(server, stream)
        assert event.fatal
        assert close_code(server, event) == 1007


@pytest.mark.parametrize("body", ["κόσμε", "\ufffd\U0010ffff\ud7ff", "\x7f\x80\u07ff\u0800"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_characters_may_be_cut_between_fragments(body: str, size: int) -> None:  # 6.2, 6.5, 6.7
    _, server = opened()
    *most, last = pieces(sending(body), size)
    first, *others = most
    stream = frame(TEXT, first, fin=False)
    stream += b"".join(frame(CONTINUATION, part, fin=False) for part in others)
    assert take(server, stream + frame(CONTINUATION, last)) == [received(body)]


# -- 7: closing ---------------------------------------------------------------------------------


@CUTS
@pytest.mark.parametrize(
    "payload",
    [
        b"",  # 7.3.1
        b"\x03\xe8",  # 7.3.3
        b"\x03\xe8" + "κόσμε".encode(),  # 7.3.4
        b"\x03\xe8" + b"*" * 123,  # 7.3.5
        *(code.to_bytes(2) for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011)),
        *(code.to_bytes(2) for code in (1012, 1013, 1014, 3000, 3999, 4000, 4999)),  # 7.7
    ],
)
def test_a_close_frame_is_answered_by_its_code(payload: bytes, size: int | None) -> None:
    _, server = opened()
    stream = frame(TEXT, ASKED) + frame(CLOSE, payload) + frame(PING) + frame(TEXT, ASKED)
    assert take(server, *pieces(stream, size)) == [PINGED]  # 7.1.2 to 7.1.4: nothing behind it
    assert server.ended
    server.end()
    assert said(server.data_to_send()) == [(CLOSE, payload[:2])]
    server.end()
    assert server.data_to_send() == b""


def test_a_close_frame_ends_a_message_in_fragments() -> None:  # 7.1.5
    _, server = opened()
    assert take(server, frame(TEXT, b"{", fin=False) + frame(CLOSE, b"\x03\xe8")) == []
    assert server.ended
    assert not server.mid_frame


def test_each_end_says_why_it_ends_by_itself() -> None:
    client, server = opened()
    server.end()
    data = server.data_to_send()
    assert said(data) == [(CLOSE, b"\x03\xe9")]  # 1001, going away
    client.receive_data(data)
    assert client.next_event() is None
    assert client.ended
    assert client.data_to_send()[:2] == b"\x88\x82"
    client, server = opened()
    client.end()
    take(server, client.data_to_send())
    assert said(server.data_to_send()) == [(CLOSE, b"\x03\xe8")]  # 1000


# -- the client's end ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b'{"id":1,"ok":true}'),  # masked
        frame(TEXT, b'{"id":1,"ok":true}', mask=None, reserved=4),
        frame(BINARY, b'{"id":1,"ok":true}', mask=None),
        frame(CONTINUATION, b'{"id":1,"ok":true}', mask=None),
        frame(TEXT, b"", mask=None, length=b"\x7f" + (1 << 40).to_bytes(8)),
        frame(TEXT, b'{"id":1,"ok":true}{"id":2,"ok":true}', mask=None),
        frame(TEXT, b"\xff", mask=None),
        frame(TEXT, b"HTTP/1.1 400", mask=None),
        frame(CLOSE, b"\x03", mask=None),
    ],
)
def test_what_is_no_reply_is_an_error_of_the_server(data: bytes) -> None:
    client, _ = opened()
    client.send(1, Hello())
    client.data_to_send()
    client.receive_data(data)
    with pytest.raises(RemoteProtocolError):
        client.next_event()
    client.receive_data(frame(TEXT, b'{"id":1,"ok":true}', mask=None))
    assert client.next_event() is None


def test_every_frame_of_a_client_has_another_mask() -> None:
    client, _ = opened()
    masks = set()
    for number in range(200):
        client.send(number, Hello())
        data = client.data_to_send()
        assert data[1] & 0x80
        masks.add(data[2:6])
    assert len(masks) > 190


# -- what it costs ------------------------------------------------------------------------------


def test_a_flood_of_small_frames_costs_time_in_proportion_to_it() -> None:
    def seconds(count: int) -> float:
        best = float("inf")
        for _ in range(3):
            _, server = opened()
            data = frame(PING, b"x") * count
            start = time.thread_time()
            take(server, data)
            best = min(best, time.thread_time() - start)
        return best

    assert seconds(16_000) < 24 * seconds(2_000)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 125, 251, 252, 253, 254, 255, 256, 257, 10_000])
def test_masks_are_undone(size: int) -> None:
    plain = bytes(at * 7 & 0xFF for at in range(size))
    for key in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\x02\x03\x04"):
        masked = bytearray(key) + bytes(byte ^ key[at % 4] for at, byte in enumerate(plain))
        assert bytes(unmask(masked, 4, 4 + size)) == plain
