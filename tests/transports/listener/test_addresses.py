"""Where peers come from: which are local on a socket of both families, and what counts as one."""

import contextlib
import socket

import pytest
from listening import Arrivals, Peer, serving
from services import make_service

from twinline.transports.endpoints import Endpoint

pytestmark = pytest.mark.usefixtures("each_listener")
needs_ipv6 = pytest.mark.skipif(
    not socket.has_dualstack_ipv6(), reason="this system has no socket for both families"
)


@needs_ipv6
def test_a_local_ipv4_peer_is_local_on_a_socket_of_both_families() -> None:
    with serving([("tcp://[::]:0", "auto")], connections_per_address=1) as server:
        local = Endpoint.parse(f"tcp://127.0.0.1:{server.endpoints[0].port}")
        with Peer(local) as first, Peer(local) as second:
            assert first.ask("ping")["ok"]
            assert second.ask("ping")["ok"]
            assert {c.address for c in server.listener._running()} == {"127.0.0.1"}


@pytest.mark.parametrize(("prefix", "let_in"), [(64, [True, True, False, True]), (128, [True] * 4)])
def test_connections_of_one_network_count_together(prefix: int, let_in: list[bool]) -> None:
    service = make_service(ipv6_prefix=prefix)
    with serving(service=service, connections_per_address=2) as server:
        addresses = ["2001:db8::1", "2001:db8::2", "2001:db8::ffff:3", "2001:db8:0:1::1"]
        with Arrivals(addresses) as listening:
            assert server.accept(listening, "jsonl")
            assert [answers(peer) for peer in listening.peers] == let_in
        server.wait_connections(0)
        assert not server.listener._by_address


def answers(peer: socket.socket) -> bool:
    peer.settimeout(10)
    with contextlib.suppress(OSError):
        peer.sendall(b'{"op":"ping","id":1}\n')
        return peer.recv(100) == b'{"id":1,"ok":true}\n'
    return False
