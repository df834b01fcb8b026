"""`twinline serve` as a process of its own: the ready line, signals, a port in use."""

import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from cli_server import CommandLine, ended
from waiting import wait_until

from twinline.cli.client.sessions import SessionFile
from twinline.cli.server import serve
from twinline.cli.settings.model import Settings
from twinline.transports.endpoints import Endpoint

READY = re.compile(r"listening on (\S+) transport=(auto|binary) store=memory durability=process\n")


@pytest.fixture
def twinline(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path, "tcp://127.0.0.1:1")


@pytest.fixture
def linger() -> Iterator[list[IO[bytes] | socket.socket]]:
    sockets: list[IO[bytes] | socket.socket] = []
    yield sockets
    for each in sockets:
        each.close()


def address(place: str) -> tuple[str, int]:
    endpoint = Endpoint.parse(place)
    return endpoint.host, endpoint.port


def connected(place: str) -> socket.socket:
    return socket.create_connection(address(place), timeout=5)


def send_until_stuck(peer: socket.socket) -> None:
    while True:
        peer.send(b'{"op":"ping","id":1}\n' * 100)


@pytest.mark.parametrize("listener", ["threads", "loop"])
def test_it_serves_until_sigterm_drains_it(
    twinline: CommandLine, tmp_path: Path, linger: list[IO[bytes] | socket.socket], listener: str
) -> None:
    unix = f"unix:{tmp_path}/s?transport=binary"
    places = ("--listen", "tcp://127.0.0.1:0", "--listen", unix)
    server = twinline.start("serve", "--listener", listener, *places)
    with ended(server):
        assert server.stdout is not None
        first, second = (READY.fullmatch(server.stdout.readline()) for _ in range(2))
        assert first is not None
        assert second is not None
        assert (first[2], second[1], second[2]) == ("auto", unix.partition("?")[0], "binary")
        for place in (first[1], unix):
            twinline.run("ping", "--count", "1", "--connect", place)
        twinline.run("register", "ann", "--connect", first[1])
        token = twinline_token(twinline, first[1])
        # A connection that waits for mail, and one that has not said a word.
        waiting, silent = connected(first[1]), connected(first[1])
        linger += [waiting, silent]
        waiting.sendall(
            b'{"op":"resume","id":1,"session":"%s"}\n'
            b'{"op":"watch","id":2,"after":0,"wait":60}\n' % token.encode()
        )
        replies = waiting.makefile("rb")
        linger.append(replies)
        assert b'"ok":true' in replies.readline()
        server.send_signal(signal.SIGTERM)
        assert server.wait(5) == 0
        assert b'"id":2,"ok":false,"error":{"code":"shutting_down"' in replies.readline()
        assert replies.readline() == b""
        assert silent.recv(1) == b""
        assert server.stdout.read() == ""
        assert server.stderr is not None
        log = server.stderr.read()
        names = re.findall(r"^\S+Z [A-Z]+ ([a-z_]+): ", log, re.MULTILINE)
        assert names == [
            "server_started",
            "store_keeps_nothing",
            "server_ready",
            "account_created",
            "drain_begun",
            "drain_ended",
        ]
        places = f"tcp://127.0.0.1:0, unix:{tmp_path}/s"
        assert f"starts on {places}: store memory, durability process, listener {listener}" in log
        assert f"ready on {first[1]}, unix:{tmp_path}/s" in log
        assert "account ann was created from 127.0.0.1" in log
        assert re.search(r"drained in \S+ s: 2 connections finished, 0 were cut; \d+ were se", log)
        assert "Traceback" not in log
        assert token not in log
    assert not (tmp_path / "s").exists()
    twinline.run("ping", "--connect", first[1], code=4)


@pytest.mark.parametrize("listener", ["threads", "loop"])
def test_a_second_signal_ends_it_at_once(
    twinline: CommandLine, linger: list[IO[bytes] | socket.socket], listener: str
) -> None:
    # A peer that does not read keeps the drain waiting; the second Ctrl-C does not wait.
    patience = ("--drain-seconds", "60", "--write-seconds", "60", "--login-seconds", "60")
    server = twinline.start(
        "serve", "--listen", "tcp://127.0.0.1:0", "--listener", listener, *patience
    )
    with ended(server):
        assert server.stdout is not None
        ready = READY.fullmatch(server.stdout.readline())
        assert ready is not None
        peer = socket.socket()
        linger.append(peer)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # Long enough for a server on a loaded machine to be stuck, and not only late.
        peer.settimeout(1.5)
        peer.connect(address(ready[1]))
        with pytest.raises(TimeoutError):
            send_until_stuck(peer)
        server.send_signal(signal.SIGINT)
        wait_until(lambda: refuses(ready[1]), "the server to accept no more")
        assert server.poll() is None
        server.send_signal(signal.SIGINT)
        assert server.wait(5) == 130


def test_what_is_kept_where_is_told_without_a_password(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    settings = Settings(store="postgresql://ann:hunter2@db.example.org/chat")
    serve._tell_start(settings, settings.endpoints(), "disk")
    (record,) = caplog.records
    assert record.event == "server_started"  # type: ignore[attr-defined]
    assert "store postgresql, durability disk" in record.getMessage()
    assert "hunter2" not in caplog.text


def refuses(place: str) -> bool:
    try:
        connected(place).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False  # it was in the queue of a socket that is being closed
    return False


def twinline_token(twinline: CommandLine, place: str) -> str:
    return SessionFile(twinline.session_file).find([Endpoint.parse(place)]).token


def test_a_port_in_use_is_one_clear_line(twinline: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        result = twinline.run("serve", "--listen", place, code=1)
    assert result.stdout == ""
    assert result.stderr == f"twinline: cannot listen on {place}: Address already in use\n"


def test_a_scheme_that_there_is_not(twinline: CommandLine) -> None:
    result = twinline.run("serve", "--listen", "udp://127.0.0.1:0", code=2)
    assert "wss://host:port or unix:/path" in result.stderr
