"""Measures a client's way through its own code: what one command costs on `Client`.

    python benchmarks/client_path.py                                # half a minute
    python benchmarks/client_path.py --against ../old/bin/python    # beside another installation

A server runs in a process of its own, with the store in memory, on a Unix socket. The figures are
those of the calling thread: Python functions entered (all of them, and twinline's), twinline's
distinct functions and files, acquisitions of twinline's locks, system calls of a round trip (with
strace, by the difference between a short and a long run), and the microseconds of a ping and of a
send, in all and of the client's own processor time. All run on one processor, for where else the
scheduler puts them would be measured too. With ``--against`` the second column is the other
installation's and the third the ratio; the times of both are taken in turns, against one server,
and medians are printed.
"""

# A script: it prints, starts what it measures, and imports what it has made ready.
# ruff: noqa: T201, S603, PLC0415

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from types import FrameType, TracebackType
from typing import ClassVar, Final

ROUNDS: Final = 30
"""How often each installation's times are taken."""
BLOCK: Final = 200
"""Commands between two looks at the clock."""
FEW: Final = 100
"""Commands of the short run under strace."""
MANY: Final = 300
"""Commands of the long one."""
PASSWORD: Final = "correct horse"  # noqa: S105 - of accounts that live as long as this runs
BODY: Final = "See you at the station at half past seven, platform 4."
COMMANDS: Final = ("ping", "send")


# --- a client, in a process of its own


class CountedLock:
    """A lock that counts how often it is taken."""

    taken: ClassVar[Counter[str]] = Counter()

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self.taken[self._name] += 1
        self._lock.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.__exit__(kind, error, trace)


@contextmanager
def logged_in(endpoint: str) -> Iterator[dict[str, Callable[[], object]]]:
    """Yield the commands of a client that has an account and does not watch its mailbox."""
    from twinline.transports.client import Client, WatchMode

    name = f"u{secrets.token_hex(6)}"
    with Client(endpoint, watch=WatchMode.OFF) as client:
        client.create_account(name, PASSWORD)
        commands: dict[str, Callable[[], object]] = {
            "ping": client.ping,
            "send": lambda: client.send(name, BODY),
        }
        for command in commands.values():
            for _ in range(50):
                command()
        yield commands


def counts(endpoint: str) -> dict[str, float]:
    """Return what one command enters and takes."""
    from twinline.core import locks

    locks.new_lock = CountedLock
    home = str(Path(locks.__file__).parents[1])
    found: dict[str, float] = {}
    with logged_in(endpoint) as commands:
        for name, command in commands.items():
            entered: list[tuple[str, str]] = []

            def profile(
                frame: FrameType, event: str, _: object, entered: list[tuple[str, str]] = entered
            ) -> None:
                if event == "call":
                    entered.append((frame.f_code.co_filename, frame.f_code.co_qualname))

            CountedLock.taken.clear()
            sys.setprofile(profile)
            command()
            sys.setprofile(None)
            ours = [call for call in entered if call[0].startswith(home)]
            found |= {
                f"{name}: Python calls": len(entered),
                f"{name}: of twinline": len(ours),
                f"{name}: distinct functions": len(set(ours)),
                f"{name}: distinct files": len({path for path, _ in ours}),
                f"{name}: locks taken": CountedLock.taken.total(),
                f"{name}: of one lock, at most": max(CountedLock.taken.values(), default=0),
            }
    return found


def times(endpoint: str) -> None:
    """For each command that is named, print its microseconds: all of them, and the own ones."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with logged_in(endpoint) as commands:
        print("ready")
        for line in sys.stdin:
            command = commands[line.strip()]
            begin = perf_counter(), process_time()
            for _ in range(BLOCK):
                command()
            end = perf_counter(), process_time()
            print(*((late - early) / BLOCK * 1e6 for early, late in zip(begin, end, strict=True)))


def repeat(endpoint: str, name: str, count: int) -> None:
    """Carry out a command again and again, to be traced."""
    with logged_in(endpoint) as commands:
        for _ in range(count):
            commands[name]()


# --- the measurement


def part(python: str, *arguments: object) -> list[str]:
    """Return the words that run a part of this script with an interpreter."""
    return [python, __file__, "--part", *map(str, arguments)]


def system_calls(python: str, endpoint: str, name: str) -> float:
    """Return the system calls of one command."""
    made = []
    for count in (FEW, MANY):
        with tempfile.NamedTemporaryFile("r") as trace:
            words = ["strace", "-f", "-qq", "-e", "signal=none", "-o", trace.name]
            subprocess.run([*words, *part(python, "repeat", endpoint, name, count)], check=True)
            made.append(sum("resumed>" not in line for line in trace))
    return (made[1] - made[0]) / (MANY - FEW)


@contextmanager
def timed(python: str, endpoint: str) -> Iterator[Callable[[str], list[float]]]:
    """Yield what takes the time of a command with an interpreter."""
    words = part(python, "times", endpoint)
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as client:
        asked, answered = client.stdin, client.stdout
        if asked is None or answered is None or answered.readline() != "ready\n":
            raise SystemExit("the client has not started")

        def take(name: str) -> list[float]:
            print(name, file=asked, flush=True)
            return [float(word) for word in answered.readline().split()]

        yield take


@contextmanager
def server() -> Iterator[str]:
    """Run a server of this interpreter's installation, and yield its endpoint."""
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"unix:{folder}/socket"
        words = [sys.executable, "-m", "twinline.cli", "serve", "--listen", endpoint]
        serving = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            if serving.stdout is None or not serving.stdout.readline():
                raise SystemExit("the server has not started")
            yield endpoint
        finally:
            serving.terminate()
            serving.communicate(timeout=10)


def measure(pythons: list[str], rounds: int) -> list[dict[str, float]]:
    """Return the figures of each interpreter's installation."""
    found: list[dict[str, float]] = [{} for _ in pythons]
    with server() as endpoint, ExitStack() as clients:
        for figures, python in zip(found, pythons, strict=True):
            words = part(python, "counts", endpoint)
            counted = subprocess.run(words, check=True, capture_output=True).stdout
            figures.update(json.loads(counted))
            if shutil.which("strace"):
                for name in COMMANDS:
                    figures[f"{name}: system calls"] = system_calls(python, endpoint, name)
        takes = [clients.enter_context(timed(python, endpoint)) for python in pythons]
        for name in COMMANDS:
            rows = [[take(name) for take in takes] for _ in range(rounds)]
            for figures, taken in zip(found, zip(*rows, strict=True), strict=True):
                figures[f"{name}: µs"] = median(all_ for all_, _ in taken)
                figures[f"{name}: µs of the client's own"] = median(own for _, own in taken)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--against", metavar="PYTHON", help="an interpreter with another twinline")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the times")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    match options.part:
        case ["counts", endpoint]:
            print(json.dumps(counts(endpoint)))
        case ["times", endpoint]:
            times(endpoint)
        case ["repeat", endpoint, name, count]:
            repeat(endpoint, name, int(count))
        case _:
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            pythons = [sys.executable, *([options.against] if options.against else [])]
            here, *there = measure(pythons, options.rounds)
            for figure, value in here.items():
                beside = "".join(f"{it[figure]:12.1f}{value / it[figure]:8.2f}" for it in there)
                print(f"{figure:32}{value:10.1f}{beside}")


if __name__ == "__main__":
    main()
