"""The admin socket: who may use it, and that no peer of it harms the server or its end."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from admin_server import Administered, administered, connect, reply
from cli_server import CommandLine, ended
from pydantic import BaseModel
from services import PASSWORD
from waiting import Call, wait_until

from twinline.cli.server.admin import peers
from twinline.cli.server.admin.peers import CONNECTIONS, LINE_BYTES, AdminSocket
from twinline.cli.server.admin.replies import Switched
from twinline.transports.endpoints import Endpoint, EndpointError

NOBODY = 65_534
ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
# Becomes another user, and says what comes of asking for something.
OTHER_USER = """
import os, socket, sys
path, uid, gid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.setgroups([]); os.setgid(gid); os.setuid(uid)
peer = socket.socket(socket.AF_UNIX)
peer.settimeout(10)
try:
    peer.connect(path)
    try:
        peer.sendall(b'{"op":"accounts"}\\n')
    except BrokenPipeError:
        pass  # it was told why
    print(peer.recv(65536).decode())
except OSError as error:
    print(type(error).__name__)
"""


def as_user(path: Path, uid: int, gid: int) -> str:
    """Return what another user gets on the socket."""
    asked = subprocess.run(
        [sys.executable, "-I", "-c", OTHER_USER, str(path), str(uid), str(gid)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return asked.stdout.strip()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- who may use it ---------------------------------------------------------------------


def test_its_file_is_its_owners_alone_from_the_first_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    listens = socket.socket.listen

    def listen(self: socket.socket, *arguments: int) -> None:
        if self.family == socket.AF_UNIX:
            seen.append(mode_of(Path(self.getsockname())))
        listens(self, *arguments)

    bound = []
    binds = socket.socket.bind

    def bind(self: socket.socket, place: Any) -> None:
        binds(self, place)
        if self.family == socket.AF_UNIX:
            bound.append(mode_of(Path(place)))

    monkeypatch.setattr(socket.socket, "listen", listen)
    monkeypatch.setattr(socket.socket, "bind", bind)
    before = os.umask(0)
    try:
        with administered() as served:
            assert mode_of(served.path) == 0o600
        with administered(group=os.getgid()) as served:
            assert mode_of(served.path) == 0o660
            assert served.path.stat().st_gid == os.getgid()
    finally:
        os.umask(before)
    assert seen == [0o600, 0o660]
    assert bound == [0o600, 0o600]
    assert not served.path.exists()


@ONLY_ROOT
def test_another_user_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with administered() as served:
        assert as_user(served.path, NOBODY, NOBODY) == "PermissionError"
        # Should the file let somebody in all the same, the system says who it is.
        served.path.chmod(0o666)
        refused = json.loads(as_user(served.path, NOBODY, NOBODY))
        assert refused["error"]["code"] == "bad_request"
        assert served.ask("accounts")["accounts"] == []
    (record,) = [each for each in caplog.records if getattr(each, "event", "") == "admin_refused"]
    assert record.fields["by"].startswith(f"uid {NOBODY}, pid ")


@ONLY_ROOT
def test_members_of_the_group_are_let_in_and_nobody_else() -> None:
    with administered(group=4321) as served:
        assert json.loads(as_user(served.path, NOBODY, 4321))["accounts"] == []
        assert as_user(served.path, NOBODY, NOBODY) == "PermissionError"


def test_who_asks_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with administered() as served:
        served.server.service.add_account("ann", PASSWORD)
        served.ask("kick", username="ann")
        served.ask("accounts")
    by = f"uid {os.geteuid()}, pid {os.getpid()}"
    told = [
        (each.event, each.fields.get("action") or each.fields["op"])
        for each in caplog.records
        if getattr(each, "event", "").startswith("admin_") and each.fields["by"] == by
    ]
    assert told == [
        ("admin_asked", "kick"),
        ("admin_action", "kick"),
        ("admin_asked", "accounts"),
    ]


def test_a_file_that_was_left_over_is_replaced_and_one_in_use_is_not() -> None:
    with administered() as served:
        endpoint = Endpoint.parse(served.place)
        with pytest.raises(EndpointError, match="in use"):
            AdminSocket(endpoint, lambda *_: Switched(username="x", enabled=True))
        assert served.ask("accounts")["accounts"] == []
        other = served.path.with_name("left")
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(other))
        with AdminSocket(
            Endpoint.parse(f"unix:{other}"), lambda *_: Switched(username="x", enabled=True)
        ):
            assert mode_of(other) == 0o600
        assert not other.exists()


# -- what they may send -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"\n", "JSON"),
        (b"\x00\xff\xfe garbage\n", "JSON"),
        (b"[]\n", "object"),
        (b'{"op":"nothing"}\n', "op"),
        (b'{"op":"kick"}\n', "username"),
        (b'{"op":"kick","username":7}\n', "username"),
        (b'{"op":"kick","username":"ann","more":1}\n', "more"),
        (b'{"op":"kick","username":"' + b"x" * 300 + b'"}\n', "200"),
        (b'{"op":"kick","username":"not a name"}\n', "username"),
        (b'{"op":"kick","username":"nobody"}\n', "no such user"),
        (b'{"op":"quota","username":"ann","messages":0}\n', "messages"),
        (b'{"op":"quota","username":"ann","messages":true}\n', "messages"),
        (b'{"op":"invite","hours":1e999}\n', "hours"),
        (b'{"op":"invite","note":"two\\nlines"}\n', "one line"),
        (b'{"op":"withdraw","number":"1"}\n', "no invitation"),
        (b'{"op":"log_level","level":"loud"}\n', "level"),
        (b'{"op":"export_mail","account_id":"1"}\n', "no such user"),
        (b"[" * 20_000 + b"\n", "JSON"),
    ],
)
def test_what_cannot_be_is_refused_with_why_and_the_connection_goes_on(
    sent: bytes, words: str
) -> None:
    with administered() as served, served.connect() as peer:
        peer.sendall(sent)
        refused = reply(peer)
        assert list(refused) == ["error"]
        assert words.lower() in refused["error"]["message"].lower()
        peer.sendall(b'{"op":"log_level"}\n')
        assert "level" in reply(peer)


def test_requests_in_one_piece_and_byte_by_byte_are_the_same() -> None:
    line = b'{"op":"invitations"}\n'
    with administered() as served, served.connect() as peer:
        peer.sendall(line * 3 + line[:5])
        answers = b""
        while answers.count(b"\n") < 3:
            answers += peer.recv(65_536)
        for byte in line[5:]:
            peer.send(bytes([byte]))
        assert {*answers.splitlines(), json.dumps(reply(peer)).encode()} == {
            b'{"invitations":[]}',
            b'{"invitations": []}',
        }


def test_a_line_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with administered() as served, served.connect() as peer:
        with pytest.raises(OSError, match=r"."):  # noqa: PT012 - any of the pieces
            for _ in range(1_000_000 // 1_000):
                peer.sendall(b"x" * 1_000)
            peer.sendall(b"x" * LINE_BYTES)
        assert served.ask("invitations") == {"invitations": []}
        wait_until(lambda: served.socket.connections == 0, "it is cut")


def test_a_fault_inside_is_told_to_nobody(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with administered() as served:

        def fail(*_: object) -> None:
            raise RuntimeError("a secret of the inside")

        monkeypatch.setattr(served.server.service.store.accounts, "page", fail)
        assert served.ask("accounts")["error"]["code"] == "internal"
        monkeypatch.undo()
        assert served.ask("accounts")["accounts"] == []
    assert "a secret of the inside" in caplog.text


# -- what they may hold up --------------------------------------------------------------


def test_a_hundred_idle_connections_shut_nobody_out() -> None:
    with administered() as served, ExitStack() as stack:
        idle = [stack.enter_context(served.connect()) for _ in range(100)]
        assert served.ask("invitations") == {"invitations": []}
        assert served.socket.connections <= CONNECTIONS
        # The newest are still there, and the oldest had to go.
        idle[-1].sendall(b'{"op":"invitations"}\n')
        assert reply(idle[-1]) == {"invitations": []}
        assert idle[0].recv(1) == b""


def test_one_that_is_answered_makes_room_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def answer(_asked: BaseModel, _by: str) -> BaseModel:
        assert go_on.wait(20)
        return Switched(username="x", enabled=True)

    with administered() as served, ExitStack() as stack:
        monkeypatch.setattr(served.socket, "_answer", answer)
        busy = [stack.enter_context(served.connect()) for _ in range(CONNECTIONS)]
        for each in busy:
            each.sendall(b'{"op":"invitations"}\n')
        wait_until(
            lambda: [each.waits_since for each in served.socket._peers] == [None] * CONNECTIONS,
            "all are carried out",
        )
        with served.connect() as other:
            assert reply(other)["error"]["code"] == "busy"
        go_on.set()
        for each in busy:
            assert reply(each)["enabled"]


def test_who_is_slow_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(peers, "LINE_SECONDS", 0.3)
    with administered() as served, served.connect() as silent, served.connect() as half:
        half.sendall(b'{"op":')
        for peer in (silent, half):
            assert peer.recv(1) == b""
        with served.connect() as drop_by_drop:
            began = time.monotonic()
            with pytest.raises(OSError, match=r"."):  # noqa: PT012 - any of them
                while time.monotonic() < began + 10:
                    drop_by_drop.send(b"x")
                    threading.Event().wait(0.02)
            assert time.monotonic() < began + 5


def stuck(served: Administered, stack: ExitStack) -> None:
    """Have peers that are silent, in the middle of a line, and that read nothing."""
    stack.enter_context(served.connect())
    stack.enter_context(served.connect()).sendall(b'{"op":"kic')
    deaf = stack.enter_context(served.connect())
    deaf.setblocking(False)
    line = b'{"op":"trace","message_id":"' + b"x" * 150 + b'"}\n'
    try:
        while True:
            deaf.send(line * 20)
    except BlockingIOError:
        pass


def test_no_peer_holds_up_its_end() -> None:
    with ExitStack() as stack, administered() as served:
        stuck(served, stack)
        wait_until(lambda: served.socket.connections == 3, "all are there")
        began = time.monotonic()
        served.socket.close()
        assert time.monotonic() < began + 2
        wait_until(lambda: served.socket.connections == 0, "all are cut", 2)


def test_silent_peers_take_no_time_at_its_end_and_a_reply_is_still_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "_END_SECONDS", 20)
    asked, go_on = threading.Event(), threading.Event()

    def answer(_asked: BaseModel, _by: str) -> BaseModel:
        asked.set()
        assert go_on.wait(20)
        return Switched(username="x", enabled=True)

    with administered() as served:
        monkeypatch.setattr(served.socket, "_answer", answer)
        # The first to come is the first to be told.
        with served.connect() as busy, served.connect() as silent, served.connect() as waiting:
            busy.sendall(b'{"op":"invitations"}\n')
            assert asked.wait(20)
            wait_until(lambda: served.socket.connections == 3, "all are there")
            closing = Call(served.socket.close)
            for each in (silent, waiting):
                assert each.recv(1) == b""
            go_on.set()
            began = time.monotonic()
            assert reply(busy)["enabled"]
            closing.outcome()
            assert time.monotonic() < began + 10


def test_a_server_with_stuck_peers_drains_at_once(tmp_path: Path) -> None:
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    path = tmp_path / "admin"
    server = twinline.start(
        "serve", "--listen", "tcp://127.0.0.1:0", "--admin-listen", f"unix:{path}"
    )
    with ended(server), ExitStack() as stack:
        assert server.stdout is not None
        assert server.stdout.readline()
        for sent in (b"", b'{"op":"kick', b'{"op":"accounts"}\n'):
            stack.enter_context(connect(path)).sendall(sent)
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0
        assert time.monotonic() < began + 4
        assert not path.exists()
