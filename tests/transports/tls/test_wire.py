"""What clients send over TLS, read on the wire: sealed, however a connection ends."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from client_kit import fast, receive, user
from fault_proxy import Fault, FaultProxy
from listening import Server, mail, serving
from services import PASSWORD, enter
from waiting import Call, wait_until

pytest.importorskip("cryptography")
from sealing import records, trusting

from twinline.core.errors import RequestError, ShuttingDown
from twinline.transports.client import Client, ClientError

pytestmark = pytest.mark.usefixtures("both_clients")

BODY = "See you at the station at half past seven."
CLEAR = (BODY, PASSWORD, '"op"', '"session"', '"ok"', "renew", "send_id", "GET /")


def closed(client: Client, server: Server, proxy: FaultProxy) -> None:
    """Have the client close its connections, in the thread of a command."""
    client.close()


def interrupted(client: Client, server: Server, proxy: FaultProxy) -> None:
    """Have it close them from another thread, while a command waits for a reply that is lost."""
    for route in proxy.routes:
        route.down.fault = Fault(blackhole=True)
    before = _said(proxy)
    command = Call(lambda: client.send("bob", BODY))
    wait_until(lambda: _said(proxy) > before, "the command is sent")
    client.close()
    with suppress(ClientError):
        command.outcome()


def _said(proxy: FaultProxy) -> int:
    return sum(route.up.passed for route in proxy.routes)


def cut(client: Client, server: Server, proxy: FaultProxy) -> None:
    """Cut all of them, and let the client connect again and resume."""
    before = len(proxy.routes)
    proxy.cut(reset=True)
    wait_until(lambda: len(proxy.routes) > before, "it connects again")


def drained(client: Client, server: Server, proxy: FaultProxy) -> None:
    """Have the server drain."""
    server.stop()
    with suppress(ClientError, RequestError):
        client.send("bob", BODY)


ENDS: list[Callable[[Client, Server, FaultProxy], None]] = [closed, interrupted, cut, drained]


@pytest.mark.parametrize(("scheme", "spoken"), [("tls", "auto"), ("wss", "websocket")])
@pytest.mark.parametrize("end", ENDS)
def test_a_client_says_nothing_in_clear_text(
    certificates: Any, end: Callable[[Client, Server, FaultProxy], None], scheme: str, spoken: str
) -> None:
    """Nor is a WebSocket's handshake or its farewell."""
    files = certificates.server
    tls = {"tls_certificate": str(files.certificate), "tls_key": str(files.key)}
    with (
        serving(((f"{scheme}://127.0.0.1:0", spoken),), **tls) as server,
        FaultProxy(server.endpoints[0]) as proxy,
    ):
        proxy.keeps = True
        ann = enter(server.service, "ann")
        place = f"{scheme}://localhost:{proxy.endpoint.port}"
        context = trusting(certificates)
        with user(place, "bob", tls=context, settings=fast(command_seconds=1)) as client:
            mail(server, ann, BODY)
            assert receive(client, 1) == [BODY]
            token = client.token
            assert token
            writing = Call(lambda: write(server, ann))
            end(client, server, proxy)
            writing.outcome()
        server.stop()
    # Now all that could be sent has been.
    assert len(proxy.routes) >= 2
    for route in proxy.routes:
        for way in (route.up, route.down):
            sent = bytes(way.seen or b"")
            records(sent, last_may_be_cut=True)
            seen = [word for word in (*CLEAR, token) if word.encode() in sent]
            assert not seen, seen


def write(server: Server, sender: Any) -> None:
    """Send bob more than one message while the connection ends."""
    with suppress(ShuttingDown):
        mail(server, sender, *[BODY] * 50)
