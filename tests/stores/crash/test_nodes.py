"""Two servers of one state fail, and so does the engine under them: nothing is lost.

All senders are at one server and all watchers at the other, so every message goes through the
engine, and so does the notice of it.
"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from crash_faults import DEADLY_PATH, SEQUENCE_URL
from crash_nodes import ENGINES, Engine, Times, cut_listeners, engine_of, kill_one, nodes_at
from crash_server import FULL, CrashServer, by_form, report
from crash_workload import figures, require_ok, wait_sends, workload_at
from postgres_engine import StartEngine
from waiting import wait_until

from twinline.cli.verify import accounts
from twinline.cli.verify.workload import Workload, WorkloadSettings
from twinline.stores.conformance.history import Anomaly, Checker, EventSink, Verdict
from twinline.stores.postgresql.rereads import REREAD_SECONDS
from twinline.stores.valkey.chores import READ_AGAIN_SECONDS
from twinline.transports.client import ClientSettings
from twinline.transports.endpoints import Endpoint

pytestmark = pytest.mark.timeout(3600 if FULL else 180)
WORK = WorkloadSettings(by_form(4, 8), by_form(2, 4), 200)
# How often, and up to how many seconds after a send that was acknowledged.
KILLS = {
    "a server": (by_form(4, 100), 0.15),
    "the engine": (by_form(2, 30), 0.3),
    "the listeners": (by_form(3, 30), 0.3),
}
APART = by_form(0, 1)  # seconds between two kills
STOPS = by_form(1, 3)
STOP_SECONDS = 5
LOOK_SECONDS = max(REREAD_SECONDS, READ_AGAIN_SECONDS)
LATE_SECONDS = 2.5
"""What a look and the way to a client may take on a machine that does much else."""
PATIENT = ClientSettings(
    connect_seconds=2,
    reply_seconds=10,
    command_seconds=15,
    wait_seconds=30,
    backoff_first=0.05,
    backoff_max=0.5,
)
"""Whose watches do not end by themselves before the test does."""


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> tuple[str, Engine, str]:
    """The name of an engine of the test's own, the engine, and a store's URL.

    It keeps on the disk what it acknowledges.
    """
    return str(request.param), *engine_of(request)


@contextmanager
def at_work(
    folder: Path, url: str, *sinks: EventSink, fault: str = ""
) -> Iterator[tuple[tuple[CrashServer, ...], Workload, Checker]]:
    """Have senders at one server of a state and watchers at another: both, the workload, its judge.

    Args:
        folder: for logs and the history.
        url: of the store.
        sinks: what else takes the events.
        fault: what each of the servers does wrong.
    """
    with (
        nodes_at(folder, url, url, fault=fault) as (here, there),
        workload_at(
            here.endpoint, folder / "history", WORK, watching=there.endpoint, sinks=sinks
        ) as (workload, checker),
    ):
        workload.open()
        workload.start()
        yield (here, there), workload, checker


def finish(what: str, workload: Workload, checker: Checker, folder: Path, times: Times) -> None:
    """End a workload, report its figures, and see that nothing went wrong."""
    workload.finish()
    judgement = checker.judge()
    late = f"received {times.slowest:.1f} s after the acknowledgement at the latest"
    report(what, f"{late}; {figures(judgement)}")
    require_ok(judgement, folder)


@pytest.mark.parametrize("what", KILLS)
def test_what_is_killed_loses_nothing(
    what: str, engine: tuple[str, Engine, str], tmp_path: Path
) -> None:
    name, running, url = engine
    rounds, pause = KILLS[what]
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    times = Times()
    with at_work(tmp_path, url, times) as ((here, there), workload, checker):
        for _ in range(rounds):
            due = time.monotonic() + APART
            wait_sends(workload, 1)
            time.sleep(chance.uniform(0, pause))
            if what == "a server":
                kill_one((here, there), chance)
            elif what == "the engine":
                running.kill()
                running.start()
            else:
                wait_until(lambda: cut_listeners(running), "there are some to be killed")
            time.sleep(max(0.0, due - time.monotonic()))
        wait_sends(workload, 50)
        said = f"{name}: {what} killed {rounds} times (seed {seed})"
        finish(said, workload, checker, tmp_path, times)


def test_an_engine_that_stands_still_loses_nothing(
    engine: tuple[str, Engine, str], tmp_path: Path
) -> None:
    name, running, url = engine
    times = Times()
    with at_work(tmp_path, url, times) as (_, workload, checker):
        for _ in range(STOPS):
            wait_sends(workload, 20)
            running.pause()
            try:
                time.sleep(STOP_SECONDS)
            finally:
                running.go_on()
        wait_sends(workload, 100)
        what = f"{name}: the engine stopped for {STOP_SECONDS} s, {STOPS} times"
        finish(what, workload, checker, tmp_path, times)


def test_without_notices_mail_is_late_and_not_lost(
    engine: tuple[str, Engine, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "PATIENCE", PATIENT)
    name, _, url = engine
    times = Times()
    with at_work(tmp_path, url, times, fault="swallow_notices") as (_, workload, checker):
        wait_sends(workload, by_form(400, 12_000), 120)
        finish(f"{name}: no notices", workload, checker, tmp_path, times)
    assert 1 < times.slowest < LOOK_SECONDS + LATE_SECONDS


@pytest.mark.parametrize("engine", ["valkey"], indirect=True)
def test_a_server_that_dies_between_mail_and_copy_leaves_what_a_repeat_completes(
    engine: tuple[str, Engine, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, url = engine
    rounds = by_form(3, 100)
    deadly = tmp_path / "deadly"
    monkeypatch.setenv(DEADLY_PATH, str(deadly))
    times = Times()
    with at_work(tmp_path, url, times, fault="die_before_a_copy") as ((here, _), workload, checker):
        for _ in range(rounds):
            wait_sends(workload, 10)
            deadly.touch()
            wait_until(lambda: not deadly.exists(), "a server dies")
            here.kill()
            here.start_warm()
        wait_sends(workload, 50)
        finish(f"{name}: killed {rounds} times before a copy", workload, checker, tmp_path, times)
    # A mail whose copy was cut off was unsure until it was sent again.
    judgement = checker.judge()
    assert judgement.copies == judgement.delivered == judgement.acknowledged


# -- what must be found out -----------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES if FULL else ENGINES[:1], indirect=True)
def test_notices_that_are_swallowed_with_nothing_behind_them_are_found_out(
    engine: tuple[str, Engine, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "PATIENCE", PATIENT)
    name, _, url = engine
    short = replace(WORK, settle_seconds=LOOK_SECONDS + LATE_SECONDS)
    fault = "swallow_notices_and_never_look"
    with at_work(tmp_path, url, fault=fault) as (_, workload, checker):
        wait_sends(workload, 100)
        workload._settings = short  # not for making the accounts, which takes as long as it does
        workload.finish()
        judgement = checker.judge()
    report(
        f"{name}: the control without notices and without looks",
        f"verdict {judgement.verdict}: of {judgement.acknowledged} messages and their copies "
        f"{judgement.undrained} had not come {short.settle_seconds} s later",
    )
    assert judgement.verdict is Verdict.UNKNOWN
    assert judgement.undrained > 0


def test_a_sequence_in_the_place_of_a_locked_seq_is_found_out(
    start_postgres: StartEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start_postgres()
    url = engine.new_store_url()
    engine.sql("CREATE SEQUENCE drawn")
    monkeypatch.setenv(SEQUENCE_URL, engine.url())
    work = WorkloadSettings(8, 1, 0)
    with nodes_at(tmp_path, url, url, fault="draw_seqs_early") as (here, there):
        both = [Endpoint.parse(here.endpoint), Endpoint.parse(there.endpoint)]
        with workload_at(both, tmp_path / "history", work, watching=there.endpoint) as (
            workload,
            checker,
        ):
            workload.open()
            workload.start()
            wait_sends(workload, by_form(200, 3000), 120)
            workload.finish()
            judgement = checker.judge()
    report("postgresql: the control with seqs of a sequence", figures(judgement))
    found: Any = judgement.violations
    assert found.get(Anomaly.LOST) or found.get(Anomaly.SKIPPED), judgement
