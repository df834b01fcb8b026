"""Starting, stopping and closing a listener: in every order, from every thread, and again."""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from typing import Any

import pytest
from listening import Peer, Server, loops_only, make_listener, serving, threads_only
from services import make_service
from waiting import Call, join, wait_event, wait_until

from twinline.core.protocol import Reply, Request
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.transports.listener import Listener, ListenerSettings, LoopListener, Waker

pytestmark = pytest.mark.usefixtures("each_listener")
Step = Callable[[Listener], object]


def new_listener(service: ChatService | None = None, waker: Waker | None = None) -> Listener:
    return make_listener(service, ListenerSettings(drain_seconds=0.05), waker=waker)


def assert_closed(listener: Listener) -> None:
    assert listener._running() == []
    (endpoint,) = listener.endpoints
    with pytest.raises(ConnectionRefusedError):
        Peer(endpoint)


@pytest.mark.parametrize("steps", ["C", "CS", "CC", "SC", "TS", "TSC", "CT", "TTCS", "CSTSCS"])
def test_steps_after_one_another(steps: str) -> None:
    """C closes, T stops, and S serves, which returns at once where the listener is stopped."""
    listener = new_listener()
    if steps == "SC":
        threading.Timer(0.05, listener.stop).start()
    for step in steps:
        called: Callable[[], None] = {
            "C": listener.close,
            "T": listener.stop,
            "S": listener.serve_forever,
        }[step]
        Call(called).outcome()
    assert_closed(listener)


def test_a_listener_is_closed_at_the_end_of_a_block() -> None:
    with new_listener() as listener:
        serving = Call(listener.serve_forever)
        with Peer(listener.endpoints[0]) as peer:
            assert peer.ask("ping")["ok"]
    serving.outcome()
    assert_closed(listener)


def test_serving_twice_at_once_is_an_error_and_disturbs_nobody() -> None:
    with serving() as server, server.peer() as peer:
        assert peer.ask("ping")["ok"]
        with pytest.raises(RuntimeError, match="serves already"):
            server.listener.serve_forever()
        assert peer.ask("ping")["ok"]


def test_two_listeners_at_once_end_each_by_itself() -> None:
    service = make_service()
    with serving(service=service) as first, serving(service=service) as second:
        first.listener.close()
        join(first.thread)
        with second.peer() as peer:
            assert peer.ask("ping")["ok"]


def test_closing_from_a_connections_own_thread() -> None:
    """Its request is under way, so the drain waits for it, and is over when its time is."""
    with serving(drain_seconds=0.1) as server:
        handle = server.service.handle

        def closing_handle(session: Session, request: Request) -> Reply:
            server.listener.close()
            return handle(session, request)

        server.service.handle = closing_handle  # type: ignore[method-assign]
        with server.peer() as peer:
            peer.send_line(op="ping", id=1)
            peer.rest()
        join(server.thread)
        server.wait_connections(0)


# -- signal handlers, which run between any two steps of the main thread --------------------


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Set what SIGUSR1 does."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda action: signal.signal(signal.SIGUSR1, lambda *_: action()) and None
    signal.signal(signal.SIGUSR1, before)


OnSignal = Callable[[Callable[[], object]], None]


def interrupt() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


@pytest.mark.parametrize("ends", ["stop", "close"])
def test_a_handler_ends_the_listener_that_it_interrupts(on_signal: OnSignal, ends: str) -> None:
    listener = new_listener()
    on_signal(getattr(listener, ends))
    threading.Timer(0.05, interrupt).start()
    rescue = threading.Timer(20, os.abort)
    rescue.start()
    listener.serve_forever()
    rescue.cancel()
    assert_closed(listener)


def test_a_handler_that_closes_while_its_thread_closes(on_signal: OnSignal) -> None:
    """It cannot wait for what it interrupts."""
    with serving() as server, server.peer() as peer:
        under_way, go_on = threading.Event(), threading.Event()
        handle = server.service.handle

        def held(session: Session, request: Request) -> Reply:
            under_way.set()
            wait_event(go_on, "the test lets it go on")
            return handle(session, request)

        server.let_requests_wait()
        server.service.handle = held  # type: ignore[method-assign]
        peer.send_line(op="ping", id=1)
        wait_event(under_way, "the ping is under way")

        def close_again() -> None:
            threading.Timer(0.05, go_on.set).start()
            server.listener.close()

        on_signal(close_again)
        threading.Timer(0.05, interrupt).start()
        server.listener.close()  # in the main thread, and the signal comes meanwhile
        assert peer.read_line()["ok"]


def test_an_exception_of_a_handler_leaves_the_listener_closed(on_signal: OnSignal) -> None:
    """As KeyboardInterrupt is one."""
    listener = new_listener()

    def give_up() -> None:
        raise KeyboardInterrupt

    on_signal(give_up)
    threading.Timer(0.05, interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        listener.serve_forever()
    assert_closed(listener)
    listener.close()


@loops_only
def test_signals_that_wake_the_waker_are_noticed_by_a_loop_that_does_not_look(
    on_signal: OnSignal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the loop of an idle server rests: nothing is called now and then."""
    ticks: list[object] = []
    monkeypatch.setattr(LoopListener, "_tick", ticks.append)
    with Waker() as waker:
        listener = new_listener(waker=waker)
        on_signal(listener.stop)
        before = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        rescue = threading.Timer(20, os.abort)
        rescue.start()
        try:
            threading.Timer(0.05, interrupt).start()
            listener.serve_forever()
        finally:
            rescue.cancel()
            signal.set_wakeup_fd(before)
        assert waker.fileno() != -1  # it stays the caller's
    assert ticks == []


@threads_only
def test_signals_that_wake_the_waker_are_noticed_at_once(on_signal: OnSignal) -> None:
    """So the wait needs no end of its own: this is what `serve` does."""
    with Waker() as waker:
        listener: Any = new_listener(waker=waker)
        waits: list[float | None] = []
        poll = listener._poller._poll

        class Noted:
            def __getattr__(self, name: str) -> object:
                return getattr(poll, name)

            def poll(self, seconds: float | None) -> object:
                waits.append(seconds)
                return poll.poll(seconds)

        listener._poller._poll = Noted()
        on_signal(listener.stop)
        before = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        try:
            threading.Timer(0.05, interrupt).start()
            listener.serve_forever()
        finally:
            signal.set_wakeup_fd(before)
        assert set(waits) == {None}
        assert waker.fileno() != -1  # it stays the caller's


# -- any order ------------------------------------------------------------------------------


def test_a_thousand_random_interleavings(on_signal: OnSignal) -> None:
    """Three threads, the main thread and its signal handler serve, stop and close as they like.

    Whatever the order: nobody hangs, nobody sees an error but "serves already", and in the end
    the listener is closed and its threads are gone.
    """
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    service = make_service()
    interval = sys.getswitchinterval()
    until = time.monotonic() + 120
    try:
        sys.setswitchinterval(1e-6)
        for number in range(1000):
            assert time.monotonic() < until, f"only {number} of 1,000, seed {seed}"
            interleave(chance, service, on_signal)
    except BaseException:
        print(f"seed {seed}, number {number}")
        raise
    finally:
        sys.setswitchinterval(interval)


def interleave(chance: random.Random, service: ChatService, on_signal: OnSignal) -> None:
    listener = new_listener(service)
    steps: dict[str, Step] = {
        "serve": Listener.serve_forever,
        "stop": Listener.stop,
        "close": Listener.close,
        "connect": connect,
        "interrupt": lambda _: interrupt(),
    }
    on_signal(getattr(listener, chance.choice(["stop", "close"])))
    together = threading.Barrier(4)

    def take(names: list[str]) -> None:
        together.wait(20)
        for name in names:
            try:
                steps[name](listener)
            except RuntimeError as error:
                if "serves already" not in str(error):
                    raise

    plans = [chance.choices(list(steps), k=chance.randint(1, 3)) for _ in range(3)]
    # The last, so that whoever serves can return.
    plans.append([chance.choice(["connect", "interrupt"]), chance.choice(["stop", "close"])])
    others = [Call(partial(take, plan)) for plan in plans[1:]]
    take(plans[0])
    for other in others:
        other.outcome()
    on_signal(lambda: None)
    listener.close()
    assert listener._drained
    assert listener._running() == []
    assert all(each.fileno() == -1 for bound in listener._bound for each in bound.sockets)


def connect(listener: Listener) -> None:
    with suppress(OSError), closing(Peer(listener.endpoints[0])) as peer:
        peer.socket.settimeout(0.02)
        peer.send(b'{"op":"ping","id":1}\n')
        peer.socket.recv(100)


# -- what outlives the drain ----------------------------------------------------------------


@threads_only
@pytest.mark.parametrize("watches", ["before", "after"])
def test_a_watch_connection_that_outlives_the_drain_leaves_nothing(watches: str) -> None:
    server = Server(settings=ListenerSettings(drain_seconds=0.05))
    under_way, go_on = threading.Event(), threading.Event()
    handle = server.service.handle
    with server.peer() as peer:
        peer.enter("ann")
        if watches == "before":
            assert peer.ask("watch", after=0, wait=1)["messages"] == []

        def held(session: Session, request: Request) -> Reply:
            under_way.set()
            wait_event(go_on, "the drain is over")
            return handle(session, request)

        server.service.handle = held  # type: ignore[method-assign]
        (connection,) = server.listener._running()
        peer.send_line(op="ping", id=1)
        peer.send_line(op="watch", id=2, after=0, wait=60)
        wait_event(under_way, "it is under way")
        server.stop()
        assert server.connections == 1
        go_on.set()
        wait_until(lambda: connection._socket.fileno() == -1, "its socket is closed")
        server.wait_connections(0)
        assert connection._wake.fileno() == -1
