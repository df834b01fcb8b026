"""The descriptors of this process: what may be left open, and what wakes who polls."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from waiting import wait_until

from twinline.transports import wakeup


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


@pytest.fixture(params=["eventfd", "pipe"])
def wake_form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have wakes go through the one kind of descriptor or the other, and leave none open."""
    eventfd = request.param == "eventfd"
    if eventfd and not wakeup._EVENTFD:
        pytest.skip("this system has no eventfd")
    monkeypatch.setattr(wakeup, "_EVENTFD", eventfd)
    with nothing_left_open():
        yield
