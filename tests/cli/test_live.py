"""Commands that run on: `watch` and `demo`, and how each of them ends."""

import os
import pty
import re
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from cli_server import CommandLine, ended, running_server
from services import PASSWORD
from waiting import join

from twinline.cli.console.output import OutputClosed, write_line
from twinline.cli.server import demo
from twinline.transports.client import Client
from twinline.transports.endpoints import Endpoint

# -- watch ------------------------------------------------------------------------------


def test_watch_prints_at_once_and_ends_at_ctrl_c_with_what_it_printed_acked(
    ann: CommandLine,
) -> None:
    with ended(ann.start("watch", "--user", "bob")) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        for text in ("one", "two"):
            ann.run("send", "bob", text)
            assert watching.stdout.readline().endswith(f"  ann: {text}\n")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(5) == 130
        assert watching.stdout.read() == ""
        assert watching.stderr.read().strip() == ""
    assert ann.unread("bob") == 0


def test_watch_ends_when_its_reader_does_and_acks_what_was_written(ann: CommandLine) -> None:
    ann.run("send", "bob", "one")
    with ended(ann.start("watch", "--user", "bob", "--json")) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert '"body": "one"' in watching.stdout.readline()
        # No other message comes: the reader's end must be enough.
        watching.stdout.close()
        assert watching.wait(5) == 0
        assert watching.stderr.read() == ""
    assert ann.unread("bob") == 0


def test_a_message_that_cannot_be_written_stays_unread(
    ann: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann.run("send", "bob", "--lines", input="one\ntwo\nthree\n")
    written: list[str] = []

    def write(message: object, **_how: object) -> None:
        if len(written) == 2:
            raise OutputClosed
        written.append(str(message))

    monkeypatch.setattr("twinline.cli.client.watch.write_message", write)
    ann.run("watch", "--user", "bob")
    assert ann.unread("bob") == 1


def test_ctrl_c_in_the_midst_of_a_line_waits_for_its_end_and_acks_it(
    ann: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann.run("send", "bob", "--lines", input="one\ntwo\nthree\n")
    written: list[object] = []

    def write(message: object, **_how: object) -> None:
        if len(written) == 1:
            signal.raise_signal(signal.SIGINT)
        written.append(message)

    monkeypatch.setattr("twinline.cli.client.watch.write_message", write)
    ann.run("watch", "--user", "bob", code=130)
    assert len(written) == 2
    assert ann.unread("bob") == 1


def test_a_second_ctrl_c_does_not_wait_for_the_end_of_a_line(
    ann: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann.run("send", "bob", "one")

    def write(_message: object, **_how: object) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("still here")

    monkeypatch.setattr("twinline.cli.client.watch.write_message", write)
    ann.run("watch", "--user", "bob", code=130)
    assert ann.unread("bob") == 1


def test_a_session_that_ends_ends_watch(ann: CommandLine) -> None:
    # It makes no difference whether watch has begun by then.
    def revoke() -> None:
        with Client(ann.place) as client:
            client.login("bob", PASSWORD)
            client.change_password(PASSWORD, "another one")

    revoking = threading.Timer(0.1, revoke)
    revoking.start()
    result = ann.run("watch", "--user", "bob", code=3)
    join(revoking)
    assert "the session of bob" in result.stderr
    assert "has ended; log in again" in result.stderr


def test_watch_outlives_the_server(tmp_path: Path) -> None:
    place = f"unix:{tmp_path}/s"
    twinline = CommandLine(tmp_path, place)
    with running_server(place):
        twinline.register("ann")
        watching = twinline.start("watch")
        twinline.run("send", "ann", "one")
        assert watching.stdout is not None
        assert watching.stdout.readline().endswith(": one\n")
    with ended(watching):
        assert watching.stderr is not None
        assert watching.stderr.readline().startswith("twinline: reconnecting")
        with running_server(place):
            # A server that keeps its state in memory does not know the account any more.
            assert watching.wait(10) == 3
        assert f"ann at {place} is gone: " in watching.stderr.read()


# -- demo -------------------------------------------------------------------------------


def test_the_demo_shows_what_both_see_and_ends(ann: CommandLine) -> None:
    lines = ann.run("demo", "--once").stdout.splitlines()
    for seen in (
        "  ann  has an account and is online, speaking jsonl",
        "  bob  has an account and is online, speaking binary",
        "  bob  sees from ann: Hello bob! I speak JSON lines, one object a line.",
        "  ann  sees from bob: Hello ann! I speak binary frames. The server does not mind.",
        "  bob  goes offline",
    ):
        assert lines.count(seen) == 1
    away = lines.index("  bob  goes offline")
    back = lines.index("  bob  is online again")
    waiting = "Here it is. You are offline, so it waits for you."
    assert away < lines.index(f"  ann  writes to bob: {waiting}") < back
    assert back < lines.index(f"  bob  sees from ann: {waiting}")
    assert all("sees" not in line for line in lines[away:back])


def test_the_demo_stays_up_and_can_be_joined(ann: CommandLine) -> None:
    with ended(ann.start("demo")) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        text = ""
        while "Ctrl-C ends it." not in text:
            line = running.stdout.readline()
            assert line
            text += line
        commands = re.findall(
            r"^  \S.* (register carol|chat bob) --connect (\S+)$", text, re.MULTILINE
        )
        assert [name for name, _ in commands] == ["register carol", "chat bob"]
        (place,) = {place for _, place in commands}
        (by_hand,) = re.findall(r"^  (\S.*id.:1.*)$", text, re.MULTILINE)
        done = subprocess.run(
            ["sh", "-c", by_hand], capture_output=True, text=True, timeout=30, check=False
        )
        assert (done.stdout, done.stderr) == ('{"id":1,"ok":true}\n', "")
        ann.run("register", "carol", "--connect", place)
        ann.run("send", "bob", "here I am", "--connect", place)
        answer = ann.json("watch", "--count", "1", "--timeout", "5", "--connect", place)
        assert answer[0]["body"] == "Hello carol, I read: here I am"
        running.send_signal(signal.SIGINT)
        assert running.wait(5) == 0
        assert running.stdout.readline() == "  bob  sees from carol: here I am\n"
        assert running.stderr.read() == ""


def test_ctrl_c_ends_the_demo_from_the_moment_at_which_that_is_said(
    ann: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(text: str = "") -> None:
        write_line(text)
        if text == "Ctrl-C ends it.":
            raise KeyboardInterrupt

    monkeypatch.setattr(demo, "write_line", interrupted)
    assert ann.run("demo").stdout.endswith("Ctrl-C ends it.\n\n")


@pytest.mark.parametrize(
    ("usage", "said"),
    [
        ("usage: nc [-46CDdFhklNnrStUuvZz] [-I length]", "| nc -N 127.0.0.1 7"),
        ("OpenBSD netcat\n\t-N\tShutdown the network socket", "| nc -N 127.0.0.1 7"),
        ("[v1.10-47]\nconnect to somewhere: nc [-options] hostname port", "import socket"),
        (None, "import socket"),
    ],
)
def test_the_demo_names_nc_where_there_is_one_that_can_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usage: str | None, said: str
) -> None:
    if usage is not None:
        nc = tmp_path / "nc"
        nc.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{usage}\nEND\nexit 1\n")
        nc.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{Path('/bin/cat').parent}" if usage else str(tmp_path))
    assert said in demo._by_hand(Endpoint.parse("tcp://127.0.0.1:7"))


# -- the terminal -----------------------------------------------------------------------


def test_a_prompt_without_a_terminal_says_what_to_do(ann: CommandLine) -> None:
    del ann.environment["TWINLINE_PASSWORD"]
    # A session of its own has no terminal to open, whatever runs these tests.
    login = ann.start("login", "bob", stdin=subprocess.DEVNULL, start_new_session=True)
    with ended(login):
        assert login.wait(5) == 2
        assert login.stderr is not None
        assert login.stderr.read() == (
            "twinline: there is no terminal to ask for the password: "
            "use --password-file or TWINLINE_PASSWORD\n"
        )


def test_the_prompt_does_not_echo(ann: CommandLine) -> None:
    del ann.environment["TWINLINE_PASSWORD"]
    ours, theirs = pty.openpty()
    login = ann.start("login", "bob", stdin=theirs, start_new_session=True)
    os.set_blocking(ours, False)
    with ended(login):
        assert login.stderr is not None
        prompt = f"Password for bob at {ann.place}: "
        assert login.stderr.read(len(prompt)) == prompt
        os.write(ours, f"{PASSWORD}\n".encode())
        assert login.wait(5) == 0
        assert "logged in as bob" in login.stderr.read()
    with pytest.raises(BlockingIOError):
        os.read(ours, 1000)  # not a character came back
    os.close(ours)
    os.close(theirs)
