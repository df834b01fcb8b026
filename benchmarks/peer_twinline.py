"""twinline itself and its floor, in the terms of `benchmarks/peers.py`."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from peer_contract import Server

from twinline.cli.bench.accounts import Accounts
from twinline.cli.bench.load import Caller, Pair
from twinline.cli.bench.subjects import FloorSubject, ServerSubject, Subject
from twinline.cli.bench.target import floor_server, server_process
from twinline.transports.binary import BinaryTransport
from twinline.transports.contract import Transport
from twinline.transports.jsonl import JsonlTransport

_UNWATCHED = 64
_WATCHED = 64


class SubjectServer(Server):
    """What `twinline bench` loads as well: a server in one transport, or the floor."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject.target)
        self._subject = subject

    def callers(self, count: int) -> list[Caller]:
        """Return connections that send to recipients which have no watcher."""
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


def serve_twinline(transport: Transport) -> Callable[[], AbstractContextManager[Server]]:
    """Return what runs `twinline serve` with the in-memory store."""

    @contextmanager
    def serve() -> Iterator[Server]:
        with server_process("memory:") as target:
            subject = ServerSubject(target, transport, Accounts(target.endpoint, transport))
            subject.make_accounts(_UNWATCHED, _WATCHED)
            yield SubjectServer(subject)

    return serve


@contextmanager
def serve_floor() -> Iterator[Server]:
    """Run the floor, its threads kept on one processor as those of twinline are."""
    with floor_server() as target:
        yield SubjectServer(FloorSubject(target))


serve_jsonl = serve_twinline(JsonlTransport())
serve_binary = serve_twinline(BinaryTransport())
