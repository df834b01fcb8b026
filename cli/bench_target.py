"""What `twinline bench` measures: a process that listens, and what it takes of its machine."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twinline.cli.bench_load import LoadError
from twinline.transports.endpoints import Endpoint

_STOP_SECONDS: Final = 20
_PROCESS_CLOCK: Final = 2  # CPUCLOCK_SCHED: user and system time, in nanoseconds


@dataclass(frozen=True, slots=True)
class Target:
    """A server under measurement.

    Attributes:
        endpoint: where it listens.
        pid: its process, or None when that is not on this machine or not known.
    """

    endpoint: Endpoint
    pid: int | None = None

    def processor_seconds(self) -> float | None:
        """Return the processor time that the process has used, or None where nobody can tell."""
        if self.pid is None or not sys.platform.startswith("linux"):
            return None
        # The clock that clock_getcpuclockid(3) names for another process; Python has only
        # time.pthread_getcpuclockid, which is for threads of its own.
        return time.clock_gettime((~self.pid << 3) | _PROCESS_CLOCK)

    def resident_bytes(self) -> int | None:
        """Return the memory that the process has in use, or None where nobody can tell."""
        if self.pid is None:
            return None
        try:
            fields = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()
        except OSError:
            return None
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def private_server(store: str) -> Iterator[Target]:
    """Run `twinline serve` on a free port, with room for all that a run sends.

    Raises:
        LoadError: it did not start; it has said why.
    """
    arguments = ["-m", "twinline.cli", "serve", "--listen", "tcp://127.0.0.1:0", "--store", store]
    arguments += ["--mailbox-messages", "1000000000", "--log-level", "warning"]
    with _running(arguments) as (process, line):
        words = line.split()
        if len(words) < 3:
            raise LoadError(f"no server could be started with the store {store}")
        yield Target(Endpoint.parse(words[2]), process.pid)


@contextmanager
def floor_server(*, one_processor: bool = True) -> Iterator[Target]:
    """Run the floor; see `twinline.cli.bench_floor`."""
    flags = ["--one-processor"] if one_processor else []
    with _running(["-m", "twinline.cli.bench_floor", *flags]) as (process, line):
        if not line.strip().isdigit():
            raise LoadError("the floor could not be started")
        yield Target(Endpoint.parse(f"tcp://127.0.0.1:{line.strip()}"), process.pid)


@contextmanager
def _running(arguments: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start this Python with arguments; yield the process and the first line that it prints."""
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            yield process, process.stdout.readline() if process.stdout is not None else ""
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
