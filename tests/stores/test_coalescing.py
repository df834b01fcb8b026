"""Look-ups that wait at the same time become one, and none is answered with an old answer."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest
from waiting import Call, wait_event, wait_until

from twinline.core.errors import StoreUnavailable
from twinline.stores.shared import coalescing
from twinline.stores.shared.coalescing import Coalescing


class Engine:
    """What is asked; it answers when it is let.

    Attributes:
        asked: the keys of each question, in order.
        fails: what the next answers are instead.
    """

    def __init__(self, most: int = 100) -> None:
        self.asked: list[list[int]] = []
        self.fails: Exception | None = None
        self.look_ups: Coalescing[int, int] = Coalescing("look-ups", self._read, most=most)
        self._answers = threading.Event()
        self._answers.set()

    def _read(self, keys: Sequence[int]) -> Mapping[int, int]:
        self.asked.append(list(keys))
        wait_event(self._answers, "the engine is let")
        if self.fails is not None:
            raise self.fails
        return {key: -key for key in keys if key < 100}

    def call(self, key: int) -> Call:
        """Look up in a thread of its own, and return when it waits."""
        before = self.waiting()
        call = Call(lambda: self.look_ups.get(key))
        wait_until(lambda: self.waiting() > before, "it waits")
        return call

    def waiting(self) -> int:
        return len(self.look_ups._waiting) + sum(map(len, self.asked))

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        self._answers.clear()
        try:
            yield
        finally:
            self._answers.set()


@pytest.fixture
def engine() -> Engine:
    return Engine()


def test_one_alone_is_asked_at_once(engine: Engine) -> None:
    assert Call(lambda: engine.look_ups.get(1)).outcome() == -1
    assert Call(lambda: engine.look_ups.get(1)).outcome() == -1
    assert Call(lambda: engine.look_ups.get(100)).outcome() is None
    assert engine.asked == [[1], [1], [100]]


def test_those_that_wait_are_asked_for_at_once(engine: Engine) -> None:
    with engine.standing_still():
        calls = [engine.call(key) for key in (1, 2, 3, 3, 100)]
        assert engine.asked == [[1]]
    assert [call.outcome() for call in calls] == [-1, -2, -3, -3, None]
    assert engine.asked == [[1], [2, 3, 100]]


def test_who_comes_while_it_is_asked_is_asked_for_anew(engine: Engine) -> None:
    with engine.standing_still():
        calls = [engine.call(1), engine.call(1)]
    assert [call.outcome() for call in calls] == [-1, -1]
    assert engine.asked == [[1], [1]]


def test_a_question_has_no_more_than_the_most() -> None:
    engine = Engine(most=2)
    with engine.standing_still():
        calls = [engine.call(key) for key in range(6)]
    assert [call.outcome() for call in calls] == [-key for key in range(6)]
    assert engine.asked == [[0], [1, 2], [3, 4], [5]]


@pytest.mark.parametrize("error", [StoreUnavailable("no"), ValueError("no")], ids=str)
def test_what_is_raised_is_raised_for_all_of_a_question(engine: Engine, error: Exception) -> None:
    engine.fails = error
    with engine.standing_still():
        calls = [engine.call(key) for key in range(4)]
    for call in calls:
        with pytest.raises(type(error), match="no"):
            call.outcome()
    engine.fails = None
    assert Call(lambda: engine.look_ups.get(1)).outcome() == -1


def test_nobody_waits_for_the_main_thread(engine: Engine) -> None:
    with engine.standing_still():
        others = [engine.call(1), engine.call(2)]
        timer = threading.Timer(0.05, engine._answers.set)
        timer.start()
        assert engine.look_ups.get(3) == -3
        timer.join()
    assert [other.outcome() for other in others] == [-1, -2]
    assert [3] in engine.asked


def test_who_waits_too_long_is_refused_and_holds_up_nobody(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.standing_still():
        first = engine.call(1)
        monkeypatch.setattr(coalescing, "_WAIT_SECONDS", 0.05)
        with pytest.raises(StoreUnavailable):
            engine.call(2).outcome()
        monkeypatch.undo()
        third = engine.call(3)
    assert (first.outcome(), third.outcome()) == (-1, -3)
    assert engine.asked == [[1], [3]]
