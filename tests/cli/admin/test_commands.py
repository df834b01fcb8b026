"""`twinline admin` and `twinline trace`, against a real server."""

import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from admin_server import Administered, administered, reply
from cli_server import CommandLine
from fault_proxy import FaultProxy
from services import PASSWORD
from waiting import Call

from twinline.cli.admin.client import AdminTarget
from twinline.cli.server.admin import replies, requests
from twinline.cli.server.reload import Outcome
from twinline.core import admin as core_admin
from twinline.core.errors import Busy
from twinline.core.protocol import Login
from twinline.core.session import Session
from twinline.core.store import MailboxPolicy
from twinline.stores.memory import MemoryStore
from twinline.stores.rules import LOOK_THROUGH_SECONDS
from twinline.transports.client import TimedOut
from twinline.transports.client.client import Client

NEW = "another horse"


class Operator(CommandLine):
    """The command line of somebody who may use the admin socket.

    Attributes:
        served: the server.
    """

    def __init__(self, home: Path, served: Administered) -> None:
        super().__init__(home, served.endpoint)
        self.served = served
        self.environment["TWINLINE_ADMIN_LISTEN"] = served.place

    def does(self, *words: str) -> list[dict]:
        """Run a command of `admin` with --json, and return what it prints."""
        return self.json("admin", *words)

    def send(self, sender: str, to: str, body: str) -> str:
        """Send a message, and return its id."""
        return str(self.json("send", to, body, "--user", sender)[0]["message_id"])


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    with administered() as served:
        operator = Operator(tmp_path, served)
        operator.register("bob", "ann")
        yield operator


# -- accounts ---------------------------------------------------------------------------


def test_accounts_are_listed_page_by_page(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = operator.served.server.service
    for number in range(2 * requests.PAGE + 5):
        service.add_account(f"x{number:03}", PASSWORD)
    operator.send("ann", "bob", "hällo")
    every = operator.does("accounts")
    assert [each["username"] for each in every] == sorted(each["username"] for each in every)
    assert len(every) == 2 * requests.PAGE + 7
    bob = next(each for each in every if each["username"] == "bob")
    assert (bob["sessions"], bob["unread"], bob["messages"], bob["bytes"]) == (1, 1, 1, 6)
    assert (bob["enabled"], bob["must_change"], bob["quota"]) == (True, False, None)
    assert [each["address"] for each in bob["addresses"]] == ["127.0.0.1"]
    assert [each["username"] for each in operator.does("accounts", "x05?")] == [
        f"x05{digit}" for digit in range(5)
    ]
    table = operator.run("admin", "accounts", "[ab]*", code=0).stdout
    assert table == ""  # a bracket is a bracket
    titles, *rows = operator.run("admin", "accounts", "b*").stdout.splitlines()
    assert titles.split()[:4] == ["ACCOUNT", "STATE", "SESSIONS", "UNREAD"]
    assert [row.split() for row in rows] == [["bob", "enabled", "1", "1", "1", "6", "-"]]
    assert max(map(len, (titles, *rows))) <= 80


def test_sessions_are_listed_and_ended(operator: Operator) -> None:
    operator.run("login", "bob")
    assert len(operator.does("sessions", "bob")) == 2
    assert operator.run("admin", "sessions", "bob").stdout.count("opened ") == 2
    assert operator.run("admin", "kick", "bob").stderr == "2 sessions were ended of bob\n"
    assert operator.run("admin", "sessions", "bob").stdout == ""
    assert "has ended; log in again" in operator.run("status", "--user", "bob", code=3).stderr
    operator.run("status", "--user", "ann")


def test_an_account_is_disabled_and_enabled(operator: Operator) -> None:
    assert operator.does("disable", "BOB") == [{"username": "bob", "enabled": False}]
    told = operator.run("login", "bob", code=3).stderr
    assert told == "twinline: the operator of this server has disabled this account\n"
    assert "disabled" in operator.run("admin", "accounts", "bob").stdout
    assert operator.run("admin", "enable", "bob").stderr == "bob is enabled\n"
    operator.run("login", "bob")


def test_quotas_are_set(operator: Operator) -> None:
    assert operator.does("quota", "bob", "1") == [{"username": "bob", "quota": 1}]
    operator.send("ann", "bob", "one")
    assert "full" in operator.run("send", "bob", "two", "--user", "ann", code=3).stderr
    assert operator.run("admin", "quota", "bob", "default").stderr.endswith(
        "as the setting has it\n"
    )
    operator.send("ann", "bob", "two")
    for wrong in ("0", "-1", "many", "1" * 20, "²"):
        operator.run("admin", "quota", "bob", "--", wrong, code=2)


def test_a_deletion_is_confirmed(operator: Operator) -> None:
    assert "--yes" in operator.run("admin", "delete", "bob", code=2).stderr
    assert operator.does("delete", "bob", "--yes") == [{"username": "bob"}]
    assert "no such user" in operator.run("admin", "delete", "bob", "--yes", code=3).stderr
    assert [each["username"] for each in operator.does("accounts")] == ["ann"]


def test_a_one_time_password_is_changed_at_login(operator: Operator, tmp_path: Path) -> None:
    once = operator.run("admin", "reset-password", "bob").stdout.strip()
    assert once not in operator.run("admin", "accounts", "--json").stdout
    operator.environment["TWINLINE_PASSWORD"] = once
    # Without a terminal there must be a file, and nothing is opened before.
    refused = operator.run("login", "bob", code=2).stderr
    assert "--new-password-file" in refused
    (tmp_path / "new").write_text(f"{NEW}\n")
    operator.run("login", "bob", "--new-password-file", str(tmp_path / "new"))
    operator.environment["TWINLINE_PASSWORD"] = NEW
    # It is not asked for again, and stays.
    (tmp_path / "new").write_text("a third horse\n")
    operator.run("login", "bob", "--new-password-file", str(tmp_path / "new"))
    operator.run("login", "bob")
    assert operator.does("accounts", "bob")[0]["must_change"] is False


def test_a_one_time_password_is_changed_although_the_reply_is_lost(operator: Operator) -> None:
    once = operator.does("reset-password", "bob")[0]["password"]
    service, logins = operator.served.server.service, 0
    handle = service.handle
    with FaultProxy(operator.served.endpoint) as proxy:

        def losing(session: Session, request: Any) -> Any:
            nonlocal logins
            reply = handle(session, request)
            if isinstance(request, Login):
                logins += 1
                if request.new_password is not None:
                    proxy.cut()
            return reply

        service.handle = losing  # type: ignore[method-assign]
        files = ("--password-file", "-", "--new-password-file", "-")
        where = ("--connect", str(proxy.endpoint))
        operator.run("login", "bob", *files, *where, input=f"{once}\n{NEW}\n")
        assert logins == 3  # one is told that it is a one-time password
        assert operator.json("status", "--user", "bob", *where)[0]["username"] == "bob"
    assert operator.does("accounts", "bob")[0]["must_change"] is False


def test_both_passwords_may_come_from_stdin(operator: Operator) -> None:
    once = operator.does("reset-password", "bob")[0]["password"]
    files = ("--password-file", "-", "--new-password-file", "-")
    short = operator.run("login", "bob", *files, input=f"{once}\nshort\n", code=3).stderr
    assert "8 to 128" in short
    operator.run("login", "bob", *files, input=f"{once}\n{NEW}\n")
    operator.run("login", "bob", "--password-file", "-", input=f"{NEW}\n")


def test_an_export_has_all_that_is_kept_of_an_account(operator: Operator, tmp_path: Path) -> None:
    for number in range(3):
        operator.send("ann", "bob", f"number {number}")
    operator.send("bob", "ann", "bob keeps a copy")
    operator.run("send", "--user", "bob", "--no-copy", "ann", "not bob's")
    operator.run("block", "--user", "bob", "ann")
    operator.run("receipts", "--user", "bob", "off")
    lines = operator.run("admin", "export", "bob").stdout.splitlines()
    account, session, *messages = map(json.loads, lines)
    assert (account["kind"], account["username"], account["unread"]) == ("account", "bob", 3)
    assert (account["receipts"], account["blocked"]) == (False, ["ann"])
    assert session["kind"] == "session"
    assert [(each["kind"], each["body"], each["sender"], each["to"]) for each in messages] == [
        *(("message", f"number {number}", "ann", None) for number in range(3)),
        ("message", "bob keeps a copy", "bob", "ann"),
    ]
    file = tmp_path / "bob.jsonl"
    told = operator.does("export", "bob", "--output", str(file))
    assert told == [{"username": "bob", "path": str(file), "messages": 4}]
    assert file.read_text().splitlines() == lines
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    # What is there already stays as it is.
    refused = operator.run("admin", "export", "ann", "--output", str(file), code=2).stderr
    assert "exists" in refused
    assert file.read_text().splitlines() == lines


def test_each_export_of_mail_is_in_the_log_with_who_did_it(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(core_admin, "MAX_PAGE", 2)
    for number in range(5):
        operator.send("ann", "bob", f"number {number}")
    caplog.set_level("INFO")

    def told() -> list[tuple[str, str]]:
        """Return what the log has of exports, and forget it."""
        found = [
            (each.fields["username"], each.fields["told"])  # type: ignore[attr-defined]
            for each in caplog.records
            if getattr(each, "event", "") == "admin_action"
            and each.fields["action"] == "export"  # type: ignore[attr-defined]
            and each.fields["by"].startswith("uid ")  # type: ignore[attr-defined]
        ]
        caplog.clear()
        return found

    assert len(operator.run("admin", "export", "bob").stdout.splitlines()) == 7
    assert told() == [("bob", "what is kept of account bob is exported")]
    account_id = operator.served.ask("export", username="bob")["account_id"]
    told()
    with operator.served.connect() as peer:  # each connection is of this process
        for after, is_told in ((0, False), (2, False), (2, True), (4, False), (0, True)):
            asked = {"op": "export_mail", "account_id": account_id, "after": after}
            peer.sendall(json.dumps(asked).encode() + b"\n")
            assert reply(peer)["messages"][0]["seq"] == after + 1
            words = f"mail of account bob after seq {after} is exported"
            assert told() == ([("bob", words)] if is_told else [])


def test_an_export_that_fails_leaves_no_half_of_a_file(
    operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> None:
        raise RuntimeError("the store has gone mad")

    monkeypatch.setattr(operator.served.server.service.store.mailboxes, "read", read)
    operator.run("admin", "export", "bob", "--output", str(tmp_path / "half"), code=3)
    assert not (tmp_path / "half").exists()


# -- invitations ------------------------------------------------------------------------


def test_an_invitation_lets_one_account_be_created(tmp_path: Path) -> None:
    with administered(registration="invitation") as served:
        operator = Operator(tmp_path, served)
        uninvited = operator.run("register", "carol", code=3).stderr
        assert "--invitation" in uninvited
        token = operator.run("admin", "invite", "--note", "for carol").stdout.strip()
        ((number, note),) = [
            (each["number"], each["note"]) for each in operator.does("invitations")
        ]
        assert note == "for carol"
        assert token not in operator.run("admin", "invitations").stdout
        operator.run("register", "carol", "--invitation", token)
        assert operator.does("invitations") == []
        operator.run("register", "dan", "--invitation", token, code=3)
        assert "no invitation" in operator.run("admin", "withdraw", number, code=3).stderr
        (other,) = operator.does("invite", "--hours", "0.5")
        assert other["expires_at"] - other["created_at"] == 1_800_000
        assert operator.does("withdraw", other["number"])[0]["number"] == other["number"]
        operator.run("register", "dan", "--invitation", other["token"], code=3)
        for wrong in (("--hours", "0"), ("--hours", "nan"), ("--note", "x" * 201)):
            operator.run("admin", "invite", *wrong, code=2)


# -- messages ---------------------------------------------------------------------------


def test_a_trace_tells_the_operator_where_a_message_is(operator: Operator) -> None:
    sent = operator.send("ann", "bob", "where am I")
    (found,) = operator.json("trace", sent)
    assert (found["state"], found["recipient"], found["seq"], found["sender"]) == (
        "waiting",
        "bob",
        1,
        "ann",
    )
    assert "not acknowledged yet" in operator.run("trace", sent, "--to", "bob").stdout
    operator.run("watch", "--user", "bob", "--count", "1")
    (found,) = operator.json("trace", sent)
    assert found["state"] == "acked"
    assert found["acked_at"] >= found["sent_at"]
    assert "acknowledged 2" in operator.run("trace", sent).stdout
    assert "nothing is known" in operator.run("trace", sent, "--to", "ann", code=1).stderr
    assert "no such user" in operator.run("trace", sent, "--to", "eve", code=3).stderr
    unknown = operator.run("trace", "x", "--json", code=1)
    assert json.loads(unknown.stdout)["state"] == "unknown"


@pytest.mark.parametrize(
    ("kept", "state", "words"),
    [
        (1_000, "deleted", "not in the mailbox of bob any more: deleted by its owner"),
        (0, "gone", "not in the mailbox of bob any more: expired from the history, or deleted"),
    ],
)
def test_a_trace_tells_what_was_deleted_from_what_may_have_expired(
    tmp_path: Path, kept: int, state: str, words: str
) -> None:
    with (
        administered(MemoryStore(MailboxPolicy(history_messages=kept))) as served,
        Client(served.endpoint) as bob,
    ):
        operator = Operator(tmp_path, served)
        operator.register("ann")
        bob.create_account("bob", PASSWORD)
        sent = operator.send("ann", "bob", "where am I")
        if kept:
            bob.delete_messages([1])
        else:
            bob.ack(1)
        for asks_as_sender in (False, True):
            if asks_as_sender:
                del operator.environment["TWINLINE_ADMIN_LISTEN"]
            asked = ("trace", sent, "--to", "bob", "--user", "ann")
            assert words in operator.run(*asked).stdout
            assert operator.json(*asked)[0]["state"] == state


def test_a_trace_tells_its_sender_less(operator: Operator) -> None:
    sent = operator.send("ann", "bob", "where am I")
    del operator.environment["TWINLINE_ADMIN_LISTEN"]
    assert "--to NAME" in operator.run("trace", sent, "--user", "ann", code=2).stderr
    (found,) = operator.json("trace", sent, "--user", "ann", "--to", "bob")
    assert (found["state"], found["recipient"], found["seq"]) == ("waiting", "bob", None)
    assert (
        "nothing is known"
        in operator.run("trace", sent, "--to", "bob", "--user", "bob", code=1).stderr
    )
    operator.run("watch", "--user", "bob", "--count", "1")
    asked = ("trace", sent, "--user", "ann", "--to", "bob")
    assert "acknowledged" in operator.run(*asked).stdout
    operator.run("receipts", "off", "--user", "bob")
    assert "no more is told" in operator.run(*asked).stdout
    (found,) = operator.json(*asked)
    assert (found["state"], found["recipient"], found["acked_at"]) == ("accepted", "bob", None)


# -- the server -------------------------------------------------------------------------


def test_the_server_is_told_to_drain(operator: Operator) -> None:
    assert operator.does("drain") == [{"node": None, "connections": 0}]
    assert operator.run("admin", "drain").stderr == "the server drains 0 connections\n"
    assert operator.served.drained == 2


def test_a_reload_tells_what_came_of_it(operator: Operator) -> None:
    failed = operator.run("admin", "reload", code=1)
    assert failed.stdout == "it was read again: as new\nthat goes on with what it had: bad\n"
    operator.served.outcomes = operator.served.outcomes[:1]
    assert operator.does("reload") == [
        {"node": None, "what": "it", "told": "as new", "kept": None, "needs_restart": []}
    ]
    operator.served.outcomes = [Outcome("file", "quieter", waits=("listen", "store"))]
    assert operator.run("admin", "reload").stdout == (
        "file was read again: quieter\nthese wait for a restart: listen, store\n"
    )
    operator.served.outcomes = []
    assert "nothing" in operator.run("admin", "reload").stderr


def test_the_log_level_is_changed_while_it_serves(
    operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    caplog.handler.setLevel("DEBUG")
    assert operator.does("log-level", "debug") == [{"node": None, "level": "debug"}]
    operator.run("admin", "log-level")
    assert "was asked for on the admin socket" in caplog.text
    operator.run("admin", "log-level", "warning")
    caplog.clear()
    assert operator.run("admin", "log-level").stdout == "warning\n"
    assert caplog.text == ""
    operator.run("admin", "log-level", "loud", code=2)


def test_a_node_that_does_not_answer_is_named(operator: Operator, tmp_path: Path) -> None:
    """Here it is one that was killed, whose socket's file is left, or that has made none yet."""
    folder = tmp_path / "sockets"
    folder.mkdir()
    place = f"unix:{folder}/admin"
    operator.environment["TWINLINE_ADMIN_LISTEN"] = place
    (folder / "admin.0").symlink_to(operator.served.path)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{folder}/admin.1")
    for words in (("log-level",), ("log-level", "info"), ("reload",)):
        operator.served.outcomes = [Outcome("it", "as new")]
        done = operator.run("admin", *words, code=1)
        assert done.stdout  # of the one that has answered
        assert done.stderr == (
            f"twinline: not every node has answered: nobody listens on {folder}/admin.1 "
            "(Connection refused)\n"
        )
    once = ("top", "--once", "--interval", "0.2")
    done = operator.run(*once, code=1)
    assert done.stdout.startswith("0 connections of 0 accounts, ")
    assert done.stderr.startswith("twinline: not every node has answered: nobody listens on ")
    (shown,) = map(json.loads, operator.run(*once, "--json", code=1).stdout.splitlines())
    assert len(shown["servers"]) == 1
    assert shown["silent"] == [f"nobody listens on {folder}/admin.1 (Connection refused)"]
    assert operator.run("admin", "drain").stderr == "the server drains 0 connections\n"
    (folder / "admin.1").unlink()
    assert operator.run("admin", "log-level").stdout == "info\n"
    file = tmp_path / "twinline.toml"
    file.write_text(f'nodes = 2\nstore = "postgresql://db/chat"\nadmin_listen = "{place}"\n')
    del operator.environment["TWINLINE_ADMIN_LISTEN"]
    missing = operator.run("admin", "log-level", "--config", str(file), code=1).stderr
    assert missing.endswith(f"nobody listens on {folder}/admin.1 (No such file or directory)\n")


# -- how it gets there ------------------------------------------------------------------


def test_where_there_is_no_socket_it_says_so(tmp_path: Path) -> None:
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    assert "--admin unix:/path" in twinline.run("admin", "accounts", code=2).stderr
    assert "--admin unix:/path" in twinline.run("top", "--once", code=2).stderr
    place = f"unix:{tmp_path}/none"
    for words in (("admin", "accounts"), ("admin", "drain"), ("top", "--once"), ("trace", "x")):
        told = twinline.run(*words, "--admin", place, code=4).stderr
        assert "nobody listens on" in told
        assert "no server runs with this admin_listen" in told
    for wrong in ("tcp://127.0.0.1:1", "unix:relative?transport=binary", "/run/admin"):
        twinline.run("admin", "accounts", "--admin", wrong, code=2)


def test_a_server_that_does_not_answer_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(f"{tmp_path}/deaf")
        deaf.listen()
        place = f"unix:{tmp_path}/deaf"
        told = twinline.run("admin", "kick", "bob", "--admin", place, "--timeout", "0.2", code=5)
    assert "has not answered within 0.2 s" in told.stderr


def test_what_takes_the_server_longer_is_waited_for_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert requests.Trace.seconds > LOOK_THROUGH_SECONDS
    monkeypatch.setattr(requests.Trace, "seconds", 30.0)
    target = AdminTarget(f"unix:{tmp_path}/slow", 0.1)
    with socket.socket(socket.AF_UNIX) as slow:
        slow.bind(f"{tmp_path}/slow")
        slow.listen()
        with pytest.raises(TimedOut):
            target.ask(requests.Kick(username="bob"), replies.Kicked)
        asked = Call(lambda: target.ask(requests.Trace(message_id="0"), replies.Traced))
        slow.accept()[0].close()  # that of the one who has gone
        connected, _ = slow.accept()
        with connected:
            connected.recv(1 << 16)
            connected.settimeout(0.3)
            with pytest.raises(TimeoutError):
                connected.recv(1)  # it has not hung up
            connected.sendall(b'{"error":{"code":"busy","message":"x","retryable":true}}\n')
            with pytest.raises(Busy):
                asked.outcome()
