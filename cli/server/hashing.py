"""Password hashes that give way: a storm of logins must not hold up those who are logged in."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, Literal, TypeVar

from argon2 import PasswordHasher

from twinline.cli.server.affinity import on_others
from twinline.core.passwords import default_hasher

_NICE: Final = 10
"""Lower by so much: a tenth of the share of a thread that wants the same processor; sched(7)."""
Result = TypeVar("Result")


class BackgroundHasher(PasswordHasher):
    """Hashes in threads of its own, one for each processor, at a lower priority.

    A thread that lowered its priority could not raise it again without being privileged, and so
    a connection's own thread cannot hash in this way: it asks, and waits.
    """

    def __init__(self, threads: int | None = None) -> None:
        """Take the parameters of `default_hasher`, and start the threads.

        All at once: when the first login comes there may be no memory for a thread.

        Args:
            threads: how many; None for one for each processor.
        """
        usual = default_hasher()
        super().__init__(usual.time_cost, usual.memory_cost, usual.parallelism)
        number = threads or os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(number, "hash", _give_way)
        all_run = threading.Barrier(number)
        try:
            # Each waits for the others, so that none of them does the work of two.
            for starting in [self._threads.submit(all_run.wait) for _ in range(number)]:
                starting.result()
        except BaseException:
            all_run.abort()
            self._threads.shutdown(wait=False)
            raise

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        """Return the hash of a password."""
        hash_here = super().hash
        return self._run(lambda: hash_here(password, salt=salt))

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
        """Return if the password is the one of the hash.

        Raises:
            VerificationError, InvalidHashError: it is not.
        """
        verify_here = super().verify
        return self._run(lambda: verify_here(hash, password))

    def _run(self, work: Callable[[], Result]) -> Result:
        def elsewhere() -> Result:
            with on_others():
                return work()

        return self._threads.submit(elsewhere).result()


def _give_way() -> None:
    # On Linux a thread has a priority of its own; elsewhere this would be the whole process's.
    with suppress(OSError, AttributeError):
        if hasattr(os, "sched_setaffinity"):
            me = threading.get_native_id()
            # From where the process is: one that was started by nice(1) is lower already.
            lower = min(19, os.getpriority(os.PRIO_PROCESS, me) + _NICE)
            os.setpriority(os.PRIO_PROCESS, me, lower)
