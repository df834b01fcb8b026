"""The same requests in every way in, of services on all engines: the same replies."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from differing_replies import ENDPOINTS, compare
from listening import Server, serving
from services import FakeClock, make_service
from shared_engines import ENGINES, nodes_on

from twinline.core.store import MailboxPolicy
from twinline.stores.memory import MemoryStore

POLICY = MailboxPolicy(mailbox_messages=6, history_messages=4)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def servers(clock: FakeClock, request: pytest.FixtureRequest) -> Iterator[dict[str, list[Server]]]:
    """One server of the store in memory, and two of each state on an engine."""
    with ExitStack() as opened:
        stores = {"memory": [opened.enter_context(MemoryStore(POLICY))]} | {
            engine: opened.enter_context(nodes_on(engine, request, POLICY, 2)) for engine in ENGINES
        }
        yield {
            name: [
                opened.enter_context(
                    serving(
                        ENDPOINTS,
                        make_service(store=node, clock=clock, registrations_per_hour=10_000),
                    )
                )
                for node in nodes
            ]
            for name, nodes in stores.items()
        }


def test_all_ways_in_are_told_the_same(servers: dict[str, list[Server]], clock: FakeClock) -> None:
    assert compare(servers, clock, range(100, 103)) > 400
