import pytest

from twinline.transports.client.engine.backoff import Backoff


def test_it_doubles_up_to_the_maximum() -> None:
    backoff = Backoff(1, 30, 0)
    assert [backoff.next() for _ in range(8)] == [1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 1.0), (0.5, 0.75), (1.0, 0.5)])
def test_half_of_a_wait_is_left_to_chance(chance: float, factor: float) -> None:
    backoff = Backoff(uniform=lambda: chance)
    expected = [seconds * factor for seconds in (1, 2, 4, 8, 16, 30, 30)]
    assert [backoff.next() for _ in expected] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("chance", "asked", "seconds"),
    [(0.0, 4.0, 4.0), (0.5, 4.0, 4.25), (1.0, 4.0, 4.5), (1.0, 0.1, 0.15), (1.0, 0.0, 0.0)],
)
def test_what_a_server_asks_for_is_never_cut_short(
    chance: float, asked: float, seconds: float
) -> None:
    assert Backoff(uniform=lambda: chance).asked(asked) == pytest.approx(seconds)


def test_it_begins_again() -> None:
    backoff = Backoff(1, 30, 0)
    assert [backoff.next(), backoff.next()] == [1, 2]
    backoff.reset()
    assert [backoff.next(), backoff.next()] == [1, 2]


def test_the_default_jitter_differs_between_clients() -> None:
    waits = {Backoff().next() for _ in range(20)}
    assert len(waits) > 1
    assert all(0.5 <= seconds <= 1 for seconds in waits)
