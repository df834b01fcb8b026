"""The SQLite store's versions: what an older file becomes, and which are refused."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from store_samples import VERSION_1

from twinline.core.store import Standing
from twinline.stores.sqlite import SqliteStore
from twinline.stores.sqlite import schema as sqlite_schema
from twinline.stores.sqlite.file import APPLICATION_ID
from twinline.stores.sqlite.lock import StoreNotOpened
from twinline.stores.sqlite.schema import VERSION, SchemaTooNew


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A copy of the file of version 1."""
    return Path(shutil.copy(VERSION_1, tmp_path / "chat.db"))


def pragma(path: Path, name: str) -> object:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]


def tables(path: Path) -> list[tuple[str, ...]]:
    """Return every table with its columns, and every index."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            "SELECT type, name, tbl_name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' "
            "ORDER BY type, name"
        ).fetchall()
        return [
            (
                *row,
                *(str(column[1:]) for column in connection.execute(f"PRAGMA table_info({row[1]})")),
            )
            for row in found
        ]


def test_an_older_version_is_copied_and_migrated(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Path(f"{path}.version-1").touch()  # a copy of another time stays
    with SqliteStore(path) as store:
        ann = store.accounts.find("ann")
        assert ann is not None
        assert ann.account_id == "id-ann"
        assert not store.accounts.is_free("carl")
        assert store.accounts.find_session(b"\2" * 32) is not None
        assert store.mailboxes.standing("id-bob") == Standing(3, 4)
    assert pragma(path, "user_version") == VERSION
    copy = Path(f"{path}.version-1.2")
    assert str(copy) in caplog.text
    assert pragma(copy, "user_version") == 1
    assert copy.stat().st_mode & 0o777 == 0o600


def test_a_migration_that_fails_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tables(path)
    step = sqlite_schema.MIGRATIONS[1]
    monkeypatch.setitem(sqlite_schema.MIGRATIONS, 1, (*step, "INSERT INTO no_table VALUES (1)"))
    with pytest.raises(StoreNotOpened, match="no_table"):
        SqliteStore(path)
    assert pragma(path, "user_version") == 1
    assert tables(path) == before
    monkeypatch.setitem(sqlite_schema.MIGRATIONS, 1, step)
    SqliteStore(path).close()
    assert pragma(path, "user_version") == VERSION


def test_a_migrated_file_has_the_tables_of_a_new_one(path: Path, tmp_path: Path) -> None:
    SqliteStore(path).close()
    SqliteStore(tmp_path / "new.db").close()
    assert tables(path) == tables(tmp_path / "new.db")


def test_a_version_that_is_too_old_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 0")
    with pytest.raises(StoreNotOpened, match="too old"):
        SqliteStore(path)


def test_a_later_version_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(SchemaTooNew, match="use the program that wrote it"):
        SqliteStore(path)
    assert pragma(path, "user_version") == VERSION + 1
    assert pragma(path, "application_id") == APPLICATION_ID
