"""What becomes of a connection on an event loop where things happen in an order that is rare."""

import os
import signal
import time
from itertools import pairwise
from typing import Any

import pytest
from forking import Child
from listening import Hold, Peer, Server, loops_only, make_listener, serving
from services import make_service
from waiting import Call, wait_until

from twinline.core.looks import Look
from twinline.core.protocol import REQUESTS, Reply
from twinline.transports.listener import ListenerSettings, LoopListener
from twinline.transports.listener.loop_connection import LoopConnection
from twinline.transports.listener.turns import RECEIVE_BYTES

pytestmark = [pytest.mark.usefixtures("each_listener"), loops_only]


class BrokenCodec:
    """A codec of somebody else's that raises from now on, wherever it is to do something."""

    mid_frame = False

    def receive_data(self, data: bytes) -> None:
        raise ZeroDivisionError(len(data))

    def receive_eof(self) -> None:
        raise ZeroDivisionError

    def next_event(self) -> None:
        raise ZeroDivisionError

    def send(self, *_: object) -> None:
        raise ZeroDivisionError


def the_connection(server: Server) -> Any:
    """Return the only one that is served."""
    (connection,) = server.listener._connections
    return connection


def faults(caplog: pytest.LogCaptureFixture) -> int:
    """Return how often it was said that a connection failed."""
    return sum("failed" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("how", ["bytes", "end"])
def test_a_codec_that_raises_at_what_arrives_ends_its_connection_and_is_logged_once(
    caplog: pytest.LogCaptureFixture, how: str
) -> None:
    with serving() as server, server.peer() as peer:
        assert peer.ask("ping")["ok"]
        the_connection(server)._talk.codec = BrokenCodec()
        if how == "bytes":
            peer.send_line(op="ping", id=1)
        else:
            peer.socket.shutdown(1)
        assert peer.rest() == b""
        wait_until(lambda: not server.connections, "the connection is counted no more")
    assert faults(caplog) == 1


def test_a_codec_that_raises_as_a_watch_ends_in_time_ends_its_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving() as server, server.peer() as peer:
        peer.enter("ann").send_line(op="watch", id=1, after=0, wait=1)
        server.wait_watching()
        the_connection(server)._talk.codec = BrokenCodec()
        assert peer.rest() == b""
    assert faults(caplog) == 1


def test_what_a_worker_meets_that_is_no_exception_ends_its_connection_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving() as server, server.peer() as bystander, server.peer() as peer:
        server.let_requests_wait()
        assert bystander.ask("ping")["ok"]
        handle = server.service.handle

        def leave(*_: object) -> Reply:
            raise SystemExit(3)

        server.service.handle = leave  # type: ignore[assignment]
        peer.send_line(op="ping", id=1)
        assert peer.rest() == b""
        server.service.handle = handle  # type: ignore[method-assign]
        assert bystander.ask("ping")["ok"]
    assert faults(caplog) == 1


def test_a_deadline_from_before_does_not_shorten_the_time_that_is_read_on_at_the_end() -> None:
    with serving() as server, server.peer() as peer:
        assert peer.ask("ping")["ok"]
        connection, turns = the_connection(server), server.listener.turns

        def due_soon() -> None:
            turns.forget(connection)
            turns.call_at(time.monotonic() + 0.1, connection)

        server.in_loop(due_soon)
        began = time.monotonic()
        peer.send(b"x" * 100_000)  # more than a frame may have
        assert not peer.read_line()["ok"]
        wait_until(lambda: not server.connections, "the connection ends")
        assert time.monotonic() - began >= 0.5


def test_who_sends_much_that_asks_nothing_is_read_once_a_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By itself uvloop reads on while there is more, 32 times, and others wait for all of it."""
    read: list[LoopConnection] = []
    take_in = LoopConnection.buffer_updated

    def noted(self: LoopConnection, nbytes: int) -> None:
        if nbytes == RECEIVE_BYTES:
            read.append(self)
        take_in(self, nbytes)

    monkeypatch.setattr(LoopConnection, "buffer_updated", noted)
    with serving() as server, server.peer() as ann, server.peer() as bob:
        peers = ann.enter("ann"), bob.enter("bob")

        def send() -> None:
            for peer in peers:  # a frame whose end does not come yet
                peer.send(b" " * 3 * RECEIVE_BYTES)

        server.in_loop(send)
        wait_until(lambda: len(read) == 6, "all of it is read")
        for peer in peers:
            assert peer.ask("ping")["ok"]
    assert all(one is not other for one, other in pairwise(read))


def test_a_worker_gets_no_more_while_what_was_written_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flush = LoopConnection._flush
    handled: list[object] = []
    flushed: list[int] = []

    def flush_slowly(self: LoopConnection) -> bool:
        flush(self)
        self.pause_writing()
        flushed.append(len(handled))
        return False

    with serving() as server, server.peer() as peer:
        server.let_requests_wait()
        assert peer.ask("ping")["ok"]
        connection, handle = the_connection(server), server.service.handle

        def note(*job: Any) -> Any:
            handled.append(job)
            return handle(*job)

        server.service.handle = note  # type: ignore[assignment]
        monkeypatch.setattr(LoopConnection, "_flush", flush_slowly)
        peer.send(b"".join(b'{"op":"ping","id":%d}\n' % number for number in range(40)))
        wait_until(lambda: flushed, "the first replies are written")
        server.in_loop(lambda: None)  # that turn is over
        wait_until(lambda: not connection._working, "no worker is at it")
        assert len(handled) == flushed[0] < 40
        monkeypatch.setattr(LoopConnection, "_flush", flush)
        server.in_loop(connection.resume_writing)
        assert [peer.read_line()["id"] for _ in range(40)] == list(range(40))


def test_a_connection_whose_opening_is_cancelled_is_counted_out_once() -> None:
    with serving() as server:
        listener = server.listener
        start = listener._start
        for steps in (0, 1):

            def cancelled(connection: Any, steps: int = steps) -> bool:
                begun = start(connection)
                for task in tuple(listener._opening):
                    if steps:  # once it has begun
                        listener._loop.call_soon(task.cancel)
                    else:
                        task.cancel()
                return bool(begun)

            listener._start = cancelled
            with server.peer() as peer:
                assert peer.rest() == b""
                wait_until(lambda: not server.connections, "the connection is counted no more")
                server.in_loop(lambda: None)
                assert not listener._by_address
        listener._start = start
        with server.peer() as peer:
            assert peer.ask("ping")["ok"]
            assert list(listener._by_address.values()) == [1]


def test_a_child_keeps_no_copy_of_a_connection() -> None:
    with serving() as server, server.peer() as peer:
        assert peer.ask("ping")["ok"]
        number = the_connection(server).socket.fileno()

        def look() -> None:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(number)

        Child(look).end()
        assert peer.ask("ping")["ok"]


class Interruption(KeyboardInterrupt):
    """What a signal's handler raises."""


def test_a_second_exception_of_a_signals_handler_cuts_what_drains() -> None:
    service, hold, times = make_service(), Hold(), []

    def interrupt(*_: object) -> None:
        times.append(time.monotonic())
        raise Interruption(len(times))

    with make_listener(service, ListenerSettings(drain_seconds=30)) as listener:
        assert isinstance(listener, LoopListener)
        listener.elsewhere = frozenset((*REQUESTS, Look))
        handle = service.handle

        def held(*job: Any) -> Any:
            hold()
            return handle(*job)

        service.handle = held  # type: ignore[assignment, method-assign]

        def interrupt_twice() -> None:
            hold.wait_reached()
            os.kill(os.getpid(), signal.SIGUSR1)
            wait_until(lambda: listener._all_ended is not None, "it drains")
            os.kill(os.getpid(), signal.SIGUSR1)

        usual = signal.signal(signal.SIGUSR1, interrupt)
        try:
            with Peer(listener.endpoints[0]).send_line(op="ping", id=1) as peer:
                call = Call(interrupt_twice)
                with pytest.raises(Interruption):
                    listener.serve_forever()
                assert time.monotonic() - times[1] < 10
                assert peer.rest() == b""
                call.outcome()
        finally:
            hold.release()
            signal.signal(signal.SIGUSR1, usual)
        assert not listener._connections
