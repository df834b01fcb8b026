"""The embedding examples, over real HTTP: the API of both, and how the threaded one waits."""

import importlib
import logging
import re
import socket
import sys
from collections.abc import Iterator

import pytest
from http_examples import FOLDER, Caller, Example, example
from services import PASSWORD
from waiting import wait_until

from twinline.core.events import EVENTS

PAGE = FOLDER.parent.parent / "docs" / "how-to" / "embed.md"
NAMES = ("threaded_http.py", "sse_app.py")


@pytest.fixture(scope="module", params=NAMES)
def server(request: pytest.FixtureRequest) -> Iterator[Example]:
    with example(request.param) as running:
        yield running
        running.close()
        assert "Traceback" not in running.stop()


@pytest.fixture(scope="module")
def ann(server: Example) -> Caller:
    return server.caller().enter("ann")


def raw(server: Example, data: bytes) -> bytes:
    """Send bytes and return all that comes until the server hangs up."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as peer:
        peer.sendall(data)
        answer = b""
        while piece := peer.recv(65536):
            answer += piece
    return answer


@pytest.mark.parametrize("name", [*NAMES, "api.py"])
def test_an_example_is_short(name: str) -> None:
    assert len((FOLDER / name).read_text().splitlines()) < 120


def test_an_account_from_its_creation_to_its_logout(server: Example) -> None:
    bob = server.caller().enter("bob")
    status, reply = server.caller().ask("POST", "/sessions", username="bob", password=PASSWORD)
    assert (status, reply["username"], reply["unread"]) == (200, "bob", 0)
    other = server.caller(reply["session"])
    bob.send("bob", "Grüße, мир 👋\n")
    status, reply = other.ask("GET", "/messages?after=0")
    (message,) = reply["messages"]
    assert (status, message["sender"], message["body"]) == (200, "bob", "Grüße, мир 👋\n")
    assert other.ask("POST", "/ack", up_to=1) == (200, {"position": 1, "unread": 0})
    assert other.ask("GET", "/accounts?pattern=b*&limit=5")[1]["usernames"] == ["bob"]
    assert other.ask("DELETE", "/sessions") == (200, {})
    assert other.ask("GET", "/messages?after=0")[1]["error"]["code"] == "session_expired"
    assert bob.ask("GET", "/ping") == (200, {})


@pytest.mark.parametrize(
    ("target", "fields", "status", "code"),
    [
        ("GET /nowhere", {}, 404, "unknown_op"),
        ("DELETE /accounts", {}, 404, "unknown_op"),
        ("GET /messages", {}, 400, "bad_request"),
        ("GET /messages?after=x", {}, 400, "bad_request"),
        ("GET /messages?after=9999", {}, 400, "cursor_invalid"),
        ("POST /messages", {"to": "ann"}, 400, "bad_request"),
        ("POST /messages", {"to": "ann", "body": 7}, 400, "bad_request"),
        ("POST /messages", {"to": "nobody", "body": "hi"}, 404, "no_such_user"),
        ("POST /messages", {"to": "ann", "body": "x" * 20_000}, 413, "message_too_long"),
        ("POST /accounts", {"username": "ann", "password": PASSWORD}, 409, "username_taken"),
        (
            "POST /sessions",
            {"username": "ann", "password": "wrong horse"},
            401,
            "bad_credentials",
        ),
    ],
)
def test_what_is_refused_has_a_status_and_says_why(
    ann: Caller, target: str, fields: dict[str, object], status: int, code: str
) -> None:
    seen, reply = ann.ask(*target.split(), **fields)
    assert (seen, reply["error"]["code"]) == (status, code)
    assert reply["error"]["message"]


def test_who_has_no_session_is_told_so(server: Example) -> None:
    for token in ("", "x" * 43):
        status, reply = server.caller(token).ask("POST", "/ack", up_to=1)
        assert status == 401
        assert reply["error"]["code"] in ("not_logged_in", "session_expired")


@pytest.mark.usefixtures("ann")
def test_bodies_that_cannot_be_read_are_refused(server: Example) -> None:
    for body in (b"{", b"[]", b'"text"', b"\xff", b'{"username":"\\ud800","password":"12345678"}'):
        caller = server.caller()
        caller.begin("POST", "/sessions", body)
        status, reply = caller.finish()
        assert (status, reply["error"]["code"]) == (400, "bad_request"), body
    for head in (b"Content-Length: 99999999", b"Content-Length: 70000"):
        answer = raw(
            server,
            b"POST /sessions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + head + b"\r\n\r\n",
        )
        assert answer.startswith(b"HTTP/1.1 413 "), answer
    for head in (b"Content-Length: x", b"Content-Length: -1", b"Content-Length: " + b"9" * 5000):
        answer = raw(
            server,
            b"POST /sessions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + head + b"\r\n\r\n",
        )
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 413 ")), answer


def test_the_protocols_names_alone_are_fields(ann: Caller) -> None:
    assert ann.ask("POST", "/messages", to="ann", body="hi", copy_=[])[0] == 200
    assert ann.ask("POST", "/messages", to="ann", body="hi", copy=[])[0] == 400


def test_a_get_acknowledges_nothing(server: Example) -> None:
    eve = server.caller().enter("eve")
    eve.send("eve", "hi")
    assert eve.ask("GET", "/messages?after=0&ack=1")[1]["position"] == 0


# -- the pages about them ------------------------------------------------------------------


def test_the_page_about_embedding_does_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {"__name__": "page"}
    log = logging.getLogger("twinline.events")
    level, handlers = log.level, list(log.handlers)
    try:
        for code in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
            exec(compile(code, PAGE.name, "exec"), names)
    finally:
        log.setLevel(level)
        log.handlers[:] = handlers
    everything = capsys.readouterr().out.splitlines()
    # What the page's handler prints, from the place on where it is shown.
    told = [line for line in everything if line.partition(" {")[0] in EVENTS]
    assert told[0].startswith("login {'username': 'bob', 'address': '203.0.113.7'")
    printed = [line for line in everything if line not in told]
    assert printed[:3] == ["ann", "1", "200"]
    assert "the field 'body' is missing" in printed[3]
    texts = ["ann hi", "ann are you there?", "['from a loop']"]
    assert printed[4:-1] == [*texts, "[('ann', 'did you get this?')]"]
    assert printed[-1].startswith("tcp://127.0.0.1:")


def test_the_readme_lists_what_there_is_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    routes = importlib.import_module("api").ROUTES
    del sys.modules["api"]
    listed = re.findall(r"^\| `([A-Z]+ /\w+)", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert listed == list(routes)


# -- the threaded one waits ----------------------------------------------------------------


def test_a_long_poll_is_answered_by_the_message() -> None:
    with example("threaded_http.py") as server:
        ann = server.caller().enter("ann")
        waiting = server.caller(ann.token)
        waiting.begin("GET", "/messages?after=0&wait=60")
        ann.send("ann", "hi")
        status, reply = waiting.finish()
        assert (status, [one["body"] for one in reply["messages"]]) == (200, ["hi"])
        assert waiting.ask("GET", "/messages?after=1&wait=0") == (
            200,
            {"messages": [], "position": 0, "seen": 1, "receipts": [], "more": False},
        )


def test_callers_who_hang_up_free_their_threads_and_those_who_wait_are_told_of_the_end() -> None:
    with example("threaded_http.py") as server:
        ann = server.caller().enter("ann")
        before = server.threads
        waiting = [server.caller(ann.token) for _ in range(20)]
        for caller in waiting:
            caller.begin("GET", "/messages?after=0&wait=60")
        wait_until(lambda: server.threads == before + 20, "20 threads that wait", 20)
        for caller in waiting[1:]:
            caller.close()
        wait_until(lambda: server.threads <= before + 1, "their end", 10)
        ann.close()
        # One waits still, and is answered when the server stops, without a traceback.
        server.process.send_signal(2)
        status, reply = waiting[0].finish()
        assert (status, reply["error"]["code"]) == (503, "shutting_down")
        assert server.process.wait(15) == 0
        assert server.process.stderr is not None
        assert "Traceback" not in server.process.stderr.read()
