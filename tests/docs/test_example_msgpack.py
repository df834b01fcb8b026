"""The MessagePack example: installed as a stranger's package is, and served by real processes."""

import importlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgpack
import pytest
import tutorial_page
from hypothesis import given, settings
from hypothesis import strategies as st
from listening import socket_path
from services import PASSWORD
from streams import receive

from twinline.core.protocol import History, Ping, Send
from twinline.transports.auto import AutoTransport
from twinline.transports.client import Client
from twinline.transports.conformance import RULES
from twinline.transports.contract import RemoteProtocolError, RequestReceived, RequestRefused
from twinline.transports.registry import transport, transport_names

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "msgpack_transport"
TUTORIAL = ROOT / "docs" / "how-to" / "write-a-transport.md"
# Installed here by hand it leaves an egg-info in `src`, and with that on the path every test would
# have its entry point. So the path has `src` only while the module is imported.
with pytest.MonkeyPatch.context() as path:
    path.syspath_prepend(str(FOLDER / "src"))
    example = importlib.import_module("twinline_msgpack.transport")
from twinline_msgpack.transport import (  # noqa: E402
    HEADER,
    MAGIC,
    MsgpackTransport,
    pack,
    unpack,
)

READY = re.compile(r"listening on (\S+) transport=(\w+) store=memory durability=process\n")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package into a folder of its own, without a network; return the folder."""
    work = tmp_path_factory.mktemp("msgpack")
    copy, target = work / "package", work / "site"
    # Building leaves files beside the sources: so it is done in a copy, and what was built there
    # before is not part of it.
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    subprocess.run(
        [*pip, "--no-index", "--no-deps", "--no-build-isolation", "--target", target, copy],
        check=True,
        timeout=120,
    )
    assert not list(copy.glob("twinline_msgpack*"))
    return target


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the package installed in this process too."""
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    assert "msgpack" in transport_names()


def started(site: Path, *command: str, folder: Path) -> subprocess.Popen[str]:
    """Start a command in whose Python the package is installed."""
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, "PYTHONPATH": str(site), "TWINLINE_CHECK_LOCKS": "1"},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def served(site: Path, folder: Path, *options: str, endpoints: int = 1) -> Iterator[list[str]]:
    """Run `twinline serve`; return where each endpoint is, and what is spoken there."""
    process = started(site, "twinline.cli", "serve", *options, folder=folder)
    with process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            ready = [process.stdout.readline() for _ in range(endpoints)]
            places = [f"{found[1]} {found[2]}" for found in map(READY.fullmatch, ready) if found]
            assert len(places) == endpoints, (ready, process.poll() and process.stderr.read())
            yield places
            process.terminate()
            assert process.wait(10) == 0
            assert "Traceback" not in process.stderr.read()
        finally:
            if process.poll() is None:
                process.kill()


def talk(places: dict[str, str]) -> None:
    """Have everybody write to everybody, each at a place of their own."""
    clients = {name: Client(place) for name, place in places.items()}
    try:
        for name, client in clients.items():
            client.create_account(name, PASSWORD)
        for name, client in clients.items():
            for other in clients:
                client.send(other, f"from {name} to {other}, мир 👋")
        for name, client in clients.items():
            seen = set()
            for message in client.messages(timeout=10):
                seen.add(message.body)
                if len(seen) == len(clients):
                    break
            assert seen == {f"from {other} to {name}, мир 👋" for other in clients}
    finally:
        for client in clients.values():
            client.close()


def ask(place: str, *frames: bytes) -> list[dict[str, object]]:
    """Send bytes, and return what is answered until the server hangs up or a ping comes back."""
    host, _, port = place.split(maxsplit=1)[0].removeprefix("tcp://").rpartition(":")
    replies: list[dict[str, object]] = []
    unpacker = msgpack.Unpacker()
    with socket.create_connection((host, int(port)), 10) as peer:
        peer.sendall(b"".join(frames) + pack({"op": "ping", "id": 77}))
        data = b""
        while not replies or replies[-1].get("id") != 77:
            piece = peer.recv(65536)
            if not piece:
                break
            data += piece
            while len(data) >= HEADER.size and len(data) >= (
                end := 5 + HEADER.unpack_from(data)[1]
            ):
                assert data[0] == MAGIC
                unpacker.feed(data[HEADER.size : end])
                replies.append(unpacker.unpack())
                data = data[end:]
    return replies


def frame(payload: bytes) -> bytes:
    return HEADER.pack(MAGIC, len(payload)) + payload


# -- installed -------------------------------------------------------------------------------


def test_its_own_test_passes_where_it_is_installed(site: Path) -> None:
    """The kit is run there, as an author runs it."""
    process = started(
        site, "pytest", "-q", "-p", "no:cacheprovider", folder=site.parent / "package"
    )
    out, err = process.communicate(timeout=50)
    assert process.returncode == 0, out + err
    assert "2 passed" in out


@pytest.mark.usefixtures("installed")
def test_three_transports_talk_to_each_other_on_one_port(site: Path, tmp_path: Path) -> None:
    with served(site, tmp_path, "--listen", "tcp://127.0.0.1:0") as (place,):
        url, spoken = place.split()
        assert spoken == "auto"
        talk({name: f"{url}?transport={name}" for name in ("jsonl", "binary", "msgpack")})


@pytest.mark.usefixtures("installed")
def test_an_endpoint_of_its_own_beside_the_others(site: Path, tmp_path: Path) -> None:
    with socket_path() as path:
        listen = ("--listen", "tcp://127.0.0.1:0", "--listen", f"unix:{path}?transport=msgpack")
        with served(site, tmp_path, *listen, endpoints=2) as places:
            assert [place.split()[1] for place in places] == ["auto", "msgpack"]
            talk({"ann": places[0].split()[0], "bob": f"unix:{path}?transport=msgpack"})


def test_chosen_by_a_file_for_the_server_and_by_a_flag_for_the_command(
    site: Path, tmp_path: Path
) -> None:
    (tmp_path / "twinline.toml").write_text(
        'listen = ["tcp://127.0.0.1:0"]\ntransport = "msgpack"\n'
    )
    with served(site, tmp_path) as (place,):
        url, spoken = place.split()
        assert spoken == "msgpack"
        for name, code in (("msgpack", 0), ("binary", 4)):
            flags = ("ping", "--count", "1", "--connect", url, "--transport", name)
            process = started(site, "twinline.cli", *flags, folder=site)
            _, err = process.communicate(timeout=50)
            assert process.returncode == code, (name, err)


def test_hostile_bytes_are_answered_or_cut_and_others_are_served(
    site: Path, tmp_path: Path
) -> None:
    bombs = [b"\xdd\x00\x00\xff\xff" * 700, b"\xdf\x00\x00\xff\xff" * 700, b"\x91" * 3_500]
    not_maps = [b"", b"\xc0", b"\x01\x02", b"\xc1", b"\xd9\x05ab", b"\x81\x01\x02", b"\x81\xa1a"]
    twice = b"\x82\xa2id\x01\xa2id\x02"
    extensions = [
        b"\x82\xa2id\x01\xa1x\xd4\x01\x00",
        b"\x82\xa2id\x01\xa1x\xd6\xff\x00\x00\x00\x00",
    ]
    refused = [*bombs, *not_maps, twice, *extensions, b"\x82\xa2id\x01\xa2op\xa1\xff"]
    with served(site, tmp_path, "--listen", "tcp://127.0.0.1:0") as (place,):
        *answers, pong = ask(place, *map(frame, refused))
        assert pong == {"id": 77, "ok": True}
        assert [answer["id"] for answer in answers] == [None] * len(refused)
        why = {"code": "bad_request", "message": "this frame is not one MessagePack map"}
        assert [answer["error"] for answer in answers] == [why | {"retryable": False}] * len(
            refused
        )
        (too_long,) = ask(place, HEADER.pack(MAGIC, 1 << 31))
        assert "frame_too_large" in str(too_long)
        (stray,) = ask(place, pack({"op": "ping", "id": 1}) + b"{")[1:]
        assert "0xA5" in str(stray)
        assert ask(place) == [{"id": 77, "ok": True}]


# -- in this process ---------------------------------------------------------------------------


def test_without_the_package_a_server_says_at_once_that_it_is_not_spoken() -> None:
    """So the first byte is one that no built-in transport takes for the start of its own."""
    client = MsgpackTransport().client_codec(4096)
    client.send(1, Ping())
    built_in = AutoTransport([transport("jsonl"), transport("binary")])
    server = built_in.server_codec(4096)
    (event,) = receive(server, [client.data_to_send()[:1]])
    assert isinstance(event, RequestRefused)
    assert event.fatal
    server.send(None, event.error.to_reply())
    client.receive_data(server.data_to_send())
    with pytest.raises(RemoteProtocolError, match="0xA5"):
        client.next_event()


@pytest.mark.parametrize(
    "header", [b"\xdd\x00\x00\xff\xff", b"\xdd\x00\x00\x03\xe8", b"\xde\x00\x40"]
)
def test_nested_headers_take_little_memory(header: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):  # noqa: PT011 - which one is the library's affair
            unpack(header * (65_536 // len(header)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"op": "ping"}, (None, "bad_request")),
        ({"op": "ping", "id": True}, (None, "bad_request")),
        ({"op": "ping", "id": 2**53}, (None, "bad_request")),
        ({"op": "ping", "id": 1.0}, (None, "bad_request")),
        ({"op": "dance", "id": 1}, (1, "unknown_op")),
        ({"op": b"ping", "id": 1}, (1, "unknown_op")),
        ({"op": ["ping"], "id": 1}, (1, "unknown_op")),
        ({"op": "send", "id": 1, "to": "bob"}, (1, "bad_request")),
        ({"op": "send", "id": 1, "to": "bob", "body": b"hi"}, (1, "bad_request")),
        ({"op": "ack", "id": 1, "up_to": 2**64 - 1}, (1, "bad_request")),
        ({"op": "ack", "id": 1, "up_to": float("nan")}, (1, "bad_request")),
    ],
)
def test_a_wrong_request_is_refused_and_the_next_one_read(
    fields: dict[str, object], answer: tuple[int | None, str]
) -> None:
    server = MsgpackTransport().server_codec(4096)
    refused, read = receive(server, [pack(fields) + pack({"op": "ping", "id": 2})])
    assert isinstance(refused, RequestRefused)
    assert (refused.id, refused.error.code, refused.fatal) == (*answer, False)
    assert read == RequestReceived(2, Ping())


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_payload_is_a_request_or_is_refused(payload: bytes) -> None:
    server = MsgpackTransport().server_codec(4096)
    event, read = receive(server, [frame(payload), pack({"op": "ping", "id": 2})])
    assert isinstance(event, RequestReceived) or not event.fatal
    assert read == RequestReceived(2, Ping())


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(deadline=None, max_examples=50)
@given(st.text(), st.text(), st.dictionaries(st.text(min_size=8), _VALUES))
def test_unknown_fields_change_nothing(to: str, body: str, more: dict[str, object]) -> None:
    server = MsgpackTransport().server_codec(1 << 20)
    fields = {**more, "op": "send", "id": 5, "to": to, "body": body}
    assert receive(server, [pack(fields)]) == [RequestReceived(5, Send(to=to, body=body))]


def test_the_protocols_names_alone_are_on_the_wire() -> None:
    client, server = MsgpackTransport().client_codec(4096), MsgpackTransport().server_codec(4096)
    asked = History(with_="bob")
    client.send(5, asked)
    assert receive(server, [client.data_to_send()]) == [RequestReceived(5, asked)]
    named = {"op": "history", "id": 5, "with_": "bob"}
    assert receive(server, [pack(named)]) == [RequestReceived(5, History())]


def test_the_readme_shows_all_of_the_module() -> None:
    source = Path(example.__file__).read_text()
    shown = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    parts = [code for code in shown if "check_transport" not in code]

    def lines(text: str) -> list[str]:
        return [line for line in text.splitlines() if line]

    assert lines("".join(parts)) == lines(source)


def test_the_tutorial_in_the_documentation_is_the_readme() -> None:
    tutorial = tutorial_page.page(ROOT)
    assert TUTORIAL.read_text(encoding="utf-8") == tutorial, "run: python docs/_generate"
    assert f"keeps {len(RULES)} rules" in tutorial
    (entry_point,) = re.findall(r"```toml\n(\[project.entry-points.*?)```", tutorial, re.DOTALL)
    assert entry_point in (FOLDER / "pyproject.toml").read_text()
