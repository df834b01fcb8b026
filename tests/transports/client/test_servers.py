"""Clients of several servers with one state: they move, and nothing is lost or comes twice."""

import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic

import pytest
from client_kit import (
    FAST,
    Received,
    States,
    again,
    fast,
    make_client,
    receive,
    user,
    watcher_of,
    watches,
)
from fault_proxy import Fault, FaultProxy
from listening import TCP, WS, Server
from over import Over
from servers import HANG_UP, HELLO, SILENCE, Answer, ScriptedServer
from services import PASSWORD, make_service
from waiting import join, wait_until

from twinline.core.errors import Busy, ShuttingDown, StoreUnavailable
from twinline.core.protocol import (
    Done,
    Hello,
    Login,
    Ping,
    Request,
    Resume,
    SessionReply,
    Watch,
    WatchReply,
)
from twinline.transports.client import NotConnected, StateKind, WatchMode
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener import ListenerSettings

pytestmark = pytest.mark.usefixtures("both_clients")

IN_ORDER = fast(shuffle=False)


class Nodes:
    """Two servers with one state, each behind a proxy that can refuse as one that was killed.

    Attributes:
        servers: the listeners.
        proxies: before them.
        endpoints: of the proxies.
    """

    def __init__(self, spoken: str | None = None, place: str = TCP) -> None:
        service = make_service()
        settings = ListenerSettings.model_validate(Over.settings)
        places = [(Over.place(place), "auto")]
        self.servers = [Server(places, service, settings) for _ in range(2)]
        self.proxies = [FaultProxy(server.endpoints[0]) for server in self.servers]
        self.endpoints = [replace(proxy.endpoint, transport=spoken) for proxy in self.proxies]

    def close(self) -> None:
        for proxy in self.proxies:
            proxy.close()
        for server in self.servers:
            server.stop()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    running = Nodes()
    yield running
    running.close()


@pytest.mark.parametrize(
    ("spoken", "place"), [("jsonl", TCP), ("binary", TCP), ("binary", WS)], ids=str
)
def test_a_client_moves_on_when_its_server_dies_and_nothing_is_lost_or_twice(
    spoken: str, place: str
) -> None:
    nodes = Nodes(spoken, place)
    received, states = Received(), States()
    try:
        with (
            user(nodes.endpoints, "ann", settings=IN_ORDER, on_message=received, on_state=states),
            user(nodes.endpoints[::-1], "bob", settings=IN_ORDER) as bob,
        ):
            assert str(states.wait(StateKind.ONLINE).endpoint) == str(nodes.endpoints[0])
            expected = []
            for died in (0, 1):
                nodes.proxies[1 - died].wait_routes(1)
                for number in range(20):
                    if number == 10:
                        nodes.proxies[died].refuse()
                    expected.append(f"{died}.{number}")
                    bob.send("ann", expected[-1])
                assert received.wait(len(expected)) == expected
                assert str(bob.endpoint) == str(nodes.endpoints[1 - died])
                nodes.proxies[died].allow()
            wait_until(lambda: states.seen[-1].kind is StateKind.ONLINE, "online again")
            assert str(states.seen[-1].endpoint) == str(nodes.endpoints[0])
            assert received.bodies == expected
    finally:
        nodes.close()


def test_a_send_in_flight_when_a_server_dies_arrives_once_by_another(nodes: Nodes) -> None:
    with user(nodes.endpoints, "ann", settings=IN_ORDER, watch=WatchMode.OFF) as ann:
        route = nodes.proxies[0].routes[0]
        nodes.proxies[0].on_route = lambda route: route.cut()  # as one that is there no more
        route.down.fault = Fault(cut_after=route.down.passed + 3)  # it arrives; the reply does not
        ann.send("ann", "once")
        assert str(ann.endpoint) == str(nodes.endpoints[1])
        assert ann.status().unread == 1


def test_a_server_that_answers_no_more_is_left(nodes: Nodes) -> None:
    settings = fast(shuffle=False, reply_seconds=0.4, wait_seconds=0.4)
    with user(nodes.endpoints, "ann", settings=settings) as ann:
        for route in (nodes.proxies[0].wait_routes(1), nodes.proxies[0].wait_routes(2)):
            route.down.fault = Fault(blackhole=True)
        nodes.proxies[0].down = Fault(blackhole=True)
        ann.send("ann", "once")
        assert receive(ann, 1) == ["once"]
        assert str(ann.endpoint) == str(nodes.endpoints[1])
        assert len(nodes.proxies[0].routes) == 2  # it was not tried again


def test_the_two_connections_may_lead_to_different_servers(nodes: Nodes) -> None:
    received = Received()
    with user(nodes.endpoints, "ann", settings=IN_ORDER, on_message=received) as ann:
        nodes.proxies[0].wait_routes(2)
        wait_until(lambda: watches(ann), "the stream is open")
        nodes.proxies[0].on_route = lambda route: route.cut()
        nodes.proxies[0].routes[0].cut()  # the commands'
        ann.send("ann", "across")
        assert received.wait(1) == ["across"]
        connection = watcher_of(ann)._connection
        assert connection is not None
        assert str(connection.server.endpoint) == str(nodes.endpoints[0])
        assert str(ann.endpoint) == str(ann.state.endpoint) == str(nodes.endpoints[1])


def test_a_server_that_is_left_is_tried_again_later(nodes: Nodes) -> None:
    nodes.proxies[0].refuse()
    with user(nodes.endpoints, "ann", settings=IN_ORDER, watch=WatchMode.OFF) as ann:
        assert str(ann.endpoint) == str(nodes.endpoints[1])
        nodes.proxies[0].allow()
        ann.send("ann", "m1")
        assert str(ann.endpoint) == str(nodes.endpoints[1])  # what works is kept
        nodes.proxies[1].refuse()
        ann.send("ann", "m2")
        assert str(ann.endpoint) == str(nodes.endpoints[0])
        assert ann.status().unread == 2
        nodes.proxies[1].allow()


def test_where_no_server_is_there_each_is_named_with_its_reason(nodes: Nodes) -> None:
    silent = ScriptedServer(lambda _: SILENCE)
    nodes.proxies[0].refuse()
    nodes.proxies[1].refuse()
    endpoints = [*nodes.endpoints, silent.endpoint]
    settings = fast(reply_seconds=0.1)
    with make_client(endpoints, settings=settings) as client, pytest.raises(NotConnected) as raised:
        client.connect(1.5)
    text = str(raised.value)
    assert text.startswith("no server was reachable in time, nothing was sent: ")
    assert text.count("Connection refused") == 1
    assert all(f"{endpoint.place}" in text for endpoint in nodes.endpoints)
    assert f"{silent.endpoint}: the server did not answer in time" in text
    nodes.proxies[0].allow()
    nodes.proxies[1].allow()
    silent.close()


# -- what a server says when it sends its clients away ----------------------------------


SESSION = SessionReply(username="ann", session="t" * 20, position=0, unread=0)


class Told:
    """A server that a client can log in to, and what it says instead of some answers.

    Attributes:
        watch, resume, ping: the answers; None for what a good server says.
        at: when connections have come.
    """

    def __init__(self, node: str | None = None) -> None:
        self.watch: Answer = None
        self.resume: Answer = None
        self.ping: Answer = None
        self.at: list[float] = []
        self._hello = HELLO.model_copy(update={"node": node})
        self.server = ScriptedServer(self._answer)

    @property
    def endpoint(self) -> Endpoint:
        return self.server.endpoint

    def _answer(self, request: Request) -> Answer:
        match request:
            case Hello():
                self.at.append(monotonic())
                return self._hello
            case Login():
                return SESSION
            case Resume():
                return SESSION if self.resume is None else self.resume
            case Ping():
                return Done() if self.ping is None else self.ping
            case Watch(window=0):
                return (
                    WatchReply(messages=(), position=0, seen=0)
                    if self.watch is None
                    else self.watch
                )
        return SILENCE


@pytest.fixture
def told() -> Iterator[list[Told]]:
    servers = [Told("a"), Told("b")]
    yield servers
    for each in servers:
        each.server.close()


@pytest.mark.parametrize("where", ["watch", "command"])
def test_both_connections_obey_a_server_that_sends_its_clients_away(
    told: list[Told], where: str
) -> None:
    first, second = told
    seconds = 0.4
    goodbye = ShuttingDown(
        retry_after_ms=round(1000 * seconds),
        endpoints=("tcp://b.example:1", str(second.endpoint)),
    ).to_reply()
    states = States()
    watch = WatchMode.STREAMING if where == "watch" else WatchMode.OFF
    # Only the first is known: it names the other one.
    with make_client(first.endpoint, settings=FAST, watch=watch, on_state=states) as ann:
        begin = monotonic()
        if where == "watch":
            first.watch = goodbye
            ann.login("ann", PASSWORD)
            wait_until(lambda: second.at, "the watcher goes there")
        else:
            ann.login("ann", PASSWORD)
            first.ping = goodbye
        ann.ping()
        assert (str(ann.endpoint), ann.node) == (str(second.endpoint), "b")
        assert second.at[0] - begin >= seconds
        moved = states.wait(StateKind.ONLINE, 2)
        assert (moved.endpoint, moved.node) == (second.endpoint, "b")


@pytest.mark.parametrize("refusal", [Busy(retry_after_ms=300), StoreUnavailable()])
def test_a_server_that_cannot_resume_now_is_left_for_another(
    told: list[Told], refusal: Busy | StoreUnavailable
) -> None:
    first, second = told
    endpoints = [first.endpoint, second.endpoint]
    with make_client(endpoints, settings=IN_ORDER, watch=WatchMode.OFF) as ann:
        first.resume = refusal.to_reply()
        ann.login("ann", PASSWORD)
        first.ping = HANG_UP
        begin = monotonic()
        ann.ping()
        assert ann.node == "b"
        assert second.at[0] - begin >= refusal.retry_after()


def test_each_client_begins_at_a_server_of_chance() -> None:
    told = [Told("a"), Told("b"), Told("c")]
    random.seed(7)
    nodes = []
    for _ in range(12):
        with make_client([each.endpoint for each in told], watch=WatchMode.OFF) as client:
            nodes.append(client.connect(10).node)
    assert set(nodes) == {"a", "b", "c"}
    for each in told:
        each.server.close()


# -- at random, slowly ------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spoken", ["jsonl", "binary"])
def test_servers_that_die_at_random_lose_nothing(spoken: str, seed: int) -> None:
    chance = random.Random(seed)
    nodes = Nodes(spoken)
    received = Received()
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(chance.uniform(0, 0.08)):
            proxy = chance.choice(nodes.proxies)
            match chance.randrange(4):
                case 0:
                    proxy.refuse()
                    ended.wait(chance.uniform(0, 0.1))
                    proxy.allow()
                case 1:
                    proxy.cut(reset=chance.random() < 0.5)
                case 2 if proxy.routes:
                    way = chance.choice(proxy.routes[-3:]).down
                    way.fault = Fault(cut_after=way.passed + chance.randrange(200))
                case _:
                    proxy.up = Fault(cut_after=chance.randrange(20, 400))
                    ended.wait(0.02)
                    proxy.up = Fault()

    try:
        settings = fast(command_seconds=30)
        with (
            user(nodes.endpoints, "ann", settings=settings, on_message=received),
            user(nodes.endpoints, "bob", settings=settings) as bob,
        ):
            killing = threading.Thread(target=kill)
            killing.start()
            expected = [f"m{number}" for number in range(600)]
            for body in expected:
                bob.send("ann", body)
                ended.wait(chance.uniform(0, 0.006))
            ended.set()
            join(killing)
            assert received.wait(len(expected)) == expected
        with again(nodes.endpoints, "ann", settings=settings) as ann:
            page = ann.history(limit=1000)
            assert [message.body for message in page.messages] == expected
    finally:
        ended.set()
        nodes.close()
