"""What becomes of sends, watches and sessions when the engine fails, stops, or becomes another."""

import os
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from random import Random
from typing import Any

import pytest
from fault_proxy import Fault, FaultProxy
from store_samples import account, draft, session
from valkey_engine import StartCluster, StartEngine, ValkeyCluster, ValkeyEngine
from waiting import Call, join, wait_event, wait_until

from twinline.core.deadline import Deadline
from twinline.core.errors import CursorInvalid, InvitationInvalid, NoSuchUser, StoreUnavailable
from twinline.core.store import (
    SEQ_JUMP,
    Accepted,
    Durability,
    Invitation,
    MailboxPolicy,
    Standing,
    Store,
)
from twinline.stores.shared.opening import SchemaTooNew, StoreNotOpened
from twinline.stores.valkey import ValkeyStore, greeting, parse_url, wire
from twinline.stores.valkey.chores import READ_AGAIN_SECONDS
from twinline.stores.valkey.keys import FORMAT
from twinline.stores.valkey.lane import plain
from twinline.stores.valkey.upkeep import ValkeyUpkeep
from twinline.stores.valkey.watches import Watches
from twinline.transports.endpoints import Endpoint

SOON = 1.0  # seconds: what a notice brings, or a connection that is made anew
ALL = 10**6
Open = Callable[..., ValkeyStore]


@pytest.fixture
def open_store() -> Iterator[Open]:
    """What opens a store, or one more node of it; all are closed after the test."""
    with ExitStack() as opened:

        def open_one(url: str | ValkeyStore, **options: Any) -> ValkeyStore:
            target = url.target if isinstance(url, ValkeyStore) else parse_url(url)
            return opened.enter_context(ValkeyStore(target, **options))

        yield open_one


class Watcher:
    """Somebody who watches a mailbox, and reads when woken."""

    def __init__(self, store: Store, account_id: str) -> None:
        self._store = store
        self._account_id = account_id
        self._woken = threading.Event()
        self.unsubscribe = store.mailboxes.on_mail(account_id, self._woken.set)
        self.bodies: list[str] = []
        self.seqs: list[int] = []

    def reads(self, body: str, seconds: float) -> None:
        """Wait to be woken for a message."""
        deadline = time.monotonic() + seconds
        while body not in self.bodies:
            left = deadline - time.monotonic()
            assert self._woken.wait(max(left, 0)), f"{body!r} wakes nobody in {seconds} s"
            self._woken.clear()
            self.look()

    def look(self) -> None:
        """Read what lies beyond what was read, as a client does."""
        after = self.seqs[-1] if self.seqs else 0
        for message in self._store.mailboxes.read(self._account_id, after, 99, ALL).messages:
            self.bodies.append(message.body)
            self.seqs.append(message.seq)


def bodies(store: Store, account_id: str = "bob") -> list[str]:
    """Return what is in a mailbox."""
    return [each.body for each in store.mailboxes.read(account_id, 0, ALL, ALL).messages]


def test_notices_come_where_a_process_has_many_descriptors(
    open_store: Open, valkey: ValkeyEngine
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = min(4_096, hard)
    if soft < 2_048:
        pytest.skip(f"this system allows {hard} open files")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    held: list[int] = []
    try:
        while not held or held[-1] < 1_100:
            held.append(os.open(os.devnull, os.O_RDONLY))
        store = open_store(valkey.url())
        other = open_store(store)
        store.mailboxes.create("bob")
        watcher = Watcher(store, "bob")
        other.mailboxes.append("bob", draft("one"))
        watcher.reads("one", SOON)
    finally:
        for each in held:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_an_engine_that_has_started_again_is_not_asked_to_close_connections_of_before(
    open_store: Open, valkey: ValkeyEngine
) -> None:
    store = open_store(valkey.url())
    (peer,) = store._engine.peers()
    assert peer.greeting is not None
    with closing(valkey.client()) as others:
        number = str(others.execute_command("CLIENT", "ID")).encode()
        lost = replace(peer.greeting, connection_id=number, run_id=b"that of before")
        peer.lose(lost)
        store.mailboxes.create("bob")
        assert others.execute_command("CLIENT", "ID") == int(number), "it was closed"
        peer.lose(replace(lost, run_id=peer.greeting.run_id))
        store.mailboxes.append("bob", draft("one"))
        assert not peer.lost(peer.greeting.run_id)
        assert others.execute_command("CLIENT", "ID") != int(number), "it was not closed"


# -- the engine stops, and fails ----------------------------------------------------------------


def test_a_paused_engine_costs_seconds_and_doubt(
    start_valkey: StartEngine, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start_valkey()
    store = open_store(engine.url())
    boxes = store.mailboxes
    boxes.create("bob")
    boxes.append("bob", draft("before"))
    watcher = Watcher(store, "bob")
    doubts = [f"doubt {number}" for number in range(20)]
    with one_pipeline(store, monkeypatch, len(doubts)):
        engine.pause()
        begun = time.monotonic()
        sends = [Call(partial(boxes.append, "bob", draft(doubt))) for doubt in doubts]
    reads = Call(lambda: boxes.read("bob", 0, 9, ALL))
    for send in sends:
        with pytest.raises(StoreUnavailable) as raised:
            send.outcome()
        assert raised.value.in_doubt
    with pytest.raises(StoreUnavailable) as raised:
        reads.outcome()
    assert not raised.value.in_doubt
    assert time.monotonic() - begun < 8
    # Nothing is asked of an engine that has not answered; so this is not in doubt.
    with pytest.raises(StoreUnavailable) as raised:
        boxes.append("bob", draft("refused"))
    assert not raised.value.in_doubt
    engine.go_on()
    appended(store, "after")
    found = bodies(store)
    assert found[0] == "before"
    assert found[-1] == "after", "what was in doubt was done behind what was asked for later"
    assert set(found[1:-1]) <= set(doubts)
    assert len(set(found)) == len(found)
    watcher.reads("after", 10)
    health = store.health()
    assert health.durability is Durability.DISK
    assert health.lag_seconds < 3


@contextmanager
def one_pipeline(store: ValkeyStore, monkeypatch: pytest.MonkeyPatch, calls: int) -> Iterator[None]:
    """Have the lane of what is short take no calls in the block, and then all that wait at once."""
    lane = store._engine._lanes[store.target.addresses[0], False]
    full = threading.Event()
    take = lane._take

    def take_later() -> Any:
        wait_event(full, "all calls wait")
        return take()

    with monkeypatch.context() as patched:
        patched.setattr(lane, "_take", take_later)
        lane._work.wake()
        yield
        wait_until(lambda: len(lane._waiting) >= calls, "all calls wait")
        full.set()


def test_a_touch_waits_no_longer_than_a_moment(start_valkey: StartEngine, open_store: Open) -> None:
    engine = start_valkey()
    accounts = open_store(engine.url()).accounts
    ann, ann_session = account("ann"), session("token")
    accounts.create(ann)
    accounts.open_session(ann_session)
    engine.pause()
    begun = time.monotonic()
    accounts.touch_session(ann_session.key, ann_session.used_at + 1)
    waited = time.monotonic() - begun
    engine.go_on()
    assert waited < 2, "a request waits for a note that promises nothing"


def test_what_the_network_held_back_is_not_done_behind_what_came_later(
    valkey: ValkeyEngine, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "ANSWER_SECONDS", 0.3)
    with FaultProxy(Endpoint.parse(f"tcp://{valkey.address}")) as proxy:
        url = valkey.url().replace(f":{valkey.port}", f":{proxy.endpoint.port}")
        store = open_store(url)
        store._chores.close()  # so that it asks nothing meanwhile
        store.mailboxes.create("bob")
        held = proxy.routes[-1]
        held.up.fault = Fault(delay=1.5)
        with pytest.raises(StoreUnavailable) as raised:
            store.mailboxes.append("bob", draft("held back"))
        assert raised.value.in_doubt
        appended(store, "later")
        held.up.join()  # what it held has come to the engine, or there is nobody for it
        assert bodies(store) == ["later"]
        store.close()


def appended(store: Store, body: str, account_id: str = "bob", seconds: float = 15) -> None:
    """Send a message, as soon as the store takes it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            store.mailboxes.append(account_id, draft(body))
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise
        else:
            return


def test_nothing_acknowledged_is_lost_by_a_kill(
    start_valkey: StartEngine, open_store: Open
) -> None:
    engine = start_valkey()
    store = open_store(engine.url())
    assert store.durability is Durability.DISK
    store.mailboxes.create("bob")
    acknowledged: SimpleQueue[str] = SimpleQueue()
    doubted: SimpleQueue[str] = SimpleQueue()
    stop = threading.Event()

    def send(number: int) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            body = f"{number}/{count}"
            try:
                store.mailboxes.append("bob", draft(body, send_id=body))
            except StoreUnavailable as error:
                if error.in_doubt:
                    doubted.put(body)
                else:
                    time.sleep(0.01)
            else:
                acknowledged.put(body)

    threads = [threading.Thread(target=send, args=(n,), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    for round_ in range(1, 4):
        wait_until(lambda: acknowledged.qsize() >= 150 * round_, "messages are sent")  # noqa: B023 - called at once
        engine.kill()
        engine.start()
    so_far = acknowledged.qsize()
    wait_until(lambda: acknowledged.qsize() > so_far, "messages are sent again")
    stop.set()
    for thread in threads:
        join(thread)
    messages = store.mailboxes.read("bob", 0, ALL, ALL).messages
    found = [message.body for message in messages]
    sent = {acknowledged.get() for _ in range(acknowledged.qsize())}
    in_doubt = {doubted.get() for _ in range(doubted.qsize())}
    assert sent <= set(found)
    assert set(found) <= sent | in_doubt
    assert len(set(found)) == len(found)
    # Each start is another epoch.
    assert messages[-1].seq > 3 * SEQ_JUMP
    for number in range(8):
        mine = [int(body.split("/")[1]) for body in found if body.startswith(f"{number}/")]
        assert mine == sorted(mine)


def test_a_failover_that_loses_the_tail_buries_no_mail(
    start_valkey: StartEngine, open_store: Open
) -> None:
    primary = start_valkey()
    replica = primary.replica()
    try:
        store = open_store(primary.url(prefix="chat:"))
        store.mailboxes.create("bob")
        for number in range(1, 6):
            store.mailboxes.append("bob", draft(f"{number}"))
        wait_until(
            lambda: replica.command("HGET", "chat:{bob}:b", "l") == "5", "the replica has it"
        )
        replica.promote()  # and so it gets nothing of what comes
        for number in range(6, 11):
            store.mailboxes.append("bob", draft(f"{number}"))
        seen = store.mailboxes.read("bob", 0, 99, ALL).messages[-1].seq
        primary.kill()
        boxes = open_store(replica.url(prefix="chat:")).mailboxes
        assert seen == 10
        # A place in what was lost is one beyond which there is nothing yet.
        assert boxes.read("bob", seen, 9, ALL).messages == ()
        assert boxes.ack("bob", seen, 0)[:2] == (10, 0)
        for number in range(7):
            boxes.append("bob", draft(f"new {number}"))
        page = boxes.read("bob", seen, 99, ALL)
        assert [message.body for message in page.messages] == [f"new {n}" for n in range(7)]
        first = boxes.read("bob", 0, 99, ALL).messages
        assert [message.seq for message in first[:5]] == [1, 2, 3, 4, 5]
        assert len(first) == 12, "the tail is not lost"
        assert page.messages[0].seq >= 5 + SEQ_JUMP
        assert boxes.standing("bob") == Standing(10, 7)
        with pytest.raises(CursorInvalid):
            boxes.read("bob", page.messages[-1].seq + 1, 9, ALL)
    finally:
        replica.close()


def test_the_second_of_two_failovers_jumps_further(valkey: ValkeyEngine, open_store: Open) -> None:
    """The first one's jump may have been lost with the tail."""
    url = valkey.url(prefix="twice:")
    store = open_store(url)
    store.mailboxes.create("bob")
    store.mailboxes.append("bob", draft("first"))
    kept = valkey.command("HGETALL", "twice:{bob}:b")
    seqs = []
    for number in range(2):
        valkey.command("DEBUG", "CHANGE-REPL-ID")
        store.health()  # sees that the engine is another
        store.mailboxes.append("bob", draft(f"{number}"))
        seqs.append(store.mailboxes.read("bob", 1, 9, ALL).messages[-1].seq)
        # The engine is put back to what it was before both.
        valkey.command("HSET", "twice:{bob}:b", *[x for pair in kept.items() for x in pair])
        valkey.command("DEL", "twice:{bob}:m")
    assert seqs[1] >= seqs[0] + SEQ_JUMP


# -- notices ------------------------------------------------------------------------------------


def test_the_listening_connection_is_killed(valkey: ValkeyEngine, open_store: Open) -> None:
    here = open_store(valkey.url())
    there = open_store(here)
    here.mailboxes.create("bob")
    watcher = Watcher(there, "bob")
    for number in range(4):
        valkey.command("CLIENT", "KILL", "TYPE", "pubsub")
        here.mailboxes.append("bob", draft(f"{number}"))
        watcher.reads(f"{number}", SOON + 1)
    assert watcher.bodies == ["0", "1", "2", "3"]


def test_a_thousand_watchers_need_three_connections(
    start_valkey: StartEngine, open_store: Open
) -> None:
    engine = start_valkey(appendfsync="no")
    store = open_store(engine.url())
    ids = [f"{number}" for number in range(1_000)]
    woken: SimpleQueue[str] = SimpleQueue()
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(store.mailboxes.create, ids))
        for account_id in ids:
            store.mailboxes.on_mail(account_id, partial(woken.put, account_id))
        with engine.client() as client:
            used = [each for each in client.client_list() if each["cmd"] != "client|list"]
            assert len(used) <= 3
        # All of them are subscribed to anew, and what came meanwhile is found.
        store.mailboxes.read(ids[0], 0, 1, 1)
        other = open_store(store)
        engine.command("CLIENT", "KILL", "TYPE", "pubsub")
        list(pool.map(lambda each: other.mailboxes.append(each, draft()), ids))
    found: set[str] = set()
    deadline = time.monotonic() + 10
    while len(found) < len(ids):
        found.add(woken.get(timeout=max(deadline - time.monotonic(), 0)))


def test_without_notices_mail_is_late_and_nothing_more(
    valkey: ValkeyEngine, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watches, "notice", lambda *_: ())
    here = open_store(valkey.url())
    there = open_store(here)
    for account_id in ("bob", "carl"):
        here.mailboxes.create(account_id)
    watcher, gone = Watcher(there, "bob"), threading.Event()
    there.mailboxes.on_mail("carl", gone.set)
    here.accounts.create(account("ann"))
    opened = session("token")
    here.accounts.open_session(opened)
    ended = threading.Event()
    there.accounts.on_session_end(opened.key, ended.set)
    here.mailboxes.append("bob", draft("late"))
    here.mailboxes.drop("carl")
    here.accounts.close_session(opened.key)
    watcher.reads("late", READ_AGAIN_SECONDS + 3)
    wait_event(gone, "a mailbox that is dropped wakes who watches it", 3)
    wait_event(ended, "a session that ends wakes who waits for that", 3)


def test_nobody_is_woken_twice_for_one_message(valkey: ValkeyEngine, open_store: Open) -> None:
    here = open_store(valkey.url())
    there = open_store(here)
    here.mailboxes.create("bob")
    woken: SimpleQueue[None] = SimpleQueue()
    for store in (here, there):
        store.mailboxes.on_mail("bob", lambda: woken.put(None))
    for count in range(1, 6):
        here.mailboxes.append("bob", draft())
        wait_until(lambda: woken.qsize() >= 2 * count, "both are woken")  # noqa: B023 - called at once
    for store in (here, there):
        store._watches.read_again(everything=True)
    assert woken.qsize() == 10


def test_a_revocation_is_known_within_a_second_without_notices(
    valkey: ValkeyEngine, open_store: Open
) -> None:
    here = open_store(valkey.url())
    there = open_store(here)
    ann = account("ann")
    here.accounts.create(ann)
    opened = session("token")
    here.accounts.open_session(opened)
    there._links.close()
    find = there.accounts.find_session
    for _ in range(3):
        assert find(opened.key) == opened
    here.accounts.close_session(opened.key)
    begun = time.monotonic()
    while find(opened.key) is not None:
        assert time.monotonic() - begun < 1.0
    assert here.accounts.find_session(opened.key) is None


def test_a_notice_drops_what_is_cached_of_an_account_at_once(
    valkey: ValkeyEngine, open_store: Open
) -> None:
    here = open_store(valkey.url())
    there = open_store(here)
    ann = account("ann")
    here.accounts.create(ann)
    opened = session("token")
    here.accounts.open_session(opened)
    ended = threading.Event()
    there.accounts.on_session_end(opened.key, ended.set)
    assert there.accounts.find_session(opened.key) == opened
    here.accounts.withdraw(ann.account_id, keep_name=False)
    wait_event(ended, "who waits for the session's end is woken", SOON)
    assert there.accounts.find_session(opened.key) is None


# -- a cluster whose slots move -------------------------------------------------------------------


def test_a_deletion_whose_answer_was_lost_is_finished_soon(
    valkey: ValkeyEngine, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(valkey.url())
    store.accounts.create(account("bob"))
    run = store.accounts._run

    def lose_the_answer(*arguments: Any) -> None:
        run(*arguments)
        error = StoreUnavailable()
        error.in_doubt = True
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(store.accounts, "_run", lose_the_answer)
        with pytest.raises(StoreUnavailable):
            store.accounts.withdraw(account("bob").account_id, keep_name=False)
    assert store.accounts.find("bob") is None
    wait_until(lambda: store.accounts.is_free("bob"), "the name is free", 5)


def test_a_server_that_has_no_keys_any_more_has_no_write_refused(
    valkey_cluster: ValkeyCluster, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(valkey_cluster.url())
    first, *_, last = valkey_cluster.engines
    last.set(appendfsync="no")
    try:
        with pytest.raises(StoreUnavailable, match="appendfsync always"):
            store.health()
        # As when it has failed over, and is replaced.
        left = [("127.0.0.1", first.port)] * wire.SLOTS
        monkeypatch.setattr(store._engine, "_ask_slots", lambda _address: left)
        store._engine.ask_anew()
        wait_until(lambda: store._engine.refusal is None, "writes are taken again", 10)
        assert store.health().durability is Durability.DISK
    finally:
        last.set(appendfsync="always")


def test_a_lane_to_a_server_without_keys_ends_when_it_is_not_used(
    valkey_cluster: ValkeyCluster,
    start_valkey: StartEngine,
    open_store: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = start_valkey()
    store = open_store(valkey_cluster.url(prefix="lanes:"))
    store.mailboxes.create("bob")
    place = ("127.0.0.1", other.port)
    lane = store._engine._lane_to(place, bulk=False)
    lane.ask(plain(b"", b"PING"), Deadline.after(5))
    store._engine.forget_gone()
    assert store._engine._lanes[place, False] is lane, "one that is used just now ends"
    monkeypatch.setattr("twinline.stores.valkey.engine._UNUSED_SECONDS", 0.0)
    wait_until(lambda: (place, False) not in store._engine._lanes, "it is let go of", 10)
    wait_until(lambda: not lane._thread.is_alive(), "its thread ends", 5)
    store.mailboxes.append("bob", draft("hi"))


def test_a_watched_mailbox_moves(valkey_cluster: ValkeyCluster, open_store: Open) -> None:
    here = open_store(valkey_cluster.url(prefix="moves:"))
    there = open_store(here)
    here.mailboxes.create("bob")
    watchers = [Watcher(store, "bob") for store in (here, there)]
    for number in range(3):
        valkey_cluster.move("moves:{bob}:b")
        here.mailboxes.append("bob", draft(f"{number}"))
        for watcher in watchers:
            watcher.reads(f"{number}", SOON + 1)
    late = Watcher(there, "bob")
    here.mailboxes.append("bob", draft("last"))
    late.reads("last", SOON + 1)


def test_a_send_waits_for_a_slot_that_is_half_way(
    valkey_cluster: ValkeyCluster, open_store: Open
) -> None:
    store = open_store(valkey_cluster.url(prefix="half:"))
    store.mailboxes.create("bob")
    store.mailboxes.append("bob", draft("before", send_id="x"))
    slot, source, target = valkey_cluster.begin_move("half:{bob}:b")
    valkey_cluster.move_keys(source, target, "half:{bob}:b")
    sending = Call(lambda: store.mailboxes.append("bob", draft("meanwhile")))
    with pytest.raises(pytest.fail.Exception):
        sending.outcome(0.3)
    valkey_cluster.end_move(slot, source, target)
    sending.outcome()
    assert bodies(store) == ["before", "meanwhile"]


def test_a_replica_takes_the_place_of_a_primary(
    start_cluster: StartCluster, open_store: Open
) -> None:
    cluster = start_cluster()
    store = open_store(cluster.url(prefix="chat:"))
    store.mailboxes.create("bob")
    owner = cluster.owner(int(cluster.engines[0].command("CLUSTER", "KEYSLOT", "chat:{bob}:b")))
    replica = cluster.add_replica(owner)
    store.mailboxes.append("bob", draft("before"))
    wait_until(
        lambda: (
            replica.info("replication")["master_repl_offset"]
            == owner.info("replication")["master_repl_offset"]
        ),
        "the replica has it",
    )
    watcher = Watcher(store, "bob")
    watcher.look()
    before = store.health().epoch
    owner.kill()
    appended(store, "after", seconds=25)
    watcher.reads("after", 5)
    assert watcher.bodies == ["before", "after"]
    assert watcher.seqs[1] > SEQ_JUMP
    assert store.health().epoch != before


# -- settings, and what an engine refuses ---------------------------------------------------------


def test_less_durability_than_was_asked_for_refuses_writes(
    start_valkey: StartEngine, open_store: Open
) -> None:
    engine = start_valkey()
    store = open_store(engine.url(durability="disk"))
    store.mailboxes.create("bob")
    engine.set(appendfsync="everysec")
    with pytest.raises(StoreUnavailable, match="appendfsync always"):
        store.health()
    assert store.durability is Durability.PROCESS
    with pytest.raises(StoreUnavailable, match="appendfsync always") as raised:
        store.mailboxes.append("bob", draft())
    assert not raised.value.in_doubt
    assert store.mailboxes.standing("bob") == Standing(0, 0)
    engine.set(appendfsync="always")
    assert store.health().durability is Durability.DISK
    store.mailboxes.append("bob", draft())
    # Seen without being asked for too, and at once by whoever connects.
    engine.set(appendfsync="no")
    wait_until(lambda: store.durability is Durability.PROCESS, "it is seen", 5)
    engine.set(appendfsync="always")
    store.health()


def test_the_first_write_to_an_engine_that_promises_less_is_refused(
    start_valkey: StartEngine, open_store: Open
) -> None:
    """As after a failover, which the next call finds out on connecting."""
    engine = start_valkey()
    store = open_store(engine.url())
    store.mailboxes.create("bob")
    store._chores.close()
    engine.stop()
    engine._settings["appendfsync"] = "everysec"
    engine.start()
    with pytest.raises(StoreUnavailable, match="appendfsync always") as raised:
        store.mailboxes.append("bob", draft())
    assert not raised.value.in_doubt
    assert store.mailboxes.standing("bob") == Standing(0, 0)


@pytest.mark.parametrize(
    ("settings", "options", "says"),
    [
        ({"appendfsync": "everysec"}, {"durability": "disk"}, "appendfsync always"),
        ({"appendonly": "no"}, {"durability": "disk"}, "appendonly yes"),
        ({"maxmemory_policy": "allkeys-lru"}, {}, "maxmemory-policy is allkeys-lru"),
        ({"maxmemory_policy": "volatile-ttl", "maxmemory": "100mb"}, {}, "is volatile-ttl"),
        ({"requirepass": "hunter2"}, {}, "Authentication"),
    ],
)
def test_an_engine_that_will_not_do_is_refused(
    settings: dict[str, str], options: dict[str, str], says: str, start_valkey: StartEngine
) -> None:
    engine = start_valkey()
    for name, to in settings.items():
        engine.set(**{name: to})
    with pytest.raises(StoreNotOpened, match=says) as raised:
        ValkeyStore.open(engine.url(**options))
    assert "hunter2" not in str(raised.value)


def test_no_engine_at_all_is_said(start_valkey: StartEngine) -> None:
    engine = start_valkey()
    engine.kill()
    with pytest.raises(StoreNotOpened, match=r"127\.0\.0\.1:\d+: the engine does not answer"):
        ValkeyStore.open(engine.url())


def test_a_clock_that_is_far_off_is_refused(
    valkey: ValkeyEngine, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(valkey.url())
    store.mailboxes.create("bob")
    assert abs(store.health().clock_offset_ms) < 1_000
    ahead = greeting.wall_clock_ms() + 31_000
    monkeypatch.setattr(greeting, "wall_clock_ms", lambda: ahead)
    with pytest.raises(StoreNotOpened, match=r"clock is \+\d+\.\d s off"):
        ValkeyStore.open(valkey.url())
    with pytest.raises(StoreUnavailable, match="clock"):
        store.health()
    with pytest.raises(StoreUnavailable, match="clock"):
        store.mailboxes.append("bob", draft())


def test_an_engine_without_memory_refuses_whole_sends(
    start_valkey: StartEngine, open_store: Open
) -> None:
    engine = start_valkey()
    store = open_store(engine.url(prefix="full:"))
    store.mailboxes.create("bob")
    store.mailboxes.append("bob", draft("one", send_id="x"))
    before = engine.command("HGETALL", "full:{bob}:b")
    engine.set(maxmemory=1)
    with pytest.raises(StoreUnavailable) as raised:
        store.mailboxes.append("bob", draft("two", send_id="y"))
    assert not raised.value.in_doubt
    assert engine.command("HGETALL", "full:{bob}:b") == before
    assert bodies(store) == ["one"]
    engine.set(maxmemory=0)
    store.mailboxes.append("bob", draft("two", send_id="y"))
    assert bodies(store) == ["one", "two"]


def test_an_engine_that_forgets_its_scripts_is_told_them_again(
    valkey: ValkeyEngine, open_store: Open
) -> None:
    store = open_store(valkey.url())
    store.mailboxes.create("bob")
    for number in range(3):
        valkey.command("SCRIPT", "FLUSH")
        store.mailboxes.append("bob", draft(f"{number}"))
    assert bodies(store) == ["0", "1", "2"]


def test_another_policy_is_taken_over_when_nobody_has_the_store(
    valkey: ValkeyEngine, open_store: Open
) -> None:
    first = open_store(valkey.url())
    other = MailboxPolicy(mailbox_messages=1)
    with pytest.raises(StoreNotOpened, match=r"mailbox_messages 10000 \(here 1\)"):
        open_store(first, policy=other)
    first.close()
    second = open_store(first, policy=other)
    with pytest.raises(StoreNotOpened, match="another policy"):
        open_store(second)


@pytest.mark.parametrize(
    ("written", "kind", "why"),
    [
        (FORMAT - 1, StoreNotOpened, "copy it to a file with 'twinline store copy'"),
        (FORMAT + 1, SchemaTooNew, "use the program that wrote it"),
    ],
)
def test_what_another_version_wrote_is_refused(
    valkey: ValkeyEngine, open_store: Open, written: int, kind: type[StoreNotOpened], why: str
) -> None:
    url = valkey.url(prefix=f"version{written}:")
    open_store(url).close()
    valkey.command("HSET", f"version{written}:{{meta}}:store", "format", written)
    for use in (partial(open_store, url), ValkeyUpkeep(url).check):
        with pytest.raises(kind, match=f"has format {written}, .*{why}"):
            use()


# -- numbers, and what is kept --------------------------------------------------------------------


def test_seqs_are_exact_up_to_2_to_the_53(valkey: ValkeyEngine, open_store: Open) -> None:
    store = open_store(valkey.url(prefix="far:"))
    boxes = store.mailboxes
    boxes.create("bob")
    last = 2**53 - 10
    valkey.command("HSET", "far:{bob}:b", "l", last)
    for number in range(5):
        boxes.append("bob", draft(f"{number}", send_id=f"{number}"))
    assert [each.seq for each in boxes.read("bob", last, 9, ALL).messages] == [
        last + number for number in range(1, 6)
    ]
    assert boxes.ack("bob", last + 2, 0)[:2] == (last + 2, 3)
    assert boxes.delete("bob", [last + 1, last + 5]) == 2
    assert [m.seq for m in boxes.history("bob", last + 4, 9, ALL, 0).messages] == [
        last + 2,
        last + 3,
    ]
    assert boxes.standing("bob") == Standing(last + 2, 2)
    again = boxes.append("bob", draft("4", send_id="4"))
    assert boxes.standing("bob") == Standing(last + 2, 2), again
    for beyond in (last + 6, 2**62, 2**70):
        with pytest.raises(CursorInvalid):
            boxes.read("bob", beyond, 9, ALL)
        with pytest.raises(CursorInvalid):
            boxes.ack("bob", beyond, 0)


def test_send_ids_of_a_mailbox_that_gets_no_more_mail_end(
    valkey: ValkeyEngine, open_store: Open
) -> None:
    store = open_store(valkey.url(prefix="ends:"), policy=MailboxPolicy(send_id_hours=2))
    store.mailboxes.create("bob")
    store.mailboxes.append("bob", draft("hi", send_id="x"))
    hour = 3_600_000
    for kind in "ut":
        left = valkey.command("PTTL", f"ends:{{bob}}:{kind}")
        assert 3 * hour < left <= 3.5 * hour
    assert valkey.command("PTTL", "ends:{bob}:m") == -1


def test_what_is_remembered_of_send_ids_is_bounded_and_counted(
    valkey: ValkeyEngine, open_store: Open
) -> None:
    url, randomly = valkey.url(prefix="bounds:"), Random(7)
    most, of_sender, hour = 80, 48, 3_600_000
    policy = MailboxPolicy(
        mailbox_messages=10**6,
        send_ids_per_mailbox=most,
        send_ids_per_sender=of_sender,
        send_id_hours=1,
    )
    boxes = open_store(url, policy=policy).mailboxes
    boxes.create("bob")
    sent: list[tuple[str, str, int, Accepted]] = []  # what is remembered, and what was
    now, outcomes = 0, Counter[bool]()
    for number in range(1_500):
        # At first they are too many, and then too old.
        now += randomly.choice((0, 0, 0, 60_000 if number > 1_000 else 1))
        before = None
        if sent and randomly.random() < 0.3:
            back = randomly.randrange(1, min(len(sent), 120) + 1)
            before = sent[-back]
            sender, send_id, at, receipt = before
            behind = 1 + sum(each[0] == sender for each in sent[len(sent) - back + 1 :])
            counts = back <= most - 10 and behind <= of_sender - 6 and now - at < hour
            counts_not = back > most or behind > of_sender or now - at >= hour
        else:
            sender, send_id = randomly.choice(("ann", "ann", "carl", f"s{number}")), f"{number}"
        found = boxes.append("bob", draft("hi", sender=sender, send_id=send_id, sent_at=now))
        if before is not None:
            again = found == receipt
            assert again or not counts, f"{number}: {back} back, {behind} of its sender's"
            assert not again or not counts_not, f"{number}: {back} back, {behind} of its sender's"
            outcomes[again] += 1
            if again:
                continue
            sent.remove(before)
        sent.append((sender, send_id, now, found))
        if number % 100 == 0:
            assert valkey.command("XLEN", "bounds:{bob}:t") <= most
            assert ValkeyUpkeep(url).check().faults == []
    assert min(outcomes[True], outcomes[False]) > 50
    # The engine drops the two of them at one moment, or nearly.
    for kind in "tu":
        valkey.command("UNLINK", f"bounds:{{bob}}:{kind}")
        for number in range(3):
            sample = draft("hi", send_id=f"{kind} {number}", sent_at=now + 25 * hour)
            boxes.append("bob", sample)
        assert ValkeyUpkeep(url).check().faults == []
        now += 2 * 25 * hour


def test_a_mailbox_that_is_gone_leaves_nothing(valkey: ValkeyEngine, open_store: Open) -> None:
    store = open_store(valkey.url(prefix="gone:"))
    ann = account("ann")
    store.mailboxes.create(ann.account_id)
    store.accounts.create(ann)
    store.accounts.open_session(session("token"))
    store.accounts.note_address(ann.account_id, "::1", 1, most=3)
    store.mailboxes.append(ann.account_id, draft("hi", send_id="x"))
    store.mailboxes.ack(ann.account_id, 1, 1)
    store.accounts.withdraw(ann.account_id, keep_name=False)
    store.mailboxes.drop(ann.account_id)

    def left() -> set[str]:
        return set(valkey.command("KEYS", "gone:*"))

    kept = {"gone:{meta}:store", "gone:{meta}:nodes", "gone:{d}:x"}
    wait_until(lambda: left() == kept, f"nothing is left but what all share: {left()}", 5)


# -- what a crash leaves of accounts ---------------------------------------------------------------


def test_what_a_crash_left_of_accounts_is_finished(
    valkey: ValkeyEngine, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(valkey.url(prefix="crash:"))
    boxes, accounts = store.mailboxes, store.accounts
    people = {name: account(name) for name in ("ann", "bob", "carl", "dora")}
    for name, each in people.items():
        boxes.create(each.account_id)
        if name != "dora":
            accounts.create(each)
    unfinished = StoreUnavailable("the engine is gone")

    def fail(*_: object, **__: object) -> None:
        raise unfinished

    store._chores.close()  # as everything ends with a server that is killed
    with monkeypatch.context() as patched:
        patched.setattr(store.accounts._pending, "finish", fail)
        assert accounts.withdraw(people["ann"].account_id, keep_name=True)
        assert accounts.withdraw(people["bob"].account_id, keep_name=False)
    with monkeypatch.context() as patched:
        patched.setattr(store.accounts._scripts, "publish", None)
        with pytest.raises(AttributeError):
            accounts.create(people["dora"])
    # Nobody sees half of any of it.
    assert [accounts.find(name) for name in people] == [None, None, people["carl"], None]
    assert [accounts.is_free(name) for name in people] == [False, False, False, True]
    store.close()
    store = open_store(store, grace_seconds=0.1)
    for name in ("ann", "bob", "dora"):
        missing = partial(is_missing, store, people[name].account_id)
        wait_until(missing, f"{name}'s mailbox is dropped", 5)
    assert not is_missing(store, people["carl"].account_id)
    assert store.accounts.find("carl") == people["carl"]
    free = [store.accounts.is_free(name) for name in people]
    assert free == [False, True, False, True]
    again = replace(people["dora"], account_id=f"{9:032x}")
    store.accounts.create(again)
    assert store.accounts.find("dora") == again


@pytest.mark.parametrize("published", [False, True], ids=["not published", "published"])
def test_an_invitation_that_a_crash_left_claimed_is_released_or_spent(
    valkey_cluster: ValkeyCluster,
    open_store: Open,
    monkeypatch: pytest.MonkeyPatch,
    published: bool,
) -> None:
    store = open_store(valkey_cluster.url(prefix=f"claim{published}:"), grace_seconds=60)
    invitation = Invitation(b"token", 1, 10**6, "for: ann")
    store.accounts.add_invitation(invitation)
    ann = account("ann")
    store.mailboxes.create(ann.account_id)
    broken = "spend" if published else "publish"
    part = store.accounts._invitations if published else store.accounts._scripts
    monkeypatch.setattr(part, broken, None)
    with pytest.raises((TypeError, AttributeError)):
        store.accounts.create(ann, invitation=invitation.token_hash)
    # Whatever becomes of it, nobody else gets an account by it, or takes it away.
    assert store.accounts.find("ann") == (ann if published else None)
    assert store.accounts.find_invitation(invitation.token_hash) is None
    assert store.accounts.invitations() == []
    assert not store.accounts.drop_invitation(invitation.token_hash)
    monkeypatch.undo()
    with pytest.raises(InvitationInvalid):
        store.accounts.create(account("bob"), invitation=invitation.token_hash)
    if published:  # of an account that is gone by then it is known as well
        assert store.accounts.withdraw(ann.account_id, keep_name=False)
    store = open_store(store, grace_seconds=0.1)
    if published:
        counted = partial(store._engine.do, plain(store._keys.claims, b"HLEN", store._keys.claims))
        wait_until(lambda: counted() == 0, "it is spent", 8)
        assert store.accounts.invitations() == []
        return
    wait_until(lambda: store.accounts.invitations() == [invitation], "it is released", 8)
    store.accounts.create(account("carl"), invitation=invitation.token_hash)
    assert store.accounts.invitations() == []


def test_a_deletion_that_the_engine_cut_in_two_is_finished_soon(
    valkey: ValkeyEngine, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(valkey.url())
    ann = account("ann")
    store.mailboxes.create(ann.account_id)
    store.accounts.create(ann)
    finish = store.accounts._pending.finish
    failed = threading.Event()

    def fail_once(*arguments: Any, **options: Any) -> None:
        if not failed.is_set():
            failed.set()
            raise StoreUnavailable
        finish(*arguments, **options)

    monkeypatch.setattr(store.accounts._pending, "finish", fail_once)
    assert store.accounts.withdraw(ann.account_id, keep_name=False)
    assert failed.is_set()
    wait_until(lambda: store.accounts.is_free("ann"), "the name is free", 5)


def is_missing(store: Store, account_id: str) -> bool:
    """Return whether there is no such mailbox."""
    try:
        store.mailboxes.standing(account_id)
    except NoSuchUser:
        return True
    return False


def test_a_name_is_not_published_when_its_creation_was_given_up(
    valkey: ValkeyEngine, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by an engine that was stopped between the two, and goes on a minute later."""
    store = open_store(valkey.url())
    monkeypatch.setattr("twinline.stores.valkey.accounts._PUBLISH_MS", -1)
    with pytest.raises(StoreUnavailable):
        store.accounts.create(account("ann"))
    assert store.accounts.is_free("ann")
    monkeypatch.undo()
    store.accounts.create(account("ann"))
