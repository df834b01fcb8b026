"""The workload of the crash tests: the one of `twinline verify`, and what is required of it."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from waiting import wait_until

from twinline.cli.verify.accounts import Places
from twinline.cli.verify.workload import Workload, WorkloadSettings
from twinline.stores.conformance.history import (
    Anomaly,
    Checker,
    EventSink,
    Judgement,
    Recorder,
    Verdict,
    write_history,
)


@contextmanager
def workload_at(
    endpoint: Places,
    history: Path,
    settings: WorkloadSettings,
    *,
    watching: str | None = None,
    sinks: Iterable[EventSink] = (),
) -> Iterator[tuple[Workload, Checker]]:
    """Return a workload that is prepared, and the checker that judges it at the end.

    Args:
        endpoint: where it sends.
        history: the file for what happens.
        settings: how much is done.
        watching: where it watches, if that is elsewhere.
        sinks: what else takes the events.
    """
    checker = Checker()
    recorder = Recorder([checker, *sinks])
    workload = Workload(endpoint, recorder, settings, watching=watching)
    try:
        yield workload, checker
    finally:
        workload.close(clean=False)  # its accounts go with the file
        with history.open("w", encoding="utf-8") as file:
            write_history(file, recorder.take())


def wait_sends(workload: Workload, count: int, seconds: float = 20) -> None:
    """Wait until so many more sends were acknowledged."""
    goal = workload.acknowledged + count
    wait_until(lambda: workload.acknowledged >= goal, f"{count} more sends", seconds)


def require_ok(judgement: Judgement, history: Path) -> None:
    """Fail unless nothing was lost, invented, repeated, reordered or changed."""
    assert judgement.violations == {}, (judgement, history)
    assert judgement.verdict is Verdict.OK, (judgement, history)


def require_intact(path: Path) -> None:
    """Fail unless SQLite finds its file in order."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def require_kept(workload: Workload, path: Path) -> None:
    """Fail unless the file of a server that was killed holds all that was acknowledged."""
    require_intact(path)
    with closing(sqlite3.connect(path)) as connection:
        bodies = [row[0] for row in connection.execute("SELECT CAST(body AS TEXT) FROM messages")]
    missing = workload.acknowledged_ids() - {body.partition(" ")[0] for body in bodies}
    assert missing == set()


def figures(judgement: Judgement) -> str:
    """Return what a report says of a judged run."""
    bound = 3 / max(1, judgement.acknowledged)
    found = ", ".join(f"{anomaly.value} {judgement.count(anomaly)}" for anomaly in Anomaly)
    return (
        f"{judgement.acknowledged:,} acknowledged, {judgement.delivered:,} delivered, "
        f"{judgement.redelivered:,} redelivered; {found}; lost below {bound:.1g} (95 %)"
    )
