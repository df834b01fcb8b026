"""What an operator sets, beside the mail of the same transaction and when the disk fails."""

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlite_faults import Faults
from store_samples import account, draft
from waiting import wait_until

from twinline.core.errors import MailboxFull, StoreUnavailable
from twinline.core.store import Invitation
from twinline.stores.sqlite import SqliteStore, mailboxes
from twinline.stores.sqlite.upkeep import stats


def fail_the_update(faults: Faults) -> None:
    """Let the next transaction fail that changes a row; a sweep only removes some."""
    updated, failed = False, False

    def before(word: str) -> None:
        nonlocal updated, failed
        if word == "COMMIT" and updated and not failed:
            failed = True
            raise sqlite3.OperationalError("disk I/O error")
        updated = word == "UPDATE" or (updated and word != "BEGIN")

    faults.before = before


def refused(store: SqliteStore, write: Callable[[], object]) -> None:
    """See that a write is refused, and wait until the store takes others."""
    with pytest.raises(StoreUnavailable):
        write()
    wait_until(lambda: is_writable(store), "the store can be written again")


def is_writable(store: SqliteStore) -> bool:
    try:
        store._writer.do(lambda _transaction: None)
    except StoreUnavailable:
        return False
    return True


def test_a_quota_that_was_not_committed_holds_nobody(tmp_path: Path) -> None:
    faults = Faults()
    with SqliteStore(tmp_path / "chat.db", factory=faults.factory) as store:
        boxes = store.mailboxes
        boxes.create("id-bob")
        boxes.append("id-bob", draft())  # the writer knows the mailbox by now
        fail_the_update(faults)
        refused(store, lambda: boxes.set_quota("id-bob", 1))
        boxes.append("id-bob", draft())
        assert boxes.usage("id-bob").quota is None


def test_mail_of_the_same_transaction_neither_undoes_a_quota_nor_passes_it(tmp_path: Path) -> None:
    faults, path = Faults(), tmp_path / "chat.db"
    with (
        SqliteStore(path, factory=faults.factory) as store,
        ThreadPoolExecutor(4) as threads,
    ):
        boxes = store.mailboxes
        boxes.create("id-bob")
        boxes.append("id-bob", draft())
        gate = faults.stop_at("COMMIT")
        calls = [threads.submit(boxes.append, "id-bob", draft())]
        assert gate.reached.wait(10)
        # These wait, and are one transaction.
        for number, call in enumerate((boxes.append, boxes.set_quota, boxes.append), 1):
            argument = 3 if call == boxes.set_quota else draft()
            calls.append(threads.submit(call, "id-bob", argument))
            wait_until(lambda many=number: len(store._writer._waiting) == many, "it waits")
        gate.let_go.set()
        for call in calls[:3]:
            call.result(10)
        with pytest.raises(MailboxFull):
            calls[3].result(10)
    with SqliteStore(path) as store:
        assert store.mailboxes.usage("id-bob")[:2] == (3, 3)
        assert store.mailboxes.usage("id-bob").quota == 3


def test_what_was_not_committed_is_not_remembered_of_an_account(tmp_path: Path) -> None:
    faults = Faults()
    with SqliteStore(tmp_path / "chat.db", factory=faults.factory) as store:
        store.accounts.create(account("ann"))
        before = store.accounts.find("ann")
        for change in (
            lambda: store.accounts.enable("id-ann", enabled=False),
            lambda: store.accounts.change_password(
                "id-ann", "other", instead_of=None, keep=None, must_change=True
            ),
        ):
            fail_the_update(faults)
            refused(store, change)
            assert store.accounts.find("ann") == before
        store.accounts.enable("id-ann", enabled=False)
        assert store.accounts.find("ann") != before


def test_any_text_is_kept_as_the_note_of_an_invitation(tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "chat.db") as store:
        notes = ["", "half a pair \ud800", "\0 and é"]
        for number, note in enumerate(notes):
            store.accounts.add_invitation(Invitation(bytes([number]), number, 99, note))
        assert [each.note for each in store.accounts.invitations()] == notes


def test_what_is_dropped_is_not_found_while_it_is_still_to_be_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chat.db"
    with SqliteStore(path) as store:
        store.mailboxes.create("id-bob")
        sent = store.mailboxes.append("id-bob", draft(send_id="x"))
        assert store.mailboxes.trace(sent.message_id, now=2) is not None
        monkeypatch.setattr(store.mailboxes, "_sweep_soon", lambda: None)
        store.mailboxes.drop("id-bob")
        assert store.mailboxes.trace(sent.message_id, now=2) is None
        assert stats(path).mail_bytes == 0
        with sqlite3.connect(path) as connection:
            assert connection.execute("SELECT count(*) FROM messages").fetchone() == (1,)
        connection.close()


def test_looking_through_all_mail_ends_in_time_and_holds_up_no_later_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SqliteStore(tmp_path / "chat.db") as store:
        store.mailboxes.create("id-bob")
        sent = store.mailboxes.append("id-bob", draft())
        with sqlite3.connect(tmp_path / "chat.db") as connection:
            connection.execute(
                "WITH RECURSIVE numbers(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM numbers "
                "WHERE n < 100000) INSERT INTO messages (box, seq, message_id, sender, body, "
                "sent_at) SELECT box, n, n, 'ann', '', 1 FROM mailboxes, numbers"
            )
        connection.close()
        with monkeypatch.context() as patched:
            patched.setattr(mailboxes, "LOOK_THROUGH_SECONDS", 0.0)
            with pytest.raises(StoreUnavailable, match="say whose mailbox"):
                store.mailboxes.trace("nowhere", now=2)
            assert store.mailboxes.trace("nowhere", "id-bob", now=2) is None
        assert store.mailboxes.trace("nowhere", now=2) is None
        assert store.mailboxes.trace(sent.message_id, now=2) is not None
