"""The SQLite store's versions: what an older file becomes, and which are refused."""

import re
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from services import FakeClock, cheap_hasher
from sqlite_faults import Faults
from store_samples import ALL, DAY, HOUR, VERSION_1, VERSION_2, VERSION_3, account, draft, session
from waiting import wait_until

from twinline.core.certificates import Certificate, stamp
from twinline.core.errors import (
    MailboxFull,
    NoSuchUser,
    SendIdConflict,
    SessionExpired,
    StoreUnavailable,
)
from twinline.core.passwords import profile_of
from twinline.core.protocol import TALK, Kind
from twinline.core.service import ChatService
from twinline.core.settings import ServiceSettings
from twinline.core.store import (
    Accepted,
    Delivery,
    Draft,
    Peer,
    SessionKey,
    SessionRecord,
    Standing,
)
from twinline.core.tokens import key_of
from twinline.stores.shared.opening import SchemaTooNew, StoreNotOpened
from twinline.stores.sqlite import SqliteStore
from twinline.stores.sqlite import schema as sqlite_schema
from twinline.stores.sqlite.file import APPLICATION_ID
from twinline.stores.sqlite.schema import OLD_SEND_IDS, VERSION
from twinline.stores.sqlite.upkeep import check

WRITTEN = 1_764_000_000_000
"""When the file of version 1 was written."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A copy of the file of version 1."""
    return Path(shutil.copy(VERSION_1, tmp_path / "chat.db"))


def pragma(path: Path, name: str) -> object:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]


def tables(path: Path) -> list[tuple[str, ...]]:
    """Return every table with its columns, and every index."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            "SELECT type, name, tbl_name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' "
            "ORDER BY type, name"
        ).fetchall()
        return [
            (
                *row,
                *(str(column[1:]) for column in connection.execute(f"PRAGMA table_info({row[1]})")),
            )
            for row in found
        ]


def is_missing(store: SqliteStore, account_id: str) -> bool:
    try:
        store.mailboxes.standing(account_id)
    except NoSuchUser:
        return True
    return False


def test_an_older_version_is_copied_and_migrated(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Path(f"{path}.version-1").touch()  # a copy of another time stays
    with SqliteStore(path) as store:
        ann = store.accounts.find("ann")
        assert ann is not None
        assert ann.account_id == "id-ann"
        assert not store.accounts.is_free("carl")
        assert store.accounts.find_session(SessionKey(None, b"\2" * 32)) is not None
        assert store.mailboxes.standing("id-bob") == Standing(3, 4)
    assert pragma(path, "user_version") == VERSION
    copy = Path(f"{path}.version-1.2")
    assert str(copy) in caplog.text
    assert pragma(copy, "user_version") == 1
    assert copy.stat().st_mode & 0o777 == 0o600


def test_a_migration_that_fails_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tables(path)
    step = sqlite_schema.MIGRATIONS[1]
    monkeypatch.setitem(sqlite_schema.MIGRATIONS, 1, (*step, "INSERT INTO no_table VALUES (1)"))
    with pytest.raises(StoreNotOpened, match="no_table"):
        SqliteStore(path)
    assert pragma(path, "user_version") == 1
    assert tables(path) == before
    monkeypatch.setitem(sqlite_schema.MIGRATIONS, 1, step)
    SqliteStore(path).close()
    assert pragma(path, "user_version") == VERSION


def test_a_migrated_file_has_the_tables_of_a_new_one_once_its_send_ids_are_old(
    path: Path, tmp_path: Path
) -> None:
    with SqliteStore(path) as store:
        store.mailboxes.append("id-bob", send("new", "n", after=HOUR))
        assert OLD_SEND_IDS in {row[1] for row in tables(path)}
        store.mailboxes.append("id-bob", send("new", "n", after=DAY + HOUR))
    SqliteStore(tmp_path / "new.db").close()
    two = Path(shutil.copy(VERSION_2, tmp_path / "two.db"))
    SqliteStore(two).close()
    three = Path(shutil.copy(VERSION_3, tmp_path / "three.db"))
    SqliteStore(three).close()
    assert tables(path) == tables(two) == tables(three) == tables(tmp_path / "new.db")


def dump(path: Path) -> list[str]:
    """Return all that a file keeps, but for where it comes from."""
    with closing(sqlite3.connect(path)) as connection:
        return [line for line in connection.iterdump() if 'INTO "store"' not in line]


def test_a_file_of_version_2_keeps_all_that_it_had(tmp_path: Path) -> None:
    path = Path(shutil.copy(VERSION_2, tmp_path / "chat.db"))
    before = dump(path)
    with SqliteStore(path) as store:
        accounts, boxes = store.accounts, store.mailboxes
        assert [accounts.find(name) for name in ("ann", "bob")] == [account("ann"), account("bob")]
        assert accounts.sessions("id-bob") == [session("token-bob", "bob")]
        assert accounts.addresses("id-ann") == {"192.0.2.7": WRITTEN}
        assert not accounts.is_free("old")
        assert accounts.invitations() == []
        assert boxes.standing("id-bob") == Standing(5, 3)
        bodies = [each.body for each in boxes.read("id-bob", 0, 9, ALL).messages]
        assert bodies == ["hello 2", "hello 4", "hello 5", "hello 7", "half a pair \ud800"]
        assert boxes.usage("id-bob").quota is None
        again = boxes.append("id-bob", send("hello 6", "s6", after=HOUR))
        assert again.sent_at == WRITTEN + 6
        found = boxes.trace(again.message_id, now=WRITTEN + HOUR)
        assert found is not None
        assert (found.seq, found.sender_id) == (None, "id-ann")  # it was deleted
        first = boxes.read("id-bob", 0, 1, ALL).messages[0]
        traced = boxes.trace(first.message_id, "id-bob", now=WRITTEN + HOUR)
        assert traced is not None
        assert traced.acked_at == WRITTEN + HOUR
        # And from now on it takes what the other one could not.
        accounts.enable("id-ann", enabled=False)
        boxes.set_quota("id-bob", 3)
        with pytest.raises(MailboxFull):
            boxes.append("id-bob", draft())
    assert check(path).faults == []
    assert dump(Path(f"{path}.version-2")) == before


def test_a_file_of_version_3_has_conversations_by_name_until_somebody_writes(
    tmp_path: Path,
) -> None:
    path = Path(shutil.copy(VERSION_3, tmp_path / "chat.db"))
    before = dump(path)
    with SqliteStore(path) as store:
        boxes = store.mailboxes

        def bodies(peer: Peer) -> list[str]:
            page = boxes.history("id-bob", None, ALL, ALL, WRITTEN, kinds=TALK, peer=peer)
            return [each.body for each in page.messages]

        of_ann = ["hello 2", "hello 4", "hello 5", "hello 7", "half a pair \ud800", "from ann"]
        ann = Peer("id-ann", "ann")
        assert bodies(ann) == bodies(Peer(None, "ann")) == of_ann
        assert bodies(Peer("id-new", "carl")) == ["from carl"]
        assert bodies(Peer("id-ann", "anne")) == []
        page = boxes.conversations("id-bob", None, ALL, ALL, WRITTEN).conversations
        assert [(each.username, each.last.body, each.unread) for each in page] == [
            ("ann", "from ann", 4),
            ("carl", "from carl", 1),
        ]
        assert boxes.standing("id-bob").gives_receipts
        # A repeat of what was sent before puts in the copy that is missing, once.
        for _ in range(2):
            repeat = send("from ann", "a1", after=HOUR)._replace(copy_to="bob")
            assert boxes.append("id-bob", repeat) == Accepted(f"{12:024x}", WRITTEN + 11, 0)
            (copy,) = boxes.read("id-ann", 0, ALL, ALL, frozenset({Kind.SENT})).messages
            assert (copy.message_id, copy.to, copy.n) == (f"{12:024x}", "bob", 0)
        # What comes now has ids, and those of before go to no one.
        now = send("now", "new", after=HOUR)
        n = boxes.append("id-bob", now).n
        assert n == WRITTEN + HOUR
        assert bodies(ann) == [*of_ann, "now"]
        (last,) = boxes.history("id-bob", None, 1, ALL, WRITTEN).messages
        assert boxes.ack("id-bob", last.seq - 1, WRITTEN).deliveries == ()
        assert boxes.ack("id-bob", last.seq, WRITTEN).deliveries == (Delivery("id-ann", n),)
        traced = boxes.trace(now.message_id, "id-bob", now=WRITTEN)
        assert traced is not None
        assert traced.sender_id == "id-ann"
    assert check(path).faults == []
    assert dump(Path(f"{path}.version-3")) == before


def test_the_program_of_version_2_refuses_what_was_migrated_and_takes_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(VERSION_2, tmp_path / "chat.db"))
    SqliteStore(path).close()
    whole = path.read_bytes()
    monkeypatch.setattr(sqlite_schema, "VERSION", 2)
    words = (
        f"{path} has schema version {VERSION}, and this program knows versions up to 2; "
        "use the program that wrote it, or a later one"
    )
    with pytest.raises(SchemaTooNew, match=f"^{re.escape(words)}$"):
        SqliteStore(path)
    assert path.read_bytes() == whole
    with closing(sqlite3.connect(f"{path}.version-2")) as copy:
        assert sqlite_schema.version_of(copy, path) == 2


def send(body: str, send_id: str, *, sender: str = "ann", after: int = 0) -> Draft:
    """Return what is sent again, or anew, so long after the file was written."""
    return draft(body, sender=sender, send_id=send_id, sent_at=WRITTEN + after)


def test_what_was_sent_before_the_migration_is_still_known_by_its_send_id(path: Path) -> None:
    with SqliteStore(path) as store:
        boxes = store.mailboxes
        first = boxes.append("id-bob", send("hello 2", "s2", after=HOUR))
        assert first == Accepted(f"{3:024x}", WRITTEN + 2, 0)
        assert (
            boxes.append("id-ann", send("to ann", "s1", sender="bob", after=HOUR)).sent_at
            == WRITTEN
        )
        assert boxes.standing("id-bob").unread == 4
        # Another body or another recipient: for version 1 both were a conflict.
        for account_id, body in (("id-bob", "other"), ("id-ann", "hello 3")):
            new = send(body, "s3", after=HOUR)
            assert boxes.append(account_id, new) == Accepted(
                new.message_id, new.sent_at, new.sent_at
            )
            assert (
                boxes.append(account_id, send(body, "s3", after=2 * HOUR)).message_id
                == new.message_id
            )
            with pytest.raises(SendIdConflict):
                boxes.append(account_id, send("third", "s3", after=HOUR))
    with SqliteStore(path) as store:  # and after another restart
        assert store.mailboxes.append("id-bob", send("hello 2", "s2", after=HOUR)) == first
        late = send("hello 2", "s2", after=DAY + HOUR)
        assert store.mailboxes.append("id-bob", late).message_id == late.message_id


def fail_after_drop(words: list[str], word: str) -> None:
    words.append(word)
    if word == "COMMIT" and words.count("DROP") == 1:
        words.append("DROP")
        raise sqlite3.OperationalError("disk I/O error")


def test_old_send_ids_come_back_when_their_removal_is_rolled_back(path: Path) -> None:
    faults = Faults()
    with SqliteStore(path, factory=faults.factory) as store:
        faults.before = partial(fail_after_drop, [])
        with pytest.raises(StoreUnavailable):
            store.mailboxes.append("id-bob", send("new", "n", after=DAY + HOUR))
        assert OLD_SEND_IDS in {row[1] for row in tables(path)}
        again = store.mailboxes.append("id-bob", send("hello 2", "s2", after=9))
        assert again == Accepted(f"{3:024x}", WRITTEN + 2, 0)


def test_what_version_1_left_half_done_is_settled(path: Path) -> None:
    with SqliteStore(path) as store:
        assert store.mailboxes.standing("id-brick") == Standing(0, 0)
        for orphan in ("id-never", "id-gone"):
            wait_until(lambda one=orphan: is_missing(store, one), "an orphan is dropped")
        wait_until(lambda: not check(path).notes, "what was dropped is swept")
    findings = check(path)
    assert (findings.faults, findings.notes) == ([], [])


def test_the_accounts_of_before_are_counted_by_the_profile_of_their_hash(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        hashes = [each for (each,) in connection.execute("SELECT password_hash FROM accounts")]
        connection.execute("INSERT INTO accounts VALUES ('x', 'x', '$a$v=1$m=1,t=1,p=1$s$h', 1)")
        connection.commit()
    assert hashes
    expected = Counter(map(profile_of, [*hashes, "$a$v=1$m=1,t=1,p=1$s$h"]))
    with SqliteStore(path) as store:
        assert store.accounts.hash_profiles() == expected
        assert store.accounts.withdraw("x", keep_name=False)
        assert store.accounts.hash_profiles() == Counter(map(profile_of, hashes))


def test_a_version_that_is_too_old_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 0")
    with pytest.raises(StoreNotOpened, match="too old"):
        SqliteStore(path)


def test_a_later_version_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(SchemaTooNew, match="use the program that wrote it"):
        SqliteStore(path)
    assert pragma(path, "user_version") == VERSION + 1
    assert pragma(path, "application_id") == APPLICATION_ID


@pytest.mark.parametrize("certified", [False, True], ids=["password", "certificate"])
def test_a_token_of_before_is_resumed_used_and_ended(tmp_path: Path, certified: bool) -> None:
    now = FakeClock().now
    certificate = Certificate("ann", bytes(32), now + DAY)
    path, token = tmp_path / "chat.db", "s" * 43 + (stamp(certificate) if certified else "")
    key = key_of(token)
    with SqliteStore(path) as store:
        ann = account("ann")
        store.accounts.create(ann)
        store.mailboxes.create(ann.account_id)
        store.accounts.open_session(
            SessionRecord(key.token_hash, ann.account_id, ann.username, now, now)
        )
    assert key.account_id is None
    with SqliteStore(path) as store:
        clock = FakeClock()
        service = ChatService(store, ServiceSettings(), clock=clock, hasher=cheap_hasher())
        session = service.session()
        assert service.resume(session, token).session == token
        clock.now += 2 * HOUR
        assert service.status(session).username == "ann"
        found = store.accounts.find_session(key)
        assert found is not None
        assert found.used_at == clock.now
        service.logout(session)
        assert store.accounts.find_session(key) is None
        with pytest.raises(SessionExpired):
            service.resume(service.session(), token)
