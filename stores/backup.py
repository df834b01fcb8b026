"""Writing all that a store keeps to a file that is a SQLite store: a backup of any of them."""

from pathlib import Path

from twinline.stores.archive import Archive
from twinline.stores.copying import copy_all
from twinline.stores.sqlite.archive import SqliteArchive
from twinline.stores.upkeep import Step, no_step


def write_backup(source: Archive, path: Path, step: Step = no_step) -> None:
    """Write a backup, and compare it with what it is of.

    Args:
        source: of what; it does not change meanwhile.
        path: the file, which must not be there yet; it appears when it is complete and on disk.
        step: called with the progress.

    Raises:
        FileExistsError: the file is there.
        CopyError: the source has changed.
        sqlite3.Error, OSError: it cannot be written; then there is none.
        Exception: what the source's engine raises.
    """
    # What an earlier one left is of another moment.
    with SqliteArchive.open_target(path, anew=True) as target:
        try:
            copy_all(source, target, step)
        except BaseException:
            target.discard()
            raise
