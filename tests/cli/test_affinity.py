"""Which processors the threads of a server run on: one, and the others for a password's hash."""

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from cli_server import CommandLine, ended
from waiting import join

from twinline.cli.server import affinity
from twinline.cli.server.affinity import on_one, on_others
from twinline.cli.server.hashing import BackgroundHasher

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="this system does not bind threads to processors"
)
SEVERAL = pytest.mark.skipif(
    hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < 2,
    reason="there is only one processor",
)


@pytest.fixture(autouse=True)
def nobody_is_kept_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity._Process, "others", None)


def in_a_thread(work: Callable[[], Any]) -> Any:
    """Run work in a thread of its own, which alone it may bind, and return its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    join(thread)
    return results[0]


def here() -> set[int]:
    return os.sched_getaffinity(0)


@SEVERAL
def test_a_thread_is_kept_on_one_with_those_that_it_starts() -> None:
    def work() -> list[set[int]]:
        with on_one() as chosen:
            seen = [{chosen}, here(), in_a_thread(here)]
        return [*seen, here()]

    before = here()
    chosen, its, children, after = in_a_thread(work)
    assert chosen < before
    assert its == children == chosen
    assert after == before
    assert here() == before  # nobody else's


@SEVERAL
def test_what_asks_for_the_others_has_them_and_comes_back() -> None:
    def work() -> list[set[int]]:
        with on_one():
            seen = [here()]
            with suppress(KeyError), on_others():
                seen.append(here())
                raise KeyError
            return [*seen, here()]

    before = here()
    first, within, after = in_a_thread(work)
    assert len(first) == 1
    assert within == before - first
    assert after == first


@SEVERAL
def test_a_password_is_hashed_on_others(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []

    def hash_here(*_: object, **__: object) -> str:
        seen.append(here())
        return "a hash"

    monkeypatch.setattr(PasswordHasher, "hash", hash_here)

    def work() -> set[int]:
        with on_one():
            BackgroundHasher().hash("correct horse")
            return here()

    before = here()
    one = in_a_thread(work)
    assert seen == [before - one]


def test_who_is_not_kept_on_one_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: pytest.fail("nobody asked for this"))
    with on_others():
        pass


@pytest.mark.parametrize("why", ["one processor", "no interpreter lock", "forbidden"])
def test_where_there_is_nothing_to_gain_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    one = {0} if why == "one processor" else {0, 1}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: one)
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    locked = why != "no interpreter lock"
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: locked, raising=False)
    with on_one() as chosen:
        assert chosen is None
        assert affinity._Process.others is None


def test_a_system_that_cannot_do_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity")
    with on_one() as chosen:
        assert chosen is None


def test_servers_are_spread_and_leave_the_first_to_interrupts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {2, 4, 6})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _pid, _processors: None)
    chosen = set()
    for number in (100, 101, 102):
        monkeypatch.setattr(os, "getpid", lambda number=number: number)
        with on_one() as one:
            chosen.add(one)
    assert chosen == {4, 6}


@SEVERAL
@pytest.mark.parametrize(
    ("flag", "kept"), [("--one-processor", True), ("--no-one-processor", False)]
)
def test_serve_is_kept_on_one_unless_told_not_to(tmp_path: Path, flag: str, kept: bool) -> None:
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    store = f"sqlite:{tmp_path / 'chat.db'}"
    server = twinline.start("serve", "--listen", "tcp://127.0.0.1:0", "--store", store, flag)
    with ended(server):
        assert server.stdout is not None
        place = server.stdout.readline().split()[2]
        twinline.run("ping", "--count", "1", "--connect", place)
        counts = []
        for task in Path(f"/proc/{server.pid}/task").iterdir():
            with suppress(ProcessLookupError):  # it has ended, as that of a connection does
                counts.append(len(os.sched_getaffinity(int(task.name))))
        assert len(counts) > 1  # the store's writer among them
    assert set(counts) == ({1} if kept else {len(here())})


def test_nodes_have_a_processor_each_and_the_first_comes_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {2, 4, 6})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _pid, _processors: None)
    chosen = []
    for index in range(4):
        with on_one(index) as one:
            chosen.append(one)
    assert chosen == [4, 6, 2, 4]
