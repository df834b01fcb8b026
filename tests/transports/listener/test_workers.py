"""Threads for what may block: how many there are, when they start, and when they end."""

import threading
from collections.abc import Callable, Iterator
from queue import Empty
from typing import Any

import pytest
from waiting import wait_until

from twinline.transports.listener import workers as workers_module
from twinline.transports.listener.workers import Workers


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers("worker of a test", 2)
    yield workers
    workers.close()
    wait_until(lambda: workers._threads == 0, "its threads have ended")
    assert not named()


def named() -> list[str]:
    return [each.name for each in threading.enumerate() if "worker of a test" in each.name]


class Held:
    """Work that waits until it is let go on."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.done = threading.Semaphore(0)

    def __call__(self) -> None:
        self.begun.release()
        assert self.go_on.wait(20)
        self.done.release()

    def wait_begun(self, count: int) -> None:
        for _ in range(count):
            assert self.begun.acquire(timeout=20)

    def wait_done(self, count: int) -> None:
        for _ in range(count):
            assert self.done.acquire(timeout=20)


def test_no_thread_is_started_before_there_is_work(workers: Workers) -> None:
    assert workers._threads == 0


def test_work_is_carried_out_side_by_side_by_so_many_threads_at_most(workers: Workers) -> None:
    held = Held()
    for _ in range(5):
        workers.submit(held)
    held.wait_begun(2)
    assert not held.begun.acquire(timeout=0.05)
    assert workers._threads == 2
    held.go_on.set()
    held.wait_done(5)


def test_a_thread_that_is_idle_is_used_again(workers: Workers) -> None:
    for _ in range(20):
        done = threading.Semaphore(0)
        workers.submit(done.release)
        assert done.acquire(timeout=20)
        wait_until(lambda: workers._idle == workers._threads, "it waits for work")
    assert workers._threads == 1


def test_work_is_begun_in_the_order_that_it_comes() -> None:
    workers = Workers("worker of a test", 1)
    held, order = Held(), list[int]()
    workers.submit(held)
    held.wait_begun(1)
    done = threading.Semaphore(0)
    for number in range(5):
        workers.submit(lambda number=number: (order.append(number), done.release())[1])  # type: ignore[misc]
    held.go_on.set()
    for _ in range(5):
        assert done.acquire(timeout=20)
    assert order == list(range(5))
    workers.close()


def test_threads_that_are_idle_end(monkeypatch: pytest.MonkeyPatch, workers: Workers) -> None:
    monkeypatch.setattr(workers_module, "_IDLE_SECONDS", 0.01)
    done = threading.Semaphore(0)
    for _ in range(3):  # and others are started when there is work again
        workers.submit(done.release)
        assert done.acquire(timeout=20)
        wait_until(lambda: workers._threads == 0, "it has ended")


def test_work_that_comes_while_a_thread_gives_up_is_not_lost(workers: Workers) -> None:
    """It was counted as one that waits, so no other was started."""
    first, second = threading.Semaphore(0), threading.Semaphore(0)
    queue = workers._work

    class GivenUp:
        """Has nothing, the second time that it is asked, and gets it a moment later."""

        put = queue.put
        asked = 0

        def get(self, timeout: float) -> object:
            self.asked += 1
            if self.asked == 2:
                workers.submit(second.release)
                raise Empty
            return queue.get(timeout=timeout)

    workers._work = GivenUp()  # type: ignore[assignment]
    workers.submit(first.release)
    assert first.acquire(timeout=20)
    assert second.acquire(timeout=20)
    assert workers._started == 1


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let no thread start while the event is set."""
    event = threading.Event()
    start = workers_module.start_thread

    def start_or_refuse(*arguments: Any) -> Callable[[], object | None]:
        if event.is_set():
            raise RuntimeError("can't start new thread")
        return start(*arguments)

    monkeypatch.setattr(workers_module, "start_thread", start_or_refuse)
    return event


def test_where_there_is_no_thread_the_work_is_refused_and_never_done(
    workers: Workers, short: threading.Event
) -> None:
    short.set()
    refused, done = threading.Semaphore(0), threading.Semaphore(0)
    with pytest.raises(RuntimeError):
        workers.submit(refused.release)
    assert (workers._threads, workers._pending, workers.starting) == (0, 0, False)
    short.clear()
    workers.submit(done.release)
    assert done.acquire(timeout=20)
    assert not refused.acquire(blocking=False)


def test_where_there_is_one_thread_and_no_other_the_work_waits_for_it(
    workers: Workers, short: threading.Event
) -> None:
    held = Held()
    workers.submit(held)
    held.wait_begun(1)
    short.set()
    workers.submit(held)
    held.go_on.set()
    held.wait_done(2)
    assert workers._threads == 1


def test_a_thread_that_ended_before_it_ran_is_replaced(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = workers_module.start_thread
    with monkeypatch.context() as patched:
        patched.setattr(workers_module, "start_thread", lambda *_: lambda: None)
        done = threading.Semaphore(0)
        workers.submit(done.release)
        assert workers.starting
    assert workers_module.start_thread is start
    workers.replace_stillborn()
    assert done.acquire(timeout=20)
    wait_until(lambda: not workers.starting, "it runs")
    assert workers._threads == 1


def test_a_thread_that_is_only_late_is_not_replaced(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[Any] = []
    with monkeypatch.context() as patched:
        patched.setattr(workers_module, "start_thread", lambda *call: late.append(call) or object)
        done = threading.Semaphore(0)
        workers.submit(done.release)
    workers.replace_stillborn()
    assert (workers._threads, workers.starting) == (1, True)
    ((name, run, number),) = late
    threading.Thread(target=run, args=(number,), name=name).start()
    assert done.acquire(timeout=20)


def test_what_waits_is_carried_out_when_it_is_closed() -> None:
    workers = Workers("worker of a test", 1)
    held = Held()
    for _ in range(3):
        workers.submit(held)
    held.wait_begun(1)
    workers.close()
    held.go_on.set()
    held.wait_done(3)
    wait_until(lambda: workers._threads == 0 and not named(), "its thread has ended")
