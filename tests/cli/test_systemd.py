"""What systemd is told, at a socket that stands in for its own."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_server import ended
from waiting import wait_until

from twinline.cli.server.systemd import Notifier


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield end


def test_it_is_told_each_step(heard: socket.socket) -> None:
    notifier = Notifier()
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.ready("listening on tcp://127.0.0.1:7767")
    notifier.reloading()
    notifier.reloaded()
    notifier.stopping()
    assert heard.recv(999) == b"READY=1\nSTATUS=listening on tcp://127.0.0.1:7767"
    reloading, at = heard.recv(999).decode().split("\nMONOTONIC_USEC=")
    assert reloading == "RELOADING=1"
    assert before <= int(at) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert heard.recv(999) == b"READY=1\nSTATUS=listening on tcp://127.0.0.1:7767"
    assert heard.recv(999) == b"STOPPING=1\nSTATUS=drains"


def test_a_name_without_a_place_in_the_file_system_is_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"twinline-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(f"\0{name}")
        end.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        Notifier().ready("here")
        assert end.recv(999).startswith(b"READY=1")


def test_nobody_is_told_without_systemd_and_no_child_is_taken_for_the_server(
    heard: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    Notifier()
    assert "NOTIFY_SOCKET" not in os.environ
    for nobody in ("", "vsock:2:1234"):
        monkeypatch.setenv("NOTIFY_SOCKET", nobody)
        Notifier().ready("nobody hears it")
    monkeypatch.setenv("NOTIFY_SOCKET", "/no/such/socket")
    Notifier().ready("nor this")
    heard.setblocking(False)
    with pytest.raises(BlockingIOError):
        heard.recv(999)


def test_it_is_told_for_as_long_as_the_server_is_alive(
    heard: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    alive = True
    asked = threading.Event()

    def is_alive(_seconds: float) -> bool:
        asked.set()
        return alive

    notifier = Notifier()
    assert "WATCHDOG_USEC" not in os.environ
    with notifier.watched(is_alive):
        for _ in range(3):
            assert heard.recv(999) == b"WATCHDOG=1"
        alive = False
        for _ in range(2):  # what was asked before may be said after it
            asked.clear()
            wait_until(asked.is_set, what="the next look")
        heard.setblocking(False)
        while True:
            try:
                heard.recv(999)
            except BlockingIOError:
                break
        asked.clear()
        wait_until(asked.is_set, what="the look after that")
        with pytest.raises(BlockingIOError):
            heard.recv(999)
    assert not [each for each in threading.enumerate() if each.name == "watchdog"]


def test_what_is_not_for_this_process_or_no_number_watches_nothing(
    heard: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for microseconds, pid in (("40000", "1"), ("soon", ""), ("", "")):
        monkeypatch.setenv("NOTIFY_SOCKET", heard.getsockname())
        monkeypatch.setenv("WATCHDOG_USEC", microseconds)
        monkeypatch.setenv("WATCHDOG_PID", pid)
        with Notifier().watched(lambda _: True):
            assert not [each for each in threading.enumerate() if each.name == "watchdog"]


def test_a_server_says_when_it_is_ready_reads_again_and_drains(
    heard: socket.socket, tmp_path: Path
) -> None:
    settings = tmp_path / "twinline.toml"
    settings.write_text('listen = ["tcp://127.0.0.1:0"]\nlog_level = "warning"\n')
    heard.settimeout(30)
    environment = {**os.environ, "WATCHDOG_USEC": "60000000"}
    command = [sys.executable, "-m", "twinline.cli", "serve", "--config", str(settings)]
    with ended(
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    ) as server:
        assert server.stdout is not None

        def next_step() -> list[str]:
            while (said := heard.recv(999)) == b"WATCHDOG=1":
                pass
            return said.decode().splitlines()

        ready = next_step()
        place = re.search(r"tcp://[\d.:]+", server.stdout.readline())
        assert place is not None
        assert ready == ["READY=1", f"STATUS=listening on {place[0]}"]
        server.send_signal(signal.SIGHUP)
        assert next_step()[0] == "RELOADING=1"
        assert next_step() == ready
        settings.write_text("this is no setting")
        server.send_signal(signal.SIGHUP)
        assert next_step()[0] == "RELOADING=1"
        assert next_step() == ready  # a bad file is over too
        server.terminate()
        assert next_step() == ["STOPPING=1", "STATUS=drains"]
        assert server.wait(30) == 0
