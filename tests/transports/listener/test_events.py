"""What a listener tells its operator: who is refused and why, and what became of a drain."""

import logging
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from listening import TCP, Server, serving
from proxied import line
from services import PASSWORD
from waiting import join, wait_event, wait_until

from twinline.core.protocol import Reply, Request
from twinline.core.session import Session
from twinline.transports.listener import ListenerSettings

if TYPE_CHECKING:
    from certificates import Certificates

pytestmark = pytest.mark.usefixtures("each_listener")
PROXIED = TCP + "?proxy=yes"
HERE = "127.0.0.1"


class Told:
    """The events that were told, by their names."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def of(self, name: str) -> list[dict[str, Any]]:
        """Return the fields of each event of a name."""
        return [
            record.fields  # type: ignore[attr-defined]
            for record in self._caplog.records
            if getattr(record, "event", None) == name
        ]

    def wait(self, name: str) -> dict[str, Any]:
        """Return the fields of an event's kind that is told once, when it is."""
        wait_until(lambda: self.of(name), f"{name} is told")
        (fields,) = self.of(name)
        return fields


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[Told]:
    caplog.set_level(logging.INFO)
    return Told(caplog)


@pytest.mark.parametrize("limit", ["connections", "connections_per_address"])
def test_a_connection_beyond_a_limit(limit: str, told: Told) -> None:
    with serving(limit_local_connections=True, **{limit: 1}) as server, server.peer() as first:
        assert first.ask("ping")["ok"]
        with server.peer() as second:
            assert second.rest() == b""
        assert told.wait("connection_refused") == {"address": HERE, "why": limit}


def test_a_peer_of_a_proxy_beyond_the_limit(told: Told) -> None:
    settings = {"trusted_proxies": (HERE,), "connections_per_address": 1}
    with (
        serving([(PROXIED, "auto")], **settings) as server,
        server.peer() as first,
        server.peer() as second,
    ):
        assert first.send(line("203.0.113.9")).ask("ping")["ok"]
        assert second.send(line("203.0.113.9")).rest() == b""
        why = "connections_per_address"
        assert told.wait("connection_refused") == {"address": "203.0.113.9", "why": why}


@pytest.mark.parametrize(
    ("trusted", "why"),
    [
        ("192.0.2.1", "it is none of trusted_proxies"),
        (HERE, "the connection does not begin with a header of the PROXY protocol"),
    ],
)
def test_what_is_no_proxy(trusted: str, why: str, told: Told) -> None:
    with (
        serving([(PROXIED, "auto")], trusted_proxies=(trusted,)) as server,
        server.peer() as peer,
    ):
        peer.send(b'{"op":"ping","id":1}\n')
        assert peer.rest() == b""
        assert told.wait("proxy_refused") == {"address": HERE, "why": why}


def test_what_is_no_tls(told: Told, certificates: "Certificates") -> None:
    shown = {
        "tls_certificate": str(certificates.server.certificate),
        "tls_key": str(certificates.server.key),
    }
    with serving([("tls://127.0.0.1:0", "auto")], **shown) as server, server.peer() as peer:
        peer.send(b'{"op":"ping","id":1}\n')
        peer.rest()
        why = "the client does not speak TLS"
        assert told.wait("tls_failed") == {"address": HERE, "why": why}


def test_a_peer_that_breaks_the_protocol(told: Told) -> None:
    with serving([(TCP, "jsonl")]) as server, server.peer() as peer:
        peer.send(b"x" * 10_000)
        peer.rest()
        fields = told.wait("connection_failed")
        assert fields["address"] == HERE
        assert fields["why"].startswith("frame_too_large: ")


def test_a_drain_is_told_with_figures(told: Told) -> None:
    with serving() as server:
        peers = [server.peer() for _ in range(3)]
        with peers[0] as gone:
            assert gone.ask("ping")["ok"]
        server.wait_connections(2)
        assert all(peer.ask("ping")["ok"] for peer in peers[1:])
        server.stop()
        for peer in peers:
            peer.close()
    begun = told.wait("drain_begun")
    settings = ListenerSettings()
    assert begun == {
        "connections": 2,
        "seconds": settings.drain_spread_seconds + settings.drain_seconds,
    }
    ended = told.wait("drain_ended")
    assert 0 <= ended.pop("seconds") < 10
    assert ended == {"finished": 2, "cut": 0, "served": 3}


def test_what_a_drain_cuts_is_told(told: Told) -> None:
    server = Server(settings=ListenerSettings(drain_seconds=0.1, drain_spread_seconds=0))
    in_flight, go_on = threading.Event(), threading.Event()
    handle = server.service.handle

    def stuck(session: Session, request: Request) -> Reply:
        in_flight.set()
        wait_event(go_on, "the test lets it finish")
        return handle(session, request)

    server.let_requests_wait()
    with server.peer() as other, server.peer() as peer:
        assert other.ask("ping")["ok"]
        server.service.handle = stuck  # type: ignore[method-assign]
        peer.send_line(op="ping", id=1)
        wait_event(in_flight, "the ping is under way")
        server.listener.stop()
        join(server.thread)
        go_on.set()
        ended = told.wait("drain_ended")
        assert (ended["finished"], ended["cut"]) == (1, 1)
    wait_until(lambda: server.connections == 0, "its thread ends all the same")


def test_a_listener_that_never_served_tells_of_no_drain(told: Told) -> None:
    server = Server()
    server.stop()
    assert len(told.of("drain_ended")) == 1
    other = type(server.listener)(server.service, [])
    other.close()
    assert len(told.of("drain_ended")) == 1


def test_what_there_is_too_little_of_is_told_once(told: Told) -> None:
    with serving() as server:
        for _ in range(3):
            server.listener._is_short("cannot accept: Too many open files")
        fields = told.wait("listener_short")
        assert fields["why"] == "cannot accept: Too many open files"
        with server.peer() as peer:  # there is enough again
            assert peer.ask("ping")["ok"]
        server.listener._is_short("cannot accept: Too many open files")
        assert len(told.of("listener_short")) == 2


def test_guessing_through_a_proxy_names_the_guessers(told: Told) -> None:
    with serving([(PROXIED, "auto")], trusted_proxies=(HERE,)) as server:
        with server.peer() as owner:
            owner.send(line("203.0.113.1")).enter("ann")
        for number in range(2, 5):
            with server.peer() as peer:
                peer.send(line(f"203.0.113.{number}"))
                assert not peer.ask("login", username="ann", password=f"not {PASSWORD}")["ok"]
    assert told.of("login_failed") == [
        {"username": "ann", "address": f"203.0.113.{number}", "why": "wrong_password"}
        for number in range(2, 5)
    ]
