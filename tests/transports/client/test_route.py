"""Which server a client goes to next, without a socket."""

import random

import pytest
from client_kit import FAST, fast

from twinline.core.errors import Busy, ShuttingDown
from twinline.core.protocol import MAIL_ALONE, HelloReply
from twinline.core.settings import ServiceSettings
from twinline.transports.client import State, StateKind, WatchMode
from twinline.transports.client.engine import route as route_module
from twinline.transports.client.engine.link import Link
from twinline.transports.client.engine.route import MOST_NAMED, Route, believed
from twinline.transports.client.options import ClientOptions, Server
from twinline.transports.client.settings import ClientSettings
from twinline.transports.client.state import StateReport

A, B, C = (f"tcp://127.0.0.1:{port}" for port in (1, 2, 3))


def options(*endpoints: str, settings: ClientSettings | None = None) -> ClientOptions:
    return ClientOptions.of(
        endpoints,
        None,
        settings or fast(shuffle=False),
        watch=WatchMode.OFF,
        kinds=MAIL_ALONE,
        resume=True,
        on_message=None,
        on_state=None,
        on_handler_error=None,
    )


def named(route: Route) -> str:
    return route.server.endpoint.place


def server(made: ClientOptions, endpoint: str) -> Server:
    return next(each for each in made.servers if each.endpoint.place == endpoint)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(route_module, "monotonic", clock)
    return clock


def test_a_round_goes_to_each_server_once() -> None:
    route = Route(options(A, B, C))
    went = [(named(route), route.failed(route.server, "refused")) for _ in range(7)]
    assert went == [
        *[(A, True), (B, True), (C, False)],
        *[(A, True), (B, True), (C, False)],
        (A, True),
    ]


def test_one_server_ends_the_round_each_time() -> None:
    route = Route(options(A))
    assert [route.failed(route.server, "refused") for _ in range(3)] == [False] * 3
    assert route.why == "refused"


def test_a_server_that_works_is_kept_and_the_next_round_begins_behind_it(clock: Clock) -> None:
    made = options(A, B, C)
    route = Route(made)
    route.failed(server(made, A), "refused")
    route.works(server(made, B))
    assert (named(route), route.why) == (B, "")
    clock.now += 2 * FAST.backoff_first
    assert [route.failed(route.server, "reset") for _ in range(3)] == [True, True, False]
    assert named(route) == B


def test_servers_that_take_turns_at_breaking_are_not_gone_to_in_a_circle(clock: Clock) -> None:
    route = Route(options(A, B))
    rounds_over = 0
    for _ in range(10):
        route.works(route.server)
        clock.now += FAST.backoff_first / 10
        rounds_over += not route.failed(route.server, "it hung up")
    assert rounds_over == 5


def test_two_connections_that_lose_one_server_go_on_once() -> None:
    made = options(A, B, C)
    route = Route(made)
    route.works(server(made, A))
    assert route.failed(server(made, A), "reset")
    assert route.failed(server(made, A), "reset")
    assert named(route) == B


def test_one_that_has_stopped_answering_is_tried_last() -> None:
    made = options(A, B)
    route = Route(made)
    route.works(server(made, A))
    route.avoid(server(made, A))
    assert named(route) == B
    assert not route.failed(server(made, B), "refused")
    assert named(route) == A


def test_clients_spread_over_the_servers() -> None:
    random.seed(1)
    made = options(A, B, C, settings=FAST)
    first = [named(Route(made)) for _ in range(300)]
    assert all(80 < first.count(each) < 120 for each in (A, B, C))
    moved = []
    for _ in range(300):
        route = Route(made)
        route.works(server(made, A))
        route.failed(server(made, A), "reset")
        moved.append(named(route))
    assert all(120 < moved.count(each) < 180 for each in (B, C))


def test_what_went_wrong_names_each_server_with_its_last_reason() -> None:
    made = options(A, B, C)
    route = Route(made)
    for endpoint, reason in ((A, "reset"), (B, "refused"), (C, "busy"), (A, "refused")):
        route.failed(server(made, endpoint), reason)
    assert route.why == f"{B}, {A}: refused; {C}: busy"


# -- servers that others name -----------------------------------------------------------


PLAIN, SEALED, LOCAL = "tcp://a.example:1", "tls://a.example:1", "tcp://127.0.0.1:1"
SOCKET, SEALED_HERE = "unix:/run/twinline.sock", "tls://localhost:1"


@pytest.mark.parametrize(
    ("here", "taken", "passed_over"),
    [
        (PLAIN, ["tcp://b.example:2", "ws://b.example:2", "tls://b.example:2"], [LOCAL, SOCKET]),
        (SEALED, ["tls://b.example:2", "wss://b.example:2"], ["tcp://b.example:2", LOCAL, SOCKET]),
        (SEALED, [], ["ws://b.example:2", SEALED_HERE, "wss://127.0.0.1"]),
        (LOCAL, ["tcp://127.0.0.1:2", SOCKET, "tls://b.example:2"], ["tcp://b.example:2"]),
        (SOCKET, ["unix:/run/other.sock", "ws://[::1]:9"], ["ws://b.example:2"]),
        (SEALED_HERE, ["tls://localhost:2", "tls://b.example:2"], [LOCAL, SOCKET, PLAIN]),
        (PLAIN, [], ["", "tcp://b.example:0", "nonsense", "tcp://b.example?proxy=yes"]),
        (PLAIN, [], ["tcp://b.example?transport=none", "tcp://a b", "x" * 5_000]),
    ],
)
def test_what_is_less_safe_than_now_is_passed_over(
    here: str, taken: list[str], passed_over: list[str]
) -> None:
    made = options(here)
    found = believed(made, [*passed_over, *taken], made.servers[0])
    assert [each.endpoint.place for each in found] == taken
    assert all((each.tls is not None) == each.endpoint.scheme.is_tls for each in found)


def test_only_a_few_are_taken_and_those_that_are_known_are_the_ones_known() -> None:
    made = options(A, f"{B}?transport=binary")
    many = [B, B, *(f"tcp://127.0.0.1:{port}" for port in range(10, 20))]
    found = believed(made, many, made.servers[0])
    assert found[0] is made.servers[1]
    assert len(found) == MOST_NAMED
    assert believed(made, ["nonsense"] * 100 + [B], made.servers[0]) == []  # nobody reads so far


def test_what_is_spoken_at_a_server_is_spoken_at_the_one_that_it_names() -> None:
    made = options(f"{A}?transport=binary")
    found = believed(made, [B, f"{C}?transport=jsonl", "ws://127.0.0.1:4"], made.servers[0])
    assert [each.transport.name for each in found] == ["binary", "jsonl", "websocket"]


def test_servers_that_are_named_come_first_and_the_configured_ones_stay() -> None:
    made = options(A, B)
    route = Route(made)
    route.works(server(made, A))
    [other] = believed(made, [C], server(made, A))
    assert route.failed(server(made, A), "stopping", [other])
    assert named(route) == C
    assert route.failed(other, "refused")
    assert named(route) == B
    assert not route.failed(server(made, B), "refused")
    assert named(route) == A
    # The name is forgotten with its first failure.
    assert route.failed(server(made, A), "refused")
    assert named(route) == B


# -- the pace ---------------------------------------------------------------------------


HELLO_B = HelloReply(protocol=1, server="x", node="b", limits=ServiceSettings().limits())


def link(*endpoints: str, **settings: object) -> tuple[Link, list[State]]:
    states: list[State] = []
    made = options(*endpoints, settings=fast(shuffle=False, backoff_first=4, **settings))
    return Link(made, StateReport(states.append), lambda _: None), states


def wait_of(link: Link) -> float:
    return link.next_attempt.remaining() or 0.0


def test_the_next_server_is_tried_at_once_and_the_wait_comes_when_all_have_failed() -> None:
    tried, states = link(A, B, backoff_max=60)
    waits = []
    for _ in range(4):
        tried.attempt_failed(None, tried.next_server, "refused")
        waits.append(round(wait_of(tried)))
        tried.next_attempt = type(tried.next_attempt)(0.0)  # it has passed
    assert waits == [0, 4, 0, 8]
    assert [state.retry_in for state in states] == [None, 4, None, 8]
    assert str(states[1]) == f"connecting in 4 s: {A}, {B}: refused"


@pytest.mark.parametrize("refusal", [Busy, ShuttingDown])
def test_no_server_is_tried_before_the_time_that_one_has_asked_for(
    refusal: type[Busy | ShuttingDown], monkeypatch: pytest.MonkeyPatch
) -> None:
    for chance, seconds in ((0.0, 30), (1.0, 32)):
        monkeypatch.setattr(random, "random", lambda chance=chance: chance)
        tried, _ = link(A, B, backoff_jitter=0.5)
        # Backoff takes its source when it is made.
        tried._backoff._uniform = random.random
        error = refusal(retry_after_ms=30_000)
        tried.attempt_failed(None, tried.next_server, error.message, error)
        assert wait_of(tried) == pytest.approx(seconds, abs=1)
        # The other connection's break does not cut it short, nor does a reply that was under way.
        tried.attempt_failed(None, tried.next_server, "reset")
        tried.proved(tried.next_server, 0)
        assert wait_of(tried) == pytest.approx(seconds, abs=1)
        tried.proved(tried.next_server, 2)
        assert wait_of(tried) == 0


def test_the_state_tells_which_server_it_is_about() -> None:
    tried, states = link(A, B)
    assert str(tried.state.endpoint) == A
    tried.attempt_failed(None, tried.next_server, "refused")
    tried.connected(HELLO_B, tried.next_server)
    told = [(state.kind, str(state.endpoint), state.node) for state in states]
    assert told == [(StateKind.CONNECTING, B, None), (StateKind.LOGGED_OUT, B, "b")]
