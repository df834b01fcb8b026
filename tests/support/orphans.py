"""Nothing that a test starts outlives the process that runs it, not even one that is killed.

What a run starts has a variable of its own in its environment. A watcher, a process of its own
session, waits for the run's end, and kills everything that has the variable: servers, what these
have started, and whatever has left its process group. PostgreSQL's processes write their titles
over their environment, so what works in a temporary folder that is named after the variable is
killed too, and the folder removed. Where there is no /proc, it watches nothing.
"""

import contextlib
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_marks: list[str] = []


def watch_over_this_process() -> str:
    """Start the watcher of this process; return the mark of what it starts from now on."""
    mark = f"TESTS_OF_{os.getpid()}_{time.monotonic_ns()}"
    if sys.platform == "linux":
        command = [sys.executable, "-S", "-E", __file__, str(os.getpid()), mark]
        null = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
        # Without a Popen: nobody waits for it, and it is to say nothing about that.
        os.posix_spawn(sys.executable, command, os.environ, file_actions=null, setsid=True)
    os.environ[mark] = "1"
    _marks.append(mark)
    return mark


def present_mark() -> str:
    """Return the mark of what this process starts now; a temporary folder has it in its name."""
    return _marks[-1] if _marks else f"UNWATCHED_{os.getpid()}"


def folders() -> Iterator[tuple[int, str]]:
    """Return each process with the folder that it works in, as far as they can be seen."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            yield int(link.parent.name), str(link.readlink())


def marked(mark: str) -> list[int]:
    """Return the processes with a mark, but not this one."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = environment.read_bytes()
        except OSError:  # it has ended, or is another user's
            continue
        if f"{mark}=".encode() in variables:
            found.append(int(environment.parent.name))
    found += [pid for pid, folder in folders() if f"-{mark}-" in folder]
    return [pid for pid in found if pid != os.getpid()]


def end(mark: str) -> None:
    """Kill all processes with a mark, also those that one starts meanwhile."""
    while pids := marked(mark):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


def main() -> None:
    """Watch: the arguments are a process and the mark of what it starts."""
    with contextlib.suppress(ProcessLookupError):
        select.select([os.pidfd_open(int(sys.argv[1]))], [], [])
    end(sys.argv[2])
    for folder in Path(tempfile.gettempdir()).glob(f"*-{sys.argv[2]}-*"):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
