"""`watch --exec`: a command for each message, and what is acknowledged, whatever happens."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_server import CommandLine, ended, running_server
from waiting import wait_until

TWINLINE = f"{sys.executable} -m twinline.cli"
WAITS = "echo $$ >>runs; while ! test -e go; do sleep 0.05; done"


@pytest.fixture
def ann(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CommandLine]:
    """Ann writes and bob watches; commands run in a directory of their own."""
    monkeypatch.chdir(tmp_path)
    with running_server() as endpoint:
        twinline = CommandLine(tmp_path, endpoint)
        twinline.register("bob", "ann")
        yield twinline


def unread(twinline: CommandLine) -> int:
    count: int = twinline.json("status", "--user", "bob")[0]["unread"]
    return count


def watch(twinline: CommandLine, command: str, *arguments: str) -> "subprocess.Popen[str]":
    return twinline.start("watch", "--user", "bob", "--exec", command, *arguments)


def finished(watching: "subprocess.Popen[str]") -> tuple[int, str, str]:
    with ended(watching):
        stdout, stderr = watching.communicate(timeout=30)
    return watching.returncode, stdout, stderr


# -- what the command gets --------------------------------------------------------------


def test_the_body_is_on_stdin_exactly(ann: CommandLine, tmp_path: Path) -> None:
    bodies = ["plain", "two\nlines\n\n", "nul \0 byte", "ünï ✓", "$(touch pwned) `touch pwned`; x"]
    for body in bodies:
        ann.run("send", "bob", input=f"{body}\n")
    code, stdout, stderr = finished(watch(ann, 'cat >"$TWINLINE_SEQ"', "--count", "5"))
    assert (code, stdout, stderr) == (0, "", "")
    assert [(tmp_path / str(seq)).read_bytes() for seq in range(1, 6)] == [
        body.encode() for body in bodies
    ]
    assert not (tmp_path / "pwned").exists()
    assert unread(ann) == 0


def test_with_json_the_message_is_an_object_on_a_line(ann: CommandLine) -> None:
    ann.run("send", "bob", "é\n")
    code, stdout, _ = finished(watch(ann, "cat", "--json", "--count", "1"))
    assert code == 0
    assert stdout.isascii()
    assert stdout.endswith("}\n")
    (kept,) = ann.json("history", "--user", "bob")
    assert json.loads(stdout) == kept


def test_the_environment_tells_about_the_message_and_has_no_password(ann: CommandLine) -> None:
    ann.run("send", "bob", "the body")
    code, stdout, _ = finished(watch(ann, "env", "--count", "1", "--transport", "binary"))
    assert code == 0
    variables = dict(line.split("=", 1) for line in stdout.splitlines() if "=" in line)
    (kept,) = ann.json("history", "--user", "bob")
    assert variables["TWINLINE_SENDER"] == "ann"
    assert variables["TWINLINE_SEQ"] == "1"
    assert variables["TWINLINE_MESSAGE_ID"] == kept["message_id"]
    assert variables["TWINLINE_SENT_AT"] == str(kept["sent_at"])
    assert variables["TWINLINE_CONNECT"] == ann.place
    assert variables["TWINLINE_CLIENT_TRANSPORT"] == "binary"
    assert variables["TWINLINE_USER"] == "bob"
    assert "TWINLINE_PASSWORD" not in variables
    assert "the body" not in stdout


def test_a_twinline_in_the_command_acts_as_the_same_account(ann: CommandLine) -> None:
    ann.run("send", "bob", "hello")
    command = f'{TWINLINE} send "$TWINLINE_SENDER" "I got $TWINLINE_SEQ"'
    assert finished(watch(ann, command, "--count", "1")) == (0, "", "")
    (answer,) = ann.json("history", "--user", "ann")
    assert (answer["sender"], answer["body"]) == ("bob", "I got 1")


def test_a_command_that_does_not_read_is_fine(ann: CommandLine) -> None:
    for _ in range(5):
        ann.run("send", "bob", input="€" * 5000)
    assert finished(watch(ann, "exec <&-", "--json", "--count", "5")) == (0, "", "")
    assert unread(ann) == 0


def test_stdout_and_stderr_are_those_of_watch(ann: CommandLine) -> None:
    ann.run("send", "bob", "hello")
    command = "cat; echo; echo talk >&2"
    assert finished(watch(ann, command, "--timeout", "1")) == (0, "hello\n", "talk\n")


# -- what is acknowledged ---------------------------------------------------------------


def test_each_success_is_acked_at_once(ann: CommandLine) -> None:
    """The command of the second message sees that the first one is acked."""
    ann.run("send", "bob", "--lines", input="one\ntwo\nthree\n")
    command = f"{TWINLINE} status --json"
    code, stdout, _ = finished(watch(ann, command, "--count", "3"))
    assert code == 0
    assert [json.loads(line)["position"] for line in stdout.splitlines()] == [0, 1, 2]


@pytest.mark.parametrize(
    ("command", "how"),
    [("exit 3", "ended with status 3"), ("kill -9 $$", "was ended by signal 9")],
)
def test_a_failure_ends_it_and_leaves_the_message(ann: CommandLine, command: str, how: str) -> None:
    ann.run("send", "bob", "--lines", input="one\ntwo\nthree\n")
    fails = f'echo "$TWINLINE_SEQ"; test "$TWINLINE_SEQ" -lt 2 || {command}'
    assert finished(watch(ann, fails)) == (
        1,
        "1\n2\n",
        f"twinline: message 2 from ann: the command {how}; the message stays unread\n",
    )
    assert unread(ann) == 2
    # A supervisor that starts it again begins with the same message.
    assert finished(watch(ann, 'echo "$TWINLINE_SEQ"', "--count", "2")) == (0, "2\n3\n", "")


def test_a_retry_runs_the_same_message_again(ann: CommandLine) -> None:
    ann.run("send", "bob", "--lines", input="one\ntwo\n")
    command = 'echo "$TWINLINE_SEQ"; test -e seen || { touch seen; exit 4; }'
    code, stdout, stderr = finished(watch(ann, command, "--on-failure", "retry", "--count", "2"))
    assert (code, stdout) == (0, "1\n1\n2\n")
    assert stderr == "twinline: message 1 from ann: the command ended with status 4; again in 1 s\n"
    assert unread(ann) == 0


def test_ctrl_c_ends_the_wait_for_a_retry(ann: CommandLine) -> None:
    ann.run("send", "bob", "one")
    with ended(watch(ann, "false", "--on-failure", "retry")) as watching:
        assert watching.stderr is not None
        assert "again in" in watching.stderr.readline()
        watching.send_signal(signal.SIGINT)
        assert watching.wait(5) == 130
    assert unread(ann) == 1


def test_without_acks_everything_stays_unread(ann: CommandLine) -> None:
    ann.run("send", "bob", "--lines", input="one\ntwo\n")
    assert finished(watch(ann, "cat; echo", "--no-ack", "--count", "2")) == (0, "one\ntwo\n", "")
    assert unread(ann) == 2


def test_too_few_messages_are_exit_code_5(ann: CommandLine) -> None:
    ann.run("send", "bob", "one")
    code, _, stderr = finished(watch(ann, "true", "--count", "2", "--timeout", "0.2"))
    assert (code, stderr) == (5, "twinline: timed out: 1 of 2 messages came\n")
    assert unread(ann) == 0


def test_what_to_do_on_failure_needs_a_command(ann: CommandLine) -> None:
    assert "is for --exec" in ann.run("watch", "--on-failure", "retry", code=2).stderr
    ann.run("watch", "--exec", "true", "--on-failure", "ignore", code=2)


def test_an_empty_command_is_a_mistake(ann: CommandLine) -> None:
    ann.run("send", "bob", "one")
    assert "is empty" in ann.run("watch", "--user", "bob", "--exec", " ", code=2).stderr
    assert unread(ann) == 1


# -- signals, and a server that goes away -----------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("status", "left"), [(0, 1), (1, 2)])
def test_a_signal_waits_for_the_command_and_begins_no_other(
    ann: CommandLine, tmp_path: Path, number: signal.Signals, status: int, left: int
) -> None:
    ann.run("send", "bob", "--lines", input="one\ntwo\n")
    runs = tmp_path / "runs"
    with ended(watch(ann, f"{WAITS}; touch done; exit {status}")) as watching:
        wait_until(runs.exists, "the command to run", 30)
        watching.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            watching.wait(0.3)
        (tmp_path / "go").touch()
        assert watching.wait(30) == 130
    assert (tmp_path / "done").exists()
    assert len(runs.read_text().splitlines()) == 1
    assert unread(ann) == left


def test_a_second_signal_ends_the_command(ann: CommandLine, tmp_path: Path) -> None:
    ann.run("send", "bob", "one")
    command = "trap 'touch told; exit 0' TERM; touch runs; while :; do sleep 0.05; done"
    with ended(watch(ann, command)) as watching:
        wait_until((tmp_path / "runs").exists, "the command to run", 30)
        watching.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            watching.wait(0.3)
        watching.send_signal(signal.SIGTERM)
        assert watching.wait(30) == 130
    assert (tmp_path / "told").exists()
    assert unread(ann) == 1


def test_a_reader_of_stdout_that_goes_away_lets_the_command_finish(
    ann: CommandLine, tmp_path: Path
) -> None:
    ann.run("send", "bob", "--lines", input="one\ntwo\n")
    with ended(watch(ann, WAITS)) as watching:
        wait_until((tmp_path / "runs").exists, "the command to run", 30)
        assert watching.stdout is not None
        watching.stdout.close()
        with pytest.raises(subprocess.TimeoutExpired):
            watching.wait(0.3)
        (tmp_path / "go").touch()
        assert watching.wait(30) == 0
    assert unread(ann) == 1


def test_a_session_that_ends_while_the_command_runs_is_exit_code_3(
    ann: CommandLine, tmp_path: Path
) -> None:
    ann.run("send", "bob", "one")
    with ended(watch(ann, WAITS)) as watching:
        wait_until((tmp_path / "runs").exists, "the command to run", 30)
        ann.run("logout", "--user", "bob")
        (tmp_path / "go").touch()
        assert watching.wait(30) == 3
        assert watching.stderr is not None
        assert "the session of bob" in watching.stderr.read()


def test_a_restart_of_the_server_costs_neither_the_ack_nor_a_second_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    twinline = CommandLine(tmp_path, f"unix:{tmp_path}/s")

    def serve() -> "subprocess.Popen[str]":
        server = twinline.start("serve", "--listen", twinline.place, "--store", "sqlite:chat.db")
        assert server.stdout is not None
        assert server.stdout.readline().startswith("listening on")
        return server

    with ended(serve()) as first:
        twinline.register("bob", "ann")
        twinline.run("send", "bob", "--lines", input="one\ntwo\n")
        twinline.environment["TWINLINE_TIMEOUT"] = "1"
        watching = watch(twinline, f"{WAITS}; echo $TWINLINE_SEQ", "--count", "2")
        del twinline.environment["TWINLINE_TIMEOUT"]
        wait_until((tmp_path / "runs").exists, "the command to run", 30)
        first.send_signal(signal.SIGKILL)
        first.wait(10)
    with ended(watching):
        # The command succeeds while there is no server.
        (tmp_path / "go").touch()
        assert watching.stdout is not None
        assert watching.stdout.readline() == "1\n"
        # Longer than one attempt to ack has: there are more of them, and no other message.
        with pytest.raises(subprocess.TimeoutExpired):
            watching.wait(2.5)
        assert len((tmp_path / "runs").read_text().splitlines()) == 1
        with ended(serve()):
            assert watching.wait(40) == 0
            assert watching.stdout.read() == "2\n"
            assert unread(twinline) == 0
    assert len((tmp_path / "runs").read_text().splitlines()) == 2
