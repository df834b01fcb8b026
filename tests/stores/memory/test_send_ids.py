"""A repeated send_id in the in-memory store: the first result, for its time, and no longer."""

import pytest
from store_samples import boxes_with, draft, fill

from twinline.core.errors import MailboxFull, NoSuchUser, SendIdConflict
from twinline.core.store import Standing
from twinline.stores.memory.mailboxes import MemoryMailboxes

HOUR = 60 * 60 * 1000


@pytest.fixture
def boxes() -> MemoryMailboxes:
    return boxes_with()


def read(boxes: MemoryMailboxes, after: int = 0) -> list[int]:
    return [message.seq for message in boxes.read("bob", after, 1000, 10**9).messages]


def test_a_repeat_gets_the_first_receipt_and_stores_nothing(boxes: MemoryMailboxes) -> None:
    first = boxes.append("bob", draft("hi", send_id="x", sent_at=5))
    assert boxes.append("bob", draft("hi", send_id="x", sent_at=9)) == first
    assert first.sent_at == 5
    assert read(boxes) == [1]
    assert boxes.standing("bob") == Standing(0, 1)


def test_without_send_id_the_same_text_is_another_message(boxes: MemoryMailboxes) -> None:
    for _ in range(2):
        boxes.append("bob", draft("hi"))
    assert read(boxes) == [1, 2]


@pytest.mark.parametrize(
    "other", [{"body": "hi!"}, {"to": "zoe"}, {"to": "bo", "body": "bhi"}, {"body": ""}]
)
def test_a_send_id_for_other_content_is_a_conflict(
    boxes: MemoryMailboxes, other: dict[str, str]
) -> None:
    first = draft("hi", send_id="x")
    boxes.append("bob", first)
    content = {"body": "hi", "to": "bob"} | other
    with pytest.raises(SendIdConflict):
        boxes.append("bob", draft(content["body"], to=content["to"], send_id="x"))
    assert read(boxes) == [1]
    assert boxes.append("bob", draft("hi", send_id="x")).message_id == first.message_id


def test_a_send_id_belongs_to_its_sender(boxes: MemoryMailboxes) -> None:
    boxes.append("bob", draft("hi", sender="ann", send_id="x"))
    boxes.append("bob", draft("ho", sender="zoe", send_id="x"))
    assert read(boxes) == [1, 2]


def test_a_repeat_is_answered_whatever_became_of_the_recipient() -> None:
    boxes = boxes_with(mailbox_messages=1)
    first = boxes.append("bob", draft("hi", send_id="x"))
    full = draft("hi", send_id="x")
    assert boxes.append("bob", full) == first
    boxes.drop("bob")
    assert boxes.append("bob", draft("hi", send_id="x")) == first
    assert boxes.append(None, draft("hi", send_id="x")) == first
    with pytest.raises(SendIdConflict):
        boxes.append(None, draft("ho", send_id="x"))
    # The recipient's name may belong to a new account by now: still the first result.
    boxes.create("bob-2")
    assert boxes.append("bob-2", draft("hi", send_id="x")) == first
    assert boxes.standing("bob-2") == Standing(0, 0)


@pytest.mark.parametrize("send_id", [None, "new"])
def test_a_send_to_nobody_is_refused_and_not_remembered(
    boxes: MemoryMailboxes, send_id: str | None
) -> None:
    for gone in (None, "never was"):
        with pytest.raises(NoSuchUser):
            boxes.append(gone, draft("hi", send_id=send_id))
    boxes.append("bob", draft("another", send_id=send_id))
    assert read(boxes) == [1]


def test_a_send_that_was_refused_is_not_remembered() -> None:
    boxes = boxes_with(mailbox_messages=1)
    fill(boxes, 1)
    with pytest.raises(MailboxFull):
        boxes.append("bob", draft("hi", send_id="x"))
    boxes.ack("bob", 1, now=1)
    boxes.append("bob", draft("ho", send_id="x"))
    assert read(boxes, 1) == [2]


def test_a_send_id_is_kept_for_its_time_from_the_first() -> None:
    boxes = boxes_with(send_id_hours=24)
    first = boxes.append("bob", draft("hi", send_id="x", sent_at=1000))
    last_moment = 1000 + 24 * HOUR - 1
    assert boxes.append("bob", draft("hi", send_id="x", sent_at=last_moment)) == first
    with pytest.raises(SendIdConflict):
        boxes.append("bob", draft("ho", send_id="x", sent_at=last_moment))
    # The repeat did not prolong it, and now it may stand for something else.
    second = boxes.append("bob", draft("ho", send_id="x", sent_at=last_moment + 1))
    assert second != first
    assert boxes.append("bob", draft("ho", send_id="x", sent_at=last_moment + HOUR)) == second
    assert read(boxes) == [1, 2]


def test_an_expired_send_id_does_not_count_even_before_it_is_forgotten() -> None:
    boxes = boxes_with(send_id_hours=1)
    # The clock steps back: the front of the queue is younger than what stands behind it.
    boxes.append("bob", draft("young", send_id="y", sent_at=10 * HOUR))
    boxes.append("bob", draft("old", send_id="o", sent_at=1 * HOUR))
    boxes.append("bob", draft("other", send_id="o", sent_at=2 * HOUR))
    assert read(boxes) == [1, 2, 3]
    boxes.append("bob", draft("young", send_id="y", sent_at=10 * HOUR + 1))
    assert read(boxes) == [1, 2, 3]


def test_a_send_id_that_is_used_anew_waits_behind_the_others() -> None:
    boxes = boxes_with(send_id_hours=1)
    for send_id, hour in (("y", 10), ("o", 1), ("p", 2)):  # the clock steps back
        boxes.append("bob", draft(send_id=send_id, sent_at=hour * HOUR))
    boxes.append("bob", draft(send_id="o", sent_at=10 * HOUR + 1))
    boxes.append("bob", draft(sent_at=11 * HOUR))
    assert [send_id for _, send_id in boxes._sends.firsts] == ["o"]


def test_send_ids_can_be_forgotten_at_once() -> None:
    boxes = boxes_with(send_id_hours=0)
    for sent_at in (5, 5, 4):
        boxes.append("bob", draft("hi", send_id="x", sent_at=sent_at))
    assert read(boxes) == [1, 2, 3]
    assert len(boxes._sends) == 0


def test_forgetting_costs_each_send_the_same_and_keeps_up() -> None:
    boxes = boxes_with(send_id_hours=1)
    for number in range(100):
        boxes.append("bob", draft(send_id=f"{number}", sent_at=1))
    assert len(boxes._sends) == 100
    for number in range(99):
        boxes.append("bob", draft(send_id=f"later {number}", sent_at=1 + HOUR))
        assert len(boxes._sends) == 99 - number  # two go, one comes
        if len(boxes._sends) <= number + 2:
            break
    boxes.append("bob", draft(sent_at=1 + HOUR))  # one without a send_id forgets too
    boxes.append("bob", draft(send_id="last", sent_at=1 + 3 * HOUR))
    for _ in range(100):
        boxes.append("bob", draft(sent_at=1 + 5 * HOUR))
    assert len(boxes._sends) == 0
