"""A wake descriptor: no wake is lost, many count as one, and none goes into another file."""

import os
import threading
from contextlib import suppress
from select import POLLIN, poll

import pytest
from interrupting import each_place
from waiting import Call

from twinline.core.locks import new_lock
from twinline.transports import wakeup
from twinline.transports.wakeup import WakeDescriptor

pytestmark = pytest.mark.usefixtures("wake_form")


def opened() -> WakeDescriptor:
    descriptor = WakeDescriptor()
    descriptor.open()
    return descriptor


def readable(descriptor: WakeDescriptor, milliseconds: int = 0) -> bool:
    waits = poll()
    waits.register(descriptor, POLLIN)
    return bool(waits.poll(milliseconds))


def test_it_is_readable_from_a_wake_until_it_is_cleared() -> None:
    descriptor = opened()
    assert not readable(descriptor)
    for _ in range(2):
        descriptor.wake()
        descriptor.wake()
        assert readable(descriptor)
        descriptor.clear()
        assert not readable(descriptor)
    descriptor.clear()  # which does not block
    descriptor.close()


def test_it_is_written_once_until_it_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[object] = []
    name = "write"
    write = getattr(os, name)
    monkeypatch.setattr(os, name, lambda *arguments: (written.append(1), write(*arguments))[1])
    descriptor = opened()
    for rounds in (1, 2):
        for _ in range(100):
            descriptor.wake()
        assert len(written) == rounds
        descriptor.clear()
    descriptor.close()


def test_a_wake_from_another_thread_ends_a_poll() -> None:
    descriptor = opened()
    waiting = Call(lambda: readable(descriptor, 20_000))
    descriptor.wake()
    assert waiting.outcome() is True
    descriptor.close()


def test_no_wake_is_lost_however_it_races_with_a_look() -> None:
    """Each step of the counter is seen, although the looker sleeps whenever there is none."""
    descriptor = opened()
    threads, steps = 4, 2_000
    counts = [0] * threads

    def count(number: int) -> None:
        for _ in range(steps):
            counts[number] += 1
            descriptor.wake()

    def look() -> int:
        waits = poll()
        waits.register(descriptor, POLLIN)
        while sum(counts) < threads * steps:
            if not waits.poll(10_000):
                return sum(counts)  # it slept through one
            descriptor.clear()
        return sum(counts)

    looker = Call(look)
    counters = [Call(lambda number=number: count(number)) for number in range(threads)]
    for counter in counters:
        counter.outcome()
    assert looker.outcome() == threads * steps
    descriptor.close()


def test_wakes_around_the_read_do_not_keep_the_next_from_being_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    descriptor = opened()
    name = "read"
    read = getattr(os, name)

    def wake_read_wake(*arguments: int) -> object:
        descriptor.wake()
        found = read(*arguments)
        descriptor.wake()
        return found

    descriptor.wake()
    monkeypatch.setattr(os, name, wake_read_wake)
    descriptor.clear()
    monkeypatch.undo()
    descriptor.wake()
    assert readable(descriptor)
    descriptor.close()


def test_a_wake_that_races_with_close_goes_into_no_other_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    descriptor = opened()
    number = descriptor.fileno()
    others: list[int] = []
    name = "write"
    write = getattr(os, name)

    def close_and_write(*arguments: object) -> object:
        descriptor.close()  # the number of which would be free by now
        others.extend(os.pipe())
        return write(*arguments)

    monkeypatch.setattr(os, name, close_and_write)
    descriptor.wake()
    monkeypatch.undo()
    reading, writing = others
    os.set_blocking(reading, False)
    try:
        with suppress(BlockingIOError):
            assert not os.read(reading, 8)
        assert number not in others or not wakeup._EVENTFD
        assert descriptor.fileno() == -1
    finally:
        os.close(reading)
        os.close(writing)


def test_before_it_is_open_nothing_is_done() -> None:
    descriptor = WakeDescriptor()
    descriptor.wake()
    descriptor.clear()
    assert descriptor.fileno() == -1
    descriptor.open()
    assert not readable(descriptor)
    descriptor.wake()
    assert readable(descriptor)
    descriptor.close()


def test_once_closed_nothing_is_done() -> None:
    descriptor = opened()
    descriptor.close()
    descriptor.close()
    descriptor.wake()
    descriptor.clear()
    assert descriptor.fileno() == -1


def test_a_wake_may_be_called_with_a_lock_held() -> None:
    descriptor = opened()
    with new_lock("of a token"):
        descriptor.wake()
    assert readable(descriptor)
    descriptor.close()


def test_a_wake_that_a_signals_handler_interrupts_loses_no_later_one() -> None:
    descriptor = opened()
    places = 0
    for place in each_place(descriptor.wake):
        descriptor.wake()
        assert readable(descriptor), place
        descriptor.clear()
        places += 1
    assert places >= 2
    descriptor.close()


def test_a_wake_does_not_block_where_nobody_clears(monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = opened()

    def wake_again() -> None:
        for _ in range(70_000):  # more than a pipe holds
            descriptor._woken = False  # as if another wake had raced with this one
            descriptor.wake()

    thread = threading.Thread(target=wake_again, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    descriptor.close()
