"""A client that a forked child inherits: what the child does, and that the parent goes on."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable

import pytest
from aio_kit import aio
from client_kit import FAST, user
from forking import Child
from servers import Site
from services import PASSWORD
from waiting import wait_until

from twinline.transports.client import AsyncClient, Client, ClientError, StateKind, WatchMode
from twinline.transports.client.backends.threads import SocketConnection
from twinline.transports.registry import transport

CHILDREN = 4
SENDS = 5


def connections() -> list[str]:
    """Return the threads of the server's connections."""
    return [each.name for each in threading.enumerate() if "connection" in each.name]


def bodies(site: Site) -> set[str]:
    with Client(site.endpoint, settings=FAST, watch=WatchMode.OFF) as bob:
        bob.login("bob", PASSWORD)
        return {message.body for message in bob.history(limit=1_000).messages}


@pytest.mark.parametrize("watch", [WatchMode.OFF, WatchMode.BLOCKING])
def test_what_children_and_parent_send_arrives_once_each(site: Site, watch: WatchMode) -> None:
    with user(site.endpoint, "bob", watch=WatchMode.OFF):
        pass
    with user(site.endpoint, "ann", watch=watch) as ann:

        def sends(name: str) -> Callable[[], None]:
            def send() -> None:
                ids = {ann.send("bob", f"{name}/{number}").message_id for number in range(SENDS)}
                assert len(ids) == SENDS
                assert ann.status().username == "ann"

            return send

        children = [Child(sends(f"child {number}")) for number in range(CHILDREN)]
        sends("parent")()
        for child in children:
            child.end()
        sends("parent again")()
    names = ["parent", "parent again", *(f"child {number}" for number in range(CHILDREN))]
    assert bodies(site) == {f"{name}/{number}" for name in names for number in range(SENDS)}


def test_the_mail_is_the_parents(site: Site) -> None:
    with user(site.endpoint, "ann") as ann:

        def look() -> None:
            with pytest.raises(ClientError, match="watched by the process that logged in"):
                next(iter(ann.messages(1)))
            token = ann.token
            assert token is not None
            with Client(ann.endpoint, settings=FAST) as mine:
                mine.resume(token)
                ann.send("ann", "to both")
                assert [message.body for message in mine.messages(0.5)] == ["to both"]
            ann.close()

        Child(look).end()
        assert [message.body for message in ann.messages(0.5)] == ["to both"]
        assert ann.state.kind is StateKind.ONLINE


def test_a_child_keeps_no_connection_of_its_parents_open(site: Site) -> None:
    reading, writing = os.pipe()
    with user(site.endpoint, "ann") as ann:
        wait_until(lambda: len(connections()) == 2, "two connections")
        child = Child(lambda: os.read(reading, 1))
        ann.close()
        wait_until(lambda: not connections(), "the server sees both end")
    os.write(writing, b"x")
    child.end()
    os.close(reading)
    os.close(writing)


def test_a_connection_that_is_closed_ends_though_a_child_has_a_copy_of_it() -> None:
    reading, writing = os.pipe()
    mine, peer = socket.socketpair()
    with peer:
        connection = SocketConnection(mine, transport("jsonl"))  # of no client that a fork tells
        child = Child(lambda: os.read(reading, 1))
        connection.close()
        peer.settimeout(10)
        assert peer.recv(1) == b""
    os.write(writing, b"x")
    child.end()
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("closed", [True, False])
def test_a_client_that_is_closed_or_new_is_so_in_the_child(site: Site, closed: bool) -> None:
    client = Client(site.endpoint, settings=FAST)
    if closed:
        client.close()

    def look() -> None:
        if closed:
            assert client.state.kind is StateKind.CLOSED
            with pytest.raises(ClientError, match="closed"):
                client.ping()
        else:
            client.ping()

    Child(look).end()
    client.close()


def test_without_resume_a_child_is_logged_out(site: Site) -> None:
    with user(site.endpoint, "ann", resume=False) as ann:

        def look() -> None:
            assert ann.username is None
            ann.login("ann", PASSWORD)
            ann.send("ann", "mine")

        Child(look).end()
        assert ann.status().unread == 1


def test_an_asyncio_client_is_used_in_the_childs_own_loop(site: Site) -> None:
    async def main() -> None:
        async with AsyncClient(site.endpoint, settings=FAST) as ann:
            await ann.create_account("ann", PASSWORD)
            await ann.send("ann", "before")

            async def in_child() -> None:
                await ann.send("ann", "child")
                await ann.close()

            def run() -> None:
                asyncio.events._set_running_loop(None)  # what 3.12 does by itself
                asyncio.run(in_child())

            child = Child(run)
            await ann.send("ann", "parent")
            await asyncio.to_thread(child.end)
            await ann.send("ann", "after")
            seen = {message.body async for message in ann.messages(0.5)}
            assert seen == {"before", "child", "parent", "after"}

    aio(main)
