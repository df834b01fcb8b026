"""Listening: every address of a name under one port, and the file of a Unix socket."""

import errno
import fcntl
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from listening import TCP, Peer, make_listener, serving, socket_path
from waiting import Call

from twinline.transports.endpoints import Endpoint, EndpointError
from twinline.transports.listener import binding
from twinline.transports.listener.binding import listen, reserve

over_each = pytest.mark.usefixtures("each_listener")
needs_ipv6 = pytest.mark.skipif(
    not socket.has_dualstack_ipv6(), reason="this system has no socket for both families"
)


@over_each
def test_a_port_in_use() -> None:
    with serving() as server:
        taken = server.endpoints[0]
        with pytest.raises(EndpointError, match=r"cannot listen on tcp://127\.0\.0\.1:\d+: Addr"):
            make_listener(endpoints=[(TCP, "auto"), (str(taken), "auto")])


@over_each
def test_a_left_over_socket_file_is_replaced_and_a_live_one_is_not() -> None:
    with socket_path() as path:
        with socket.socket(socket.AF_UNIX) as left_over:
            left_over.bind(path)
        with serving([(f"unix:{path}", "auto")]) as server, server.peer() as peer:
            assert peer.ask("ping")["ok"]
            with pytest.raises(EndpointError, match="in use"):
                listen(Endpoint.parse(f"unix:{path}"))
        Path(path).write_text("an ordinary file")
        with pytest.raises(EndpointError, match="in use"):
            listen(Endpoint.parse(f"unix:{path}"))
        assert Path(path).read_text() == "an ordinary file"


# -- every address of a name ----------------------------------------------------------------

Resolve = Callable[..., None]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Let every name have these addresses."""

    def set_to(*addresses: str) -> None:
        def found(_host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
            return [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (each, port, 0, 0))
                if ":" in each
                else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
                for each in addresses
            ]

        monkeypatch.setattr(socket, "getaddrinfo", found)

    return set_to


@over_each
@needs_ipv6
def test_every_address_of_a_name_under_one_port(
    resolve: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve("127.0.0.1", "::1", "127.0.0.1")
    with serving([("tcp://localhost:0", "auto")]) as server:
        monkeypatch.undo()
        (endpoint,) = server.endpoints
        assert endpoint.host == "localhost"
        for host in ("127.0.0.1", "[::1]"):
            with Peer(Endpoint.parse(f"tcp://{host}:{endpoint.port}")) as peer:
                assert peer.ask("ping")["ok"]


@needs_ipv6
def test_a_port_that_is_free_on_one_family_only_is_in_use(resolve: Resolve) -> None:
    resolve("127.0.0.1", "::1")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EndpointError, match=rf"tcp://localhost:{port}: .* in use \(::1\)"):
            listen(Endpoint.parse(f"tcp://localhost:{port}"))
        # And what was bound before the other failed is free again.
        socket.create_server(("127.0.0.1", port)).close()


@needs_ipv6
def test_a_port_that_the_system_chose_and_that_another_family_has_is_chosen_anew(
    resolve: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve("127.0.0.1", "::1")
    bind, taken = binding._bind, []

    def meddling(family: int, address: tuple[Any, ...], **options: bool) -> socket.socket:
        if family == socket.AF_INET6 and len(taken) < 3:
            taken.append(socket.create_server(address[:2], family=family))
        return bind(family, address, **options)

    monkeypatch.setattr(binding, "_bind", meddling)
    try:
        with closing(listen(Endpoint.parse("tcp://localhost:0"))) as bound:
            ports = {each.getsockname()[1] for each in bound.sockets}
            assert len(bound.sockets) == 2
            assert ports == {bound.endpoint.port}
            assert not ports & {each.getsockname()[1] for each in taken}
        assert len(taken) == 3
    finally:
        for each in taken:
            each.close()


def test_an_address_that_this_machine_has_not_is_left_out(
    resolve: Resolve, caplog: pytest.LogCaptureFixture
) -> None:
    """As ::1 where IPv6 is off, which a file of hosts may name all the same."""
    resolve("192.0.2.1", "127.0.0.1")
    with closing(listen(Endpoint.parse("tcp://some.name:0"))) as bound:
        assert [each.getsockname()[0] for each in bound.sockets] == ["127.0.0.1"]
    assert "cannot listen on 192.0.2.1 of tcp://some.name:0" in caplog.text
    resolve("192.0.2.1")
    with pytest.raises(EndpointError, match="Cannot assign requested address"):
        listen(Endpoint.parse("tcp://some.name:0"))


def test_a_localhost_that_others_can_reach_is_refused(resolve: Resolve) -> None:
    """What is allowed there in plain TCP is not meant for them."""
    resolve("127.0.0.1", "0.0.0.0")
    with pytest.raises(EndpointError, match=r"here localhost is 0\.0\.0\.0"):
        listen(Endpoint.parse("tcp://localhost:0"))


# -- the file of a Unix socket --------------------------------------------------------------


@pytest.fixture
def left_over() -> Iterator[str]:
    """Yield the path of a socket that nobody listens on."""
    with socket_path() as path:
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(path)
        yield path


@over_each
def test_a_server_that_stops_leaves_the_socket_of_its_successor(left_over: str) -> None:
    endpoint = Endpoint.parse(f"unix:{left_over}")
    with serving([(str(endpoint), "auto")]) as old:
        Path(left_over).unlink()  # as an operator does who thinks that it is gone
        with serving([(str(endpoint), "auto")]) as new:
            old.stop()
            with new.peer() as peer:
                assert peer.ask("ping")["ok"]
        assert not Path(left_over).exists()


def test_two_that_start_on_a_left_over_do_not_both_have_it(
    left_over: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both look at once, and both find nobody; then the second would remove the first's."""
    both_looked = threading.Barrier(2)
    look = binding._is_left_over

    def look_together(path: Path) -> bool:
        nobody = look(path)
        with suppress(threading.BrokenBarrierError):
            both_looked.wait(0.5)  # filled only if nothing keeps the second from looking
        return nobody

    monkeypatch.setattr(binding, "_is_left_over", look_together)
    outcomes: list[Any] = []

    def start() -> None:
        try:
            outcomes.append(listen(Endpoint.parse(f"unix:{left_over}")))
        except EndpointError as error:
            outcomes.append(str(error))

    for starter in [Call(start) for _ in range(2)]:
        starter.outcome()
    loser, winner = sorted(outcomes, key=lambda outcome: not isinstance(outcome, str))
    assert isinstance(loser, str)
    assert "in use" in loser
    with closing(winner), socket.socket(socket.AF_UNIX) as peer:
        peer.connect(left_over)
        winner.sockets[0].accept()[0].close()


def test_one_that_binds_and_does_not_listen_yet_is_not_taken_for_a_left_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bound_it, go_on = threading.Event(), threading.Event()
    begin = binding._listening

    def begin_late(bound: socket.socket) -> socket.socket:
        if not bound_it.is_set():
            bound_it.set()
            assert go_on.wait(20)
        return begin(bound)

    monkeypatch.setattr(binding, "_listening", begin_late)
    with socket_path() as path:
        endpoint = Endpoint.parse(f"unix:{path}")
        first = Call(lambda: listen(endpoint))
        assert bound_it.wait(20)
        second = Call(lambda: listen(endpoint))
        threading.Timer(0.2, go_on.set).start()
        with pytest.raises(EndpointError, match="in use"):
            second.outcome()
        winner: Any = first.outcome()
        winner.close()
        assert not Path(path).exists()


def test_a_directory_that_stays_locked_is_an_error_and_not_a_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(binding, "_START_LOCK_SECONDS", 0.05)
    monkeypatch.setattr(binding, "_END_LOCK_SECONDS", 0.05)
    with socket_path() as path:
        endpoint = Endpoint.parse(f"unix:{path}")
        bound = listen(endpoint)
        directory = os.open(Path(path).parent, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            bound.close()  # stops listening, and leaves the file
            with socket.socket(socket.AF_UNIX) as peer, pytest.raises(ConnectionRefusedError):
                peer.connect(path)
            with pytest.raises(EndpointError, match=r"another process keeps .* locked"):
                listen(endpoint)
        finally:
            os.close(directory)
        listen(endpoint).close()
        assert not Path(path).exists()


def test_a_busy_socket_is_not_taken_for_a_left_over() -> None:
    with socket_path() as path, socket.socket(socket.AF_UNIX) as busy:
        busy.bind(path)
        busy.listen(0)
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            for peer in (first, second):
                peer.setblocking(False)
                assert peer.connect_ex(path) in (0, errno.EAGAIN)
            with pytest.raises(EndpointError, match="in use"):
                listen(Endpoint.parse(f"unix:{path}"))


# -- a port that processes share ------------------------------------------------------------

needs_reuse = pytest.mark.skipif(
    not hasattr(socket, "SO_REUSEPORT"), reason="this system cannot share a port"
)


@needs_reuse
@over_each
def test_servers_share_a_port_that_both_ask_for() -> None:
    with serving([(f"{TCP}?reuse_port=yes", "auto")]) as first:
        place = str(first.endpoints[0])
        assert place.endswith("?reuse_port=yes")
        with serving([(place, "auto")]) as second, ExitStack() as peers:
            served = 0
            while not (first.connections and second.connections):
                served += 1
                assert served < 200, "one of them gets no peers"
                assert peers.enter_context(first.peer()).ask("ping")["ok"]
        # And not with one that does not.
        with pytest.raises(EndpointError, match="in use"):
            listen(Endpoint.parse(place.partition("?")[0]))


@needs_reuse
def test_a_port_is_kept_for_those_that_will_share_it() -> None:
    with closing(reserve(Endpoint.parse("tcp://localhost:0?reuse_port=yes"))) as kept:
        assert kept.endpoint.port
        with pytest.raises(ConnectionRefusedError):
            Peer(kept.endpoint)
        with closing(socket.socket()) as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", kept.endpoint.port))
        with closing(listen(kept.endpoint)), Peer(kept.endpoint):
            pass  # it is connected: what listens gets it, and not what keeps the port


def test_a_system_that_cannot_share_a_port_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT", raising=False)
    with pytest.raises(EndpointError, match="this system cannot share a port"):
        listen(Endpoint.parse("tcp://127.0.0.1:0?reuse_port=yes"))
