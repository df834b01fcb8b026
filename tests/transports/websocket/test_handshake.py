"""The handshake: heads that are read and heads that are refused, origins, subprotocols."""

import time
from contextlib import suppress

import pytest
from opened import ACCEPT, BINARY, KEY, TEXT, asking, frame, said, take
from streams import PING, PINGED, pieces

from twinline.core.errors import BadRequest, Busy, FrameTooLarge
from twinline.core.protocol import Done, Ping
from twinline.transports.auto import AutoServerCodec
from twinline.transports.binary import BinaryTransport
from twinline.transports.contract import LocalProtocolError, RemoteProtocolError
from twinline.transports.jsonl import JsonlTransport
from twinline.transports.registry import transport
from twinline.transports.websocket import WebSocketServerCodec, WebSocketTransport
from twinline.transports.websocket.handshake import accept_of
from twinline.transports.websocket.head import MOST_BYTES, HeadError, RequestReader

ASKED = PING["jsonl"][:-1]
BOTH = "twinline.jsonl, twinline.binary"


def server_of(**options) -> WebSocketServerCodec:
    return WebSocketTransport(**options).server_codec(65_536)


def refused(data: bytes, size: int | None = None, **options) -> tuple[int, str, dict[str, str]]:
    """Return the status that a head gets, its sentence and its fields; the connection has ended."""
    server = server_of(**options)
    (event,) = take(server, *pieces(data, size))
    assert event.fatal
    assert event.id is None
    assert not server.mid_frame
    server.send(None, event.error.to_reply())
    server.end()
    head, _, body = server.data_to_send().decode().partition("\r\n\r\n")
    line, *lines = head.split("\r\n")
    fields = dict(each.split(": ", 1) for each in lines)
    assert line.startswith("HTTP/1.1 ")
    assert "close" in fields["Connection"]
    assert fields["Content-Length"] == str(len(body))
    assert fields["Content-Type"] == "text/plain; charset=utf-8"
    assert body == f"{event.error.message}\n"
    assert len(body) < 200
    assert take(server, asking() + frame(TEXT, ASKED)) == []
    return int(line.split()[1]), body, fields


def accepted(data: bytes, **options) -> list[str]:
    """Return the lines of the answer to a handshake that is accepted."""
    server = server_of(**options)
    assert take(server, data) == []
    head, _, rest = server.data_to_send().decode().partition("\r\n\r\n")
    assert rest == ""
    assert not server.ended
    return head.split("\r\n")


# -- what is accepted ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, 1, 7])
def test_the_example_of_the_rfc(size: int | None) -> None:
    server = server_of()
    asked = asking(f"Sec-WebSocket-Protocol: {BOTH}", "Origin: http://server.example.com")
    assert take(server, *pieces(asked + frame(TEXT, ASKED), size)) == [PINGED]
    assert server.data_to_send() == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + ACCEPT.encode() + b"\r\n"
        b"Sec-WebSocket-Protocol: twinline.jsonl\r\n\r\n"
    )
    server.send(9, Done())
    assert said(server.data_to_send()) == [(TEXT, b'{"id":9,"ok":true}')]


@pytest.mark.parametrize(
    "data",
    [
        asking("X-Odd: \x80\xff \t, x"),
        asking("Connection: keep-alive"),
        asking("Connection: , x", "Upgrade: h2c"),
        asking("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"),
        asking("User-Agent:", "Accept-Language:   en \t"),
        asking("Connection: keep-alive,UPGRADE", without="Connection"),
        asking("upgrade: WebSocket", without="Upgrade"),
        asking("HOST: [::1]:7767", without="Host"),
        asking(line="GET /any/path?with=a&query HTTP/1.1"),
        asking(line="GET http://other.example/path HTTP/1.1"),
        asking(line="GET http://other.example HTTP/1.1"),
        asking("Cookie: a=b", "Cookie: c=d"),
        asking("X: " + "x" * 15_000),
    ],
    ids=lambda data: data[:60].decode(),
)
def test_what_browsers_and_proxies_send_is_accepted(data: bytes) -> None:
    line, *fields = accepted(data)
    assert line == "HTTP/1.1 101 Switching Protocols"
    assert f"Sec-WebSocket-Accept: {ACCEPT}" in fields
    assert not any("Extensions" in field or "Protocol" in field for field in fields)


@pytest.mark.parametrize(
    ("offered", "inner", "spoken"),
    [
        ([], None, "jsonl"),
        ([], [BinaryTransport()], "binary"),
        (["twinline.binary"], None, "binary"),
        (["twinline.binary, twinline.jsonl"], None, "binary"),
        (["v9.example,twinline.jsonl"], None, "jsonl"),
        (["twinline.binary, twinline.jsonl"], [JsonlTransport()], "jsonl"),
    ],
)
def test_the_client_chooses_the_subprotocol(offered, inner, spoken) -> None:
    server = server_of(inner=inner)
    assert take(server, asking(*(f"Sec-WebSocket-Protocol: {each}" for each in offered))) == []
    answer = server.data_to_send().decode()
    assert (f"\r\nSec-WebSocket-Protocol: twinline.{spoken}\r\n" in answer) is bool(offered)
    message = frame(TEXT, ASKED) if spoken == "jsonl" else frame(BINARY, PING["binary"])
    assert take(server, message) == [PINGED]


def test_what_proxies_say_of_the_peer_is_told() -> None:
    server = server_of()
    assert server.forwarded_for == ()
    take(
        server,
        asking("X-Forwarded-For: 192.0.2.7, unknown ,", "x-forwarded-for: [2001:db8::1]:99,_odd"),
    )
    assert server.forwarded_for == ("192.0.2.7", "unknown", "[2001:db8::1]:99", "_odd")
    server = server_of()
    take(server, asking("X-Forwarded-For: " + ",".join(map(str, range(3_000)))))
    assert server.forwarded_for == tuple(map(str, range(2_968, 3_000)))
    chosen = transport("auto").server_codec(4_096)
    assert isinstance(chosen, AutoServerCodec)
    assert chosen.forwarded_for == ()
    take(chosen, asking("X-Forwarded-For: 192.0.2.7"))
    assert chosen.forwarded_for == ("192.0.2.7",)
    assert isinstance(chosen.resolve(), WebSocketServerCodec)


# -- heads that are refused ---------------------------------------------------------------------

HOSTILE: dict[str, bytes] = {
    "no host": asking(without="Host"),
    "two hosts": asking("Host: other.example"),
    "the host twice, the same": asking("host: server.example.com"),
    "an empty host": asking("Host: ", without="Host"),
    "a host that is a list": asking("Host: a.example, b.example", without="Host"),
    "a host with a path": asking("Host: a.example/x", without="Host"),
    "a body by its length": asking("Content-Length: 5"),
    "a body of no bytes": asking("Content-Length: 0"),
    "two lengths": asking("Content-Length: 5", "Content-Length: 6"),
    "a body in chunks": asking("Transfer-Encoding: chunked"),
    "both": asking("Content-Length: 5", "Transfer-Encoding: chunked"),
    "a folded line": asking("X-Folded: a\r\n b"),
    "a folded line of a tab": asking("X-Folded: a\r\n\tb"),
    "a line that is folded first": asking(" folded: x"),
    "white space before the colon": asking("Transfer-Encoding : chunked"),
    "no colon": asking("Transfer-Encoding"),
    "no name": asking(": x"),
    "a name that is no token": asking("X(y): z"),
    "a bare line feed in a value": asking("X: a\nTransfer-Encoding: chunked"),
    "a bare carriage return in a value": asking("X: a\rTransfer-Encoding: chunked"),
    "a NUL": asking("X: a\0b"),
    "DEL": asking("X: \x7f"),
    "an escape": asking("X: \x1b[2J"),
    "two keys": asking(f"Sec-WebSocket-Key: {KEY}"),
    "two versions": asking("Sec-WebSocket-Version: 13"),
    "two lists of subprotocols": asking(
        "Sec-WebSocket-Protocol: twinline.jsonl", "Sec-WebSocket-Protocol: twinline.binary"
    ),
    "two origins": asking("Origin: http://server.example.com", "Origin: http://evil.example"),
    "no key": asking(without="Sec-WebSocket-Key"),
    "a key of 15 bytes": asking(
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA", without="Sec-WebSocket-Key"
    ),
    "a key that is not base64": asking(
        "Sec-WebSocket-Key: ??????????????????????==", without="Sec-WebSocket-Key"
    ),
    "an unknown subprotocol": asking("Sec-WebSocket-Protocol: mqtt"),
    "no version of HTTP": b"GET /\r\n\r\n",
    "a lower-case http": asking(line="GET / http/1.1"),
    "two spaces": asking(line="GET  / HTTP/1.1"),
    "a space in the target": asking(line="GET /a b HTTP/1.1"),
    "a target that is no path": asking(line="GET * HTTP/1.1"),
    "a target of another scheme": asking(line="GET file:///etc/passwd HTTP/1.1"),
    "an authority": asking(line="GET server.example.com:80 HTTP/1.1"),
    "a tab": asking(line="GET\t/ HTTP/1.1"),
    "a line feed alone": b"GET / HTTP/1.1\nHost: x\n\n",
    "no HTTP at all": b"HELLO\r\n",
    "JSON-lines": PING["jsonl"],
    "binary frames": PING["binary"],
    "TLS": bytes.fromhex("16030100f8010000f40303"),
    "an empty line first": b"\r\n" + asking(),
    "a method that is no token": b"GE(T / HTTP/1.1\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_head_that_two_readers_could_read_in_two_ways_is_refused(what, size) -> None:
    status, text, _ = refused(HOSTILE[what], size)
    assert status == 400
    for telltale in ("evil", "chunked", "hunter2", "Traceback"):
        assert telltale not in text


@pytest.mark.parametrize("version", ["HTTP/2.0", "HTTP/0.9", "HTTP/3.1"])
def test_other_versions_of_http_are_not_spoken(version: str) -> None:
    assert refused(asking(line=f"GET / {version}"))[0] == 505
    assert refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")[0] == 505


@pytest.mark.parametrize("size", [None, 100])
@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * MOST_BYTES,
        b"GET /" + b"x" * MOST_BYTES,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * MOST_BYTES,
        asking("X: " + "x" * MOST_BYTES),
    ],
)
def test_a_head_has_a_limit_of_its_own(head: bytes, size: int | None) -> None:
    assert refused(head, size)[0] == 431
    server = WebSocketTransport().server_codec(16)  # whatever a message may have
    taken = 0
    for piece in pieces(head, 64):
        taken += len(piece)
        if events := take(server, piece):
            assert isinstance(events[0].error, FrameTooLarge)
            break
    assert MOST_BYTES <= taken < MOST_BYTES + 64


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\x01\r\n\r\n"])
@pytest.mark.parametrize("value", [b" " * 16_000, b"\t " * 8_000, b"x " * 8_000, b",\t" * 8_000])
def test_a_field_is_read_in_linear_time(value: bytes, end: bytes) -> None:
    reader, head = RequestReader(), b"GET / HTTP/1.1\r\nHost: x\r\nX:" + value + end
    began = time.process_time()
    with suppress(HeadError):
        reader.take(bytearray(head))
    # It takes less than a millisecond; a pattern that shares the white space out took a second.
    assert time.process_time() - began < 0.2


def test_a_head_of_exactly_the_limit_is_read() -> None:
    padding = MOST_BYTES - len(asking("X: "))
    assert accepted(asking("X: " + "x" * padding))[0].startswith("HTTP/1.1 101 ")
    assert refused(asking("X: " + "x" * (padding + 1)))[0] == 431


# -- versions, origins, and what is no upgrade --------------------------------------------------


@pytest.mark.parametrize("version", ["0", "8", "14", "13, 8", "x", ""])
def test_another_version_is_told_which_one_is_spoken(version: str) -> None:
    status, _, fields = refused(
        asking(f"Sec-WebSocket-Version: {version}", without="Sec-WebSocket-Version")
    )
    assert status == 426
    assert fields["Sec-WebSocket-Version"] == "13"
    assert fields["Upgrade"] == "websocket"


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("chat.example.org", "https://chat.example.org"),
        ("chat.example.org", "http://CHAT.example.org:80"),
        ("chat.example.org:443", "https://chat.example.org"),
        ("chat.example.org:8443", "https://chat.example.org:8443"),
        ("[::1]:7767", "http://[::1]:7767"),
        ("elsewhere.example", "https://listed.example"),
        ("elsewhere.example", "HTTPS://Listed.example"),
    ],
)
def test_a_page_of_the_own_host_or_a_listed_one_may_connect(host: str, origin: str) -> None:
    data = asking(f"Host: {host}", f"Origin: {origin}", without="Host")
    assert accepted(data, origins=["https://LISTED.example"])


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://chat.example.org.evil.example",
        "https://evil.example#chat.example.org",
        "https://evil@chat.example.org",
        "https://chat.example.org:8443",
        "http://chat.example.org:443",
        "http://listed.example",
        "https://chat.example.org/",
        "null",
        "",
        "file://",
        "chrome-extension://chat.example.org",
    ],
)
def test_no_other_page_may_connect(origin: str) -> None:
    data = asking("Host: chat.example.org", f"Origin: {origin}", without="Host")
    assert refused(data, origins=["https://listed.example"])[0] == 403


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n".replace(b"*", b"/"),
        asking(without="Upgrade"),
        asking(without="Connection"),
        asking(line="POST / HTTP/1.1"),
        asking(line="GET / HTTP/1.0"),
    ],
)
def test_other_http_is_told_what_this_is(data: bytes) -> None:
    status, text, fields = refused(data)
    assert status == 426
    assert fields["Upgrade"] == "websocket"
    assert text.endswith("with the subprotocol twinline.jsonl or twinline.binary\n")


@pytest.mark.parametrize("size", [None, 1])
def test_auto_tells_http_from_the_rest(size: int | None) -> None:
    for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"DELETE / HTTP/1.1\r\nHost: x\r\n\r\n"):
        server = transport("auto").server_codec(4_096)
        (event,) = take(server, *pieces(data, size))
        server.send(None, event.error.to_reply())
        assert server.data_to_send().startswith(b"HTTP/1.1 426 ")
    server = transport("auto").server_codec(4_096)
    assert take(server, *pieces(asking() + frame(TEXT, ASKED), size)) == [PINGED]


def test_what_is_answered_before_the_handshake_is_over_is_answered_in_http() -> None:
    server = server_of()
    take(server, asking()[:20])
    server.send(None, Busy(retry_after_ms=100).to_reply())
    assert server.data_to_send().startswith(b"HTTP/1.1 503 ")
    with pytest.raises(LocalProtocolError):
        server.send(1, Done())
    server = server_of()
    take(server, asking())
    assert server.data_to_send().startswith(b"HTTP/1.1 101 ")
    server.send(None, Busy(retry_after_ms=100).to_reply())
    assert said(server.data_to_send())[0][1].startswith(b'{"id":null,"ok":false')


def test_the_end_in_the_middle_of_a_handshake() -> None:
    server = server_of()
    take(server, asking()[:50])
    assert server.mid_frame
    server.receive_eof()
    assert server.next_event() is None
    assert not server.mid_frame
    server.end()
    assert server.data_to_send() == b""


# -- where no WebSocket is spoken ---------------------------------------------------------------


@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("name", ["jsonl", "binary"])
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "PRI"])
def test_http_is_answered_in_http_where_it_is_not_spoken(name, method, size) -> None:
    server = transport(name).server_codec(4_096)
    data = f"{method} / HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    (event,) = take(server, *pieces(data, size))
    assert event.fatal
    assert isinstance(event.error, BadRequest)
    server.send(None, event.error.to_reply())
    head, _, body = server.data_to_send().decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 400 Bad Request\r\n")
    assert f"Content-Length: {len(body)}\r\n" in head
    assert "Connection: close" in head
    assert body == f"{event.error.message}\n"
    server.send(None, Busy().to_reply())
    assert server.data_to_send().startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("data", [b"G", b"GE", b"OPTIONS"])
def test_what_may_become_http_is_waited_for(data: bytes) -> None:
    for name in ("jsonl", "binary"):
        server = transport(name).server_codec(4_096)
        assert take(server, data) == []
        assert server.mid_frame
        server.receive_eof()
        assert server.next_event() is None
        assert not server.mid_frame
    server = transport("binary").server_codec(4_096)
    (event,) = take(server, data, b"X")
    assert event.fatal
    server.send(None, event.error.to_reply())
    assert server.data_to_send()[:1] == b"\xb7"


# -- the client's end ---------------------------------------------------------------------------


def connecting(**options):
    client = WebSocketTransport(**options).client_codec(65_536)
    asked = client.data_to_send().decode()
    key = asked.partition("Sec-WebSocket-Key: ")[2].partition("\r\n")[0]
    return client, asked, key


def test_what_a_client_asks_for() -> None:
    client, asked, key = connecting(
        inner=[BinaryTransport()], host="chat.example.org:8443", path="/a/b"
    )
    assert asked == (
        "GET /a/b HTTP/1.1\r\nHost: chat.example.org:8443\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Protocol: twinline.binary\r\n\r\n"
    )
    assert not client.opened
    with pytest.raises(LocalProtocolError):
        client.send(1, Ping())
    assert connecting()[2] != key
    client.end()
    assert client.data_to_send() == b""


GOOD = (
    "HTTP/1.1 101 Whatever",
    "connection: keep-alive, upgrade",
    "Upgrade: WebSocket",
    "Sec-WebSocket-Accept: (of the key)",
    "Sec-WebSocket-Protocol: twinline.jsonl",
)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (("HTTP/1.1 302 Found", "Location: https://evil.example/"), "it answers 302 Found"),
        (("HTTP/1.1 426 Upgrade \x1b[2JRequired",), "its first line is no answer"),
        (("HTTP/1.1 502 Bad \x80Gateway",), "it answers 502 Bad Gateway"),
        (("HTTP/1.1 200",), "it answers 200"),
        (("HTTP/2 101 x",), "its first line is no answer"),
        (("SSH-2.0-OpenSSH_9.2",), "its first line is no answer"),
        (("{}",), "it does not begin as one"),
        ((*GOOD[:1], *GOOD[2:]), "another protocol"),
        ((*GOOD[:2], *GOOD[3:]), "another protocol"),
        ((*GOOD[:3], "Sec-WebSocket-Accept: " + ACCEPT, *GOOD[4:]), "not to the key"),
        ((*GOOD[:3], *GOOD[4:]), "not to the key"),
        (GOOD[:4], "does not speak the subprotocol twinline.jsonl"),
        ((*GOOD[:4], "Sec-WebSocket-Protocol: twinline.binary"), "does not speak"),
        ((*GOOD, "Sec-WebSocket-Extensions: permessage-deflate"), "an extension"),
        ((*GOOD, "Sec-WebSocket-Protocol: twinline.jsonl"), "twice"),
        ((*GOOD, "X : y"), "a line is no field"),
    ],
)
@pytest.mark.parametrize("size", [None, 1])
def test_a_server_that_opens_no_websocket_is_an_error(lines, why, size) -> None:
    client, _, key = connecting()
    data = "\r\n".join((*lines, "", "")).replace("(of the key)", accept_of(key)).encode("latin-1")
    with pytest.raises(RemoteProtocolError, match=why):
        take(client, *pieces(data, size))
    client.receive_data(b"\x81\x02{}")
    assert client.next_event() is None
    assert not client.opened


@pytest.mark.parametrize("size", [None, 1])
def test_a_client_takes_what_comes_with_the_answer(size) -> None:
    client, _, key = connecting()
    data = "\r\n".join((*GOOD, "", "")).replace("(of the key)", accept_of(key)).encode()
    assert take(client, *pieces(data + frame(0x9, b"x", mask=None), size)) == []
    assert client.opened
    assert client.data_to_send()[:1] == b"\x8a"


def test_a_head_without_end_from_the_server_is_an_error() -> None:
    client, _, _ = connecting()
    with pytest.raises(RemoteProtocolError, match="longer than"):
        take(client, *pieces(b"HTTP/1.1 101 x\r\n" + b"X: y\r\n" * MOST_BYTES, 1_000))


def test_only_what_has_a_subprotocol_travels_in_it() -> None:
    with pytest.raises(LocalProtocolError, match="auto"):
        WebSocketTransport([transport("auto")])
    with pytest.raises(LocalProtocolError, match="no transport"):
        WebSocketTransport([])
