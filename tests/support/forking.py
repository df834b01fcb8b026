"""Children of this process, forked with all that it has, that end with a status in time."""

import faulthandler
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable

import pytest
from waiting import wait_until


class Child:
    """A child that makes a call and ends; what the call raises, the parent is shown."""

    def __init__(
        self, call: Callable[[], object], ends: Callable[[], object] | None = None
    ) -> None:
        """Fork.

        Args:
            call: made in the child.
            ends: how the child ends after it; None for at once.
        """
        self._outcome, into = os.pipe()
        # A lock of OpenSSL that another thread holds now is never released in the child.
        wait_until(lambda: not _is_openssl_in_use(), "no other thread to be within OpenSSL")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
            self.pid = os.fork()
        if self.pid == 0:
            status = 1
            faulthandler.register(signal.SIGUSR2, file=into)
            try:
                call()
                if ends is not None:
                    os._exit(ends() is not None)
                status = 0
            except BaseException:
                os.write(into, traceback.format_exc().encode()[-60_000:])
            finally:
                os._exit(status)
        os.close(into)

    def end(self, seconds: float = 20.0) -> None:
        """Wait until the child has ended, and fail the test unless the call has returned."""
        deadline = time.monotonic() + seconds
        ended, status = 0, 0
        while not ended:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if not ended and time.monotonic() > deadline:
                pytest.fail(f"a forked child has not ended within {seconds} s:\n{self._stacks()}")
            time.sleep(0.002)
        with os.fdopen(self._outcome, "rb") as outcome:
            text = outcome.read().decode()
        if status:
            pytest.fail(f"in a forked child (status {status}):\n{text}")

    def _stacks(self) -> str:
        """Return where a child stands that hangs, and kill it."""
        os.kill(self.pid, signal.SIGUSR2)
        stacks = os.read(self._outcome, 1_000)  # its handler has begun
        time.sleep(0.5)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        with os.fdopen(self._outcome, "rb") as outcome:
            return (stacks + outcome.read()).decode()


def _is_openssl_in_use() -> bool:
    frames = sys._current_frames().values()
    return any(each.f_code.co_filename.endswith(("tls/layer.py", "/ssl.py")) for each in frames)
