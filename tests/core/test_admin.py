"""What an operator may do to accounts and invitations, and what it means to those who log in."""

import pytest
from services import PASSWORD, cheap_hasher, login

from twinline.core.admin import MOST_INVITATIONS, number_of
from twinline.core.certificates import Certificate
from twinline.core.errors import (
    AccountDisabled,
    BadCredentials,
    BadRequest,
    InvalidPassword,
    InvitationInvalid,
    MailboxFull,
    NoSuchUser,
    PasswordChangeRequired,
    RateLimited,
    SessionExpired,
    UsernameTaken,
)
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.core.settings import Registration, ServiceSettings
from twinline.core.tokens import invitation_hash
from twinline.stores.memory import MemoryStore

OTHER = "battery staple"


class Now:
    """A clock that is set."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


def made(now: Now, **settings: object) -> ChatService:
    service = ChatService(
        MemoryStore(), ServiceSettings(**settings), clock=now, hasher=cheap_hasher()
    )
    for name in ("ann", "bob"):
        service.add_account(name, PASSWORD)
    return service


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def service(now: Now) -> ChatService:
    return made(now)


def test_a_disabled_account_is_closed_to_all_and_keeps_its_mail(service: ChatService) -> None:
    admin = service.administration("a test")
    ann, bob = login(service, "ann"), login(service, "bob")
    admin.disable("ann")
    with pytest.raises(SessionExpired):
        service.status(ann)
    service.send(bob, "ann", "for later")
    with pytest.raises(AccountDisabled):
        login(service, "ann")
    with pytest.raises(BadCredentials):  # who does not know the password is not told
        service.login(service.session(), "ann", "wrong password")
    by_certificate = service.session()
    by_certificate.certificate = Certificate("ann", b"x" * 20, 2**50)
    with pytest.raises(AccountDisabled):
        service.login_certificate(by_certificate)
    assert service.status(bob).username == "bob"
    assert not admin.account("ann").enabled
    admin.enable("ann")
    assert [each.body for each in service.watch(login(service, "ann"), 0).messages] == ["for later"]


def test_an_account_that_is_disabled_while_it_is_logged_in_to_opens_no_session(
    service: ChatService, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = service.administration("a test")
    opened = service.store.accounts.open_session

    def disabled_first(*args: object, **options: object) -> None:
        admin.disable("ann")
        opened(*args, **options)

    monkeypatch.setattr(service.store.accounts, "open_session", disabled_first)
    with pytest.raises(AccountDisabled):
        login(service, "ann")
    assert admin.sessions("ann") == []


def test_a_one_time_password_opens_nothing_but_its_own_change(service: ChatService) -> None:
    admin = service.administration("a test")
    before = login(service, "ann")
    once = admin.reset_password("ann")
    with pytest.raises(SessionExpired):
        service.status(before)
    for password in (PASSWORD, once.upper()):
        with pytest.raises(BadCredentials):
            service.login(service.session(), "ann", password)
    with pytest.raises(PasswordChangeRequired):
        service.login(service.session(), "ann", once)
    for unfit in ("short", once):
        with pytest.raises(InvalidPassword):
            service.login(service.session(), "ann", once, unfit)
    assert admin.account("ann").must_change
    session = service.session()
    service.login(session, "ann", once, OTHER)
    assert service.status(session).username == "ann"
    assert not admin.account("ann").must_change
    with pytest.raises(BadCredentials):
        service.login(service.session(), "ann", once, "one more secret")
    service.login(service.session(), "ann", OTHER)


def test_a_new_password_at_login_ends_every_other_session(service: ChatService) -> None:
    other, session = login(service, "ann"), service.session()
    service.login(session, "ann", PASSWORD, OTHER)
    with pytest.raises(SessionExpired):
        service.status(other)
    assert service.status(session).username == "ann"


def test_a_kick_ends_sessions_and_nothing_else(service: ChatService) -> None:
    admin = service.administration("a test")
    first, second, bob = login(service, "ann"), login(service, "ann"), login(service, "bob")
    assert admin.account("ann").sessions == 2
    assert admin.kick("ann") == 2
    for session in (first, second):
        with pytest.raises(SessionExpired):
            service.status(session)
    service.status(bob)
    assert admin.kick("ann") == 0
    service.status(login(service, "ann"))


def test_a_quota_of_ones_own_holds_before_the_common_one(now: Now) -> None:
    service = made(
        now,
    )
    admin, bob = service.administration("a test"), login(service, "bob")
    admin.set_quota("ann", 2)
    for body in ("one", "twö"):
        service.send(bob, "ann", body)
    with pytest.raises(MailboxFull):
        service.send(bob, "ann", "three")
    usage = admin.account("ann").usage
    assert usage is not None
    assert (usage.messages, usage.unread, usage.size, usage.quota) == (2, 2, 7, 2)
    with pytest.raises(BadRequest):
        admin.set_quota("ann", 0)
    admin.set_quota("ann", None)
    service.send(bob, "ann", "three")
    assert [each.body for each in admin.messages("ann")] == ["one", "twö", "three"]


def test_the_operator_deletes_an_account_with_its_mail(service: ChatService) -> None:
    admin, bob, ann = service.administration("a test"), login(service, "bob"), login(service, "ann")
    service.send(bob, "ann", "unread")
    admin.delete("ann")
    with pytest.raises(SessionExpired):
        service.status(ann)
    with pytest.raises(NoSuchUser):
        service.send(bob, "ann", "too late")
    with pytest.raises(NoSuchUser):
        admin.delete("ann")
    assert [each.username for each in admin.accounts().accounts] == ["bob"]


def test_an_invitation_makes_one_account_before_it_expires(now: Now) -> None:
    service = made(now, registration=Registration.INVITATION)
    admin = service.administration("a test")

    def register(name: str, invitation: str | None) -> None:
        service.create_account(service.session("192.0.2.1"), name, PASSWORD, invitation)

    for none in (None, "", "no such invitation"):
        for name in ("carl", "ann"):  # not even whether a name is taken is told
            with pytest.raises(InvitationInvalid):
                register(name, none)
    token, invitation = admin.invite(hours=1, note="for carl")
    late, _ = admin.invite(hours=2)
    gone, withdrawn = admin.invite(hours=3)
    assert token not in repr(invitation)
    assert [each.note for each in admin.invitations()] == ["for carl", "", ""]
    assert admin.withdraw_invitation(number_of(withdrawn)) == withdrawn
    with pytest.raises(BadRequest):
        admin.withdraw_invitation(number_of(withdrawn))
    with pytest.raises(InvitationInvalid):
        register("carl", gone)
    with pytest.raises(UsernameTaken):  # spends nothing
        register("ann", token)
    register("carl", f" {token}\n")
    with pytest.raises(InvitationInvalid):
        register("dave", token)
    now.ms += 2 * 3_600_000
    with pytest.raises(InvitationInvalid):
        register("dave", late)
    assert admin.invitations() == []
    for hours in (0, -1, 1e9):
        with pytest.raises(BadRequest):
            admin.invite(hours=hours)


def test_no_more_invitations_are_open_than_may(
    service: ChatService, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = service.administration("a test")
    monkeypatch.setattr("twinline.core.admin.MOST_INVITATIONS", 2)
    admin.invite(), admin.invite()
    with pytest.raises(BadRequest):
        admin.invite()
    assert MOST_INVITATIONS > 2


def test_an_invitation_that_is_spent_meanwhile_makes_no_account(
    now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = made(now, registration=Registration.INVITATION)
    admin = service.administration("a test")
    token, _ = admin.invite()
    create = service.store.accounts.create

    def spent_first(*args: object, **options: object) -> None:
        service.store.accounts.drop_invitation(invitation_hash(token))
        create(*args, **options)

    monkeypatch.setattr(service.store.accounts, "create", spent_first)
    with pytest.raises(InvitationInvalid):
        service.create_account(service.session(), "carl", PASSWORD, token)
    monkeypatch.undo()
    assert [each.username for each in admin.accounts().accounts] == ["ann", "bob"]
    service.add_account("carl", PASSWORD)


def test_a_trace_tells_the_sender_alone_where_its_message_is(now: Now) -> None:
    service = made(now)
    service.add_account("eve", PASSWORD)
    admin = service.administration("a test")
    ann, bob, eve = login(service, "ann"), login(service, "bob"), login(service, "eve")
    sent = service.send(bob, "ann", "hello", "id-1")

    def seen(by: object = bob) -> tuple[str, int | None, int | None]:
        reply = service.trace(by, sent.message_id, "ann")
        return reply.state, reply.sent_at, reply.acked_at

    assert seen() == ("waiting", sent.sent_at, None)
    for other in (eve, ann):
        assert seen(other) == ("unknown", None, None)
    assert service.trace(bob, "0" * 24, "ann").state == "unknown"
    assert service.trace(bob, sent.message_id, "eve").state == "unknown"
    with pytest.raises(NoSuchUser):
        service.trace(bob, sent.message_id, "nobody")
    now.ms += 5_000
    service.ack(ann, 1)
    assert seen() == ("acked", sent.sent_at, now.ms)
    found = admin.trace(sent.message_id)
    assert found is not None
    assert (found.recipient, found.trace.seq, found.trace.sender) == ("ann", 1, "bob")
    assert admin.trace(sent.message_id, "bob") is None
    service.delete_messages(ann, [1])
    assert seen() == ("deleted", sent.sent_at, None)
    assert admin.trace(sent.message_id).trace.seq is None
    admin.delete("ann")
    assert admin.trace(sent.message_id) is None


def test_a_trace_tells_no_more_than_receipts_would(now: Now) -> None:
    service = made(now)
    ann, bob = login(service, "ann"), login(service, "bob")
    sent = service.send(bob, "ann", "hello", "id-1")
    service.ack(ann, 1)
    note = service.send(bob, "bob", "to myself", "id-2")

    def seen() -> tuple[str, int | None, int | None]:
        reply = service.trace(bob, sent.message_id, "ann")
        return reply.state, reply.sent_at, reply.acked_at

    told, untold = ("acked", sent.sent_at, now.ms), ("accepted", sent.sent_at, None)
    assert seen() == told
    for who, other in ((ann, "bob"), (bob, "ann")):
        service.set_receipts(who, receipts=False)
        assert seen() == untold
        service.set_receipts(who, receipts=True)
        assert seen() == told
        service.block(who, other)
        assert seen() == untold
        service.unblock(who, other)
        assert seen() == told
    service.set_receipts(bob, receipts=False)
    assert service.trace(bob, note.message_id, "bob").state == "waiting"
    assert service.administration("a test").trace(sent.message_id).trace.acked


def test_an_account_may_trace_so_often_and_the_operator_as_he_likes() -> None:
    seconds = [0.0]
    service = ChatService(MemoryStore(), hasher=cheap_hasher(), monotonic=lambda: seconds[0])
    for name in ("ann", "bob"):
        service.add_account(name, PASSWORD)
    ann, bob = login(service, "ann"), login(service, "bob")

    def traced(by: Session, number: int) -> None:
        for _ in range(number):
            assert service.trace(by, "0" * 24, "ann").state == "unknown"

    traced(ann, 10)
    for _ in range(2):
        with pytest.raises(RateLimited) as refused:
            service.trace(ann, "0" * 24, "ann")
        assert refused.value.retry_after_ms == 1_000
    traced(bob, 10)
    for _ in range(50):
        assert service.administration("a test").trace("0" * 24) is None
    seconds[0] += 1
    traced(ann, 1)


def test_each_action_is_in_the_log_with_who_did_it(
    service: ChatService, caplog: pytest.LogCaptureFixture
) -> None:
    admin = service.administration("uid 1234")
    actions = {
        "kick": lambda: admin.kick("ann"),
        "disable": lambda: admin.disable("ann"),
        "enable": lambda: admin.enable("ann"),
        "reset_password": lambda: admin.reset_password("ann"),
        "set_quota": lambda: admin.set_quota("ann", 7),
        "export": lambda: list(admin.messages("ann")),
        "invite": admin.invite,
        "withdraw_invitation": lambda: admin.withdraw_invitation(number_of(admin.invitations()[0])),
        "delete": lambda: admin.delete("ann"),
    }
    for action, act in actions.items():
        caplog.clear()
        with caplog.at_level("INFO"):
            outcome = act()
        (record,) = caplog.records
        assert record.event == "admin_action"  # type: ignore[attr-defined]
        fields = record.fields  # type: ignore[attr-defined]
        assert (fields["action"], fields["by"]) == (action, "uid 1234")
        assert fields["username"] == (None if "invit" in action else "ann")
        assert record.getMessage().endswith(", by uid 1234")
        if action in ("reset_password", "invite"):
            secret = outcome if action == "reset_password" else outcome[0]
            assert secret not in caplog.text
