"""The state machine of a client: its table, and what each event comes to."""

from pathlib import Path
from typing import Any

import client_states
import pytest
from client_kit import FAST, States
from servers import HELLO

from twinline.core.errors import NotLoggedIn
from twinline.core.protocol import MAIL_ALONE, SessionReply
from twinline.transports.client import ClientClosed, StateKind, WatchMode
from twinline.transports.client.engine.link import (
    TRANSITIONS,
    ClientSession,
    Event,
    Link,
    LinkState,
)
from twinline.transports.client.options import ClientOptions
from twinline.transports.client.state import StateReport

S = LinkState
E = Event


class Machine:
    """A link, with what it has reported; each event of the table is what leads to it."""

    def __init__(self, *, resume: bool = True) -> None:
        self.states = States()
        self.ended: list[ClientSession] = []
        options = ClientOptions.of(
            "tcp://127.0.0.1:1",
            None,
            FAST,
            watch=WatchMode.BLOCKING,
            kinds=MAIL_ALONE,
            resume=resume,
            on_message=None,
            on_state=None,
            on_handler_error=None,
        )
        self.link = Link(options, StateReport(self.states), self.ended.append)
        self.session = new_session()

    def happen(self, event: Event) -> None:
        link, session = self.link, self.link.snapshot.session
        match event:
            case E.CONNECTED | E.RESUMED:
                link.connected(HELLO, link.next_server)
            case E.ATTEMPT_FAILED:
                link.attempt_failed(session, link.next_server, "refused")
            case E.GAVE_UP:
                link.gave_up()
            case E.LOGGED_IN:
                link.logged_in(self.session)
            case E.SESSION_ENDED:
                link.session_ended(self.session, "revoked")
            case E.WATCH_BROKE:
                link.watch_broke(self.session, "reset")
            case E.WATCH_ANSWERED:
                link.watch_answered(self.session)
            case E.CLOSED:
                link.close()
                link.connected(HELLO, link.next_server)  # the next delivery reports it

    def go(self, *events: Event) -> "Machine":
        for event in events:
            self.happen(event)
        return self


def new_session() -> ClientSession:
    return ClientSession.of(SessionReply(username="ann", session="t", position=0, unread=0))


ONLINE = (E.CONNECTED, E.LOGGED_IN)
WAYS: dict[tuple[LinkState, bool], tuple[Event, ...]] = {
    (S.CONNECTING, False): (),
    (S.LOGGED_OUT, False): (E.CONNECTED,),
    (S.ONLINE, True): ONLINE,
    (S.LOST, True): (*ONLINE, E.WATCH_BROKE),
    (S.LOST, False): (E.CONNECTED, E.ATTEMPT_FAILED, E.GAVE_UP),
    (S.RETRYING, True): (*ONLINE, E.ATTEMPT_FAILED),
    (S.RETRYING, False): (E.CONNECTED, E.ATTEMPT_FAILED),
    (S.CLOSED, False): (E.CLOSED,),
    (S.CLOSED, True): (*ONLINE, E.CLOSED),
}
"""How a client comes to each state, without a session and with one."""
OF_A_SESSION = {E.RESUMED, E.SESSION_ENDED, E.WATCH_BROKE, E.WATCH_ANSWERED}


@pytest.mark.parametrize("event", list(Event), ids=lambda event: event.value)
@pytest.mark.parametrize(("state", "has_session"), WAYS, ids=str)
def test_each_event_in_each_state_is_in_the_table_or_changes_nothing(
    state: LinkState, has_session: bool, event: Event
) -> None:
    machine = Machine().go(*WAYS[state, has_session])
    before = machine.link.snapshot
    assert (before.at, before.session is not None) == (state, has_session)
    if event is E.CONNECTED and has_session:
        event = E.RESUMED  # that is what it is then
    elif event in OF_A_SESSION and not has_session:
        expected = state  # there is nothing that could send it
        if event is E.RESUMED:
            expected = TRANSITIONS[state].get(E.CONNECTED, state)
        machine.happen(event)
        assert machine.link.snapshot.at is expected
        return
    machine.happen(event)
    assert machine.link.snapshot.at is TRANSITIONS[state].get(event, state)


def test_every_state_has_a_row_and_every_event_a_use() -> None:
    assert set(TRANSITIONS) == set(LinkState)
    assert {event for row in TRANSITIONS.values() for event in row} == set(Event)
    assert {to for row in TRANSITIONS.values() for to in row.values()} == set(LinkState)
    assert not TRANSITIONS[S.CLOSED]


def test_the_drawing_in_the_documents_is_made_from_the_table() -> None:
    page = (Path(__file__).parents[3] / "docs" / "api" / "client.md").read_text(encoding="utf-8")
    assert client_states.inserted(page) == page, "run: python docs/_generate"


def test_every_state_of_the_machine_is_shown_as_one_of_the_public_ones() -> None:
    assert {state.kind for state in LinkState} == set(StateKind)


@pytest.mark.parametrize("event", list(Event), ids=lambda event: event.value)
def test_what_happens_to_another_session_changes_nothing(event: Event) -> None:
    machine = Machine().go(*ONLINE)
    ours = machine.session
    machine.session = new_session()
    before = machine.link.snapshot
    if event in OF_A_SESSION - {E.RESUMED}:
        machine.happen(event)
        machine.link.attempt_failed(machine.session, machine.link.next_server, "late")
        assert machine.link.snapshot == before
        assert machine.link.snapshot.session is ours
        assert machine.ended == []


@pytest.mark.parametrize("event", [E.WATCH_BROKE, E.ATTEMPT_FAILED])
def test_without_resume_a_broken_connection_ends_the_session(event: Event) -> None:
    machine = Machine(resume=False).go(*ONLINE, event)
    assert machine.link.snapshot.at is S.LOGGED_OUT
    assert machine.ended == [machine.session]
    assert "the connection was lost" in str(machine.states.seen[-1])
    with pytest.raises(NotLoggedIn, match="the connection was lost"):
        machine.link.snapshot.require_session()


def test_a_session_ends_once() -> None:
    machine = Machine().go(*ONLINE, E.SESSION_ENDED, E.SESSION_ENDED, E.WATCH_BROKE)
    assert machine.ended == [machine.session]
    assert str(machine.link.state) == "logged out: revoked"


@pytest.mark.parametrize("event", [E.WATCH_BROKE, E.ATTEMPT_FAILED])
def test_connections_from_before_a_break_are_not_trusted(event: Event) -> None:
    machine = Machine().go(*ONLINE)
    before = machine.link.snapshot.generation
    machine.go(event, event)
    assert machine.link.snapshot.generation == before + 1


def test_states_are_reported_with_their_reasons_and_waits() -> None:
    events = (E.ATTEMPT_FAILED, *ONLINE, E.WATCH_BROKE, E.WATCH_BROKE, E.ATTEMPT_FAILED)
    machine = Machine().go(*events, E.GAVE_UP, E.WATCH_ANSWERED, E.CLOSED, E.CLOSED)
    shown: list[Any] = [(one.kind, one.reason, one.retry_in) for one in machine.states.seen]
    kind = StateKind
    assert shown == [
        (kind.CONNECTING, "refused", 0.02),
        (kind.LOGGED_OUT, None, None),
        (kind.ONLINE, None, None),
        (kind.RECONNECTING, "reset", None),
        (kind.RECONNECTING, "refused", 0.04),
        (kind.ONLINE, None, None),
        (kind.CLOSED, None, None),
    ]


def test_a_proof_that_a_connection_works_takes_the_pace_back() -> None:
    machine = Machine().go(E.ATTEMPT_FAILED, E.ATTEMPT_FAILED)
    assert not machine.link.next_attempt.passed
    machine.link.proved(machine.link.next_server, machine.link.failures - 1)
    assert not machine.link.next_attempt.passed  # its reply was under way when they failed
    machine.link.proved(machine.link.next_server, machine.link.failures)
    assert machine.link.next_attempt.passed
    machine.go(E.ATTEMPT_FAILED)
    assert machine.states.seen[-1].retry_in == 0.02


def test_a_closed_client_admits_nothing() -> None:
    snapshot = Machine().go(*ONLINE, E.CLOSED).link.snapshot
    for admit in (snapshot.require_open, snapshot.require_session):
        with pytest.raises(ClientClosed):
            admit()
    assert snapshot.session is not None  # to be resumed by another client
