"""The lock checker catches each way to break the lock rule, and the code takes no lock by hand."""

import ast
import logging
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from interrupting import each_place
from waiting import Call, join

from twinline.core.deadline import Deadline
from twinline.core.errors import LockRuleError
from twinline.core.locks import CheckedLock, check_locks, may_block, new_lock
from twinline.core.waiting import Waiter, wake_all

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("core", "transports", "stores", "cli")


@pytest.fixture
def unchecked() -> Iterator[None]:
    check_locks(False)
    yield
    check_locks(True)


# --- 1. no thread holds two


def test_a_second_lock_is_refused() -> None:
    first, second = new_lock("user"), new_lock("message")
    with first, pytest.raises(LockRuleError, match="holds the user lock and takes the message"):
        second.__enter__()
    # The refusal left nothing behind: the second lock is free and so is the thread.
    with second:
        pass


def test_the_same_lock_a_second_time_is_refused_instead_of_hanging() -> None:
    lock = new_lock("user")
    with lock, pytest.raises(LockRuleError):
        lock.__enter__()


def test_one_after_the_other_is_allowed() -> None:
    first, second = new_lock("user"), new_lock("message")
    for lock in (first, second, first):
        with lock:
            pass


def test_a_lock_is_left_by_an_exception() -> None:
    lock = new_lock("user")
    with pytest.raises(ZeroDivisionError), lock:
        raise ZeroDivisionError
    may_block("going on")
    with lock:
        pass


def test_a_lock_is_left_by_what_a_signals_handler_raises_wherever_it_does() -> None:
    lock = new_lock("user")

    def take() -> None:
        with lock:
            pass

    places = 0
    for place in each_place(take):
        assert not lock.is_held(), place
        may_block("going on")
        Call(take).outcome()
        places += 1
    assert places > 2


def test_what_another_thread_holds_is_not_held_here() -> None:
    mine, other = new_lock("user"), new_lock("message")
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with other:
            entered.set()
            # Not a wait of ours: Event has no announcement, and this thread means to hold.
            leave.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(5)
    with mine:
        pass
    may_block("going on")
    leave.set()
    join(thread)


def test_a_checked_lock_excludes() -> None:
    lock = new_lock("user")
    inside = 0
    most = 0

    interval = sys.getswitchinterval()
    # Not before every thread has started: a tracer cannot be installed in two threads at once.
    barrier = threading.Barrier(4, action=lambda: sys.setswitchinterval(1e-6))

    def work() -> None:
        nonlocal inside, most
        barrier.wait(5)
        for _ in range(300):
            with lock:
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            join(thread)
    finally:
        sys.setswitchinterval(interval)
    assert most == 1


# --- 2. nothing that may block while one is held


def _log() -> None:
    logging.getLogger("test").warning("a line")


BLOCKING: dict[str, Callable[[], object]] = {
    "sleeping": lambda: time.sleep(0),
    "opening a file": lambda: open(os.devnull),  # noqa: PTH123, SIM115
    "opening a path": lambda: Path(os.devnull).read_bytes(),
    "listing a directory": lambda: os.listdir("."),  # noqa: PTH208
    "removing a file": lambda: os.remove("there is no such file"),  # noqa: PTH107
    "a socket": socket.socket,
    "looking up a host": lambda: socket.getaddrinfo("127.0.0.1", 1),
    "a process": lambda: subprocess.run(["true"], check=False),
    "a database": lambda: sqlite3.connect(":memory:"),
    "logging": _log,
    "waiting": lambda: Waiter().wait(Deadline.after(0)),
    "waking": lambda: wake_all([]),
    "what says that it may block": lambda: may_block("hashing"),
}


@pytest.mark.parametrize("what", BLOCKING)
def test_what_may_block_is_refused_while_a_lock_is_held(what: str) -> None:
    with new_lock("user"), pytest.raises(LockRuleError, match="with the user lock held"):
        BLOCKING[what]()


@pytest.mark.parametrize("what", ["sleeping", "opening a path", "logging", "waiting", "waking"])
def test_it_is_allowed_while_none_is_held(what: str) -> None:
    with new_lock("user"):
        pass
    BLOCKING[what]()


def test_the_error_names_what_blocks_and_what_is_held() -> None:
    with new_lock("message"), pytest.raises(LockRuleError, match=r"^hashing with the message lock"):
        may_block("hashing")


# --- 3. taken only by `with`


@pytest.mark.parametrize("arguments", [{}, {"blocking": False}, {"timeout": 1}])
def test_a_checked_lock_cannot_be_acquired_by_hand(arguments: dict[str, object]) -> None:
    lock = new_lock("user")
    assert isinstance(lock, CheckedLock)
    with pytest.raises(LockRuleError, match="the user lock is taken without 'with'"):
        lock.acquire(**arguments)
    with pytest.raises(LockRuleError):
        lock.release()
    with lock:
        pass


# --- off


@pytest.mark.usefixtures("unchecked")
def test_a_lock_is_a_plain_one_when_the_rule_is_not_checked() -> None:
    assert type(new_lock("user")) is type(threading.Lock())
    with new_lock("user"), new_lock("message"):
        may_block("nothing is said")
        _log()
        time.sleep(0)


def test_turning_the_check_off_silences_locks_that_exist() -> None:
    lock = new_lock("user")
    check_locks(False)
    try:
        with lock:
            time.sleep(0)
            may_block("nothing is said")
    finally:
        check_locks(True)


def test_turning_it_on_twice_does_not_check_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    hooks: list[object] = []
    monkeypatch.setattr(sys, "addaudithook", hooks.append)
    check_locks(True)
    assert hooks == []


def test_the_hooks_are_installed_by_the_first_call_only() -> None:
    """In a process of its own, because an audit hook stays for good."""
    script = """
import logging, time
from twinline.core.errors import LockRuleError
from twinline.core.locks import check_locks, new_lock
plain = new_lock("user")
with plain, open("/dev/null"): time.sleep(0)
assert logging.getLogRecordFactory() is logging.LogRecord
check_locks(True)
for breach in (lambda: time.sleep(0), lambda: logging.warning("x"), lambda: open("/dev/null")):
    try:
        with new_lock("user"): breach()
    except LockRuleError: continue
    raise SystemExit("not caught")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr.decode()


# --- the source

BY_HAND = {"acquire", "release", "__enter__", "__exit__"}
PRIMITIVES = {"Lock", "RLock", "Condition", "allocate_lock"}
ALLOWED = {
    ("core/locks.py", "super().__enter__"): "the checking lock is a plain one but for its checks",
    ("core/locks.py", "super().release"): "the same",
    ("core/locks.py", "threading.Lock"): "makes the locks that all others use",
    ("transports/client/engine/cancel.py", "threading.Lock"): "it marks a caller's turn at a lock "
    "over a connection, which is given first in first out; nobody waits for the mark",
    ("transports/client/engine/inbox.py", "threading.Lock"): "marks a loop that lasts, likewise",
    (
        "transports/client/async_client.py",
        "loop.lasts.acquire",
    ): "the same, where a loop lasts from one call to another",
    ("transports/client/async_client.py", "loop.lasts.release"): "the same",
    ("transports/client/state.py", "threading.Lock"): "marks a callback that lasts, likewise",
    ("transports/client/backends/aio.py", "threading.Lock"): "the same",
    ("transports/client/backends/aio.py", "lasts.acquire"): "the same, where it ends in a task",
    ("transports/client/backends/aio.py", "lasts.release"): "the same",
    (
        "cli/chat/prompt.py",
        "asyncio.Lock",
    ): "tasks of one loop take turns at the terminal by it; no thread ever waits for it",
    ("cli/chat/prompt.py", "Condition"): "prompt_toolkit's word for a filter; no lock at all",
    ("stores/postgresql/store.py", "Condition"): "what condition a database is in; no lock at all",
    (
        "cli/server/demo.py",
        "self._seen.acquire",
    ): "a semaphore that counts the messages seen; it guards "
    "no state and is waited for with a time limit",
    ("cli/server/demo.py", "self._seen.release"): "the same",
}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def calls(source: str, names: set[str]) -> Iterator[str]:
    """Yield the whole name of everything that is called and has one of these as its last."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            last = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            if last in names:
                yield ast.unparse(node.func)


def test_there_is_source_to_look_at() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in sources()}
    assert {"core/locks.py", "stores/memory/accounts.py", "transports/contract.py"} <= names


def test_locks_are_made_by_new_lock_and_taken_by_with_but_for_what_is_allowed() -> None:
    called = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in sources()
        for name in calls(path.read_text(encoding="utf-8"), BY_HAND | PRIMITIVES)
    }
    assert called == ALLOWED.keys()


@pytest.mark.parametrize(
    "source",
    ["lock.acquire()", "self._lock.acquire(timeout=1)", "f(x); locks[0].__enter__()"],
)
def test_the_look_at_the_source_sees_a_lock_taken_by_hand(source: str) -> None:
    assert list(calls(source, BY_HAND))


@pytest.mark.parametrize("source", ["threading.Lock()", "Condition()", "x = [RLock() for _ in y]"])
def test_the_look_at_the_source_sees_a_lock_made_elsewhere(source: str) -> None:
    assert list(calls(source, PRIMITIVES))
