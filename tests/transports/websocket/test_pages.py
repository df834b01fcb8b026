"""What a browser gets besides: files, by HTTP/1.1, one answer at a time."""

from dataclasses import replace

import pytest
from opened import TEXT, asking, frame, take
from streams import PING, PINGED, pieces

from twinline.transports.web import ChatPage
from twinline.transports.websocket import StaticFile, WebSocketServerCodec, WebSocketTransport

INDEX = StaticFile(b"<!doctype html>\n", "text/html; charset=utf-8", '"1a2b"')


class Files:
    asked: list[str]

    def __init__(self) -> None:
        self.asked = []

    def find(self, path: str) -> StaticFile | None:
        self.asked.append(path)
        return INDEX if path == "/" else None


def serving(page=None) -> WebSocketServerCodec:
    return WebSocketTransport(page=page or Files()).server_codec(4_096)


def get(*fields: str, line: str = "GET / HTTP/1.1") -> bytes:
    return "\r\n".join((line, "Host: x", *fields, "", "")).encode()


def answer(server: WebSocketServerCodec) -> tuple[int, dict[str, str], bytes]:
    head, _, body = server.data_to_send().partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    return int(line.split()[1]), dict(each.split(": ", 1) for each in lines), body


@pytest.mark.parametrize("size", [None, 1])
def test_a_file_has_its_headers(size: int | None) -> None:
    server = serving()
    assert take(server, *pieces(get("Accept: */*"), size)) == []
    status, fields, body = answer(server)
    assert (status, body) == (200, INDEX.body)
    assert fields == {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Length": "16",
        "ETag": '"1a2b"',
        "Cache-Control": "no-cache",
        "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
        "connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    assert not server.ended


def test_a_page_may_connect_to_other_servers_where_its_file_says_so() -> None:
    index = replace(INDEX, connects=("wss://b.example",))
    files = Files()
    files.find = lambda _: index  # type: ignore[method-assign]
    server = serving(files)
    take(server, get())
    policy = answer(server)[1]["Content-Security-Policy"]
    assert "; connect-src 'self' wss://b.example; " in policy


def test_a_connection_goes_on_and_may_become_a_websocket() -> None:
    server = serving()
    for _ in range(3):
        take(server, get())
        assert answer(server)[0] == 200
    take(server, get(line="HEAD / HTTP/1.1"))
    status, fields, body = answer(server)
    assert (status, fields["Content-Length"], body) == (200, "16", b"")
    take(server, get(line="GET /nothing HTTP/1.1"))
    status, fields, body = answer(server)
    assert (status, fields["X-Content-Type-Options"]) == (404, "nosniff")
    assert len(body) == int(fields["Content-Length"])
    assert take(server, asking()) == []
    assert answer(server)[0] == 101
    assert take(server, frame(TEXT, PING["jsonl"][:-1])) == [PINGED]


@pytest.mark.parametrize("tag", ['"1a2b"', 'W/"1a2b"', '"x", "1a2b"', "*"])
def test_what_a_browser_has_is_not_sent_again(tag: str) -> None:
    server = serving()
    take(server, get(f"If-None-Match: {tag}"))
    status, fields, body = answer(server)
    assert (status, body) == (304, b"")
    assert fields["ETag"] == '"1a2b"'
    assert "Content-Security-Policy" in fields
    take(server, get('If-None-Match: "other"'))
    assert answer(server)[0] == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (get("Connection: close"), 200),
        (get("Connection: close", 'If-None-Match: "1a2b"'), 304),
        (get("Connection: close", line="GET /nothing HTTP/1.1"), 404),
        (get(line="GET / HTTP/1.0"), 200),
        (b"GET / HTTP/1.0\r\n\r\n", 200),
        (get(line="DELETE / HTTP/1.1"), 405),
        (get(line="TRACE / HTTP/1.1"), 405),
    ],
)
def test_an_answer_may_be_the_last(data: bytes, status: int) -> None:
    server = serving()
    assert take(server, data + get()) == []
    assert server.ended
    shown, fields, _ = answer(server)
    assert (shown, fields["Connection"]) == (status, "close")
    if status == 405:
        assert fields["Allow"] == "GET, HEAD"
    server.end()
    assert server.data_to_send() == b""


def test_a_body_is_refused() -> None:
    server = serving()
    (event,) = take(server, get("Content-Length: 3", line="POST / HTTP/1.1") + b"a=b")
    server.send(None, event.error.to_reply())
    assert answer(server)[0] == 400


def test_a_request_ahead_of_an_answer_ends_the_connection() -> None:
    server = serving()
    assert take(server, get() * 1_000) == []
    assert server.ended
    assert server.data_to_send().count(b"HTTP/1.1 200 ") == 1
    assert take(server, get()) == []
    assert server.data_to_send() == b""


def test_a_path_is_given_as_it_came() -> None:
    files = Files()
    server = serving(files)
    for path in ("/a%2Fb?x=/", "/../../etc/passwd", "//x", "/?q", "http://x/y"):
        take(server, get(line=f"GET {path} HTTP/1.1"))
        server.data_to_send()
    assert files.asked == ["/a%2Fb", "/../../etc/passwd", "//x", "/", "/y"]


def test_the_chat_page_is_such_files() -> None:
    server = serving(ChatPage())
    take(server, get())
    status, fields, body = answer(server)
    assert (status, fields["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"<script" in body
