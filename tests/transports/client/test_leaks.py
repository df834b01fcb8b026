"""A step that fails between opening a socket and owning it leaves no socket open."""

import asyncio
import errno
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
from aio_kit import aio, until
from client_kit import FAST, States, fast, inbox_of, make_client, watchers
from descriptors import nothing_left_open
from named import NAME, look_up_with, naming, swallowing
from servers import Answer, ScriptedServer, Site
from services import PASSWORD
from waiting import wait_until

from twinline.core.errors import Busy
from twinline.core.protocol import Message
from twinline.transports import race
from twinline.transports.client import AsyncClient, Client, NotConnected, State, StateKind
from twinline.transports.contract import ClientCodec
from twinline.transports.jsonl import JsonlTransport


class Broken(BaseException):
    """What nobody expects."""


class NoCodec(JsonlTransport):
    """A transport of somebody's that fails when it is used."""

    def client_codec(self, frame_limit: int) -> ClientCodec:
        raise Broken


def fail_with(error: BaseException) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


@pytest.mark.usefixtures("both_clients")
def test_a_transport_that_makes_no_codec(site: Site) -> None:
    with (
        make_client(site.endpoint, transport=NoCodec(), settings=FAST) as client,
        nothing_left_open(),
        pytest.raises(Broken),
    ):
        client.connect(5)


@pytest.mark.usefixtures("both_clients")
def test_a_socket_that_cannot_be_tuned(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = States()
    with make_client(site.endpoint, on_state=seen, settings=FAST) as client, nothing_left_open():
        monkeypatch.setattr(race, "tune", fail_with(OSError(errno.EINVAL, "gone")))
        with pytest.raises(NotConnected):
            client.connect(0.2)
        assert "gone" in {state.reason for state in seen.seen}
        monkeypatch.setattr(race, "tune", fail_with(Broken()))
        with pytest.raises(Broken):
            client.connect(5)


@pytest.mark.usefixtures("both_clients")
def test_a_state_that_breaks_off_the_attempt(site: Site) -> None:
    def on_state(state: State) -> None:
        if state.kind is StateKind.LOGGED_OUT:
            raise Broken

    with (
        make_client(site.endpoint, on_state=on_state, settings=FAST) as client,
        nothing_left_open(),
        pytest.raises(Broken),
    ):
        client.connect(5)


@pytest.mark.usefixtures("both_clients")
@pytest.mark.parametrize(
    "answer",
    [b"", b"no reply\n", None, Busy("too many", retry_after_ms=1).to_reply()],
    ids=["hangs up", "talks nonsense", "is silent", "is busy"],
)
def test_a_server_that_greets_nobody(answer: Answer) -> None:
    with (
        ScriptedServer(lambda _: answer) as server,
        make_client(server.endpoint, settings=fast(reply_seconds=0.05)) as client,
        nothing_left_open(),
        pytest.raises(NotConnected),
    ):
        client.connect(0.3)


@pytest.mark.usefixtures("both_clients")
def test_the_attempts_that_lost(site: Site) -> None:
    port = site.endpoint.port
    with (
        swallowing(port),
        swallowing(port, "127.0.0.3"),
        nothing_left_open(),
        make_client(f"tcp://{NAME}:{port}", settings=FAST) as client,
    ):
        look_up_with(client, naming("127.0.0.2", "127.0.0.3", "127.0.0.1"))
        client.create_account("ann", PASSWORD)


def test_an_asyncio_transport_that_cannot_be_made(site: Site) -> None:
    async def main() -> None:
        async with AsyncClient(site.endpoint, settings=FAST) as client:
            loop = asyncio.get_running_loop()
            with nothing_left_open(), pytest.MonkeyPatch.context() as patch:
                patch.setattr(loop, "create_connection", fail_with(Broken()))
                with pytest.raises(Broken):
                    await client.connect(5)

    aio(main)


async def cancelled_after(passes: int, call: Callable[[], Coroutine[Any, Any, object]]) -> bool:
    """Cancel a call after so many passes of the event loop, and return whether it had not ended."""
    task = asyncio.create_task(call())
    for _ in range(passes):
        await asyncio.sleep(0)
    alive = task.cancel()
    await asyncio.wait({task}, timeout=10)
    assert task.cancelled() is alive
    return alive


async def a_few_passes() -> None:
    """Let what was closed be closed by the event loop."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_an_attempt_that_is_cancelled_at_any_await(site: Site) -> None:
    """Looking up, racing, making the transport, hello: each await is one of so many passes."""
    port = site.endpoint.port
    cancelled = dict.fromkeys((f"tcp://{NAME}:{port}", f"tcp://127.0.0.1:{port}"), 0)

    async def main() -> None:
        for endpoint in cancelled:
            for passes in range(40):
                client = AsyncClient(endpoint, settings=FAST)
                look_up_with(client, naming("127.0.0.2", "127.0.0.1"))
                cancelled[endpoint] += await cancelled_after(passes, partial(client.connect, 5))
                await a_few_passes()
                # Only a call that came through leaves something to be closed.
                if client.limits is not None:
                    await client.close()

    with swallowing(port), nothing_left_open():
        aio(main)
    assert min(cancelled.values()) > 5


def test_a_close_that_is_cancelled_at_any_await(site: Site) -> None:
    """A handler is stuck, so that the close has something to wait for."""

    go_on: asyncio.Event

    async def stuck(_: Message) -> None:
        await go_on.wait()

    async def main() -> None:
        nonlocal go_on
        cancelled = 0
        for passes in range(1, 12):
            go_on = asyncio.Event()
            async with AsyncClient(site.endpoint, settings=FAST, on_message=stuck) as client:
                await client.create_account(f"ann-{passes}", PASSWORD)
                await client.send(f"ann-{passes}", "hello")
                await until(lambda c=client: inbox_of(c).head(), "the message")
                await a_few_passes()
                backend = client._engine._backend
                assert len(backend._open) == 2
                cancelled += await cancelled_after(passes, client.close)
                await a_few_passes()
                assert not backend._open
                go_on.set()
        assert cancelled > 5

    with nothing_left_open():
        aio(main)


def test_a_close_that_is_interrupted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ctrl-C, while it waits for a handler that is stuck."""
    go_on = threading.Event()
    with nothing_left_open():
        client = Client(site.endpoint, settings=FAST, on_message=lambda _: go_on.wait(30))
        try:
            client.create_account("ann", PASSWORD)
            client.send("ann", "hello")
            wait_until(lambda: inbox_of(client).head(), "the message")
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "join", fail_with(KeyboardInterrupt()))
                with pytest.raises(KeyboardInterrupt):
                    client.close()
        finally:
            go_on.set()
        wait_until(lambda: not watchers(), "the end of the watcher")
