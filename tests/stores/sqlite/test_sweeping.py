"""What the SQLite store removes by and by: mail of dropped mailboxes, and expired send_ids."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlite_faults import Faults
from store_samples import ALL, DAY, HOUR, draft
from waiting import join, wait_event, wait_until

from twinline.core.protocol import EVERY_KIND
from twinline.core.store import Blocked, Draft, MailboxPolicy, PeerReceipt
from twinline.stores.memory.mailboxes import MemoryMailboxes
from twinline.stores.sqlite import SqliteStore, Synchronous
from twinline.stores.sqlite.mailboxes import _Append
from twinline.stores.sqlite.upkeep import check
from twinline.stores.sqlite.writer import Transaction


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.db"


def in_order(store: SqliteStore, *calls: Callable[[], object]) -> None:
    """Have the calls wait for the writer in this order, and then be one transaction."""
    go, held = threading.Event(), threading.Event()

    def hold(_transaction: Transaction) -> None:
        held.set()
        wait_event(go, "the test lets the writer go")

    store._writer.post(hold)
    wait_event(held, "the writer is held")
    queued = len(store._writer._waiting)
    threads = []
    for number, call in enumerate(calls, start=1):
        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        threads.append(thread)
        wait_until(lambda n=number: len(store._writer._waiting) == queued + n, "it waits")
    go.set()
    for thread in threads:
        join(thread)


def rows(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)


def fill(path: Path, boxes: int, messages: int) -> None:
    """Put messages into the mailboxes past the store's own way in."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO messages VALUES (?, ?, 'id', 'ann', 'x', 1, 'id-ann', 1, 1)",
            ((box, seq) for box in range(1, boxes + 1) for seq in range(1, messages + 1)),
        )
        connection.execute(
            "UPDATE mailboxes SET last = ?, unread = ?, newest = 1", (messages, messages)
        )


def test_mail_of_the_transaction_that_drops_its_mailbox_is_swept_too(path: Path) -> None:
    with SqliteStore(path) as store:
        for name in ("ann", "bob"):
            store.mailboxes.create(name)
        in_order(
            store,
            lambda: store.mailboxes.append("ann", draft()),
            lambda: store.mailboxes.drop("ann"),
            lambda: store._writer.do(store.mailboxes._sweep),
        )
        wait_until(lambda: rows(path, "dropped") == 0, "it is swept")
        assert rows(path, "messages") == 0
    assert check(path).faults == []


@pytest.fixture
def swept() -> Iterator[list[int]]:
    """Count what each transaction sweeps, by `Sweeping`."""
    Sweeping.removed, Sweeping.counts = 0, []
    yield Sweeping.counts
    Sweeping.counts = []


class Sweeping(sqlite3.Connection):
    removed = 0
    counts: list[int] = []  # noqa: RUF012 - of the one store that a test opens

    def execute(self, text: str, *values: Any) -> sqlite3.Cursor:
        cursor = super().execute(text, *values)
        if text.startswith("DELETE FROM messages WHERE box = ? AND seq <= (SELECT"):
            Sweeping.removed += cursor.rowcount
        if text == "COMMIT" and Sweeping.removed:
            Sweeping.counts.append(Sweeping.removed)
            Sweeping.removed = 0
        return cursor


def test_all_that_lies_beside_mail_is_swept_too(path: Path) -> None:
    with SqliteStore(path) as store:
        boxes = store.mailboxes
        for name in ("id-ann", "id-bob"):
            boxes.create(name)
        for _ in range(2):
            boxes.append("id-bob", draft()._replace(copy_to="bob"))
        boxes.put_receipt("id-ann", PeerReceipt("id-bob", "bob", 1, 1))
        boxes.block("id-ann", Blocked("id-carl", "carl"))
        counts = {"messages": 2, "copies": 2, "receipts": 1, "blocked": 1}
        assert {table: rows(path, table) for table in counts} == counts
        boxes.drop("id-ann")
        wait_until(lambda: rows(path, "dropped") == 0, "it is swept")
        left = {"messages": 2, "copies": 0, "receipts": 0, "blocked": 0}
        assert {table: rows(path, table) for table in counts} == left
        boxes.create("id-ann")
        assert boxes.read("id-ann", 0, ALL, ALL, EVERY_KIND).seen == 0
        assert not boxes.blocked("id-ann")
    assert check(path).faults == []


def test_however_many_are_dropped_a_transaction_sweeps_a_few(path: Path, swept: list[int]) -> None:
    with SqliteStore(path) as store:
        for number in range(8):
            store.mailboxes.create(f"m{number}")
    fill(path, 8, 1_200)
    with SqliteStore(path, factory=Sweeping) as store:
        in_order(store, *(lambda n=n: store.mailboxes.drop(f"m{n}") for n in range(8)))
        wait_until(lambda: rows(path, "dropped") == 0, "all is swept", seconds=20)
    assert sum(swept) == 8 * 1_200
    assert max(swept) == 500


def test_a_sweep_that_failed_comes_again(path: Path) -> None:
    faults = Faults()
    with SqliteStore(path) as store:
        store.mailboxes.create("bob")
    fill(path, 1, 10)
    with SqliteStore(path, factory=faults.factory) as store:
        deletes = 0

        def fail_the_sweep(word: str) -> None:
            nonlocal deletes
            deletes += word == "DELETE"
            if word == "DELETE" and deletes == 2:  # the first one is the drop's own
                raise sqlite3.OperationalError("disk I/O error")

        faults.before = fail_the_sweep
        store.mailboxes.drop("bob")
        wait_until(lambda: rows(path, "dropped") == 0, "the mail is swept after all")
        assert deletes > 2
        assert rows(path, "messages") == 0


def test_expired_send_ids_go_as_fast_as_new_ones_come(path: Path) -> None:
    policy = MailboxPolicy(mailbox_messages=ALL, send_id_hours=1 / 3600)  # one second
    memory = MemoryMailboxes(policy)
    memory.create("bob")
    with SqliteStore(path, policy, synchronous=Synchronous.NORMAL) as store:
        store.mailboxes.create("bob")
        for second in range(10):
            drafts = [draft(send_id=f"{second}-{n}", sent_at=1000 * second) for n in range(256)]
            for each in drafts:
                memory.append("bob", each)
            together(store, drafts)
        assert rows(path, "send_ids") == memory._boxes["bob"].send_ids.count == 256


def test_an_old_send_id_is_known_to_be_there_however_many_are_new(path: Path) -> None:
    policy = MailboxPolicy(send_id_hours=1 / 3600)
    with SqliteStore(path, policy) as store:
        store.mailboxes.create("bob")
        for second in range(4):  # each expires what the one before has left
            store.mailboxes.append("bob", draft(send_id=f"{second}", sent_at=1000 * second))
            assert rows(path, "send_ids") == 1


def together(store: SqliteStore, drafts: list[Draft]) -> None:
    """Send all in one transaction."""
    go = threading.Event()
    store._writer.post(lambda _transaction: wait_event(go, "the test lets the writer go"))
    for each in drafts:
        store._writer.post(_Append(store.mailboxes, "bob", each))
    go.set()
    store._writer.do(lambda _transaction: None)


def test_a_send_id_may_hold_what_a_column_of_text_may_not(path: Path) -> None:
    with SqliteStore(path) as store:
        store.mailboxes.create("bob")
        first = store.mailboxes.append("bob", draft("a", send_id="\ud800"))
        again = store.mailboxes.append("bob", draft("b", send_id="x"))
        in_order(
            store,
            lambda: store.mailboxes.append("bob", draft("a", send_id="\ud800")),
            lambda: store.mailboxes.append("bob", draft("b", send_id="x")),
        )
        assert store.mailboxes.append("bob", draft("a", send_id="\ud800")) == first
        assert store.mailboxes.append("bob", draft("b", send_id="x")) == again
        assert store.mailboxes.standing("bob").unread == 2


def send_ids(path: Path) -> list[tuple[str, str, int, int]]:
    """Return whose send_ids there are, how many each has and the first of their seqs."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(
            "SELECT account_id, sender_id, count(*), min(send_ids.seq) FROM send_ids "
            "JOIN mailboxes USING (box) GROUP BY 1, 2 ORDER BY 1, 2"
        ).fetchall()


def test_a_busy_sender_leaves_a_bounded_number_of_send_ids(path: Path) -> None:
    policy = MailboxPolicy(mailbox_messages=ALL, send_ids_per_mailbox=120, send_ids_per_sender=80)
    for start in (0, 500):  # they are counted anew after a restart
        with SqliteStore(path, policy, synchronous=Synchronous.NORMAL) as store:
            if not start:
                store.mailboxes.create("bob")
            for number in range(start, start + 500, 50):
                drafts = [draft(send_id=f"{n}") for n in range(number, number + 50)]
                together(store, drafts)
                ((_, _, count, first),) = send_ids(path)
                assert count <= 80
                assert first + count - 1 == number + 50  # the last ones, without a gap
                if number:
                    assert count > 80 - 80 // 8 - 50
                first_known = store.mailboxes.append("bob", draft(send_id=f"{number + 49}"))
                assert first_known.message_id == drafts[-1].message_id
    with SqliteStore(path, policy, synchronous=Synchronous.NORMAL) as store:
        for number in range(300):
            store.mailboxes.append("bob", draft(sender=f"s{number:03}", send_id="x"))
        found = send_ids(path)
        assert 120 - 120 // 8 <= len(found) <= 120
        assert found[-1][1] == "id-s299"
        assert "id-ann" not in {sender for _, sender, _, _ in found}
    assert check(path).faults == []


def test_a_clock_that_was_wrong_for_a_moment_holds_up_no_expiry(path: Path) -> None:
    policy = MailboxPolicy(send_id_hours=1)
    with SqliteStore(path, policy, synchronous=Synchronous.NORMAL) as store:
        for name in ("bob", "carl"):
            store.mailboxes.create(name)
        now = 100 * DAY
        for at in (now + 25 * DAY, now, now - 25 * DAY):
            together(store, [draft(send_id=f"{at} {n}", sent_at=at) for n in range(40)])
        # Sends to another mailbox clear them away, two for each send and in each direction.
        for number in range(80):
            store.mailboxes.append("carl", draft(send_id=f"{number}", sent_at=now + HOUR))
        assert [(name, count) for name, _, count, _ in send_ids(path)] == [("carl", 80)]
