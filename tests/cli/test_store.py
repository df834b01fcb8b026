"""`twinline store`: check, backup, migrate and stats, with a server in the file and without."""

import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from click.testing import CliRunner, Result
from services import PASSWORD
from store_samples import VERSION_1, account, draft, key, session
from waiting import join

from twinline.cli.main import main
from twinline.cli.server import store as store_commands
from twinline.core.errors import RegistrationClosed
from twinline.core.service import ChatService
from twinline.core.settings import Registration, ServiceSettings
from twinline.stores.sqlite import SqliteStore, StoreNotOpened
from twinline.stores.sqlite.schema import VERSION
from twinline.stores.sqlite.upkeep import backup, check

COPY = "INSERT INTO copies (box, seq, message_id, sender, peer_id, peer, sent_at, n, body) VALUES"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "chat.db") as store:
        for name in ("ann", "bob"):
            store.mailboxes.create(f"id-{name}")
            store.accounts.create(account(name))
        store.accounts.open_session(session("one"))
        for number in range(5):
            store.mailboxes.append("id-bob", draft(f"m{number}", send_id=f"{number}"))
        store.mailboxes.ack("id-bob", 2, now=1)
        yield store


@pytest.fixture
def path(store: SqliteStore) -> Path:
    """A file that no server has open."""
    store.close()
    return store.path


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["store", *map(str, arguments)])
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
    assert "Traceback" not in result.output
    return result


def run_json(*arguments: object, code: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", code=code).stdout)


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.executescript(statement)


def test_a_sound_file(store: SqliteStore) -> None:
    assert run("check", store.path).stdout == f"{store.path} is sound\n"
    sound = {"sound": True, "repaired": [], "faults": [], "notes": []}
    assert run_json("check", f"sqlite:{store.path}") == sound


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE mailboxes SET last = 4 WHERE last = 5", "beyond the last seq"),
        ("UPDATE mailboxes SET position = 6 WHERE last = 5", "beyond the last seq"),
        ("UPDATE mailboxes SET unread = 9 WHERE last = 5", "count of unread"),
        ("UPDATE mailboxes SET acked = 9 WHERE last = 5", "count of unread"),
        ("UPDATE mailboxes SET unread = 1 WHERE last = 0", "count of unread"),
        ("INSERT INTO messages VALUES (99, 1, 'x', 'ann', 'x', 1, '', 0, 1)", "in no mailbox"),
        ("INSERT INTO messages VALUES (1, 0, 'x', 'ann', 'x', 1, '', 0, 1)", "a seq below 1"),
        ("UPDATE mailboxes SET filed = last", "messages that are not found by conversation"),
        ("UPDATE messages SET filed = 1", "messages that are not found by conversation"),
        ("UPDATE messages SET sent_at = 'noon'", "cannot be read"),
        ("UPDATE messages SET n = 'noon'", "messages that cannot be read"),
        ("UPDATE mailboxes SET newest = 0", "higher n than the newest"),
        ("UPDATE mailboxes SET copies = 1 WHERE last = 5", "count of copies, receipts or"),
        ("UPDATE mailboxes SET receipts = 1 WHERE last = 5", "count of copies, receipts or"),
        ("UPDATE mailboxes SET blocked = 1 WHERE last = 5", "count of copies, receipts or"),
        (
            f"{COPY} (2, 1, 'x', 'b', 'y', 'y', 1, 1, ''); UPDATE mailboxes SET filed = last",
            "copies that are not found by conversation",
        ),
        (f"{COPY} (99, 1, 'x', 'bob', 'id-x', 'x', 1, 1, 'x')", "copies in no mailbox"),
        (f"{COPY} (2, 9, 'x', 'bob', 'id-x', 'x', 1, 1, 'x')", "beyond the last seq"),
        (f"{COPY} (2, 5, 'x', 'bob', 'id-x', 'x', 1, 1, 'x')", "seqs are used twice"),
        (f"{COPY} (2, 0, 'x', 'bob', 'id-x', 'x', 1, 1, 'x')", "copies that cannot be read"),
        (f"{COPY} (2, 1, 'x', 'bob', 'id-x', 'x', 'noon', 1, 'x')", "copies that cannot be read"),
        (
            f"{COPY} (2, 1, 'x', 'b', 'y', 'y', 1, 1, ''), (2, 2, 'x', 'b', 'y', 'y', 1, 1, '')",
            "has several copies of",
        ),
        ("INSERT INTO receipts VALUES (99, 'id-x', 'x', 1, 1, 1)", "receipts in no mailbox"),
        ("INSERT INTO receipts VALUES (2, 'id-x', 'x', 9, 1, 1)", "beyond the last seq"),
        ("INSERT INTO receipts VALUES (2, 'id-x', 'x', 5, 1, 1)", "seqs are used twice"),
        ("INSERT INTO receipts VALUES (2, 'id-x', 'x', 1, 1, 'noon')", "receipts that cannot"),
        ("INSERT INTO blocked VALUES (99, 'id-x', 'x')", "blocked in no mailbox"),
        ("UPDATE mailboxes SET oldest_ack = 7 WHERE last = 5", "oldest ack"),
        ("DELETE FROM acks", "oldest ack"),
        ("UPDATE acks SET position = 4", "acks beyond"),
        ("INSERT INTO dropped SELECT box FROM mailboxes", "dropped and still there"),
        ("DELETE FROM mailboxes WHERE account_id = 'id-ann'", "without a mailbox"),
        ("UPDATE send_ids SET box = 99", "send_ids of no mailbox"),
        ("UPDATE sessions SET username = 'bob'", "under another name"),
        ("UPDATE sessions SET account_id = 'x'", "sessions of no account"),
        ("UPDATE accounts SET enabled = 0", "sessions of accounts that are disabled"),
        ("UPDATE accounts SET enabled = 2", "neither enabled nor disabled"),
        ("UPDATE accounts SET must_change = 2", "whose password is of no kind"),
        ("UPDATE mailboxes SET quota = 0", "quota is no number above 0"),
        ("UPDATE mailboxes SET quota = 'many'", "quota is no number above 0"),
        ("INSERT INTO invitations VALUES (x'07', 1, 'never', '')", "invitations that cannot"),
    ],
)
def test_each_fault_is_found(path: Path, statement: str, says: str) -> None:
    change(path, statement)
    assert any(says in fault for fault in check(path).faults)
    result = run("check", path, code=1)
    assert f"{says}" in result.stdout
    assert result.stderr.splitlines()[-1].startswith("twinline: ")
    assert run("check", path, "--json", code=1).stdout.startswith('{"sound": false')


def test_what_a_crash_may_leave_is_a_note(path: Path) -> None:
    change(path, "DELETE FROM accounts WHERE username = 'bob'")
    assert "note: 1 mailboxes whose account is gone" in run("check", path).stdout


def test_broken_pages_are_found(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-4096:] = b"\xff" * 4096
    path.write_bytes(content)
    result = run("check", path, code=1)
    assert "SQLite: " in result.stdout or "malformed" in result.stderr


def test_a_backup_while_a_server_writes(store: SqliteStore, tmp_path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            store.mailboxes.append("id-ann", draft("x" * 2000))

    writing = threading.Thread(target=write)
    writing.start()
    try:
        for number in range(3):
            target = tmp_path / f"copy{number}.db"
            copied = run_json("backup", store.path, target)
            assert copied["bytes"] == target.stat().st_size
            assert check(target).faults == []
    finally:
        stop.set()
        join(writing)
    with SqliteStore(tmp_path / "copy0.db") as copy:
        assert copy.mailboxes.standing("id-bob") == store.mailboxes.standing("id-bob")
        assert copy.accounts.find_session(key("one")) == session("one")
    assert not list(tmp_path.glob("*.part*"))


def test_a_backup_overwrites_nothing_and_leaves_nothing_half(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    assert "was copied to" in run("backup", path, target).stderr
    before = target.read_bytes()
    assert "there is a file already" in run("backup", path, target, code=1).stderr
    assert target.read_bytes() == before
    run("backup", path, tmp_path / "no such folder" / "copy.db", code=1)

    def fail(_done: int, _total: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        backup(path, tmp_path / "other.db", fail)
    assert not list(tmp_path.glob("other*"))


def test_a_backup_keeps_away_from_what_is_another_s(path: Path, tmp_path: Path) -> None:
    # SQLite would take a log that lies about for the copy's own, and replay it.
    log = tmp_path / "copy.db-wal"
    log.write_bytes(b"a log")
    assert "copy.db-wal" in run("backup", path, tmp_path / "copy.db", code=1).stderr
    log.unlink()
    (tmp_path / "copy.db").symlink_to(tmp_path / "nowhere")
    run("backup", path, tmp_path / "copy.db", code=1)
    mine = tmp_path / "other.db.part"
    mine.write_bytes(b"mine")
    run("backup", path, tmp_path / "other.db")
    assert mine.read_bytes() == b"mine"
    assert (tmp_path / "other.db").stat().st_nlink == 1
    assert (tmp_path / "other.db").stat().st_mode & 0o777 == 0o600


def test_a_target_that_appears_meanwhile_is_not_replaced(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"

    def appear(done: int, total: int) -> None:
        if done == total:
            target.write_bytes(b"mine")

    with pytest.raises(FileExistsError):
        backup(path, target, appear)
    assert target.read_bytes() == b"mine"


def test_a_backup_where_there_are_no_links(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    run("backup", path, tmp_path / "copy.db")
    assert check(tmp_path / "copy.db").faults == []
    assert not list(tmp_path.glob("*.part"))


def test_stats_through_a_link_count_the_log(store: SqliteStore, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(store.path)
    assert run_json("stats", link) == run_json("stats", store.path)


def test_stats(store: SqliteStore) -> None:
    counted = run_json("stats", store.path)
    assert counted.pop("bytes") > 4096
    assert counted == {
        "accounts": 2,
        "sessions": 1,
        "mailboxes": 2,
        "messages": 5,
        "unread": 3,
        "schema_version": VERSION,
        "durability": "disk",
        "mail_bytes": 10,
        "largest": [size("bob", 5, 3, 10), size("ann", 0, 0, 0)],
    }
    assert run_json("stats", f"sqlite:{store.path}?synchronous=normal")["durability"] == "process"
    assert "unread          3" in run("stats", store.path).stdout


def size(username: str | None, messages: int, unread: int, mail_bytes: int) -> dict[str, object]:
    return {
        "username": username,
        "messages": messages,
        "unread": unread,
        "quota": 7 if messages == 2 else None,
        "mail_bytes": mail_bytes,
    }


def test_the_largest_mailboxes(store: SqliteStore) -> None:
    store.mailboxes.set_quota("id-ann", 7)
    store.mailboxes.append("id-ann", draft("é" * 1000))
    store.mailboxes.append("id-ann", draft("half a pair \ud800"))
    store.accounts.withdraw("id-bob", keep_name=False)
    ann, bob = size("ann", 2, 2, 2015), size(None, 5, 3, 10)
    for largest, expected in ((0, []), (1, [ann]), (9, [ann, bob])):
        counted = run_json("stats", store.path, "--largest", largest)
        assert (counted["mail_bytes"], counted["largest"]) == (2025, expected)
    told = run("stats", store.path).stdout.splitlines()[-3:]
    assert [" ".join(line.split()) for line in told] == [
        "mail bytes 2,025",
        "ann 2,015 bytes, 2 messages, 2 unread of 7",
        "(no account) 10 bytes, 5 messages, 3 unread",
    ]
    assert "sqlite:" not in run("stats", store.path, "--largest", "-1", code=2).stderr


def test_stats_of_a_store_with_nothing_in_it(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "new.db").close()
    counted = run_json("stats", tmp_path / "new.db")
    assert (counted["mail_bytes"], counted["largest"]) == (0, [])


def test_putting_a_backup_back(store: SqliteStore, tmp_path: Path) -> None:
    copied = tmp_path / "copy.db"
    run("backup", store.path, copied)
    told = run("restore", copied, store.path, code=1).stderr
    assert told.startswith(f"twinline: another server has {store.path} open")
    store.close()
    kept = tmp_path / "chat.db.replaced"
    restored = run_json("restore", copied, f"sqlite:{store.path}")
    assert restored == {
        "source": str(copied),
        "target": str(store.path),
        "replaced": str(kept),
        "bytes": store.path.stat().st_size,
    }
    for each in (store.path, kept, copied):
        run("check", each)
    for each in tmp_path.glob(f"{kept.name}*"):  # a reader leaves an empty log
        each.unlink()
    assert f"what it was before is in {kept}\n" in run("restore", copied, store.path).stderr
    new = tmp_path / "new.db"
    assert run("restore", copied, new).stderr == f"{new} is what {copied} was\n"
    assert "no such file" in run("restore", tmp_path / "missing.db", new, code=1).stderr


def test_what_cannot_be_read_is_no_mistake_in_the_command_line(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("backup", path, tmp_path / "there.db")
    monkeypatch.setattr("os.access", lambda *_, **__: False)  # for root can read anything
    for each in ("check", "stats", "migrate"):
        assert "cannot be read" in run(each, path, code=1).stderr
    assert "cannot be read" in run("backup", path, tmp_path / "copy.db", code=1).stderr
    assert "cannot be read" in run("restore", path, tmp_path / "copy.db", code=1).stderr


def test_a_file_where_nothing_can_be_written(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os_access = os.access
    monkeypatch.setattr(  # for root can write anywhere
        "os.access", lambda place, mode: place != path.parent and os_access(place, mode)
    )
    before = sorted(each.name for each in tmp_path.iterdir())
    assert run_json("check", path)["sound"]
    assert run_json("stats", path)["messages"] == 5
    assert sorted(each.name for each in tmp_path.iterdir()) == before
    copied = tmp_path / "more"
    copied.mkdir()
    run("backup", path, copied / "copy.db")
    with pytest.raises(StoreNotOpened, match="written while it was read"):
        backup(path, copied / "other.db", lambda _done, _total: os.utime(path, (7, 7)))
    log = tmp_path / "chat.db-wal"
    log.write_bytes(b"a log")
    refused = run("check", path, code=1).stderr
    assert "copy both to another folder" in refused
    log.unlink()


def test_a_version_that_never_was_is_not_sent_from_one_command_to_the_other(path: Path) -> None:
    change(path, "PRAGMA user_version = 0")
    for each in ("check", "stats", "migrate"):
        refused = run(each, path, code=1).stderr
        assert "has schema version 0, which is too old" in refused
        assert "twinline store migrate" not in refused


def test_what_is_missing_is_not_sound(path: Path) -> None:
    change(path, "CREATE TABLE last AS SELECT 1")  # so that what is cut is not the schema
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1_000)
    assert "is cut: 1,000 of its" in run("check", path, code=1).stderr


def test_a_file_without_a_table_is_not_sound(path: Path) -> None:
    change(path, "DROP TABLE send_ids")
    assert "fault: there is no table send_ids" in run("check", path, code=1).stdout


def test_odd_paths(path: Path, tmp_path: Path) -> None:
    for each in ("check", "stats", "migrate"):
        assert f"it is a folder, not a file: {tmp_path}" in run(each, tmp_path, code=1).stderr
        assert "the path of a store's file is empty" in run(each, "", code=2).stderr
    missing = tmp_path / "nowhere" / "y.db"
    refused = run("backup", path, missing, code=1).stderr
    assert refused == f"twinline: No such file or directory: {missing}\n"


def half_done(path: Path) -> None:
    """Leave what a creation and a deletion can leave, and an old program's damage."""
    change(path, "INSERT INTO mailboxes (account_id) VALUES ('never')")
    change(path, "INSERT INTO dropped VALUES (77)")
    change(path, "INSERT INTO messages VALUES (77, 1, 'm', 'ann', 'left', 1, '', 0, 1)")
    change(path, "INSERT INTO send_ids VALUES (77, 'id-ann', 'x', x'00', 'm', 1, 1, 1)")
    change(path, f"{COPY} (77, 2, 'm', 'x', 'id-x', 'x', 1, 1, 'x')")
    change(path, "INSERT INTO receipts VALUES (77, 'id-x', 'x', 3, 1, 1)")
    change(path, "INSERT INTO blocked VALUES (77, 'id-x', 'x')")
    change(path, "DELETE FROM mailboxes WHERE account_id = 'id-ann'")
    change(path, "INSERT INTO sessions VALUES (x'07', 'id-gone', 'gone', 1, 1)")
    change(path, "UPDATE accounts SET enabled = 0 WHERE username = 'bob'")
    change(path, "INSERT INTO sessions VALUES (x'08', 'id-bob', 'bob', 1, 1)")


def test_repairing(path: Path) -> None:
    half_done(path)
    assert run_json("check", path, code=1)["faults"] == [
        "1 accounts without a mailbox",
        "1 sessions of no account, or under another name than it has",
        "1 sessions of accounts that are disabled",
    ]
    repaired = run_json("check", path, "--repair")
    assert (repaired["sound"], repaired["faults"], repaired["notes"]) == (True, [], [])
    assert repaired["repaired"] == [
        "1 accounts had no mailbox, and have an empty one now",
        "1 sessions of no account were ended",
        "1 sessions of accounts that are disabled were ended",
        "1 mailboxes whose account is gone were dropped",
        "1 messages of mailboxes that are gone were swept",
        "1 send_ids of mailboxes that are gone were swept",
        "1 copies of mailboxes that are gone were swept",
        "1 receipts of mailboxes that are gone were swept",
        "1 blocked accounts of mailboxes that are gone were swept",
        "1 dropped mailboxes were noted as swept",
    ]
    assert run_json("check", path, "--repair")["repaired"] == []
    counted = run_json("stats", path)
    assert (counted["mailboxes"], counted["sessions"], counted["messages"]) == (2, 1, 5)
    half_done(path)
    assert "repaired: 1 accounts had no mailbox" in run("check", path, "--repair").stdout


def test_nothing_is_repaired_under_a_server_nor_on_broken_pages(
    store: SqliteStore, tmp_path: Path
) -> None:
    assert "another server has" in run("check", store.path, "--repair", code=1).stderr
    store.close()
    half_done(store.path)
    with closing(sqlite3.connect(store.path, isolation_level=None)) as connection:
        # An index that has not what its table has.
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'sessions_of_account'"
        ).fetchone()
    pages = bytearray(store.path.read_bytes())
    pages[4096 * (root - 1) + 3 : 4096 * (root - 1) + 5] = bytes(2)
    store.path.write_bytes(pages)
    before = store.path.read_bytes()
    broken = run_json("check", store.path, "--repair", code=1)
    assert broken["repaired"] == []
    assert broken["faults"]
    assert store.path.read_bytes() == before


def test_migrating(path: Path, tmp_path: Path) -> None:
    assert f"version {VERSION} already" in run("migrate", path).stderr
    old = Path(shutil.copy(VERSION_1, tmp_path / "old.db"))
    assert "twinline store migrate" in run("stats", old, code=1).stderr
    migrated = run_json("migrate", old)
    assert migrated == {"before": 1, "after": VERSION, "copy": f"{old}.version-1"}
    shutil.copy(VERSION_1, old)
    assert f"went from schema version 1 to {VERSION}" in run("migrate", old).stderr
    assert run_json("migrate", old) == {"before": VERSION, "after": VERSION, "copy": None}


def test_a_file_that_a_server_has_open_is_not_migrated(store: SqliteStore) -> None:
    assert "another server has" in run("migrate", store.path, code=1).stderr


def test_the_operator_adds_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINLINE_PASSWORD", PASSWORD)
    place = tmp_path / "new.db"
    run("add-account", place, "Ann")
    assert run_json("add-account", f"sqlite:{place}", "bob") == {"username": "bob"}
    assert "is taken" in run("add-account", place, "ann", code=3).stderr
    assert "a username is" in run("add-account", place, "-", code=3).stderr
    with SqliteStore(place) as store:
        assert "another server has" in run("add-account", place, "dan", code=1).stderr
        service = ChatService(store, ServiceSettings(registration=Registration.CLOSED))
        service.login(service.session(), "ann", PASSWORD)
        with pytest.raises(RegistrationClosed):
            service.create_account(service.session(), "dan", PASSWORD)


def test_an_empty_file_is_not_backed_up(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    result = run("backup", tmp_path / "empty.db", tmp_path / "copy.db", code=1)
    assert "holds no store yet" in result.stderr


def test_what_is_no_store(tmp_path: Path) -> None:
    for each in ("check", "stats", "migrate"):
        assert "no such file" in run(each, tmp_path / "missing.db", code=1).stderr
        assert "memory: cannot be looked after" in run(each, "memory:", code=2).stderr
        assert "is written sqlite:PATH" in run(each, "sqlite:", code=2).stderr
        (tmp_path / "empty.db").touch()
        assert "holds no store yet" in run(each, tmp_path / "empty.db", code=1).stderr
        (tmp_path / "text.db").write_text("a letter to my aunt, long enough for a header " * 9)
        assert "not a database" in run(each, tmp_path / "text.db", code=1).stderr
    assert not (tmp_path / "missing.db").exists()
    # What is not the scheme of a store is a path, as odd as it may be.
    assert "no such file" in run("stats", f"{tmp_path}/a:b", code=1).stderr


def test_the_group_tells_what_it_has() -> None:
    shown = run().stdout
    for each in ("check", "backup", "migrate", "stats"):
        assert f"\n  {each} " in shown


class Terminal(io.StringIO):
    """A stderr with a person behind it."""

    def isatty(self) -> bool:
        return True


def test_a_person_sees_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with store_commands._bar("copying") as report:
        report(0, 4, "the first page")
        assert "the first page" in terminal.getvalue()  # at once, for it may take long
        for done in range(5):
            report(done, 4)
    assert "copying" in terminal.getvalue()
    assert "100%" in terminal.getvalue()


def test_a_store_is_copied_to_another_one(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "other.db"
    copied = run("copy", path, f"sqlite:{target}")
    assert copied.stderr == (
        f"{target} has all of {path}: 2 accounts and 5 messages; everybody has to log in again\n"
    )
    assert run_json("stats", target)["sessions"] == 0
    assert run_json("check", target)["sound"]
    with SqliteStore(path) as one, SqliteStore(target) as other:
        assert other.accounts.find("ann") == one.accounts.find("ann")
        assert other.mailboxes.standing("id-bob") == one.mailboxes.standing("id-bob")
    assert "there is a file already" in run("copy", path, target, code=1).stderr
    assert "cannot be looked after" in run("copy", path, "memory:", code=2).stderr


def test_a_store_that_is_served_is_not_copied_to_another_one(
    store: SqliteStore, tmp_path: Path
) -> None:
    assert "another server has" in run("copy", store.path, tmp_path / "new.db", code=1).stderr


def test_an_account_is_added_under_the_policy_of_the_servers(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, password = tmp_path / "twinline.toml", tmp_path / "password"
    config.write_text("mailbox_messages = 7\n")
    password.write_text(PASSWORD)
    opened: list[object] = []
    open_store = store_commands.open_store
    monkeypatch.setattr(
        store_commands,
        "open_store",
        lambda url, policy: (opened.append(policy), open_store(url, policy))[1],
    )
    run("add-account", path, "dan", "--config", config, "--password-file", password)
    (policy,) = opened
    assert policy.mailbox_messages == 7  # type: ignore[attr-defined]


# -- where nothing can be made beside the file ----------------------------------------------

AS_NOBODY = """
import contextlib, io, os, sys
from twinline.cli.main import main

# Afterwards Python's own files may be out of reach: all that is imported is imported here.
for warm in (["check", sys.argv[1]], ["stats", sys.argv[1], "--json"], ["check", "/no/file"]):
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.redirect_stdout(io.StringIO()):
            main(["store", *warm])
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
main(["store", *sys.argv[2:]])
"""


def as_nobody(warm: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a command as a user who may read, and write nothing."""
    return subprocess.run(
        [sys.executable, "-c", AS_NOBODY, *map(str, (warm, *arguments))],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def read_only(path: Path) -> Iterator[Path]:
    """A store in a folder that everybody may read, and nobody but root may write in."""
    with TemporaryDirectory() as outer:
        Path(outer).chmod(0o755)
        folder = Path(outer, "folder")
        folder.mkdir()
        shutil.copyfile(path, folder / "chat.db")
        yield folder
        folder.chmod(0o755)


def closed_to_writing(folder: Path) -> None:
    for each in folder.iterdir():
        each.chmod(0o444)
    folder.chmod(0o555)


def test_a_file_is_checked_where_nothing_may_be_written(path: Path, read_only: Path) -> None:
    closed_to_writing(read_only)
    found = as_nobody(path, "check", read_only / "chat.db")
    assert (found.returncode, found.stdout) == (0, f"{read_only}/chat.db is sound\n"), found.stderr
    counted = as_nobody(path, "stats", read_only / "chat.db", "--json")
    assert json.loads(counted.stdout)["messages"] == 5
    assert [each.name for each in read_only.iterdir()] == ["chat.db"]


def test_what_is_in_a_log_that_cannot_be_read_is_not_left_out(path: Path, read_only: Path) -> None:
    """Read without its log, the file would be taken for one that has lost its last mail."""
    served = SqliteStore(read_only / "chat.db")
    served.mailboxes.append("id-bob", draft("last"))
    with TemporaryDirectory() as kept:
        for name in ("chat.db", "chat.db-wal"):
            shutil.copyfile(read_only / name, Path(kept, name))
        served.close()
        for each in read_only.iterdir():
            each.unlink()
        for each in Path(kept).iterdir():
            shutil.copyfile(each, read_only / each.name)
    closed_to_writing(read_only)
    found = as_nobody(path, "check", read_only / "chat.db")
    assert (found.returncode, found.stdout) == (1, "")
    assert f"{read_only}/chat.db has a log, chat.db-wal, and cannot be read with it" in found.stderr
    assert "copy both to another folder" in found.stderr
    # As it says.
    with TemporaryDirectory() as copied:
        for each in read_only.iterdir():
            shutil.copyfile(each, Path(copied, each.name))
        assert run_json("stats", Path(copied, "chat.db"))["messages"] == 6


def test_a_log_with_its_index_is_read_where_nothing_may_be_written(
    path: Path, read_only: Path
) -> None:
    """As while a server uses the file, and somebody else looks at it."""
    with SqliteStore(read_only / "chat.db") as served:
        served.mailboxes.append("id-bob", draft("last"))
        closed_to_writing(read_only)
        counted = as_nobody(path, "stats", read_only / "chat.db", "--json")
        assert counted.returncode == 0, counted.stderr
        assert json.loads(counted.stdout)["messages"] == 6
        read_only.chmod(0o755)
