"""The disks that are rebuilt from a trace: what is certain, what may be there, what is not."""

import random
from pathlib import Path

import pytest
from crash_disk import (
    Acknowledged,
    Disk,
    Loss,
    Remove,
    Step,
    SyncBegin,
    SyncEnd,
    Truncate,
    Write,
    read_trace,
)

FOLDER = Path("/f")
FILE = "/f/a"


def synced(path: str = FILE) -> list[Step]:
    return [SyncBegin(path, "1"), SyncEnd(path, "1")]


def after(*steps: Step) -> Disk:
    disk = Disk(FOLDER)
    for step in steps:
        disk.take(step)
    return disk


def certain(*steps: Step) -> dict[str, bytes]:
    """Return what is there when all that was not synced is lost."""
    return after(*steps).images(Loss.ALL, random.Random(1))


def possible(loss: Loss, *steps: Step) -> set[bytes | None]:
    """Return all that the file may hold."""
    chance = random.Random(1)
    disk = after(*steps)
    return {disk.images(loss, chance).get("a") for _ in range(200)}


def test_what_was_synced_is_there_and_nothing_else_is_certain() -> None:
    write = Write(FILE, 0, b"one")
    assert certain(write) == {}
    assert certain(write, *synced()) == {"a": b"one"}
    assert certain(write, *synced(), Write(FILE, 0, b"two")) == {"a": b"one"}
    assert certain(write, *synced("/f/b")) == {"b": b""}


def test_a_sync_is_for_what_was_written_before_it_began() -> None:
    begin, end = synced()
    assert certain(Write(FILE, 0, b"one"), begin, Write(FILE, 3, b"two"), end) == {"a": b"one"}
    assert certain(Write(FILE, 0, b"one"), begin) == {}


def test_two_syncs_at_once_settle_what_each_saw() -> None:
    steps: list[Step] = [Write(FILE, 0, b"1"), SyncBegin(FILE, "1"), Write(FILE, 1, b"2")]
    steps += [SyncBegin(FILE, "2"), Write(FILE, 2, b"3"), SyncEnd(FILE, "1")]
    assert certain(*steps) == {"a": b"1"}
    assert certain(*steps, SyncEnd(FILE, "2")) == {"a": b"12"}


def test_any_of_the_unsynced_writes_may_be_there() -> None:
    steps = (*synced(), Write(FILE, 0, b"a"), Write(FILE, 1, b"b"))
    assert possible(Loss.WRITES, *steps) == {b"", b"a", b"\0b", b"ab"}
    assert possible(Loss.WRITES, Write(FILE, 0, b"a")) == {None, b"a"}


def test_any_sector_of_an_unsynced_write_may_be_there() -> None:
    one, two = b"1" * 512, b"2" * 512
    found = possible(Loss.SECTORS, *synced(), Write(FILE, 0, one + two))
    assert found == {b"", one, bytes(512) + two, one + two}


def test_a_file_is_cut_like_it_is_written() -> None:
    steps = (Write(FILE, 0, b"abc"), *synced(), Truncate(FILE, 1))
    assert certain(*steps) == {"a": b"abc"}
    assert possible(Loss.WRITES, *steps) == {b"abc", b"a"}
    assert certain(*steps, *synced()) == {"a": b"a"}


def test_a_name_that_was_removed_may_be_there_until_something_is_synced() -> None:
    steps = (Write(FILE, 0, b"a"), *synced(), Remove(FILE))
    assert certain(*steps) == {"a": b"a"}
    assert possible(Loss.WRITES, *steps) == {b"a", None}
    assert certain(*steps, *synced("/f")) == {}


def test_other_files_are_not_on_the_disk() -> None:
    steps = [Write(path, 0, b"x") for path in ("/g/a", "/f/a-shm")]
    assert possible(Loss.WRITES, *steps) == {None}
    assert after(*steps).images(Loss.WRITES, random.Random(1)) == {}


def hexed(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


A = f"5<{hexed('/f/a')}>"
REPLY = hexed('{"id":1,"ok":true,"message_id":"77","sent_at":1}\n{"id":2,"ok":true}\n')
LINES = {
    f'7  pwrite64({A}, "{hexed("hi")}", 2, 4096) = 2': [Write(FILE, 4096, b"hi")],
    f'7  pwrite64({A}, "{hexed("hi")}", 2, 0 <unfinished ...>': [],
    f'7  pwrite64({A}, "{hexed("hi")}", 2, 0) = -1 ENOSPC (No space left) (INJECTED)': [],
    f"7  fdatasync({A}) = -1 EIO (Input/output error) (INJECTED)": [SyncBegin(FILE, "7")],
    f"7  fsync({A}) = ?": [SyncBegin(FILE, "7")],
    f"7  ftruncate({A}, 32) = -1 EIO (Input/output error)": [],
    f'7  unlink("{hexed(FILE)}") = -1 ENOENT (No such file or directory)': [],
    f"7  fdatasync({A}) = 0": [SyncBegin(FILE, "7"), SyncEnd(FILE, "7")],
    f"7  ftruncate({A}, 32) = 0": [Truncate(FILE, 32)],
    f'7  unlink("{hexed(FILE)}") = 0': [Remove(FILE)],
    f'7  sendto(9<{hexed("socket:[1]")}>, "{REPLY}", 60, MSG_DONTWAIT, NULL, 0) = 60': [
        Acknowledged("77")
    ],
    "7  +++ killed by SIGKILL +++": [],
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_a_trace_is_read(line: str) -> None:
    assert list(read_trace([line])) == LINES[line]


def test_a_sync_that_failed_makes_nothing_certain() -> None:
    lines = [
        f'7  pwrite64({A}, "{hexed("hi")}", 2, 0) = 2',
        f"7  fdatasync({A} <unfinished ...>",
        "7  <... fdatasync resumed>) = -1 EIO (Input/output error) (INJECTED)",
    ]
    assert certain(*read_trace(lines)) == {}


def test_a_write_counts_from_its_end() -> None:
    lines = [
        f'8  pwrite64({A}, "{hexed("x")}", 1, 0 <unfinished ...>',
        f"7  fdatasync({A}) = 0",
        "8  <... pwrite64 resumed>) = 1",
    ]
    assert certain(*read_trace(lines)) == {"a": b""}
    assert certain(*read_trace([*lines, lines[1]])) == {"a": b"x"}


def test_a_sync_that_another_thread_interrupts_ends_when_it_is_resumed() -> None:
    lines = [
        f"7  fdatasync({A} <unfinished ...>",
        f'8  pwrite64({A}, "{hexed("x")}", 1, 0) = 1',
        "7  <... fdatasync resumed>) = 0",
    ]
    assert list(read_trace(lines)) == [
        SyncBegin(FILE, "7"),
        Write(FILE, 0, b"x"),
        SyncEnd(FILE, "7"),
    ]
