"""The table of events: every event is told by something, with the fields that the table has."""

import ast
import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from docs_blocks import ROOT
from events_page import inserted
from services import PASSWORD, FakeClock, enter, login, make_service

from twinline.core import events
from twinline.core.certificates import Certificate
from twinline.core.clock import DAY_MS
from twinline.core.errors import RequestError
from twinline.core.events import EVENTS, Event, emit
from twinline.core.service import ChatService
from twinline.core.session import Session

ADDRESS = "192.0.2.1"
SOURCES = [
    path
    for package in ("core", "transports", "stores", "cli")
    for path in sorted((ROOT / package).glob("**/*.py"))
]
# Which other tests look at an event, by what they say of it.
ELSEWHERE = {
    "admin_action": "tests/core/test_admin.py",
    "admin_asked": "tests/cli/admin/test_peers.py",
    "admin_refused": "tests/cli/admin/test_peers.py",
    "clock_agrees": "tests/cli/test_health.py",
    "clock_off": "tests/cli/test_health.py",
    "clock_refused": "tests/cli/test_health.py",
    "connection_failed": "tests/transports/listener/test_events.py",
    "connection_refused": "tests/transports/listener/test_events.py",
    "drain_begun": "tests/transports/listener/test_events.py",
    "drain_ended": "tests/transports/listener/test_events.py",
    "durability_lowered": "tests/cli/test_health.py",
    "durability_raised": "tests/cli/test_health.py",
    "listener_short": "tests/transports/listener/test_events.py",
    "metrics_ready": "tests/cli/test_metrics.py",
    "needs_restart": "tests/cli/test_reload.py",
    "proxy_refused": "tests/transports/listener/test_events.py",
    "reload_failed": "tests/cli/test_reload.py",
    "reloaded": "tests/cli/test_reload.py",
    "repeated": "tests/cli/test_event_sums.py",
    "server_ready": "tests/cli/test_serve.py",
    "server_started": "tests/cli/test_serve.py",
    "servers_heard": "tests/cli/test_health.py",
    "servers_silent": "tests/cli/test_health.py",
    "store_available": "tests/cli/test_health.py",
    "store_keeps_nothing": "tests/cli/test_serve.py",
    "store_unavailable": "tests/cli/test_health.py",
    "tls_failed": "tests/transports/listener/test_events.py",
}


class Told:
    """What the logger of events has told."""

    def __init__(self) -> None:
        self.records: list[logging.LogRecord] = []

    def of(self, event: Event) -> list[dict[str, Any]]:
        """Return the fields of what was told of an event."""
        return [each.fields for each in self.records if each.event == event.name]  # type: ignore[attr-defined]

    @property
    def text(self) -> str:
        return "\n".join(
            f"{each.getMessage()} {json.dumps(each.fields)}"  # type: ignore[attr-defined]
            for each in self.records
        )


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    handler = logging.Handler()
    handler.emit = told.records.append  # type: ignore[method-assign]
    logger = logging.getLogger("twinline.events")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield told
    logger.removeHandler(handler)
    logger.setLevel(before)


def caller(service: ChatService) -> Session:
    return service.session(ADDRESS)


def refused(call: Callable[..., object], *arguments: object, **options: object) -> None:
    with pytest.raises(RequestError):
        call(*arguments, **options)


def certificate(clock: FakeClock, name: str = "ann") -> Certificate:
    return Certificate(name, bytes(32), clock.now + DAY_MS)


Case = Callable[[ChatService, FakeClock], object]
_MINE = {"username": "ann", "address": ADDRESS}


def guess(service: ChatService, username: str, password: str = "not the password") -> None:
    refused(service.login, caller(service), username, password)


def as_ann(service: ChatService) -> Session:
    session = caller(service)
    service.login(session, "ann", PASSWORD)
    return session


def by_certificate(service: ChatService, shown: Certificate | None) -> Session:
    session = caller(service)
    session.certificate = shown
    service.login_certificate(session)
    return session


def lock_out(service: ChatService, clock: FakeClock) -> None:
    for _ in range(6):
        guess(service, "ann")


def disabled(service: ChatService, clock: FakeClock) -> None:
    service.administration("me").disable("ann")
    guess(service, "ann", PASSWORD)


def one_time(service: ChatService, clock: FakeClock) -> None:
    guess(service, "ann", service.administration("me").reset_password("ann"))


def changed_at_login(service: ChatService, clock: FakeClock) -> None:
    password = service.administration("me").reset_password("ann")
    service.login(caller(service), "ann", password, "quite another one")


def resume(service: ChatService, clock: FakeClock) -> None:
    token = service.login(service.session(), "ann", PASSWORD).session
    service.resume(caller(service), token)


def idle(service: ChatService, clock: FakeClock) -> None:
    session = as_ann(service)
    clock.forward(days=40)
    refused(service.status, session)


def expired(service: ChatService, clock: FakeClock) -> None:
    session = by_certificate(service, certificate(clock))
    clock.forward(days=2)
    refused(service.status, session)


def revoked(service: ChatService, clock: FakeClock) -> None:
    by_certificate(service, certificate(clock))
    service.revoke_certificates([bytes(32)])


def register_too_often(service: ChatService, clock: FakeClock) -> None:
    for number in range(21):
        try:
            service.create_account(caller(service), f"bob{number}", PASSWORD)
        except RequestError:
            return


CASES: list[tuple[Event, dict[str, object], Case]] = [
    (events.LOGIN, {**_MINE, "by": "password"}, lambda s, c: as_ann(s)),
    (events.LOGIN, {**_MINE, "by": "certificate"}, lambda s, c: by_certificate(s, certificate(c))),
    (events.LOGIN_FAILED, {**_MINE, "why": "wrong_password"}, lambda s, c: guess(s, "ANN")),
    (
        events.LOGIN_FAILED,
        {**_MINE, "username": None, "why": "no_account"},
        lambda s, c: guess(s, "hunter22"),
    ),
    (
        events.LOGIN_FAILED,
        {**_MINE, "username": None, "why": "no_username"},
        lambda s, c: guess(s, "not a name"),
    ),
    (
        events.LOGIN_FAILED,
        {**_MINE, "username": None, "why": "certificate"},
        lambda s, c: refused(by_certificate, s, None),
    ),
    (
        events.LOGIN_FAILED,
        {**_MINE, "username": "eve", "why": "certificate"},
        lambda s, c: refused(by_certificate, s, certificate(c, "eve")),
    ),
    (events.LOGIN_FAILED, {**_MINE, "why": "account_disabled"}, disabled),
    (events.LOGIN_FAILED, {**_MINE, "why": "password_change_required"}, one_time),
    # Less what the guesses took.
    (events.LOGIN_SLOWED, {**_MINE, "seconds": pytest.approx(0.5, abs=0.5)}, lock_out),
    (events.SESSION_RESUMED, _MINE, resume),
    (events.LOGOUT, _MINE, lambda s, c: s.logout(as_ann(s))),
    (events.SESSION_REVOKED, {"username": "ann", "why": "idle"}, idle),
    (events.SESSION_REVOKED, {"username": "ann", "why": "certificate_expired"}, expired),
    (events.SESSION_REVOKED, {"username": "ann", "why": "certificate_revoked"}, revoked),
    (
        events.PASSWORD_CHANGED,
        _MINE,
        lambda s, c: s.change_password(as_ann(s), PASSWORD, "quite another one"),
    ),
    (events.PASSWORD_CHANGED, _MINE, changed_at_login),
    (
        events.PASSWORD_REFUSED,
        {**_MINE, "op": "change_password"},
        lambda s, c: refused(s.change_password, as_ann(s), "no, not that", "quite another one"),
    ),
    (
        events.PASSWORD_REFUSED,
        {**_MINE, "op": "delete_account"},
        lambda s, c: refused(s.delete_account, as_ann(s), "no, not that"),
    ),
    (
        events.ACCOUNT_CREATED,
        {**_MINE, "username": "bob"},
        lambda s, c: s.create_account(caller(s), "Bob", PASSWORD),
    ),
    (events.ACCOUNT_ADDED, {"username": "bob"}, lambda s, c: s.add_account("bob", PASSWORD)),
    (events.ACCOUNT_DELETED, _MINE, lambda s, c: s.delete_account(as_ann(s), PASSWORD)),
    (
        events.REGISTRATION_REFUSED,
        {"address": ADDRESS, "why": "rate_limited"},
        register_too_often,
    ),
]


@pytest.mark.parametrize(
    ("event", "fields", "case"),
    CASES,
    ids=[f"{event.name}-{number}" for number, (event, _, _) in enumerate(CASES)],
)
def test_each_event_is_told_once_with_its_fields(
    event: Event, fields: dict[str, object], case: Case, told: Told
) -> None:
    clock = FakeClock()
    service = make_service(clock=clock)
    enter(service, "ann")
    told.records.clear()
    case(service, clock)
    wanted = [each for each in told.of(event) if each == fields]
    assert len(wanted) == 1, told.text
    # Nothing else of the same kind, but for what led there.
    assert told.of(event)[-1] == fields
    assert "not the password" not in told.text
    assert PASSWORD not in told.text
    assert "hunter22" not in told.text  # whoever typed that may have meant it as a password


@pytest.mark.parametrize("registration", ["closed", "invitation"])
def test_a_registration_that_is_not_allowed_is_told(registration: str, told: Told) -> None:
    service = make_service(registration=registration)
    refused(service.create_account, caller(service), "bob", PASSWORD)
    why = {"closed": "registration_closed", "invitation": "invitation_invalid"}[registration]
    assert told.of(events.REGISTRATION_REFUSED) == [{"address": ADDRESS, "why": why}]


def test_what_makes_room_for_another_session_is_told(told: Told) -> None:
    service = make_service(sessions_per_account=2)
    enter(service, "ann")
    login(service, "ann")
    login(service, "ann")
    assert told.of(events.SESSION_REVOKED) == [{"username": "ann", "why": "too_many_sessions"}]


def test_every_event_is_told_somewhere_and_tried_by_a_test() -> None:
    constants = {name: value for name, value in vars(events).items() if isinstance(value, Event)}
    told: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute | ast.Name):
                name = node.attr if isinstance(node, ast.Attribute) else node.id
                if name in constants and not isinstance(node.ctx, ast.Store):
                    told.add(constants[name].name)
    assert told == set(EVENTS), "an event in the table that nothing tells of"
    tried = {event.name for event, _, _ in CASES}
    assert tried | ELSEWHERE.keys() == set(EVENTS)
    for name, path in ELSEWHERE.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf'"{name}"|events\.{name.upper()}\b', text), (name, path)


def test_the_table_is_sound() -> None:
    for event in EVENTS.values():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", event.name)
        assert set(event.by) <= set(event.fields)
        assert bool(event.by) == bool(event.many)
        named = set(re.findall(r"%\((\w+)\)s", event.sentence))
        assert named <= set(event.fields), event.name


def test_the_documentation_has_the_events_as_they_are() -> None:
    page = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    assert inserted(page) == page, "run: python docs/_generate"


def test_what_is_not_known_is_shown_as_no_name_is(told: Told) -> None:
    emit(events.LOGIN_FAILED, username=None, address="", why="no_account")
    assert "login as (unknown) from (unknown) failed" in told.records[0].getMessage()
    emit(events.DRAIN_BEGUN, connections=12345, seconds=0.123456)
    assert told.records[1].getMessage() == "draining 12,345 connections, for up to 0.123 s"
