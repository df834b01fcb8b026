"""Against the `websockets` package, as a client of both listeners and as a server of both clients.

What it is to the server is what any other client is; as a server it relays each message to a
server of JSON-lines over TCP, so that both clients play with a stranger's frames.
"""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest
from client_kit import make_client
from listening import TCP, WS, Server, serving
from services import PASSWORD
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

from twinline.transports.client import Client
from twinline.transports.endpoints import Endpoint

JSONL: Any = ["twinline.jsonl"]
SECONDS = 10


@contextmanager
def stranger(server: Server, **options: Any) -> Iterator[ClientConnection]:
    """Yield a connection of the package's client, without the extension that it likes to have."""
    place = server.endpoints[0]
    with connect(
        f"ws://{place.host}:{place.port}/", open_timeout=SECONDS, proxy=None, **options
    ) as connection:
        yield connection


def ended_by(connection: ClientConnection) -> int:
    """Return the code by which the server has ended a connection."""
    with pytest.raises(ConnectionClosed) as ended:
        connection.recv(SECONDS)
    assert ended.value.rcvd is not None
    return ended.value.rcvd.code


def ask(connection: ClientConnection, op: str, id: int = 1, **fields: Any) -> dict[str, Any]:
    connection.send(json.dumps({"op": op, "id": id, **fields}))
    answer: dict[str, Any] = json.loads(connection.recv(SECONDS))
    assert answer["id"] == id
    return answer


@pytest.mark.usefixtures("each_listener")
@pytest.mark.parametrize("url", [WS, TCP])
def test_a_stranger_is_served(url: str) -> None:
    with serving([(url, "auto")]) as server, stranger(server, subprotocols=JSONL) as ann:
        assert ann.subprotocol == "twinline.jsonl"
        assert ann.protocol.extensions == [], "none is agreed on, though it asks for one"
        assert ask(ann, "create_account", username="ann", password=PASSWORD)["ok"]
        with stranger(server) as bob:
            assert bob.subprotocol is None
            assert ask(bob, "create_account", username="bob", password=PASSWORD)["ok"]
            bob.send(json.dumps({"op": "watch", "id": 2, "after": 0, "wait": 25, "window": 9}))
            assert ask(ann, "send", to="bob", body="Grüße 👋 " * 500)["ok"]
            brought = json.loads(bob.recv(SECONDS))
            assert [message["body"] for message in brought["messages"]] == ["Grüße 👋 " * 500]
            assert bob.ping(b"there?").wait(SECONDS), "while a stream is open"
            # A message in fragments, with a ping between them.
            bob.send(part for part in ('{"op":"ping"', ',"id":3', "}"))
            assert json.loads(bob.recv(SECONDS)) == {
                "id": 2, "ok": True, "messages": [], "position": 0, "seen": 1,
            }  # fmt: skip
            assert json.loads(bob.recv(SECONDS)) == {"id": 3, "ok": True}
            bob.close()
            assert (bob.close_code, bob.close_reason) == (1000, "")
        assert ask(ann, "ping")["ok"]


@pytest.mark.usefixtures("each_listener")
def test_what_ends_a_connection_is_said_by_its_code() -> None:
    with serving([(WS, "auto")]) as server:
        with stranger(server) as long:
            long.send("x" * 5_000)
            assert json.loads(long.recv(SECONDS))["error"]["code"] == "frame_too_large"
            assert ended_by(long) == 1009
        with stranger(server) as binary:
            binary.send(b"\xb7")
            assert json.loads(binary.recv(SECONDS))["error"]["code"] == "bad_request"
            assert ended_by(binary) == 1003
        for headers in ({"Origin": "https://evil.example"}, {"Transfer-Encoding": "chunked"}):
            with pytest.raises(InvalidStatus), stranger(server, additional_headers=headers):
                pass
        with stranger(server) as last:
            assert ask(last, "create_account", username="ann", password=PASSWORD)["ok"]
            last.send(json.dumps({"op": "watch", "id": 2, "after": 0, "wait": 25, "window": 9}))
            server.stop()
            assert json.loads(last.recv(SECONDS))["error"]["code"] == "shutting_down"
            assert ended_by(last) == 1001


# -- as a server --------------------------------------------------------------------------------


@contextmanager
def relaying(server: Server) -> Iterator[Endpoint]:
    """Yield where the package's server listens, which pings every moment and wants its pongs."""
    place = server.endpoints[0]

    def handle(connection: ServerConnection) -> None:
        with closing(socket.create_connection((place.host, place.port), SECONDS)) as there:
            lines = there.makefile("rb")

            def back() -> None:
                with suppress(OSError, ConnectionClosed, ValueError):
                    for line in lines:
                        connection.send(line.decode())  # with its line feed, which is white space
                connection.close()

            returning = threading.Thread(target=back)
            returning.start()
            with suppress(ConnectionClosed):
                for message in connection:
                    assert isinstance(message, str)
                    there.sendall(message.encode() + b"\n")
            there.shutdown(socket.SHUT_RDWR)
            returning.join(SECONDS)

    with serve(
        handle, "127.0.0.1", 0, subprotocols=JSONL, ping_interval=0.05, ping_timeout=SECONDS
    ) as relay:
        thread = threading.Thread(target=relay.serve_forever)
        thread.start()
        try:
            yield Endpoint.parse(f"ws://127.0.0.1:{relay.socket.getsockname()[1]}/relay")
        finally:
            relay.shutdown()
            thread.join(SECONDS)


@pytest.mark.usefixtures("both_clients")
def test_a_strangers_server_is_spoken_to() -> None:
    with serving([(TCP, "jsonl")]) as server, relaying(server) as place:
        clients: list[Client] = []
        try:
            for name in ("ann", "bob"):
                clients.append(make_client(place))
                clients[-1].create_account(name, PASSWORD)
            ann, bob = clients
            for number in range(20):
                ann.send("bob", f"no. {number} " + "é" * number * 100)
            got = []
            for message in bob.messages(timeout=SECONDS):
                got.append(message.body.split(" é")[0].strip())
                if len(got) == 20:
                    break
            assert got == [f"no. {number}" for number in range(20)]
        finally:
            for client in clients:
                client.close()
