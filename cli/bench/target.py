"""What `twinline bench` measures: a process that listens, and what it takes of its machine."""

import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from twinline.cli.bench.sockets import LoadError
from twinline.cli.server.trial import Trial
from twinline.cli.settings.model import ENVIRONMENT_PREFIX
from twinline.core.deadline import Deadline
from twinline.transports.endpoints import Endpoint, Scheme
from twinline.transports.tls import client_context

_STOP_SECONDS: Final = 20
_QUIET_SECONDS: Final = 0.1
_QUIET_SHARE: Final = 0.01  # seconds of a processor in that time
_QUIET_TIMES: Final = 3  # in a row
_QUIET_WITHIN_SECONDS: Final = 60
_PROCESS_CLOCK: Final = 2  # CPUCLOCK_SCHED: user and system time, in nanoseconds
_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A server under measurement.

    Attributes:
        endpoint: where it listens.
        pid: its process, or None when that is not on this machine or not known.
        tls: what the load's connections over TLS begin with; None where they travel in plain.
        others: servers with the same state, over which the load's connections are spread too.
    """

    endpoint: Endpoint
    pid: int | None = None
    tls: ssl.SSLContext | None = None
    others: tuple[Endpoint, ...] = ()

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where it and the others listen."""
        return (self.endpoint, *self.others)

    def processor_seconds(self) -> float | None:
        """Return the processor time that the process has used, or None where it is not known."""
        # The clock that clock_getcpuclockid(3) names for another process; Python has only
        # time.pthread_getcpuclockid, which is for threads of its own.
        return self._read(lambda pid: time.clock_gettime((~pid << 3) | _PROCESS_CLOCK))

    def resident_bytes(self) -> int | None:
        """Return the memory that the process has in use, or None where it is not known."""
        pages = self._read(lambda pid: Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
        return None if pages is None else int(pages) * os.sysconf("SC_PAGE_SIZE")

    def threads(self) -> int | None:
        """Return how many threads the process has, or None where it is not known."""
        return self._read(lambda pid: len(list(Path(f"/proc/{pid}/task").iterdir())))

    def descriptors(self) -> int | None:
        """Return how many descriptors the process has open, or None where it is not known."""
        return self._read(lambda pid: len(list(Path(f"/proc/{pid}/fd").iterdir())))

    def _read(self, what: Callable[[int], _Read]) -> _Read | None:
        try:
            return None if self.pid is None else what(self.pid)
        except OSError:
            return None

    def settle(self, threads: int | None = None) -> None:
        """Return when the process has nothing left to do, or does not come to an end.

        Where that cannot be seen, this is a pause.

        Args:
            threads: how many it has then, at most; None is any number.
        """
        deadline = Deadline.after(_QUIET_WITHIN_SECONDS)
        before = self.processor_seconds()
        quiet = 0
        while quiet < _QUIET_TIMES and not deadline.passed:
            time.sleep(_QUIET_SECONDS)
            now = self.processor_seconds()
            if now is not None and before is not None and now - before > _QUIET_SHARE:
                quiet = 0
            elif threads is None or (self.threads() or 0) <= threads:
                quiet += 1
            before = now


@contextmanager
def server_process(
    store: str,
    connections: int = 10_000,
    *,
    listener: str = "threads",
    python: str | None = None,
    scheme: Scheme = Scheme.TCP,
) -> Iterator[ServerProcess]:
    """Run `twinline serve` on a free port, with default settings but room for all that is sent.

    Args:
        store: its URL.
        connections: how many it shall take.
        listener: which one serves them, ``threads`` or ``loop``.
        python: an interpreter with another installation of twinline; None for this one.
        scheme: of the endpoint; over TLS it has a certificate of its own.

    Raises:
        LoadError: it did not start; it has said why.
    """
    place = f"{scheme}://127.0.0.1:0"
    arguments = ["-m", "twinline.cli", "serve", "--listen", place, "--store", store]
    arguments += ["--mailbox-messages", "1000000000", "--log-level", "warning"]
    arguments += ["--connections", str(connections), "--config", os.devnull]
    if listener != "threads":  # another installation may have no other, and no such option
        arguments += ["--listener", listener]
    with ExitStack() as stack:
        trial = None
        if scheme.is_tls:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="twinline-bench-"))
            trial = Trial.of(Path(folder))
            arguments += ["--self-signed", folder]
        process, line = stack.enter_context(_python(arguments, python))
        words = line.split()
        if len(words) < 3:
            raise LoadError(f"no server could be started with the store {store}")
        tls = None if trial is None else client_context(ca_file=str(trial.ca))
        yield ServerProcess(Endpoint.parse(words[2]), process.pid, tls)


@contextmanager
def floor_server(*, one_processor: bool = True) -> Iterator[ServerProcess]:
    """Run the floor; see `twinline.cli.bench.floor`."""
    flags = ["--one-processor"] if one_processor else []
    with _python(["-m", "twinline.cli.bench.floor", *flags]) as (process, line):
        if not line.strip().isdigit():
            raise LoadError("the floor could not be started")
        yield ServerProcess(Endpoint.parse(f"tcp://127.0.0.1:{line.strip()}"), process.pid)


@contextmanager
def _python(
    arguments: Sequence[str], python: str | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a Python with arguments; yield the process and the first line that it prints."""
    # Settings in variables are for the user's own server. In a process group of its own it does
    # not get a Ctrl-C at the terminal, and ends when the run has tidied up.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)
    }
    with running(
        [python or sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        process_group=0,
    ) as process:
        yield process, process.stdout.readline() if process.stdout is not None else ""


@contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Run a program while the block runs; options are those of `subprocess.Popen`."""
    with subprocess.Popen(command, **options) as process:  # noqa: S603 - of the benchmarks' own
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except BaseException:
                # Also when a second Ctrl-C ends the wait: nothing is left behind.
                process.kill()
                raise
