"""Accounts and sessions in PostgreSQL: what several servers know of them, and when."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import count
from statistics import median

import psycopg
import pytest
from postgres_engine import PostgresEngine, StartEngine
from postgres_node import AccountsNode
from store_samples import account, session
from waiting import Call, wait_event, wait_until

from twinline.core.errors import NoSuchUser, StoreUnavailable, UsernameTaken
from twinline.core.names import NamePattern
from twinline.core.passwords import profile_of
from twinline.core.store import Account, Accounts, SessionKey, SessionRecord
from twinline.stores.postgresql import PostgresqlStore
from twinline.stores.postgresql.wakes import LEASE_SECONDS

KNOWN_SECONDS = 1.0
"""How long a server may not know what another has revoked."""
STORM_SECONDS = 1.5
TABLES = "twinline"
OpenNode = Callable[[], AccountsNode]


@pytest.fixture
def open_node(database: str) -> Iterator[OpenNode]:
    """What opens another node of one database."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(AccountsNode(database))


@pytest.fixture
def nodes(open_node: OpenNode) -> tuple[AccountsNode, AccountsNode]:
    return open_node(), open_node()


def opened(node: AccountsNode, username: str = "ann", number: int = 0) -> SessionRecord:
    """Return a new session of a user, who is created if need be."""
    if node.accounts.find(username) is None:
        node.accounts.create(account(username))
    record = session(f"{username} {number}", username)
    node.accounts.open_session(record)
    return record


# -- what other nodes know -----------------------------------------------------------------------


def test_a_revocation_is_heard_and_not_waited_for(nodes: tuple[AccountsNode, AccountsNode]) -> None:
    here, there = nodes
    heard = []
    for number in range(20):
        record = opened(here, number=number)
        assert there.accounts.find_session(record.key) == record
        woken = threading.Event()
        there.accounts.on_session_end(record.key, woken.set)
        begun = time.monotonic()
        here.accounts.close_session(record.key)
        wait_event(woken, "the wake on the other node")
        heard.append(time.monotonic() - begun)
        assert there.accounts.find_session(record.key) is None
    assert median(heard) < LEASE_SECONDS / 9, heard


def test_a_session_is_remembered_while_the_lease_holds(
    nodes: tuple[AccountsNode, AccountsNode],
) -> None:
    here, there = nodes
    record = opened(here)
    assert there.accounts.find_session(record.key) == record
    asked = there.pool.runs
    for _ in range(100):
        assert there.accounts.find_session(record.key) == record
    assert there.pool.runs - asked <= 1
    assert there.accounts.find_session(SessionKey(None, record.token_hash)) is None


def test_a_listener_that_hears_nothing_knows_within_a_second(
    nodes: tuple[AccountsNode, AccountsNode], postgres: PostgresEngine
) -> None:
    here, there = nodes
    record = opened(here)
    assert there.accounts.find_session(record.key) == record
    woken = threading.Event()
    there.accounts.on_session_end(record.key, woken.set)
    with postgres.paused(f"pid = {there.listener}"):
        here.accounts.close_session(record.key)
        begun = time.monotonic()
        wait_until(lambda: there.accounts.find_session(record.key) is None, "it is not found")
        known = time.monotonic() - begun
        wait_event(woken, "the wake")
        told = time.monotonic() - begun
    assert known <= KNOWN_SECONDS
    assert told <= KNOWN_SECONDS


def test_a_revocation_that_was_not_heard_wakes_when_the_connection_is_back(
    nodes: tuple[AccountsNode, AccountsNode], postgres: PostgresEngine
) -> None:
    here, there = nodes
    records = [opened(here, number=number) for number in range(8)]
    for record in records:
        woken = threading.Event()
        kept = threading.Event()
        there.accounts.on_session_end(record.key, woken.set)
        there.accounts.on_session_end(records[-1].key, kept.set)
        assert there.accounts.find_session(record.key) == record
        (killed,) = postgres.sql("SELECT pg_terminate_backend(%s)", there.listener)
        assert killed == (True,)
        here.accounts.close_session(record.key)
        begun = time.monotonic()
        wait_event(woken, "the wake")
        assert time.monotonic() - begun <= KNOWN_SECONDS
        wait_until(lambda: there.accounts.find_session(record.key) is None, "it is gone")  # noqa: B023
        assert kept.is_set() == (record == records[-1])
        wait_until(lambda: there.wakes.lease_holds and there.wakes._listening.link, "it listens")


def test_a_use_that_another_node_notes_is_known(nodes: tuple[AccountsNode, AccountsNode]) -> None:
    here, there = nodes
    record = opened(here)
    assert there.accounts.find_session(record.key) == record
    here.accounts.touch_session(record.key, record.used_at + 5)
    wait_until(
        lambda: there.accounts.find_session(record.key).used_at == record.used_at + 5, "the use"
    )
    assert here.accounts.find_session(record.key).used_at == record.used_at + 5


def test_a_new_account_of_an_old_name_is_found_at_once_where_it_is_asked_for(
    nodes: tuple[AccountsNode, AccountsNode],
) -> None:
    here, there = nodes
    assert there.accounts.recipient("ann") is None
    opened(here)
    first = account("ann")
    assert there.accounts.recipient("ann") == first.account_id
    here.accounts.withdraw(first.account_id, keep_name=False)
    assert here.accounts.recipient("ann") is None
    second = account("ann", "second")
    here.accounts.create(second)
    assert there.accounts.find("ann") == second
    begun = time.monotonic()
    wait_until(lambda: there.accounts.recipient("ann") == second.account_id, "the new recipient")
    assert time.monotonic() - begun <= KNOWN_SECONDS


# -- many at once --------------------------------------------------------------------------------


def test_many_who_come_back_at_once_ask_a_few_times(open_node: OpenNode) -> None:
    node = open_node()
    records = [opened(node, number=number) for number in range(64)]
    node.accounts._sessions.clear()
    asked = node.pool.runs
    barrier = threading.Barrier(len(records))

    def find(record: SessionRecord) -> object:
        barrier.wait(20)
        return node.accounts.find_session(record.key)

    calls = [Call(partial(find, record)) for record in records]
    assert [call.outcome() for call in calls] == records
    assert node.pool.runs - asked <= len(records) // 4


def test_calls_of_all_kinds_at_once_neither_deadlock_nor_leave_halves(
    nodes: tuple[AccountsNode, AccountsNode], postgres: PostgresEngine, database: str
) -> None:
    names, most = ("ann", "bob", "carl"), 5
    numbers = count()
    until = time.monotonic() + STORM_SECONDS

    def step(own: Accounts, randomly: random.Random) -> None:
        name = randomly.choice(names)
        user = own.find(name)
        if user is None:
            own.create(Account(f"{name}-{next(numbers)}", name, password(randomly), 1))
            return
        user_id, known = user.account_id, user.password_hash
        # One of the last sessions of any account; often there is none such.
        key = SessionKey(user_id, b"%d" % (next(numbers) - randomly.randrange(60)))
        opening = SessionRecord(b"%d" % next(numbers), user_id, name, 1, randomly.randrange(99))
        choices: list[Callable[[], object]] = [
            lambda: own.withdraw(user_id, keep_name=False),
            lambda: own.change_password(
                user_id, password(randomly), instead_of=known, keep=key.token_hash
            ),
            lambda: own.set_password_hash(user_id, password(randomly), instead_of=known),
            lambda: own.note_address(user_id, f"{randomly.randrange(9)}", 1, most=4),
            *[lambda: own.close_session(key)] * 3,
            *[lambda: own.touch_session(key, randomly.randrange(99))] * 3,
            *[lambda: own.open_session(opening, verified=known, most=most)] * 6,
        ]
        randomly.choice(choices)()

    def storm(node: AccountsNode, seed: int) -> int:
        randomly, done = random.Random(seed), 0
        while time.monotonic() < until:
            with suppress(NoSuchUser, UsernameTaken):
                step(node.accounts, randomly)
            done += 1
        return done

    threads = [Call(partial(storm, node, seed)) for seed, node in enumerate(nodes * 4)]
    assert all(thread.outcome(30.0) for thread in threads)

    def counted(what: str) -> int:
        ((number,),) = postgres.sql(f"SELECT {what}", database=database.rpartition("/")[2])
        return int(number)

    assert not counted("deadlocks FROM pg_stat_database WHERE datname = current_database()")
    for table in ("sessions", "known_addresses"):
        gone = f"account_id NOT IN (SELECT account_id FROM {TABLES}.names)"
        assert not counted(f"count(*) FROM {TABLES}.{table} WHERE {gone}")
    each = f"(SELECT count(*) AS number FROM {TABLES}.sessions GROUP BY account_id)"
    assert counted(f"coalesce(max(number), 0) FROM {each} AS each") <= most
    with AccountsNode(database) as node:
        users = [user for name in names if (user := node.accounts.find(name)) is not None]
        profiles = Counter(profile_of(user.password_hash) for user in users)
        assert node.accounts.hash_profiles() == profiles


def password(randomly: random.Random) -> str:
    """Return the hash of a password, with costs by chance."""
    return f"$argon2id$v=19$m={randomly.choice((8, 16, 32))},t=1,p=1$salt${randomly.random()}"


# -- an engine that fails --------------------------------------------------------------------------


def test_a_use_is_not_waited_for_long(open_node: OpenNode) -> None:
    node = open_node()
    record = opened(node)
    other = opened(node, number=1)
    with locked(node.url, record):
        begun = time.monotonic()
        node.accounts.touch_session(record.key, record.used_at + 1)
        node.accounts.touch_session(other.key, other.used_at + 1)
        assert time.monotonic() - begun < 0.5
        wait_until(
            lambda: node.accounts.find_session(other.key).used_at == other.used_at + 1,
            "the other use is noted",
        )
    assert node.accounts.find_session(record.key) == record


@contextmanager
def locked(url: str, record: SessionRecord) -> Iterator[None]:
    """Keep the row of a session locked, as a server may that waits for something."""
    query = f"SELECT FROM {TABLES}.sessions WHERE token_hash = %s FOR UPDATE"
    with psycopg.connect(url) as connection:
        connection.execute(query.encode(), (record.token_hash,))
        yield
        connection.rollback()


def test_an_engine_that_stands_still_is_not_trusted_for_long(start_postgres: StartEngine) -> None:
    engine = start_postgres()
    with AccountsNode(engine.url(engine.new_database())) as node:
        record = opened(node)
        assert node.accounts.find_session(record.key) == record
        engine.pause()
        begun = time.monotonic()
        node.accounts.touch_session(record.key, record.used_at + 1)
        assert time.monotonic() - begun < 0.5
        with pytest.raises(StoreUnavailable):  # noqa: PT012 - until the lease is over
            while time.monotonic() - begun < 20:
                asked = time.monotonic()
                assert node.accounts.find_session(record.key) == record
        assert asked - begun <= LEASE_SECONDS
        engine.go_on()
        wait_until(lambda: found(node, record), "it goes on")


def found(node: AccountsNode, record: SessionRecord) -> bool:
    try:
        return node.accounts.find_session(record.key) is not None
    except StoreUnavailable:
        return False


def test_a_commit_that_no_standby_has_said_to_have_is_in_doubt(
    start_postgres: StartEngine,
) -> None:
    engine = start_postgres()
    name = engine.new_database()
    with AccountsNode(engine.url(name)) as node:
        record = opened(node)
        engine.set(synchronous_standby_names="nobody")
        # Not by this thread, which has a connection of its own.
        closing = Call(lambda: node.accounts.close_session(record.key))
        waits = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        wait_until(lambda: engine.sql(waits), "a wait for the standby")
        with pytest.raises(StoreUnavailable) as raised:
            closing.outcome()
        assert raised.value.in_doubt
        engine.set(synchronous_standby_names=None)
        assert node.accounts.find_session(record.key) is None


def test_accounts_are_not_changed_where_the_database_promises_too_little(
    start_postgres: StartEngine,
) -> None:
    engine = start_postgres()
    with PostgresqlStore.open(engine.new_store_url() + "&durability=disk") as store:
        store.accounts.create(account("ann"))
        engine.set(synchronous_commit="off")
        wait_until(lambda: refused(store), "it is seen")
        with pytest.raises(StoreUnavailable, match="refuses writes"):
            store.accounts.create(account("bob"))
        with pytest.raises(StoreUnavailable, match="refuses writes"):
            store.accounts.open_session(session("token"))
        assert store.accounts.find("bob") is None
        assert store.accounts.find("ann") == account("ann")
        engine.set(synchronous_commit=None)
        wait_until(lambda: not refused(store), "it is seen again")
        store.accounts.create(account("bob"))


def refused(store: PostgresqlStore) -> bool:
    """Return whether a write that changes nothing is refused."""
    try:
        store.accounts.withdraw("id-nobody", keep_name=False)
    except StoreUnavailable:
        return True
    return False


# -- names ---------------------------------------------------------------------------------------


def test_names_that_cannot_be_are_nobodys(open_node: OpenNode) -> None:
    node = open_node()
    for username in ("a", "a-b", "ab", "b"):
        node.accounts.create(account(username))
    for name in ("a\0", "a\0b", "a\ud800", "\0", "\udfff"):
        assert node.accounts.find(name) is None
        assert node.accounts.recipient(name) is None
        assert node.accounts.is_free(name)
        with pytest.raises(ValueError, match="cannot keep"):
            node.accounts.create(account(name))
    everyone = NamePattern("*")
    after = {
        "": ("a", "a-b", "ab", "b"),
        "a\0": ("a-b", "ab", "b"),
        "a-\ud800": ("ab", "b"),
        "a\udfff": ("b",),
        "\ud800": (),
        "a-b": ("ab", "b"),
        "é": (),
    }
    for text, names in after.items():
        assert node.accounts.page(everyone, text, 9).usernames == names
    assert node.accounts.page(everyone, None, 2).usernames == ("a", "a-b")
