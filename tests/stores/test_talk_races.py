"""Two sides of a talk, and two devices of each, that act at once on one server."""

from collections.abc import Callable, Iterator

import pytest
from talk_races import RACES, Race, hasty_service

from twinline.core.service import ChatService
from twinline.core.store import Store

ROUNDS = 8


@pytest.fixture
def service(open_store: Callable[[], Store]) -> Iterator[ChatService]:
    service = hasty_service(open_store())
    yield service
    service.stop()


@pytest.mark.parametrize("race", RACES)
def test_whatever_comes_first_both_sides_agree(race: Race, service: ChatService) -> None:
    for number in range(ROUNDS):
        race([service], number)
