"""Moving, backing up, checking and mending stores that servers share, on real engines."""

import json
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from click.testing import CliRunner, Result
from postgres_engine import PostgresEngine
from store_samples import ALL, HOUR, VERSION_3, account, draft, filled, key, operated
from valkey_engine import ValkeyCluster, ValkeyEngine
from waiting import join, wait_until

from twinline.cli.main import main
from twinline.core.errors import SendIdConflict
from twinline.core.protocol import EVERY_KIND, TALK
from twinline.core.store import (
    SEQ_JUMP,
    Durability,
    Invitation,
    Mailboxes,
    MailboxPolicy,
    Peer,
)
from twinline.stores.archive import Archive
from twinline.stores.copying import copy_all
from twinline.stores.postgresql.archive import PostgresqlArchive
from twinline.stores.registry import open_store, upkeep_of
from twinline.stores.shared.opening import StoreNotOpened
from twinline.stores.sqlite.upkeep import check
from twinline.stores.upkeep import UpkeepError
from twinline.stores.valkey.archive import ValkeyArchive
from twinline.stores.valkey.keys import PENDING

ENGINES = ("postgresql", "valkey", "valkey cluster")
POLICY = MailboxPolicy(mailbox_messages=400)
PEOPLE = ("ann", "bob", "carl")


@pytest.fixture
def new_url(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Return what gives the URL of a store that is still to be made, on an engine."""

    def of(name: str) -> str:
        if name == "postgresql":
            postgres: PostgresEngine = request.getfixturevalue("postgres")
            return postgres.new_store_url()
        engine: ValkeyEngine | ValkeyCluster = request.getfixturevalue(name.replace(" ", "_"))
        return engine.url()

    return of


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest, new_url: Callable[[str], str]) -> str:
    """The URL of a store that is still to be made, on each engine."""
    return new_url(request.param)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with accounts, mail, history, gaps, acks and send_ids of every kind."""
    path = filled(tmp_path_factory.mktemp("filled") / "one.db", POLICY)
    with open_store(f"sqlite:{path}", POLICY) as store:
        operated(store)
    return path


def moved(source: str, target: str) -> Any:
    with upkeep_of(source).source() as one, upkeep_of(target).target() as other:
        return copy_all(one, other)


def everything(boxes: Mailboxes, account_id: str) -> object:
    page = boxes.read(account_id, 0, ALL, ALL, EVERY_KIND)
    return (
        boxes.standing(account_id),
        (page.messages, page.receipts),  # not how far it has looked: the seqs are to jump
        boxes.history(account_id, None, ALL, ALL, 3 * HOUR, kinds=EVERY_KIND),
        boxes.history(account_id, None, 9, ALL, HOUR, kinds=EVERY_KIND, peer=Peer("id-old", "old")),
        boxes.conversations(account_id, None, ALL, ALL, HOUR),
        list(boxes.blocked(account_id)),
    )


def same(one_url: str, other_url: str) -> None:
    with open_store(one_url, POLICY) as one, open_store(other_url, POLICY) as other:
        for name in PEOPLE:
            assert other.accounts.find(name) == one.accounts.find(name)
            noted = [each.accounts.address_noted_at(f"id-{name}", "::1") for each in (one, other)]
            assert noted == [5, 5]
            used = [each.mailboxes.usage(f"id-{name}") for each in (one, other)]
            assert used[0] == used[1]
            mail = everything(one.mailboxes, f"id-{name}")
            assert everything(other.mailboxes, f"id-{name}") == mail
        assert other.accounts.invitations() == one.accounts.invitations()
        assert other.accounts.hash_profiles() == one.accounts.hash_profiles()
        assert not other.accounts.is_free("old")


def test_mail_of_a_name_alone_is_with_who_has_that_and_with_nobody_else(
    url: str, tmp_path: Path
) -> None:
    path = Path(shutil.copy(VERSION_3, tmp_path / "chat.db"))
    with open_store(f"sqlite:{path}", POLICY):
        pass  # it is of the present version from now on
    moved(f"sqlite:{path}", url)
    for each in (f"sqlite:{path}", url):
        with open_store(each, POLICY) as store:
            boxes = store.mailboxes

            def bodies(
                account_id: str | None, username: str, boxes: Mailboxes = boxes
            ) -> list[str]:
                peer = Peer(account_id, username)
                page = boxes.history("id-bob", None, ALL, ALL, 1, kinds=TALK, peer=peer)
                return [message.body for message in page.messages]

            def listed(boxes: Mailboxes = boxes) -> list[tuple[str, str | None]]:
                page = boxes.conversations("id-bob", None, ALL, ALL, 1)
                return [(talk.username, talk.account) for talk in page.conversations]

            old = bodies(None, "ann")
            assert len(old) == 6
            assert listed() == [("ann", None), ("carl", None)]
            assert bodies("id-ann", "ann") == old
            assert bodies("id-ann", "") == []
            boxes.append("id-bob", draft("new"))
            assert listed() == [("ann", "id-ann"), ("ann", None), ("carl", None)]
            assert bodies("id-ann", "ann") == bodies(None, "ann") == [*old, "new"]
            assert bodies("id-ann", "") == ["new"]
            assert bodies("id-another", "ann") == old
            assert bodies("id-another", "") == []


def test_what_was_in_a_file_is_on_the_engine(url: str, file: Path) -> None:
    copied = moved(f"sqlite:{file}", url)
    assert (copied.accounts, copied.reserved_names, copied.mailboxes_copied) == (3, 1, 3)
    assert upkeep_of(url).check().faults == []
    same(f"sqlite:{file}", url)
    counted, of_file = (upkeep_of(each).stats(2) for each in (url, f"sqlite:{file}"))
    assert (counted.mail_bytes, counted.largest) == (of_file.mail_bytes, of_file.largest)
    assert (counted.accounts, counted.sessions, counted.mailboxes) == (3, 0, 3)
    assert (counted.messages, counted.unread) == (copied.messages, 279)
    assert counted.bytes > 50_000
    assert counted.durability is Durability.DISK
    with open_store(url, POLICY) as store:
        boxes = store.mailboxes
        assert store.accounts.find_session(key("token-ann")) is None
        first = boxes.read("id-ann", 6, 1, ALL).messages[0]
        again = boxes.append("id-ann", draft("m6", send_id="s6"))
        assert again == (first.message_id, first.sent_at, 7)
        with pytest.raises(SendIdConflict):
            boxes.append("id-ann", draft("another", send_id="s6"))
        last = boxes.history("id-ann", None, 1, ALL, 0).messages[-1].seq
        for body in ("new", "newer"):
            boxes.append("id-ann", draft(body))
        new, newer = boxes.read("id-ann", last, 9, ALL).messages
        assert (new.body, newer.seq) == ("new", new.seq + 1)  # they jump once
        assert new.seq > last + SEQ_JUMP
        assert boxes.ack("id-ann", last + 5, 3 * HOUR).unread == 2
        boxes.create("id-dan")
        store.accounts.create(account("dan"))


def test_a_store_goes_from_engine_to_engine_and_back_to_a_file(
    new_url: Callable[[str], str], file: Path, tmp_path: Path
) -> None:
    back = f"sqlite:{tmp_path / 'back.db'}"
    for source, target in pairwise([f"sqlite:{file}", *map(new_url, ENGINES), back]):
        moved(source, target)
    assert check(tmp_path / "back.db").faults == []
    same(f"sqlite:{file}", back)


class Stopped(Exception):
    pass


@contextmanager
def stopping(monkeypatch: pytest.MonkeyPatch, method: str, at: int) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for kind in (PostgresqlArchive, ValkeyArchive):
            was, count = getattr(kind, method), iter(range(at))

            def stops(self: Archive, *rows: object, was: Any = was, count: Any = count) -> object:
                if next(count, None) is None:
                    raise Stopped
                return was(self, *rows)

            patch.setattr(kind, method, stops)
        with pytest.raises(Stopped):
            yield


def test_a_move_that_was_stopped_goes_on(
    url: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method, at in (("put_messages", 1), ("put_accounts", 1), ("end_mailbox", 1)):
        with stopping(monkeypatch, method, at):
            moved(f"sqlite:{file}", url)
    with pytest.raises(StoreNotOpened, match=r"unfinished copy of sqlite:.*twinline store copy"):
        open_store(url, POLICY)
    upkeep = upkeep_of(url)
    for look in (upkeep.check, upkeep.stats, upkeep.repair):
        with pytest.raises(UpkeepError, match="unfinished copy"):
            look()
    other = filled(tmp_path / "other.db", POLICY)
    with pytest.raises(Exception, match="is the unfinished copy of"):
        moved(f"sqlite:{other}", url)
    with stopping(monkeypatch, "end", 0):
        moved(f"sqlite:{file}", url)
    assert moved(f"sqlite:{file}", url).mailboxes_copied == 0  # all is there already
    same(f"sqlite:{file}", url)
    with pytest.raises(Exception, match="is not empty"):
        moved(f"sqlite:{file}", url)


def test_a_store_is_left_alone_while_servers_use_it(url: str, file: Path) -> None:
    upkeep = upkeep_of(url)
    with open_store(url, POLICY):
        for alone in (upkeep.source, upkeep.target, upkeep.repair, upkeep.migrate):
            with pytest.raises(UpkeepError, match=r"servers use (postgresql|redis)"):
                alone()
        assert upkeep.check().faults == []
        assert upkeep.stats().accounts == 0
    with upkeep.target():
        with pytest.raises(UpkeepError, match="another command"):
            upkeep.source()
        with pytest.raises(StoreNotOpened, match="a command of 'twinline store' has"):
            open_store(url, POLICY)
    moved(f"sqlite:{file}", url)  # a store that was opened and is empty is as good as none
    migration = upkeep.migrate()
    now = upkeep.stats().schema_version
    assert (migration.before, migration.after, migration.copy) == (now, now, None)


def test_a_backup_is_of_one_moment_while_servers_write(
    postgres: PostgresEngine, file: Path, tmp_path: Path
) -> None:
    url = postgres.new_store_url()
    moved(f"sqlite:{file}", url)
    stop = threading.Event()
    with open_store(url, MailboxPolicy(mailbox_messages=10**6)) as store:
        store.mailboxes.set_quota("id-carl", None)

        def write() -> None:  # of two mailboxes the first is never behind
            number = 0
            while not stop.is_set():
                number += 1
                for name in ("bob", "carl"):
                    store.mailboxes.append(f"id-{name}", draft(f"{number}", sender="ann"))

        writing = threading.Thread(target=write)
        writing.start()
        try:
            wait_until(lambda: store.mailboxes.standing("id-carl").unread > 2, "mail is sent")
            for number in range(2):
                upkeep_of(url).backup(tmp_path / f"{number}.db")
        finally:
            stop.set()
            join(writing)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["0.db", "1.db"]
    for number in range(2):
        assert check(tmp_path / f"{number}.db").faults == []
        with open_store(f"sqlite:{tmp_path / f'{number}.db'}", POLICY) as copy:
            bob, carl = (
                int(copy.mailboxes.history(f"id-{name}", None, 1, ALL, 0).messages[-1].body)
                for name in ("bob", "carl")
            )
            assert 0 <= bob - carl <= 1


def test_a_backup_that_fails_leaves_nothing(
    url: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved(f"sqlite:{file}", url)
    with stopping(monkeypatch, "reserved_names", 0):
        upkeep_of(url).backup(tmp_path / "copy.db")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "copy.db").touch()
    with pytest.raises(FileExistsError):
        upkeep_of(url).backup(tmp_path / "copy.db")


def test_a_backup_of_what_has_no_snapshot_says_what_to_do(valkey: ValkeyEngine) -> None:
    url = valkey.url()
    with open_store(url, POLICY), pytest.raises(UpkeepError, match="valkey-cli --rdb"):
        upkeep_of(url).backup(Path("/nowhere"))


POSTGRESQL_FAULTS: list[dict[str, str]] = [
    {
        "UPDATE mailboxes SET last = 300 WHERE last = 320": "1 .*beyond the last seq",
        "UPDATE mailboxes SET oldest_ack = NULL": "1 .*no ack",
        "INSERT INTO messages VALUES (99, 1, 'x', 'ann', 'x', 1)": "1 .*in no mailbox",
        "INSERT INTO dropped SELECT box FROM mailboxes": "3 .*dropped and still there",
        "UPDATE send_ids SET box = 99 WHERE seq = 5": "1 send_ids of no mailbox",
        "UPDATE mailboxes SET sends = 1 WHERE account_id = 'id-ann'": "1 .*more send_ids",
        "UPDATE mailboxes SET epoch = 1 WHERE account_id = 'id-ann'": "1 .*an epoch",
        "INSERT INTO sessions VALUES ('id-ann', 'x', 'bob', 1, 1)": "1 sessions of no account",
        "INSERT INTO known_addresses VALUES ('id-x', 'x', 1)": "1 addresses of no account",
        "UPDATE hash_profiles SET accounts = 7": "4 accounts more or fewer",
        "UPDATE mailboxes SET newest = 3 WHERE account_id = 'id-ann'": "1 .*higher number",
        "INSERT INTO copies VALUES (99, 1, '', '', '', '', '', 1, 1)": "1 copies in no mailbox",
        "INSERT INTO receipts VALUES (99, 1, '', '', 1, 1)": "1 receipts in no mailbox",
        "INSERT INTO blocked VALUES (99, '', '')": "1 blocked accounts of no mailbox",
        "DELETE FROM copies WHERE seq = 9": "1 .*count of copies",
        "UPDATE receipts SET seq = 11 WHERE seq = 302": "4 seqs that two entries",
    },
    {
        "UPDATE mailboxes SET unread = 9 WHERE account_id = 'id-ann'": "1 .*count of unread",
        "DELETE FROM acks": "1 .*no ack",
        "DELETE FROM mailboxes WHERE account_id = 'id-carl'": "1 accounts without a mailbox",
    },
    {
        "UPDATE mailboxes SET acked = 9 WHERE account_id = 'id-ann'": "1 .*count of unread",
        "UPDATE acks SET position = 41 WHERE position = 40": "1 acks beyond",
    },
    {
        "UPDATE mailboxes SET blocked = 0": "1 .*count of copies, of receipts or of blocked",
        "UPDATE copies SET message_id = 'm' WHERE seq < 11": "1 .*has several copies of",
    },
    {"DELETE FROM receipts WHERE seq = 302": "1 .*count of copies, of receipts or of blocked"},
    {"DROP TABLE send_ids": "there is no send_ids.box"},
]
VALKEY_FAULTS: list[dict[str, str]] = [
    {
        "HSET {id-ann}:b l 300": "1 .*beyond the last seq",
        "HINCRBY {id-ann}:b n 1": "1 .*count of unread",
        "HSET {id-ann}:b o 7": "1 .*oldest ack",
        "RPUSH {id-ann}:a 41:9": "1 .*ack beyond",
        "HDEL {id-ann}:u kid-ann\0s7": "1 .*send_ids",
        "XADD {id-x}:m 1-0 i x": "1 messages, acks or send_ids in no mailbox",
        "DEL {id-carl}:b": "1 accounts without a mailbox",
        "HSET {id-ann}:k x 1:1:bob": "1 sessions of no account",
        "HSET {id-y}:d x 1": "1 accounts that are gone and have",
        "HSET {d:an}:n anna id-x": "1 names of accounts that are not there",
        "ZREM {d:an}:z ann": "1 names that are in use and not listed",
    },
    {"XDEL {id-ann}:m 50-0": "1 .*count", "HSET {id-x}:k x 1:1:x": "1 sessions of no account"},
    {"HSET {id-ann}:b p 45": "1 .*count of unread"},  # 40 with history: counted on that side
]


def test_each_fault_is_found_in_postgresql(postgres: PostgresEngine, file: Path) -> None:
    whole = postgres.new_database()
    moved(f"sqlite:{file}", postgres.url(whole))
    for faults in POSTGRESQL_FAULTS:
        database = postgres.new_database(whole)
        postgres.sql(f"SET search_path = twinline; {';'.join(faults)}", database=database)
        upkeep = upkeep_of(postgres.url(database))
        found = upkeep.check().faults
        for says in faults.values():
            assert any(re.match(says, fault) for fault in found), (says, found)
        if len(faults) == 3:
            assert upkeep.repair() == ["1 accounts had no mailbox, and have an empty one now"]
            assert not any("without a mailbox" in fault for fault in upkeep.check().faults)


def test_each_fault_is_found_in_valkey(valkey: ValkeyEngine, file: Path) -> None:
    for faults in VALKEY_FAULTS:
        url = valkey.url()
        moved(f"sqlite:{file}", url)
        for command in faults:
            name, place, *rest = command.split()
            valkey.command(name, f"{url.partition('=')[2]}{place}", *rest)
        found = upkeep_of(url).check().faults
        assert len(found) == len(faults), found
        for says in faults.values():
            assert any(re.match(says, fault) for fault in found), (says, found)


def test_what_is_half_done_is_mended_in_postgresql(postgres: PostgresEngine, file: Path) -> None:
    database = postgres.new_database()
    url = postgres.url(database)
    moved(f"sqlite:{file}", url)
    upkeep = upkeep_of(url)
    postgres.sql(
        "SET search_path = twinline; DELETE FROM mailboxes WHERE account_id = 'id-carl';"
        "INSERT INTO mailboxes (account_id, epoch) VALUES ('never', 0);"
        "INSERT INTO dropped VALUES (77); INSERT INTO messages VALUES (77, 1, 'm', 'a', 'x', 1);"
        "INSERT INTO copies VALUES (77, 2, 'm', 'a', 'b', 'b', 'x', 1, 1);"
        "INSERT INTO receipts VALUES (77, 3, 'b', 'b', 1, 1);"
        "INSERT INTO blocked VALUES (77, 'b', 'b');"
        "INSERT INTO sessions VALUES ('id-gone', 'x', 'gone', 1, 1)",
        database=database,
    )
    found = upkeep.check()
    assert found.faults == [
        "1 accounts without a mailbox",
        "1 sessions of no account, or under another name than it has",
    ]
    assert found.notes == [
        "1 mailboxes whose account is gone",
        "1 dropped mailboxes that servers will sweep",
    ]
    assert upkeep.repair() == [
        "1 accounts had no mailbox, and have an empty one now",
        "1 sessions of no account were ended",
        "1 mailboxes whose account is gone were dropped",
        "1 messages of mailboxes that are gone were swept",
        "1 copies of mailboxes that are gone were swept",
        "1 receipts of mailboxes that are gone were swept",
        "1 blocked accounts of mailboxes that are gone were swept",
        "1 dropped mailboxes were noted as swept",
    ]
    mended = upkeep.check()
    assert (mended.faults, mended.notes, upkeep.repair()) == ([], [], [])
    with open_store(url, POLICY) as store:  # whoever read the lost one reads what comes
        store.mailboxes.append("id-carl", draft("new"))
        assert [each.body for each in store.mailboxes.read("id-carl", 999, 9, ALL).messages]


def test_what_is_half_done_is_mended_in_valkey(valkey: ValkeyEngine, file: Path) -> None:
    url = valkey.url()
    moved(f"sqlite:{file}", url)
    upkeep = upkeep_of(url)
    for command in (
        "DEL {id-carl}:b",
        "HSET {never}:b p 7 l 8 n 0 k 0 o 9 e 0",
        "XADD {swept}:m 1-0 i x",
        "HSET {id-gone}:k x 1:1:gone",
        "HSET {id-gone}:d x 1",
        "HSET {born}:p u born h x c 1",
        "ZREM {d:an}:z ann",
        "HSET {d:an}:n anna id-x",
        "HSET {meta}:h $argon2id 9",
        "HSET {id-bob}:p g 1",  # a deletion, from before anybody looks
        "ZADD {q:%d}:q 1 id-bob",
        # Claims, of which the first made no account.
        "HSET {meta}:i lost 5:9:lost spent 5:9:spent",
        "HSET {meta}:c lost 1:born spent 1:id-ann",
    ):
        name, place, *rest = command.split()
        part = crc32(b"id-bob") % PENDING
        valkey.command(name, url.partition("=")[2] + place.replace("%d", f"{part}"), *rest)
    found = upkeep.check()
    assert len(found.faults) == 7
    assert len(found.notes) == 4
    with upkeep.source() as source:  # the deletion counts, though it is not finished
        assert [row.account.username for row in source.accounts("", 9)] == ["carl"]
        assert source.reserved_names("", 9) == ["bob", "old"]
        assert [row.note for row in source.invitations(b"", 999) if row.created_at == 5] == [
            "for 5",
            "lost",
        ]
    assert upkeep.repair()
    mended = upkeep.check()
    assert (mended.faults, mended.notes, upkeep.repair()) == ([], [], [])
    with open_store(url, POLICY) as store:
        assert store.accounts.find("ann")
        assert store.accounts.find("bob") is None
        assert not store.accounts.is_free("bob")
        assert store.accounts.is_free("anna")
        assert store.accounts.find_invitation(b"lost") == Invitation(b"lost", 5, 9, "lost")
        assert store.accounts.find_invitation(b"spent") is None
        assert sum(store.accounts.hash_profiles().values()) == 2
        store.mailboxes.append("id-carl", draft("new"))
        assert [each.body for each in store.mailboxes.read("id-carl", 999, 9, ALL).messages]


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["store", *map(str, arguments)])
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
    assert "Traceback" not in result.output
    return result


def test_the_commands(url: str, file: Path, tmp_path: Path) -> None:
    copied = run("copy", file, url).stderr
    assert "3 accounts and 317 messages; everybody has to log in again" in copied
    assert run("check", url).stdout.endswith(" is sound\n")
    counted = run_json("stats", url)
    assert counted["unread"] == 279
    assert f"version {counted['schema_version']} already" in run("migrate", url).stderr
    run("backup", url, tmp_path / "copy.db")
    assert run_json("check", tmp_path / "copy.db")["sound"]
    with open_store(url, MailboxPolicy()):
        refused = run("copy", url, tmp_path / "new.db", code=1).stderr
        assert re.fullmatch(r"twinline: \d+ servers use .*\n|twinline: servers use .*\n", refused)
        assert refused.count(upkeep_of(url).name) == 1
    assert "twinline store copy" in run("restore", tmp_path / "copy.db", url, code=2).stderr


def run_json(*arguments: object) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


@pytest.mark.parametrize("scheme", ["postgresql", "redis"])
def test_an_engine_that_is_not_there_is_one_line(scheme: str, file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"{scheme}://me:a-secret@127.0.0.1:{port}"
    for command in (("check", url), ("stats", url), ("copy", file, url), ("copy", url, file)):
        refused = run(*command, code=1).stderr
        assert refused.count("\n") == 1
        assert f"127.0.0.1:{port}" in refused
        assert "a-secret" not in refused
