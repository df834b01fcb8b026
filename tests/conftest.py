"""What every test runs under: the lock rule is checked from the first lock on."""

import gc
import signal
import sys
from collections.abc import Generator, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

# `python -m pytest` puts the folder that it is started in on the path, and there `core` is no
# name of ours: it is `twinline.core`, as it is installed.
ROOT = Path(__file__).parents[1]
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

from twinline.core.locks import check_locks  # noqa: E402

check_locks(True)

import kinds  # noqa: E402
import log_watch  # noqa: E402
import orphans  # noqa: E402
import over as over_  # noqa: E402
import pytest  # noqa: E402
import time_limit  # noqa: E402

# Fixtures of several files; a file that needs another of the same name has its own.
from cli_server import ann  # noqa: E402, F401
from client_kit import both_clients, both_modes, proxy, site  # noqa: E402, F401
from descriptors import wake_form  # noqa: E402, F401
from listening import each_listener, signal_pipe_of_uvloop  # noqa: E402, F401
from over import over  # noqa: E402, F401

from twinline.stores.sqlite import accounts as sqlite_accounts  # noqa: E402

# A request gives up to note that a session is in use where that takes long. On a busy machine a
# commit does, and whatever looks at what was noted would find nothing.
sqlite_accounts._TOUCH_SECONDS = 20.0  # type: ignore[misc]

# A shell that starts a suite in the background without job control has it ignore SIGINT, and so
# would every process that a test starts and then interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_unfreeze = gc.unfreeze


def pytest_addoption(parser: pytest.Parser) -> None:
    """Know the options of `over`."""
    over_.add_option(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Set a limit to each test's time, and to the life of what tests start."""
    time_limit.register(config, orphans.watch_over_this_process())
    log_watch.watch()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is slow, before `-m` chooses."""
    kinds.mark(items)
    over_.deselect(config, items)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Take what was imported and collected out of what the garbage collector looks at.

    It stays until the end, and a full collection, of which some tests make two, would walk
    through all of it.
    """
    gc.collect()
    gc.freeze()
    gc.unfreeze = _note_and_unfreeze


def _note_and_unfreeze() -> None:
    """Undo it; `gc.get_freeze_count` would walk through all of it to tell that it is undone."""
    gc.unfreeze = _unfreeze
    _unfreeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Do so again behind a file of which a test has served: it ends by undoing it."""
    if nextitem is not None and nextitem.path != item.path and gc.unfreeze is _unfreeze:
        pytest_collection_finish()


@pytest.fixture(autouse=True)
def _nothing_secret_is_logged() -> Iterator[None]:
    """Look at what the test has logged, in all its threads, and at what is left of its logging."""
    before = log_watch.settings_in_force()
    yield
    log_watch.fail_if_something_is_wrong()
    log_watch.fail_if_changed(before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail what is skipped where nothing should be."""
    report = yield
    kinds.fail_if_something_is_missing(report)
    return report


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the `certificates.Certificates` of this session; what makes them loads slowly."""
    pytest.importorskip("cryptography")
    return import_module("certificates").Certificates(tmp_path_factory.mktemp("certificates"))
