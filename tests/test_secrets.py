"""No password, token or hash is in what a program prints of a model, an error or a log."""

import dataclasses
import importlib
import logging
import pkgutil
import re
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from listening import TCP, serving
from malformed_samples import line
from pydantic import BaseModel, ValidationError
from services import FakeClock, cheap_hasher

import twinline
from twinline.core import protocol
from twinline.core.protocol import REQUESTS, Login, Reply, SessionReply
from twinline.core.service import ChatService
from twinline.stores.memory import MemoryStore
from twinline.transports.client.engine.link import ClientSession, Snapshot
from twinline.transports.contract import RequestReceived

SECRET = "hunter2-is-the-secret"
NAMES = re.compile(r"password|token|secret|(^|_)hash$|^session$")


def records() -> Iterator[tuple[type, tuple[str, ...]]]:
    """Yield every model, dataclass and named tuple of the packages, with its fields."""
    seen: set[type] = set()
    for module in pkgutil.walk_packages(twinline.__path__, "twinline."):
        if module.name.endswith("__main__"):
            continue
        for each in vars(importlib.import_module(module.name)).values():
            ours = isinstance(each, type) and each.__module__.startswith("twinline.")
            if not ours or each in seen:
                continue
            seen.add(each)
            if issubclass(each, BaseModel):
                yield each, tuple(each.model_fields)
            elif dataclasses.is_dataclass(each):
                yield each, tuple(field.name for field in dataclasses.fields(each))
            elif issubclass(each, tuple) and hasattr(each, "_fields"):
                yield each, each._fields


RECORDS = dict(records())


def secrets_of(kind: type) -> set[str]:
    """Return the fields of a record that hold a password, a token or a hash of one."""
    if kind is Snapshot:  # its session is a record
        return set()
    return {name for name in RECORDS[kind] if NAMES.search(name)}


WITH_SECRETS = [kind for kind in RECORDS if secrets_of(kind)]


def filled(kind: type, secret: str = SECRET) -> object:
    """Return a record whose secret fields have a mark in them."""
    mine = secrets_of(kind)
    values = {name: secret if name in mine else "x" for name in RECORDS[kind]}
    return kind.model_construct(**values) if issubclass(kind, BaseModel) else kind(**values)


def shown(value: object, caplog: pytest.LogCaptureFixture) -> str:
    """Return all that a program could print of a value without reading its fields."""
    caplog.clear()
    logging.getLogger("test").warning("%s %r", value, value)
    error = ValueError(value)
    logging.getLogger("test").warning("with a traceback", exc_info=error)
    trace = "".join(traceback.format_exception(error))
    return "\n".join((repr(value), str(value), f"{value}", trace, caplog.text))


def test_the_records_with_secrets_are_found() -> None:
    names = {kind.__name__ for kind in WITH_SECRETS}
    requests = {kind.__name__ for kind in REQUESTS if secrets_of(kind)}
    assert requests == {"CreateAccount", "Login", "Resume", "ChangePassword", "DeleteAccount"}
    assert names >= requests | {
        "Account",
        "ClientSession",
        "KeptSession",
        "SessionRecord",
        "SessionReply",
    }


@pytest.mark.parametrize("kind", WITH_SECRETS, ids=lambda kind: kind.__name__)
def test_no_record_shows_its_secrets(kind: type, caplog: pytest.LogCaptureFixture) -> None:
    assert SECRET not in shown(filled(kind), caplog)


def test_no_record_shows_those_of_what_it_holds(caplog: pytest.LogCaptureFixture) -> None:
    request = RequestReceived(1, filled(Login))  # type: ignore[arg-type]
    session = ClientSession.of(SessionReply(username="a", session=SECRET, position=0, unread=0))
    for each in (request, [request], {"session": session}, Snapshot(session=session)):
        assert SECRET not in shown(each, caplog)


PROTOCOL = [kind for kind in vars(protocol).values() if isinstance(kind, type) and kind in RECORDS]
TRUSTING = [kind for kind in RECORDS if kind in PROTOCOL or kind in WITH_SECRETS]


@pytest.mark.parametrize(
    "kind",
    [kind for kind in TRUSTING if issubclass(kind, BaseModel)],
    ids=lambda kind: kind.__name__,
)
def test_no_error_shows_what_was_refused(
    kind: type[BaseModel], caplog: pytest.LogCaptureFixture
) -> None:
    """A secret in any field, as whatever it is not, and in the place of the whole."""
    refused: list[object] = [SECRET, [SECRET]]
    for name in kind.model_fields:
        refused += [{name: value} for value in ([SECRET], {SECRET: SECRET}, SECRET.encode())]
    errors = [error for value in refused if (error := _refusal(kind, value))]
    assert errors
    for error in errors:
        assert SECRET not in shown(error, caplog)


def _refusal(kind: type[BaseModel], value: object) -> ValidationError | None:
    try:
        kind.model_validate(value)
    except ValidationError as error:
        return error
    return None


def test_a_fault_inside_is_logged_without_the_request(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.accounts.find = self.accounts.is_free = self._fail  # type: ignore[method-assign]

        def _fail(self, username: str) -> Any:
            raise RuntimeError("a fault inside")

    caplog.set_level(logging.DEBUG)
    service = ChatService(Faulty(), clock=FakeClock(), hasher=cheap_hasher())
    for kind in (protocol.CreateAccount, protocol.Login):
        reply: Reply = service.handle(service.session(), kind(username="ann", password=SECRET))
        assert SECRET not in repr(reply)
    assert [record.exc_info is not None for record in caplog.records] == [True, True]
    assert SECRET not in caplog.text


LINES = (
    SECRET,
    f'{{"op":"{SECRET}","id":1}}',
    f'{{"op":"login","id":1,"username":"{SECRET}"}}',
    f'{{"op":"login","id":1,"username":"ann","password":["{SECRET}"]}}',
    f'{{"op":"login","id":1,"username":"ann","password":"{SECRET}"}}',
    f'{{"op":"login","id":1,"password":"{SECRET}","username":3}}',
    f'{{"op":"create_account","id":1,"username":"not a name","password":"{SECRET}"}}',
    f'{{"op":"resume","id":1,"session":"{SECRET}"}}',
    f'{{"op":["{SECRET}"],"id":1}}',
    f'{{"op":"login","id":"{SECRET}"}}',
)


@pytest.mark.parametrize("sent", LINES)
def test_no_line_that_is_refused_shows_in_the_reply_or_the_log(
    sent: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving([(TCP, "auto")]) as server, server.peer() as peer:
        peer.send(line(sent))
        reply = peer.read_line()
        assert not reply["ok"]
        peer.close()
        server.wait_connections(0)
    assert SECRET not in str(reply)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("spoken", ["jsonl", "binary"])
@pytest.mark.usefixtures("each_listener")
def test_nothing_that_is_said_in_secret_is_logged(
    spoken: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Bodies, passwords right and wrong, tokens, and a password in the place of a name."""
    caplog.set_level(logging.DEBUG)
    replies: list[Reply] = []
    secrets = {SECRET}
    with serving([(TCP, spoken)]) as server:
        with server.speaker(spoken) as ann, server.speaker(spoken) as other:
            entered = ann.ask(protocol.CreateAccount(username="ann", password=SECRET))
            assert isinstance(entered, SessionReply)
            secrets.add(entered.session)
            for request in (
                protocol.Login(username="ann", password=f"{SECRET}?"),
                protocol.Login(username=SECRET, password="a password"),
                protocol.Login(username=f"{SECRET} {SECRET}", password="a password"),
                protocol.Resume(session=f"{entered.session}?"),
            ):
                replies.append(other.ask(request))
                assert isinstance(replies[-1], protocol.ErrorReply)
            replies += map(
                ann.ask,
                (
                    protocol.Send(to="ann", body=SECRET),
                    protocol.ChangePassword(password=f"{SECRET}?", new_password=f"{SECRET}!"),
                    protocol.ChangePassword(password=SECRET, new_password=f"{SECRET}!"),
                    protocol.DeleteAccount(password=f"{SECRET}?"),
                    protocol.DeleteAccount(password=f"{SECRET}!", force=True),
                ),
            )
        server.wait_connections(0)
    told = {getattr(record, "event", "") for record in caplog.records}
    assert told >= {"login_failed", "password_refused", "password_changed", "account_deleted"}
    for record in caplog.records:
        said = f"{record.getMessage()} {vars(record)} {record.exc_info}"
        assert not any(secret in said for secret in secrets), said
    assert not any(secret in repr(replies) for secret in secrets)
