"""The mailboxes half of the in-memory store: order, positions, history, quota, repeats, wakes."""

import pytest
from store_samples import ALL, boxes_with, draft, fill, history, read, seqs

from twinline.core.errors import CursorInvalid, MailboxFull, NoSuchUser, SendIdConflict
from twinline.core.locks import may_block
from twinline.core.protocol import Message
from twinline.core.store import Durability, MailPage, Receipt, Standing
from twinline.stores.memory import MemoryStore
from twinline.stores.memory.mailboxes import MemoryMailboxes

HOUR = 60 * 60 * 1000
DAY = 24 * HOUR


@pytest.fixture
def boxes() -> MemoryMailboxes:
    return boxes_with()


# --- the store


def test_what_the_store_promises() -> None:
    with MemoryStore() as store:
        assert store.durability is Durability.PROCESS


def test_the_halves_cannot_reach_each_other() -> None:
    store = MemoryStore()
    assert vars(store.accounts).keys() & {"mailboxes", "_mailboxes", "store", "_store"} == set()
    assert vars(store.mailboxes).keys() & {"accounts", "_accounts", "store", "_store"} == set()
    for half, other in (("accounts", "mailbox"), ("mailboxes", "accounts")):
        module = __import__(f"twinline.stores.memory.{half}", fromlist=["_"])
        imported = {getattr(value, "__module__", "") for value in vars(module).values()}
        assert not any(f"stores.memory.{other}" in name for name in imported)


# --- messages in order


def test_a_new_mailbox_is_empty(boxes: MemoryMailboxes) -> None:
    assert boxes.standing("bob") == Standing(0, 0)
    assert boxes.read("bob", 0, 10, ALL) == MailPage((), 0, more=False)
    assert boxes.history("bob", None, 10, ALL, now=1) == MailPage((), 0, more=False)


def test_a_message_is_kept_as_it_was_sent(boxes: MemoryMailboxes) -> None:
    sent = draft("hé\n\x1b[0m", sender="zoe", sent_at=123)
    assert boxes.append("bob", sent) == Receipt(sent.message_id, 123)
    kept = Message(seq=1, message_id=sent.message_id, sender="zoe", body=sent.body, sent_at=123)
    assert boxes.read("bob", 0, 10, ALL).messages == (kept,)
    assert boxes.history("bob", None, 10, ALL, now=123).messages == (kept,)
    assert boxes.standing("bob") == Standing(0, 1)


def test_seqs_count_from_one_in_each_mailbox(boxes: MemoryMailboxes) -> None:
    fill(boxes, 3)
    fill(boxes, 2, "ann")
    assert read(boxes) == [1, 2, 3]
    assert seqs(boxes.read("ann", 0, 10, ALL)) == [1, 2]


@pytest.mark.parametrize(
    ("after", "limit", "found", "more"),
    [
        (0, 10, [1, 2, 3, 4, 5], False),
        (0, 5, [1, 2, 3, 4, 5], False),
        (0, 4, [1, 2, 3, 4], True),
        (2, 1, [3], True),
        (4, 1, [5], False),
        (4, 0, [], True),
        (5, 1, [], False),
    ],
)
def test_reading(
    boxes: MemoryMailboxes, after: int, limit: int, found: list[int], more: bool
) -> None:
    fill(boxes, 5)
    page = boxes.read("bob", after, limit, ALL)
    assert (seqs(page), page.more, page.position) == (found, more, 0)


@pytest.mark.parametrize(
    ("before", "limit", "found", "more"),
    [
        (None, 10, [1, 2, 3, 4, 5], False),
        (None, 5, [1, 2, 3, 4, 5], False),
        (None, 4, [2, 3, 4, 5], True),
        (5, 2, [3, 4], True),
        (3, 2, [1, 2], False),
        (2, 5, [1], False),
        (1, 5, [], False),
        (0, 5, [], False),
        (6, 1, [5], True),
        (ALL, 1, [5], True),
    ],
)
def test_reading_backwards(
    boxes: MemoryMailboxes, before: int | None, limit: int, found: list[int], more: bool
) -> None:
    fill(boxes, 5)
    boxes.ack("bob", 2, now=1)
    page = boxes.history("bob", before, limit, ALL, now=1)
    assert (seqs(page), page.more, page.position) == (found, more, 2)


@pytest.mark.parametrize(
    ("size", "forwards", "backwards"),
    [
        (0, [1], [4]),
        (2, [1], [4]),
        (5, [1], [4]),
        (6, [1, 2], [4]),
        (7, [1, 2], [4]),
        (8, [1, 2], [3, 4]),
        (9, [1, 2, 3], [3, 4]),
        (13, [1, 2, 3], [2, 3, 4]),
        (14, [1, 2, 3, 4], [1, 2, 3, 4]),
    ],
)
def test_pages_stop_before_they_have_too_many_bytes(
    boxes: MemoryMailboxes, size: int, forwards: list[int], backwards: list[int]
) -> None:
    """The bodies have 2, 4, 3 and 5 bytes of UTF-8."""
    for body in ("ab", "éé", "€", "€é"):
        boxes.append("bob", draft(body))
    page = boxes.read("bob", 0, 10, size)
    assert (seqs(page), page.more) == (forwards, len(forwards) < 4)
    page = boxes.history("bob", None, 10, size, now=1)
    assert (seqs(page), page.more) == (backwards, len(backwards) < 4)


def test_a_cursor_beyond_the_last_message_is_refused(boxes: MemoryMailboxes) -> None:
    for refused in (1, ALL):
        with pytest.raises(CursorInvalid):
            boxes.read("bob", refused, 10, ALL)
        with pytest.raises(CursorInvalid):
            boxes.ack("bob", refused, now=1)
    fill(boxes, 2)
    assert read(boxes, 2) == []
    with pytest.raises(CursorInvalid):
        boxes.read("bob", 3, 10, ALL)
    with pytest.raises(CursorInvalid):
        boxes.ack("bob", 3, now=1)
    assert boxes.standing("bob") == Standing(0, 2)


# --- acks and deletes


def test_the_position_only_moves_forward(boxes: MemoryMailboxes) -> None:
    fill(boxes, 5)
    assert boxes.ack("bob", 0, now=1) == Standing(0, 5)
    assert boxes.ack("bob", 3, now=1) == Standing(3, 2)
    assert boxes.ack("bob", 3, now=1) == Standing(3, 2)
    assert boxes.ack("bob", 1, now=1) == Standing(3, 2)
    assert boxes.ack("bob", 5, now=1) == Standing(5, 0)
    assert boxes.standing("bob") == Standing(5, 0)
    assert boxes.read("bob", 0, 10, ALL).position == 5


def test_acked_messages_can_be_read_again(boxes: MemoryMailboxes) -> None:
    fill(boxes, 3)
    boxes.ack("bob", 3, now=1)
    assert read(boxes, 1) == [2, 3]


def test_deleting(boxes: MemoryMailboxes) -> None:
    fill(boxes, 6)
    boxes.ack("bob", 3, now=1)
    assert boxes.delete("bob", [2, 5, 2, 99, 0]) == 2
    assert boxes.standing("bob") == Standing(3, 2)
    assert read(boxes) == history(boxes) == [1, 3, 4, 6]
    assert boxes.delete("bob", [2, 5]) == 0
    assert boxes.delete("bob", []) == 0
    assert read(boxes, 4) == [6]
    assert history(boxes, before=5) == [1, 3, 4]
    assert boxes.ack("bob", 5, now=1) == Standing(5, 1)


def test_a_seq_is_never_used_again(boxes: MemoryMailboxes) -> None:
    fill(boxes, 3)
    assert boxes.delete("bob", [1, 2, 3]) == 3
    assert read(boxes, 3) == []
    assert boxes.standing("bob") == Standing(0, 0)
    assert boxes.ack("bob", 3, now=1) == Standing(3, 0)
    fill(boxes, 1)
    assert read(boxes, 3) == [4]
    assert boxes.standing("bob") == Standing(3, 1)


def test_a_seq_that_is_not_an_integer_of_ours_deletes_nothing(boxes: MemoryMailboxes) -> None:
    fill(boxes, 1)
    assert boxes.delete("bob", {-1, 2**60}) == 0
    assert read(boxes) == [1]


# --- quota


def test_a_mailbox_is_full_of_what_is_not_acked() -> None:
    boxes = boxes_with(mailbox_messages=3)
    fill(boxes, 3)
    with pytest.raises(MailboxFull):
        boxes.append("bob", draft())
    assert read(boxes) == [1, 2, 3]
    fill(boxes, 1, "ann")  # only bob's is full
    boxes.ack("bob", 1, now=1)
    fill(boxes, 1)
    with pytest.raises(MailboxFull):
        boxes.append("bob", draft())
    boxes.delete("bob", [1])  # an acked one makes no room
    with pytest.raises(MailboxFull):
        boxes.append("bob", draft())
    boxes.delete("bob", [3])
    fill(boxes, 1)
    assert read(boxes) == [2, 4, 5]


# --- create and drop


def test_a_mailbox_that_is_gone_is_no_such_user(boxes: MemoryMailboxes) -> None:
    fill(boxes, 2)
    boxes.drop("bob")
    boxes.drop("bob")
    for call in (
        lambda: boxes.append("bob", draft()),
        lambda: boxes.read("bob", 0, 1, ALL),
        lambda: boxes.history("bob", None, 1, ALL, now=1),
        lambda: boxes.ack("bob", 0, now=1),
        lambda: boxes.delete("bob", [1]),
        lambda: boxes.standing("bob"),
    ):
        with pytest.raises(NoSuchUser):
            call()
    assert boxes.standing("ann") == Standing(0, 0)


def test_a_mailbox_is_made_once(boxes: MemoryMailboxes) -> None:
    fill(boxes, 2)
    with pytest.raises(ValueError, match="used twice"):
        boxes.create("bob")
    assert read(boxes) == [1, 2]


# --- wakes


class Wakes(list[str]):
    """Notes who was woken; a wake with a lock held is a breach of the rule."""

    def on(self, boxes: MemoryMailboxes, account_id: str, name: str):
        def wake() -> None:
            may_block("a wake")
            self.append(name)

        return boxes.on_mail(account_id, wake)


def test_mail_wakes_its_mailbox_and_nobody_else(boxes: MemoryMailboxes) -> None:
    wakes = Wakes()
    for name in ("ann", "bob"):
        wakes.on(boxes, name, name)
        wakes.on(boxes, name, f"{name} again")
    fill(boxes, 2, "bob")
    assert wakes == ["bob", "bob again"] * 2
    fill(boxes, 1, "ann")
    assert wakes[4:] == ["ann", "ann again"]


def test_nothing_but_mail_and_the_end_wakes(boxes: MemoryMailboxes) -> None:
    fill(boxes, 3)
    boxes.append("bob", draft("hi", send_id="x"))
    wakes = Wakes()
    wakes.on(boxes, "bob", "bob")
    boxes.append("bob", draft("hi", send_id="x"))
    with pytest.raises(SendIdConflict):
        boxes.append("bob", draft("ho", send_id="x"))
    boxes.read("bob", 0, 10, ALL)
    boxes.history("bob", None, 10, ALL, now=1)
    boxes.ack("bob", 1, now=1)
    boxes.delete("bob", [2])
    boxes.standing("bob")
    assert wakes == []
    boxes.drop("bob")
    boxes.drop("bob")
    assert wakes == ["bob"]


def test_a_full_mailbox_wakes_nobody() -> None:
    boxes = boxes_with(mailbox_messages=1)
    fill(boxes, 1)
    wakes = Wakes()
    wakes.on(boxes, "bob", "bob")
    with pytest.raises(MailboxFull):
        boxes.append("bob", draft())
    assert wakes == []


def test_a_subscription_ends_once_and_for_itself(boxes: MemoryMailboxes) -> None:
    wakes = Wakes()
    stop = wakes.on(boxes, "bob", "first")
    wakes.on(boxes, "bob", "second")
    stop()
    stop()
    fill(boxes, 1)
    assert wakes == ["second"]
    boxes.drop("bob")
    stop()


def test_nothing_is_called_for_a_mailbox_that_is_gone(boxes: MemoryMailboxes) -> None:
    wakes = Wakes()
    stop = wakes.on(boxes, "carl", "carl")
    boxes.create("carl")
    fill(boxes, 1, "carl")
    assert wakes == []
    stop()


def test_a_wake_may_look_again_from_inside(boxes: MemoryMailboxes) -> None:
    """No lock is held while a wake runs, so even one that calls the store does not hang."""
    seen: list[int] = []
    boxes.on_mail("bob", lambda: seen.append(boxes.standing("bob").unread))
    fill(boxes, 2)
    assert seen == [1, 2]
