"""Children of this process, forked with all that it has, that end with a status in time."""

import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable

import pytest


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
            self.pid = os.fork()
        if self.pid == 0:
            status = 1
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
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                os.close(self._outcome)
                pytest.fail(f"a forked child has not ended within {seconds} s")
            time.sleep(0.002)
        with os.fdopen(self._outcome, "rb") as outcome:
            text = outcome.read().decode()
        if status:
            pytest.fail(f"in a forked child (status {status}):\n{text}")
