"""What two servers do to the same mailboxes at once, and how they hear of each other."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from random import Random
from typing import Any

import psycopg
import pytest
from postgres_engine import PostgresEngine, StartEngine
from postgres_stores import run
from store_samples import ALL, account, draft
from waiting import Call, join, wait_event, wait_until

from twinline.core.store import MailboxLook, MailboxPolicy
from twinline.stores.postgresql import PostgresqlStore, StoreNotOpened, parse_url
from twinline.stores.postgresql import link as postgresql_link
from twinline.stores.postgresql import wakes as postgresql_wakes
from twinline.stores.postgresql.wakes import News

Open = Callable[..., PostgresqlStore]
NOW = 1_767_225_600_000


@pytest.fixture
def open_node(store_url: str) -> Iterator[Open]:
    """What opens another node of one state."""
    with ExitStack() as opened:

        def open_one(**options: float) -> PostgresqlStore:
            store = PostgresqlStore(parse_url(store_url), **options)  # type: ignore[arg-type]
            opened.callback(store.close)
            return store

        yield open_one


def at_once(*steps: Callable[[], object]) -> list[Call]:
    """Begin steps at one moment, each in a thread of its own."""
    barrier = threading.Barrier(len(steps))

    def begin(step: Callable[[], object]) -> object:
        barrier.wait(10)
        return step()

    return [Call(lambda step=step: begin(step)) for step in steps]


def test_one_send_id_from_two_servers_is_one_message(open_node: Open) -> None:
    nodes = open_node(), open_node()
    nodes[0].mailboxes.create("bob")
    for number in range(30):
        calls = at_once(
            *(
                lambda node=node, body=f"m{number}", send_id=f"s{number}": node.mailboxes.append(
                    "bob", draft(body, send_id=send_id)
                )
                for node in nodes * 2
            )
        )
        assert len({call.outcome() for call in calls}) == 1, "one receipt for all of them"
    bodies = [each.body for each in nodes[1].mailboxes.read("bob", 0, ALL, ALL).messages]
    assert bodies == [f"m{number}" for number in range(30)]


def test_servers_that_write_to_the_same_mailboxes_never_deadlock(
    open_node: Open, postgres: PostgresEngine
) -> None:
    """Each call names mailboxes in another order; a deadlock would be a second's wait, or more."""
    nodes = open_node(), open_node()
    names = [f"box{number}" for number in range(24)]
    for name in names:
        nodes[0].mailboxes.create(name)
        nodes[0].mailboxes.append(name, draft())
    before = deadlocks(postgres)
    ends = time.monotonic() + 1.5

    def work(seed: int) -> None:
        random = Random(seed)
        node = nodes[seed % 2]
        while time.monotonic() < ends:
            some = random.sample(names, 12)
            node.mailboxes.look_many([MailboxLook(name, 0, 1, 100, 1, NOW) for name in some])
            node.mailboxes.append(some[0], draft(send_id=str(random.random())))

    for call in [Call(lambda seed=seed: work(seed)) for seed in range(8)]:
        call.outcome()
    assert deadlocks(postgres) == before
    for name in names:
        seqs = [each.seq for each in nodes[1].mailboxes.read(name, 0, ALL, ALL).messages]
        assert seqs == list(range(1, len(seqs) + 1))


def deadlocks(engine: PostgresEngine) -> int:
    """Return how many it has told of: its statistics are told when a process has time."""
    return (engine.data.parent / "log").read_text().count("deadlock detected")


def test_a_lone_send_is_told_behind_its_commit_and_if_that_fails_by_the_thread_for_it(
    open_node: Open, store_url: str
) -> None:
    here, there = open_node(), open_node(reread_seconds=60.0)
    here.mailboxes.create("bob")
    wait_until(lambda: here._wakes.servers == 2, "the other server is heard")
    heard = threading.Semaphore(0)
    there.mailboxes.on_mail("bob", heard.release)
    by_thread: list[str] = []
    tell_news = here._wakes.tell_news

    def counted(news: News) -> None:
        by_thread.extend(news)
        tell_news(news)

    here._wakes.tell_news = counted  # type: ignore[method-assign]
    while heard.acquire(timeout=1.0):  # the first look at a mailbox wakes
        pass
    here.mailboxes.append("bob", draft("first"))
    assert heard.acquire(timeout=10)
    assert by_thread == []
    telling = here._wakes.telling_news
    refused = postgresql_link.Call("SELECT 1 / $1::bigint", 0)
    here._wakes.telling_news = lambda news: telling(news) and refused  # type: ignore[method-assign]
    here.mailboxes.append("bob", draft("second"))
    assert heard.acquire(timeout=10)
    assert by_thread == ["bob"]
    assert [each.body for each in there.mailboxes.read("bob", 0, ALL, ALL).messages] == [
        "first",
        "second",
    ]


def test_many_writes_are_few_commits_and_many_reads_few_statements(open_node: Open) -> None:
    store = open_node()
    names = [f"box{number}" for number in range(48)]
    for name in names:
        store.mailboxes.create(name)
    runs: list[int] = []
    lent = store._reading.run

    def counted(*calls: postgresql_link.Call) -> object:
        runs.append(len(calls))
        return lent(*calls)

    store._reading.run = counted  # type: ignore[method-assign, assignment]
    commits = counted_commits(store)
    for _ in range(3):
        for call in at_once(
            *(lambda name=name: store.mailboxes.append(name, draft()) for name in names)
        ):
            call.outcome()
    assert counted_commits(store) - commits <= 3 * len(names) / 4
    for call in at_once(
        *(lambda name=name: store.mailboxes.read(name, 0, 1, 100) for name in names)
    ):
        assert call.outcome().messages[0].seq == 1  # type: ignore[attr-defined]
    assert len(runs) <= len(names) / 2


def counted_commits(store: PostgresqlStore) -> int:
    """Return the last transaction's number: every commit that wrote took one."""
    (((number,),),) = store._working.run(
        postgresql_link.Call("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    )
    return int(number)


# --- wakes


def test_mail_wakes_the_other_server_soon(open_node: Open) -> None:
    here, there = open_node(), open_node()
    here.mailboxes.create("bob")
    woken = threading.Event()
    there.mailboxes.on_mail("bob", woken.set)
    wait_event(woken, "a mailbox that is looked at for the first time is woken")
    waits = []
    for _ in range(5):
        woken.clear()
        began = time.monotonic()
        here.mailboxes.append("bob", draft())
        wait_event(woken, "it is woken")
        waits.append(time.monotonic() - began)
    assert min(waits) < 0.25, "no look every few seconds is what wakes it"


@pytest.mark.parametrize("what", ["mail", "drop"])
def test_a_notice_that_is_lost_costs_the_time_of_a_look(open_node: Open, what: str) -> None:
    here, there = open_node(), open_node(reread_seconds=0.2)
    here._wakes.tell_news = lambda _: None  # type: ignore[method-assign] # swallowed
    here._wakes.telling_news = lambda _: None  # type: ignore[method-assign]
    here.mailboxes.create("bob")
    woken = threading.Event()
    there.mailboxes.on_mail("bob", woken.set)
    wait_event(woken, "it is looked at for the first time")
    for _ in range(1 if what == "drop" else 3):
        woken.clear()
        if what == "mail":
            here.mailboxes.append("bob", draft())
        else:
            here.mailboxes.drop("bob")
        wait_event(woken, "it is woken without a notice", 3)
    woken.clear()
    assert not woken.wait(0.5), "and not when nothing has come"


def test_a_listening_connection_that_is_killed_is_made_again(
    open_node: Open, postgres: PostgresEngine
) -> None:
    here, there = open_node(), open_node()
    here.mailboxes.create("bob")
    woken = threading.Event()
    there.mailboxes.on_mail("bob", woken.set)
    wait_event(woken, "it is looked at for the first time")
    for _ in range(3):
        link = there._wakes._listening.link
        assert link is not None
        woken.clear()
        postgres.sql("SELECT pg_terminate_backend(%s)", link.backend)
        here.mailboxes.append("bob", draft())  # its notice finds nobody, or the next connection
        wait_event(woken, "it is looked at when there is a connection again", 2)
        wait_until(
            lambda link=link: (
                there._wakes._listening.link not in (None, link) and there._wakes.lease_holds
            ),
            "notices are heard again",
        )


def test_what_a_notifier_could_not_send_it_sends_later_and_says_so(
    open_node: Open, postgres: PostgresEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """An error that it passed over would leave two servers deaf to each other, unnoticed."""
    here, there = open_node(), open_node(reread_seconds=60)
    here.mailboxes.create("bob")
    woken = threading.Event()
    there.mailboxes.on_mail("bob", woken.set)
    assert here._wakes.node != there._wakes.node
    failures: list[postgresql_link.LinkLost] = []
    sends = here._wakes._send_all

    def send(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        sends(*arguments)

    here._wakes._send_all = send  # type: ignore[method-assign]
    here._wakes.telling_news = lambda _: None  # type: ignore[method-assign] # all by the notifier
    for what in ("the first", "a connection that is gone", "one that breaks"):
        link = here._wakes._sending.link
        if what == "one that breaks":
            failures.append(postgresql_link.LinkLost("broken", in_doubt=True))
        elif link is not None:
            postgres.sql("SELECT pg_terminate_backend(%s, 5000)", link.backend)
        woken.clear()
        here.mailboxes.append("bob", draft())
        wait_event(woken, f"it is told: {what}", 10)
        assert here._wakes._sending.link is not link
    # Of which of the two is told depends on who finds the first connection gone: one line is enough
    # for ten seconds.
    assert "notices wait to be sent: " in caplog.text


def test_a_server_whose_heartbeats_do_not_come_back_is_refused(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler that gives each transaction another connection: nobody listens."""
    execute = postgresql_link.Link.execute

    def pooled(self: postgresql_link.Link, sql: str, *values: object, **options: float) -> object:
        if sql.startswith("LISTEN"):
            sql = "SELECT 1"
        return execute(self, sql, *values, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(postgresql_link.Link, "execute", pooled)
    monkeypatch.setattr(postgresql_wakes, "_FIRST_BEAT_SECONDS", 0.5)
    with pytest.raises(StoreNotOpened, match="pooler in transaction mode"):
        PostgresqlStore.open(store_url)


def test_a_full_queue_of_notices_is_told(
    start_postgres: StartEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = start_postgres(max_notify_queue_pages=64)
    monkeypatch.setattr(postgresql_wakes, "_USAGE_SECONDS", 0.1)
    with (
        PostgresqlStore.open(engine.new_store_url()),
        psycopg.connect(engine.url(), autocommit=True) as idle,
        psycopg.connect(engine.url(), autocommit=True) as busy,
    ):
        idle.execute("LISTEN anything")
        idle.execute("BEGIN")
        for _ in range(12):  # of 8 KB, in a queue of 512
            busy.execute("SELECT pg_notify('anything', repeat('x', 7900))")
        wait_until(
            lambda: "queue of notices is full to" in caplog.text, "its operator is told of it"
        )


# --- what they agree on


def test_a_mailbox_of_no_account_is_left_to_whoever_may_be_making_it(
    open_node: Open, store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = open_node()
    first.mailboxes.create("making")
    first.mailboxes.create("made")
    first.accounts.create(account("made", "made"))
    second = open_node()
    wait_until(lambda: second._chores._looked == 0, "it has looked")
    done = threading.Event()
    second._chores._work.wake()
    assert not done.wait(0.3)
    assert first.mailboxes.standing("making")
    for store in (first, second):
        store.close()
    caplog.set_level(logging.INFO)
    third = open_node()
    wait_until(lambda: "1 mailboxes of no account were dropped" in caplog.text, "it goes")
    assert run(store_url, "SELECT account_id FROM mailboxes") == [("made",)]
    assert third.mailboxes.standing("made")


def test_the_policy_is_the_one_of_the_servers_that_are_there(store_url: str) -> None:
    days, weeks = MailboxPolicy(history_days=1), MailboxPolicy(history_days=14)
    with PostgresqlStore.open(store_url, days):
        with pytest.raises(StoreNotOpened, match="another policy"):
            PostgresqlStore.open(store_url, weeks)
        PostgresqlStore.open(store_url, days).close()
    PostgresqlStore.open(store_url, weeks).close()


def test_a_server_has_ten_connections_at_most(open_node: Open, postgres: PostgresEngine) -> None:
    store = open_node()
    numbers = count()

    def work() -> None:
        for _ in range(10):
            name = f"box{next(numbers)}"
            store.mailboxes.create(name)
            store.mailboxes.on_mail(name, lambda: None)
            store.mailboxes.append(name, draft())
            store.mailboxes.history(name, None, 10, 100, NOW)
            store.accounts.find(name)
            store.mailboxes.read(name, 0, 10, 100)

    threads = [threading.Thread(target=work) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        join(thread)
    work()  # the main thread has one to itself
    name = store.target.parameters["dbname"]
    ((connections,),) = postgres.sql(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = %s", name
    )
    assert 4 <= connections <= 10
