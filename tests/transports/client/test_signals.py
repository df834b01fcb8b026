"""A signal's handler may close a client, whatever its thread is doing with it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import pytest
from client_kit import FAST, user
from servers import Site
from waiting import wait_until

from twinline.core.locks import Lock
from twinline.transports.client import Client, ClientClosed, StateKind, WatchMode
from twinline.transports.client.backends import aio, threads
from twinline.transports.client.client import CLOSING_THREAD_NAME
from twinline.transports.client.engine.inbox import Inbox
from twinline.transports.client.interrupted import CALLBACKS
from twinline.transports.client.state import StateReport

SIGNAL = signal.SIGUSR1


@contextmanager
def handling(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Have a handler called on the signal, in the main thread."""
    before = signal.signal(SIGNAL, handler)
    try:
        yield
    finally:
        signal.signal(SIGNAL, before)


class SignalledLock:
    """A lock that a signal finds held, once."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self.due = False

    def __enter__(self) -> None:
        self._lock.__enter__()
        if self.due and threading.current_thread() is threading.main_thread():
            self.due = False
            signal.raise_signal(SIGNAL)

    def __exit__(self, *exception: object) -> None:
        self._lock.__exit__(*exception)


def connect_again(client: Client) -> None:
    """Open another connection."""
    client._engine._commands._drop()
    client.ping()


def look(client: Client) -> None:
    """Wait for a message."""
    for _ in client.messages(5):
        pass


def closed_by_signal(client: Client) -> None:
    """Wait for the end of what a handler has begun, and see that the client is whole."""
    wait_until(lambda: client.state.kind is StateKind.CLOSED, "the state")
    client.close()
    wait_until(
        lambda: CLOSING_THREAD_NAME not in [thread.name for thread in threading.enumerate()],
        "the closing thread ends",
    )
    with pytest.raises(ClientClosed):
        client.ping()


def the_inbox(client: Client) -> Inbox:
    return client._engine.link.snapshot.require_session().inbox


@pytest.mark.parametrize(
    ("owner", "act"),
    [
        (lambda client: client._engine, Client.logout),
        (lambda client: client._engine.link, Client.logout),
        (lambda client: client._engine.link.closed, connect_again),
        (lambda client: client._engine._dialler._fifo, connect_again),
        (lambda client: client._engine._commands._fifo, Client.ping),
        (lambda client: client._engine._report, Client.logout),
        (the_inbox, look),
        (lambda client: the_inbox(client)._ended, look),
    ],
)
def test_it_may_close_while_its_thread_holds_a_lock_of_the_client(
    site: Site, owner: Callable[[Client], Any], act: Callable[[Client], object]
) -> None:
    with user(site.endpoint, "ann") as ann:
        lock = owner(ann)._lock = SignalledLock(owner(ann)._lock)
        with handling(lambda *_: ann.close()):
            lock.due = True
            with suppress(ClientClosed):
                act(ann)
            assert not lock.due
            closed_by_signal(ann)


def test_it_may_close_while_its_thread_waits_for_messages(site: Site) -> None:
    with user(site.endpoint, "ann") as ann:
        inbox = ann._engine.link.snapshot.require_session().inbox

        def interrupt() -> None:
            wait_until(lambda: inbox._ended._wakes, "the loop waits")
            signal.pthread_kill(threading.main_thread().ident, SIGNAL)

        with handling(lambda *_: ann.close()):
            thread = threading.Thread(target=interrupt)
            thread.start()
            assert list(ann.messages()) == []
            thread.join()
            closed_by_signal(ann)


def test_it_closes_by_itself_while_its_thread_does_something_else(site: Site) -> None:
    states: list[StateKind] = []

    def handler(*_: object) -> None:
        ann.close()
        states.append(ann.state.kind)
        assert not [thread for thread in threading.enumerate() if "closing" in thread.name]

    with user(site.endpoint, "ann") as ann, handling(handler):
        signal.raise_signal(SIGNAL)
        assert states == [StateKind.CLOSED]


def test_it_may_come_at_any_moment(site: Site) -> None:
    with user(site.endpoint, "ann", watch=WatchMode.OFF) as ann:
        token = ann.token
        for number in range(60):
            client = Client(site.endpoint, settings=FAST, watch=WatchMode.OFF)
            client.resume(token)
            begun = threading.Event()

            def interrupt(begun: threading.Event = begun, number: int = number) -> None:
                begun.wait(5)
                threading.Event().wait(number * 0.00007)
                signal.pthread_kill(threading.main_thread().ident, SIGNAL)

            with handling(lambda *_, client=client: client.close()):
                thread = threading.Thread(target=interrupt)
                thread.start()
                begun.set()
                with suppress(ClientClosed):
                    while True:
                        client.ping()
                thread.join()
                closed_by_signal(client)


def test_callbacks_are_called_where_the_client_is_said_to_call_them() -> None:
    callers = (
        StateReport.deliver,
        aio.TaskStateReport.deliver,
        threads.ThreadWorker.call,
        aio.TaskWorker.call,
    )
    assert {caller.__qualname__ for caller in callers} == CALLBACKS
