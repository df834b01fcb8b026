"""Copies, receipts and conversations: one transaction, one order of locks, and no more read."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any

import psycopg
import pytest
from postgres_engine import PostgresEngine
from postgres_stores import run
from store_samples import ALL, DAY, draft
from waiting import Call, wait_event, wait_until

from twinline.core.errors import StoreUnavailable
from twinline.core.protocol import EVERY_KIND, TALK, Kind, Message
from twinline.core.store import Blocked, Draft, MailboxLook, MailboxPolicy, Peer, PeerReceipt
from twinline.stores.postgresql import PostgresqlStore, conversations, parse_url
from twinline.stores.postgresql.link import Asked
from twinline.stores.postgresql.link import Call as Statement
from twinline.stores.postgresql.upkeep import PostgresqlUpkeep
from twinline.stores.rules import history_ends

Open = Callable[..., PostgresqlStore]
NOW = 1_767_225_600_000
SENT = frozenset({Kind.SENT})
RECEIPT = frozenset({Kind.RECEIPT})


@pytest.fixture
def open_node(store_url: str) -> Iterator[Open]:
    """What opens another node of one state."""
    with ExitStack() as opened:

        def open_one(policy: MailboxPolicy | None = None, **options: float) -> PostgresqlStore:
            target = parse_url(store_url)
            store = PostgresqlStore(target, policy or MailboxPolicy(), **options)  # type: ignore[arg-type]
            opened.callback(store.close)
            return store

        yield open_one


def copied(sender: str, to: str, body: str = "hello", sent_at: int = NOW) -> Draft:
    """Return a message that asks for a copy, of an account whose id is its name."""
    made = draft(body, sender=sender, sent_at=sent_at)
    return made._replace(sender_id=sender, send_id=made.message_id, copy_to=to)


def of_kind(store: PostgresqlStore, name: str, kind: Kind) -> tuple[Message, ...]:
    return store.mailboxes.read(name, 0, ALL, ALL, frozenset({kind})).messages


@contextmanager
def locked(store_url: str, name: str) -> Iterator[None]:
    """Have a mailbox's row locked in the block, so that what a lane is asked for gathers."""
    target = parse_url(store_url)
    parameters = psycopg.conninfo.make_conninfo("", **target.parameters)
    with psycopg.connect(parameters) as connection:
        connection.execute(f"SET search_path TO {target.schema}".encode())
        connection.execute("SELECT FROM mailboxes WHERE account_id = %s FOR UPDATE", (name,))
        yield


def in_one_transaction(
    store: PostgresqlStore, store_url: str, name: str, *steps: Callable[[], object]
) -> list[object]:
    """Make calls that change a mailbox so that the lane makes them in one transaction.

    They are queued one after the other, while one more is in its way.
    """
    calls = []
    with locked(store_url, name):
        first = Call(lambda: store.mailboxes.delete(name, [2**50]))
        wait_until(lambda: store._lane._taken_at and not store._lane._waiting, "it is begun")
        for number, step in enumerate(steps, 1):
            calls.append(Call(step))
            wait_until(lambda number=number: len(store._lane._waiting) == number, "it waits")
    first.outcome()
    return [call.outcome() for call in calls]


# --- one transaction, and one order of locks


def test_two_who_send_copies_to_each_other_from_two_servers_never_deadlock(
    open_node: Open, store_url: str, postgres: PostgresEngine
) -> None:
    """Each transaction changes the mailbox of the one and that of the other."""
    nodes = open_node(), open_node()
    names = [f"box{number}" for number in range(6)]
    for name in names:
        nodes[0].mailboxes.create(name)
    log = postgres.data.parent / "log"
    before = log.read_text().count("deadlock detected")
    ends = time.monotonic() + 1.5

    def talk(seed: int) -> int:
        random = Random(seed)
        boxes = nodes[seed % 2].mailboxes
        count = 0
        while time.monotonic() < ends:
            sender, to = random.sample(names, 2)
            boxes.append(to, copied(sender, to))
            boxes.put_receipt(sender, PeerReceipt(to, to, NOW + count, NOW))
            count += 1
        return count

    calls = [Call(lambda seed=seed: talk(seed)) for seed in range(8)]  # type: ignore[misc]
    total = sum(int(call.outcome()) for call in calls)  # type: ignore[call-overload]
    assert log.read_text().count("deadlock detected") == before
    kept = [len(of_kind(nodes[0], name, kind)) for name in names for kind in TALK]
    assert sum(kept) == 2 * total, "each is there once as mail and once as a copy"
    assert PostgresqlUpkeep(store_url).check().faults == []


def test_a_copy_that_is_refused_takes_its_mail_along(open_node: Open, store_url: str) -> None:
    store = open_node()
    for name in ("ann", "bob"):
        store.mailboxes.create(name)
    run(
        store_url,
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE 'no space left' USING ERRCODE = 'disk_full'; END $$",
        "CREATE TRIGGER full_disk BEFORE INSERT ON copies "
        "FOR EACH STATEMENT EXECUTE FUNCTION full_disk()",
    )
    kept = copied("ann", "bob")
    with pytest.raises(StoreUnavailable):
        store.mailboxes.append("bob", kept)
    assert of_kind(store, "bob", Kind.MAIL) == of_kind(store, "ann", Kind.SENT) == ()
    run(store_url, "DROP TRIGGER full_disk ON copies")
    accepted = store.mailboxes.append("bob", kept)
    (mail,) = of_kind(store, "bob", Kind.MAIL)
    (copy,) = of_kind(store, "ann", Kind.SENT)
    assert mail.message_id == copy.message_id == accepted.message_id


def test_what_comes_in_one_transaction_is_bounded_as_what_comes_by_itself(
    open_node: Open, store_url: str
) -> None:
    store = open_node(MailboxPolicy(history_messages=3))
    boxes = store.mailboxes
    for name in ("ann", "bob"):
        boxes.create(name)

    def bodies() -> list[str]:
        return [each.body for each in of_kind(store, "ann", Kind.SENT)]

    def told() -> list[tuple[int, str, int]]:
        page = boxes.read("ann", 0, ALL, ALL, RECEIPT)
        return [(each.seq, each.username, each.n) for each in page.receipts]

    def receipt(peer: str, n: int) -> Callable[[], object]:
        return lambda: boxes.put_receipt("ann", PeerReceipt(peer, peer, n, NOW))

    def send(body: str) -> Callable[[], object]:
        return lambda: boxes.append("bob", copied("ann", "bob", body))

    in_one_transaction(store, store_url, "ann", *(send(f"{number}") for number in range(2)))
    assert bodies() == ["0", "1"]
    in_one_transaction(store, store_url, "ann", *(send(f"{number}") for number in range(2, 4)))
    assert bodies() == ["1", "2", "3"]
    in_one_transaction(store, store_url, "ann", *(send(f"{number}") for number in range(4, 9)))
    assert bodies() == ["6", "7", "8"], "two of those that came are gone by themselves"
    in_one_transaction(store, store_url, "ann", receipt("a", 1), receipt("a", 2), receipt("b", 1))
    assert told() == [(11, "a", 2), (12, "b", 1)]
    more = (("a", 3), ("c", 1), ("a", 3), ("a", 4), ("d", 1), ("b", 2))
    in_one_transaction(store, store_url, "ann", *(receipt(*each) for each in more))
    assert told() == [(15, "a", 4), (16, "d", 1), (17, "b", 2)]
    again = copied("ann", "bob", "again")
    results = in_one_transaction(store, store_url, "ann", *[lambda: boxes.append("bob", again)] * 3)
    assert len(set(results)) == 1
    assert bodies() == ["7", "8", "again"]
    seqs = [each.seq for each in of_kind(store, "ann", Kind.SENT)]
    gone = in_one_transaction(
        store,
        store_url,
        "ann",
        lambda: boxes.delete("ann", [seqs[0], 15, 99]),
        receipt("a", 4),
        send("last"),
        lambda: boxes.delete("ann", [15]),
    )
    assert (gone[0], gone[3]) == (2, 0)
    assert [each[1:] for each in told()] == [("d", 1), ("b", 2), ("a", 4)]
    assert bodies() == ["8", "again", "last"]
    assert PostgresqlUpkeep(store_url).check().faults == []


def test_what_has_aged_goes_a_few_at_a_time(open_node: Open) -> None:
    boxes = open_node(MailboxPolicy(history_days=1)).mailboxes
    for name in ("ann", "bob"):
        boxes.create(name)
    for number in range(20):
        boxes.append("bob", copied("ann", "bob", sent_at=NOW + number))
        boxes.put_receipt("ann", PeerReceipt(f"p{number}", "p", 1, NOW + number))
    for number, left in enumerate((13, 6, 3, 4)):
        late = NOW + 2 * DAY + number
        boxes.append("bob", copied("ann", "bob", sent_at=late))
        boxes.put_receipt("ann", PeerReceipt(f"late {number}", "p", 1, late))
        kept = boxes.read("ann", 0, ALL, ALL, EVERY_KIND)
        assert (len(kept.messages), len(kept.receipts)) == (left, left)
        shown = boxes.history("ann", None, ALL, ALL, late, kinds=EVERY_KIND)
        assert (len(shown.messages), len(shown.receipts)) == (number + 1, number + 1)


def test_a_mailbox_that_is_dropped_leaves_nothing(open_node: Open, store_url: str) -> None:
    boxes = open_node().mailboxes
    for name in ("ann", "bob"):
        boxes.create(name)
    boxes.append("bob", copied("ann", "bob"))
    boxes.append("ann", copied("bob", "ann"))
    boxes.put_receipt("ann", PeerReceipt("bob", "bob", 1, NOW))
    boxes.block("ann", Blocked("carl", "carl"))
    for name in ("ann", "bob"):
        boxes.drop(name)
    tables = ("messages", "copies", "receipts", "blocked", "acks", "send_ids", "dropped")
    every = " UNION ALL ".join(f"SELECT box FROM {table}" for table in tables)
    wait_until(lambda: not run(store_url, every), "it is swept")


@pytest.mark.parametrize("what", [Kind.SENT, Kind.RECEIPT])
def test_a_notice_that_is_lost_costs_the_time_of_a_look(open_node: Open, what: Kind) -> None:
    """Who watches mail alone is not woken by that look."""
    here, there = open_node(), open_node(reread_seconds=0.2)
    here._wakes.tell_news = lambda _: None  # type: ignore[method-assign] # swallowed
    here._wakes.telling_news = lambda _: None  # type: ignore[method-assign]
    for name in ("ann", "bob"):
        here.mailboxes.create(name)
    woken, by_mail = threading.Event(), threading.Event()
    there.mailboxes.on_mail("ann", by_mail.set)
    there.mailboxes.on_mail("ann", woken.set, frozenset({what}))
    for event in (woken, by_mail):
        wait_event(event, "it is looked at for the first time")
    for number in range(3):
        woken.clear()
        by_mail.clear()
        if what is Kind.SENT:
            here.mailboxes.append("bob", copied("ann", "bob"))
        else:
            here.mailboxes.put_receipt("ann", PeerReceipt("bob", "bob", number + 1, NOW))
        wait_event(woken, "it is woken without a notice")
        assert not by_mail.wait(0.5)
    woken.clear()
    assert not woken.wait(0.5), "and not when nothing has come"
    here.mailboxes.append("ann", copied("bob", "ann"))
    wait_event(by_mail, "mail is found as well")


# --- what it costs


def test_plain_mail_asks_for_nothing_of_conversations(open_node: Open) -> None:
    store = open_node()
    boxes = store.mailboxes
    for name in ("ann", "bob"):
        boxes.create(name)
    store._lane._settings_at = time.monotonic() + 60  # they are asked for now and then
    link = store._lane._keeper.link
    assert link is not None
    asked: list[list[str]] = []
    ask = link.ask

    def noted(*calls: Statement) -> Asked:
        asked.append([call.sql for call in calls])
        return ask(*calls)

    link.ask = noted  # type: ignore[method-assign]

    def calls(step: Callable[[], object]) -> list[int]:
        """Return how many statements each round trip of a call has."""
        asked.clear()
        step()
        return [len(each) for each in asked]

    plain = copied("ann", "bob")._replace(copy_to=None)
    assert calls(lambda: boxes.append("bob", plain)) == [3, 4]
    names = ("copies", "receipts", "blocked")
    tables = [f" {clause} {name}" for clause in ("FROM", "INTO") for name in names]
    assert not [sql for sqls in asked for sql in sqls if any(each in sql for each in tables)]
    assert calls(lambda: boxes.append("bob", plain._replace(send_id=None))) == [2, 3]
    assert calls(lambda: boxes.ack("bob", 1, NOW)) == [3, 3]
    # One reads the oldest, and one writes the copy: there are as many round trips.
    sent = copied("ann", "bob")
    assert calls(lambda: boxes.append("bob", sent)) == [4, 5]
    # Only a message that is sent again may have its copy.
    assert calls(lambda: boxes.append("bob", sent)) == [4, 1, 1]
    # And as many for an ack where copies lie between the mail.
    for _ in range(2):
        boxes.append("bob", copied("ann", "bob"))
        boxes.append("ann", copied("bob", "ann"))
    assert boxes.standing("ann").unread == 2
    assert calls(lambda: boxes.ack("ann", 3, NOW)) == [3, 3]
    assert boxes.standing("ann").unread == 1


def test_a_page_of_a_conversation_reads_that_alone(open_node: Open, store_url: str) -> None:
    """Whatever else is in the mailbox, and though the plan was made when it was empty."""
    policy = MailboxPolicy(mailbox_messages=50_000)
    store = open_node(policy)
    boxes = store.mailboxes
    boxes.create("ann")
    asked = f"'ann', {history_ends(policy, NOW)}, {2**62}, 51"
    pages = {
        "by_peer (text, bigint, bigint, bigint, text[], text, bigint)": conversations._HISTORY,
        "everybody (text, bigint, bigint, bigint)": conversations._CONVERSATIONS,
    }
    with store._reading.lend() as link:
        for name, sql in pages.items():
            link.execute(f"PREPARE {name} AS {sql}")

        def rows(call: str) -> float:
            ((plan,),) = link.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE {call}")
            return rows_of(plan[0]["Plan"])

        def few() -> None:
            for peer, name in (("p7", "p7"), ("nobody", "nobody"), ("nobody", "q7")):
                assert rows(f"by_peer ({asked}, ARRAY['{peer}'], '{name}', 7)") < 1_000
            assert rows(f"everybody ({asked})") < 4_000

        few()
        for number in range(2):
            fill(store_url, number * 10_000)
            few()
            run(store_url, "ANALYZE")
            few()
    page = boxes.history("ann", None, 50, ALL, NOW, kinds=TALK, peer=Peer("p7", "p7"))
    assert len(page.messages) == 50
    page = boxes.history("ann", None, 50, ALL, NOW, kinds=TALK, peer=Peer("nobody", "q7"))
    assert {each.sender for each in page.messages} == {"q7"}
    assert len(boxes.conversations("ann", None, 50, ALL, NOW).conversations) == 40


def fill(store_url: str, beyond: int) -> None:
    """Put 10,000 messages, as many of before, and copies into a mailbox, of 20 peers each."""
    values = f"lpad(number::text, 24, '0'), '{{}}' || number % 20, 'x', {NOW}"
    numbers = f"mailboxes, generate_series({beyond + 1}, {beyond + 10_000}) AS number"
    run(
        store_url,
        "INSERT INTO messages (box, seq, message_id, sender, body, sent_at, sender_id, n) "
        f"SELECT box, 3 * number, {values.format('p')}, 'p' || number % 20, number FROM {numbers}",
        "INSERT INTO messages (box, seq, message_id, sender, body, sent_at) "
        f"SELECT box, 3 * number + 1, {values.format('q')} FROM {numbers}",
        "INSERT INTO copies (box, seq, message_id, sender, body, sent_at, peer_id, peer, n) "
        f"SELECT box, 3 * number + 2, {values.format('ann')}, "
        f"'p' || number % 20, 'p' || number % 20, number FROM {numbers}",
        f"UPDATE mailboxes SET last = {3 * beyond + 40_000}, position = {3 * beyond + 29_000}",
    )


def rows_of(plan: dict[str, Any]) -> float:
    """Return how many rows the parts of a plan have found or passed over, all together."""
    found = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
    parts: list[dict[str, Any]] = plan.get("Plans", [])
    return float(plan["Actual Loops"] * found + sum(map(rows_of, parts)))


# --- what was there before


def test_mail_of_before_is_found_by_its_senders_names(open_node: Open, store_url: str) -> None:
    store = open_node()
    boxes = store.mailboxes
    for name in ("ann", "bob"):
        boxes.create(name)
    sent = copied("bob", "ann", "old")
    first = boxes.append("ann", sent._replace(copy_to=None))
    boxes.append("ann", copied("carl", "ann", "older"))
    run(
        store_url,
        "UPDATE messages SET sender_id = '', n = 0",
        "UPDATE send_ids SET n = 0",
        "UPDATE mailboxes SET newest = 0",
    )
    assert boxes.append("ann", sent) == first._replace(n=0)
    (copy,) = of_kind(store, "bob", Kind.SENT)
    assert (copy.message_id, copy.to, copy.n) == (first.message_id, "ann", 0)
    boxes.append("ann", copied("bob", "ann", "new"))
    boxes.append("bob", copied("ann", "bob", "answer"))

    def talk(peer: Peer) -> list[str]:
        page = boxes.history("ann", None, ALL, ALL, NOW, kinds=TALK, peer=peer)
        return [each.body for each in page.messages]

    assert talk(Peer("bob", "bob")) == ["old", "new", "answer"]
    assert talk(Peer("bob", "")) == ["new", "answer"]
    assert talk(Peer("another", "bob")) == ["old"]
    assert talk(Peer(None, "bob")) == ["old", "new", "answer"]
    assert talk(Peer(None, "carl")) == ["older"]
    page = boxes.conversations("ann", None, ALL, ALL, NOW)
    listed = [(each.account, each.last.body, each.unread) for each in page.conversations]
    assert listed == [("bob", "answer", 1), (None, "older", 1), (None, "old", 1)]
    look = MailboxLook("ann", 0, 1, ALL, 3, NOW)
    assert [each.sender_id for each in boxes.look(look).deliveries] == ["bob"]
    assert boxes.look(look).deliveries == ()
