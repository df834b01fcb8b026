"""`ChatService.look`: looks that do not wait, and a session whose ``on_mail`` says when to look."""

from collections.abc import Callable
from typing import Any

import pytest
from services import PASSWORD, count_subscriptions, enter, login, make_service

from twinline.core import errors
from twinline.core.locks import Lock
from twinline.core.looks import Look
from twinline.core.protocol import ErrorReply
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.core.store import MailPage, SessionKey, Unsubscribe
from twinline.core.waiting import Wake


def mailbox_of(service: ChatService, session: Session) -> str:
    """Return the id of this session's account."""
    assert session.username is not None
    account = service.store.accounts.find(session.username)
    assert account is not None
    return account.account_id


def follow(after: int = 0, ack: int | None = None, limit: int = 64) -> Look:
    return Look(after, ack, limit, max_bytes=65536, follow=True)


def followed(service: ChatService, username: str) -> tuple[Session, list[str]]:
    """Return a session of a new account, and what gets an item whenever it is to look."""
    wakes: list[str] = []
    session = service.session(on_mail=lambda: wakes.append(username))
    service.create_account(session, username, PASSWORD)
    return session, wakes


def test_a_session_follows_once_and_until_it_leaves() -> None:
    service = make_service()
    opened = count_subscriptions(service)
    session, wakes = followed(service, "ann")
    for number in range(3):
        assert service.look(session, follow(number)).messages == ()
        assert opened[mailbox_of(service, session)] == 1
        assert len(wakes) == number
        service.send(session, "ann", "hello")
    assert len(wakes) == 3
    service.leave(session)
    assert opened.total() == 0
    assert session.on_mail is None


def test_a_look_acknowledges_first_and_finds_what_fits() -> None:
    service = make_service()
    session, _ = followed(service, "ann")
    for body in ("one", "two", "three"):
        service.send(session, "ann", body)
    page = service.look(session, follow(0, ack=1, limit=2))
    assert ([m.body for m in page.messages], page.position, page.more) == (["one", "two"], 1, True)
    small = Look(1, None, 64, max_bytes=1, follow=False)
    assert [m.body for m in service.look(session, small).messages] == ["two"]


def test_a_look_of_no_limit_acknowledges_only() -> None:
    service = make_service()
    session, _ = followed(service, "ann")
    service.send(session, "ann", "hello")
    assert service.look(session, follow(limit=0)) == MailPage((), 0, more=False, seen=0)
    assert service.look(session, follow(ack=1, limit=0)) == MailPage((), 1, more=False, seen=0)


def test_handle_answers_a_look_as_it_answers_a_request() -> None:
    service = make_service()
    session, _ = followed(service, "ann")
    assert service.handle(session, follow()) == MailPage((), 0, more=False, seen=0)
    refused = service.handle(session, follow(7))
    assert isinstance(refused, ErrorReply)
    assert refused.code == "cursor_invalid"


@pytest.mark.parametrize("ends", ["logout", "stop", "interrupt"])
def test_whatever_ends_a_watch_calls_on_mail(ends: str) -> None:
    service = make_service()
    session, wakes = followed(service, "ann")
    service.look(session, follow())
    if ends == "logout":
        service.logout(session)
    elif ends == "stop":
        service.stop()
    else:
        session.interrupt()
    assert wakes
    expected = {"logout": "not_logged_in", "stop": "shutting_down"}.get(ends)
    reply = service.handle(session, follow())
    assert (reply.code if isinstance(reply, ErrorReply) else None) == expected


def test_who_follows_counts_as_a_watch_until_it_leaves() -> None:
    service = make_service(watches_per_account=1)
    session, _ = followed(service, "ann")
    for _ in range(3):
        service.look(session, follow())
    other = login(service, "ann")
    with pytest.raises(errors.Busy):
        service.subscribe(other, lambda: None)
    service.leave(session)
    service.subscribe(other, lambda: None)


def test_what_is_followed_is_of_one_account_alone() -> None:
    """After a logout and another login the old account's mail wakes nobody here."""
    service = make_service()
    opened = count_subscriptions(service)
    session, wakes = followed(service, "ann")
    bob = enter(service, "bob")
    service.look(session, follow())
    service.logout(session)
    ann = login(service, "ann")
    assert opened[mailbox_of(service, ann)] == 0
    service.login(session, "bob", PASSWORD)
    service.look(session, follow())
    wakes.clear()
    service.send(bob, "ann", "hello")
    assert wakes == []
    service.send(ann, "bob", "hello")
    assert wakes == ["ann"]


class Crossed:
    """A lock, and what another thread does just before it is taken or after it is left."""

    def __init__(self, lock: Lock, moment: str, step: Callable[[], object]) -> None:
        self._lock = lock
        self._moment = moment
        self._step: Callable[[], object] | None = step

    def _cross(self, moment: str) -> None:
        if moment == self._moment and self._step is not None:
            step, self._step = self._step, None
            step()

    def __enter__(self) -> None:
        self._cross("before")
        self._lock.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._lock.__exit__(*error)
        self._cross("after")


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("crossing", ["logout", "leave"])
def test_who_is_gone_by_the_time_that_it_follows_does_not(crossing: str, moment: str) -> None:
    service = make_service()
    enter(service, "bob")
    opened = count_subscriptions(service)
    session, _ = followed(service, "ann")
    on_session_end = service.store.accounts.on_session_end

    def cross() -> None:
        service.leave(session) if crossing == "leave" else service.logout(session)
        if crossing == "logout":
            service.login(session, "bob", PASSWORD)

    def subscribe_then_cross(key: SessionKey, wake: Wake) -> Unsubscribe:
        service.store.accounts.on_session_end = on_session_end  # type: ignore[method-assign]
        unsubscribe = on_session_end(key, wake)
        session._lock = Crossed(session._lock, moment, cross)  # type: ignore[assignment]
        return unsubscribe

    service.store.accounts.on_session_end = subscribe_then_cross  # type: ignore[method-assign]
    service.handle(session, follow())
    assert opened.total() == 0
    if crossing == "logout":
        service.look(session, follow())
        assert opened[mailbox_of(service, session)] == 1


def test_looks_of_many_sessions_are_made_by_one_call_and_each_has_its_own_outcome() -> None:
    service = make_service()
    (ann, wakes), (bob, _), (gone, _) = (followed(service, name) for name in ("ann", "bob", "eve"))
    service.send(ann, "ann", "hello")
    service.send(ann, "bob", "one")
    service.send(ann, "bob", "two")
    key = gone.key
    assert key is not None
    service.store.accounts.close_session(key)
    calls = []
    look_many = service.store.mailboxes.look_many

    def noted(looks: Any) -> Any:
        calls.append(len(looks))
        return look_many(looks)

    service.store.mailboxes.look_many = noted  # type: ignore[method-assign]
    outcomes = service.look_many(
        [
            (bob, follow(0, ack=1, limit=1)),
            (service.session(), follow()),
            (gone, follow()),
            (ann, follow(9)),
            (ann, follow()),
        ]
    )
    assert calls == [3]
    pages = [outcomes[0], outcomes[4]]
    assert all(isinstance(page, MailPage) for page in pages)
    assert [[m.body for m in page.messages] for page in pages] == [["one"], ["hello"]]  # type: ignore[union-attr]
    codes = [reply.code for reply in outcomes if isinstance(reply, ErrorReply)]
    assert codes == ["not_logged_in", "session_expired", "cursor_invalid"]
    # They follow, as by `look`.
    before = len(wakes)
    service.send(bob, "ann", "again")
    assert len(wakes) == before + 1


def test_a_mailbox_that_is_dropped_meanwhile_and_a_store_that_does_not_answer() -> None:
    service = make_service()
    (ann, _), (bob, _) = (followed(service, name) for name in ("ann", "bob"))
    service.store.mailboxes.drop(mailbox_of(service, ann))

    def codes() -> list[str]:
        outcomes = service.look_many([(ann, follow()), (bob, follow())])
        return [each.code if isinstance(each, ErrorReply) else "" for each in outcomes]

    assert codes() == ["session_expired", ""]

    def fail(*_: object) -> Any:
        raise errors.StoreUnavailable

    service.store.mailboxes.look_many = fail  # type: ignore[method-assign]
    assert codes() == ["store_unavailable"] * 2
    service.stop()
    assert codes() == ["shutting_down"] * 2
