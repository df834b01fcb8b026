"""A call on a client that a signal's handler interrupts leaves it usable, wherever that is."""

import gc
import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest
from client_kit import FAST, inbox_of, user
from interrupting import Interrupt, bombard, each_place
from servers import Site
from services import PASSWORD
from waiting import Call

from twinline.core.errors import NotLoggedIn
from twinline.transports.client import Client, State, WatchMode

SOON = 8.0  # a command that another holds up for good has 10 s
# Sockets of connections that an interrupted call was about to take are closed by the collector.
LONG = pytest.mark.timeout(600)
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Leave nothing to collect to the next test."""
    yield
    gc.collect()


def usable(ann: Client, states: list[State]) -> None:
    """See that the client carries out commands for this thread and for others, and reports."""
    ann.ping()
    Call(ann.status).outcome(SOON)
    assert not ann._engine._report.is_here
    assert not ann._engine._commands._fifo._turns
    assert not ann._engine._dialler._fifo.is_held
    assert states[-1] == ann.state, "a state was not reported"


def connect_again(ann: Client) -> None:
    connection = ann._engine._commands._connection
    if connection is not None:
        connection.shutdown()
    ann.ping()


@pytest.mark.parametrize(
    ("act", "step"),
    [
        (Client.ping, 1),
        (lambda ann: ann.send("ann", "hello"), 1),
        (lambda ann: ann.connect(5), 1),
        (connect_again, 7),
        (connect_again, 1),
    ],
    ids=["ping", "send", "connect", "connect again", "each place"],
)
def test_an_interrupted_command_leaves_the_client_usable(
    site: Site, act: Callable[[Client], object], step: int
) -> None:
    states: list[State] = []
    kept: list[Interrupt] = []  # as a debugger keeps the last error, and its frames

    with user(site.endpoint, "ann", watch=WatchMode.OFF, on_state=states.append) as ann:

        def interrupted() -> None:
            try:
                act(ann)
            except Interrupt as error:
                kept[:] = [error]
                raise

        places = 0
        for _ in each_place(interrupted, step):
            usable(ann, states)
            places += 1
        assert places > 40 / step


def test_an_interrupted_login_leaves_the_client_usable(site: Site) -> None:
    states: list[State] = []
    with user(site.endpoint, "ann"):
        pass
    with Client(site.endpoint, settings=FAST, watch=WatchMode.OFF, on_state=states.append) as ann:

        def in_and_out() -> None:
            if ann.username is None:
                ann.login("ann", PASSWORD)
            with suppress(NotLoggedIn):  # an interrupted logout had been carried out
                ann.logout()

        for _ in each_place(in_and_out):
            ann.ping()
            Call(ann.ping).outcome(SOON)
            assert not ann._engine._report.is_here
            assert not ann._engine._commands._fifo._turns


def test_an_interrupted_loop_over_messages_leaves_them_to_the_next_one(site: Site) -> None:
    with user(site.endpoint, "ann") as ann:
        numbers = itertools.count()
        seen: list[str] = []
        kept: list[Interrupt] = []

        def look() -> None:
            try:
                for message in ann.messages(0.2):
                    seen.append(message.body)
                    break
            except Interrupt as error:
                kept[:] = [error]
                raise

        for place in each_place(look):
            body = f"{next(numbers)}"
            ann.send("ann", body)
            for message in ann.messages(SOON):
                seen.append(message.body)
                if message.body == body:
                    break
            else:
                pytest.fail(f"{body} has not come; interrupted at {place}")
            assert inbox_of(ann).head() is not None
        assert set(map(int, seen)) == set(range(next(numbers)))


@pytest.mark.parametrize("count", [500, pytest.param(20_000, marks=LONG)])
def test_real_signals_leave_a_client_as_good_as_new(site: Site, count: int) -> None:
    with user(site.endpoint, "ann", watch=WatchMode.OFF) as ann:

        def use() -> None:
            ann.ping()
            ann.status()

        bombard(use, count, seconds=count / 40)
        for call in [Call(partial(Client.ping, ann)) for _ in range(8)]:
            call.outcome(SOON)
        assert not ann._engine._commands._fifo._turns
