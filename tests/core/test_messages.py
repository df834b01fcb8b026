"""Messages, at the service's door: sending, reading, acking, send_ids, limits."""

import re

import pytest
from services import FakeClock, bodies, enter, login, make_service

from twinline.core import errors
from twinline.core.messages import PAGE_BYTES
from twinline.core.store import MailboxPolicy


def test_send_read_ack() -> None:
    clock = FakeClock()
    service = make_service(clock=clock)
    ann, bob = enter(service, "ann"), enter(service, "bob")
    sent = service.send(ann, "BOB", "hello")
    assert sent.sent_at == clock.now
    (message,) = service.watch(bob, 0).messages
    assert message.model_dump(exclude_defaults=True) == {
        "seq": 1,
        "message_id": sent.message_id,
        "sender": "ann",
        "body": "hello",
        "sent_at": clock.now,
    }
    assert service.status(bob).unread == 1
    assert service.watch(bob, 0).position == 0
    reply = service.watch(bob, 1, ack=1)
    assert (reply.messages, reply.position) == ((), 1)
    assert service.status(bob).unread == 0


def test_order_is_that_of_sending_and_seqs_have_no_gaps() -> None:
    service = make_service()
    ann, bob = enter(service, "ann"), enter(service, "bob")
    ids = [service.send(ann, "bob", f"{n}").message_id for n in range(200)]
    first = service.watch(bob, 0, limit=150).messages
    rest = service.watch(bob, first[-1].seq, limit=150).messages
    assert [m.seq for m in first + rest] == list(range(1, 201))
    assert [m.message_id for m in first + rest] == ids
    assert len(set(ids)) == 200


def test_unacked_mail_is_redelivered_and_acked_mail_is_history() -> None:
    service = make_service()
    ann, bob = enter(service, "ann"), enter(service, "bob")
    for n in range(4):
        service.send(ann, "bob", f"{n}")
    assert bodies(service, bob) == ["0", "1", "2", "3"]
    service.ack(bob, 2)
    again = login(service, "bob")
    position = service.status(again).position
    assert bodies(service, again, position) == ["2", "3"]
    page = service.history(again, before=4, limit=2)
    assert ([m.body for m in page.messages], page.more) == (["1", "2"], True)
    page = service.history(again, before=2)
    assert ([m.body for m in page.messages], page.more) == (["0"], False)


def test_each_session_keeps_its_own_place_and_the_position_only_moves_forward() -> None:
    service = make_service()
    ann, phone = enter(service, "ann"), enter(service, "bob")
    desk = login(service, "bob")
    for n in range(3):
        service.send(ann, "bob", f"{n}")
    assert bodies(service, phone) == ["0", "1", "2"]
    assert service.ack(phone, 3).position == 3
    assert bodies(service, desk) == ["0", "1", "2"]
    assert service.ack(desk, 1).position == 3


def test_a_cursor_beyond_the_end() -> None:
    service = make_service()
    ann = enter(service, "ann")
    service.send(ann, "ann", "one")
    for call in (
        lambda: service.watch(ann, 2),
        lambda: service.watch(ann, 0, ack=2),
        lambda: service.ack(ann, 2),
    ):
        with pytest.raises(errors.CursorInvalid):
            call()


def test_a_repeated_send_id_gets_the_first_result() -> None:
    clock = FakeClock()
    service = make_service(clock=clock)
    ann, bob = enter(service, "ann"), enter(service, "bob")
    first = service.send(ann, "bob", "hello", "x1")
    clock.forward(hours=23)
    assert service.send(ann, "bob", "hello", "x1") == first
    assert bodies(service, bob) == ["hello"]
    with pytest.raises(errors.SendIdConflict):
        service.send(ann, "bob", "other", "x1")
    # To another recipient it is another message, and so is another sender's.
    other = service.send(ann, "ann", "hello", "x1")
    assert other != first
    assert service.send(ann, "ann", "hello", "x1") == other
    assert service.send(bob, "bob", "hello", "x1") != first
    clock.forward(hours=2)
    assert service.send(ann, "bob", "new day", "x1") != first


def test_a_repeat_is_answered_when_the_recipient_is_full_and_not_when_it_is_gone() -> None:
    service = make_service(policy=MailboxPolicy(mailbox_messages=1))
    ann, bob = enter(service, "ann"), enter(service, "bob")
    first = service.send(ann, "bob", "hello", "x1")
    with pytest.raises(errors.MailboxFull) as full:
        service.send(ann, "bob", "again", "x2")
    assert full.value.retryable
    assert service.send(ann, "bob", "hello", "x1") == first
    service.delete_account(bob, "correct horse", force=True)
    for send_id in ("x1", "x2"):
        with pytest.raises(errors.NoSuchUser):
            service.send(ann, "bob", "hello", send_id)


def test_a_full_mailbox_takes_mail_again_after_an_ack() -> None:
    service = make_service(policy=MailboxPolicy(mailbox_messages=2))
    ann, bob = enter(service, "ann"), enter(service, "bob")
    service.send(ann, "bob", "1")
    service.send(ann, "bob", "2")
    with pytest.raises(errors.MailboxFull):
        service.send(ann, "bob", "3")
    service.ack(bob, 1)
    service.send(ann, "bob", "3")
    assert bodies(service, bob, 1) == ["2", "3"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("", errors.BadRequest),
        ("x" * 101, errors.MessageTooLong),
        ("ä" * 51, errors.MessageTooLong),
        ("\ud800", errors.BadRequest),
    ],
)
def test_bodies_that_are_refused(body: str, error: type[errors.RequestError]) -> None:
    service = make_service(body_bytes=100)
    ann = enter(service, "ann")
    with pytest.raises(error):
        service.send(ann, "ann", body)
    assert bodies(service, ann) == []


@pytest.mark.parametrize(
    "body", ["x" * 100, "ä" * 50, "\x1b[31mred\x07", "\u202e\x85\x00", " ", "\n"]
)
def test_bodies_are_kept_exactly(body: str) -> None:
    service = make_service(body_bytes=100)
    ann = enter(service, "ann")
    service.send(ann, "ann", body)
    assert bodies(service, ann) == [body]


@pytest.mark.parametrize("send_id", ["", "x" * 65, "ä" * 33, "\ud800"])
def test_send_ids_that_are_refused(send_id: str) -> None:
    service = make_service()
    ann = enter(service, "ann")
    with pytest.raises(errors.BadRequest):
        service.send(ann, "ann", "hello", send_id)


def test_a_page_is_bounded_in_bytes_and_never_empty_for_it() -> None:
    service = make_service(body_bytes=64 * 1024)
    ann = enter(service, "ann")
    for _ in range(3):
        service.send(ann, "ann", "x" * (PAGE_BYTES // 2))
    service.send(ann, "ann", "y" * PAGE_BYTES)
    assert [len(m.body) for m in service.watch(ann, 0).messages] == [PAGE_BYTES // 2] * 2
    assert [m.seq for m in service.watch(ann, 2).messages] == [3]
    assert [m.seq for m in service.watch(ann, 3).messages] == [4]
    page = service.history(ann)
    assert ([m.seq for m in page.messages], page.more) == ([4], True)


def test_deleting_messages() -> None:
    service = make_service()
    ann = enter(service, "ann")
    for n in range(4):
        service.send(ann, "ann", f"{n}")
    assert service.delete_messages(ann, [2, 2, 9, 4]).deleted == 2
    assert bodies(service, ann) == ["0", "2"]
    assert service.status(ann).unread == 2
    assert service.delete_messages(ann, [2]).deleted == 0
    service.send(ann, "ann", "next")
    assert [m.seq for m in service.watch(ann, 0).messages] == [1, 3, 5]


def test_history_is_bounded_by_number_and_by_age() -> None:
    clock = FakeClock()
    policy = MailboxPolicy(history_messages=2, history_days=7)
    service = make_service(policy=policy, clock=clock)
    ann = enter(service, "ann")
    for n in range(4):
        service.send(ann, "ann", f"{n}")
    service.ack(ann, 3)
    assert [m.body for m in service.history(ann).messages] == ["1", "2", "3"]
    clock.forward(days=8)
    assert [m.body for m in service.history(ann).messages] == ["3"]
    assert service.status(ann).unread == 1  # what is not acked is kept however old


def test_a_rate_of_sends_is_off_by_default_and_holds_when_set() -> None:
    service = make_service()
    ann = enter(service, "ann")
    for n in range(500):
        service.send(ann, "ann", f"{n}")
    slow = make_service(sends_per_second=1)
    ann, bob = enter(slow, "ann"), enter(slow, "bob")
    slow.send(ann, "bob", "one")
    with pytest.raises(errors.RateLimited) as refused:
        slow.send(ann, "bob", "two")
    assert refused.value.retry_after_ms
    slow.send(bob, "ann", "the rate is the account's")


def test_wait_out_of_range() -> None:
    service = make_service()
    ann = enter(service, "ann")
    for wait in (-1, 61):
        with pytest.raises(errors.BadRequest):
            service.watch(ann, 0, wait=wait)


def test_message_ids_are_hexadecimal_and_never_the_same() -> None:
    """They are drawn many at a time: more here than in two draws."""
    service = make_service()
    ann = enter(service, "ann")
    ids = [service.send(ann, "ann", "hello").message_id for _ in range(600)]
    assert len(set(ids)) == 600
    assert all(re.fullmatch("[0-9a-f]{24}", message_id) for message_id in ids)
