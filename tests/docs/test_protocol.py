"""docs/protocol.md against the code, and a reader of frames made from the page alone."""

import json
import re
from pathlib import Path
from typing import Any

import protocol_page
import pytest

from twinline.core.errors import ERROR_BY_CODE
from twinline.core.protocol import MAX_REPLY_BYTES, PROTOCOL_VERSION, REQUEST_BY_OP, REQUESTS
from twinline.core.settings import ServiceSettings
from twinline.core.store import MailboxPolicy
from twinline.transports.auto import MAX_START_BYTES
from twinline.transports.contract import RequestReceived
from twinline.transports.jsonl import JsonlClientCodec, JsonlServerCodec
from twinline.transports.listener import ListenerSettings

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "protocol.md").read_text(encoding="utf-8")
VECTORS = json.loads((DOCS / "protocol-vectors.json").read_text(encoding="utf-8"))


def test_the_tables_are_made_from_the_models():
    assert protocol_page.inserted(PAGE) == PAGE, "run: python docs/_generate"


def test_a_page_without_its_markers_is_noticed():
    with pytest.raises(SystemExit, match="place for requests"):
        protocol_page.inserted("# nothing\n")


def test_every_key_of_the_vectors_is_in_the_table():
    table = PAGE.partition("`protocol-vectors.json` is one object:")[2].partition("\n\nA reader")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(VECTORS)
    assert VECTORS["protocol"] == PROTOCOL_VERSION


def test_every_error_is_in_the_table_with_its_retryable():
    for code, kind in ERROR_BY_CODE.items():
        assert f"| `{code}` | {'yes' if kind.retryable else 'no'} |" in PAGE


def test_the_numbers_are_those_of_the_code():
    service, policy, listener = ServiceSettings(), MailboxPolicy(), ListenerSettings()
    for what, number in (
        ("a request's frame before login", service.frame_bytes_before_login),
        ("a request's frame after login", service.frame_bytes),
        ("a message's body", service.body_bytes),
        ("a reply's frame", MAX_REPLY_BYTES),
    ):
        assert f"| {what} | {number:,} bytes" in PAGE
    for what, seconds in (
        ("from connecting to being logged in", listener.login_seconds),
        ("from a frame's first byte to its last", listener.frame_seconds),
        ("taking what the server writes", listener.write_seconds),
    ):
        assert f"| {what} | {seconds:g} s" in PAGE
    assert f"| {listener.connections:,} and {listener.connections_per_address:,} |" in PAGE
    assert f"{service.session_idle_days:g} days by\ndefault" in PAGE
    assert f"{policy.history_messages:,} or {policy.history_days:g} days by default" in PAGE
    assert f"{policy.send_id_hours:g} hours by default" in PAGE
    assert f"after {MAX_START_BYTES} bytes" in PAGE


def test_what_may_be_asked_again_is_what_the_models_say():
    sentence = re.search(r"Everything but (.*?) and a `send` without", PAGE, re.DOTALL).group(1)
    named = set(re.findall(r"`(\w+)`", sentence))
    assert named == {request.op for request in REQUESTS if not request.repeatable}


def test_what_is_answered_before_login_is_what_the_models_say():
    sentence = re.search(r"\*\*Before login\*\* only (.*?) are answered", PAGE, re.DOTALL).group(1)
    named = set(re.findall(r"`(\w+)`", sentence))
    assert named == {request.op for request in REQUESTS if request.before_login}


def conversations():
    """Return the conversations of the page: each a list of arrows and lines."""
    blocks = re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    found = [re.findall(r"^([→←]) (\{.*)$", block, re.MULTILINE) for block in blocks]
    return [lines for lines in found if lines]


def test_every_conversation_is_on_the_list():
    assert [len(lines) for lines in conversations()] == [9, 5, 4, 5]
    assert sum(map(len, conversations())) == len(re.findall("^[→←]", PAGE, re.MULTILINE))


@pytest.mark.parametrize("lines", conversations(), ids=len)
def test_a_conversation_is_a_real_one(lines):
    client, server = JsonlClientCodec(1 << 20), JsonlServerCodec(4096)
    for arrow, text in lines:
        data = text.encode() + b"\n"
        if arrow == "→":
            server.receive_data(data)
            event = server.next_event()
            assert isinstance(event, RequestReceived)
            client.send(event.id, event.request)
            assert client.data_to_send() == data
        else:
            client.receive_data(data)
            reply = client.next_event()
            server.send(reply.id, reply.reply)
            assert server.data_to_send() == data


def test_the_example_byte_by_byte_is_the_example():
    hexes = re.findall(r"^((?:[0-9a-f]{2} ?)+)$", PAGE, re.MULTILINE)
    assert len(hexes) == 2
    for title, whole in zip(("request", "reply"), hexes, strict=True):
        table = PAGE.split(f"The binary {title} byte by byte:\n\n")[1].split("\n\n")[0]
        cells = re.findall(r"^\| `([0-9a-f ]+)` \|", table, re.MULTILINE)
        assert " ".join(cells) == whole


# -- a reader and a writer from the page alone --------------------------------------------


class Page:
    """The tables of the page: which kind is which, and its fields."""

    def __init__(self, text: str) -> None:
        self.fields: dict[str, list[tuple[str, str, Any, int | None]]] = {}
        self.name_by_kind: dict[int, str] = {}
        parts = re.split(r"^### (\w+)\n", text, flags=re.MULTILINE)
        for name, body in zip(parts[1::2], parts[2::2], strict=True):
            body = body.split("\n## ")[0]  # noqa: PLW2901
            for kind in re.findall(r"Binary kind ([\dxA-F]+)", body):
                self.name_by_kind[int(kind, 0)] = name
            for kind in re.findall(r"or (0x[\dA-F]+) without an id", body):
                self.name_by_kind[int(kind, 0)] = name
            rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|", body, re.MULTILINE)
            self.fields[name] = [
                (
                    field,
                    re.sub(r"\[(\w+)\]\(.*?\)", r"\1", kind.removesuffix(" or null")),
                    json.loads(default.strip("`")) if default else None,
                    int(bit) if bit else None,
                )
                for field, kind, default, bit in rows
            ]


THE_PAGE = Page(PAGE)


class Reader:
    """Reads one binary frame as the page says."""

    def __init__(self, data: bytes) -> None:
        assert data[:2] == b"\xb7\x01"
        assert int.from_bytes(data[4:8], "big") == len(data) - 8
        self.rest = data[8:]
        self.kind = data[2]
        self.name = THE_PAGE.name_by_kind[self.kind]
        self.id = None if self.kind == 0xFE else self.integer()
        self.fields = self.object(self.name, data[3])
        assert not self.rest

    def take(self, count: int) -> bytes:
        taken, self.rest = self.rest[:count], self.rest[count:]
        assert len(taken) == count
        return taken

    def integer(self) -> int:
        value = shift = 0
        while True:
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def object(self, name: str, flags: int) -> dict[str, Any]:
        return {
            field: default if bit is not None and not flags >> bit & 1 else self.value(kind)
            for field, kind, default, bit in THE_PAGE.fields[name]
        }

    def value(self, kind: str) -> Any:
        if kind.startswith("list of "):
            return [self.value(kind.removeprefix("list of ")) for _ in range(self.integer())]
        if kind == "integer":
            return self.integer()
        if kind == "text":
            return self.take(self.integer()).decode()
        if kind == "truth value":
            return {b"\0": False, b"\1": True}[self.take(1)]
        if kind == "message id":
            return self.take(12).hex()
        if kind == "kind":
            return ("mail", "sent", "receipt")[self.integer()]
        has_bits = any(bit is not None for _, _, _, bit in THE_PAGE.fields[kind])
        return self.object(kind, self.take(1)[0] if has_bits else 0)


def filled(name: str, line: dict[str, Any]) -> dict[str, Any]:
    """Return an object of a line with the defaults that it leaves out, of those in it too."""

    def whole(kind: str, value: Any) -> Any:
        if isinstance(value, list):
            return [whole(kind.removeprefix("list of "), item) for item in value]
        return filled(kind, value) if isinstance(value, dict) else value

    found = dict(line)
    for field, kind, default, bit in THE_PAGE.fields[name]:
        assert field in line or bit is not None
        found[field] = whole(kind, line.get(field, default))
    return found


def cases(section, side):
    """Return the vectors of a section, and those of one side of the streams."""
    said = [
        pytest.param(step, id=f"{vector['name']}, {number}")
        for vector in VECTORS["streams"]
        for number, step in enumerate(vector["conversation"], 1)
        if step["from"] == side
    ]
    return [*(pytest.param(vector, id=vector["name"]) for vector in VECTORS[section]), *said]


@pytest.mark.parametrize("vector", cases("requests", "client"))
def test_a_stranger_can_read_the_requests(vector):
    frame = Reader(bytes.fromhex(vector["binary"]))
    assert (frame.name, frame.id, frame.fields) == (vector["op"], vector["id"], vector["fields"])
    line = json.loads(bytes.fromhex(vector["jsonl"]))
    assert filled(vector["op"], line) == {
        "op": vector["op"],
        "id": vector["id"],
        **vector["fields"],
    }


@pytest.mark.parametrize("vector", cases("replies", "server"))
def test_a_stranger_can_read_the_replies(vector):
    frame = Reader(bytes.fromhex(vector["binary"]))
    assert (frame.name, frame.id, frame.fields) == (
        vector["model"],
        vector["id"],
        vector["fields"],
    )
    line = json.loads(bytes.fromhex(vector["jsonl"]))
    assert line["id"] == vector["id"]
    fields = line["error"] if not line["ok"] else line
    read = filled(vector["model"], fields)
    assert {name: read[name] for name in vector["fields"]} == vector["fields"]


def test_the_page_names_the_reply_of_every_request():
    for op, request in REQUEST_BY_OP.items():
        body = PAGE.split(f"\n### {op}\n")[1].split("\n### ")[0]
        assert f"the reply is [{request.reply.__name__}]" in body
        assert ("Also before login" in body) == request.before_login
