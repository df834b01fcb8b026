"""Calls that threads make at the same moment: they leave one barrier together."""

import sys
import threading
from collections.abc import Callable

from waiting import join

SOON = 5.0
"""Seconds that a thread waits for the others to start."""


def race(*steps: Callable[[], object]) -> list[object]:
    """Run the steps at once, each in its thread; return what each returned or raised."""
    interval = sys.getswitchinterval()
    # Not before every thread has started: a tracer cannot be installed in two threads at once.
    barrier = threading.Barrier(len(steps), action=lambda: sys.setswitchinterval(1e-6))
    results: list[object] = [None] * len(steps)

    def run(index: int) -> None:
        barrier.wait(SOON)
        try:
            results[index] = steps[index]()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(steps))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            join(thread, 30)
    finally:
        sys.setswitchinterval(interval)
    return results
