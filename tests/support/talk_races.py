"""Races between what two sides of a talk do: each holds for services over any store.

Each race takes the servers of one state, which may be one, and is over a few rounds: what is
asserted holds for every order.
"""

from collections.abc import Callable, Sequence
from functools import partial

import pytest
from racing import race
from services import PASSWORD, login, make_service
from waiting import wait_until

from twinline.core.errors import (
    NoSuchUser,
    NotLoggedIn,
    Refused,
    SessionExpired,
    TwinlineError,
)
from twinline.core.protocol import EVERY_KIND, Kind, Message, SentReply
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.core.store import Accepted, Draft, Store

Services = Sequence[ChatService]
SENT = frozenset({Kind.SENT})
RECEIPTS = frozenset({Kind.RECEIPT})
MOST = 1_000


def hasty_service(store: Store) -> ChatService:
    """Return a service that gives receipts with hardly a pause between them."""
    service = make_service(store=store)
    service._receipts._pause_seconds = 0.01
    return service


class Side:
    """One account of a talk, with a session at every server.

    Attributes:
        name: the username.
        sessions: at the first server and at the last.
    """

    def __init__(self, services: Services, name: str) -> None:
        self.name = name
        self._services = (services[0], services[-1])
        first = services[0].session("127.0.0.1")
        services[0].create_account(first, name, PASSWORD)
        self.sessions: tuple[Session, Session] = (first, login(services[-1], name))
        account = services[0].store.accounts.find(name)
        assert account is not None
        self.account_id = account.account_id

    def send(self, to: str, body: str, *, at: int = 0, send_id: str | None = None) -> SentReply:
        """Send with a copy, from the device at one of the servers."""
        service, session = self._services[at], self.sessions[at]
        return service.send(session, to, body, send_id or body, copy=True)

    def send_on(self, to: str, sent: list[SentReply]) -> None:
        """Send one message after the other, until one is refused or there are many."""
        for number in range(MOST // 2):
            sent.append(self.send(to, f"{number}"))  # noqa: PERF401 - some are before a refusal

    def mail(self) -> list[Message]:
        """Return the mail that is there."""
        return list(self._services[0].watch(self.sessions[0], 0, limit=MOST).messages)

    def copies(self, at: int = 0) -> list[Message]:
        """Return the copies that a device sees."""
        service, session = self._services[at], self.sessions[at]
        return list(service.watch(session, 0, limit=MOST, kinds=SENT).messages)

    def told(self) -> int:
        """Return the highest ``n`` of the receipts that are there; 0: there are none."""
        page = self._services[0].watch(self.sessions[0], 0, limit=MOST, kinds=RECEIPTS)
        return max((receipt.n for receipt in page.receipts), default=0)

    def ack_all(self, at: int = 1) -> None:
        """Acknowledge all that a device sees."""
        service, session = self._services[at], self.sessions[at]
        seqs = [message.seq for message in service.watch(session, 0, limit=MOST).messages]
        if seqs:
            service.ack(session, max(seqs))

    def delete(self) -> None:
        """Delete the account."""
        self._services[1].delete_account(self.sessions[1], PASSWORD, force=True)

    def require_gone(self) -> None:
        """Fail unless nothing is left of its mailbox at any server."""
        for service in self._services:
            with pytest.raises(NoSuchUser):
                service.store.mailboxes.read(self.account_id, 0, MOST, MOST, EVERY_KIND)


def kept(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Return messages as both sides should have them."""
    return sorted((message.message_id, message.body) for message in messages)


def require_only(results: Sequence[object], *allowed: type[TwinlineError]) -> None:
    """Fail if something was raised that is not allowed."""
    for result in results:
        assert not isinstance(result, Exception) or isinstance(result, allowed), result


def a_block_against_a_send(services: Services, number: int) -> None:
    """What is sent while a block is made is with both sides, or with neither."""
    ann, bob = Side(services, f"ann{number}"), Side(services, f"bob{number}")
    service, session = services[0], bob.sessions[0]
    sent, *others = race(
        lambda: ann.send(bob.name, "meanwhile", at=1),
        lambda: service.block(session, ann.name),
    )
    require_only([sent], Refused)
    require_only(others)
    both = [] if isinstance(sent, Refused) else ["meanwhile"]
    assert [each.body for each in bob.mail()] == [each.body for each in ann.copies()] == both
    for at in (0, 1):
        with pytest.raises(Refused):
            ann.send(bob.name, "blocked", at=at)
        if both:  # a repeat of what was accepted before still gets its first result
            assert ann.send(bob.name, "meanwhile", at=at) == sent
    assert len(bob.mail()) == len(ann.copies()) == len(both)


def the_end_of_the_sender_against_its_copy(services: Services, number: int) -> None:
    """Mail of an account that ends meanwhile stays if it was accepted; its copies go with it."""
    ann, bob = Side(services, f"ann{number}"), Side(services, f"bob{number}")
    sent: list[SentReply] = []
    results = race(lambda: ann.send_on(bob.name, sent), ann.delete)
    require_only(results[:1], SessionExpired, NotLoggedIn)
    require_only(results[1:])
    ann.require_gone()
    assert [each.message_id for each in bob.mail()] == [each.message_id for each in sent]


def a_send_whose_account_ends_on_its_way(services: Services, number: int) -> None:
    """The mail is stored, and its copy goes nowhere."""
    ann, bob = Side(services, f"ann{number}"), Side(services, f"bob{number}")
    boxes = services[0].store.mailboxes
    append = boxes.append

    def append_late(account_id: str, draft: Draft) -> Accepted:
        ann.delete()
        return append(account_id, draft)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boxes, "append", append_late)
        sent = ann.send(bob.name, "last")
    ann.require_gone()
    assert kept(bob.mail()) == [(sent.message_id, "last")]


def the_end_of_the_recipient_against_a_copy(services: Services, number: int) -> None:
    """A copy is there if the mail was accepted, and else not."""
    ann, bob = Side(services, f"ann{number}"), Side(services, f"bob{number}")
    sent: list[SentReply] = []
    results = race(lambda: ann.send_on(bob.name, sent), bob.delete)
    require_only(results[:1], NoSuchUser)
    require_only(results[1:])
    bob.require_gone()
    assert [each.message_id for each in ann.copies()] == [each.message_id for each in sent]


def the_end_of_the_sender_against_a_receipt(services: Services, number: int) -> None:
    """A receipt for an account that ends goes nowhere, and the ack is none the worse for it."""
    ann, bob = Side(services, f"ann{number}"), Side(services, f"bob{number}")
    sent = [ann.send(bob.name, f"{each}") for each in range(3)]
    require_only(race(bob.ack_all, ann.delete, lambda: bob.ack_all(at=0)))
    status = services[0].status(bob.sessions[0])
    assert (status.position, status.unread) == (len(sent), 0)
    ann.require_gone()


def the_end_of_the_recipient_against_its_receipt(services: Services, number: int) -> None:
    """A receipt of an account that ends names nothing that was not sent."""
    ann, bob = Side(services, f"ann{number}"), Side(services, f"bob{number}")
    sent = [ann.send(bob.name, f"{each}") for each in range(3)]
    results = race(bob.ack_all, bob.delete)
    require_only(results[:1], SessionExpired, NotLoggedIn)
    require_only(results[1:])
    bob.require_gone()
    assert ann.told() in (0, *(each.n for each in sent))
    assert len(ann.copies()) == len(sent)


def two_devices_that_send_and_watch(services: Services, number: int) -> None:
    """Both devices of an account see what each sends, once and in one order."""
    ann, bob = Side(services, f"ann{number}"), Side(services, f"bob{number}")
    count = 8
    seen: tuple[list[Message], list[Message]] = ([], [])

    def send(at: int) -> None:
        for each in range(count):
            ann.send(bob.name, f"{at}-{each}", at=at)

    def watch(at: int) -> None:
        service, session = (services[0], services[-1])[at], ann.sessions[at]
        after = 0
        while len(seen[at]) < 2 * count:
            page = service.watch(session, after, limit=3, wait=20, kinds=SENT)
            assert page.messages, "it ended before all copies had come"
            seen[at].extend(page.messages)
            after = page.seen

    assert race(*(partial(run, at) for run in (send, watch) for at in (0, 1))) == [None] * 4
    assert seen[0] == seen[1]
    seqs = [message.seq for message in seen[0]]
    assert seqs == sorted(set(seqs))
    assert kept(seen[0]) == kept(bob.mail())
    for at in (0, 1):
        mine = [each.body for each in seen[0] if each.body.startswith(f"{at}-")]
        assert mine == [f"{at}-{each}" for each in range(count)]


def an_ack_against_a_deletion(services: Services, number: int) -> None:
    """Mail that is deleted while it is acked is gone, unread nowhere, and told of at most once."""
    ann, bob = Side(services, f"ann{number}"), Side(services, f"bob{number}")
    sent = [ann.send(bob.name, f"{each}") for each in range(6)]
    seqs = [message.seq for message in bob.mail()]
    results = race(
        lambda: services[0].ack(bob.sessions[0], seqs[-1]),
        lambda: services[-1].delete_messages(bob.sessions[1], seqs).deleted,
    )
    require_only(results)
    assert results[1] == len(seqs)
    status = services[0].status(bob.sessions[0])
    assert (status.position, status.unread) == (seqs[-1], 0)
    assert bob.mail() == []
    assert ann.told() in (0, *(each.n for each in sent))
    # The next one is told of, whatever became of these.
    last = ann.send(bob.name, "after")
    bob.ack_all()
    wait_until(lambda: ann.told() == last.n, "the receipt of the last")


def a_repeat_against_its_first_attempt(services: Services, number: int) -> None:
    """One send that two devices make at once is one message, and one copy."""
    ann, bob = Side(services, f"ann{number}"), Side(services, f"bob{number}")
    results = race(*(lambda at=at: ann.send(bob.name, "once", at=at) for at in (0, 1, 0, 1)))
    require_only(results)
    first = results[0]
    assert isinstance(first, SentReply)
    assert results == [first] * 4
    (mail,) = bob.mail()
    (copy,) = ann.copies()
    (again,) = ann.copies(at=1)
    assert mail.message_id == copy.message_id == first.message_id
    assert copy == again
    assert (copy.to, copy.n, copy.body) == (bob.name, first.n, "once")


Race = Callable[[Services, int], None]
RACES: tuple[Race, ...] = (
    a_block_against_a_send,
    the_end_of_the_sender_against_its_copy,
    a_send_whose_account_ends_on_its_way,
    the_end_of_the_recipient_against_a_copy,
    the_end_of_the_sender_against_a_receipt,
    the_end_of_the_recipient_against_its_receipt,
    two_devices_that_send_and_watch,
    an_ack_against_a_deletion,
    a_repeat_against_its_first_attempt,
)
