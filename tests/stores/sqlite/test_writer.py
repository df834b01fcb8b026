"""The writer of the SQLite store: one commit for all that wait, and what it does when it fails."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlite_faults import Faults
from store_samples import account, draft, key, session
from waiting import join, wait_event, wait_until

from twinline.core.errors import MailboxFull, NoSuchUser, StoreUnavailable
from twinline.core.store import Accepted, MailboxPolicy, Standing
from twinline.core.waiting import deferred_wakes, wake_deferred
from twinline.stores.sql.writes import Request
from twinline.stores.sqlite import SqliteStore
from twinline.stores.sqlite import writer as sqlite_writer
from twinline.stores.sqlite.mailboxes import _Append
from twinline.stores.sqlite.writer import Transaction

ALL = 10**9


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def store(tmp_path: Path, faults: Faults) -> Iterator[SqliteStore]:
    with SqliteStore(
        tmp_path / "s.db", MailboxPolicy(mailbox_messages=100), factory=faults.factory
    ) as store:
        store.mailboxes.create("bob")
        yield store
        faults.before = lambda _word: None


Call = Callable[[], object]


class Calls:
    """Calls that run at once, each in its thread."""

    def __init__(self, *calls: Callable[[], object]) -> None:
        self.results: list[object] = [None] * len(calls)
        self.threads = [
            threading.Thread(target=self.run, args=(index, call), daemon=True)
            for index, call in enumerate(calls)
        ]
        for thread in self.threads:
            thread.start()

    def run(self, index: int, call: Callable[[], object]) -> None:
        try:
            self.results[index] = call()
        except Exception as error:
            self.results[index] = error

    def outcome(self) -> list[object]:
        for thread in self.threads:
            join(thread)
        return self.results


def bodies(store: SqliteStore) -> list[str]:
    return [message.body for message in store.mailboxes.read("bob", 0, ALL, ALL).messages]


def send(store: SqliteStore, body: str, **more: Any) -> Callable[[], Accepted]:
    return lambda: store.mailboxes.append("bob", draft(body, **more))


def waiting(store: SqliteStore, count: int) -> None:
    wait_until(lambda: len(store._writer._waiting) == count, f"{count} writes wait")


# --- group commit


def test_sixty_four_that_wait_are_one_commit(store: SqliteStore, faults: Faults) -> None:
    gate = faults.stop_at("COMMIT")
    first = Calls(send(store, "first"))
    wait_event(gate.reached, "the first commit begins")
    others = Calls(*(send(store, f"{number}") for number in range(64)))
    waiting(store, 64)
    before = faults.commits
    gate.let_go.set()
    assert all(isinstance(result, Accepted) for result in first.outcome() + others.outcome())
    assert faults.commits - before == 2
    assert len(bodies(store)) == 65
    assert store.mailboxes.standing("bob") == Standing(0, 65)


def test_the_watchers_of_a_message_are_woken_by_its_sender_after_its_reply(
    store: SqliteStore,
) -> None:
    """So one message to many watchers holds up nobody else who writes."""
    woken_by: list[str] = []
    store.mailboxes.on_mail("bob", lambda: woken_by.append(threading.current_thread().name))
    send(store, "at once")()
    assert woken_by == [threading.current_thread().name]
    with deferred_wakes() as deferred:
        send(store, "after the reply")()
        assert len(woken_by) == 1
        wake_deferred(deferred)
        assert len(woken_by) == 2


WAKING: dict[str, Callable[[SqliteStore], object]] = {
    "send": lambda store: store.mailboxes.append("bob", draft()),
    "drop": lambda store: store.mailboxes.drop("bob"),
    "close": lambda store: store.accounts.close_session(key("ann's")),
    "password": lambda store: store.accounts.change_password(
        "id-ann", "$argon2id$new", instead_of="$argon2id$old", keep=b"another"
    ),
    "withdraw": lambda store: store.accounts.withdraw("id-ann", keep_name=True),
    "one more": lambda store: store.accounts.open_session(session("one more"), most=1),
}


@pytest.fixture(params=WAKING)
def waking(store: SqliteStore, request: pytest.FixtureRequest) -> tuple[Call, list[str]]:
    """Return a call that wakes somebody, and where the names of the threads that wake go."""
    woken_by: list[str] = []

    def wake() -> None:
        woken_by.append(threading.current_thread().name)

    store.accounts.create(account("ann"))
    store.accounts.open_session(session("ann's"))
    store.mailboxes.on_mail("bob", wake)
    store.accounts.on_session_end(key("ann's"), wake)
    return partial(WAKING[request.param], store), woken_by


def test_whoever_a_write_wakes_is_woken_by_the_thread_that_asked_for_it(
    waking: tuple[Call, list[str]],
) -> None:
    """All that write wait for the writer's thread, so it wakes nobody."""
    call, woken_by = waking
    call()
    assert woken_by == [threading.current_thread().name]


def test_a_thread_that_waits_no_more_leaves_its_wakes_to_the_writer(
    store: SqliteStore,
    faults: Faults,
    waking: tuple[Call, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call, woken_by = waking
    monkeypatch.setattr(store._writer, "do", partial(store._writer.do, seconds=0.05))
    gate = faults.stop_at("COMMIT")
    with pytest.raises(StoreUnavailable):
        call()
    assert woken_by == []
    gate.let_go.set()
    wait_until(lambda: woken_by, "a wake for what was committed")
    assert woken_by == ["sqlite writer"]


def test_a_thread_that_gives_up_when_its_write_is_committed_wakes_all_the_same(
    store: SqliteStore, waking: tuple[Call, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    call, woken_by = waking
    outcome = store._writer._outcome

    def gives_up(request: Request, seconds: float) -> object:
        outcome(request, seconds)
        raise StoreUnavailable

    monkeypatch.setattr(store._writer, "_outcome", gives_up)
    with pytest.raises(StoreUnavailable):
        call()
    assert woken_by == [threading.current_thread().name]


def test_one_that_is_refused_does_not_spoil_the_others(store: SqliteStore, faults: Faults) -> None:
    gate = faults.stop_at("COMMIT")
    first = Calls(send(store, "first"))
    wait_event(gate.reached, "the first commit begins")
    calls: list[Callable[[], object]] = [send(store, f"{number}") for number in range(110)]
    calls[50] = lambda: store.mailboxes.append("nobody", draft())
    calls[51] = lambda: store.mailboxes.create("bob")
    calls[52] = lambda: store.accounts.open_session(session("one"))
    others = Calls(*calls)
    waiting(store, 110)
    gate.let_go.set()
    kinds = [type(result) for result in first.outcome() + others.outcome()]
    assert (kinds.count(Accepted), kinds.count(MailboxFull)) == (100, 8)
    assert (kinds.count(NoSuchUser), kinds.count(ValueError)) == (2, 1)
    assert store.mailboxes.standing("bob") == Standing(0, 100)


def test_a_mailbox_that_is_dropped_in_the_transaction_of_its_mail_stays_gone(
    store: SqliteStore, faults: Faults
) -> None:
    gate = faults.stop_at("COMMIT")
    first = Calls(send(store, "first"))
    wait_event(gate.reached, "the first commit begins")
    sending = Calls(send(store, "second"))
    waiting(store, 1)
    dropping = Calls(lambda: store.mailboxes.drop("bob"))
    waiting(store, 2)
    gate.let_go.set()
    outcomes = first.outcome() + sending.outcome() + dropping.outcome()
    assert [type(each) for each in outcomes] == [Accepted, Accepted, type(None)]
    with pytest.raises(NoSuchUser):
        store.mailboxes.standing("bob")
    store.mailboxes.create("bob")
    assert bodies(store) == []


def test_a_write_that_fails_half_way_is_undone_alone(store: SqliteStore, faults: Faults) -> None:
    gate = faults.stop_at("COMMIT")
    first = Calls(send(store, "first"))
    wait_event(gate.reached, "the first commit begins")

    def half(transaction: Transaction) -> None:
        transaction.connection.execute("INSERT INTO reserved_names VALUES ('half')")
        raise RuntimeError("a bug")

    calls = Calls(send(store, "before"), lambda: store._writer.do(half), send(store, "after"))
    waiting(store, 3)
    gate.let_go.set()
    results = first.outcome() + calls.outcome()
    assert [type(result) for result in results] == [Accepted, Accepted, RuntimeError, Accepted]
    assert store.accounts.is_free("half")
    assert sorted(bodies(store)) == ["after", "before", "first"]


def test_a_statement_that_breaks_a_constraint_is_the_callers_bug(store: SqliteStore) -> None:
    def twice(transaction: Transaction) -> None:
        for _ in range(2):
            transaction.connection.execute("INSERT INTO reserved_names VALUES ('twice')")

    with pytest.raises(sqlite3.IntegrityError):
        store._writer.do(twice)
    assert store.accounts.is_free("twice")
    send(store, "goes on")()


def test_no_call_returns_and_no_watch_wakes_before_the_commit(
    store: SqliteStore, faults: Faults
) -> None:
    woken = threading.Event()
    store.mailboxes.on_mail("bob", woken.set)
    gate = faults.stop_at("COMMIT")
    sending = Calls(send(store, "hello"))
    wait_event(gate.reached, "the commit begins")
    assert not woken.is_set()
    assert sending.results == [None]
    assert bodies(store) == []
    gate.let_go.set()
    assert isinstance(sending.outcome()[0], Accepted)
    wait_event(woken, "bob is woken")


def test_a_wake_that_raises_ends_nothing(
    store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("a bug")

    store.mailboxes.on_mail("bob", broken)
    send(store, "hello")()
    assert "a wake raised" in caplog.text
    assert bodies(store) == ["hello"]


# --- readers do not wait


def test_readers_do_not_wait_for_a_transaction(store: SqliteStore, faults: Faults) -> None:
    store.accounts.create(account("ann"))
    store.accounts.open_session(session("one"))
    send(store, "there")()
    gate = faults.stop_at("COMMIT")
    sending = Calls(send(store, "coming"))
    wait_event(gate.reached, "the commit begins")
    reading = Calls(
        lambda: bodies(store),
        lambda: store.mailboxes.standing("bob").unread,
        lambda: len(store.mailboxes.history("bob", None, 10, ALL, 1).messages),
        lambda: store.accounts.find_session(key("one")) is not None,
        lambda: store.accounts.is_free("ann"),
    )
    assert reading.outcome() == [["there"], 1, 1, True, False]
    assert sending.results == [None]
    gate.let_go.set()
    sending.outcome()


# --- errors


@pytest.mark.parametrize("word", ["BEGIN", "INSERT", "COMMIT"])
def test_what_fails_is_not_acknowledged_and_leaves_nothing(
    store: SqliteStore, faults: Faults, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    woken: list[int] = []
    store.mailboxes.on_mail("bob", lambda: woken.append(1))
    send(store, "before")()
    faults.fail(word)
    with pytest.raises(StoreUnavailable) as caught:
        send(store, "lost", send_id="x")()
    assert caught.value.retryable
    # It has reopened by now: the same send succeeds, and it is the first of its send_id.
    send(store, "after", send_id="x")()
    page = store.mailboxes.read("bob", 0, ALL, ALL)
    assert [(m.seq, m.body) for m in page.messages] == [(1, "before"), (2, "after")]
    assert woken == [1, 1]
    assert "disk I/O error" in caplog.text
    assert "can be written again" in caplog.text


def test_all_of_a_transaction_that_fails_are_refused(store: SqliteStore, faults: Faults) -> None:
    gate = faults.stop_at("COMMIT")
    first = Calls(send(store, "first"))
    wait_event(gate.reached, "the first commit begins")
    others = Calls(*(send(store, f"{number}") for number in range(20)))
    waiting(store, 20)
    faults.fail("COMMIT")
    gate.let_go.set()
    assert isinstance(first.outcome()[0], Accepted)
    assert [type(result) for result in others.outcome()] == [StoreUnavailable] * 20
    assert bodies(store) == ["first"]


def test_a_failed_commit_is_overwritten_before_anyone_is_told(
    store: SqliteStore, faults: Faults
) -> None:
    """If only the sync failed, the log holds all of it: a crash must not bring it back."""
    told: list[str] = []
    send(store, "before")()  # the row that the trial writes has marked the log by now
    faults.fail("COMMIT")
    inner = faults.before

    def before(word: str) -> None:
        if word == "UPDATE":
            told.append("trial")
        inner(word)

    faults.before = before
    with pytest.raises(StoreUnavailable):
        send(store, "lost")()
    told.append("sender")
    assert told == ["trial", "sender"]


def test_while_the_trial_fails_writes_are_refused_at_once_and_reads_go_on(
    store: SqliteStore, faults: Faults
) -> None:
    send(store, "there")()
    gone = threading.Event()

    def before(word: str) -> None:
        if word in {"COMMIT", "UPDATE"} and not gone.is_set():
            raise sqlite3.OperationalError("database or disk is full")

    faults.before = before
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            send(store, "lost")()
    assert bodies(store) == ["there"]
    store.accounts.touch_session(key("one"), 5)  # a note that cannot be made fails nothing
    gone.set()

    def again() -> bool:
        try:
            send(store, "again")()
        except StoreUnavailable:
            return False
        return True

    wait_until(again, "sends succeed again", 2)
    assert bodies(store) == ["there", "again"]


def test_a_history_that_ages_is_read_although_nothing_can_be_written(
    store: SqliteStore, faults: Faults
) -> None:
    send(store, "old")()
    store.mailboxes.ack("bob", 1, now=1)
    faults.fail("COMMIT", times=ALL)
    month = 31 * 24 * 60 * 60 * 1000
    assert store.mailboxes.history("bob", None, 10, ALL, month).messages == ()


def test_a_disk_that_is_full_refuses_sends_keeps_reads_and_recovers(
    tmp_path: Path, faults: Faults
) -> None:
    room = {"pages": 60}

    class Small(faults.factory):  # type: ignore[name-defined,misc]
        def execute(self, text: str, *values: Any) -> sqlite3.Cursor:
            if text.startswith("BEGIN IMMEDIATE"):
                super().execute(f"PRAGMA max_page_count = {room['pages']}")
            return super().execute(text, *values)

    with SqliteStore(
        tmp_path / "s.db", MailboxPolicy(mailbox_messages=ALL), factory=Small
    ) as store:
        store.mailboxes.create("bob")
        stored = []

        def fill() -> None:
            while True:
                body = f"{len(stored)}" + "x" * 3000
                store.mailboxes.append("bob", draft(body))
                stored.append(body)

        with pytest.raises(StoreUnavailable):
            fill()
        assert stored
        assert bodies(store) == stored
        room["pages"] = 1000

        def again() -> bool:
            try:
                store.mailboxes.append("bob", draft("again"))
            except StoreUnavailable:
                return False
            return True

        wait_until(again, "sends succeed again", 2)
        assert bodies(store) == [*stored, "again"]
    with SqliteStore(tmp_path / "s.db") as store:
        assert bodies(store) == [*stored, "again"]


def test_a_write_that_waits_too_long_is_withdrawn(store: SqliteStore, faults: Faults) -> None:
    gate = faults.stop_at("COMMIT")
    first = Calls(send(store, "first"))
    wait_event(gate.reached, "the first commit begins")
    with pytest.raises(StoreUnavailable, match="in time"):
        store._writer.do(lambda _transaction: pytest.fail("it was withdrawn"), 0.01)
    gate.let_go.set()
    first.outcome()
    send(store, "second")()


def test_one_that_was_begun_may_be_committed_all_the_same(
    store: SqliteStore, faults: Faults
) -> None:
    gate = faults.stop_at("COMMIT")

    def reserve(transaction: Transaction) -> None:
        transaction.connection.execute("INSERT INTO reserved_names VALUES ('zoe')")

    trying = Calls(lambda: store._writer.do(reserve, 0.05))
    wait_event(gate.reached, "the commit begins")
    assert isinstance(trying.outcome()[0], StoreUnavailable)
    gate.let_go.set()
    wait_until(lambda: not store.accounts.is_free("zoe"), "it is committed")


def test_those_behind_one_that_gave_up_are_notified(store: SqliteStore, faults: Faults) -> None:
    gate = faults.stop_at("COMMIT")
    first = Calls(send(store, "first"))
    wait_event(gate.reached, "the first commit begins")
    calls = []
    for number in range(9):
        # Each third gives up while its transaction is committed.
        write = draft(f"{number}")
        seconds = 0.2 if number % 3 == 1 else 30
        append = _Append(store.mailboxes, "bob", write)
        calls.append(
            Calls(lambda append=append, seconds=seconds: store._writer.do(append, seconds))  # type: ignore[misc]
        )
        waiting(store, number + 1)
    second = faults.stop_at("COMMIT")
    gate.let_go.set()
    wait_event(second.reached, "the second commit begins")
    gave_up = [call.outcome()[0] for call in calls[1::3]]
    assert [type(each) for each in gave_up] == [StoreUnavailable] * 3
    second.let_go.set()
    told = [call.outcome()[0] for call in calls if call not in calls[1::3]]
    assert [type(each) for each in told] == [Accepted] * 6
    assert isinstance(first.outcome()[0], Accepted)
    assert len(bodies(store)) == 10


def test_one_that_is_notified_in_the_moment_that_it_gives_up_notifies_the_next(
    store: SqliteStore,
) -> None:
    leaving, following = (Request(lambda _: None, notifies=True) for _ in range(2))
    following.value = "told"
    leaving.next = following
    store._writer._notify(leaving)
    assert following.outcome.empty()
    store._writer._abandon(leaving)
    assert following.outcome.get(timeout=1) == "told"


# --- closing


def test_what_waits_is_made_before_the_store_closes(tmp_path: Path, faults: Faults) -> None:
    store = SqliteStore(tmp_path / "s.db", factory=faults.factory)
    store.mailboxes.create("bob")
    gate = faults.stop_at("COMMIT")
    first = Calls(send(store, "first"))
    wait_event(gate.reached, "the first commit begins")
    others = Calls(*(send(store, f"{number}") for number in range(5)))
    waiting(store, 5)
    closing = Calls(store.close)
    wait_until(lambda: store._writer._closed, "closing begins")
    with pytest.raises(StoreUnavailable):
        send(store, "too late")()
    gate.let_go.set()
    assert all(isinstance(result, Accepted) for result in first.outcome() + others.outcome())
    assert closing.outcome() == [None]
    for call in (lambda: bodies(store), send(store, "too late")):
        with pytest.raises(StoreUnavailable):
            call()
    store.close()
    with SqliteStore(tmp_path / "s.db") as again:
        assert len(bodies(again)) == 6


def test_closing_while_nothing_can_be_written_ends(tmp_path: Path, faults: Faults) -> None:
    store = SqliteStore(tmp_path / "s.db", factory=faults.factory)
    store.mailboxes.create("bob")

    def before(word: str) -> None:
        if word in {"COMMIT", "UPDATE", "PRAGMA"}:
            raise sqlite3.OperationalError("disk I/O error")

    faults.before = before
    with pytest.raises(StoreUnavailable):
        send(store, "lost")()
    store.close()
    assert not store._writer._thread.is_alive()
    SqliteStore(tmp_path / "s.db").close()


def test_the_log_goes_into_the_database_when_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writer, "_IDLE_SECONDS", 0.02)
    with SqliteStore(tmp_path / "s.db") as store:
        store.mailboxes.create("bob")
        log = tmp_path / "s.db-wal"
        wait_until(lambda: log.stat().st_size == 0, "the log is empty")
        send(store, "hello")()
        wait_until(lambda: log.stat().st_size == 0, "the log is empty again")
        # A reader elsewhere that is in the middle of something delays no write.
        other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
        other.execute("BEGIN")
        other.execute("SELECT * FROM messages").fetchall()
        send(store, "hello again")()
        wait_until(lambda: not store._writer._waiting, "the writer is idle")
        send(store, "and again")()
        other.close()
        wait_until(lambda: log.stat().st_size == 0, "the log is empty at last")
        assert len(bodies(store)) == 3
