import pytest

from twinline.transports.client.engine.backoff import Backoff


def test_it_doubles_up_to_the_maximum() -> None:
    backoff = Backoff(1, 30, 0)
    assert [backoff.next() for _ in range(8)] == [1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_jitter_is_a_fifth_either_way(chance: float, factor: float) -> None:
    backoff = Backoff(uniform=lambda: chance)
    expected = [seconds * factor for seconds in (1, 2, 4, 8, 16, 30, 30)]
    assert [backoff.next() for _ in expected] == pytest.approx(expected)


def test_it_begins_again() -> None:
    backoff = Backoff(1, 30, 0)
    assert [backoff.next(), backoff.next()] == [1, 2]
    backoff.reset()
    assert [backoff.next(), backoff.next()] == [1, 2]


def test_the_default_jitter_differs_between_clients() -> None:
    waits = {Backoff().next() for _ in range(20)}
    assert len(waits) > 1
    assert all(0.8 <= seconds <= 1.2 for seconds in waits)
