"""Every exit code for each way to get there, and a process that ends with it for each code."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from cli_server import CommandLine, ended, running_server
from cli_tree import command_of, every_command
from waiting import wait_until

from twinline.cli.console.exit_codes import ExitCode

CLIENTS = [
    words
    for words in every_command()
    if any(parameter.name == "wait" for parameter in command_of(words).params)
]
WITHOUT_A_SESSION = {"register", "login", "ping", "verify", "bench"}
WITH_A_SESSION = [words for words in CLIENTS if words[0] not in WITHOUT_A_SESSION]
ARGUMENTS = {
    "register": ["carol"],
    "login": ["ann"],
    "delete-account": ["--yes"],
    "send": ["ann", "hi"],
    "block": ["bob"],
    "unblock": ["bob"],
    "trace": ["0" * 24, "--to", "ann"],
    "change-password": ["--new-password-file", "new"],
    "verify": ["--duration", "0.1"],
    "bench": ["--quick", "--only", "bytes"],
}
"""What a command needs to get as far as its server."""


@pytest.fixture
def ann(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CommandLine]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new").write_text("another horse\n")
    with running_server() as endpoint:
        twinline = CommandLine(tmp_path, endpoint)
        twinline.register("ann")
        yield twinline


def is_one_line(stderr: str) -> bool:
    return stderr.startswith("twinline: ") and stderr.count("\n") == 1


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_usage(ann: CommandLine, words: tuple[str, ...]) -> None:
    refused = ann.run(*words, "--nonsense", code=ExitCode.USAGE)
    assert refused.stdout == ""
    assert is_one_line(refused.stderr)
    assert "--nonsense" in refused.stderr


@pytest.mark.parametrize("words", CLIENTS, ids=" ".join)
def test_not_reachable(ann: CommandLine, words: tuple[str, ...]) -> None:
    gone = a_server_that_is_gone(ann)
    arguments = [*words, *ARGUMENTS.get(words[0], []), "--connect", gone]
    failed = ann.run(*arguments, code=ExitCode.UNREACHABLE)
    assert failed.stdout == ""
    assert is_one_line(failed.stderr)
    assert "cannot reach" in failed.stderr


def a_server_that_is_gone(twinline: CommandLine) -> str:
    """Return where a server was for which there is a session."""
    with running_server() as endpoint:
        twinline.run("register", "ann", "--connect", str(endpoint))
    return str(endpoint)


@pytest.mark.parametrize("words", WITH_A_SESSION, ids=" ".join)
def test_a_session_that_is_missing_is_refused(ann: CommandLine, words: tuple[str, ...]) -> None:
    arguments = [*words, *ARGUMENTS.get(words[0], []), "--user", "nobody"]
    refused = ann.run(*arguments, code=ExitCode.REFUSED)
    assert refused.stdout == ""
    assert is_one_line(refused.stderr)


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (ExitCode.REFUSED, ["register", "ann"]),
        (ExitCode.TIMED_OUT, ["watch", "--exec", "true", "--count", "1", "--timeout", "0.1"]),
        (ExitCode.FAILURE, ["store", "stats", "nowhere.db"]),
        (ExitCode.USAGE, ["config", "check", "nowhere.toml"]),
        (ExitCode.USAGE, ["config", "show", "--store", "nowhere"]),
        (ExitCode.USAGE, ["completion", "tcsh"]),
        (ExitCode.USAGE, ["send", "ann", ""]),
        (ExitCode.OK, ["status"]),
    ],
)
def test_other_ways(ann: CommandLine, code: ExitCode, arguments: list[str]) -> None:
    done = ann.run(*arguments, code=code)
    assert is_one_line(done.stderr) == (code is not ExitCode.OK)


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (ExitCode.OK, ["watch", "--timeout", "0.1"]),
        (
            ExitCode.FAILURE,
            ["serve", "--listen", "tcp://192.0.2.1:1", "--insecure", "--log-level", "error"],
        ),
        (ExitCode.USAGE, ["serve", "--listen", "unix:/nowhere/s"]),
        (ExitCode.USAGE, ["serve", "--listen", "nowhere"]),
        (ExitCode.USAGE, ["status", "--nonsense"]),
        (ExitCode.REFUSED, ["send", "nobody", "hi"]),
        (ExitCode.UNREACHABLE, ["status", "--user", "ann"]),
        (ExitCode.TIMED_OUT, ["watch", "--count", "1", "--timeout", "0.1"]),
    ],
)
def test_a_process_ends_with_it(ann: CommandLine, code: ExitCode, arguments: list[str]) -> None:
    """That of an interrupted one is below."""
    if code is ExitCode.UNREACHABLE:
        arguments = [*arguments, "--connect", a_server_that_is_gone(ann)]
    with ended(ann.start(*arguments, stdin=subprocess.DEVNULL)) as process:
        stdout, stderr = process.communicate(timeout=40)
    assert (process.returncode, stdout) == (code, "")
    assert is_one_line(stderr) == (code is not ExitCode.OK)


def test_a_server_that_answers_hello_and_then_nothing_times_out(ann: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        place = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        with ended(ann.start("ping", "--connect", place, "--timeout", "0.5")) as pinging:
            connection, _ = listening.accept()
            with connection, connection.makefile("rb") as requests:
                assert b'"hello"' in requests.readline()
                with socket.create_connection(address_of(ann)) as real:
                    real.sendall(b'{"op":"hello","id":1}\n')
                    with real.makefile("rb") as replies:
                        connection.sendall(replies.readline())
                assert b'"ping"' in requests.readline()
                assert pinging.wait(30) == ExitCode.TIMED_OUT
            assert pinging.stderr is not None
            assert is_one_line(pinging.stderr.read())


def address_of(twinline: CommandLine) -> tuple[str, int]:
    host, _, port = twinline.place.removeprefix("tcp://").rpartition(":")
    return host, int(port)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("arguments", [["watch"], ["watch", "--exec", "true"]], ids=" ".join)
def test_a_signal_interrupts(
    ann: CommandLine, number: signal.Signals, arguments: list[str]
) -> None:
    with ended(ann.start(*arguments)) as watching:
        ann.run("send", "ann", "hello")
        wait_until(lambda: ann.json("status")[0]["unread"] == 0, "the message to be acked", 30)
        watching.send_signal(number)
        assert watching.wait(30) == ExitCode.INTERRUPTED
        assert watching.stderr is not None
        assert watching.stderr.read().strip() == ""


def test_a_reader_that_went_away_is_no_failure(ann: CommandLine) -> None:
    for command in (["accounts"], ["history"], ["config", "show"], ["completion", "bash"]):
        with ended(ann.start(*command)) as running:
            assert running.stdout is not None
            assert running.stderr is not None
            running.stdout.close()
            assert running.wait(30) == ExitCode.OK, command
            assert running.stderr.read() == ""


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line in bash, with stdout buffered as it is for a user."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    program = f"set -o pipefail; twinline() {{ '{sys.executable}' -m twinline.cli \"$@\"; }}; "
    return subprocess.run(
        ["bash", "-c", program + line],
        capture_output=True,
        text=True,
        env={**environment, "TWINLINE_CONFIG": ""},
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "words", ["--help", "--version", "send --help", "serve --help-all", "store"]
)
def test_a_reader_of_the_help_that_went_away_is_no_failure(words: str) -> None:

    done = shell(f"twinline {words} | true")
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("words", ["--help", "--version", "config show", "send --help-all"])
def test_a_full_disk_is_told_in_one_line(words: str) -> None:
    done = shell(f"twinline {words} >/dev/full")
    assert done.stderr == "twinline: stdout cannot be written: No space left on device\n"
    assert done.returncode == ExitCode.FAILURE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_completion_that_cannot_be_written_says_nothing() -> None:
    done = shell("_TWINLINE_COMPLETE=bash_source twinline >/dev/full")
    assert (done.returncode, done.stderr) == (ExitCode.FAILURE, "")


def test_a_group_is_no_failure() -> None:
    for words in every_command():
        if isinstance(command_of(words), click.Group):
            CommandLine(Path("/nowhere"), "tcp://127.0.0.1:1").run(*words, code=ExitCode.OK)
