"""A send that a signal's handler interrupts, in each built-in store, wherever it is."""

import threading
from collections.abc import Callable

import pytest
from interrupting import each_place
from store_samples import ALL, draft

from twinline.core.protocol import Kind
from twinline.core.store import Store

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_who_waits_for_mail_is_woken_if_it_was_stored(open_store: Callable[[], Store]) -> None:
    boxes = open_store().mailboxes
    boxes.create("bob")
    mail = threading.Event()
    boxes.on_mail("bob", mail.set)
    before = stored = 0
    for place in each_place(lambda: boxes.append("bob", draft())):
        # Behind it, so that it is known by then whether it was.
        boxes.delete("bob", [0])
        after = boxes.standing("bob").unread
        if after > before:
            assert mail.wait(10), place
            stored += 1
        before = after
        mail.clear()
    assert stored


def test_a_send_that_was_interrupted_is_stored_once_when_it_is_repeated(
    open_store: Callable[[], Store],
) -> None:
    """Its send_id is kept with its message or neither is: no place is between the two."""
    boxes = open_store().mailboxes
    boxes.create("bob")
    sent: list[str] = []

    def send() -> None:
        sent.append(f"{len(sent)}")
        boxes.append("bob", draft(sent[-1], send_id=sent[-1]))

    for place in each_place(send):
        boxes.append("bob", draft(sent[-1], send_id=sent[-1]))
        bodies = [each.body for each in boxes.read("bob", 0, ALL, ALL).messages]
        assert bodies == sent, place


def test_a_copy_that_was_interrupted_is_there_once_when_its_send_is_repeated(
    open_store: Callable[..., Store],
) -> None:
    boxes = open_store(history_messages=5).mailboxes
    for account_id in ("id-ann", "bob"):
        boxes.create(account_id)
    sent: list[str] = []

    def send() -> None:
        sent.append(f"{len(sent)}")
        boxes.append("bob", draft(sent[-1], send_id=sent[-1])._replace(copy_to="bob"))

    for place in each_place(send):
        boxes.append("bob", draft(sent[-1], send_id=sent[-1])._replace(copy_to="bob"))
        page = boxes.read("id-ann", 0, ALL, ALL, frozenset({Kind.SENT}))
        assert [each.body for each in page.messages] == sent[-5:], place
        assert boxes.usage("id-ann").copies == len(sent[-5:]), place


def test_a_mailbox_is_whole_wherever_a_change_to_it_is_interrupted(
    open_store: Callable[..., Store],
) -> None:
    boxes = open_store(history_messages=2).mailboxes
    boxes.create("bob")

    def change() -> None:
        boxes.append("bob", draft())
        boxes.append("bob", draft())
        boxes.append("bob", draft())
        last = boxes.history("bob", None, 1, ALL, 1).messages[0].seq
        boxes.ack("bob", last - 1, 1)
        boxes.delete("bob", [last, last - 1])

    for place in each_place(change, step=3):
        boxes.delete("bob", [0])  # behind a change that may still be under way
        page = boxes.read("bob", 0, ALL, ALL)
        unread = [each.seq for each in page.messages if each.seq > page.position]
        assert boxes.standing("bob").unread == len(unread), place
        boxes.history("bob", None, ALL, ALL, 1)
