"""What is `AsyncClient`'s own: one event loop, many tasks, callbacks that are coroutines.

The behaviour that it has in common with `Client` is tested over both, in ``test_client*.py``.
"""

import asyncio
import contextlib
import inspect
import logging
import socket
import sys
import time

import pytest
from aio_kit import again, aio, take, until, user
from client_kit import FAST, States, fast, inbox_of, watcher_of
from listening import socket_path
from named import look_up_with
from servers import HELLO, ScriptedServer, Site
from services import PASSWORD

from twinline.core import errors
from twinline.core.protocol import Done, Hello, Message
from twinline.transports.client import (
    AsyncClient,
    Client,
    ClientBusy,
    ClientClosed,
    State,
    StateKind,
)
from twinline.transports.client.engine import watcher as watcher_module
from twinline.transports.endpoints import EndpointError

PUBLIC = {name for name in dir(Client) if not name.startswith("_")}


# -- the same names ---------------------------------------------------------------------------


def test_it_has_the_names_of_the_synchronous_client() -> None:
    assert {name for name in dir(AsyncClient) if not name.startswith("_")} == PUBLIC


@pytest.mark.parametrize("name", ["__init__", *sorted(PUBLIC)])
def test_a_method_takes_what_the_synchronous_one_takes(name: str) -> None:
    ours, theirs = getattr(AsyncClient, name), getattr(Client, name)
    if isinstance(ours, property):
        assert ours is theirs
        return
    taken = [
        [(one.name, one.kind, one.default) for one in inspect.signature(method).parameters.values()]
        for method in (ours, theirs)
    ]
    assert taken[0] == taken[1]


# -- commands of many tasks -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jsonl", "binary"])
@pytest.mark.parametrize("wire", ["tcp", "unix"])
def test_many_tasks_share_a_client(name: str, wire: str) -> None:
    async def main(endpoint: object) -> None:
        async with user(endpoint, transport=name) as ann, user(endpoint, "bob") as bob:

            async def send(number: int) -> None:
                for step in range(5):
                    await ann.send("bob", f"{number}:{step}")

            await asyncio.gather(*(send(number) for number in range(20)))
            got = await take(bob, 100)
            assert len(got) == len(set(got)) == 100
            for number in range(20):
                own = [body for body in got if body.startswith(f"{number}:")]
                assert own == [f"{number}:{step}" for step in range(5)]

    with (
        socket_path() as path,
        Site(f"unix:{path}" if wire == "unix" else "tcp://127.0.0.1:0") as s,
    ):
        aio(lambda: main(s.endpoint))


def test_commands_are_carried_out_one_after_another_in_the_order_of_their_calls() -> None:
    async def main() -> None:
        with ScriptedServer() as server:
            server.script = lambda request: HELLO if isinstance(request, Hello) else Done()
            async with AsyncClient(server.endpoint, settings=FAST) as client:
                done: list[int] = []

                async def ping(number: int) -> None:
                    await client.ping()
                    done.append(number)

                await asyncio.gather(*(ping(number) for number in range(10)))
            assert done == list(range(10))
            assert server.connections == 1

    aio(main)


def test_all_pages_of_accounts_and_deletions(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with user(site.endpoint, "ann") as ann, user(site.endpoint, "ann2"):
            async with user(site.endpoint, "ann3"):
                answer = ann.list_accounts
                monkeypatch.setattr(
                    ann, "list_accounts", lambda pattern, after=None: answer(pattern, after, 1)
                )
                assert [name async for name in ann.accounts("a*")] == ["ann", "ann2", "ann3"]
            assert await ann.delete_messages(range(1, 2500)) == 0
            assert await ann.delete_messages([]) == 0

    aio(main)


def test_a_server_that_says_too_much_is_not_listened_to_for_ever() -> None:
    async def main() -> None:
        with ScriptedServer() as server:
            flood = b'{"id":2,"ok":true}\n' + b" " * 8_000_000
            server.script = lambda request: HELLO if isinstance(request, Hello) else flood
            async with AsyncClient(server.endpoint, settings=FAST) as client:
                await client.ping()
                connection = client._engine._commands._connection
                await until(lambda: not connection._channel.is_reading(), "it stops reading")
                assert len(connection._arrived) < 1_000_000
                await client.ping()
                assert server.connections == 2

    aio(main)


# -- one event loop -----------------------------------------------------------------------------


def test_another_event_loop_is_refused(site: Site) -> None:
    client = AsyncClient(site.endpoint, settings=FAST)

    async def use_and_close() -> None:
        await client.connect()
        await client.close()

    asyncio.run(use_and_close())

    async def use_again() -> None:
        for call in (client.ping, client.close, client.connect, client.logout):
            with pytest.raises(ClientBusy, match="another event loop"):
                await call()
        with pytest.raises(ClientBusy, match="another event loop"):
            await anext(client.messages())

    asyncio.run(use_again())


def test_an_unknown_scheme_is_refused_as_by_the_synchronous_client() -> None:
    with pytest.raises(EndpointError, match="wss://host:port or unix:/path"):
        AsyncClient("udp://127.0.0.1:1", settings=FAST)


def test_the_loop_is_never_held_up(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A name is looked up for long, a server is silent, mail comes: the loop goes on."""

    def slowly(_host, port, **options):
        time.sleep(0.6)
        return socket.getaddrinfo("127.0.0.1", port, **options)

    named = f"tcp://slow.example:{site.endpoint.port}"

    async def main() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0.3
        async with AsyncClient(named, settings=FAST) as ann, user(site.endpoint, "bob") as bob:
            look_up_with(ann, slowly)
            await ann.create_account("ann", PASSWORD)
            await asyncio.gather(*(bob.send("ann", f"m{number}") for number in range(50)))
            assert len(await take(ann, 50)) == 50

    with caplog.at_level(logging.WARNING, "asyncio"):
        aio(main)
    assert "took" not in caplog.text


def test_a_host_that_is_unknown_is_a_failed_attempt() -> None:
    async def main() -> None:
        async with AsyncClient("tcp://no.such.host.invalid:1", settings=FAST) as client:
            with pytest.raises(Exception, match="not reachable in time"):
                await client.connect(0.5)

    aio(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are begun eagerly since 3.12")
def test_tasks_that_are_begun_eagerly(site: Site) -> None:
    seen = States()
    got = []

    async def on_state(state: State) -> None:
        seen(state)

    async def on_message(message: Message) -> None:
        got.append(message.body)

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with user(site.endpoint, on_state=on_state, on_message=on_message) as ann:
            await asyncio.gather(*(ann.send("ann", f"m{number}") for number in range(10)))
            await until(lambda: len(got) == 10, "ten messages")

    aio(main)
    assert got == [f"m{number}" for number in range(10)]
    assert seen.kinds == [StateKind.LOGGED_OUT, StateKind.ONLINE, StateKind.CLOSED]


# -- on_message ----------------------------------------------------------------------------


def test_a_message_is_acked_when_its_coroutine_has_ended(site: Site) -> None:
    async def main() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def on_message(_: Message) -> None:
            begun.set()
            await go_on.wait()

        async with user(site.endpoint, on_message=on_message) as ann:
            await ann.send("ann", "m1")
            await begun.wait()
            assert (await ann.status()).position == 0
            go_on.set()

            async def acked() -> bool:
                return (await ann.status()).position == 1

            await until(acked, "the ack")

    aio(main)


def test_a_coroutine_that_fails_gets_its_message_again(site: Site) -> None:
    attempts: list[str] = []
    failures: list[tuple[str, str]] = []

    async def on_message(message: Message) -> None:
        await asyncio.sleep(0)
        attempts.append(message.body)
        if len(attempts) == 2:
            raise ValueError("no")
        if len(attempts) == 3:
            raise asyncio.CancelledError  # of something that it has awaited
        if len(attempts) == 4:
            raise StopIteration

    async def on_handler_error(message: Message, error: Exception) -> None:
        await asyncio.sleep(0)
        failures.append((message.body, type(error).__name__))

    async def main() -> None:
        async with user(
            site.endpoint, on_message=on_message, on_handler_error=on_handler_error
        ) as ann:
            for number in (1, 2, 3):
                await ann.send("ann", f"m{number}")
            await until(lambda: attempts[-1:] == ["m3"], "the last message")

    aio(main)
    assert attempts == ["m1", "m2", "m2", "m2", "m2", "m3"]
    assert failures == [("m2", "ValueError"), ("m2", "ClientError"), ("m2", "RuntimeError")]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_coroutine_may_log_out_and_its_message_stays(site: Site, wrapped: bool) -> None:
    """Within a task of the callback's own, too: before 3.12 `asyncio.wait_for` makes one."""
    out = []

    async def main() -> None:
        async def on_message(_: Message) -> None:
            leaving = ann.logout()
            begin = time.monotonic()
            await (asyncio.create_task(leaving) if wrapped else leaving)
            out.append(time.monotonic() - begin)

        async with user(site.endpoint, on_message=on_message) as ann:
            await ann.send("ann", "m1")
            await until(lambda: out, "the logout")
        assert out[0] < 1  # it has not waited for itself
        async with again(site.endpoint) as ann:
            assert await take(ann, 1) == ["m1"]

    aio(main)


def test_a_task_that_outlives_its_callback_is_not_within_it(site: Site) -> None:
    """So its logout acks what was dealt with, as any other's does."""
    background: list[asyncio.Task] = []
    within: list[bool] = []

    async def main() -> None:
        returned = asyncio.Event()

        async def on_message(_: Message) -> None:
            async def later() -> None:
                within.append(watcher_of(ann).is_here)
                await returned.wait()
                within.append(watcher_of(ann).is_here)
                await ann.logout()

            background.append(asyncio.create_task(later()))
            await asyncio.sleep(0)

        async with user(site.endpoint, on_message=on_message) as ann:
            await ann.send("ann", "m1")
            inbox = inbox_of(ann)
            await until(lambda: within and inbox.is_empty(), "the callback")
            returned.set()
            await background[0]
        async with again(site.endpoint) as ann:
            assert (await ann.status()).unread == 0

    aio(main)
    assert within == [True, False]


def test_a_coroutine_may_close_and_its_message_is_acked(site: Site) -> None:
    closed = []

    async def main() -> None:
        async def on_message(message: Message) -> None:
            await ann.close()
            closed.append(message.body)

        async with user(site.endpoint, on_message=on_message) as ann:
            await ann.send("ann", "m1")
            await until(lambda: closed, "the callback closes")
            worker = watcher_of(ann)._worker
            await until(worker._task.done, "the watcher ends")
        async with again(site.endpoint) as ann:
            assert (await ann.status()).unread == 0

    aio(main)


def test_a_coroutine_that_does_not_return_is_cancelled_by_close(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher_module, "FLUSH_SECONDS", 0.05)
    ended: list[str] = []

    async def main() -> None:
        begun = asyncio.Event()

        async def on_message(message: Message) -> None:
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(message.body)

        async with user(site.endpoint, on_message=on_message) as ann:
            await ann.send("ann", "m1")
            await begun.wait()
            begun.clear()
            await ann.logout()  # leaves the callback to itself
            assert not ended
            await ann.login("ann", PASSWORD)  # its watcher waits for the callback
            token = ann.token
        assert ended == ["m1"]
        assert ann.token == token
        async with again(site.endpoint) as ann:
            assert await take(ann, 1) == ["m1"]

    aio(main)


def test_a_client_that_had_to_cancel_its_callback_still_knows_its_token(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher_module, "FLUSH_SECONDS", 0.05)

    async def main() -> None:
        begun = asyncio.Event()

        async def on_message(_: Message) -> None:
            begun.set()
            await asyncio.sleep(60)

        async with user(site.endpoint, on_message=on_message) as ann:
            await ann.send("ann", "m1")
            await begun.wait()
        assert ann.token is not None
        async with AsyncClient(site.endpoint, settings=FAST) as other:
            await other.resume(ann.token)
            assert await take(other, 1) == ["m1"]

    aio(main)


# -- on_state ------------------------------------------------------------------------------


def test_states_are_reported_to_a_coroutine_one_after_another(site: Site) -> None:
    seen = States()
    running: list[State] = []

    async def on_state(state: State) -> None:
        assert not running
        running.append(state)
        await asyncio.sleep(0.01)
        running.remove(state)
        seen(state)
        if state.kind is StateKind.ONLINE:
            raise ValueError("the next one is reported all the same")

    async def main() -> None:
        async with user(site.endpoint, on_state=on_state) as ann:
            await ann.logout()
            await ann.login("ann", PASSWORD)

    aio(main)
    kind = StateKind
    assert seen.kinds == [
        kind.LOGGED_OUT, kind.ONLINE, kind.LOGGED_OUT, kind.ONLINE, kind.CLOSED
    ]  # fmt: skip


def test_on_state_may_close_but_not_ask(site: Site) -> None:
    seen = States()
    refused: list[Exception] = []

    async def main() -> None:
        async def on_state(state: State) -> None:
            seen(state)
            if state.kind is StateKind.ONLINE:
                for call in (client.ping, client.connect, client.logout):
                    with pytest.raises(ClientBusy) as error:
                        await call()
                    refused.append(error.value)
                await client.close()

        client = AsyncClient(site.endpoint, settings=FAST, on_state=on_state)
        await client.create_account("ann", PASSWORD)
        await until(lambda: seen.kinds[-1] is StateKind.CLOSED, "the last state")
        with pytest.raises(ClientClosed):
            await client.ping()
        await client.close()

    aio(main)
    assert len(refused) == 3
    assert seen.kinds == [StateKind.LOGGED_OUT, StateKind.ONLINE, StateKind.CLOSED]


def test_a_plain_on_state_may_start_a_task_that_closes(site: Site) -> None:
    tasks: list[asyncio.Task] = []

    async def main() -> None:
        def on_state(state: State) -> None:
            if state.kind is StateKind.ONLINE:
                tasks.append(asyncio.create_task(client.close()))

        client = AsyncClient(site.endpoint, settings=fast(), on_state=on_state)
        await client.create_account("ann", PASSWORD)
        await tasks[0]
        assert client.state.kind is StateKind.CLOSED

    aio(main)


def test_an_on_state_that_does_not_return_is_cancelled_by_close(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinline.transports.client.engine.engine._CLOSE_SECONDS", 0.05)
    seen = States()

    async def on_state(state: State) -> None:
        seen(state)
        await asyncio.sleep(60)

    async def main() -> None:
        async with AsyncClient(site.endpoint, settings=FAST, on_state=on_state) as client:
            await client.connect()
        with pytest.raises(errors.TwinlineError):
            await client.ping()

    aio(main)
    assert seen.kinds == [StateKind.LOGGED_OUT, StateKind.CLOSED]


def test_a_plain_on_state_that_raises_misses_no_later_state(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    seen = States()

    def on_state(state: State) -> None:
        seen(state)
        raise ValueError("no")

    async def main() -> None:
        async with user(site.endpoint, on_state=on_state):
            pass

    aio(main)
    assert seen.kinds == [StateKind.LOGGED_OUT, StateKind.ONLINE, StateKind.CLOSED]
    assert caplog.text.count("on_state raised") == 3


def test_an_on_state_that_cannot_be_cancelled_does_not_hold_close_up(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinline.transports.client.engine.engine._CLOSE_SECONDS", 0.05)
    seen = States()

    async def main() -> None:
        go_on = asyncio.Event()

        async def on_state(state: State) -> None:
            seen(state)
            while not go_on.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await go_on.wait()

        async with AsyncClient(site.endpoint, settings=FAST, on_state=on_state) as client:
            await client.connect()
        assert seen.kinds == [StateKind.LOGGED_OUT]
        go_on.set()
        report = client._engine._report
        await until(lambda: len(seen.kinds) == 2 and report._task is None, "the last state")

    aio(main)
    assert seen.kinds == [StateKind.LOGGED_OUT, StateKind.CLOSED]
