"""Properties of frames and heads: any bytes, however they are cut."""

import json

from hypothesis import given
from hypothesis import strategies as st
from opened import CLOSE, CONTINUATION, PING, PONG, TEXT, asking, frame, opened, said, take
from streams import cut

from twinline.core.protocol import Send
from twinline.transports.contract import RemoteProtocolError, RequestReceived, RequestRefused
from twinline.transports.jsonl import read_request
from twinline.transports.websocket import WebSocketTransport
from twinline.transports.websocket.frames import unmask

PLACES = st.lists(st.integers(0, 10_000), max_size=6)
BODY = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
KEY = st.binary(min_size=4, max_size=4)


@st.composite
def messages(draw) -> tuple[bytes, list[RequestReceived], list[bytes]]:
    """Return a stream of messages in fragments, with their requests and the pings between them."""
    stream, requests, pings = b"", [], []
    for number, body in enumerate(draw(st.lists(BODY, min_size=1, max_size=4))):
        text = json.dumps({"op": "send", "id": number, "to": "bob", "body": body}).encode()
        parts = cut(text, draw(PLACES))
        requests.append(RequestReceived(number, Send(to="bob", body=body)))
        for at, part in enumerate(parts):
            if draw(st.booleans()):
                opcode, said_then = draw(st.sampled_from([PING, PONG])), draw(st.binary(max_size=9))
                stream += frame(opcode, said_then, mask=draw(KEY))
                if opcode == PING:
                    pings.append(said_then)
            opcode = TEXT if at == 0 else CONTINUATION
            stream += frame(opcode, part, fin=at == len(parts) - 1, mask=draw(KEY))
    return stream, requests, pings


@given(messages(), PLACES)
def test_fragments_cuts_and_pings_change_nothing(made, places) -> None:
    stream, requests, pings = made
    _, server = opened()
    assert take(server, *cut(stream, places)) == requests
    assert said(server.data_to_send()) == [(PONG, each) for each in pings]
    assert not server.mid_frame


def outcome(server, pieces) -> list[object]:
    """Return all that can be seen of what a server's end makes of bytes."""
    events: list[object] = []
    for event in take(server, *pieces):
        if isinstance(event, RequestRefused):
            server.send(event.id, event.error.to_reply())
            events.append((event.id, event.error.code, event.error.message, event.fatal))
        else:
            events.append(event)
    return [*events, server.mid_frame, server.ended, server.data_to_send()]


SOME_FRAMES = st.builds(
    frame,
    st.integers(0, 15),
    st.one_of(st.binary(max_size=130), st.just(b'{"op":"ping","id":1}'), st.just(b"\x03\xe8")),
    fin=st.booleans(),
    mask=st.one_of(KEY, KEY, KEY, st.none()),
    reserved=st.sampled_from([0, 0, 0, 0, 1, 4]),
)
STREAMS = st.lists(st.one_of(SOME_FRAMES, SOME_FRAMES, st.binary(max_size=20)), max_size=6)


@given(STREAMS, PLACES)
def test_any_frames_give_the_same_however_they_are_cut(frames, places) -> None:
    stream = b"".join(frames)
    whole, parts, one_by_one = (opened(limit=200)[1] for _ in range(3))
    expected = outcome(whole, [stream])
    assert outcome(parts, cut(stream, places)) == expected
    assert outcome(one_by_one, frames) == expected


@given(STREAMS)
def test_a_client_takes_any_frames_for_replies_or_an_error(frames) -> None:
    client, _ = opened(limit=200)
    client.receive_data(b"".join(frames))
    try:
        while client.next_event() is not None:
            pass
    except RemoteProtocolError:
        assert client.next_event() is None


HEADS = st.lists(
    st.one_of(
        st.sampled_from(asking("Connection: close").decode().splitlines(keepends=True)),
        st.text(st.characters(max_codepoint=255), max_size=20),
    ),
    max_size=12,
).map(lambda lines: "".join(lines).encode("latin-1"))


@given(st.one_of(HEADS, st.binary(max_size=300)), PLACES)
def test_any_head_gives_the_same_however_it_is_cut(head, places) -> None:
    transport = WebSocketTransport()
    head = asking(line="GET / HTTP/1.1")[:16] + head
    whole, parts = transport.server_codec(200), transport.server_codec(200)
    assert outcome(whole, [head]) == outcome(parts, cut(head, places))
    client = transport.client_codec(200)
    try:
        client.receive_data(b"HTTP/1.1 " + head)
        client.next_event()
    except RemoteProtocolError:
        pass
    assert not client.opened


@given(st.binary(max_size=30), st.sampled_from(['"%s"', "%s", '{"%s":1}', "[%s]"]))
def test_what_is_not_utf8_is_never_read(noise: bytes, around: str) -> None:
    """The text of a request is not decoded for itself: the parser of JSON refuses it."""
    value = (around % "@").encode().replace(b"@", noise)
    line = b'{"op":"ping","id":1,"unknown":' + value + b"}"
    if isinstance(read_request(line), RequestReceived):
        line.decode()


@given(st.binary(max_size=600), KEY)
def test_masks_are_undone(payload: bytes, key: bytes) -> None:
    masked = bytearray(key) + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
    assert bytes(unmask(masked, 4, len(masked))) == payload


@given(st.binary(max_size=125))
def test_any_close_frame_is_the_last(payload: bytes) -> None:
    _, server = opened()
    events = take(server, frame(CLOSE, payload), frame(TEXT, b'{"op":"ping","id":1}'))
    assert server.ended or events[0].fatal
    assert len(events) == (0 if server.ended else 1)
