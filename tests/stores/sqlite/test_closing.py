"""How the SQLite store lets go of its file, and what it leaves alone."""

import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_faults import Faults
from store_samples import VERSION_1, draft
from waiting import join, wait_event

from twinline.stores.shared.opening import StoreNotOpened
from twinline.stores.sqlite import SqliteStore
from twinline.stores.sqlite import readers as sqlite_readers
from twinline.stores.sqlite import schema as sqlite_schema
from twinline.stores.sqlite import writer as sqlite_writer
from twinline.stores.sqlite.lock import StoreLocked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


def beside(path: Path) -> set[str]:
    """Return what SQLite has beside a file."""
    return {each.name.removeprefix(path.name) for each in path.parent.glob(f"{path.name}-*")}


def test_a_store_that_is_closed_is_one_file(path: Path) -> None:
    with SqliteStore(path) as store:
        store.mailboxes.create("bob")
        store.mailboxes.append("bob", draft())
        assert beside(path) == {"-wal", "-shm"}
    assert beside(path) == set()
    alone = path.rename(path.with_name("moved.db"))
    with SqliteStore(alone) as store:
        assert store.mailboxes.standing("bob").unread == 1


def test_a_writer_that_does_not_end_keeps_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite_writer.Writer.close, "__defaults__", (0.05,))
    faults = Faults()
    store = SqliteStore(path, factory=faults.factory)
    store.mailboxes.create("bob")
    gate = faults.stop_at("COMMIT")
    sending = threading.Thread(target=lambda: store.mailboxes.append("bob", draft()), daemon=True)
    sending.start()
    wait_event(gate.reached, "the commit begins")
    store.close()
    assert "does not answer" in caplog.text
    with pytest.raises(StoreLocked):
        SqliteStore(path)
    gate.let_go.set()
    join(sending)
    join(store._writer._thread)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM messages").fetchone() == (1,)


def test_a_read_that_does_not_end_does_not_hold_up_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_readers, "_WAIT_SECONDS", 0.05)
    go, reading = threading.Event(), threading.Event()
    store = SqliteStore(path)

    lent: list[sqlite3.Connection] = []

    def read() -> None:
        with store._readers.reading() as connection:
            lent.append(connection)
            reading.set()
            wait_event(go, "the test lets the reader go", seconds=20)

    slow = threading.Thread(target=read, daemon=True)
    slow.start()
    wait_event(reading, "a connection is lent")
    closer = threading.Thread(target=store.close, daemon=True)
    closer.start()
    join(closer)
    go.set()
    join(slow)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        lent[0].execute("SELECT 1")
    SqliteStore(path).close()


def test_a_lock_that_cannot_be_taken_is_no_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    before = set(Path("/proc/self/fd").iterdir())
    with monkeypatch.context() as patched:
        patched.setattr("fcntl.flock", none)
        with pytest.raises(StoreNotOpened, match="No locks available"):
            SqliteStore(path)
    assert set(Path("/proc/self/fd").iterdir()) == before
    SqliteStore(path).close()


def test_links_that_lead_nowhere(path: Path) -> None:
    path.symlink_to(path)
    with pytest.raises(StoreNotOpened):
        SqliteStore(path)


def test_what_is_no_store_is_not_touched_nor_is_its_log(path: Path) -> None:
    with closing(sqlite3.connect(path)) as foreign:
        foreign.execute("PRAGMA journal_mode = WAL")
        foreign.execute("CREATE TABLE letters (x)")
        foreign.commit()
        # As a process that was killed leaves it: with a log.
        files = {name: Path(f"{path}{name}").read_bytes() for name in ("", "-wal")}
        shared = Path(f"{path}-shm").read_bytes()
    for name, content in {**files, "-shm": shared}.items():
        Path(f"{path}{name}").write_bytes(content)
    with pytest.raises(StoreNotOpened, match="not a store"):
        SqliteStore(path)
    assert {name: Path(f"{path}{name}").read_bytes() for name in files} == files


def test_a_log_that_cannot_be_cut_leaves_the_patience_of_the_writer(path: Path) -> None:
    faults = Faults()
    with SqliteStore(path, factory=faults.factory) as store:
        store.mailboxes.create("bob")
        failed = threading.Event()
        pragmas = 0

        def fail(word: str) -> None:
            nonlocal pragmas
            pragmas += word == "PRAGMA"
            if word == "PRAGMA" and pragmas == 2:  # the first one has shortened the patience
                failed.set()
                raise sqlite3.OperationalError("disk I/O error")

        faults.before = fail
        wait_event(failed, "the log is not cut")
        patience = store._writer.do(
            lambda transaction: transaction.connection.execute("PRAGMA busy_timeout").fetchone()
        )
        assert patience == (5000,)


def test_a_migration_that_fails_leaves_no_copy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(VERSION_1, path)
    monkeypatch.setitem(sqlite_schema.MIGRATIONS, 1, ("INSERT INTO no_table VALUES (1)",))
    for _ in range(2):
        with pytest.raises(StoreNotOpened, match="no_table"):
            SqliteStore(path)
    assert not list(path.parent.glob("*.version-*"))
