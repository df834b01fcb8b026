"""The event loop's listener in a program's own asyncio loop: serving, stopping, cancelling."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from descriptors import nothing_left_open
from listening import Peer
from services import make_service
from waiting import wait_event, wait_until

from twinline.core.service import ChatService
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener import ListenerSettings, LoopListener
from twinline.transports.registry import transport

pytestmark = pytest.mark.usefixtures("signal_pipe_of_uvloop")
Program = Callable[[LoopListener], Awaitable[object]]


def embed(
    program: Program, service: ChatService | None = None, *, drain_seconds: float = 10
) -> LoopListener:
    """Run a program in a loop of its own, beside a listener that serves nobody yet."""
    listener = LoopListener(
        service or make_service(),
        [(Endpoint.parse("tcp://127.0.0.1:0"), transport("auto"))],
        ListenerSettings(drain_seconds=drain_seconds),
    )

    async def within() -> None:
        async with asyncio.timeout(40):
            await program(listener)

    with nothing_left_open():
        asyncio.run(within())
    assert listener._running() == []
    with pytest.raises(ConnectionRefusedError):
        Peer(listener.endpoints[0])
    return listener


async def ping(listener: LoopListener) -> Peer:
    """Return a peer that has been answered; it speaks in a thread, as the loop serves it."""

    def talk() -> Peer:
        peer = Peer(listener.endpoints[0])
        assert peer.ask("ping")["ok"]
        return peer

    return await asyncio.to_thread(talk)


async def ends(peer: Peer) -> None:
    assert await asyncio.to_thread(peer.rest) == b""
    peer.close()


@pytest.mark.parametrize("call", ["stop", "close"])
@pytest.mark.parametrize("where", ["the loop", "a thread"])
def test_it_serves_beside_other_tasks_until_it_is_stopped(call: str, where: str) -> None:
    """`close` in the loop's own thread cannot wait for what it keeps from going on."""

    async def program(listener: LoopListener) -> None:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0)

        beating = asyncio.create_task(beat())
        serving = asyncio.create_task(listener.serve())
        peer = await ping(listener)
        before = beats
        peer_again = await ping(listener)
        assert beats > before
        if where == "the loop":
            getattr(listener, call)()
        else:
            await asyncio.to_thread(getattr(listener, call))
            assert call == "stop" or listener._drained
        await serving
        assert listener._drained
        await ends(peer)
        await ends(peer_again)
        beating.cancel()

    embed(program)


def test_serving_again_is_an_error_and_after_the_end_nothing() -> None:
    async def program(listener: LoopListener) -> None:
        serving = asyncio.create_task(listener.serve())
        peer = await ping(listener)
        with pytest.raises(RuntimeError, match="serves already"):
            await listener.serve()
        with pytest.raises(RuntimeError, match="serves already"):
            listener.serve_forever()
        assert (await asyncio.to_thread(peer.ask, "ping"))["ok"]
        listener.stop()
        await serving
        await ends(peer)
        await listener.serve()  # returns at once

    embed(program)


class Held:
    """Holds up each request, in its worker, until it is let go on."""

    def __init__(self, service: ChatService) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        service.store.blocks = True
        handle = service.handle

        def held(session: Any, job: Any) -> Any:
            if job.op == "status":
                self.reached.set()
                wait_event(self.go_on, "the test lets it go on")
            return handle(session, job)

        service.handle = held  # type: ignore[method-assign]


async def with_request_under_way(listener: LoopListener, held: Held) -> Peer:
    peer = await ping(listener)

    def ask() -> None:
        peer.enter("ann")
        peer.send_line(op="status", id=7)
        wait_event(held.reached, "it is under way")

    await asyncio.to_thread(ask)
    return peer


def test_cancelled_once_it_drains_and_then_is_cancelled() -> None:
    service = make_service()
    held = Held(service)

    async def program(listener: LoopListener) -> None:
        serving = asyncio.create_task(listener.serve())
        peer = await with_request_under_way(listener, held)
        serving.cancel()
        done, _ = await asyncio.wait([serving], timeout=0.05)
        assert not done  # it waits for what is under way
        held.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await serving
        reply = await asyncio.to_thread(peer.read_line)
        assert (reply["id"], reply["ok"]) == (7, True)
        await ends(peer)

    embed(program, service)


def test_cancelled_twice_it_cuts() -> None:
    service = make_service()
    held = Held(service)

    async def program(listener: LoopListener) -> None:
        serving = asyncio.create_task(listener.serve())
        peer = await with_request_under_way(listener, held)
        started = time.monotonic()
        serving.cancel()
        await asyncio.wait([serving], timeout=0.05)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert time.monotonic() - started < 5  # and not the 30 that it may take to drain
        await ends(peer)
        held.go_on.set()

    before = set(threading.enumerate())
    embed(program, service, drain_seconds=30)
    wait_until(lambda: set(threading.enumerate()) <= before, "no thread is left")


def test_cancelled_before_it_has_begun_it_closes_what_it_bound() -> None:
    async def program(listener: LoopListener) -> None:
        serving = asyncio.create_task(listener.serve())
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        listener.close()  # for it was never called

    embed(program)


def test_a_loop_that_ends_with_it_is_left_with_nothing() -> None:
    """As a program ends whose main coroutine raises: its loop cancels what is left."""

    class Crash(Exception):
        pass

    peers: list[Peer] = []

    async def program(listener: LoopListener) -> None:
        serving = asyncio.create_task(listener.serve())
        peers.append(await ping(listener))
        del serving
        raise Crash

    listener = LoopListener(
        make_service(), [(Endpoint.parse("tcp://127.0.0.1:0"), transport("auto"))]
    )
    with nothing_left_open():
        with pytest.raises(Crash):
            asyncio.run(program(listener))  # type: ignore[arg-type]
        assert peers[0].rest() == b""
        peers[0].close()
    assert listener._drained
    assert listener._running() == []
