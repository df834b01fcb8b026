"""No call on the in-memory store goes through the middle of another.

A first call is stopped where it has looked something up, a second one is started there, and it
has to wait: the race is made, whatever the threads' timing.
"""

import threading
from collections.abc import Callable
from typing import Any

from store_samples import account, draft, key, session
from waiting import join

from twinline.core.deadline import Deadline
from twinline.core.errors import NoSuchUser, UsernameTaken
from twinline.core.store import Accepted
from twinline.core.waiting import Waiter
from twinline.stores.memory import MemoryStore
from twinline.stores.memory.accounts import MemoryAccounts
from twinline.stores.memory.mailboxes import MemoryMailboxes

ALL = 10**9


class Crossing(dict[str, Any]):
    """A store's dictionary that starts a second call when a first one has looked something up."""

    def __init__(self, items: dict[str, Any], second: Callable[[], object]) -> None:
        super().__init__(items)
        self.second = second
        self.thread: threading.Thread | None = None
        self.result: object = None
        self.through = threading.Event()
        self.crossed = False

    def middle(self) -> None:
        if self.thread is None:
            self.thread = threading.Thread(target=self.run)
            self.thread.start()
            # Long enough for a call of microseconds that nothing keeps from going through.
            self.crossed = self.through.wait(0.05)

    def run(self) -> None:
        try:
            self.result = self.second()
        except Exception as error:
            self.result = error
        self.through.set()

    def get(self, key: str, default: Any = None) -> Any:
        found = super().get(key, default)
        self.middle()
        return found

    def pop(self, key: str, default: Any = None) -> Any:
        found = super().pop(key, default)
        self.middle()
        return found

    def __contains__(self, key: object) -> bool:
        found = super().__contains__(key)
        self.middle()
        return found

    def outcome(self) -> object:
        """Return what the second call came to, having seen that it did not cross the first."""
        assert self.thread is not None, "the first call never came to its middle"
        join(self.thread)
        assert not self.crossed, "the second call went through the middle of the first"
        return self.result


def with_ann(attribute: str, second: Callable[[MemoryAccounts], object]) -> Any:
    accounts = MemoryStore().accounts
    accounts.create(account("ann"))
    crossing = Crossing(getattr(accounts, attribute), lambda: second(accounts))
    setattr(accounts, attribute, crossing)
    return accounts, crossing


def with_bob(second: Callable[[MemoryMailboxes], object]) -> Any:
    boxes = MemoryStore().mailboxes
    boxes.create("bob")
    boxes._boxes = crossing = Crossing(boxes._boxes, lambda: second(boxes))
    return boxes, crossing


def test_a_name_is_not_taken_between_the_look_and_the_taking() -> None:
    accounts, crossing = with_ann("_by_name", lambda a: a.create(account("bob", "second")))
    accounts.create(account("bob", "first"))
    assert isinstance(crossing.outcome(), UsernameTaken)
    assert accounts.find("bob").account_id == "first"


def test_an_account_is_not_withdrawn_while_a_session_opens() -> None:
    accounts, crossing = with_ann("_by_id", lambda a: a.withdraw("id-ann", keep_name=False))
    accounts.open_session(session("one"))
    assert crossing.outcome() is True
    assert accounts.find_session(key("one")) is None


def test_no_session_opens_while_an_account_is_withdrawn() -> None:
    accounts, crossing = with_ann("_by_id", lambda a: a.open_session(session("one")))
    assert accounts.withdraw("id-ann", keep_name=False)
    assert isinstance(crossing.outcome(), NoSuchUser)
    assert accounts.find_session(key("one")) is None


def test_a_session_is_not_revoked_in_the_middle_of_a_subscription() -> None:
    accounts, crossing = with_ann("_sessions", lambda a: a.close_session(key("one")))
    crossing.thread = threading.current_thread()  # not yet
    accounts.open_session(session("one"))
    crossing.thread = None
    woken = threading.Event()
    accounts.on_session_end(key("one"), woken.set)
    crossing.outcome()
    assert woken.is_set()


def test_two_messages_do_not_cross() -> None:
    boxes, crossing = with_bob(lambda b: b.append("bob", draft("second")))
    boxes.append("bob", draft("first"))
    assert isinstance(crossing.outcome(), Accepted)
    messages = boxes.read("bob", 0, 10, ALL).messages
    assert [(message.seq, message.body) for message in messages] == [(1, "first"), (2, "second")]


def test_a_mailbox_is_not_dropped_in_the_middle_of_a_message() -> None:
    boxes, crossing = with_bob(lambda b: b.drop("bob"))
    woken: list[int] = []
    crossing.thread = threading.current_thread()  # not yet
    boxes.on_mail("bob", lambda: woken.append(1))
    crossing.thread = None
    boxes.append("bob", draft())
    crossing.outcome()
    assert len(woken) == 2  # by the message, then by the end


def test_no_message_arrives_in_the_middle_of_a_drop() -> None:
    boxes, crossing = with_bob(lambda b: b.append("bob", draft()))
    boxes.drop("bob")
    assert isinstance(crossing.outcome(), NoSuchUser)


def test_no_message_arrives_in_the_middle_of_a_subscription() -> None:
    boxes, crossing = with_bob(lambda b: b.append("bob", draft()))
    waiter = Waiter()
    boxes.on_mail("bob", waiter.wake)
    crossing.outcome()
    assert waiter.wait(Deadline.after(0))
