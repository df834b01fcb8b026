"""Shared states in memory, for the servers of one test: compare and swap, and what was asked."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from twinline.core.errors import StoreUnavailable
from twinline.core.store import SharedStates, Step


class MemoryStates(SharedStates):
    """Keeps to the contract and holds callers to it.

    A step is called with no lock held, and again if another caller was faster.

    Attributes:
        values: what is kept, by key.
        kept_ms: for how long, by key.
        asked: how often each method was called.
        writes: how many changes changed anything.
        on_read: called when a value was read and is not returned yet.
        down: whether it is out of reach.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.values: dict[str, bytes] = {}
        self.kept_ms: dict[str, int] = {}
        self.asked = Counter[str]()
        self.writes = 0
        self.on_read: Callable[[], object] = lambda: None
        self.down = False

    def change(self, key: str, step: Step, *, keep_ms: int) -> None:
        self._ask("change", key)
        assert keep_ms > 0
        while True:
            before = self.values.get(key)
            after = step(before)
            assert after is None or len(after) <= 8 * 1024
            with self._lock:
                if self.values.get(key) is not before:
                    continue
                self.writes += 1
                if after is None:
                    self.values.pop(key, None)
                else:
                    self.values[key] = after
                    self.kept_ms[key] = keep_ms
                return

    def read(self, key: str) -> bytes | None:
        self._ask("read", key)
        value = self.values.get(key)
        self.on_read()
        return value

    def _ask(self, method: str, key: str) -> None:
        assert len(key.encode()) <= 100
        with self._lock:
            self.asked[method] += 1
        if self.down:
            raise StoreUnavailable

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """Count what is asked here alone."""
        before, during = self.asked.copy(), Counter[str]()
        yield during
        during.update(self.asked - before)
