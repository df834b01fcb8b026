"""Copies, receipts and conversations in Valkey: two scripts for a copy, and the index of peers."""

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from random import Random
from typing import Any

import pytest
from store_samples import ALL, DAY, account, draft
from valkey_engine import StartEngine, ValkeyCluster, ValkeyEngine
from waiting import Call, wait_event, wait_until

from twinline.core.errors import StoreUnavailable
from twinline.core.protocol import EVERY_KIND, MAIL_ALONE, TALK, Kind, Message
from twinline.core.store import (
    SEQ_JUMP,
    Blocked,
    Draft,
    Mailboxes,
    MailboxPolicy,
    Peer,
    PeerReceipt,
)
from twinline.stores.valkey import ValkeyStore, parse_url
from twinline.stores.valkey.box_scripts import INDEXED_AT_ONCE, PASSED_AT_ONCE
from twinline.stores.valkey.keys import BOX
from twinline.stores.valkey.mailboxes import ValkeyMailboxes
from twinline.stores.valkey.upkeep import ValkeyUpkeep
from twinline.stores.valkey.watches import Watches
from twinline.stores.valkey.wire import slot_of

Open = Callable[..., ValkeyStore]
NOW = 1_767_225_600_000
SENT = frozenset({Kind.SENT})
RECEIPT = frozenset({Kind.RECEIPT})


@pytest.fixture
def open_store() -> Iterator[Open]:
    """What opens a store, or one more node of it; all are closed after the test."""
    with ExitStack() as opened:

        def open_one(url: str, **policy: float) -> ValkeyStore:
            made = MailboxPolicy.model_validate(policy)
            return opened.enter_context(ValkeyStore(parse_url(url), made))

        yield open_one


def copied(sender: str, to: str, body: str = "hello", sent_at: int = NOW) -> Draft:
    """Return a message that asks for a copy, of an account whose id is its name."""
    made = draft(body, sender=sender, sent_at=sent_at)
    return made._replace(sender_id=sender, send_id=made.message_id, copy_to=to)


def of_kinds(store: ValkeyStore, name: str, kinds: frozenset[Kind]) -> list[str]:
    """Return the bodies of what is in a mailbox."""
    return [each.body for each in store.mailboxes.read(name, 0, ALL, ALL, kinds).messages]


def apart(cluster: ValkeyCluster, prefix: str) -> tuple[str, str]:
    """Return two account ids whose mailboxes two servers of a cluster have."""

    def port(name: str) -> int:
        return cluster.owner(slot_of(f"{prefix}{{{name}}}:b".encode())).port

    ann = "ann"
    bob = next(f"bob{number}" for number in range(1_000) if port(f"bob{number}") != port(ann))
    return ann, bob


def test_a_copy_that_a_part_of_the_cluster_refuses_leaves_the_send_in_doubt(
    valkey_cluster: ValkeyCluster, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watches, "notice", lambda *_: ())
    ann, bob = apart(valkey_cluster, "doubt:")
    store = open_store(valkey_cluster.url(prefix="doubt:"))
    for name in (ann, bob):
        store.mailboxes.create(name)
    woken = threading.Event()
    store.mailboxes.on_mail(bob, woken.set)
    first = copied(ann, bob)
    refusing = valkey_cluster.owner(slot_of(f"doubt:{{{ann}}}:b".encode()))
    refusing.set(min_replicas_to_write=1)
    try:
        with pytest.raises(StoreUnavailable) as raised:
            store.mailboxes.append(bob, first)
    finally:
        refusing.set(min_replicas_to_write=0)
    assert raised.value.in_doubt, "the message is stored, and its sender is told that it is not"
    wait_event(woken, "who waits for the message is woken")
    assert of_kinds(store, bob, MAIL_ALONE) == ["hello"]
    assert of_kinds(store, ann, SENT) == []
    accepted = store.mailboxes.append(bob, first._replace(message_id="f" * 24, sent_at=NOW + 9))
    assert accepted == (first.message_id, NOW, NOW)
    assert of_kinds(store, bob, MAIL_ALONE) == ["hello"]
    (copy,) = store.mailboxes.read(ann, 0, ALL, ALL, SENT).messages
    assert (copy.message_id, copy.sent_at, copy.n) == accepted


def test_a_copy_waits_for_a_slot_that_is_half_way(
    valkey_cluster: ValkeyCluster, open_store: Open
) -> None:
    ann, bob = apart(valkey_cluster, "way:")
    store = open_store(valkey_cluster.url(prefix="way:"))
    for name in (ann, bob):
        store.mailboxes.create(name)
    store.mailboxes.append(bob, copied(ann, bob, "before"))
    slot, source, target = valkey_cluster.begin_move(f"way:{{{ann}}}:b")
    # The mailbox is with the one, and its copies and what they are found by are with the other.
    valkey_cluster.move_keys(source, target, f"way:{{{ann}}}:b")
    again = copied(ann, bob, "meanwhile")
    sending = Call(lambda: store.mailboxes.append(bob, again))
    wait_until(lambda: len(of_kinds(store, bob, MAIL_ALONE)) == 2, "the message is stored")
    valkey_cluster.end_move(slot, source, target)
    assert sending.outcome().message_id == again.message_id
    assert of_kinds(store, ann, SENT) == ["before", "meanwhile"]
    peer = Peer(bob, bob)
    page = store.mailboxes.history(ann, None, 9, ALL, NOW, kinds=TALK, peer=peer)
    assert [each.body for each in page.messages] == ["before", "meanwhile"]


@contextmanager
def between(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> Iterator[None]:
    """Have something happen when a message is stored, and before its copy is."""
    copy = ValkeyMailboxes._copy

    def late(*arguments: Any) -> Any:
        happens()
        return copy(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(ValkeyMailboxes, "_copy", late)
        yield


def complete(store: ValkeyStore, ann: str, bob: str, first: Draft) -> Message:
    """Send again what is in doubt, and return the one copy of the one message."""
    again = first._replace(message_id="f" * 24, sent_at=first.sent_at + 9)
    accepted = store.mailboxes.append(bob, again)
    assert accepted == (first.message_id, first.sent_at, first.sent_at)
    assert store.mailboxes.append(bob, again) == accepted
    assert of_kinds(store, bob, MAIL_ALONE) == [first.body]
    (copy,) = store.mailboxes.read(ann, 0, ALL, ALL, SENT).messages
    assert (copy.message_id, copy.sent_at, copy.n) == accepted
    return copy


def test_a_copy_that_a_kill_has_prevented_is_completed_by_the_repeat(
    start_valkey: StartEngine, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start_valkey()
    store = open_store(engine.url())
    for name in ("ann", "bob"):
        store.mailboxes.create(name)
    first = copied("ann", "bob")
    with between(monkeypatch, engine.kill), pytest.raises(StoreUnavailable) as raised:
        store.mailboxes.append("bob", first)
    assert raised.value.in_doubt
    engine.start()
    wait_until(partial(is_up, store), "the store serves again")
    assert of_kinds(store, "bob", MAIL_ALONE) == ["hello"]
    assert of_kinds(store, "ann", SENT) == []
    assert complete(store, "ann", "bob", first).seq > SEQ_JUMP, "the engine is another by now"


def is_up(store: ValkeyStore) -> bool:
    try:
        return store.mailboxes.set_receipts("ann", receipts=True) is None
    except StoreUnavailable:
        return False


def test_a_copy_whose_answer_is_lost_is_there_once(
    start_valkey: StartEngine, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start_valkey(appendfsync="no")
    store = open_store(engine.url())
    for name in ("ann", "bob"):
        store.mailboxes.create(name)
    first = copied("ann", "bob")
    with between(monkeypatch, engine.pause):
        sending = Call(lambda: store.mailboxes.append("bob", first))
        with pytest.raises(StoreUnavailable) as raised:
            sending.outcome()
    assert raised.value.in_doubt
    engine.go_on()  # and it does what it was asked for
    wait_until(partial(is_up, store), "the store serves again")
    complete(store, "ann", "bob", first)


def test_a_sender_who_goes_before_the_copy_gets_none(
    valkey_cluster: ValkeyCluster, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = apart(valkey_cluster, "goes:")
    url = valkey_cluster.url(prefix="goes:")
    store, other = open_store(url), open_store(url)
    for name in (ann, bob):
        store.mailboxes.create(name)
    first = copied(ann, bob)
    with between(monkeypatch, lambda: other.mailboxes.drop(ann)):
        accepted = store.mailboxes.append(bob, first)
    assert store.mailboxes.append(bob, first) == accepted, "a repeat is refused"
    assert of_kinds(store, bob, MAIL_ALONE) == ["hello"]
    owner = valkey_cluster.owner(slot_of(f"goes:{{{ann}}}:b".encode()))
    assert owner.command("EXISTS", *[f"goes:{{{ann}}}:{kind}" for kind in BOX]) == 0


def test_a_part_of_the_cluster_that_has_lost_a_copy_gets_it_again(
    valkey_cluster: ValkeyCluster, open_store: Open
) -> None:
    ann, bob = apart(valkey_cluster, "tail:")
    url = valkey_cluster.url(prefix="tail:")
    store = open_store(url)
    for name in (ann, bob):
        store.mailboxes.create(name)
    first = copied(ann, bob)
    owner = valkey_cluster.owner(slot_of(f"tail:{{{ann}}}:b".encode()))
    box, *others = (f"tail:{{{ann}}}:{kind}" for kind in BOX)
    before = owner.command("HGETALL", box)
    store.mailboxes.append(bob, first)
    (seen,) = store.mailboxes.read(ann, 0, ALL, ALL, SENT).messages
    # As a replica has it that takes the place of its primary, and was behind it.
    for key in (box, *others):
        owner.command("UNLINK", key)
    owner.command("HSET", box, *[each for pair in before.items() for each in pair])
    owner.command("DEBUG", "CHANGE-REPL-ID")
    store.health()
    assert store.mailboxes.read(ann, seen.seq, 9, ALL, SENT).messages == ()
    copy = complete(store, ann, bob, first)
    assert copy.seq > SEQ_JUMP, "who has read what was lost does not see it"
    assert ValkeyUpkeep(url).check().faults == []


def test_a_failover_that_loses_the_tail_buries_no_copy_and_no_receipt(
    start_valkey: StartEngine, open_store: Open
) -> None:
    primary = start_valkey()
    replica = primary.replica()
    try:
        store = open_store(primary.url(prefix="talk:"))
        for name in ("ann", "bob"):
            store.mailboxes.create(name)
        store.mailboxes.append("bob", copied("ann", "bob", "kept"))
        store.mailboxes.put_receipt("ann", PeerReceipt("bob", "bob", NOW, NOW))
        wait_until(
            lambda: replica.command("HGET", "talk:{ann}:b", "l") == "2", "the replica has it"
        )
        replica.promote()  # and so it gets nothing of what comes
        lost = copied("ann", "bob", "lost", NOW + 1)
        store.mailboxes.append("bob", lost)
        store.mailboxes.put_receipt("ann", PeerReceipt("bob", "bob", NOW + 1, NOW))
        seen = store.mailboxes.read("ann", 0, ALL, ALL, EVERY_KIND).seen
        assert seen == 4
        primary.kill()
        url = replica.url(prefix="talk:")
        boxes = open_store(url).mailboxes
        page = boxes.read("ann", seen, 9, ALL, EVERY_KIND)
        assert (page.messages, page.receipts, page.seen) == ((), (), seen)
        accepted = boxes.append("bob", lost)
        boxes.put_receipt("ann", PeerReceipt("bob", "bob", accepted.n, NOW))
        page = boxes.read("ann", seen, 9, ALL, EVERY_KIND)
        assert [each.body for each in page.messages] == ["lost"]
        assert [each.n for each in page.receipts] == [accepted.n]
        assert page.messages[0].seq > SEQ_JUMP
        talk = boxes.history("ann", None, 9, ALL, NOW, kinds=EVERY_KIND, peer=Peer("bob", "bob"))
        assert [each.body for each in talk.messages] == ["kept", "lost"]
        assert len(talk.receipts) == 1
        assert ValkeyUpkeep(url).check().faults == []
    finally:
        replica.close()


def test_a_lost_notice_wakes_who_takes_what_has_come_and_nobody_else(
    valkey: ValkeyEngine, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watches, "notice", lambda *_: ())
    url = valkey.url(prefix="lost:")
    here, there = open_store(url), open_store(url)
    there._chores.close()  # so that it reads again when it is told to
    for name in ("ann", "bob"):
        here.mailboxes.create(name)
    here.mailboxes.append("ann", copied("bob", "ann"))
    woken, numbers = Counter[Kind](), count(1)
    for kind in Kind:
        there.mailboxes.on_mail("ann", partial(woken.update, [kind]), frozenset({kind}))

    def come(kind: Kind) -> None:
        if kind is Kind.MAIL:
            here.mailboxes.append("ann", copied("bob", "ann"))
        elif kind is Kind.SENT:
            here.mailboxes.append("bob", copied("ann", "bob"))
        else:
            here.mailboxes.put_receipt("ann", PeerReceipt("bob", "bob", next(numbers), NOW))

    # Each kind behind each other one, and two of them in one reading.
    order = [Kind.SENT, Kind.MAIL, Kind.RECEIPT, Kind.SENT, Kind.RECEIPT, Kind.MAIL, Kind.MAIL]
    for kinds in [[each] for each in order] + [
        [Kind.MAIL, Kind.SENT],
        [Kind.RECEIPT, Kind.MAIL],
        [Kind.SENT, Kind.RECEIPT],
        list(Kind),
    ]:
        for kind in kinds:
            come(kind)
        woken.clear()
        there._watches.read_again(everything=True)
        assert woken == Counter(kinds), f"{kinds} came"
        there._watches.read_again(everything=True)
        assert woken == Counter(kinds), "somebody is woken twice for one entry"


def test_the_index_has_all_of_a_mailbox_whatever_is_done_to_it(
    valkey: ValkeyEngine, open_store: Open
) -> None:
    randomly, url = Random(19), valkey.url(prefix="index:")
    store = open_store(url, history_messages=12, history_days=2, mailbox_messages=40)
    boxes, people = store.mailboxes, ("ann", "bob", "carl", "dora")
    for name in people:
        boxes.create(name)
    now, asked = NOW, 0
    for number in range(1_200):
        now += randomly.choice((0, 1, 1, DAY // 9))
        one, other = randomly.sample(people, 2)
        action = randomly.random()
        everything = boxes.read(one, 0, ALL, ALL, EVERY_KIND)
        found = [*everything.messages, *everything.receipts]
        if action < 0.55 and boxes.standing(other).unread < 40:
            boxes.append(other, copied(one, other, f"{number}", now))
        elif action < 0.65:
            boxes.put_receipt(one, PeerReceipt(other, other, now, now))
        elif action < 0.85 and found:
            boxes.ack(one, randomly.choice(found).seq, now)
        elif action < 0.9 and found:
            boxes.delete(one, [each.seq for each in randomly.sample(found, min(3, len(found)))])
        else:
            asked += talks_are_right(store, one, people, now)
        if number % 60 == 0:
            assert ValkeyUpkeep(url).check().faults == []
    assert ValkeyUpkeep(url).check().faults == []
    assert asked > 40
    for name in people:
        boxes.drop(name)
        assert valkey.command("KEYS", f"index:{{{name}}}:*") == []


def talks_are_right(store: ValkeyStore, name: str, people: tuple[str, ...], now: int) -> bool:
    """Compare the conversations of a mailbox with its history; return whether it has any."""
    boxes = store.mailboxes
    everything: dict[str, list[Message]] = {}
    for each in boxes.history(name, None, ALL, ALL, now, kinds=TALK).messages:
        everything.setdefault(each.to or each.sender, []).append(each)
    for peer in people:
        page = boxes.history(name, None, ALL, ALL, now, kinds=TALK, peer=Peer(peer, peer))
        assert list(page.messages) == everything.get(peer, [])
        named = boxes.history(name, None, ALL, ALL, now, kinds=TALK, peer=Peer(None, peer))
        assert named == page
    position = boxes.standing(name).position
    talks = boxes.conversations(name, None, ALL, ALL, now).conversations
    newest = sorted(everything.items(), key=lambda each: -each[1][-1].seq)
    assert [(each.username, each.last) for each in talks] == [
        (peer, messages[-1]) for peer, messages in newest
    ]
    unread = [
        sum(each.to is None and each.seq > position for each in messages) for _, messages in newest
    ]
    assert [each.unread for each in talks] == unread
    return bool(everything)


def test_a_conversation_that_is_asked_for_first_is_indexed_in_pieces(
    start_valkey: StartEngine, open_store: Open
) -> None:
    engine = start_valkey(appendfsync="no")
    boxes = quiet(open_store(engine.url(prefix="pieces:")))
    boxes.create("bob")
    many = 2 * INDEXED_AT_ONCE + 50
    for number in range(many):
        boxes.append("bob", draft(f"{number}", sender="ann" if number % 2 else "carl"))
    assert engine.command("EXISTS", "pieces:{bob}:y") == 0, "a send puts mail into the index"
    engine.command("CONFIG", "RESETSTAT")
    page = boxes.history("bob", None, 3, ALL, NOW, peer=Peer("id-ann", "ann"))
    assert [each.body for each in page.messages] == [f"{many - back}" for back in (5, 3, 1)]
    assert calls_of(engine)["evalsha"] == 3
    boxes.append("bob", draft("last", sender="ann"))
    engine.command("CONFIG", "RESETSTAT")
    talks = boxes.conversations("bob", None, 9, ALL, NOW).conversations
    assert [(each.username, each.last.body, each.unread) for each in talks] == [
        ("ann", "last", many // 2 + 1),
        ("carl", f"{many - 2}", many // 2),
    ]
    assert calls_of(engine)["evalsha"] == 1


def quiet(store: ValkeyStore) -> Mailboxes:
    """Return the mailboxes of a store that asks its engine nothing by itself any more."""
    store._chores.close()
    return store.mailboxes


def calls_of(engine: ValkeyEngine) -> Counter[str]:
    """Return how often each command on a mailbox was made since the counts were reset."""
    stats: Any = engine.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): int(of["calls"]) for name, of in stats.items()}
    return Counter({name: count for name, count in calls.items() if name[0] in "exz"})


def test_a_page_of_a_conversation_reads_no_more_than_itself(
    valkey: ValkeyEngine, open_store: Open
) -> None:
    boxes = quiet(open_store(valkey.url(prefix="page:"), history_messages=1_000))
    for name in ("ann", "bob", "carl"):
        boxes.create(name)
    for number in range(40):
        boxes.append("ann", copied("carl", "ann", f"{number}"))
        if number % 10 == 0:
            boxes.append("ann", copied("bob", "ann", f"to ann {number}"))
            boxes.append("bob", copied("ann", "bob", f"to bob {number}"))
    boxes.conversations("ann", None, 1, ALL, NOW)
    valkey.command("CONFIG", "RESETSTAT")
    page = boxes.history("ann", None, 2, ALL, NOW, kinds=TALK, peer=Peer("bob", "bob"))
    assert [each.body for each in page.messages] == ["to ann 30", "to bob 30"]
    # Those of the page, the one behind it, and a look for what is not in the index.
    assert calls_of(valkey)["xrange"] == 4
    assert calls_of(valkey)["zrevrangebylex"] == 4


def test_a_page_of_conversations_reads_no_more_than_itself(
    valkey: ValkeyEngine, open_store: Open
) -> None:
    boxes = quiet(open_store(valkey.url(), mailbox_messages=ALL))
    boxes.create("ann")
    spent: list[Counter[str]] = []
    for number in range(400):
        boxes.append("ann", draft(f"{number}", sender=f"p{number}"))
        if number not in {40, 399}:
            continue
        (last,) = boxes.conversations("ann", None, 1, ALL, NOW).conversations
        valkey.command("CONFIG", "RESETSTAT")
        page = boxes.conversations("ann", last.last.seq, 3, ALL, NOW)
        assert [each.last.body for each in page.conversations] == [
            f"{number - back}" for back in (1, 2, 3)
        ]
        assert page.more
        spent.append(calls_of(valkey))
    assert spent[0] == spent[1], "a page costs more where there are more conversations"


def test_a_conversation_ends_with_mail_that_went_before_it_was_indexed(
    valkey: ValkeyEngine, open_store: Open
) -> None:
    url = valkey.url()
    boxes = open_store(url, history_messages=0).mailboxes
    boxes.create("ann")
    boxes.append("ann", draft("indexed"))
    assert len(boxes.conversations("ann", None, 9, ALL, NOW).conversations) == 1
    boxes.append("ann", draft("not yet"))
    boxes.ack("ann", 2, NOW)
    assert boxes.conversations("ann", None, 9, ALL, NOW).conversations == ()
    assert ValkeyUpkeep(url).check().faults == []


def test_copies_that_have_aged_are_passed_some_at_a_time(
    start_valkey: StartEngine, open_store: Open
) -> None:
    engine = start_valkey(appendfsync="no")
    policy = {"history_days": 1, "history_messages": 5_000}
    boxes = quiet(open_store(engine.url(prefix="aged:"), **policy))
    for name in ("ann", "bob", "carl"):
        boxes.create(name)
    boxes.append("ann", draft("from bob", sender="bob")._replace(sender_id="bob"))
    boxes.append("carl", copied("ann", "carl", "younger", NOW + DAY // 2))
    many = 2 * PASSED_AT_ONCE + 50
    for number in range(many):
        to = ("bob", "carl")[number % 2]
        boxes.append(to, copied("ann", to, f"{number}"))
    engine.command("CONFIG", "RESETSTAT")
    page = boxes.conversations("ann", None, 9, ALL, NOW + DAY).conversations
    assert [(each.username, each.last.body) for each in page] == [
        ("carl", "younger"),
        ("bob", "from bob"),
    ]
    assert calls_of(engine)["evalsha"] == 3
    assert engine.command("XLEN", "aged:{ann}:s") == 1


def test_who_is_gone_is_looked_for_some_at_a_time(
    start_valkey: StartEngine, open_store: Open
) -> None:
    engine = start_valkey(appendfsync="no")
    boxes = quiet(open_store(engine.url(prefix="gone:"), mailbox_messages=ALL))
    for name in ("ann", "bob"):
        boxes.create(name)
    for number in range(PASSED_AT_ONCE + 50):
        boxes.append("ann", draft(f"{number}", sender=f"p{number}"))
    for own_id, body in (("0", "first"), ("~", "second")):
        boxes.append("ann", draft(body, sender="dora")._replace(sender_id=own_id))
    boxes.append("bob", copied("ann", "dora", "to the third"))
    boxes.conversations("ann", None, 1, ALL, NOW)
    engine.command("CONFIG", "RESETSTAT")
    page = boxes.history("ann", None, 9, ALL, NOW, kinds=TALK, peer=Peer(None, "dora"))
    assert [each.body for each in page.messages] == ["first", "second", "to the third"]
    assert calls_of(engine)["evalsha"] == 3, "two pieces of the search, and the page"
    nobody = boxes.history("ann", None, 9, ALL, NOW, kinds=TALK, peer=Peer(None, "nobody"))
    assert nobody.messages == ()


class Box:
    """The keys of a mailbox, for who damages them."""

    def __init__(self, engine: ValkeyEngine, prefix: str, account_id: str) -> None:
        self._engine = engine
        self._place = f"{prefix}{{{account_id}}}:"

    def __call__(self, command: str, kind: str, *arguments: object) -> Any:
        return self._engine.command(command, self._place + kind, *arguments)

    def drop_member(self, letter: str) -> None:
        """Take something out of the index."""
        (member, *_) = self("ZRANGEBYLEX", "y", f"[{letter}", f"({chr(ord(letter) + 1)}")
        self("ZREM", "y", member)

    def last(self, kind: str) -> tuple[str, list[str]]:
        """Return the id and the fields of the last entry of a kind."""
        ((place, fields),) = self("XREVRANGE", kind, "+", "-", "COUNT", 1)
        return place, [each for pair in fields.items() for each in pair]

    def lose(self, kind: str) -> None:
        """Delete the last entry of a kind, and nothing else."""
        self("XDEL", kind, self.last(kind)[0])

    def add(self, kind: str, *fields: str, **numbers: int) -> None:
        """Add an entry, and nothing else but what the mailbox counts."""
        self("XADD", kind, "50-0", *fields)
        self("HSET", "b", "l", 50, *[each for pair in numbers.items() for each in pair])


EVERYTHING = ["from bob", "from carl", "to bob", "to carl", "bob has read", "carl has read"]
INDEX = "1 mailboxes whose messages, copies and receipts are not all found"
UNREAD = "1 mailboxes with messages, copies or receipts that cannot be read"
NUMBERS = "1 mailboxes that count other messages"
# What is done to a mailbox, what is said of that, and what is not there any more.
DAMAGES: dict[str, tuple[Callable[[Box], object], str, list[str]]] = {
    "a message is not indexed": (lambda box: box.drop_member("m"), INDEX, []),
    "a copy is not indexed": (lambda box: box.drop_member("s"), INDEX, []),
    "a receipt is not indexed": (lambda box: box.drop_member("r"), INDEX, []),
    "a copy's message is not": (lambda box: box.drop_member("c"), INDEX, []),
    "nothing is indexed": (lambda box: box("DEL", "y"), INDEX, []),
    "there is no conversation": (lambda box: box("DEL", "c"), INDEX, []),
    "a conversation is too low": (lambda box: box("ZADD", "c", 1, "bob"), INDEX, []),
    "a conversation is too high": (lambda box: box("ZADD", "c", 99, "bob"), INDEX, []),
    "a conversation has nothing": (lambda box: box("ZADD", "c", 2, "x"), INDEX, []),
    "a place has no message": (lambda box: box("ZADD", "y", 0, f"mx\0{9:016}"), INDEX, []),
    "a place has another's copy": (lambda box: box("ZADD", "y", 0, f"sx\0{1:016}:1"), INDEX, []),
    "a place says nothing": (lambda box: box("ZADD", "y", 0, "z"), INDEX, []),
    "mail has a place too early": (lambda box: box("HSET", "b", "i", 1), INDEX, []),
    "mail has none that should": (lambda box: box("ZADD", "y", 0, f"mx\0{2:016}"), INDEX, []),
    "a copy is lost": (lambda box: box.lose("s"), INDEX, ["to carl"]),
    "a receipt is lost": (lambda box: box.lose("r"), INDEX, ["carl has read"]),
    "all copies are lost": (lambda box: box("DEL", "s"), INDEX, ["to bob", "to carl"]),
    "a copy is double": (lambda box: box.add("s", *box.last("s")[1], s=50), INDEX, []),
    "a receipt is double": (lambda box: box.add("r", *box.last("r")[1], d=50), INDEX, []),
    "a message is bytes": (lambda box: box.add("m", "h", "x", "b", "y", n=2), UNREAD, []),
    "a message has no body": (lambda box: box.add("m", "h", box.last("m")[1][1]), UNREAD, []),
    "a copy has no sender": (
        lambda box: box.add("s", "h", box.last("m")[1][1], "b", "", s=50),
        UNREAD,
        [],
    ),
    "a receipt has no time": (
        lambda box: box.add("r", "h", "bob\0bob\0\0\x001", "b", "", d=50),
        UNREAD,
        [],
    ),
    "a message is lost": (lambda box: box.lose("m"), "1 .*count of unread", ["from carl"]),
    "too many are unread": (lambda box: box("HINCRBY", "b", "n", 1), "1 .*count of unread", []),
    "the last seq is too low": (lambda box: box("HSET", "b", "l", 4), "1 .*beyond the last", []),
    "the highest number is too low": (lambda box: box("HSET", "b", "w", 1), NUMBERS, []),
    "the last copy is another": (lambda box: box("HSET", "b", "s", 1), NUMBERS, []),
    "the last receipt is unknown": (lambda box: box("HDEL", "b", "d"), NUMBERS, []),
    "the last copy is to come": (lambda box: box("HSET", "b", "s", 99), NUMBERS, []),
    "a blocked account is uncounted": (lambda box: box("HSET", "b", "f", 0), NUMBERS, []),
    "a counted one is not blocked": (lambda box: box("DEL", "f"), NUMBERS, []),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_of_a_mailbox_is_told_and_made_again(
    valkey: ValkeyEngine, damage: str
) -> None:
    break_it, says, lost = DAMAGES[damage]
    url = valkey.url()
    upkeep = ValkeyUpkeep(url)
    with ValkeyStore(parse_url(url), MailboxPolicy()) as store:
        boxes = store.mailboxes
        for name in ("ann", "bob", "carl"):
            boxes.create(name)
        for n, peer in enumerate(("bob", "carl"), start=1):
            boxes.append(peer, copied("ann", peer, f"to {peer}"))
            boxes.append("ann", copied(peer, "ann", f"from {peer}"))
            boxes.put_receipt("ann", PeerReceipt(peer, peer, n, NOW))
        boxes.ack("ann", 3, NOW)
        boxes.block("ann", Blocked("dora", "dora"))
        boxes.conversations("ann", None, 1, ALL, NOW)
        assert found_by_peers(store) == sorted(EVERYTHING)
    assert upkeep.check().faults == []
    break_it(Box(valkey, url.partition("=")[2], "ann"))
    faults = upkeep.check().faults
    assert any(re.match(says, fault) for fault in faults), faults
    assert "1 mailboxes were counted and indexed anew" in upkeep.repair()
    assert (upkeep.check().faults, upkeep.repair()) == ([], [])
    with ValkeyStore(parse_url(url), MailboxPolicy()) as store:
        boxes = store.mailboxes
        assert found_by_peers(store) == sorted({*EVERYTHING} - {*lost})
        assert boxes.standing("ann").unread == (0 if "from carl" in lost else 1)
        accepted = boxes.append("ann", copied("bob", "ann", "again"))
        assert accepted.n > NOW
        boxes.append("bob", copied("ann", "bob", "and back"))
        boxes.put_receipt("ann", PeerReceipt("bob", "bob", 9, NOW))
        last = boxes.conversations("ann", None, 1, ALL, NOW).conversations[0]
        assert (last.username, last.last.body, last.unread) == ("bob", "and back", 1)
    assert upkeep.check().faults == []


def test_a_check_finds_nothing_wrong_while_a_server_works(
    valkey: ValkeyEngine, open_store: Open
) -> None:
    url = valkey.url()
    store = open_store(url, history_messages=20, mailbox_messages=ALL)
    boxes, people = store.mailboxes, ("ann", "bob", "carl")
    for name in people:
        boxes.create(name)
    stop = threading.Event()

    def work() -> int:
        randomly, number = Random(7), 0
        while not stop.is_set():
            number += 1
            one, other = randomly.sample(people, 2)
            boxes.append(other, copied(one, other, f"{number}", NOW + number))
            boxes.put_receipt(one, PeerReceipt(other, other, NOW + number, NOW))
            if number % 7 == 0:
                boxes.conversations(one, None, 9, ALL, NOW)
            if number % 11 == 0:
                boxes.ack(other, boxes.read(other, 0, 1, ALL).seen, NOW)
            if number % 13 == 0:
                boxes.block(one, Blocked(f"{number}", f"{number}"))
                boxes.unblock(one, f"{number}")
            if number % 97 == 0:
                boxes.drop(one)
                boxes.create(one)
        return number

    working = Call(work)
    try:
        found = [ValkeyUpkeep(url).check().faults for _ in range(15)]
    finally:
        stop.set()
    assert working.outcome() > 40
    assert found == [[]] * 15


def found_by_peers(store: ValkeyStore) -> list[str]:
    """Return all that ann has with others, found by these, if it is also what she has in all."""
    boxes, found = store.mailboxes, []
    for peer in ("bob", "carl"):
        page = boxes.history("ann", None, 9, ALL, NOW, kinds=EVERY_KIND, peer=Peer(peer, peer))
        found += [each.body for each in page.messages]
        found += [f"{each.username} has read" for each in page.receipts]
    everything = boxes.read("ann", 0, ALL, ALL, EVERY_KIND)
    assert len(found) == len(everything.messages) + len(everything.receipts)
    return sorted(found)


def test_a_mailbox_that_is_gone_leaves_no_copies_receipts_or_block_list(
    valkey: ValkeyEngine, open_store: Open
) -> None:
    store = open_store(valkey.url(prefix="left:"))
    boxes, ids = store.mailboxes, [account(name).account_id for name in ("ann", "bob")]
    for each in ids:
        boxes.create(each)
    ann, bob = ids
    boxes.append(bob, copied(ann, bob)._replace(sender_id=ann))
    boxes.put_receipt(ann, PeerReceipt(bob, "bob", 1, NOW))
    boxes.block(ann, Blocked(bob, "bob"))
    for kind in "srfy":
        assert valkey.command("EXISTS", f"left:{{{ann}}}:{kind}") == 1
    boxes.drop(ann)
    assert valkey.command("KEYS", f"left:{{{ann}}}:*") == []
    # A copy for who is gone by now is none, and no error.
    boxes.append(bob, copied(ann, bob)._replace(sender_id=ann))
    assert valkey.command("KEYS", f"left:{{{ann}}}:*") == []
