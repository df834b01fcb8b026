"""The story of `scenario`, with each client at another server of one state on a real engine."""

from contextlib import ExitStack

import pytest
from listening import serving
from scenario import TRANSCRIPT, transcript
from services import cheap_hasher
from shared_engines import ENGINES, nodes_on

from twinline.core.service import ChatService
from twinline.core.store import MailboxPolicy
from twinline.transports.client import WatchMode


@pytest.mark.usefixtures("each_listener")
@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_transcript_over_two_servers(engine: str, request: pytest.FixtureRequest) -> None:
    with ExitStack() as opened:
        nodes = opened.enter_context(nodes_on(engine, request, MailboxPolicy(), 2))
        services = [ChatService(node, hasher=cheap_hasher()) for node in nodes]
        servers = [opened.enter_context(serving(service=each)) for each in services]
        assert transcript(servers, "jsonl", WatchMode.STREAMING) == TRANSCRIPT
