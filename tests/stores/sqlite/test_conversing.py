"""Copies, receipts and conversations in a SQLite file: what each costs, and what is written."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import pytest
from differing import POLICIES, compare
from sqlite_faults import Faults
from store_samples import ALL, DAY, HOUR, draft
from waiting import wait_until

from twinline.core.errors import StoreUnavailable
from twinline.core.protocol import EVERY_KIND, TALK, Kind, Kinds
from twinline.core.store import Draft, Mailboxes, MailboxPolicy, Peer, PeerReceipt
from twinline.stores.conformance import check_store, conversing, rules_of
from twinline.stores.memory import MemoryStore
from twinline.stores.sqlite import SqliteStore, Synchronous, mailbox_rows
from twinline.stores.sqlite.mailboxes import _Append
from twinline.stores.sqlite.reads import MailboxReader
from twinline.stores.sqlite.upkeep import check

SENT: Kinds = frozenset({Kind.SENT})
NAMES = ("ann", "bob", "carl")
BOB = Peer("id-bob", "bob")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


def opened(path: Path, policy: MailboxPolicy | None = None) -> SqliteStore:
    """Return a store with mailboxes of all the names."""
    store = SqliteStore(path, policy or MailboxPolicy(), synchronous=Synchronous.NORMAL)
    for name in NAMES:
        store.mailboxes.create(f"id-{name}")
    return store


def copied(body: str = "hello", *, to: str = "bob", sender: str = "ann", at: int = 1) -> Draft:
    return draft(body, sender=sender, sent_at=at)._replace(copy_to=to)


def copies(boxes: Mailboxes, account_id: str = "id-ann") -> list[str]:
    return [each.body for each in boxes.read(account_id, 0, ALL, ALL, SENT).messages]


@contextmanager
def in_one_transaction(store: SqliteStore) -> Iterator[Callable[[str, Draft], None]]:
    """Give what queues a send; all that are queued are one transaction at the end."""
    drafts: list[tuple[str, Draft]] = []
    yield lambda account_id, each: drafts.append((account_id, each))
    store._writer.do(
        lambda transaction: [
            _Append(store.mailboxes, account_id, each)(transaction) for account_id, each in drafts
        ]
    )


def test_a_copy_is_written_with_its_mail_or_neither_is(tmp_path: Path) -> None:
    faults = Faults()
    with SqliteStore(tmp_path / "chat.db", factory=faults.factory) as store:
        for name in NAMES:
            store.mailboxes.create(f"id-{name}")
        before = faults.commits
        store.mailboxes.append("id-bob", copied("one"))
        # So nothing that ends the process in between can leave the one without the other.
        assert faults.commits == before + 1
        faults.fail("COMMIT")
        repeat = copied("two")._replace(send_id="s")
        with pytest.raises(StoreUnavailable):
            store.mailboxes.append("id-bob", repeat)
        assert copies(store.mailboxes) == ["one"]
        assert store.mailboxes.standing("id-bob").unread == 1

        def sent() -> bool:
            try:
                store.mailboxes.append("id-bob", repeat)
            except StoreUnavailable:
                return False
            return True

        wait_until(sent, "the repeat is taken")
        assert copies(store.mailboxes) == ["one", "two"]
        assert store.mailboxes.standing("id-bob").unread == 2
    assert check(tmp_path / "chat.db").faults == []


def test_of_many_copies_in_one_transaction_the_newest_stay(path: Path) -> None:
    with opened(path, MailboxPolicy(history_messages=5)) as store:
        boxes = store.mailboxes
        for start in (0, 12, 15):
            with in_one_transaction(store) as send:
                for number in range(start, start + 12):
                    send("id-bob", copied(str(number)))
                    send("id-bob", copied(f"carl's {number}", sender="carl"))
            assert copies(boxes) == [str(number) for number in range(start + 7, start + 12)]
            assert len(copies(boxes, "id-carl")) == 5
        assert boxes.usage("id-ann").copies == 5
    assert check(path).faults == []


def test_copies_that_have_aged_go_with_the_next_one_also_after_a_restart(path: Path) -> None:
    policy = MailboxPolicy(history_days=1)
    with opened(path, policy) as store:
        for number, at in enumerate((1, HOUR, 2 * HOUR)):
            store.mailboxes.append("id-bob", copied(str(number), at=at))
        store.mailboxes.append("id-bob", copied("3", at=DAY + HOUR))
        assert copies(store.mailboxes) == ["2", "3"]
    with SqliteStore(path, policy) as store:
        store.mailboxes.append("id-bob", copied("4", at=DAY + 2 * HOUR))
        assert copies(store.mailboxes) == ["3", "4"]
    assert check(path).faults == []


def test_a_mailbox_that_is_dropped_in_the_transaction_of_its_copies_is_gone(path: Path) -> None:
    with opened(path) as store:
        boxes = store.mailboxes
        store._writer.do(
            lambda transaction: (
                _Append(boxes, "id-bob", copied())(transaction),
                boxes.drop_in(transaction, "id-ann"),
                _Append(boxes, "id-bob", copied())(transaction),
            )
        )
        assert boxes.standing("id-bob").unread == 2
        wait_until(lambda: not check(path).notes[1:], "it is swept")
    assert check(path).faults == []


def test_the_counts_of_a_mailbox_are_those_of_its_tables_whatever_happens(path: Path) -> None:
    with opened(path, MailboxPolicy(history_messages=3)) as store:
        boxes = store.mailboxes
        for number in range(9):
            boxes.append("id-bob", copied(to="bob", at=number))
            boxes.put_receipt("id-ann", PeerReceipt(f"id-{number % 5}", "x", number, number))
            seen = boxes.read("id-ann", 0, ALL, ALL, EVERY_KIND)
            if number % 3 == 2:
                boxes.delete("id-ann", [seen.messages[0].seq, seen.receipts[0].seq, seen.seen])
            assert check(path).faults == []
    with SqliteStore(path) as store:
        assert store.mailboxes.usage("id-ann").copies == len(copies(store.mailboxes))


def steps(connection: sqlite3.Connection, call: Callable[[], object]) -> int:
    """Return how many tens of steps of SQLite's machine a call takes on a connection."""
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += 1
        return 0

    connection.set_progress_handler(count, 10)
    try:
        call()
    finally:
        connection.set_progress_handler(None, 0)
    return taken


def test_a_page_of_a_conversation_costs_the_page_and_not_the_mailbox(path: Path) -> None:
    with opened(path, MailboxPolicy(mailbox_messages=ALL, history_messages=ALL)) as store:

        def cost(peer: Peer) -> int:
            with store._readers.reading() as connection:
                reader = MailboxReader(connection, "id-ann", 10, ALL)
                return steps(connection, lambda: reader.history(None, 0, EVERY_KIND, peer))

        def grow(count: int) -> None:
            with in_one_transaction(store) as send:
                for _ in range(count):
                    send("id-ann", draft(sender="carl"))
                    send("id-carl", copied(to="carl"))

        with in_one_transaction(store) as send:
            for _ in range(20):
                send("id-ann", draft(sender="bob"))
                send("id-bob", copied())
        peers = (
            *(BOB, Peer("id-bob", ""), Peer(None, "bob")),
            *(Peer("id-new", "bobby"), Peer(None, "bobby")),
        )
        grow(30)
        before = [cost(peer) for peer in peers]
        grow(2_000)
        after = [cost(peer) for peer in peers]
        assert all(b <= 1.2 * a + 5 for a, b in zip(before, after, strict=True)), (before, after)


def test_a_repeat_finds_the_copy_of_one_message_among_many(path: Path) -> None:
    with opened(path, MailboxPolicy(mailbox_messages=ALL)) as store:
        boxes = store.mailboxes
        first = copied("first")._replace(send_id="s")
        accepted = boxes.append("id-bob", first)
        for number in range(300):
            boxes.append("id-bob", copied(str(number)))
        assert boxes.append("id-bob", first._replace(message_id="0" * 24)) == accepted
        assert boxes.usage("id-ann").copies == 301
        boxes.delete("id-ann", [boxes.read("id-ann", 0, 1, ALL, SENT).messages[0].seq])
        assert boxes.append("id-bob", first) == accepted
        newest = boxes.history("id-ann", None, 1, ALL, 1, kinds=TALK, peer=BOB).messages[0]
        assert (newest.body, newest.n, newest.message_id) == (
            "first",
            accepted.n,
            accepted.message_id,
        )


def test_texts_that_a_column_may_not_hold_are_copied_and_read(path: Path) -> None:
    with opened(path) as store:
        boxes = store.mailboxes
        boxes.append("id-bob", copied("\ud800 and \0"))
        assert copies(boxes) == ["\ud800 and \0"]
        (talk,) = boxes.conversations("id-ann", None, ALL, ALL, 1).conversations
        assert talk.last.body == "\ud800 and \0"
        assert boxes.usage("id-ann").size == len("\ud800 and \0".encode(errors="surrogatepass"))


def test_what_waits_beside_mail_wakes_those_who_take_it(path: Path) -> None:
    with opened(path) as store:
        woken: list[Kind] = []
        for kind in Kind:
            store.mailboxes.on_mail(
                "id-ann", lambda kind=kind: woken.append(kind), frozenset({kind})
            )
        store.mailboxes.append("id-bob", copied())
        store.mailboxes.put_receipt("id-ann", PeerReceipt("id-bob", "bob", 1, 1))
        store.mailboxes.put_receipt("id-ann", PeerReceipt("id-bob", "bob", 1, 1))
        store.mailboxes.append("id-ann", draft(sender="bob"))
        wait_until(lambda: len(woken) == 3, "each is woken")
        assert woken == [Kind.SENT, Kind.RECEIPT, Kind.MAIL]


def test_an_index_is_there_for_every_statement_that_reads(path: Path) -> None:
    """No page is sorted, and no table or index is read from end to end."""
    opened(path).close()
    with closing(sqlite3.connect(path)) as connection:
        statements: list[str] = []
        with SqliteStore(path) as store:
            with store._readers.reading() as reader:
                reader.set_trace_callback(statements.append)
            for peer in (None, BOB):
                for kinds in (EVERY_KIND, TALK, SENT):
                    store.mailboxes.history("id-ann", 9, 9, 9, 9, kinds=kinds, peer=peer)
                    store.mailboxes.read("id-ann", 0, 9, 9, kinds)
        assert len(statements) == 12
        for statement in statements:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            assert plan
            assert not [step for step in plan if "SCAN" in step or "TEMP B-TREE" in step]


@pytest.mark.parametrize("seqs", [1, 2, 5])
def test_conversations_are_the_same_however_much_of_them_is_filed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seqs: int
) -> None:
    monkeypatch.setattr(mailbox_rows, "_FILED_AT_ONCE", seqs)
    numbers = count()

    def new_store(policy: MailboxPolicy) -> SqliteStore:
        path = tmp_path / str(next(numbers))
        return SqliteStore(path, policy, synchronous=Synchronous.NORMAL)

    check_store(new_store, only=[rule.name for rule in rules_of(conversing)])
    for policy in POLICIES.values():
        with MemoryStore(policy) as memory, new_store(policy) as sqlite:
            compare({"memory": memory, "sqlite": sqlite}, policy, range(10))
    for path in tmp_path.iterdir():
        # Of the stores that are compared some have an account alone: that is asked of them.
        faults = [fault for fault in check(path).faults if "without a mailbox" not in fault]
        assert faults == []


def test_what_is_behind_what_is_filed_is_found_as_well(path: Path) -> None:
    with opened(path) as store:
        boxes = store.mailboxes
        first = copied("0", at=1)._replace(send_id="s")
        accepted = boxes.append("id-bob", first)
        for number in range(1, 70):
            boxes.append("id-bob", copied(str(number), at=number + 1))
        with closing(sqlite3.connect(path)) as connection:
            ((filed, last),) = connection.execute(
                "SELECT filed, last FROM mailboxes WHERE account_id = 'id-ann'"
            ).fetchall()
        assert (filed, last) == (64, 70)
        # The copy of a repeat is found where it is filed, and so is the newest that is not.
        assert boxes.append("id-bob", first) == accepted
        assert boxes.usage("id-ann").copies == 70
        page = boxes.history("id-ann", None, 10, ALL, 1, kinds=SENT, peer=BOB)
        assert [each.body for each in page.messages] == [str(number) for number in range(60, 70)]
    assert check(path).faults == []


def test_copies_beyond_the_bound_go_some_dozens_at_a_time(path: Path) -> None:
    with opened(path, MailboxPolicy(history_messages=100)) as store:
        kept = []
        for number in range(120):
            store.mailboxes.append("id-bob", copied(str(number), at=number + 1))
            kept.append(store.mailboxes.usage("id-ann").copies)
        assert max(kept) == 100
        assert kept[99:] == [100, *range(94, 101), *range(94, 101), *range(94, 100)]
        assert copies(store.mailboxes)[-1] == "119"
    assert check(path).faults == []
