"""Creating and deleting whose second step fails, or of which nobody knows whether it was made."""

import threading
from collections.abc import Callable

import pytest
from argon2 import PasswordHasher
from services import PASSWORD, cheap_hasher, enter, login
from waiting import Call, wait_event

from twinline.core import errors, settling
from twinline.core.service import ChatService
from twinline.stores.memory import MemoryStore

SECOND = "battery staple"


class Seconds:
    """A steady clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Faulty(MemoryStore):
    """A store whose next call of a method fails: before it is done, or after."""

    def fail(self, half: object, method: str, *, done: bool, times: int = 1) -> None:
        original = getattr(half, method)
        left = times

        def failing(*args: object, **options: object) -> object:
            nonlocal left
            if left == 0:
                return original(*args, **options)
            left -= 1
            if done:
                original(*args, **options)
            raise errors.StoreUnavailable

        setattr(half, method, failing)

    @property
    def orphans(self) -> int:
        """How many mailboxes there are that no account has."""
        return len(self.mailboxes._boxes.keys() - self.accounts._by_id.keys())


@pytest.fixture
def store() -> Faulty:
    return Faulty()


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def service(store: Faulty, seconds: Seconds) -> ChatService:
    service = ChatService(store, monotonic=seconds, hasher=cheap_hasher())
    enter(service, "zoe")  # who logs in later
    return service


def settle(service: ChatService, seconds: Seconds) -> None:
    """Let a moment pass, and have somebody log in."""
    seconds.now += 2
    login(service, "zoe")


# --- creating


def test_an_account_that_was_published_after_all_has_its_mailbox(
    service: ChatService, store: Faulty, seconds: Seconds
) -> None:
    store.fail(store.accounts, "create", done=True)
    with pytest.raises(errors.StoreUnavailable):
        enter(service, "ann")
    ann = login(service, "ann")
    service.send(ann, "ann", "to myself")
    settle(service, seconds)
    assert service.status(ann).unread == 1
    assert len(store.mailboxes._boxes) == 2


@pytest.mark.parametrize("half", ["accounts", "mailboxes"])
def test_what_is_left_of_a_creation_that_failed_is_dropped(
    service: ChatService, store: Faulty, seconds: Seconds, half: str
) -> None:
    store.fail(getattr(store, half), "create", done=half == "mailboxes")
    with pytest.raises(errors.StoreUnavailable):
        enter(service, "ann")
    assert store.orphans == 1
    settle(service, seconds)
    assert store.orphans == 0
    enter(service, "ann")


def test_a_mailbox_under_a_name_that_was_taken_meanwhile_is_dropped_later_if_not_now(
    service: ChatService, store: Faulty, seconds: Seconds
) -> None:
    store.fail(store.mailboxes, "drop", done=False)

    def taken(_account: object, **_options: object) -> None:
        raise errors.UsernameTaken

    create = store.accounts.create
    store.accounts.create = taken  # type: ignore[method-assign]
    with pytest.raises(errors.UsernameTaken):
        enter(service, "ann")
    store.accounts.create = create  # type: ignore[method-assign]
    settle(service, seconds)
    assert store.orphans == 0


# --- deleting


def test_an_account_that_is_withdrawn_is_deleted_whatever_becomes_of_its_mail(
    service: ChatService, store: Faulty, seconds: Seconds, caplog: pytest.LogCaptureFixture
) -> None:
    ann = enter(service, "ann")
    service.send(ann, "ann", "left behind")
    store.fail(store.mailboxes, "drop", done=False, times=2)
    service.delete_account(ann, PASSWORD, force=True)
    assert "dropped later" in caplog.text
    with pytest.raises(errors.NotLoggedIn):
        service.status(ann)
    with pytest.raises(errors.BadCredentials):
        login(service, "ann")
    with pytest.raises(errors.UsernameTaken):
        enter(service, "ann")
    settle(service, seconds)  # and fails once more
    assert store.orphans == 1
    login(service, "zoe")  # too soon to try again
    assert store.orphans == 1
    settle(service, seconds)
    assert store.orphans == 0


@pytest.mark.parametrize("done", [True, False])
def test_a_withdrawal_of_which_nobody_knows_is_settled(
    service: ChatService, store: Faulty, seconds: Seconds, done: bool
) -> None:
    ann = enter(service, "ann")
    store.fail(store.accounts, "withdraw", done=done)
    with pytest.raises(errors.StoreUnavailable):
        service.delete_account(ann, PASSWORD)
    settle(service, seconds)
    assert store.orphans == 0
    if done:
        with pytest.raises(errors.SessionExpired):
            service.status(ann)
    else:
        assert service.status(ann).unread == 0
        service.delete_account(ann, PASSWORD)


def test_a_login_does_not_fail_for_what_others_left(
    service: ChatService, store: Faulty, seconds: Seconds
) -> None:
    ann = enter(service, "ann")
    store.fail(store.mailboxes, "drop", done=False)
    service.delete_account(ann, PASSWORD)

    def broken(*_arguments: object, **_options: object) -> bool:
        raise ZeroDivisionError

    replace = store.accounts.set_password_hash
    store.accounts.set_password_hash = broken  # type: ignore[method-assign]
    settle(service, seconds)
    store.accounts.set_password_hash = replace  # type: ignore[method-assign]
    settle(service, seconds)
    assert store.orphans == 0


def test_what_is_left_open_is_bounded_and_settled_a_few_at_a_time(
    service: ChatService, store: Faulty, seconds: Seconds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "_MOST", 6)
    store.fail(store.accounts, "create", done=False, times=8)
    for number in range(8):
        with pytest.raises(errors.StoreUnavailable):
            enter(service, f"ann{number}")
    counts = []
    for _ in range(3):
        settle(service, seconds)
        counts.append(store.orphans)
    assert counts == [4, 2, 2]  # the last two are found when the store is opened again


# --- an account without a mailbox


def test_an_account_without_a_mailbox_gets_one_at_its_next_login(
    service: ChatService, store: Faulty, seconds: Seconds, caplog: pytest.LogCaptureFixture
) -> None:
    ann = enter(service, "ann")
    token = service.login(service.session(), "ann", PASSWORD).session
    store.mailboxes.drop(store.accounts._by_name["ann"].account_id)
    with pytest.raises(errors.NoSuchUser):
        service.send(ann, "ann", "hello")
    assert service.resume(service.session(), token).unread == 0
    assert "ann had no mailbox" in caplog.text
    service.send(ann, "ann", "hello")
    settle(service, seconds)
    assert service.status(ann).unread == 1


def test_no_mailbox_is_left_where_the_account_goes_while_it_gets_one(
    service: ChatService, store: Faulty, seconds: Seconds
) -> None:
    ann = enter(service, "ann")
    token = service.login(service.session(), "ann", PASSWORD).session
    account_id = store.accounts._by_name["ann"].account_id
    create = store.mailboxes.create

    def meanwhile(account_id: str) -> None:
        create(account_id)
        store.mailboxes.create = create  # type: ignore[method-assign]
        store.accounts.withdraw(account_id, keep_name=True)

    store.mailboxes.drop(account_id)
    store.mailboxes.create = meanwhile  # type: ignore[method-assign]
    service.resume(service.session(), token)
    settle(service, seconds)
    assert store.orphans == 0
    with pytest.raises(errors.SessionExpired):
        service.status(ann)


# --- what a login and a change of the password do to each other


class Pause:
    """Stops the next call of a method until the test lets it go on."""

    def __init__(self, half: object, method: str) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        original = getattr(half, method)

        def paused(*args: object, **options: object) -> object:
            setattr(half, method, original)
            self.reached.set()
            wait_event(self.go_on, "the test lets it go on")
            return original(*args, **options)

        setattr(half, method, paused)


def stronger(store: Faulty) -> ChatService:
    """Return a service that upgrades the hashes of the other one."""
    return ChatService(store, hasher=PasswordHasher(time_cost=2, memory_cost=8, parallelism=1))


def test_two_logins_that_upgrade_one_hash_both_succeed(service: ChatService, store: Faulty) -> None:
    strong = stronger(store)
    enter(service, "ann")
    pause = Pause(store.accounts, "set_password_hash")
    first = Call(lambda: login(strong, "ann"))
    wait_event(pause.reached, "the first is about to upgrade the hash")
    login(strong, "ann")
    pause.go_on.set()
    first.outcome()


OWNERS: dict[str, Callable[[ChatService, object], object]] = {
    "change_password": lambda service, ann: service.change_password(ann, PASSWORD, SECOND),  # type: ignore[arg-type]
    "withdraw": lambda service, ann: service.delete_account(ann, PASSWORD),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("step", OWNERS)
def test_a_hash_that_is_upgraded_meanwhile_is_no_other_password(
    service: ChatService, store: Faulty, step: str
) -> None:
    ann = enter(service, "ann")
    pause = Pause(store.accounts, step)
    call = Call(lambda: OWNERS[step](service, ann))
    wait_event(pause.reached, "the password was verified")
    login(stronger(store), "ann")
    pause.go_on.set()
    call.outcome()


def test_an_account_is_not_deleted_with_a_password_that_is_changed_meanwhile(
    service: ChatService, store: Faulty
) -> None:
    ann, thief = enter(service, "ann"), login(service, "ann")
    pause = Pause(store.accounts, "withdraw")
    deleting = Call(lambda: service.delete_account(thief, PASSWORD, force=True))
    wait_event(pause.reached, "the old password was verified")
    service.change_password(ann, PASSWORD, SECOND)
    pause.go_on.set()
    with pytest.raises(errors.BadCredentials):
        deleting.outcome()
    service.send(ann, "ann", "still here")
    assert service.status(ann).unread == 1


def test_a_change_of_the_password_that_fails_has_changed_nothing(
    service: ChatService, store: Faulty
) -> None:
    ann, thief = enter(service, "ann"), login(service, "ann")
    store.fail(store.accounts, "change_password", done=False)
    with pytest.raises(errors.StoreUnavailable):
        service.change_password(ann, PASSWORD, SECOND)
    service.status(thief)
    service.change_password(ann, PASSWORD, SECOND)
    with pytest.raises(errors.SessionExpired):
        service.status(thief)
