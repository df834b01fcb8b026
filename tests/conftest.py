"""What every test runs under: the lock rule is checked from the first lock on."""

import os
import re
import signal
import sys
from collections.abc import Generator
from fnmatch import fnmatch
from pathlib import Path

# `python -m pytest` puts the folder that it is started in on the path, and there `core` is no
# name of ours: it is `twinline.core`, as it is installed.
ROOT = Path(__file__).parents[1]
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

from twinline.core.locks import check_locks  # noqa: E402

check_locks(True)

import orphans  # noqa: E402
import pytest  # noqa: E402
import time_limit  # noqa: E402

# Fixtures of several files; a file that needs another of the same name has its own.
from cli_server import ann  # noqa: E402, F401
from client_kit import both_clients, proxy, site  # noqa: E402, F401

# A shell that starts a suite in the background without job control has it ignore SIGINT, and so
# would every process that a test starts and then interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# What is slow, or measures, by the names of the tests. The rest is run for every change, on every
# Python.
KINDS = {
    "docs/test_blocks.py::*": "docs",
    "docs/test_example_*.py::*": "docs",
    "benchmarks/*": "measure",
    "cli/bench/test_command.py::*": "measure",
    "cli/test_json.py::*[[]bench]": "measure",
    "stores/crash/*": "crash",
    "cli/chat/test_prompt.py::*": "terminal",
    "cli/chat/test_terminals.py::*": "terminal",
}
# Why a test may be skipped although nothing is missing.
FITTING = re.compile(r"since 3\.\d+$|Linux|epoll|click's own help|only one processor")


def pytest_configure(config: pytest.Config) -> None:
    """Set a limit to each test's time, and to the life of what tests start."""
    orphans.watch_over_this_process()
    time_limit.register(config)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, before `-m` chooses."""
    for item in items:
        for pattern, kind in KINDS.items():
            if fnmatch(item.nodeid, f"tests/{pattern}"):
                item.add_marker(kind)
                item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that is skipped for what is missing, where everything should be there."""
    report = yield
    if report.skipped and os.environ.get("TESTS_SKIP_NOTHING") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not FITTING.search(reason):
            report.outcome = "failed"
            report.longrepr = f"TESTS_SKIP_NOTHING is set, and this test was skipped: {reason}"
    return report
