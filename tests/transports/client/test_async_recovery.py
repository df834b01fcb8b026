"""`AsyncClient` through restarts and faults: nothing lost, nothing twice, nothing left behind."""

import asyncio
import contextlib
import random
from pathlib import Path

import pytest
from aio_kit import again, aio, take, until, user
from client_kit import FAST, MODES, States, fast, watcher_of
from crash_server import CrashServer
from fault_proxy import Fault, FaultProxy, Route
from servers import Site
from services import PASSWORD

from twinline.core.protocol import Message
from twinline.transports.client import (
    AsyncClient,
    ClientClosed,
    ClientError,
    ClientSettings,
    NotConnected,
    StateKind,
    WatchMode,
)
from twinline.transports.client.engine.watcher import THREAD_NAME

ONLINE = StateKind.ONLINE
RECONNECTING = StateKind.RECONNECTING
LOGGED_OUT = StateKind.LOGGED_OUT


# -- dying and coming back --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jsonl", "binary"])
@MODES
def test_a_restart_resumes_the_session_and_says_so(site: Site, name: str, watch: WatchMode) -> None:
    seen = States()

    async def main() -> None:
        options = {"transport": name, "watch": watch, "on_state": seen}
        async with user(site.endpoint, **options) as ann:
            token = ann.token
            await ann.send("ann", "before")
            await asyncio.to_thread(site.stop)
            await until(lambda: seen.kinds.count(RECONNECTING) >= 4, "some attempts")
            sending = asyncio.create_task(ann.send("ann", "meanwhile"))
            await asyncio.to_thread(site.start)
            await sending
            assert ann.token == token
            assert await take(ann, 2) == ["before", "meanwhile"]

    aio(main)
    kinds = [kind for kind in seen.kinds if kind is not RECONNECTING]
    assert kinds == [LOGGED_OUT, ONLINE, ONLINE, StateKind.CLOSED]
    waits = [state.retry_in for state in seen.seen if state.kind is RECONNECTING]
    assert [seconds for seconds in waits if seconds is not None][1:3] == [0.04, 0.08]


def test_a_restart_with_the_store_lost_ends_the_loop_over_messages(site: Site) -> None:
    async def main() -> None:
        async with user(site.endpoint) as ann:

            async def loop() -> list[Message]:
                return [message async for message in ann.messages()]

            looping = asyncio.create_task(loop())
            await asyncio.to_thread(site.stop, lose_store=True)
            await until(lambda: ann.state.kind is RECONNECTING, "the loss is noticed")
            await asyncio.to_thread(site.start)
            assert await looping == []
            assert str(ann.state) == "logged out: the session has ended; log in again"
            await ann.create_account("ann", PASSWORD)
            assert ann.state.kind is ONLINE

    aio(main)


@pytest.mark.parametrize("name", ["jsonl", "binary"])
@pytest.mark.parametrize("callback", [True, False])
def test_nothing_is_lost_and_nothing_comes_twice_through_many_faults(
    site: Site, proxy: FaultProxy, name: str, callback: bool
) -> None:
    """Both clients go through a proxy that breaks connections in every way, again and again."""
    count = 60
    chance = random.Random(f"{name} {callback}")

    def on_route(route: Route) -> None:
        for way in (route.up, route.down):
            cut = {"cut_after": chance.randrange(100, 2000)} if chance.random() < 0.5 else {}
            way.fault = Fault(
                reset=chance.random() < 0.5,
                half_close=chance.random() < 0.3,
                pieces=chance.choice([None, 7, 100]),
                **cut,
            )

    async def main() -> None:
        got: list[str] = []

        async def on_message(message: Message) -> None:
            await asyncio.sleep(0)
            got.append(message.body)

        settings = fast(reply_seconds=1, command_seconds=20, backoff_max=0.02)
        options = {"transport": name, "settings": settings}
        async with user(site.endpoint, "ann"), user(site.endpoint, "bob"):
            pass
        async with (
            again(proxy.endpoint, "bob", **options) as bob,
            again(
                proxy.endpoint, "ann", on_message=on_message if callback else None, **options
            ) as ann,
        ):

            async def loop() -> None:
                async for message in ann.messages():
                    got.append(message.body)  # noqa: PERF401 - as they come

            proxy.on_route = on_route
            looping = None if callback else asyncio.create_task(loop())
            for number in range(count):
                if number % 5 == 0:
                    proxy.cut(reset=number % 2 == 0)
                await bob.send("ann", f"m{number}")
            proxy.on_route = None
            await until(lambda: len(got) >= count, f"{count} messages", 20)

            async def acked() -> bool:
                return callback is False or (await ann.status()).unread == 0

            await until(acked, "the last ack")
            if looping is not None:
                await ann.logout()
                await looping
        assert got == [f"m{number}" for number in range(count)]
        assert len(proxy.routes) > 10

    aio(main)


def test_a_server_that_is_killed_again_and_again(tmp_path: Path) -> None:
    """Kill -9 of a real process, whose store is on the disk, in the midst of sends."""
    count = 60
    got: list[str] = []

    async def main(server: CrashServer) -> None:
        async def on_message(message: Message) -> None:
            await asyncio.sleep(0)
            got.append(message.body)

        async def send(bob: AsyncClient) -> None:
            for number in range(count):
                await bob.send("ann", f"m{number}")
                await asyncio.sleep(0.01)

        async with (
            user(server.endpoint, "ann", on_message=on_message) as ann,
            user(server.endpoint, "bob") as bob,
        ):
            sending = asyncio.create_task(send(bob))
            for kill in (1, 2, 3):
                await until(lambda kill=kill: len(got) >= 12 * kill, "some messages", 20)
                await asyncio.to_thread(server.kill)
                await until(lambda: ann.state.kind is RECONNECTING, "the loss is noticed")
                await asyncio.to_thread(server.start_warm)
            await sending
            await until(lambda: len(got) >= count, f"{count} messages", 20)

            async def acked() -> bool:
                return (await ann.status()).unread == 0

            await until(acked, "the last ack")

    with CrashServer(tmp_path) as server:
        server.start_warm()
        aio(lambda: main(server))
    assert got == [f"m{number}" for number in range(count)]


def test_while_it_reconnects_no_command_is_sent(site: Site, proxy: FaultProxy) -> None:
    async def main() -> None:
        async with user(proxy.endpoint, settings=fast(command_seconds=0.5)) as ann:
            await asyncio.to_thread(proxy.wait_routes, 2)
            command, watch = proxy.routes
            proxy.up = proxy.down = Fault(blackhole=True)
            before = command.up.passed
            watch.cut()
            await until(lambda: ann.state.kind is RECONNECTING, "the loss is noticed")
            with pytest.raises(NotConnected, match="nothing was sent"):
                await ann.send("ann", "not now")
            assert command.up.passed == before

    aio(main)


# -- close during everything ------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89])
def test_close_during_everything(site: Site, proxy: FaultProxy, steps: int) -> None:
    """Whatever is under way ends at once, as closed or done, and leaves no task and no socket."""

    async def main() -> None:
        async with user(site.endpoint, "ann"):
            pass
        client = AsyncClient(proxy.endpoint, settings=ClientSettings())

        async def loop() -> None:
            async for _ in client.messages():
                await asyncio.sleep(0)

        async def work(number: int) -> None:
            if number == 0:
                await client.login("ann", PASSWORD)
            await client.connect()
            with contextlib.suppress(ClientError):
                await client.send("ann", f"m{number}")
            await loop()

        tasks = [asyncio.create_task(work(number)) for number in range(6)]
        for _ in range(steps):
            await asyncio.sleep(0.001)
        if steps % 2:
            proxy.cut()
        async with asyncio.timeout(1):
            await client.close()
        assert not client._engine._backend._open
        async with asyncio.timeout(1):
            await asyncio.gather(*tasks, return_exceptions=True)
        with pytest.raises(ClientClosed):
            await client.ping()
        assert len(asyncio.all_tasks()) <= 2  # this one, and the one that runs the test

    aio(main)


def test_close_during_a_logout_leaves_no_task(site: Site, proxy: FaultProxy) -> None:
    """A logout that fails has the watcher begin again; not so when the client is closed."""

    async def main() -> None:
        async with user(proxy.endpoint, settings=ClientSettings()) as ann:
            await asyncio.to_thread(proxy.wait_routes, 2)
            proxy.routes[0].up.fault = Fault(blackhole=True)
            leaving = asyncio.create_task(ann.logout())
            await until(lambda: ann._engine._commands._fifo.is_held, "the request is under way")
            await ann.close()
            assert THREAD_NAME not in [task.get_name() for task in asyncio.all_tasks()]
            with pytest.raises(ClientClosed):
                await leaving
            assert watcher_of(ann)._worker._task is None  # it has not begun

    aio(main)


def test_close_by_many_tasks_at_once(site: Site) -> None:
    seen = States()

    async def main() -> None:
        async with user(site.endpoint, on_state=seen) as ann:
            await asyncio.gather(*(ann.close() for _ in range(5)))
            await ann.close()
            with pytest.raises(ClientClosed):
                await anext(ann.messages())

    aio(main)
    assert seen.kinds.count(StateKind.CLOSED) == 1


def test_a_close_that_is_cancelled_can_be_made_again(site: Site, proxy: FaultProxy) -> None:
    async def main() -> None:
        async with user(proxy.endpoint, settings=FAST) as ann:
            await asyncio.to_thread(proxy.wait_routes, 2)
            closing = asyncio.create_task(ann.close())
            await asyncio.sleep(0)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            await ann.close()
            assert not ann._engine._backend._open

    aio(main)
