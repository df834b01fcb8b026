"""Limits over several servers on real engines: never more at one moment than are allowed."""

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from postgres_node import AccountsNode
from services import PASSWORD, cheap_hasher
from waiting import join

from twinline.core import errors
from twinline.core.guesses import interval_of
from twinline.core.limit_states import AccountState
from twinline.core.service import ChatService
from twinline.core.settings import ServiceSettings
from twinline.core.shared_limits import _key
from twinline.core.store import Store
from twinline.stores.memory import MemoryStore
from twinline.stores.registry import open_store

HOME = "192.0.2.1"
THREADS = 24


@pytest.fixture(params=["postgresql", "valkey", "valkey cluster"])
def nodes(request: pytest.FixtureRequest) -> Iterator[list[Store]]:
    """Two servers' stores of one state in an engine."""
    engine = request.param
    opener: Callable[[str], Store] = open_store
    if engine == "postgresql":
        opener, url = AccountsNode, request.getfixturevalue("database")
    else:
        whole = request.getfixturevalue(engine.replace(" ", "_"))
        url = whole.url(prefix=f"{secrets.token_hex(4)}:")
    with ExitStack() as opened:
        yield [opened.enter_context(opener(url)) for _ in range(2)]


@pytest.fixture
def services(nodes: list[Store]) -> list[ChatService]:
    """Two servers of one state, under limits that a test reaches in a moment.

    What they count is in the engine, and all else in memory.
    """
    settings = ServiceSettings(
        failures_per_account=4, guesses_per_minute=20, registrations_per_hour=5
    )
    state = MemoryStore()
    servers = []
    for node in nodes:
        store = MemoryStore()
        store.accounts, store.mailboxes, store.states = state.accounts, state.mailboxes, node.states
        servers.append(ChatService(store, settings, hasher=cheap_hasher()))
    servers[0].add_account("ann", PASSWORD)
    return servers


def outcomes(services: list[ChatService], ask: str) -> Counter[str]:
    """Have threads ask both servers at one moment, and count what came of it."""
    start = threading.Barrier(THREADS)
    seen: list[str] = []

    def act(number: int) -> None:
        service = services[number % 2]
        session = service.session(HOME if ask == "guess" else f"198.51.100.{number}")
        start.wait(20)
        try:
            if ask == "register":
                session = service.session(HOME)
                service.create_account(session, f"user{number}", PASSWORD)
            else:
                service.login(session, "ann", "another horse")
            seen.append("done")
        except errors.RequestError as refused:
            seen.append(refused.code)

    threads = [threading.Thread(target=act, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        join(thread)
    assert len(seen) == THREADS
    return Counter(seen)


def test_guesses_from_one_address_at_one_moment(services: list[ChatService]) -> None:
    assert outcomes(services, "guess") == {"bad_credentials": 4, "rate_limited": THREADS - 4}


def test_guesses_from_many_addresses_at_one_moment(services: list[ChatService]) -> None:
    seen = outcomes(services, "guess from everywhere")
    # Five turns have added up; another may come due while the threads are slow.
    assert seen["bad_credentials"] in (5, 6)
    assert seen.keys() == {"bad_credentials", "rate_limited"}


def test_registrations_at_one_moment(services: list[ChatService]) -> None:
    assert outcomes(services, "register") == {"done": 5, "rate_limited": THREADS - 5}


def test_a_login_leaves_nothing_behind(services: list[ChatService], nodes: list[Store]) -> None:
    states = nodes[0].states
    assert states is not None
    here, there = services
    with pytest.raises(errors.BadCredentials):
        here.login(here.session(HOME), "ann", "another horse")
    assert states.read(_key("account", "ann")) is not None
    there.login(there.session(HOME), "ann", PASSWORD)
    here.login(here.session("192.0.2.2"), "ann", PASSWORD)
    left = states.read(_key("account", "ann"))
    # The wrong password's turn alone.
    state = AccountState.of(left, time.time(), interval_of(20))
    assert not state.pairs
    assert not state.line.turns
