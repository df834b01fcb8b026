"""What other packages offer, by the entry points with which they are installed."""

import sys
from functools import lru_cache
from importlib import metadata
from importlib.metadata import EntryPoints
from pathlib import Path


def entry_points(*, group: str) -> EntryPoints:
    """Return the entry points of a group, of all that is installed now.

    They are read again once something has been installed or removed: to read those of all packages
    takes milliseconds, and a server looks for transports at each of its endpoints.
    """
    return _entry_points(group, tuple((entry, _changed_at(entry)) for entry in sys.path))


@lru_cache(maxsize=8)
def _entry_points(group: str, _found_in: tuple[tuple[str, int], ...]) -> EntryPoints:
    return metadata.entry_points(group=group)


def _changed_at(folder: str) -> int:
    """Return when something was last put into a folder of the path, in ns; 0 if there is none."""
    try:
        return Path(folder).stat().st_mtime_ns
    except OSError:
        return 0
