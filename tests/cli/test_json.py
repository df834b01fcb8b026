"""What every command prints with `--json`, compared with its documented shape."""

import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from admin_server import administered
from cli_server import CommandLine, ended, running_server
from cli_tree import command_of, every_command
from json_shapes import PRINTED, fields, inner_models
from pydantic import BaseModel

from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.console.shapes import DemoStep, Failure
from twinline.cli.settings.model import Settings
from twinline.core.errors import ERROR_BY_CODE

Lines = list[str]


@pytest.fixture
def ann(tmp_path: Path) -> Iterator[CommandLine]:
    """Ann is the one who acts; bob has one message of hers."""
    with administered() as served:
        twinline = CommandLine(tmp_path, served.endpoint)
        twinline.environment["TWINLINE_ADMIN_LISTEN"] = served.place
        twinline.register("bob", "ann")
        twinline.run("send", "bob", "hello é")
        yield twinline


def has_shape(line: str, model: type[BaseModel]) -> bool:
    """Return whether a line is such an object, with all of its keys and no other."""
    keys = json.loads(line)
    if set(keys) != {name for name, *_ in fields(model)}:
        return False
    model.model_validate_json(line, strict=True)
    return True


def printed(command: str, *arguments: str) -> Callable[[CommandLine, Path], Lines]:
    def run(twinline: CommandLine, _: Path) -> Lines:
        return twinline.run(*command.split(), *arguments, "--json").stdout.splitlines()

    return run


def of_a_store(command: str, *arguments: str) -> Callable[[CommandLine, Path], Lines]:
    def run(twinline: CommandLine, folder: Path) -> Lines:
        del twinline.environment["TWINLINE_ADMIN_LISTEN"]  # it is the other server's
        place = f"unix:{folder}/s"
        file = str(folder / "chat.db")
        server = twinline.start("serve", "--listen", place, "--store", f"sqlite:{file}")
        with ended(server):
            assert server.stdout is not None
            server.stdout.readline()
            server.send_signal(signal.SIGTERM)
            assert server.wait(10) == 0
        more = [str(folder / each) for each in arguments]
        return twinline.run("store", command, file, *more, "--json").stdout.splitlines()

    return run


def serve(twinline: CommandLine, folder: Path) -> Lines:
    del twinline.environment["TWINLINE_ADMIN_LISTEN"]  # it is the other server's
    places = ("tcp://127.0.0.1:0", f"unix:{folder}/s")
    server = twinline.start("serve", "--json", *(f"--listen={place}" for place in places))
    with ended(server):
        assert server.stdout is not None
        lines = [server.stdout.readline() for _ in places]
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0
        assert server.stdout.read() == ""
    first, second = map(json.loads, lines)
    assert first["endpoint"].startswith("tcp://127.0.0.1:")
    assert first["endpoint"] != places[0]
    assert second["endpoint"] == places[1]
    return lines


def chat(twinline: CommandLine, _: Path) -> Lines:
    twinline.run("send", "ann", "to myself")
    talk = twinline.run(
        "chat", "--json", input="/accounts b*\n/status\n/quit\n"
    ).stdout.splitlines()
    return [line for line in talk if "body" not in line]


def new_password(twinline: CommandLine, folder: Path) -> Lines:
    file = folder / "new"
    file.write_text("another horse\n")
    return printed("change-password", "--new-password-file", str(file))(twinline, folder)


def with_invitation(*words: str) -> Callable[[CommandLine, Path], Lines]:
    def run(twinline: CommandLine, folder: Path) -> Lines:
        (made,) = twinline.json("admin", "invite", "--note", "é")
        more = [made["number"]] if "withdraw" in words else []
        return printed(" ".join(words), *more)(twinline, folder)

    return run


def export(twinline: CommandLine, folder: Path) -> Lines:
    file = str(folder / "bob.jsonl")
    of_the_file = printed("admin export", "bob", "--output", file)(twinline, folder)
    return printed("admin export", "bob")(twinline, folder) + of_the_file


def reload(twinline: CommandLine, _: Path) -> Lines:
    return twinline.run("admin", "reload", "--json", code=1).stdout.splitlines()


def trace(twinline: CommandLine, folder: Path) -> Lines:
    (sent,) = twinline.json("send", "bob", "here")
    return printed("trace", sent["message_id"])(twinline, folder)


RUNS: Mapping[str, Callable[[CommandLine, Path], Lines]] = {
    "demo": printed("demo", "--once"),
    "serve": serve,
    "config check": lambda ann, folder: (
        (folder / "t.toml").write_text("insecure = true\n"),
        printed("config check", str(folder / "t.toml"))(ann, folder),
    )[1],
    "config explain": printed("config explain", "listen"),
    "register": printed("register", "carol"),
    "login": printed("login", "bob"),
    "logout": printed("logout"),
    "status": printed("status"),
    "receipts": lambda ann, folder: [
        *printed("receipts")(ann, folder),
        *printed("receipts", "off")(ann, folder),
    ],
    "accounts": printed("accounts"),
    "blocked": lambda ann, folder: (
        printed("block", "bob")(ann, folder),
        printed("blocked")(ann, folder),
    )[1],
    "block": printed("block", "bob"),
    "unblock": printed("unblock", "bob"),
    "change-password": new_password,
    "delete-account": printed("delete-account", "--yes"),
    "chat": chat,
    "send": printed("send", "bob", "two"),
    "watch": printed("watch", "--user", "bob", "--count", "1"),
    "history": lambda ann, folder: [
        *printed("history", "--user", "bob")(ann, folder),
        *printed("history", "--with", "bob")(ann, folder),
    ],
    "conversations": lambda ann, folder: [
        *printed("conversations")(ann, folder),
        *printed("conversations", "--user", "bob")(ann, folder),
    ],
    "store add-account": lambda ann, folder: printed(
        "store add-account", str(folder / "new.db"), "dan"
    )(ann, folder),
    "store check": of_a_store("check"),
    "store backup": of_a_store("backup", "copy.db"),
    "store copy": of_a_store("copy", "moved.db"),
    "store restore": of_a_store("restore", "new.db"),
    "store migrate": of_a_store("migrate"),
    "store stats": of_a_store("stats"),
    "ping": printed("ping"),
    "verify": printed("verify", "--duration", "0.3", "--senders", "1", "--mailboxes", "1"),
    "bench": printed("bench", "--quick", "--only", "bytes", "--store", "memory:"),
    "admin accounts": printed("admin accounts"),
    "admin sessions": printed("admin sessions", "bob"),
    "admin kick": printed("admin kick", "bob"),
    "admin disable": printed("admin disable", "bob"),
    "admin enable": printed("admin enable", "bob"),
    "admin reset-password": printed("admin reset-password", "bob"),
    "admin quota": printed("admin quota", "bob", "7"),
    "admin delete": printed("admin delete", "bob", "--yes"),
    "admin export": export,
    "admin invite": printed("admin invite"),
    "admin invitations": with_invitation("admin", "invitations"),
    "admin withdraw": with_invitation("admin", "withdraw"),
    "admin drain": printed("admin drain"),
    "admin reload": reload,
    "admin log-level": printed("admin log-level"),
    "top": printed("top", "--once", "--interval", "0.2"),
    "trace": trace,
    "completion": printed("completion", "fish"),
}


def test_every_command_has_a_shape_and_a_run() -> None:
    commands = {
        " ".join(words)
        for words in every_command()
        if not isinstance(command_of(words), click.Group)
    }
    assert set(PRINTED) == commands
    assert set(RUNS) | {"config show"} == commands


@pytest.fixture(autouse=True)
def _few_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a bench make few accounts, for each costs a password's hash."""
    monkeypatch.setattr("twinline.cli.bench.plan.PAIRS", 2)
    monkeypatch.setattr("twinline.cli.bench.plan._UNWATCHED", 2)


@pytest.mark.timeout(300)  # a loaded machine takes its time
@pytest.mark.skipif(sys.platform != "linux", reason="bench needs epoll")
@pytest.mark.parametrize("command", RUNS)
def test_a_command_prints_its_shape(ann: CommandLine, tmp_path: Path, command: str) -> None:
    lines = RUNS[command](ann, tmp_path)
    assert lines
    for line in lines:
        assert line.isascii()
        assert any(has_shape(line, model) for model in PRINTED[command].models), line


def test_config_show_prints_an_object_for_each_setting(ann: CommandLine) -> None:
    (settings,) = ann.json("config", "show")
    assert set(settings) == set(Settings.model_fields)
    (model,) = PRINTED["config show"].models
    assert all(has_shape(json.dumps(each), model) for each in settings.values())
    assert settings["connect"] == {
        "value": [ann.place],
        "source": "environment TWINLINE_CONNECT",
    }
    assert settings["listen"]["value"] == ["tcp://127.0.0.1:7767"]


def test_the_demo_tells_the_same_story_to_a_script(ann: CommandLine) -> None:
    steps = [DemoStep(**step) for step in ann.json("demo", "--once")]
    assert [step.event for step in steps[:3]] == ["listening", "registered", "registered"]
    sent = [(step.username, step.peer, step.body) for step in steps if step.event == "sent"]
    got = [(step.peer, step.username, step.body) for step in steps if step.event == "received"]
    assert sorted(sent, key=str) == sorted(got, key=str)
    assert [step.username for step in steps if step.event == "offline"] == ["bob"]


def test_every_field_of_every_shape_has_a_meaning() -> None:
    for shape in PRINTED.values():
        for model in shape.models:
            for each in (model, *inner_models(model)):
                assert all(words and kind for _, words, kind in fields(each))


# -- errors -----------------------------------------------------------------------------


def failure(twinline: CommandLine, *arguments: str, code: int, **options: Any) -> Failure:
    result = twinline.run(*arguments, "--json", code=code, **options)
    line = result.stderr.splitlines()[-1]
    assert has_shape(line, Failure)
    return Failure.model_validate_json(line)


def test_an_error_is_an_object_on_stderr(ann: CommandLine) -> None:
    assert failure(ann, "send", "nobody", "hi", code=3) == Failure(
        error="no_such_user", message="there is no such user", exit_code=3, retry_after_ms=None
    )
    assert failure(ann, "status", "--user", "carol", code=3).error == "not_logged_in"
    assert failure(ann, "send", code=2).error == "usage"
    gone = ("ping", "--connect", "tcp://127.0.0.1:1")
    assert failure(ann, *gone, code=4).error == "unreachable"
    idle = ("watch", "--count", "2", "--timeout", "0.1")
    assert failure(ann, *idle, code=5).error == "timed_out"
    assert failure(ann, "store", "stats", "/nowhere/x.db", code=1).error == "failure"


def test_the_reason_of_a_line_that_was_not_sent_is_the_servers(ann: CommandLine) -> None:
    found = failure(ann, "send", "nobody", "--lines", code=3, input="one\n")
    assert found.error == "no_such_user"
    assert found.message == "line 1 was not sent: there is no such user (0 sent before)"


def test_a_word_that_stands_for_an_exit_code_is_no_error_code_of_the_servers() -> None:
    assert not {code.word for code in ExitCode} & ERROR_BY_CODE.keys()


def test_a_script_can_tell_who_is_blocked_from_who_is_not_logged_in(ann: CommandLine) -> None:
    ann.run("block", "bob")
    bob = ("--user", "bob")
    assert failure(ann, "send", "ann", "hi", *bob, code=3).error == "refused"
    long = "x" * 20_000
    assert failure(ann, "send", "ann", long, *bob, code=3).error == "message_too_long"
    lines = ("send", "ann", "--lines", *bob)
    assert failure(ann, *lines, code=3, input=long).error == "message_too_long"
    ann.run("admin", "kick", "bob")
    assert failure(ann, "status", *bob, code=3).error == "session_expired"
    assert failure(ann, "status", *bob, code=3).error == "not_logged_in"


def test_how_long_to_wait_is_told(tmp_path: Path) -> None:
    with running_server(sends_per_second=1) as endpoint:
        twinline = CommandLine(tmp_path, endpoint)
        twinline.register("ann")
        lines = "x\n" * 30
        arguments = ("send", "ann", "--lines", "--timeout", "0.5")
        found = failure(twinline, *arguments, code=3, input=lines)
    assert found.error == "rate_limited"
    assert found.retry_after_ms


def test_a_word_after_two_dashes_is_no_flag(ann: CommandLine) -> None:
    assert ann.run("send", "nobody", "--", "--json", code=3).stderr == (
        "twinline: there is no such user\n"
    )
