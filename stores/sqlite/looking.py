"""Whether a file could be served, seen before it is opened: nothing is made or changed."""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from twinline.stores.shared.opening import StoreNotOpened
from twinline.stores.sqlite.file import StoreFile, located
from twinline.stores.sqlite.schema import version_of


def check_place(path: Path) -> None:
    """See that a store is at a path, or could be made there, by this process.

    No other thread of the process may have it open: SQLite's locks would go
    (https://sqlite.org/howtocorrupt.html, section 2.2).

    Raises:
        SchemaTooNew: a later program wrote it.
        StoreNotOpened: it cannot be, with why.
    """
    path = located(path)
    try:
        _check(path)
    except OSError as error:  # a folder above may not be looked into
        raise _refused(path, error.strerror or str(error)) from None


def _check(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise _refused(path, f"there is no folder {folder}; make it first")
    if path.exists():
        if not path.is_file():
            raise _refused(path, "it is not a file")
        if not _may(path, os.R_OK | os.W_OK):
            raise _refused(path, "it may not be read and written here")
    if not _may(folder, os.W_OK | os.X_OK):
        raise _refused(path, f"nothing may be written in the folder {folder}, as its log has to be")
    if path.exists() and path.stat().st_size:
        _look_inside(path)


def _look_inside(path: Path) -> None:
    # Immutable: SQLite takes no lock, and makes no file beside it. What a server has not moved from
    # its log yet is not seen, and does not matter here.
    try:
        with closing(StoreFile(path).plain("ro&immutable=1")) as connection:
            version_of(connection, path)
    except sqlite3.DatabaseError as error:
        # Whatever else is wrong shows when it is opened.
        if getattr(error, "sqlite_errorname", "") == "SQLITE_NOTADB":
            raise _refused(path, str(error)) from None


def _may(path: Path, mode: int) -> bool:
    with suppress(NotImplementedError):
        return os.access(path, mode, effective_ids=True)
    return os.access(path, mode)


def _refused(path: Path, why: str) -> StoreNotOpened:
    return StoreNotOpened(f"{path} cannot be opened as a store: {why}")
