"""`twinline chat` in a pipe: what each line does, and how it ends."""

import re
import subprocess
from pathlib import Path

import pytest
from cli_server import CommandLine, ended
from services import PASSWORD
from waiting import wait_until

from twinline.cli.chat.conversation import COMMANDS, FOUND
from twinline.transports.client import Client


def test_each_line_is_carried_out_and_what_is_not_is_told(ann: CommandLine) -> None:
    lines = "to nobody\nbob: hello\n\nhow are you?\n/to ann\nme\n/accounts a*\n/what\n"
    lines += "/msg nobody hi\n/msg bob by the way\nand me\n"
    result = ann.run("chat", input=f"{lines}bob:\nbye\n/me waves\n/exit\nnot sent\n", code=3)
    assert "to whom? '/to NAME' first, or 'NAME: text'" in result.stderr
    assert "there is no /what" in result.stderr
    assert "twinline: there is no nobody" in result.stderr
    assert result.stderr.endswith("twinline: 3 lines were not carried out\n")
    assert "ann\n" in result.stdout
    assert ann.bodies("bob") == ["hello", "how are you?", "by the way", "bye", "* ann waves"]
    assert ann.bodies("ann") == ["me", "and me"]


def test_a_line_that_names_another_goes_to_nobody(ann: CommandLine) -> None:
    lines = "bob: hello\nBOB: still you\nann: is late\n ann: is late\nps: bye\n"
    result = ann.run("chat", input=lines, code=2)
    assert "is this for bob? then begin it with a space; for ann, it is '/msg ann ...'" in (
        result.stderr
    )
    assert "for ps, it is '/msg ps ...'" in result.stderr
    assert result.stderr.endswith("twinline: 2 lines were not carried out\n")
    assert ann.bodies("bob") == ["hello", "still you", "ann: is late"]
    assert ann.bodies("ann") == []


def test_search(ann: CommandLine) -> None:
    for text in ("The Sea", "a hill", "sea again"):
        ann.run("send", "ann", text, "--user", "bob")
    with Client(ann.place) as bob:
        bob.login("bob", PASSWORD)
        for number in range(FOUND + 4):
            bob.send("ann", f"shell {number}")
    result = ann.run("chat", input="/search sea\n/search SHELL\n/search lake\n")
    # What is unread comes as well, whenever it does, and without a number.
    found = [
        line.rpartition("bob: ")[2]
        for line in result.stdout.splitlines()
        if re.match(r" *\d+  \d{4}-", line)
    ]
    newest = [f"shell {number}" for number in range(4, FOUND + 4)]
    assert found == ["The Sea", "sea again", *newest]
    assert result.stderr.count("these are the newest 50; there are more") == 1
    assert "no message has lake in it" in result.stderr


def test_a_line_that_is_no_text_is_not_carried_out_and_the_rest_is(ann: CommandLine) -> None:
    lines = b"bob: before\ncaf\xe9\nafter \xc3\xa9\n"
    result = ann.run("chat", input=lines, code=2)
    assert "twinline: the line is not UTF-8\n" in result.stderr
    assert result.stderr.endswith("twinline: 1 line was not carried out\n")
    assert ann.bodies("bob") == ["before", "after \u00e9"]


@pytest.mark.parametrize("word", [word for word, command in COMMANDS.items() if not command.takes])
def test_a_command_that_takes_nothing_refuses_what_follows_it(ann: CommandLine, word: str) -> None:
    result = ann.run("chat", input=f"{word} or not\nbob: still here\n", code=2)
    assert f"twinline: {word} takes nothing after it" in result.stderr
    assert ann.bodies("bob") == ["still here"]


def test_two_slashes_say_one(ann: CommandLine) -> None:
    result = ann.run("chat", "bob", input="//quit now\n/help\n")
    assert ann.bodies("bob") == ["/quit now"]
    assert "\n//TEXT" in result.stderr


def test_with_someone_by_name_and_what_they_say(ann: CommandLine) -> None:
    with ended(ann.start("chat", "bob", stdin=subprocess.PIPE)) as talking:
        assert talking.stdin is not None
        assert talking.stdout is not None
        assert talking.stderr is not None
        ann.run("send", "ann", "hi \x1b[2Jann", "--user", "bob")
        assert talking.stdout.readline().endswith("  bob: hi ␛[2Jann\n")
        talking.stdin.write("good day\n")
        talking.stdin.flush()
        wait_until(lambda: ann.bodies("bob") == ["good day"], "bob to have mail")
        # The session ends while chat waits for a line that never comes.
        ann.run("logout")
        assert talking.wait(30) == 3
        assert "the session of ann" in talking.stderr.read()


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--plain",)])
def test_what_was_not_asked_for_is_not_acknowledged(
    ann: CommandLine, arguments: tuple[str, ...]
) -> None:
    ann.run("send", "ann", "first", "--user", "bob")
    for _ in range(2):  # it comes again
        with ended(ann.start("chat", *arguments, stdin=subprocess.PIPE)) as talking:
            assert talking.stdin is not None
            assert talking.stdout is not None
            assert "first" in talking.stdout.readline()
            talking.stdin.write("bob: an answer\n/history\n")
            out, _ = talking.communicate()
            assert "an answer" in out  # a copy is kept
            assert talking.returncode == 0
        assert ann.unread("ann") == 1
    with ended(ann.start("chat", *arguments, "--ack", stdin=subprocess.PIPE)) as talking:
        assert talking.stdout is not None
        assert "first" in talking.stdout.readline()
        talking.communicate()
        assert talking.returncode == 0
    assert ann.unread("ann") == 0


def test_what_was_not_printed_before_a_kill_is_not_acknowledged(ann: CommandLine) -> None:
    count, size = 12, 15_000  # more than a pipe holds
    with Client(ann.place) as bob:
        bob.login("bob", PASSWORD)
        for number in range(count):
            bob.send("ann", f"{number}:{'x' * size}")
    with ended(ann.start("chat", "--ack", stdin=subprocess.PIPE)) as talking:
        wait_until(lambda: ann.unread("ann") < count, "the first to be acknowledged")
        talking.kill()
        assert talking.stdout is not None
        printed = talking.stdout.read().count("\n")
    left = ann.unread("ann")
    assert count - left <= printed < count
    again = ann.run("watch", "--count", str(left)).stdout
    assert f"bob: {count - left}:" in again.splitlines()[0]


def test_a_reader_that_goes_away_ends_the_talk(ann: CommandLine) -> None:
    for arguments in ((), ("--ack",)):
        with ended(ann.start("chat", *arguments, stdin=subprocess.PIPE)) as talking:
            assert talking.stdout is not None
            talking.stdout.close()
            assert talking.wait(30) == 0
    with (
        Path("/dev/full").open("w") as nowhere,
        ended(ann.start("chat", stdin=subprocess.PIPE, stdout=nowhere)) as full,
    ):
        ann.run("send", "ann", "nowhere", "--user", "bob")
        assert full.wait(30) == 1
    assert ann.unread("ann") == 1


def test_the_commands(ann: CommandLine) -> None:
    ann.run("send", "ann", "--lines", "--user", "bob", input="one\ntwo\nthree\n")
    with ended(ann.start("chat", stdin=subprocess.PIPE)) as talking:
        assert talking.stdin is not None
        assert talking.stdout is not None
        for text in ("one", "two", "three"):
            assert talking.stdout.readline().endswith(f"  bob: {text}\n")
        out, told = talking.communicate("/help\n/status\n/delete 2 9-8\n/history 1\n/history\n")
    assert talking.returncode == 0
    shown = out.splitlines()
    assert shown[0].startswith(f"ann at {ann.place}: ")
    assert [line.rpartition(" ")[2] for line in shown[1:]] == ["three", "one", "three"]
    for word in COMMANDS:
        assert f"\n{word}" in told
    assert "1 message deleted" in told
    assert "there are older ones" in told


def test_json(ann: CommandLine) -> None:
    ann.run("send", "bob", "hello bob")
    objects = ann.json("chat", "--user", "bob", input="/accounts\n/status\n/history\n")
    mail = [each for each in objects if "body" in each]
    assert {"username": "ann"} in objects
    assert {"username", "position", "unread", "receipts"} in [set(each) for each in objects]
    assert {each["body"] for each in mail} == {"hello bob"}


@pytest.mark.parametrize(
    "line",
    [
        "/history x",
        "/history 0",
        "/delete",
        "/delete 1-99999",
        "/to",
        "/query",
        "/msg bob",
        "/search",
    ],
)
def test_a_command_that_is_used_wrong_is_exit_code_2(ann: CommandLine, line: str) -> None:
    result = ann.run("chat", input=f"{line}\n", code=2)
    assert f"{line.split(maxsplit=1)[0]} takes" in result.stderr


def test_log_out_and_delete_account(ann: CommandLine) -> None:
    assert "ann is logged out of" in ann.run("chat", input="/logout\n").stderr
    ann.run("status", "--user", "ann", code=3)
    # There is nobody to ask, so nothing is deleted, nor is another conversation chosen.
    result = ann.run("chat", "--user", "bob", input="/delete-account\n", code=2)
    assert "there is no terminal to ask at" in result.stderr
    ann.run("status", "--user", "bob")
    ann.run("send", "bob", "hello", "--user", "bob")
    result = ann.run("chat", "--user", "bob", input="/switch\n", code=2)
    assert "there is no terminal to ask at" in result.stderr


def test_while_the_server_is_away_no_line_is_read(tmp_path: Path) -> None:
    place = f"unix:{tmp_path}/socket"
    twinline = CommandLine(tmp_path, place)
    serve = ("serve", "--listen", place, "--store", f"sqlite:{tmp_path}/chat.db")
    with ended(twinline.start(*serve)) as server:
        assert server.stdout is not None
        server.stdout.readline()
        twinline.register("bob", "ann")
        with ended(twinline.start("chat", "bob", stdin=subprocess.PIPE)) as talking:
            assert talking.stdin is not None
            assert talking.stderr is not None
            talking.stdin.write("before\n")
            talking.stdin.flush()
            wait_until(lambda: twinline.bodies("bob") == ["before"], "the first line")
            server.kill()
            server.wait(30)
            assert talking.stderr.readline().startswith("twinline: reconnecting")
            talking.stdin.write("while away\nand more\n")
            talking.stdin.close()
            with ended(twinline.start(*serve)) as again:
                assert again.stdout is not None
                again.stdout.readline()
                assert talking.wait(30) == 0
                assert twinline.bodies("bob") == ["before", "while away", "and more"]


def test_whoever_is_not_logged_in_is_told_so(ann: CommandLine) -> None:
    with Client(ann.place) as elsewhere:
        elsewhere.login("ann", PASSWORD)
        elsewhere.delete_account(PASSWORD)
    assert "log in again" in ann.run("chat", input="", code=3).stderr
    assert "nobody is logged in" in ann.run("chat", input="", code=3).stderr
