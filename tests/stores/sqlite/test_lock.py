"""Who may serve a SQLite file, and what a server does when the file is taken from under it."""

import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlite_faults import sqlite_locks
from store_samples import ALL, account, draft
from waiting import wait_until

from twinline.cli.main import main
from twinline.core.errors import StoreUnavailable
from twinline.core.store import Standing
from twinline.stores.shared.opening import StoreNotOpened
from twinline.stores.sqlite import SqliteStore
from twinline.stores.sqlite import lock as sqlite_lock
from twinline.stores.sqlite import writer as sqlite_writer
from twinline.stores.sqlite.lock import FileLock, FileReplaced, StoreLocked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


@pytest.fixture
def every_write_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "_LOOK_SECONDS", 0)


@pytest.fixture
def store(path: Path, every_write_looks: None) -> Iterator[SqliteStore]:
    with SqliteStore(path) as store:
        store.mailboxes.create("bob")
        store.mailboxes.append("bob", draft("before"))
        yield store


def other(path: Path) -> Path:
    """Make another store, beside the one of that path."""
    elsewhere = path.with_name("other.db")
    with SqliteStore(elsewhere) as store:
        store.mailboxes.create("carl")
    return elsewhere


# --- one server at a time


def test_a_second_server_is_refused(path: Path) -> None:
    with SqliteStore(path):
        alias = path.with_name("alias.db")
        alias.symlink_to(path)
        for each in (path, alias):
            with pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
                SqliteStore(each)
    SqliteStore(path).close()


def test_nothing_is_left_that_could_be_removed_to_let_a_second_server_in(path: Path) -> None:
    with SqliteStore(path) as store:
        store.mailboxes.create("bob")
        assert {each.name for each in path.parent.iterdir()} == {
            "chat.db",
            "chat.db-wal",
            "chat.db-shm",
        }


def test_what_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    result = CliRunner().invoke(
        main, ["serve", "--listen", "tcp://127.0.0.1:0", "--store", f"sqlite:{folder}"]
    )
    assert result.exit_code == 2
    assert "it is not a file" in result.stderr
    with pytest.raises(StoreNotOpened, match="Is a directory"):
        SqliteStore(folder)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("running", [True, False])
def test_a_hard_link_is_no_second_way_in(path: Path, running: bool) -> None:
    store = SqliteStore(path)
    if not running:
        store.close()
    link = path.with_name("link.db")
    link.hardlink_to(path)
    with pytest.raises(StoreNotOpened, match="open" if running else r"2 names \(hard links\)"):
        SqliteStore(link)
    store.close()
    with pytest.raises(StoreNotOpened, match="-samefile"):
        SqliteStore(path)
    link.unlink()
    SqliteStore(path).close()


def test_kill_minus_nine_frees_the_file(path: Path) -> None:
    code = (
        "import sys; from twinline.core.store import Account; "
        "from twinline.stores.sqlite import SqliteStore; "
        f"store = SqliteStore({str(path)!r}); store.mailboxes.create('bob'); "
        "store.accounts.create(Account('bob', 'bob', 'hash', 1)); "
        "print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"open\n"
        with pytest.raises(StoreLocked, match=f"process {server.pid}"):
            SqliteStore(path)
        server.send_signal(signal.SIGKILL)
    with SqliteStore(path) as store:
        assert store.mailboxes.standing("bob") == Standing(0, 0)


def test_the_holder_is_unknown_where_the_kernel_does_not_tell(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> str:
        raise FileNotFoundError(2, "No such file or directory")

    with SqliteStore(path):
        monkeypatch.setattr(sqlite_lock, "_held", {})  # as another process sees it
        monkeypatch.setattr(Path, "read_text", none)
        with pytest.raises(StoreLocked, match="process unknown"):
            FileLock(path).take()
        monkeypatch.undo()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's list of locks is Linux's")
@pytest.mark.parametrize("at_once", [False, True])
def test_who_is_refused_takes_no_lock_of_the_first_away(
    path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    # To close any descriptor of a file is to lose all POSIX locks that the process has on it.
    with SqliteStore(path) as store:
        store.mailboxes.create("bob")
        before = sqlite_locks(path)
        assert before
        if at_once:  # the second one looked before the first one came

            def not_there(_: Path) -> os.stat_result:
                raise FileNotFoundError(2, "No such file or directory")

            monkeypatch.setattr(Path, "stat", not_there)
        for _ in range(3):
            with pytest.raises(StoreLocked):
                FileLock(path).take()
        monkeypatch.undo()
        assert sqlite_locks(path) == before
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    SqliteStore(path).close()
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_a_child_that_has_the_descriptor_does_not_keep_the_file(path: Path) -> None:
    store = SqliteStore(path)
    inherited = os.dup(store._lock._descriptor)
    try:
        store.close()
        SqliteStore(path).close()
    finally:
        os.close(inherited)


def test_a_pipe_is_no_store(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(StoreNotOpened, match="not a file"):
        SqliteStore(path)


# --- a file that is taken away


def test_a_send_after_the_file_was_removed_is_not_acknowledged(
    store: SqliteStore, path: Path
) -> None:
    away = path.rename(path.with_name("away.db"))
    with pytest.raises(StoreUnavailable):
        store.mailboxes.append("bob", draft("lost"))
    with pytest.raises(StoreUnavailable):
        store.mailboxes.create("carl")
    assert not path.exists()
    away.rename(path)
    wait_until(lambda: not store._writer._refusing, "the file is found again")
    store.mailboxes.append("bob", draft("after"))
    bodies = [each.body for each in store.mailboxes.read("bob", 0, 9, ALL).messages]
    assert bodies == ["before", "after"]


def test_a_file_that_was_replaced_is_not_written(
    store: SqliteStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replacement = other(path)
    content = replacement.read_bytes()
    replacement.rename(path)
    with pytest.raises(StoreUnavailable):
        store.mailboxes.append("bob", draft("lost"))
    assert "moved, removed or replaced" in caplog.text
    with pytest.raises(FileReplaced):
        store._file.reader()  # nor read
    store.close()
    assert path.read_bytes() == content


def test_a_send_that_was_under_way_when_the_file_went_is_not_acknowledged(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = sqlite_writer.Writer._commit

    def gone_meanwhile(self, batch):
        transaction = commit(self, batch)
        if path.exists():
            path.unlink()
        return transaction

    monkeypatch.setattr(sqlite_writer.Writer, "_commit", gone_meanwhile)
    with pytest.raises(StoreUnavailable):
        store.mailboxes.append("bob", draft("lost"))


def test_a_log_that_was_removed_is_noticed(store: SqliteStore, path: Path) -> None:
    # What was acknowledged last is in the log alone.
    Path(f"{path}-wal").unlink()
    with pytest.raises(StoreUnavailable):
        store.mailboxes.append("bob", draft("lost"))


def test_looks_are_a_tenth_of_a_second_apart(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, looks = [1_000.0], []
    monkeypatch.setattr(sqlite_lock.time, "monotonic", lambda: now[0])
    lock = FileLock(path)
    lock.take()
    monkeypatch.setattr(lock, "_is_in_place", lambda: looks.append(now[0]) or True)
    for step in (0, 0.01, 0.08, 0.02, 0.01, 0.1):
        now[0] += step
        lock.require(sqlite_writer._LOOK_SECONDS)
    lock.close()
    assert sqlite_writer._LOOK_SECONDS == 0.1
    assert looks == pytest.approx([1_000.0, 1_000.11, 1_000.22])


def test_a_server_on_what_was_put_in_the_place_of_anothers_file_is_refused(
    store: SqliteStore, path: Path
) -> None:
    # Both would write the log of that name.
    other(path).rename(path)
    with pytest.raises(StoreLocked, match="stop it first"):
        SqliteStore(path)
    store.close()


# --- who may read it


def test_a_file_that_others_can_read_is_taken_from_them(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with SqliteStore(path) as store:
        store.mailboxes.create("bob")
        store.accounts.create(account("bob", "bob"))
        # As a server that was killed leaves it.
        for end in ("", "-wal", "-shm"):
            shutil.copy(f"{path}{end}", f"{path.with_name('left.db')}{end}")
    left = path.with_name("left.db")
    for each in path.parent.glob("left.db*"):
        each.chmod(0o644)
    with caplog.at_level(logging.WARNING), SqliteStore(left) as store:
        assert store.mailboxes.standing("bob") == Standing(0, 0)
        store.mailboxes.append("bob", draft())
        modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.glob("left.db*")}
    assert modes == {"left.db": 0o600, "left.db-wal": 0o600, "left.db-shm": 0o600}
    assert "left.db has mode 644" in caplog.text
    caplog.clear()
    SqliteStore(left).close()
    assert "mode" not in caplog.text


def test_a_mode_that_cannot_be_changed_is_told(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    SqliteStore(path).close()
    path.chmod(0o640)
    monkeypatch.setattr("os.fchmod", refuse)
    SqliteStore(path).close()
    assert "take the rights of others away" in caplog.text


def test_what_is_no_store_keeps_its_mode(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    path.chmod(0o644)
    with pytest.raises(StoreNotOpened):
        SqliteStore(path)
    assert path.stat().st_mode & 0o777 == 0o644
