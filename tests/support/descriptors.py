"""Counts the descriptors of this process, for tests of what may be left open."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from waiting import wait_until


def descriptors() -> set[str]:
    """Return what this process has open, apart from files: sockets, pipes, polls."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:
            continue  # the listing's own
        if not target.startswith("/"):
            found.add(f"{descriptor.name} {target}")
    return found


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """Fail if more is open at the end than at the beginning.

    The collector is off meanwhile: what it would have to close was left open.
    """
    gc.collect()
    gc.disable()
    try:
        before = descriptors()
        yield
        wait_until(
            lambda: not descriptors() - before, f"only {before}, not {descriptors()}", seconds=5
        )
    finally:
        gc.enable()
