"""What creating and deleting leave in a SQLite file when the disk stalls, fails or is cut off."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from services import PASSWORD, cheap_hasher, enter, login
from sqlite_faults import Faults, Gate
from store_samples import account, draft
from waiting import wait_until

from twinline.core import errors
from twinline.core.service import ChatService
from twinline.core.store import Account
from twinline.stores.sqlite import SqliteStore, Synchronous
from twinline.stores.sqlite import orphans as sqlite_orphans
from twinline.stores.sqlite.upkeep import check


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.db"


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def store(path: Path, faults: Faults) -> Iterator[SqliteStore]:
    with SqliteStore(path, synchronous=Synchronous.NORMAL, factory=faults.factory) as store:
        yield store
        faults.before = lambda _word: None


def service_over(store: SqliteStore) -> ChatService:
    return ChatService(store, hasher=cheap_hasher())


def restarted(path: Path, folder: Path) -> Path:
    """Return a copy of the file as a kill would leave it at this moment."""
    folder.mkdir()
    for end in ("", "-wal"):
        shutil.copy(f"{path}{end}", folder / f"s.db{end}")
    return folder / "s.db"


def test_an_account_whose_commit_the_disk_holds_up_has_its_mailbox(
    store: SqliteStore, faults: Faults, path: Path
) -> None:
    service = service_over(store)
    enter(service, "zoe")
    do, publish, drop = store._writer.do, store.accounts.create, store.mailboxes.drop
    gates: list[Gate] = []

    def held_up(account: Account, *, invitation: bytes | None) -> None:
        gates.append(faults.stop_at("COMMIT"))
        store._writer.do = partial(do, seconds=0.1)  # type: ignore[method-assign]
        try:
            publish(account, invitation=invitation)
        finally:
            store._writer.do = do  # type: ignore[method-assign]

    def let_go(account_id: str) -> None:
        """Have the disk answer again, and drop: the worst moment for it."""
        gates[0].let_go.set()
        drop(account_id)

    store.accounts.create = held_up  # type: ignore[method-assign]
    store.mailboxes.drop = let_go  # type: ignore[method-assign]
    with pytest.raises(errors.StoreUnavailable):
        enter(service, "ann")
    gates[0].let_go.set()
    do(lambda _transaction: None)
    ann = login(service, "ann")
    service.send(ann, "ann", "to myself")
    wait_until(lambda: not check(path).notes, "nothing is left to be swept")
    assert check(path).faults == []


def test_orphans_are_dropped_at_the_next_opening_and_what_is_made_since_is_kept(
    store: SqliteStore, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_orphans, "_PIECE", 2)
    for name in ("ann", "bob", "carl"):
        store.mailboxes.create(f"id-{name}")
        store.accounts.create(account(name))
        store.mailboxes.append(f"id-{name}", draft(send_id="x"))
    for number in range(5):
        store.mailboxes.create(f"never-{number}")
        store.mailboxes.append(f"never-{number}", draft(send_id="x"))
    store.accounts.withdraw("id-bob", keep_name=True)
    with SqliteStore(restarted(path, tmp_path / "again")) as again:
        again.mailboxes.create("id-dora")  # its account is still to be published
        wait_until(lambda: not boxes_of(again.path, "never"), "the orphans are dropped")
        again.accounts.create(account("dora"))
        wait_until(lambda: not check(again.path).notes, "and swept")
        assert boxes_of(again.path, "id-") == ["id-ann", "id-carl", "id-dora"]
        assert again.mailboxes.standing("id-carl").unread == 1
        assert rows(again.path, "send_ids") == rows(again.path, "messages") == 2
    assert check(again.path).faults == []


def boxes_of(path: Path, beginning: str) -> list[str]:
    """Return whose mailboxes there are, by how their ids begin."""
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT account_id FROM mailboxes WHERE account_id GLOB ? ORDER BY box"
        return [each for (each,) in connection.execute(query, (f"{beginning}*",))]


def rows(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)


def test_a_look_for_orphans_that_failed_goes_on(
    path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_orphans, "_PIECE", 2)
    with SqliteStore(path) as store:
        store.accounts.create(account("ann"))
        for number in range(9):
            store.mailboxes.create(f"never-{number}")
    faults.fail("DELETE", times=2)
    with SqliteStore(path, factory=faults.factory):
        wait_until(lambda: not boxes_of(path, "never"), "the orphans are dropped after all")


def test_a_file_whose_accounts_are_kept_somewhere_else_keeps_its_mailboxes(path: Path) -> None:
    for _ in range(3):
        with SqliteStore(path) as store:
            if not boxes_of(path, "bob"):
                store.mailboxes.create("bob")
            store.mailboxes.append("bob", draft())
    assert rows(path, "messages") == 3


def test_deleting_when_the_disk_fails_in_between_is_done_and_swept(
    store: SqliteStore, faults: Faults, path: Path, tmp_path: Path
) -> None:
    service = service_over(store)
    ann = enter(service, "ann")
    service.send(ann, "ann", "left behind")
    service.ack(ann, 1)
    commits = 0

    def fail_the_drop(word: str) -> None:
        nonlocal commits
        commits += word == "COMMIT"
        if word == "COMMIT" and commits == 2:  # the first is the withdrawal's
            raise sqlite3.OperationalError("disk I/O error")

    faults.before = fail_the_drop
    service.delete_account(ann, PASSWORD)
    assert check(path).notes == ["1 mailboxes whose account is gone"]
    with SqliteStore(restarted(path, tmp_path / "again")) as again:
        wait_until(lambda: not check(again.path).notes, "it is dropped and swept")
        assert not again.accounts.is_free("ann")
        assert rows(again.path, "messages") == 0
