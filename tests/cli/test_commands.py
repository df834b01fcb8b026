"""The client commands against a real server, each with its exit codes."""

import json
import re
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_server import CommandLine, running_server
from click.testing import CliRunner
from listening import socket_path
from servers import HELLO, ScriptedServer, Site
from services import PASSWORD
from waiting import wait_until

from twinline.cli.client.sessions import SessionFile
from twinline.cli.client.target import Target
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.main import main
from twinline.core.errors import NotLoggedIn
from twinline.core.protocol import Done, Hello, Reply, Request
from twinline.stores.sqlite import SqliteStore
from twinline.transports.client import Client, StateKind
from twinline.transports.client.backends.threads import ThreadBackend
from twinline.transports.client.engine.connection import Connection
from twinline.transports.client.engine.watcher import THREAD_NAME
from twinline.transports.endpoints import Endpoint

NOBODY = "tcp://127.0.0.1:1"
"""Where nobody listens."""


@pytest.fixture
def twinline(tmp_path: Path) -> Iterator[CommandLine]:
    """The command line of someone whose server is up."""
    with running_server() as endpoint:
        yield CommandLine(tmp_path, endpoint)


# -- usage ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["sned"],
        ["send"],
        ["completion"],
        ["completion", "tcsh"],
        ["watch", "--on-failure", "never\n"],
        ["send", "bob", "hi", "--lines"],
        ["send", "bob", "hi", "--colour"],
        ["watch", "--count", "0"],
        ["history", "--limit", "x"],
        ["ping", "--timeout", "0"],
        ["ping", "--password", "secret"],
        ["login", "ann", "--password", "secret"],
    ],
)
def test_a_wrong_command_line_is_exit_code_2(tmp_path: Path, arguments: list[str]) -> None:
    result = CommandLine(tmp_path, "tcp://127.0.0.1:1").run(*arguments, code=2)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1


def test_a_command_that_is_misspelt_is_guessed(tmp_path: Path) -> None:
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    assert (
        "there is no command sned; did you mean send? (see" in twinline.run("sned", code=2).stderr
    )
    assert "did you mean" not in twinline.run("zzz", code=2).stderr


# -- accounts and sessions --------------------------------------------------------------


def test_registering_logs_in_and_keeps_the_session(twinline: CommandLine) -> None:
    result = twinline.run("register", "Ann")
    assert result.stdout == ""
    assert result.stderr == f"logged in as ann at {twinline.place}, 0 unread\n"
    assert stat.S_IMODE(twinline.session_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(twinline.session_file.parent.stat().st_mode) == 0o700
    assert twinline.json("status") == [
        {"username": "ann", "position": 0, "unread": 0, "receipts": True}
    ]
    assert twinline.run("status").stdout == (
        f"ann at {twinline.place}: 0 unread, acknowledged up to 0\n"
    )


def test_no_token_and_no_password_is_ever_printed(twinline: CommandLine) -> None:
    results = [twinline.run("register", "ann", "--json"), twinline.run("login", "ann", "--json")]
    kept = json.loads(twinline.session_file.read_text())
    token = kept["endpoints"][twinline.place]["sessions"]["ann"]["token"]
    for result in results:
        assert json.loads(result.stdout) == {"username": "ann", "position": 0, "unread": 0}
        assert token not in result.output
        assert PASSWORD not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["login", "ann"],
        ["register", "ANN", "--invitation", "hunter2"],
        ["delete-account", "--yes"],
        ["change-password", "--new-password-file", "-"],
        ["store", "stats", "postgresql://ann:hunter2@127.0.0.1:1/db"],
        ["store", "stats", "redis://:hunter2@127.0.0.1:1"],
        ["config", "check", "file", "--store", "redis://ann:hunter2@[bad"],
    ],
)
def test_a_traceback_shows_no_secret(twinline: CommandLine, arguments: list[str]) -> None:
    twinline.run("register", "ann")
    (token,) = twinline.state.glob("**/*.json")
    environment = {**twinline.environment, "TWINLINE_PASSWORD": "hunter2 is wrong"}
    done = CliRunner().invoke(main, ["--debug", *arguments], input="hunter2\n", env=environment)
    assert done.exit_code != 0
    assert "Traceback" in done.stderr
    assert "hunter2" not in done.output
    assert not set(re.findall(r"[\w-]{43}", token.read_text())) & set(
        re.findall(r"[\w-]{43}", done.output)
    )


def test_the_last_login_is_current_and_user_picks_another(twinline: CommandLine) -> None:
    twinline.register("ann", "bob")
    assert twinline.json("status")[0]["username"] == "bob"
    assert twinline.json("status", "--user", "ann")[0]["username"] == "ann"
    twinline.run("login", "ann")
    assert twinline.json("status")[0]["username"] == "ann"
    result = twinline.run("status", "--user", "carol", code=3)
    assert "carol is not logged in at" in result.stderr


def test_logout_ends_the_session_here_and_there(twinline: CommandLine) -> None:
    twinline.register("ann")
    kept = twinline.session_file.read_text()
    assert "ann is logged out" in twinline.run("logout").stderr
    assert "nobody is logged in" in twinline.run("status", code=3).stderr
    twinline.session_file.write_text(kept)
    ended = twinline.run("status", code=3)
    assert "has ended; log in again with 'twinline login ann'" in ended.stderr
    # The dead session is forgotten, so the next command does not try it again.
    assert "nobody is logged in" in twinline.run("status", code=3).stderr


@pytest.fixture
def site() -> Iterator[Site]:
    """A server that can be restarted, with its store or without."""
    with socket_path() as path, Site(f"unix:{path}") as site:
        yield site


def test_an_account_that_ended_with_its_server_is_said_to_be_gone(
    tmp_path: Path, site: Site
) -> None:
    twinline = CommandLine(tmp_path, site.endpoint)
    twinline.register("ann")
    site.stop(lose_store=True)
    site.start()
    gone = twinline.run("login", "ann", code=3).stderr
    assert f"ann at {twinline.place} is gone: this server keeps accounts in memory" in gone
    assert "is wrong" not in gone
    (failure,) = [json.loads(twinline.run("login", "ann", "--json", code=3).stderr)]
    assert (failure["error"], "is gone" in failure["message"]) == ("bad_credentials", True)
    ended = twinline.run("send", "ann", "hi", code=3).stderr
    assert "was started again; 'twinline register ann' creates it anew" in ended
    # The session is forgotten by now, and without it no more is known than what the server is.
    wrong = twinline.run("login", "ann", code=3).stderr
    assert "the username or the password is wrong (this server keeps accounts in memory" in wrong
    twinline.register("ann")


def test_an_account_whose_session_is_good_is_not_said_to_be_gone(twinline: CommandLine) -> None:
    twinline.register("ann")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(twinline.environment, "TWINLINE_PASSWORD", "another horse")
        wrong = twinline.run("login", "ann", code=3).stderr
    assert wrong == "twinline: the username or the password is wrong\n"
    twinline.run("status")


def test_an_account_of_a_store_that_lasts_is_not_said_to_be_gone(tmp_path: Path) -> None:
    with (
        SqliteStore(tmp_path / "mail.db") as store,
        socket_path() as path,
        Site(f"unix:{path}", store=store) as site,
    ):
        twinline = CommandLine(tmp_path, site.endpoint)
        twinline.register("ann")
        with Client(twinline.place) as elsewhere:
            elsewhere.login("ann", PASSWORD)
            elsewhere.delete_account(PASSWORD)
        wrong = twinline.run("login", "ann", code=3).stderr
        assert wrong == "twinline: the username or the password is wrong\n"
        ended = twinline.run("status", code=3).stderr
        assert ended.endswith("has ended; log in again with 'twinline login ann'\n")


def test_logging_out_of_a_session_that_has_ended_is_no_failure(twinline: CommandLine) -> None:
    twinline.register("ann")
    kept = twinline.session_file.read_text()
    twinline.run("logout")
    twinline.session_file.write_text(kept)
    assert "the session had ended already" in twinline.run("logout").stderr
    twinline.run("logout", code=3)


def test_what_the_server_refuses_is_exit_code_3(twinline: CommandLine) -> None:
    twinline.register("ann")
    assert "taken" in twinline.run("register", "ann", code=3).stderr
    twinline.run("logout")  # with a kept session this machine knows that there is an ann
    twinline.environment["TWINLINE_PASSWORD"] = "wrong horse"
    wrong = twinline.run("login", "ann", code=3).stderr
    assert wrong == twinline.run("login", "nobody", code=3).stderr
    twinline.environment["TWINLINE_PASSWORD"] = "short"
    assert "8 to 128" in twinline.run("register", "bob", code=3).stderr
    assert "a username is" in twinline.run("register", "ann\u202e", code=3).stderr


def test_passwords_come_from_a_file_or_stdin(twinline: CommandLine, tmp_path: Path) -> None:
    twinline.environment["TWINLINE_PASSWORD"] = "not this one"
    file = tmp_path / "password"
    file.write_text("from a file\nnot a part\n")
    twinline.run("register", "ann", "--password-file", str(file))
    twinline.run("login", "ann", "--password-file", "-", input="from a file\n")
    twinline.run("login", "ann", code=3)
    assert (
        "cannot read" in twinline.run("login", "ann", "--password-file", "missing", code=2).stderr
    )
    assert "is empty" in twinline.run("login", "ann", "--password-file", "-", code=2).stderr
    file.write_bytes(b"\xff\n")
    assert "not UTF-8" in twinline.run("login", "ann", "--password-file", str(file), code=2).stderr


def test_the_prompt_asks_twice_for_a_new_password_and_names_the_server(
    twinline: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    del twinline.environment["TWINLINE_PASSWORD"]
    monkeypatch.delenv("TWINLINE_PASSWORD", raising=False)
    asked: list[str] = []
    answers: list[str] = [PASSWORD, "another one", PASSWORD, PASSWORD, PASSWORD]

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return answers.pop(0)

    monkeypatch.setattr("getpass.getpass", ask)
    assert "differ" in twinline.run("register", "ann", code=2).stderr
    twinline.run("register", "ann")
    twinline.run("login", "ann")
    again = "The same again: "
    new = f"New password for ann at {twinline.place}: "
    assert asked == [new, again, new, again, f"Password for ann at {twinline.place}: "]


def test_changing_the_password_keeps_this_session_and_ends_the_others(
    twinline: CommandLine, tmp_path: Path
) -> None:
    twinline.register("bob", "ann")
    file = tmp_path / "new"
    file.write_text("another horse\n")
    with Client(twinline.place) as other:
        other.login("bob", PASSWORD)
        change = ("change-password", "--user", "bob", "--new-password-file", str(file))
        assert twinline.run(*change).stderr == "the password of bob is changed\n"
        # Before that a request may find its connection broken, and not know why.
        wait_until(lambda: other.state.kind is StateKind.LOGGED_OUT, "the session to end")
        with pytest.raises(NotLoggedIn):
            other.status()
    assert twinline.json("status", "--user", "bob")[0]["username"] == "bob"
    twinline.run("login", "bob", code=3)
    # With both on stdin the first line is the one that holds.
    both = ("--user", "bob", "--password-file", "-", "--new-password-file", "-")
    twinline.run("change-password", *both, input="another horse\na third horse\n")
    twinline.run("login", "bob", "--password-file", "-", input="a third horse\n")


def test_a_new_password_that_cannot_be(twinline: CommandLine, tmp_path: Path) -> None:
    assert "nobody is logged in" in twinline.run("change-password", code=3).stderr
    twinline.register("ann")
    file = tmp_path / "new"
    change = ("change-password", "--new-password-file", str(file))
    assert "cannot read" in twinline.run(*change, code=2).stderr
    file.write_text("short\n")
    assert "8 to 128" in twinline.run(*change, code=3).stderr
    file.write_text("another horse\n")
    twinline.environment["TWINLINE_PASSWORD"] = "wrong horse"
    twinline.run(*change, code=3)
    twinline.environment["TWINLINE_PASSWORD"] = PASSWORD
    twinline.run("login", "ann")


def test_the_prompt_asks_for_the_password_and_twice_for_the_new_one(
    twinline: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    twinline.register("ann")
    asked: list[str] = []
    answers = [PASSWORD, "another horse", "another horse", "another horse", "a third one"]

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return answers.pop(0)

    monkeypatch.setattr("getpass.getpass", ask)
    del twinline.environment["TWINLINE_PASSWORD"]
    monkeypatch.delenv("TWINLINE_PASSWORD", raising=False)
    twinline.run("change-password")
    new = f"New password for ann at {twinline.place}: "
    assert asked == [f"Password for ann at {twinline.place}: ", new, "The same again: "]
    twinline.environment["TWINLINE_PASSWORD"] = "another horse"
    assert "differ" in twinline.run("change-password", code=2).stderr


def test_accounts_are_listed_page_after_page(twinline: CommandLine) -> None:
    with Client(twinline.place) as client:
        for number in range(120):
            client.create_account(f"user{number:03}", PASSWORD)
            client.logout()
    twinline.register("ann")
    lines = twinline.run("accounts").stdout.splitlines()
    assert lines == ["ann", *(f"user{number:03}" for number in range(120))]
    assert twinline.json("accounts", "*r00?")[-1] == {"username": "user009"}
    assert twinline.run("accounts", "nobody*").stdout == ""


def test_deleting_an_account(twinline: CommandLine) -> None:
    twinline.register("bob", "ann")
    twinline.run("send", "bob", "one")
    twinline.run("send", "bob", "two")
    assert "say --yes" in twinline.run("delete-account", "--user", "bob", code=2).stderr
    refused = twinline.run("delete-account", "--user", "bob", "--yes", code=3)
    assert refused.stderr == (
        "twinline: 2 undelivered messages would be lost: "
        "read them with 'twinline watch', or say --force\n"
    )
    twinline.environment["TWINLINE_PASSWORD"] = "wrong horse"
    twinline.run("delete-account", "--user", "bob", "--yes", "--force", code=3)
    twinline.environment["TWINLINE_PASSWORD"] = PASSWORD
    twinline.run("delete-account", "--user", "bob", "--yes", "--force")
    assert twinline.run("accounts").stdout == "ann\n"
    assert "bob is not logged in" in twinline.run("status", "--user", "bob", code=3).stderr
    twinline.run("login", "bob", code=3)


def test_the_account_that_was_asked_about_is_the_one_that_goes(
    twinline: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another terminal logs in as somebody else while this one asks for the password."""
    twinline.register("ann", "bob")
    sessions = SessionFile(twinline.session_file)
    here = Endpoint.parse(twinline.place)

    def read(*_: object) -> str:
        sessions.keep([here], sessions.find([here], "ann"))
        return PASSWORD

    monkeypatch.setattr("twinline.cli.client.accounts.read_password", read)
    assert "bob is deleted" in twinline.run("delete-account", "--yes").stderr
    assert twinline.run("accounts").stdout == "ann\n"


# -- reaching the server ----------------------------------------------------------------


def test_nobody_listening_is_exit_code_4_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as was:
        place = f"tcp://127.0.0.1:{was.getsockname()[1]}"
    twinline = CommandLine(tmp_path, place)
    result = twinline.run("ping", code=4)
    assert result.stderr == (
        f"twinline: cannot reach {place}: Connection refused (--wait keeps trying)\n"
    )
    waited = twinline.run("ping", "--wait", "--timeout", "0.2", code=4)
    assert "was not reachable in time" in waited.stderr
    twinline.run("ping", "--connect", f"unix:{tmp_path}/nobody", code=4)


def test_a_server_that_never_answers_is_exit_code_4_in_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        place = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        CommandLine(tmp_path, place).run("ping", "--timeout", "0.2", code=4)


@pytest.mark.parametrize("spoken", ["jsonl", "binary"])
def test_ping_on_either_transport(twinline: CommandLine, spoken: str) -> None:
    lines = twinline.json("ping", "--count", "2", "--transport", spoken)
    assert [line["number"] for line in lines] == [1, 2]
    assert all(line["milliseconds"] > 0 for line in lines)
    twinline.run("ping", "--connect", f"{twinline.place}?transport={spoken}")
    assert "median" in twinline.run("ping").stderr


def test_the_flag_names_the_transport_before_the_endpoint_and_that_before_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TWINLINE_CLIENT_TRANSPORT", "auto")
    plain, named = "tcp://127.0.0.1:1", "tcp://127.0.0.1:1?transport=binary"
    flag = {"client_transport": "jsonl"}

    def spoken(**options: object) -> list[str | None]:
        return [each.transport for each in Target.of({"connect": (named, plain), **options}).spoken]

    assert spoken(**flag) == ["jsonl", "jsonl"]
    assert spoken() == ["binary", "auto"]
    monkeypatch.delenv("TWINLINE_CLIENT_TRANSPORT")
    assert spoken() == ["binary", "jsonl"]


# -- several servers --------------------------------------------------------------------


def test_a_command_uses_whichever_server_works_and_the_session_is_good_at_all(
    twinline: CommandLine,
) -> None:
    both = ("--connect", NOBODY, "--connect", twinline.place)
    for _ in range(3):  # in an order of chance
        pinged = twinline.run("ping", "--count", "1", *both)
        assert pinged.stdout.startswith(f"{twinline.place} answered in ")
    twinline.run("register", "ann", *both)
    twinline.run("send", "ann", "hello", *both)
    kept = json.loads(twinline.session_file.read_text())
    assert set(kept["endpoints"]) == {NOBODY, twinline.place}
    assert twinline.bodies("ann") == ["hello"]  # at the one that the variable names
    twinline.environment["TWINLINE_CONNECT"] = f"{NOBODY}, {twinline.place}"
    assert twinline.run("status").stdout.startswith(f"ann at {twinline.place}: 1 unread")
    twinline.run("logout")
    assert json.loads(twinline.session_file.read_text())["endpoints"] == {}


def test_where_no_server_works_each_is_named(tmp_path: Path) -> None:
    twinline = CommandLine(tmp_path, f"{NOBODY} unix:/nowhere")
    failed = twinline.run("ping", code=ExitCode.UNREACHABLE)
    assert failed.stderr.startswith("twinline: cannot reach any server: ")
    assert f"{NOBODY}: Connection refused" in failed.stderr
    assert "unix:/nowhere: No such file or directory" in failed.stderr
    assert failed.stderr.endswith(" (--wait keeps trying)\n")


def test_a_ping_tells_which_node_answered(tmp_path: Path) -> None:
    def answer(request: Request) -> Reply:
        named = HELLO.model_copy(update={"node": "east\x1b"})
        return named if isinstance(request, Hello) else Done()

    with ScriptedServer(answer) as server:
        twinline = CommandLine(tmp_path, server.endpoint)
        shown = twinline.run("ping", "--count", "1").stdout
        assert shown.startswith(f"{server.endpoint} (east␛) answered in ")
        (line,) = twinline.json("ping", "--count", "1")
    assert (line["endpoint"], line["node"]) == (str(server.endpoint), "east\x1b")


def test_a_command_that_reads_no_mail_opens_no_watch_line(
    twinline: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    twinline.register("ann")
    connections: list[Connection] = []
    connect = ThreadBackend.connect

    async def counted(backend: ThreadBackend, *arguments: Any) -> Connection:
        connections.append(await connect(backend, *arguments))
        return connections[-1]

    monkeypatch.setattr(ThreadBackend, "connect", counted)
    twinline.run("send", "ann", "hello")
    assert len(connections) == 1
    assert THREAD_NAME not in {thread.name for thread in threading.enumerate()}
    assert twinline.json("status")[0]["unread"] == 1


# -- messages ---------------------------------------------------------------------------


@pytest.fixture
def ann(twinline: CommandLine) -> CommandLine:
    """Ann and bob have accounts, and ann is the one who acts."""
    twinline.register("bob", "ann")
    return twinline


def bodies(twinline: CommandLine, *arguments: str) -> list[str]:
    # The time runs from the beginning, where a busy machine may take its own for the first message.
    seconds = "20" if "--count" in arguments else "1"
    command = ("watch", "--user", "bob", "--timeout", seconds, *arguments)
    return [message["body"] for message in twinline.json(*command)]


def test_send_takes_an_argument_or_the_whole_of_stdin(ann: CommandLine) -> None:
    assert ann.run("send", "bob", "as an argument").output == ""
    ann.run("send", "bob", input="two\nlines\n\n")
    ann.run("send", "bob", input=b"windows\r\n")
    ann.run("send", "bob", "--", "--lines")
    assert bodies(ann) == ["as an argument", "two\nlines\n", "windows", "--lines"]


def test_send_prints_ids_in_json(ann: CommandLine) -> None:
    (sent,) = ann.json("send", "bob", "hello")
    assert sorted(sent) == ["message_id", "n", "sent_at"]
    (received,) = ann.json("watch", "--user", "bob", "--count", "1")
    assert received == {"seq": 1, "sender": "ann", "body": "hello", "to": None} | sent | {"n": None}
    (copy,) = ann.json("history", "--user", "ann", "--with", "bob")
    assert copy == {"seq": 1, "sender": "ann", "body": "hello", "to": "bob"} | sent


def test_send_lines(ann: CommandLine) -> None:
    assert len(ann.json("send", "bob", "--lines", input="one\ntwo\r\n three")) == 3
    assert bodies(ann) == ["one", "two", " three"]
    ann.run("send", "bob", "--lines", input="")


@pytest.mark.parametrize(
    ("data", "reason", "code"),
    [
        (b"one\ntwo\n\nfour\n", "the message is empty", 2),
        (b"one\ntwo\n\xff\nfour\n", "the message is not UTF-8", 2),
        (b"one\ntwo\n" + b"x" * 16385 + b"\nfour\n", "the message is too long: 16,385 bytes", 3),
    ],
)
def test_a_line_that_fails_is_named_and_those_before_are_counted(
    ann: CommandLine, data: bytes, reason: str, code: int
) -> None:
    error = ann.run("send", "bob", "--lines", input=data, code=code).stderr
    assert error.startswith(f"twinline: line 3 was not sent: {reason}")
    assert error.endswith("(2 sent before)\n")
    assert bodies(ann) == ["one", "two"]


def test_what_cannot_be_sent(ann: CommandLine) -> None:
    assert "empty" in ann.run("send", "bob", "", code=2).stderr
    assert "empty" in ann.run("send", "bob", input="\n", code=2).stderr
    assert "not UTF-8" in ann.run("send", "bob", input=b"\xff", code=2).stderr
    assert "not UTF-8" in ann.run("send", "bob", "\udcff", code=2).stderr
    assert "no such user" in ann.run("send", "nobody", "hi", code=3).stderr
    long = ann.run("send", "bob", input="x" * 16385, code=3).stderr
    assert "16,385 bytes, and the server takes 16,384" in long
    ann.run("send", "bob", input="x" * 16384)


def test_send_lines_keeps_to_the_rate_that_the_server_allows(tmp_path: Path) -> None:
    with running_server(sends_per_second=20) as endpoint:
        twinline = CommandLine(tmp_path, endpoint)
        twinline.register("ann")
        lines = "".join(f"{number}\n" for number in range(24))
        assert len(twinline.json("send", "ann", "--lines", input=lines)) == 24


def test_watch_acks_what_it_prints_unless_told_not_to(ann: CommandLine) -> None:
    for text in ("one", "two", "three"):
        ann.run("send", "bob", text)
    assert bodies(ann, "--no-ack") == ["one", "two", "three"]
    assert bodies(ann, "--count", "1") == ["one"]
    assert ann.json("status", "--user", "bob")[0] == {
        "username": "bob",
        "position": 1,
        "unread": 2,
        "receipts": True,
    }
    assert bodies(ann) == ["two", "three"]
    assert bodies(ann) == []


def test_watch_that_sees_too_few_is_exit_code_5(ann: CommandLine) -> None:
    ann.run("send", "bob", "one")
    result = ann.run("watch", "--user", "bob", "--count", "2", "--timeout", "0.1", code=5)
    assert result.stderr == "twinline: timed out: 1 of 2 messages came\n"
    assert result.stdout.count("\n") == 1


def test_what_others_write_cannot_steer_the_terminal(ann: CommandLine) -> None:
    text = "\x1b]0;owned\x07 \u202egnp.exe\nforged"
    ann.run("send", "bob", text)
    shown = ann.run("watch", "--user", "bob", "--count", "1", "--no-ack").stdout
    assert shown.endswith("  ann: ␛]0;owned␇ <U+202E>gnp.exe␊forged\n")
    assert shown in ann.run("history", "--user", "bob").stdout
    assert bodies(ann) == [text]


def test_history_goes_back_page_by_page(ann: CommandLine) -> None:
    ann.run("send", "bob", "--lines", input="".join(f"{number}\n" for number in range(1, 9)))
    result = ann.run("history", "--user", "bob", "--limit", "3")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["6", "7", "8"]
    assert result.stderr == "there are older ones: --before 6\n"
    older = ann.json("history", "--user", "bob", "--before", "6")
    assert [message["seq"] for message in older] == [1, 2, 3, 4, 5]
    assert ann.run("history", "--user", "bob", "--before", "1").output == ""


def test_both_sides_of_a_conversation_are_kept(ann: CommandLine) -> None:
    ann.run("register", "carol", input=f"{PASSWORD}\n{PASSWORD}\n")
    for sender, to, body in (
        ("ann", "bob", "hello"),
        ("bob", "ann", "hi"),
        ("carol", "ann", "ho"),
        ("ann", "bob", "?"),
    ):
        ann.run("send", "--user", sender, to, body)
    ann.run("send", "--user", "ann", "--no-copy", "bob", "unseen")
    ann.run("send", "--user", "ann", "carol", "--lines", input="one\ntwo\n")

    def shown(*arguments: str) -> list[str]:
        lines = ann.run(*arguments, "--user", "ann").stdout.splitlines()
        return [re.sub(r" *\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", "|", line).strip() for line in lines]

    with_bob = ["1|→ bob: hello", "2|← bob: hi", "4|→ bob: ?"]
    assert shown("history", "--with", "bob") == with_bob
    assert shown("history", "--with", "BOB", "--limit", "2") == with_bob[1:]
    assert shown("history", "--with", "bob", "--before", "4") == with_bob[:2]
    assert shown("history") == ["2|bob: hi", "3|carol: ho"]
    assert shown("conversations") == ["6      1 unread|→ carol: two", "4      1 unread|→ bob: ?"]
    first = ann.run("conversations", "--user", "ann", "--limit", "1")
    assert first.stderr == "there are others: --before 6\n"
    assert shown("conversations", "--before", "6") == ["4      1 unread|→ bob: ?"]
    (carol, bob) = ann.json("conversations", "--user", "ann")
    assert (carol["username"], bob["username"], bob["last"]["to"]) == ("carol", "bob", "bob")
    assert [each["body"] for each in ann.json("history", "--user", "bob", "--with", "ann")] == [
        "hello", "hi", "?", "unseen",
    ]  # fmt: skip


def test_of_two_accounts_of_one_name_each_conversation_is_read(tmp_path: Path) -> None:
    with running_server(free_deleted_names=True) as endpoint:
        ann = CommandLine(tmp_path, endpoint)
        ann.register("ann", "carol")
        for number in (1, 2):
            ann.register("bob")
            ann.run("send", "--user", "bob", "ann", f"of bob {number}")
            ann.run("send", "--user", "ann", "bob", f"to bob {number}")
            if number == 1:
                ann.run("delete-account", "--user", "bob", "--yes", "--force")
        ann.run("send", "--user", "carol", "ann", "hi")
        talks = ann.json("conversations", "--user", "ann")
        assert [each["username"] for each in talks] == ["carol", "bob", "bob"]
        carol, now, before = [each["account"] for each in talks]
        lines = ann.run("conversations", "--user", "ann").stdout.splitlines()
        assert [line.strip() for line in lines[2::2]] == [f"account {now}", f"account {before}"]
        assert len(lines) == 5
        assert carol not in "".join(lines)

        def bodies(*arguments: str) -> list[str]:
            found = ann.json("history", "--user", "ann", "--with", "bob", *arguments)
            return [each["body"] for each in found]

        assert bodies() == bodies("--account", now) == ["of bob 2", "to bob 2"]
        assert bodies("--account", before) == ["of bob 1", "to bob 1"]
        assert bodies("--account", "0" * 32) == []
        refused = ann.run("history", "--account", before, code=2).stderr
        assert "it needs --with" in refused
        refused = ann.run("history", "--with", "bob", "--account", "a b", code=3).stderr
        assert "the field 'account' is wrong" in refused


def test_conversations_ask_again_where_a_page_is_bounded_by_bytes(ann: CommandLine) -> None:
    others = [f"friend{number}" for number in range(6)]
    ann.register(*others)
    for name in others:
        ann.run("send", "--user", "ann", name, "x" * 16_000)
    found = ann.json("conversations", "--user", "ann", "--limit", "5")
    assert [each["username"] for each in found] == [*reversed(others)][:5]


def test_who_is_blocked_is_told_so(ann: CommandLine) -> None:
    assert ann.run("block", "BOB", "--user", "ann").stderr == "bob is blocked\n"
    ann.run("block", "bob", "--user", "ann")
    assert ann.run("blocked", "--user", "ann").stdout == "bob\n"
    refused = ann.run("send", "--user", "bob", "ann", "hi", code=3)
    assert refused.stderr == "twinline: the recipient takes no messages from you\n"
    assert ann.json("history", "--user", "bob", "--with", "ann") == []
    assert ann.run("unblock", "bob", "--user", "ann").stderr == "bob is not blocked\n"
    assert ann.run("blocked", "--user", "ann").stdout == ""
    ann.run("send", "--user", "bob", "ann", "hi")
    assert "there is no such user" in ann.run("block", "nobody", code=3).stderr
    assert "nobody can block their own account" in ann.run("block", "ann", code=3).stderr


def test_receipts_are_shown_and_set(ann: CommandLine) -> None:
    assert ann.run("receipts").stdout == "receipts are on\n"
    assert "receipts" not in ann.run("status").stdout
    assert ann.run("receipts", "off").stderr == "receipts are off\n"
    assert ann.run("receipts").stdout == "receipts are off\n"
    assert ann.run("status").stdout.endswith(", receipts off\n")
    assert ann.json("receipts", "on") == [{"receipts": True}]
    assert ann.json("status")[0]["receipts"] is True
    assert "'maybe' is not one of" in ann.run("receipts", "maybe", code=2).stderr


def test_history_asks_again_where_a_page_is_bounded_by_bytes(ann: CommandLine) -> None:
    ann.run("send", "bob", "--lines", input=("x" * 16000 + "\n") * 9)
    messages = ann.json("history", "--user", "bob", "--limit", "8")
    assert [message["seq"] for message in messages] == list(range(2, 10))


def test_a_text_of_several_words_wants_quotes(ann: CommandLine) -> None:
    found = ann.run("send", "bob", "hi", "there", "$HOME", "--timeout", "1", code=2)
    assert "the text is one argument, and these are 3: put it in quotes" in found.stderr
    assert "twinline send bob 'hi there $HOME'" in found.stderr
    assert ann.run("send", "bob", "--lines", "x", "y", input="z\n", code=2).stdout == ""
    assert ann.unread("bob") == 0
