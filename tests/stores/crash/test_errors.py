"""The disk fails or is full: what was acknowledged is kept, and the server goes on by itself."""

import contextlib
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from crash_disk import RECORD, Disk, Loss, SyncEnd, kept_on, read_trace
from crash_server import FULL, CrashServer, by_form, needs_strace, report, strace
from crash_workload import figures, require_kept, require_ok, wait_sends, workload_at
from services import PASSWORD
from waiting import wait_until

from twinline.cli.verify.workload import WorkloadSettings
from twinline.core.errors import StoreUnavailable
from twinline.transports.client import Client

pytestmark = pytest.mark.timeout(1800 if FULL else 180)
# The first few are of opening the file, those up to about 20 of making the accounts, the others of
# the sends and the acks. The quick form has one of the first and four of the last in a row, as a
# single one may be of an ack, which no sender is told of.
FAILURES = [
    *(f"fdatasync:error=EIO:when={when}" for when in (range(1, 61) if FULL else ("2", "26..29"))),
    *(
        f"pwrite64:error=ENOSPC:when={number}..{number + 9}"
        for number in (range(1, 241, 8) if FULL else (141,))
    ),
]
RECOVERY_SECONDS = 2.0


def test_a_failed_write_or_sync_is_not_acknowledged_and_the_server_goes_on(tmp_path: Path) -> None:
    needs_strace()
    acknowledged = ended = 0
    for number, failure in enumerate(FAILURES):
        folder = tmp_path / str(number)
        folder.mkdir()
        count, died = failed_at(failure, folder)
        acknowledged += count
        ended += died
    report(
        f"{len(FAILURES)} injected failures of {FAILURES[0]} to {FAILURES[-1]}",
        f"{acknowledged:,} acknowledged, 0 missing; {ended} of them kept the server from starting, "
        "it went on by itself after the others",
    )


def failed_at(failure: str, folder: Path, options: str = "") -> tuple[int, bool]:
    """Run a workload over a server whose system calls fail; return what was acknowledged."""
    trace = folder / "trace"
    files = folder / "files"
    files.mkdir()
    with (
        CrashServer(folder, options=options, path=files / "store") as server,
        workload_at(server.endpoint, folder / "history", WorkloadSettings(4, 2, 200)) as (
            workload,
            checker,
        ),
    ):
        server.start(strace(trace, *RECORD, f"-einject={failure}"), wait=False)

        def work() -> None:
            workload.open()
            workload.start()

        working = threading.Thread(target=work)
        working.start()
        try:
            wait_until(lambda: trace.exists() and b"INJECTED" in trace.read_bytes(), failure, 20)
            # A failure while the file is opened is told at once, and nothing is served.
            died = not server.listens()
            if died:
                server.kill()
                server.start()
        finally:
            working.join(40)
        wait_sends(workload, 20)
        workload.finish()
        server.kill()
        require_ok(checker.judge(), folder)
        require_kept(workload, server.path)
        require_synced(trace, files, folder / "disk")
        return workload.acknowledged, died


def require_synced(trace: Path, files: Path, place: Path) -> None:
    """See that a message was not acknowledged before a sync that succeeded had it on the disk.

    That the file holds it does not show that: what was written and not synced is in the
    system's memory, and still there when only the process was killed. And the next sync that
    succeeds covers up for one that failed: so each is looked at just before it ends.
    """
    with trace.open(encoding="ascii") as lines:
        steps = list(read_trace(lines))
    disk = Disk(files)
    looked_for = 0
    for at, step in enumerate([*steps, None]):
        # What is certain grows at the end of a sync only, so between two of them the last
        # acknowledgement asks for the most.
        if (step is None or isinstance(step, SyncEnd)) and len(disk.acknowledged) > looked_for:
            looked_for = len(disk.acknowledged)
            images = disk.images(Loss.ALL, random.Random(0))
            assert disk.acknowledged <= kept_on(images, place), f"before step {at} of {trace}"
        if step is not None:
            disk.take(step)


def test_the_check_sees_an_acknowledgement_without_a_sync(tmp_path: Path) -> None:
    needs_strace()
    with pytest.raises(AssertionError, match="before step"):
        failed_at("pwrite64:error=ENOSPC:when=141..150", tmp_path, "?synchronous=normal")


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """Mount a file system of 4 MB, or skip the test where that is not allowed."""
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "size=4m", "none", str(place)]
    try:
        subprocess.run(["mount", *options], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=10)


def fill(place: Path) -> None:
    """Take what is left of a file system."""
    with (place / "ballast").open("ab", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(1024))


def fill_until_refused(place: Path, client: Client) -> None:
    """Take all the space there is, until a send is refused."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        fill(place)
        try:
            client.send("probe", "is there space?")
        except StoreUnavailable:
            return
    pytest.fail("a full disk refuses nothing")


def test_a_full_disk_refuses_sends_and_recovers_when_there_is_space(tmp_path: Path) -> None:
    rounds = by_form(1, 5)
    slowest = 0.0
    with (
        small_disk(tmp_path / "disk") as place,
        CrashServer(tmp_path, path=place / "store") as server,
        workload_at(server.endpoint, tmp_path / "history", WorkloadSettings(4, 2, 20)) as (
            workload,
            checker,
        ),
        Client(server.endpoint) as client,
    ):
        server.start()
        client.create_account("probe", PASSWORD)
        workload.open()
        workload.start()
        for _ in range(rounds):
            wait_sends(workload, 10)
            client.send("probe", "there is space")
            fill_until_refused(place, client)
            # Who reads does not notice.
            assert client.history().messages[0].body == "there is space"
            (place / "ballast").unlink()
            begin = time.monotonic()
            while True:
                try:
                    client.send("probe", "and now?")
                    break
                except StoreUnavailable:
                    assert time.monotonic() - begin < RECOVERY_SECONDS
                    time.sleep(0.01)
            slowest = max(slowest, time.monotonic() - begin)
        workload.finish()
        judgement = checker.judge()
        server.kill()
        require_ok(judgement, tmp_path)
        require_kept(workload, server.path)
    report(
        f"a full disk of 4 MB, {rounds} times",
        f"sends again {slowest:.2f} s after there was space, at the latest; {figures(judgement)}",
    )
    assert slowest < RECOVERY_SECONDS
