"""Power loss: disks are rebuilt from a trace of the server, and each holds what it must."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from crash_disk import RECORD, Acknowledged, Disk, Loss, Step, Write, kept_on, read_trace
from crash_server import FULL, CrashServer, by_form, needs_strace, report, strace
from crash_workload import require_ok, wait_sends, workload_at

from twinline.cli.verify.workload import WorkloadSettings

pytestmark = pytest.mark.timeout(1800 if FULL else 180)
STATES = by_form(60, 1200)
CONTROL_STATES = by_form(30, 300)
SENDS = by_form(60, 1500)


@dataclass
class Found:
    """What the disks of one trace held."""

    states: Counter[Loss] = field(default_factory=Counter)
    checked: int = 0  # acknowledged messages that were looked for
    missing: int = 0
    losing: int = 0  # disks on which some were missing
    broken: list[str] = field(default_factory=list)


def recorded(folder: Path, options: str = "") -> list[Step]:
    """Run a workload over a server that is traced, kill it, and return what it did."""
    trace = folder / "trace"
    files = folder / "files"
    files.mkdir()
    with (
        CrashServer(folder, options=options, path=files / "store") as server,
        workload_at(server.endpoint, folder / "history", WorkloadSettings(8, 4, 300)) as (
            workload,
            checker,
        ),
    ):
        server.start(strace(trace, "--seccomp-bpf", *RECORD))
        workload.open()
        workload.start()
        wait_sends(workload, SENDS, by_form(30, 120))
        workload.finish()
        require_ok(checker.judge(), folder)
        server.kill()
    with trace.open(encoding="ascii") as lines:
        return list(read_trace(lines))


def disks(
    steps: list[Step], files: Path, count: int, chance: random.Random
) -> Iterator[tuple[Disk, Loss, dict[str, bytes]]]:
    """Yield so many disks of power losses at moments all over the trace.

    Half of them are just after an acknowledgement, which is when too late a sync is seen.
    """
    acknowledged = [at for at, step in enumerate(steps) if isinstance(step, Acknowledged)]
    moments = Counter(
        chance.choice(acknowledged) if number % 2 else chance.randrange(len(steps))
        for number in range(count)
    )
    disk = Disk(files)
    kinds = list(Loss)
    for at, step in enumerate(steps):
        disk.take(step)
        for number in range(moments[at]):
            loss = kinds[(at + number) % len(kinds)]
            yield disk, loss, disk.images(loss, chance)


def examined(steps: list[Step], folder: Path, count: int, chance: random.Random) -> Found:
    """Open every disk as the server would, and compare it with what was acknowledged."""
    found = Found()
    place = folder / "disk"
    for disk, loss, images in disks(steps, folder / "files", count, chance):
        found.states[loss] += 1
        found.checked += len(disk.acknowledged)
        try:
            kept = kept_on(images, place)
        except Exception as error:
            found.broken.append(f"{loss}: {error!r}")
        else:
            missing = len(disk.acknowledged - kept)
            found.missing += missing
            found.losing += missing > 0
    return found


def told(found: Found) -> str:
    kinds = ", ".join(f"{found.states[loss]} lost {loss.value}" for loss in Loss)
    return (
        f"{found.states.total():,} disks ({kinds} of the unsynced): {len(found.broken)} broken, "
        f"{found.missing:,} of {found.checked:,} acknowledged messages missing, "
        f"on {found.losing} disks"
    )


def test_an_acknowledged_message_survives_power_loss(tmp_path: Path) -> None:
    needs_strace()
    seed = random.randrange(2**32)
    steps = recorded(tmp_path)
    found = examined(steps, tmp_path, STATES, random.Random(seed))
    moved = sum(
        isinstance(step, Write) and step.path == str(tmp_path / "files" / "store") for step in steps
    )
    report(f"power loss, FULL (seed {seed}, {moved} pages checkpointed)", told(found))
    assert found.broken == []
    assert found.missing == 0
    assert found.checked > STATES


def test_the_check_sees_that_synchronous_normal_loses_messages(tmp_path: Path) -> None:
    needs_strace()
    seed = random.randrange(2**32)
    steps = recorded(tmp_path, "?synchronous=normal")
    found = examined(steps, tmp_path, CONTROL_STATES, random.Random(seed))
    report(f"power loss, the control NORMAL (seed {seed})", told(found))
    assert found.broken == []
    assert found.missing > 0
