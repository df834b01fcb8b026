"""Servers for tests: a real one that can be stopped and started again, and one that is scripted."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from listening import TCP, Server
from over import Over
from services import cheap_hasher
from waiting import join

from twinline.core.protocol import Hello, HelloReply, Reply, Request
from twinline.core.service import ChatService
from twinline.core.settings import ServiceSettings
from twinline.core.store import Store
from twinline.stores.memory import MemoryStore
from twinline.transports.contract import RequestReceived
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener import Listener, ListenerSettings
from twinline.transports.listener.binding import listen
from twinline.transports.registry import transport


class Site:
    """A real server on one endpoint, whose store outlives it.

    Attributes:
        endpoint: where it is; a port stays the same from stop to start.
        service: the present one.
        store: the present one.
    """

    def __init__(
        self,
        endpoint: str = TCP,
        transport_name: str = "auto",
        settings: ServiceSettings | None = None,
        listener_settings: ListenerSettings | None = None,
        store: Store | None = None,
    ) -> None:
        self.endpoint = Endpoint.parse(Over.place(endpoint))
        self.store: Store = store or MemoryStore()
        self._transport_name = transport_name
        self._settings = settings or ServiceSettings()
        self._listener_settings = (listener_settings or ListenerSettings()).model_copy(
            update=Over.settings
        )
        self._server: Server | None = None
        self.start()

    @property
    def listener(self) -> Listener:
        """What serves now."""
        assert self._server is not None
        listener: Listener = self._server.listener
        return listener

    def start(self) -> None:
        """Serve what is in the store."""
        self.service = ChatService(self.store, self._settings, hasher=cheap_hasher())
        self._server = Server(
            [(str(self.endpoint), self._transport_name)], self.service, self._listener_settings
        )
        self.endpoint = self._server.endpoints[0]

    def stop(self, *, lose_store: bool = False) -> None:
        """Drain, as on SIGTERM; every connection has ended afterwards."""
        if self._server is not None:
            self.service.stop()
            self._server.stop()
            self._server = None
        if lose_store:
            self.store = MemoryStore()

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


SILENCE = None
HANG_UP = b""
Answer = Reply | bytes | Iterator[Reply | bytes] | None
Script = Callable[[Request], Answer]


def hello(request: Request) -> Answer:
    """Answer as a server does that is there and knows nothing but hello."""
    return HELLO if isinstance(request, Hello) else SILENCE


HELLO = HelloReply(protocol=1, server="scripted", limits=ServiceSettings().limits())


class ScriptedServer:
    """Answers each request with what the script says, over JSON-lines.

    A script returns a reply, bytes to be written as they are (none of them: hang up), an iterator
    over several of these, or None to stay silent.

    Attributes:
        endpoint: where.
        requests: all that has come, of all connections.
    """

    def __init__(self, script: Script = hello) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.connections = 0
        self._bound = listen(Endpoint.parse(TCP))
        self._bound.sockets[0].settimeout(None)
        self.endpoint = self._bound.endpoint
        self._peers: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, name="scripted", daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._bound.sockets[0].accept()
                self.connections += 1
                self._peers.append(peer)
                thread = threading.Thread(target=self._serve, args=(peer,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, peer: socket.socket) -> None:
        codec = transport("jsonl").server_codec(1 << 20)
        with peer, contextlib.suppress(OSError):
            while data := peer.recv(65536):
                codec.receive_data(data)
                while (event := codec.next_event()) is not None:
                    assert isinstance(event, RequestReceived)
                    self.requests.append(event.request)
                    answer = self.script(event.request)
                    several = answer if isinstance(answer, Iterator) else iter([answer])
                    for each in several:
                        if each == HANG_UP:
                            return
                        if isinstance(each, Reply):
                            codec.send(event.id, each)
                        peer.sendall(each if isinstance(each, bytes) else codec.data_to_send())

    def asked(self, kind: type[Request]) -> int:
        """Return how many requests of a kind have come."""
        return sum(isinstance(request, kind) for request in list(self.requests))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._bound.sockets[0].shutdown(socket.SHUT_RDWR)
        join(self._accepting)
        self._bound.close()
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            join(thread)

    def __enter__(self) -> "ScriptedServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def silent_endpoint() -> Iterator[Endpoint]:
    """Return an endpoint whose connections are taken by the system and by nobody else."""
    bound = listen(Endpoint.parse(TCP))
    try:
        yield bound.endpoint
    finally:
        bound.close()
