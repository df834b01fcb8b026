"""Two sides of a talk, and two devices of each, that act at once on two servers of one state."""

from contextlib import ExitStack

import pytest
from shared_engines import ENGINES, nodes_on
from talk_races import RACES, Race, hasty_service

from twinline.core.store import MailboxPolicy

ROUNDS = 4


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("race", RACES)
def test_whatever_comes_first_both_sides_agree(
    race: Race, engine: str, request: pytest.FixtureRequest
) -> None:
    with ExitStack() as opened:
        nodes = opened.enter_context(nodes_on(engine, request, MailboxPolicy(), 2))
        services = [hasty_service(node) for node in nodes]
        for service in services:
            opened.callback(service.stop)
        for number in range(ROUNDS):
            race(services, number)
