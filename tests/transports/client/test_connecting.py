"""How a client finds its server: by a name, and past addresses that are no good."""

import threading
import time

import pytest
from client_kit import States, fast, make_client
from descriptors import descriptors, nothing_left_open
from named import NAME, StuckLookup, look_up_with, mute, naming, swallowing
from servers import Site
from services import PASSWORD
from waiting import Call, wait_until

from twinline.transports.client import ClientClosed, NotConnected, StateKind
from twinline.transports.resolver import THREAD_NAME

pytestmark = pytest.mark.usefixtures("both_clients")


def named(site: Site) -> str:
    return f"tcp://{NAME}:{site.endpoint.port}"


def lookups() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def test_a_name_whose_first_address_swallows_packets(site: Site) -> None:
    """The first attempt reaches the second address, and so does the watch connection's."""
    seen = States()
    with (
        swallowing(site.endpoint.port),
        make_client(named(site), on_state=seen, settings=fast(connect_seconds=3)) as client,
    ):
        look_up_with(client, naming("127.0.0.2", "127.0.0.1"))
        client.create_account("ann", PASSWORD)
        client.send("ann", "hello")
        assert next(iter(client.messages(5))).body == "hello"
    assert seen.kinds == [StateKind.LOGGED_OUT, StateKind.ONLINE, StateKind.CLOSED]


def test_an_attempt_that_is_short_reaches_the_second_address_too(site: Site) -> None:
    with (
        swallowing(site.endpoint.port),
        make_client(named(site), settings=fast(connect_seconds=0.2)) as client,
    ):
        look_up_with(client, naming("127.0.0.2", "127.0.0.1"))
        client.connect(10)


def test_a_name_with_an_address_that_answers_nothing(site: Site) -> None:
    """It connects, so it wins the race; but not twice."""
    settings = fast(reply_seconds=0.2)
    with mute(site.endpoint.port) as taken, make_client(named(site), settings=settings) as client:
        look_up_with(client, naming("127.0.0.2", "127.0.0.1"))
        client.create_account("ann", PASSWORD)
        client.send("ann", "hello")
        assert next(iter(client.messages(5))).body == "hello"
        assert taken() == 1


def test_a_lookup_that_does_not_end_costs_one_thread_however_many_attempts(site: Site) -> None:
    settings = fast(connect_seconds=0.05)
    stuck = StuckLookup(naming("127.0.0.1"))
    seen = States()
    with make_client(named(site), on_state=seen, settings=settings) as client:
        look_up_with(client, stuck)
        try:
            with pytest.raises(NotConnected, match="took too long"):
                client.connect(0.5)
            assert seen.kinds.count(StateKind.CONNECTING) > 1  # there were several attempts
            assert stuck.calls == 1
            assert len(lookups()) == 1
        finally:
            stuck.go_on.set()
        client.connect(10)
        assert stuck.calls <= 2


def test_closing_ends_a_wait_for_a_lookup(site: Site) -> None:
    stuck = StuckLookup(naming("127.0.0.1"))
    client = make_client(named(site), settings=fast(connect_seconds=60, command_seconds=60))
    look_up_with(client, stuck)
    try:
        connecting = Call(client.connect)
        wait_until(lambda: stuck.calls, "a lookup")
        begin = time.monotonic()
        client.close()
        with pytest.raises(ClientClosed):
            connecting.outcome()
        assert time.monotonic() - begin < 10
    finally:
        stuck.go_on.set()


def test_closing_ends_a_race() -> None:
    settings = fast(connect_seconds=60, command_seconds=60)
    with swallowing() as port, nothing_left_open():
        before = descriptors()
        client = make_client(f"tcp://127.0.0.2:{port}", settings=settings)
        connecting = Call(client.connect)
        wait_until(lambda: len(descriptors()) > len(before), "an attempt")
        client.close()
        with pytest.raises(ClientClosed):
            connecting.outcome()
