"""What a mailbox in memory keeps of its acked messages, and what reading and trimming cost."""

from collections.abc import Iterator

import pytest
from store_samples import boxes_with, draft, fill, history, read

from twinline.core.store import Draft, Standing
from twinline.stores.memory.mailboxes import MemoryMailboxes

HOUR = 60 * 60 * 1000
DAY = 24 * HOUR


# --- history


def test_history_keeps_the_newest_acked_messages() -> None:
    boxes = boxes_with(history_messages=2)
    fill(boxes, 6)
    assert read(boxes) == [1, 2, 3, 4, 5, 6]  # what is not acked is never too old
    boxes.ack("bob", 2, now=1)
    assert read(boxes) == [1, 2, 3, 4, 5, 6]
    boxes.ack("bob", 3, now=1)
    assert read(boxes) == history(boxes) == [2, 3, 4, 5, 6]
    boxes.delete("bob", [3])
    boxes.ack("bob", 4, now=1)
    assert read(boxes) == [2, 4, 5, 6]
    boxes.ack("bob", 6, now=1)
    assert read(boxes) == [5, 6]
    assert boxes.standing("bob") == Standing(6, 0)


@pytest.mark.parametrize("policy", [{"history_messages": 0}, {"history_days": 0}])
def test_with_no_history_a_message_goes_with_its_ack(policy: dict[str, float]) -> None:
    boxes = boxes_with(**policy)
    fill(boxes, 3)
    boxes.ack("bob", 2, now=1)
    assert read(boxes) == history(boxes) == [3]
    assert boxes.delete("bob", [1, 2]) == 0
    boxes.ack("bob", 3, now=1)
    assert read(boxes) == []
    assert len(boxes._boxes["bob"]) == 0
    fill(boxes, 1)
    assert read(boxes) == [4]


def test_history_ages_from_the_ack_not_from_the_sending() -> None:
    boxes = boxes_with(history_days=2)
    fill(boxes, 4, at=1)
    old = 100 * DAY
    boxes.ack("bob", 1, now=old)
    boxes.ack("bob", 3, now=old + DAY)
    assert history(boxes, now=old + 2 * DAY - 1) == [1, 2, 3, 4]
    assert history(boxes, now=old + 2 * DAY) == [2, 3, 4]
    assert history(boxes, now=old + 3 * DAY - 1) == [2, 3, 4]
    assert history(boxes, now=old + 3 * DAY) == [4]
    assert history(boxes, now=old + 1000 * DAY) == [4]  # never acked
    boxes.ack("bob", 4, now=old + 1000 * DAY)
    assert history(boxes, now=old + 1000 * DAY) == [4]


def test_half_a_day_of_history() -> None:
    boxes = boxes_with(history_days=0.5)
    fill(boxes, 1)
    boxes.ack("bob", 1, now=0)
    assert history(boxes, now=12 * HOUR - 1) == [1]
    assert history(boxes, now=12 * HOUR) == []


@pytest.mark.parametrize("by", ["ack", "lower ack", "append"])
def test_what_has_aged_goes_with_the_next_change(by: str) -> None:
    boxes = boxes_with(history_days=1)
    fill(boxes, 3)
    boxes.ack("bob", 2, now=0)
    if by == "append":
        boxes.append("bob", draft(sent_at=DAY))
    else:
        boxes.ack("bob", 3 if by == "ack" else 1, now=DAY)
    assert read(boxes)[0] == 3


def test_acks_of_one_moment_are_one_mark_and_marks_go_with_their_messages() -> None:
    boxes = boxes_with(history_messages=5)
    fill(boxes, 100)
    box = boxes._boxes["bob"]
    for seq in range(1, 11):
        boxes.ack("bob", seq, now=7)
    assert list(box._acks) == [(10, 7)]
    for seq in range(11, 101):
        boxes.ack("bob", seq, now=seq)
        assert len(box._acks) <= 6
    boxes.delete("bob", range(1, 101))
    boxes.ack("bob", 100, now=101)
    assert len(box._acks) == 0


def test_a_clock_that_steps_back_loses_nothing_unread() -> None:
    boxes = boxes_with(history_days=1)
    fill(boxes, 3)
    boxes.ack("bob", 1, now=10 * DAY)
    boxes.ack("bob", 2, now=5 * DAY)
    assert history(boxes, now=6 * DAY) == [1, 2, 3]  # behind the older ack, so a while longer
    assert history(boxes, now=11 * DAY) == [3]


# --- what it costs


def test_the_list_of_seqs_stays_as_short_as_the_mailbox() -> None:
    boxes = boxes_with(history_messages=10)
    box = boxes._boxes["bob"]
    for number in range(1, 2001):
        fill(boxes, 1)
        boxes.ack("bob", number, now=1)
        assert len(box) <= 11
        assert len(box._seqs) <= 11 + 64
    assert read(boxes, 1995) == [1996, 1997, 1998, 1999, 2000]


def test_cutting_the_list_of_seqs_moves_each_seq_a_bounded_number_of_times() -> None:
    boxes = boxes_with(history_messages=1000)
    box = boxes._boxes["bob"]
    moved = 0
    for number in range(1, 10_001):
        fill(boxes, 1)
        before = box._head
        boxes.ack("bob", number, now=1)
        if box._head < before:
            moved += len(box._seqs)
    assert 0 < moved <= 2 * 10_000


class CountedMessages(dict[int, Draft]):
    """A mailbox's messages that count how many were touched."""

    touched = 0

    def __getitem__(self, seq: int) -> Draft:
        self.touched += 1
        return super().__getitem__(seq)


@pytest.fixture(scope="module")
def full() -> MemoryMailboxes:
    boxes = boxes_with()
    fill(boxes, 10_000)
    boxes._boxes["bob"]._messages = CountedMessages(boxes._boxes["bob"]._messages)
    return boxes


@pytest.fixture
def counted(full: MemoryMailboxes) -> Iterator[CountedMessages]:
    messages = full._boxes["bob"]._messages
    assert isinstance(messages, CountedMessages)
    messages.touched = 0
    yield messages
    assert messages.touched == 11  # the page, and one more for `more`


@pytest.mark.parametrize("after", [0, 4_000, 9_900])
def test_reading_at_a_position_touches_its_page_alone(
    full: MemoryMailboxes, counted: CountedMessages, after: int
) -> None:
    assert read(full, after, limit=10) == list(range(after + 1, after + 11))


@pytest.mark.parametrize("before", [10_001, 4_000])
def test_reading_backwards_touches_its_page_alone(
    full: MemoryMailboxes, counted: CountedMessages, before: int
) -> None:
    assert history(full, before, limit=10) == list(range(before - 10, before))


def test_reading_over_what_was_deleted_touches_its_page_alone(
    full: MemoryMailboxes, counted: CountedMessages
) -> None:
    full.delete("bob", range(5_001, 9_001))
    assert read(full, 4_995, limit=10) == [*range(4_996, 5_001), *range(9_001, 9_006)]
    assert 5_001 not in full._boxes["bob"]._seqs
