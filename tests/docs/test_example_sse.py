"""The embedding example with an event loop: mail as server-sent events, over real HTTP."""

import asyncio
import importlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import ModuleType

import pytest
from http_examples import FOLDER, Caller, Example, Stream, example
from waiting import join, wait_until

BROWSERS = 50
"""More than the 40 threads that the framework has for calls that block."""


@pytest.fixture(scope="module")
def server() -> Iterator[Example]:
    with example("sse_app.py") as running:
        yield running
        running.close()
        assert "Traceback" not in running.stop()


def test_a_stream_brings_what_waits_and_then_what_comes(server: Example) -> None:
    ann = server.caller().enter("ann")
    ann.send("ann", "one\ndata: two\r\n\r\nthree")
    stream = server.stream(ann.token)
    name, message = stream.event()
    assert (name, message["seq"], message["body"]) == ("1", 1, "one\ndata: two\r\n\r\nthree")
    bob = server.caller().enter("bob")
    sent = time.monotonic()
    bob.send("ann", "now")
    name, message = stream.event()
    assert (name, message["sender"], message["body"]) == ("2", "bob", "now")
    assert time.monotonic() - sent < 10, "it came by a heartbeat, not by a wake"


def test_a_stream_goes_on_after_the_last_event_id(server: Example) -> None:
    eve = server.caller().enter("eve")
    for number in range(1, 4):
        eve.send("eve", f"{number}")
    assert server.stream(eve.token, Last_Event_ID="2").event()[0] == "3"
    assert server.stream(eve.token, "/events?after=1").event()[0] == "2"
    eve.ask("POST", "/ack", up_to=1)
    assert server.stream(eve.token).event()[0] == "2"


def test_the_cookie_goes_to_the_stream_alone_and_opens_it(server: Example) -> None:
    caller = server.caller()
    caller.begin("POST", "/accounts", b'{"username":"cara","password":"correct horse"}')
    response = caller.http.getresponse()
    cookie = response.headers["Set-Cookie"]
    response.read()
    value, _, attributes = cookie.partition("; ")
    assert attributes == "Path=/events; HttpOnly; SameSite=Strict"
    stream = server.stream(Cookie=value)
    caller.begin("POST", "/messages", b'{"to":"cara","body":"hi"}', Cookie=value)
    assert caller.finish()[0] == 401
    caller.token = value.removeprefix("session=")
    caller.send("cara", "hi")
    assert stream.event()[1]["body"] == "hi"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "session_expired"),
        ({"Cookie": "session=nonsense"}, 401, "session_expired"),
        ({"Authorization": "Basic YTpi"}, 401, "not_logged_in"),
        ({"Last_Event_ID": "x"}, 400, "bad_request"),
        ({"Last_Event_ID": "9999"}, 400, "cursor_invalid"),
        ({"Last_Event_ID": "1&wait=60"}, 400, "bad_request"),
    ],
)
def test_what_is_no_stream_is_refused_before_it_begins(
    server: Example, headers: dict[str, str], status: int, code: str
) -> None:
    caller = server.caller()
    if "Last_Event_ID" in headers:
        caller.enter(f"user{status}-{code.replace('_', '-')}-{len(headers['Last_Event_ID'])}")
    caller.begin("GET", "/events", **headers)
    seen, reply = caller.finish()
    assert (seen, reply["error"]["code"]) == (status, code)


def test_many_browsers_wait_and_the_server_answers_others_at_once(server: Example) -> None:
    dan = server.caller().enter("dan")
    streams = [server.stream(dan.token) for _ in range(BROWSERS)]
    # If each took a thread of the 40, the last ones would not have begun, nor would this be
    # answered; if one blocked the loop, nothing would.
    began = time.monotonic()
    for _ in range(20):
        assert dan.ask("GET", "/ping") == (200, {})
    assert time.monotonic() - began < 15
    assert server.threads < BROWSERS
    dan.send("dan", "to all of you")
    for stream in streams:
        assert stream.event()[1]["body"] == "to all of you"


def test_get_messages_does_not_wait(server: Example) -> None:
    fay = server.caller().enter("fay")
    began = time.monotonic()
    assert fay.ask("GET", "/messages?after=0&wait=60")[1]["messages"] == []
    assert time.monotonic() - began < 20


def test_logging_out_ends_the_stream_and_says_so(server: Example) -> None:
    gil = server.caller().enter("gil")
    stream = server.stream(gil.token)
    assert gil.ask("DELETE", "/sessions")[0] == 200
    name, error = stream.event()
    assert (name, error["code"]) == ("end", "session_expired")
    assert stream.response.read() == b"\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_ends_the_streams(number: signal.Signals) -> None:
    with example("sse_app.py") as server:
        ann = server.caller().enter("ann")
        stream = server.stream(ann.token)
        server.process.send_signal(number)
        name, error = stream.event()
        assert (name, error["code"]) == ("end", "shutting_down")
        assert stream.response.read() == b"\n"
        ended = server.process.wait(15)
        # uvicorn gives a signal back once it has stopped: SIGTERM then ends the process.
        assert ended == (0 if number == signal.SIGINT else -signal.SIGTERM)
        assert server.process.stderr is not None
        assert "Traceback" not in server.process.stderr.read()


# -- in this process, where it can be counted who is subscribed ----------------------------


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, int]]:
    """Run the application in a thread; return its module and its port."""
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("sse_app")
    listening = socket.create_server(("127.0.0.1", 0))
    server = module.Server(module.uvicorn.Config(module.app, log_level="warning"))
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[listening])), name="uvicorn"
    )
    thread.start()
    yield module, listening.getsockname()[1]
    server.should_exit = True
    join(thread, 20)
    for name in ("sse_app", "api"):
        del sys.modules[name]
    listening.close()


def test_a_browser_that_leaves_frees_its_watcher(app: tuple[ModuleType, int]) -> None:
    module, port = app
    watches = module.service._watches._waiting  # by account: all of them are ann's
    ann = Caller(port).enter("ann")
    streams = [Stream(Caller(port, ann.token), "/events") for _ in range(10)]
    wait_until(lambda: [len(each) for each in watches.values()] == [10], "ten watches", 10)
    for stream in streams[1:]:
        stream.close()
    # Far sooner than the next heartbeat, which is due in 15 seconds: by the hang-up.
    wait_until(lambda: [len(each) for each in watches.values()] == [1], "the end of nine", 5)
    ann.send("ann", "still here?")
    assert streams[0].event()[1]["body"] == "still here?"
    streams[0].close()
    wait_until(lambda: not watches, "the end of the last", 5)
    ann.close()


def test_silence_is_filled_with_heartbeats(
    app: tuple[ModuleType, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, port = app
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.05)
    ann = Caller(port).enter("ann")
    stream = Stream(Caller(port, ann.token), "/events")
    assert stream.response.readline() == b"\n"
    for _ in range(3):
        assert [stream.response.readline() for _ in range(2)] == [b":\n", b"\n"]
    stream.close()
    ann.close()
