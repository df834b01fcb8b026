"""The test run: a test that hangs is named and shown, nothing outlives a killed run or is lost."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kinds
import orphans
import pytest
from waiting import wait_until

SUPPORT = Path(orphans.__file__).parent
CONFTEST = """
import orphans, pytest, time_limit

def pytest_configure(config):
    time_limit.register(config, orphans.watch_over_this_process())
"""
HANGING = """
import subprocess, threading, pytest

def waits_for_ever():
    threading.Event().wait()

@pytest.mark.timeout(1)
def test_that_hangs():
    threading.Thread(target=waits_for_ever, name="a-thread-of-it", daemon=True).start()
    with subprocess.Popen(["sleep", "600"]):  # and its end is waited for after the failure
        waits_for_ever()

@pytest.mark.parametrize("number", range(4))
def test_that_passes(number):
    pass
"""
# A lock of C that no signal interrupts, as the wait for a lost thread or a full disk is none.
STUCK = """
import ctypes, pytest, sys

@pytest.mark.timeout(1)
def test_that_is_stuck():
    libc = ctypes.PyDLL(None)  # the interpreter's lock is kept
    while True:
        libc.pause()

@pytest.mark.parametrize("number", range(4))
def test_that_passes(number):
    pass
"""
SERVING = """
import os, pathlib, subprocess, sys, time, pytest

@pytest.mark.parametrize("number", range(2))
def test_with_a_server(number):
    server = subprocess.Popen(["sleep", "600"], start_new_session=True)
    file = pathlib.Path(__file__).with_name(f"{number}.new")
    file.write_text(f"{os.getpid()} {server.pid}")
    file.rename(file.with_suffix(".pids"))
    time.sleep(600)
"""


@contextmanager
def suite(
    folder: Path, tests: str, *options: str, grace: str = "30"
) -> Iterator["subprocess.Popen[str]"]:
    """Run a suite of its own."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_suite.py").write_text(tests)
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = {SUPPORT}\n")
    kept = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**kept, "TESTS_GRACE": grace},
    ) as run:
        try:
            yield run
        finally:
            run.kill()


@pytest.mark.parametrize("options", [("-n", "2"), ()], ids=["in workers", "in one process"])
def test_a_test_that_hangs_fails_with_its_name_and_all_stacks(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    with suite(tmp_path, HANGING, *options, grace="12") as run:
        said, _ = run.communicate(timeout=50)
    assert "test_suite.py::test_that_hangs has passed its 1 s" in said
    assert "a-thread-of-it" in said
    assert said.count("in waits_for_ever") >= 2
    assert "1 failed, 4 passed" in said
    assert "node down" not in said


def test_a_test_that_no_signal_ends_costs_its_worker_and_is_named(tmp_path: Path) -> None:
    with suite(tmp_path, STUCK, "-n", "2", grace="1") as run:
        said, _ = run.communicate(timeout=50)
    assert "test_suite.py::test_that_is_stuck has passed its 1 s" in said
    assert "in test_that_is_stuck" in said
    assert "1 failed, 4 passed" in said


def pids(folder: Path) -> dict[int, int]:
    """Return the workers and the server of each, once each has one."""
    wait_until(lambda: len(list(folder.glob("*.pids"))) == 2, "two servers", 30)
    pairs = [path.read_text().split() for path in folder.glob("*.pids")]
    return {int(worker): int(server) for worker, server in pairs}


def runs(pid: int) -> bool:
    """Return whether a process has not ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc to find processes in")
def test_nothing_is_left_of_a_run_that_is_killed(tmp_path: Path) -> None:
    with suite(tmp_path, SERVING, "-n", "2") as run:
        started = pids(tmp_path)
        run.kill()
        everything = [*started, *started.values()]
        wait_until(lambda: not any(map(runs, everything)), "the end of all", 20)


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc to find processes in")
def test_nothing_is_left_of_a_worker_that_is_killed(tmp_path: Path) -> None:
    with suite(tmp_path, SERVING, "-n", "2", "--max-worker-restart", "0"):
        (worker, server), (other, its_server) = pids(tmp_path).items()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not runs(server), "the end of its server", 20)
        assert runs(other)
        assert runs(its_server)


def test_each_kind_of_slow_tests_has_some() -> None:
    for pattern in kinds.KINDS:
        assert list(SUPPORT.parents[1].glob(pattern.partition("::")[0])), pattern


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [("there is no fish here", "failed"), ("tasks are begun eagerly since 3.12", "skipped")],
)
def test_what_is_skipped_for_what_is_missing_can_fail(
    reason: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("test_x.py", 1, f"Skipped: {reason}")
    report = pytest.TestReport("test_x", ("", 0, ""), {}, "skipped", where, "call")
    kinds.fail_if_something_is_missing(report)
    assert report.outcome == "skipped" or "TESTS_SKIP_NOTHING" in os.environ
    monkeypatch.setenv("TESTS_SKIP_NOTHING", "1")
    kinds.fail_if_something_is_missing(report)
    assert report.outcome == outcome
