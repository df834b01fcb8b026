"""`kick` and `disable`: both lines of a client end within a second, on every store and listener."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from admin_server import administered
from listening import each_listener, signal_pipe_of_uvloop  # noqa: F401
from services import PASSWORD
from waiting import wait_until

from twinline.core.errors import AccountDisabled, NotLoggedIn, SessionExpired
from twinline.core.store import Store
from twinline.stores.memory import MemoryStore
from twinline.stores.registry import open_store
from twinline.transports.client import Client, StateKind, WatchMode

SECONDS = 1.0


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Yield a store of each kind that is one server's alone."""
    with MemoryStore() if request.param == "memory" else open_store(f"sqlite:{tmp_path}/s") as one:
        yield one


@pytest.mark.usefixtures("each_listener")
@pytest.mark.parametrize("action", ["kick", "disable"])
def test_both_lines_of_every_client_end_within_a_second(store: Store, action: str) -> None:
    with administered(store) as served, ExitStack() as stack:
        for name in ("ann", "bob"):
            served.server.service.add_account(name, PASSWORD)
        clients = [
            stack.enter_context(Client(served.endpoint, watch=mode))
            for mode in (WatchMode.STREAMING, WatchMode.BLOCKING)
        ]
        bob = stack.enter_context(Client(served.endpoint))
        for client in (*clients, bob):
            client.login("bob" if client is bob else "ann", PASSWORD)

        def lines_of(name: str) -> int:
            views, _ = served.server.listener.connections()
            return [each.username for each in views].count(name)

        wait_until(lambda: (lines_of("ann"), lines_of("bob")) == (4, 2), "both lines of each")
        began = time.monotonic()
        reply = served.ask(action, username="ann")
        wait_until(lambda: lines_of("ann") == 0, "all lines of ann end")
        assert time.monotonic() < began + SECONDS
        assert reply == (
            {"username": "ann", "sessions": 2}
            if action == "kick"
            else {"username": "ann", "enabled": False}
        )
        for client in clients:
            wait_until(
                lambda client=client: client.state.kind is StateKind.LOGGED_OUT, "it is told so"
            )
            with pytest.raises((SessionExpired, NotLoggedIn)):
                client.status()
        assert bob.status().username == "bob"
        assert lines_of("bob") == 2
        if action == "kick":
            clients[0].login("ann", PASSWORD)
        else:
            with pytest.raises(AccountDisabled):
                clients[0].login("ann", PASSWORD)
