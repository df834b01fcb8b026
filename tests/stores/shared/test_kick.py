"""`kick` at one node ends the connections at every node of the store, within a second."""

import time
from contextlib import ExitStack

import pytest
from admin_server import administered
from listening import TCP, Server, each_listener, serving, signal_pipe_of_uvloop  # noqa: F401
from services import PASSWORD, cheap_hasher
from shared_engines import ENGINES, nodes_on
from waiting import wait_until

from twinline.core.service import ChatService
from twinline.core.store import MailboxPolicy
from twinline.transports.client import Client, StateKind

SECONDS = 1.0


@pytest.mark.usefixtures("each_listener")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_kick_reaches_every_node_within_a_second(
    engine: str, request: pytest.FixtureRequest
) -> None:
    with nodes_on(engine, request, MailboxPolicy(), 2) as (here, there), ExitStack() as stack:
        served = stack.enter_context(administered(here))
        service = ChatService(there, hasher=cheap_hasher())
        other = stack.enter_context(serving([(TCP, "auto")], service))
        for name in ("ann", "bob"):
            served.server.service.add_account(name, PASSWORD)
        clients = [
            stack.enter_context(Client(server.endpoints[0])) for server in (served.server, other)
        ]
        for client in clients:
            client.login("ann", PASSWORD)
        bob = stack.enter_context(Client(other.endpoints[0]))
        bob.login("bob", PASSWORD)

        def lines(name: str, server: Server) -> int:
            views, _ = server.listener.connections()
            return [each.username for each in views].count(name)

        wait_until(
            lambda: [lines("ann", each) for each in (served.server, other)] == [2, 2], "both lines"
        )
        wait_until(lambda: lines("bob", other) == 2, "bob's lines")
        began = time.monotonic()
        assert served.ask("kick", username="ann") == {"username": "ann", "sessions": 2}
        wait_until(lambda: lines("ann", served.server) + lines("ann", other) == 0, "all to end")
        took = time.monotonic() - began
        assert took < SECONDS, took
        for client in clients:
            wait_until(
                lambda client=client: client.state.kind is StateKind.LOGGED_OUT, "it is told so"
            )
        assert bob.status().username == "bob"
        assert lines("bob", other) == 2
