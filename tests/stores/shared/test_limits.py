"""Limits over several servers on real engines: never more at one moment than are allowed."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from services import PASSWORD, cheap_hasher
from waiting import join

from twinline.core import errors
from twinline.core.service import ChatService
from twinline.core.settings import ServiceSettings
from twinline.stores.memory import MemoryStore
from twinline.stores.postgresql.database import Database, Pool
from twinline.stores.postgresql.link import Call
from twinline.stores.postgresql.schema import prepare
from twinline.stores.postgresql.states import PostgresqlStates
from twinline.stores.postgresql.url import parse_url

HOME = "192.0.2.1"
THREADS = 24


@pytest.fixture
def pools(database: str) -> Iterator[list[Pool]]:
    """The connections of two servers to one database."""
    target = parse_url(database)
    with ExitStack() as opened:
        found = []
        for _ in range(2):
            connections = Database(target)
            opened.callback(connections.close)
            link = connections.open()
            prepare(link, target.schema)
            link.close()
            found.append(Pool(connections, 2, writes=True))
            opened.callback(found[-1].close)
        yield found


@pytest.fixture
def services(pools: list[Pool]) -> list[ChatService]:
    """Two servers of one state, under limits that a test reaches in a moment.

    What they count is in the database, and all else in memory.
    """
    settings = ServiceSettings(
        failures_per_account=4, guesses_per_minute=20, registrations_per_hour=5
    )
    state = MemoryStore()
    servers = []
    for pool in pools:
        store = MemoryStore()
        store.accounts, store.mailboxes = state.accounts, state.mailboxes
        store.states = PostgresqlStates(pool)
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


def test_a_login_leaves_nothing_behind(services: list[ChatService], pools: list[Pool]) -> None:
    for service in (*services, *services):
        service.login(service.session(HOME), "ann", PASSWORD)
    assert pools[0].run(Call("SELECT key FROM states")) == [[]]
