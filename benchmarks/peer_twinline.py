"""twinline itself and its floor, in the terms of `benchmarks/peers.py`."""

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from peer_contract import Server, ask

from twinline.cli.bench.accounts import Accounts
from twinline.cli.bench.floor import HELLO_BYTES, REPLY
from twinline.cli.bench.load import Caller, Pair
from twinline.cli.bench.subjects import ServerSubject
from twinline.cli.bench.target import ServerProcess, floor_server, server_process
from twinline.cli.bench.wire import BODY, encoded
from twinline.core.protocol import Send, Watch
from twinline.transports.binary import BinaryTransport
from twinline.transports.contract import Transport
from twinline.transports.jsonl import JsonlTransport

_UNWATCHED = 64
_WATCHED = 64


class TwinlineServer(Server):
    """`twinline serve`, and raw connections to it in one transport."""

    def __init__(self, target: ServerProcess, transport: Transport) -> None:
        super().__init__(target)
        self._subject = ServerSubject(target, transport, Accounts(target.endpoint, transport))
        self._subject.make_accounts(_UNWATCHED, _WATCHED)

    def callers(self, count: int) -> list[Caller]:
        """Return connections that send to each recipient in turn."""
        self._subject.open(count, 0)
        return self._subject.callers(count)

    def pairs(self, count: int) -> list[Pair]:
        """Return senders, each with the waiting watcher of its recipient."""
        self._subject.open(0, count)
        return self._subject.pairs[:count]

    def check(self, _pair: Pair) -> None:
        """Check that every watcher received each message once and in order."""
        self._subject.settle()

    def disconnect(self) -> None:
        """Close every connection, and leave no mail behind."""
        self._subject.settle()
        self._subject.close()


class FloorServer(Server):
    """The floor, and raw connections to it."""

    def callers(self, count: int) -> list[Caller]:
        """Return connections whose every message is echoed."""
        frame = encoded(JsonlTransport(), Send(to="nobody", body=BODY))
        echoed = [self._open(f"E{number:07}") for number in range(count)]
        return [Caller(connected, [frame], len(frame), frame) for connected in echoed]

    def pairs(self, count: int) -> list[Pair]:
        """Return senders, each with the watcher that what they send is relayed to."""
        frame = encoded(JsonlTransport(), Send(to="nobody", body=BODY))
        request = encoded(JsonlTransport(), Watch(after=1000, ack=1000, wait=25))
        pairs = []
        for number in range(count):
            sender = Caller(self._open(f"S{number:07}"), [frame], len(REPLY), REPLY)
            pairs.append(Pair(sender, self._open(f"W{number:07}"), lambda _seen: request))
        return pairs

    def _open(self, hello: str) -> socket.socket:
        connected = self.connect(socket.socket)
        if len(hello) != HELLO_BYTES:
            raise ValueError(f"{hello!r} does not begin a connection to the floor")
        ask(connected, hello.encode(), hello.encode())
        return connected


def serve_twinline(transport: Transport) -> Callable[[], AbstractContextManager[Server]]:
    """Return what runs `twinline serve` with the in-memory store."""

    @contextmanager
    def serve() -> Iterator[Server]:
        with server_process("memory:") as target:
            yield TwinlineServer(target, transport)

    return serve


@contextmanager
def serve_floor() -> Iterator[Server]:
    """Run the floor, its threads kept on one processor as those of twinline are."""
    with floor_server() as target:
        yield FloorServer(target)


serve_jsonl = serve_twinline(JsonlTransport())
serve_binary = serve_twinline(BinaryTransport())
