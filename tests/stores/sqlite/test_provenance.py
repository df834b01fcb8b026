"""A file that is put back: its epoch, whose log is beside it, and what a running client sees."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from operator import attrgetter
from pathlib import Path

import pytest
from client_kit import Received, States, fast
from servers import Site
from sqlite_faults import sqlite_locks
from store_samples import ALL, VERSION_1, account, draft
from waiting import wait_until

from twinline.core.errors import CursorInvalid
from twinline.core.store import SEQ_JUMP as JUMP
from twinline.core.store import Standing
from twinline.stores.shared.opening import StoreNotOpened
from twinline.stores.sql import epochs
from twinline.stores.sqlite import SqliteStore, provenance
from twinline.stores.sqlite import file as sqlite_file
from twinline.stores.sqlite.file import StoreFile
from twinline.stores.sqlite.lock import StoreLocked
from twinline.stores.sqlite.upkeep import backup, check, restore, stats
from twinline.transports.client import Client, StateKind

CUT = r"is cut|malformed"
PutBack = Callable[[Path, Path], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


def filled(path: Path, count: int = 5, name: str = "bob") -> None:
    with SqliteStore(path) as store:
        make(store, name)
        send(store, count, name)


def make(store: SqliteStore, name: str) -> None:
    """Make a mailbox, and its account: one without is swept when the file is opened again."""
    store.mailboxes.create(name)
    store.accounts.create(account(name, name))


def send(store: SqliteStore, count: int, name: str = "bob") -> list[int]:
    """Send so many messages, and return the seqs that they have."""
    for _ in range(count):
        store.mailboxes.append(name, draft())
    return seqs(store, name)[-count:]


def seqs(store: SqliteStore, name: str = "bob") -> list[int]:
    return [message.seq for message in store.mailboxes.read(name, 0, ALL, ALL).messages]


def copy(path: Path, target: Path, *ends: str) -> Path:
    """Copy files from outside: a process that has them open must not open them again."""
    for end in ends or ("",):
        subprocess.run(["cp", f"{path}{end}", f"{target}{end}"], check=True)
    return target


def killed(path: Path, target: Path) -> Path:
    """Leave what kill -9 would leave of a file that is open: the file and its log."""
    return copy(path, target, "", "-wal", "-shm")


# --- putting back


def by_restore(copied: Path, path: Path) -> None:
    restore(copied, path)


def by_hand(copied: Path, path: Path) -> None:
    for end in ("-wal", "-shm"):
        Path(f"{path}{end}").unlink(missing_ok=True)
    copied.rename(path)


@pytest.mark.parametrize("put_back", [by_restore, by_hand])
@pytest.mark.parametrize("transport", ["jsonl", "binary"])
def test_a_running_client_sees_all_that_comes_after_a_backup_was_put_back(
    path: Path, tmp_path: Path, put_back: PutBack, transport: str
) -> None:
    received, states = Received(), States()
    copied = tmp_path / "backup.db"
    with Site(store=SqliteStore(path), transport_name=transport) as site:
        with (
            Client(site.endpoint, transport=transport, settings=fast()) as ann,
            Client(
                site.endpoint,
                transport=transport,
                settings=fast(),
                on_message=received,
                on_state=states,
            ) as bob,
        ):
            ann.create_account("ann", "correct horse")
            bob.create_account("bob", "correct horse")
            ann.send("bob", "0")
            received.wait(1)
            backup(path, copied)
            for number in range(1, 8):
                ann.send("bob", f"lost {number}")
            received.wait(8)
            wait_until(lambda: bob.status().unread == 0, "bob has acked all")
            site.stop()
            site.store.close()
            put_back(copied, path)
            site.store = SqliteStore(path)
            there = site.store.accounts.find("bob")
            assert there is not None
            for number in range(8):  # before bob's client looks
                site.store.mailboxes.append(there.account_id, draft(f"new {number}"))
            site.start()
            assert received.wait(16)[8:] == [f"new {number}" for number in range(8)]
            wait_until(lambda: bob.status().unread == 0, "bob has acked all")
            assert bob.status().position > JUMP
            assert StateKind.LOGGED_OUT not in states.kinds[1:]
        site.stop()
        site.store.close()
    assert check(path).faults == []


def test_the_seqs_of_a_backup_jump(path: Path, tmp_path: Path) -> None:
    filled(path)
    backup(path, tmp_path / "backup.db")
    with SqliteStore(tmp_path / "backup.db") as store:
        boxes = store.mailboxes
        assert seqs(store) == [1, 2, 3, 4, 5]
        # A place of before, inside the jump: there is nothing new, and nothing wrong.
        assert boxes.read("bob", 9, 9, ALL).messages == ()
        assert boxes.ack("bob", 7, now=1).unread == 0
        (first,) = send(store, 1)
        assert first > JUMP
        assert first % JUMP == 6
        assert [one.seq for one in boxes.read("bob", 9, 9, ALL).messages] == [first]
        assert boxes.ack("bob", 9, now=1).unread == 1
        with pytest.raises(CursorInvalid):
            boxes.read("bob", first + 1, 9, ALL)
        make(store, "carl")
        assert send(store, 2, "carl") == [1, 2]
    with SqliteStore(tmp_path / "backup.db") as store:
        assert send(store, 1) == [first + 1]  # once is enough
    assert check(tmp_path / "backup.db").faults == []


def test_a_file_that_stays_where_it_is_keeps_its_seqs(path: Path) -> None:
    filled(path)
    for number in range(6, 9):
        with SqliteStore(path) as store:
            assert send(store, 1) == [number]


def test_a_file_that_was_moved_within_its_disk_keeps_its_seqs(path: Path) -> None:
    filled(path)
    with SqliteStore(path.rename(path.with_name("moved.db"))) as store:
        assert send(store, 1) == [6]


def test_a_file_on_another_inode_is_renewed(path: Path) -> None:
    filled(path)
    with SqliteStore(copy(path, path.with_name("copy.db"))) as store:
        assert send(store, 1)[0] > JUMP


def test_a_marked_copy_is_renewed_wherever_it_is(path: Path, tmp_path: Path) -> None:
    # A copy can get the inode of the file that it replaces.
    filled(path)
    backup(path, tmp_path / "backup.db")
    content = (tmp_path / "backup.db").read_bytes()
    path.write_bytes(content)
    with SqliteStore(path) as store:
        assert send(store, 1)[0] > JUMP


@pytest.mark.parametrize("minutes", [0, 20])
def test_a_backup_that_is_put_back_twice_gives_no_seq_twice(
    path: Path, tmp_path: Path, minutes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path)
    copied = tmp_path / "backup.db"
    backup(path, copied)
    restore(copied, path)
    with SqliteStore(path) as store:
        first = send(store, 3)
    if minutes:  # by hand, with nothing but the clock that tells one time from the other
        now = epochs.time.time() + 60 * minutes
        monkeypatch.setattr(epochs.time, "time", lambda: now)
        path.unlink()
        copy(copied, path)
    else:
        restore(copied, path)
    with SqliteStore(path) as store:
        assert send(store, 1)[0] > max(first) + JUMP // 2


@pytest.mark.parametrize("now", [0.0, 1e12])
def test_a_clock_that_is_wrong_leaves_room_for_seqs(
    path: Path, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs.time, "time", lambda: now)
    filled(path)
    for number in range(3):
        with SqliteStore(copy(path, path.with_name(f"{number}.db"))) as store:
            (last,) = send(store, 1)
            assert JUMP < last < 2**52 + 2**51
        path = store.path


def test_a_backup_of_version_1_is_restored(path: Path) -> None:
    filled(path)
    with SqliteStore(path) as store:
        before = send(store, 1)
    restore(Path(shutil.copy(VERSION_1, path.with_name("version-1.db"))), path)
    with SqliteStore(path) as store:
        assert store.mailboxes.standing("id-bob") == Standing(3, 4)
        assert send(store, 1, "id-bob")[0] > max(before) + JUMP // 2


def test_what_was_there_is_kept_with_its_log(path: Path, tmp_path: Path) -> None:
    filled(tmp_path / "small.db", 1, "carl")
    live = tmp_path / "live.db"
    with SqliteStore(live) as store:
        make(store, "bob")
        send(store, 5)
        killed(live, path)
    assert Path(f"{path}-wal").stat().st_size
    kept = restore(tmp_path / "small.db", path)
    assert kept == tmp_path / "chat.db.replaced"
    assert sorted(each.name for each in tmp_path.glob("chat.db*")) == [
        "chat.db",
        "chat.db.replaced",
        "chat.db.replaced-wal",
    ]
    with SqliteStore(path) as store:
        assert send(store, 1, "carl")[0] > JUMP
    with SqliteStore(kept) as store:
        assert seqs(store) == [1, 2, 3, 4, 5]
    assert restore(tmp_path / "small.db", path) == tmp_path / "chat.db.replaced.2"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_leaves_the_file_to_the_user_who_had_it(path: Path, tmp_path: Path) -> None:
    filled(path)
    backup(path, tmp_path / "backup.db")
    os.chown(path, 12_345, 12_346)
    restore(tmp_path / "backup.db", path)
    assert (path.stat().st_uid, path.stat().st_gid) == (12_345, 12_346)
    path.unlink()
    os.chown(tmp_path, 12_345, 0)
    restore(tmp_path / "backup.db", path)
    assert (path.stat().st_uid, path.stat().st_gid) == (12_345, 0)


def test_a_file_that_is_damaged_or_gone_can_be_restored(path: Path, tmp_path: Path) -> None:
    filled(path)
    copied = tmp_path / "backup.db"
    backup(path, copied)
    path.write_bytes(b"a letter to my aunt " * 900)
    assert restore(copied, path) is not None
    path.unlink()
    assert restore(copied, path) is None
    Path(f"{path}-wal").write_bytes(b"what is left of a log")
    path.unlink()
    assert restore(copied, path) is not None
    assert check(path).faults == []


def test_where_there_are_no_links_a_file_is_restored_too(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    filled(path)
    backup(path, tmp_path / "backup.db")
    monkeypatch.setattr("os.link", refuse)
    kept = restore(tmp_path / "backup.db", path)
    assert kept is not None
    assert check(kept).faults == check(path).faults == []


def test_what_is_not_sound_replaces_nothing(path: Path, tmp_path: Path) -> None:
    filled(path)
    broken, lacking = tmp_path / "broken.db", tmp_path / "lacking.db"
    backup(path, broken)
    backup(path, lacking)
    content = bytearray(broken.read_bytes())
    content[-8192:] = b"\xff" * 8192
    broken.write_bytes(content)
    with closing(sqlite3.connect(lacking)) as connection:
        connection.execute("DROP TABLE send_ids")
    before = path.read_bytes()
    for each in (broken, lacking):
        with pytest.raises((StoreNotOpened, sqlite3.Error)):
            restore(each, path)
    with pytest.raises(StoreNotOpened, match="its own place"):
        restore(path, path)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob("*.replaced"))


def test_a_file_that_a_server_has_is_not_replaced(path: Path, tmp_path: Path) -> None:
    filled(path)
    backup(path, tmp_path / "backup.db")
    with SqliteStore(path) as store:
        with pytest.raises(StoreLocked):
            restore(tmp_path / "backup.db", path)
        assert send(store, 1) == [6]


# --- whose log it is


def test_to_look_at_a_file_in_its_server_s_process_costs_no_lock(path: Path) -> None:
    with SqliteStore(path) as store:
        make(store, "bob")
        before = sqlite_locks(path)
        check(path)
        stats(path)
        backup(path, path.with_name("backup.db"))
        assert sqlite_locks(path) == before > 0


def test_a_server_that_starts_while_its_file_is_looked_at_is_no_stranger(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path)
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("SELECT count(*) FROM messages").fetchone()
        with SqliteStore(path) as store:
            send(store, 1)
            looked = provenance._identity
            seen = []

            def look(file: StoreFile, mode: str) -> provenance._Identity | None:
                seen.append(mode)
                if len(seen) == 1:  # as it was before the server noted its own
                    return provenance._Identity("earlier", "earlier")
                return looked(file, mode)

            monkeypatch.setattr(provenance, "_identity", look)
            assert check(path).faults == []


@pytest.fixture(params=["its first pages", "begun again and again"])
def busy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many messages a server takes before it is killed."""
    if request.param == "its first pages":
        return 5
    monkeypatch.setattr(sqlite_file, "CHECKPOINT_PAGES", 8)
    return 60


def of_another_store(path: Path) -> Path:
    other = path.with_name("other.db")
    filled(other, 3, "carl")
    return other


def of_a_backup(path: Path) -> Path:
    copied = path.with_name("backup.db")
    backup(path, copied)
    return copied


def of_a_copy_of_the_stopped_file(path: Path) -> Path:
    return copy(path, path.with_name("cold.db"))


@pytest.mark.parametrize(
    "replaced_by",
    [of_another_store, of_a_backup, of_a_copy_of_the_stopped_file],
    ids=attrgetter("__name__"),
)
@pytest.mark.parametrize("over", [False, True], ids=["moved", "overwritten"])
def test_a_log_that_was_left_is_not_taken_for_another_file_s(
    path: Path, tmp_path: Path, busy: int, replaced_by: Callable[[Path], Path], over: bool
) -> None:
    live = tmp_path / "live.db"
    filled(live)
    replacement = replaced_by(live)
    with SqliteStore(live) as store:
        send(store, busy)
        killed(live, path)
    if over:
        path.write_bytes(replacement.read_bytes())
    else:
        shutil.copy(replacement, tmp_path / "new")
        (tmp_path / "new").rename(path)
    before = {each: each.read_bytes() for each in (path, Path(f"{path}-wal"))}
    for use in (SqliteStore, check, stats):
        with pytest.raises(StoreNotOpened, match="the log of another file"):
            use(path)
    assert {each: each.read_bytes() for each in before} == before
    # What a person does then.
    kept = restore(replacement, path)
    assert kept is not None
    assert check(path).faults == []


def test_a_log_is_its_own_file_s_after_kill_minus_nine(path: Path, busy: int) -> None:
    filled(path)
    for number in range(3):
        with SqliteStore(path) as store:
            send(store, busy)
            expected = seqs(store)
            path = killed(path, path.with_name(f"killed{number}.db"))
        with SqliteStore(path) as store:
            assert seqs(store) == expected


def test_a_reader_that_holds_the_log_up_makes_no_stranger_of_it(path: Path) -> None:
    filled(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM messages").fetchone()
        for number in range(6, 9):  # the file itself stays several openings behind
            with SqliteStore(path) as store:
                assert send(store, 1) == [number]
        image = killed(path, path.with_name("killed.db"))
        reader.execute("COMMIT")
    with SqliteStore(image) as store:
        assert len(seqs(store)) == 8


def test_a_log_of_a_file_that_is_gone_is_not_lost(path: Path) -> None:
    with SqliteStore(path.with_name("live.db")) as store:
        make(store, "bob")
        killed(store.path, path)
    path.unlink()
    log = Path(f"{path}-wal").read_bytes()
    with pytest.raises(StoreNotOpened, match="is the log of a file that was there before"):
        SqliteStore(path)
    assert Path(f"{path}-wal").read_bytes() == log


# --- a file that lacks something


@pytest.mark.parametrize("cut", [1, 1_000, 4_096, 9_000])
def test_a_file_that_is_cut_is_not_served(path: Path, cut: int) -> None:
    filled(path)
    os.truncate(path, path.stat().st_size - cut)
    before = path.read_bytes()
    with pytest.raises(StoreNotOpened, match=CUT):
        SqliteStore(path)
    with pytest.raises((StoreNotOpened, sqlite3.Error), match=CUT):
        check(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("statement", "part"),
    [
        ("DROP TABLE send_ids", "table send_ids"),
        ("DROP INDEX sessions_of_account", "index sessions_of_account"),
        ("ALTER TABLE acks RENAME acked_at TO at", "column acked_at of table acks"),
    ],
)
def test_a_file_without_a_table_is_neither_sound_nor_served(
    path: Path, statement: str, part: str
) -> None:
    filled(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
    assert f"there is no {part}" in check(path).faults
    with pytest.raises(StoreNotOpened, match=f"it has no .*{part}"):
        SqliteStore(path)
