"""What every store does, where the store kit and the random steps do not look."""

from collections.abc import Callable

import pytest
from store_samples import DAY, HOUR, account, draft, fill, history, key, read, session

from twinline.core.errors import MailboxFull, SendIdConflict
from twinline.core.locks import may_block
from twinline.core.store import Accounts, Mailboxes

OpenBoxes = Callable[..., Mailboxes]


def test_an_error_does_not_hold_the_token(accounts: Accounts) -> None:
    accounts.create(account("ann"))
    accounts.open_session(session("one"))
    with pytest.raises(ValueError, match="used twice") as caught:
        accounts.open_session(session("one"))
    assert "one" not in str(caught.value)


def test_nothing_but_mail_and_the_end_wakes(open_boxes: OpenBoxes) -> None:
    boxes = open_boxes(mailbox_messages=3)
    fill(boxes, 2)
    boxes.append("bob", draft("hi", send_id="x"))
    woken: list[str] = []

    def wake() -> None:
        may_block("a wake")
        woken.append("bob")

    boxes.on_mail("bob", wake)
    boxes.append("bob", draft("hi", send_id="x"))
    with pytest.raises(SendIdConflict):
        boxes.append("bob", draft("ho", send_id="x"))
    with pytest.raises(MailboxFull):
        boxes.append("bob", draft())
    fill(boxes, 1, "ann")
    boxes.read("bob", 0, 10, 10)
    boxes.history("bob", None, 10, 10, now=1)
    boxes.ack("bob", 1, now=1)
    boxes.delete("bob", [2])
    boxes.standing("bob")
    assert woken == []
    fill(boxes, 2)
    assert woken == ["bob"] * 2
    boxes.drop("bob")
    boxes.drop("bob")
    assert woken == ["bob"] * 3


def test_who_subscribes_to_a_mailbox_that_is_made_later_is_not_woken(open_boxes: OpenBoxes) -> None:
    boxes = open_boxes()
    woken: list[str] = []
    stop = boxes.on_mail("carl", lambda: woken.append("carl"))
    boxes.create("carl")
    fill(boxes, 1, "carl")
    assert woken == []
    stop()


def test_who_subscribes_to_a_session_that_is_opened_later_is_not_woken(accounts: Accounts) -> None:
    accounts.create(account("ann"))
    woken: list[str] = []
    stop = accounts.on_session_end(key("one"), lambda: woken.append("one"))
    accounts.open_session(session("one"))
    accounts.close_session(key("one"))
    assert woken == []
    stop()


def test_a_seq_that_no_mailbox_gives_out_deletes_nothing(open_boxes: OpenBoxes) -> None:
    boxes = open_boxes()
    fill(boxes, 1)
    assert boxes.delete("bob", {-1, 2**60}) == 0
    assert read(boxes) == [1]


@pytest.mark.parametrize("by", ["ack", "lower ack", "append"])
def test_what_has_aged_goes_with_the_next_change(open_boxes: OpenBoxes, by: str) -> None:
    boxes = open_boxes(history_days=1)
    fill(boxes, 3)
    boxes.ack("bob", 2, now=0)
    if by == "append":
        boxes.append("bob", draft(sent_at=DAY))
    else:
        boxes.ack("bob", 3 if by == "ack" else 1, now=DAY)
    assert read(boxes)[0] == 3


# --- a wall clock may step back


def test_history_behind_an_ack_of_a_later_clock_stays_a_while_longer(open_boxes: OpenBoxes) -> None:
    boxes = open_boxes(history_days=1)
    fill(boxes, 3)
    boxes.ack("bob", 1, now=10 * DAY)
    boxes.ack("bob", 2, now=5 * DAY)
    assert history(boxes, now=6 * DAY) == [1, 2, 3]
    assert history(boxes, now=11 * DAY) == [3]


def test_an_expired_send_id_does_not_count_even_before_it_is_removed(open_boxes: OpenBoxes) -> None:
    boxes = open_boxes(send_id_hours=1)
    boxes.append("bob", draft("young", send_id="y", sent_at=2 * HOUR - 1))
    boxes.append("bob", draft("old", send_id="o", sent_at=1 * HOUR))
    boxes.append("bob", draft("other", send_id="o", sent_at=2 * HOUR))
    assert read(boxes) == [1, 2, 3]
    boxes.append("bob", draft("young", send_id="y", sent_at=2 * HOUR + 1))
    assert read(boxes) == [1, 2, 3]
