"""twinline itself and its floor, in the terms of `benchmarks/peers.py`."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from peer_contract import Server

from twinline.cli.bench.accounts import Accounts
from twinline.cli.bench.load import Caller, Pair
from twinline.cli.bench.subjects import FloorSubject, ServerSubject, Subject
from twinline.cli.bench.target import floor_server, server_process
from twinline.transports.contract import Transport
from twinline.transports.registry import transport

_UNWATCHED = 64
_WATCHED = 64


class SubjectServer(Server):
    """What `twinline bench` loads as well: a server in one transport, or the floor.

    Attributes:
        subject: it.
    """

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject.target)
        self.subject = subject

    def callers(self, count: int) -> list[Caller]:
        """Return connections that send to recipients which have no watcher."""
        self.subject.open(count, 0)
        return self.subject.callers(count)

    def pairs(self, count: int) -> list[Pair]:
        """Return senders, each with the waiting watcher of its recipient."""
        self.subject.open(0, count)
        return self.subject.pairs[:count]

    def check(self, _pair: Pair) -> None:
        """Check that every watcher received each message once and in order."""
        self.subject.settle()

    def disconnect(self) -> None:
        """Close every connection, and leave no mail behind."""
        self.subject.settle()
        self.subject.close()


def serve_twinline(
    name: str,
    store: str = "memory:",
    *,
    listener: str = "threads",
    python: str | None = None,
    streams: bool = True,
) -> Callable[[], AbstractContextManager[Server]]:
    """Return what runs `twinline serve`.

    Args:
        name: of the transport to speak.
        store: its URL; ``sqlite:`` is a file of its own.
        listener: that serves, ``threads`` or ``loop``.
        python: another interpreter, with an installation of its own; None for this one.
        streams: whether watchers watch by a stream, which the installation must know.
    """
    spoken: Transport = transport(name)

    @contextmanager
    def serve() -> Iterator[Server]:
        with tempfile.TemporaryDirectory(prefix="twinline-peers-") as folder:
            url = f"sqlite:{folder}/store.db" if store == "sqlite:" else store
            with server_process(url, listener=listener, python=python) as target:
                accounts = Accounts(target.endpoint, spoken)
                subject = ServerSubject(target, spoken, accounts, streams=streams)
                subject.make_accounts(_UNWATCHED, _WATCHED)
                yield SubjectServer(subject)

    return serve


def serve_floor(*, direct: bool = False) -> AbstractContextManager[Server]:
    """Run the floor, its threads kept on one processor as those of twinline are."""

    @contextmanager
    def serve() -> Iterator[Server]:
        with floor_server() as target:
            yield SubjectServer(FloorSubject(target, direct=direct))

    return serve()
