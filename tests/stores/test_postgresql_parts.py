"""What the PostgreSQL store decides by itself: URLs, notices, arrays, and a batch's arithmetic."""

import struct
import time
from collections import deque
from functools import partial
from typing import Any

import pytest
from store_samples import DAY, draft

from twinline.core.errors import CursorInvalid, MailboxFull, NoSuchUser
from twinline.core.protocol import EVERY_KIND, MAIL_ALONE, TALK
from twinline.core.store import (
    SEQ_JUMP,
    Accepted,
    Acked,
    Delivery,
    Durability,
    MailboxLook,
    MailboxPolicy,
)
from twinline.stores.postgresql import StoreNotOpened, parse_url
from twinline.stores.postgresql.arrays import blobs, integers, integers_or_null, texts
from twinline.stores.postgresql.batch import (
    _PASSED,
    Ack,
    Batch,
    Create,
    Delete,
    Drop,
    Looks,
    append_of,
)
from twinline.stores.postgresql.chores import Chores
from twinline.stores.postgresql.condition import Condition, durability_of
from twinline.stores.postgresql.database import Database, retry_seconds
from twinline.stores.postgresql.lane import SENDS
from twinline.stores.postgresql.link import Call, Rows
from twinline.stores.postgresql.notices import (
    EVERYTHING,
    MOST_KEYS,
    Kind,
    only,
    parse,
    parse_session_key,
    payloads,
    session_key,
)
from twinline.stores.postgresql.send_ids import SendIds
from twinline.stores.postgresql.wakes import LEASE_SECONDS, Pace, Wakes

NOW = 1_767_225_600_000
URL = "postgresql://ann:hunter2@first:5433,second/chat"

# --- what a URL says


def test_a_url_is_libpqs_but_for_the_stores_own_options() -> None:
    target = parse_url(
        f"{URL}?sslmode=require&durability=replicated&schema=other&readers=3&account_connections=1"
    )
    assert target.durability is Durability.REPLICATED
    assert (target.schema, target.readers, target.account_connections) == ("other", 3, 1)
    assert target.parameters["host"] == "first,second"
    assert target.parameters["sslmode"] == "require"
    assert target.parameters["target_session_attrs"] == "read-write"
    assert target.place == "chat on first,second"
    assert "hunter2" not in repr(target)
    assert parse_url(f"{URL}?target_session_attrs=any").parameters["target_session_attrs"] == "any"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgres://db/chat", "written postgresql://"),
        ("postgresql:chat", "written postgresql://"),
        (f"{URL}?durability=none", "one of process, disk and replicated"),
        (f"{URL}?schema=Robert');", "plain name"),
        (f"{URL}?schema=pg_twinline", "plain name"),
        (f"{URL}?readers=4", "from 1 to 3"),
        (f"{URL}?readers=0", "from 1 to 3"),
        (f"{URL}?account_connections=many", "from 1 to 3"),
        (f"{URL}?readers=3&account_connections=3", "at most 5 together"),
        (f"{URL}?hunter2=1", "has the option"),
        ("postgresql://ann:hunter2%zz@db/chat", "cannot read the URL"),
    ],
)
def test_a_url_that_is_wrong_says_why_and_nothing_secret(url: str, says: str) -> None:
    with pytest.raises(StoreNotOpened, match=says) as caught:
        parse_url(url)
    assert "hunter2" not in str(caught.value).replace("option 'hunter2'", "")


# --- what servers tell each other


def test_notices_are_read_as_they_were_written() -> None:
    keys = ["ab" * 16, "with blank", "ä", "*", "", "\ud800", session_key("ab" * 16, b"\0\xff")]
    (payload,) = payloads(Kind.SESSIONS, "node", keys)
    assert parse(payload) == (Kind.SESSIONS, "node", tuple(keys))
    assert parse_session_key(keys[-1]) == ("ab" * 16, b"\0\xff")
    assert only(keys) is None
    assert EVERYTHING in keys
    assert only(["a", "b", "a"]) == {"a", "b"}


def test_many_keys_are_few_payloads_none_of_them_too_long() -> None:
    keys = [f"{number:032x}" for number in range(1_000)]
    written = list(payloads(Kind.MAIL, "0123456789abcdef", keys))
    assert len(written) == -(-len(keys) // MOST_KEYS)
    assert max(map(len, written)) < 8_000
    assert [key for each in written for key in parse(each).keys] == keys  # type: ignore[union-attr]
    long = ["x" * 3_000] * 5
    assert max(len(each) for each in payloads(Kind.MAIL, "n", long)) < 8_000


@pytest.mark.parametrize("payload", ["", "1m", "2mnode:a", "1qnode:a", "1mnode:=zz", "hello"])
def test_what_is_no_notice_of_this_version_is_passed_over(payload: str) -> None:
    assert parse(payload) is None


def test_the_lease_counts_from_when_the_heartbeat_was_sent() -> None:
    wakes = Wakes(Database(parse_url(URL)))
    gaps: list[set[str] | None] = []
    wakes.on(Kind.ACCOUNTS, gaps.append)
    channel = "twinline_twinline"

    def beat(node: str, key: str) -> None:
        for payload in payloads(Kind.HEARTBEAT, node, [key]):
            wakes._notice(channel, payload)

    now = time.monotonic()
    wakes._beats = {"1": now - LEASE_SECONDS - 0.1, "2": now - 0.1}
    beat("another", "2")
    assert not wakes.lease_holds, "another server's heartbeat proves nothing"
    beat(wakes.node, "1")
    assert not wakes.lease_holds, "it came back, but was sent too long ago"
    assert wakes.lag_seconds > LEASE_SECONDS
    beat(wakes.node, "2")
    assert wakes.lease_holds
    assert wakes.lag_seconds == 0.0
    wakes._notice("another_channel", next(payloads(Kind.ACCOUNTS, "n", ["a"])))
    assert gaps == []
    wakes._notice(channel, next(payloads(Kind.ACCOUNTS, wakes.node, ["a"])))
    assert gaps == [{"a"}]


def test_mail_that_could_not_be_told_is_told_later_and_too_much_of_it_as_all() -> None:
    wakes = Wakes(Database(parse_url(URL)))
    wakes.tell_news(dict.fromkeys("ab", MAIL_ALONE))
    pending, wakes._pending = wakes._pending, {}
    wakes.tell_news({"c": TALK})
    wakes._put_back(pending)
    assert list(wakes._pending[Kind.MAIL]) == ["a", "b", "c"]
    assert list(wakes._pending[Kind.COPIES]) == ["c"]
    wakes.tell_news(dict.fromkeys(map(str, range(100_001)), MAIL_ALONE))
    assert list(wakes._pending[Kind.MAIL]) == [EVERYTHING]
    assert list(wakes._pending[Kind.COPIES]) == ["c"]


def test_a_notice_wakes_those_who_take_its_kind_alone_and_one_of_before_is_of_mail() -> None:
    wakes = Wakes(Database(parse_url(URL)))
    woken: list[str] = []
    for name, kinds in (
        ("mail", MAIL_ALONE),
        ("sent", EVERY_KIND - MAIL_ALONE),
        ("all", EVERY_KIND),
    ):
        wakes.watchers.add("a", partial(woken.append, name), kinds)

    def heard(payload: str) -> list[str]:
        woken.clear()
        wakes._notice("twinline_twinline", payload)
        return sorted(woken)

    assert heard("1mnode:a") == ["all", "mail"]
    assert heard("1cnode:a b") == ["all", "sent"]
    assert heard("1rnode:*") == ["all", "sent"]
    assert heard("1cnode:b") == heard(f"1c{wakes.node}:a") == []


def test_a_few_notices_follow_each_other_at_once_and_many_are_kept_apart() -> None:
    now = 0.0
    pace = Pace(0.05, lambda: now)
    for _ in range(11):
        assert pace.wait_seconds() <= 0
        pace.step(0.005)
    assert pace.wait_seconds() == pytest.approx(0.005)
    now += 0.005
    assert pace.wait_seconds() <= 1e-9
    pace.step(0.001)
    assert pace.wait_seconds() == pytest.approx(0.001)
    now += 1
    for _ in range(11):
        assert pace.wait_seconds() <= 0
        pace.step(0.005)
    assert pace.wait_seconds() == pytest.approx(0.005), "a rest is not saved up without end"


def test_notices_are_kept_apart_by_the_servers_that_hear_them_and_by_their_mailboxes() -> None:
    wakes = Wakes(Database(parse_url(URL)))
    assert wakes._pace_seconds(1) == 0.005, "nothing is heard, so nothing is known"
    assert wakes.telling_news({"a": MAIL_ALONE}) is None

    def beat(node: str) -> None:
        for payload in payloads(Kind.HEARTBEAT, node, ["1"]):
            wakes._notice("twinline_twinline", payload)

    wakes._beats["1"] = time.monotonic()
    beat(wakes.node)
    assert (wakes.servers, wakes._pace_seconds(1)) == (1, 0.05)
    assert wakes.telling_news({"a": MAIL_ALONE}) is None, "there is nobody to tell"
    for node in ("b", "b"):
        beat(node)
    assert (wakes.servers, wakes._pace_seconds(1)) == (2, 0.0005)
    assert [wakes._pace_seconds(keys) for keys in (4, 10, 16)] == [0.002, 0.005, 0.005]
    for number in range(30):
        beat(f"c{number}")
    assert wakes._pace_seconds(1) == 0.005
    told = 0
    while wakes.telling_news({"a": MAIL_ALONE}) is not None:
        told += 1
    assert 5 <= told <= 15, "under load it is left to the thread that gathers"
    wakes._others.clear()
    wakes._pace = Pace(1)
    beat("b")
    wakes.tell_news({"a": MAIL_ALONE})
    assert wakes.telling_news({"b": MAIL_ALONE}) is None, "what waits is told first"


# --- what is sent to the database, and how often


def test_arrays_are_as_postgresql_sends_them() -> None:
    head = struct.Struct(">iiiii")
    assert integers([1, -2]).data == head.pack(1, 0, 20, 2, 1) + struct.pack(">iqiq", 8, 1, 8, -2)
    assert integers([]).data == struct.pack(">iii", 0, 0, 20)
    assert integers_or_null([None, 3]).data == head.pack(1, 1, 20, 2, 1) + struct.pack(
        ">iiq", -1, 8, 3
    )
    assert texts(["ä"]).data == head.pack(1, 0, 25, 1, 1) + b"\0\0\0\2\xc3\xa4"
    assert blobs([b"", b"\0"]).data == head.pack(1, 0, 17, 2, 1) + b"\0\0\0\0" + b"\0\0\0\1\0"


def test_waits_between_attempts_grow_to_a_second() -> None:
    assert retry_seconds(0) == 0.0
    assert [max(retry_seconds(failures) for _ in range(50)) <= most for failures, most in
            ((1, 0.05), (2, 0.1), (5, 0.8), (6, 1.0), (10_000, 1.0))] == [True] * 5  # fmt: skip
    assert min(retry_seconds(10_000) for _ in range(50)) >= 0.5


@pytest.mark.parametrize(
    ("fsync", "commit", "names", "durability"),
    [
        ("off", "on", "a", Durability.PROCESS),
        ("on", "off", "a", Durability.PROCESS),
        ("on", "on", "", Durability.DISK),
        ("on", "on", " ", Durability.DISK),
        ("on", "local", "a", Durability.DISK),
        ("on", "remote_write", "a", Durability.DISK),
        ("on", "on", "a", Durability.REPLICATED),
        ("on", "remote_apply", "ANY 1 (a, b)", Durability.REPLICATED),
    ],
)
def test_what_a_commit_survives_is_told_by_the_settings(
    fsync: str, commit: str, names: str, durability: Durability
) -> None:
    assert durability_of(fsync, commit, names) is durability


# --- what a batch decides


def row(account_id: str, number: int = 1, epoch: int = 5, **columns: Any) -> tuple[Any, ...]:
    """Return a row of ``mailboxes`` as the database gives it, and the store's epoch behind it."""
    values = {
        "position": 0,
        "last": 0,
        "unread": 0,
        "acked": 0,
        "oldest_ack": None,
        "newest": 0,
        "copies": 0,
        "receipts": 0,
        "blocked": 0,
        "gives_receipts": True,
        "floor": 0,
        "epoch": 5,
        "sends": 0,
        "quota": None,
    } | columns
    return number, account_id, *values.values(), epoch


def decided(*writes: Any, rows: Any = (), known: Any = (), **policy: float) -> Batch:
    """Return a batch whose mailboxes are these, and that had nothing to look up."""
    limits = MailboxPolicy.model_validate(policy)
    batch = Batch(limits, SendIds(limits), writes)
    calls = batch.opening()
    # Of a mailbox's row, what acks pass where the row tells it, and what send_ids stand for.
    acks = [[] for call in calls if call.sql is _PASSED]
    batch.opened([list(rows), *acks, list(known)][: len(calls)])
    assert list(batch.looking()) == []
    return batch


def test_sends_of_one_transaction_are_counted_on_in_their_order() -> None:
    drafts = [draft(f"m{number}") for number in range(3)]
    batch = decided(
        *(append_of("bob", each) for each in drafts), rows=[row("bob", last=7)], mailbox_messages=2
    )
    first, second, third = batch.outcomes
    expected = [Accepted(each.message_id, 1, n) for n, each in enumerate(drafts[:2], 1)]
    assert [first, second] == expected, "of two at one time the second has a number of its own"
    assert isinstance(third, MailboxFull)
    assert [message[1] for message in batch._messages] == [8, 9]
    assert batch.news == {"bob": MAIL_ALONE}


def test_a_repeat_in_one_transaction_or_of_one_before_gets_the_first_receipt() -> None:
    first, again = (draft("same", send_id="s") for _ in range(2))
    batch = decided(append_of("bob", first), append_of("bob", again), rows=[row("bob")])
    assert batch.outcomes == [Accepted(first.message_id, 1, 1)] * 2
    assert len(batch._messages) == 1
    content = append_of("bob", first).content
    batch = decided(
        append_of("bob", again), rows=[row("bob")], known=[(1, content, "the first's", 1, 7)]
    )
    assert batch.outcomes == [Accepted("the first's", 1, 7)]
    assert batch.news == {}


def test_seqs_jump_once_for_each_epoch_and_places_inside_are_good() -> None:
    look = MailboxLook("bob", 9, 5, 100, 9, NOW)
    batch = decided(
        Looks((look, look._replace(ack=None, after=3 * SEQ_JUMP + 4))),
        append_of("bob", draft()),
        rows=[row("bob", last=3, unread=0, position=3, epoch=8)],
    )
    page, beyond = batch.outcomes[0]
    assert page.position == 9
    assert isinstance(beyond, CursorInvalid)
    assert [message[1] for message in batch._messages] == [3 * SEQ_JUMP + 4]


def test_acks_are_counted_by_the_row_where_no_seq_is_missing() -> None:
    full = row("bob", last=10, unread=10)
    assert decided(Ack("bob", 4, NOW), rows=[full]).outcomes == [Acked(4, 6)]
    assert decided(Ack("bob", 4, NOW), Ack("bob", 2, NOW), rows=[full]).outcomes == [
        Acked(4, 6),
        Acked(4, 6),
    ]
    holes = row("bob", last=10, unread=3)
    assert decided(Ack("bob", 10, NOW), rows=[holes]).outcomes == [Acked(10, 0)]
    limits = MailboxPolicy()
    batch = Batch(limits, SendIds(limits), [Ack("bob", 4, NOW), Ack("bob", 6, NOW)])
    assert len(batch.opening()) == 2, "one statement counts for both"
    batch.opened([[holes], [(1, 1, 7, "ann"), (2, 1, 7, "ann"), (2, 1, 8, None)]])
    assert list(batch.looking()) == []
    ann = (Delivery("ann", 7),)
    assert batch.outcomes == [Acked(4, 2, ann), Acked(6, 1)], "each tells of what it passes"


def test_what_acks_pass_is_counted_with_what_is_deleted_beside_them() -> None:
    holes = row("bob", last=10, unread=3)
    limits = MailboxPolicy()
    batch = Batch(limits, SendIds(limits), [Delete("bob", [2]), Ack("bob", 4, NOW)])
    batch.opening()
    batch.opened([[holes], [(1, 2, 7, None)]])
    for _ in batch.looking():
        batch.looked([[(1, 2)]])
    assert batch.outcomes == [1, Acked(4, 1)]
    box = batch._boxes["bob"]
    assert (box.unread, box.acked) == (1, 1)


def test_history_is_trimmed_by_the_floor_and_removed_some_dozens_at_a_time() -> None:
    def floor(acked: int, up_to: int) -> tuple[int, int]:
        """Return the floor, and how many statements remove what is below it."""
        kept = row(
            "bob",
            last=2_000,
            position=acked,
            acked=min(acked, 1_000),
            unread=2_000 - acked,
            floor=max(0, acked - 1_000),
            oldest_ack=NOW,
        )
        batch = decided(Ack("bob", up_to, NOW), rows=[kept])
        removals = [call for call in batch.closing() if call.sql.lstrip().startswith("DELETE")]
        return batch._boxes["bob"].floor, len(removals)

    assert floor(900, 1_000) == (0, 0)
    assert floor(1_000, 1_001) == (1, 0)
    assert floor(1_000, 1_063) == (63, 0)
    assert floor(1_063, 1_064) == (64, 2)


def test_with_no_history_what_is_acked_is_gone_at_once() -> None:
    batch = decided(Ack("bob", 2, NOW), rows=[row("bob", last=3, unread=3)], history_messages=0)
    box = batch._boxes["bob"]
    assert (box.floor, box.acked, box.oldest_ack) == (2, 0, None)
    assert (box.position, box.unread) == (2, 1)
    calls = [call.sql.split()[:3] for call in batch.closing()]
    assert calls[1] == ["DELETE", "FROM", "messages"]


def test_what_has_aged_is_asked_for_only_when_it_is_much() -> None:
    limits = MailboxPolicy(history_days=64)

    def asks(days: float) -> bool:
        batch = Batch(limits, SendIds(limits), [Ack("bob", 1, NOW)])
        batch.opening()
        old = row("bob", last=1, unread=1, oldest_ack=round(NOW - days * DAY))
        batch.opened([[old], []])
        return next(batch.looking(), None) is not None

    assert [asks(days) for days in (1, 64, 64.9, 65, 70)] == [False, False, False, True, True]


def test_of_two_who_create_one_mailbox_one_does_and_who_has_none_is_told() -> None:
    limits = MailboxPolicy()
    batch = Batch(limits, SendIds(limits), [Create("new"), Create("new"), Create("old"), Drop("x")])
    batch.opening()
    batch.opened([[("new",)], []])
    assert list(batch.looking()) == []
    made, again, old, dropped = batch.outcomes
    assert made is dropped is None
    assert isinstance(again, ValueError)
    assert isinstance(old, ValueError)
    assert batch.dropped == {}
    (outcome,) = decided(append_of("bob", draft())).outcomes
    assert isinstance(outcome, NoSuchUser)


def test_servers_that_are_promised_different_things_agree_where_the_tables_come_from() -> None:
    disk, process = (Condition("twinline", MailboxPolicy(), None, time.time) for _ in range(2))
    disk.note("on", "on", "")
    process.note("on", "off", "")
    before, restarted, elsewhere = "c/1/d/t/100", "c/1/d/t/200", "c/2/d/t/200"
    for one in (disk, process):
        assert one._is_another("", before)  # the first that ever opens it
        assert not one._is_another(before, before)
        assert one._is_another(before, elsewhere)
    assert not disk._is_another(before, restarted)
    assert process._is_another(before, restarted)  # what it acknowledged may be gone


def test_send_ids_expire_by_the_lowest_of_many_sends() -> None:
    """A clock that was wrong for a moment has nothing removed that still counts."""
    asked: list[int] = []

    class Pool:
        def run(self, call: Call) -> list[Rows]:
            asked.append(int(call.values[0]))
            return [[]]

    class Lane:
        def __init__(self) -> None:
            self.sent: deque[int] = deque(maxlen=SENDS)

    lane: Any = Lane()
    pool: Any = Pool()
    chores = Chores(pool, lane, MailboxPolicy(send_id_hours=1), None)
    lane.sent.extend([DAY] * (SENDS - 1))
    chores._expire()
    assert asked == []  # too few to tell
    lane.sent.extend([30 * DAY] * (SENDS - 1))
    chores._expire()
    assert asked == [DAY - DAY // 24]
