"""Copies, kinds, conversations and block lists, as a caller of the service meets them."""

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from listening import Hold
from services import PASSWORD, FakeClock, count_subscriptions, enter, login, make_service
from waiting import Call, wait_until

from twinline.core import errors
from twinline.core.deadline import Deadline
from twinline.core.looks import Look
from twinline.core.protocol import (
    EVERY_KIND,
    MAIL_ALONE,
    TALK,
    Conversation,
    Kind,
    Kinds,
    Message,
    SentReply,
    WatchReply,
)
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.core.store import (
    MOST_BLOCKED,
    Blocked,
    MailboxLook,
    MailboxPolicy,
    MailPage,
    PeerReceipt,
    Store,
    Unsubscribe,
)
from twinline.core.waiting import Wake
from twinline.stores.memory import MemoryStore
from twinline.stores.sqlite import SqliteStore

SENT: Kinds = frozenset({Kind.SENT})
RECEIPTS: Kinds = frozenset({Kind.RECEIPT})


@pytest.fixture
def service() -> ChatService:
    return make_service()


@pytest.fixture
def ann(service: ChatService) -> Session:
    return enter(service, "ann")


@pytest.fixture
def bob(service: ChatService) -> Iterator[Session]:
    session = enter(service, "bob")
    yield session
    service.stop()


def mailbox_of(service: ChatService, username: str) -> str:
    """Return the id of an account."""
    account = service.store.accounts.find(username)
    assert account is not None
    return account.account_id


def told(messages: tuple[Message, ...]) -> list[str]:
    """Return messages as a list that is easy to read."""
    return [f"{m.seq} {m.kind.value} {m.sender}->{m.to or ''} {m.body}" for m in messages]


# -- copies, and kinds ----------------------------------------------------------------------


def test_a_copy_lies_with_its_sender_and_is_seen_by_who_asks(
    service: ChatService, ann: Session, bob: Session
) -> None:
    sent = service.send(ann, "BOB", "hello", "id-1", copy=True)
    other = login(service, "ann")
    assert service.watch(other, 0) == WatchReply(messages=(), position=0, seen=1)
    assert service.history(other).messages == ()
    (copy,) = service.watch(other, 0, kinds=SENT).messages
    assert copy == Message(
        seq=1,
        message_id=sent.message_id,
        sender="ann",
        body="hello",
        sent_at=sent.sent_at,
        to="bob",
        n=sent.n,
    )
    (mail,) = service.watch(bob, 0, kinds=EVERY_KIND).messages
    assert (mail.message_id, mail.to, mail.n) == (sent.message_id, None, None)
    status = service.status(ann)
    assert (status.position, status.unread) == (0, 0)


def test_a_send_that_asks_for_no_copy_leaves_none(
    service: ChatService, ann: Session, bob: Session
) -> None:
    service.send(ann, "bob", "hello", "id-1")
    service.send(ann, "ann", "a note", "id-2", copy=True)  # of which there is one entry
    assert told(service.watch(ann, 0, kinds=EVERY_KIND).messages) == ["1 mail ann-> a note"]


def test_a_copy_needs_a_send_id(service: ChatService, ann: Session, bob: Session) -> None:
    with pytest.raises(errors.BadRequest, match="a copy needs a send_id"):
        service.send(ann, "bob", "hello", copy=True)
    assert service.watch(bob, 0).messages == ()


def test_a_repeat_completes_a_copy_and_answers_as_the_first_did(
    service: ChatService, ann: Session, bob: Session
) -> None:
    first = service.send(ann, "bob", "hello", "id-1")
    for _ in range(2):
        assert service.send(ann, "bob", "hello", "id-1", copy=True) == first
    (copy,) = service.history(ann, kinds=SENT).messages
    assert (copy.message_id, copy.n) == (first.message_id, first.n)
    assert len(service.watch(bob, 0).messages) == 1


def test_a_watch_of_mail_alone_is_not_woken_by_a_copy_but_one_of_copies_is(
    service: ChatService, ann: Session, bob: Session
) -> None:
    opened = count_subscriptions(service)
    other = login(service, "ann")
    of_mail = Call(lambda: service.watch(other, 0, wait=60))
    of_copies = Call(lambda: service.watch(login(service, "ann"), 0, wait=60, kinds=SENT))
    wait_until(lambda: opened[mailbox_of(service, "ann")] == 2, "both wait")
    service.send(ann, "bob", "hello", "id-1", copy=True)
    brought: Any = of_copies.outcome()
    assert told(brought.messages) == ["1 sent ann->bob hello"]
    service.send(bob, "ann", "well!")
    brought = of_mail.outcome()
    assert told(brought.messages) == ["2 mail bob-> well!"]
    assert brought.seen == 2


def test_a_watch_that_was_woken_for_nothing_goes_on_where_it_has_looked(
    service: ChatService, ann: Session, bob: Session
) -> None:
    """Its next look begins there: what lies between is passed over once."""
    wakes: list[Wake] = []
    looks: list[int] = []
    look, on_mail = service.store.mailboxes.look, service.store.mailboxes.on_mail

    def looked(asked: MailboxLook) -> MailPage:
        page = look(asked)
        looks.append(asked.after)
        return page

    def subscribed(account_id: str, wake: Wake, kinds: Kinds) -> Unsubscribe:
        wakes.append(wake)
        return on_mail(account_id, wake, kinds)

    service.store.mailboxes.look = looked  # type: ignore[method-assign]
    service.store.mailboxes.on_mail = subscribed  # type: ignore[method-assign]
    waiting = Call(lambda: service.watch(ann, 0, wait=60))
    for number in range(3):
        wait_until(lambda: len(looks) == number + 1, "it has looked")  # noqa: B023 - called at once
        service.send(login(service, "ann"), "bob", "hello", f"id-{number}", copy=True)
        wakes[0]()  # for nothing, as a store may
    wait_until(lambda: len(looks) == 4, "it has looked")
    ann.interrupt()
    brought: Any = waiting.outcome()
    assert (brought.messages, brought.seen) == ((), 3)
    assert looks[:4] == [0, 0, 1, 2]


def test_a_receipt_ends_the_wait_of_who_asks_for_receipts(
    service: ChatService, ann: Session, bob: Session
) -> None:
    sent = service.send(ann, "bob", "hello")
    waiting = Call(lambda: service.watch(ann, 0, wait=60, kinds=RECEIPTS))
    service.ack(bob, 1)
    brought: Any = waiting.outcome()
    (receipt,) = brought.receipts
    assert (receipt.username, receipt.n, brought.seen) == ("bob", sent.n, receipt.seq)
    assert service.watch(ann, brought.seen, kinds=EVERY_KIND).entries == ()
    page = service.history(ann, kinds=EVERY_KIND)
    assert page.entries == (receipt,)


def test_a_subscription_of_other_kinds_takes_the_place_of_the_first(
    service: ChatService, bob: Session
) -> None:
    """A session follows once: what wakes it is what it has looked for last."""
    opened = count_subscriptions(service)
    wakes: list[int] = []
    session = service.session(on_mail=lambda: wakes.append(1))
    service.create_account(session, "ann", PASSWORD)
    other = login(service, "ann")

    def look(kinds: Kinds) -> None:
        service.look(session, Look(0, None, 1, 65536, follow=True, kinds=kinds))
        assert opened[mailbox_of(service, "ann")] == 1
        wakes.clear()

    copies = 0

    def copied() -> bool:
        nonlocal copies
        copies += 1
        service.send(other, "bob", "hello", f"id-{copies}", copy=True)
        return bool(wakes)

    look(MAIL_ALONE)
    assert not copied()
    look(TALK)
    assert copied()
    look(TALK)
    assert copied()
    service.look_many(
        [(session, Look(0, None, 1, 65536, follow=True, kinds=MAIL_ALONE))]
    )  # as an event loop does
    wakes.clear()
    assert not copied()
    service.send(bob, "ann", "well!")
    assert wakes
    service.leave(session)
    assert opened.total() == 0


def test_a_place_of_a_watch_is_kept_or_given_up_by_whoever_changes_kinds(
    service: ChatService,
) -> None:
    tight = make_service(watches_per_account=1)
    session = tight.session(on_mail=lambda: None)
    tight.create_account(session, "ann", PASSWORD)
    for kinds in (MAIL_ALONE, TALK, MAIL_ALONE):
        tight.look(session, Look(0, None, 1, 65536, follow=True, kinds=kinds))
    with pytest.raises(errors.Busy):
        tight.subscribe(login(tight, "ann"), lambda: None)


def test_a_subscription_by_a_callback_has_kinds(
    service: ChatService, ann: Session, bob: Session
) -> None:
    called: list[str] = []
    service.subscribe(ann, lambda: called.append("mail"))
    service.subscribe(ann, lambda: called.append("copy"), kinds=SENT)
    service.send(ann, "bob", "hello", "id-1", copy=True)
    assert called == ["copy"]
    service.send(bob, "ann", "well!")
    assert called == ["copy", "mail"]


# -- conversations --------------------------------------------------------------------------


def test_both_sides_of_a_conversation_are_its_history(
    service: ChatService, ann: Session, bob: Session
) -> None:
    carol = enter(service, "carol")
    service.send(ann, "bob", "one", "id-1", copy=True)
    service.send(carol, "ann", "aside")
    service.send(bob, "ann", "two")
    service.send(ann, "bob", "three", "id-2", copy=True)
    page = service.history(ann, limit=2, peer="Bob")
    assert told(page.messages) == ["3 mail bob-> two", "4 sent ann->bob three"]
    assert (page.more, page.seen) == (True, 3)
    page = service.history(ann, page.seen, 2, peer="bob")
    assert told(page.messages) == ["1 sent ann->bob one"]
    assert (page.more, page.seen) == (False, 0)
    page = service.history(ann, peer="bob", kinds=MAIL_ALONE)
    assert told(page.messages) == ["3 mail bob-> two"]
    assert service.history(ann, peer="nobody").messages == ()
    with pytest.raises(errors.InvalidUsername):
        service.history(ann, peer="no body")


def test_conversations_are_listed_with_what_was_said_last_and_what_is_unread(
    service: ChatService, ann: Session, bob: Session
) -> None:
    carol = enter(service, "carol")
    service.send(carol, "ann", "aside")
    service.send(bob, "ann", "one")
    service.send(bob, "ann", "two")
    service.send(ann, "bob", "three", "id-1", copy=True)
    service.ack(ann, 2)
    page = service.conversations(ann, limit=1)
    assert page.more
    (first,) = page.conversations
    assert (first.username, first.last.body, first.unread) == ("bob", "three", 1)
    page = service.conversations(ann, first.last.seq)
    assert [shown(each) for each in page.conversations] == [("carol", "aside", 0)]
    assert not page.more
    # Of bob's own there is mail alone, for he has kept no copies.
    page = service.conversations(bob)
    assert [shown(each) for each in page.conversations] == [("ann", "three", 1)]


def shown(conversation: Conversation) -> tuple[str, str, int]:
    return conversation.username, conversation.last.body, conversation.unread


def test_who_gets_the_name_of_another_has_a_conversation_of_its_own() -> None:
    service = make_service(free_deleted_names=True)
    ann, bob = enter(service, "ann"), enter(service, "bob")
    service.send(ann, "bob", "to the first", "id-1", copy=True)
    service.send(bob, "ann", "of the first")
    service.delete_account(bob, PASSWORD, force=True)
    gone = service.history(ann, peer="bob").messages
    assert [each.body for each in gone] == ["to the first", "of the first"]
    second = enter(service, "bob")
    assert service.history(ann, peer="bob").messages == ()
    service.send(second, "ann", "of the second")
    assert [each.body for each in service.history(ann, peer="bob").messages] == ["of the second"]
    assert [shown(each) for each in service.conversations(ann).conversations] == [
        ("bob", "of the second", 1),
        ("bob", "of the first", 1),
    ]


def test_an_account_that_lost_its_name_is_found_by_its_id() -> None:
    service = make_service(free_deleted_names=True)
    ann, bob, carol = (enter(service, name) for name in ("ann", "bob", "carol"))
    service.send(bob, "carol", "not ann's")
    assert service.history(ann).account is None
    assert service.history(ann, peer="nobody").account is None
    first = service.history(ann, peer="Bob").account
    for number in range(3):
        service.send(ann, "bob", f"to the first {number}", f"id-{number}", copy=True)
        service.send(bob, "ann", f"of the first {number}")
    service.delete_account(bob, PASSWORD, force=True)
    assert service.history(ann, peer="bob").account is None
    second = service.history(enter(service, "bob"), peer="bob").account
    service.send(ann, "bob", "to the second", "id-9", copy=True)
    talks = service.conversations(ann).conversations
    assert [(each.username, each.account) for each in talks] == [("bob", second), ("bob", first)]

    page = service.history(ann, limit=4, peer="bob", account=first)
    assert (len(page.messages), page.more, page.account) == (4, True, second)
    before = service.history(ann, page.seen, peer="bob", account=first)
    assert [each.body for each in (*before.messages, *page.messages)] == [
        text for n in range(3) for text in (f"to the first {n}", f"of the first {n}")
    ]
    by_name = service.history(ann, peer="bob")
    assert service.history(ann, peer="bob", account=second) == by_name
    assert [each.body for each in by_name.messages] == ["to the second"]
    # The mailbox is the caller's own, and one that it has nothing of is as one that nobody has.
    for whose in ("0" * 32, service.history(ann, peer="carol").account):
        nothing = service.history(ann, peer="bob", account=whose)
        assert (nothing.messages, nothing.more, nothing.seen) == ((), False, 0)
    assert service.history(carol, peer="bob", account=first).messages[0].body == "not ann's"
    with pytest.raises(errors.BadRequest, match="needs 'with'"):
        service.history(ann, account=first)


def test_what_has_aged_is_in_no_conversation() -> None:
    clock = FakeClock()
    service = make_service(clock=clock)
    ann = enter(service, "ann")
    enter(service, "bob")
    service.send(ann, "bob", "old", "id-1", copy=True)
    clock.forward(days=8)
    assert service.conversations(ann).conversations == ()
    assert service.history(ann, peer="bob").messages == ()


# -- block lists ----------------------------------------------------------------------------


def test_what_a_blocked_account_sends_is_refused_and_leaves_nothing(
    service: ChatService, ann: Session, bob: Session
) -> None:
    before = service.send(ann, "bob", "before", "id-1", copy=True)
    service.block(bob, "ANN")
    service.block(bob, "ann")
    assert service.list_blocked(bob).usernames == ("ann",)
    with pytest.raises(errors.Refused):
        service.send(ann, "bob", "let me in", "id-2", copy=True)
    assert not errors.Refused.retryable
    assert service.send(ann, "bob", "before", "id-1", copy=True) == before
    assert [each.body for each in service.history(bob).messages] == ["before"]
    assert [each.body for each in service.history(ann, kinds=TALK).messages] == ["before"]
    service.send(bob, "ann", "not you")  # who blocks can write
    service.unblock(bob, "Ann")
    service.unblock(bob, "ann")
    assert service.list_blocked(bob).usernames == ()
    after = service.send(ann, "bob", "let me in", "id-2", copy=True)
    assert [each.message_id for each in service.history(ann, kinds=SENT).messages] == [
        before.message_id,
        after.message_id,
    ]


def test_who_cannot_be_blocked(service: ChatService, ann: Session) -> None:
    with pytest.raises(errors.BadRequest, match="their own account"):
        service.block(ann, "Ann")
    with pytest.raises(errors.NoSuchUser):
        service.block(ann, "nobody")
    for call in (service.block, service.unblock):
        with pytest.raises(errors.InvalidUsername):
            call(ann, "no body")
    service.unblock(ann, "nobody")
    assert service.list_blocked(ann).usernames == ()


def test_an_account_that_is_gone_is_unblocked_by_its_name() -> None:
    service = make_service(free_deleted_names=True)
    ann, bob = enter(service, "ann"), enter(service, "bob")
    service.block(ann, "bob")
    service.delete_account(bob, PASSWORD)
    assert service.list_blocked(ann).usernames == ("bob",)
    second = enter(service, "bob")
    service.send(second, "ann", "I am another")
    service.block(ann, "bob")
    assert service.list_blocked(ann).usernames == ("bob",)  # both of them
    assert len(service.store.mailboxes.blocked(mailbox_of(service, "ann"))) == 2
    service.unblock(ann, "bob")
    assert service.list_blocked(ann).usernames == ()
    service.send(second, "ann", "again")


def test_a_list_that_is_full_takes_who_is_in_it_and_nobody_else(
    service: ChatService, ann: Session, bob: Session
) -> None:
    mailbox = mailbox_of(service, "ann")
    service.block(ann, "bob")
    for number in range(1, MOST_BLOCKED):
        service.store.mailboxes.block(mailbox, Blocked(f"id-{number}", f"user{number}"))
    enter(service, "carol")
    service.block(ann, "bob")
    with pytest.raises(errors.BlockListFull):
        service.block(ann, "carol")
    service.unblock(ann, "user7")
    service.block(ann, "carol")


def test_receipts_are_a_setting_of_the_account(
    service: ChatService, ann: Session, bob: Session
) -> None:
    assert service.status(ann).receipts
    service.set_receipts(login(service, "ann"), receipts=False)
    assert not service.status(ann).receipts
    assert service.status(bob).receipts
    service.set_receipts(ann, receipts=True)
    assert service.status(ann).receipts


# -- who may ask, and the operator ----------------------------------------------------------

EVERY_CALL: tuple[Callable[[ChatService, Session], object], ...] = (
    lambda service, session: service.send(session, "bob", "hello", "id-1", copy=True),
    lambda service, session: service.watch(session, 0, kinds=EVERY_KIND),
    lambda service, session: service.history(session, peer="bob"),
    lambda service, session: service.conversations(session),
    lambda service, session: service.block(session, "bob"),
    lambda service, session: service.unblock(session, "bob"),
    lambda service, session: service.list_blocked(session),
    lambda service, session: service.set_receipts(session, receipts=False),
)


@pytest.mark.parametrize("call", EVERY_CALL)
def test_each_needs_a_session_that_is_open_and_an_account_that_is_there(
    call: Callable[[ChatService, Session], object],
) -> None:
    service = make_service()
    with pytest.raises(errors.NotLoggedIn):
        call(service, service.session())
    ann = enter(service, "ann")
    enter(service, "bob")
    call(service, ann)
    service.store.mailboxes.drop(mailbox_of(service, "ann"))  # between the look and the call
    if call is EVERY_CALL[0]:
        call(service, ann)  # there is no mailbox for a copy any more, and the mail is stored
    else:
        with pytest.raises(errors.SessionExpired):
            call(service, ann)
    service.stop()
    with pytest.raises(errors.ShuttingDown):
        call(service, ann)


def test_the_operator_exports_what_was_sent_with_what_has_come(
    service: ChatService, ann: Session, bob: Session
) -> None:
    service.send(ann, "bob", "one", "id-1", copy=True)
    service.send(bob, "ann", "two")
    service.ack(ann, 2)
    wait_until(lambda: service.watch(bob, 0, kinds=RECEIPTS).receipts, "bob has a receipt")
    admin = service.administration("a test")
    assert told(tuple(admin.messages("ann"))) == ["1 sent ann->bob one", "2 mail bob-> two"]
    assert told(tuple(admin.messages("bob"))) == ["1 mail ann-> one"]


# -- races ----------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    policy = MailboxPolicy(mailbox_messages=1_000_000)  # a sender is never refused for want of room
    opened: Store = (
        MemoryStore(policy) if request.param == "memory" else SqliteStore(tmp_path / "db", policy)
    )
    with opened:
        yield opened


class Sender:
    """Sends to bob with copies, one after the other, until it is refused."""

    def __init__(self, service: ChatService, session: Session) -> None:
        self.accepted: list[SentReply] = []
        self.error: Exception | None = None
        self._service = service
        self._session = session
        self._call = Call(self._run)

    def _run(self) -> None:
        try:
            deadline = Deadline.after(60)
            for number in itertools.takewhile(lambda _: not deadline.passed, itertools.count()):
                reply = self._service.send(
                    self._session, "bob", f"{number}", f"id-{number}", copy=True
                )
                self.accepted.append(reply)
        except errors.RequestError as error:
            self.error = error

    def is_at_it(self) -> None:
        """Wait until some were accepted."""
        wait_until(lambda: len(self.accepted) >= 10, "some are sent")

    def end(self) -> list[str]:
        """Wait for its end, and return the ids of what was accepted."""
        self._call.outcome(60)
        return [each.message_id for each in self.accepted]


def copies_of(service: ChatService, session: Session) -> list[str]:
    """Return the ids of the copies in a mailbox."""
    return ids(service.watch(session, 0, limit=1_000, kinds=SENT).messages)


def ids(messages: tuple[Message, ...]) -> list[str]:
    return [each.message_id for each in messages]


def test_block_against_send(store: Store) -> None:
    """What a send is answered holds: nothing is stored once a block is answered."""
    service = make_service(store=store)
    ann, bob = enter(service, "ann"), enter(service, "bob")
    sender = Sender(service, ann)
    sender.is_at_it()
    service.block(bob, "ann")
    stored = service.status(bob).unread
    accepted = sender.end()
    assert isinstance(sender.error, errors.Refused)
    assert service.status(bob).unread == stored == len(accepted)
    assert copies_of(service, ann) == accepted[-1_000:]


def test_delete_of_the_recipient_against_copies(store: Store) -> None:
    service = make_service(store=store)
    ann, bob = enter(service, "ann"), enter(service, "bob")
    sender = Sender(service, ann)
    sender.is_at_it()
    service.delete_account(bob, PASSWORD, force=True)
    accepted = sender.end()
    assert isinstance(sender.error, errors.NoSuchUser)
    assert copies_of(service, ann) == accepted[-1_000:]


def test_delete_of_the_sender_against_copies(store: Store) -> None:
    service = make_service(store=store, free_deleted_names=True)
    ann, bob = enter(service, "ann"), enter(service, "bob")
    sender = Sender(service, ann)
    sender.is_at_it()
    service.delete_account(login(service, "ann"), PASSWORD)
    accepted = sender.end()
    assert isinstance(sender.error, errors.NotLoggedIn | errors.SessionExpired)
    assert ids(service.watch(bob, 0, limit=1_000).messages)[: len(accepted)] == accepted[:1_000]
    second = enter(service, "ann")
    assert service.watch(second, 0, kinds=EVERY_KIND).entries == ()
    assert store.mailboxes.usage(mailbox_of(service, "ann")).copies == 0


@pytest.mark.parametrize("deletes", ["ann", "bob"])
def test_delete_of_either_against_a_receipt(
    deletes: str, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """It is on its way when the account goes: it arrives, or there is nobody to get it."""
    service = make_service(store=store, free_deleted_names=True)
    sessions = {"ann": enter(service, "ann"), "bob": enter(service, "bob")}
    sent = service.send(sessions["ann"], "bob", "hello")
    hold, put = Hold(), store.mailboxes.put_receipt

    def held(account_id: str, receipt: PeerReceipt) -> None:
        hold()
        put(account_id, receipt)

    store.mailboxes.put_receipt = held  # type: ignore[method-assign]
    service.ack(sessions["bob"], 1)
    hold.wait_reached()
    service.delete_account(sessions[deletes], PASSWORD, force=True)
    second = enter(service, deletes)
    hold.release()
    if deletes == "bob":
        brought = service.watch(sessions["ann"], 0, wait=20, kinds=RECEIPTS)
        assert [each.n for each in brought.receipts] == [sent.n]
    else:
        wait_until(lambda: not receipt_threads(), "it was put in")
        assert service.watch(second, 0, kinds=EVERY_KIND).entries == ()
    service.stop()
    assert caplog.records == []


def receipt_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "receipts"]


def test_two_devices_see_the_same(store: Store) -> None:
    """Each sends and reads at once; both get every copy, and in one order."""
    service = make_service(store=store)
    desk = enter(service, "ann")
    phone = login(service, "ann")
    enter(service, "bob")
    enter(service, "carol")
    each, start = 40, threading.Barrier(4)

    def send_all(session: Session, to: str) -> None:
        start.wait(20)
        for number in range(each):
            service.send(session, to, f"{number}", f"{to}-{number}", copy=True)

    def read_all(session: Session) -> list[Message]:
        start.wait(20)
        got: list[Message] = []
        after = 0
        while len(got) < 2 * each:
            reply = service.watch(session, after, limit=7, wait=20, kinds=TALK)
            assert reply.messages, "a watch ended empty while copies were under way"
            got += reply.messages
            after = reply.seen
        return got

    sending = [
        Call(lambda: send_all(desk, "bob")),
        Call(lambda: send_all(phone, "carol")),
    ]
    reading = [Call(lambda: read_all(desk)), Call(lambda: read_all(phone))]
    for call in sending:
        call.outcome(60)
    first, second = (call.outcome(60) for call in reading)
    assert first == second
    assert isinstance(first, list)
    assert [m.seq for m in first] == sorted({m.seq for m in first})
    for to in ("bob", "carol"):
        assert [m.body for m in first if m.to == to] == [f"{n}" for n in range(each)]


def test_two_devices_repeat_one_send(store: Store) -> None:
    """As a client does whose first attempt nobody has answered: it is one message and one copy."""
    service = make_service(store=store)
    devices = [enter(service, "ann"), *(login(service, "ann") for _ in range(3))]
    bob = enter(service, "bob")
    start = threading.Barrier(len(devices))

    def send(session: Session) -> SentReply:
        start.wait(20)
        return service.send(session, "bob", "hello", "id-1", copy=True)

    calls = [Call(lambda each=each: send(each)) for each in devices]  # type: ignore[misc]
    (reply, *others) = [call.outcome() for call in calls]
    assert others == [reply] * 3
    assert isinstance(reply, SentReply)
    assert ids(service.watch(bob, 0).messages) == [reply.message_id]
    assert copies_of(service, devices[0]) == [reply.message_id]
