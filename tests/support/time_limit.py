"""A test that passes its time fails, with its name and every thread's stack, under xdist too.

pytest-timeout says when; what happens then is decided here. A signal fails the test where its main
thread stands, and the process goes on with the next test. A main thread that runs no Python any
more cannot be failed: `GRACE` seconds later faulthandler writes the stacks and ends the process.
Under xdist it writes them to a file, which the controller prints: a worker's stderr is lost.
"""

import faulthandler
import os
import signal
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any, TextIO

import orphans
import pytest

GRACE = float(os.environ.get("TESTS_GRACE", "30"))
_FILE = pytest.StashKey[TextIO]()
_FOLDER = pytest.StashKey["tempfile.TemporaryDirectory[str]"]()


def stacks() -> str:
    """Return where every thread of this process stands."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"--- the stack of {names.get(number, 'an unknown thread')} ({number})\n"
        + "".join(traceback.format_stack(frame))
        for number, frame in sys._current_frames().items()
    )


class Limits:
    """The hooks, as a plugin."""

    def __init__(self, mark: str) -> None:
        self._mark = mark

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Open the place for faulthandler's stacks, before output is captured."""
        workerinput = getattr(config, "workerinput", None)
        if workerinput is None:
            config.stash[_FILE] = os.fdopen(os.dup(2), "w")
            config.stash[_FOLDER] = tempfile.TemporaryDirectory(prefix="stacks-")
        else:
            file = Path(workerinput["stacks"]).open("w", encoding="utf-8")  # noqa: SIM115 - till the end
            config.stash[_FILE] = file

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """Close it."""
        config.stash[_FILE].close()
        if _FOLDER in config.stash:
            config.stash[_FOLDER].cleanup()

    @pytest.hookimpl(tryfirst=True)
    def pytest_timeout_set_timer(self, item: pytest.Item, settings: Any) -> bool:
        """Begin to measure a test's time."""
        file = item.config.stash[_FILE]
        if _FOLDER not in item.config.stash:
            file.seek(0)
            file.truncate()
            file.write(
                f"{item.nodeid} has passed its {settings.timeout:g} s and cannot be failed\n"
            )
            file.flush()

        failed = False

        def fail(_number: int, _frame: object) -> None:
            __tracebackhide__ = True
            nonlocal failed
            if failed:
                orphans.end(self._mark)
                return
            failed = True
            pytest.fail(f"{item.nodeid} has passed its {settings.timeout:g} s\n{stacks()}")

        signal.signal(signal.SIGALRM, fail)
        signal.setitimer(signal.ITIMER_REAL, settings.timeout, GRACE / 3)
        faulthandler.dump_traceback_later(settings.timeout + GRACE, exit=True, file=file)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_timeout_cancel_timer(self) -> bool:
        """The test has ended."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        return True


class Printed:
    """The hooks of xdist's controller."""

    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker where its stacks go."""
        folder = node.config.stash[_FOLDER].name
        node.workerinput["stacks"] = str(Path(folder, node.gateway.id))

    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Print what a worker wrote before it died."""
        reporter = node.config.pluginmanager.get_plugin("terminalreporter")
        if error and reporter is not None:
            text = Path(node.workerinput["stacks"]).read_text(encoding="utf-8")
            reporter.write(f"\n{text if 'Thread 0x' in text else ''}\n")


def register(config: pytest.Config, mark: str) -> None:
    """Add the hooks to a run, whose processes have this mark."""
    config.pluginmanager.register(Limits(mark), "time limits")
    if config.pluginmanager.has_plugin("xdist") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Printed(), "stacks of workers")
