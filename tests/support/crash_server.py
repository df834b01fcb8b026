"""Real server processes for the crash tests: killed, stopped, traced, and started again."""

import contextlib
import functools
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

import pytest

FULL = os.environ.get("CRASH_TESTS") == "full"
"""Whether the long form is asked for, as ``tox -e crash`` does."""
START_SECONDS = 20.0
HERE = Path(__file__).parent


def by_form(quick: int, full: int) -> int:
    """Return how much is done in this form of the tests."""
    return full if FULL else quick


def report(what: str, figures: str) -> None:
    """Print the figures of a test, and add them to the file for them, if one is named."""
    line = f"{what}: {figures}"
    print(line)
    path = os.environ.get("CRASH_REPORT")
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{'full' if FULL else 'quick'} {line}\n")


def free_port() -> int:
    """Return a port of the loopback that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@functools.cache
def tracing_refused() -> str | None:
    """Return why strace cannot inject faults here, or None if it can."""
    if sys.platform != "linux":
        return "strace is for Linux"
    if shutil.which("strace") is None:
        return "strace is not installed"
    with tempfile.NamedTemporaryFile() as output:
        tried = subprocess.run(
            [*strace(Path(output.name), "-einject=fdatasync:error=EIO:when=1"), "true"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    return None if tried.returncode == 0 else f"strace cannot trace here: {tried.stderr.strip()}"


def needs_strace() -> None:
    """Skip the test where there is no strace that works."""
    refused = tracing_refused()
    if refused is not None:
        pytest.skip(refused)


def strace(output: Path, *options: str) -> list[str]:
    """Return what to put before a command to trace it with all its threads.

    Without ``--seccomp-bpf``: with it, the calls are miscounted and nothing is injected.
    """
    return ["strace", "-f", "-qq", "-o", str(output), *options, "--"]


class CrashServer:
    """`twinline serve` in a process group of its own, on a port that stays the same.

    Attributes:
        endpoint: where it listens.
        path: of the file that its store is in, if it is in one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        options: str = "",
        path: Path | None = None,
        store: str | None = None,
        port: int | None = None,
        warm: "WarmStart | None" = None,
        log_level: str = "error",
    ) -> None:
        """Start nothing yet.

        Args:
            folder: where its log is.
            options: of its store, behind the path.
            path: of the file that its store is in, or None for one in the folder.
            store: the URL of a store instead.
            port: where it listens, or None for a free one.
            warm: what a fork is made of that starts it warm; None for one of its own.
            log_level: from which on it logs.
        """
        self.path = path or folder / "store"
        self.endpoint = f"tcp://127.0.0.1:{port or free_port()}"
        self._log = (folder / "server.log").open("ab")
        self._store = store or f"sqlite:{self.path}{options}"
        self._log_level = log_level
        self._process: subprocess.Popen[bytes] | None = None
        self._warm = warm
        self._own_warm: WarmStart | None = None
        self._warm_pid: int | None = None

    @property
    def arguments(self) -> list[str]:
        """What `twinline` is started with."""
        where = ("--listen", self.endpoint, "--store", self._store)
        return ["serve", *where, "--log-level", self._log_level]

    def start(self, prefix: Sequence[str] = (), *, wait: bool = True) -> Self:
        """Start it, and wait until it listens.

        Args:
            prefix: what to put before the command, such as a tracer.
            wait: whether to wait; one that is to die early may never listen.
        """
        assert self._process is None
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "twinline.cli", *self.arguments],
            stdout=subprocess.PIPE,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | {"TWINLINE_CHECK_LOCKS": "1"},
        )
        if wait:
            assert self.listens(), self.log
        return self

    def listens(self) -> bool:
        """Wait until a server that was started listens, or has ended; ask once a start."""
        assert self._process is not None
        assert self._process.stdout is not None
        return b"listening on" in _line(self._process.stdout)

    def start_warm(self) -> Self:
        """Start it as a fork of a process that has all its modules: in a tenth of the time."""
        assert self._warm_pid is None
        if self._warm is None:
            self._warm = self._own_warm = WarmStart()
        self._warm_pid = self._warm.start(self._log.name, self.arguments)
        return self

    @property
    def pid(self) -> int:
        """The server's own process id, not its tracer's."""
        if self._warm_pid is not None:
            return self._warm_pid
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        command = Path(f"/proc/{self._process.pid}/comm").read_text(encoding="utf-8")
        if command.strip() == "strace":
            return int(children.read_text(encoding="utf-8").split()[0])
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    @property
    def log(self) -> str:
        """What the server said on stderr."""
        return Path(self._log.name).read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """Kill -9, and wait for its end; harmless if it has ended."""
        if self._warm_pid is not None and self._warm is not None:
            pid, self._warm_pid = self._warm_pid, None
            os.kill(pid, signal.SIGKILL)  # it cannot be another's: nobody has waited for it yet
            self._warm.wait(pid)
        process, self._process = self._process, None
        if process is None:
            return
        # The tracer is left to finish writing: it ends with what it traces.
        if process.poll() is None:
            with contextlib.suppress(OSError, IndexError):
                self._process = process
                os.kill(self.pid, signal.SIGKILL)
            self._process = None
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.kill()
        finally:
            if self._own_warm is not None:
                self._own_warm.close()
            self._log.close()


class WarmStart:
    """A process that has imported the server and forks one whenever it is asked to."""

    def __init__(self, fault: str = "") -> None:
        """Import it.

        Args:
            fault: what its servers do wrong (`crash_faults`); nothing by default.
        """
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "crash_forker.py"), *([fault] if fault else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env=os.environ | {"TWINLINE_CHECK_LOCKS": "1"},
        )

    def start(self, log: str, arguments: Sequence[str]) -> int:
        """Return the process id of a server that listens.

        Args:
            log: the file to which it adds what it says on stderr.
            arguments: of `twinline`.
        """
        pid = int(self._ask(" ".join(("start", log, *arguments))).split()[1])
        assert self._process.stdout is not None
        assert b"listening on" in _line(self._process.stdout)
        return pid

    def wait(self, pid: int) -> None:
        """Wait until a server has ended."""
        assert self._ask(f"wait {pid}") == f"ended {pid}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all of them."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        return _line(self._process.stdout).decode().strip()


def _line(stream: IO[bytes]) -> bytes:
    """Return the next line, byte by byte so that nothing is left in a buffer, with a deadline."""
    deadline = time.monotonic() + START_SECONDS
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            pytest.fail(f"no line within {START_SECONDS} s, only {line!r}")
        byte = os.read(stream.fileno(), 1)
        if not byte:
            return line
        line += byte
    return line
