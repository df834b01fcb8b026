"""A cancelled task leaves an `AsyncClient` whole: no half-read reply, no lost message, no lock."""

import asyncio
import contextlib
import socket

import pytest
from aio_kit import again, aio, take, until, user
from client_kit import FAST, States, fast, inbox_of, watcher_of
from fault_proxy import NO_FAULT, Fault, FaultProxy
from servers import HELLO, ScriptedServer, Site
from services import PASSWORD

from twinline.core.protocol import Done, Hello, Message
from twinline.transports.client import (
    AsyncClient,
    ClientBusy,
    ClientClosed,
    ClientSettings,
    StateKind,
    WatchMode,
)
from twinline.transports.client.engine.cancel import Turn
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener.binding import listen

SLOW = ClientSettings()  # nothing ends by itself within a test


async def cancel(task: asyncio.Task) -> None:
    """Cancel a task, which must then end as cancelled."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- commands -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jsonl", "binary"])
@pytest.mark.parametrize("resume", [True, False])
def test_a_cancelled_send_closes_its_connection_and_the_next_command_opens_another(
    site: Site, proxy: FaultProxy, name: str, resume: bool
) -> None:
    seen = States()

    async def main() -> None:
        options = {"transport": name, "resume": resume, "watch": WatchMode.OFF, "settings": SLOW}
        async with user(proxy.endpoint, on_state=seen, **options) as ann:
            route = proxy.routes[0]
            route.down.fault = Fault(blackhole=True)
            before = route.up.passed
            sending = asyncio.create_task(ann.send("ann", "once", send_id="mine"))
            await until(lambda: route.up.passed > before, "the send")
            await cancel(sending)
            await until(lambda: not route.up._thread.is_alive(), "the end of its connection")
            # Its reply, had it come, would have been read as that of the next command.
            assert (await ann.status()).unread == 1
            await ann.send("ann", "once", send_id="mine")
            assert (await ann.status()).unread == 1
            assert len(proxy.routes) == 2
        kinds = StateKind
        assert seen.kinds == [kinds.LOGGED_OUT, kinds.ONLINE, kinds.CLOSED]

    aio(main)


def test_a_cancelled_reply_that_is_half_read_is_not_gone_on_with(
    site: Site, proxy: FaultProxy
) -> None:
    async def main() -> None:
        async with user(proxy.endpoint, watch=WatchMode.OFF, settings=SLOW) as ann:
            route = proxy.routes[0]
            route.down.fault = Fault(pieces=1, delay=0.05)
            before = route.down.passed
            asking = asyncio.create_task(ann.status())
            await until(lambda: route.down.passed > before, "a byte of the reply")
            await cancel(asking)
            assert (await ann.send("ann", "x")).message_id
            assert len(proxy.routes) == 2

    aio(main)


def test_a_command_that_is_cancelled_in_the_queue_leaves_the_connection_alone() -> None:
    async def main() -> None:
        with ScriptedServer() as server:
            server.script = lambda request: HELLO if isinstance(request, Hello) else None
            async with AsyncClient(server.endpoint, settings=SLOW) as client:
                first = asyncio.create_task(client.ping())
                await until(lambda: len(server.requests) == 2, "hello and a ping")
                others = [asyncio.create_task(client.ping()) for _ in range(3)]
                turns = client._engine._commands._fifo._turns
                await until(lambda: len(turns) == 4, "three behind the first")
                await cancel(others[1])
                assert len(turns) == 3
                server.script = lambda _: Done()
                server._peers[0].sendall(b'{"id":2,"ok":true}\n')
                for task in (first, others[0], others[2]):
                    assert await task < 5
                assert server.connections == 1
                assert not client._engine._commands._fifo.is_held

    aio(main)


def test_a_lock_that_is_handed_to_a_cancelled_task_goes_on() -> None:
    """The cancellation comes when the lock is handed over already and the task has not run yet."""

    async def main() -> None:
        with ScriptedServer() as server:
            server.script = lambda request: HELLO if isinstance(request, Hello) else Done()
            async with AsyncClient(server.endpoint, settings=SLOW) as client:
                await client.ping()
                lock = client._engine._commands._fifo
                first = Turn()
                with first.lasts:
                    assert lock.take_nowait(first)
                    second = asyncio.create_task(client.ping())
                    third = asyncio.create_task(client.ping())
                    await until(lambda: len(lock._turns) == 3, "two that wait")
                lock.pass_on(first)
                await cancel(second)
                assert await third < 5

    aio(main)


def test_a_command_that_runs_into_a_timeout_of_the_callers(site: Site, proxy: FaultProxy) -> None:
    async def main() -> None:
        async with user(proxy.endpoint, settings=SLOW) as ann:
            await asyncio.to_thread(proxy.wait_routes, 2)
            proxy.routes[0].down.fault = Fault(blackhole=True)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ann.status(), 0.05)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await ann.status()
            assert (await ann.status()).username == "ann"

    aio(main)


def test_a_cancelled_logout_leaves_the_watcher_at_work(site: Site, proxy: FaultProxy) -> None:
    async def main() -> None:
        async with user(proxy.endpoint, settings=SLOW) as ann:
            await asyncio.to_thread(proxy.wait_routes, 2)
            route = proxy.routes[0]
            route.up.fault = Fault(blackhole=True)  # it never arrives
            leaving = asyncio.create_task(ann.logout())
            await until(lambda: watcher_of(ann)._stop.is_set, "the watcher is stopped")
            await asyncio.sleep(0)
            await cancel(leaving)
            await ann.send("ann", "still here")
            assert await take(ann, 1) == ["still here"]

    aio(main)


def test_a_logout_that_is_cancelled_while_a_callback_runs_leaves_the_watcher_at_work(
    site: Site,
) -> None:
    got: list[str] = []

    async def main() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def on_message(message: Message) -> None:
            got.append(message.body)
            begun.set()
            await go_on.wait()

        async with user(site.endpoint, on_message=on_message) as ann:
            await ann.send("ann", "m1")
            await begun.wait()
            leaving = asyncio.create_task(ann.logout())
            await until(lambda: watcher_of(ann)._stop.is_set, "the watcher is stopped")
            await cancel(leaving)
            go_on.set()
            await ann.send("ann", "m2")
            await until(lambda: got == ["m1", "m2"], "the second message")

    aio(main)


def test_a_connection_that_ended_while_the_loop_was_busy_is_not_trusted(proxy: FaultProxy) -> None:
    """The event loop has had no time to look; what is entrusted to it would be in doubt."""

    async def main() -> None:
        async with user(proxy.endpoint, watch=WatchMode.OFF, settings=SLOW) as ann:
            proxy.cut()
            for way in (proxy.routes[0].up, proxy.routes[0].down):
                way.join()
            await ann.change_password(PASSWORD, "another secret")
            assert len(proxy.routes) == 2

    aio(main)


# -- connecting -----------------------------------------------------------------------------


def test_a_cancelled_connect_can_be_tried_again(site: Site, proxy: FaultProxy) -> None:
    async def main() -> None:
        async with AsyncClient(proxy.endpoint, settings=SLOW) as client:
            proxy.down = Fault(blackhole=True)
            connecting = asyncio.create_task(client.connect())
            await asyncio.to_thread(proxy.wait_routes, 1)
            await until(lambda: proxy.routes[0].up.passed, "hello")
            await cancel(connecting)
            route = proxy.routes[0]
            await until(lambda: not route.up._thread.is_alive(), "the end of its connection")
            proxy.down = NO_FAULT
            assert (await client.connect(5)).protocol == 1
            assert not client._engine._dialler._fifo.is_held

    aio(main)


def test_a_connect_that_is_cancelled_in_the_pause_between_attempts() -> None:
    async def main() -> None:
        with ScriptedServer() as server:
            server.script = lambda _: b""
            async with AsyncClient(server.endpoint, settings=SLOW) as client:
                connecting = asyncio.create_task(client.connect())
                await until(lambda: client.state.retry_in, "the pause")
                await cancel(connecting)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.login("ann", PASSWORD), 0.05)

    aio(main)


def test_a_connection_that_is_cancelled_on_its_way_leaves_no_socket() -> None:
    """Nothing takes connections from a full queue."""
    bound = listen(Endpoint.parse("tcp://127.0.0.1:0"))
    bound.sockets[0].listen(0)
    fillers = []

    async def main() -> None:
        async with AsyncClient(bound.endpoint, settings=SLOW) as client:
            connecting = asyncio.create_task(client.connect())
            await until(lambda: client._engine.link.closed._wakes, "an attempt")
            await cancel(connecting)
            closed_meanwhile = asyncio.create_task(client.connect())
            await until(lambda: client._engine.link.closed._wakes, "another attempt")
            async with asyncio.timeout(0.5):
                await client.close()
                with pytest.raises(ClientClosed):
                    await closed_meanwhile

    try:
        for _ in range(2):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", bound.endpoint.port))
            fillers.append(filler)
        aio(main)
    finally:
        for filler in fillers:
            filler.close()
        bound.close()


@pytest.mark.parametrize("steps", range(12))
def test_a_cancellation_at_each_step_of_connecting_leaves_nothing(site: Site, steps: int) -> None:
    async def main() -> None:
        async with AsyncClient(site.endpoint, settings=FAST) as client:
            connecting = asyncio.create_task(client.connect())
            for _ in range(steps):
                await asyncio.sleep(0)
            connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await connecting
            assert (await client.create_account("ann", PASSWORD)).username == "ann"

    aio(main)


# -- loops over messages ----------------------------------------------------------------------


def test_a_loop_that_is_cancelled_in_its_body_has_not_dealt_with_its_message(site: Site) -> None:
    async def main() -> None:
        async with user(site.endpoint) as ann:
            for number in (1, 2, 3):
                await ann.send("ann", f"m{number}")
            begun = asyncio.Event()
            got = []

            async def loop() -> None:
                async for message in ann.messages():
                    got.append(message.body)
                    if message.body == "m2":
                        begun.set()
                        await asyncio.sleep(60)

            task = asyncio.create_task(loop())
            await begun.wait()
            await cancel(task)
            assert got == ["m1", "m2"]
        async with again(site.endpoint) as ann:
            assert await take(ann, 2) == ["m2", "m3"]

    aio(main)


def test_a_loop_that_is_cancelled_while_it_waits_makes_room_for_the_next(site: Site) -> None:
    async def main() -> None:
        async with user(site.endpoint) as ann:
            messages = ann.messages()
            inbox = inbox_of(ann)
            task = asyncio.create_task(anext(messages))
            await until(lambda: inbox._ended._wakes, "the loop waits")
            with pytest.raises(ClientBusy, match="another loop"):
                await anext(ann.messages())
            with pytest.raises(ClientBusy, match="another task"):
                await anext(messages)
            await cancel(task)
            await ann.send("ann", "m1")
            async for message in ann.messages(5):
                assert message.body == "m1"
                break
            # The cancelled one can be gone on with, too.
            assert (await anext(messages)).body == "m1"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(messages), 0.02)
            await ann.send("ann", "m2")
            assert (await anext(messages)).body == "m2"
            await messages.aclose()
            assert [one async for one in messages] == []

    aio(main)


def test_a_loop_that_is_left_by_break_makes_room_at_once(site: Site) -> None:
    async def main() -> None:
        async with user(site.endpoint) as ann:
            await ann.send("ann", "m1")
            for _ in range(3):
                async for message in ann.messages(5):
                    assert message.body == "m1"
                    break
            assert await take(ann, 1) == ["m1"]

    aio(main)


def test_looking_for_messages_again_and_again_lets_others_run(site: Site) -> None:
    async def main() -> None:
        async with user(site.endpoint) as ann:
            await ann.send("ann", "m1")
            got: list[str] = []
            while not got:  # with no await but the loop's own
                got = [message.body async for message in ann.messages(timeout=0)]
            assert got == ["m1"]

    aio(main)


# -- the watcher ------------------------------------------------------------------------------


def test_a_cancelled_close_leaves_no_socket_open(site: Site) -> None:
    async def main() -> None:
        begun = asyncio.Event()
        go_on = asyncio.Event()

        async def on_message(_: Message) -> None:
            begun.set()
            await go_on.wait()

        async with user(site.endpoint, settings=SLOW, on_message=on_message) as ann:
            await ann.send("ann", "one")
            await begun.wait()
            closing = asyncio.create_task(ann.close())
            await until(lambda: watcher_of(ann)._stop.is_set, "close waits for the handler")
            await cancel(closing)
            go_on.set()
            await until(lambda: not ann._engine._backend._open, "its sockets are closed")

    aio(main)


def test_a_watcher_that_is_cancelled_from_elsewhere_does_not_end_in_silence(site: Site) -> None:
    seen = States()

    async def main() -> None:
        async with user(site.endpoint, on_state=seen) as ann:
            watcher = watcher_of(ann)
            await until(
                lambda: watcher._connection and watcher._connection.proved, "the watch connection"
            )
            watcher._worker._task.cancel()
            await until(lambda: ann.state.kind is StateKind.LOGGED_OUT, "the state")
            assert "the watcher has failed" in str(ann.state)

    aio(main)


def test_a_callers_timeout_in_the_midst_of_reconnecting(site: Site, proxy: FaultProxy) -> None:
    seen = States()

    async def main() -> None:
        async with user(proxy.endpoint, on_state=seen, settings=fast(command_seconds=60)) as ann:
            await asyncio.to_thread(proxy.wait_routes, 2)
            await asyncio.to_thread(proxy.refuse)
            await until(lambda: ann.state.kind is StateKind.RECONNECTING, "the loss is noticed")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ann.send("ann", "not now"), 0.1)
            await asyncio.to_thread(proxy.allow)
            await ann.send("ann", "now")
            assert await take(ann, 1) == ["now"]

    aio(main)
