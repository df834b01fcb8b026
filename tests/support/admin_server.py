"""A server with an admin socket, in this process, for tests of the operator's side."""

import json
import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from listening import TCP, Server, serving
from services import cheap_hasher

from twinline.cli.server.admin.desk import Desk, Doors
from twinline.cli.server.admin.peers import AdminSocket
from twinline.cli.server.reload import Outcome
from twinline.core.service import ChatService
from twinline.core.settings import ServiceSettings
from twinline.core.store import Store
from twinline.stores.memory import MemoryStore
from twinline.transports.endpoints import Endpoint


class Administered:
    """A server that is served, and its admin socket.

    Attributes:
        server: what clients connect to.
        endpoint: where they do.
        socket: the admin socket.
        path: of its file.
        place: that file as an endpoint.
        drained: how often it was told to drain.
        outcomes: what comes of a reload.
    """

    def __init__(self, server: Server, folder: Path, group: int | None) -> None:
        self.server = server
        self.endpoint = server.endpoints[0]
        self.path = folder / "admin"
        self.place = f"unix:{self.path}"
        self.drained = 0
        self.outcomes: Sequence[Outcome] = [Outcome("it", "as new"), Outcome("that", kept="bad")]
        doors = Doors(server.listener, self._drain, lambda: self.outcomes, None)
        desk = Desk(server.service, doors)
        self.socket = AdminSocket(Endpoint.parse(self.place), desk.answer, group=group)

    def _drain(self) -> None:
        self.drained += 1

    def connect(self) -> socket.socket:
        """Connect to the admin socket; each wait has a deadline."""
        return connect(self.path)

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Ask something on a connection of its own."""
        with self.connect() as peer:
            peer.sendall(json.dumps({"op": op, **fields}).encode() + b"\n")
            return reply(peer)


def connect(path: Path) -> socket.socket:
    """Connect to a Unix socket; each wait has a deadline."""
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(10)
    peer.connect(str(path))
    return peer


def reply(peer: socket.socket) -> dict[str, Any]:
    """Return the next line, which must be there."""
    begun = b""
    while not begun.endswith(b"\n"):
        data = peer.recv(65_536)
        assert data, f"the connection ended; so far {begun[:200]!r}"
        begun += data
    value: dict[str, Any] = json.loads(begun)
    return value


@contextmanager
def administered(
    store: Store | None = None, *, group: int | None = None, **settings: Any
) -> Iterator[Administered]:
    """Serve a store, in memory unless it is named, with a listener of the present kind.

    Its log is this process's: a level that is set over the admin socket lasts until the end.
    """
    root = logging.getLogger()
    level = root.level
    # pytest's own folders are closed to other users, whom some tests are about.
    with tempfile.TemporaryDirectory(prefix="tw-") as folder:
        os.chmod(folder, 0o755)  # noqa: PTH101
        service = ChatService(
            store or MemoryStore(), ServiceSettings(**settings), hasher=cheap_hasher()
        )
        with serving([(TCP, "auto")], service) as server:
            served = Administered(server, Path(folder), group)
            try:
                with served.socket:
                    yield served
            finally:
                root.setLevel(level)
