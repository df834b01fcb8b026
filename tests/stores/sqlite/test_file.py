"""The SQLite store's file: what survives, who may open it, and from which version."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from store_samples import account, draft, key, session
from waiting import Call, join, wait_event

from twinline.core.errors import NoSuchUser, SendIdConflict, StoreUnavailable, UsernameTaken
from twinline.core.names import NamePattern
from twinline.core.store import Durability, MailboxPolicy, Standing
from twinline.stores.registry import open_store
from twinline.stores.shared.opening import StoreNotOpened
from twinline.stores.sqlite import SqliteStore, parse_url
from twinline.stores.sqlite import readers as sqlite_readers
from twinline.stores.sqlite.cache import ReadThroughCache
from twinline.stores.sqlite.file import APPLICATION_ID, StoreFile, Synchronous
from twinline.stores.sqlite.schema import VERSION
from twinline.stores.sqlite.upkeep import check

ALL = 10**9
HOUR = 60 * 60 * 1000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


def pragma(path: Path, name: str) -> object:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]


# --- what survives


def test_everything_survives_a_restart(path: Path) -> None:
    policy = MailboxPolicy(history_messages=2, history_days=1, send_id_hours=2)
    with SqliteStore(path, policy) as store:
        for name in ("ann", "bob", "zoe"):
            store.accounts.create(account(name))
            store.mailboxes.create(f"id-{name}")
        store.accounts.open_session(session("one"))
        store.accounts.touch_session(key("one"), 77)
        store.accounts.set_password_hash("id-bob", "$argon2id$new", instead_of="$argon2id$old")
        store.accounts.withdraw("id-zoe", keep_name=True)
        first = store.mailboxes.append("id-bob", draft("m1", send_id="x", sent_at=HOUR))
        for number in range(2, 7):
            store.mailboxes.append("id-bob", draft(f"m{number}", sent_at=HOUR))
        store.mailboxes.ack("id-bob", 4, now=2 * HOUR)
        store.mailboxes.delete("id-bob", [5, 6])
        store.mailboxes.append("id-ann", draft("half \ud800 of a pair\0", sent_at=HOUR))
        store.mailboxes.drop("id-zoe")
    with SqliteStore(path, policy) as store:
        assert store.accounts.find("ann") == account("ann")
        assert store.accounts.find("bob").password_hash == "$argon2id$new"
        assert store.accounts.find("zoe") is None
        assert not store.accounts.is_free("zoe")
        with pytest.raises(UsernameTaken):
            store.accounts.create(account("zoe", "another"))
        assert store.accounts.page(NamePattern("*"), None, 9).usernames == ("ann", "bob")
        assert store.accounts.find_session(key("one")).used_at == 77
        assert store.mailboxes.standing("id-bob") == Standing(4, 0)
        kept = store.mailboxes.history("id-bob", None, 9, ALL, 2 * HOUR).messages
        assert [(m.seq, m.body) for m in kept] == [(3, "m3"), (4, "m4")]
        assert store.mailboxes.append("id-bob", draft("m1", send_id="x", sent_at=2 * HOUR)) == first
        with pytest.raises(SendIdConflict):
            store.mailboxes.append("id-bob", draft("other", send_id="x", sent_at=2 * HOUR))
        # No seq comes twice, though the last ones are gone.
        store.mailboxes.append("id-bob", draft("m7", sent_at=2 * HOUR))
        assert store.mailboxes.read("id-bob", 4, 9, ALL).messages[0].seq == 7
        # Its age is counted from the ack.
        assert [
            m.seq for m in store.mailboxes.history("id-bob", None, 9, ALL, 26 * HOUR).messages
        ] == [7]
        assert (
            store.mailboxes.read("id-ann", 0, 9, ALL).messages[0].body == "half \ud800 of a pair\0"
        )
        with pytest.raises(NoSuchUser):
            store.mailboxes.standing("id-zoe")
    assert check(path).faults == []


def test_a_mailbox_is_swept_after_a_restart(path: Path) -> None:
    with SqliteStore(path) as store:
        store.mailboxes.create("bob")
        store.mailboxes.append("bob", draft())
        store._writer.post = lambda _write: None  # type: ignore[method-assign]  # it ends too soon
        store.mailboxes.drop("bob")
    assert check(path).notes == ["1 dropped mailboxes that the next server will sweep"]
    SqliteStore(path).close()
    assert check(path).notes == []
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM messages").fetchone() == (0,)


def test_a_policy_that_keeps_for_a_century(path: Path) -> None:
    century = 36_500 * 24 * HOUR
    policy = MailboxPolicy(history_days=36_500, send_id_hours=36_500 * 24)
    with SqliteStore(path, policy) as store:
        store.mailboxes.create("bob")
        first = store.mailboxes.append("bob", draft(send_id="x", sent_at=1))
        store.mailboxes.ack("bob", 1, now=1)
        assert store.mailboxes.history("bob", None, 9, ALL, century).messages
        assert store.mailboxes.append("bob", draft(send_id="x", sent_at=century)) == first


# --- how it is opened


@pytest.mark.parametrize(
    ("option", "durability", "level"),
    [
        ("", Durability.DISK, 2),
        ("?synchronous=full", Durability.DISK, 2),
        ("?synchronous=normal", Durability.PROCESS, 1),
    ],
)
def test_the_settings_are_those_that_the_durability_needs(
    path: Path, option: str, durability: Durability, level: int
) -> None:
    with open_store(f"sqlite:{path}{option}") as store:
        assert isinstance(store, SqliteStore)
        assert store.durability is durability
        # Asked in the writer's thread: another one must never use its connection.
        mode, synchronous = store._writer.do(
            lambda transaction: [
                transaction.connection.execute(f"PRAGMA {name}").fetchone()
                for name in ("journal_mode", "synchronous")
            ]
        )
        assert (mode, synchronous) == (("wal",), (level,))
    assert pragma(path, "application_id") == APPLICATION_ID
    assert pragma(path, "user_version") == VERSION
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("lie", ["PRAGMA journal_mode", "PRAGMA synchronous"])
def test_a_setting_that_does_not_take_is_an_error(path: Path, lie: str) -> None:
    class Lying(sqlite3.Connection):
        def execute(self, text: str, *values: object) -> sqlite3.Cursor:
            if text.startswith(lie):
                text = "SELECT 'off'" if "mode" in lie else "SELECT 0"
            return super().execute(text, *values)

    with pytest.raises(StoreNotOpened, match="cannot be made durable"):
        SqliteStore(path, factory=Lying)
    SqliteStore(path).close()  # and the lock is free


@pytest.mark.parametrize(
    "url",
    ["sqlite:", "sqlite::memory:", "sqlite:a?synchronous=off", "sqlite:a?mode=ro", "sqlite:?"],
)
def test_a_url_that_is_wrong_says_so(url: str) -> None:
    with pytest.raises(StoreNotOpened, match="SQLite store"):
        open_store(url)


def test_a_path_may_hold_what_a_uri_may_not(tmp_path: Path) -> None:
    path = tmp_path / "ä b%20#&.db"
    assert parse_url(f"sqlite:{path}") == (path, Synchronous.FULL)
    SqliteStore(path).close()
    assert path.exists()


def test_what_cannot_be_a_store(tmp_path: Path, path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "no such folder" / "chat.db"):
        with pytest.raises(StoreNotOpened, match="cannot be opened as a store"):
            SqliteStore(wrong)
    path.write_bytes(b"a letter to my aunt, of more than a hundred bytes. " * 20)
    with pytest.raises(StoreNotOpened, match="not a database"):
        SqliteStore(path)
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(StoreNotOpened, match="not a store of twinline"):
        SqliteStore(path)
    assert path.read_bytes() == before


def test_the_lock_is_free_when_no_writer_could_be_made(path: Path) -> None:
    class NoFence(sqlite3.Connection):
        wals = 0

        def execute(self, text: str, *values: object) -> sqlite3.Cursor:
            if text.startswith("PRAGMA journal_mode"):
                NoFence.wals += 1
                if NoFence.wals == 2:  # the first makes the tables
                    raise sqlite3.OperationalError("disk I/O error")
            return super().execute(text, *values)

    with pytest.raises(StoreNotOpened, match="disk I/O error"):
        SqliteStore(path, factory=NoFence)
    SqliteStore(path).close()


# --- reading


def test_connection_threads_have_small_stacks(path: Path) -> None:
    outcomes: list[object] = []

    def everything(store: SqliteStore) -> None:
        store.accounts.create(account("ann"))
        store.accounts.open_session(session("one"))
        store.mailboxes.create("bob")
        store.mailboxes.append("bob", draft("x" * 16_384, send_id="x"))
        store.mailboxes.ack("bob", 1, 1)
        outcomes.append(store.accounts.page(NamePattern("*"), None, 9).usernames)
        outcomes.append(len(store.mailboxes.history("bob", None, 9, ALL, 1).messages))
        store.mailboxes.drop("bob")

    with SqliteStore(path) as store:
        before = threading.stack_size(256 * 1024)
        try:
            thread = threading.Thread(target=everything, args=(store,))
            thread.start()
        finally:
            threading.stack_size(before)
        join(thread)
    assert outcomes == [("ann",), 1]


def test_a_read_that_fails_costs_one_connection_and_not_the_store(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = threading.Event()

    class Breaking(sqlite3.Connection):
        def execute(self, text: str, *values: object) -> sqlite3.Cursor:
            if broken.is_set() and text.startswith("SELECT"):
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(text, *values)

    with SqliteStore(path, factory=Breaking) as store:
        store.mailboxes.create("bob")
        broken.set()
        for _ in range(2 * sqlite_readers.CONNECTIONS):
            with pytest.raises(StoreUnavailable):
                store.mailboxes.standing("bob")
            with pytest.raises(StoreUnavailable):
                Call(lambda: store.mailboxes.standing("bob")).outcome()
        assert "cannot be read" in caplog.text
        broken.clear()
        for _ in range(2 * sqlite_readers.CONNECTIONS):
            assert store.mailboxes.standing("bob") == Standing(0, 0)
            assert Call(lambda: store.mailboxes.standing("bob")).outcome() == Standing(0, 0)


def test_a_reader_that_cannot_connect_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SqliteStore(path) as store:

        def connect() -> sqlite3.Connection:
            raise sqlite3.OperationalError("too many open files")

        monkeypatch.setattr(store._readers, "_connect", connect)
        with pytest.raises(StoreUnavailable):
            Call(lambda: store.accounts.is_free("ann")).outcome()


def test_with_every_connection_lent_a_reader_waits_and_then_gives_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_readers, "_WAIT_SECONDS", 0.01)
    with SqliteStore(path) as store:
        lent, over = threading.Barrier(sqlite_readers.CONNECTIONS + 1), threading.Event()

        def hold() -> None:
            with store._readers.reading():
                lent.wait(20)
                wait_event(over, "the test is over")

        holders = [Call(hold) for _ in range(sqlite_readers.CONNECTIONS)]
        lent.wait(20)
        with pytest.raises(StoreUnavailable):
            Call(lambda: store.accounts.is_free("ann")).outcome()
        assert store.accounts.is_free("ann"), "the main thread has one of its own"
        over.set()
        for each in holders:
            each.outcome()
        assert Call(lambda: store.accounts.is_free("ann")).outcome()


def test_a_page_of_names_reads_no_more_than_it_must(path: Path) -> None:
    texts: list[str] = []

    class Noting(sqlite3.Connection):
        def execute(self, text: str, *values: object) -> sqlite3.Cursor:
            texts.append(f"{text} {values}")
            return super().execute(text, *values)

    with SqliteStore(path, factory=Noting) as store:
        store.accounts.page(NamePattern("a*"), "abc", 7)
        (asked,) = [text for text in texts if text.startswith("SELECT username")]
        assert "(('abc\\x00', 8),)" in asked
        query, _, _ = asked.partition(" (('abc")
        with closing(sqlite3.connect(path)) as connection:
            plan = connection.execute(f"EXPLAIN QUERY PLAN {query}", ("a", 8)).fetchall()
        assert [row[3] for row in plan] == [
            "SEARCH accounts USING COVERING INDEX sqlite_autoindex_accounts_2 (username>?)"
        ]


# --- what is cached


class Reading:
    """A read of a table that can be stopped in its middle."""

    def __init__(self, value: str | None = "old") -> None:
        self.value = value
        self.meanwhile: Callable[[], object] = lambda: None
        self.reads = 0

    def __call__(self) -> str | None:
        self.reads += 1
        value = self.value
        self.meanwhile()
        return value


def test_what_is_cached_is_read_once_and_the_oldest_goes() -> None:
    known: ReadThroughCache[str, str] = ReadThroughCache("test", most=2)
    reading = Reading()
    for name in ("a", "a", "b", "c", "c", "a"):
        assert known.get(name, reading) == "old"
    assert (reading.reads, len(known)) == (4, 2)
    nothing = Reading(None)
    assert known.get("none", nothing) is known.get("none", nothing) is None
    assert nothing.reads == 2


@pytest.mark.parametrize("over", [False, True])
def test_what_was_read_before_a_change_is_not_cached(over: bool) -> None:
    known: ReadThroughCache[str, str] = ReadThroughCache("test", most=2)
    reading = Reading()

    def change() -> None:
        known.invalidate("a")
        if over:
            reading.value = "new"
            known.resume()

    reading.meanwhile = change
    assert known.get("a", reading) == "old"
    reading.meanwhile = lambda: None
    if not over:
        assert known.get("a", reading) == "old"  # the change is not committed yet
        reading.value = "new"
        known.resume()
    assert known.get("a", reading) == "new"


def test_a_session_that_was_looked_up_is_gone_once_it_is_revoked(path: Path) -> None:
    with SqliteStore(path) as store:
        store.accounts.create(account("ann"))
        store.accounts.open_session(session("one"))
        assert store.accounts.find_session(key("one")) is store.accounts.find_session(key("one"))
        store.accounts.close_session(key("one"))
        assert store.accounts.find_session(key("one")) is None
        assert store.accounts.find("ann") is store.accounts.find("ann")
        store.accounts.set_password_hash("id-ann", "new", instead_of="$argon2id$old")
        assert store.accounts.find("ann").password_hash == "new"


# --- the file's connections


def test_a_file_that_is_not_there_has_no_reader(path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        StoreFile(path).reader()
    assert not path.exists()
