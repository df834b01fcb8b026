"""What becomes of calls while the database fails, and what is never acknowledged."""

import threading
import time
from contextlib import closing
from itertools import count
from typing import Any

import psycopg
import pytest
from postgres_engine import PostgresEngine, StartEngine
from postgres_stores import run
from store_samples import ALL, draft
from waiting import Call, wait_until

from twinline.core.errors import StoreUnavailable
from twinline.core.store import SEQ_JUMP, Accepted, Durability, MailboxLook
from twinline.stores.postgresql import PostgresqlStore, parse_url
from twinline.stores.postgresql import condition as postgresql_condition
from twinline.stores.postgresql.database import Database, Pool
from twinline.stores.postgresql.link import CALL_SECONDS, Link
from twinline.stores.postgresql.link import Call as Statement

NOW = 1_767_225_600_000


def bodies(store: PostgresqlStore) -> list[str]:
    return [each.body for each in store.mailboxes.read("bob", 0, ALL, ALL).messages]


def sent(store: PostgresqlStore, body: str, seconds: float = 30.0) -> Accepted:
    """Send until it is acknowledged, as a client does."""
    until = time.monotonic() + seconds
    while True:
        try:
            return store.mailboxes.append("bob", draft(body, send_id=body))
        except StoreUnavailable:
            if time.monotonic() >= until:
                raise
            threading.Event().wait(0.02)


def test_a_process_is_known_by_the_number_that_the_database_has_for_it(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pooler gives its clients numbers of its own; what is in doubt is ended by this one."""
    made = Link.__init__

    def through_a_pooler(link: Link, connection: "psycopg.Connection[Any]") -> None:
        made(link, connection)
        link.backend = -1

    monkeypatch.setattr(Link, "__init__", through_a_pooler)
    with closing(Database(parse_url(store_url)).open()) as link:
        assert link.execute("SELECT pg_backend_pid()::bigint") == [(link.backend,)]


@pytest.mark.parametrize("end", ["pg_cancel_backend", "pg_terminate_backend"])
def test_a_wait_for_the_standby_that_is_cut_short_is_in_doubt(
    end: str, start_postgres: StartEngine
) -> None:
    """It has no send_id: were it sent once more, it would be there twice."""
    engine = start_postgres()
    with PostgresqlStore.open(engine.new_store_url()) as store:
        store.mailboxes.create("bob")
        engine.set(synchronous_standby_names="nobody")
        send = Call(lambda: store.mailboxes.append("bob", draft("unconfirmed")))
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        wait_until(lambda: engine.sql(waiting), "it waits for the standby")
        ((pid,),) = engine.sql(waiting)
        engine.sql(f"SELECT {end}(%s)", pid)
        with pytest.raises(StoreUnavailable) as caught:
            send.outcome()
        assert caught.value.in_doubt
        engine.set(synchronous_standby_names="")
        wait_until(lambda: store.health().durability is Durability.DISK, "it is read back")
        assert bodies(store) == ["unconfirmed"], "PostgreSQL has it, on one machine"
        sent(store, "another")
        assert bodies(store) == ["unconfirmed", "another"]


def test_a_notice_that_cannot_be_sent_behind_a_commit_leaves_the_commit_alone(
    store_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Were it made once more, it would be there twice: it has no send_id."""
    with PostgresqlStore.open(store_url) as store:
        store.mailboxes.create("bob")

        def fails(_: object) -> None:
            raise UnicodeError("not to be written")

        monkeypatch.setattr(store._wakes, "telling_news", fails)
        store.mailboxes.append("bob", draft("once"))
        assert bodies(store) == ["once"]
    assert "no notice was sent behind a commit" in caplog.text


def test_below_what_is_asked_for_no_write_is_taken(
    start_postgres: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start_postgres()
    with PostgresqlStore.open(engine.new_store_url() + "&durability=disk") as store:
        assert store.durability is Durability.DISK
        store.mailboxes.create("bob")
        sent(store, "kept")
        engine.set(synchronous_commit="off")
        wait_until(lambda: store.durability is Durability.PROCESS or send_fails(store), "it sees")
        with pytest.raises(StoreUnavailable, match=r"promises 'process'.*'disk' is asked for"):
            store.mailboxes.append("bob", draft("lost"))
        with pytest.raises(StoreUnavailable, match="refuses writes"):
            store.health()
        assert store.durability is Durability.PROCESS
        assert bodies(store)[0] == "kept", "reads go on"
        engine.set(synchronous_commit=None)
        sent(store, "taken again")
        assert bodies(store)[-1] == "taken again"
        assert "lost" not in bodies(store)


def send_fails(store: PostgresqlStore) -> bool:
    try:
        store.mailboxes.append("bob", draft("before it was seen"))
    except StoreUnavailable:
        return True
    return False


def test_after_a_failover_seqs_jump_and_what_is_promised_is_read_anew(
    start_postgres: StartEngine,
) -> None:
    primary = start_postgres()
    with closing(primary.standby(synchronous=True)) as standby:
        fail_over(primary, standby)


def fail_over(primary: PostgresEngine, standby: PostgresEngine) -> None:
    database = primary.new_database()
    url = primary.url(database, standby) + "&durability=replicated"
    with PostgresqlStore.open(url) as store:
        assert store.durability is Durability.REPLICATED
        epoch = store.health().epoch
        store.mailboxes.create("bob")
        for number in range(3):
            sent(store, f"m{number}")
        primary.kill()
        standby.promote()
        # What the new primary promises is read when it is first reached, however soon that is.
        store._lane._settings_at = float("inf")
        with pytest.raises(StoreUnavailable):
            sent(store, "without a standby", seconds=3)
        assert store.durability is Durability.DISK, "the new primary has no standby"
        assert bodies(store) == ["m0", "m1", "m2"]
        standby.set(synchronous_standby_names="")
    with PostgresqlStore.open(primary.url(database, standby)) as store:
        assert store.health().epoch != epoch
        # A reader that saw more than was kept: nothing new yet, and no error.
        assert store.mailboxes.look(MailboxLook("bob", 9, 5, ALL, None, NOW)).messages == ()
        assert store.mailboxes.look(MailboxLook("bob", 9, 5, ALL, 9, NOW)).messages == ()
        sent(store, "new")
        (new,) = store.mailboxes.read("bob", 9, 5, ALL).messages
        assert new.body == "new"
        assert new.seq > SEQ_JUMP


def test_a_database_that_stands_still_holds_no_call_for_long(start_postgres: StartEngine) -> None:
    engine = start_postgres()
    with PostgresqlStore.open(engine.new_store_url()) as store:
        store.mailboxes.create("bob")
        sent(store, "before")
        engine.pause()
        try:
            calls = [
                Call(lambda: store.mailboxes.append("bob", draft("while", send_id="while"))),
                Call(lambda: store.mailboxes.read("bob", 0, 1, 100)),
                Call(lambda: store.accounts.find("bob")),
                Call(store.health),
            ]
            began = time.monotonic()
            for call in calls:
                with pytest.raises(StoreUnavailable):
                    call.outcome()
            assert time.monotonic() - began < 2 * CALL_SECONDS
            assert not store._wakes.lease_holds
        finally:
            engine.go_on()
        sent(store, "while")
        sent(store, "after")
        wait_until(lambda: store._wakes.lease_holds, "notices are heard again")
        assert bodies(store) == ["before", "while", "after"]


def test_connections_that_are_killed_under_load_lose_and_repeat_nothing(
    postgres: PostgresEngine, store_url: str
) -> None:
    with PostgresqlStore.open(store_url) as store:
        store.mailboxes.create("bob")
        numbers = count()
        over = threading.Event()

        def send() -> list[str]:
            mine = []
            while not over.is_set():
                mine.append(sent(store, str(next(numbers))).message_id)
            return mine

        senders = [Call(send) for _ in range(8)]
        for _ in range(8):
            postgres.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                store.target.parameters["dbname"],
            )
            over.wait(0.1)
        over.set()
        receipts = [each for sender in senders for each in sender.outcome()]
        stored = store.mailboxes.read("bob", 0, ALL, ALL).messages
        assert sorted(each.message_id for each in stored) == sorted(receipts)
        assert len({each.body for each in stored}) == len(stored) == next(numbers)


def test_a_write_in_doubt_is_over_before_another_is_made(
    postgres: PostgresEngine, store_url: str
) -> None:
    """The process that has the first was stopped before it could read it, and goes on later."""
    with PostgresqlStore.open(store_url) as store:
        run(store_url, "CREATE TABLE marks (number bigint)")

        pool = Pool(store._database, 1, writes=True)

        def mark(number: int) -> None:
            pool.run(Statement("INSERT INTO marks VALUES ($1::bigint)", number))

        def mark_until_done(number: int) -> None:
            until = time.monotonic() + 30
            while True:
                try:
                    return mark(number)
                except StoreUnavailable:
                    assert time.monotonic() < until

        Call(lambda: mark(0)).outcome()
        link = pool._free.get()
        assert link is not None
        pool._free.put(link)
        with postgres.paused(f"pid = {link.backend}"):
            with pytest.raises(StoreUnavailable) as caught:
                Call(lambda: mark(1)).outcome()
            assert caught.value.in_doubt
            later = Call(lambda: mark_until_done(2))
            threading.Event().wait(0.5)  # what does not wait for the first has time to go ahead
        later.outcome()
        wait_until(
            lambda: not postgres.sql("SELECT 1 FROM pg_stat_activity WHERE pid = %s", link.backend),
            "the process has ended",
        )
        numbers = [number for (number,) in run(store_url, "SELECT number FROM marks ORDER BY ctid")]
        assert numbers in ([0, 2], [0, 1, 2])
        pool.close()


@pytest.mark.parametrize(
    ("offset", "refused"), [(0.0, False), (-40.0, True), (40.0, True), (3.0, False)]
)
def test_a_server_in_another_time_writes_nothing(
    store_url: str, offset: float, refused: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def clock() -> float:
        return postgresql_condition.wall_clock() + offset

    target = PostgresqlStore.open(store_url)
    target.close()
    with PostgresqlStore(target.target, clock=clock) as store:
        assert ("clock is" in caplog.text) is (offset != 0)
        if refused:
            with pytest.raises(StoreUnavailable, match="clock"):
                store.mailboxes.create("bob")
        else:
            store.mailboxes.create("bob")
            assert store.health().clock_offset_ms == pytest.approx(offset * 1000, abs=500)


def test_a_database_that_cannot_be_reached_says_so_without_a_password() -> None:
    with pytest.raises(Exception, match="cannot be opened as a store") as caught:
        PostgresqlStore.open("postgresql://ann:hunter2@127.0.0.1:1/chat")
    assert "hunter2" not in str(caught.value)
    assert isinstance(caught.value.__cause__, psycopg.Error)
