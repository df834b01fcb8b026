"""A listener in another program: it sets nothing that belongs to the process as a whole."""

import ast
import gc
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from listening import Kind, Peer, make_listener, serving
from waiting import Call, wait_until

over_each = pytest.mark.usefixtures("each_listener")
HAS_PRIORITY = hasattr(os, "sched_getaffinity")


def of_the_process() -> dict[str, object]:
    """Return every setting of the process that can be read; only in the main thread."""
    wakeup_fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
    stack_bytes = threading.stack_size()  # which sets the default
    threading.stack_size(stack_bytes)
    return {
        "stack size": stack_bytes,
        "wakeup descriptor": wakeup_fd,
        "handlers": {n: signal.getsignal(n) for n in signal.valid_signals() if n != signal.SIGUSR1},
        "blocked signals": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "limits": {
            name: resource.getrlimit(getattr(resource, name))
            for name in dir(resource)
            if name.startswith("RLIMIT")
        },
        "collector": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count(), gc.get_debug()),
        "switch interval": sys.getswitchinterval(),
        "recursion limit": sys.getrecursionlimit(),
        "processors": os.sched_getaffinity(0) if HAS_PRIORITY else None,
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook),
        "traces": (threading.gettrace(), threading.getprofile()),
    }


@pytest.fixture
def host() -> Iterator[socket.socket]:
    """Make this process a program that has set what a listener might set; yield its waker."""
    woken, waker = socket.socketpair()
    with woken, waker:
        gc.unfreeze()  # what is frozen may end meanwhile, and then it counts less
        woken.setblocking(False)
        waker.setblocking(False)
        wakeup_fd = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        stack_bytes = threading.stack_size(1 << 20)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(0.007)
        try:
            yield woken
        finally:
            sys.setswitchinterval(interval)
            threading.stack_size(stack_bytes)
            signal.set_wakeup_fd(wakeup_fd)


@over_each
def test_nothing_of_the_process_changes_before_during_and_after(host: socket.socket) -> None:
    """The listener accepts in the main thread, and a second one in another."""
    during: list[dict[str, object]] = []

    def stop(_number: int, _frame: object) -> None:
        during.append(of_the_process())
        listener.stop()

    before = of_the_process()
    handler = signal.signal(signal.SIGUSR1, stop)
    listener = make_listener()
    rescue = threading.Timer(20, listener.stop)
    try:
        with serving():
            rescue.start()
            assert of_the_process() == before

            def talk() -> None:
                with Peer(listener.endpoints[0]) as peer:
                    assert peer.ask("ping")["ok"]
                    os.kill(os.getpid(), signal.SIGUSR1)
                    assert peer.rest() == b""

            talking = Call(talk)
            listener.serve_forever()
            talking.outcome()
            assert of_the_process() == before
    finally:
        rescue.cancel()
        signal.signal(signal.SIGUSR1, handler)
    assert of_the_process() == before
    if Kind.uvloop:  # it has signals wake itself, while it runs in the main thread
        assert [each | {"wakeup descriptor": before["wakeup descriptor"]} for each in during] == [
            before
        ]
    else:
        assert during == [before]
        assert host.recv(1) == bytes([signal.SIGUSR1])  # the host's own waker was told


def test_the_threads_of_connections_have_names_and_are_gone_after_them() -> None:
    """From what a host sees of its threads, which it may want to join; a debugger's traces too."""
    before = set(threading.enumerate())
    traced: set[int] = set()

    def trace(*_: object) -> None:
        traced.add(threading.get_ident())

    with serving() as server:
        profile = threading.getprofile()
        threading.setprofile(trace)
        try:
            with server.peer() as peer:
                assert peer.ask("ping")["ok"]
                names = {thread.name: thread.ident for thread in threading.enumerate()}
        finally:
            threading.setprofile(profile)  # type: ignore[arg-type]
    assert names["connection 127.0.0.1"] in traced
    wait_until(lambda: set(threading.enumerate()) <= before, "the threads are gone")


# What sets something of the process: functions by the last part of their names.
SETTERS = {
    "stack_size": "threading",
    "set_wakeup_fd": "signal",
    "signal": "signal",
    "siginterrupt": "signal",
    "pthread_sigmask": "signal",
    "setitimer": "signal",
    "alarm": "signal",
    "setrlimit": "resource",
    "prlimit": "resource",
    "freeze": "gc",
    "set_threshold": "gc",
    "disable": "gc",
    "set_debug": "gc",
    "setswitchinterval": "sys",
    "setrecursionlimit": "sys",
    "sched_setaffinity": "os",
    "setpriority": "os",
    "nice": "os",
    "umask": "os",
    "chdir": "os",
    "CDLL": "ctypes",
    "setdefaulttimeout": "socket",
    "basicConfig": "logging",
    "setlocale": "locale",
}


def setters_in(source: str) -> set[str]:
    """Return what a source calls that sets something of the process."""
    return {
        f"{node.func.value.id}.{node.func.attr}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and SETTERS.get(node.func.attr) == node.func.value.id
    }


@pytest.mark.parametrize("package", ["core", "transports", "stores"])
def test_no_library_sets_anything_of_the_process(package: str) -> None:
    spec = find_spec(f"twinline.{package}")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0])
    # The kits belong to whoever tests, and provoke races.
    files = [path for path in folder.glob("**/*.py") if "conformance" not in path.parts]
    assert files
    assert {path.name: found for path in files if (found := setters_in(path.read_text()))} == {}


def test_a_setter_is_seen() -> None:
    assert setters_in("import gc\ndef f():\n    gc.freeze()\n    x.signal()") == {"gc.freeze"}
