"""What an operator does at one server of a store, and when the others know of it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from fault_proxy import Fault, FaultProxy
from shared_engines import ENGINES as ALL_ENGINES
from shared_engines import nodes_on
from store_samples import account, draft, session
from waiting import wait_event, wait_until

from twinline.core.errors import NoSuchUser
from twinline.core.store import Account, Accounts, MailboxPolicy, Store
from twinline.stores.memory import MemoryStore
from twinline.stores.postgresql import PostgresqlStore
from twinline.stores.valkey import ValkeyStore
from twinline.transports.endpoints import Endpoint

KNOWN_SECONDS = 1.0
"""How long a server may not know what another has ended."""


@dataclass
class Site:
    """Two servers of one state.

    Attributes:
        here: at which the operator is.
        there: where others are logged in.
        stalled: has the second one hear no notices while the block runs, as if the network had
            swallowed them.
    """

    here: Store
    there: Store
    stalled: Callable[[], AbstractContextManager[Any]]


def on_postgresql(opened: ExitStack, request: pytest.FixtureRequest) -> Site:
    engine = request.getfixturevalue("postgres")
    url = engine.new_store_url()
    here, there = (opened.enter_context(PostgresqlStore.open(url)) for _ in range(2))

    def stalled() -> AbstractContextManager[Any]:
        wait_until(lambda: there._wakes.lease_holds and there._wakes._listening.link, "it listens")
        return engine.paused(f"pid = {there._wakes._listening.link.backend}")

    return Site(here, there, stalled)


def on_valkey(opened: ExitStack, request: pytest.FixtureRequest) -> Site:
    engine = request.getfixturevalue("valkey")
    proxy = opened.enter_context(FaultProxy(Endpoint.parse(f"tcp://{engine.address}")))
    proxy.keeps = True
    url = engine.url()
    far = url.replace(f":{engine.port}", f":{proxy.endpoint.port}")
    here, there = (opened.enter_context(ValkeyStore.open(each)) for each in (url, far))

    @contextmanager
    def stalled() -> Iterator[None]:
        listening = [route for route in proxy.routes if b"SSUBSCRIBE" in (route.up.seen or b"")]
        listening[-1].down.fault = Fault(blackhole=True)
        yield
        listening[-1].cut()

    return Site(here, there, stalled)


ENGINES = {"postgresql": on_postgresql, "valkey": on_valkey}


@pytest.fixture(params=ENGINES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with ExitStack() as opened:
        yield ENGINES[request.param](opened, request)


def kick(accounts: Accounts, ann: Account) -> None:
    assert accounts.close_sessions(ann.account_id) == 2


def disable(accounts: Accounts, ann: Account) -> None:
    accounts.enable(ann.account_id, enabled=False)


def reset_password(accounts: Accounts, ann: Account) -> None:
    assert accounts.change_password(
        ann.account_id, "$argon2id$once", instead_of=None, keep=None, must_change=True
    )


@pytest.mark.parametrize("hears", [True, False], ids=["hears", "hears nothing"])
def test_sessions_end_at_every_server_within_a_second(site: Site, hears: bool) -> None:
    for number, act in enumerate((kick, disable, reset_password)):
        ann = account(f"ann{number}")
        site.here.accounts.create(ann)
        sessions = [session(f"{number} {place}", ann.username) for place in ("here", "there")]
        woken = [threading.Event() for _ in sessions]
        for node, record in zip((site.here, site.there), sessions, strict=True):
            node.accounts.open_session(record, verified=ann.password_hash)
        for record, event in zip(sessions, woken, strict=True):
            site.there.accounts.on_session_end(record.key, event.set)
            wait_until(partial(site.there.accounts.find_session, record.key), "it is known")
        with ExitStack() as stalled:
            if not hears:
                stalled.enter_context(site.stalled())
            begun = time.monotonic()
            act(site.here.accounts, ann)
            # What a login is decided by is never a second old.
            found = site.there.accounts.find(ann.username)
            assert found == site.here.accounts.find(ann.username)
            assert (found == ann) == (act is kick)
            stray = session(f"{number} stray", ann.username)
            if act is not kick:
                with pytest.raises(NoSuchUser):
                    site.there.accounts.open_session(stray, verified=ann.password_hash)
            for event in woken:
                wait_event(event, act.__name__, KNOWN_SECONDS)
            while any(site.there.accounts.find_session(each.key) for each in sessions):
                assert time.monotonic() - begun <= KNOWN_SECONDS, act.__name__
            assert time.monotonic() - begun <= KNOWN_SECONDS, act.__name__


@pytest.mark.parametrize("engine", ALL_ENGINES)
def test_every_message_is_found_where_the_store_in_memory_has_it(
    engine: str, request: pytest.FixtureRequest
) -> None:
    policy = MailboxPolicy()
    with nodes_on(engine, request, policy, 2) as nodes, MemoryStore(policy) as memory:
        names = [f"box{number}" for number in range(20)]
        drafts = [
            draft(f"{number}", sent_at=number, send_id=f"{number}" if number % 3 else None)
            for number in range(160)  # several pieces of what is looked at at once
        ]
        for store in (memory, nodes[0]):
            for name in names:
                store.mailboxes.create(name)
            for number, each in enumerate(drafts):
                store.mailboxes.append(names[0 if number < 150 else number % 20], each)
            for number in range(70):
                store.mailboxes.ack("box0", number + 1, 1_000 + number)
            store.mailboxes.delete("box0", [*range(20, 30), *range(140, 151)])
        gone = 0
        for number, each in enumerate([*drafts, draft("never sent")]):
            whose = ("box0", "box1", None) if number % 20 == 0 else ("box0",)
            for account_id in whose:
                known = memory.mailboxes.trace(each.message_id, account_id, now=1_100)
                found = nodes[number % 2].mailboxes.trace(each.message_id, account_id, now=1_100)
                assert found == known, (number, account_id)
            gone += found is not None and found.seq is None
        assert gone > 10
        for name in names:
            assert nodes[1].mailboxes.usage(name) == memory.mailboxes.usage(name)
