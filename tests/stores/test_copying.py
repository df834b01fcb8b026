"""Moving all that one store keeps to another: whole, in pages, from where it was stopped."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from store_samples import ALL, HOUR, draft, filled, operated, session

from twinline.core.errors import MailboxFull, SendIdConflict
from twinline.core.protocol import EVERY_KIND
from twinline.core.store import Mailboxes, MailboxPolicy, Standing
from twinline.stores.archive import MessageRow
from twinline.stores.copying import CopyError, copy_all
from twinline.stores.sqlite import SqliteStore, StoreLocked, StoreNotOpened
from twinline.stores.sqlite.archive import SqliteArchive

POLICY = MailboxPolicy(mailbox_messages=400)


def moved(source: Path, target: Path) -> None:
    with SqliteArchive.open_source(source) as one, SqliteArchive.open_target(target) as other:
        copy_all(one, other)


def everything(boxes: Mailboxes, account_id: str) -> object:
    page = boxes.read(account_id, 0, ALL, ALL, EVERY_KIND)
    return (
        boxes.standing(account_id),
        page.messages,
        page.receipts,
        boxes.history(account_id, None, ALL, ALL, 3 * HOUR).messages,
        boxes.conversations(account_id, None, ALL, ALL, 3 * HOUR),
        boxes.usage(account_id),
        boxes.blocked(account_id),
    )


def test_what_a_store_keeps_is_in_the_other_one_and_nobody_is_logged_in(tmp_path: Path) -> None:
    source, target = filled(tmp_path / "one.db", POLICY), tmp_path / "two.db"
    moved(source, target)
    assert target.stat().st_mode & 0o777 == 0o600
    assert sorted(each.name for each in tmp_path.iterdir()) == ["one.db", "two.db"]
    with SqliteStore(source, POLICY) as one, SqliteStore(target, POLICY) as other:
        for name in ("ann", "bob", "carl"):
            assert other.accounts.find(name) == one.accounts.find(name)
            assert other.accounts.address_noted_at(f"id-{name}", "::1") == 5
            assert other.accounts.find_session(session(f"token-{name}", name).key) is None
            mail = everything(one.mailboxes, f"id-{name}")
            assert everything(other.mailboxes, f"id-{name}") == mail
        assert other.accounts.hash_profiles() == one.accounts.hash_profiles()
        assert not other.accounts.is_free("old")
        boxes = other.mailboxes
        assert boxes.usage("id-bob").copies == 300
        assert len(boxes.blocked("id-bob")) == 2
        assert not boxes.standing("id-carl").gives_receipts
        first = one.mailboxes.append("id-ann", draft("m7", send_id="s7"))
        assert boxes.append("id-ann", draft("m7", send_id="s7")) == first
        with pytest.raises(SendIdConflict):
            boxes.append("id-ann", draft("another", send_id="s7"))
        assert boxes.append("id-bob", draft("half a pair \ud800 and \0", send_id="\udfff"))
        assert boxes.standing("id-bob") == Standing(0, 1)


def test_what_an_operator_has_set_goes_with_it(tmp_path: Path) -> None:
    source, target = filled(tmp_path / "one.db", POLICY), tmp_path / "two.db"
    with SqliteStore(source, POLICY) as store:
        operated(store)
    with SqliteArchive.open_source(source) as one, SqliteArchive.open_target(target) as other:
        assert copy_all(one, other).invitations == 300
    with SqliteStore(source, POLICY) as one, SqliteStore(target, POLICY) as other:
        for name in ("ann", "bob", "carl"):
            assert other.accounts.find(name) == one.accounts.find(name)
            usage = other.mailboxes.usage(f"id-{name}")
            assert usage == one.mailboxes.usage(f"id-{name}")
        assert usage.quota == 1
        assert other.accounts.invitations() == one.accounts.invitations()
        other.mailboxes.append("id-carl", draft())
        with pytest.raises(MailboxFull):
            other.mailboxes.append("id-carl", draft())


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ("UPDATE accounts SET enabled = 1", "the account carl"),
        ("UPDATE accounts SET must_change = 0", "the account bob"),
        ("UPDATE mailboxes SET quota = 2 WHERE quota = 1", "the mailbox of carl"),
        ("UPDATE mailboxes SET newest = 9 WHERE newest = 1", "the mailbox of bob"),
        ("UPDATE mailboxes SET gives_receipts = 1", "the mailbox of carl"),
        ("UPDATE messages SET sender_id = '' WHERE seq = 50", "the mailbox of ann"),
        ("UPDATE messages SET n = 0 WHERE seq = 50", "the mailbox of ann"),
        ("UPDATE send_ids SET n = 0 WHERE seq = 50", "the mailbox of ann"),
        ("UPDATE copies SET n = 0 WHERE seq = 290", "the mailbox of bob"),
        ("UPDATE copies SET peer_id = 'id-x' WHERE seq = 2", "the mailbox of bob"),
        ("UPDATE receipts SET n = 8 WHERE peer = '1'", "the mailbox of bob"),
        ("DELETE FROM blocked WHERE peer = '1'", "the mailbox of bob"),
        ("UPDATE invitations SET expires_at = 7 WHERE note = 'for 299'", "an invitation"),
        ("DELETE FROM invitations WHERE note = 'for 7'", "an invitation"),
    ],
)
def test_what_has_not_arrived_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, what: str
) -> None:
    source, target = filled(tmp_path / "one.db", POLICY), tmp_path / "two.db"
    with SqliteStore(source, POLICY) as store:
        operated(store)
    for method in ("put_invitations", "end_mailbox"):  # the last ones; the mailbox even again
        was = getattr(SqliteArchive, method)

        def changing(self: SqliteArchive, rows: object, was: Any = was) -> None:
            was(self, rows)
            self._connection.execute(changed)

        monkeypatch.setattr(SqliteArchive, method, changing)
    with pytest.raises(CopyError, match=f"{what} is not the same"):
        moved(source, target)
    assert not target.exists()


def test_new_mail_is_beyond_whatever_a_reader_of_the_old_store_has_seen(tmp_path: Path) -> None:
    source, target = filled(tmp_path / "one.db", POLICY), tmp_path / "two.db"
    with SqliteStore(source, POLICY) as store:
        store.mailboxes.append("id-ann", draft("the last one"))
        (last,) = store.mailboxes.history("id-ann", None, 1, ALL, 0).messages
    moved(source, target)
    with SqliteStore(target, POLICY) as store:
        assert store.mailboxes.read("id-ann", last.seq, 9, ALL).messages == ()
        store.mailboxes.append("id-ann", draft("new"))
        (new,) = store.mailboxes.read("id-ann", last.seq, 9, ALL).messages
        assert new.seq > last.seq + 2**32
    moved(target, tmp_path / "three.db")  # a second move jumps once, not as far as both
    with SqliteStore(tmp_path / "three.db", POLICY) as store:
        store.mailboxes.append("id-ann", draft("newer"))
        (newer,) = store.mailboxes.read("id-ann", new.seq, 9, ALL).messages
        assert new.seq + 2**32 < newer.seq < new.seq + 2**32 * 100


class Stopped(Exception):
    pass


@contextmanager
def stopping(monkeypatch: pytest.MonkeyPatch, method: str, at: int) -> Iterator[None]:
    was, count = getattr(SqliteArchive, method), iter(range(at))

    def stops(self: SqliteArchive, *arguments: object) -> object:
        if next(count, None) is None:
            raise Stopped
        return was(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SqliteArchive, method, stops)
        with pytest.raises(Stopped):
            yield


@pytest.mark.parametrize(
    ("method", "at"),
    [
        ("put_accounts", 0),
        ("put_accounts", 2),
        ("begin_mailbox", 1),
        ("put_messages", 1),
        ("put_send_ids", 0),
        ("end_mailbox", 0),
        ("put_reserved_names", 0),
        ("put_invitations", 1),
        ("end", 0),
    ],
)
def test_a_move_that_was_stopped_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, at: int
) -> None:
    source, target = filled(tmp_path / "one.db", POLICY), tmp_path / "two.db"
    with SqliteStore(source, POLICY) as store:
        operated(store)
    with stopping(monkeypatch, method, at):
        moved(source, target)
    assert not target.exists()
    with pytest.raises(StoreNotOpened):  # what is unfinished is served by nobody
        SqliteStore(tmp_path / "two.db.unfinished", POLICY)
    written: list[str] = []
    begin = SqliteArchive.begin_mailbox
    monkeypatch.setattr(
        SqliteArchive, "begin_mailbox", lambda self, box: (written.append(box), begin(self, box))
    )
    moved(source, target)
    if method == "end":
        assert written == []  # what is there already is left alone
    with SqliteStore(source, POLICY) as one, SqliteStore(target, POLICY) as other:
        assert everything(other.mailboxes, "id-ann") == everything(one.mailboxes, "id-ann")
        assert other.accounts.invitations() == one.accounts.invitations()
        assert not other.accounts.is_free("old")


def test_what_does_not_arrive_as_it_was_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = filled(tmp_path / "one.db", POLICY), tmp_path / "two.db"
    put = SqliteArchive.put_messages

    def spoils(self: SqliteArchive, account_id: str, rows: list[MessageRow]) -> None:
        late = [row._replace(sent_at=row.sent_at + (row.seq == 300)) for row in rows]
        put(self, account_id, late)

    monkeypatch.setattr(SqliteArchive, "put_messages", spoils)
    with pytest.raises(CopyError, match="the mailbox of ann is not the same"):
        moved(source, target)
    assert not target.exists()


def test_neither_a_served_store_nor_one_that_is_there_takes_part(tmp_path: Path) -> None:
    source = filled(tmp_path / "one.db", POLICY)
    with SqliteStore(source), pytest.raises(StoreLocked):
        moved(source, tmp_path / "two.db")
    with pytest.raises(FileExistsError):
        moved(source, filled(tmp_path / "three.db", POLICY))
    with pytest.raises(StoreNotOpened, match="there is no file"):
        moved(tmp_path / "none.db", tmp_path / "two.db")
    with SqliteArchive.open_target(tmp_path / "two.db"), pytest.raises(StoreLocked):
        SqliteArchive.open_target(tmp_path / "two.db")


def test_an_unfinished_copy_is_of_one_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, other = filled(tmp_path / "one.db", POLICY), filled(tmp_path / "other.db", POLICY)
    with stopping(monkeypatch, "end", 0):
        moved(source, tmp_path / "two.db")
    with pytest.raises(CopyError, match="unfinished copy of sqlite:"):
        moved(other, tmp_path / "two.db")
    with closing(sqlite3.connect(tmp_path / "two.db.unfinished")) as database:
        database.execute("DROP TABLE invitations")
    with pytest.raises(StoreNotOpened, match="another version of this program"):
        moved(source, tmp_path / "two.db")
    with closing(sqlite3.connect(tmp_path / "four.db.unfinished")) as database:
        database.execute("CREATE TABLE mine (a)")
    with pytest.raises(StoreNotOpened, match="no unfinished copy"):
        moved(source, tmp_path / "four.db")
